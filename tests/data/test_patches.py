"""Pixels and patches where patches do not fill the picture, or stick out of it: every user of them agrees with the model."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models import create_model

from vitlens import HookedViT, InputError, class_lens, replace_context
from vitlens.choose import select_tokens
from vitlens.data.decoded_batches import reduce_mask
from vitlens.data.patches import PatchGrid, as_patch_grid
from vitlens.heatmaps.shared.pixels import pixels_of, sum_over_patches

SMALL = {"pretrained": False, "depth": 1, "embed_dim": 32, "num_heads": 2, "num_classes": 3}
# Height and width in pixels, and keywords: some pixels unread, and patches that stick out.
UNREAD = ((38, 45), {"img_size": (38, 45), "patch_size": 7})
PADDED = ((38, 45), {"img_size": 42, "patch_size": 7, "dynamic_img_size": True, "dynamic_img_pad": True})


def read_by(model: HookedViT, images: torch.Tensor) -> torch.Tensor:
    """Which patches each pixel changes, by trying: [patch, height, width]."""
    height, width = images.shape[-2:]
    base = model.embed.patches(images)
    found = torch.zeros(base.shape[1], height, width, dtype=torch.bool)
    for row in range(height):
        # One forward for every row: the pictures of its columns.
        changed = images.repeat(width, 1, 1, 1)
        changed[torch.arange(width), :, row, torch.arange(width)] += 1
        found[:, row] = (model.embed.patches(changed) != base).any(dim=-1).T
    return found


@pytest.mark.parametrize(("size", "keywords"), [UNREAD, PADDED])
def test_a_patch_is_made_of_the_pixels_that_it_reads(size, keywords):
    model = HookedViT.from_timm(create_model("vit_tiny_patch16_224", **SMALL, **keywords))
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        read = read_by(model, images)
    cut = model.patch_grid(*size)
    n = cut.grid[0] * cut.grid[1]
    one_each = torch.eye(n, dtype=torch.bool)
    assert torch.equal(cut.pixels_of(one_each.unflatten(1, cut.grid), *size), read)
    assert torch.equal(pixels_of(model, one_each, *size), read)
    noise = torch.rand(2, 3, *size, dtype=torch.float64)
    sums = torch.einsum("bchw,phw->bp", noise, read.double())
    torch.testing.assert_close(sum_over_patches(model, noise), sums)
    torch.testing.assert_close(cut.sums(noise).sum(1).flatten(1), sums)
    inside = torch.rand(4, *size) < 0.5
    area = read.sum((1, 2))
    expected = 2 * torch.einsum("bhw,phw->bp", inside.double(), read.double()) >= area
    assert torch.equal(select_tokens(model, "object", 4, masks=inside, grid=cut.grid)[:, 1:], expected)
    assert torch.equal(select_tokens(model, "context", 4, masks=inside, grid=cut.grid)[:, 1:], ~expected)
    assert torch.equal(reduce_mask(inside, cut), expected)
    for mask, of_object in zip(inside, expected, strict=True):
        assert torch.equal(select_tokens(model, mask, 1, grid=cut.grid)[0, 1:], of_object)
    shown = model.to_pixels(images)[0]
    assert tuple(shown.shape[:2]) == cut.size, "a map of patches fills what is shown under it"
    whole = model.preprocessing.undo(images)[0]
    height, width = (min(a, b) for a, b in zip(cut.size, size, strict=True))
    assert torch.equal(shown[:height, :width], whole[:height, :width])
    shuffled = replace_context(
        images, torch.zeros(1, *size, dtype=torch.bool), replacement="shuffle", patch_size=cut, seed=1
    )
    before, after = (x.flatten(2)[0].sort(dim=-1).values for x in (images, shuffled))
    assert torch.equal(before, after)
    assert not torch.equal(images, shuffled)


def test_masks_of_a_model_that_leaves_pixels_unread(unchecked):
    """SigLIP's 384 pixels by patches of 14: what the model's own functions make is taken."""
    model = HookedViT.from_timm(create_model("vit_so400m_patch14_siglip_384", **SMALL))
    array = np.zeros((384, 384), np.uint8)
    array[100:200, 100:200] = 1
    mask = Image.fromarray(array)
    lens = class_lens(model, torch.randn(1, 3, 384, 384), tokens="object", masks=model.to_masks(mask))
    # The preprocessing crops to 90 %: the object begins at pixel 90, in patch 6, of whose corner it has too little.
    assert lens.axes["token"][0] == "(6, 7)"
    assert lens.axes["token"][-1] == "(13, 13)"
    assert select_tokens(model, "object", 1, masks=torch.ones(1, 378, 378)).all()
    for wrong in (385, 383, 392):
        with pytest.raises(InputError, match="do not fit pictures of 378 × 378"):
            select_tokens(model, "object", 1, masks=torch.ones(1, wrong, wrong))
    image = torch.randn(1, 3, 384, 384)
    with pytest.raises(InputError, match=r"do not tile.*model\.patch_grid"):
        replace_context(image, model.to_masks(mask), replacement="shuffle", patch_size=(14, 14))
    moved = replace_context(image, model.to_masks(mask), replacement="shuffle", patch_size=model.patch_grid(384, 384))
    assert torch.equal(moved[..., 378:, :], image[..., 378:, :])
    assert torch.equal(moved[..., 98:200, 98:200], image[..., 98:200, 98:200])


def test_the_size_of_patches_is_told_or_clear():
    """DINOv2 at 512: 36 patches of 14 pixels, not 36 equal windows."""
    assert as_patch_grid((36, 36), (512, 512)) == PatchGrid((36, 36), (14, 14))
    assert as_patch_grid((2, 4), (8, 16)) == PatchGrid((2, 4), (4, 4))
    band = torch.zeros(1, 512, 512, dtype=torch.bool)
    band[:, 490:504] = True
    assert reduce_mask(band, (36, 36))[0].unflatten(0, (36, 36)).any(1).nonzero().flatten().tolist() == [35]
    with pytest.raises(InputError, match=r"2 patches in 13 pixels may be of 5 or 6: pass model\.patch_grid"):
        as_patch_grid((2, 2), (13, 12))
