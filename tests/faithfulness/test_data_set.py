"""Scores over a data set: chunk by chunk, resumed where a run was stopped, equal to one call; the experiment's script."""

import shutil
from pathlib import Path

import pytest
import torch
from in_process import run_script

from vitlens import InputError, evaluate_heatmaps, load_demo
from vitlens.data.picture_sets import open_pictures
from vitlens.demo import demo_folder, load_demo_model
from vitlens.faithfulness import data_set, evaluate_segmentation
from vitlens.faithfulness.data_set import evaluate_heatmaps_over_data

ROOT = Path(__file__).parents[2]
SETTINGS = {"metrics": ["deletion", "pointing_game"], "n_steps": 3, "n_draws": 1, "progress": False}


@pytest.fixture(scope="module")
def model():
    return load_demo_model()


def demo_set(model, n=5):
    return open_pictures("demo", model.class_names, model.cfg.n_classes, n_images=n)


def test_chunks_are_one_run(model, tmp_path):
    (tmp_path / "records").mkdir()
    found = evaluate_heatmaps_over_data(
        model, demo_set(model), "label", methods="legrad", folder=tmp_path / "records", chunk_size=2, **SETTINGS
    )
    _, images, labels, masks = load_demo()
    assert len(list((tmp_path / "records").iterdir())) == 6
    maps = ["legrad"]
    options = {name: SETTINGS[name] for name in ("n_draws", "progress")}
    together = evaluate_heatmaps(model, images[:5], labels[:5], heatmaps=maps, masks=masks[:5], **SETTINGS)
    outlined = evaluate_segmentation(model, images[:5], labels[:5], masks=masks[:5], heatmaps=maps, **options)
    torch.testing.assert_close(found.faithfulness.values, together.values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.faithfulness.curves, together.curves, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.segmentation.values, outlined.values, rtol=1e-3, atol=3.0)
    assert found.faithfulness.axes["image"] == list(range(5))
    assert found.faithfulness.settings["classes"] == "label"
    assert found.skipped == []


def test_damaged_chunks_are_scored_again_and_others_are_refused_by_name(model, tmp_path, caplog):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, path in enumerate(sorted((demo_folder() / "pictures").iterdir())[:4]):
        shutil.copy(path, folder / f"{i // 2}_{i}.png")
    (folder / "1_3.png").write_bytes(b"no picture")

    def score(methods=("legrad",), out=tmp_path / "scores", **changed):
        pictures = open_pictures(folder, model.class_names, model.cfg.n_classes)
        settings = {"metrics": ["deletion"], "n_steps": 3, "n_draws": 1, "progress": False} | changed
        return evaluate_heatmaps_over_data(model, pictures, methods=list(methods), folder=out, chunk_size=2, **settings)

    whole = score()
    assert "origin" not in whole.faithfulness.settings
    records = sorted((tmp_path / "scores").iterdir())
    for damage in (b"", records[0].read_bytes()[:200]):
        records[0].write_bytes(damage)
        caplog.clear()
        again = score()
        assert "the chunk is computed again" in caplog.text
        assert torch.equal(again.faithfulness.values, whole.faithfulness.values)
        # What could not be read is kept with the chunk.
        assert [item.path for item in again.skipped] == [str(folder / "1_3.png")]
    with pytest.raises(InputError, match=r"000000.faithfulness.safetensors holds scores of other pictures, weights or"):
        score(methods=["raw_attention"])
    with pytest.raises(InputError, match="holds scores of other pictures"):
        score(n_steps=4)
    shutil.copy(folder / "0_0.png", folder / "0_1.png")
    with pytest.raises(InputError, match="holds scores of other pictures"):
        score()
    for name in ("000002.faithfulness.safetensors", "notes.txt"):
        shutil.copy(records[0], tmp_path / "scores" / name)
        with pytest.raises(InputError, match=f"{name} belongs to no chunk of this run"):
            score()
        (tmp_path / "scores" / name).unlink()
    with pytest.raises(InputError, match="is no folder"):
        score(out=records[0])


def test_a_stopped_run_goes_on(model, tmp_path, monkeypatch):
    whole = evaluate_heatmaps_over_data(
        model, demo_set(model), methods=["legrad"], folder=tmp_path, chunk_size=2, **SETTINGS
    )
    before = sorted(file.name for file in tmp_path.iterdir())
    (tmp_path / "000001.faithfulness.safetensors").unlink()
    scored, score = [], data_set._score
    monkeypatch.setattr(
        data_set, "_score", lambda model, batch, *rest: scored.append(batch.keys) or score(model, batch, *rest)
    )
    again = evaluate_heatmaps_over_data(
        model, demo_set(model), methods=["legrad"], folder=tmp_path, chunk_size=2, **SETTINGS
    )
    assert scored == [[2, 3]]
    assert torch.equal(again.faithfulness.values, whole.faithfulness.values)
    assert sorted(file.name for file in tmp_path.iterdir()) == before


def test_bad_input(model, tmp_path):
    with pytest.raises(InputError, match="predicted one or the label"):
        evaluate_heatmaps_over_data(model, demo_set(model), "true", folder=tmp_path, **SETTINGS)
    with pytest.raises(InputError, match="no heatmap method"):
        evaluate_heatmaps_over_data(model, demo_set(model), methods=["legard"], folder=tmp_path, **SETTINGS)
    assert list(tmp_path.iterdir()) == []


def script(*options):
    return run_script(ROOT / "experiments" / "compare_heatmaps.py", *options)


def test_the_script_writes_its_table_and_refuses_other_settings(tmp_path):
    given = ["--limit", 2, "--n-steps", 2, "--n-draws", 1, "--method", "legrad", "--metric", "deletion"]
    given += ["--out", tmp_path / "o"]
    done = script(*given)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "o" / "table.md").read_text().splitlines()
    assert lines[0] == "| method | deletion ↓ | mAP ↑ | mIoU ↑ | patch_auroc ↑ | pixel_accuracy ↑ |"
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:7]] == [
        "legrad", "random", "centre prior", "raw attention", "all background",
    ]  # fmt: skip
    assert (tmp_path / "o" / "report.html").stat().st_size > 1_000_000
    other = script(*given, "--replacement", "mean")
    assert other.returncode == 2
    assert "replacement was 'blur' and is now 'mean'" in " ".join(other.stderr.split())
    assert "Traceback" not in other.stderr
    wrong = script("--method", "legard")
    assert wrong.returncode == 2
    assert "the nearest are legrad" in " ".join(wrong.stderr.split())


def test_the_script_on_planted_models():
    done = script("--planted", "--n-draws", 1, "--limit", 2, "--method", "gradient_rollout")
    assert done.returncode == 0, done.stderr
    assert "gradient rollout" in done.stdout
    assert "evidence copying" in done.stdout
