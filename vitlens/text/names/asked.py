"""What parts of a network may be called: texts, their vectors, the space they share with the model, and texts chosen."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.arguments import check_count
from vitlens.errors import InputError
from vitlens.model.class_space.embeddings import EmbedsTexts
from vitlens.model.hooked_vit import HookedViT
from vitlens.text.seen import embedding_view, read_texts, tower_of

#: A text is a name where chance gives one that does as well with at most this probability.
MOST_P = 0.05
#: With fewer draws no text can be a name: the least p is 1 / (1 + n_draws).
FEWEST_SHUFFLES = round(1 / MOST_P) - 1


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


def texts_at(indices: Int[Tensor, "part rank"], vocabulary: Sequence[str]) -> list[list[str]]:
    """The texts of each part in their order; "" where the index is -1."""
    return [["" if i < 0 else vocabulary[i] for i in row] for row in indices.tolist()]


def names_of(labels: Sequence[Any], texts: list[list[str]], is_name: Bool[Tensor, "part rank"]) -> dict[Any, list[str]]:
    """The texts of each part that are names, by its label."""
    rows = zip(labels, texts, is_name.tolist(), strict=True)
    return {label: [text for text, named in zip(row, marks, strict=True) if named] for label, row, marks in rows}


def are_names(
    p: Float[Tensor, "part rank"], p_turned: Float[Tensor, "part rank"], speaks: Bool[Tensor, "part"]
) -> Bool[Tensor, "part rank"]:
    """Which texts are names: both p at most 0.05, as of all before, of a part that writes something."""
    both = (p <= MOST_P) & (p_turned <= MOST_P)
    return speaks[:, None] & both.long().cumprod(dim=1).bool()


def with_chosen_texts(
    frame: pd.DataFrame, texts: list[list[str]], is_name: Bool[Tensor, "part rank"] | None = None
) -> pd.DataFrame:
    """A table of parts and ranks with the text of each row behind these two columns, and whether that is a name."""
    frame.insert(2, "text", [text for row in texts for text in row])
    if is_name is not None:
        frame.insert(3, "is_name", is_name.flatten().numpy())
    return frame
