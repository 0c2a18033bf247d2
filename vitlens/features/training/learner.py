"""One dictionary in training: a step on a batch of rows, its measures, and its state."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from vitlens.features.activations import Rows
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.places import HookPlace
from vitlens.features.training.descent import Descent
from vitlens.features.training.learned import LearnedDictionary, Scale
from vitlens.features.training.settings import TrainingSettings
from vitlens.features.training.sparse_part import SparsePart, part_measures
from vitlens.workers import Workers

TRAINING_MEASURES = ("loss", "explained_variance", "l0", "dead_share")


class Learner:
    """A sparse autoencoder, or a transcoder where `target` differs from `source`, while it is trained.

    Args:
        rows: the first rows of both places, which set the scale.
    """

    def __init__(
        self,
        source: HookPlace,
        target: HookPlace,
        rows: Rows,
        settings: TrainingSettings,
        workers: Workers,
        seed: int,
    ) -> None:
        self.source, self.target, self.settings = source, target, settings
        x, y = rows[source.name], rows[target.name]
        self.scale_in, self.scale_out = Scale.of(x, workers), Scale.of(y, workers)
        self.learned = LearnedDictionary(x.shape[1], y.shape[1], settings, ties=source == target, seed=seed).to(
            x.device
        )
        self.learned.begin(self.scale_in(x[: settings.batch_rows]))
        self.part = SparsePart(self.learned, settings, workers, seed)
        self.descent = Descent(self.learned, settings, workers)
        self.seen: tuple[Tensor, ...] = ()

    @property
    def name(self) -> str:
        """What the dictionary is called among those of the training: the hook point that it reads."""
        return self.source.name

    def step(self, rows: Rows) -> None:
        """Trains on a batch of rows."""
        x, y = self.scale_in(rows[self.source.name]), self.scale_out(rows[self.target.name])
        learned = self.learned
        with autocast(self.settings.precision, x.device):
            pre = learned.pre(x)
            features = learned.activation(pre)
            reconstructions = list(learned.reconstructions(features, x))
            loss = torch.stack([(y - written).square().mean() for written in reconstructions]).mean()
            error = (y - reconstructions[-1]).detach()
            loss = self.part.add_to(loss, pre, features, error)
        self.descent.step(loss)
        self.part.after_step(features.detach(), x, error, self.descent)
        self.seen = (loss.detach(), y, error, features.detach())

    def measures(self) -> list[dict[str, float]]:
        """Of the last batch: its loss, explained variance, active features per row; and the share of dead features."""
        loss, y, error, features = self.seen
        return [{"loss": float(loss), **part_measures(y, error, features, self.part)}]

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "learned": self.learned.state_dict(),
            "descent": self.descent.state(),
            "part": self.part.state(),
            "scales": [(scale.mean, scale.size) for scale in (self.scale_in, self.scale_out)],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.learned.load_state_dict(state["learned"])
        self.descent.load_state(state["descent"])
        self.part.load_state(state["part"])
        self.scale_in, self.scale_out = (Scale(*scale) for scale in state["scales"])

    def finished(self) -> SparseAutoencoder:
        """The dictionary, with how often its features were active in the last part of the training."""
        sae = self.learned.finished(self.scale_in, self.scale_out, self.source.name, self.target.name)
        sae.log_sparsity = self.part.dead.log_density()
        return sae


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of forward passes in this precision."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, torch.bfloat16)
