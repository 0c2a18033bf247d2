"""Reads Overcomplete's checkpoints: the state_dict of one of its sparse autoencoders."""

import torch
from torch import Tensor, nn

from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.dictionaries.nonlinearities import nonlinearity
from vitlens.features.formats.dictionary_format import DictionaryFormat, LoadOptions
from vitlens.features.formats.exact import Axes, exact_weights, just_below
from vitlens.features.formats.opened import HOW_TO_SAVE_SAE, DictionaryFiles

DICTIONARY_NORMS = ("l2", "max_l2", "l1", "max_l1", "identity")
#: How far from 1 the lengths of atoms are by rounding, and at most after a step of training.
ROUNDING, AFTER_A_STEP = 1e-5, 1e-2
ATOMS: Axes = {"dictionary._weights": ("features", "d_in"), "dictionary.multiplier": ()}
ARCHETYPAL: Axes = {
    "dictionary.W": ("features", "points"),
    "dictionary.C": ("points", "d_in"),
    "dictionary.Relax": ("features", "d_in"),
    "dictionary.multiplier": (),
}
#: The encoders, by the tensor that each of them has.
ENCODERS: dict[str, Axes] = {
    "encoder.final_block.0.weight": {
        "encoder.final_block.0.weight": ("features", "d_in"), "encoder.final_block.0.bias": ("features",),
    },
    "encoder.weight": {"encoder.weight": ("features", "d_in")},
    "encoder.tied_to._weights": {
        "encoder.tied_to._weights": ("features", "d_in"), "encoder.tied_to.multiplier": (),
    },
}  # fmt: skip
#: What a state_dict may have or not.
MAY_HAVE: Axes = {
    "encoder.bias": ("features",),
    "thresholds": ("features",),
}


def read_overcomplete(files: DictionaryFiles, options: LoadOptions) -> SparseAutoencoder:
    """The sparse autoencoder whose state_dict a file holds."""
    return read_overcomplete_state(files.state, str(files.weights), options)


def read_overcomplete_state(state: dict[str, Tensor], source: str, options: LoadOptions) -> SparseAutoencoder:
    """The sparse autoencoder of a state_dict.

    A state_dict says what the weights are, not what is done with them: which nonlinearity follows the encoder must be
    said, except of a JumpSAE, which has thresholds.

    Raises:
        InputError: weights that are not known, or of other shapes; an activation that is not said.
    """
    activation, threshold = options.activation, options.threshold
    weights = exact_weights(state, _axes_of(state, source), source, options.dtype)
    dictionary = _dictionary(weights, source, options.dictionary_norm)
    W_enc, b_enc = _encoder(weights, dictionary, source)
    if "thresholds" in weights:
        if activation not in (None, "jumprelu") or threshold is not None:
            raise InputError(f"{source} holds the thresholds of a JumpSAE: leave activation= and threshold= out")
        # Overcomplete keeps what is as large as the threshold, JumpRelu what is larger than the number before it.
        threshold = just_below(weights["thresholds"].exp())
        activation = "jumprelu"
    elif activation == "batchtopk" and threshold is not None:
        threshold = just_below(torch.as_tensor(threshold, dtype=W_enc.dtype))
    if activation is None:
        raise InputError(
            f'the state_dict in {source} does not say what follows its encoder: pass activation="relu" (SAE), "topk" with '
            'k= (TopKSAE, RATopKSAE), or "batchtopk" with threshold=sae.running_threshold (BatchTopKSAE)'
        )
    after: nn.Module = nonlinearity(activation, len(dictionary), k=options.k, threshold=threshold, like=W_enc)
    b_dec = dictionary.new_zeros(dictionary.shape[1])
    return SparseAutoencoder(W_enc.contiguous(), b_enc, dictionary, b_dec, after, source=source)


def _axes_of(state: dict[str, Tensor], source: str) -> Axes:
    """The tensors that a state_dict with this dictionary and this encoder has."""
    dictionary = next((axes for axes in (ATOMS, ARCHETYPAL) if next(iter(axes)) in state), None)
    if dictionary is None:
        raise InputError(
            f"{source} holds no dictionary of Overcomplete (dictionary._weights), but {', '.join(sorted(state)[:4])}"
        )
    encoder = next((axes for name, axes in ENCODERS.items() if name in state), None)
    if encoder is None:
        names = [name for name in sorted(state) if name.startswith("encoder.")]
        raise InputError(
            f"{source} has no linear encoder ({', '.join(names[:3]) or 'no encoder at all, as matching pursuit'}): vitlens "
            "reads the encoders that Overcomplete calls linear, tied and untied"
        )
    optional = {name: axes for name, axes in MAY_HAVE.items() if name in state}
    return {**dictionary, **encoder, **optional}


def _dictionary(weights: dict[str, Tensor], source: str, norm: str | None) -> Tensor:
    """The dictionary as `get_dictionary` of the module in evaluation mode gives it."""
    multiplier = weights["dictionary.multiplier"].exp()
    if "dictionary._weights" in weights:
        return _normed(weights["dictionary._weights"], norm, source) * multiplier
    W, C, relax = (weights[f"dictionary.{name}"] for name in ("W", "C", "Relax"))
    if (W < 0).any() or not torch.allclose(W.sum(dim=-1), torch.ones_like(W[:, 0]), atol=1e-4):
        raise InputError(
            f"{source} was saved during training: save it with {HOW_TO_SAVE_SAE}, which fixes the dictionary"
        )
    return (W @ C + relax) * multiplier


def _normed(rows: Tensor, norm: str | None, source: str) -> Tensor:
    if norm is None:
        lengths = rows.norm(dim=-1, keepdim=True)
        off = float((lengths - 1).abs().max())
        if off > AFTER_A_STEP:
            raise InputError(
                f"the atoms in {source} have lengths of {float(lengths.min()):.3g} to {float(lengths.max()):.3g}, not 1: "
                f'say how the dictionary is normalised, dictionary_norm="identity" for not at all '
                f"({', '.join(DICTIONARY_NORMS)})"
            )
        # Overcomplete normalises before each forward, so a step of training leaves atoms that are nearly of length 1.
        return rows if off < ROUNDING else rows / lengths
    if norm not in DICTIONARY_NORMS:
        raise InputError(f"dictionary_norm is one of {', '.join(DICTIONARY_NORMS)}, not {norm!r}")
    if norm == "identity":
        return rows
    lengths = rows.norm(p=1 if norm.endswith("l1") else 2, dim=-1, keepdim=True)
    return rows / (lengths.amax() if norm.startswith("max") else lengths + 1e-8)


def _encoder(weights: dict[str, Tensor], dictionary: Tensor, source: str) -> tuple[Tensor, Tensor]:
    """W_enc and b_enc of a linear encoder, free or tied to the dictionary."""
    bias = weights.get("encoder.bias", dictionary.new_zeros(len(dictionary)))
    if "encoder.final_block.0.weight" in weights:
        return weights["encoder.final_block.0.weight"].T, weights["encoder.final_block.0.bias"]
    if "encoder.weight" in weights:
        return weights["encoder.weight"].T, bias
    for name in (name for name in ("_weights", "multiplier") if f"dictionary.{name}" in weights):
        if not torch.equal(weights[f"dictionary.{name}"], weights[f"encoder.tied_to.{name}"]):
            raise InputError(
                f"{source}: the encoder is tied to a dictionary whose {name} is not that of this dictionary"
            )
    return dictionary.T, bias


OVERCOMPLETE = DictionaryFormat(
    "Overcomplete",
    "a state_dict",
    recognise=lambda files: any(name.startswith("dictionary.") for name in files.state),
    read=read_overcomplete,
    asks=("activation", "k", "threshold", "dictionary_norm"),
)
