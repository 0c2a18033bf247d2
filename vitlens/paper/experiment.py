"""The base class of experiments: hooks in the shared forward, records of each picture, tables and figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.data.picture_sets import PictureSet
from vitlens.data.preprocessing import Preprocessing
from vitlens.errors import InputError
from vitlens.lens.trace import SiteTables
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Hooks
from vitlens.paper.settings import StudySettings
from vitlens.paper.store import Records
from vitlens.statistics import bootstrap

Arrays = dict[str, Tensor]
Tables = dict[str, pd.DataFrame]
QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}


@dataclass
class Context:
    """What the experiments of a run share."""

    model: HookedViT
    settings: StudySettings
    pictures: PictureSet
    preprocessing: Preprocessing
    random_models: list[HookedViT]
    workers: int = 4
    progress: bool | None = False


@dataclass
class Batch:
    """One chunk of pictures, and what the shared forward saw."""

    images: Float[Tensor, "image channels height width"]
    labels: Int[Tensor, "image"]
    keys: list[int]
    object_patches: Bool[Tensor, "image patch"] | None
    context_patches: Bool[Tensor, "image patch"] | None
    trace: SiteTables
    logits: Float[Tensor, "image class"]
    grid: tuple[int, int]

    @property
    def correct(self) -> Bool[Tensor, "image"]:
        return self.logits.argmax(dim=-1) == self.labels


class Experiment:
    """One experiment of the paper. Sub-classes say what they need, keep, and make of it."""

    name: str
    title: str
    #: The question that it answers, with which its section of the page begins.
    question: str
    #: Whether it uses masks, and whether it cannot run without them.
    uses_masks = False
    needs_masks = False
    uses_random_models = False

    def __init__(self, context: Context) -> None:
        self.context = context
        self.model = context.model
        self.settings = context.settings
        if self.needs_masks and not context.pictures.has_masks:
            raise InputError(
                f"{self.name} asks which patches belong to the object, and {context.pictures.name} has no masks: "
                "name a folder of masks with masks=, or leave this experiment out"
            )

    def prepare(self, folder: Path) -> None:
        """Work before the pass over the pictures, done by the first process only: training probes."""

    def load(self, folder: Path) -> None:
        """What `prepare` left in the run's folder, for every process."""

    def hooks(self, labels: Int[Tensor, "image"]) -> Hooks:
        """What this experiment watches in the forward that all share; called again for every chunk."""
        return []

    def measure(self, batch: Batch) -> Arrays:
        """The numbers to keep of every picture, [image, …]."""
        return {}

    def tables(self, records: Records) -> Tables:
        """The results, from the numbers of all pictures."""
        raise NotImplementedError

    def figures(self, tables: Tables) -> dict[str, go.Figure]:
        """The paper's figures of these tables, by name."""
        raise NotImplementedError

    def examples(self, records: Records) -> dict[str, go.Figure]:
        """Figures of single pictures, by name."""
        return {}

    def own(self, name: str) -> str:
        """The name of a record of this experiment."""
        return f"{self.name}/{name}"

    def summary(
        self, values: np.ndarray, axes: dict[str, Sequence], counts: np.ndarray | None = None, scale: float = 1.0
    ) -> pd.DataFrame:
        """Mean and 95 % interval over pictures of [picture, *axes], one row per entry of the axes."""
        mean, low, high = bootstrap(values, counts, n_draws=self.settings.n_bootstrap, seed=self.settings.seed)
        index = pd.MultiIndex.from_product(list(axes.values()), names=list(axes))
        flat = {"mean": mean, "low": low, "high": high}
        return pd.DataFrame({name: scale * x.reshape(-1) for name, x in flat.items()}, index=index).reset_index()

    @property
    def blocks(self) -> list[int]:
        return list(range(self.model.cfg.n_layers))


def rank_quantiles(counts: np.ndarray) -> dict[str, float]:
    """Quantiles of 1 − rank/C over tokens, where `counts` [C] says how many tokens have each rank."""
    n_classes = len(counts)
    # Identifiability falls with rank, so its quantiles are counted from the largest rank down.
    reached = np.cumsum(counts[::-1])
    places = {name: int(np.searchsorted(reached, share * reached[-1])) for name, share in QUANTILES.items()}
    return {name: 1 - (n_classes - 1 - min(place, n_classes - 1)) / n_classes for name, place in places.items()}


def stack_means(means: dict[tuple[str, str], Tensor], prefix: str = "") -> Arrays:
    """`picture_means` as records: "prefix column/group" [image, block]."""
    return {f"{prefix}{column}/{group}": values.float() for (group, column), values in means.items()}


def no_grad_forward(model: HookedViT, images: Tensor, hooks: Hooks, stop_at_layer: int | None = None) -> Tensor:
    """A forward for its numbers only."""
    with torch.no_grad():
        return model.run_with_hooks(images, fwd_hooks=hooks, stop_at_layer=stop_at_layer)
