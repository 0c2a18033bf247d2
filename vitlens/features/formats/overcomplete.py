"""Reads Overcomplete's checkpoints: the state_dict of one of its sparse autoencoders."""

from pathlib import Path

import torch
from torch import Tensor, nn

from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder, complete_weights
from vitlens.features.dictionaries.nonlinearities import nonlinearity
from vitlens.features.formats.saelens import read_safetensors
from vitlens.model.checkpoints.formats import READ_ERRORS
from vitlens.model.weights.checks import check_weights

DICTIONARY_NORMS = ("l2", "max_l2", "l1", "max_l1", "identity")
#: How far from 1 the lengths of atoms are by rounding, and at most after a step of training.
ROUNDING, AFTER_A_STEP = 1e-5, 1e-2
HOW_TO_SAVE_SAE = "torch.save(sae.eval().state_dict(), path)"
LINEAR = ("encoder.final_block.0.weight", "encoder.final_block.0.bias")
UNTIED = ("encoder.weight", "encoder.bias")
TIED = ("encoder.tied_to._weights", "encoder.tied_to.multiplier", "encoder.bias")
ARCHETYPAL = ("dictionary.W", "dictionary.C", "dictionary.Relax")


def load_overcomplete(
    path: Path,
    *,
    activation: str | None,
    k: int | None,
    threshold: Tensor | float | None,
    dictionary_norm: str | None,
    dtype: torch.dtype | None,
) -> SparseAutoencoder:
    """The sparse autoencoder whose state_dict a file holds.

    A state_dict says what the weights are, not what is done with them: which nonlinearity follows the encoder must be
    said, except of a JumpSAE, which has thresholds.

    Raises:
        InputError: a pickled module; weights that are not known; an activation that is not said.
    """
    state = read_state(path)
    check_weights(state.items(), str(path))
    left = dict(state)
    dictionary = _dictionary(left, path, dictionary_norm)
    W_enc, b_enc = _encoder(left, dictionary, path)
    if "thresholds" in left:
        if activation not in (None, "jumprelu"):
            raise InputError(f"{path} holds the thresholds of a JumpSAE: its activation is no {activation!r}")
        # Overcomplete keeps what is as large as the threshold, JumpRelu what is larger than the number before it.
        threshold = _just_below(left.pop("thresholds").exp())
        activation = "jumprelu"
    elif activation == "batchtopk" and threshold is not None:
        threshold = _just_below(torch.as_tensor(threshold, dtype=W_enc.dtype))
    if left:
        raise InputError(f"{path} holds {', '.join(sorted(left))}, which vitlens does not know of Overcomplete")
    if activation is None:
        raise InputError(
            f'the state_dict in {path} does not say what follows its encoder: pass activation="relu" (SAE), "topk" with k= '
            '(TopKSAE, RATopKSAE), or "batchtopk" with threshold=sae.running_threshold (BatchTopKSAE)'
        )
    weights = complete_weights({"W_enc": W_enc, "b_enc": b_enc, "W_dec": dictionary})
    chosen: nn.Module = nonlinearity(activation, len(dictionary), k=k, threshold=threshold, like=W_enc)
    sae = SparseAutoencoder(
        weights["W_enc"], weights["b_enc"], weights["W_dec"], weights["b_dec"], chosen, source=str(path)
    )
    return sae if dtype is None else sae.to(dtype)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a torch file that holds nothing else; nothing is unpickled.

    Raises:
        InputError: it is missing, or holds more than tensors.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty: save a state_dict with {HOW_TO_SAVE_SAE}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except READ_ERRORS:
        raise InputError(
            f"{path} holds more than tensors (a pickled module, perhaps), and loading it could run anything: load it in "
            f"Overcomplete and save its weights with {HOW_TO_SAVE_SAE}"
        ) from None
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{path} is no state_dict: save one with {HOW_TO_SAVE_SAE}")
    return found


def _dictionary(left: dict[str, Tensor], path: Path, norm: str | None) -> Tensor:
    """The dictionary as `get_dictionary` of the module in evaluation mode gives it; takes its weights out of `left`."""
    multiplier = left.pop("dictionary.multiplier", torch.zeros(())).exp()
    if "dictionary._weights" in left:
        return _normed(left.pop("dictionary._weights"), norm, path) * multiplier
    if not set(ARCHETYPAL) <= set(left):
        raise InputError(
            f"{path} holds no dictionary of Overcomplete (dictionary._weights), but {', '.join(sorted(left)[:4])}"
        )
    W, C, relax = (left.pop(name) for name in ARCHETYPAL)
    if (W < 0).any() or not torch.allclose(W.sum(dim=-1), torch.ones_like(W[:, 0]), atol=1e-4):
        raise InputError(
            f"{path} was saved during training: save it with {HOW_TO_SAVE_SAE}, which fixes the dictionary"
        )
    return (W @ C + relax) * multiplier


def _normed(rows: Tensor, norm: str | None, path: Path) -> Tensor:
    if norm is None:
        lengths = rows.norm(dim=-1, keepdim=True)
        off = float((lengths - 1).abs().max())
        if off > AFTER_A_STEP:
            raise InputError(
                f"the atoms in {path} have lengths of {float(lengths.min()):.3g} to {float(lengths.max()):.3g}, not 1: say "
                f'how the dictionary is normalised, dictionary_norm="identity" for not at all '
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


def _encoder(left: dict[str, Tensor], dictionary: Tensor, path: Path) -> tuple[Tensor, Tensor]:
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
        f"{path} has no linear encoder ({', '.join(encoder[:3]) or 'no encoder at all, as matching pursuit'}): vitlens "
        "reads the encoders that Overcomplete calls linear, tied and untied"
    )


def _just_below(values: Tensor) -> Tensor:
    return torch.nextafter(values, torch.full_like(values, float("-inf")))
