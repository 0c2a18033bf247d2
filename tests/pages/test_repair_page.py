"""The page of a repair in a real browser: it draws, says the numbers that Python has, and keeps text from outside text."""

import dataclasses

import pytest
import torch
from browser import figures, whole_page
from repaired import repaired

from vitlens import InputError
from vitlens.pages import repair_sentences as say
from vitlens.pages import write_repair_page

EVIL = "<b>x</b>"


@pytest.fixture(scope="module")
def found():
    return repaired(("agreeing", EVIL))


@pytest.fixture(scope="module")
def opened(browser, found, tmp_path_factory):
    path = tmp_path_factory.mktemp("repair") / "page.html"
    write_repair_page(found, path=path)
    with whole_page(browser, path) as shown:
        yield shown


def test_it_draws_and_says_what_the_result_holds(opened, found):
    assert len(figures(opened)) == 4
    text = opened.page.inner_text("body")
    table = found.table().set_index(["edit", "group"])
    worst = table.loc[("dose 1", EVIL)]
    assert f"On the 8 held-out pictures the worst group, “{EVIL}”, stays at 50.0 %: {say.change(worst)}." in text
    assert "do not show that the edit helps" in text
    assert "2 of 2 are as good for it as the edit, or better" in text
    assert "8 for choosing, 8 held out" in text
    code = opened.page.inner_text("pre")
    assert "model = vitlens.demo.load_demo_model()" in code
    assert "edits=edits, max_loss=0.01, held_out=held_out, seed=0" in code
    assert 'found.edit.save("repaired.safetensors")' in code


def test_names_of_groups_stay_text(opened):
    assert opened.page.evaluate("document.querySelectorAll('main b, svg b').length") == 0
    # As a column of the report, in a legend, and above a board.
    for kind in (".xtick text", ".legendtext", ".annotation-text"):
        shown = opened.page.evaluate(f"[...document.querySelectorAll('{kind}')].map(text => text.textContent)")
        assert any(EVIL in text for text in shown), kind


@pytest.mark.parametrize("width", [390, 900])
def test_nothing_sticks_out_or_lies_on_another(opened, width):
    opened.page.set_viewport_size({"width": width, "height": 800})
    opened.page.wait_for_timeout(300)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    overlaps = opened.page.evaluate(OVERLAPS)
    assert overlaps == []


#: Pairs of texts of one figure whose boxes lie on each other.
OVERLAPS = """() => [...document.querySelectorAll('.plotly-graph-div')].flatMap(div => {
  const shown = [...div.querySelectorAll('.xtick text, .ytick text, .xtitle, .ytitle, .legendtext, .annotation-text')]
    .filter(text => text.textContent.trim()).map(text => [text.textContent, text.getBoundingClientRect()]);
  return shown.flatMap(([one, a], i) => shown.slice(i + 1).filter(([, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2
  ).map(([other]) => `${one} | ${other}`));
})"""


def test_without_a_better_edit_the_page_says_so(open_page, tmp_path):
    none = repaired(is_better=False)
    write_repair_page(none, path=tmp_path / "page.html", title="Nothing better")
    opened = open_page(tmp_path / "page.html")
    assert opened.complaints == []
    text = opened.page.inner_text("main")
    assert "No edit was better, so the model stays as it is." in text
    assert "found.edit" not in text
    assert opened.page.inner_text("h1") == "Nothing better"
    assert len(figures(opened)) == 3
    assert say.side_effects(none) == []


def test_what_sentences_say_of_gains_and_losses(found):
    """The same repair with other answers: the edit helps the worst group, and costs the other more than was allowed."""
    report = found.report
    values = torch.zeros_like(report.values)
    worst, other = (report.of_image == report.groups.index(name) for name in (EVIL, "agreeing"))
    values[:, other] = 1
    row = report.axes["edit"].index("dose 1")
    values[row] = 1 - values[row]
    changed = dataclasses.replace(found, report=dataclasses.replace(report, values=values))
    table = changed.table()
    first, second, third = say.outcome(changed, table)
    assert first == (
        f"On the 8 held-out pictures the worst group, “{EVIL}”, goes from 0.0 % to 100.0 %: +100.0 points [+100.0, +100.0]."
    )
    assert second == (
        "“agreeing” goes from 100.0 % to 0.0 %: −100.0 points [−100.0, −100.0]. That is more than the limit of 1 point, "
        "which holds on the pictures for choosing."
    )
    assert third == "The worst group is now “agreeing”, 0.0 %."
    assert say.baselines(changed, table)[0].endswith("0 of 2 are as good for it as the edit, or better.")
    moved = say.side_effects(changed)
    assert moved[0] == "Of 4 pictures that were right 4 become wrong, and of 4 that were wrong 4 become right."
    # An edit that makes the worst group worse still.
    values[0] = values[row] = 1
    values[0, worst.nonzero()[0]] = 0
    values[row, worst] = 0
    harmed = dataclasses.replace(found, report=dataclasses.replace(report, values=values))
    assert "The edit harms the group that it was made for." in say.outcome(harmed, harmed.table())[0]


def test_the_output_place_is_checked_first(found, tmp_path):
    with pytest.raises(InputError, match="no folder"):
        write_repair_page(found, path=tmp_path / "missing" / "page.html")
