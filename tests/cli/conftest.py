"""Commands run in this process, as `vitlens` runs them; pictures, and a small model of random weights."""

import json
import string
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file

import vitlens
from vitlens.cli.main import main
from vitlens.demo import demo_folder
from vitlens.parity.peers.huggingface_vit import SMALL_TOWER
from vitlens.parity.reduced import randomise

DEMO = demo_folder()
AGREEING = DEMO / "pictures" / "00_T-shirt_agreeing.png"
CONFLICTING = DEMO / "pictures" / "00_T-shirt_conflicting.png"
MASK = DEMO / "masks" / "00_T-shirt_agreeing.png"
TIMM = "vit_tiny_patch16_224"
#: A few blocks of it that read 6 × 6 patches: what commands are asked does not depend on more.
SMALL = {"depth": 4, "img_size": 96}
FEW_BLOCKS = [word for name, value in SMALL.items() for word in ("--timm", f"{name}={value}")]


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
    module = timm.create_model(TIMM, pretrained=False, num_classes=7, **SMALL)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    save_file(module.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def mine(checkpoint):
    return vitlens.HookedViT.from_timm(TIMM, checkpoint_path=checkpoint, **SMALL)


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """The folder of a small CLIP of random weights, whose tokenizer reads letters."""
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in [*string.ascii_lowercase, "."])]
    words = {word: i for i, word in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = transformers.CLIPTokenizer(words, [], model_max_length=40)
    reader = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "vocab_size": len(words), "max_position_embeddings": 40, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    config = transformers.CLIPConfig(vision_config=SMALL_TOWER, text_config=reader, projection_dim=24)
    folder = tmp_path_factory.mktemp("models") / "clip"
    randomise(transformers.CLIPModel(config)).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=["demo", "timm"])
def case(request, checkpoint):
    """A model, and the options that mean it."""
    if request.param == "demo":
        return request.getfixturevalue("demo"), []
    return request.getfixturevalue("mine"), ["--model", TIMM, "--checkpoint", checkpoint, *FEW_BLOCKS]
