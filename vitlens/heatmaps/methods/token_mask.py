"""Token-mask integrated gradients: what the class gains while the patches enter the sequence (Methods D4, ours)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum, repeat
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.errors import InputError
from vitlens.heatmaps.shared.explained import explained
from vitlens.heatmaps.shared.rows import rows_at_once
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.gradients import gradients_enabled, gradients_of
from vitlens.model.runs.kept_tokens import forward_masked

#: The path is followed from this level of all patches: below it they are as good as removed.
LEAST = 1e-12
#: Without anything that changes on the way, points are spread evenly over the level to this power.
POWER = 1 / 4


def token_mask(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    metric: str | None = None,
    n_steps: int = 16,
    n_scanned: int = 32,
    batch_size: int | None = None,
) -> Float[Tensor, "image patch"]:
    """∫₀¹ ∂f(α·1)/∂m_j dα, where the mask m multiplies the weight of key j in every head: A[q, j] ∝ m_j exp(s[q, j]).

    m_j = 0 is the removal of patch j from the sequence and m_j = 1 the untouched model, so the path from none to all of the
    patches needs no baseline picture. A softmax turns from the prefix tokens to the patches where α is about
    exp(−difference of the scores), long before 1 and sharply: f is first looked at without gradients, and the points of the
    integral are put where it changes (`path_points`). The importances sum to f(all patches) − f(no patch), but for the
    rule's error: `completeness_gap`.

    Where no prefix token is there to be attended to, masking all patches alike changes nothing: f is constant on the way,
    and the importances, which then sum to zero, tell patches from each other but are not complete.

    Args:
        metric: f is the class's "probability", "log_probability" or "logit"; by default the probability, of outputs without
            probabilities (regression) the logit.
        n_steps: points of the integral, each a forward and a backward.
        n_scanned: intervals after which f is looked at to place them, each a forward.
        batch_size: rows, pictures × points, of one forward; by default at most 64, and what is free holds.

    Raises:
        InputError: an unknown metric, a probability of outputs that have none, fewer than one step, interval or row.

    Source: Methods D4; the path integral is that of Sundararajan, Taly & Yan 2017, equation 1.
    """
    of_class = explained(model, metric)
    if n_steps < 1:
        raise InputError(f"the integral takes at least one step, not {n_steps}")
    if n_scanned < 1:
        raise InputError(f"the scan takes at least one interval, not {n_scanned}")
    rows = rows_at_once(model, images, batch_size, gradients=True)
    grid = model.embed.grid(*images.shape[-2:])
    with torch.no_grad():
        stream = model(images, stop_at_layer=0)
    path = Path(model, stream, classes, of_class, grid, rows)
    logs = torch.linspace(_least_log(stream.dtype), 0, n_scanned + 1, dtype=torch.float64, device=stream.device)
    with torch.no_grad():
        seen = path.along(logs.expand(len(stream), -1), path.value)
    points, widths = path_points(logs, seen.double(), n_steps)
    gradients = path.along(points, path.gradient)
    return einsum(gradients, widths.to(gradients), "b s p, b s -> b p")


def path_points(
    logs: Float[Tensor, "place"], seen: Float[Tensor, "image place"], n_steps: int
) -> tuple[Float[Tensor, "image step"], Float[Tensor, "image step"]]:
    """Where on the path, as log α, gradients are taken, and the weight of each: points that follow what f does.

    The path is cut into intervals of equal content, half of which is how far f moves (its total variation between the
    places where it was seen), and half α^¼, since shares of single patches change where their sum does not. An interval's
    gradient is taken in its middle, and weighs α Δ(log α): the midpoint rule for ∫ α ∂f/∂m d(log α).
    """
    moved = F.pad(seen.diff(dim=1).abs().cumsum(dim=1), (1, 0))
    whole = moved[:, -1:]
    even = (POWER * logs).exp() - (POWER * logs[0]).exp()
    even = (even / even[-1]).expand_as(moved)
    content = torch.where(whole > 0, (moved / whole.where(whole > 0, 1.0) + even) / 2, even)
    edges = _inverse(content, logs, torch.linspace(0, 1, n_steps + 1, dtype=logs.dtype, device=logs.device))
    points = (edges[:, 1:] + edges[:, :-1]) / 2
    return points, points.exp() * edges.diff(dim=1)


def completeness_gap(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    importance: Float[Tensor, "image patch"],
    *,
    metric: str | None = None,
) -> Float[Tensor, "image"]:
    """Σ_j importance_j − (f(1) − f(0⁺)): by how much they miss the difference that is divided among the patches.

    f(0⁺), the limit of equal masks, is f(no patch) where prefix tokens alone are read. Where patches are pooled, it is what
    they say when each of them attends to the prefix tokens only.
    """
    of_class, grid = explained(model, metric), model.embed.grid(*images.shape[-2:])
    with torch.no_grad():
        stream = model(images, stop_at_layer=0)
        whole = torch.ones_like(importance)
        least = whole * torch.finfo(whole.dtype).tiny ** 0.5
        ends = [of_class(forward_masked(model, stream, mask, grid), classes) for mask in (whole, least)]
    return importance.sum(dim=1) - (ends[0] - ends[1])


@dataclass(frozen=True)
class Path:
    """From no patch to all of them, each as present as any other: f and its gradient at any level of any picture."""

    model: HookedViT
    stream: Float[Tensor, "image tokens d"]
    classes: Int[Tensor, "image"]
    explained: Callable[[Tensor, Tensor], Tensor]
    grid: tuple[int, int]
    batch_size: int

    def along(self, logs: Float[Tensor, "image place"], what: Callable[..., Tensor]) -> Tensor:
        """`what`, run in batches, at each of these levels of each picture: [image, place, …]."""
        cells = torch.arange(logs.numel(), device=logs.device)
        parts = [what(cell // logs.shape[1], logs.flatten()[cell]) for cell in cells.split(self.batch_size)]
        return torch.cat(parts).unflatten(0, tuple(logs.shape))

    def value(self, image: Int[Tensor, "row"], log: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
        """f."""
        return self._of(image, self._mask(log))

    def gradient(self, image: Int[Tensor, "row"], log: Float[Tensor, "row"]) -> Float[Tensor, "row patch"]:
        """∂f/∂m of every patch."""
        with gradients_enabled():
            mask = self._mask(log).requires_grad_()
            (found,) = gradients_of(self._of(image, mask), [mask])
        return found

    def _mask(self, log: Float[Tensor, "row"]) -> Float[Tensor, "row patch"]:
        n_patches = self.stream.shape[1] - self.model.cfg.n_prefix_tokens
        return repeat(log.exp().to(self.stream.dtype), "r -> r p", p=n_patches).clone()

    def _of(self, image: Int[Tensor, "row"], mask: Float[Tensor, "row patch"]) -> Float[Tensor, "row"]:
        logits = forward_masked(self.model, self.stream[image], mask, self.grid)
        return self.explained(logits, self.classes[image])


def _least_log(dtype: torch.dtype) -> float:
    """log of the lowest level: half precision does not reach as far down."""
    return math.log(max(LEAST, torch.finfo(dtype).tiny ** 0.5))


def _inverse(
    content: Float[Tensor, "image place"], logs: Float[Tensor, "place"], wanted: Float[Tensor, "edge"]
) -> Float[Tensor, "image edge"]:
    """The log α at which the content, linear between places, has each of these values."""
    after = torch.searchsorted(content.contiguous(), wanted.expand(len(content), -1).contiguous())
    after = after.clamp(1, content.shape[1] - 1)
    low, high = content.gather(1, after - 1), content.gather(1, after)
    share = ((wanted - low) / (high - low)).clamp(0, 1)
    return logs[after - 1] + share * (logs[after] - logs[after - 1])
