"""Reads SAELens' folders (cfg.json and sae_weights.safetensors), of version 6 and of earlier versions."""

import warnings
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder, Transcoder, complete_weights
from vitlens.features.dictionaries.nonlinearities import Gated, nonlinearity
from vitlens.features.formats.dictionary_format import DictionaryFormat, LoadOptions
from vitlens.features.formats.exact import Axes, check_said, exact_weights
from vitlens.features.formats.opened import DictionaryFiles, read_safetensors, read_settings

CONFIG, WEIGHTS, SPARSITY, SCALER = (
    "cfg.json",
    "sae_weights.safetensors",
    "sparsity.safetensors",
    "activation_scaler.json",
)
# The weights of each architecture besides W_enc, W_dec and b_dec.
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "standard": ("b_enc",),
    "gated": ("b_gate", "b_mag", "r_mag"),
    "jumprelu": ("b_enc", "threshold"),
    "topk": ("b_enc",),
    "batchtopk": ("b_enc", "topk_threshold"),
    "matryoshka_batchtopk": ("b_enc", "topk_threshold"),
    "transcoder": ("b_enc",),
    "skip_transcoder": ("b_enc", "W_skip"),
    "jumprelu_transcoder": ("b_enc", "threshold"),
    "jumprelu_skip_transcoder": ("b_enc", "threshold", "W_skip"),
}
# Their axes; those of a sparse autoencoder's output are those of its input.
SAELENS_AXES: Axes = {
    "W_enc": ("d_in", "d_sae"),
    "W_dec": ("d_sae", "d_out"),
    "b_dec": ("d_out",),
    "topk_threshold": (),
    "W_skip": ("d_out", "d_in"),
    **dict.fromkeys(("b_enc", "b_gate", "b_mag", "r_mag", "threshold", "scaling_factor"), ("d_sae",)),
}
# What version 6 always writes; earlier versions left out what they did not have.
ALWAYS_SAID = ("architecture", "apply_b_dec_to_input", "normalize_activations")
OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}


def read_saelens(files: DictionaryFiles, options: LoadOptions) -> SparseAutoencoder:
    """The sparse autoencoder or transcoder of a SAELens folder.

    Raises:
        InputError: files that are missing or something else; an architecture, weight or setting that is not known.
    """
    folder, dtype = files.folder, options.dtype
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder / WEIGHTS} needs the {CONFIG} that SAELens saved in the same folder")
    cfg = _read_config(folder)
    architecture = cfg["architecture"]
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"{folder} holds a SAE of the architecture {architecture!r}; vitlens knows {', '.join(ARCHITECTURES)}"
        )
    state, source = read_safetensors(folder / WEIGHTS), str(folder / WEIGHTS)
    if dtype is None and cfg.get("dtype") is not None:
        dtype = _dtype(cfg["dtype"])
    weights = exact_weights(state, _axes_of_architecture(architecture, state), source, dtype)
    _check_settings(cfg, folder)
    if "log_threshold" in weights:
        weights["threshold"] = weights.pop("log_threshold").exp()
    _fold_finetuning(weights, cfg, folder)
    _fold_input_scale(weights, cfg, folder, options.scaling_factor)
    _fold_decoder_norm(weights, cfg)
    sae = _build(weights, cfg, str(folder))
    metadata = read_settings(folder / CONFIG).get("metadata") or {}
    sae.metadata = {name: value for name, value in metadata.items() if name not in ("hook_name", "hook_name_out")}
    if (folder / SPARSITY).is_file():
        sae.log_sparsity = read_safetensors(folder / SPARSITY).get("sparsity")
    return sae


def _build(weights: dict[str, Tensor], cfg: dict[str, Any], source: str) -> SparseAutoencoder:
    basic = complete_weights(weights)
    lengths = {"d_in": basic["W_enc"].shape[0], "d_sae": basic["W_dec"].shape[0], "d_out": basic["W_dec"].shape[1]}
    for name in lengths if "transcoder" in cfg["architecture"] else ("d_in", "d_sae"):
        check_said(name, cfg.get(name), lengths[name], source)
    normalisation = cfg["normalize_activations"]
    common: dict[str, Any] = {
        **basic,
        "activation": _nonlinearity(weights, cfg),
        "normalisation": "none" if normalisation == "expected_average_only_in" else normalisation,
        "hook": cfg.get("hook_name"),
        "source": source,
    }
    if "transcoder" in cfg["architecture"]:
        return Transcoder(**common, W_skip=weights.get("W_skip"), hook_out=cfg.get("hook_name_out"))
    return SparseAutoencoder(**common, centred=bool(cfg.get("apply_b_dec_to_input", True)))


def _nonlinearity(weights: dict[str, Tensor], cfg: dict[str, Any]) -> nn.Module:
    if cfg["architecture"] == "gated":
        return Gated(weights["b_gate"], weights["b_mag"], weights["r_mag"])
    threshold = weights.get("threshold", weights.get("topk_threshold"))
    kind = "jumprelu" if threshold is not None else cfg["activation_fn"]
    # In BatchTopK k is a mean over rows, perhaps not a whole number, and the threshold is used instead.
    k = cfg.get("k") if kind == "topk" else None
    return nonlinearity(kind, len(weights["W_dec"]), k=k, threshold=threshold, like=weights["W_enc"])


def _read_config(folder: Path) -> dict[str, Any]:
    """The settings with version 6's names, including those that version 6 keeps under "metadata"."""
    found = read_settings(folder / CONFIG)
    lacking = [name for name in ALWAYS_SAID if name not in found] if "metadata" in found else []
    if lacking:
        raise InputError(f"{folder / CONFIG} does not say {', '.join(lacking)}, so it is not known what it computes")
    cfg = {**(found.get("metadata") or {}), **found}
    cfg = {OLD_NAMES.get(name, name): value for name, value in cfg.items()}
    cfg["architecture"] = cfg.get("architecture") or "standard"
    cfg["activation_fn"] = cfg.get("activation_fn") or "relu"
    k = (cfg.get("activation_fn_kwargs") or {}).get("k")
    if k is not None:
        cfg.setdefault("k", k)
    if cfg["architecture"] == "topk":
        cfg["activation_fn"] = "topk"
    normalisation = cfg.get("normalize_activations")
    if isinstance(normalisation, bool):
        normalisation = "expected_average_only_in" if normalisation else "none"
    cfg["normalize_activations"] = normalisation or "none"
    return cfg


def _check_settings(cfg: dict[str, Any], folder: Path) -> None:
    known = {
        "normalize_activations": ("none", "expected_average_only_in", "layer_norm", "constant_norm_rescale"),
        "reshape_activations": ("none", "hook_z", None),
        "activation_fn": ("relu", "topk", "tanh-relu"),
        "hook_head_index": (None,),
    }
    for name, values in known.items():
        if cfg.get(name) not in values:
            allowed = ", ".join(str(value) for value in values)
            raise InputError(f"{folder}: {name} is {cfg[name]!r}, which vitlens does not compute; it knows {allowed}")
    if "transcoder" in cfg["architecture"] and cfg.get("apply_b_dec_to_input"):
        raise InputError(
            f"{folder}: a transcoder's decoder bias belongs to what it predicts, so apply_b_dec_to_input is false"
        )


def _axes_of_architecture(architecture: str, state: dict[str, Tensor]) -> Axes:
    """The weights of an architecture, by the names that they have in this file."""
    names = {"W_enc", "W_dec", "b_dec", *ARCHITECTURES[architecture], *({"scaling_factor"} & set(state))}
    if "batchtopk" in architecture and "threshold" in state:
        names = (names - {"topk_threshold"}) | {"threshold"}
    axes = {name: SAELENS_AXES[name] for name in SAELENS_AXES if name in names}
    if "threshold" in names and "log_threshold" in state:
        axes["log_threshold"] = axes.pop("threshold")
    if "transcoder" not in architecture:
        axes = {name: tuple("d_in" if axis == "d_out" else axis for axis in of_name) for name, of_name in axes.items()}
    return axes


def _fold_finetuning(weights: dict[str, Tensor], cfg: dict[str, Any], folder: Path) -> None:
    """Folds a factor for each feature, which a fine-tuning learned, into the decoder."""
    factor = weights.pop("scaling_factor", None)
    if factor is None or torch.allclose(factor, torch.ones_like(factor)):
        return
    if not cfg.get("finetuning_scaling_factor"):
        raise InputError(f"{folder} holds a scaling_factor, and its {CONFIG} does not say finetuning_scaling_factor")
    weights["W_dec"] = weights["W_dec"] * factor[:, None]


def _fold_input_scale(
    weights: dict[str, Tensor], cfg: dict[str, Any], folder: Path, scaling_factor: float | None
) -> None:
    """Folds the number that activations were multiplied by in training into the weights, as SAELens does."""
    if cfg["normalize_activations"] != "expected_average_only_in":
        if scaling_factor is not None:
            raise InputError(
                f"{folder} was not trained on scaled activations, so there is nothing for scaling_factor= to do"
            )
        return
    if scaling_factor is None and (folder / SCALER).is_file():
        scaling_factor = read_settings(folder / SCALER).get("scaling_factor")
    if scaling_factor is None:
        warnings.warn(
            f"{folder} was trained on activations scaled to an average norm, and does not say by how much: its weights are "
            "taken as if that were folded in already, as SAELens does; pass scaling_factor= otherwise",
            stacklevel=4,
        )
        return
    if isinstance(scaling_factor, bool) or not isinstance(scaling_factor, (int, float)) or not 0 < scaling_factor < inf:
        raise InputError(f"{folder}: activations are scaled by a number larger than 0, not by {scaling_factor!r}")
    if "transcoder" in cfg["architecture"]:
        raise InputError(
            f"{folder}: what a transcoder predicts is scaled by another number, which its folder does not hold"
        )
    weights["W_enc"] = weights["W_enc"] * scaling_factor
    weights["W_dec"] = weights["W_dec"] / scaling_factor
    weights["b_dec"] = weights["b_dec"] / scaling_factor
    if "topk_threshold" in weights and cfg.get("rescale_acts_by_decoder_norm"):
        weights["topk_threshold"] = weights["topk_threshold"] / scaling_factor


def _fold_decoder_norm(weights: dict[str, Tensor], cfg: dict[str, Any]) -> None:
    """f = act(h ‖W_dec‖), x̂ = (f / ‖W_dec‖) W_dec: the same with the norms in the encoder and unit rows."""
    if cfg.get("rescale_acts_by_decoder_norm") and "topk" in cfg["architecture"]:
        norms = weights["W_dec"].norm(dim=-1)
        weights["W_enc"] = weights["W_enc"] * norms
        weights["b_enc"] = weights["b_enc"] * norms
        weights["W_dec"] = weights["W_dec"] / norms[:, None]


def _dtype(name: object) -> torch.dtype:
    found = getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"{name!r} is no dtype of weights")
    return found


SAELENS = DictionaryFormat(
    "SAELens",
    f"{CONFIG} and {WEIGHTS}",
    recognise=lambda files: files.holds(WEIGHTS) or (files.named is None and (files.folder / CONFIG).is_file()),
    read=read_saelens,
    asks=("scaling_factor",),
)
