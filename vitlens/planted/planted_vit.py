"""The parts of a planted model: the model, its pictures, and the known mechanism."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.model.hooked_vit import HookedViT
from vitlens.planted.scenes import drawn_by_seed


@dataclass(frozen=True)
class PlantedPictures:
    """Pictures as the model reads them, each with a counterfactual partner: the smallest change that changes the label.

    A pair shares its noise, its decoys and the strength of every pattern. The kinds of change alternate from pair to pair
    (`changed`), so that every input of the circuit carries a difference in some of the pairs.

    `patches` are those that the mechanism reads in the picture itself, `corrupted_patches` those that it reads in the
    partner; they differ where a mark moved. Exchanging the patches of both sets turns a picture into its partner.
    """

    images: Float[Tensor, "image channels height width"]
    corrupted: Float[Tensor, "image channels height width"]
    labels: Int[Tensor, "image"]
    corrupted_labels: Int[Tensor, "image"]
    patches: Bool[Tensor, "image patch"]
    corrupted_patches: Bool[Tensor, "image patch"]
    changed: tuple[str, ...]


@dataclass(frozen=True)
class PlantedTruth:
    """The components that decide the class, as (block, head) and (block, neuron), and the edges between them.

    An edge is in `edges` if what it carries differs between a picture and its partner in some kind of pair, and putting
    the partner's into the picture's run changes the logits: that is what patching along edges can see. A query made from
    the constant that every token carries is needed, but never differs, and so its edge does not count. Names look like
    "input->L0H1<v>", "L0H1->L1H2<q>", "L1H2->L2 mlp", "L2 mlp->logits".

    `backups` are the heads among `heads` that write the evidence only while another is missing; `backup_edges` carry what
    they need, and nothing that differs while the other head works, so they are not in `edges`.
    """

    heads: frozenset[tuple[int, int]]
    edges: frozenset[str]
    neurons: frozenset[tuple[int, int]] = frozenset()
    backups: frozenset[tuple[int, int]] = frozenset()
    backup_edges: frozenset[str] = frozenset()

    @property
    def mlps(self) -> frozenset[int]:
        """The blocks whose MLP matters."""
        return frozenset(block for block, _ in self.neurons)


@dataclass(frozen=True)
class PlantedViT:
    """A vision transformer whose mechanism was written into its weights; `truth` says which components it is."""

    name: str
    description: str
    model: HookedViT
    truth: PlantedTruth
    draw: Callable[[int, torch.Generator], PlantedPictures] = field(repr=False)

    def pictures(self, n: int, seed: int = 0) -> PlantedPictures:
        """`n` pairs of pictures, drawn by `seed` alone.

        Raises:
            InputError: fewer than one picture.
        """
        return drawn_by_seed(self.draw, n, seed)
