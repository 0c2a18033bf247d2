"""The figure of an attribution graph: which nodes it draws, where, and how wide its edges are."""

import pytest
import torch
from ported import borrow
from random_transcoders import transcoders_of
from variants import pictures

from vitlens import InputError, attribution_graph
from vitlens.plots import attribution_graph_figure
from vitlens.plots.shared.style import LOWERS, RAISES


@pytest.fixture(scope="module")
def made():
    with borrow("class_token") as model:
        return attribution_graph(
            model, pictures(model.cfg, 1), [1, 4], transcoders=transcoders_of(model, seed=2), n_nodes=60
        )


def nodes_of(figure):
    """By name in the hover text, where each node is drawn and how large."""
    found = {}
    for trace in figure.data:
        if trace.mode == "markers+text":
            for x, y, size, hover in zip(trace.x, trace.y, trace.marker.size, trace.hovertext, strict=True):
                found[hover.split("<br>")[0]] = (x, y, size)
    return found


def test_a_column_for_each_block(made):
    figure = made.plot()
    found = nodes_of(figure)
    assert list(figure.layout.xaxis.ticktext) == ["embeddings", "L0", "L1", "L2", "logits"]
    joined = made.group(made.propose_supernodes("feature"))
    for name, (x, _, _) in found.items():
        label = next((label for label in joined.nodes if label == name), None)
        if label is None:
            assert name.startswith(("embeddings of", "positions of"))
            assert x == 0
        else:
            assert x == (4 if label.kind == "logit" else label.block + 1)
    assert {"logit of class 1", "logit of class 4"} <= set(found)
    assert len({(x, y) for x, y, _ in found.values()}) == len(found), "no node lies on another"


def test_the_most_influential_nodes_are_drawn(made):
    joined = made.group(made.propose_supernodes("feature"))
    few = nodes_of(attribution_graph_figure(made, n_nodes=6))
    drawn = [label for label in joined.nodes if label in few and label.kind != "logit"]
    assert 1 <= len(drawn) <= 6
    influence = dict(zip(map(str, joined.sources), joined.influence().tolist(), strict=True))
    others = [label for label in joined.nodes if label.kind in ("group", "feature", "error") and label not in drawn]
    assert min(influence[label] for label in drawn) >= sorted(influence[label] for label in others)[-1]
    sizes = sorted((influence[label], few[label][2]) for label in drawn)
    assert [size for _, size in sizes] == sorted(size for _, size in sizes)
    with pytest.raises(InputError, match="n_nodes"):
        attribution_graph_figure(made, n_nodes=0)


def test_edges_are_coloured_by_their_sign(made):
    figure = made.plot(n_nodes=1000)
    lines = [trace for trace in figure.data if trace.mode == "lines" and len(trace.x) > 1]
    joined = made.group(made.propose_supernodes("feature"))
    # Embeddings are joined beside: their edges are sums, and all others are those of the graph.
    names = [i for i, label in enumerate(joined.sources) if label.kind in ("group", "feature", "error")]
    between = joined.values[:, names]
    found = nodes_of(figure)
    for colour, count in ((RAISES, (between > 0).sum()), (LOWERS, (between < 0).sum())):
        mine = [x for trace in lines if trace.line.color == colour for x in trace.x if x is not None]
        from_embeddings = sum(x == 0 for x in mine[::2])
        assert len(mine) // 2 - from_embeddings == count
    assert len(found) < len(made.nodes)


def test_a_graph_without_units(made):
    bare = made.prune(node_share=1e-9, edge_share=1e-9)
    assert "logit of class 1" in nodes_of(bare.plot())
    torch.testing.assert_close(bare.values.sum(dim=1), bare.totals)
