"""Attribution patching: exact in the limit of small differences, complete along a path, exact through the softmax."""

import pytest
import torch
from ported import build, on_each_property
from test_paths import ADDITIVE, linearised

from vitlens import InputError, activation_patching, attribution_patching, path_patching
from vitlens.patching import edge_attribution_patching
from vitlens.patching.gradients import ATTRIBUTION_METHODS

QUIET = {"progress": False, "classes": [1]}
SITES = ["resid_pre", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern", "post"]


def near(images_of, model, n=2, distance=1e-5):
    """Pairs that differ by so little that first order is all there is."""
    clean = images_of(model, n, seed=1)
    return clean, clean + distance * images_of(model, n, seed=2)


def assert_close(estimate, exact, tolerance=1e-3):
    assert estimate.axes == exact.axes
    assert not estimate.values.requires_grad
    error = (estimate.shift() - exact.shift()).abs().max()
    assert error < tolerance * exact.shift().abs().max()


@pytest.mark.parametrize("method", [method for method in ATTRIBUTION_METHODS if method != "relevance"])
@pytest.mark.parametrize("site", SITES)
def test_small_differences_are_found_exactly(site, method, plain, images_of):
    clean, corrupted = near(images_of, plain)
    about = {"neurons": [0, 5]} if site == "post" else {}
    exact = activation_patching(plain, clean, corrupted, metric="logit", sites=site, **about, **QUIET)
    estimate = attribution_patching(
        plain, clean, corrupted, metric="logit", sites=site, method=method, **about, **QUIET
    )
    assert_close(estimate, exact)
    assert estimate.settings["method"] == method
    assert exact.settings["method"] == "exact"


@on_each_property
@pytest.mark.parametrize("site", ["resid_pre", "z", "v", "post"])
def test_in_every_architecture(site, classifier, images_of):
    clean, corrupted = near(images_of, classifier)
    about = {"neurons": [0, 5]} if site == "post" else {"blocks": [0, 1]}
    exact = activation_patching(classifier, clean, corrupted, metric="logit", sites=site, **about, **QUIET)
    estimate = attribution_patching(classifier, clean, corrupted, metric="logit", sites=site, **about, **QUIET)
    assert_close(estimate, exact)


@pytest.mark.parametrize("variant", ["qk_norm", "rotary_mixed", "relative_shared", "grouped_keys"])
@pytest.mark.parametrize("site", ["q", "k"])
def test_queries_and_keys_through_norms_and_turns(site, variant, images_of):
    model = build(variant)
    clean, corrupted = near(images_of, model)
    exact = activation_patching(model, clean, corrupted, metric="logit", sites=site, **QUIET)
    for method in ("gradient", "atp_star"):
        estimate = attribution_patching(model, clean, corrupted, metric="logit", sites=site, method=method, **QUIET)
        assert_close(estimate, exact)


def test_along_the_site_the_cells_sum_to_the_whole(plain, images_of):
    clean, corrupted = images_of(plain, 2, seed=1), images_of(plain, 2, seed=2)
    for site in ("resid_pre", "z", "mlp_out"):
        parts = attribution_patching(
            plain, clean, corrupted, metric="logit", sites=site, method="integrated_activations", n_steps=50, **QUIET
        )
        if site == "z":
            whole = {"tokens": "all", "sites": "attn_out"}
        else:
            whole = {"tokens": "all", "sites": site}
        exact = activation_patching(plain, clean, corrupted, metric="logit", **whole, **QUIET).shift()[:, 0]
        torch.testing.assert_close(parts.shift().sum(dim=1), exact, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("site", ["q", "k"])
def test_the_softmax_is_followed_exactly(site, plain, images_of):
    """Behind the pattern everything is linear, and the pictures are far apart: AtP* is exact where a gradient is not."""
    clean, corrupted = images_of(plain, 1, seed=1), images_of(plain, 1, seed=2)
    hooks = [hook for hook in linearised(plain, corrupted) if hook[0] != "blocks.1.attn.hook_pattern"]
    about = {"blocks": [1], "tokens": "each", "batch_size": 1, **QUIET}
    with plain.hooks(fwd_hooks=hooks):
        exact = activation_patching(plain, clean, corrupted, metric="logit", sites=site, **about)
        gradient, star = (
            attribution_patching(plain, clean, corrupted, metric="logit", sites=site, method=method, **about)
            for method in ("gradient", "atp_star")
        )
    assert_close(star, exact, 1e-9)
    assert (gradient.shift() - exact.shift()).abs().max() > 1e-2 * exact.shift().abs().max()


def test_several_metrics_token_sets_and_batches(plain, images_of):
    clean, corrupted = images_of(plain, 5, seed=1), images_of(plain, 5, seed=2)
    labels = torch.arange(5) % 3
    metrics = {"named": "logit", "own": lambda logits: logits.gather(1, labels[:, None])[:, 0]}
    sets = {"tokens": ["class", "patches"], "classes": labels, "progress": False}
    whole = attribution_patching(plain, clean, corrupted, metric=metrics, **sets)
    torch.testing.assert_close(whole.patched[0], whole.patched[1])
    parts = attribution_patching(plain, clean, corrupted, metric=metrics, batch_size=2, **sets)
    torch.testing.assert_close(parts.patched, whole.patched)
    each = attribution_patching(plain, clean, corrupted, metric="logit", tokens="each", classes=labels, progress=False)
    patches = [i for i, label in enumerate(each.axes["tokens"]) if label.startswith("(")]
    torch.testing.assert_close(each.shift()[:, patches].sum(dim=1), whole.select(metric="named").shift()[:, 1])
    assert plain.list_hooks() == {}
    assert all(parameter.grad is None for parameter in plain.parameters())


@pytest.mark.parametrize("variant", ADDITIVE)
def test_edges_of_small_differences_are_found_exactly(variant, images_of):
    model = build(variant)
    clean, corrupted = near(images_of, model)
    exact = path_patching(model, clean, corrupted, receivers=None, metric="logit", **QUIET)
    for method in ("gradient", "integrated_inputs"):
        about = {"metric": "logit", "method": method, "batch_size": 1, **QUIET}
        assert_close(edge_attribution_patching(model, clean, corrupted, **about), exact)


def test_several_metrics_of_edges(plain, images_of):
    clean, corrupted = images_of(plain, 2, seed=1), images_of(plain, 2, seed=2)
    both = edge_attribution_patching(plain, clean, corrupted, metric=["logit", "probability"], **QUIET)
    for metric in ("logit", "probability"):
        alone = edge_attribution_patching(plain, clean, corrupted, metric=metric, **QUIET)
        torch.testing.assert_close(both.select(metric=metric).values, alone.values)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"method": "grad"}, "nearest names are gradient"),
        ({"n_steps": 0}, "at least 1"),
        ({"metric": lambda logits: logits.mean()}, "one number per picture"),
    ],
)
def test_wrong_input_is_one_clear_sentence(plain, images_of, arguments, sentence):
    pictures = images_of(plain, 2, seed=1), images_of(plain, 2, seed=2)
    for function in (attribution_patching, edge_attribution_patching):
        with pytest.raises(InputError, match=sentence):
            function(plain, *pictures, **arguments, progress=False)
