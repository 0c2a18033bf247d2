"""Activations that are kept on disk: computed once, the same rows again, and refused for anything else."""

import shutil
from collections import namedtuple

import pytest
import torch

from vitlens import InputError
from vitlens.features import train
from vitlens.features.training import fills, learner
from vitlens.workers import Stopped

#: 40 rows of a fill are four pictures of ten tokens: 11 pictures are three fills, and 224 rows need three passes.
SETTINGS = dict(k=4, n_features=48, n_rows=224, batch_rows=16, buffer_rows=40, batch_size=2, progress=False)
HOOKS = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


@pytest.fixture
def seen(monkeypatch):
    """The pictures that went through the model, one by one."""
    found, read = [], fills.read_places

    def reading(model, images, places):
        found.extend(images)
        return read(model, images, places)

    monkeypatch.setattr(fills, "read_places", reading)
    return found


@pytest.fixture
def fed(monkeypatch):
    """The rows that each learner was given."""
    found, step = [], learner.Learner.step

    def stepping(self, rows):
        found.append(rows[self.source.name].clone())
        step(self, rows)

    monkeypatch.setattr(learner.Learner, "step", stepping)
    return found


def test_each_picture_goes_through_the_model_once_and_for_later_trainings_never(model, images, seen, fed, tmp_path):
    train(model, images, HOOKS, shards=tmp_path, **SETTINGS)
    assert len(seen) == 11
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        f"rows_{i:05d}_0.safetensors" for i in range(3)
    ]
    first = train(model, images, HOOKS[1], shards=tmp_path, **SETTINGS | {"kind": "relu", "seed": 3})
    assert len(seen) == 11
    assert first.sae.hook == HOOKS[1]
    # The rows are those of the model, and a pass has nearly all of them: what is left over of a fill is not used.
    with torch.no_grad():
        rows = model.run_with_cache(images)[1][HOOKS[1]].flatten(0, 1).float()
    for given in fed[-14:]:
        distance = torch.cdist(given.float(), rows, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
        assert distance.max() < 1e-5
    one_pass = torch.cat(fed[-14 : -14 + 5]).float()
    assert len(torch.cdist(one_pass, rows).argmin(dim=1).unique()) == len(one_pass) == 80


def test_a_stopped_training_goes_on_with_the_same_rows(model, images, seen, monkeypatch, tmp_path):
    about = {"shards": tmp_path / "rows", **SETTINGS}
    whole = train(model, images, HOOKS, path=tmp_path / "whole", **about)
    for step in (1, 7):
        stopping = learner.Learner.step

        def fail(self, rows, step=step, stopping=stopping):
            if self.descent.n_steps == step:
                raise KeyboardInterrupt
            stopping(self, rows)

        shutil.rmtree(tmp_path / "rows")
        with monkeypatch.context() as patch:
            patch.setattr(learner.Learner, "step", fail)
            with pytest.raises((Stopped, KeyboardInterrupt)):
                train(model, images, HOOKS, path=tmp_path / f"cut{step}", **about)
        cut = train(model, images, HOOKS, path=tmp_path / f"cut{step}", **about)
        for hook in HOOKS:
            assert torch.equal(cut[hook].W_enc, whole[hook].W_enc)


@pytest.fixture(scope="module")
def kept(model, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    train(model, images, HOOKS[0], shards=folder, **SETTINGS)
    return folder


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokens": "class"}, "their tokens is all, not class"),
        ({"images": 9}, "their n_pictures is 11, not 9"),
        ({"hook": HOOKS[1]}, r"of blocks\.0\.hook_resid_post, not of blocks\.1\.hook_resid_post"),
        ({"buffer_rows": 50}, "their buffer_rows is 40, not 50"),
        ({"images": "function"}, "shards= needs pictures that have numbers"),
    ],
)
def test_other_activations_are_refused(model, images, kept, change, says):
    about = {"hook": HOOKS[0], "shards": kept, **SETTINGS} | {k: v for k, v in change.items() if k != "images"}
    given = change.get("images")
    pictures = (lambda: iter(images.split(3))) if given == "function" else images[:given]
    with pytest.raises(InputError, match=says):
        train(model, pictures, **about)


def test_a_broken_file_a_full_disk_and_a_folder_of_something_else(model, images, kept, monkeypatch, tmp_path):
    folder = shutil.copytree(kept, tmp_path / "broken")
    (folder / "rows_00001_0.safetensors").write_bytes(b"{}")
    with pytest.raises(InputError, match=r"rows_00001_0\.safetensors cannot be read .*delete it"):
        train(model, images, HOOKS[0], shards=folder, **SETTINGS)
    (folder / "rows_00001_0.safetensors").unlink()
    train(model, images, HOOKS[0], shards=folder, **SETTINGS)
    assert (folder / "rows_00001_0.safetensors").read_bytes() == (kept / "rows_00001_0.safetensors").read_bytes()
    (folder / "activations.json").write_text("[]")
    with pytest.raises(InputError, match=r"activations\.json cannot be read"):
        train(model, images, HOOKS[0], shards=folder, **SETTINGS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no activations"):
        train(model, images, HOOKS[0], shards=tmp_path / "mine", **SETTINGS)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(1000))
    with pytest.raises(InputError, match=r"needs about 0\.0 GB more"):
        train(model, images, HOOKS[0], shards=tmp_path / "new", **SETTINGS)
