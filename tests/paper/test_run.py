"""A run over the demo: its tables against the library, killed and resumed, on two processes, with bad input."""

import filecmp
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from in_process import run_script
from PIL import Image as PILImage

from vitlens import HookedViT, InputError, ablate_tokens, heatmap, knockout_attention
from vitlens.demo import demo_folder, load_demo_model, load_demo_pictures
from vitlens.faithfulness import perturbation_test
from vitlens.lens import class_trace, identifiability, residual_composition
from vitlens.memories import key_value_agreement
from vitlens.paper import run as study_run
from vitlens.paper.run import EXPERIMENTS, run_study
from vitlens.paper.settings import StudySettings

SCRIPT = Path(__file__).parents[2] / "experiments" / "paper.py"
QUICK = StudySettings(
    n_images=12, batch_size=6, n_steps=4, n_bootstrap=20, n_permutations=50, n_random_models=1, n_random_orders=1
)
PROBES = {"split": "agreeing", "train_data": "demo", "train_split": "conflicting", "train_per_class": 3}


@pytest.fixture(scope="module")
def model():
    return load_demo_model()


@pytest.fixture(scope="module")
def everything(model, tmp_path_factory):
    """All nine experiments on a few pictures."""
    out = tmp_path_factory.mktemp("study") / "out"
    settings = replace(QUICK, **PROBES)
    return run_study(model, settings, experiments=list(EXPERIMENTS), path=out, progress=False)


@pytest.fixture(scope="module")
def same_pictures(model):
    pictures = load_demo_pictures(model)
    return pictures.images[0:24:2], pictures.labels[0:24:2], pictures.masks[0:24:2]


def test_tables_agree_with_the_library(everything, model, same_pictures):
    images, labels, masks = same_pictures
    tables = everything.tables
    trace = class_trace(model, images, labels)

    expected = identifiability(trace).set_index(["tokens", "block"])["identifiability"]
    found = tables["identifiability"].set_index(["tokens", "block"])["mean"]
    assert len(found) == 12
    pd.testing.assert_series_equal(found.sort_index(), expected.sort_index(), check_names=False, rtol=1e-5)

    expected = residual_composition(trace).set_index(["tokens", "block"])["composed"]
    found = tables["residual_composition"].query("source == 'composed'").set_index(["tokens", "block"])["mean"]
    pd.testing.assert_series_equal(found.sort_index(), expected.sort_index(), check_names=False, rtol=1e-5)

    knockouts = tables["attention_knockout"].set_index("knockout")
    for name in ("self_only", "no_cls"):
        right = knockout_attention(model, images, edges=name).values.argmax(1) == labels
        assert knockouts.loc[name, "accuracy_percent"] == pytest.approx(100 * right.double().mean().item())

    removed = tables["context_removal"].set_index("intervention")
    run = ablate_tokens(model, images, labels, tokens="context", masks=masks)
    assert removed.loc["remove context", "accuracy_percent"] == pytest.approx(100 * run.correct.double().mean().item())
    assert removed.loc["remove context", "rate_percent"] == pytest.approx(100 * run.rate.nanmean().item(), rel=1e-5)

    expected = key_value_agreement(model, images, labels).set_index(["part", "block"])
    rates = tables["key_value_rate"].query(
        "coefficients != 'pre' and orientation == 'classes_of_keys' and tokens == 'all'"
    )
    found = rates.set_index(["part", "block"])["mean"]
    pd.testing.assert_series_equal(found.sort_index(), expected["agreement"].sort_index(), check_names=False, rtol=1e-4)

    areas = tables["perturbation_areas"].set_index(["method", "perturbation"])["accuracy_area"]
    maps = {
        method: heatmap(model, images, labels, method=method, warn=False).patches()
        for method in ("projection_gradient", "gradient_rollout")
    }
    for method, importance in maps.items():
        test = perturbation_test(model, images, labels, importance=importance, n_steps=4)
        for i, perturbation in enumerate(("negative", "positive")):
            assert areas[method, perturbation] == pytest.approx(test.areas()[i].mean().item(), abs=0.02)


def test_probes_read_more_than_chance_and_every_number_has_an_interval(everything):
    probes = everything.tables["linear_probe"]
    last = probes.query("readout == 'probe' and site == 'resid_post' and block == 5").set_index("tokens")
    assert last.loc["patches", "mean"] > 0.3
    for name in ("identifiability", "change_rate", "sublayer_change", "residual_composition", "linear_probe"):
        table = everything.tables[name]
        assert (table["low"] <= table["mean"] + 1e-9).all(), name
        assert (table["mean"] <= table["high"] + 1e-9).all(), name
    curves = everything.tables["perturbation_curves"].query("quantity == 'accuracy'")
    assert sorted(curves["removed"].unique()) == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_what_is_written(everything):
    folder = everything.folder
    description = json.loads((folder / "settings.json").read_text())
    assert description["settings"]["n_images"] == QUICK.n_images
    assert {"python", "vitlens", "torch", "timm"} <= set(description["versions"])
    for name, table in everything.tables.items():
        written = pd.read_parquet(folder / "tables" / f"{name}.parquet")
        pd.testing.assert_frame_equal(written, table.reset_index(drop=True), check_dtype=False, check_column_type=False)
    figures = {path.stem for path in (folder / "figures").iterdir()}
    assert {"identifiability_boxes", "perturbation", "heatmaps_0", "linear_probe", "memory_overview"} <= figures
    page = (folder / "report.html").read_text()
    assert page.count("plotly-graph-div") >= len(figures)
    size = sum(path.stat().st_size for path in (folder / "records").iterdir())
    assert size / everything.n_pictures < 20_000


def script(name: str, *arguments: object, processes: int = 1) -> list[str]:
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    return [*start, str(SCRIPT), name, *map(str, arguments)]


def same_bytes(one: Path, other: Path) -> None:
    for path in [*(one / "tables").iterdir(), *(one / "records").iterdir(), one / "report.html"]:
        assert filecmp.cmp(path, other / path.relative_to(one), shallow=False), path.name


def _as_one_of_two(rank: int, port: int, *arguments: object) -> None:
    """What torchrun starts, without a new Python, which takes longer to import torch than the script to run."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    done = run_script(SCRIPT, *arguments)
    print(done.stderr, file=sys.stderr)
    sys.exit(done.returncode)


def test_two_processes_share_the_pictures_and_write_what_one_writes(tmp_path):
    arguments = ("--n-images", 8, "--batch-size", 2, "--n-bootstrap", 20)
    one = run_script(SCRIPT, "class_change", *arguments, "--out", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=_as_one_of_two, args=(rank, port, "class_change", *arguments, "--out", tmp_path / "two"))
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list((tmp_path / "two" / "records").iterdir())) == 4
    for path in (tmp_path / "one" / "tables").iterdir():
        tables = (pd.read_parquet(tmp_path / name / "tables" / path.name) for name in ("one", "two"))
        # What ran before in this process may have chosen kernels that round otherwise.
        pd.testing.assert_frame_equal(*tables, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_killed_run_resumes_and_two_processes_agree_to_the_last_byte(tmp_path, monkeypatch):
    # The same bytes are promised for the same number of threads, and torchrun gives each process one.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = ("--n-images", 40, "--batch-size", 4, "--n-steps", 10, "--n-bootstrap", 20, "--n-random-orders", 1)
    done = subprocess.run(
        script("explainability", *arguments, "--out", tmp_path / "whole"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    out = tmp_path / "killed"
    with subprocess.Popen(
        script("explainability", *arguments, "--out", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        deadline = time.monotonic() + 120
        while len(list(out.glob("records/*.parquet"))) < 2 and time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("records/*.parquet")}
    assert 2 <= len(kept) < 10
    assert not (out / "tables").exists()
    done = subprocess.run(script("explainability", *arguments, "--out", out), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    same_bytes(tmp_path / "whole", out)

    both = subprocess.run(
        script("explainability", *arguments, "--out", tmp_path / "two", processes=2), capture_output=True, text=True
    )
    assert both.returncode == 0, both.stderr
    same_bytes(tmp_path / "whole", tmp_path / "two")


@pytest.mark.slow
def test_ctrl_c_in_a_shell_says_what_a_run_keeps(tmp_path):
    out = tmp_path / "out"
    command = script("explainability", "--batch-size", 2, "--out", out)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as run:  # fmt: skip
        deadline = time.monotonic() + 120
        while not list(out.glob("records/*.parquet")) and time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.02)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=120)
    assert run.returncode == 130
    assert "stopped: " in errors
    assert "give the same command again to go on" in errors
    assert "Traceback" not in errors


def test_an_interrupted_run_says_what_it_keeps(tmp_path, monkeypatch):
    out, original = tmp_path / "out", study_run.measure

    def measured(*arguments, **options):
        if list(out.glob("records/*.parquet")):
            signal.raise_signal(signal.SIGINT)
        return original(*arguments, **options)

    monkeypatch.setattr(study_run, "measure", measured)
    stopped = run_script(SCRIPT, "class_change", "--batch-size", 2, "--out", out)
    assert stopped.returncode == 130
    assert "stopped: " in stopped.stderr
    assert "give the same command again to go on" in " ".join(stopped.stderr.split())
    assert "Traceback" not in stopped.stderr


@pytest.mark.slow
def test_a_lost_process_ends_the_run_with_a_sentence_and_what_was_done_stays(tmp_path):
    out = tmp_path / "out"
    command = script("explainability", "--batch-size", 2, "--n-steps", 20, "--out", out, processes=2)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + 120
        while len(list(out.glob("records/*.parquet"))) < 2 and time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.02)
        workers = [int(pid) for pid in _children(run.pid) if _rank(int(pid)) == "1"]
        assert workers, "the second process was not found"
        os.kill(workers[0], signal.SIGKILL)
        _, errors = run.communicate(timeout=120)
        assert run.returncode != 0
    assert "a process was lost" in errors
    assert "give the same command again" in errors
    assert len(list(out.glob("records/*.parquet"))) >= 2


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _rank(pid: int) -> str | None:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((value[5:].decode() for value in variables if value.startswith(b"RANK=")), None)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n_steps": 5}, "n_steps was 4 and is now 5"),
        ({"paper_compat": True}, "paper_compat was False and is now True"),
    ],
)
def test_a_folder_of_other_settings_is_refused_by_name(everything, model, change, sentence):
    with pytest.raises(InputError, match=sentence):
        run_study(
            model,
            replace(QUICK, **PROBES, **change),
            experiments=list(EXPERIMENTS),
            path=everything.folder,
            progress=False,
        )


def test_other_weights_other_experiments_and_foreign_folders_are_refused(everything, model, tmp_path):
    settings = replace(QUICK, **PROBES)
    with pytest.raises(InputError, match="the weights are others"):
        run_study(
            model.with_fresh_weights(1), settings, experiments=list(EXPERIMENTS), path=everything.folder, progress=False
        )
    with pytest.raises(InputError, match="it holds class_identifiability"):
        run_study(model, settings, experiments=["class_change"], path=everything.folder, progress=False)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "settings.json.partial").write_text("{")
    run_study(model, replace(QUICK, n_images=8), experiments=["class_change"], path=tmp_path / "begun", progress=False)
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(InputError, match="holds no run of ours"):
        run_study(model, QUICK, experiments=["class_change"], path=tmp_path, progress=False)
    with pytest.raises(InputError, match="no experiment is called"):
        run_study(model, QUICK, experiments=["class_chance"], path=tmp_path / "new", progress=False)


def test_what_the_data_must_have(model, tmp_path):
    bare = str(tmp_path / "pictures")
    shutil.copytree(demo_folder() / "pictures", bare)
    for path in Path(bare).iterdir():
        number = int(path.name.split("_")[0]) // 10
        path.rename(path.with_name(f"{number}_{path.name}"))
    with pytest.raises(InputError, match="has no masks"):
        run_study(model, replace(QUICK, data=bare), experiments=["context_tokens"], path=tmp_path / "a", progress=False)
    with pytest.raises(InputError, match="train_data="):
        run_study(model, QUICK, experiments=["linear_probe"], path=tmp_path / "b", progress=False)
    with pytest.raises(InputError, match="trained on"):
        run_study(
            model, replace(QUICK, train_data="demo"), experiments=["linear_probe"], path=tmp_path / "c", progress=False
        )
    with pytest.raises(InputError, match="have fewer"):
        run_study(
            model, replace(QUICK, per_class=11), experiments=["class_change"], path=tmp_path / "d", progress=False
        )
    headless = HookedViT.from_timm("vit_tiny_patch16_224", pretrained=False, num_classes=0)
    with pytest.raises(InputError, match="without a classifier"):
        run_study(headless, QUICK, experiments=["class_change"], path=tmp_path / "e", progress=False)
    for change in ({"n_images": 0}, {"batch_size": 0}, {"heatmap_classes": "truth"}):
        with pytest.raises(InputError, match=f"^{next(iter(change))} is "):
            run_study(
                model, replace(QUICK, **change), experiments=["class_change"], path=tmp_path / "f", progress=False
            )


def test_a_corrupt_picture_is_skipped_and_reported(model, tmp_path):
    folder = tmp_path / "pictures"
    for label in (0, 1):
        (folder / str(label)).mkdir(parents=True)
        for path in sorted((demo_folder() / "pictures").glob(f"{label}[0-9]_*"))[:6]:
            shutil.copy(path, folder / str(label))
    broken = sorted((folder / "1").iterdir())[2]
    broken.write_bytes(b"\x89PNG but no picture")
    outcome = run_study(
        model, replace(QUICK, data=str(folder)), experiments=["class_change"], path=tmp_path / "out", progress=False
    )
    assert outcome.n_pictures == 11
    assert [item.path for item in outcome.skipped] == [str(broken)]
    assert pd.read_parquet(tmp_path / "out" / "skipped.parquet")["path"].tolist() == [str(broken)]
    assert "1 unreadable" in (tmp_path / "out" / "report.html").read_text()


def test_masks_of_everything_and_of_nothing_do_not_end_a_run(model, tmp_path):
    for folder in ("pictures", "masks"):
        (tmp_path / folder / "0").mkdir(parents=True)
    for i, path in enumerate(sorted((demo_folder() / "pictures").iterdir())[:5]):
        shutil.copy(path, tmp_path / "pictures" / "0")
        mask = np.array(PILImage.open(demo_folder() / "masks" / path.name))
        if i < 2:
            mask[:] = 255 * i
        PILImage.fromarray(mask).save(tmp_path / "masks" / "0" / path.name)
    names = ["context_tokens", "attention_knockout", "context_removal"]
    for batch_size in (5, 1):
        settings = replace(
            QUICK, data=str(tmp_path / "pictures"), masks=str(tmp_path / "masks"), n_images=None, batch_size=batch_size
        )
        outcome = run_study(model, settings, experiments=names, path=tmp_path / f"out-{batch_size}", progress=False)
        assert outcome.n_pictures == 5
        assert np.isfinite(outcome.tables["context_identifiability"]["difference"]).all()
        assert np.isfinite(outcome.tables["context_removal"]["accuracy_percent"]).all()


def test_a_full_disk_loses_nothing_that_was_written(model, tmp_path, monkeypatch):
    written = []

    def full(descriptor):
        written.append(descriptor)
        # Settings, the list of pictures and two records fit.
        if len(written) > 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    settings = replace(QUICK, batch_size=4)
    with pytest.raises(InputError, match="No space left"):
        run_study(model, settings, experiments=["class_change"], path=tmp_path / "out", progress=False)
    assert sorted(path.name for path in (tmp_path / "out" / "records").iterdir()) == [
        "000000.parquet",
        "000001.parquet",
    ]
    monkeypatch.undo()
    resumed = run_study(model, settings, experiments=["class_change"], path=tmp_path / "out", progress=False)
    whole = run_study(model, settings, experiments=["class_change"], path=tmp_path / "whole", progress=False)
    pd.testing.assert_frame_equal(resumed.tables["change_rate"], whole.tables["change_rate"])


def test_streams_and_tables_give_the_same_numbers(model, tmp_path):
    folder = tmp_path / "pictures"
    for path in sorted((demo_folder() / "pictures").iterdir())[:12]:
        (folder / path.name[0]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.name[0])
    settings = replace(QUICK, data=str(folder), n_images=10)
    table = run_study(model, settings, experiments=["residual_composition"], path=tmp_path / "a", progress=False)
    stream = run_study(
        model,
        replace(settings, streaming=True),
        experiments=["residual_composition"],
        path=tmp_path / "b",
        progress=False,
    )
    assert stream.n_pictures == 10
    pd.testing.assert_frame_equal(table.tables["residual_composition"], stream.tables["residual_composition"])


PLAIN = pytest.param("vit_small_patch16_224", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["vit_base_patch16_rpn_224", "deit_tiny_distilled_patch16_224", PLAIN])
def test_other_models_run_all_experiments(name, tmp_path):
    """Pooled, post-norm, distilled; few blocks, the demo's pictures."""
    torch.manual_seed(0)
    keywords = {"img_size": 56, "patch_size": 14, "depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 10}
    model = HookedViT.from_timm(name, pretrained=False, **keywords)
    settings = replace(QUICK, **PROBES, n_images=4)
    outcome = run_study(model, settings, experiments=list(EXPERIMENTS), path=tmp_path / "out", progress=False)
    assert outcome.n_pictures == 4
    assert len(outcome.tables["identifiability"]) == 2 * (1 + model.cfg.has_class_token)
    assert np.isfinite(outcome.tables["perturbation_areas"]["accuracy_area"]).all()


def test_paper_compat_runs_and_differs_where_it_should(model, everything, tmp_path):
    settings = replace(QUICK, **PROBES, paper_compat=True)
    differing = ["class_change", "residual_composition", "attention_knockout", "explainability"]
    released = run_study(model, settings, experiments=differing, path=tmp_path / "out", progress=False).tables
    ours = everything.tables

    def column(tables, name, query, value):
        return tables[name].query(query)[value].to_numpy()

    # The MLP's output is compared with the block's input, the attention's as before.
    for part, same in (("attention", True), ("mlp", False)):
        pair = [column(x, "sublayer_change", f"part == '{part}'", "mean") for x in (ours, released)]
        assert np.array_equal(*pair) is same
    # "Composed" without the MLP can only grow.
    pair = [column(x, "residual_composition", "source == 'composed'", "mean") for x in (ours, released)]
    assert (pair[1] >= pair[0]).all()
    assert (pair[1] > pair[0]).any()
    assert "published_area" in released["perturbation_areas"]
    assert "published_area" not in ours["perturbation_areas"]
    # The class token counts among the tokens of knocked-out runs, and not of the plain one.
    rates = [x["attention_knockout"].set_index("knockout")["rate_percent"] for x in (ours, released)]
    assert rates[0]["none"] == rates[1]["none"]
    assert rates[0]["no_cls"] != rates[1]["no_cls"]
