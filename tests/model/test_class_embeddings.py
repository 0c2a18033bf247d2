"""Any linear or zero-shot classifier as the class space of logits, lens, attribution and metrics."""

import pytest
import torch
import torch.nn.functional as F
from variants import OTHERS, VARIANTS, build, pictures

from vitlens import HookedViT, InputError, activation_patching, class_lens, direct_logit_attribution
from vitlens.parity.reduced import build_reduced, reduced_images


def embeddings(n, width, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_tower_without_classes_gets_a_linear_probe():
    module = build(num_classes=0)
    model = HookedViT.from_timm(module)
    images = pictures(model.cfg, 2)
    with pytest.raises(InputError, match="set_class_embeddings"):
        class_lens(model, images)
    weight, bias = embeddings(4, 32), embeddings(4, 1)[:, 0]
    model.set_class_embeddings(weight, ["cat", "dog", "fox", "owl"], bias=bias)
    torch.testing.assert_close(model(images), module(images) @ weight.T + bias)
    assert model.cfg.n_classes == 4
    assert model.class_index("fox") == 2
    torch.testing.assert_close(model.W_U, weight.T)
    torch.testing.assert_close(model.b_U, bias)
    assert direct_logit_attribution(model, images, ["cat", "owl"]).residual.abs().max() <= 1e-10
    lens = class_lens(model, images, ["dog"], tokens="pooled")
    torch.testing.assert_close(lens.values[0, -1, :, 0, 0], model(images)[:, 1])


@pytest.mark.parametrize("pooling", [{}, {"global_pool": "map", "class_token": False}, {"global_pool": "avg"}])
def test_zero_shot_in_the_joint_space_of_a_clip_tower(pooling):
    """The head is the projection: logits are scaled cosines of its output and the text embeddings."""
    module = build(num_classes=12, pre_norm=True, **pooling)
    model = HookedViT.from_timm(module)
    images = pictures(model.cfg, 3)
    text = embeddings(5, 12)
    model.set_class_embeddings(text, list("abcde"), scale=20.0, normalise=True, bias=torch.full((5,), -3.0))
    expected = 20 * F.normalize(module(images), dim=-1) @ F.normalize(text, dim=-1).T - 3
    torch.testing.assert_close(model(images), expected)
    for unit in ("component", "head"):
        result = direct_logit_attribution(model, images, "all", baseline_classes=["a"], unit=unit)
        torch.testing.assert_close(result.values.sum(-1), expected - expected[:, :1])
    result = direct_logit_attribution(model, images, "all")
    torch.testing.assert_close(result.values.sum(-1), expected)
    swap = activation_patching(
        model, images[:1], images[1:2], metric="logit", classes=["b"], tokens="all", progress=False
    )
    torch.testing.assert_close(swap.effect()[0, 0], torch.tensor(1.0, dtype=torch.float64))
    # A second set replaces the first, and still stands behind the projection.
    model.set_class_embeddings(embeddings(2, 12, seed=3))
    torch.testing.assert_close(model(images), module(images) @ embeddings(2, 12, seed=3).T)


def test_a_distilled_model_reads_both_its_tokens():
    module = build_reduced("deit_tiny_distilled_patch16_224", num_classes=0)
    model = HookedViT.from_timm(module)
    images = reduced_images(model.cfg)
    weight = embeddings(3, model.cfg.d_model)
    model.set_class_embeddings(weight)
    torch.testing.assert_close(model(images), module(images) @ weight.T)
    assert direct_logit_attribution(model, images, "all").residual.abs().max() <= 1e-10
    with pytest.raises(InputError, match="normalised features"):
        model.set_class_embeddings(weight, normalise=True)


def test_the_width_says_where_embeddings_stand():
    model = HookedViT.from_timm(build(num_classes=32))
    with pytest.raises(InputError, match='space="features" or space="output"'):
        model.set_class_embeddings(embeddings(3, 32))
    images = pictures(model.cfg, 2)
    features = model(images, return_type="features")
    before = model(images)
    weight = embeddings(3, 32)
    model.set_class_embeddings(weight, space="features")
    torch.testing.assert_close(model(images), features @ weight.T)
    model = HookedViT.from_timm(build(num_classes=32))
    model.set_class_embeddings(weight, space="output")
    torch.testing.assert_close(model(images), before @ weight.T)


@pytest.mark.parametrize(
    "name", ["class_token", "distilled", "average_without_class_token", "attention_pool", "post_norm"]
)
def test_a_view_reads_directions_and_leaves_the_model_as_it_is(name):
    model = HookedViT.from_timm((VARIANTS | OTHERS)[name]())
    images = pictures(model.cfg, 3)
    before, hooks = model(images), list(model.hook_dict)
    weight, bias = embeddings(4, 32), embeddings(4, 1)[:, 0]
    features = model.with_class_embeddings(weight, list("abcd"), bias=bias, space="features")
    stream = model.with_class_embeddings(weight, list("abcd"), bias=bias, space="residual")
    other = HookedViT.from_timm((VARIANTS | OTHERS)[name]())
    other.set_class_embeddings(weight, list("abcd"), bias=bias, space="features")
    assert torch.equal(features(images), other(images))
    resid = model.run_with_cache(images, names_filter="resid_post")[1]["resid_post", -1]
    read = resid[:, :2] if model.is_distilled else resid[:, model.read_tokens]
    torch.testing.assert_close(stream(images), read.mean(dim=1) @ weight.T + bias)
    lens = class_lens(stream, images, "all", sites="resid_mid", blocks=[1], tokens="all")
    middle = model.run_with_cache(images, names_filter="resid_mid")[1]["resid_mid", 1]
    torch.testing.assert_close(lens.values.squeeze().flatten(), (middle @ weight.T + bias).flatten())
    for view in (features, stream):
        for unit in ("component", "head"):
            found = direct_logit_attribution(view, images, "all", baseline_classes="c", unit=unit)
            assert found.residual.abs().max() <= 1e-10
        swap = activation_patching(
            view, images[:1], images[1:2], metric="logit", classes="b", tokens="all", progress=False
        )
        torch.testing.assert_close(swap.effect()[0, 0], torch.tensor(1.0, dtype=torch.float64))
    assert torch.equal(model(images), before)
    assert list(model.hook_dict) == hooks
    # Hook points are shared: what is hooked in one is hooked in the other.
    with model.hooks(fwd_hooks=[(("z", 0), lambda z, hook: 0 * z)]):
        assert not torch.equal(stream(images), read.mean(dim=1) @ weight.T + bias)


def test_a_single_direction_is_a_class():
    model = HookedViT.from_timm(build())
    images = pictures(model.cfg, 2)
    direction = embeddings(1, 32)[0]
    view = model.with_class_embeddings(direction, ["stripes"], space="residual")
    resid = model.run_with_cache(images, names_filter="resid_post")[1]["resid_post", -1]
    torch.testing.assert_close(view(images)[:, 0], resid[:, 0] @ direction)
    assert view.class_index("stripes") == 0


@pytest.mark.parametrize("space", ["features", "residual"])
def test_the_random_baseline_keeps_given_embeddings(space):
    model = HookedViT.from_timm("vit_tiny_patch16_224", pretrained=False, img_size=32, depth=2)
    view = model.with_class_embeddings(embeddings(4, 192).float(), list("abcd"), space=space)
    fresh = view.with_fresh_weights(1)
    images = pictures(model.cfg, 2).float()
    assert fresh.class_names == list("abcd")
    assert fresh.cfg.n_classes == 4
    resid = fresh.run_with_cache(images, names_filter="resid_post")[1]["resid_post", -1][:, 0]
    read = resid if space == "residual" else fresh(images, return_type="features")
    torch.testing.assert_close(fresh(images), read @ embeddings(4, 192).float().T)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({"weight": embeddings(3, 7)}, r"width 7 do not fit.*32 \(features\) or 10 \(output\)"),
        ({"weight": embeddings(3, 32)[None]}, r"\[classes, features\], not \[1, 3, 32\]"),
        ({"weight": embeddings(3, 32), "names": ["a"]}, "1 class names were given for 3"),
        ({"weight": embeddings(3, 32), "bias": torch.zeros(2)}, r"\[3\], not \[2\]"),
        ({"weight": embeddings(3, 32) * torch.nan}, "NaN"),
        ({"weight": torch.ones(3, 32, dtype=torch.int64)}, "are floats"),
        ({"weight": embeddings(3, 32), "space": "joint"}, 'space is "features"'),
    ],
)
def test_mistakes(call, sentence):
    with pytest.raises(InputError, match=sentence):
        HookedViT.from_timm(build()).set_class_embeddings(**call)
