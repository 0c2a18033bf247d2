"""Reads saev's files: one line of JSON, then the tensors as torch saves them. Schemas 1 to 5, and files from before them."""

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.dictionaries.nonlinearities import Relu, TopK, nonlinearity
from vitlens.features.formats.dictionary_format import DictionaryFormat, LoadOptions, chosen
from vitlens.features.formats.exact import Axes, check_said, exact_weights, one_of, whole_number
from vitlens.features.formats.opened import DictionaryFiles, only_tensors
from vitlens.model.checkpoints.formats import READ_ERRORS

SAEV_AXES: Axes = {
    "W_enc": ("d_in", "features"),
    "b_enc": ("features",),
    "W_dec": ("features", "d_in"),
    "b_dec": ("d_in",),
}
SAEV_THRESHOLD = "activation.threshold"
LAST_SCHEMA = 5
#: The activation functions by saev's names of their classes.
SAEV_ACTIVATIONS = ("Relu", "TopK", "BatchTopK")
#: Whether b_dec is subtracted before the encoder: saev did until September 2025, during schema 2, and no file says it.
CENTRED = {None: True, 1: None, 2: None, 3: False, 4: False, 5: False}


def read_saev(files: DictionaryFiles, options: LoadOptions) -> SparseAutoencoder:
    """The sparse autoencoder of a file, which does not say where in the model it was trained."""
    assert files.weights is not None
    header, state = _parts(files.weights)
    source = str(files.weights)
    schema = header.get("schema")
    if schema not in CENTRED:
        raise InputError(f"{source} has saev's schema {schema!r}, and vitlens reads schemas 1 to {LAST_SCHEMA}")
    cfg, kind, params = _settings(header, source)
    axes = dict(SAEV_AXES)
    if kind == "BatchTopK" and SAEV_THRESHOLD in state:
        axes[SAEV_THRESHOLD] = ()
    weights: dict[str, Any] = exact_weights(state, axes, source, options.dtype)
    d_in, n_features = weights["W_enc"].shape
    width = next((name for name in ("d_model", "d_vit") if name in cfg), "d_model")
    check_said(width, whole_number(cfg, width, source), d_in, source)
    n_said = cfg.get("d_sae") or d_in * whole_number(cfg, "exp_factor", source)
    check_said("d_sae", n_said, n_features, source)
    centred = chosen("centred", CENTRED[schema], options, source)
    if centred is None:
        raise InputError(
            f"{source} has saev's schema {schema}: until September 2025 saev subtracted b_dec before the encoder, and since "
            "then it does not; pass centred=True for a file from before, centred=False otherwise"
        )
    activation = _activation(kind, params, weights.pop(SAEV_THRESHOLD, None), weights["W_enc"], options, source)
    return SparseAutoencoder(**weights, activation=activation, centred=centred, source=source)


def _activation(
    kind: str, params: dict[str, Any], threshold: Tensor | None, W_enc: Tensor, options: LoadOptions, source: str
) -> nn.Module:
    if kind != "BatchTopK" and options.threshold is not None:
        raise InputError(f"{source} holds a {kind} dictionary, which has no threshold: leave threshold= out")
    if kind == "Relu":
        return Relu()
    k, n_features = whole_number(params, "top_k", source), W_enc.shape[1]
    if kind == "TopK":
        return TopK(min(k, n_features), n_features, signed=True)
    if threshold is not None and options.threshold is not None:
        raise InputError(f"{source} holds its threshold: leave threshold= out")
    return nonlinearity(
        "batchtopk", n_features, threshold=options.threshold if threshold is None else threshold, like=W_enc
    )


def _settings(header: dict[str, Any], source: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """The settings of the dictionary, the name of its activation function, and that function's own settings."""
    if "schema" not in header:
        return header, "Relu", {}
    cfg = header.get("cfg")
    if not isinstance(cfg, dict):
        raise InputError(f"{source} says no cfg in its first line, so it is not known what the dictionary is")
    if header["schema"] == 1 and header.get("cls") in SAEV_ACTIVATIONS:
        return cfg, header["cls"], cfg
    activation = cfg.get("activation")
    if not isinstance(activation, dict) or not isinstance(activation.get("params"), dict):
        raise InputError(f"{source} does not say its activation function in its first line")
    return cfg, one_of(activation, "cls", SAEV_ACTIVATIONS, source), activation["params"]


def _first_line(path: Path) -> dict[str, Any] | None:
    """What saev writes before the tensors; None if the file begins otherwise."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.readline()) if file.read(1) == b"{" and file.seek(0) == 0 else None
            tensors_follow = file.read(2) == b"PK"
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and tensors_follow else None


def _parts(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with path.open("rb") as file:
        header = json.loads(file.readline())
        rest = io.BytesIO(file.read())
    try:
        found = torch.load(rest, map_location="cpu", weights_only=True)
    except READ_ERRORS:
        raise InputError(f"{path}: what follows its first line is no file of tensors, or is cut short") from None
    return header, only_tensors(found, path)


SAEV = DictionaryFormat(
    "saev",
    "sae.pt that begins with JSON",
    recognise=lambda files: files.weights is not None and _first_line(files.weights) is not None,
    read=read_saev,
    asks=("centred", "threshold"),
)
