"""The site is built strictly, shows its figures, and asks nothing of the network."""

import os
import re
import subprocess
import sys
from html import unescape

import pytest
from doc_pages import REPOSITORY, sources

pytest.importorskip("mkdocs", reason="the documentation's packages are not installed (make docs)")
pytestmark = pytest.mark.slow
OUTSIDE = re.compile(
    r"""<(?:script|img|iframe|source)[^>]+src="https?:|<link[^>]+stylesheet[^>]+href="https?:|url\(['"]?https?:"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-f",
        REPOSITORY / "docs" / "mkdocs.yml",
        "-d",
        folder,
    ]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there_and_loads_nothing_from_outside(site):
    for name in sources():
        text = (site / name).with_suffix(".html").read_text()
        assert "Traceback (most recent call last)" not in text
        assert not OUTSIDE.search(text), name
    for sheet in site.rglob("*.css"):
        assert not OUTSIDE.search(sheet.read_text()), sheet


def test_all_heatmap_methods_and_commands_are_described(site):
    from vitlens.heatmaps.registry import METHODS

    heatmaps = unescape((site / "heatmaps.html").read_text())
    for name, method in METHODS.items():
        assert f'method="{name}"' in heatmaps
        assert method.title in heatmaps
    commands = (site / "command_line.html").read_text()
    for command in ("report", "lens", "heatmap", "reproduce"):
        assert f"vitlens {command}" in commands


def test_calls_about_classes_are_shown_with_their_texts(site):
    attribution = (site / "attribution.html").read_text()
    assert "in place of <code>classes</code> one or several sentences" in attribution
    assert "baseline_text" in attribution


def test_citations_in_docstrings_lead_to_the_definitions(site):
    assert 'href="methods.html#a5">Methods A5</a>' in (site / "lens.html").read_text()
    assert 'id="a5"' in (site / "methods.html").read_text()


def test_pages_work_without_a_network_in_both_themes(site, browser):
    context = browser.new_context(offline=True, viewport={"width": 1366, "height": 900})
    page = context.new_page()
    complaints, asked = [], []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    for name in ("index", "lens", "heatmaps", "explorer", "notebooks/01_tour"):
        page.goto((site / f"{name}.html").as_uri())
        page.wait_for_function(
            "[...document.querySelectorAll('.plotly-graph-div')].every(figure => figure.querySelector('.main-svg'))"
        )
    background = "document.querySelector('.plotly-graph-div')._fullLayout.paper_bgcolor"
    page.goto((site / "lens.html").as_uri(), wait_until="load")
    light = page.evaluate(background)
    page.locator("label[title=dark]").click()
    page.wait_for_function(f"{background} !== {light!r}")
    page.keyboard.press("s")
    page.keyboard.type("identifiability")
    page.wait_for_selector(".md-search-result__item")
    assert not complaints
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    context.close()
