"""A training that was stopped anywhere goes on and ends with the same bytes; a folder of another training is refused."""

import filecmp
import json
import signal
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
import torch
from ported import borrow
from torch.utils.data import DataLoader

from vitlens import InputError
from vitlens.data.picture_sets import open_pictures
from vitlens.features import read_training_settings, train
from vitlens.features.training import checkpoints, fills, learner, sparse_part
from vitlens.model.runs.picture_batches import PictureBatches
from vitlens.workers import Stopped

#: 40 rows of a fill are four pictures of ten tokens: 11 pictures are three fills, of 2, 2 and 1 steps.
SETTINGS = dict(
    k=4, n_features=48, n_rows=224, batch_rows=16, buffer_rows=40, dead_after=48, batch_size=2, progress=False
)
HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from torchvision.transforms.functional import to_pil_image

    path = tmp_path_factory.mktemp("pictures")
    for i, pixels in enumerate(torch.rand(11, 3, 48, 48, generator=torch.Generator().manual_seed(1))):
        to_pil_image(pixels).save(path / f"{i % 10}_{i}.png")
    return path


def sources(images, folder):
    return {
        "tensor": lambda: images,
        "picture set": lambda: open_pictures(folder, None, 10),
        "data loader": lambda: DataLoader(images, batch_size=3),
        "function": lambda: lambda: iter(images.split(3)),
    }


def files_of(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def same_files(one: Path, other: Path) -> None:
    assert files_of(one) == files_of(other)
    different = [name for name in files_of(one) if not filecmp.cmp(one / name, other / name, shallow=False)]
    assert not different


class Killed(Exception):
    pass


def end():
    raise Killed


def interrupt():
    signal.raise_signal(signal.SIGINT)


@contextmanager
def in_call(owner, name, call, do):
    """Does something at the beginning of the n-th call of a function."""
    calls = count()
    before = getattr(owner, name)

    def run(*args, **kwargs):
        if next(calls) == call:
            do()
        return before(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, run)
        yield


@pytest.mark.parametrize(
    ("source", "kind"),
    [("tensor", "topk"), ("picture set", "batchtopk"), ("data loader", "jumprelu"), ("function", "relu")],
)
def test_a_killed_training_ends_with_the_same_bytes(model, images, folder, tmp_path, monkeypatch, source, kind):
    """Killed at once, within a fill, at its last step, between fills (while the model runs), and in a later pass."""
    make = sources(images, folder)[source]
    wanted = SETTINGS | {"kind": kind, "revive": "resample" if kind == "batchtopk" else "auxk"}
    monkeypatch.setattr(sparse_part, "DEAD_EVERY", 2)
    train(model, make(), ("resid_post", 1), path=tmp_path / "whole", **wanted)
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    places = [(learner.Learner, "step", 3), (fills, "read_places", 3), (learner.Learner, "step", 1)]
    places += [(fills, "read_places", 8), (learner.Learner, "step", 2)] if source == "tensor" else []
    for owner, name, call in places:
        with in_call(owner, name, call, end), pytest.raises(Killed):
            train(model, make(), ("resid_post", 1), path=tmp_path / "cut", **wanted)
        assert (tmp_path / "cut" / "state.pt").exists()
    trained = train(model, make(), ("resid_post", 1), path=tmp_path / "cut", **wanted)
    if kind != "relu":
        assert trained.history.values[..., -1].max() > 0, "nothing was dead, so nothing was revived"
    same_files(tmp_path / "whole", tmp_path / "cut")


def test_ctrl_c_keeps_the_step_that_it_was_in(model, images, tmp_path):
    train(model, images, ("resid_post", 1), path=tmp_path / "whole", **SETTINGS)
    for owner, name, call in [(learner.Learner, "step", 3), (fills, "read_places", 1)]:
        handler = signal.getsignal(signal.SIGINT)
        stopped = pytest.raises(Stopped, match=r"stopped after 4 of 14 steps.*same call")
        with in_call(owner, name, call, interrupt), stopped:
            train(model, images, ("resid_post", 1), path=tmp_path / "cut", **SETTINGS)
        assert signal.getsignal(signal.SIGINT) is handler
    train(model, images, ("resid_post", 1), path=tmp_path / "cut", **SETTINGS)
    same_files(tmp_path / "whole", tmp_path / "cut")


@pytest.fixture(scope="module")
def done(model, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("done") / "out"
    return out, train(model, images, ["resid_post0", "resid_post1"], path=out, **SETTINGS)


def test_a_finished_folder_gives_its_dictionaries_again(model, images, done):
    out, trained = done
    before = {name: (out / name).stat().st_mtime_ns for name in files_of(out) if name.name != "training.json"}
    with in_call(learner.Learner, "step", 0, end):
        again = train(model, images, ["resid_post0", "resid_post1"], path=out, **SETTINGS)
    assert list(again) == list(trained) == ["blocks.0.hook_resid_post", HOOK]
    assert torch.equal(again.history.values, trained.history.values)
    for hook in trained:
        assert torch.equal(again[hook].W_enc, trained[hook].W_enc)
        assert torch.equal(again[hook].log_sparsity, trained[hook].log_sparsity)
        assert again[hook].hook == hook
    assert before == {name: (out / name).stat().st_mtime_ns for name in before}


def test_a_folder_of_another_training_is_refused_and_the_difference_named(model, images, done, tmp_path):
    out, _ = done
    hooks = ["resid_post0", "resid_post1"]
    other = images.clone()
    other[0] += 1
    with borrow("registers") as another:
        for call, difference in [
            (lambda: train(model, images, hooks, path=out, **SETTINGS | {"k": 5}), "its k is 4, not 5"),
            (lambda: train(model, other, hooks, path=out, **SETTINGS), "its pictures is"),
            (lambda: train(model, images[:9], hooks, path=out, **SETTINGS), "its n_pictures is 11, not 9"),
            (lambda: train(model, images, hooks[:1], path=out, **SETTINGS), "its hooks is"),
            (lambda: train(model, images, hooks, tokens="class", path=out, **SETTINGS), "its tokens is all, not class"),
            (lambda: train(another, images, hooks, path=out, **SETTINGS), "its weights is"),
        ]:
            with pytest.raises(InputError, match=difference):
                call()
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no training"):
        train(model, images, hooks, path=tmp_path, **SETTINGS)
    assert files_of(tmp_path) == [Path("note.txt")]


def test_the_settings_of_a_folder_train_the_same_dictionary_again(model, images, done):
    out, trained = done
    settings = read_training_settings(out)
    again = train(model, images, HOOK, progress=False, batch_size=2, **settings | {"seed": settings["seed"] + 1})
    assert torch.equal(again.sae.W_enc, trained[HOOK].W_enc) is False
    first = train(model, images, "resid_post0", progress=False, batch_size=2, **settings)
    assert torch.equal(first.sae.W_enc, trained["blocks.0.hook_resid_post"].W_enc)
    written = json.loads((out / HOOK / "cfg.json").read_text())["metadata"]
    assert written["training"] == settings
    assert {"model", "weights", "preprocessing", "tokens", "n_pictures", "vitlens", "hook_name"} <= set(written)
    with pytest.raises(InputError, match="is not the settings of a training"):
        read_training_settings(out / "history.safetensors")


def test_an_iterator_that_ends_early_loses_nothing(model, images, tmp_path, caplog):
    trained = train(model, iter(images.split(3)), HOOK, path=tmp_path / "out", **SETTINGS)
    assert "the pictures ended after 6 of 14 steps" in caplog.text
    assert trained.history.axes["row"][-1] == 6 * 16
    iterator = iter(images.split(3))
    with pytest.raises(InputError, match="gave none when it was asked again"):
        train(model, lambda: iterator, HOOK, **SETTINGS)


def test_a_loader_that_shuffles_goes_on_and_says_so(model, images, tmp_path, monkeypatch, caplog):
    shuffling = DataLoader(images, batch_size=3, shuffle=True)
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    with in_call(learner.Learner, "step", 3, end), pytest.raises(Killed):
        train(model, shuffling, HOOK, path=tmp_path, **SETTINGS)
    torch.manual_seed(100)
    train(model, shuffling, HOOK, path=tmp_path, **SETTINGS)
    assert "in another order than before" in caplog.text


def test_activations_and_losses_that_are_not_finite_are_refused(model, images, tmp_path, monkeypatch):
    def overflowing(model, images, places):
        found = before(model, images, places)
        if (images[-1] == eighth).all():
            found[HOOK][-1, 3, 0] = torch.inf
        return found

    eighth, before = images[7], fills.read_places
    monkeypatch.setattr(fills, "read_places", overflowing)
    with pytest.raises(InputError, match=r"not finite for picture 7 \(counted from 0\)"):
        train(model, DataLoader(images, batch_size=2), HOOK, **SETTINGS)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"loss of blocks\.1\.hook_resid_post is not finite at step"):
        train(model, images, HOOK, path=tmp_path, **SETTINGS | {"lr": 1e30})
    assert files_of(tmp_path) == [Path("training.json")]


def test_a_picture_source_is_told_by_its_contents(model, images):
    of = {n: fills.some_pictures(PictureBatches(model, images[:n], 4)) for n in (1, 2, 11)}
    assert len(set(of.values())) == 3
    assert fills.some_pictures(PictureBatches(model, DataLoader(images), 4)) is None
