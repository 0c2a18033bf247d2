"""The command line: pages from demo, checkpoints and names; every mistake ends with a sentence, exit code 2, no file."""

import json
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from vitlens.data.demo import demo_folder

PICTURE = demo_folder() / "pictures" / "00_T-shirt_agreeing.png"


def vitlens(*arguments: object, cwd=None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "vitlens.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def test_help_is_quick_to_read():
    shown = vitlens("report", "--help")
    assert shown.returncode == 0
    for option in ("--model", "--checkpoint", "--class", "--against", "--head", "--out"):
        assert option in shown.stdout


def test_a_report_of_the_demo(tmp_path):
    done = vitlens("report", PICTURE, "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert "wrote" in done.stdout


def test_a_report_with_ones_own_checkpoint(tmp_path):
    torch.manual_seed(0)
    mine = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=7)
    save_file(mine.state_dict(), tmp_path / "mine.safetensors")
    done = vitlens(
        "report", PICTURE, "--model", "vit_tiny_patch16_224", "--checkpoint", tmp_path / "mine.safetensors",
        "--class", 6, "--out", tmp_path / "page.html",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "class 6 (6)" in (tmp_path / "page.html").read_text()


def test_models_are_listed():
    done = vitlens("models", "eva02_tiny")
    assert done.returncode == 0, done.stderr
    assert "eva02_tiny_patch14_336" in done.stdout
    assert "2 models" in done.stdout
    assert "vit_tiny_patch16_224" in vitlens("models").stdout


def test_a_model_is_verified(tmp_path):
    done = vitlens("verify", "vit_tiny_patch16_224", "--random-weights", "--dtype", "float32", "--images", 1,
                   "--out", tmp_path / "parity.json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "worst block" in done.stdout
    report = json.loads((tmp_path / "parity.json").read_text())
    assert report["exact"]
    assert {row["site"] for row in report["rows"]} >= {"block 11", "logits", "gradient"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["models", "resnet18"], "no supported model matches 'resnet18'"),
        (["verify", "resnet18", "--random-weights"], "ResNet"),
        (["verify", "swin_tiny_patch4_window7_224", "--random-weights"], "SwinTransformer"),
        (["verify", "vit_tiny_patch16_224", "--random-weights", "--dtype", "int8"], "dtype is one of"),
        (["verify", "vit_tiny_patch16_224", "--checkpoint", "no.safetensors"], "no checkpoint file"),
        (["verify", "vit_tiny_patch16_224", "--random-weights", "--images", "0"], "at least 1"),
    ],
)
def test_mistakes_about_models_are_a_sentence(arguments, sentence):
    done = vitlens(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["report", "missing.png"], "there is no file missing.png"),
        (["report", __file__], "is not a picture"),
        (["report", PICTURE, "--model", "vit_tinny_patch16_224", "--random-weights"], "vit_tiny_patch16_224"),
        (["report", PICTURE, "--model", "resnet18", "--random-weights"], "ResNet"),
        (["report", PICTURE, "--class", "sock"], "nearest names"),
        (["report", PICTURE, "--class", "12"], "classes 0 to 9"),
        (["report", PICTURE, "--head", "x"], "L9H3"),
        (["report", PICTURE, "--device", "tpu"], "device 'tpu'"),
        (
            ["report", PICTURE, "--model", "vit_tiny_patch16_224", "--checkpoint", "no.safetensors"],
            "no checkpoint file",
        ),
        (["report", PICTURE, "--model", "vit_tiny_patch16_224", "--checkpoint", __file__], "cannot be read"),
        (["report", PICTURE, "--checkpoint", __file__], "demo model comes with its weights"),
    ],
)
def test_mistakes_are_a_sentence_and_exit_code_2(tmp_path, arguments, sentence):
    done = vitlens(*arguments, "--out", tmp_path / "page.html")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
