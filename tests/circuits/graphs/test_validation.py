"""What a graph predicts of its units: exact to first order where all is linear, measured as an edit by hand measures it."""

import pytest
import torch
from composed import compose
from lending import lent
from scipy import stats
from test_edge_heads import made
from variants import pictures

import vitlens
from vitlens import HookedViT, InputError, attribution_graph
from vitlens.circuits import validate_graph

#: Wirings, attentions and poolings; MLPs of four neurons, so that all of them are nodes of a small graph.
MODELS = (
    "pre-norm plain layer-norm relative token class mlp square",
    "pre-norm qk-norm simple-norm rotary average no-prefix mlp wide-picture",
    "post-norm qk-norm rms-norm relative average class mlp wide-patches",
    "parallel differential layer-norm learned average class+registers mlp wide-patches",
    "branches plain simple-norm learned attention-pool class+registers mlp wide-picture",
    "pre-norm gated layer-norm learned token class+distillation mlp wide-picture",
    "parallel plain simple-norm no-positions maximum no-prefix mlp wide-patches",
)


@pytest.mark.parametrize("name", MODELS)
def test_with_all_neurons_a_small_change_is_what_the_graph_says(name):
    with lent(("small mlp", name), lambda: HookedViT.from_timm(compose(name, mlp_ratio=0.125))) as model:
        image = pictures(model.cfg, 1)
        graph = attribution_graph(model, image, [1, 4], baseline_classes=2, n_nodes=10_000)
        found = validate_graph(model, image, graph, factor=1 - 1e-5, k=40)
        assert found.named.sum() == 40
        for predicted, measured in ((found.predicted, found.frozen), (found.gradient, found.values)):
            torch.testing.assert_close(predicted, measured, rtol=0, atol=1e-3 * measured.abs().max().item())
        # What the graph left out has no influence: neurons of the last block at tokens that no classifier reads.
        assert (found.frozen[~found.named].abs() < 1e-3 * found.frozen.abs().max()).all()
        assert (found.values - found.frozen).abs().max() > 0.01 * found.values.abs().max(), "patterns answer"


@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_measured_as_by_hand(plain, images_of, factor):
    image = images_of(plain, 1)
    graph, _, transcoders = made(plain, image)
    found = validate_graph(plain, image, graph, transcoders=transcoders, factor=factor, batch_size=3, seed=4)
    n = len(graph.units)
    assert found.named.tolist() == [True] * n + [False] * n
    assert set(found.axes["unit"][n:]).isdisjoint(graph.units)
    assert len(set(found.axes["unit"])) == 2 * n
    for place in (0, n - 1, n, 2 * n - 1):
        unit = found.axes["unit"][place]
        hook, sae = list(transcoders.items())[{0: 0, 2: 1}[unit.block]]

        def scale(features, unit=unit):
            features = features.clone()
            features[:, unit.token, unit.feature] *= factor
            return features

        with vitlens.with_sae(plain, hook, sae, error_term=True, edit=scale):
            changed = plain(image)
        torch.testing.assert_close(
            found.values[place], (changed - plain(image))[0, graph.classes[0]], rtol=1e-9, atol=1e-12
        )
    of_random = found.activity[n:]
    assert 0.2 < of_random.mean() / found.activity[:n].mean() < 5


def test_the_numbers_of_the_summary(plain, images_of):
    image = images_of(plain, 1)
    graph, _, transcoders = made(plain, image)
    found = validate_graph(plain, image, graph, transcoders=transcoders)
    table = found.summary(n_draws=200).set_index(["units", "predicted_by", "measured_in"])
    mine = table.loc[("named", "graph", "frozen model")]
    x, y = (part[found.named].flatten().numpy() for part in (found.predicted, found.frozen))
    assert mine["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic)
    assert mine["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert mine["pearson_low"] < mine["pearson"] < mine["pearson_high"]
    assert mine["change"] == pytest.approx(abs(y).mean())
    assert mine["n"] == len(graph.units)
    misses = found.misses(3)
    assert len(misses) == 3
    assert misses["miss"].abs().is_monotonic_decreasing
    assert misses["miss"].abs().iloc[0] == pytest.approx(
        (found.values - found.predicted)[found.named].abs().max().item()
    )
    few = validate_graph(plain, image, graph, transcoders=transcoders, k=2)
    assert few.named.sum() == 2
    greatest = found.predicted[found.named].abs().max(dim=1).values.sort(descending=True).values
    torch.testing.assert_close(few.predicted[:2].abs().max(dim=1).values.sort(descending=True).values, greatest[:2])


def test_refusals(plain, images_of):
    image = images_of(plain, 1)
    graph, _, transcoders = made(plain, image)
    for images, options, sentence in (
        (images_of(plain, 1, seed=5), {"transcoders": transcoders}, "another picture"),
        (image, {}, "another picture, model or dictionary"),
        (image, {"transcoders": transcoders, "factor": 1.0}, "factor=1 changes nothing"),
    ):
        with pytest.raises(InputError, match=sentence):
            validate_graph(plain, images, graph, **options)
