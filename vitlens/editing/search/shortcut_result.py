"""The result of a search for shortcuts: what each part writes in each group of pictures, and what it does there."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.arguments import checked
from vitlens.results.frames import Frame
from vitlens.results.result import Result, as_array

#: A difference with a p up to this is taken for one.
SIGNIFICANT = 0.05


@dataclass(frozen=True, repr=False, kw_only=True)
class Shortcut(Result):
    """`values` [component, group]: each part's mean share of the margin, the label's logit minus the largest other one.

    `difference` [component] is the mean share in the group `settings["inside"]` minus that in the groups
    `settings["outside"]`, with its interval `low` to `high`, and `p`, corrected for the number of parts.
    [component, group] are `change`, what ablating the part alone does to the margin, `accuracy_change`, what it does to the
    share of right predictions, and `patched`, what the part's activation from the partner's run does to the margin; each
    with `…_low` and `…_high`, and NaN where nothing was run. [group] are the mean `margins`, the `accuracy` and the number
    `n` of pictures as they are, and `rest`: the mean share of everything that is no head or MLP of this result.
    """

    difference: Float[Tensor, "component"]
    low: Float[Tensor, "component"]
    high: Float[Tensor, "component"]
    p: Float[Tensor, "component"]
    change: Float[Tensor, "component group"]
    change_low: Float[Tensor, "component group"]
    change_high: Float[Tensor, "component group"]
    accuracy_change: Float[Tensor, "component group"]
    accuracy_change_low: Float[Tensor, "component group"]
    accuracy_change_high: Float[Tensor, "component group"]
    patched: Float[Tensor, "component group"]
    patched_low: Float[Tensor, "component group"]
    patched_high: Float[Tensor, "component group"]
    margins: Float[Tensor, "group"]
    accuracy: Float[Tensor, "group"]
    rest: Float[Tensor, "group"]
    n: Int[Tensor, "group"]

    @property
    def residual(self) -> Float[Tensor, "group"]:
        """The sum of the heads' and MLPs' mean shares and `rest`, minus the mean margin: the rounding error."""
        whole = [i for i, part in enumerate(self.axes["component"]) if part.kind in ("head", "mlp")]
        return self.values[whole].sum(dim=0) + self.rest - self.margins

    @property
    def inside(self) -> int:
        """The place of the group that is compared with others."""
        return self.axes["group"].index(self.settings["inside"])

    @property
    def outside(self) -> list[int]:
        """The places of the groups that it is compared with."""
        return [self.axes["group"].index(name) for name in self.settings["outside"]]

    def over_outside(self, values: Float[Tensor, "component group"]) -> Float[Tensor, "component"]:
        """The mean over the pictures of the groups outside."""
        n = self.n[self.outside].to(values.dtype)
        return values[:, self.outside] @ (n / n.sum())

    def columns(self) -> dict[str, Tensor]:
        by_group = ("change", "accuracy_change", "patched")
        named = [f"{name}{end}" for name in by_group for end in ("", "_low", "_high")]
        of_part = {name: getattr(self, name)[:, None] for name in ("difference", "low", "high", "p")}
        wide = {name: value.expand(self.values.shape) for name, value in of_part.items()}
        return {**super().columns(), **{name: getattr(self, name) for name in named}, **wide}

    def table(self) -> pd.DataFrame:
        """One row for each part, those whose shares differ most first.

        The columns: the difference between the groups with its interval and its corrected p; for each group what ablating
        the part does to the margin, with its interval; the accuracy that ablating gains in the group inside and loses
        outside; and, where partners were given, what patching does to the margin in each group.
        """
        columns: dict[str, Any] = {name: as_array(getattr(self, name)) for name in ("difference", "low", "high", "p")}
        for place, group in enumerate(self.axes["group"]):
            for end in ("", "_low", "_high"):
                columns[f"change_{group}{end}"] = as_array(getattr(self, f"change{end}")[:, place])
        columns["gained_accuracy"] = as_array(self.accuracy_change[:, self.inside])
        columns["lost_accuracy"] = as_array(-self.over_outside(self.accuracy_change))
        if not self.patched.isnan().all():
            for place, group in enumerate(self.axes["group"]):
                columns[f"patched_{group}"] = as_array(self.patched[:, place])
        frame = Frame({"component": self.axes["component"], **columns})
        order = self.difference.abs().argsort(descending=True, stable=True)
        return frame.iloc[as_array(order)].reset_index(drop=True)

    @checked
    def strongest(self, k: int = 10) -> list[str]:
        """The names of the parts whose ablation raises the margin in the group inside most, at most k.

        Only parts whose shares differ between the groups, p ≤ 0.05, and whose ablation raises the margin there with its
        whole interval above 0. They were chosen on these pictures, so judge an edit of them on others.
        """
        change = self.change[:, self.inside]
        able = (self.p <= SIGNIFICANT) & (self.change_low[:, self.inside] > 0)
        order = change.masked_fill(~able, -torch.inf).argsort(descending=True, stable=True)[: min(k, int(able.sum()))]
        return [self.axes["component"][i] for i in order.tolist()]

    def __repr__(self) -> str:
        found = ", ".join(self.strongest(3)) or "no part that carries a shortcut"
        inside, outside = self.settings["inside"], ", ".join(self.settings["outside"])
        return f"Shortcut({len(self.p)} parts, “{inside}” against “{outside}”: {found})"
