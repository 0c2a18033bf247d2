"""Files that commands write; every mistake: one sentence on stderr that says what to do, exit code 2, nothing written."""

import os
import shutil

import pandas as pd
import plotly.graph_objects as go
import pytest
import timm
import torch
from cli.conftest import AGREEING, CONFLICTING, DEMO, MASK, TIMM
from safetensors.torch import save_file

from vitlens.results.writing import to_json

ANALYSES = {
    "lens": ["lens", AGREEING],
    "lens of patches": ["lens", AGREEING, CONFLICTING, "--tokens", "patches"],
    "attribute": ["attribute", AGREEING],
    "attribute by head and patch": ["attribute", AGREEING, "--unit", "head_patch"],
    "attribute by token": ["attribute", AGREEING, "--unit", "token"],
    "attribute by path": ["attribute", AGREEING, "--unit", "path"],
    "patch": ["patch", AGREEING, CONFLICTING, "--block", 1],
    "patch with a mask": ["patch", AGREEING, "--mask", MASK, "--replace-context", "blur", "--block", 1],
    "heatmap": ["heatmap", AGREEING, "--method", "head_patch", "--method", "random_map"],
    "faithfulness": ["heatmap", AGREEING, "--faithfulness", "--n-steps", 2, "--method", "raw_attention"],
    "similarity": ["similarity", AGREEING, CONFLICTING],
    "similarity to the class token": ["similarity", AGREEING, "--token", "class"],
    "describe": ["describe", AGREEING, CONFLICTING],
}


@pytest.mark.parametrize("name", list(ANALYSES))
def test_the_same_result_as_page_and_as_tables(run, tmp_path, name):
    arguments = ANALYSES[name]
    page = run(*arguments, "--out", tmp_path / "page.html", "--json")
    assert (page.code, page.stderr) == (0, "")
    written = (tmp_path / "page.html").read_text()
    assert written.count("plotly-graph-div") >= 1
    assert page.json["model"] in written
    done = run(*arguments, "-o", tmp_path / "table.parquet")
    assert done.code == 0
    assert f"wrote {tmp_path / 'table.parquet'}" in done.stdout
    table = pd.read_parquet(tmp_path / "table.parquet")
    assert to_json(table) == to_json(page.json["rows"])


@pytest.mark.parametrize("name", list(ANALYSES))
def test_the_first_figure_as_an_image(run, tmp_path, monkeypatch, name):
    drawn = []
    monkeypatch.setattr("vitlens.results.writing.find_spec", lambda name: name)
    monkeypatch.setattr(go.Figure, "to_image", lambda figure, **options: drawn.append(figure) or b"an image")
    done = run(*ANALYSES[name], "--out", tmp_path / "figure.png")
    assert (done.code, (tmp_path / "figure.png").read_bytes()) == (0, b"an image")
    # An empty one comes first, so that nothing is computed for an image that cannot be drawn.
    assert [bool(figure.data) for figure in drawn] == [False, True]


def test_tables_as_csv_and_json(run, tmp_path):
    assert run("lens", AGREEING, "-o", tmp_path / "table.csv").code == 0
    printed = run("lens", AGREEING, "--json", "-o", tmp_path / "table.json")
    assert (tmp_path / "table.json").read_text() == printed.stdout
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["logit"].tolist() == pytest.approx([row["logit"] for row in printed.json["rows"]], rel=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv", "table.json"]


def test_what_is_no_number_is_null():
    document = {"a": float("nan"), "b": [torch.inf, 1.5], "c": pd.DataFrame({"x": [1.0, float("nan")]})}
    assert (
        to_json(document).replace("\n", "").replace(" ", "") == '{"a":null,"b":[null,1.5],"c":[{"x":1.0},{"x":null}]}'
    )


def test_names_in_pages_are_escaped(run, tmp_path):
    odd = tmp_path / "<img src=x> [bold].png"
    shutil.copy(AGREEING, odd)
    for command in ("lens", "heatmap"):
        done = run(command, odd, "--out", tmp_path / "page.html")
        assert done.code == 0
        assert "<img src=x> [bold].png" in done.stdout
        assert "<img src=x>" not in (tmp_path / "page.html").read_text()


WRONG = [
    *[([command, *more], sentence)
      for command in ("lens", "attribute", "heatmap", "describe", "open")
      for more, sentence in (
          (["missing.png"], "there is no file missing.png"),
          ([__file__], "is not a picture that Pillow can read"),
          ([], "Missing argument" if command != "describe" else "say which pictures: their files"),
          ([AGREEING, "--model", "vit_tinny_patch16_224", "--random-weights"], "vit_tiny_patch16_224"),
          ([AGREEING, "--model", "resnet18", "--random-weights"], "ResNet"),
          ([AGREEING, "--model", TIMM, "--checkpoint", "no.safetensors"], "no checkpoint file no.safetensors"),
          ([AGREEING, "--model", TIMM, "--checkpoint", __file__], "cannot be read as a file of tensors"),
          ([AGREEING, "--checkpoint", __file__], "cannot be read as a file of tensors"),
          ([AGREEING, "--random-weights"], "the demo model comes with its weights"),
          ([AGREEING, "--class-names", __file__], "the model 10 classes: one name per line is expected"),
          ([AGREEING, "--dtype", "int8"], "--dtype is one of float32, float64, bfloat16, float16"),
          ([AGREEING, "--device", "tpu"], "device 'tpu' cannot be used"),
          ([AGREEING, "--modell", "demo"], "--model"),
          ([AGREEING, "--out", "nowhere/page.html"], "nowhere to write page.html to: make it first"),
      )],
    *[([command, AGREEING, "--class", "sneakers"], "the nearest names are sneaker")
      for command in ("lens", "attribute", "heatmap", "open")],
    *[([command, AGREEING, "--class", "12"], "the model has classes 0 to 9")
      for command in ("lens", "attribute", "heatmap", "open")],
    *[pytest.param([command, AGREEING, "--model", "vit_small_patch16_dinov3", "--random-weights"], "no classifier",
                   marks=pytest.mark.verified_timm)
      for command in ("lens", "attribute", "heatmap")],
    *[([command, AGREEING, "--out", "table.txt"], "should end in .html, .htm, .png, .svg, .pdf, .csv, .parquet or .json")
      for command in ("lens", "attribute", "heatmap")],
    (["describe", AGREEING, "--out", "table.txt"], "should end in .html, .htm, .png, .svg, .pdf, .csv, .parquet, .json or"),
    (["similarity", AGREEING, "--hook", "hook_pooled"], "has no vector for each patch"),
    (["similarity", AGREEING, "--tokens", "class", "--foreground"], "name one of them"),
    (["lens", AGREEING, "--site", "resid_pots"], "the nearest names are resid_post"),
    (["lens", AGREEING, "--tokens", "clas"], "the nearest names are class"),
    (["lens", AGREEING, "--tokens", "patch:3"], "it is written like patch:3,4"),
    (["lens", AGREEING, "--tokens", "patch:30,4"], "outside the grid of 14 × 14 patches"),
    (["lens", AGREEING, "--tokens", "object"], "a lens reads the same tokens of every picture"),
    (["lens", AGREEING, "--block", "6"], "the model has blocks 0 to 5"),
    (["lens", AGREEING, "--top", "0"], "--top"),
    (["lens", AGREEING, "--batch-size", "0"], "--batch-size"),
    (["lens", AGREEING, "--out", "."], "--out . should end in"),
    (["attribute", AGREEING, "--unit", "heads"], "unit is one of component, head, "),
    (["attribute", AGREEING, "--against-class", "bags"], "the nearest names are bag"),
    (["heatmap", AGREEING, "--method", "tokenmask"], "it is called token_mask here"),
    (["heatmap", AGREEING, "--method", "raw_attention", "--class", "sneakers"], "the nearest names are sneaker"),
    (["patch", AGREEING], "a second picture, or --replace-context"),
    (["patch", AGREEING, "missing.png"], "there is no file missing.png"),
    (["patch", AGREEING, AGREEING], "is the same on the clean and the corrupted pictures"),
    (["patch", AGREEING, CONFLICTING, "--site", "resid"], "the nearest names are resid_"),
    (["patch", AGREEING, CONFLICTING, "--metric", "loss"], 'metric is "logit_difference", "logit", "probability"'),
    (["patch", AGREEING, CONFLICTING, "--direction", "up"], '"denoise" or "noise"'),
    (["patch", AGREEING, CONFLICTING, "--block", "9"], "the model has blocks 0 to 5"),
    (["patch", AGREEING, CONFLICTING, "--head", "1"], "resid_pre has no heads"),
    (["patch", AGREEING, CONFLICTING, "--tokens", "context"], "need --mask FILE"),
    (["patch", AGREEING, CONFLICTING, "--tokens", "each", "--tokens", "class"], "each patches every token by itself"),
    (["patch", AGREEING, CONFLICTING, "--tokens", "registers"], "is empty"),
    (["patch", AGREEING, CONFLICTING, "--class", "0", "--against-class", "0"], "are the same"),
    (["patch", AGREEING, "--replace-context", "blur"], "say where it is with --mask FILE"),
    (["patch", AGREEING, "--replace-context", "blurr", "--mask", MASK], "one of other, mean, zero, blur, shuffle"),
    (["patch", AGREEING, "--replace-context", "other", "--mask", MASK], "name it after the clean one"),
    (["patch", AGREEING, CONFLICTING, "--replace-context", "blur", "--mask", MASK], "makes the corrupted picture itself"),
    (["describe", AGREEING, "--data", "demo"], "say which pictures: their files"),
    (["describe", "--data", "nowhere"], "there is no folder nowhere"),
    (["describe", "--data", DEMO.parent / "nothing"], "there is no folder"),
    (["models", "resnet18"], "no supported model matches 'resnet18'"),
    (["models", "--out", "models.html"], "should end in .csv, .parquet or .json"),
    (["verify", "resnet18", "--random-weights"], "ResNet"),
    (["verify", "swin_tiny_patch4_window7_224", "--random-weights"], "SwinTransformer"),
    (["verify", TIMM, "--random-weights", "--dtype", "int8"], "dtype is one of"),
    (["verify", TIMM, "--checkpoint", "no.safetensors"], "no checkpoint file"),
    (["verify", TIMM, "--random-weights", "--images", "0"], "at least 1"),
    (["verify", __file__], "does not say which class of its library it belongs to"),
    (["models", "vit", "--families"], "leave the pattern out"),
    (["lens", AGREEING, "--checkpoint", "vit_base_patch16_224"], "open it with --model vit_base_patch16_224"),
    (["lens", AGREEING, "--checkpoint", "no.pth", "--timm", "depth=1"], "it needs --model with a timm name"),
    (["lens", AGREEING, "--checkpoint", "no.pth"], "there is no file or folder no.pth"),
    (["open", AGREEING, "--head", "x"], "L9H3"),
    (["open", AGREEING, "--head", "L2H1", "--block", "2"], "leave --block out"),
    (["open", AGREEING, "--block", "6"], "the model has blocks 0 to 5"),
    (["report", AGREEING, "--class", "sneakers"], "the nearest names are sneaker"),
    (["reproduce", "--experiment", "memory"], "no experiment is called 'memory'"),
    (["lenz", AGREEING], "there is no command 'lenz'; the nearest names are lens"),
    (["xyz"], "there is no command 'xyz'; the nearest names are"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "sentence"), WRONG, ids=lambda value: str(value)[-60:])
def test_a_mistake_is_a_sentence(run, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.code == 2
    assert sentence in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_architecture(run, tmp_path):
    save_file({"head.weight": torch.zeros(3, 192), "other": torch.zeros(1)}, tmp_path / "other.safetensors")
    done = run("lens", AGREEING, "--model", TIMM, "--checkpoint", tmp_path / "other.safetensors", "--json")
    assert done.code == 2
    assert f"does not fit {TIMM}" in done.stderr
    assert done.stdout == ""


def test_a_folder_that_cannot_be_written_to(run, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    done = run("lens", AGREEING, "--out", tmp_path / "page.html")
    assert done.code == 2
    assert "is not writable" in done.stderr


def test_a_folder_without_pictures(run, tmp_path):
    assert "holds no picture: files that end in" in run("describe", "--data", tmp_path).stderr
    (tmp_path / "broken.png").write_bytes(b"nothing")
    assert "there are no pictures to describe" in run("describe", "--data", tmp_path).stderr


def test_a_single_output_has_no_rank_and_no_probability(run, tmp_path, monkeypatch):
    torch.manual_seed(0)
    module = timm.create_model(TIMM, pretrained=False, num_classes=1)
    save_file(module.state_dict(), tmp_path / "one.safetensors")
    monkeypatch.chdir(tmp_path)
    model = ["--model", TIMM, "--checkpoint", tmp_path / "one.safetensors"]
    done = run("lens", AGREEING, *model, "--json")
    assert done.code == 0, done.stderr
    assert not {"rank", "probability", "identifiability"} & set(done.json["rows"][0])
    done = run("lens", AGREEING, *model, "--output", "sigmoid", "--json")
    assert {"logit", "probability"} < set(done.json["rows"][0])
    assert "rank" not in done.json["rows"][0]
    done = run("lens", AGREEING, *model, "--output", "softmax")
    assert (done.code, done.stdout) == (2, "")
    assert 'pass --output "sigmoid" for a probability' in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"], "nothing was written"
    written = run("attribute", AGREEING, *model, "--json")
    assert written.code == 0, "what wrote a logit is known of any logit"
    assert set(written.json["rows"][0]) == {"image", "picture", "class", "class_index", "component", "logit"}
