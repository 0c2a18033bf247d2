"""The results of direct logit attribution: shares of a logit by unit, which sum to the logit."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.errors import InputError, nearest
from vitlens.results.axes import ComponentLabel, head_label, neuron_label
from vitlens.results.result import Result, as_array


@dataclass(frozen=True, repr=False)
class Attribution(Result):
    """`values` [image, class, component]: each component's share of the logit, in logits.

    The shares of a picture and class sum to `logits` [image, class]; `residual` is the rounding error. With
    `baseline_classes` both are differences of two logits. Finer units have their own axes after "class"; parts that they
    do not split are in `elsewhere` [image, class, part], with the names `elsewhere_names`. `grid` is (rows, columns) of
    patches.
    """

    logits: Float[Tensor, "image class"]
    baseline_names: list[str] | None = None
    elsewhere: Float[Tensor, "image class part"] | None = None
    elsewhere_names: list[ComponentLabel] | None = None
    grid: tuple[int, int] | list[int] = (0, 0)

    @property
    def residual(self) -> Float[Tensor, "image class"]:
        """Sum of all shares minus the logit: the rounding error."""
        rest = 0.0 if self.elsewhere is None else self.elsewhere.sum(dim=-1)
        return self.values.flatten(2).sum(dim=-1) + rest - self.logits

    def part(self, name: str) -> Float[Tensor, "image class"]:
        """The share of one component, or of one part of `elsewhere`.

        Raises:
            InputError: there is none of this name.
        """
        if "component" in self.axes and self.values.ndim == 3 and name in self.axes["component"]:
            return self.values[..., self.axes["component"].index(name)]
        names: Sequence[str] = self.elsewhere_names or []
        if self.elsewhere is None or name not in names:
            known = [*self.axes.get("component", []), *names]
            raise InputError(f"this attribution has no part {name!r}; the nearest names are {nearest(name, known)}")
        return self.elsewhere[..., names.index(name)]

    def head_map(self, image: int = 0, class_position: int = 0) -> Float[Tensor, "block head"]:
        """The heads' shares as a block × head table, from unit="head" or finer."""
        labels = self.axes.get("component", [])
        heads = [i for i, label in enumerate(labels) if label.kind == "head"]
        if not heads:
            raise InputError('this attribution has no heads: compute it with unit="head"')
        n_blocks = 1 + max(labels[i].block for i in heads)
        return self.values[image, class_position, heads].unflatten(0, (n_blocks, -1))

    def top(self, k: int = 10, image: int = 0, class_position: int = 0) -> pd.DataFrame:
        """The k units with the largest shares, by magnitude: names, positions on the axes, shares."""
        axes, shares = self._ranked()
        flat = shares[image, class_position].detach().cpu().flatten()
        order = flat.abs().argsort(descending=True, stable=True)[:k]
        places = torch.unravel_index(order, shares.shape[2:])
        columns = {
            axis: [labels[i] for i in place.tolist()]
            for (axis, labels), place in zip(axes.items(), places, strict=True)
        }
        names = [self._name(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
        own = {axis: labels for axis, labels in columns.items() if axis != "component"}
        return pd.DataFrame({"component": names, **own, "logit": as_array(flat[order])})

    def unit_names(self) -> list[ComponentLabel]:
        """The name of every unit, in the order of `values` flattened after "class"."""
        axes = dict(list(self.axes.items())[2:])
        return [self._name(dict(zip(axes, place, strict=True))) for place in product(*axes.values())]

    def sentence(self, k: int = 10, image: int = 0, class_position: int = 0) -> str:
        """The k units with the largest shares and the sum of all others, one per line, e.g. "L9H3 ← patch (5, 7): +1.82"."""
        table = self.top(k, image, class_position)
        logit = self.logits[image, class_position].item()
        label = (
            self.class_label(image, class_position) if self.classes is not None else self.axes["class"][class_position]
        )
        lines = [f"{name}: {share:+.2f}" for name, share in zip(table["component"], table["logit"], strict=True)]
        return "\n".join(
            [f"{label}: {self.quantity} {logit:+.2f}", *lines, f"all else: {logit - table['logit'].sum():+.2f}"]
        )

    def _ranked(self) -> tuple[dict[str, list], Float[Tensor, "image class *unit"]]:
        """The axes of the units that are ranked, and their shares."""
        return dict(list(self.axes.items())[2:]), self.values

    def _name(self, place: dict[str, Any]) -> ComponentLabel:
        return place["component"]


@dataclass(frozen=True, repr=False)
class PatchAttribution(Attribution):
    """`values` [image, class, block, head, source]: the share of each source token through each head.

    Sources are the prefix tokens and then the patches, row by row on `grid`. A head's shares sum to its share at
    unit="head" (together with the part "L3H5 bias" of `elsewhere`, if a norm with a bias follows the heads).
    """

    def maps(
        self, image: int = 0, class_position: int = 0, block: int | None = None, head: int | None = None
    ) -> Float[Tensor, "rows columns"]:
        """The patches' shares on the picture's grid, summed over all blocks and heads or those chosen."""
        return _on_grid(self._of(self.values[image, class_position], block, head), self.grid)

    def prefix(
        self, image: int = 0, class_position: int = 0, block: int | None = None, head: int | None = None
    ) -> dict[str, float]:
        """The shares of the prefix tokens as sources, by name."""
        shares = self._of(self.values[image, class_position], block, head).tolist()
        n_prefix = len(shares) - self.grid[0] * self.grid[1]
        return dict(zip(self.axes["source"][:n_prefix], shares[:n_prefix], strict=True))

    @property
    def by_head(self) -> Float[Tensor, "image class block head"]:
        """The sum over sources plus the heads' biases, if any: the shares at unit="head"."""
        summed = self.values.sum(dim=-1)
        names = self.elsewhere_names or []
        places = [i for i, name in enumerate(names) if name.head is not None]
        if self.elsewhere is not None and places:
            summed = summed + self.elsewhere[..., places].unflatten(-1, summed.shape[-2:])
        return summed

    def head_map(self, image: int = 0, class_position: int = 0) -> Float[Tensor, "block head"]:
        return self.by_head[image, class_position]

    def _of(
        self, shares: Float[Tensor, "block head source"], block: int | None, head: int | None
    ) -> Float[Tensor, "source"]:
        chosen = shares if block is None else shares[_at(block, shares.shape[0], "block")][None]
        return (chosen if head is None else chosen[:, _at(head, shares.shape[1], "head")][:, None]).sum(dim=(0, 1))

    def _name(self, place: dict[str, Any]) -> ComponentLabel:
        head = head_label(place["block"], place["head"])
        return ComponentLabel(f"{head} ← {place['source']}", "path", head.block, head.head)


@dataclass(frozen=True, repr=False)
class NeuronAttribution(Attribution):
    """`values` [image, class, block, neuron]: the share of each neuron of each MLP.

    A block's neurons and its part "L3 mlp bias" of `elsewhere` sum to "L3 mlp" at unit="component".
    """

    def _name(self, place: dict[str, Any]) -> ComponentLabel:
        return neuron_label(place["block"], place["neuron"])


@dataclass(frozen=True, repr=False)
class TokenAttribution(Attribution):
    """`values` [image, class, component, token]: the share of each component at each token that the classifier pools.

    Summed over tokens they are the shares at unit="component"; a class-token model uses a single token. The constant and
    the MLP of attention pooling belong to no token: they are in `elsewhere`. `grid` is (rows, columns) of patches.
    """

    @property
    def by_token(self) -> Float[Tensor, "image class token"]:
        """The sum over components: each token's share of the logit."""
        return self.values.sum(dim=2)

    def maps(
        self, image: int = 0, class_position: int = 0, component: str | None = None
    ) -> Float[Tensor, "rows columns"]:
        """The patches' shares on the picture's grid, of all components or of one.

        Raises:
            InputError: the classifier reads no patches; there is no such component.
        """
        shares = self.by_token[image, class_position]
        if component is not None:
            if component not in self.axes["component"]:
                near = nearest(component, self.axes["component"])
                raise InputError(f"there is no component {component!r}; the nearest names are {near}")
            shares = self.values[image, class_position, self.axes["component"].index(component)]
        if len(shares) < self.grid[0] * self.grid[1]:
            raise InputError(
                f"this classifier pools {', '.join(self.axes['token'][:3])} and no patches: for the shares of patches "
                'through the heads use unit="head_patch"'
            )
        return _on_grid(shares, self.grid)

    def _ranked(self) -> tuple[dict[str, list], Float[Tensor, "image class token"]]:
        return {"token": self.axes["token"]}, self.by_token

    def _name(self, place: dict[str, Any]) -> ComponentLabel:
        if "component" not in place:
            return ComponentLabel(place["token"], "token")
        part = place["component"]
        return ComponentLabel(f"{part} at {place['token']}", "token", part.block, part.head)


@dataclass(frozen=True, repr=False)
class PathAttribution(Attribution):
    """`values` [image, class, block, head, writer]: the share of each writer through the values of a later head.

    Writers are the embedding, earlier heads (virtual heads: "L2H1 → L9H3"), earlier MLPs, the biases, and the head's own
    "value bias"; they sum to the head's share at unit="head". Writers after the head have share 0.
    """

    @property
    def by_head(self) -> Float[Tensor, "image class block head"]:
        """The sum over writers: the shares at unit="head"."""
        return self.values.sum(dim=-1)

    def head_map(self, image: int = 0, class_position: int = 0) -> Float[Tensor, "block head"]:
        return self.by_head[image, class_position]

    def _name(self, place: dict[str, Any]) -> ComponentLabel:
        head = head_label(place["block"], place["head"])
        return ComponentLabel(f"{place['writer']} → {head}", "path", head.block, head.head)


def _at(index: int, n: int, what: str) -> int:
    if not -n <= index < n:
        raise InputError(f"there is no {what} {index}: they are 0 to {n - 1}")
    return index


def _on_grid(shares: Float[Tensor, "token"], grid: Sequence[int]) -> Float[Tensor, "rows columns"]:
    """The last tokens, which are the patches."""
    rows, columns = grid
    return shares[len(shares) - rows * columns :].unflatten(0, (rows, columns))
