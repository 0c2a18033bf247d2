"""Features that are never active: which they are, and what brings them back."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vitlens.features.training.learned import LearnedDictionary
from vitlens.workers import Workers

#: Weight of the auxiliary loss (Gao et al. 2024, section A.2).
AUXK_WEIGHT = 1 / 32
#: Length of a resampled encoder row against the mean of those that are alive (Bricken et al. 2023, "Neuron resampling").
RESAMPLED_LENGTH = 0.2


class DeadFeatures(nn.Module):
    """Counts for how many rows each feature has not been active, and in how many of the counted rows it was."""

    silent: Int[Tensor, "feature"]
    times: Int[Tensor, "feature"]
    n_counted: Int[Tensor, ""]

    def __init__(self, n_features: int, rows_until_dead: int) -> None:
        super().__init__()
        self.rows_until_dead = rows_until_dead
        self.register_buffer("silent", torch.zeros(n_features, dtype=torch.long))
        self.register_buffer("times", torch.zeros(n_features, dtype=torch.long))
        self.register_buffer("n_counted", torch.zeros((), dtype=torch.long))

    def see(self, features: Float[Tensor, "row feature"], workers: Workers, *, counting: bool) -> None:
        """Takes note of the features of a batch, of all processes."""
        times = workers.sum((features > 0).sum(dim=0))
        n_rows = len(features) * workers.world_size
        self.silent += n_rows
        self.silent.masked_fill_(times > 0, 0)
        if counting:
            self.times += times
            self.n_counted += n_rows

    @property
    def mask(self) -> Bool[Tensor, "feature"]:
        """Which features are dead."""
        return self.silent >= self.rows_until_dead

    def log_density(self) -> Float[Tensor, "feature"] | None:
        """log10 of the share of the counted rows in which each feature was active, as SAELens saves it."""
        return ((self.times.double() / self.n_counted) + 1e-10).log10().float() if self.n_counted else None


def auxiliary_loss(
    learned: LearnedDictionary,
    pre: Float[Tensor, "row feature"],
    error: Float[Tensor, "row d"],
    dead: Int[Tensor, "dead"],
) -> Tensor:
    """How much of the error the largest dead features leave unexplained, as a share of it, times its weight.

    Source: Gao et al. 2024, section A.2, with k_aux = d / 2.
    """
    k = min(max(error.shape[1] // 2, 1), len(dead))
    largest = pre[:, dead].topk(k, dim=1, sorted=False)
    codes = torch.zeros_like(pre[:, dead]).scatter(1, largest.indices, largest.values.relu())
    left = (error - codes @ learned.W_dec[dead]).square().mean() / error.square().mean().clamp(min=1e-12)
    return AUXK_WEIGHT * left


@torch.no_grad()
def raise_biases(learned: LearnedDictionary, x: Float[Tensor, "row d_in"], dead: Int[Tensor, "dead"]) -> None:
    """Raises the bias of each dead feature until it is active in the row that fits it best.

    The auxiliary loss alone gives many features a direction, but never lets them be active.
    """
    pre = learned.pre(x)
    missing = (learned.activation.boundary(pre) - pre).amin(dim=0)
    # The boundary itself is not active.
    learned.b_enc[dead] += missing[dead].clamp(min=0) * (1 + 1e-4)


@torch.no_grad()
def resample(
    learned: LearnedDictionary,
    optimiser: torch.optim.Optimizer,
    x: Float[Tensor, "row d_in"],
    error: Float[Tensor, "row d_out"],
    dead: Int[Tensor, "dead"],
    seed: int,
) -> None:
    """Sets dead features to what is reconstructed worst: rows are drawn with the square of their error.

    Source: Bricken et al. 2023, "Neuron resampling".
    """
    generator = torch.Generator().manual_seed(seed)
    chances = error.square().sum(dim=1).square().float().cpu() + 1e-12
    drawn = torch.multinomial(chances, len(dead), replacement=True, generator=generator).to(x.device)
    alive = torch.ones(learned.n_features, dtype=torch.bool, device=x.device)
    alive[dead] = False
    length = learned.W_enc[:, alive].norm(dim=0).mean() if alive.any() else torch.ones((), device=x.device)
    written = F.normalize(error[drawn].float(), dim=1)
    reads = written if learned.ties else F.normalize(x[drawn].float(), dim=1)
    learned.W_dec[dead] = written
    learned.W_enc[:, dead] = (reads * length * RESAMPLED_LENGTH).T
    learned.b_enc[dead] = 0.0
    for parameter, where in ((learned.W_dec, (dead,)), (learned.W_enc, (slice(None), dead)), (learned.b_enc, (dead,))):
        for name in ("exp_avg", "exp_avg_sq"):
            moments = optimiser.state[parameter].get(name)
            if moments is not None:
                moments[where] = 0.0
