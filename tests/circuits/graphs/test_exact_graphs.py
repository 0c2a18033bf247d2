"""Attribution graphs are exact: rows sum to what they explain, and each edge is what an edit of the frozen run changes."""

import pytest
import torch
from lending import lent
from ported import CLASSIFIERS, COMPOSED, borrow
from random_transcoders import clt_of, transcoders_of
from replaced_by_hooks import ReplacedByHooks, everything_added
from variants import build

from vitlens import HookedViT, InputError, attribution_graph, direct_logit_attribution
from vitlens.circuits.graphs import chosen_rows
from vitlens.features import CrossLayerTranscoder
from vitlens.model.class_space.classifier import kind_of
from vitlens.model.class_space.layered import NONLINEAR

CLASSES = [1, 4]
#: Models whose MLPs get transcoders: of every wiring, and in make test-all every variant.
FEW = list(COMPOSED)[::3]
TRANSCODED = [
    *FEW,
    *(pytest.param(name, marks=pytest.mark.slow) for name in [*COMPOSED, *CLASSIFIERS] if name not in FEW),
]


def check(model, image, transcoders, n_nodes=12):
    """Rows sum; each edge and the rest are finite differences; the targets are what the run has."""
    graph = attribution_graph(model, image, CLASSES, transcoders=transcoders, n_nodes=n_nodes, batch_size=5)
    largest = graph.values.abs().sum(dim=1)
    assert len(graph.units) == n_nodes
    assert ((graph.values.sum(dim=1) - graph.totals).abs() <= 1e-9 * largest).all()
    clt = transcoders if isinstance(transcoders, CrossLayerTranscoder) else None
    readers = None
    if clt is not None:
        readers = {block_of(hook): (hook, clt.of_block(i)) for i, hook in enumerate(clt.hooks)}
    elif transcoders is not None:
        readers = {block_of(hook): (hook, sae.double()) for hook, sae in transcoders.items()}
    frozen = ReplacedByHooks(model, image, readers)
    totals, effects = frozen.effects(graph, everything_added(graph, frozen, clt))
    assert [label.kind for label in graph.sources[-2:]] == ["constant", "rest"]
    found = torch.cat([graph.values[:, :-2], graph.values[:, -1:]], dim=1)
    close = {"rtol": 0, "atol": 1e-9 * largest.max().item()}
    # A classifier of several layers is frozen at its gradient, which no edit of the run shows.
    rows = slice(len(CLASSES) if kind_of(model.unembed) == NONLINEAR else 0, None)
    torch.testing.assert_close(found[rows], effects[rows], **close)
    torch.testing.assert_close(graph.totals, totals, **close)
    return graph


def block_of(hook):
    return int(hook.split(".")[1])


def test_the_neurons_of_the_mlps(classifier, images_of):
    graph = check(classifier, images_of(classifier, 1), None)
    assert {label.kind for label in graph.units} == {"neuron"}
    assert not [label for label in graph.nodes if label.kind == "error"], "neurons write all that an MLP writes"


@pytest.mark.parametrize("name", TRANSCODED)
def test_transcoders_of_all_kinds(name, images_of):
    with borrow(name) as model:
        graph = check(model, images_of(model, 1), transcoders_of(model, seed=sum(map(ord, name)) % 12))
    assert {label.kind for label in graph.units} == {"feature"}


@pytest.mark.parametrize(
    "wiring", ["pre-norm qk-norm rms-norm", "post-norm plain", "parallel qk-norm", "branches plain"]
)
def test_a_cross_layer_transcoder(wiring, images_of):
    with borrow(next(name for name in COMPOSED if name.startswith(wiring))) as model:
        check(model, images_of(model, 1), clt_of(model))
        check(model, images_of(model, 1), clt_of(model, [1, 2]))


@pytest.fixture
def few_neurons():
    """A model whose MLPs have eight neurons each and no bias, so that all of them are nodes of one graph."""

    def make():
        module = build(mlp_ratio=0.25)
        for block in module.blocks:
            torch.nn.init.zeros_(block.mlp.fc2.bias)
        return HookedViT.from_timm(module)

    with lent(("few_neurons",), make) as model:
        yield model


def test_edges_into_the_logit_are_direct_logit_attributions(few_neurons, images_of):
    image = images_of(few_neurons, 1)
    graph = attribution_graph(few_neurons, image, 2, baseline_classes=5, n_nodes=10_000)
    assert graph.left_out.max() < 1e-12
    assert graph.values[:, -1].abs().max() < 1e-12, "there is no rest where all units are nodes"
    of_logit = dict(zip(graph.sources, graph.values[0].tolist(), strict=True))

    def attributed(unit):
        return direct_logit_attribution(few_neurons, image, 2, baseline_classes=5, unit=unit)

    neurons, paths, components = attributed("neuron"), attributed("path"), attributed("component")
    for neuron, share in enumerate(neurons.values[0, 0, 2].tolist()):
        mine = sum(value for node, value in of_logit.items() if (node.block, node.feature) == (2, neuron))
        assert mine == pytest.approx(share, rel=1e-9), "behind the last MLP there is no head"
    # From block 1 a neuron reaches the logit through the stream, or through one head of the last block.
    writer = paths.axes["writer"].index("L1 mlp")
    mine = sum(value for node, value in of_logit.items() if node.block == 1)
    expected = components.part("L1 mlp") + paths.values[0, 0, 2, :, writer].sum()
    assert mine == pytest.approx(expected.item(), rel=1e-9)


def test_the_rest_is_what_no_node_writes(few_neurons, images_of):
    image = images_of(few_neurons, 1)
    whole, part = (attribution_graph(few_neurons, image, CLASSES, n_nodes=n) for n in (10_000, 30))
    rows = [whole.targets.index(label) for label in part.targets]
    columns = [whole.sources.index(label) for label in part.sources[:-1]]
    others = [i for i in range(len(whole.sources) - 1) if i not in columns]
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(part.values[:, :-1], whole.values[rows][:, columns], **close)
    torch.testing.assert_close(part.values[:, -1], whole.values[rows][:, others].sum(dim=1), **close)
    of_constant = whole.sources.index("constant")
    magnitudes = whole.values[rows].abs()
    magnitudes[:, of_constant] = 0
    left_out = magnitudes[:, others].sum(dim=1) / magnitudes.sum(dim=1)
    torch.testing.assert_close(part.left_out, left_out, **close)
    torch.testing.assert_close(part.values.sum(dim=1), part.totals, **close)
    assert part.left_out.max() > 0.1


def test_nodes_are_those_with_the_greatest_influence(few_neurons, images_of):
    image = images_of(few_neurons, 1)
    whole = attribution_graph(few_neurons, image, 3, n_nodes=10_000)
    n = len(whole.units)
    direct = whole.values[0, :n].abs().argsort(descending=True)
    few = attribution_graph(few_neurons, image, 3, n_nodes=4, batch_size=1)
    # The first are chosen by what the logit alone reads.
    assert set(few.units) == {whole.units[i] for i in direct[:4].tolist()}


def test_of_more_edges_than_there_is_room_for_the_strongest_are_kept(few_neurons, images_of, monkeypatch):
    image = images_of(few_neurons, 1)
    whole = attribution_graph(few_neurons, image, CLASSES, n_nodes=20)
    monkeypatch.setattr(chosen_rows, "EDGES_KEPT", 20)
    monkeypatch.setattr(chosen_rows, "EDGES_OF_TARGET", 40)
    part = attribution_graph(few_neurons, image, CLASSES, n_nodes=20)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(part.values.sum(dim=1), part.totals, **close)
    for target in set(whole.targets) & set(part.targets):
        mine, all_edges = (g.values[g.targets.index(target)] for g in (part, whole))
        kept = [i for i, node in enumerate(part.units) if mine[i] != 0 and node in whole.units]
        assert kept or target.block == 0
        for i in kept:
            assert mine[i].item() == pytest.approx(all_edges[whole.sources.index(part.units[i])].item(), rel=1e-9)
    assert (part.values == 0).sum() > (whole.values == 0).sum()


def test_a_float32_model(few_neurons, images_of):
    image = images_of(few_neurons, 1)
    exact = attribution_graph(few_neurons, image, CLASSES, n_nodes=20)
    rough = attribution_graph(few_neurons.to(torch.float32), image.float(), CLASSES, n_nodes=20)
    assert rough.values.dtype == torch.float32
    assert rough.units == exact.units
    torch.testing.assert_close(rough.values.double(), exact.values, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:this dictionary was trained on")
def test_what_no_graph_is_made_of(plain, images_of):
    images = images_of(plain, 2)
    sae = transcoders_of(plain)
    hook, transcoder = next(iter(sae.items()))
    wrong = {
        "about one picture, not 2": {"images": images},
        "n_nodes": {"n_nodes": 0},
        "is empty": {"transcoders": {}},
        "MLPs' own neurons": {"transcoders": []},
        "replaces an MLP: it reads": {"transcoders": {"resid_post0": transcoder}},
        "two transcoders replace the MLP of one block": {"transcoders": [transcoder, transcoder]},
        "no class": {"classes": 99},
    }
    for sentence, given in wrong.items():
        with pytest.raises(InputError, match=sentence):
            attribution_graph(**{"model": plain, "images": images[:1], "classes": 1, **given})
    assert attribution_graph(plain, images[:1], 1, transcoders={hook: transcoder}, n_nodes=3).units

    with (
        plain.hooks(fwd_hooks=[("resid_mid1", lambda x, hook: x + 1)]),
        pytest.raises(InputError, match="changes what no component wrote"),
    ):
        attribution_graph(plain, images[:1], 1, n_nodes=3)


def test_the_run_is_that_under_the_users_hooks(plain, images_of):
    def silence(z, hook):
        z[:, :, 1] = 0
        return z

    image = images_of(plain, 1)
    with plain.hooks(fwd_hooks=[(("z", 1), silence)]):
        check(plain, image, None)
        hooked = check(plain, image, transcoders_of(plain))
    free = attribution_graph(plain, image, CLASSES, transcoders=transcoders_of(plain), n_nodes=12)
    assert not torch.allclose(hooked.totals[:2], free.totals[:2], atol=1e-3)
