"""Every hook point can be read and written, has the shape it should have, and obeys its equation."""

import pytest
import torch
from composed import COMPOSED, SINGLES
from each_point import change_each
from einops import einsum
from variants import OTHERS, VARIANTS, build, pictures

from vitlens import HookedViT


def expected_shape(name: str, model: HookedViT, n_images: int) -> tuple[int, ...]:
    cfg = model.cfg
    tokens, patches = cfg.n_ctx, cfg.grid_size[0] * cfg.grid_size[1]
    short = name.rsplit(".", 1)[-1]
    out = cfg.n_classes or cfg.d_model
    shapes = {
        "hook_patch_embed": (patches, cfg.d_model),
        "hook_attn_scores": (cfg.n_heads, tokens, tokens),
        "hook_pattern": (cfg.n_heads, tokens, tokens),
        "hook_result": (tokens, cfg.n_heads, cfg.d_model),
        "hook_pre": (tokens, cfg.d_mlp),
        "hook_post": (tokens, cfg.d_mlp),
        "hook_pooled": (cfg.d_model,),
        "hook_pooled_dist": (cfg.d_model,),
        "hook_logits": (out,),
    } | dict.fromkeys(
        ("hook_q", "hook_k", "hook_v", "hook_z", "hook_q_normed", "hook_k_normed"), (tokens, cfg.n_heads, cfg.d_head)
    )
    if short in ("hook_scale", "hook_normalized"):
        width = 1 if short == "hook_scale" else (cfg.d_head if "_norm." in name and "attn" in name else cfg.d_model)
        if name.startswith("fc_norm"):
            return (n_images, width)
        heads = (cfg.n_heads,) if "attn." in name else ()
        return (n_images, tokens, *heads, width)
    return (n_images, *shapes.get(short, (tokens, cfg.d_model)))


def of_one_block(names):
    """Blocks are alike: the second one stands for all."""
    return [name for name in names if not name.startswith(("blocks.0.", "blocks.2."))]


def _check_that_all_can_be_written(model, images, logits, cache, shift, least):
    """Each alone is replaced by a changed value, and the output must change by more than `least` of the largest logit; in
    one run also the points of the other blocks."""
    generator = torch.Generator().manual_seed(3)
    for name in of_one_block(model.hook_dict):
        noise = torch.rand(cache[name].shape, generator=generator, dtype=torch.float64)

        def change(activation, hook, noise=noise):
            return activation * (1 + noise) + shift * noise

        changed = model.run_with_hooks(images, fwd_hooks=[(name, change)])
        assert (changed - logits).abs().max() > least * logits.abs().max(), f"{name} is dead"
    points = list(model.hook_dict)
    for name, changed in zip(points, change_each(model, images[:1], points), strict=True):
        assert (changed - logits[0]).abs().max() > least * logits.abs().max(), f"{name} is dead"
    same = model.run_with_hooks(images, fwd_hooks=[(lambda name: True, lambda activation, hook: activation.clone())])
    torch.testing.assert_close(same, logits, rtol=1e-9, atol=1e-9)


def test_every_hook_point_is_readable_and_writable(model):
    images = pictures(model.cfg, 2)
    logits, cache = model.run_with_cache(images)
    assert set(cache) == set(model.hook_dict)
    for name in model.hook_dict:
        assert tuple(cache[name].shape) == expected_shape(name, model, 2), name
        assert cache[name].isfinite().all(), name
    _check_that_all_can_be_written(model, images, logits, cache, 0.1, 1e-6)


def test_every_hook_point_takes_edits_in_place_with_gradients_on(model):
    images = pictures(model.cfg, 1)
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}

    def halve(activation, hook):
        activation *= 0.5

    logits = model(images)
    for name in of_one_block(model.hook_dict):
        assert torch.is_grad_enabled()
        changed = model.run_with_hooks(images, fwd_hooks=[(name, halve)])
        # Halving what a norm receives changes nothing but through its eps; everything else must show.
        if not name.endswith(("attn_scores", "hook_embed_norm", "hook_embed")):
            assert not torch.equal(changed, logits), name
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name]), f"an edit in place reached {name}"


# The variants between which it differs what two hook points could share.
SHARING = [
    "class_token",
    "norm_pre",
    "no_position",
    "average_without_class_token",
    "silu_layer_scale_qk_norm",
    "norm_after_token_pool",
    "no_final_norm",
    "no_classifier",
    "distilled",
    "unfused_attention",
    *OTHERS,
]


# What two points share is a matter of the part between them: a model for every property, and what no property names.
QUICK = [
    *SINGLES,
    "no_classifier",
    "layered_classifier",
    "class_and_mean",
    "any_size",
    "relative_shared",
    "grouped_keys",
    "silu_layer_scale_qk_norm",
]
SHARED = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SHARING if name not in QUICK)]


@pytest.mark.parametrize("name", SHARED)
def test_an_edit_in_place_does_not_reach_what_came_before(name):
    model = HookedViT.from_timm((VARIANTS | OTHERS | COMPOSED)[name]())
    images = pictures(model.cfg, 1)
    _, untouched = model.run_with_cache(images)
    in_order = list(untouched)

    def spoil(activation, hook):
        activation.zero_()

    for edited in of_one_block(in_order):
        with model.hooks([(edited, spoil)]):
            _, cache = model.run_with_cache(images)
        assert cache[edited].abs().max() == 0
        for before in in_order[: in_order.index(edited)]:
            assert torch.equal(cache[before], untouched[before]), f"{edited} reached {before}"


@pytest.mark.parametrize("name", SHARED)
def test_gradients_after_an_edit_in_place_are_those_after_a_replacement(name):
    model = HookedViT.from_timm((VARIANTS | OTHERS | COMPOSED)[name]())
    images = pictures(model.cfg, 1).requires_grad_()

    def halve(activation, hook):
        activation *= 0.5

    def gradient(edited, hook):
        output = model.run_with_hooks(images, fwd_hooks=[(edited, hook)])
        return torch.autograd.grad(output.square().sum(), images)[0]

    for edited in of_one_block(model.hook_dict):
        torch.testing.assert_close(
            gradient(edited, halve), gradient(edited, lambda activation, hook: activation * 0.5), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_part_is_readable_and_writable_too(name):
    module = OTHERS[name]()
    model = HookedViT.from_timm(module)
    images = pictures(model.cfg, 2)
    logits, cache = model.run_with_cache(images)
    torch.testing.assert_close(logits, module(images), rtol=1e-9, atol=1e-9)
    assert set(cache) == set(model.hook_dict)
    _check_that_all_can_be_written(model, images, logits, cache, 1.0, 1e-7)


def test_the_stream_is_a_sum(model):
    _, cache = model.run_with_cache(pictures(model.cfg, 2))
    for block in range(model.cfg.n_layers):
        middle = cache["resid_pre", block] + cache["attn_out", block]
        torch.testing.assert_close(cache["resid_mid", block], middle, rtol=1e-12, atol=1e-12)
        after = cache["resid_mid", block] + cache["mlp_out", block]
        torch.testing.assert_close(cache["resid_post", block], after, rtol=1e-12, atol=1e-12)
        heads = cache["result", block].sum(2) + model.b_O[block]
        torch.testing.assert_close(cache["attn_out", block], heads, rtol=1e-10, atol=1e-10)


def test_each_step_obeys_its_equation(model):
    """From q, k, v to the MLP, every cached value follows from the ones before through the weights as shown."""
    _, cache = model.run_with_cache(pictures(model.cfg, 2))
    for i, block in enumerate(model.blocks):
        attn = block.attn

        def normed(site, norm, i=i):
            stream = cache[site, i]
            centred = stream - stream.mean(-1, keepdim=True)
            torch.testing.assert_close(cache["scale", i, norm], (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt())
            torch.testing.assert_close(cache["normalized", i, norm], centred / cache["scale", i, norm])
            module = getattr(model.blocks[i], norm)
            return cache["normalized", i, norm] * module.weight + module.bias

        read = normed("resid_pre", "ln1")
        for name in "qkv":
            weight, bias = getattr(attn, f"W_{name.upper()}"), getattr(attn, f"b_{name.upper()}")
            torch.testing.assert_close(cache[name, i], einsum(read, weight, "b t d, h d e -> b t h e") + bias)
        for x in "qk" if model.cfg.qk_norm else "":
            norm = getattr(attn, f"{x}_norm")
            affine = (norm.weight, norm.bias, norm.eps)
            normal = torch.nn.functional.layer_norm(cache[x, i], (model.cfg.d_head,), *affine)
            torch.testing.assert_close(cache[f"{x}_normed", i], normal)
        q, k = (cache[f"{x}_normed", i] if model.cfg.qk_norm else cache[x, i] for x in "qk")
        scores = einsum(q, k, "b q h e, b k h e -> b h q k") / model.cfg.d_head**0.5
        torch.testing.assert_close(cache["attn_scores", i], scores)
        torch.testing.assert_close(cache["pattern", i], scores.softmax(-1))
        mixed = einsum(cache["pattern", i], cache["v", i], "b h q k, b k h e -> b q h e")
        torch.testing.assert_close(cache["z", i], mixed)
        torch.testing.assert_close(cache["result", i], einsum(mixed, attn.W_O, "b t h e, h e d -> b t h d"))
        torch.testing.assert_close(cache["mlp.hook_pre", i], normed("resid_mid", "ln2") @ model.W_in[i] + model.b_in[i])
        torch.testing.assert_close(cache["mlp.hook_post", i], block.mlp.act(cache["mlp.hook_pre", i]))
        torch.testing.assert_close(cache["mlp_out", i], cache["mlp.hook_post", i] @ model.W_out[i] + model.b_out[i])


def test_both_ends_obey_their_equations(model):
    """Pictures to stream and stream to logits, from timm's parameters alone."""
    _, cache = model.run_with_cache(pictures(model.cfg, 2))
    n_prefix, embed = model.cfg.n_prefix_tokens, model.embed
    assert torch.equal(cache["hook_embed"][:, n_prefix:], cache["patch_embed"])
    for i, token in enumerate(torch.cat(list(embed.prefix), dim=1)[0] if n_prefix else []):
        assert torch.equal(cache["hook_embed"][0, i], token)
    stream = cache["hook_embed"]
    if embed.pos_embed is not None:
        first = n_prefix if embed.no_embed_class else 0
        assert torch.equal(cache["pos_embed"][1, first:], embed.pos_embed[0])
        assert cache["pos_embed"][:, :first].count_nonzero() == 0
        stream = stream + cache["pos_embed"]
    if model.ln_pre is not None:
        stream = model.ln_pre.normalise(stream)
        torch.testing.assert_close(cache["embed_norm"], stream)
    torch.testing.assert_close(cache["resid_pre", 0], stream)

    last = cache["resid_post", -1]
    read = last if model.ln_final is None else model.ln_final.normalise(last)
    whole, patches_only, first = slice(None), slice(n_prefix, None), slice(1)
    tokens = {"token": first, "avg": whole if model.read_tokens.start == 0 else patches_only}[model.cfg.pool]
    torch.testing.assert_close(cache["pooled"], read[:, tokens].mean(1))
    pooled = cache["pooled"] if model.fc_norm is None else model.fc_norm.normalise(cache["pooled"])
    logits = pooled if model.unembed is None else model.unembed(pooled)
    if model.is_distilled:
        torch.testing.assert_close(cache["pooled_dist"], read[:, 1])
        logits = (logits + model.unembed_dist(cache["pooled_dist"])) / 2
    torch.testing.assert_close(cache["logits"], logits)


@pytest.mark.parametrize(
    ("hook_name", "cut", "weight"),
    [
        ("blocks.1.hook_attn_out", ..., "blocks.1.attn.proj"),
        ("blocks.1.hook_mlp_out", ..., "blocks.1.mlp.fc2"),
        ("blocks.1.attn.hook_z", (..., 2, slice(None)), "blocks.1.attn.proj"),
        ("blocks.1.attn.hook_result", (..., 2, slice(None)), "blocks.1.attn.proj"),
        ("blocks.2.mlp.hook_post", (..., slice(3, 9)), "blocks.2.mlp.fc2"),
        ("hook_pooled", (..., slice(4)), "head"),
        ("hook_pos_embed", ..., "pos_embed"),
        ("hook_embed", (slice(None), 0), "cls_token"),
    ],
)
@pytest.mark.parametrize("name", ["class_token", "silu_layer_scale_qk_norm"])
def test_zeroing_an_activation_is_zeroing_the_weights_that_it_meets_in_timm(name, hook_name, cut, weight):
    module = VARIANTS[name]()
    model = HookedViT.from_timm(module)
    images = pictures(model.cfg, 2)

    def zero(activation, hook):
        activation[cut] = 0

    ours = model.run_with_hooks(images, fwd_hooks=[(hook_name, zero)])
    columns = {"z": slice(16, 24), "result": slice(16, 24), "post": slice(3, 9), "pooled": slice(4)}
    short = hook_name.rsplit("hook_", 1)[-1]
    with torch.no_grad():
        if weight in ("pos_embed", "cls_token"):
            module.get_parameter(weight).zero_()
        else:
            linear = module.get_submodule(weight)
            linear.weight[:, columns.get(short, slice(None))] = 0
            if short not in columns:
                linear.bias.zero_()
    torch.testing.assert_close(ours, module(images), rtol=1e-10, atol=1e-10)


def test_an_edit_of_the_stream_reaches_skip_and_branch():
    model = HookedViT.from_timm(build())
    images = pictures(model.cfg, 1)
    _, before = model.run_with_cache(images)
    shift = torch.linspace(-1, 1, model.cfg.d_model, dtype=torch.float64)
    with model.hooks([(("resid_mid", 1), lambda stream, hook: stream + shift)]):
        _, after = model.run_with_cache(images)
    skip = after["resid_post", 1] - after["mlp_out", 1]
    torch.testing.assert_close(skip, before["resid_mid", 1] + shift)
    assert (after["mlp_out", 1] - before["mlp_out", 1]).abs().max() > 1e-3


def test_written_patterns_and_scales_are_used():
    model = HookedViT.from_timm(build())
    images = pictures(model.cfg, 1)
    identity = torch.eye(model.cfg.n_ctx, dtype=torch.float64).expand(1, model.cfg.n_heads, -1, -1)
    with model.hooks([(("pattern", 0), lambda pattern, hook: identity)]):
        _, cache = model.run_with_cache(images)
    torch.testing.assert_close(cache["z", 0], cache["v", 0])
    with model.hooks([("blocks.0.ln1.hook_scale", lambda scale, hook: 2 * scale)]):
        _, doubled = model.run_with_cache(images)
    _, plain = model.run_with_cache(images)
    torch.testing.assert_close(doubled["normalized", 0, "ln1"], plain["normalized", 0, "ln1"] / 2)
    q_bias = model.blocks[0].attn.b_Q + einsum(model.blocks[0].ln1.bias, model.blocks[0].attn.W_Q, "d, h d e -> h e")
    torch.testing.assert_close(doubled["q", 0] - q_bias, (plain["q", 0] - q_bias) / 2)


@pytest.mark.parametrize("site", ["attn_scores", "pattern"])
def test_attention_is_fused_unless_watched(site, monkeypatch):
    model = HookedViT.from_timm(build())
    images = pictures(model.cfg, 1)
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k)
    )
    model(images)
    assert len(calls) == 3
    calls.clear()
    model.run_with_cache(images, names_filter=["z", "q", "resid_post"])
    assert len(calls) == 3
    calls.clear()
    model.run_with_cache(images, names_filter=[(site, 1)])
    assert len(calls) == 2, "only the watched block gives up the fused kernel"
