"""How alike two vectors are: by their angle, or also by their lengths."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.errors import InputError

COSINE, DOT_PRODUCT = "cosine", "dot_product"
#: In words, for titles and colour bars.
METHOD_WORDS = {COSINE: "cosine similarity", DOT_PRODUCT: "dot product"}


def check_likeness(method: str) -> None:
    """Raises InputError unless this is a way to compare vectors."""
    if method not in METHOD_WORDS:
        raise InputError(f"method is {' or '.join(METHOD_WORDS)}, the way to compare two vectors, not {method!r}")


def comparable(vectors: Float[Tensor, "*vector d"], method: str) -> Float[Tensor, "*vector d"]:
    """The vectors whose products are the similarities: of length 1 for cosines, where a vector of zeros stays as it is."""
    if method == DOT_PRODUCT:
        return vectors
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)
