"""Reads EleutherAI's sparsify: cfg.json and sae.safetensors of a sparse autoencoder, a transcoder or a skip transcoder."""

from typing import Any

from torch import nn

from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder, Transcoder
from vitlens.features.dictionaries.nonlinearities import GroupMax, TopK
from vitlens.features.formats.dictionary_format import DictionaryFormat, LoadOptions
from vitlens.features.formats.exact import Axes, check_said, exact_weights, one_of, whole_number
from vitlens.features.formats.opened import DictionaryFiles, read_safetensors, read_settings
from vitlens.features.formats.sites import hooks_of_module, warn_no_hook

SPARSIFY_CONFIG, SPARSIFY_WEIGHTS = "cfg.json", "sae.safetensors"
SPARSIFY_AXES: Axes = {
    "encoder.weight": ("features", "d_in"),
    "encoder.bias": ("features",),
    "W_dec": ("features", "d_in"),
    "b_dec": ("d_in",),
}
SPARSIFY_ACTIVATIONS: dict[str, type[TopK] | type[GroupMax]] = {"topk": TopK, "groupmax": GroupMax}


def read_sparsify(files: DictionaryFiles, options: LoadOptions) -> SparseAutoencoder:
    """The dictionary of a folder, whose name is the module of the model that it was trained on."""
    path = files.folder / SPARSIFY_CONFIG
    if not path.is_file():
        raise InputError(f"{files.folder / SPARSIFY_WEIGHTS} needs the {SPARSIFY_CONFIG} that sparsify saved beside it")
    cfg, source = read_settings(path), str(path)
    if not {"activation", "transcode"} & cfg.keys():
        # The first versions had one kind of dictionary, and say neither.
        cfg |= {"activation": "topk", "transcode": False}
    skips, transcodes = _kind(cfg, source)
    axes = dict(SPARSIFY_AXES, W_skip=("d_in", "d_in")) if skips else SPARSIFY_AXES
    weights = exact_weights(
        read_safetensors(files.folder / SPARSIFY_WEIGHTS), axes, str(files.folder / SPARSIFY_WEIGHTS), options.dtype
    )
    n_features, d_in = weights["encoder.weight"].shape
    check_said("d_in", whole_number(cfg, "d_in", source), d_in, source)
    # 0 stands for the width times a factor.
    n_said = cfg.get("num_latents") or d_in * whole_number(cfg, "expansion_factor", source)
    check_said("num_latents", n_said, n_features, source)
    kind = one_of(cfg, "activation", tuple(SPARSIFY_ACTIVATIONS), source)
    activation: nn.Module = SPARSIFY_ACTIVATIONS[kind](whole_number(cfg, "k", source), n_features)
    common: dict[str, Any] = {
        "W_enc": weights["encoder.weight"].T.contiguous(),
        "b_enc": weights["encoder.bias"],
        "W_dec": weights["W_dec"],
        "b_dec": weights["b_dec"],
        "activation": activation,
        "source": str(files.folder),
    }
    hook, hook_out = _hooks(files, transcodes)
    if transcodes:
        return Transcoder(**common, W_skip=weights.get("W_skip"), hook=hook, hook_out=hook_out)
    return SparseAutoencoder(**common, centred=True, hook=hook)


def _kind(cfg: dict[str, Any], source: str) -> tuple[bool, bool]:
    """Whether it has a skip connection, and whether it is a transcoder."""
    transcodes = one_of(cfg, "transcode", (True, False), source)
    skips = one_of({"skip_connection": False} | cfg, "skip_connection", (True, False), source)
    one_of({"signed": False} | cfg, "signed", (False,), source)
    if skips and not transcodes:
        raise InputError(
            f"{source} has a skip connection and is no transcoder: sparsify before 1.0 saved such transcoders, and "
            "subtracted b_dec from what they read; make one from its arrays, with the bias b_enc − W_enc b_dec"
        )
    return skips, transcodes


def _hooks(files: DictionaryFiles, transcodes: bool) -> tuple[str | None, str | None]:
    folder = files.folder.resolve()
    # Several seeds of one module are in folders of their own.
    name = folder.parent.name if folder.name.startswith("seed") else folder.name
    read, returned = hooks_of_module(name, "sparsify")
    if not transcodes:
        return returned, None
    if read is None and returned is not None:
        warn_no_hook(
            name, "sparsify", "it reads the norm's output with its weight and bias, which has no hook point here"
        )
    return read, returned


def _is_sparsify(files: DictionaryFiles) -> bool:
    # Overcomplete's files may have the same name.
    return files.holds(SPARSIFY_WEIGHTS) and (
        (files.folder / SPARSIFY_CONFIG).is_file() or "encoder.weight" in files.state
    )


SPARSIFY = DictionaryFormat(
    "sparsify",
    f"{SPARSIFY_CONFIG} and {SPARSIFY_WEIGHTS}",
    recognise=_is_sparsify,
    read=read_sparsify,
)
