"""Dictionaries' weights that cannot be computed with are refused by the tensor's name, from both formats and from arrays."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vitlens import InputError, load_sae
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.files import as_path

D, N = 8, 16


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(N, D, generator=generator), dim=-1)
    return {
        "W_enc": torch.randn(D, N, generator=generator),
        "b_enc": torch.zeros(N),
        "W_dec": decoder,
        "b_dec": torch.zeros(D),
    }


@pytest.fixture
def saelens(weights, tmp_path):
    def load(changed=None, cfg=None, **options):
        save_file({**weights, **(changed or {})}, tmp_path / "sae_weights.safetensors")
        (tmp_path / "cfg.json").write_text(
            json.dumps({"architecture": "standard", "d_in": D, "d_sae": N, **(cfg or {})})
        )
        return load_sae(tmp_path, **options)

    return load


@pytest.fixture
def overcomplete(weights, tmp_path):
    def load(changed=None, **options):
        state = {
            "dictionary._weights": weights["W_dec"],
            "dictionary.multiplier": torch.zeros(()),
            "encoder.final_block.0.weight": weights["W_enc"].T,
            "encoder.final_block.0.bias": weights["b_enc"],
        }
        torch.save(state | (changed or {}), tmp_path / "sae.pt")
        return load_sae(tmp_path / "sae.pt", activation="relu", **options)

    return load


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_weights_that_cannot_be_computed_with(weights, saelens, overcomplete):
    nan = weights["W_dec"].clone()
    nan[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"sae_weights.safetensors: W_dec holds 1 NaN among its 128 values"):
        saelens({"W_dec": nan})
    with pytest.raises(InputError, match="b_enc is int32, and weights are floats"):
        saelens({"b_enc": torch.zeros(N, dtype=torch.int32)})
    for changed, sentence in (
        (nan, "holds 1 NaN"),
        (weights["W_dec"].to("meta"), "holds no values"),
        (weights["W_dec"].to_sparse(), "is a sparse tensor"),
        (weights["W_dec"].long(), "is int64"),
    ):
        with pytest.raises(InputError, match=rf"sae\.pt: dictionary\._weights {'.*' + sentence}"):
            overcomplete({"dictionary._weights": changed})
    for name, changed, sentence in (
        ("W_enc", weights["W_enc"] / 0, "W_enc holds 128 infinite among its 128 values"),
        ("b_enc", np.zeros(N, int), "b_enc is int64"),
        ("b_enc", "zeros", "b_enc is no array of numbers"),
        ("b_enc", [[1], [2, 3]], "b_enc is no array of numbers"),
        ("W_enc", weights["W_enc"].to_sparse(), "W_enc is a sparse tensor"),
    ):
        with pytest.raises(InputError, match=sentence):
            SparseAutoencoder.from_arrays(**{**weights, name: changed})
    with pytest.raises(InputError, match="threshold holds NaN"):
        SparseAutoencoder.from_arrays(**weights, activation="jumprelu", threshold=float("nan"))


def test_weights_that_a_dtype_cannot_hold(weights, saelens, overcomplete):
    large = {"W_dec": weights["W_dec"] * 1e6}
    for options in ({"dtype": "float16"}, {"cfg": {"dtype": "float16"}}):
        with pytest.raises(InputError, match=r"W_dec holds values of up to .*, and float16 ends at 6\.55e\+04"):
            saelens(large, **options)
    with pytest.raises(InputError, match="float16 ends at"):
        overcomplete({"encoder.final_block.0.bias": weights["b_enc"] + 1e6}, dtype="float16")
    sae = saelens(large, dtype="bfloat16")
    with pytest.raises(InputError, match="float16 ends at"):
        sae.half()
    assert sae.W_dec.dtype == torch.bfloat16
    for options, sentence in (
        ({"dtype": "int8"}, "dtype is one of"),
        ({"device": "xyz"}, "device 'xyz' cannot be used"),
    ):
        with pytest.raises(InputError, match=sentence):
            saelens(**options)


def test_files_that_hold_nothing_or_something_else(saelens, tmp_path):
    with pytest.raises(InputError, match="path is the path of a file, not 3"):
        as_path(3, "path")
    for name, sentence in (("none.pt", "is empty: save a state_dict"), ("none.safetensors", "is no safetensors file")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match=sentence):
            load_sae(tmp_path / name)
    torch.save({}, tmp_path / "none.pt")
    with pytest.raises(InputError, match="is no state_dict"):
        load_sae(tmp_path / "none.pt")
    scaled = {"normalize_activations": "expected_average_only_in"}
    for factor in (float("nan"), 0.0, -1.0, float("inf")):
        with pytest.raises(InputError, match=r"scaled by a number larger than 0|scaling_factor is a finite number"):
            saelens(cfg=scaled, scaling_factor=factor)
    (tmp_path / "activation_scaler.json").write_text("[1")
    with pytest.raises(InputError, match=r"activation_scaler\.json cannot be read as JSON"):
        saelens(cfg=scaled)
