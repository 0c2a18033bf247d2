"""The settings of a training: for each its default, its help on the command line, and the values that it may have.

Nothing here imports torch, for the command line makes its options of these fields.
"""

from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from vitlens.errors import InputError
from vitlens.settings import check_settings, setting

KINDS = ("topk", "batchtopk", "jumprelu", "relu")
REVIVALS = ("auxk", "resample", "none")
#: The width at which the learning rate is 2e-4; it falls with the square root of the width (Gao et al. 2024, section A.3).
REFERENCE_WIDTH, REFERENCE_RATE = 2**14, 2e-4
#: The shares of the steps in which the learning rate rises to its value, and in which it falls to 0.
WARM_UP, DECAY = 0.05, 0.2


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that changes a trained dictionary, except the model, the pictures and the hook points."""

    kind: str = setting("topk", "what follows the encoder", choices=KINDS)
    k: int = setting(32, "mean number of active features of a row; exactly this number with topk", least=1)
    expansion: int | float = setting(8, "number of features per dimension of the activation")
    n_features: int | None = setting(None, "number of features, in place of the expansion", least=1)
    matryoshka: tuple[int, ...] = setting((), "numbers of first features that must reconstruct the activation alone")
    sparsity: int | float | None = setting(
        None,
        "weight of the penalty of relu and jumprelu; by default it is adapted until k features are active",
        least=0,
    )
    revive: str = setting("auxk", "what brings back features that are never active", choices=REVIVALS)
    dead_after: int | None = setting(
        None, "rows without activity after which a feature is dead; by default a tenth of n_rows", least=1
    )
    skip: bool = setting(False, "give a transcoder a linear connection from its input to its output")
    cross_layer: bool = setting(
        False, "train one cross-layer transcoder, whose features write into their block and all later ones"
    )
    n_rows: int = setting(
        2_000_000, "rows (tokens) to train on; the pictures are passed as often as that takes", least=1
    )
    batch_rows: int = setting(1024, "rows of a step", least=2)
    buffer_rows: int = setting(65_536, "rows that are computed at once and shuffled", least=2)
    lr: int | float | None = setting(
        None, "learning rate of Adam; by default it depends on the number of features", least=0
    )
    precision: str = setting(
        "float32", "of the forward passes; the parameters stay float32", choices=("float32", "bfloat16")
    )
    seed: int = setting(0, "of the weights' initialisation and of all orders", least=0)

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("expansion", "lr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < inf:
                raise InputError(f"{name} is a number larger than 0, not {value!r}")
        if list(self.matryoshka) != sorted(set(self.matryoshka)) or any(width < 1 for width in self.matryoshka):
            raise InputError(f"matryoshka is a rising list of numbers of features, not {self.matryoshka!r}")

    def check_shares(self, n_processes: int) -> None:
        """Raises InputError unless each process gets as many rows of a step as the others."""
        if self.batch_rows % n_processes:
            raise InputError(f"batch_rows={self.batch_rows} cannot be shared equally by {n_processes} processes")

    def width(self, d_in: int) -> int:
        """The number of features of a dictionary on activations of this width.

        Raises:
            InputError: fewer features than k, or than a prefix of matryoshka.
        """
        n_features = self.n_features or round(self.expansion * d_in)
        if self.k > n_features:
            raise InputError(
                f"k={self.k} features cannot be active of {n_features}: choose more features, or a smaller k"
            )
        if self.matryoshka and self.matryoshka[-1] >= n_features:
            raise InputError(
                f"matryoshka lists numbers of first features, each smaller than all {n_features}, not {self.matryoshka[-1]}"
            )
        return n_features

    def rate(self, n_features: int) -> float:
        """The highest learning rate."""
        return self.lr if self.lr is not None else REFERENCE_RATE * (REFERENCE_WIDTH / n_features) ** 0.5

    def rate_share(self, step: int) -> float:
        """The learning rate of a step as a share of the highest: it rises, stays and falls."""
        share = (step + 0.5) / self.n_steps
        return min(1.0, share / WARM_UP, (1 - share) / DECAY)

    @property
    def n_steps(self) -> int:
        return -(-self.n_rows // self.batch_rows)

    @property
    def rows_until_dead(self) -> int:
        return self.dead_after or max(self.n_rows // 10, self.batch_rows)

    def facts(self) -> dict[str, Any]:
        """The settings as JSON has them."""
        return asdict(self) | {"matryoshka": list(self.matryoshka)}
