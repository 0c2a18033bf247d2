"""Contexts replaced: the object's pixels stay, the others are what was asked for."""

import pytest
import torch

from vitlens import InputError, replace_context


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 32, 32, generator=generator)
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, 4:20, 8:16] = True
    masks[1, 10:30, 2:9] = True
    return images, masks, torch.randn(2, 3, 32, 32, generator=generator)


@pytest.mark.parametrize("how", ["other", "mean", "zero", "blur"])
def test_the_object_stays_and_the_context_goes(pair, how):
    images, masks, donors = pair
    replaced = replace_context(images, masks, replacement=how, others=donors if how == "other" else None)
    inside = masks[:, None].expand_as(images)
    assert torch.equal(replaced[inside], images[inside])
    assert (replaced[~inside] != images[~inside]).float().mean() > 0.99


def test_each_replacement_is_what_its_name_says(pair):
    images, masks, donors = pair
    outside = ~masks[0]
    assert torch.equal(
        replace_context(images, masks, replacement="other", others=donors)[0][:, outside], donors[0][:, outside]
    )
    assert replace_context(images, masks, replacement="zero")[0][:, outside].abs().max() == 0
    mean = replace_context(images, masks, replacement="mean")[0][:, outside]
    torch.testing.assert_close(mean, images[0][:, outside].mean(1, keepdim=True).expand_as(mean))
    blurred = replace_context(images, masks, replacement="blur")[0][:, outside]
    assert blurred.var() < images[0][:, outside].var() / 4


def test_shuffled_patches_change_places_and_nothing_else(pair):
    images, masks, _ = pair
    shuffled = replace_context(images, masks, replacement="shuffle", patch_size=(8, 8), seed=3)
    cut = lambda x: x.unfold(-2, 8, 8).unfold(-2, 8, 8).flatten(-4, -3).movedim(-3, 1).flatten(2)  # noqa: E731
    before, after, held = cut(images), cut(shuffled), cut(masks[:, None]).any(-1)
    for image in range(2):
        assert torch.equal(before[image][held[image]], after[image][held[image]])
        free = [x[image][~held[image]] for x in (before, after)]
        assert not torch.equal(*free)
        assert sorted(free[0].sum(1).tolist()) == sorted(free[1].sum(1).tolist())
    assert torch.equal(shuffled, replace_context(images, masks, replacement="shuffle", patch_size=(8, 8), seed=3))
    assert not torch.equal(shuffled, replace_context(images, masks, replacement="shuffle", patch_size=(8, 8), seed=4))
    with pytest.raises(InputError, match="do not tile"):
        replace_context(images, masks, replacement="shuffle", patch_size=(7, 7))


def test_wrong_input_is_one_clear_sentence(pair):
    images, masks, _ = pair
    with pytest.raises(InputError, match="other, mean, zero, blur"):
        replace_context(images, masks, replacement="inpaint")
    with pytest.raises(InputError, match="others="):
        replace_context(images, masks, replacement="other")
    with pytest.raises(InputError, match="masks have the shape"):
        replace_context(images, masks[:, :5], replacement="zero")
