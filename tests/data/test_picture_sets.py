"""Every kind of source gives the same rows; masks follow their pictures; mistakes are said in a sentence."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from timm.data import ImageNetInfo
from timm.data.readers.reader_image_folder import find_images_and_targets
from timm.models import create_model

from vitlens import HookedViT, InputError
from vitlens.data.decoded_batches import PictureBatch, decode_rows, reduce_mask
from vitlens.data.imagenet_s import EXCLUDED
from vitlens.data.picture_sets import open_pictures
from vitlens.demo import demo_folder, load_demo_model

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
    assert len(rows_of(open_pictures(folder, NAMES, 3, streaming=streaming, n_images=4))) == 4


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
        mask[24:, :, 0], mask[24:, :, 1] = 1000 % 256, 1000 // 256  # it is not known which
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
    around = batch.context_patches.unflatten(1, (14, 14))
    assert not around[:, :7].any()
    assert around[:, 7:10].all()
    assert not around[:, 11:].any()
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


def labels_by_folder(pictures):
    return {row["path"].split("/")[-2]: row["label"] for row in rows_of(pictures)}


def folders(root, names):
    for i, name in enumerate(names):
        (root / name).mkdir(parents=True)
        picture(i).save(root / name / "a.png")
    return root


def test_folders_that_are_called_by_numbers(tmp_path):
    grades = folders(tmp_path / "grades", ["1", "2"])
    assert labels_by_folder(open_pictures(grades, ["1", "2", "3"], 3)) == {"1": 0, "2": 1}
    assert labels_by_folder(open_pictures(grades, ["zero", "one", "two"], 3)) == {"1": 1, "2": 2}
    assert labels_by_folder(open_pictures(grades, None, 3)) == {"1": 1, "2": 2}
    with pytest.raises(InputError, match="'2' is not, so it is not clear"):
        open_pictures(grades, ["1", "one", "three"], 3)
    years = folders(tmp_path / "years", ["1999", "2001", "900"])
    found = open_pictures(years, None, 3)
    assert labels_by_folder(found) == {"900": 0, "1999": 1, "2001": 2}
    assert found.label_names == ["900", "1999", "2001"]
    with pytest.raises(InputError, match="are not the names"):
        open_pictures(years, None, 4)


def test_folders_count_as_timm_counts_them(tmp_path):
    names = ["class1", "class10", "class2", "Class3", "b2", "b10"]
    root = folders(tmp_path, names)
    theirs = find_images_and_targets(str(root))[1]
    for streaming in (False, True):
        found = open_pictures(root, None, 6, streaming=streaming)
        assert labels_by_folder(found) == theirs
        assert [theirs[name] for name in found.label_names] == list(range(6))
    numbers = folders(tmp_path / "numbers", [str(i) for i in range(11)])
    found = open_pictures(numbers, None, 11)
    assert labels_by_folder(found) == {str(i): i for i in range(11)}
    assert found.label_names == [str(i) for i in range(11)]


def test_labels_that_are_no_classes(tmp_path):
    for labels, sentence in (
        ([0, -1], "the label -1 of"),
        ([0, 5], "5 of"),
        ([0.0, 1.5], "the label 0.0 of .* no whole number"),
        ([0, None], "None of"),
        (["cat", "dog"], "'cat' of .* no whole number"),
        ([True, False], "True of .* no whole number"),
    ):
        table = Dataset.from_dict({"image": [png(0), png(1)], "label": labels})
        table.cast_column("image", Image()).to_parquet(tmp_path / "table.parquet")
        with pytest.raises(InputError, match=sentence):
            open_pictures(tmp_path / "table.parquet", None, 5)
    features = Features({"image": Image(), "label": ClassLabel(names=["dog", "cat"])})
    Dataset.from_dict({"image": [png(0)], "label": [-1]}, features=features).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(InputError, match=r"label -1 of .* none of the data set's 2 labels"):
        open_pictures(tmp_path / "table.parquet", NAMES, 3)


def test_class_maps_that_are_wrong(unchecked, folder, tmp_path):
    bom = b"\xef\xbb\xbf"
    (tmp_path / "map.json").write_bytes(bom + json.dumps({"dog": 1, "cat": 0, "red_fox": 2}).encode())
    assert rows_of(open_pictures(folder, NAMES, 3, class_map=tmp_path / "map.json"))[0]["label"] == 0
    (tmp_path / "map.csv").write_bytes(bom + b"dog,1\ncat,0\nred_fox,2\n")
    assert rows_of(open_pictures(folder, NAMES, 3, class_map=tmp_path / "map.csv"))[0]["label"] == 0
    for name, text, sentence in (
        ("map.csv", "dog,1\ncat,0\ndog,2\n", "says twice which class 'dog' is"),
        ("map.json", '{"dog": 1, "dog": 2}', "says twice which class 'dog' is"),
        ("map.json", '{"dog": 1.9}', "a whole number, or by its name"),
        ("map.json", '{"dog": true}', "a whole number, or by its name"),
        ("map.json", "[1, 2]", "no map from labels"),
        ("map.csv", "dog,\n", "no class is called ''"),
        ("map.csv", "dog\n", "no map from labels"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=sentence):
            open_pictures(folder, NAMES, 3, class_map=tmp_path / name)


def mask_of(row) -> int:
    return int(np.asarray(PILImage.open(row["mask"]["path"])).max())


def test_masks_lie_at_the_paths_of_their_pictures(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate(["dog", "cat", "red_fox"]):
        for root in ("masks", "split/masks/test"):
            (tmp_path / root / name).mkdir(parents=True)
            for i in range(3 - k):
                PILImage.new("L", (16, 20), 100 * k + i + 1).save(tmp_path / root / name / f"{i}.png")
    (tmp_path / "link").symlink_to(folder)
    shutil.copytree(folder, tmp_path / "split" / "pictures" / "test")
    expected = [101, 102, 1, 2, 3, 201]
    for source in (
        folder,
        str(folder),
        "pictures",
        "./pictures",
        "pictures/",
        "split/../pictures",
        tmp_path / "link",
        "link",
    ):
        for masks in ("masks", "./masks/", tmp_path / "masks"):
            rows = rows_of(open_pictures(source, NAMES, 3, masks=masks))
            assert [mask_of(row) for row in rows] == expected, (source, masks)
    for masks in ("split/masks", "split/masks/test"):
        for streaming in (False, True):
            found = open_pictures("split/pictures", NAMES, 3, masks=masks, streaming=streaming)
            assert [mask_of(row) for row in rows_of(found)] == expected


def test_a_mask_is_that_of_one_picture(folder, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for i in range(3):
        PILImage.new("L", (16, 20), 255).save(flat / f"{i}.png")
    with pytest.raises(InputError, match=r"0\.png would be the mask of both .*0\.png and .*0\.png: put the masks"):
        open_pictures(folder, NAMES, 3, masks=flat)
    with pytest.raises(InputError, match="the mask of both"):
        rows_of(open_pictures(folder, NAMES, 3, masks=flat, streaming=True))
    shutil.copytree(folder / "dog", tmp_path / "one" / "dog")
    assert len(rows_of(open_pictures(tmp_path / "one", NAMES, 3, masks=flat))) == 3
    (tmp_path / "one" / "cat").symlink_to(folder / "cat")
    with pytest.raises(InputError, match="cat is a link to a folder"):
        open_pictures(tmp_path / "one", NAMES, 3)
    PILImage.new("L", (16, 20), 255).save(flat / "1.bmp")
    with pytest.raises(InputError, match="may both be the mask of one picture"):
        open_pictures(folder, NAMES, 3, masks=flat)


def test_masks_of_a_data_set_follow_the_rule(tmp_path):
    """Void, chosen ids and floats as everywhere; a mask that says nothing of an object, or has another shape, is listed."""
    model = load_demo_model()
    ids = np.zeros((56, 56), dtype=np.uint8)
    ids[:28], ids[28:32], ids[40:] = 5, 255, 7
    noise = np.random.default_rng(0).integers(0, 255, (56, 56), dtype=np.uint8)
    masks = {
        "ids.png": PILImage.fromarray(ids),
        "soft.tiff": PILImage.fromarray((ids == 5) * np.float32(0.4) + np.float32(0.2)),
        "noise.png": PILImage.fromarray(noise),
        "turned.png": PILImage.new("L", (20, 56), 255),
    }
    (tmp_path / "pictures").mkdir()
    (tmp_path / "masks").mkdir()
    for name, mask in masks.items():
        picture(0, (56, 56)).save(tmp_path / "pictures" / f"0_{name.split('.')[0]}.png")
        mask.save(tmp_path / "masks" / f"0_{name}")
    cut = model.patch_grid()
    for object_id, first in ((None, 14 * 7 + 14 * 4), (5, 14 * 7)):
        rows = rows_of(open_pictures(tmp_path / "pictures", None, 10, masks=tmp_path / "masks", object_id=object_id), 9)
        batch = decode_rows(rows, 0, model.preprocessing, cut, with_masks=True)
        n = {path.split("_")[-1]: i for i, path in enumerate(batch.paths)}
        assert batch.object_patches[n["ids.png"]].sum() == first
        assert batch.context_patches[n["ids.png"]].sum() == 14 * 13 - first
        reasons = {item.path.split("_")[-1]: item.reason for item in batch.skipped}
        assert "mask is 20 × 56 pixels" in reasons["turned.png"]
        if object_id is None:
            assert batch.object_patches[n["soft.png"]].sum() == 14 * 7
            assert "grey values" in reasons["noise.png"]
        else:
            assert "class id 5 is looked up" in reasons["soft.png"]


def test_groups_are_read_as_text(tmp_path):
    features = Features(
        {
            "image": Image(),
            "label": Value("int64"),
            "place": ClassLabel(names=["land", "water"]),
            "group": Value("int64"),
        }
    )
    rows = {"image": [png(i) for i in range(3)], "label": [0, 1, 0], "place": [1, 0, 1], "group": [4, 4, 7]}
    path = tmp_path / "table.parquet"
    Dataset.from_dict(rows, features=features).to_parquet(path)
    about = {"class_names": NAMES, "n_classes": 3}
    for streaming in (False, True):
        by_place = rows_of(open_pictures(path, **about, group_column="place", streaming=streaming))
        assert [row["group"] for row in by_place] == ["water", "land", "water"]
        assert [row["group"] for row in rows_of(open_pictures(path, **about, streaming=streaming))] == ["4", "4", "7"]
    with pytest.raises(InputError, match="there is no column 'places'"):
        open_pictures(path, **about, group_column="places")
    demo = rows_of(open_pictures("demo", None, 10, n_images=4))
    assert [row["group"] for row in demo] == ["agreeing", "conflicting"] * 2
    missing = tmp_path / "missing.parquet"
    empty = {"image": [png(0)], "label": [0], "group": [None]}
    Dataset.from_dict(
        empty, features=Features({"image": Image(), "label": Value("int64"), "group": Value("string")})
    ).to_parquet(missing)
    with pytest.raises(InputError, match="row 0 has no group"):
        rows_of(open_pictures(missing, **about))


def test_a_folder_without_groups_has_none(folder):
    assert "group" not in rows_of(open_pictures(folder, NAMES, 3))[0]
