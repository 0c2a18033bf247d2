"""A folder that holds a run: damaged and foreign records, pictures that have changed, other processes, unlucky names."""

import builtins
import filecmp
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from vitlens import InputError
from vitlens.data import picture_list
from vitlens.data.cache_folder import cache_folder
from vitlens.demo import demo_folder, load_demo_model
from vitlens.files import LOCK, only_process_in
from vitlens.paper import results
from vitlens.paper import run as study_run
from vitlens.paper.run import run_study
from vitlens.paper.settings import StudySettings
from vitlens.workers import Stopped

QUICK = StudySettings(batch_size=4, n_steps=2, n_bootstrap=10, n_permutations=10, n_random_models=0, n_random_orders=1)
NAMES = ["residual_composition"]


@pytest.fixture(scope="module")
def model():
    return load_demo_model()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Nine pictures of two classes in folders, their masks, and a map from folders to classes."""
    folder = tmp_path_factory.mktemp("data")
    files = sorted((demo_folder() / "pictures").iterdir())
    for i, path in enumerate(files[:9]):
        for kind in ("pictures", "masks"):
            target = folder / kind / "ab"[i % 2]
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(demo_folder() / kind / path.name, target / f"{i}.png")
    (folder / "map.json").write_text(json.dumps({"a": 0, "b": 1}))
    return folder


@pytest.fixture(scope="module")
def settings(data):
    return replace(QUICK, data=str(data / "pictures"), masks=str(data / "masks"), class_map=str(data / "map.json"))


@pytest.fixture(scope="module")
def done(model, settings, tmp_path_factory):
    """A finished run of three chunks, which every test copies."""
    out = tmp_path_factory.mktemp("done") / "out"
    run_study(model, settings, experiments=NAMES, path=out, progress=False)
    return out


@pytest.fixture
def out(done, tmp_path):
    return Path(shutil.copytree(done, tmp_path / "out"))


@contextmanager
def exchanged(path, content):
    """A file with other content, or without any, for a while."""
    before = path.read_bytes() if path.exists() else None
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    try:
        yield
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)


def files_of(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != LOCK)


def same_files(one, other):
    assert files_of(one) == files_of(other)
    assert all(filecmp.cmp(one / name, other / name, shallow=False) for name in files_of(one))


def test_records_that_a_crash_has_damaged_are_computed_again_and_that_is_said(model, settings, done, out, caplog):
    records = sorted((out / "records").iterdir())
    whole = records[1].read_bytes()
    middle = len(whole) // 3
    damages = {
        "empty": b"",
        "cut off": whole[: len(whole) // 2],
        "zeros": bytes(len(whole)),
        "zeros within": whole[:middle] + bytes(64) + whole[middle + 64 :],
        "text": b"PAR1 and nothing else PAR1",
    }
    for damage in damages.values():
        records[1].write_bytes(damage)
        (out / "records" / "left.partial").write_bytes(b"of a killed process")
        caplog.clear()
        run_study(model, settings, experiments=NAMES, path=out, progress=False)
        assert [str(records[1]) in message for message in caplog.messages] == [True]
        assert "computed again" in caplog.text
        same_files(done, out)
    for record in records[1:]:
        record.write_bytes(b"")
    run_study(model, settings, experiments=NAMES, path=out, progress=False)
    same_files(done, out)


def test_what_is_no_record_of_the_run_is_refused_by_name(model, settings, out, tmp_path):
    records = out / "records"
    other = run_study(
        model, replace(settings, seed=1), experiments=NAMES, path=tmp_path / "other", progress=False
    ).folder

    def refused(name, sentence):
        with pytest.raises(InputError, match=sentence) as error:
            run_study(model, settings, experiments=NAMES, path=out, progress=False)
        assert name in str(error.value)

    for name in ("000003.parquet", "000099.parquet", "notes.txt"):
        shutil.copy(records / "000000.parquet", records / name)
        refused(name, r"is no record of this run \(000000.parquet to 000002.parquet\)")
        (records / name).unlink()
    kept = (records / "000002.parquet").read_bytes()
    shutil.copy(other / "records" / "000002.parquet", records)
    refused("000002.parquet", "a record of another run")
    (records / "000002.parquet").unlink()
    (records / "000002.parquet").mkdir()
    refused("000002.parquet", "is no record of this run")
    (records / "000002.parquet").rmdir()
    (records / "000002.parquet").write_bytes(kept)
    (out / "pictures.parquet").unlink()
    refused("out", "records without the list of their pictures")
    shutil.rmtree(records)
    records.write_text("a file")
    refused("records", "is no folder")
    (out / "settings.json").write_text("[]")
    refused("settings.json", "is not the settings of a run")
    (out / "settings.json").unlink()
    (out / "settings.json").mkdir()
    refused("settings.json", "is not the settings of a run")


def test_pictures_masks_labels_and_names_that_have_changed_are_refused_by_name(model, data, settings, done, out):
    for record in sorted((out / "records").iterdir())[1:]:
        record.unlink()
    picture, mask = data / "pictures" / "a" / "2.png", data / "masks" / "b" / "1.png"
    another = (data / "pictures" / "b" / "3.png").read_bytes()
    changes = {
        (picture, another): f"{picture} holds another picture\\.",
        (picture, b"no picture"): f"{picture} holds another picture",
        (picture, None): f"{picture} is gone",
        (data / "pictures" / "b" / "9.png", another): r"9\.png is new|has no mask",
        (mask, (data / "masks" / "a" / "2.png").read_bytes()): "the mask of .*b/1.png is another",
        (data / "map.json", b'{"a": 0, "b": 2}'): r"the label of .*b/1.png was 1 and is 2 \(and 3 more\)",
    }
    for (path, content), sentence in changes.items():
        with exchanged(path, content), pytest.raises(InputError, match=sentence):
            run_study(model, settings, experiments=NAMES, path=out, progress=False)
    # Dates say nothing: a copy of the data set is the data set.
    os.utime(picture)
    names = model.class_names
    try:
        model.class_names = [*names[:-1], "a new name"]
        with pytest.raises(InputError, match="the classes have other names"):
            run_study(model, settings, experiments=NAMES, path=out, progress=False)
    finally:
        model.class_names = names
    run_study(model, settings, experiments=NAMES, path=out, progress=False)
    same_files(done, out)


def test_streams_are_compared_chunk_by_chunk(model, data, settings, tmp_path):
    stream = replace(settings, streaming=True)
    out = tmp_path / "out"
    whole = run_study(model, stream, experiments=NAMES, path=out, progress=False)
    picture = data / "pictures" / "a" / "2.png"
    (out / "records" / "000002.parquet").unlink()
    another = (data / "pictures" / "b" / "3.png").read_bytes()
    with exchanged(picture, another), pytest.raises(InputError, match=r"2\.png holds another picture"):
        run_study(model, stream, experiments=NAMES, path=out, progress=False)
    shutil.copy(out / "records" / "000000.parquet", out / "records" / "000007.parquet")
    with pytest.raises(InputError, match=r"000007\.parquet is no record of this run"):
        run_study(model, stream, experiments=NAMES, path=out, progress=False)
    (out / "records" / "000007.parquet").unlink()
    again = run_study(model, stream, experiments=NAMES, path=out, progress=False)
    pd.testing.assert_frame_equal(again.tables["residual_composition"], whole.tables["residual_composition"])


def test_probes_are_those_of_their_training_pictures(model, data, tmp_path, caplog):
    training = tmp_path / "training"
    shutil.copytree(data / "pictures", training)
    settings = replace(
        QUICK, n_images=4, data="demo", train_data=str(training), train_per_class=2, class_map=str(data / "map.json")
    )
    # The map names folders; the demo's labels are numbers already.
    (data / "map.json").write_text(json.dumps({"a": 0, "b": 1, **{str(i): i for i in range(10)}}))
    out = tmp_path / "out"
    before = run_study(model, settings, experiments=["linear_probe"], path=out, progress=False)
    probes = (out / "probes.safetensors").read_bytes()
    (out / "probes.safetensors").write_bytes(probes[:1000])
    again = run_study(model, settings, experiments=["linear_probe"], path=out, progress=False)
    assert "the probes are trained again" in caplog.text
    assert (out / "probes.safetensors").read_bytes() == probes
    pd.testing.assert_frame_equal(again.tables["linear_probe"], before.tables["linear_probe"])
    picture = training / "a" / "0.png"
    with (
        exchanged(picture, (training / "b" / "1.png").read_bytes()),
        pytest.raises(InputError, match=r"0\.png holds another"),
    ):
        run_study(model, settings, experiments=["linear_probe"], path=out, progress=False)


def test_one_process_works_in_a_folder_and_a_killed_one_does_not_stay_in_the_way(model, settings, done, out):
    with only_process_in(out), pytest.raises(InputError, match="another process is at work in"):
        run_study(model, settings, experiments=NAMES, path=out, progress=False)
    code = """if True:
        import sys, time
        from vitlens.files import only_process_in
        with only_process_in(sys.argv[1]):
            print(1, flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", code, out], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "1\n"
        with pytest.raises(InputError, match="another process is at work in"):
            run_study(model, settings, experiments=NAMES, path=out, progress=False)
        other.send_signal(signal.SIGKILL)
    run_study(model, settings, experiments=NAMES, path=out, progress=False)
    same_files(done, out)


@dataclass
class Interrupt:
    """Ctrl-C at the `nth` call of a function; the other calls go through."""

    call: Callable[..., Any]
    nth: int
    calls: int = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls == self.nth:
            raise KeyboardInterrupt
        return self.call(*arguments, **options)


def test_an_interrupt_anywhere_leaves_what_was_done_whole(model, settings, done, tmp_path, monkeypatch):
    out = tmp_path / "out"
    places = [
        (picture_list, "_entry", 2),
        (os, "fsync", 1),
        (os, "replace", 2),
        (study_run, "measure", 2),
        (os, "fsync", 2),
        (results, "write_page", 1),
    ]
    for module, name, nth in places:
        with monkeypatch.context() as patch:
            interrupt = Interrupt(getattr(module, name), nth)
            patch.setattr(module, name, interrupt)
            with pytest.raises(Stopped, match="give the same command again"):
                run_study(model, settings, experiments=NAMES, path=out, progress=False)
        assert interrupt.calls >= nth
        assert not [path for path in out.rglob("*.partial")], name
    run_study(model, settings, experiments=NAMES, path=out, progress=False)
    same_files(done, out)


def test_names_and_numbers_that_no_run_can_have_are_sentences(model, settings, tmp_path):
    (tmp_path / "file").write_text("kept")
    for out, sentence in {
        tmp_path / "file": "is no folder",
        tmp_path / "file" / "out": "cannot be made",
        tmp_path / ("x" * 300): "cannot be made: File name too long",
        "out\0put": "is the path of a file or folder",
    }.items():
        with pytest.raises(InputError, match=sentence):
            run_study(model, settings, experiments=NAMES, path=out, progress=False)
    for seed in (-1, 2**63):
        with pytest.raises(InputError, match=r"^seed is "):
            run_study(model, replace(settings, seed=seed), experiments=NAMES, path=tmp_path / "out", progress=False)
    outcome = run_study(
        model, replace(settings, n_images=1), experiments=NAMES, path=tmp_path / ("x" * 250), progress=False
    )
    assert outcome.n_pictures == 1
    assert (tmp_path / "file").read_text() == "kept"


def test_pictures_that_cannot_be_opened_are_skipped_and_listed(model, data, settings, tmp_path, monkeypatch):
    lost = str(data / "pictures" / "a" / "2.png")
    opened = open

    def denied(file, *arguments, **options):
        # Root may read everything, so the answer is given for it.
        if str(file) == lost:
            raise PermissionError(13, "Permission denied", lost)
        return opened(file, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", denied)
        patch.setattr(io, "open", denied)
        outcome = run_study(
            model, replace(settings, masks=None), experiments=NAMES, path=tmp_path / "out", progress=False
        )
    assert outcome.n_pictures == 8
    assert [item.path for item in outcome.skipped] == [lost]
    assert "Permission denied" in outcome.skipped[0].reason
    with pytest.raises(InputError, match=r"2\.png could not be read, and now can"):
        run_study(model, replace(settings, masks=None), experiments=NAMES, path=tmp_path / "out", progress=False)


def test_a_home_that_cannot_be_written_does_not_end_a_run(model, data, settings, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "home" / "datasets"))
    cache_folder.cache_clear()
    try:
        outcome = run_study(model, settings, experiments=NAMES, path=tmp_path / "out", progress=False)
        assert outcome.n_pictures == 9
        assert Path(cache_folder()).is_dir()
    finally:
        cache_folder.cache_clear()


def test_another_number_of_threads_is_said(model, settings, out, caplog):
    path = out / "settings.json"
    path.write_text(path.read_text().replace('"threads": 1', '"threads": 8'))
    shutil.rmtree(out / "records")
    run_study(model, settings, experiments=NAMES, path=out, progress=False)
    assert "was begun with 8 threads and goes on with 1" in caplog.text


def test_the_list_of_pictures_says_what_was_read(done):
    listed = pd.read_parquet(done / "pictures.parquet")
    assert listed["label"].tolist() == [0] * 5 + [1] * 4
    assert [Path(path).name for path in listed["path"]] == [f"{i}.png" for i in (0, 2, 4, 6, 8, 1, 3, 5, 7)]
    assert listed["picture"].str.len().eq(16).all()
    assert listed["mask"].str.len().eq(16).all()
