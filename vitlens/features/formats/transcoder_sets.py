"""Reads circuit-tracer's transcoders of single blocks: layer_0.safetensors, layer_1.safetensors, … and one config.yaml."""

import re
from typing import Any

from torch import nn

from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import Transcoder
from vitlens.features.dictionaries.nonlinearities import TopK, nonlinearity
from vitlens.features.formats.dictionary_format import DictionaryFormat, LoadOptions
from vitlens.features.formats.exact import Axes, exact_weights, one_of, whole_number
from vitlens.features.formats.opened import DictionaryFiles, read_settings
from vitlens.features.formats.sites import hook_of_transformer_lens

SET_CONFIG, SET_KIND = "config.yaml", "transcoder_set"
LAYER = re.compile(r"layer_(\d+)")
JUMP = "activation_function.threshold"
SET_AXES: Axes = {
    "W_enc": ("features", "d_model"),
    "b_enc": ("features",),
    "W_dec": ("features", "d_model"),
    "b_dec": ("d_model",),
}
SET_MAY_HAVE: Axes = {"W_skip": ("d_model", "d_model"), JUMP: ("features",)}


def read_transcoder_of_set(files: DictionaryFiles, options: LoadOptions) -> Transcoder:
    """The transcoder of one block; its number is in the name of the file, its hook points are in the settings of the set."""
    assert files.weights is not None
    path, source = files.folder / SET_CONFIG, str(files.weights)
    cfg = read_settings(path)
    one_of(cfg, "model_kind", (SET_KIND,), str(path))
    optional = {name: axes for name, axes in SET_MAY_HAVE.items() if name in files.state}
    weights = exact_weights(files.state, {**SET_AXES, **optional}, source, options.dtype)
    number = LAYER.fullmatch(files.weights.stem)
    assert number is not None
    hooks = []
    for name in ("feature_input_hook", "feature_output_hook"):
        if not isinstance(cfg.get(name), str):
            raise InputError(f"{path} does not say {name}, the site that all of its transcoders share")
        hooks.append(hook_of_transformer_lens(f"blocks.{int(number[1])}.{cfg[name]}", "circuit-tracer"))
    W_enc = weights["W_enc"].T.contiguous()
    return Transcoder(
        W_enc,
        weights["b_enc"],
        weights["W_dec"],
        weights["b_dec"],
        _activation_of_set(cfg, weights, str(path)),
        W_skip=weights.get("W_skip"),
        hook=hooks[0],
        hook_out=hooks[1],
        source=source,
    )


def _activation_of_set(cfg: dict[str, Any], weights: dict[str, Any], source: str) -> nn.Module:
    """The settings say the activation function; where they do not, thresholds make it a JumpReLU."""
    n_features, threshold = len(weights["b_enc"]), weights.get(JUMP)
    kind = one_of({"activation": None} | cfg, "activation", (None, "relu", "topk"), source)
    if kind != "topk" and cfg.get("k") is not None:
        raise InputError(f"{source} says k, which belongs to the activation 'topk', and the activation {kind!r}")
    if threshold is None:
        if kind == "topk":
            return TopK(whole_number(cfg, "k", source), n_features, signed=True)
        return nonlinearity("relu", n_features, like=weights["W_enc"])
    if kind is not None:
        raise InputError(f"{source} says the activation {kind!r}, which has no thresholds, and the weights have some")
    if float(threshold.min()) < 0:
        raise InputError(f"{source}: thresholds below 0, with which features would be negative, are not computed")
    return nonlinearity("jumprelu", n_features, threshold=threshold, like=weights["W_enc"])


def _is_of_set(files: DictionaryFiles) -> bool:
    named = files.weights is not None and LAYER.fullmatch(files.weights.stem) is not None
    return named and (files.folder / SET_CONFIG).is_file() and "W_enc" in files.state


TRANSCODER_SET = DictionaryFormat(
    "circuit-tracer's sets",
    f"{SET_CONFIG}, layer_0.safetensors, …",
    recognise=_is_of_set,
    read=read_transcoder_of_set,
)
