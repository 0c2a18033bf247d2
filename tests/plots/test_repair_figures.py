"""The figures of edits and repairs draw the numbers of their results."""

import dataclasses

import numpy as np
import pytest
from repaired import repaired

from vitlens import InputError
from vitlens.plots.editing.evaluation import NAME_LINE, in_lines


@pytest.fixture(scope="module")
def found():
    return repaired()


def test_doses_are_drawn_with_their_intervals_and_baselines(found):
    figure = found.plot()
    table = found.table().set_index(["edit", "group"])
    shares = found.report.accuracies()
    for place, group in enumerate(found.report.groups):
        band, curve, random, retrained = figure.data[4 * place : 4 * place + 4]
        names = ["unedited", "dose 0.5", "dose 1"]
        rows = table.loc[[(name, group) for name in names]]
        assert list(curve.x) == [0, 0.5, 1]
        assert np.allclose(curve.y, 100 * rows["accuracy"])
        assert np.allclose(curve.customdata, 100 * rows[["low", "high"]])
        assert np.allclose(band.y, [*100 * rows["high"], *100 * rows["low"][::-1]])
        assert np.allclose(random.y, 100 * shares[[3, 4], place])
        assert np.allclose(retrained.y, 100 * table.loc[("last layer retrained", group), "accuracy"])
        # The random edits are beside the dose that they have the norm of, the retrained layer right of all doses.
        assert 1 < random.x[0] < retrained.x[0]
    assert "chosen: 1" in [note.text for note in figure.layout.annotations]
    assert "grey: 2 random edits" in figure.layout.title.subtitle.text


def test_every_candidate_is_a_point_beside_the_limit(found):
    figure = found.plot("trade_off")
    by_name = {trace.name: trace for trace in figure.data}
    assert {name: (trace.x[0], trace.y[0]) for name, trace in by_name.items()} == {
        "beyond the limit": (75, 25),
        "unedited": (0, 0),
        "chosen": (0, 75),
    }
    assert by_name["beyond the limit"].text == ("without L1 mlp",)
    assert figure.layout.shapes[0].x0 == 1
    assert "limit: 1 point" in [note.text for note in figure.layout.annotations]


def test_candidates_with_the_same_numbers_are_one_point_with_their_names(found):
    again = type(found.candidates)(
        found.candidates.values[[0, 1, 1, 1]], {**found.candidates.axes, "edit": ["unedited", "a", "b", "c"]}, "correct",
        found.candidates.kl[[0, 1, 1, 1]], found.candidates.margins[[0, 1, 1, 1]], found.candidates.changes[[0, 1, 1, 1]],
        found.candidates.groups, found.candidates.of_image, settings=found.candidates.settings,
    )  # fmt: skip
    other = dataclasses.replace(found, edit=None, chosen="unedited", candidates=again, doses={}, max_loss=None)
    figure = other.plot("trade_off")
    assert [trace.text for trace in figure.data if trace.name == "tried"] == [("a<br>b<br>c",)]
    assert not figure.layout.shapes


def test_the_report_is_a_table_of_changes(found):
    figure = found.plot("table")
    table = found.table()
    cells = figure.data[0]
    changes = np.array(cells.customdata)[..., 0]
    assert changes.shape == (5, 2)
    assert np.allclose(changes.flatten(), 100 * table["change"])
    assert np.allclose(cells.z, 0.5 + changes / 2 / np.abs(changes).max())
    # Names are broken into lines.
    assert [name.replace("<br>", " ") for name in figure.layout.yaxis.ticktext] == [
        "unedited", "dose 0.5", "dose 1 (chosen)", "last layer retrained", "random (mean)",
    ]  # fmt: skip
    assert cells.text[0][0] == "100.0 %"
    assert "[" in cells.text[1][1]


def test_without_a_better_edit_the_figures_say_so():
    none = repaired(is_better=False)
    figure = none.plot()
    assert "no edit was better" in figure.layout.title.subtitle.text
    assert [trace.x[0] for trace in figure.data if trace.showlegend] == [0, 0]
    assert "no edit was better" in none.plot("trade_off").layout.title.subtitle.text
    # Without a limit an edit would have been chosen that costs more.
    names = [name.replace("<br>", " ") for name in none.plot("table").layout.yaxis.ticktext]
    assert names == ["unedited", "without a limit", "last layer retrained"]
    beside = {
        x: label for x, label in zip(figure.layout.xaxis.tickvals, figure.layout.xaxis.ticktext, strict=True) if x
    }
    assert list(beside.values()) == ["without<br>a limit", "last layer<br>retrained"]
    shares = none.report.accuracies() * 100
    drawn = [trace.y[0] for trace in figure.data if len(trace.y) == 1 and trace.error_y.array is not None]
    assert np.allclose(drawn, shares.T.flatten())


def test_accuracies_of_edits(found):
    figure = found.report.plot(edits=["dose 1", "random 1"])
    table = found.report.table().set_index(["group", "edit"])
    for trace, group in zip(figure.data, found.report.groups, strict=True):
        assert np.allclose(trace.x, 100 * table.loc[group].loc[["dose 1", "random 1"], "accuracy"])
    # Where the model without an edit is.
    assert [shape.x0 for shape in figure.layout.shapes] == [100, 50]
    assert list(figure.layout.yaxis.ticktext) == ["dose 1", "random 1"]
    with pytest.raises(InputError, match="no edit was evaluated as 'dose 7'"):
        found.report.plot(edits=["dose 7"])


def test_changes_are_those_of_the_classes_that_move_most(found):
    shown = ["dose 0.5", "dose 1"]
    figure = found.report.plot("changes", edits=shown, k=3)
    changes = found.report.changes[[1, 2]]
    largest = changes.abs().amax(dim=(0, 1)).argsort(descending=True)[:3].sort().values
    for place, board in enumerate(figure.data):
        assert np.allclose(board.z, changes[:, place, largest])
    names = [found.report.class_names[i] for i in largest.tolist()]
    assert list(figure.layout.xaxis2.ticktext) == names
    assert figure.layout.coloraxis.cmax == -figure.layout.coloraxis.cmin == pytest.approx(float(changes.abs().max()))
    with pytest.raises(InputError, match="at least 1"):
        found.report.plot("changes", k=0)


def test_long_names_keep_their_end():
    name = "mean of " + ", ".join(f"L{block}H1" for block in range(12)) + ", dose 0.75"
    lines = in_lines(name).split("<br>")
    assert len(lines) == 2
    assert all(len(line) <= NAME_LINE + 2 for line in lines)
    assert lines[1].endswith("dose 0.75")
    assert in_lines("<b>") == "&lt;b&gt;"
