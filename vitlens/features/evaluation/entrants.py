"""The dictionaries that are evaluated side by side: what each of them reads, predicts and makes of a batch of pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.choose.tokens import TokenSet
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.places import HookPlace, chosen_rows, read_places, split_rows
from vitlens.model.hooked_vit import HookedViT

#: The most feature values that are held at once: pictures of a batch are encoded in parts where they have more.
MOST_VALUES = 2**24


@dataclass(frozen=True)
class CodedPictures:
    """What a dictionary makes of some pictures: `read` and `target` rows, `written` as their prediction, `features`."""

    read: Float[Tensor, "image token *heads d_in"]
    target: Float[Tensor, "image token *heads d_out"]
    written: Float[Tensor, "image token *heads d_out"]
    features: Float[Tensor, "image token *heads feature"]
    tokens: Int[Tensor, "token"]
    grid: tuple[int, int]
    labels: Int[Tensor, "image"] | None = None
    embeddings: Float[Tensor, "image e"] | None = None

    def pooled(self) -> Float[Tensor, "image feature"]:
        """The largest value of each feature in each picture."""
        return self.features.flatten(1, -2).amax(dim=1)


@dataclass(frozen=True)
class Entrant:
    """A dictionary under its name, the model that it is of, and the hook points that it reads and predicts."""

    name: str
    model: HookedViT
    sae: SparseAutoencoder
    source: HookPlace
    target: HookPlace

    def code(self, found: Mapping[str, Tensor], tokens: TokenSet, grid: tuple[int, int]) -> Iterator[CodedPictures]:
        """The rows that `read_places` found, encoded and decoded, a few pictures at a time."""
        rows = found[self.target.name]
        chosen = chosen_rows(self.model, self.target, tokens, rows.shape[1], grid)
        ids, chosen = self.target.ids(rows.shape[1])[chosen], chosen.to(rows.device)
        read = split_rows(found[self.source.name], self.sae.d_in, self.source.name)[:, chosen]
        target = split_rows(rows, self.sae.d_out, self.target.name)[:, chosen]
        n_rows_each = read[0].numel() // self.sae.d_in
        n = max(1, MOST_VALUES // (n_rows_each * self.sae.d_sae))
        for x, y in zip(read.split(n), target.split(n), strict=True):
            features = self.sae.encode(x)
            yield CodedPictures(x, y, self.sae.decode(features, x).to(y), features, ids, grid)


def rows_of(
    entrants: Sequence[Entrant], images: Float[Tensor, "image channels height width"]
) -> dict[int, dict[str, Float[Tensor, "image token *rest"]]]:
    """What the dictionaries of each model read and predict, by the identity of the model: one forward of each."""
    found = {}
    for model in {id(entrant.model): entrant.model for entrant in entrants}.values():
        own = [entrant for entrant in entrants if entrant.model is model]
        places = {place.name: place for entrant in own for place in (entrant.source, entrant.target)}
        found[id(model)] = read_places(model, images, list(places.values()))
    return found


def token_kinds(
    model: HookedViT, tokens: Int[Tensor, "token"], grid: tuple[int, int]
) -> dict[str, Bool[Tensor, "token"]]:
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
