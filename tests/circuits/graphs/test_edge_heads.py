"""The parts of an edge that heads bring sum to it, and each is the edge of a run in which only this head is the last."""

from dataclasses import replace

import jaxtyping
import pytest
import torch
from ported import COMPOSED, borrow

from vitlens import InputError, attribution_graph
from vitlens.circuits import edge_heads
from vitlens.circuits.graphs.edges import Sources
from vitlens.circuits.graphs.graph_run import run_of_graph
from vitlens.features import Transcoder, mlp_hooks

CLASSES = [1, 4]


def transcoders_of(model, n=12):
    """Random transcoders, every other one with a skip connection; block 1 has none."""
    generator = torch.Generator().manual_seed(0)
    d, found = model.cfg.d_model, {}

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * d**-0.5

    for block, (hook, hook_out) in enumerate(mlp_hooks(model)):
        if block != 1:
            skip = draw(d, d) if block % 4 == 2 else None
            weights = (draw(d, n), draw(n), draw(n, d), draw(d), torch.nn.ReLU())
            found[hook] = Transcoder(*weights, W_skip=skip, hook=hook, hook_out=hook_out)
    return found


def made(model, image, n_nodes=12):
    transcoders = transcoders_of(model)
    graph = attribution_graph(model, image, CLASSES, transcoders=transcoders, n_nodes=n_nodes)
    return graph, edge_heads(model, image, graph, transcoders=transcoders, n_edges=10**6, batch_size=7), transcoders


def test_heads_sum_to_the_edges(classifier, images_of):
    graph, found, _ = made(classifier, images_of(classifier, 1))
    n_heads = classifier.cfg.n_layers * classifier.cfg.n_heads
    assert len(found.axes["head"]) == n_heads + 1
    assert len(found.axes["edge"]) == int((graph.values[:, :-2] != 0).sum())
    largest = found.effects.abs().max()
    torch.testing.assert_close(found.values.sum(dim=1), found.effects, rtol=0, atol=1e-9 * largest.item())
    assert (found.values[:, :-1].abs().max(dim=0).values > 0).all(), "every head brings something"


@pytest.mark.parametrize(
    "wiring", ["pre-norm plain", "post-norm differential", "parallel differential", "pre-norm gated"]
)
def test_a_loading_is_the_edge_where_the_head_is_the_last(wiring, images_of):
    with borrow(next(name for name in COMPOSED if name.startswith(wiring))) as model:
        graph, found, transcoders = made(model, images_of(model, 1))
        of = run_of_graph(model, images_of(model, 1), graph, transcoders)
        order, reads = of.reads(range(len(graph.targets)))
        place = {label: i for i, label in enumerate(found.axes["edge"])}

        def edges(last, heads):
            """[target, source]: the edges with these heads of one block, all of those before and none behind."""
            blocks = list(of.run.blocks)
            for index in range(last, len(blocks)):
                kept = torch.zeros(len(blocks[index].pattern), 1, 1, dtype=torch.float64)
                kept[heads if index == last else []] = 1
                blocks[index] = replace(blocks[index], pattern=blocks[index].pattern * kept)
            sources = Sources(replace(of.run, blocks=blocks), of.replacements)
            values, _ = sources.edges_into(reads)
            return sources, values

        for column, head in enumerate(found.axes["head"]):
            if head.kind == "head":
                sources, mine = edges(head.block, [head.head])
                mine = mine - edges(head.block, [])[1]
            else:
                sources, mine = edges(0, [])
            for row, target in enumerate(order):
                for label in graph.sources[:-2]:
                    value = mine[row, position(sources, label)].item()
                    edge = place.get(f"{label} → {graph.targets[target]}")
                    expected = 0.0 if edge is None else found.values[edge, column].item()
                    assert abs(value - expected) <= 1e-9 * found.effects.abs().max()


def position(sources, label):
    """The place of a node among all sources of a run."""
    if label.kind == "error":
        return sources.errors[label.block] + label.token
    if label.kind not in ("feature", "neuron"):
        return sources.embeddings[label.kind] + label.token
    of = next(of for of in sources.units if of.replacement.block == label.block)
    return of.first + int(((of.units == label.feature) & (of.tokens == label.token)).nonzero())


def test_the_edges_that_are_asked_for(plain, images_of):
    image = images_of(plain, 1)
    graph, every, transcoders = made(plain, image)
    about = {"transcoders": transcoders}
    strongest = graph.edges.query("target == @graph.targets[0]").nlargest(3, "share")
    found = edge_heads(plain, image, graph, edges=strongest, **about)
    assert len(found.axes["edge"]) <= 3
    for edge, row in zip(found.axes["edge"], found.values, strict=True):
        torch.testing.assert_close(row, every.values[every.axes["edge"].index(edge)])
    one = (found.sources[0], found.targets[0])
    torch.testing.assert_close(edge_heads(plain, image, graph, edges=[one], **about).values, found.values[:1])
    few = edge_heads(plain, image, graph, n_edges=5, **about)
    assert few.effects.abs().tolist() == sorted(few.effects.abs().tolist(), reverse=True)
    assert set(few.axes["edge"]) < set(every.axes["edge"])
    assert few.heads()["share"].sum() == pytest.approx(1)
    assert few.heads()["effect"].sum() == pytest.approx(few.effects.sum().item())


def test_refusals(plain, images_of, monkeypatch):
    # The tests' checks of types would refuse edges that are no pairs before vitlens does.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    image = images_of(plain, 1)
    graph, _, transcoders = made(plain, image)
    about = {"transcoders": transcoders}
    for images, options, sentence in (
        (images_of(plain, 1, seed=5), about, "another picture"),
        (image, {}, "another picture, model or dictionary"),
        (images_of(plain, 2), about, "one picture"),
        (image, about | {"edges": [("L0 feature 1", "logit")]}, "no edge from L0 feature 1"),
        (image, about | {"edges": []}, "names no edge"),
        (image, about | {"edges": ["logit"]}, "pairs"),
        (image, about | {"edges": 5}, "pairs"),
    ):
        with pytest.raises(InputError, match=sentence):
            edge_heads(plain, images, graph, **options)
