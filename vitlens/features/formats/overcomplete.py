"""Reads Overcomplete's checkpoints: the state_dict of one of its sparse autoencoders."""

from typing import Any

import torch
from torch import Tensor, nn

from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder, complete_weights
from vitlens.features.dictionaries.nonlinearities import nonlinearity
from vitlens.features.formats.dictionary_format import DictionaryFormat, LoadOptions
from vitlens.features.formats.exact import just_below, widest
from vitlens.features.formats.opened import HOW_TO_SAVE_SAE, DictionaryFiles
from vitlens.model.weights.checks import check_range, check_weights

DICTIONARY_NORMS = ("l2", "max_l2", "l1", "max_l1", "identity")
#: How far from 1 the lengths of atoms are by rounding, and at most after a step of training.
ROUNDING, AFTER_A_STEP = 1e-5, 1e-2
LINEAR = ("encoder.final_block.0.weight", "encoder.final_block.0.bias")
UNTIED = ("encoder.weight", "encoder.bias")
TIED = ("encoder.tied_to._weights", "encoder.tied_to.multiplier", "encoder.bias")
ARCHETYPAL = ("dictionary.W", "dictionary.C", "dictionary.Relax")


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
    check_weights(state.items(), source)
    dtype = widest(state.values()) if options.dtype is None else options.dtype
    check_range(state.items(), dtype)
    left = {name: tensor.to(dtype) for name, tensor in state.items()}
    dictionary = _dictionary(left, source, options.dictionary_norm)
    W_enc, b_enc = _encoder(left, dictionary, source)
    if "thresholds" in left:
        if activation not in (None, "jumprelu") or threshold is not None:
            raise InputError(f"{source} holds the thresholds of a JumpSAE: leave activation= and threshold= out")
        # Overcomplete keeps what is as large as the threshold, JumpRelu what is larger than the number before it.
        threshold = just_below(left.pop("thresholds").exp())
        activation = "jumprelu"
    elif activation == "batchtopk" and threshold is not None:
        threshold = just_below(torch.as_tensor(threshold, dtype=W_enc.dtype))
    if left:
        raise InputError(f"{source} holds {', '.join(sorted(left))}, which vitlens does not know of Overcomplete")
    if activation is None:
        raise InputError(
            f'the state_dict in {source} does not say what follows its encoder: pass activation="relu" (SAE), "topk" with '
            'k= (TopKSAE, RATopKSAE), or "batchtopk" with threshold=sae.running_threshold (BatchTopKSAE)'
        )
    weights: dict[str, Any] = complete_weights({"W_enc": W_enc, "b_enc": b_enc, "W_dec": dictionary})
    chosen_kind: nn.Module = nonlinearity(activation, len(dictionary), k=options.k, threshold=threshold, like=W_enc)
    return SparseAutoencoder(**weights, activation=chosen_kind, source=source)


def _dictionary(left: dict[str, Tensor], source: str, norm: str | None) -> Tensor:
    """The dictionary as `get_dictionary` of the module in evaluation mode gives it; takes its weights out of `left`."""
    multiplier = left.pop("dictionary.multiplier", torch.zeros(())).exp()
    if "dictionary._weights" in left:
        return _normed(left.pop("dictionary._weights"), norm, source) * multiplier
    if not set(ARCHETYPAL) <= set(left):
        raise InputError(
            f"{source} holds no dictionary of Overcomplete (dictionary._weights), but {', '.join(sorted(left)[:4])}"
        )
    W, C, relax = (left.pop(name) for name in ARCHETYPAL)
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


def _encoder(left: dict[str, Tensor], dictionary: Tensor, source: str) -> tuple[Tensor, Tensor]:
    """W_enc and b_enc of a linear encoder, free or tied to the dictionary; takes them out of `left`."""
    zeros = dictionary.new_zeros(len(dictionary))
    if set(LINEAR) <= set(left):
        weight, bias = (left.pop(name) for name in LINEAR)
        return weight.T, bias
    if UNTIED[0] in left:
        return left.pop(UNTIED[0]).T, left.pop(UNTIED[1], zeros)
    if TIED[0] in left:
        bias = left.pop(TIED[2], zeros)
        for name in TIED[:2]:
            left.pop(name, None)
        return dictionary.T, bias
    encoder = [name for name in sorted(left) if name.startswith("encoder.")]
    raise InputError(
        f"{source} has no linear encoder ({', '.join(encoder[:3]) or 'no encoder at all, as matching pursuit'}): vitlens "
        "reads the encoders that Overcomplete calls linear, tied and untied"
    )


OVERCOMPLETE = DictionaryFormat(
    "Overcomplete",
    "a state_dict",
    recognise=lambda files: any(name.startswith("dictionary.") for name in files.state),
    read=read_overcomplete,
    asks=("activation", "k", "threshold", "dictionary_norm"),
)
