"""Steps down the gradient: Adam with a rate that rises, stays and falls, on the mean gradient of all processes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitlens.features.training.settings import TrainingSettings
from vitlens.workers import Workers

LARGEST_GRADIENT = 1.0


class Trainable(nn.Module):
    """Parameters of which some are decoder rows of length 1."""

    @property
    def n_features(self) -> int:
        """The number of features, of each part if there are several: the learning rate depends on it."""
        raise NotImplementedError

    def groups(self) -> list[dict[str, Any]]:
        """The parameters for the optimiser, with how fast each group learns."""
        raise NotImplementedError

    def remove_growth(self) -> None:
        """Takes from the decoder's gradient what would only change the length of rows, before a step."""
        raise NotImplementedError

    def keep_lengths(self) -> None:
        """Sets the decoder rows back to length 1, after a step."""
        raise NotImplementedError


class Descent:
    """The optimiser of what is trained; `n_steps` counts its steps."""

    def __init__(self, learned: Trainable, settings: TrainingSettings, workers: Workers) -> None:
        self.learned, self.settings, self.workers = learned, settings, workers
        self.n_steps = 0
        for parameter in learned.parameters():
            # Each process has begun from its own rows.
            workers.spread(parameter.data)
        self.optimiser = torch.optim.Adam(learned.groups(), lr=0.0, fused=True)

    def step(self, loss: Tensor) -> None:
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

    @property
    def rate_is_falling(self) -> bool:
        """The last part of the training, whose features count for the density that is saved."""
        return self.n_steps > self.settings.n_steps // 2 and self.settings.rate_share(self.n_steps) < 1

    def state(self) -> dict[str, Any]:
        return {"optimiser": self.optimiser.state_dict(), "n_steps": self.n_steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.optimiser.load_state_dict(state["optimiser"])
        self.n_steps = state["n_steps"]
