"""Whatever Pillow raises is one sentence; a data set goes on without such a picture and lists it."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image, PngImagePlugin

from vitlens import InputError
from vitlens.data.decoded_batches import PictureBatch, decode_rows
from vitlens.data.picture_sets import open_pictures
from vitlens.data.pictures import load_picture
from vitlens.demo import load_demo_model
from vitlens.errors import printable
from vitlens.model.runs.picture_batches import PictureBatches

ODD = b"caf\xe9.png"


@pytest.fixture(scope="module")
def model():
    return load_demo_model()


def png(width: int, height: int, length: int = 13, extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)[:length]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IEND", b"")


def noise(side: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8))


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def too_much_text() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 10), zip=True)
    return saved(noise(), "PNG", pnginfo=info)


BROKEN = {
    "bomb.png": png(40000, 40000),
    "large.png": png(10000, 9001),
    "huge.png": png(2**31 - 1, 2**31 - 1),
    "no_pixels.png": png(0, 0),
    "cut_header.png": png(8, 8, 9),
    "no_data.png": png(8, 8),
    "bomb.ppm": b"P6 99999999 99999999 255\n",
    "text.png": too_much_text(),
    "cut.png": saved(noise(), "PNG")[:900],
    "cut.jpg": saved(noise(), "JPEG")[:700],
    "cut.tif": saved(noise(), "TIFF")[:300],
    "cut.gif": saved(noise(), "GIF")[:300],
    "empty.png": b"",
    "words.png": b"no picture",
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore:Truncated")
def test_files(unchecked, model, tmp_path):
    for name, content in BROKEN.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    reasons = {
        **dict.fromkeys(BROKEN, "is not a picture that Pillow can read"),
        "pipe.png": r"it is a pipe\)",
        "folder.png": r"it is a folder\)",
        "loop.png": "symbolic links",
        "missing.png": "there is no file",
        "words.png/missing.png": "there is no file",
        "nul\0.png": "null byte",
        "long" * 100 + ".png": "too long",
    }
    for name, reason in reasons.items():
        for read in (model.to_images, model.as_images, model.to_masks, lambda path: model.to_images([path, path])):
            with pytest.raises(InputError, match=reason):
                read(str(tmp_path / name))
    with pytest.raises(InputError, match=r"it is a device\)"):
        model.to_images(os.devnull)
    with pytest.raises(InputError, match="10000 × 9001 pixels, more than 89,478,485"):
        model.to_images(tmp_path / "large.png")


def test_pillows_own_pictures(unchecked, model, tmp_path):
    (tmp_path / "cut.png").write_bytes(BROKEN["cut.png"])
    noise().save(tmp_path / "whole.png")
    closed = Image.open(tmp_path / "whole.png")
    closed.close()
    emptied = noise()
    emptied.close()
    for picture in (Image.open(tmp_path / "cut.png"), closed, emptied):
        for read in (model.to_images, model.as_images, model.to_masks, lambda picture: model.as_images([picture])):
            with pytest.raises(InputError, match="the PIL picture cannot be read"):
                read(picture)


def test_what_is_no_picture(unchecked, model):
    images = torch.zeros(1, 3, 56, 56)
    wrong = {
        "not NoneType": [None, [None]],
        "not int": [7, [7]],
        "not float": [1.5],
        "not dict": [{}, {"image": "a.png"}],
        "not Tensor": [[images[0]]],
        "there are no pictures": [[], (), images[:0]],
        "sparse": [images.to_sparse()],
        "meta": [images.to("meta")],
        "nested": [torch.nested.nested_tensor([images[0], images[0]])],
        "shape": [torch.zeros(56), torch.zeros(1, 1, 3, 56, 56)],
    }
    for sentence, several in wrong.items():
        for given in several:
            with pytest.raises(InputError, match=sentence):
                model.as_images(given)
            with pytest.raises(InputError, match=sentence):
                model.as_pair(images, given)
    for given in wrong["sparse"] + wrong["meta"] + wrong["nested"]:
        with pytest.raises(InputError, match="dense tensor"):
            model(given)
    for source, sentence in ((None, "not NoneType"), (3, "not int"), ([], "no pictures"), (images[:0], "no pictures")):
        with pytest.raises(InputError, match=sentence):
            list(PictureBatches(model, source, 2))
    for size in (0, True, 1.5, "2"):
        with pytest.raises(InputError, match="at least 1"):
            PictureBatches(model, images, size)


def test_photographs_are_turned_as_their_tag_says(model, tmp_path):
    upright = noise(64).crop((0, 0, 64, 40))
    undo = {
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
        5: Image.Transpose.TRANSPOSE,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
    }
    expected = model.to_images(upright)
    inside = upright.convert("L").point(lambda value: 255 * (value > 100))
    mask = model.to_masks(inside)
    for orientation, turn in undo.items():
        tag = Image.Exif()
        tag[0x0112] = orientation
        lying = tmp_path / f"{orientation}.png"
        upright.transpose(turn).save(lying, exif=tag)
        assert load_picture(lying)[0].size == (64, 40)
        for picture in (lying, Image.open(lying)):
            assert torch.equal(model.to_images(picture), expected)
        inside.transpose(turn).save(tmp_path / "mask.png", exif=tag)
        assert torch.equal(model.to_masks(tmp_path / "mask.png"), mask)
        assert torch.equal(model.to_masks(Image.open(tmp_path / "mask.png")), mask)
    tag = Image.Exif()
    tag[0x0112] = 77
    upright.save(tmp_path / "odd.png", exif=tag)
    assert torch.equal(model.to_images(tmp_path / "odd.png"), expected)
    upright.save(tmp_path / "broken.png", exif=b"Exif\0\0no tags at all")
    assert torch.equal(model.to_images(tmp_path / "broken.png"), expected)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore:Truncated")
def test_a_data_set_goes_on_without_them(model, tmp_path):
    folder = tmp_path / "pictures" / "0"
    folder.mkdir(parents=True)
    for name, content in BROKEN.items():
        (folder / name).write_bytes(content)
    noise().save(folder / "whole.png")
    with open(os.fsencode(folder) + b"/" + ODD, "wb") as file:
        noise().save(file, "PNG")
    (folder / "odd\n\x1b.png").write_bytes(BROKEN["cut.png"])
    for streaming in (False, True):
        pictures = open_pictures(tmp_path / "pictures", None, 10, streaming=streaming)
        rows = [row for _, rows in pictures.chunks(100) for row in rows]
        batch = decode_rows(rows, 0, model.preprocessing, (14, 14), with_masks=False)
        assert isinstance(batch, PictureBatch)
        assert {path.rsplit("/", 1)[-1] for path in batch.paths} == {"whole.png", r"caf\xe9.png"}
        assert len(batch.skipped) == len(BROKEN) + 1
        for item in batch.skipped:
            assert printable(item.path) == item.path
            item.reason.encode()
        batches = PictureBatches(model, pictures, 5)
        assert sum(len(part.images) for part in batches) == 2
        assert len(batches.skipped) == len(BROKEN) + 1
    table = Dataset.from_dict({"image": [None, {"bytes": b"", "path": None}], "label": [0, 1]})
    table.to_parquet(tmp_path / "table.parquet")
    rows = [row for _, rows in open_pictures(tmp_path / "table.parquet", None, 2).chunks(9) for row in rows]
    skipped = decode_rows(rows, 0, model.preprocessing, (14, 14), with_masks=False)
    assert [item.reason for item in skipped] == ["there is no picture in this row", skipped[1].reason]


def test_names_that_are_no_utf_8():
    assert printable(os.fsdecode(ODD)) == r"caf\xe9.png"
    assert printable("a\x1b[31m\ud800é 猫\u202f\n") == "a\\x1b[31m\\ud800é 猫\u202f\n"
    with pytest.raises(InputError) as caught:
        load_picture(os.fsdecode(ODD))
    assert str(caught.value) == r"there is no file caf\xe9.png"
