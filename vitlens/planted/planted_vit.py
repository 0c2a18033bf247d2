"""The parts of a planted model: the model, its pictures, and the known mechanism."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.planted.scenes import drawn_by_seed, pixels_of

#: The groups of a pair's two sides.
GROUPS = ("agreeing", "conflicting")


@dataclass(frozen=True)
class GroupedPictures:
    """Labelled pictures of objects in a context: pictures 2i and 2i + 1 are one object in two contexts.

    `labels` is the object's class, `contexts` the class that the context says, `masks` where the object is. `groups` is
    "agreeing" in picture 2i, where both are the same, and "conflicting" in picture 2i + 1.
    """

    images: Float[Tensor, "image channels height width"]
    labels: Int[Tensor, "image"]
    contexts: Int[Tensor, "image"]
    groups: tuple[str, ...]
    masks: Bool[Tensor, "image height width"]


@dataclass(frozen=True)
class PlantedPictures:
    """Pictures as the model reads them, each with a counterfactual partner: the smallest change that changes the label.

    A pair shares its noise, its decoys and the strength of every pattern. The kinds of change alternate from pair to pair
    (`changed`), so that every input of the circuit carries a difference in some of the pairs.

    `patches` are those that the mechanism reads in the picture itself, `corrupted_patches` those that it reads in the
    partner; they differ where a mark moved. Exchanging the patches of both sets turns a picture into its partner.

    `labels` and `corrupted_labels` are what the model answers. With a shortcut the answer is wrong for every partner, in
    which the context contradicts the object: `corrupted_labels` is then what the context says, and the object's class is
    `labels` on both sides. `objects` is the object's patch, None for models without a shortcut; `grouped` gives such
    pictures as a data set has them.
    """

    images: Float[Tensor, "image channels height width"]
    corrupted: Float[Tensor, "image channels height width"]
    labels: Int[Tensor, "image"]
    corrupted_labels: Int[Tensor, "image"]
    patches: Bool[Tensor, "image patch"]
    corrupted_patches: Bool[Tensor, "image patch"]
    changed: tuple[str, ...]
    objects: Bool[Tensor, "image patch"] | None = None

    def grouped(self) -> GroupedPictures:
        """Both sides as one set of labelled pictures in two groups: the context agrees with the object, or conflicts.

        Raises:
            InputError: these pictures have no context that could contradict an object.

        Examples:
            >>> from vitlens.planted import planted
            >>> vit = planted("shortcut")
            >>> pictures = vit.pictures(32).grouped()
            >>> is_right = vit.model(pictures.images).argmax(dim=1) == pictures.labels
            >>> pictures.groups[:2], is_right[:2]
            (('agreeing', 'conflicting'), tensor([ True, False]))
        """
        if self.objects is None:
            raise InputError(
                'these pictures have no context that could conflict with an object: those of planted("shortcut") have'
            )
        return GroupedPictures(
            images=torch.stack([self.images, self.corrupted], dim=1).flatten(0, 1),
            labels=self.labels.repeat_interleave(2),
            contexts=torch.stack([self.labels, self.corrupted_labels], dim=1).flatten(),
            groups=GROUPS * len(self.labels),
            masks=pixels_of(self.objects).repeat_interleave(2, dim=0),
        )


@dataclass(frozen=True)
class PlantedTruth:
    """The components that decide the class, as (block, head) and (block, neuron), and the edges between them.

    An edge is in `edges` if what it carries differs between a picture and its partner in some kind of pair, and putting
    the partner's into the picture's run changes the logits: that is what patching along edges can see. A query made from
    the constant that every token carries is needed, but never differs, and so its edge does not count. Names look like
    "input->L0H1<v>", "L0H1->L1H2<q>", "L1H2->L2 mlp", "L2 mlp->logits".

    `shortcuts` are the heads among `heads` that write what the context says; `register_neurons` are neurons that blow one
    token up, and decide nothing. `PlantedViT.repaired` is the model without both.

    `backups` are the heads among `heads` that write the evidence only while another is missing; `backup_edges` carry what
    they need, and nothing that differs while the other head works, so they are not in `edges`.
    """

    heads: frozenset[tuple[int, int]]
    edges: frozenset[str]
    neurons: frozenset[tuple[int, int]] = frozenset()
    backups: frozenset[tuple[int, int]] = frozenset()
    backup_edges: frozenset[str] = frozenset()
    shortcuts: frozenset[tuple[int, int]] = frozenset()
    register_neurons: frozenset[tuple[int, int]] = frozenset()

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
    build_repaired: Callable[[], HookedViT] = field(repr=False)

    def pictures(self, n: int, seed: int = 0) -> PlantedPictures:
        """`n` pairs of pictures, drawn by `seed` alone.

        Raises:
            InputError: fewer than one picture.
        """
        return drawn_by_seed(self.draw, n, seed)

    def repaired(self) -> HookedViT:
        """The same model, built anew without `truth.shortcuts` and `truth.register_neurons`: what removing them should give.

        All other weights are the same. A model that has neither comes out as it was.

        Examples:
            >>> from vitlens.planted import planted
            >>> vit = planted("shortcut")
            >>> pictures = vit.pictures(32).grouped()
            >>> bool((vit.repaired()(pictures.images).argmax(dim=1) == pictures.labels).all())
            True
        """
        return self.build_repaired()
