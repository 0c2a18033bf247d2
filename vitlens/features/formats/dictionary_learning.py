"""Reads dictionary_learning and its relatives (sae-for-vlm): ae.pt, and config.json where training has written one."""

from typing import Any

import torch
from torch import Tensor, nn

from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.dictionaries.nonlinearities import Gated, Relu, nonlinearity
from vitlens.features.formats.dictionary_format import DictionaryFormat, LoadOptions, chosen
from vitlens.features.formats.exact import Axes, check_said, exact_weights
from vitlens.features.formats.opened import DictionaryFiles, read_settings
from vitlens.features.formats.sites import hook_of_submodule

TRAINING_CONFIG = "config.json"
LINEAR_ENCODER: Axes = {"encoder.weight": ("features", "d_in"), "decoder.weight": ("d_in", "features")}
MATRICES: Axes = {
    "W_enc": ("d_in", "features"),
    "b_enc": ("features",),
    "W_dec": ("features", "d_in"),
    "b_dec": ("d_in",),
}
#: The floats of each class; whole numbers ("k", "group_sizes") are checked by themselves.
LEARNED_CLASSES: dict[str, Axes] = {
    "AutoEncoder": {**LINEAR_ENCODER, "encoder.bias": ("features",), "bias": ("d_in",)},
    "AutoEncoderNew": {**LINEAR_ENCODER, "encoder.bias": ("features",), "decoder.bias": ("d_in",)},
    "GatedAutoEncoder": {
        **LINEAR_ENCODER, "decoder_bias": ("d_in",), "r_mag": ("features",), "gate_bias": ("features",),
        "mag_bias": ("features",),
    },
    "JumpReluAutoEncoder": {**MATRICES, "threshold": ("features",)},
    "AutoEncoderTopK": {**LINEAR_ENCODER, "encoder.bias": ("features",), "b_dec": ("d_in",), "threshold": ()},
    "BatchTopKSAE": {**LINEAR_ENCODER, "encoder.bias": ("features",), "b_dec": ("d_in",), "threshold": ()},
    "MatryoshkaBatchTopKSAE": {**MATRICES, "threshold": ()},
}  # fmt: skip
#: sae-for-vlm spells one class in its own way.
SPELLINGS = {"MatroyshkaBatchTopKSAE": "MatryoshkaBatchTopKSAE"}
WHOLE = ("k", "group_sizes")
#: `activation=` where two classes have the same tensors.
BY_ACTIVATION = {"topk": "AutoEncoderTopK", "batchtopk": "BatchTopKSAE"}


def read_dictionary_learning(files: DictionaryFiles, options: LoadOptions) -> SparseAutoencoder:
    """The sparse autoencoder as the library's own `load_dictionary` gives it."""
    source = str(files.weights)
    trainer = _trainer(files)
    whole = {name: files.state[name] for name in WHOLE if name in files.state}
    floats = {name: tensor for name, tensor in files.state.items() if name not in WHOLE}
    kind = _kind(floats, whole, trainer, options, source)
    weights = exact_weights(floats, _axes(kind, floats), source, options.dtype)
    arrays: dict[str, Any] = _arrays(weights, kind)
    d_in, n_features = arrays["W_enc"].shape
    for name, found in (("activation_dim", d_in), ("dict_size", n_features)):
        check_said(name, trainer.get(name), found, source)
    if "group_sizes" in whole:
        check_said("group_sizes, together", int(whole["group_sizes"].sum()), n_features, source)
    if options.k is not None and kind != "AutoEncoderTopK":
        raise InputError(f"{source} is a {kind}, which takes no k=: leave it out")
    activation = _activation_of_class(kind, weights, _k(whole, trainer, options, source), options, source, arrays)
    return SparseAutoencoder(
        **arrays,
        activation=activation,
        # A JumpReLU dictionary subtracts nothing, and one with a bias of its own on each side does not either.
        centred=kind not in ("JumpReluAutoEncoder", "AutoEncoderNew"),
        hook=hook_of_submodule(trainer.get("submodule_name")),
        source=source,
    )


def _trainer(files: DictionaryFiles) -> dict[str, Any]:
    """What training wrote of the dictionary; empty where there is no such file."""
    for folder in (files.folder, files.folder.parent) if files.folder.name == "checkpoints" else (files.folder,):
        if (folder / TRAINING_CONFIG).is_file():
            found = read_settings(folder / TRAINING_CONFIG).get("trainer")
            if not isinstance(found, dict):
                raise InputError(f"{folder / TRAINING_CONFIG} does not say what its trainer was")
            return found
    return {}


def _axes(kind: str, floats: dict[str, Tensor]) -> Axes:
    """The tensors of the class; TopK's threshold is not used, and files of its first version do not have it."""
    axes = LEARNED_CLASSES[kind]
    old = kind == "AutoEncoderTopK" and "threshold" not in floats
    return {name: names for name, names in axes.items() if name != "threshold"} if old else axes


def _kind(
    floats: dict[str, Tensor], whole: dict[str, Tensor], trainer: dict[str, Any], options: LoadOptions, source: str
) -> str:
    """The class, from the settings; else from the names of the tensors, which two classes share."""
    said = trainer.get("dict_class")
    if said is not None:
        kind = SPELLINGS.get(said, said)
        if kind not in LEARNED_CLASSES:
            raise InputError(f"{source} is of the class {said!r}, and vitlens reads {', '.join(LEARNED_CLASSES)}")
        activation = next((name for name, of_class in BY_ACTIVATION.items() if of_class == kind), kind)
        chosen("activation", activation, options, source)
    else:
        fitting = fitting_classes(floats, whole)
        kind = BY_ACTIVATION.get(str(options.activation), "") if len(fitting) > 1 else fitting[0]
        if kind not in fitting:
            raise InputError(
                f"{source} may be a TopK or a BatchTopK dictionary, whose tensors have the same names: put the "
                f'{TRAINING_CONFIG} of its training beside it, or pass activation="topk" or "batchtopk"'
            )
        if len(fitting) == 1 and options.activation is not None:
            raise InputError(f"{source} is a {kind}, which says its activation function itself: leave activation= out")
    if ("group_sizes" in whole) != (kind == "MatryoshkaBatchTopKSAE"):
        raise InputError(
            f"{source} is said to be a {kind}, and group_sizes are those of a MatryoshkaBatchTopKSAE alone"
        )
    return kind


def fitting_classes(floats: dict[str, Tensor], whole: dict[str, Tensor]) -> list[str]:
    """The classes that have tensors of these names."""
    matryoshka = "group_sizes" in whole
    return [
        kind
        for kind in LEARNED_CLASSES
        if set(_axes(kind, floats)) == set(floats) and matryoshka == (kind == "MatryoshkaBatchTopKSAE")
    ]


def _arrays(weights: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """W_enc, b_enc, W_dec, b_dec of a class."""
    if "W_enc" in weights:
        return {name: weights[name] for name in MATRICES}
    bias = next(weights[name] for name in ("bias", "decoder.bias", "decoder_bias", "b_dec") if name in weights)
    W_enc, W_dec = weights["encoder.weight"].T, weights["decoder.weight"].T
    b_enc = weights.get("encoder.bias", W_enc.new_zeros(W_enc.shape[1]))
    lengths = W_dec.norm(dim=-1)
    if kind == "AutoEncoder" and not torch.allclose(lengths, torch.ones_like(lengths)):
        # The library does the same when it loads: features in units of atoms of length 1, the same reconstruction.
        W_enc, b_enc, W_dec = W_enc * lengths, b_enc * lengths, W_dec / lengths[:, None]
    return {"W_enc": W_enc.contiguous(), "b_enc": b_enc, "W_dec": W_dec.contiguous(), "b_dec": bias}


def _activation_of_class(
    kind: str, weights: dict[str, Tensor], k: int | None, options: LoadOptions, source: str, arrays: dict[str, Tensor]
) -> nn.Module:
    n_features, like = arrays["W_enc"].shape[1], arrays["W_enc"]
    learns_threshold = kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE")
    if options.threshold is not None and not learns_threshold:
        raise InputError(f"{source} is a {kind}, which takes no threshold=: leave it out")
    if kind in ("AutoEncoder", "AutoEncoderNew"):
        return Relu()
    if kind == "GatedAutoEncoder":
        return Gated(weights["gate_bias"], weights["mag_bias"], weights["r_mag"])
    if kind == "AutoEncoderTopK":
        return nonlinearity("topk", n_features, k=k, like=like)
    threshold = weights["threshold"]
    if learns_threshold and float(threshold) < 0:
        if options.threshold is None:
            raise InputError(
                f"{source} has the threshold {float(threshold):g}, so it was saved before its training had one: pass "
                "threshold=, above which features are on"
            )
        return nonlinearity("batchtopk", n_features, threshold=options.threshold, like=like)
    if options.threshold is not None:
        raise InputError(f"{source} holds its threshold: leave threshold= out")
    return nonlinearity("jumprelu", n_features, threshold=threshold, like=like)


def _k(whole: dict[str, Tensor], trainer: dict[str, Any], options: LoadOptions, source: str) -> int | None:
    """How many features are on, which the file, its settings and the caller must agree on."""
    of_file = None
    if "k" in whole:
        if whole["k"].numel() != 1 or whole["k"].is_floating_point():
            raise InputError(f"{source}: k is one whole number, not a {list(whole['k'].shape)} of {whole['k'].dtype}")
        of_file = int(whole["k"])
    of_settings = trainer.get("k")
    if None not in (of_file, of_settings) and of_file != of_settings:
        raise InputError(f"{source} says that k is {of_file}, and the settings of its training say {of_settings!r}")
    k: int | None = chosen("k", of_settings if of_file is None else of_file, options, source)
    return k


def _is_dictionary_learning(files: DictionaryFiles) -> bool:
    if isinstance(files.settings(TRAINING_CONFIG).get("trainer"), dict) and files.weights is not None:
        return True
    floats = {name: tensor for name, tensor in files.state.items() if name not in WHOLE}
    kinds = fitting_classes(floats, files.state)
    if kinds != ["AutoEncoderNew"]:
        return bool(kinds)
    # ViSAEBench has the same names, and the decoder the other way round.
    encoder, decoder = floats["encoder.weight"].shape, floats["decoder.weight"].shape
    return not files.settings_file(TRAINING_CONFIG, "config.yaml", "config.yml") and encoder != decoder


DICTIONARY_LEARNING = DictionaryFormat(
    "dictionary_learning",
    "ae.pt",
    recognise=_is_dictionary_learning,
    read=read_dictionary_learning,
    asks=("activation", "k", "threshold"),
)
