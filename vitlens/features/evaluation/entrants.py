"""The dictionaries that are evaluated side by side: what each of them reads, predicts and makes of a batch of pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.features.placed import PlacedDictionary
from vitlens.features.places import read_places
from vitlens.model.hooked_vit import HookedViT

#: The most feature values that are held at once: pictures of a batch are encoded in parts where they have more.
MOST_VALUES = 2**24


@dataclass(frozen=True)
class CodedPictures:
    """What a dictionary makes of some pictures: `read` and `target` rows, `written` as their prediction, `features`.

    Those of all parts of a dictionary stand one behind the other on the last axis; `widths` are those of the targets.
    """

    read: Float[Tensor, "image token *heads d_in"]
    target: Float[Tensor, "image token *heads d_out"]
    written: Float[Tensor, "image token *heads d_out"]
    features: Float[Tensor, "image token *heads feature"]
    tokens: Int[Tensor, "token"]
    grid: tuple[int, int]
    widths: Sequence[int] = ()
    labels: Int[Tensor, "image"] | None = None
    embeddings: Float[Tensor, "image e"] | None = None

    def pooled(self) -> Float[Tensor, "image feature"]:
        """The largest value of each feature in each picture."""
        return self.features.flatten(1, -2).amax(dim=1)


@dataclass(frozen=True)
class Entrant:
    """A dictionary in its model, under the name that a table gives it."""

    name: str
    placed: PlacedDictionary

    @property
    def model(self) -> HookedViT:
        return self.placed.model

    def code(self, found: Mapping[str, Tensor], grid: tuple[int, int]) -> Iterator[CodedPictures]:
        """The rows that `read_places` found, encoded and decoded, a few pictures at a time."""
        read, target, tokens = self.placed.rows(found, grid)
        n_rows_each = read[0][0].numel() // read[0].shape[-1]
        n = max(1, MOST_VALUES // (n_rows_each * sum(self.placed.n_features)))
        for x, y in zip(_parted(read, n), _parted(target, n), strict=True):
            features = self.placed.encode(x)
            written = torch.cat(self.placed.decode(features, x), dim=-1).to(y[0])
            joined = [torch.cat(rows, dim=-1) for rows in (x, y, features)]
            widths = [rows.shape[-1] for rows in y]
            yield CodedPictures(joined[0], joined[1], written, joined[2], tokens, grid, widths)


def _parted(rows: Sequence[Tensor], n: int) -> Iterator[list[Tensor]]:
    """The rows of all parts of a dictionary, n pictures at a time."""
    return map(list, zip(*(part.split(n) for part in rows), strict=True))


def rows_of(
    entrants: Sequence[Entrant], images: Float[Tensor, "image channels height width"]
) -> dict[int, dict[str, Float[Tensor, "image token *rest"]]]:
    """What the dictionaries of each model read and predict, by the identity of the model: one forward of each."""
    found = {}
    for model in {id(entrant.model): entrant.model for entrant in entrants}.values():
        places = {place for one in entrants if one.model is model for place in one.placed.places}
        found[id(model)] = read_places(model, images, sorted(places, key=lambda place: place.name))
    return found


def token_kinds(model: HookedViT, tokens: Int[Tensor, "token"]) -> dict[str, Bool[Tensor, "token"]]:
    """Which of these tokens are class tokens, registers or patches; empty where all are of one kind."""
    kinds = [_kind(model, token) for token in tokens.tolist()]
    if len(set(kinds)) < 2:
        return {}
    return {kind: torch.tensor([own == kind for own in kinds]) for kind in dict.fromkeys(kinds)}


def _kind(model: HookedViT, token: int) -> str:
    if token >= model.cfg.n_prefix_tokens:
        return "patches"
    name = model.cfg.prefix_tokens[token].split()[0]
    return "registers" if name == "register" else name
