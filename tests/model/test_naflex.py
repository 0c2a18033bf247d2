"""NaFlexVit: any size of picture, and patches cut beforehand, of several sizes in one batch."""

import pytest
import timm
import torch

from vitlens import HookedViT, InputError, direct_logit_attribution
from vitlens.parity.measure import measure_port, relative_difference
from vitlens.parity.reduced import build_reduced, randomise

SMALL = {"embed_dim": 64, "num_heads": 2, "depth": 2, "num_classes": 5, "patch_size": 4, "pos_embed_grid_size": (4, 4)}
KINDS = {
    "learned": {},
    "factorised": {"pos_embed": "factorized", "embed_proj_type": "linear"},
    "sampled": {"pos_embed_use_grid_sample": True, "embed_proj_type": "linear"},
    "sampled_factorised": {"pos_embed": "factorized", "pos_embed_use_grid_sample": True},
    "aspect_ratio": {"pos_embed_ar_preserving": True},
    "axial": {"rope_type": "axial", "pos_embed": "none"},
    "mixed": {"rope_type": "mixed", "class_token": True, "global_pool": "token"},
    "dinov3": {"rope_type": "dinov3", "reg_tokens": 2},
    "pool": {"global_pool": "map", "class_token": True},
    "maximum": {"global_pool": "max", "fc_norm": False},
    "average_and_maximum": {"global_pool": "avgmax", "reg_tokens": 1, "pool_include_prefix": False},
    "keys_alone": {"use_key_only_attn_mask": True},
    "norm_pre": {"pre_norm": True, "embed_proj_type": "linear"},
}


def small(**keywords):
    return randomise(timm.create_model("naflexvit_base_patch16_gap", pretrained=False, **{**SMALL, **keywords}))


def patch_batch():
    """Two pictures of 3 × 2 and 1 × 4 patches, padded to 6."""
    generator = torch.Generator().manual_seed(0)
    grids = [(3, 2), (1, 4)]
    coordinates = torch.zeros(2, 6, 2, dtype=torch.int64)
    valid = torch.zeros(2, 6, dtype=torch.bool)
    for i, (rows, columns) in enumerate(grids):
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        coordinates[i, : len(places)] = places
        valid[i, : len(places)] = True
    patches = torch.randn(2, 6, 4 * 4 * 3, generator=generator, dtype=torch.float64)
    return {"patches": patches, "patch_coord": coordinates, "patch_valid": valid}


@pytest.mark.parametrize("size", [(16, 16), (8, 20)])
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_any_size(kind, size):
    module = small(**KINDS[kind])
    model = HookedViT.from_timm(module)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for rows in measure_port(module, model, images).values():
        assert max(rows.values()) <= 1e-9
    _, cache = model.run_with_cache(images)
    assert cache.grid_size == (size[0] // 4, size[1] // 4)
    assert direct_logit_attribution(model, images, [0, 1]).residual.abs().max() <= 1e-9


@pytest.mark.parametrize("kind", [kind for kind in KINDS])
def test_patches_of_several_sizes_in_one_batch(kind):
    module = small(**KINDS[kind] | {"embed_proj_type": "linear"})
    model = HookedViT.from_timm(module)
    batch = patch_batch()
    for rows in measure_port(module, model, batch).values():
        assert max(rows.values()) <= 1e-9
    logits, cache = model.run_with_cache(batch)
    assert relative_difference(logits, module(batch)) <= 1e-9
    assert set(cache) == set(model.hook_dict)
    # Padding is read by nobody.
    changed = {**batch, "patches": batch["patches"] + ~batch["patch_valid"][..., None] * 1.0}
    torch.testing.assert_close(model(changed), logits)


def test_mistakes():
    model = HookedViT.from_timm(small(embed_proj_type="linear"))
    batch = patch_batch()
    with pytest.raises(InputError, match="patch_valid is missing"):
        model({"patches": batch["patches"], "patch_coord": batch["patch_coord"]})
    with pytest.raises(InputError, match=r"not \[2, 5, 48\]"):
        model({**batch, "patches": batch["patches"][:, :5]})
    with pytest.raises(InputError, match="NaN"):
        model({**batch, "patches": batch["patches"] * torch.nan})
    with pytest.raises(InputError, match=r"computes in torch\.float64"):
        model({**batch, "patches": batch["patches"].float()})
    with pytest.raises(InputError, match="not dict"):
        HookedViT.from_timm(build_reduced("vit_tiny_patch16_224"))(batch)


def test_a_stream_of_another_grid_says_so():
    model = HookedViT.from_timm(build_reduced("vit_small_patch16_dinov3", dynamic_img_size=True))
    images = torch.randn(1, 3, 64, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits, cache = model.run_with_cache(images)
    with pytest.raises(InputError, match=r"pass grid=\(rows, columns\)"):
        model(cache["resid_pre", 1], start_at_layer=1)
    again = model(cache["resid_pre", 1], start_at_layer=1, grid=(4, 2))
    assert relative_difference(again, logits) <= 1e-12
