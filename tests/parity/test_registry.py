"""Every plain vision transformer of timm, small and randomised: exact in every respect that a user can check.

Many names are one architecture of several sizes. architectures.txt holds the first name of each; the others are slow tests,
and so are all but the smallest of those that differ in how deep their stem of convolutions is.
"""

import warnings
from pathlib import Path

import pytest
import torch
from each_point import change_each

from vitlens import HookedViT, InputError, direct_logit_attribution
from vitlens.parity.measure import measure_port, relative_difference
from vitlens.parity.reduced import build_reduced, family_names, reduced_images

NAMES = list(family_names())
ARCHITECTURES = (Path(__file__).parent / "architectures.txt").read_text().split()
#: A port runs these stems as they are, as those of vit_tiny_r_s16_p8_224, vit_base_resnet26d_224 and vitamin_base_224.
DEEPER_STEMS = {
    "vit_base_r26_s32_224", "vit_base_r50_s16_224", "vit_base_r50_s16_384", "vit_large_r50_s32_224",
    "vit_base_resnet50d_224", "vit_small_resnet50d_s16_224", "vitamin_xlarge_256",
}  # fmt: skip
QUICK = set(ARCHITECTURES) - DEEPER_STEMS
TO_CHECK = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in NAMES]


@pytest.fixture(scope="module", params=TO_CHECK)
def port(request):
    """A name, built once for all its checks: module, model, images, and everything that a run computes."""
    module = build_reduced(request.param)
    model = HookedViT.from_timm(module)
    images = reduced_images(model.cfg)
    with torch.no_grad():
        logits, cache = model.run_with_cache(images)
    return module, model, images, logits, cache


def test_logits_blocks_and_gradients_are_those_of_timm(port):
    module, model, images, logits, cache = port
    assert all(not (parameter == parameter.round()).any() for parameter in module.parameters()), "left at its start"
    for mode, rows in measure_port(module, model, images).items():
        for site, difference in rows.items():
            assert difference <= 1e-9, f"{mode} {site}: {difference}"
    with torch.no_grad():
        assert relative_difference(logits, module(images)) <= 1e-9
    _compare_with_forward_intermediates(module, model, images, cache)


def _compare_with_forward_intermediates(module, model, images, cache):
    """timm's own way to intermediate features, prefix tokens apart and patches on their grid."""
    prefix = {"return_prefix_tokens": True} if model.cfg.n_prefix_tokens else {}
    with torch.no_grad():
        _, outputs = module.forward_intermediates(images, output_fmt="NCHW", **prefix)
    for block, output in enumerate(outputs):
        stream = cache["resid_post", block]
        theirs = output[0] if prefix else output
        assert relative_difference(cache.patches(stream).movedim(-1, 1), theirs) <= 1e-9
        if prefix:
            assert relative_difference(cache.prefix(stream), output[1]) <= 1e-9


def test_every_hook_point_is_alive_and_the_stream_is_a_sum(port):
    _, model, images, logits, cache = port
    assert set(cache) == set(model.hook_dict)
    # Blocks are alike: the last one stands for all, and every point outside the blocks for itself.
    last = f"blocks.{model.cfg.n_layers - 1}."
    points = [point for point in model.hook_dict if not point.startswith("blocks.") or point.startswith(last)]
    # test_hook_points.py also changes one point at a time.
    changed = change_each(model, images[:1], points)
    for point, output in zip(points, changed, strict=True):
        assert relative_difference(output, logits[0]) > 1e-7, f"{point} is dead"
    for block in range(model.cfg.n_layers):
        written = cache["attn_out", block] + cache["mlp_out", block]
        assert relative_difference(cache["resid_pre", block] + written, cache["resid_post", block]) <= 1e-12
        heads = cache["result", block].sum(2) + model.blocks[block].attn.b_O
        if model.cfg.wiring == "post-norm":
            heads = model.blocks[block].ln1.normalise(heads)
        assert relative_difference(heads, cache["attn_out", block]) <= 1e-9


def test_attributions_sum_to_the_logit(port):
    _, model, images, _, _ = port
    if model.unembed is None:
        with pytest.raises(InputError, match="set_class_embeddings"):
            direct_logit_attribution(model, images, 1)
        generator = torch.Generator().manual_seed(2)
        weight = torch.randn(5, model.cfg.d_model, generator=generator, dtype=torch.float64)
        model.set_class_embeddings(weight, list("abcde"), scale=3.0, normalise=not model.is_distilled)
    for unit in ("component", "head"):
        result = direct_logit_attribution(model, images, [0, 3], baseline_classes=[1, 2], unit=unit)
        assert result.residual.abs().max() <= 1e-9 * result.values.abs().max()
        with torch.no_grad():
            expected = model(images)
        assert relative_difference(result.values.sum(-1), expected[:, [0, 3]] - expected[:, [1, 2]]) <= 1e-9


@pytest.mark.verified_timm
def test_the_registry_is_what_the_readme_says():
    assert len(NAMES) >= 306
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HookedViT.from_timm(build_reduced("vit_tiny_patch16_224"))


def architecture(module):
    """What a module is made of, apart from sizes; the first block stands for all."""
    parts = []
    for name, part in module.named_modules():
        if not name.startswith("blocks.") or name.startswith("blocks.0"):
            attributes = {key: value for key, value in vars(part).items() if not key.startswith("_")}
            flags = {key: value for key, value in attributes.items() if isinstance(value, bool | str | None)}
            absent = [key for key, value in part._parameters.items() if value is None]
            parts.append(
                (name, type(part).__qualname__, sorted(flags.items(), key=str), sorted(part._parameters), absent)
            )
    return repr(parts)


@pytest.mark.slow
def test_the_checked_names_stand_for_all_architectures():
    checked = {architecture(build_reduced(name)) for name in ARCHITECTURES}
    assert not [name for name in NAMES if architecture(build_reduced(name)) not in checked]
