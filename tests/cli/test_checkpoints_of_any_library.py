"""A checkpoint without --model is opened whatever library it is from."""

import pytest
import torch
from cli.conftest import AGREEING
from torchvision.models import VisionTransformer
from transformers import ViTConfig, ViTForImageClassification

import vitlens


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "leaves"
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    names = {0: "healthy", 1: "rust", 2: "scab"}
    ViTForImageClassification(ViTConfig(**size, image_size=32, id2label=names)).save_pretrained(path)
    return path


def test_a_folder_of_hugging_face(run, folder):
    done = run("lens", AGREEING, "--checkpoint", folder, "--class", "rust", "--json")
    assert done.code == 0, done.stderr
    assert {"block": 1, "class": "rust"}.items() <= done.json["blocks"][-1].items()
    assert done.json["provenance"]["weights"] == "Hugging Face ViT, leaves"


def test_a_file_of_torchvision(run, tmp_path):
    module = VisionTransformer(32, 16, 2, 4, 32, 48, num_classes=3)
    torch.nn.init.normal_(module.heads.head.weight)
    torch.save({"model": module.state_dict()}, tmp_path / "mine.pth")
    done = run("lens", AGREEING, "--checkpoint", tmp_path / "mine.pth")
    assert done.code == 2
    assert "how many heads a stream of width 32 has: pass --timm n_heads=" in done.stderr
    done = run("lens", AGREEING, "--checkpoint", tmp_path / "mine.pth", "--timm", "n_heads=4", "--mean", 0.5)
    assert done.code == 0, done.stderr


def test_its_parity(run, folder):
    done = run("verify", folder, "--dtype", "float64", "--json")
    assert done.code == 0, done.stderr
    assert done.json["exact"]
    assert done.json["library"] == "its library"


def test_the_list_of_families(run):
    done = run("models", "--families", "--json")
    assert [row["family"] for row in done.json] == list(vitlens.supported_families()["family"])
    assert "torchvision VisionTransformer" in run("models", "--families").stdout
