"""Every kind of source gives the same rows; masks follow their pictures; mistakes are said in a sentence."""

import io
import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from timm.data import ImageNetInfo
from timm.models import create_model

from vitlens import HookedViT, InputError, load_demo_model
from vitlens.data.decoding import PictureBatch, decode_rows, reduce_mask
from vitlens.data.demo import demo_folder
from vitlens.data.imagenet_s import EXCLUDED
from vitlens.data.picture_sets import open_pictures

NAMES = ["cat", "dog", "red fox"]


def picture(seed: int, size=(20, 16)) -> PILImage.Image:
    return PILImage.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def png(seed: int) -> dict:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def folder(tmp_path):
    """Three classes in folders named as the model's classes, with three, two and one picture."""
    for k, name in enumerate(["dog", "cat", "red_fox"]):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(3 - k):
            picture(10 * k + i).save(tmp_path / "pictures" / name / f"{i}.png")
    return tmp_path / "pictures"


@pytest.fixture
def parquet(tmp_path):
    features = Features({"img": Image(), "coarse": Value("int64"), "fine_label": ClassLabel(names=["dog", "cat"])})
    rows = {"img": [png(i) for i in range(5)], "coarse": [7] * 5, "fine_label": [0, 1, 1, 0, 1]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "table.parquet")
    return tmp_path / "table.parquet"


def rows_of(pictures, size=2):
    return [row for _, rows in pictures.chunks(size) for row in rows]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_classes_is_matched_by_name(folder, streaming):
    pictures = open_pictures(folder, NAMES, 3, streaming=streaming)
    rows = rows_of(pictures)
    assert [row["label"] for row in rows] == [0, 0, 1, 1, 1, 2]
    assert pictures.n == (None if streaming else 6)
    assert not pictures.has_masks
    first = rows_of(open_pictures(folder, NAMES, 3, streaming=streaming, per_class=1, drop_incomplete=True))
    assert [row["label"] for row in first] == [0, 1, 2]
    assert len(rows_of(open_pictures(folder, NAMES, 3, streaming=streaming, n=4))) == 4


@pytest.mark.parametrize("streaming", [False, True])
def test_a_table_with_other_names_of_its_columns(parquet, streaming):
    rows = rows_of(open_pictures(parquet, NAMES, 3, streaming=streaming))
    assert [row["label"] for row in rows] == [1, 0, 0, 1, 0]
    assert rows[3]["path"] == "row 3"
    assert rows[0]["image"]["bytes"].startswith(b"\x89PNG")
    coarse = open_pictures(parquet, None, 10, streaming=streaming, label_column="coarse")
    assert {row["label"] for row in rows_of(coarse)} == {7}


@pytest.mark.parametrize("streaming", [False, True])
def test_chunks_are_the_same_however_many_processes_share_them(folder, streaming):
    pictures = open_pictures(folder, NAMES, 3, streaming=streaming)
    alone = {chunk: [row["path"] for row in rows] for chunk, rows in pictures.chunks(4)}
    shared = {}
    for rank in range(2):
        for chunk, rows in pictures.chunks(4, rank, 2):
            assert chunk not in shared
            shared[chunk] = [row["path"] for row in rows]
    assert shared == alone
    assert sorted(alone) == [0, 1]


def test_file_names_that_begin_with_the_class(tmp_path):
    for i in (2, 0):
        picture(i).save(tmp_path / f"{i:04d}_x.png")
    assert [row["label"] for row in rows_of(open_pictures(tmp_path, None, 3))] == [0, 2]
    picture(3).save(tmp_path / "unnamed.png")
    with pytest.raises(InputError, match="has no label"):
        open_pictures(tmp_path, None, 3)


def test_a_class_map_says_which_is_which(folder, parquet, tmp_path):
    (tmp_path / "map.json").write_text(json.dumps({"dog": "red fox", "cat": 0, "red_fox": 1}))
    rows = rows_of(open_pictures(folder, NAMES, 3, class_map=tmp_path / "map.json"))
    assert [row["label"] for row in rows] == [0, 0, 2, 2, 2, 1]
    (tmp_path / "map.csv").write_text("dog,cat\ncat,dog\n")
    assert rows_of(open_pictures(parquet, NAMES, 3, class_map=tmp_path / "map.csv"))[0]["label"] == 0
    with pytest.raises(InputError, match="does not say which class 'red_fox' is"):
        open_pictures(folder, NAMES, 3, class_map=tmp_path / "map.csv")


def test_a_single_folder_is_a_class(tmp_path):
    (tmp_path / "dog").mkdir()
    picture(0).save(tmp_path / "dog" / "a.png")
    assert [row["label"] for row in rows_of(open_pictures(tmp_path, NAMES, 3))] == [1]


def test_splits_of_a_folder(tmp_path):
    for split, names in (("train", ["cat", "dog"]), ("validation", ["dog", "cat"])):
        for i, name in enumerate(names):
            (tmp_path / split / name).mkdir(parents=True)
            picture(i).save(tmp_path / split / name / f"{split}.png")
    for split in (None, "validation", "train"):
        rows = rows_of(open_pictures(tmp_path, NAMES, 3, split=split))
        assert [row["label"] for row in rows] == [0, 1]
        assert all((split or "validation") + ".png" in row["path"] for row in rows)


def test_folders_of_wordnet_ids_are_imagenet_classes(tmp_path):
    for wnid in ("n01440764", "n15075141"):
        (tmp_path / wnid).mkdir()
        picture(0).save(tmp_path / wnid / "a.jpg")
    assert [row["label"] for row in rows_of(open_pictures(tmp_path, None, 1000))] == [0, 999]


def test_imagenet_s(tmp_path):
    """Masks hold the class's number in red + 256 · green; excluded classes are left out."""
    info = ImageNetInfo()
    wnids = [info.index_to_label_name(i) for i in (0, 300, 999)]
    assert wnids[2] in EXCLUDED
    root = tmp_path / "ImageNetS919"
    # Numbers above 255 need the second channel.
    (tmp_path / "ImageNetS_categories_im919.txt").write_text("\n".join(["x"] * 299 + wnids))
    for k, wnid in enumerate(wnids):
        for part in ("validation", "validation-segmentation"):
            (root / part / wnid).mkdir(parents=True)
        picture(k, (32, 32)).save(root / "validation" / wnid / "a.JPEG")
        mask = np.zeros((32, 32, 3), dtype=np.uint8)
        mask[:16, :, 0], mask[:16, :, 1] = (300 + k) % 256, (300 + k) // 256
        mask[16:, :, 0] = 44  # another class's number: 300 − 256, without the second channel
        PILImage.fromarray(mask).save(root / "validation-segmentation" / wnid / "a.png")
    pictures = open_pictures(tmp_path, None, 1000)
    assert pictures.has_masks
    rows = rows_of(pictures)
    assert [row["label"] for row in rows] == [0, 300]
    batch = decode_rows(rows, 0, load_demo_model().preprocessing, (14, 14), with_masks=True)
    assert isinstance(batch, PictureBatch)
    on_grid = batch.object_patches.unflatten(1, (14, 14))
    assert on_grid[:, :7].all()
    assert not on_grid[:, 7:].any()
    with pytest.raises(InputError, match="no split 'test'"):
        open_pictures(tmp_path, None, 1000, split="test")
    (tmp_path / "ImageNetS_categories_im919.txt").unlink()
    with pytest.raises(InputError, match="list of categories"):
        open_pictures(tmp_path, None, 1000)


def test_the_demo_and_its_splits():
    model = load_demo_model()
    everything = open_pictures("demo", model.class_names, 10)
    agreeing = open_pictures("demo", model.class_names, 10, split="agreeing")
    assert (everything.n, agreeing.n) == (100, 50)
    assert all("agreeing" in row["path"] for row in rows_of(agreeing))
    with pytest.raises(InputError, match="agreeing"):
        open_pictures("demo", model.class_names, 10, split="train")


def test_masks_from_a_folder_lie_where_their_pictures_do(tmp_path):
    """A wide picture is resized and cropped; its mask goes the same way before it is reduced to the patches."""
    model = load_demo_model()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "masks").mkdir()
    array = np.zeros((56, 112, 3), dtype=np.uint8)
    array[10:30, 40:70] = 255
    PILImage.fromarray(array).save(tmp_path / "pictures" / "3_wide.png")
    PILImage.fromarray(array[..., 0]).save(tmp_path / "masks" / "3_wide.png")
    rows = rows_of(open_pictures(tmp_path / "pictures", None, 10, masks=tmp_path / "masks"))
    batch = decode_rows(rows, 0, model.preprocessing, model.cfg.grid_size, with_masks=True)
    bright = model.to_pixels(batch.images)[0].mean(-1) > 0.5
    expected = (torch.nn.functional.avg_pool2d(bright[None, None].float(), 4)[0, 0] >= 0.5).flatten()
    assert torch.equal(batch.object_patches[0], expected)
    assert 0 < expected.sum() < 196
    (tmp_path / "masks" / "3_wide.png").unlink()
    with pytest.raises(InputError, match="has no mask in"):
        rows_of(open_pictures(tmp_path / "pictures", None, 10, masks=tmp_path / "masks"))


def test_masks_follow_pictures_into_a_model_that_is_not_square():
    """timm scales for such a model by its own step, which keeps the ratio and then crops."""
    module = create_model("vit_tiny_patch16_224", img_size=(32, 64), depth=1)
    model = HookedViT.from_timm(module)
    array = np.zeros((60, 100), dtype=np.uint8)
    array[:, 50:] = 255
    picture = model.to_images(PILImage.fromarray(array).convert("RGB"))
    mask = model.to_masks(array)
    assert mask.shape == (1, 32, 64)
    bright = model.to_pixels(picture)[..., 0] > 0.5
    assert (mask == bright).float().mean() > 0.97


def test_masks_are_reduced_by_area_or_by_the_centre():
    masks = torch.zeros(1, 4, 8, dtype=torch.bool)
    masks[0, :2, :4] = True
    masks[0, 2, 6] = True
    assert reduce_mask(masks, (1, 2), "area").tolist() == [[True, False]]
    assert reduce_mask(masks, (1, 2), "nearest").tolist() == [[False, True]]


def test_pictures_that_cannot_be_read_are_counted_and_skipped(folder):
    (folder / "dog" / "1.png").write_bytes(b"no picture")
    (folder / "dog" / "2.png").write_bytes((folder / "dog" / "0.png").read_bytes()[:200])
    rows = rows_of(open_pictures(folder, NAMES, 3))
    batch = decode_rows(rows, 10, load_demo_model().preprocessing, (14, 14), with_masks=False)
    assert batch.keys == [10, 11, 12, 15]
    assert [item.path.rsplit("/", 1)[-1] for item in batch.skipped] == ["1.png", "2.png"]
    assert all(item.reason for item in batch.skipped)
    nothing = decode_rows(rows[3:5], 0, load_demo_model().preprocessing, (14, 14), with_masks=False)
    assert [type(item).__name__ for item in nothing] == ["Skipped", "Skipped"]


def test_mistakes(folder, parquet, tmp_path):
    for source, arguments, sentence in [
        (folder, {"per_class": 2}, "have fewer"),
        (folder, {"split": "tests"}, "no split"),
        (folder, {"masks": tmp_path / "none"}, "no folder of masks"),
        (parquet, {"image_column": "picture"}, "no column 'picture'"),
        (tmp_path / "no.parquet", {}, "no file"),
        (tmp_path / "no.zip", {}, "neither a folder"),
        (demo_folder() / "pictures.csv", {}, "neither a folder"),
    ]:
        with pytest.raises(InputError, match=sentence):
            open_pictures(source, NAMES, 3, **arguments)
    with pytest.raises(InputError, match="class_map"):
        open_pictures(folder, ["a", "b", "c"], 3)
    with pytest.raises(InputError, match="none of the model's classes 0 to 2"):
        open_pictures(parquet, NAMES, 3, label_column="coarse")
