"""What the sentences are about: one class of one picture, with the numbers that were measured of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from vitlens.model.class_space.outputs import WITH_PROBABILITIES, probabilities
from vitlens.pages.explorer.measure.picture import Measured
from vitlens.pages.explorer.sentences.words import Number

#: The answer is flat where its entropy is at least this share of the largest possible.
FLAT = 0.5


@dataclass(frozen=True)
class Part:
    """A head or an MLP: what it writes directly; what the logit loses without it (`cost`); what a click on its name chooses.

    It is removed in `cell` of the effects. `kept`, the probability, and `top`, the first class without it, are None where
    the cost is estimated; `kept` also where outputs have no probability.
    """

    name: str
    is_head: bool
    place: tuple[int, ...]
    cell: int
    direct: float
    cost: float
    kept: float | None
    top: int | None
    choose: dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A class by its position among the picture's classes; `name_of` says what a class is called."""

    measured: Measured
    position: int
    name_of: Callable[[int], str]
    blocks: list[int]
    n_layers: int
    grid: tuple[int, int]
    prefix: tuple[str, ...]
    reads_class_token: bool = True

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        return self.measured.tensors

    @property
    def index(self) -> int:
        return self.measured.facts["classes"][self.position]

    @property
    def name(self) -> str:
        return self.name_of(self.index)

    @property
    def n_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @cached_property
    def probabilities(self) -> Float[np.ndarray, "class"]:
        """The model's answer, of all classes; NaN where the outputs have none."""
        return probabilities_of(self.tensors["answer_logits"], self.output)

    @property
    def output(self) -> str:
        """What the model's outputs mean."""
        return self.measured.facts["output"]

    @property
    def competes(self) -> bool:
        """Whether classes exclude each other, so that one leads."""
        return self.output == "softmax"

    @property
    def probability(self) -> float:
        """NaN where the outputs have none."""
        return float(self.probabilities[self.index])

    @property
    def logit(self) -> float:
        return float(self.tensors["answer_logits"][self.index])

    @property
    def rank(self) -> int:
        """How many classes have a larger logit."""
        return int((self.tensors["answer_logits"] > self.tensors["answer_logits"][self.index]).sum())

    @property
    def is_answer(self) -> bool:
        """Whether it is what the model says (first of several classes, or a sigmoid's yes): then its probability is spoken
        of, else its logit."""
        return self.rank == 0 if self.competes else self.output == "sigmoid" and self.logit > 0

    @property
    def rival(self) -> int:
        """The first of the other classes."""
        others = self.tensors["answer_logits"].copy()
        others[self.index] = -np.inf
        return int(others.argmax())

    @cached_property
    def is_flat(self) -> bool:
        """Whether the answer says little: then nothing is claimed of where it comes from."""
        if not self.competes:
            return False
        found = self.probabilities[self.probabilities > 0]
        return bool(-(found * np.log(found)).sum() >= FLAT * np.log(len(self.probabilities)))

    def shares(self, block: int, head: int) -> Float[np.ndarray, "token"]:
        """What a head writes from each token."""
        at = (self.position, block, head)
        return self.tensors["shares"][at].astype(np.float64) / 127 * self.tensors["shares_scale"][at]

    def attention(self, block: int, head: int) -> Float[np.ndarray, "token"]:
        """Where those that the model reads its answer from look, on average."""
        codes, scale = (self.tensors[name][block, head] for name in ("pattern", "pattern_scale"))
        steps = 127 if codes.dtype == np.int8 else 255
        rows = np.sign(codes) * (codes.astype(np.float64) / steps) ** 2 * scale[:, None]
        return rows[0] if self.reads_class_token else rows[len(self.prefix) :].mean(axis=0)

    @cached_property
    def costs(self) -> Float[np.ndarray, "cell"]:
        """What the logit loses without each patch, head and MLP."""
        return self.logit - self.tensors["effect_logits"][:, self.position].astype(np.float64)

    @cached_property
    def kept(self) -> Float[np.ndarray, "cell"]:
        """The probability of the class without each; NaN where the cost is estimated, or the outputs have none."""
        logits, lse = self.tensors["effect_logits"][:, self.position].astype(np.float64), self.tensors["effect_lse"]
        if self.competes:
            return np.exp(logits - lse)
        return np.where(np.isnan(lse), np.nan, probabilities_of(logits, self.output))

    @cached_property
    def parts(self) -> list[Part]:
        """Every head and MLP of the blocks that are shown."""
        heads, mlps = self.tensors["heads"][self.position], self.tensors["mlps"][self.position]
        n_heads = heads.shape[1]
        named = [
            *[(f"L{self.blocks[b]}H{h}", (b, h), heads[b, h]) for b in range(len(heads)) for h in range(n_heads)],
            *[(f"the MLP of block {self.blocks[b]}", (b,), mlps[b]) for b in range(len(mlps))],
        ]
        return [self._part(i, *about) for i, about in enumerate(named)]

    def tokens(self, patches: Sequence[int] | np.ndarray) -> list[int]:
        """Of patches: the prefix tokens are counted first."""
        return [len(self.prefix) + int(patch) for patch in patches]

    def _part(self, number: int, name: str, place: tuple[int, ...], direct: Number) -> Part:
        choose = {"block": self.blocks[place[0]], "head": place[1] if len(place) == 2 else "mlp"}
        cell = self.n_patches + number
        if "effect_logits" not in self.tensors:
            return Part(name, len(place) == 2, place, cell, float(direct), np.nan, None, None, choose)
        kept = None if np.isnan(self.kept[cell]) else float(self.kept[cell])
        top = None
        if not np.isnan(self.tensors["effect_lse"][cell]):
            # Where classes do not exclude each other, none leads in the place of this one.
            top = int(self.tensors["effect_top"][cell]) if self.competes else self.index
        return Part(name, len(place) == 2, place, cell, float(direct), float(self.costs[cell]), kept, top, choose)


def probabilities_of(logits: Float[np.ndarray, "*row class"], output: str) -> Float[np.ndarray, "*row class"]:
    """By what the model's outputs mean; NaN where they have no probability."""
    if output not in WITH_PROBABILITIES:
        return np.full(logits.shape, np.nan)
    return probabilities(torch.from_numpy(logits.astype(np.float64)), output).numpy()


def leading(values: Float[np.ndarray, "value"], share: float) -> Bool[np.ndarray, "value"]:
    """The fewest of the largest values that together are this share of all that is positive."""
    positive = np.maximum(values, 0)
    order = np.argsort(-positive, kind="stable")
    reached = np.cumsum(positive[order])
    n = int(np.searchsorted(reached, share * reached[-1] * (1 - 1e-9))) + 1
    return np.isin(np.arange(len(values)), order[:n]) & (positive > 0)
