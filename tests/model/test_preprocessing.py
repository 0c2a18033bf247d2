"""Preprocessing that is not timm's for a model: given when it is opened, shown, and used for pictures, masks and pixels."""

import copy

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from vitlens import HookedViT, InputError
from vitlens.data.preprocessing import changed_config

NAME = "vit_tiny_patch16_224"
OTHER = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 0.8, "interpolation": "bilinear"}
COLOURS = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def module():
    return timm.create_model(NAME, pretrained=False, depth=1, img_size=32).eval()


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(COLOURS)


@pytest.fixture(scope="module")
def changed(module):
    return HookedViT.from_timm(module, **OTHER)


def expected(module, picture, **other):
    config = {**resolve_model_data_config(module), "input_size": (3, 32, 32), **other}
    return create_transform(**config, is_training=False)(picture)[None]


def test_pictures_are_prepared_as_timm_does_with_these_values(module, changed, picture):
    assert torch.equal(changed.to_images(picture), expected(module, picture, **OTHER))
    assert torch.equal(HookedViT.from_timm(module).to_images(picture), expected(module, picture))
    named = HookedViT.from_timm(NAME, pretrained=False, depth=1, img_size=32, **OTHER)
    assert torch.equal(named.to_images(picture), changed.to_images(picture))


@pytest.mark.parametrize("name", OTHER)
def test_each_value_by_itself(module, picture, name):
    one = {name: OTHER[name]}
    model = HookedViT.from_timm(module, **one)
    assert torch.equal(model.to_images(picture), expected(module, picture, **one))
    assert not torch.equal(model.to_images(picture), expected(module, picture))


def test_one_number_stands_for_all_channels(module, picture):
    model = HookedViT.from_timm(module, mean=0.0, std=1.0)
    assert torch.equal(model.to_images(picture), expected(module, picture, mean=(0, 0, 0), std=(1, 1, 1)))


def test_it_is_shown(changed):
    shown = "32 × 32 pixels, bilinear, center crop 0.8, mean 0.1, 0.2, 0.3, std 0.4, 0.5, 0.6"
    assert repr(changed.preprocessing) == f"Preprocessing({shown})"
    assert changed.cfg.data_config == changed.preprocessing.data_config


def test_masks_follow_the_crop(module, changed):
    mask = np.zeros((90, 120), dtype=bool)
    mask[:, :24] = True
    own = HookedViT.from_timm(module)
    # The centred square of .8 leaves less of the left edge than that of .9.
    assert changed.read_masks(mask).inside.sum() < own.read_masks(mask).inside.sum()


def test_pixels_are_the_colours_again(changed, tmp_path):
    flat = np.full((60, 60, 3), (10, 120, 250), dtype=np.uint8)
    Image.fromarray(flat).save(tmp_path / "p.png")
    from_file = changed.to_pixels(tmp_path / "p.png")
    torch.testing.assert_close(from_file[0, 9, 9], torch.tensor([10, 120, 250]) / 255, rtol=0, atol=1e-6)
    images = changed.to_images([flat, COLOURS])
    for given in (str(tmp_path / "p.png"), flat, Image.fromarray(flat), images[0], images[:1]):
        assert torch.equal(changed.to_pixels(given), from_file)
    assert torch.equal(changed.to_pixels([flat, COLOURS]), changed.to_pixels(images))
    for wrong in (torch.zeros(32), torch.zeros(32, 32, 3), torch.zeros(1, 1, 32, 32)):
        with pytest.raises(InputError, match="to_pixels takes preprocessed pictures"):
            changed.to_pixels(wrong)
    with pytest.raises(InputError, match=r"there is no file nowhere\.png"):
        changed.to_pixels("nowhere.png")


def test_copies_keep_it(changed, picture):
    named = HookedViT.from_timm(NAME, pretrained=False, depth=1, img_size=32, **OTHER)
    for other in (named.with_fresh_weights(), copy.deepcopy(changed)):
        assert torch.equal(other.to_images(picture), changed.to_images(picture))
        assert other.cfg.data_config == changed.cfg.data_config


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"mean": (0.5, 0.5)}, "mean is one number or one for each of the 3 channels"),
        ({"mean": 123.7}, "divide those of 0 to 255 by 255"),
        ({"mean": "0.5"}, "mean is one number"),
        ({"mean": float("nan")}, "mean is one number"),
        ({"mean": (0.5, 0.5, None)}, "mean is one number"),
        ({"std": 0}, "std is one number"),
        ({"std": -0.5}, "std is one number"),
        ({"std": ()}, "std is one number"),
        ({"crop_pct": 90}, "crop_pct is the part of .*, above 0 and at most 1, not 90"),
        ({"crop_pct": 0}, "crop_pct is the part"),
        ({"crop_pct": "0.9"}, "crop_pct is the part"),
        ({"interpolation": "bicubik"}, "interpolation is one of nearest, .*, not 'bicubik'"),
        ({"interpolation": 3}, "interpolation is one of"),
    ],
)
def test_nonsense_is_refused(module, wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        changed_config(resolve_model_data_config(module), **wrong)


def test_a_model_refuses_it_too(module):
    with pytest.raises(InputError, match="divide those of 0 to 255 by 255"):
        HookedViT.from_timm(module, std=58.4)
