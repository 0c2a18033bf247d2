"""The perturbation test: accuracy while patches are removed in the order of their importance (Methods D3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.arguments import checked, require_whole
from vitlens.choose.classes import Classes, classes_by_batch
from vitlens.choose.texts import takes_text
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.heatmaps.shared.precision import careful, require_finite_logits
from vitlens.heatmaps.shared.rows import rows_at_once
from vitlens.model.class_space.outputs import is_predicted, probabilities
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.model.runs.small_pictures import small_pictures
from vitlens.results.result import Result

PERTURBATIONS = ("negative", "positive")
#: What a model allows whose outputs have no probability that could fall.
NOTHING_ELSE = "compare the logits of model.forward_kept"
#: Correctness and probability of the class, [perturbation, image, removed].
Curves = tuple[Tensor, Tensor]


@dataclass(frozen=True, repr=False)
class Perturbation(Result):
    """Whether the class is still predicted (`values`; of sigmoid outputs: above one half) and its probability,
    [perturbation, image, removed]; the labels of the last axis are the shares of patches removed, from 0 to 1.

    "negative" removes the least important first (accuracy should stay), "positive" the most important (it should fall).
    """

    probabilities: Float[Tensor, "perturbation image removed"]

    def columns(self) -> dict[str, Tensor]:
        return {"accuracy": self.values, "probability": self.probabilities}

    def areas(self, column: str = "accuracy", paper_compat: bool = False) -> Float[Tensor, "perturbation image"]:
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
    require_whole(n_steps=n_steps)
    if n_steps < 1:
        raise InputError(f"a perturbation test has at least one step, not {n_steps}")
    return sorted({round(i * n_patches / n_steps) for i in range(n_steps + 1)})


@leaves_state
@checked
@takes_text("predicted")
def perturbation_test(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    importance: Tensor | np.ndarray,
    n_steps: int | None = None,
    perturbations: str | Sequence[str] = PERTURBATIONS,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Perturbation:
    """Removes patches in the order of their importance, after their positions were added, and runs the shorter sequence.

    The pictures of a batch are run together, at each step with equally many patches.

    Args:
        classes: one per picture, whose prediction is followed: the labels, or by default the predicted class.
        importance: of each patch, [image, patch] or on the grid [image, rows, columns]; of equals the first patch counts as
            the less important.
        n_steps: how many equal steps; by default each patch is a step.
        perturbations: "negative" (the least important first), "positive" (the most important first) or both.
        batch_size: pictures of one forward; by default at most 64, and what is free holds.
        progress: show a bar; by default on a terminal, where there is more than one batch.

    Returns:
        Perturbation with axes perturbation, image, removed.

    Raises:
        InputError: an importance of another shape, with NaN, or the same for all patches, which puts them in no order; an
            unknown perturbation; several classes a picture; outputs without probabilities;
            no pictures; logits that are not finite.

    Source: Vilas, Schaumlöffel & Roig 2023, section 6; Methods D3.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> heat = vitlens.heatmap(model, images[:4], method="gradient_rollout")
        >>> test = vitlens.faithfulness.perturbation_test(model, images[:4], importance=heat.values, n_steps=2)
        >>> test.axes["perturbation"], test.axes["removed"]
        (['negative', 'positive'], [0.0, 0.5, 1.0])
        >>> test.values.mean(dim=1)
        tensor([[1., 1., 0.],
                [1., 0., 0.]])
    """
    model.require_probability("whether the class is still predicted", NOTHING_ELSE)
    pictures = model.as_images(images)
    grid = model.embed.grid(*pictures.shape[-2:])
    maps = _flat(importance, len(pictures), grid).to(pictures.device)
    perturbations = [perturbations] if isinstance(perturbations, str) else list(perturbations)
    if not perturbations:
        raise InputError(f"name at least one perturbation: {' or '.join(PERTURBATIONS)}")
    for perturbation in perturbations:
        if perturbation not in PERTURBATIONS:
            raise InputError(f"a perturbation is {' or '.join(PERTURBATIONS)}, not {perturbation!r}")
    removal_steps(maps.shape[1], n_steps)
    even = (maps == maps[:, :1]).all(dim=1)
    if even.any() and maps.shape[1] > 1:
        raise InputError(
            f"the importance of picture {int(even.nonzero()[0])} is the same for all patches, which puts them in no order: "
            'leave the picture out, or compare with a random order (heatmap(model, images, method="random_map"))'
        )
    return remove_in_order(
        model,
        pictures,
        maps,
        classes,
        n_steps=n_steps,
        perturbations=perturbations,
        batch_size=batch_size,
        progress=progress,
    )


def remove_in_order(
    model: HookedViT,
    pictures: Float[Tensor, "image channels height width"],
    importance: Float[Tensor, "image patch"],
    classes: Classes,
    *,
    n_steps: int | None,
    perturbations: Sequence[str],
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Perturbation:
    """`perturbation_test` of what was checked before."""
    steps = removal_steps(importance.shape[1], n_steps)
    parts: list[Curves] = []
    with careful(model, pictures) as (able, copies):
        # Predicted classes are known once the pictures are run.
        given = None if classes is None else classes_by_batch(able, classes, len(copies), "a perturbation test")
        size = rows_at_once(able, copies, batch_size, gradients=False)
        starts = range(0, len(copies), size)
        with ProgressBar(len(copies), "perturbation test", "picture", progress, len(starts)) as bar:
            for start in starts:
                some = slice(start, start + size)
                about = None if given is None else given(some, copies[some]).indices[:, 0]
                parts.append(_curves(able, copies[some], importance[some], about, steps, perturbations))
                bar.update(len(copies[some]))
        accuracy, probability = (torch.cat(values, dim=1) for values in zip(*parts, strict=True))
    n_patches = importance.shape[1]
    return Perturbation(
        values=accuracy,
        axes={
            "perturbation": list(perturbations),
            "image": list(range(len(pictures))),
            "removed": [step / n_patches for step in steps],
        },
        quantity="accuracy",
        probabilities=probability,
        pixels=small_pictures(model, pictures),
        settings={"model": model.cfg.model_name},
    )


def _flat(importance: Tensor | np.ndarray, n_images: int, grid: tuple[int, int]) -> Float[Tensor, "image patch"]:
    """One finite number per patch, in the order of the tokens."""
    rows, columns = grid
    try:
        maps = torch.as_tensor(importance).detach()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"the importance is a tensor or an array of numbers, not {type(importance).__name__}"
        ) from None
    if list(maps.shape) not in ([n_images, rows * columns], [n_images, rows, columns]) or not maps.isfinite().all():
        raise InputError(
            f"the importance is one finite number per patch, [{n_images}, {rows * columns}] or "
            f"[{n_images}, {rows}, {columns}], "
            f"not {list(maps.shape)}{' with NaN or infinity' if not maps.isfinite().all() else ''}"
        )
    return maps.flatten(1)


def _curves(
    model: HookedViT,
    pictures: Float[Tensor, "image channels height width"],
    importance: Float[Tensor, "image patch"],
    classes: Int[Tensor, "image"] | None,
    steps: list[int],
    perturbations: Sequence[str],
) -> Curves:
    """Correctness and probability of the class (None: of the predicted one) while patches go, in these orders."""
    grid = model.embed.grid(*pictures.shape[-2:])
    stream = model(pictures, stop_at_layer=0)
    whole = model.forward_kept(stream, torch.ones_like(importance, dtype=torch.bool), grid).logits
    require_finite_logits(model, whole)
    chosen = whole.argmax(dim=-1) if classes is None else classes
    curves = [
        _curve(model, stream, importance if perturbation == "negative" else -importance, chosen, steps, whole, grid)
        for perturbation in perturbations
    ]
    accuracy, probability = (torch.stack(parts) for parts in zip(*curves, strict=True))
    return accuracy, probability


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
    correct, probability, output = [], [], model.cfg.output
    for step in steps:
        logits = whole if step == 0 else model.forward_kept(stream, place >= step, grid).logits
        correct.append(is_predicted(logits, classes, output))
        probability.append(probabilities(logits, output, logits.gather(1, classes[:, None]))[:, 0])
    return torch.stack(correct, dim=1), torch.stack(probability, dim=1)
