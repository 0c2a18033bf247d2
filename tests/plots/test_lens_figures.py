"""Figures of the class lens show the lens' numbers: trajectories, maps, the mosaic, predictions."""

import html

import numpy as np
import pytest
import torch
from plots.conftest import gallery

from vitlens import InputError, class_lens
from vitlens.data.class_names import short_name
from vitlens.plots import class_maps, class_mosaic, lens_trajectory, predictions
from vitlens.plots.lens import _log_odds
from vitlens.plots.mosaic import CLEAR, SHADES
from vitlens.plots.shared.style import COLOURS


@pytest.fixture(scope="module")
def lens(subject):
    return class_lens(subject.model, subject.images[:2], [1, 3], sites=["attn_out", "resid_post"])


def named(subject, index):
    return html.escape(short_name(subject.names[index]))


def test_trajectories_of_classes_and_tokens(subject, lens):
    figure = lens_trajectory(lens, image=1, token=[0, 5])
    titles = [note.text for note in figure.layout.annotations[:2]]
    assert titles == ["probability", "rank among 10 (1 is first)"]
    assert len(figure.data) == 2 * 2 * 2
    told = torch.stack([lens.probabilities, lens.ranks + 1, lens.values.float()], dim=-1)
    for trace, (token, position, quantity) in zip(
        figure.data, [(t, p, q) for t in (0, 5) for p in range(2) for q in (0, 1)], strict=True
    ):
        np.testing.assert_array_equal(trace.x, lens.axes["block"])
        expected = told[1, :, 1, token, position].float().cpu().numpy()
        drawn = expected[:, quantity] if quantity else _log_odds(expected[:, 0])
        np.testing.assert_allclose(trace.y, drawn, rtol=1e-5)
        assert trace.name == f"{named(subject, (1, 3)[position])}, {lens.axes['token'][token]} token"
        # Ranks begin at 0 in tables and at 1 in what people read, as on the page.
        np.testing.assert_allclose(trace.customdata, expected, rtol=1e-5)
        assert "rank %{customdata[1]" in trace.hovertemplate
        assert trace.line.color == COLOURS[position]
        assert trace.line.dash == ("solid" if token == 0 else "dot")
    assert figure.layout.yaxis2.ticktext[:2] == ("1", "2")
    assert figure.layout.yaxis2.tickvals[:2] == (1, 2)
    # Names stand at the lines' ends, in no legend.
    assert figure.layout.showlegend is False
    ends = [note.text.split("</span> ")[1] for note in figure.layout.annotations[2:]]
    assert sorted(ends) == sorted({trace.name for trace in figure.data})
    one = lens_trajectory(lens, token=2, site="attn_out")
    np.testing.assert_allclose(one.data[0].customdata[:, 2], lens.values[0, :, 0, 2, 0].float().cpu().numpy())
    assert one.data[0].name == named(subject, 1)
    assert one.layout.title.text == f"How the class emerges in the {lens.axes['token'][2]} token"
    assert "what attention writes (attn_out)" in one.layout.title.subtitle.text


def test_maps_are_the_patches(subject, lens):
    figure = class_maps(lens, image=1, class_position=1)
    shown = [trace for trace in figure.data if trace.type == "heatmap"]
    np.testing.assert_allclose(np.stack([trace.z for trace in shown]), lens.maps(image=1, class_position=1).numpy())
    assert figure.layout.coloraxis.cmax == pytest.approx(lens.maps(image=1, class_position=1).abs().max().item())
    assert [note.text for note in figure.layout.annotations] == [f"block {block}" for block in lens.axes["block"]]
    assert len(figure.layout.images) == len(shown)
    probable = class_maps(lens, image=1, quantity="probability")
    assert probable.layout.coloraxis.cmin == 0
    assert probable.layout.coloraxis.colorscale is not None, "not that of signed values"
    # Patches are as high and wide as in the picture.
    height, width = subject.pixels.shape[1:3]
    ratio = (height / subject.grid[0]) / (width / subject.grid[1])
    assert {figure.layout[name].scaleratio for name in figure.layout if name.startswith("yaxis")} == {ratio}


def test_the_mosaic_says_each_patchs_first_class(subject, lens):
    figure = class_mosaic(lens, block=0, image=1)
    (tiles,) = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(figure.layout.images) == 1
    assert tiles.opacity == 0.5, "the picture is seen under the colours"
    rows, columns = subject.grid
    first = lens.top_classes[1, 0, 1, subject.model.cfg.n_prefix_tokens :, 0].reshape(rows, columns)
    logits = lens.top_logits[1, 0, 1, subject.model.cfg.n_prefix_tokens :, 0].reshape(rows, columns)
    for row in range(rows):
        for column in range(columns):
            name = html.escape(subject.names[first[row, column]])
            assert tiles.customdata[row][column] == f"{name}<br>logit {logits[row, column].item():.3f}"
    # Patches of one class have one colour, the commonest first.
    counts = torch.bincount(first.flatten(), minlength=10)
    entries = [trace for trace in figure.data if trace.type == "scatter"]
    order = [int(entry.name.rsplit("(", 1)[1][:-1]) for entry in entries]
    assert order == sorted(counts[counts > 0].tolist(), reverse=True)[: len(SHADES)]
    assert sum(order) == (np.asarray(tiles.z) < len(entries)).sum()
    assert [entry.marker.color for entry in entries] == list(SHADES[: len(entries)])
    for code, entry in enumerate(entries):
        classes = set(first[torch.as_tensor(np.asarray(tiles.z) == code)].tolist())
        assert len(classes) == 1
        assert entry.name.startswith(named(subject, classes.pop())[:20])
    assert tiles.colorscale[-1] == (1.0, CLEAR)
    assert "%{y}, %{x}" in tiles.hovertemplate
    prefix = subject.model.cfg.prefix_tokens
    for place, label in enumerate(prefix):
        says = named(subject, lens.top_classes[1, 0, 1, place, 0])
        assert f"{label}: {says}" in figure.layout.title.subtitle.text


def test_the_mosaic_needs_every_patch(subject):
    part = class_lens(subject.model, subject.images[:1], tokens=[subject.model.cfg.n_prefix_tokens])
    with pytest.raises(InputError, match='tokens="all"'):
        class_mosaic(part)


def test_predictions(subject):
    probabilities = subject.model(subject.images[:1], return_type="probs")[0].detach()
    bars = predictions(probabilities, subject.names, "<i>m</i>", k=4).data[0]
    top = probabilities.topk(4)
    np.testing.assert_allclose(bars.x, top.values.float().numpy())
    assert list(bars.y) == [named(subject, i) for i in top.indices.tolist()]
    assert list(bars.text) == [f"{100 * value:.1f} %" for value in top.values.tolist()]


def test_one_token(subject, lens):
    bars = gallery.plots.token_classes(lens, block=0, token=3, image=1).data[0]
    np.testing.assert_allclose(bars.x, lens.top_logits[1, 0, 1, 3].float().numpy())
    assert list(bars.y) == [named(subject, i) for i in lens.top_classes[1, 0, 1, 3].tolist()]
