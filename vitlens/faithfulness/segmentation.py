"""Evaluates a heatmap as a segmentation of the object: how well its high values cover the mask."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.arguments import checked
from vitlens.choose.classes import Classes
from vitlens.choose.texts import takes_text
from vitlens.data.masks import MaskInput, Masks
from vitlens.data.pictures import Pictures
from vitlens.faithfulness.curves import Bench
from vitlens.faithfulness.localisation import patch_auroc
from vitlens.faithfulness.maps import Maps, MapScorer, ScoredMap, read_maps
from vitlens.faithfulness.result import few
from vitlens.faithfulness.run import bench_of, check_masks
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.model.runs.small_pictures import small_pictures
from vitlens.results.result import Result
from vitlens.statistics import bootstrap_weights, with_interval

#: Pixels of the object above the threshold, of the background above, of the object below, of the background below.
COUNTS = ("true_positive", "false_positive", "false_negative", "true_negative")
MEASURES = ("pixel_accuracy", "mIoU", "mAP", "patch_auroc")
DEFINITION = (
    "the map enlarged bilinearly, foreground where it exceeds its mean; pixel accuracy and mIoU (mean of the IoU of object "
    "and background) over the pixels of all pictures together; mAP: mean over pictures of the average precision of the map "
    "scaled to 0..1 and of 1 − map, as scores of object and background together; patch AUROC: mean over pictures; "
    "void pixels are left out"
)


@dataclass(frozen=True, repr=False)
class Segmentation(Result):
    """`values` [method, number, image]: the counts of pixels, the average precision and the AUROC of each picture.

    Pixel accuracy and mIoU are of the counts of all pictures together: `summary()` has them, with intervals.
    """

    @checked
    def summary(self, *, level: float = 0.95, n_draws: int = 1000, seed: int = 0) -> pd.DataFrame:
        """One row a method; for each measure its value and the ends of its bootstrap interval over pictures."""
        n_images = len(self.axes["image"])
        drawn = np.stack(list(bootstrap_weights(n_images, n_draws, seed)))
        rows = []
        for values in self.values.double().cpu().numpy():
            value = _measures(values, np.ones((1, n_images)))[0]
            low, high = np.nanquantile(_measures(values, drawn), [(1 - level) / 2, (1 + level) / 2], axis=0)
            if n_images == 1:
                low = high = np.full_like(value, np.nan)
            rows.append(np.stack([value, low, high], axis=1).flatten())
        columns = pd.MultiIndex.from_product([MEASURES, ["mean", "low", "high"]], names=["metric", ""])
        return pd.DataFrame(rows, index=pd.Index(self.axes["method"], name="method"), columns=columns)

    def sentence(self, level: float = 0.95) -> str:
        """The summary as text, and below it the protocol."""
        table = self.summary(level=level)
        cells = {f"{name} ↑": [with_interval(*numbers) for numbers in table[name].to_numpy()] for name in MEASURES}
        shown = pd.DataFrame(cells, index=table.index).rename_axis(None)
        n = len(self.axes["image"])
        pictures = f"{n} picture{'s' * (n != 1)}"
        heading = f"{self.settings['model']}, {pictures} [{level:.0%} interval]{few(n)}"
        return f"{heading}\n\n{shown.to_string()}\n\n{DEFINITION}"

    def __str__(self) -> str:
        return self.sentence()


@leaves_state
@checked
@takes_text("predicted")
def evaluate_segmentation(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    masks: MaskInput,
    heatmaps: Maps = None,
    baselines: bool = True,
    n_draws: int = 3,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Segmentation:
    """How well heatmaps outline the object: pixel accuracy, mIoU and mAP as in Chefer 2021, and AUROC of its patches.

    Baselines are "random", "centre_prior", "raw_attention" and "all_background", a map that is 0 everywhere: where objects
    are small, it has a high pixel accuracy and half of an mIoU.

    Args:
        classes: one per picture: indices, names, or a tensor [image] of each picture's own; by default
            the predicted class.
        masks: where the object is, one mask per picture as `select_tokens` takes them; pixels that are void are not judged.
        heatmaps: as `evaluate_heatmaps` takes them.
        baselines: add the rows above.
        n_draws: random maps for each picture; numbers are means over them.
        batch_size: pictures of one forward; by default at most 64, and what is free holds.
        progress: show bars; by default on a terminal.

    Returns:
        Segmentation with axes method, number, image; `summary()` has the measures.

    Raises:
        InputError: masks or maps of another shape, an unknown method.

    Source: Chefer, Gur & Wolf 2021 (Transformer Interpretability Beyond Attention Visualization), section 4.2, and its
    released evaluation: enlarged bilinearly, threshold at the mean, average precision over both classes.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> scores = vitlens.faithfulness.evaluate_segmentation(
        ...     model, images[:2], masks=masks[:2], heatmaps=["gradient_rollout", "random_map"], baselines=False
        ... )
        >>> print(scores.summary()["mIoU"]["mean"].round(1))
        method
        gradient_rollout    0.8
        random_map          0.3
        Name: mean, dtype: float64
    """
    model.require_classifier()
    pictures = model.as_images(images)
    inside = check_masks(model, pictures, masks)
    bench = bench_of(model, pictures, classes, batch_size=batch_size)
    maps = read_maps(bench, heatmaps, baselines=baselines, n_draws=n_draws, progress=progress)
    if baselines:
        nothing = torch.zeros(len(pictures), bench.n_patches, dtype=torch.float64, device=pictures.device)
        maps.setdefault("all_background", [ScoredMap(nothing)])
    auroc = patch_auroc(bench, inside)
    found = []
    with ProgressBar(len(maps), "segmentation", "map", progress, len(maps)) as bar:
        for several in maps.values():
            found.append(torch.stack([_numbers(bench, scored, inside, auroc) for scored in several]).mean(dim=0))
            bar.update(1)
    return Segmentation(
        torch.stack(found),
        {
            "method": list(maps),
            "number": [*COUNTS, "average_precision", "patch_auroc"],
            "image": list(range(len(pictures))),
        },
        "segmentation",
        classes=bench.classes[:, None],
        class_names=model.class_names,
        pixels=small_pictures(model, pictures),
        settings={"model": model.cfg.model_name, "n_draws": n_draws},
    )


def _numbers(bench: Bench, scored: ScoredMap, masks: Masks, auroc: MapScorer) -> Float[Tensor, "number image"]:
    height, width = masks.size
    size = bench.model.patch_grid(height, width).size
    columns = []
    for importance, inside, void in zip(scored.importance, masks.inside, masks.void, strict=True):
        grid = importance.unflatten(0, bench.grid)[None, None]
        # Pixels that no patch is made of are not judged; patches may stick out of the picture.
        enlarged = F.interpolate(grid, size=size, mode="bilinear")[0, 0, :height, :width]
        known = ~void[: size[0], : size[1]]
        truth, large = inside[: size[0], : size[1]][known], enlarged[known]
        above = large > enlarged.mean()
        counts = [(above == said) & (truth == real) for said, real in ((1, 1), (1, 0), (0, 1), (0, 0))]
        columns.append([*(float(count.sum()) for count in counts), _average_precision(large, truth)])
    numbers = torch.tensor(columns, dtype=torch.float64).T
    return torch.cat([numbers, auroc(scored)[None].cpu()])


def _average_precision(large: Float[Tensor, "pixel"], truth: Bool[Tensor, "pixel"]) -> float:
    from sklearn.metrics import average_precision_score

    low, high = large.min(), large.max()
    scaled = ((large - low) / (high - low if high > low else 1.0)).flatten().cpu().numpy()
    real = truth.flatten().cpu().numpy()
    return float(average_precision_score(np.concatenate([~real, real]), np.concatenate([1 - scaled, scaled])))


def _measures(
    numbers: Float[np.ndarray, "number image"], weights: np.ndarray
) -> Float[np.ndarray, "draw measure"]:  # fmt: skip
    """The measures when each picture counts as often as a row of weights says."""
    tp, fp, fn, tn = (weights @ count for count in numbers[:4])
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = (tp + tn) / (tp + fp + fn + tn)
        iou = (tp / (tp + fp + fn) + tn / (tn + fp + fn)) / 2
        means = [
            (weights @ np.nan_to_num(number)) / (weights @ np.isfinite(number).astype(float)) for number in numbers[4:]
        ]
    return np.stack([accuracy, iou, *means], axis=1)
