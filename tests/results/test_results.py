"""Results in files: every kind is read by a Python that has not used it yet; settings are what they were; bad files."""

import importlib
import pkgutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import vitlens
from vitlens import InputError, Result, load_result
from vitlens.heatmaps import Heatmap
from vitlens.lens import ClassLens


def result(**settings):
    return Result(torch.arange(4.0).reshape(2, 2), {"image": [0, 1], "block": [0, 1]}, "logit", settings=settings)


@dataclass(frozen=True, repr=False)
class Users(Result):
    """A kind of result that vitlens does not know."""

    note: str = "none"
    parts: dict[str, torch.Tensor] = field(default_factory=dict)


def kinds(kind):
    return {kind, *(deeper for direct in kind.__subclasses__() for deeper in kinds(direct))}


def test_every_kind_of_result_is_public_in_its_chapter():
    for module in pkgutil.walk_packages(vitlens.__path__, "vitlens."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for kind in kinds(Result):
        package, *chapter = kind.__module__.split(".")[:2]
        if package == "vitlens":
            assert getattr(getattr(vitlens, chapter[0]), kind.__name__) is kind


def test_settings_and_labels_are_read_as_what_they_were(tmp_path):
    settings = {
        "nothing": None,
        "sizes": (14, (3, 4)),
        "by block": {0: "a", (1, 2): [True, None]},
        "looks like a mark": {"<tuple>": [1]},
        "infinite": float("-inf"),
        "weights": torch.tensor([[1.0, 2.0]]).t(),
        "array": np.arange(3),
    }
    kept = {
        "number": np.float32(0.5),
        "folder": Path("a/b"),
        "dtype": torch.float16,
        "names": {"b", "a"},
        "all": range(3),
    }
    shared = torch.arange(6.0).reshape(2, 3)
    axes = {"place": [("x", 1), np.int64(2)], "step": ["é", 1.5, False]}
    before = Users(
        shared, axes, "logit", settings=settings | kept, note="mine", parts={"rest": shared[1], "all": shared}
    )
    before.save(tmp_path / "users.safetensors")
    again = load_result(tmp_path / "users.safetensors")
    assert type(again) is Users
    assert again.axes == {"place": [("x", 1), 2], "step": ["é", 1.5, False]}
    assert type(again.axes["place"][1]) is int
    for name in ("weights", "array"):
        assert type(again.settings[name]) is type(settings[name])
        assert (again.settings.pop(name) == settings.pop(name)).all()
    plain = {"number": 0.5, "folder": "a/b", "dtype": "float16", "names": ["a", "b"], "all": [0, 1, 2]}
    assert again.settings == settings | plain
    assert torch.equal(again.parts["rest"], shared[1])
    assert torch.equal(again.values, again.parts["all"])
    result(share=float("nan")).save(tmp_path / "nan.safetensors")
    assert np.isnan(load_result(tmp_path / "nan.safetensors").settings["share"])
    # Read by others, too.
    assert (tmp_path / "nan.safetensors").stat().st_mode & 0o444 == 0o444


def test_what_cannot_be_saved_is_a_sentence_and_nothing_is_left(tmp_path):
    endings = r"should end in \.safetensors, \.csv, \.parquet, \.json, \.html, \.htm, \.png, \.svg or \.pdf"
    wrong = {
        "lens.pt": endings,
        "lens": endings,
        "lens.gz": endings,
        "none/lens.safetensors": "there is no folder",
        "x" * 300 + ".csv": "too long",
        "folder.csv": "is a folder",
    }
    (tmp_path / "folder.csv").mkdir()
    for name, sentence in wrong.items():
        with pytest.raises(InputError, match=sentence):
            result().save(tmp_path / name)
    with pytest.raises(
        InputError, match=r"settings\['how'\]\[1\] is a builtin_function_or_method, which no file keeps"
    ):
        result(how=[1, len]).save(tmp_path / "lens.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


def test_equal_results_are_equal_files(tmp_path):
    """Also after other processes: safetensors writes several entries of metadata in any order."""
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    for path in (one, other):
        result(how="as before").save(path)
    assert one.read_bytes() == other.read_bytes()


def test_what_is_no_result_is_a_sentence(tmp_path):
    good = tmp_path / "good.safetensors"
    result().save(good)
    files = {
        "empty": b"",
        "cut off": good.read_bytes()[:-5],
        "cut short": good.read_bytes()[:50],
        "text": b"no tensors here, only words that go on and on",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    save_file({"weight": torch.zeros(2)}, tmp_path / "weights")
    kind = "vitlens.results.Result"
    broken = {
        "shapes": {kind: '{"axes": {"image": [0]}, "quantity": "logit", "settings": {}}'},
        "unknown field": {kind: '{"axes": {"a": [0, 1]}, "quantity": "x", "colour": 1}'},
        "no json": {kind: "{"},
        "unknown": {"Popen": "{}"},
    }
    for name, metadata in broken.items():
        save_file({"values": torch.zeros(2)}, tmp_path / name, metadata)
    wrong = {
        "empty": "is no safetensors file: it is empty",
        "cut off": "it is cut off or of another kind",
        "cut short": "it is cut off or of another kind",
        "text": "it is cut off or of another kind",
        "weights": "is no saved vitlens result",
        "shapes": "of another version of vitlens, or a broken one",
        "unknown field": "of another version of vitlens, or a broken one",
        "no json": "of another version of vitlens, or a broken one",
        "unknown": "is no saved vitlens result",
        "missing": "there is no file",
        ".": "is a folder",
        "a\0b": "there is no file|cannot be opened|the path of a file",
    }
    for name, sentence in wrong.items():
        with pytest.raises(InputError, match=sentence):
            load_result(tmp_path / name)
    for kind in (ClassLens, Heatmap):
        with pytest.raises(InputError, match=f"holds a Result, not a {kind.__name__}"):
            load_result(good, kind)
