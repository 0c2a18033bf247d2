"""Every page is in the navigation, every link leads somewhere, and every call that a page names exists."""

import ast
import re

import pytest
import yaml
from doc_pages import (
    PAGES,
    REPOSITORY,
    anchors,
    check_call,
    documented,
    in_navigation,
    links,
    links_to_places,
    resolve,
    sources,
    table_calls,
)
from public import public

import vitlens

SOURCES = sources()
TABLES = sorted(name for name in SOURCES if name.startswith("from_"))


def test_every_page_is_in_the_navigation_and_the_other_way_round():
    settings = yaml.safe_load((REPOSITORY / "docs" / "mkdocs.yml").read_text())
    assert sorted(in_navigation(settings["nav"])) == sorted(SOURCES)


@pytest.mark.parametrize("name", [name for name in SOURCES if not name.startswith("notebooks/")])
def test_links_lead_somewhere(name):
    """In the repository too, where pages are also read: notebooks are linked where they lie there."""
    for link in links(SOURCES[name]):
        assert (PAGES / link).exists(), link


@pytest.mark.parametrize("name", [*SOURCES, "README.md"])
def test_links_to_a_place_on_a_page_find_it(name):
    text = SOURCES[name] if name in SOURCES else (REPOSITORY / name).read_text()
    for page, anchor in links_to_places(text):
        target = text if not page else SOURCES[page.removeprefix("docs/pages/")]
        assert anchor in anchors(target), (page, anchor)


def test_every_public_name_is_documented_once():
    named = [name for text in SOURCES.values() for name in documented(text)]
    assert len(named) == len(set(named))
    found = {id(resolve(ast.parse(name, mode="eval").body)) for name in named}
    assert [name for name, value in public().items() if id(value) not in found] == []


@pytest.mark.parametrize("name", TABLES)
def test_calls_in_tables_exist(name):
    calls = table_calls(SOURCES[name])
    assert len(calls) > 10
    for call in calls:
        check_call(call)


@pytest.mark.parametrize("name", [name for name in SOURCES if not name.startswith("notebooks/")])
def test_calls_that_are_named_exist(name):
    named = re.findall(r"`(vitlens\.[^`…]+)`", SOURCES[name])
    for call in named:
        # Of "f(…).plot()" the call of f.
        check_call(re.sub(r"(\))\.\w+\(\)$", r"\1", " ".join(call.split())).rstrip("="))


@pytest.mark.parametrize(
    "wrong",
    [
        "vitlens.class_lenses(model)",
        "model.run_with_cash(images)",
        "vitlens.class_lens(model, images, way='x')",
        "vitlens.heatmap(model, images, method='grad')",
        "cache.lens",
    ],
)
def test_wrong_calls_are_found(wrong):
    with pytest.raises((AttributeError, TypeError, vitlens.InputError)):
        check_call(wrong)


def test_there_is_a_table_for_each_of_three_libraries():
    assert TABLES == ["from_grad_cam.md", "from_prisma.md", "from_transformer_lens.md"]
