"""How close a dictionary's reconstruction is, how few features it takes, and how often each of them is on."""

from dataclasses import dataclass, field
from itertools import accumulate, pairwise

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
        for kind, inside in token_kinds(self.model, coded.tokens).items():
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
        for kind, inside in token_kinds(self.means.model, coded.tokens).items():
            inside = inside.to(y.device)
            found[f"error_{kind}"] = error[:, inside]
            found[f"spread_{kind}"] = (y[:, inside] - self.means.of_kind[kind].mean).square().sum(dim=-1)
        ends = [0, *accumulate(coded.widths)] if len(coded.widths) > 1 else []
        for block, (start, end) in enumerate(pairwise(ends)):
            found[f"error_block_{block}"] = (y - written)[..., start:end].square().sum(dim=-1)
            found[f"spread_block_{block}"] = (y - self.means.mean)[..., start:end].square().sum(dim=-1)
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
            f"explained_variance{part}": (sums[f"spread{part}"] - sums[f"error{part}"], sums[f"spread{part}"])
            for part in self._parts()
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
        """The explained variances that are not there."""
        parts = [part for part in self._parts() if not self.sums[f"spread{part}"].any()]
        return [f"explained_variance{part}: the rows do not differ, so there is no variance" for part in parts]

    def _parts(self) -> list[str]:
        """How the sums of all rows, of each kind of token and of each block are told from each other."""
        return [name.removeprefix("spread") for name in self.sums if name.startswith("spread")]
