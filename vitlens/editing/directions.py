"""Directions in which groups of pictures differ within each class: where a model keeps what only the context says."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import checked
from vitlens.choose.tokens import TokenSet, select_tokens
from vitlens.editing.changes import Directions
from vitlens.editing.groups import GroupInput, Groups
from vitlens.editing.labelled import LabelledPictures
from vitlens.editing.parts import PartName, read_parts, require_tokens
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import NO_TOKENS
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureSource


@leaves_state
@torch.no_grad()
@checked
def group_directions(
    model: HookedViT,
    images: PictureSource,
    labels: Any = None,
    groups: GroupInput | Groups | None = None,
    *,
    part: PartName = "classifier",
    k: int | None = None,
    alpha: float = 0.01,
    tokens: TokenSet = "all",
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Directions:
    """Finds the directions in which pictures of one class differ most between groups, to remove them with `edit`.

    The mean vector of each class and group is taken. What these means differ by within a class is what the group adds: of a
    shortcut, what the context says. The directions maximise that difference in units of the spread of single pictures around
    their mean: B v = λ S v, with B the scatter of the group means around their class mean, each group counting by its
    pictures, and S the covariance within class and group. They are removed by an oblique projection along S v, which leaves
    everything that is uncorrelated with them as it is.

    Args:
        labels, groups: the true class and the group of each picture; None for those of a picture set.
        part: where: "classifier", what the classifier reads; the output of "L3 mlp", "L3 attn" or "L2H1"; or a hook point.
        k: how many directions, the strongest first; by default those with √λ above what random differences reach in 95 % of
            the cases.
        alpha: the share of the mean variance that is added to S: directions with little variance must not win by chance.
        tokens: of a part with tokens, whose mean vector is read.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        Directions, for `edit(model, part, "direction", directions=…)`.

    Raises:
        InputError: several parts; no class with pictures of two groups; no direction in which the groups differ more than by
            chance; more directions than there are; labels or groups for another number of pictures.

    Source: Fisher's discriminants of the groups within classes; where all directions are removed, the projection of Belrose
        et al. 2023 (LEACE); how many: Wachter 1980 (the spectrum of a Fisher matrix), Davidson and Szarek 2001 (its spread).

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> groups = ["agreeing", "conflicting"] * 50
        >>> found = vitlens.editing.group_directions(model, images, labels, groups, k=3)
        >>> found.read.shape
        torch.Size([3, 96])
        >>> edited = vitlens.edit(model, "classifier", "direction", directions=found, dose=0.5)
    """
    places = read_parts(model, part, in_stream=True)
    if len(places) != 1:
        raise InputError(f"{part!r} means {len(places)} hook points, and directions are of one: name a single part")
    pictures = LabelledPictures(model, images, labels, batch_size)
    found = pictures.read_groups(groups)
    if not alpha > 0:
        raise InputError(f"alpha is a share of the variance above 0, such as 0.01, not {alpha}")
    cells = _Cells(len(found.names))
    if not (isinstance(tokens, str) and tokens == "all"):
        require_tokens(model, places[0])
    hook, unit = places[0].hook, places[0].unit
    for ids, batch, truth in pictures.batches("directions", progress):
        value = model.run_with_cache(batch, names_filter=hook)[1][hook]
        vectors = _vectors(model, value, hook, unit, tokens)
        cells.add(vectors.double().cpu(), truth.cpu(), found.of_image[ids])
    return cells.directions(k, alpha, model)


def _vectors(
    model: HookedViT, value: Tensor, hook: str, unit: int | None, tokens: TokenSet
) -> Float[Tensor, "image d"]:
    if unit is not None:
        value = value[..., unit, :]
    if model.hook_dict[hook].pos_dim == NO_TOKENS:
        return value
    chosen = select_tokens(model, tokens, 1)[0]
    return value[:, chosen].mean(dim=1)


class _Cells:
    """Sums over the pictures of each class and group, and the scatter around their means."""

    def __init__(self, n_groups: int) -> None:
        self.n_groups = n_groups
        self.sums: dict[int, Tensor] = {}
        self.counts: dict[int, int] = {}
        self.outer: Tensor | float = 0.0
        self.shift: Tensor | None = None

    def add(self, vectors: Tensor, labels: Tensor, groups: Tensor) -> None:
        if self.shift is None:
            # Sums of squares of vectors far from 0 would round the scatter away.
            self.shift = vectors.mean(dim=0)
        vectors = vectors - self.shift
        self.outer = self.outer + vectors.T @ vectors
        keys = labels * self.n_groups + groups
        for key in keys.unique().tolist():
            here = vectors[keys == key]
            self.sums[key] = self.sums.get(key, 0.0) + here.sum(dim=0)
            self.counts[key] = self.counts.get(key, 0) + len(here)

    def directions(self, k: int | None, alpha: float, model: HookedViT) -> Directions:
        assert self.shift is not None
        keys = sorted(self.sums)
        counts = torch.tensor([self.counts[key] for key in keys], dtype=torch.float64)
        means = torch.stack([self.sums[key] for key in keys]) / counts[:, None]
        classes = torch.tensor([key // self.n_groups for key in keys])
        differences, n_free = self._differences(means, counts, classes)
        n_within = int(counts.sum()) - len(keys)
        if not n_free or n_within < 2:
            raise InputError(
                "directions between groups need classes with pictures of two groups, and more pictures than classes and "
                "groups: give more pictures"
            )
        within = (self.outer - (means * counts[:, None]).T @ means) / n_within
        d = len(within)
        within = within + alpha * within.diagonal().mean() * torch.eye(d, dtype=torch.float64)
        variances, axes = torch.linalg.eigh(within)
        whiten = axes * variances.clamp(min=0).rsqrt()
        _, strength, found = torch.linalg.svd(differences @ whiten, full_matrices=False)
        n_found = _how_many(strength, k, n_free, n_within, d)
        read = found[:n_found] @ whiten.T
        groups = torch.tensor([key % self.n_groups for key in keys])
        of_groups = [means[groups == group].mean(dim=0) for group in groups.unique()]
        mean = self.shift + torch.stack(of_groups).mean(dim=0)
        like: dict[str, Any] = {"dtype": model.dtype, "device": model.device}
        return Directions(read.to(**like), (read @ within).to(**like), mean.to(**like))

    @staticmethod
    def _differences(means: Tensor, counts: Tensor, classes: Tensor) -> tuple[Tensor, int]:
        """√n (mean of a group − mean of its class), and how many of these rows vary freely."""
        rows = []
        n_free = 0
        for one in classes.unique():
            here = classes == one
            centre = (means[here] * counts[here, None]).sum(dim=0) / counts[here].sum()
            rows.append((means[here] - centre) * counts[here, None].sqrt())
            n_free += int(here.sum()) - 1
        return torch.cat(rows), n_free


def _how_many(strength: Tensor, k: int | None, n_free: int, n_within: int, d: int) -> int:
    most = min(n_free, d)
    if k is not None:
        if not 1 <= k <= most:
            raise InputError(f"there are {most} directions between these groups, so k is 1 to {most}, not {k}")
        return k
    if n_within <= d:
        raise InputError(
            f"there are too few pictures for vectors of {d} numbers to tell how many directions there are: give more "
            f"than {d} beyond one of each class and group, or say k="
        )
    found = int((strength > _largest_by_chance(n_free, n_within, d)).sum())
    if not found:
        raise InputError(
            "within classes the groups differ in no direction more than by chance: give more pictures, or say k="
        )
    return min(found, most)


def _largest_by_chance(n_free: int, n_within: int, d: int) -> float:
    """What the largest √λ stays below in 95 % of the cases where groups do not differ.

    The edge of the spectrum of a Fisher matrix, of r = n_free differences of random means against a covariance from n_within
    pictures, and how far above its mean the norm of a Gaussian matrix comes. Many pictures: √r + √d + √(2 ln 20).
    """
    few = d / n_within
    edge = 1 + math.sqrt(d / n_free + few - few * d / n_free)
    return (math.sqrt(n_free) * edge + math.sqrt(2 * math.log(20))) / (1 - few)
