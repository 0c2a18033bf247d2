"""Pictures and masks reach the model as timm's own preprocessing brings them; anything else is refused in a sentence."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch.nn.functional import max_pool2d
from torchvision import transforms
from variants import build

from vitlens import HookedViT, InputError
from vitlens.data.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def module():
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=1)


@pytest.fixture(scope="module")
def model(module):
    return HookedViT.from_timm(module)


@pytest.fixture
def photo():
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 255, (300, 420, 3), dtype=np.uint8))


def test_every_kind_of_picture_is_preprocessed_as_timm_does(module, model, photo, tmp_path):
    expected = create_transform(**resolve_model_data_config(module), is_training=False)(photo)[None]
    photo.save(tmp_path / "photo.png")
    array = np.asarray(photo)
    assert tuple(expected.shape) == (1, 3, 224, 224)
    for picture in (tmp_path / "photo.png", str(tmp_path / "photo.png"), photo, array, photo.convert("RGBA")):
        assert torch.equal(model.to_images(picture), expected)
    torch.testing.assert_close(model.to_images(array.astype(np.float64) / 255), expected)
    assert torch.equal(model.to_images([photo, array]), expected.expand(2, -1, -1, -1))
    assert torch.equal(model.as_images(photo), expected)
    assert torch.equal(model.as_images(expected[0]), expected)


def test_grey_and_palette_pictures_become_what_the_model_reads(model, photo):
    grey = photo.convert("L")
    assert torch.equal(model.to_images(grey), model.to_images(grey.convert("RGB")))
    assert torch.equal(model.to_images(np.asarray(grey)), model.to_images(grey))
    palette = photo.convert("P")
    assert torch.equal(model.to_images(palette), model.to_images(palette.convert("RGB")))
    one_channel = HookedViT.from_timm(build(in_chans=1))
    assert one_channel.to_images(photo).shape == (1, 1, 48, 48)
    assert one_channel.to_images(photo).dtype == torch.float64


def test_the_models_own_size_and_dtype_are_used(photo):
    model = HookedViT.from_timm(build(img_size=(32, 64)))
    images = model.to_images(photo)
    assert images.shape == (1, 3, 32, 64)
    assert images.dtype == torch.float64
    assert model(images).shape == (1, 10)


def test_shown_pixels_are_the_preprocessed_ones(model):
    colour = np.full((224, 224, 3), (10, 120, 250), dtype=np.uint8)
    shown = model.preprocessing.undo(model.to_images(colour))
    torch.testing.assert_close(shown[0, 5, 5], torch.tensor([10, 120, 250]) / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize("crop", [{}, {"crop_pct": 0.9}, {"crop_pct": 1.0, "crop_mode": "squash"}])
@pytest.mark.parametrize("shape", [(300, 420), (420, 300), (100, 400)])
def test_masks_land_where_their_regions_do(module, crop, shape):
    """A region of constant colour and its mask, both through the preprocessing, for pictures that are not square."""
    data_config = {**resolve_model_data_config(module), **crop}
    preprocessing = Preprocessing(data_config)
    mask = np.zeros(shape, dtype=bool)
    mask[shape[0] // 5 : shape[0] // 2, 9 * shape[1] // 20 : 3 * shape[1] // 5] = True
    picture = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
    bright = preprocessing.image(picture)[0] > 0
    inside = preprocessing.mask(mask.astype(np.uint8))
    assert inside.any()
    for axis in (0, 1):
        ours, theirs = (x.any(axis).nonzero().flatten() for x in (inside, bright))
        assert abs(ours[0] - theirs[0]) <= 1
        assert abs(ours[-1] - theirs[-1]) <= 1


def test_masks_refuse_a_transform_that_they_cannot_follow(module):
    preprocessing = Preprocessing(resolve_model_data_config(module))
    preprocessing.transform.transforms.insert(0, transforms.Pad(3))
    with pytest.raises(InputError, match="masks cannot follow the transform step Pad"):
        preprocessing.mask(np.ones((30, 40), dtype=np.uint8))


def test_masks_follow_a_picture_that_gets_a_border(module):
    preprocessing = Preprocessing({**resolve_model_data_config(module), "crop_mode": "border"})
    mask = np.zeros((30, 60), dtype=np.uint8)
    mask[:, :40] = 1
    picture = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
    inside = preprocessing.mask(mask)
    bright = preprocessing.undo(preprocessing.image(picture)[None])[0].amin(dim=-1) > 0.9
    assert inside.shape == bright.shape
    assert (inside == bright).float().mean() > 0.95
    assert not inside[0].any(), "the border above is outside"


def test_masks_follow_their_pictures(model):
    """A picture whose object is white on black: mask and bright pixels must coincide after resizing and cropping."""
    mask = np.zeros((300, 420), dtype=np.uint8)
    mask[60:200, 150:330] = 3
    picture = np.repeat((mask > 0)[..., None] * np.uint8(255), 3, axis=2)
    bright = model.to_images(picture)[0, 0] > 0
    inside = model.to_masks(mask)[0]
    assert inside.shape == (224, 224)
    assert inside.dtype == torch.bool
    # Nearest and bicubic resizing may differ by the pixel at the edge.
    grown, shrunk = (sign * max_pool2d(sign * inside[None].float(), 3, 1, 1)[0] for sign in (1, -1))
    assert (shrunk.bool() <= bright).all()
    assert (bright <= grown.bool()).all()
    assert model.to_masks([mask, mask]).shape == (2, 224, 224)
    palette = Image.fromarray(mask).convert("P")
    assert torch.equal(model.to_masks(palette)[0], inside)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((5, 5, 4), dtype=np.uint8), "is not a picture"),
        (np.zeros((3, 5, 5), dtype=np.uint8), "channels last"),
        (np.zeros(7, dtype=np.uint8), "is not a picture"),
        (np.zeros((0, 5, 3), dtype=np.uint8), "is not a picture"),
        (np.full((5, 5, 3), -0.1), "in \\[0, 1\\]"),
        (np.zeros((5, 5, 3), dtype=bool), "uint8 or float"),
        (np.full((5, 5, 3), np.nan), "NaN"),
        (np.full((5, 5, 3), 255.0), "in \\[0, 1\\]"),
        (np.zeros((5, 5, 3), dtype=np.int64), "uint8 or float"),
    ],
)
def test_arrays_that_are_no_pictures(model, array, sentence):
    with pytest.raises(InputError, match=sentence):
        model.to_images(array)


def test_files_that_are_no_pictures(model, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.jpg is not a picture"):
        model.to_images(tmp_path / "text.jpg")
    with pytest.raises(InputError, match="there is no file"):
        model.to_images(tmp_path / "missing.jpg")
    with pytest.raises(InputError, match="is not a picture"):
        model.to_images(tmp_path)
    with pytest.raises(InputError, match="mode 'I;16' has more than 8 bits"):
        model.to_images(Image.fromarray(np.full((5, 5), 6000, dtype=np.uint16)))
    with pytest.raises(InputError, match="no masks"):
        model.to_masks([])
    with pytest.raises(InputError, match="mask has the shape"):
        model.to_masks(np.zeros((0, 4), dtype=np.uint8))
    with pytest.raises(InputError, match="no pictures"):
        model.to_images([])
    with pytest.raises(InputError, match="mask has the shape"):
        model.to_masks(np.zeros((4, 4, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (np.zeros((1, 3, 224, 224)), "reads tensors, not ndarray"),
        (torch.zeros(1, 3, 96, 96), "are 96 × 96.*reads 224 × 224"),
        (torch.zeros(1, 1, 224, 224), "have 1 channels.*reads 3"),
        (torch.zeros(3, 224, 224), "shape"),
        (torch.zeros(1, 3, 224, 224, dtype=torch.uint8), "torch.uint8, the model computes in torch.float32"),
        (torch.zeros(1, 3, 224, 224, dtype=torch.float64), "torch.float64, the model computes in torch.float32"),
        (torch.full((1, 3, 224, 224), float("nan")), "NaN"),
        (torch.full((1, 3, 224, 224), float("inf")), "infinite"),
    ],
)
def test_tensors_that_the_model_cannot_read(model, images, sentence):
    with pytest.raises(InputError, match=sentence):
        model(images)
