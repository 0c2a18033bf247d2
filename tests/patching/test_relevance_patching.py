"""Relevance patching: exact where the rules' linear maps are the network, conserved without biases, the same by hand."""

import pytest
import torch
from ported import build
from test_paths import pair
from torch import nn

from vitlens import activation_patching, attribution_patching
from vitlens.model.graph import Graph
from vitlens.patching import edge_attribution_patching
from vitlens.patching.gradients import gradients_at
from vitlens.patching.propagation import propagation_rules
from vitlens.patching.whole_runs import run_pair

QUIET = {"progress": False, "classes": [1], "metric": "logit"}
EXACT = {"rtol": 1e-9, "atol": 1e-11}
#: Without gates, and pooled by a linear map.
OF_EVERY_KIND = [
    "class_token", "qk_norm", "rotary_mixed", "relu", "rms_norm", "parallel", "average_with_registers", "attention_pool"
]  # fmt: skip


def shares(function, *arguments, **keywords):
    return function(*arguments, **keywords, **QUIET).shift()


def as_the_rules_have_it(model, images):
    """Hooks that make the network the linear map of the rules: what each layer takes for constant is set to its value."""
    _, cache = model.run_with_cache(images)
    hooks = []
    for name in model.hook_dict:
        if name.endswith((".hook_pattern", ".hook_scale")):
            hooks.append((name, lambda x, hook, fixed=cache[name]: fixed.expand_as(x)))
        elif name.endswith("mlp.hook_post"):
            seen = {}
            before = name.replace("post", "pre")
            hooks.append((before, lambda x, hook, seen=seen: seen.update(x=x)))
            ratio = cache[name] / cache[before]
            hooks.append((name, lambda x, hook, seen=seen, ratio=ratio: seen["x"] * ratio))
    return hooks


def logit_with(model, corrupted, name, value, hooks):
    """The logit in the network that the hooks make, with one activation put in."""
    with torch.no_grad():
        return model.run_with_hooks(corrupted, fwd_hooks=[*hooks, (name, lambda x, hook: value)])[:, 1]


@pytest.mark.parametrize("variant", OF_EVERY_KIND)
def test_it_is_the_exact_effect_in_the_network_that_the_rules_make(variant, images_of):
    model = build(variant)
    clean, corrupted = pair(images_of, model)
    linear = as_the_rules_have_it(model, corrupted)
    _, ours = model.run_with_cache(clean)
    before = model(corrupted)[:, 1].detach()
    for site in ("resid_pre", "attn_out", "mlp_out"):
        estimate = shares(attribution_patching, model, clean, corrupted, sites=site, method="relevance", tokens="all")
        for block in range(model.cfg.n_layers):
            name = f"blocks.{block}.hook_{site}"
            exact = logit_with(model, corrupted, name, ours[name], linear) - before
            assert exact.abs().max() > 1e-6
            torch.testing.assert_close(estimate[block, 0], exact, **EXACT)


@pytest.mark.parametrize("variant", ["class_token", "qk_norm", "relu", "parallel", "attention_pool"])
def test_edges_too(variant, images_of):
    """Into the logits and into an MLP: what the reader reads of the network is moved by what one head writes."""
    model = build(variant)
    clean, corrupted = pair(images_of, model)
    edges = edge_attribution_patching(model, clean, corrupted, method="relevance", **QUIET)
    linear = as_the_rules_have_it(model, corrupted)
    (_, ours), (_, theirs) = model.run_with_cache(clean), model.run_with_cache(corrupted)
    before = model(corrupted)[:, 1].detach()
    z = "blocks.0.attn.hook_z"
    change = (ours[z] - theirs[z])[:, :, 1] @ model.blocks[0].attn.W_O[1]

    def found(receiver):
        return edges.shift()[edges.axes["sender"].index("L0H1"), edges.axes["receiver"].index(receiver)]

    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    into_logits = logit_with(model, corrupted, last, theirs[last] + change, linear) - before
    torch.testing.assert_close(found("logits"), into_logits, **EXACT)
    stream = f"blocks.1.hook_resid_{'pre' if model.cfg.wiring == 'parallel' else 'mid'}"
    with torch.no_grad(), model.hooks(fwd_hooks=linear):
        written = Graph(model).mlp(1, theirs[stream] + change)
    into_mlp = logit_with(model, corrupted, "blocks.1.hook_mlp_out", written, linear) - before
    torch.testing.assert_close(found("L1 mlp"), into_mlp, **EXACT)
    assert min(into_logits.abs().min(), into_mlp.abs().min()) > 1e-9


@pytest.mark.parametrize("variant", ["class_token", "layer_scale", "rotary_mixed", "average_with_registers"])
def test_where_all_is_linear_already_it_is_the_gradient_and_the_exact_effect(variant, images_of):
    """No activations, patterns and norms set."""
    model = build(variant)
    for block in model.blocks:
        block.mlp.act = nn.Identity()
    clean, corrupted = pair(images_of, model, 1)
    _, cache = model.run_with_cache(corrupted)
    kept = [name for name in model.hook_dict if name.endswith((".hook_pattern", ".hook_scale"))]
    about = {"tokens": "all", "batch_size": 1}
    with model.hooks(fwd_hooks=[(name, lambda x, hook: cache[hook.name].expand_as(x)) for name in kept]):
        for site in ("resid_pre", "mlp_out"):
            exact = shares(activation_patching, model, clean, corrupted, sites=site, **about)
            for method in ("gradient", "relevance"):
                estimate = shares(attribution_patching, model, clean, corrupted, sites=site, method=method, **about)
                torch.testing.assert_close(estimate, exact, **EXACT)
        assert exact.abs().min() > 1e-6


def coefficients(model, images, names):
    """The coefficients of logit 1 at these activations, and the activations."""
    kept = {}
    stream = model(images, stop_at_layer=0).detach()
    measures = run_pair(model, images, images.flip(-1), [1], None, "logit", "noise").measures
    with propagation_rules(model):
        (found,) = gradients_at(model, stream, images.shape[-2:], names, measures, slice(0, len(images)), kept=kept)
    return found, {name: value.detach() for name, value in kept.items()}


def without_biases(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    return model


@pytest.mark.parametrize("variant", ["class_token", "registers", "rms_norm", "qk_norm", "gated", "parallel", "rotary"])
def test_relevance_is_conserved_from_the_logit_to_every_stream(variant, images_of):
    """Σ coefficient · activation = logit at every block: no rule loses or adds any where nothing has a bias."""
    model = without_biases(build(variant))
    images = images_of(model, 2)
    names = [f"blocks.{block}.hook_resid_pre" for block in range(model.cfg.n_layers)]
    found, kept = coefficients(model, images, names)
    with torch.no_grad():
        logit = model(images)[:, 1]
    for name in names:
        torch.testing.assert_close((found[name] * kept[name]).sum(dim=(1, 2)), logit, **EXACT)


def test_half_of_a_products_relevance_goes_to_the_gate(images_of):
    model = build("gated")
    images = images_of(model, 2)
    prefix = "blocks.1.mlp."
    names = [f"{prefix}hook_{name}" for name in ("pre", "pre_linear", "post")]
    if model.blocks[1].mlp.ln is not None:
        names[-1] = f"{prefix}hook_mid"
    found, kept = coefficients(model, images, names)
    gate, linear, product = (found[name] * kept[name] for name in names)
    assert product.abs().max() > 1e-6
    torch.testing.assert_close(gate, product / 2, **EXACT)
    torch.testing.assert_close(linear, product / 2, **EXACT)


def test_a_sigmoid_gate_takes_none(images_of):
    model = build("gate_last")
    images = images_of(model, 2)
    names = [f"blocks.1.mlp.hook_{name}" for name in ("pre", "pre_linear", "post")]
    found, kept = coefficients(model, images, names)
    gate, linear, product = (found[name] * kept[name] for name in names)
    assert gate.abs().max() == 0 < product.abs().max()
    torch.testing.assert_close(linear, product, **EXACT)


def test_an_activation_of_exactly_zero_has_its_limit(plain, images_of):
    """GELU(x) / x is ½ at 0."""
    clean = images_of(plain, 1)
    name = "blocks.1.mlp.hook_pre"
    with plain.hooks(fwd_hooks=[(name, lambda x, hook: x * 0)]):
        found, _ = coefficients(plain, clean, [name, name.replace("pre", "post")])
    torch.testing.assert_close(found[name], found[name.replace("pre", "post")] / 2, rtol=1e-9, atol=0)
    assert found[name].abs().max() > 0


@pytest.mark.parametrize("variant", ["class_token", "qk_norm", "rotary_mixed"])
def test_what_makes_a_pattern_is_followed_through_its_own_softmax(variant, images_of):
    """The gradient in the network whose norms, MLPs and later patterns are as the rules have them."""
    model = build(variant)
    images = images_of(model, 2)
    block = 1
    names = [f"blocks.{block}.attn.hook_{site}" for site in ("q", "k", "attn_scores", "pattern")]
    found, _ = coefficients(model, images, names)
    followed = f"blocks.{block}.attn.hook_pattern"
    # Norms of queries and keys stand before the pattern, and are no constants of the softmax: the rules freeze them too.
    linear = [hook for hook in as_the_rules_have_it(model, images) if hook[0] != followed]
    stream = model(images, stop_at_layer=0).detach()
    measures = run_pair(model, images, images.flip(-1), [1], None, "logit", "noise").measures
    (expected,) = gradients_at(model, stream, images.shape[-2:], names, measures, slice(0, len(images)), edits=linear)
    for name in names:
        assert expected[name].abs().max() > 1e-9
        torch.testing.assert_close(found[name], expected[name], **EXACT)


def test_the_run_itself_stays_the_same_and_nothing_is_left_behind(classifier, images_of):
    images = images_of(classifier, 2)
    with torch.no_grad():
        expected = classifier(images)
        with propagation_rules(classifier):
            torch.testing.assert_close(classifier(images), expected, **EXACT)
        assert torch.equal(classifier(images), expected)
    assert classifier.list_hooks() == {}
    found, _ = coefficients(classifier, images, ["blocks.0.hook_resid_pre"])
    assert all(value.isfinite().all() for value in found.values())
