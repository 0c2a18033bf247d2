"""Figures of attention show rows, columns and means of the patterns."""

import numpy as np
import pytest
import torch

from vitlens import InputError, heatmap
from vitlens.plots import attention_blocks, attention_grid, attention_mosaic, attention_overlay
from vitlens.plots.shared.style import OUTLINE


@pytest.fixture(scope="module")
def pattern(subject):
    _, cache = subject.model.run_with_cache(subject.images[:1], names_filter="pattern")
    return cache.stack_activation("pattern")[:, 0]


def about(subject):
    return subject.pixels[0], subject.grid, subject.model.cfg.prefix_tokens


def maps_of(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


def on_grid(subject, rows):
    return rows[..., subject.model.cfg.n_prefix_tokens :].unflatten(-1, subject.grid).float()


@pytest.mark.parametrize("direction", ["to", "by"])
def test_heads_of_a_block_and_their_mean(subject, pattern, direction):
    token = subject.model.cfg.n_prefix_tokens + subject.grid[1] + 1
    figure = attention_grid(pattern[1], *about(subject), 1, "<i>m</i>", token=token, direction=direction)
    rows = pattern[1, :, token] if direction == "to" else pattern[1, :, :, token]
    expected = on_grid(subject, torch.cat([rows, rows.mean(dim=0)[None]]))
    for trace, exact in zip(maps_of(figure), expected, strict=True):
        np.testing.assert_allclose(trace.customdata, exact.numpy())
        np.testing.assert_allclose(trace.z, (exact / exact.max()).numpy(), rtol=1e-6)
        assert "%{customdata" in trace.hovertemplate
        assert "%{y}, %{x}" in trace.hovertemplate
    titles = [note.text for note in figure.layout.annotations]
    assert [title.split(",")[0] for title in titles] == [
        *(f"L1H{head}" for head in range(len(pattern[1]))),
        "mean of heads",
    ]
    assert titles[0].endswith(f"up to {expected[0].max().item():.2g}")
    assert figure.layout.title.text.startswith(
        "What attends to patch (1, 1)" if direction == "by" else "What patch (1, 1)"
    )
    outlines = [
        (shape.x0, shape.x1, shape.y0, shape.y1) for shape in figure.layout.shapes if shape.line.color == OUTLINE
    ]
    assert outlines == [(0.5, 1.5, 0.5, 1.5)] * len(expected)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)


def test_a_prefix_token_is_named_and_not_outlined(subject, pattern):
    figure = attention_grid(pattern[0], *about(subject), 0, "<i>m</i>")
    assert subject.model.cfg.prefix_tokens[0] in figure.layout.title.text
    assert not figure.layout.shapes
    assert figure.layout.title.subtitle.text.startswith("&lt;i&gt;m")


def test_blocks_and_rollout(subject, pattern):
    rollout = heatmap(subject.model, subject.images[:1], method="attention_rollout").values[0]
    figure = attention_blocks(pattern, *about(subject), "m", rollout=rollout)
    expected = on_grid(subject, pattern.mean(dim=1)[:, 0])
    shown = maps_of(figure)
    assert len(shown) == len(pattern) + 1
    for trace, exact in zip(shown, [*expected, rollout.float()], strict=True):
        np.testing.assert_allclose(trace.customdata, exact.numpy(), rtol=1e-6)
    assert figure.layout.annotations[len(pattern)].text.startswith("rollout, up to")
    assert len(maps_of(attention_blocks(pattern, *about(subject), "m", direction="by"))) == len(pattern)


def test_tokens_and_directions_that_do_not_exist(subject, pattern):
    with pytest.raises(InputError, match="there is no token 999: the pattern has tokens 0 to"):
        attention_grid(pattern[0], *about(subject), 0, "m", token=999)
    with pytest.raises(InputError, match="not 'from'"):
        attention_blocks(pattern, *about(subject), "m", direction="from")


def test_one_head_large(subject, pattern):
    figure = attention_overlay(pattern[0, 1, 0], *about(subject), "L0H1", "the first token", "<i>m</i>")
    shown = maps_of(figure)
    np.testing.assert_allclose(shown[1].z, on_grid(subject, pattern[0, 1, 0]).numpy())
    assert shown[1].zmin == 0
    assert figure.layout.title.text == "What the first token attends to in head L0H1"
    share = pattern[0, 1, 0, 0].item()
    assert f"{subject.model.cfg.prefix_tokens[0]} {100 * share:.1f} %" in figure.layout.title.subtitle.text


def test_every_head_at_once(subject, pattern):
    maps = on_grid(subject, pattern[:, :, 0])
    figure = attention_mosaic(maps, "the first token", "m")
    rows, columns = subject.grid
    exact = np.asarray(figure.data[0].customdata)
    assert exact.shape == (maps.shape[1] * (rows + 1) - 1, maps.shape[0] * (columns + 1) - 1)
    for block in range(maps.shape[0]):
        for head in range(maps.shape[1]):
            top, left = head * (rows + 1), block * (columns + 1)
            np.testing.assert_allclose(exact[top : top + rows, left : left + columns], maps[block, head].numpy())
    assert np.nanmax(figure.data[0].z) == pytest.approx(1)
    assert list(figure.layout.xaxis.ticktext) == [f"L{block}" for block in range(maps.shape[0])]
