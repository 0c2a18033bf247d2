"""Figures of faithfulness: they show the result's numbers, colour the better way round, and escape names."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from faithfulness.conftest import noise_pictures, random_maps
from ported import build

from vitlens import InputError
from vitlens.faithfulness.metrics import METRICS
from vitlens.faithfulness.run import evaluate_heatmaps
from vitlens.plots.faithfulness import faithfulness_curves, faithfulness_table
from vitlens.statistics import bootstrap

RISKY = "<b>a method</b> with a name so long that it can stand nowhere, number "
SHOWN = ["deletion", "insertion", "negative", "road_morf", "road"]


@pytest.fixture(scope="module")
def result():
    model, images = build("class_token"), noise_pictures((48, 48), n=10)
    maps = {f"{RISKY}{i}": random_maps(model, images, i) for i in range(9)}
    return evaluate_heatmaps(model, images, heatmaps=maps, metrics=SHOWN, n_steps=4, progress=False)


def lines(figure, panel=0):
    axis = "x" if panel == 0 else f"x{panel + 1}"
    return [trace for trace in figure.data if trace.mode != "lines" or trace.fill is None if trace.xaxis == axis]


def bands(figure):
    return [trace for trace in figure.data if trace.fill == "toself"]


def test_curves_are_means_over_pictures(result):
    figure = faithfulness_curves(result)
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert titles == ["deletion ↓", "insertion ↑", "negative ↑", "road morf ↓", "road lerf ↑"]
    for panel, name in enumerate(result.curve_names):
        shares, values = result.curve(name)
        drawn = lines(figure, panel)
        assert len(drawn) == 12
        for row, trace in enumerate(drawn):
            np.testing.assert_allclose(trace.x, 100 * np.array(shares))
            np.testing.assert_allclose(trace.y, values[row].mean(dim=0).numpy())
    assert len({(trace.line.color, trace.line.dash) for trace in lines(figure)}) == 12
    assert sum(bool(trace.showlegend) for trace in figure.data) == 12
    assert "&lt;b&gt;a method" in lines(figure)[0].name
    assert "<b>" not in lines(figure)[0].name + lines(figure)[0].hovertemplate


def test_only_random_maps_have_a_band(result):
    figure = faithfulness_curves(result, ["insertion", "road_lerf"])
    assert len(bands(figure)) == 2
    for band, name in zip(bands(figure), ("insertion", "road_lerf"), strict=True):
        _, low, high = bootstrap(result.curve(name)[1][result.axes["method"].index("random")].numpy())
        np.testing.assert_allclose(band.y, np.concatenate([high, low[::-1]]))
    without = faithfulness_curves(result, ["insertion"], ["centre_prior", f"{RISKY}3"])
    assert not bands(without)
    assert without.data[0].name == "centre prior"
    # A method looks the same whichever others are shown.
    assert without.data[1].line.color == lines(figure)[3].line.color


def test_the_table_is_brighter_where_it_is_better(result):
    figure = faithfulness_table(result)
    drawn, table = figure.data[0], result.summary()
    assert drawn.z.shape == (12, 5)
    for column, name in enumerate(SHOWN):
        mean = table[name]["mean"].to_numpy()
        best = mean.argmax() if METRICS[name].higher_is_better else mean.argmin()
        worst = mean.argmin() if METRICS[name].higher_is_better else mean.argmax()
        assert drawn.z[best, column] == 1
        assert drawn.z[worst, column] == 0
        sign = 1 if METRICS[name].higher_is_better else -1
        worse, better = ("low", "high") if sign > 0 else ("high", "low")
        others = np.delete(sign * table[name][better].to_numpy(), best)
        wins = sign * table[name][worse].iloc[best] > others.max()
        number = f"{mean[best]:.3f}".replace("-", "−")
        assert drawn.text[best][column].startswith(f"<b>{number}</b>" if wins else number)
        assert not drawn.text[worst][column].startswith("<b>")
        np.testing.assert_allclose(drawn.customdata[:, column], table[name].to_numpy())
    low, high = table.iloc[3]["insertion"][["low", "high"]]
    assert f"[{low:.3f}, {high:.3f}]" in drawn.text[3][1]
    assert drawn.x[3] == "road<br>morf ↓"
    # Names that are cut to the same letters are rows of their own.
    names = figure.layout.yaxis.ticktext
    assert len(names) == 12
    assert names[0].startswith("&lt;b&gt;a method&lt;/b&gt;")
    assert "10 pictures, predicted class, replacement blur" in figure.layout.title.subtitle.text


def test_below_ten_pictures_nothing_is_ranked(result):
    """Two pictures, all intervals overlap: no order, no colour, no bold, and a sentence."""
    two = slice(0, 2)
    few = replace(
        result,
        values=result.values[..., two],
        axes={**result.axes, "image": [0, 1]},
        curves=result.curves[:, :, two],
        correct=result.correct[:, :, two],
        classes=result.classes[two],
    )
    figure = faithfulness_table(few)
    drawn = figure.data[0]
    assert "2 pictures" in figure.layout.title.subtitle.text
    assert "too few to rank: below 10 pictures no order, no colour, no bold" in figure.layout.title.subtitle.text
    assert len({colour for _, colour in drawn.colorscale}) == 1
    assert not any("<b>" in cell for row in drawn.text for cell in row)
    assert (drawn.z == 0).all()


def test_bold_is_what_differs_beyond_the_interval(result):
    """One map wins a column; where intervals overlap nobody does."""
    values = result.values.clone()
    spread = torch.linspace(-0.05, 0.05, 10).to(values)
    values[:] = 0.5 + spread
    values[3, 1] = 0.8 + spread
    values[4, 0] = 0.49 + spread
    drawn = faithfulness_table(replace(result, values=values)).data[0]
    bold = [(i, j) for i, row in enumerate(drawn.text) for j, cell in enumerate(row) if "<b>" in cell]
    assert bold == [(3, 1)]


def test_missing_and_equal_numbers(result):
    values = result.values.clone()
    values[0, 0] = torch.nan
    values[:, 1] = 0.25
    values[:, 2] = torch.nan
    drawn = faithfulness_table(replace(result, values=values)).data[0]
    assert drawn.text[0][0] == "–"
    assert np.isnan(drawn.z[0, 0])
    assert np.nanmax(drawn.z[:, 0]) == 1
    assert (drawn.z[:, 1] == 0.5).all()
    assert all(row[2] == "–" for row in drawn.text)


def test_curves_that_are_not_there(result):
    with pytest.raises(InputError, match="no curve 'positive'"):
        faithfulness_curves(result, ["positive"])
    with pytest.raises(InputError, match="no method 'lime'"):
        faithfulness_curves(result, methods=["lime"])
    with pytest.raises(InputError, match="no curve to show"):
        faithfulness_curves(result, [])
