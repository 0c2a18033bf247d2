"""An encoder with its decoder in training: the terms of the loss that keep its features few and alive."""

from collections.abc import Mapping
from math import exp, log
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.features.training.dead import DeadFeatures, auxiliary_loss, raise_biases, resample
from vitlens.features.training.descent import Descent
from vitlens.features.training.learned import LearnedDictionary
from vitlens.features.training.settings import TrainingSettings
from vitlens.workers import Workers

#: The first weight of a penalty that is moved; how much of a distance from k counts at once, and of each step's for good.
FIRST_WEIGHT, DIRECT, SUMMED = 1e-3, 1.0, 0.02
#: Dead features are looked up once in so many steps, since the answer must come from the device.
DEAD_EVERY = 16


class SparsePart:
    """What is known of the features of one encoder: which are dead, and how much their activity costs."""

    def __init__(self, learned: LearnedDictionary, settings: TrainingSettings, workers: Workers, seed: int) -> None:
        self.learned, self.settings, self.workers, self.seed = learned, settings, workers, seed
        device = learned.W_dec.device
        self.dead = DeadFeatures(learned.n_features, settings.rows_until_dead).to(device)
        self.dead_now = torch.zeros(0, dtype=torch.long, device=device)
        self.weight = Weight(settings)

    def add_to(
        self,
        loss: Tensor,
        pre: Float[Tensor, "row feature"],
        features: Float[Tensor, "row feature"],
        error: Float[Tensor, "row d_out"],
    ) -> Tensor:
        """The loss with the penalty for activity, and with the error that the dead features leave."""
        penalty = self.learned.activation.penalty(pre, features)
        if penalty is not None:
            loss = loss + self.weight.now * penalty
        if self.settings.revive == "auxk" and len(self.dead_now):
            loss = loss + auxiliary_loss(self.learned, pre, error, self.dead_now)
        return loss

    def after_step(
        self,
        features: Float[Tensor, "row feature"],
        x: Float[Tensor, "row d_in"],
        error: Float[Tensor, "row d_out"],
        descent: Descent,
    ) -> None:
        """Takes note of the features of a batch, and revives the dead ones where it is time."""
        self.dead.see(features, self.workers, counting=descent.rate_is_falling)
        self.learned.activation.after_step(features, self.workers)
        if self.weight.moves:
            self.weight.follow(float(self.workers.mean((features > 0).sum(dim=1).float().mean())))
        if self.settings.revive != "none" and descent.n_steps % DEAD_EVERY == 0:
            self._revive(x, error, descent)

    def _revive(self, x: Tensor, error: Tensor, descent: Descent) -> None:
        self.dead_now = self.dead.mask.nonzero()[:, 0]
        if not len(self.dead_now):
            return
        if self.settings.revive == "resample":
            resample(self.learned, descent.optimiser, x, error, self.dead_now, self.seed + descent.n_steps)
            self.dead.silent[self.dead_now] = 0
        elif descent.rate_is_falling:
            # Now they would only disturb, for they have no time left to learn.
            return
        else:
            raise_biases(self.learned, x, self.dead_now)
        for parameter in self.learned.parameters():
            # Each process has chosen among its own rows.
            self.workers.spread(parameter.data)

    def state(self) -> dict[str, Any]:
        return {"dead": self.dead.state_dict(), "dead_now": self.dead_now, "weight": [self.weight.now, self.weight.log]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.dead.load_state_dict(state["dead"])
        self.dead_now = state["dead_now"]
        self.weight.now, self.weight.log = state["weight"]


class Weight:
    """The weight of the penalty: given, 1 for one that aims at k, or moved until k features are active (relu).

    It is moved as controllers do: by the distance of log L0 from log k, and by the sum of these distances over the steps.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        self.moves = settings.kind == "relu" and settings.sparsity is None
        self.k = settings.k
        self.log = log(FIRST_WEIGHT)
        self.now = FIRST_WEIGHT if self.moves else 1.0 if settings.sparsity is None else settings.sparsity

    def follow(self, l0: float) -> None:
        """Takes note of the number of active features of a step."""
        distance = max(-1.0, min(1.0, log(max(l0, 1e-3) / self.k)))
        self.log += SUMMED * distance
        self.now = exp(self.log + DIRECT * distance)


def part_measures(
    y: Float[Tensor, "row d_out"],
    error: Float[Tensor, "row d_out"],
    features: Float[Tensor, "row feature"],
    part: SparsePart,
) -> dict[str, float]:
    """Explained variance and active features per row, of a batch; and the share of dead features."""
    spread = (y - y.mean(dim=0)).square().sum()
    return {
        "explained_variance": 1 - float(error.square().sum() / spread.clamp(min=1e-12)),
        "l0": float((features > 0).sum(dim=1).float().mean()),
        "dead_share": float(part.dead.mask.float().mean()),
    }
