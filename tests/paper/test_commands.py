"""`vitlens reproduce` and its script as users run them; mistakes; the comparison with the published figures."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
import typer
from in_process import Done, run_script, run_vitlens

from vitlens.cli.main import app
from vitlens.data.demo_files import demo_folder
from vitlens.paper import StudySettings

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
QUICK = (
    "--n-images", 6, "--batch-size", 3, "--n-steps", 2, "--n-bootstrap", 10, "--n-random-models", 1, "--n-random-orders", 1,
)  # fmt: skip
TABLES = {
    "class_identifiability": "identifiability_rate",
    "class_change": "change_rate",
    "residual_composition": "residual_composition",
    "context_tokens": "context_identifiability",
    "attention_knockout": "attention_knockout",
    "context_removal": "context_removal",
    "memories": "class_value",
    "explainability": "perturbation_areas",
    "linear_probe": "linear_probe",
}


def reproduce(*arguments: object) -> Done:
    return run_vitlens("reproduce", *arguments)


# test_run.py runs all of them, without the script.
@pytest.mark.parametrize(
    "names",
    [["linear_probe", "context_tokens", "class_change"], pytest.param(list(TABLES), marks=pytest.mark.slow)],
    ids=["three", "all"],
)
def test_the_script_runs_the_experiments_that_are_named(names, tmp_path):
    training = ["--train-data", "demo", "--train-split", "conflicting", "--train-per-class", 3]
    done = run_script(EXPERIMENTS / "paper.py", *names, *QUICK, *training, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6 pictures; wrote tables, figures and report.html" in done.stdout
    found = {path.stem for path in (tmp_path / "tables").iterdir()} & set(TABLES.values())
    assert found == {TABLES[name] for name in names}
    assert json.loads((tmp_path / "settings.json").read_text())["experiments"] == names


def test_the_script_runs_one_experiment(tmp_path):
    done = run_script(EXPERIMENTS / "paper.py", "class_change", *QUICK, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == {"sublayer_change", "change_rate"}


def test_every_setting_is_an_option_of_its_name():
    """Said once: name, default and help of an option are those of the field."""
    options = {option.name: option for option in typer.main.get_command(app).commands["reproduce"].params}
    for setting in fields(StudySettings):
        assert options[setting.name].default == setting.default, setting.name
        assert options[setting.name].opts[0] == "--" + setting.name.replace("_", "-")
        assert options[setting.name].help


def test_reproduce_runs_what_the_data_allows_and_says_what_it_left_out(tmp_path, caplog):
    folder = tmp_path / "pictures"
    for path in sorted((demo_folder() / "pictures").iterdir())[:6]:
        (folder / path.name[0]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.name[0])
    (folder / "0" / "broken.png").write_bytes(b"nothing")
    done = reproduce(*QUICK[2:], "--data", folder, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "left out context_tokens: context_tokens asks which patches belong to the object" in caplog.text
    assert "left out linear_probe: linear_probe needs pictures to train on" in caplog.text
    assert "broken.png" in done.stdout
    assert "6 pictures, 1 could not be read" in done.stdout
    description = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert len(description["experiments"]) == 6
    assert {path.stem for path in (tmp_path / "out" / "tables").iterdir()} >= {"identifiability", "perturbation_areas"}

    again = reproduce(*QUICK[2:], "--data", folder, "--seed", 1, "--out", tmp_path / "out")
    assert again.returncode == 2
    assert "seed was 0 and is now 1" in again.stderr

    compared = run_script(EXPERIMENTS / "check_published.py", tmp_path / "out")
    assert compared.returncode == 2
    assert "nothing was published for demo" in compared.stderr
    anyway = run_script(EXPERIMENTS / "check_published.py", tmp_path / "out", "--anyway")
    assert anyway.returncode == 1
    assert "not the published run: its pictures are" in anyway.stdout
    assert "DIFFERS" in anyway.stdout


def test_runs_side_by_side_with_class_names_from_a_file(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"garment {i}" for i in range(10)))
    out = tmp_path / "out"
    quick = [*QUICK, "--experiment", "class_change", "--experiment", "memories", "--class-names", names]
    done = reproduce(*quick, "--out", out)
    assert done.returncode == 0, done.stderr
    assert pd.read_parquet(out / "tables" / "value_vectors.parquet")["class_name"].str.startswith("garment").all()
    page = tmp_path / "models.html"
    side = run_script(EXPERIMENTS / "compare_runs.py", f"one={out}", f"two={out}", "--out", page)
    assert side.returncode == 0, side.stderr
    assert "4 figures of 2 runs" in side.stdout
    assert page.read_text().count("plotly-graph-div") >= 4
    for arguments, sentence in [((out, out), "the same name"), ((tmp_path,), "holds no run")]:
        refused = run_script(EXPERIMENTS / "compare_runs.py", *arguments, "--out", page)
        assert refused.returncode == 2
        assert sentence in refused.stderr
    names.write_text("only one")
    refused = reproduce(*quick, "--out", tmp_path / "other")
    assert refused.returncode == 2
    assert "has 1 lines, and the model 10 classes" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "nowhere.zip"], "neither a folder"),
        (["--dtype", "int8"], "--dtype is one of"),
        (["--batch-size", 0], "--batch-size is at least 1"),
        (["--experiment", "memory"], "no experiment is called 'memory'"),
        (["--per-class", 40], "have fewer"),
        (["--device", "tpu"], "device 'tpu' cannot be used"),
        (["--checkpoint", "x.pt"], "there is no file or folder x.pt"),
    ],
)
def test_mistakes_are_a_sentence_and_exit_code_2(tmp_path, arguments, sentence):
    done = reproduce(*arguments, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "tables").exists()


def test_a_run_that_is_the_published_one_is_compared_line_by_line(tmp_path):
    """A directory as such a run writes it, with a figure that agrees and one that does not."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "ImageNetS919" / "validation-segmentation").mkdir(parents=True)
    settings = {
        "model": "vit_base_patch32_224", "data": str(tmp_path), "paper_compat": True, "squash": True, "per_class": 5,
        "n_images": None, "random_weights": False,
    }  # fmt: skip
    (tmp_path / "settings.json").write_text(json.dumps({"settings": settings}))
    rates = {
        "model": ["trained"],
        "rate_percent": [60.9],
        "images_with_one_percent": [95.5],
        "accuracy_percent": [80.0],
    }
    pd.DataFrame(rates).to_parquet(tmp_path / "tables" / "identifiability_rate.parquet")
    compared = run_script(EXPERIMENTS / "check_published.py", tmp_path)
    assert compared.returncode == 1
    assert "2 of 3 figures agree" in compared.stdout
    pd.DataFrame(rates | {"accuracy_percent": [81.6]}).to_parquet(tmp_path / "tables" / "identifiability_rate.parquet")
    assert run_script(EXPERIMENTS / "check_published.py", tmp_path).returncode == 0
    settings["paper_compat"] = False
    (tmp_path / "settings.json").write_text(json.dumps({"settings": settings}))
    refused = run_script(EXPERIMENTS / "check_published.py", tmp_path)
    assert refused.returncode == 2
    assert "paper_compat is False, not True" in refused.stderr
