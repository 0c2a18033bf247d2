"""Rewrites of the weights: logits stay, the matrices become what the equation says, timm's module is left alone."""

from functools import partial

import pytest
import torch
from lending import lent
from variants import build, pictures

from vitlens import HookedViT, InputError
from vitlens.model.weights.processing_limits import REFUSALS
from vitlens.parity.measure import relative_difference
from vitlens.parity.reduced import build_reduced, reduced_images

# One name for each kind of part that a rewrite can meet.
KINDS = [
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_medium_patch16_gap_240",
    "vit_base_patch16_clip_224",
    "vit_base_patch16_siglip_224",
    "vit_base_patch14_reg4_dinov2",
    "vit_so150m_patch16_reg4_map_256",
    "vit_small_patch16_18x2_224",
    "vit_small_patch16_36x1_224",
    "aimv2_large_patch14_224",
    "beit3_base_patch16_224",
    "vit_dpwee_patch16_reg1_gap_256",
    "vit_dwee_patch16_reg1_gap_256",
    "vit_pwee_patch16_reg1_gap_256",
    "vit_small_resnet26d_224",
    "vitamin_small_224",
    "eva02_tiny_patch14_224",
    "eva02_enormous_patch14_clip_224",
    "vit_base_patch16_dinov3",
    "vit_base_patch16_sapiens2",
    "beit_base_patch16_224",
    "vit_relpos_base_patch16_224",
    "vit_relpos_base_patch32_plus_rpn_256",
    "vit_srelpos_small_patch16_224",
    "naflexvit_base_patch16_parfac_gap",
    "naflexvit_base_patch16_map",
    "vit_base_mci_224",
]
#: Convolutions that take longer than all else; only one rewrite changes a patch stem, and ViTamin refuses another.
STEMS = {"vit_small_resnet26d_224", "vitamin_small_224", "vit_base_mci_224"}
PAIRS = [
    pytest.param(name, rewrite, marks=[pytest.mark.slow] if name in STEMS and rewrite not in quick else [])
    for name in KINDS
    for quick in [{"center_writing_weights", "fold_ln"} if name == "vitamin_small_224" else {"center_writing_weights"}]
    for rewrite in REFUSALS
]


@pytest.mark.parametrize(("name", "rewrite"), PAIRS)
def test_a_rewrite_keeps_every_logit_or_is_refused(name, rewrite):
    with borrow(name) as module:
        _keeps_every_logit_or_is_refused(module, rewrite)


def borrow(name):
    return lent(("reduced", name), partial(build_reduced, name))


def _keeps_every_logit_or_is_refused(module, rewrite):
    model = HookedViT.from_timm(module)
    images = reduced_images(model.cfg)
    before = {key: parameter.clone() for key, parameter in module.named_parameters()}
    with torch.no_grad():
        expected = module(images)
        reason = REFUSALS[rewrite](model)
        if reason is not None:
            with pytest.raises(InputError, match="is not exact for") as refusal:
                model.process_weights_(**{rewrite: True})
            assert reason in str(refusal.value)
            assert torch.equal(model(images), HookedViT.from_timm(module)(images)), (
                "a refusal leaves the model as it was"
            )
            return
        processed = HookedViT.from_timm(module, **{rewrite: True})
        for logits in (processed(images), processed.run_with_cache(images)[0]):
            assert relative_difference(logits, expected) <= 1e-9
        assert torch.equal(module(images), expected)
    assert all(torch.equal(parameter, before[key]) for key, parameter in module.named_parameters())


def test_which_rewrites_are_refused_where():
    """Refusing is for the few: this is all of it."""
    refused = {rewrite: set() for rewrite in REFUSALS}
    for name in KINDS:
        with borrow(name) as module:
            model = HookedViT.from_timm(module)
        for rewrite, reason in REFUSALS.items():
            if reason(model):
                refused[rewrite].add(name)
    assert refused["fold_layer_scale"] == set()
    post_norm = {"eva02_enormous_patch14_clip_224", "vit_relpos_base_patch32_plus_rpn_256"}
    assert refused["fold_ln"] == post_norm | {"vitamin_small_224"}
    assert post_norm | {"vit_base_patch16_clip_224", "aimv2_large_patch14_224"} <= refused["center_writing_weights"]
    assert "vit_base_patch16_dinov3" in refused["refactor_factored_attn_matrices"]
    assert "vit_tiny_patch16_224" not in set().union(*refused.values())


EVERYTHING = dict.fromkeys(REFUSALS, True)


def test_all_at_once_and_what_becomes_of_the_weights():
    module = build(init_values=0.1)
    model = HookedViT.from_timm(module, **EVERYTHING)
    images = pictures(model.cfg, 2)
    logits, cache = model.run_with_cache(images)
    assert relative_difference(logits, module(images)) <= 1e-9
    norms = [model.ln_final, *(norm for block in model.blocks for norm in (block.ln1, block.ln2))]
    assert all(norm.weight is None and norm.bias is None for norm in norms)
    assert not model.cfg.layer_scale
    assert model.b_V.abs().max() <= 1e-12
    for block in range(3):
        assert cache["resid_post", block].mean(-1).abs().max() <= 1e-12
        rows = torch.einsum("hed,hfd->hef", model.W_O[block], model.W_O[block])
        torch.testing.assert_close(rows, torch.eye(8, dtype=torch.float64).expand(4, 8, 8))
        read = torch.einsum("hde,hdf->hef", model.W_V[block], model.W_V[block])
        assert (read - torch.diag_embed(read.diagonal(dim1=1, dim2=2))).abs().max() <= 1e-10


def test_folding_the_norm_moves_its_affine_part_into_the_maps():
    module = build()
    model = HookedViT.from_timm(module, fold_ln=True)
    plain = HookedViT.from_timm(module)
    scale, shift = module.blocks[1].norm1.weight, module.blocks[1].norm1.bias
    torch.testing.assert_close(model.W_Q[1], plain.W_Q[1] * scale[:, None])
    torch.testing.assert_close(model.b_K[1], plain.b_K[1] + torch.einsum("d,hde->he", shift, plain.W_K[1]))
    torch.testing.assert_close(model.W_U, plain.W_U * module.norm.weight[:, None])
    torch.testing.assert_close(model.b_U, plain.b_U + module.norm.bias @ plain.W_U)


def test_circuits_stay_when_factors_change():
    module = build()
    plain, refactored = HookedViT.from_timm(module), HookedViT.from_timm(module, refactor_factored_attn_matrices=True)
    assert (plain.W_V - refactored.W_V).abs().max() > 1e-3
    torch.testing.assert_close(plain.OV.AB, refactored.OV.AB, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(plain.QK.AB, refactored.QK.AB, rtol=1e-9, atol=1e-9)


def test_mistakes():
    model = HookedViT.from_timm(build(), fold_ln=True)
    with pytest.raises(InputError, match=r"processed already \(fold_ln\)"):
        model.process_weights_(center_writing_weights=True)
    with pytest.raises(InputError, match="no rewrite is named"):
        HookedViT.from_timm(build()).process_weights_()
    with pytest.raises(InputError, match="fold_ln moved the last norm's affine part"):
        model.set_class_embeddings(torch.randn(3, 32))
    zero_shot = HookedViT.from_timm(build())
    zero_shot.set_class_embeddings(torch.randn(3, 32))
    with pytest.raises(InputError, match="process the weights first"):
        zero_shot.process_weights_(fold_ln=True)
