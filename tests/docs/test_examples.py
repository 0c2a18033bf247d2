"""Examples on pages have no line that a reader cannot run, and the site shows what they assign last."""

import re
import sys

import pandas as pd
import pytest
from doc_pages import PAGES, REPOSITORY, sources

import vitlens

sys.path.extend([str(REPOSITORY / "docs"), str(REPOSITORY / "experiments")])

from page_table import markdown
from shown import EXAMPLE, assigned_last, html, showing_results

EXAMPLES = [
    pytest.param(code, id=f"{name}-{i}")
    for name, text in sources().items()
    for i, code in enumerate(EXAMPLE.findall(text))
]


def test_there_are_examples():
    assert len(EXAMPLES) > 30
    found = sum(text.count('exec="true" html="true"') for text in sources().values())
    assert found == len(EXAMPLES)


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_ends_by_assigning_what_it_shows(code):
    assert assigned_last(code) in ("figure", "table")
    assert "markdown-exec" not in code
    assert "shown" not in code


def test_the_site_shows_what_is_assigned_last():
    page = '```python exec="true" html="true"\nfirst = 1\nfigure = f(\n    first\n)\n```\ntext\n```python\nx = 1\n```\n'
    line = "from shown import html; print(html(figure))  # markdown-exec: hide\n"
    assert showing_results(page) == page.replace(")\n```\ntext", f")\n{line}```\ntext")


def test_an_example_that_assigns_nothing_last_stops_the_site():
    with pytest.raises(ValueError, match="ends by assigning what it shows"):
        showing_results('```python exec="true" html="true"\nprint(1)\n```\n')


def test_numbers_of_rows_are_not_shown():
    table = pd.DataFrame({"a": [7, 8]})
    assert "<th>1</th>" not in html(table[table["a"] > 7])
    assert "<th>1</th>" in html(table.rename_axis("block"))
    assert "<th>x</th>" in html(table.set_axis(["x", "y"]))


def test_the_page_of_heatmaps_has_the_table_of_methods():
    yes = {True: "yes", False: ""}
    rows = [
        [f'`"{name}"`', row["title"], yes[row["class_specific"]], yes[row["signed"]], row["keeps"], row["source"]]
        for name, row in vitlens.heatmaps.heatmap_methods().iterrows()
    ]
    table = markdown(["`method=`", "title", "class-specific", "signed", "`keep=`", "source"], rows)
    page = (PAGES / "heatmaps.md").read_text()
    found = re.search(r"<!-- heatmap methods: begin -->\n(.*)\n<!-- heatmap methods: end -->", page, re.DOTALL)
    assert found is not None
    assert found[1] == table
