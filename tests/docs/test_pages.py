"""Every page is in the navigation, every link leads somewhere, and every call that a page names exists."""

import ast
import inspect

import pytest
import yaml
from doc_pages import PAGES, REPOSITORY, documented, in_navigation, links, resolve, sources, table_calls
from public import public

import vitlens
from vitlens.faithfulness.metrics import find_metrics
from vitlens.heatmaps.run import find_method

SOURCES = sources()
TABLES = sorted(name for name in SOURCES if name.startswith("from_"))
#: Made while the site is built (docs/hooks.py).
MADE = {"example_explorer.html"}


def check_call(call: str) -> None:
    """Raises where a name does not exist, or a function cannot be called like this."""
    expression = ast.parse(call, mode="eval").body
    if isinstance(expression, ast.Subscript):
        resolve(expression.value)
        return
    if not isinstance(expression, ast.Call):
        resolve(expression)
        return
    function = resolve(expression.func)
    if function is vitlens.HookedViT:
        function = vitlens.HookedViT.forward
    # What is found on a class still wants its instance; a classmethod has its class already.
    wants_instance = ast.unparse(expression.func).split(".")[0] in ("model", "cache") and not inspect.ismethod(function)
    given = [None] * (len(expression.args) + wants_instance)
    inspect.signature(function).bind_partial(*given, **{keyword.arg: None for keyword in expression.keywords})
    for keyword in expression.keywords:
        if function is vitlens.heatmap and keyword.arg == "method":
            find_method(ast.literal_eval(keyword.value))
        if function is vitlens.evaluate_heatmaps and keyword.arg == "metrics":
            find_metrics(ast.literal_eval(keyword.value), has_masks=True)


def test_every_page_is_in_the_navigation_and_the_other_way_round():
    settings = yaml.safe_load((REPOSITORY / "docs" / "mkdocs.yml").read_text())
    assert sorted(in_navigation(settings["nav"])) == sorted(SOURCES)


@pytest.mark.parametrize("name", [name for name in SOURCES if not name.startswith("notebooks/")])
def test_links_lead_somewhere(name):
    for link in links(SOURCES[name]):
        assert link in SOURCES or link in MADE or (PAGES / link).exists(), link


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
