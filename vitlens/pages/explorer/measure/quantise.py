"""Measurements in one and two bytes a number, with a bound of what that costs."""

import numpy as np
from jaxtyping import Float, Float32, Int16, Integer
from torch import Tensor

COSINE_STEPS = 32767


def attention_codes(
    pattern: Float[np.ndarray, "*head query key"],
) -> tuple[Integer[np.ndarray, "*head query key"], Float32[np.ndarray, "*head query"]]:
    """One byte for each attention weight: the root of its share of its row's largest, so that small ones stay distinct.

    A code c stands for scale · sign(c) · (c / steps)², steps = 255, or 127 where there are negative weights (differential
    attention); what was coded is at most scale · (|c| + ¼) / steps² away.

    Returns:
        The codes, uint8 or int8, and each row's scale.
    """
    scale = np.abs(pattern).max(axis=-1)
    signed = bool((pattern < 0).any())
    steps = 127 if signed else 255
    share = np.abs(pattern) / np.maximum(scale, np.finfo(np.float32).tiny)[..., None]
    codes = np.sign(pattern) * np.rint(np.sqrt(share) * steps)
    return codes.astype(np.int8 if signed else np.uint8), scale.astype(np.float32)


def cosine_codes(
    stream: Float[np.ndarray, "*block token d"],
) -> Int16[np.ndarray, "*block pair"]:
    """The cosines between the vectors of all pairs of tokens i ≤ j, row by row, at most 0.5 / 32767 off."""
    lengths = np.linalg.norm(stream, axis=-1, keepdims=True)
    unit = stream / np.maximum(lengths, np.finfo(np.float32).tiny)
    cosines = unit @ unit.swapaxes(-1, -2)
    upper = np.triu_indices(stream.shape[-2])
    return np.rint(cosines[..., *upper].clip(-1, 1) * COSINE_STEPS).astype(np.int16)


def linear_codes(
    values: Float[np.ndarray, "*row column"], kind: type[np.signedinteger]
) -> tuple[Integer[np.ndarray, "*row column"], Float32[np.ndarray, "*row"]]:
    """Whole numbers of this kind: a code c stands for scale · c / steps, steps = 127 or 32767, at most scale / 2 steps away.

    Returns:
        The codes, and each row's scale, its largest value by magnitude.
    """
    steps = np.iinfo(kind).max
    scale = np.abs(values).max(axis=-1)
    codes = np.rint(values / np.maximum(scale, np.finfo(np.float32).tiny)[..., None] * steps)
    return codes.astype(kind), scale.astype(np.float32)


def as_numpy(values: Tensor) -> Float[np.ndarray, "..."]:
    """In single precision, which is what pages and scripts keep."""
    return values.detach().float().cpu().numpy()
