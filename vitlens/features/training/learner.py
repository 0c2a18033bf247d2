"""One dictionary in training: a step on a batch of rows, its measures, and its state."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from math import exp
from typing import Any

import torch
from torch import Tensor

from vitlens.features.activations import Rows
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.places import HookPlace
from vitlens.features.training.dead import DeadFeatures, auxiliary_loss, resample
from vitlens.features.training.learned import LearnedDictionary, Scale
from vitlens.features.training.settings import TrainingSettings
from vitlens.workers import Workers

#: The first weight of the penalty, and how fast it follows the number of active features: its logarithm moves by this
#: times (L0 / k − 1) in a step.
FIRST_WEIGHT, WEIGHT_SPEED = 1e-3, 0.05
#: Dead features are looked up once in so many steps, since the answer must come from the device.
DEAD_EVERY = 16
LARGEST_GRADIENT = 1.0
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
        self.source, self.target, self.settings, self.workers, self.seed = source, target, settings, workers, seed
        x, y = rows[source.name], rows[target.name]
        self.scale_in, self.scale_out = Scale.of(x, workers), Scale.of(y, workers)
        self.learned = LearnedDictionary(x.shape[1], y.shape[1], settings, ties=source == target, seed=seed).to(
            x.device
        )
        self.dead = DeadFeatures(self.learned.n_features, settings.rows_until_dead).to(x.device)
        self.dead_now = torch.zeros(0, dtype=torch.long, device=x.device)
        self.weight = FIRST_WEIGHT if settings.sparsity is None else settings.sparsity
        self.n_steps = 0
        self.learned.begin(self.scale_in(x[: settings.batch_rows]))
        for parameter in self.learned.parameters():
            # Each process has begun from its own rows.
            workers.spread(parameter.data)
        self.optimiser = torch.optim.Adam(self.learned.groups(), lr=0.0, fused=True)
        self.seen: tuple[Tensor, ...] = ()

    def step(self, rows: Rows) -> None:
        """Trains on a batch of rows."""
        x, y = self.scale_in(rows[self.source.name]), self.scale_out(rows[self.target.name])
        learned, settings = self.learned, self.settings
        with autocast(settings.precision, x.device):
            pre = learned.pre(x)
            features = learned.activation(pre)
            reconstructions = list(learned.reconstructions(features, x))
            loss = torch.stack([(y - written).square().mean() for written in reconstructions]).mean()
            error = (y - reconstructions[-1]).detach()
            penalty = learned.activation.penalty(pre, features)
            if penalty is not None:
                loss = loss + self.weight * penalty
            if settings.revive == "auxk" and len(self.dead_now):
                loss = loss + auxiliary_loss(learned, pre, error, self.dead_now)
        self._update(loss)
        self.dead.see(features, self.workers, counting=self.rate_is_falling)
        learned.activation.after_step(features.detach(), self.workers)
        self._note(loss.detach(), y, error, features.detach())
        self._revive(x, error)

    def _update(self, loss: Tensor) -> None:
        rate = self.settings.rate(self.learned.n_features) * self.settings.rate_share(self.n_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["speed"]
        self.optimiser.zero_grad()
        loss.backward()
        for parameter in self.learned.parameters():
            if parameter.grad is not None:
                parameter.grad = self.workers.mean(parameter.grad)
        self.learned.remove_growth()
        torch.nn.utils.clip_grad_norm_(self.learned.parameters(), LARGEST_GRADIENT)
        self.optimiser.step()
        self.learned.keep_lengths()
        self.n_steps += 1

    def _note(self, loss: Tensor, y: Tensor, error: Tensor, features: Tensor) -> None:
        """Keeps what the measures are made of, and moves the penalty's weight towards k active features."""
        self.seen = (loss, y, error, features)
        if self.settings.kind in ("relu", "jumprelu") and self.settings.sparsity is None:
            l0 = float(self.workers.mean((features > 0).sum(dim=1).float().mean()))
            self.weight *= exp(WEIGHT_SPEED * max(-1.0, min(1.0, l0 / self.settings.k - 1)))

    @property
    def rate_is_falling(self) -> bool:
        """The last part of the training, whose features count for the density that is saved."""
        return self.n_steps > self.settings.n_steps // 2 and self.settings.rate_share(self.n_steps) < 1

    def _revive(self, x: Tensor, error: Tensor) -> None:
        if self.settings.revive == "none" or self.n_steps % DEAD_EVERY:
            return
        self.dead_now = self.dead.mask.nonzero()[:, 0]
        if self.settings.revive == "resample" and len(self.dead_now):
            resample(self.learned, self.optimiser, x, error, self.dead_now, self.seed + self.n_steps)
            for parameter in self.learned.parameters():
                # Each process drew from its own rows.
                self.workers.spread(parameter.data)
            self.dead.silent[self.dead_now] = 0

    def measures(self) -> dict[str, float]:
        """Of the last batch: its loss, explained variance, active features per row; and the share of dead features."""
        loss, y, error, features = self.seen
        spread = (y - y.mean(dim=0)).square().sum()
        return {
            "loss": float(loss),
            "explained_variance": 1 - float(error.square().sum() / spread.clamp(min=1e-12)),
            "l0": float((features > 0).sum(dim=1).float().mean()),
            "dead_share": float(self.dead.mask.float().mean()),
        }

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "learned": self.learned.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "dead": self.dead.state_dict(),
            "dead_now": self.dead_now,
            "numbers": [self.weight, self.n_steps],
            "scales": [(scale.mean, scale.size) for scale in (self.scale_in, self.scale_out)],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.learned.load_state_dict(state["learned"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.dead.load_state_dict(state["dead"])
        self.dead_now = state["dead_now"]
        self.weight, self.n_steps = state["numbers"]
        self.scale_in, self.scale_out = (Scale(*scale) for scale in state["scales"])

    def finished(self) -> SparseAutoencoder:
        """The dictionary, with how often its features were active in the last part of the training."""
        sae = self.learned.finished(self.scale_in, self.scale_out, self.source.name, self.target.name)
        sae.log_sparsity = self.dead.log_density()
        return sae


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of forward passes in this precision."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, torch.bfloat16)
