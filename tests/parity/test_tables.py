"""The list of supported models is the registry's and is what is measured; verification tells exact from wrong."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch

from vitlens import InputError, supported_families, supported_models
from vitlens.model.parts.mlp import MLP
from vitlens.parity import verify_port
from vitlens.parity.families import library_table
from vitlens.parity.peers.cases import CASES
from vitlens.parity.reduced import family_names, randomise
from vitlens.parity.supported import family_table, measure_name

ROOT = Path(__file__).parents[2]


@pytest.mark.verified_timm
def test_the_list_is_the_registry():
    table = supported_models()
    assert list(table["name"]) == list(family_names())
    assert (table["refused"] == "").all()
    assert table["difference"].astype(float).between(0, 1e-9).all()


def test_the_page_of_models_shows_the_list():
    page = (ROOT / "docs" / "pages" / "model.md").read_text()
    assert family_table(supported_models()) in page


def test_the_table_of_families_lists_every_case():
    table = supported_families()
    assert list(zip(table["family"], table["case"], strict=True)) == [(case.family, case.name) for case in CASES]
    assert table["difference"].astype(float).between(0, 1e-9).all()
    assert library_table(table) in (ROOT / "docs" / "pages" / "model.md").read_text()


@pytest.mark.verified_timm
@pytest.mark.parametrize("name", ["vit_base_patch16_dinov3", "vit_base_patch16_siglip_224", "beit_base_patch16_224"])
def test_rows_are_what_is_measured(name):
    """The architecture exactly; the difference is rounding, which another machine may round otherwise."""
    row = supported_models(name).query("name == @name").iloc[0]
    again = measure_name(name)
    for column in set(row.index) - {"difference"}:
        assert str(row[column]) == str(again[column]), column
    assert float(again["difference"]) <= 1e-9


def test_a_pattern_chooses_names():
    assert set(supported_models("eva02*448")["name"]) == {
        name for name in family_names() if re.fullmatch("eva02.*448", name)
    }
    assert all("dinov3" in name for name in supported_models("dinov3")["name"])
    with pytest.raises(InputError, match=r"'dinov33'.*nearest names"):
        supported_models("dinov33")


SMALL = {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 7, "progress": False}


def test_verification_reports_every_block_mode_and_precision(tmp_path):
    report = verify_port("vit_tiny_patch16_224", pretrained=False, dtypes=("float32", "float64", "bfloat16"), **SMALL)
    assert report.exact
    frame = report.to_frame()
    assert set(frame["site"]) == {"block 0", "block 1", "logits", "gradient"}
    assert set(frame["mode"]) == {"fused", "eager"}
    assert frame.query("dtype == 'float64'")["difference"].max() <= 1e-12
    costs = frame.query("site == 'logits'").set_index(["dtype", "mode"])["to_float64"]
    assert costs["float64", "eager"] < costs["float32", "eager"] < costs["bfloat16", "eager"]
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["exact"]
    assert set(saved["settings"]["versions"]) == {
        "vitlens",
        "python",
        "torch",
        "timm",
        "transformer-lens",
        "transformers",
    }
    assert "exact but for rounding" in repr(report)


def test_verification_sees_a_wrong_port(monkeypatch):
    write = MLP._write
    monkeypatch.setattr(MLP, "_write", lambda self, hidden: write(self, hidden) * (1 + 1e-6))
    report = verify_port("vit_tiny_patch16_224", pretrained=False, dtypes=("float64",), **SMALL)
    assert not report.exact
    assert "NOT exact" in repr(report)


@pytest.fixture(scope="module")
def of_hugging_face():
    """Hugging Face's classifier, with parameters that are not those of its initialisation."""
    case = next(case for case in CASES if case.name == "quick GELU, eps 1e-3, no biases of q, k, v")
    return randomise(case.build()).float()


def test_verification_of_other_libraries(of_hugging_face, tmp_path):
    report = verify_port(of_hugging_face, dtypes=("float64",), progress=False)
    assert report.exact
    assert set(report.to_frame()["site"]) == {"block 0", "block 1", "logits", "gradient"}
    of_hugging_face.save_pretrained(tmp_path / "mine")
    report = verify_port(tmp_path / "mine", dtypes=("float64", "bfloat16"), progress=False)
    assert report.exact
    assert "mine, its weights: exact but for rounding" in repr(report)


def test_verification_sees_a_library_that_computes_otherwise(of_hugging_face):
    module = copy.deepcopy(of_hugging_face)
    # The port reads the configuration, and the module goes by its own norm.
    module.vit.layernorm.eps = 0.1
    assert not verify_port(module, dtypes=("float64",), progress=False).exact


def test_verification_refuses_what_it_cannot_do():
    with pytest.raises(InputError, match="dtype is one of"):
        verify_port("vit_tiny_patch16_224", pretrained=False, dtypes=("int8",))
    with pytest.raises(InputError, match="at least 1"):
        verify_port("vit_tiny_patch16_224", pretrained=False, n_images=0)
    with pytest.raises(InputError, match="ResNet"):
        verify_port("resnet18", pretrained=False)
    with pytest.raises(InputError, match="img_size= goes with a name of timm"):
        verify_port(torch.nn.Linear(2, 2), img_size=32)
    with pytest.raises(InputError, match="there is no file or folder nowhere"):
        verify_port("nowhere/else.pth")


# One name for each kind of architecture, the smallest of it.
FULL_SIZE = [
    "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_xsmall_patch16_clip_224", "vit_base_patch32_siglip_256",
    "vit_small_patch14_reg4_dinov2", "vit_small_patch16_18x2_224", "vit_dpwee_patch16_reg1_gap_256",
    "vit_dwee_patch16_reg1_gap_256", "vit_pwee_patch16_reg1_gap_256", "beit3_base_patch16_224", "vit_tiny_r_s16_p8_224",
    "vitamin_small_224", "eva02_tiny_patch14_224", "vit_small_patch16_dinov3", "vit_small_patch16_rope_mixed_224",
    "beit_base_patch16_224", "vit_relpos_small_patch16_224", "vit_relpos_small_patch16_rpn_224",
    "vit_srelpos_small_patch16_224", "naflexvit_base_patch16_par_gap",
    "aimv2_large_patch14_224",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_representatives_at_full_size(name):
    report = verify_port(name, pretrained=False, n_images=1, progress=False)
    assert report.exact, report
