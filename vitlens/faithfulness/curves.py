"""Deletion, insertion, token-removal and imputation curves: the class while parts are removed in the order of a map."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.errors import InputError, nearest
from vitlens.faithfulness.imputation import impute
from vitlens.faithfulness.perturbation import removal_steps, remove_in_order
from vitlens.heatmaps.methods.baselines import picture_key
from vitlens.heatmaps.shared.pixels import EMPTY, emptied, pixels_of
from vitlens.heatmaps.shared.precision import require_finite_logits
from vitlens.model.class_space.outputs import is_predicted, probabilities
from vitlens.model.hooked_vit import HookedViT

#: What may replace a patch.
REPLACEMENTS = (*EMPTY, "black")
#: Tenths of the pixels that Chefer's test blackens.
TENTHS = tuple(range(10))
NOISE = 0.01


class ClassOutcome(NamedTuple):
    """The class's probability, and 1 where it is predicted (`is_predicted`), else 0: [image] or [image, step]."""

    probability: Tensor
    correct: Tensor

    def of(self, quantity: str) -> Tensor:
        """ "probability" or "accuracy"."""
        return self.probability if quantity == "probability" else self.correct


@dataclass(frozen=True)
class Bench:
    """Pictures, the class followed in each, and how parts of them are taken away: what all maps of them share.

    The answers to the whole pictures are given as `logits`, those to the emptied pictures are found once, for all maps.
    """

    model: HookedViT
    images: Float[Tensor, "image channels height width"]
    classes: Int[Tensor, "image"]
    logits: Float[Tensor, "image class"]
    n_steps: int = 50
    replacement: str = "blur"
    road_shares: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    batch_size: int = 64
    #: Rows of one forward of the methods that make maps; None: what they choose.
    rows_of_maps: int | None = None

    @property
    def grid(self) -> tuple[int, int]:
        return self.model.embed.grid(*self.images.shape[-2:])

    @property
    def n_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @cached_property
    def counts(self) -> Int[Tensor, "step"]:
        """How many patches are gone at each step, from none to all."""
        return torch.tensor(removal_steps(self.n_patches, self.n_steps), device=self.images.device)

    @cached_property
    def road_counts(self) -> Int[Tensor, "step"]:
        """The same at ROAD's shares; at least one patch stays, for there is nothing to impute from without."""
        counts = [min(round(share * self.n_patches), self.n_patches - 1) for share in self.road_shares]
        return torch.tensor(counts, device=self.images.device)

    @cached_property
    def filling(self) -> Float[Tensor, "image channels height width"]:
        """What comes into the place of pixels."""
        return filled(self.model, self.images, self.replacement)

    @property
    def whole(self) -> ClassOutcome:
        return _outcome(self.model, self.logits, self.classes)

    @cached_property
    def empty(self) -> ClassOutcome:
        """Every patch replaced: where deletion ends and insertion starts."""
        everything = torch.ones(self.n_patches, dtype=torch.bool, device=self.images.device)
        return follow(self, lambda image, step: self.hide(image, everything.expand(len(image), -1)))

    def answer(self, pictures: Float[Tensor, "row channels height width"], image: Int[Tensor, "row"]) -> ClassOutcome:
        """What the model says of pictures made from these images."""
        with torch.no_grad():
            logits = self.model(pictures)
        require_finite_logits(self.model, logits)
        return _outcome(self.model, logits, self.classes[image])

    def drops(self, patches: Bool[Tensor, "image set patch"]) -> Float[Tensor, "image set"]:
        """By how much the class's probability falls when each of these sets of patches is replaced by the filling."""
        outcome = follow(self, lambda image, which: self.hide(image, patches[image, which]), patches.shape[1])
        return (self.whole.probability[:, None] - outcome.probability).double()

    def hide(
        self, image: Int[Tensor, "row"], patches: Bool[Tensor, "row patch"]
    ) -> Float[Tensor, "row channels height width"]:
        """The images with these patches replaced by the filling."""
        return torch.where(self.pixels_of(patches)[:, None], self.filling[image], self.images[image])

    def pixels_of(self, patches: Bool[Tensor, "row patch"]) -> Bool[Tensor, "row height width"]:
        """The pixels that patches are made of."""
        return pixels_of(self.model, patches, *self.images.shape[-2:])


def filled(
    model: HookedViT, images: Float[Tensor, "image channels height width"], replacement: str
) -> Float[Tensor, "image channels height width"]:
    """Pictures that show nothing: as `emptied`, or "black", the pixel that is 0 before normalisation.

    Raises:
        InputError: an unknown replacement.
    """
    if replacement not in REPLACEMENTS:
        near = nearest(replacement, REPLACEMENTS, 1)
        raise InputError(f"replacement is one of {', '.join(REPLACEMENTS)}, not {replacement!r} (near: {near})")
    if replacement != "black":
        return emptied(images, replacement)
    mean, std = model.preprocessing.mean.to(images), model.preprocessing.std.to(images)
    return (-mean / std)[:, None, None].expand_as(images)


def places(importance: Float[Tensor, "*image part"]) -> Int[Tensor, "*image part"]:
    """0 for the most important, 1 for the next …; of equals the first in reading order comes first."""
    return (-importance).argsort(dim=-1, stable=True).argsort(dim=-1)


def follow(bench: Bench, make: Callable[[Tensor, Tensor], Tensor], n_steps: int | None = None) -> ClassOutcome:
    """Runs pictures that `make` builds for pairs of image and step, `batch_size` at a time, so that only they are held.

    Args:
        n_steps: by default one for each image, and no axis for it.
    """
    device = bench.images.device
    n_images = len(bench.images)
    cells = torch.arange(n_images * (1 if n_steps is None else n_steps), device=device)
    parts = []
    for chunk in cells.split(bench.batch_size) if len(cells) else ():
        image = chunk if n_steps is None else chunk // n_steps
        parts.append(bench.answer(make(image, chunk - image * (n_steps or 1)), image))
    if not parts:
        nothing = bench.images.new_zeros(n_images, 0)
        return ClassOutcome(nothing, nothing)
    joined = [torch.cat(values) for values in zip(*parts, strict=True)]
    return ClassOutcome(*(values if n_steps is None else values.unflatten(0, (n_images, n_steps)) for values in joined))


def deletion(bench: Bench, importance: Float[Tensor, "image patch"]) -> ClassOutcome:
    """Deletion: the pixels of the most important patches are replaced first, from the whole picture to the filling."""
    place, inner = places(importance), bench.counts[1:-1]
    between = follow(bench, lambda image, step: bench.hide(image, place[image] < inner[step][:, None]), len(inner))
    return _joined(bench.whole, between, bench.empty)


def insertion(bench: Bench, importance: Float[Tensor, "image patch"]) -> ClassOutcome:
    """Insertion: the pixels of the most important patches are inserted first, from the filling to the whole picture."""
    place, inner = places(importance), bench.counts[1:-1]
    between = follow(bench, lambda image, step: bench.hide(image, place[image] >= inner[step][:, None]), len(inner))
    return _joined(bench.empty, between, bench.whole)


def token_removal(bench: Bench, importance: Float[Tensor, "image patch"], perturbation: str) -> ClassOutcome:
    """The perturbation test (Methods D3), see `perturbation_test`."""
    found = remove_in_order(
        bench.model, bench.images, importance, bench.classes,
        n_steps=bench.n_steps, perturbations=[perturbation], batch_size=bench.batch_size,
    )  # fmt: skip
    return ClassOutcome(found.probabilities[0], found.values[0])


def blackening(bench: Bench, importance: Float[Tensor, "image patch"], most_first: bool) -> ClassOutcome:
    """Chefer's test: pixels, not patches, are blackened in the order of the map enlarged bilinearly, 0 % to 90 % of them."""
    down, across = bench.model.cfg.patch_size
    (rows, columns), (height, width) = bench.grid, bench.images.shape[-2:]
    read = slice(min(rows * down, height)), slice(min(columns * across, width))
    black = filled(bench.model, bench.images, "black")

    def make(image: Int[Tensor, "row"], step: Int[Tensor, "row"]) -> Float[Tensor, "row channels height width"]:
        present, row = image.unique(return_inverse=True)
        maps = (importance[present] if most_first else -importance[present]).unflatten(1, bench.grid)
        large = F.interpolate(maps[:, None], size=(rows * down, columns * across), mode="bilinear")[:, 0][:, *read]
        place = places(large.flatten(1)).view_as(large)
        hidden = torch.zeros(len(image), height, width, dtype=torch.bool, device=image.device)
        count = (step + 1) * place[0].numel() // 10
        hidden[:, *read] = place[row] < count[:, None, None]
        return torch.where(hidden[:, None], black[image], bench.images[image])

    return _joined(bench.whole, follow(bench, make, len(TENTHS) - 1))


def road(bench: Bench, importance: Float[Tensor, "image patch"], most_first: bool) -> ClassOutcome:
    """The most (or least) important patches are imputed from what is left; the noise is the picture's own at every step."""
    place = places(importance if most_first else -importance)

    def make(image: Int[Tensor, "row"], step: Int[Tensor, "row"]) -> Float[Tensor, "row channels height width"]:
        missing = bench.pixels_of(place[image] < bench.road_counts[step][:, None])
        present, row = image.unique(return_inverse=True)
        return impute(bench.images[image], missing, noise_of(bench.images[present])[row])

    return follow(bench, make, len(bench.road_counts))


def noise_of(
    images: Float[Tensor, "image channels height width"], seed: int = 0
) -> Float[Tensor, "image channels height width"]:
    """Normal noise of standard deviation 0.01, in the model's preprocessed space, drawn from each picture's own pixels."""
    drawn = [np.random.default_rng([seed, picture_key(image)]).standard_normal(image.shape) for image in images]
    return NOISE * torch.from_numpy(np.stack(drawn)).to(images)


def _outcome(model: HookedViT, logits: Float[Tensor, "row class"], classes: Int[Tensor, "row"]) -> ClassOutcome:
    output = model.cfg.output
    probability = probabilities(logits, output, logits.gather(1, classes[:, None]))[:, 0]
    return ClassOutcome(probability, is_predicted(logits, classes, output))


def _joined(*outcomes: ClassOutcome) -> ClassOutcome:
    """The outcomes joined along the axis of steps."""
    columns = [[x if x.ndim == 2 else x[:, None] for x in outcome] for outcome in outcomes]
    return ClassOutcome(*(torch.cat(values, dim=1) for values in zip(*columns, strict=True)))
