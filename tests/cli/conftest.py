"""Commands run in this process, as `vitlens` runs them; pictures, and a small model of random weights."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import vitlens
from vitlens.cli.main import main
from vitlens.demo import demo_folder

DEMO = demo_folder()
AGREEING = DEMO / "pictures" / "00_T-shirt_agreeing.png"
CONFLICTING = DEMO / "pictures" / "00_T-shirt_conflicting.png"
MASK = DEMO / "masks" / "00_T-shirt_agreeing.png"
TIMM = "vit_tiny_patch16_224"
#: A few blocks of it: what commands are asked does not depend on more.
FEW_BLOCKS = ["--timm", "depth=4"]


@dataclass
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict:
        """Standard output as strict JSON."""

        def refuse(literal: str) -> None:
            raise AssertionError(f"{literal} is no JSON")

        return json.loads(self.stdout, parse_constant=refuse)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `vitlens ARGUMENTS`."""

    def run_command(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["vitlens", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Done(ended.value.code or 0, captured.out, captured.err)

    return run_command


@pytest.fixture(scope="session")
def demo():
    return vitlens.demo.load_demo_model()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """Weights of a timm model with seven classes, every parameter drawn."""
    torch.manual_seed(1)
    module = timm.create_model(TIMM, pretrained=False, num_classes=7, depth=4)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    save_file(module.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def mine(checkpoint):
    return vitlens.HookedViT.from_timm(TIMM, checkpoint_path=checkpoint, depth=4)


@pytest.fixture(scope="session", params=["demo", "timm"])
def case(request, checkpoint):
    """A model, and the options that mean it."""
    if request.param == "demo":
        return request.getfixturevalue("demo"), []
    return request.getfixturevalue("mine"), ["--model", TIMM, "--checkpoint", checkpoint, *FEW_BLOCKS]
