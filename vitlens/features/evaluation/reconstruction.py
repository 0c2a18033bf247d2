"""How close a dictionary's reconstruction is, how few features it takes, and how often each of them is on."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vitlens.features.evaluation.entrants import CodedPictures, Entrant, token_kinds
from vitlens.features.evaluation.estimates import Estimate, PictureSums, ratios

#: A feature that is on in more than this share of the rows is dense.
DENSE = 0.1


@dataclass
class RowMean:
    """The mean of all rows so far, in float64 by Chan's update, which does not cancel."""

    n_rows: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, rows: Float[Tensor, "row d"]) -> None:
        self.n_rows += len(rows)
        here = rows.double().mean(dim=0)
        self.mean = self.mean.to(here) + (here - self.mean.to(here)) * len(rows) / self.n_rows


def _by_head(rows: Float[Tensor, "image token *heads d"]) -> Float[Tensor, "image token head d"]:
    """Rows with one axis of heads, of length 1 where there are none."""
    return rows.unflatten(-1, (1, -1)) if rows.ndim == 3 else rows


class TargetMeans:
    """The mean row that a dictionary predicts: of all tokens, and of the tokens of each kind."""

    def __init__(self, entrant: Entrant) -> None:
        self.model = entrant.model
        self.of_kind: dict[str, RowMean] = {"all": RowMean()}

    def add(self, coded: CodedPictures) -> None:
        self.of_kind["all"].add(coded.target.flatten(0, -2))
        for kind, inside in token_kinds(self.model, coded.tokens, coded.grid).items():
            rows = coded.target[:, inside.to(coded.target.device)]
            self.of_kind.setdefault(kind, RowMean()).add(rows.flatten(0, -2))

    @property
    def mean(self) -> Float[Tensor, "d"]:
        return self.of_kind["all"].mean


class Reconstruction:
    """Sums over pictures of errors, spreads and active features, and the density of each feature."""

    def __init__(self, means: TargetMeans) -> None:
        self.means = means
        self.sums = PictureSums()
        self.n_rows = 0
        self.fired: Tensor = torch.zeros(())
        self.total: Tensor = torch.zeros(())

    def add(self, coded: CodedPictures) -> None:
        y, written = (_by_head(rows).double() for rows in (coded.target, coded.written))
        on = coded.features != 0
        error = (y - written).square().sum(dim=-1)
        found = {
            "rows": torch.full((len(y),), y[0, ..., 0].numel()),
            "entries": torch.full((len(y),), y[0].numel()),
            "error": error,
            "cosine": F.cosine_similarity(y, written, dim=-1),
            "on": on.flatten(1),
        }
        found["spread"] = (y - self.means.mean).square().sum(dim=-1)
        for kind, inside in token_kinds(self.means.model, coded.tokens, coded.grid).items():
            inside = inside.to(y.device)
            found[f"error_{kind}"] = error[:, inside]
            found[f"spread_{kind}"] = (y[:, inside] - self.means.of_kind[kind].mean).square().sum(dim=-1)
        self.sums.add({name: value.flatten(1).sum(dim=1) if value.ndim > 1 else value for name, value in found.items()})
        self.fired = self.fired + on.flatten(0, -2).sum(dim=0)
        self.total = self.total + coded.features.flatten(0, -2).sum(dim=0, dtype=torch.float64)
        self.n_rows += int(found["rows"].sum())

    @property
    def density(self) -> Float[Tensor, "feature"]:
        """The share of rows in which each feature is on."""
        return self.fired.double() / self.n_rows

    @property
    def mean_activation(self) -> Float[Tensor, "feature"]:
        return self.total / self.n_rows

    def estimates(self) -> dict[str, Estimate]:
        sums = self.sums
        explained = {
            name: (sums[spread] - sums[error], sums[spread])
            for name, error, spread in [
                ("explained_variance", "error", "spread"),
                *(
                    (f"explained_variance_{kind}", f"error_{kind}", f"spread_{kind}")
                    for kind in self.means.of_kind
                    if kind != "all"
                ),
            ]
        }
        rows = sums["rows"]
        found = ratios(
            {
                "mse": (sums["error"], sums["entries"]),
                **explained,
                "cosine": (sums["cosine"], rows),
                "l0": (sums["on"], rows),
            }
        )
        found["dead_share"] = Estimate(float((self.density == 0).double().mean()))
        found["dense_share"] = Estimate(float((self.density > DENSE).double().mean()))
        return found

    def left_out(self) -> list[str]:
        """Kinds of tokens whose rows do not differ, so that there is no variance to explain."""
        kinds = [kind for kind in self.means.of_kind if kind != "all" and not self.sums[f"spread_{kind}"].any()]
        none = [f"explained variance of {kind}: their rows do not differ" for kind in kinds]
        return none if self.sums["spread"].any() else ["explained variance: the rows do not differ", *none]
