"""Curves of a training and the frontier of dictionaries show the numbers of their tables, and names stay text."""

import numpy as np
import pandas as pd
import pytest
import torch

from vitlens import InputError
from vitlens.features import TrainingHistory
from vitlens.plots import dictionary_frontier

MEASURES = ["loss", "explained_variance", "l0", "dead_share"]


def history(hooks):
    values = torch.linspace(0.01, 0.9, 3 * 4 * len(hooks)).view(len(hooks), 3, 4)
    values[..., 2] = torch.tensor([300.0, 40.0, 8.0])
    about = {"model": "<i>mine</i>", "training": {"kind": "relu", "k": 4}}
    return TrainingHistory(values, {"hook": hooks, "row": [10, 20, 30], "measure": MEASURES}, "value", settings=about)


def test_a_training_has_a_panel_for_each_measure_and_a_line_for_each_hook():
    hooks = [f"blocks.{block}.hook_resid_post" for block in range(12)]
    of_training = history(hooks)
    figure = of_training.plot()
    assert len(figure.data) == 12 * 4
    for i, trace in enumerate(figure.data):
        assert list(trace.x) == [10, 20, 30]
        np.testing.assert_allclose(trace.y, of_training.values[i // 4, :, i % 4], rtol=1e-6)
        assert trace.name == f"block {i // 4}"
    assert len({trace.line.color for trace in figure.data}) == 12
    # The number of active features falls by orders of magnitude, and the number that was asked for is on the same axis.
    assert figure.layout.yaxis3.type == "log"
    assert figure.layout.shapes[0].y0 == 4
    assert figure.layout.yaxis3.range[0] < np.log10(4) < np.log10(300) < figure.layout.yaxis3.range[1]
    assert "&lt;i&gt;mine" in figure.layout.title.subtitle.text


def test_a_single_hook_has_no_legend_and_several_sites_have_their_words():
    assert not history(["blocks.1.hook_resid_post"]).plot().layout.showlegend
    names = {trace.name for trace in history(["blocks.1.hook_resid_post", "blocks.1.hook_mlp_out"]).plot().data}
    assert names == {"the residual stream after block 1", "what the MLP writes in block 1"}


def test_the_frontier_joins_the_dictionaries_of_a_name_in_the_order_of_l0():
    table = pd.DataFrame(
        {
            "hook": ["blocks.5.hook_resid_post"] * 3 + ["blocks.9.hook_resid_post"] * 2,
            "dictionary": ["<b>topk", "<b>topk", "pca", "<b>topk", "pca"],
            "l0": [32.0, 8.0, 16.0, 8.0, 16.0],
            "explained_variance": [0.9, 0.7, 0.5, 0.8, 0.6],
            "low": 0.1,
            "high": 0.95,
            "baseline": [False, False, True, False, True],
        }
    )
    figure = dictionary_frontier(table)
    first, second = figure.data[::2]
    assert (list(first.x), list(first.y)) == ([8, 32], [0.7, 0.9])
    np.testing.assert_allclose(first.error_y.arrayminus, [0.6, 0.8])
    np.testing.assert_allclose(first.error_y.array, [0.25, 0.05])
    assert (second.xaxis, list(second.y)) == ("x2", [0.8])
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False]
    assert [trace.line.dash for trace in figure.data] == ["solid", "dash"] * 2
    assert first.name == "&lt;b&gt;topk"
    assert [note.text for note in figure.layout.annotations] == ["block 5", "block 9"]
    with pytest.raises(InputError, match="missing: l0"):
        dictionary_frontier(table.drop(columns="l0"))
