"""What parts of a network may be called: texts, their vectors, and the model as the vectors' space sees it."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import check_count
from vitlens.errors import InputError
from vitlens.model.class_space.embeddings import EmbedsTexts
from vitlens.model.hooked_vit import HookedViT
from vitlens.text.seen import embedding_view, read_texts, tower_of


class Asked(NamedTuple):
    """The texts, their unit vectors in float64, the name of their tower, and a view of the model whose outputs are the
    coordinates of its embedding."""

    texts: list[str]
    vectors: Float[Tensor, "text joint"]
    tower: str
    view: HookedViT


def read_asked(model: HookedViT, texts: str | Sequence[str], tower: EmbedsTexts | None, k: int) -> Asked:
    """Reads the texts of which the best k are wanted.

    Raises:
        InputError: no tower; no texts, one that is there twice, fewer than k; texts of another width than the embedding.
    """
    check_count(k, "k")
    vocabulary, found = read_texts(texts), tower_of(model, tower)
    if k > len(vocabulary):
        raise InputError(f"k={k} texts cannot be chosen among {len(vocabulary)}: name more, or ask for fewer")
    vectors = found.embed(vocabulary).detach().cpu().double()
    view = embedding_view(model, vectors.shape[1])
    return Asked(vocabulary, vectors, str(getattr(found, "name", "texts")), view)
