"""Reads what ViSAEBench publishes: its settings, and a file of tensors in its own names or in Overcomplete's."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.dictionaries.nonlinearities import nonlinearity
from vitlens.features.formats.dictionary_format import DictionaryFormat, LoadOptions, chosen
from vitlens.features.formats.exact import Axes, check_said, exact_weights, just_below, whole_number
from vitlens.features.formats.opened import SETTINGS_FILES, DictionaryFiles
from vitlens.features.formats.overcomplete import read_overcomplete_state
from vitlens.features.formats.sites import warn_no_hook
from vitlens.model.hooks.hook_points import hook_name

BENCH_CONFIGS = SETTINGS_FILES[1:]
#: Names of the activation function's setting, in the order in which ViSAEBench looks for it.
BENCH_ACTIVATION = ("activation", "sae_type", "architecture")
BENCH_ACTIVATIONS = ("topk", "batchtopk", "jumprelu")
BENCH_AXES: Axes = {
    "encoder.weight": ("features", "d_in"),
    "encoder.bias": ("features",),
    "decoder.weight": ("features", "d_in"),
}
RUNNING_THRESHOLD, JUMPS = "_running_threshold", "jump_thresholds"


def read_visaebench(files: DictionaryFiles, options: LoadOptions) -> SparseAutoencoder:
    """The sparse autoencoder of a folder; its settings say the activation function."""
    path = files.settings_file(*BENCH_CONFIGS)
    cfg, state, source = files.settings(*BENCH_CONFIGS), dict(files.state), str(path)
    kind = _kind_of_bench(cfg, options, source)
    threshold = _threshold(cfg, state, kind, options, source)
    if kind != "topk" and options.k is not None:
        raise InputError(f"{source} says {kind}, which takes no k=: leave it out")
    k = whole_number({"k": chosen("k", cfg.get("k"), options, source)}, "k", source) if kind == "topk" else None
    if "encoder.weight" in state:
        sae = _own_names(state, kind, k, threshold, options, str(files.weights))
    else:
        said = LoadOptions(kind, k, threshold, options.dictionary_norm, dtype=options.dtype)
        sae = read_overcomplete_state(state, str(files.weights), said)
    for name in ("input_dim", "d_model"):
        check_said(name, cfg.get(name), sae.d_in, source)
    for name in ("hidden_dim", "dict_size"):
        check_said(name, cfg.get(name), sae.d_sae, source)
    if "expansion_factor" in cfg:
        expected = sae.d_in * whole_number(cfg, "expansion_factor", source)
        check_said("width × expansion_factor", expected, sae.d_sae, source)
    sae.hook = _hook_of_layer(cfg)
    return sae


def _own_names(
    state: dict[str, Tensor], kind: str, k: int | None, threshold: Any, options: LoadOptions, source: str
) -> SparseAutoencoder:
    axes = dict(BENCH_AXES) | ({"decoder.bias": ("d_in",)} if "decoder.bias" in state else {})
    axes |= {JUMPS: ("features",)} if kind == "jumprelu" and JUMPS in state else {}
    weights = exact_weights(state, axes, source, options.dtype)
    W_enc = weights["encoder.weight"].T.contiguous()
    bounds = weights.get(JUMPS, threshold)
    if kind == "batchtopk":
        # ViSAEBench keeps what is as large as the threshold of BatchTopK, in the precision of a float.
        bounds = just_below(torch.as_tensor(threshold, dtype=torch.float32).to(W_enc))
    activation: nn.Module = nonlinearity(kind, W_enc.shape[1], k=k, threshold=bounds, like=W_enc)
    bias = weights.get("decoder.bias", W_enc.new_zeros(len(W_enc)))
    return SparseAutoencoder(W_enc, weights["encoder.bias"], weights["decoder.weight"], bias, activation, source=source)


def _kind_of_bench(cfg: dict[str, Any], options: LoadOptions, source: str) -> str:
    said = next((cfg[name] for name in BENCH_ACTIVATION if name in cfg), None)
    kind = chosen("activation", said.lower() if isinstance(said, str) else said, options, source)
    if kind not in BENCH_ACTIVATIONS:
        raise InputError(
            f"{source} says the activation function {kind!r}: ViSAEBench has {', '.join(BENCH_ACTIVATIONS)}, in its setting "
            "activation; pass activation= if it is missing"
        )
    return str(kind)


def _threshold(
    cfg: dict[str, Any], state: dict[str, Tensor], kind: str, options: LoadOptions, source: str
) -> Tensor | float | None:
    """The threshold of BatchTopK from the settings, the tensors or the caller; takes it out of `state`."""
    running = state.pop(RUNNING_THRESHOLD, None)
    if kind == "topk" and (running is not None or options.threshold is not None):
        raise InputError(f"{source} says topk, which has no threshold, and there is one")
    if kind != "batchtopk":
        return options.threshold
    found = cfg.get("threshold", None if running is None else float(running))
    if found is None:
        found = options.threshold
    elif options.threshold is not None:
        raise InputError(f"{source} says the threshold {found!r}: leave threshold= out")
    if isinstance(found, bool) or not isinstance(found, (int, float, Tensor)):
        raise InputError(
            f"{source} lacks the threshold of its BatchTopK dictionary, above which features are on: pass threshold="
        )
    return found


def _hook_of_layer(cfg: dict[str, Any]) -> str | None:
    """The stream behind a block, where the settings name the block; DINOv2's were normalised before training."""
    layer = cfg.get("layer")
    if layer is None and (found := re.search(r"layer_(\d+)/?$", str(cfg.get("activation_dir", "")))):
        layer = int(found[1])
    if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
        return None
    if "dinov2" in str(cfg.get("backbone", "")):
        warn_no_hook(
            f"layer {layer}", "ViSAEBench", "it holds DINOv2's stream behind the final norm, which has no hook point"
        )
        return None
    return hook_name(layer, "resid_post")


def _is_visaebench(files: DictionaryFiles) -> bool:
    if files.settings_file(*BENCH_CONFIGS) is None:
        return False
    return {"encoder.weight", "decoder.weight"} <= set(files.state) or "dictionary._weights" in files.state


VISAEBENCH = DictionaryFormat(
    "ViSAEBench",
    "config.json or .yaml and sae.pt",
    recognise=_is_visaebench,
    read=read_visaebench,
    asks=("activation", "k", "threshold", "dictionary_norm"),
)
