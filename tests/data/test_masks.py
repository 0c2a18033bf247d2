"""One rule says what a mask's values mean, wherever one is taken; what it does not know is refused with what was found."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from variants import build

from vitlens import HookedViT, InputError, ablate_tokens, class_lens, evaluate_heatmaps, replace_context
from vitlens.choose import select_tokens
from vitlens.data.masks import MOST_IDS, Masks, read_mask
from vitlens.data.patches import PatchGrid, object_and_context
from vitlens.data.preprocessing import Preprocessing
from vitlens.faithfulness import evaluate_segmentation
from vitlens.faithfulness.localisation import patch_auroc, pointing_game
from vitlens.faithfulness.maps import ScoredMap
from vitlens.faithfulness.run import bench_of

TRUTH = np.zeros((48, 48), dtype=bool)
TRUTH[8:30, 12:40] = True
RING = np.zeros_like(TRUTH)
RING[6:32, 10:42] = True
RING &= ~TRUTH


@pytest.fixture(scope="module")
def model():
    """Pictures of its own size are neither scaled nor cropped."""
    made = HookedViT.from_timm(build(depth=1))
    made.preprocessing = Preprocessing({**made.cfg.data_config, "crop_pct": 1.0})
    return made


def coded(outside: float, inside: float, void: float | None = None, dtype: type = np.uint8) -> np.ndarray:
    values = np.where(TRUTH, inside, outside).astype(dtype)
    if void is not None:
        values[RING] = void
    return values


def palette(ids: np.ndarray, colours: list[int] | None = None) -> Image.Image:
    picture = Image.fromarray(ids).convert("P")
    picture.putpalette(colours or [part for i in range(256) for part in (i, 255 - i, 7)])
    return picture


def encoded(values: np.ndarray, kind: str, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return Image.open(buffer)


def with_alpha(colour: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([colour, colour, colour, alpha]))


def test_what_is_the_object():
    colourless = np.repeat(coded(0, 255)[..., None], 3, axis=2)
    blurred = np.asarray(Image.fromarray(coded(0, 255)).resize((24, 24), Image.Resampling.BILINEAR))
    for name, mask in {
        "bool": TRUTH,
        "0 and 1": coded(0, 1),
        "0 and 255": coded(0, 255),
        "0 and 255 as floats": coded(0, 255, dtype=np.float64),
        "16 bits": coded(0, 65535, dtype=np.uint16),
        "one class id": coded(0, 7, dtype=np.int64),
        "ids of 16 bits": coded(0, 700, dtype=np.int32),
        "soft": coded(0.3, 0.7, dtype=np.float32),
        "half precision": torch.from_numpy(coded(0.3, 0.7, dtype=np.float32)).half(),
        "bfloat16": torch.from_numpy(coded(0.3, 0.7, dtype=np.float32)).bfloat16(),
        "a tail": coded(0.01, 1.0, dtype=np.float64),
        "grey picture": Image.fromarray(coded(0, 255)),
        "black and white": Image.fromarray(coded(0, 255)).convert("1"),
        "colourless RGB": Image.fromarray(colourless),
        "palette": palette(coded(0, 3)),
        "alpha": with_alpha(coded(90, 120), coded(0, 255)),
        "soft alpha": with_alpha(coded(90, 120), coded(100, 150)),
        "alpha of grey": Image.fromarray(np.dstack([coded(255, 0), coded(0, 200)])),
        "opaque": with_alpha(coded(0, 255), np.full_like(coded(0, 0), 255)),
        "float TIFF": Image.fromarray(coded(0.1, 0.9, dtype=np.float32)),
        "16-bit PNG": Image.fromarray(coded(0, 700, dtype=np.uint16)),
    }.items():
        labels = read_mask(mask)
        assert np.array_equal(labels.inside, TRUTH), name
        assert not labels.void.any(), name
    for noisy in (encoded(coded(0, 255), "JPEG", quality=75), np.asarray(encoded(coded(0, 255), "JPEG", quality=75))):
        assert (read_mask(noisy).inside == TRUTH).mean() > 0.99
    assert len(np.unique(blurred)) > 2
    assert read_mask(blurred).inside.tolist() == (blurred >= 128).tolist()


def test_void_is_neither():
    for mask in (palette(coded(0, 15, 255)), coded(0, 15, 255), Image.fromarray(coded(0, 15, 255)), coded(0, 1, 255)):
        labels = read_mask(mask)
        assert np.array_equal(labels.inside, TRUTH)
        assert np.array_equal(labels.void, RING)
    # Among ids of more than 8 bits 255 is a class like any other, and alone it is white.
    wide = read_mask(coded(0, 700, 255, np.int64))
    assert np.array_equal(wide.inside, TRUTH | RING)
    assert not wide.void.any()
    assert not read_mask(palette(coded(0, 255))).void.any()


def test_the_id_may_be_chosen():
    ids = coded(0, 15, 255)
    ids[:4] = 3
    for mask in (palette(ids), ids, Image.fromarray(ids)):
        assert np.array_equal(read_mask(mask).inside, TRUTH | (ids == 3))
        chosen = read_mask(mask, 15)
        assert np.array_equal(chosen.inside, TRUTH)
        assert np.array_equal(chosen.void, RING)
    assert read_mask(coded(2, 1, 3), 1).inside.tolist() == TRUTH.tolist()


NOISE = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)


@pytest.mark.parametrize(
    ("mask", "object_id", "sentence"),
    [
        (coded(0, np.nan, dtype=np.float64), None, "NaN"),
        (coded(-5, 5, dtype=np.float64), None, r"floats lies in \[0, 1\].*in \[-5, 5\].*sigmoid"),
        (coded(0, 3, dtype=np.float64), None, "class ids as whole numbers"),
        (coded(0, -1, dtype=np.int64), None, "-1 to 0"),
        (coded(0, 1, dtype=np.complex64), None, "complex64"),
        (NOISE, None, "256 grey values"),
        (Image.fromarray(NOISE), None, "neither black nor white"),
        (encoded(NOISE, "JPEG"), None, "neither black nor white"),
        (np.minimum(NOISE, 250), None, "no mask of an object"),
        (NOISE.astype(np.int64) + 300, None, "different numbers"),
        (coded(0, 128, 255), None, "grey values"),
        (coded(2, 1, 3), None, "class ids 1, 2, 3 and no 0"),
        (Image.fromarray(np.dstack([coded(0, 255), coded(0, 100), coded(0, 0)])), None, "colour picture"),
        (palette(coded(0, 1), [255, 255, 255, 0, 0, 0]), None, "number 0 is not black"),
        (Image.fromarray(NOISE).convert("RGB").convert("CMYK"), None, "mode 'CMYK'"),
        (encoded(coded(0, 255), "JPEG"), 5, "JPEG, which does not keep numbers"),
        (TRUTH, 1, "of bool"),
        (with_alpha(coded(0, 0), coded(0, 255)), 1, "an alpha channel"),
        (coded(0, 1), 1.0, "whole number, not 1.0"),
        (coded(0, 1), True, "whole number, not True"),
        (np.zeros((0, 4), dtype=bool), None, "shape"),
        (torch.zeros(4, 4).to_sparse(), None, "dense"),
        (torch.zeros(4, 4, device="meta"), None, "dense"),
        (None, None, "not NoneType"),
        (3, None, "not int"),
    ],
)
def test_what_is_no_mask(unchecked, mask, object_id, sentence):
    with pytest.raises(InputError, match=sentence):
        read_mask(mask, object_id)


def test_no_photograph_has_few_levels():
    levels = (np.arange(48 * 48).reshape(48, 48) % (MOST_IDS + 1)).astype(np.uint8)
    assert (read_mask(levels % MOST_IDS).inside == (levels % MOST_IDS > 0)).all()
    assert read_mask(levels, MOST_IDS).inside.sum() == (levels == MOST_IDS).sum()


@pytest.fixture
def files(tmp_path):
    palette(coded(0, 15, 255)).save(tmp_path / "void.png")
    Image.fromarray(coded(0, 255)).save(tmp_path / "plain.png")
    return tmp_path


def test_masks_are_taken_in_every_form(unchecked, model, files):
    direct = torch.from_numpy(TRUTH)
    expected = select_tokens(model, "object", 2, masks=torch.stack([direct, direct]))
    for masks in (
        [files / "plain.png", str(files / "plain.png")],
        [Image.open(files / "plain.png")] * 2,
        [files / "plain.png", coded(0, 255)],
        [direct, direct],
        direct,
        torch.stack([direct, direct]).to(torch.uint8),
        coded(0.0, 1.0, dtype=np.float32),
        model.read_masks([files / "plain.png", files / "plain.png"]),
    ):
        assert torch.equal(select_tokens(model, "object", 2, masks=masks), expected)
    one = files / "plain.png"
    for masks in (one, str(one), Image.open(one), [one], direct[None], model.read_masks(one)):
        assert torch.equal(select_tokens(model, "object", 1, masks=masks), expected[:1])
        with pytest.raises(InputError, match=r"\[2, height, width\], one per picture, not \[1, 48, 48\]"):
            select_tokens(model, "object", 2, masks=masks)
    images = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    both = [files / "plain.png", files / "void.png"]
    lens = class_lens(model, images, tokens="object", masks=[one, one])
    assert lens.axes["token"] == [model.cfg.token_label(i) for i in expected[0].nonzero()[:, 0].tolist()]
    scores = evaluate_heatmaps(
        model, images, 1, heatmaps="raw_attention", metrics="patch_auroc", masks=both, baselines=False, progress=False
    )
    assert scores.values.shape == (1, 1, 2)
    assert (
        evaluate_segmentation(
            model, images, 1, masks=both, heatmaps="raw_attention", baselines=False, progress=False
        ).values.shape[-1]
        == 2
    )
    masks = model.read_masks(both)
    replaced = replace_context(images, masks, replacement="zero")
    keeps = torch.from_numpy(np.stack([TRUTH, TRUTH | RING]))[:, None].expand_as(images)
    assert torch.equal(replaced[keeps], images[keeps])
    assert not replaced[~keeps].any()
    assert torch.equal(replace_context(images, [TRUTH, TRUTH | RING], replacement="zero"), replaced)
    with pytest.raises(InputError, match=r"model\.read_masks"):
        replace_context(images, files / "plain.png", replacement="zero")
    with pytest.raises(InputError, match="different sizes, 24 × 24, 48 × 48"):
        select_tokens(model, "object", 2, masks=[direct, direct[::2, ::2]])
    for nothing, sentence in (([], "no masks"), (3, "not 3"), ({}, "not {}")):
        with pytest.raises(InputError, match=sentence):
            select_tokens(model, "object", 2, masks=nothing)


def test_a_mask_at_the_models_size_is_one_after_the_crop():
    model = HookedViT.from_timm(build(depth=1))
    for mask in (TRUTH, torch.from_numpy(TRUTH), coded(0, 255), TRUTH[None]):
        assert torch.equal(model.read_masks(mask).inside[0], torch.from_numpy(TRUTH))
        assert torch.equal(model.to_masks(mask)[0], torch.from_numpy(TRUTH))
    assert (model.to_masks([TRUTH, TRUTH])[1] == model.as_masks(TRUTH).inside).all()
    cropped = model.read_masks(Image.fromarray(coded(0, 255))).inside[0]
    assert torch.equal(model.read_masks(coded(0, 255).repeat(2, 0).repeat(2, 1)).inside[0], cropped)
    assert cropped.sum() > TRUTH.sum()


def test_a_mask_file_has_the_shape_of_its_picture_file(plain, tmp_path):
    pictures, masks = [], []
    for i, (picture, mask) in enumerate([((341, 256), (171, 128)), ((341, 256), (100, 50))]):
        pictures.append(tmp_path / f"{i}.jpg")
        masks.append(tmp_path / f"{i}.png")
        Image.new("RGB", picture, (9, 99, 200)).save(pictures[-1])
        shown = np.zeros(mask[::-1], dtype=np.uint8)
        shown[mask[1] // 4 : -mask[1] // 4, mask[0] // 4 : -mask[0] // 4] = 255
        Image.fromarray(shown).save(masks[-1])
    ablate_tokens(plain, pictures[:1], tokens="context", masks=masks[:1], progress=False)
    opened = [Image.open(pictures[0]), Image.open(pictures[1])]
    for images in (pictures, opened):
        with pytest.raises(InputError, match="the mask is 100 × 50 pixels, its picture 341 × 256"):
            ablate_tokens(plain, images, tokens="context", masks=masks, progress=False)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (128, 171)).save(tmp_path / "turned.jpg", exif=turned)
    ablate_tokens(plain, [tmp_path / "turned.jpg"], tokens="context", masks=masks[:1], progress=False)


def test_void_patches_are_neither_object_nor_context():
    """Patches of 4 pixels: void and object pixels → object, context, or neither."""
    cases = [(0, 0, False, True), (0, 2, True, False), (0, 1, False, True), (1, 2, True, False), (1, 1, False, True)]
    cases += [(2, 1, True, False), (2, 0, False, True), (3, 1, False, False), (4, 0, False, False)]
    inside, void = torch.zeros(2, 1, 2, 2 * len(cases), dtype=torch.bool)
    for i, (n_void, n_inside, _, _) in enumerate(cases):
        places = [(row, 2 * i + column) for row in (0, 1) for column in (0, 1)]
        for row, column in places[:n_void]:
            void[0, row, column] = True
        for row, column in places[n_void : n_void + n_inside]:
            inside[0, row, column] = True
    found = object_and_context(inside, void, PatchGrid((1, len(cases)), (2, 2)))
    assert [part[0].tolist() for part in found] == [[case[i] for case in cases] for i in (2, 3)]
    centres = object_and_context(inside, void, PatchGrid((1, len(cases)), (2, 2)), "nearest")
    assert centres[0][0].tolist() == inside[0, 1, 1::2].tolist()
    assert centres[1][0].tolist() == (~(inside | void))[0, 1, 1::2].tolist()
    with pytest.raises(InputError, match="area or nearest"):
        object_and_context(inside, void, PatchGrid((1, 9), (2, 2)), "bilinear")


def test_void_in_token_sets(model):
    void = torch.zeros(1, 48, 48, dtype=torch.bool)
    inside = void.clone()
    inside[:, :16] = True
    void[:, 16:32] = True
    masks = Masks(inside, void)
    of = {
        name: select_tokens(model, name, 1, masks=masks)[0, 1:].nonzero()[:, 0].tolist()
        for name in ("object", "context")
    }
    assert of == {"object": [0, 1, 2], "context": [6, 7, 8]}


def test_void_in_scores(model):
    """Void pixels change neither counts nor precision nor order: as if the picture had not had them."""
    images = torch.randn(1, 3, 48, 48, dtype=torch.float64)
    inside, void = torch.zeros(2, 1, 48, 48, dtype=torch.bool)
    inside[:, :16, :16] = True
    void[:, :, 32:] = True
    maps = torch.tensor([[[3.0, 2, 9], [1, 0, 8], [2, 1, 7]]], dtype=torch.float64)
    options = {"baselines": False, "progress": False}
    found = evaluate_segmentation(model, images, 1, masks=Masks(inside, void), heatmaps={"map": maps}, **options)
    counts = dict(zip(found.axes["number"], found.values[0, :, 0].tolist(), strict=True))
    assert sum(counts[name] for name in list(counts)[:4]) == 48 * 32
    assert counts["patch_auroc"] == 1
    assert (
        evaluate_segmentation(model, images, 1, masks=inside, heatmaps={"map": maps}, **options).values[0, 5, 0]
        == 5 / 8
    )
    bench = bench_of(model, images, 1, batch_size=1)
    scored = ScoredMap(maps.flatten(1))
    assert patch_auroc(bench, Masks(inside, void))(scored).item() == 1
    assert pointing_game(bench, Masks(inside, void), tolerance=0.0)(scored).isnan().all()
    assert pointing_game(bench, inside, tolerance=0.0)(scored).item() == 0
    assert pointing_game(bench, Masks(inside, void), tolerance=30.0)(scored).item() == 1
