"""`vitlens repair` and `vitlens shortcut` over a folder of a few of the demo's pictures, with their groups in a file."""

import shutil
import sys

import pandas as pd
import pytest
import timm
import torch
from cli.conftest import DEMO
from repaired import CHOOSING, REPORTED

import vitlens

EDIT = sys.modules[vitlens.editing.Edit.__module__]
PLACES = sorted((*CHOOSING, *REPORTED))
GROUPS = ("agreeing", "conflicting")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder for each class, and a table of the pictures' groups by their paths in it."""
    folder = tmp_path_factory.mktemp("data")
    table = pd.read_csv(DEMO / "pictures.csv")
    names = vitlens.demo.load_demo_model().class_names
    lines = []
    for place in PLACES:
        file, label = table["file"][place], names[table["label"][place]]
        (folder / "pictures" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(DEMO / "pictures" / file, folder / "pictures" / label)
        lines.append(f"{label}/{file},{GROUPS[place % 2]}\n")
    (folder / "groups.csv").write_text("".join(lines))
    return folder


@pytest.fixture
def proposed(monkeypatch):
    """What is tried without asking: finding it takes minutes, and is tested elsewhere."""

    def propose(model, *_):
        return None, {name: vitlens.edit(model, parts) for name, parts in names.items()}

    names = {"without L2H1": "L2H1", "without L1 mlp": "L1 mlp"}
    monkeypatch.setattr(sys.modules[vitlens.editing.Repair.__module__], "propose_edits", propose)
    return names


def about(data):
    return ["--data", data / "pictures", "--groups", data / "groups.csv"]


def test_a_repair_is_told_written_and_saved(run, data, proposed, tmp_path):
    command = ["repair", *about(data), "--no-limit", "--dose", 1, "--n-draws", 1, "--seed", 3, "--json"]
    done = run(*command, "--save", tmp_path / "model", "-o", tmp_path / "page.html")
    assert done.code == 0, done.stderr
    model, images, labels, _ = vitlens.load_demo()
    # In the order of the files' paths in the folder of the classes.
    order = sorted(PLACES, key=lambda place: (model.class_names[labels[place]], place))
    edits = {name: vitlens.edit(model, parts) for name, parts in proposed.items()}
    expected = vitlens.repair(
        model, images[order], labels[order], [GROUPS[place % 2] for place in order], edits=edits, max_loss=None,
        doses=[1.0], n_draws=1, seed=3,
    )  # fmt: skip
    assert done.json["chosen"] == expected.chosen != "unedited"
    for name in ("accuracy", "change_low", "change_high"):
        assert [row[name] for row in done.json["rows"]] == pytest.approx(expected.table()[name].tolist())
    assert [row["kl"] for row in done.json["trade_off"]] == pytest.approx(expected.trade_off()["kl"].tolist(), abs=1e-5)
    assert "A repair of" in (tmp_path / "page.html").read_text()
    assert done.json["saved"] == str(tmp_path / "model")
    module = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    assert torch.allclose(module(images[:2]), expected.edit.fold()(images[:2]), atol=1e-4)


def test_what_was_found_is_told_although_it_cannot_be_saved(run, data, proposed, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise vitlens.InputError("no weights do this")

    monkeypatch.setattr(EDIT, "save_checkpoint", refuse)
    command = ["repair", *about(data), "--no-limit", "--dose", 1, "--n-draws", 1, "--seed", 3]
    done = run(*command, "--save", tmp_path / "model", "-o", tmp_path / "report.csv")
    # Before it may be the bars of the loader of the pictures.
    assert (done.code, done.stderr.splitlines()[-1]) == (2, "error: no weights do this")
    assert (tmp_path / "report.csv").exists()


def test_a_table_and_sentences_in_a_shell(run, data, proposed, tmp_path):
    done = run("repair", *about(data), "--n-draws", 1, "--max-loss", "0.5", "-o", tmp_path / "report.csv")
    assert done.code == 0, done.stderr
    assert "held-out pictures" in done.stdout
    assert "2 edits were tried on" in done.stdout
    assert set(pd.read_csv(tmp_path / "report.csv")["group"]) == {"agreeing", "conflicting"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-loss", "0.1", "--no-limit"), "--max-loss sets a limit and --no-limit takes it away"),
        (("--max-loss", "3"), "a share of the pictures"),
        (("--held-out", "1.5"), "the share of the pictures that the report is about"),
        (("--dose", "0"), "doses are at least one number"),
        (("--group-column", "context", "--groups", "nowhere.csv"), "both say which group a picture is in"),
        (("--groups", "nowhere.csv"), "is no table of pictures and their groups"),
        (("--save", "nowhere/model.safetensors"), "there is no folder"),
        (("-o", "page.docx"), "--out"),
    ],
)
def test_mistakes(run, options, said):
    done = run("repair", *options)
    assert (done.code, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_pictures_without_a_group(run, data, tmp_path):
    done = run("shortcut", "--data", data / "pictures")
    assert done.code == 2
    assert "does not say which group a picture is in: name its column with --group-column" in done.stderr
    lines = (data / "groups.csv").read_text().splitlines()
    (tmp_path / "fewer.csv").write_text("\n".join(lines[1:]))
    done = run("shortcut", "--data", data / "pictures", "--groups", tmp_path / "fewer.csv")
    assert done.code == 2
    assert "does not say which group" in done.stderr
    (tmp_path / "twice.csv").write_text("\n".join([*lines, lines[0]]))
    assert "says twice" in run("repair", "--data", data / "pictures", "--groups", tmp_path / "twice.csv").stderr


def test_parts_of_a_shortcut(run, data, tmp_path):
    options = ["--part", "mlps", "--contrast", "conflicting", "agreeing", "--n-draws", 100, "--top", 3]
    done = run("shortcut", *about(data), *options, "-o", tmp_path / "found.safetensors", "--json")
    assert done.code == 0, done.stderr
    found = vitlens.load_result(tmp_path / "found.safetensors")
    assert [row["component"] for row in done.json["parts"]] == [str(name) for name in found.table()["component"]]
    assert found.settings["inside"] == "conflicting"
    assert len(done.json["parts"]) == 6
    shown = run("shortcut", *about(data), *options, "-o", tmp_path / "page.html")
    assert "ablated, conflicting" in shown.stdout
    assert "What 6 heads and MLPs write was compared between “conflicting” and “agreeing”" in shown.stdout
    assert (tmp_path / "page.html").stat().st_size > 1000
