"""Lists of texts that mean nothing, with the angles of those that do: what a name has to beat."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.text.names.asked import FEWEST_SHUFFLES
from vitlens.text.sparse_codes.positive_codes import random_turn

#: As many lists of texts that are turned at random a name has to beat.
N_TURNED = FEWEST_SHUFFLES


def turned_lists(texts: Float[Tensor, "text joint"], seed: int) -> Iterator[Float[Tensor, "text joint"]]:
    """Lists that are turned at random about the mean of the texts, in single precision."""
    generator = np.random.default_rng(seed)
    for _ in range(N_TURNED):
        yield torch.from_numpy(turned_about_mean(texts.numpy(), generator)).float()


def turned_about_mean(
    texts: Float[np.ndarray, "text e"], generator: np.random.Generator
) -> Float[np.ndarray, "text e"]:
    """Unit vectors with the same angles about the same mean, before they are scaled; of a single text any direction."""
    mean = texts.mean(axis=0) if len(texts) > 1 else np.zeros_like(texts[0])
    rows = mean + (texts - mean) @ random_turn(texts.shape[1], generator)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
