"""Reads ViT-Prisma: config.json and a .pt of tensors, or the .pt that its training saves, settings included."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder, Transcoder
from vitlens.features.dictionaries.nonlinearities import Gated, nonlinearity
from vitlens.features.formats.dictionary_format import DictionaryFormat, LoadOptions
from vitlens.features.formats.exact import Axes, check_said, exact_weights, one_of, whole_number
from vitlens.features.formats.opened import DictionaryFiles, only_tensors, read_state
from vitlens.features.formats.sites import hook_of_transformer_lens
from vitlens.model.checkpoints.formats import READ_ERRORS, read_tensors

PRISMA_CONFIG = "config.json"
HOW_TO_CONVERT = (
    "with ViT-Prisma installed, load it by SparseAutoencoder.load_from_pretrained(path), and save in one folder "
    'torch.save(sae.state_dict(), "weights.pt") and sae.cfg.save_config("config.json")'
)
ENCODER: Axes = {"W_enc": ("d_in", "features"), "b_enc": ("features",), "b_dec": ("d_in",)}
PRISMA_AXES: dict[str, Axes] = {
    "standard": {**ENCODER, "W_dec": ("features", "d_in")},
    # ViT-Prisma makes b_enc of a gated dictionary too, and never reads it.
    "gated": {
        **ENCODER, "W_dec": ("features", "d_in"), "b_gate": ("features",), "r_mag": ("features",), "b_mag": ("features",),
    },
    "transcoder": {**ENCODER, "W_dec": ("features", "d_out"), "b_dec_out": ("d_out",)},
}  # fmt: skip
#: Settings whose values decide what is computed. What is not in an old file had one value when it was written.
BEFORE = {
    "architecture": "standard", "is_transcoder": False, "hook_point_head_index": None, "activation_fn_kwargs": {},
}  # fmt: skip
#: Settings that limit the tokens of the training, and what vitlens calls these tokens.
TRAINED_ON = {"cls_token_only": "class", "use_patches_only": "patches"}
NORMALISED = {
    None: "none",
    "none": "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm_rescale",
}


class PickledSettings:
    """ViT-Prisma's settings without its code: the values that were pickled are data, and stand in `vars` of this."""


def read_prisma(files: DictionaryFiles, options: LoadOptions) -> SparseAutoencoder:
    """The sparse autoencoder or transcoder, with its normalisation and hook points."""
    if files.weights is None:
        names = ", ".join(path.name for path in files.all_weights) or "no file of weights"
        raise InputError(f"{files.folder} holds {names}: name the file that you mean")
    source = str(files.weights)
    pickled, state = _open(files.weights)
    cfg = _agreed(files.settings(PRISMA_CONFIG), pickled, source)
    is_transcoder = one_of(cfg, "is_transcoder", (True, False), source)
    architecture = one_of(cfg, "architecture", ("standard", "gated"), source)
    one_of(cfg, "hook_point_head_index", (None,), source)
    if is_transcoder and architecture != "standard":
        raise InputError(f"{source}: ViT-Prisma's transcoders are standard, not {architecture}")
    axes = dict(PRISMA_AXES["transcoder" if is_transcoder else architecture])
    if is_transcoder and one_of(cfg, "transcoder_with_skip_connection", (True, False), source):
        axes["W_skip"] = ("d_out", "d_in")
    weights = exact_weights(state, axes, source, options.dtype)
    d_in, n_features = weights["W_enc"].shape
    check_said("d_in", whole_number(cfg, "d_in", source), d_in, source)
    expected = d_in * whole_number(cfg, "expansion_factor", source)
    check_said("d_in × expansion_factor", expected, n_features, source)
    sae = _built(weights, cfg, is_transcoder, source)
    sae.log_sparsity = _log_sparsity(files.weights, n_features)
    of_one_kind = [tokens for name, tokens in TRAINED_ON.items() if cfg.get(name) is True]
    sae.metadata = {"model": cfg.get("model_name"), "tokens": of_one_kind[0] if of_one_kind else "all"}
    return sae


def _built(weights: dict[str, Tensor], cfg: dict[str, Any], is_transcoder: bool, source: str) -> SparseAutoencoder:
    common: dict[str, Any] = {
        "W_enc": weights["W_enc"],
        "W_dec": weights["W_dec"],
        "activation": _activation_of(weights, cfg, source),
        "normalisation": NORMALISED[one_of(cfg, "normalize_activations", tuple(NORMALISED), source)],
        "hook": _hook(cfg, "hook_point_layer", "layer_subtype", source),
        "source": source,
    }
    if not is_transcoder:
        unused = "b_gate" in weights
        b_enc = torch.zeros_like(weights["b_enc"]) if unused else weights["b_enc"]
        return SparseAutoencoder(**common, b_enc=b_enc, b_dec=weights["b_dec"], centred=True)
    check_said("d_out", whole_number(cfg, "d_out", source), weights["W_dec"].shape[1], source)
    return Transcoder(
        **common,
        # act((x − b_dec) W_enc + b_enc): b_dec belongs to what is read, and b_dec_out to what is predicted.
        b_enc=weights["b_enc"] - weights["b_dec"] @ weights["W_enc"],
        b_dec=weights["b_dec_out"],
        W_skip=weights.get("W_skip"),
        rescaled=True,
        hook_out=_hook(cfg, "out_hook_point_layer", "layer_out_subtype", source),
    )


def _activation_of(weights: dict[str, Tensor], cfg: dict[str, Any], source: str) -> nn.Module:
    gated = "b_gate" in weights
    kind = one_of(cfg, "activation_fn_str", ("relu",) if gated else ("relu", "topk", "tanh-relu"), source)
    settings = cfg["activation_fn_kwargs"] or {}
    unknown = sorted(set(settings) - {"k"}) if isinstance(settings, dict) else [repr(settings)]
    if unknown:
        raise InputError(f"{source}: activation_fn_kwargs says {', '.join(unknown)}, which vitlens does not compute")
    if gated:
        return Gated(weights["b_gate"], weights["b_mag"], weights["r_mag"])
    k = whole_number(settings, "k", source) if kind == "topk" else None
    return nonlinearity(kind, len(weights["W_dec"]), k=k, like=weights["W_enc"])


def _hook(cfg: dict[str, Any], block: str, site: str, source: str) -> str | None:
    number = cfg.get(block)
    if isinstance(number, list) and len(number) == 1:
        # A sweep over one block.
        number = number[0]
    if isinstance(number, bool) or not isinstance(number, int) or not isinstance(cfg.get(site), str):
        raise InputError(f"{source}: {block} and {site} name one hook point, not {number!r} and {cfg.get(site)!r}")
    return hook_of_transformer_lens(f"blocks.{number}.{cfg[site]}", "ViT-Prisma")


def _agreed(beside: dict[str, Any], pickled: dict[str, Any], source: str) -> dict[str, Any]:
    """The settings of config.json and of the file itself, which must not contradict each other."""
    if not beside and not pickled:
        raise InputError(f"{source} needs the {PRISMA_CONFIG} that ViT-Prisma saved with it")
    decisive = {
        *BEFORE, "transcoder_with_skip_connection", "activation_fn_str", "normalize_activations", "d_in", "d_out",
        "expansion_factor",
    }  # fmt: skip
    for name in sorted(decisive & beside.keys() & pickled.keys()):
        if beside[name] != pickled[name]:
            raise InputError(
                f"{source} says {name} {pickled[name]!r}, and the {PRISMA_CONFIG} beside it {beside[name]!r}: one of them "
                "belongs to another dictionary"
            )
    return {**BEFORE, **pickled, **beside}


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings in a file, if it has any, and its tensors.

    Its training pickles an object of ViT-Prisma's beside the tensors. Plain data are read of it; all else is refused.
    """
    if path.suffix == ".safetensors":
        return {}, read_state(path)
    own = [(PickledSettings, name) for name in _pickled_names(path) if name.startswith("vit_prisma.")]
    with torch.serialization.safe_globals(own):  # type: ignore[arg-type]
        found = read_tensors(path, how_to_save=HOW_TO_CONVERT)
    if not own:
        return {}, only_tensors(found, path)
    if not isinstance(found, dict) or set(found) != {"cfg", "state_dict"} or type(found["cfg"]) is not PickledSettings:
        raise InputError(f"{path} holds something else than ViT-Prisma saves: {HOW_TO_CONVERT}")
    return dict(vars(found["cfg"])), only_tensors(dict(found["state_dict"]), path)


def _pickled_names(path: Path) -> list[str]:
    """What a file of torch asks for besides tensors; nothing of other files."""
    try:
        return [] if path.suffix == ".safetensors" else torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except READ_ERRORS:
        return []


def _log_sparsity(path: Path, n_features: int) -> Tensor | None:
    """log10 of how often each feature was on, which training saves beside the weights."""
    beside = path.with_name(f"{path.stem}_log_feature_sparsity.pt")
    if not beside.is_file():
        return None
    found = read_tensors(beside)
    if not isinstance(found, Tensor) or tuple(found.shape) != (n_features,):
        raise InputError(f"{beside} does not hold one number for each of the {n_features} features")
    return found


def _is_prisma(files: DictionaryFiles) -> bool:
    settings = files.settings(PRISMA_CONFIG)
    if "activation_fn_str" in settings and "layer_subtype" in settings:
        return True
    return files.weights is not None and any(name.startswith("vit_prisma.") for name in _pickled_names(files.weights))


PRISMA = DictionaryFormat("ViT-Prisma", f"{PRISMA_CONFIG} and a .pt", recognise=_is_prisma, read=read_prisma)
