"""The command line: pages from demo, checkpoints and names; every mistake ends with a sentence, exit code 2, no file."""

import json
import subprocess
import sys

import pytest
import timm
import torch
from in_process import run_vitlens
from safetensors.torch import save_file

from vitlens.demo import demo_folder

PICTURE = demo_folder() / "pictures" / "00_T-shirt_agreeing.png"


def test_help_is_quick_to_read():
    shown = run_vitlens("open", "--help")
    assert shown.returncode == 0
    for option in ("--model", "--checkpoint", "--class", "--against", "--head", "--out"):
        assert option in shown.stdout


def test_a_page_of_the_demo(tmp_path):
    """In a process of its own, as a user's; all others run in this one."""
    command = [sys.executable, "-m", "vitlens.cli.main", "open", str(PICTURE), "-o", str(tmp_path / "page.html")]
    # What is removed one by one takes longest, and test_every_command.py has it.
    command += ["--n-runs", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert "wrote" in done.stdout


def test_a_page_with_ones_own_checkpoint(tmp_path):
    torch.manual_seed(0)
    mine = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=7, depth=2)
    save_file(mine.state_dict(), tmp_path / "mine.safetensors")
    done = run_vitlens(
        "open", PICTURE, "--model", "vit_tiny_patch16_224", "--checkpoint", tmp_path / "mine.safetensors",
        "--timm", "depth=2", "--class", 6, "--out", tmp_path / "page.html",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"classes": [6,' in (tmp_path / "page.html").read_text()


def test_models_are_listed():
    done = run_vitlens("models", "eva02_tiny")
    assert done.returncode == 0, done.stderr
    assert "eva02_tiny_patch14_336" in done.stdout
    assert "2 models" in done.stdout
    assert "vit_tiny_patch16_224" in run_vitlens("models").stdout


def test_a_model_is_verified(tmp_path):
    done = run_vitlens("verify", "vit_tiny_patch16_224", "--random-weights", "--dtype", "float32", "--images", 1,
                   "--out", tmp_path / "parity.json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "worst block" in done.stdout
    report = json.loads((tmp_path / "parity.json").read_text())
    assert report["exact"]
    assert {row["site"] for row in report["rows"]} >= {"block 11", "logits", "gradient"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["open", "missing.png"], "there is no file missing.png"),
        (["open", PICTURE, "--class", "sock"], "nearest names"),
        (["verify", "resnet18", "--random-weights"], "ResNet"),
    ],
)
def test_mistakes_are_a_sentence_and_exit_code_2(tmp_path, arguments, sentence):
    """All others are tried in tests/commands, without a process for each."""
    done = run_vitlens(*arguments, "--out", tmp_path / "page.html")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
