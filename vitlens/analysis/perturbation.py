"""The perturbation test: patches removed in the order of their importance, and what is left of the decision (D3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.analysis.classes import Classes, one_class_each
from vitlens.analysis.results import Result
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT

DIRECTIONS = ("negative", "positive")


@dataclass(frozen=True, repr=False)
class Perturbation(Result):
    """Whether the class is still predicted (`values`) and its probability, [direction, image, removed]; the labels of the
    last axis are the shares of patches removed, from 0 to 1.

    "negative" removes the least important first (accuracy should stay), "positive" the most important (it should fall).
    """

    probabilities: Float[Tensor, "direction image removed"]

    def columns(self) -> dict[str, Tensor]:
        return {"accuracy": self.values, "probability": self.probabilities}

    def areas(self, column: str = "accuracy", paper_compat: bool = False) -> Float[Tensor, "direction image"]:
        """The area under each picture's curve, over the share removed."""
        return area(self.columns()[column].double(), self.axes["removed"], paper_compat)


def area(
    curves: Float[Tensor, "*curve removed"], removed: Sequence[float], paper_compat: bool = False
) -> Float[Tensor, "*curve"]:
    """The area under curves by the trapezoid rule, over the shares removed, not rescaled.

    The released code has no point for 0 % and 100 %, sums the others, and divides by their number plus one and by the
    curve's maximum: `paper_compat` does so too (on the mean curve, which is what it is published for).
    """
    if paper_compat:
        inner = curves[..., 1:-1]
        return inner.sum(dim=-1) / (inner.amax(dim=-1).clamp(min=1e-12) * (inner.shape[-1] + 1))
    return torch.trapezoid(curves, torch.as_tensor(list(removed), dtype=curves.dtype, device=curves.device), dim=-1)


def removal_steps(n_patches: int, n_steps: int | None) -> list[int]:
    """How many patches are gone at each step: from none to all, one by one or in `n_steps` equal steps."""
    if n_steps is None:
        return list(range(n_patches + 1))
    if n_steps < 1:
        raise InputError(f"a perturbation test has at least one step, not {n_steps}")
    return sorted({round(i * n_patches / n_steps) for i in range(n_steps + 1)})


def perturbation_test(
    model: HookedViT,
    images: Pictures,
    importance: Tensor | np.ndarray,
    classes: Classes = None,
    *,
    n_steps: int | None = None,
    directions: Sequence[str] = DIRECTIONS,
) -> Perturbation:
    """D3: patches are really removed, after their positions were added, and the shorter sequence is run.

    All pictures of the batch are run together, at each step with equally many patches.

    Args:
        importance: of each patch, [image, patch] or on the grid [image, rows, columns]; of equals the first patch counts as
            the less important.
        classes: one per picture, whose prediction is followed: the labels, or by default the predicted class.
        n_steps: so many equal steps; by default every patch is a step.
        directions: "negative", "positive" or both.

    Returns:
        Perturbation with axes direction, image, removed.

    Raises:
        InputError: an importance of another shape, or NaN; an unknown direction.

    Source: Vilas, Schaumlöffel & Roig 2023, section 6; METHODS.md D3.
    """
    model.require_classifier()
    pictures = model.as_images(images)
    grid = model.embed.grid(*pictures.shape[-2:])
    importance = torch.as_tensor(importance).to(pictures.device).reshape(len(importance), -1)
    if importance.shape != (len(pictures), grid[0] * grid[1]) or not importance.isfinite().all():
        raise InputError(
            f"the importance is one finite number per patch, [{len(pictures)}, {grid[0] * grid[1]}], "
            f"not {list(importance.shape)}{' with NaN' if not importance.isfinite().all() else ''}"
        )
    for direction in directions:
        if direction not in DIRECTIONS:
            raise InputError(f"a perturbation is {' or '.join(DIRECTIONS)}, not {direction!r}")
    steps = removal_steps(importance.shape[1], n_steps)
    with torch.no_grad():
        stream = model(pictures, stop_at_layer=0)
        whole = model.forward_kept(stream, torch.ones_like(importance, dtype=torch.bool), grid).logits
        chosen = one_class_each(model, classes, len(pictures), lambda: whole, "a perturbation test")
        curves = [
            _curve(model, stream, importance if direction == "negative" else -importance, chosen, steps, whole, grid)
            for direction in directions
        ]
    accuracy, probability = (torch.stack(parts) for parts in zip(*curves, strict=True))
    n_patches = importance.shape[1]
    return Perturbation(
        values=accuracy,
        axes={
            "direction": list(directions),
            "image": list(range(len(pictures))),
            "removed": [step / n_patches for step in steps],
        },
        quantity="accuracy",
        probabilities=probability,
        settings={"model": model.cfg.model_name},
    )


def random_importance(
    keys: Sequence[int], n_patches: int, seed: int = 0, shared: bool = False
) -> Float[Tensor, "image patch"]:
    """The baseline of D3: a random order for every picture, drawn from its key and the seed (`shared`: one for all, as
    published), so that it does not depend on which pictures share a batch."""
    rows = [np.random.default_rng([seed, -1 if shared else int(key)][: 1 if shared else 2]) for key in keys]
    return torch.from_numpy(np.stack([generator.permutation(n_patches) for generator in rows])).double()


def _curve(
    model: HookedViT,
    stream: Float[Tensor, "image tokens d"],
    order_by: Float[Tensor, "image patch"],
    classes: Int[Tensor, "image"],
    steps: list[int],
    whole: Float[Tensor, "image class"],
    grid: tuple[int, int],
) -> tuple[Float[Tensor, "image removed"], Float[Tensor, "image removed"]]:
    """Correctness and probability of the class while the patches with the smallest `order_by` go first."""
    place: Bool[Tensor, "image patch"] = order_by.argsort(dim=1, stable=True).argsort(dim=1)
    correct, probability = [], []
    for step in steps:
        logits = whole if step == 0 else model.forward_kept(stream, place >= step, grid).logits
        correct.append((logits.argmax(dim=-1) == classes).to(logits.dtype))
        probability.append(logits.softmax(dim=-1).gather(1, classes[:, None])[:, 0])
    return torch.stack(correct, dim=1), torch.stack(probability, dim=1)
