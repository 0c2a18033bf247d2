"""A picture is shown again only where its number means the same picture: what shuffles, streams or may differ shows none."""

import numpy as np
import pytest
import torch
from PIL import Image

from vitlens import InputError
from vitlens.data.picture_sets import open_pictures
from vitlens.features import SparseAutoencoder, top_patches
from vitlens.model.runs import picture_batches
from vitlens.model.runs.picture_batches import PictureBatches

HOOK = "blocks.1.hook_resid_post"

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*")


@pytest.fixture
def folder(tmp_path):
    """Seven files of different noise, the second of which is no picture."""
    generator = np.random.default_rng(0)
    (tmp_path / "0").mkdir()
    for i in range(7):
        path = tmp_path / "0" / f"{i}.png"
        Image.fromarray(generator.integers(0, 255, (60, 60, 3), dtype=np.uint8)).save(path)
    (tmp_path / "0" / "1.png").write_bytes(b"nothing")
    return tmp_path


class Counted(list):
    """A list of batches that counts how many are read."""

    n_read = 0

    def __iter__(self):
        for item in super().__iter__():
            self.n_read += 1
            yield item


def loader_of(images):
    data = torch.utils.data.TensorDataset(images, torch.arange(len(images)))
    return torch.utils.data.DataLoader(data, batch_size=2, shuffle=True)


def test_tensors_files_lists_and_sets_give_the_pictures_of_their_numbers(plain, images_of, folder):
    images = images_of(plain, 7)
    paths = [folder / "0" / f"{i}.png" for i in (0, 2, 3, 4, 5, 6)]
    files = plain.to_images(paths)
    for source, pictures in (
        (images, images),
        ([images[:3], images[3:]], images),
        (((images[:3], torch.arange(3)), (images[3:], torch.arange(4))), images),
        (paths, files),
    ):
        found = dict(PictureBatches(plain, source, 2).by_number([5, 0, 3]))
        assert list(found) == [0, 3, 5]
        assert all(torch.equal(found[number], pictures[number]) for number in found)
        assert not dict(PictureBatches(plain, source, 2).by_number([]))


def test_of_a_list_no_more_batches_are_read_than_needed(plain, images_of):
    batches = Counted(images_of(plain, 12).split(2))
    assert [number for number, _ in PictureBatches(plain, batches, 2).by_number([0, 3])] == [0, 3]
    assert batches.n_read <= 3, "one to see what they are, and those that hold 0 and 3"


def test_of_a_picture_set_single_rows_are_decoded(plain, folder, monkeypatch):
    batches = PictureBatches(plain, open_pictures(folder, None, 10), 4)
    every = {number: image for batch in batches for number, image in zip(batch.ids.tolist(), batch.images, strict=True)}
    assert sorted(every) == [0, 2, 3, 4, 5, 6]
    skipped = list(batches.skipped)
    assert len(skipped) == 1
    decoded = []

    def decode_rows(rows, *args, **options):
        decoded.extend(row["path"] for row in rows)
        return original(rows, *args, **options)

    original = picture_batches.decode_rows
    monkeypatch.setattr(picture_batches, "decode_rows", decode_rows)
    found = dict(batches.by_number([6, 1, 2]))
    assert [path[-5:] for path in decoded] == ["1.png", "2.png", "6.png"]
    assert list(found) == [2, 6], "what cannot be read is left out"
    assert all(torch.equal(found[number], every[number]) for number in found)
    assert batches.skipped == skipped, "what was skipped in the run stays noted"


def test_what_may_give_other_pictures_gives_none(plain, images_of, folder, monkeypatch):
    images = images_of(plain, 6)
    started = []

    def function():
        started.append(True)
        return iter([images])

    stream = open_pictures(folder, None, 10, streaming=True)
    monkeypatch.setattr(type(stream), "chunks", lambda *args: pytest.fail("a stream is not read again"))
    for source in (loader_of(images), function, iter([images]), stream):
        assert not dict(PictureBatches(plain, source, 2).by_number([0, 3]))
    assert not started


def test_top_patches_of_a_shuffling_loader_show_no_picture_rather_than_another(plain, images_of, weights_of):
    sae = SparseAutoencoder.from_arrays(**weights_of(32), activation="topk", k=5)
    images = images_of(plain, 6)
    about = {"hook": HOOK, "sae": sae, "k": 2, "progress": False}
    kept = top_patches(plain, images, **about)
    assert set(kept.kept) == set(kept.images[kept.images >= 0].tolist())
    shuffled = top_patches(plain, loader_of(images), **about)
    assert shuffled.kept == []
    with pytest.raises(InputError, match=r"keeps no pictures, .*a data loader.*: pass pixels_of="):
        shuffled.plot()
    assert shuffled.plot(pixels_of=lambda number: torch.zeros(32, 32, 3, dtype=torch.uint8)).data
