"""Edits folded into the weights do what their hooks do, in every wiring, and what no weights can do is refused."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from ported import build
from timm.layers import PatchEmbed
from torch import nn
from variants import pictures

from vitlens import HookedViT, InputError
from vitlens.editing.changes import Change, Directions, hooks_of
from vitlens.editing.fold import fold_changes
from vitlens.model.class_space.classifier import ClassEmbeddings

NORM_BEHIND = "a norm stands between the weights and the stream"
NO_BIAS = "a layer that reads it has no bias"
#: What cannot be folded, with the reason: sites, or those of one kind of edit alone ("directions").
REFUSED: dict[str, dict[str, str]] = {
    "layer_scale": {},
    "no_embed_class": {},
    "distilled": {},
    "class_and_mean": {},
    "gated_attention": {},
    "average_with_class_token": {"hook_pooled": "fc_norm"},
    "relative": {"hook_pooled": "fc_norm"},
    "norm_pre": {"resid_pre": "norm_pre"},
    "no_qkv_bias": {"ln1.normalized": NO_BIAS},
    "no_proj_bias": dict.fromkeys(
        ["attn.z", "attn.result", "attn_out", "mlp.post", "mlp_out", "ln2.normalized"], "no bias"
    ),
    "post_norm": dict.fromkeys(
        ["directions ln1.normalized", "directions ln2.normalized", "directions attn_out", "directions mlp_out"],
        NORM_BEHIND,
    ),
    "maximum": {"ln_final.normalized": "a maximum over tokens"},
    "layered_classifier": {"ln_final.normalized": "LayerNorm", "hook_pooled": "LayerNorm"},
    "parallel_fused_out": {"ln1.normalized": NO_BIAS},
    "any_size": {"resid_pre": "NaFlexEmbeds", "hook_pooled": "fc_norm"},
    "rotary": {"ln1.normalized": NO_BIAS, "hook_pooled": "fc_norm"},
    "pre-norm qk-norm rms-norm rotary token class+registers gated-mlp square": {"ln1.normalized": NO_BIAS},
    "pre-norm qk-norm layer-norm rotary attention-pool registers mlp wide-patches": {},
    "parallel differential simple-norm learned attention-pool class mlp square": {},
    "branches plain rms-norm learned token class+distillation mlp square": {},
}
IN_BLOCKS = ["attn.z", "attn.result", "attn_out", "mlp.post", "mlp_out", "ln1.normalized", "ln2.normalized"]
BEHIND = ["ln_final.normalized", "hook_pooled", "hook_pooled_dist", "fc_norm.normalized", "hook_logits"]


def hook_of(model, block, site):
    """The full name, None where the model has no such hook point."""
    part, _, name = site.rpartition(".")
    inside = f"{part}.hook_{name}" if part else f"hook_{name.removeprefix('hook_')}"
    name = inside if site in BEHIND else f"blocks.{block}.{inside}"
    return name if name in model.hook_dict else None


def change_at(model, widths, hook, kind, generator):
    """Half of a change: of some units by constants, or of two oblique directions around a mean."""

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    width, units = widths[hook], None
    if hook.endswith(("hook_z", "hook_result")):
        units = (1, 0) if kind == "constant" else (1,)
    if hook.endswith("hook_post"):
        units, width = (7, 3, 11), 3
    if kind == "directions":
        return Change(hook, units, Directions(drawn(2, width), drawn(2, width) / width, drawn(width)), dose=0.6)
    of_units = (2, width) if hook.endswith(("hook_z", "hook_result")) else (width,)
    return Change(hook, units, constant=drawn(*of_units), dose=0.6)


def widths_of(model):
    _, cache = model.run_with_cache(pictures(model.cfg, 1))
    return {name: value.shape[-1] for name, value in cache.items()}


def sites_of(model):
    blocks = (0, model.cfg.n_layers - 1)
    found = [("resid_pre", hook_of(model, 0, "resid_pre"))]
    found += [(site, hook_of(model, block, site)) for block in blocks for site in IN_BLOCKS]
    found += [(site, hook_of(model, 0, site)) for site in BEHIND]
    return [(site, hook) for site, hook in found if hook is not None]


def assert_does_the_same(model, folded, changes):
    images = pictures(model.cfg, 3, seed=4)
    with torch.no_grad():
        hooked = model.run_with_hooks(images, fwd_hooks=hooks_of(tuple(changes)))
        scale = hooked.abs().max()
        assert (folded(images) - hooked).abs().max() <= 1e-9 * scale
        assert (model(images) - hooked).abs().max() > 1e-3 * scale
        if not isinstance(model.unembed, ClassEmbeddings):
            # The checkpoint of timm does it without vitlens.
            assert (folded.timm_module(images) - hooked).abs().max() <= 1e-9 * scale


@pytest.mark.parametrize("name", REFUSED)
def test_folded_weights_do_what_the_hooks_do(name):
    model = build(name)
    before = copy.deepcopy(model.state_dict())
    widths, generator = widths_of(model), torch.Generator().manual_seed(0)
    for kind in ("constant", "directions"):
        changes = []
        for site, hook in sites_of(model):
            change = change_at(model, widths, hook, kind, generator)
            reason = REFUSED[name].get(site, REFUSED[name].get(f"{kind} {site}"))
            if reason is not None:
                with pytest.raises(InputError, match=reason):
                    fold_changes(model, (change,))
                continue
            changes.append(change)
        # All at once, in an order that is not that of the forward pass.
        changes = changes[::2][::-1] + changes[1::2]
        assert len(changes) > 5
        assert_does_the_same(model, fold_changes(model, tuple(changes)), changes)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.fixture(scope="module")
def plain():
    return build("layer_scale")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_two_edits_of_one_place_keep_their_order(plain):
    for hook in (
        "blocks.1.attn.hook_z",
        "blocks.1.attn.hook_result",
        "blocks.1.hook_mlp_out",
        "blocks.1.ln2.hook_normalized",
    ):
        width = widths_of(plain)[hook]
        changes = [
            Change(hook, None, Directions(randn(1, width), randn(1, width) / width, randn(width))),
            Change(
                hook, None, Directions(randn(1, width, seed=1), randn(1, width, seed=2) / width), randn(width, seed=3)
            ),
        ]
        folded = fold_changes(plain, tuple(changes))
        assert_does_the_same(plain, folded, changes)
        images = pictures(plain.cfg, 2)
        other = plain.run_with_hooks(images, fwd_hooks=hooks_of(tuple(changes[::-1])))
        assert (folded(images) - other).abs().max() > 1e-6


def test_a_dose_of_nothing_is_no_change(plain):
    folded = fold_changes(plain, (Change("blocks.0.hook_resid_mid", dose=0.0),))
    assert all(torch.equal(a, b) for a, b in zip(folded.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize(
    "name", ["class_token", "average_with_registers", "class_and_mean", "distilled", "attention_pool"]
)
def test_tokens_that_nobody_reads_may_be_left_out(name):
    model = build(name)
    last, n_prefix = model.cfg.n_layers - 1, model.cfg.n_prefix_tokens
    read = torch.zeros(model.cfg.n_ctx, dtype=torch.bool)
    chosen = {
        "class_token": [0],
        "average_with_registers": range(n_prefix, model.cfg.n_ctx),
        "class_and_mean": [0, *range(n_prefix, model.cfg.n_ctx)],
        "distilled": [0, 1],
        "attention_pool": range(n_prefix, model.cfg.n_ctx),
    }[name]
    read[list(chosen)] = True
    differs = randn(model.cfg.n_ctx, model.cfg.d_model)
    differs[read] = randn(model.cfg.d_model)
    for hook in (f"blocks.{last}.hook_mlp_out", f"blocks.{last}.hook_attn_out"):
        change = Change(hook, constant=differs, tokens=read)
        assert_does_the_same(model, fold_changes(model, (change,)), [change])
        per_picture = replace(change, tokens=read.expand(3, -1))
        assert_does_the_same(model, fold_changes(model, (per_picture,)), [change])
        fewer = read.clone()
        fewer[read.nonzero()[-1]] = False
        with pytest.raises(InputError, match=r"an edit of some tokens alone.*still work"):
            fold_changes(model, (replace(change, tokens=fewer),))
        if len(chosen) > 1:
            with pytest.raises(InputError, match=r"differs from token to token.*still work"):
                fold_changes(model, (replace(change, constant=randn(model.cfg.n_ctx, model.cfg.d_model)),))
    with pytest.raises(InputError, match="an edit of some tokens alone"):
        fold_changes(model, (Change("blocks.0.hook_mlp_out", tokens=read),))
    with pytest.raises(InputError, match="an edit of some tokens alone"):
        # The last block's attention reads the norm of every token.
        fold_changes(model, (Change(f"blocks.{last}.ln1.hook_normalized", tokens=read),))


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        ("blocks.1.hook_resid_pre", 'an edit of the stream itself.*parts="writers"'),
        ("blocks.2.hook_resid_post", "an edit of the stream itself"),
        ("blocks.0.attn.hook_v", "only what heads, neurons and layers write"),
        ("blocks.0.attn.hook_pattern", "only what heads, neurons and layers write"),
        ("hook_embed", "only what heads, neurons and layers write"),
        ("blocks.0.ln1.hook_scale", "only what heads, neurons and layers write"),
    ],
)
def test_what_no_weights_do_is_refused(plain, hook, reason):
    with pytest.raises(InputError, match=f"the edit at {hook}.*{reason}.*its hooks still work"):
        fold_changes(plain, (Change(hook),))


def test_rewritten_and_shared_weights_are_refused(plain):
    silent = (Change("blocks.1.attn.hook_z", units=(2,)),)
    processed = copy.deepcopy(plain).process_weights_(fold_ln=True)
    with pytest.raises(InputError, match=r"fold_ln.*hooks, which still work"):
        fold_changes(processed, silent)
    module = copy.deepcopy(plain.timm_module)
    module.blocks[2] = module.blocks[1]
    with pytest.raises(InputError, match=r"blocks\.1\..* and blocks\.2\..* are one parameter"):
        fold_changes(HookedViT.from_timm(module), silent)


def test_what_does_not_do_the_same_is_never_returned():
    """A stem that vitlens takes for a plain one, and is none."""
    model = build("class_token")
    stem = model.embed.patch_embed
    assert type(stem) is PatchEmbed
    stem.proj.register_forward_hook(lambda module, given, out: out + 0.1 * out.pow(2))
    removed = Directions.orthogonal(randn(32))
    with pytest.raises(InputError, match="cannot do what the edit does"):
        fold_changes(model, (Change("blocks.0.hook_resid_pre", removed=removed),))


def test_class_embeddings_are_edited_where_they_can_be():
    plain = build("class_token")
    widths, images = widths_of(plain), pictures(plain.cfg, 2)
    change = change_at(plain, widths, "hook_pooled", "directions", torch.Generator().manual_seed(0))
    embeddings = {"features": randn(4, 32), "output": randn(4, 10)}
    logits = Change("hook_logits", removed=Directions(randn(1, 4), randn(1, 4) / 4, randn(4)))
    for space, weight in embeddings.items():
        model = plain.with_class_embeddings(weight, list("abcd"), space=space, normalise=space == "output", scale=3.0)
        folded = fold_changes(model, (change, logits))
        expected = model.run_with_hooks(images, fwd_hooks=hooks_of((change, logits)))
        torch.testing.assert_close(folded(images), expected, rtol=1e-9, atol=1e-9)
        assert folded.class_names == list("abcd")
    divided = plain.with_class_embeddings(embeddings["features"], normalise=True)
    with pytest.raises(InputError, match=r"divided by its length first.*still work"):
        fold_changes(divided, (change,))


def test_what_belongs_to_the_model_is_kept(plain):
    model = HookedViT.from_timm(
        "vit_tiny_patch16_224",
        pretrained=False,
        num_classes=3,
        depth=2,
        img_size=32,
        class_names=list("abc"),
        mean=0.1,
        output="sigmoid",
        dtype="bfloat16",
    )
    model.set_text_tower(tower := Tower())
    seen = []
    with model.hooks([("blocks.0.hook_resid_pre", lambda value, hook: seen.append(1))]):
        folded = fold_changes(model, (Change("blocks.1.attn.hook_z", units=(2,)),))
    folded(torch.zeros(1, 3, 32, 32, dtype=torch.bfloat16))
    assert not seen
    assert folded.text_tower is tower
    assert folded.architecture is model.architecture
    assert (folded.class_names, folded.cfg.output, folded.dtype) == (list("abc"), "sigmoid", torch.bfloat16)
    assert str(folded.preprocessing) == str(model.preprocessing)
    assert folded.provenance.weights == "random, edited at blocks.1.attn.hook_z"
    assert folded.with_fresh_weights(1).cfg.d_model == 192
    proj = folded.timm_module.blocks[1].attn.proj.weight
    assert not proj[:, 128:].any()
    assert torch.equal(proj[:, :128], model.timm_module.blocks[1].attn.proj.weight[:, :128])


class Tower:
    scale, bias, output = 1.0, None, "softmax"

    def embed(self, texts):
        raise NotImplementedError

    def __deepcopy__(self, memo):
        raise AssertionError("a text tower is as large as the model, and nothing of it is edited")


def shares_all(model):
    return {id(p) for p in model.parameters()} <= {id(p) for p in model.timm_module.parameters()}


def test_the_timm_module_stays_with_its_model():
    model = build("relative")
    images = pictures(model.cfg, 2)
    assert "timm_module" not in dict(model.named_modules())
    copied = copy.deepcopy(model)
    assert copied.timm_module is not model.timm_module
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    opened = torch.load(saved, weights_only=False)
    for one in (model, copied, opened):
        assert shares_all(one)
    copied.to(torch.float32)
    assert shares_all(copied)
    torch.testing.assert_close(copied.timm_module(images.float()), copied(images.float()))
    shifted = {key: value + 0.01 for key, value in model.state_dict().items()}
    opened.load_state_dict(shifted)
    torch.testing.assert_close(opened.timm_module(images), opened(images), rtol=1e-9, atol=1e-9)
    opened.load_state_dict(shifted, assign=True)
    assert opened.timm_module is None
    assert build("class_token").process_weights_(fold_ln=True).timm_module is None
    assert isinstance(model.with_class_embeddings(randn(2, model.cfg.d_model)).timm_module, nn.Module)
