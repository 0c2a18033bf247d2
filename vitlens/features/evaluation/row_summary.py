"""What baselines are made of: moments and a sample of the rows that a dictionary reads and predicts, in constant memory."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.features.evaluation.entrants import CodedPictures

#: How many rows are kept.
N_SAMPLED = 8192


class RowSummary:
    """Means, covariance of what is read, its cross-covariance with what is predicted, a sample of both, and the mean l0."""

    def __init__(self, seed: int = 0) -> None:
        self.n_rows = 0
        self.n_on = 0
        self.x: Tensor = torch.zeros(0)
        self.y: Tensor = torch.zeros(0)
        self._generator = torch.Generator().manual_seed(seed)
        self._keys = torch.zeros(0)

    def add(self, coded: CodedPictures) -> None:
        x, y = coded.read.flatten(0, -2).double(), coded.target.flatten(0, -2).double()
        self.n_on += int((coded.features != 0).sum())
        self._add_moments(x, y)
        self._add_sample(x, y)

    def _add_moments(self, x: Float[Tensor, "row d_in"], y: Float[Tensor, "row d_out"]) -> None:
        """By Chan's update, which does not cancel."""
        if not self.n_rows:
            self.mean_x, self.mean_y = torch.zeros_like(x[0]), torch.zeros_like(y[0])
            self.spread = x.new_zeros(x.shape[1], x.shape[1])
            self.cross = x.new_zeros(x.shape[1], y.shape[1])
        here_x, here_y = x.mean(dim=0), y.mean(dim=0)
        total = self.n_rows + len(x)
        between = self.n_rows * len(x) / total
        apart_x, apart_y = here_x - self.mean_x, here_y - self.mean_y
        self.spread += (x - here_x).T @ (x - here_x) + between * torch.outer(apart_x, apart_x)
        self.cross += (x - here_x).T @ (y - here_y) + between * torch.outer(apart_x, apart_y)
        self.mean_x = self.mean_x + apart_x * len(x) / total
        self.mean_y = self.mean_y + apart_y * len(x) / total
        self.n_rows = total

    def _add_sample(self, x: Float[Tensor, "row d_in"], y: Float[Tensor, "row d_out"]) -> None:
        """Keeps the rows with the smallest of numbers that are drawn for all: each row with the same chance."""
        keys = torch.cat([self._keys, torch.rand(len(x), generator=self._generator, dtype=torch.float64)])
        best = keys.argsort()[:N_SAMPLED].sort().values
        self._keys = keys[best]
        sampled = [x, y] if len(keys) == len(x) else [torch.cat([self.x, x]), torch.cat([self.y, y])]
        self.x, self.y = (rows[best.to(rows.device)] for rows in sampled)

    @property
    def l0(self) -> float:
        """How many features of the dictionary are on in a row, on average."""
        return self.n_on / self.n_rows

    def linear_map(self) -> Float[Tensor, "d_in d_out"]:
        """The linear map from what is read to what is predicted, both less their means, with the least squared error."""
        return torch.linalg.pinv(self.spread, hermitian=True, rtol=1e-10) @ self.cross
