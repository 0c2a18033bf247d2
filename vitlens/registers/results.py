"""The results of register analyses: the neurons found, and the runs with and without registers."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from vitlens.results.result import Result


@dataclass(frozen=True, repr=False)
class RegisterNeurons(Result):
    """MLP neurons that fire at outlier patches, best first: `values` [rank] are their scores.

    score = `at_outliers` − `elsewhere`: the mean |activation| at the outliers, minus that at the other patches of all
    pictures. `outlier_block` is the first block whose output has at least half of the outliers.
    """

    blocks: Int[Tensor, "rank"]
    neurons: Int[Tensor, "rank"]
    at_outliers: Float[Tensor, "rank"]
    elsewhere: Float[Tensor, "rank"]
    outlier_block: int
    n_outliers: int

    @property
    def score(self) -> Float[Tensor, "rank"]:
        return self.values

    def pairs(self, k: int | None = None) -> list[tuple[int, int]]:
        """(block, neuron) of the best k, by default of all: what `add_test_time_registers` also takes."""
        return list(zip(self.blocks.tolist(), self.neurons.tolist(), strict=True))[:k]

    def columns(self) -> dict[str, Tensor]:
        return {
            "block": self.blocks,
            "neuron": self.neurons,
            "score": self.values,
            "at_outliers": self.at_outliers,
            "elsewhere": self.elsewhere,
        }

    def __repr__(self) -> str:
        first = ", ".join(
            f"L{block}N{neuron} {score:.3g}"
            for (block, neuron), score in zip(self.pairs(4), self.values.tolist(), strict=False)
        )
        more = ", …" if len(self.values) > 4 else ""
        return f"RegisterNeurons({first}{more}; {self.n_outliers} outliers from block {self.outlier_block} on)"


@dataclass(frozen=True, repr=False)
class RegisterShift(Result):
    """Runs without and with test-time registers: `values` [run, image, block, patch] are the norms of the patches'
    residual streams after each block.

    `register_norms` are the norms of the added tokens and `logits` the model's logits (its features, if it has no
    classifier). `attention` is the attention of the class token to each patch in the block `settings["attention_block"]`,
    mean over heads (empty, [run, image, 0], if there is no class token). Runs are "before" and "after".
    """

    register_norms: Float[Tensor, "image block register"]
    logits: Float[Tensor, "run image class"]
    attention: Float[Tensor, "run image attended"]

    @property
    def before(self) -> Float[Tensor, "image block patch"]:
        return self.values[0]

    @property
    def after(self) -> Float[Tensor, "image block patch"]:
        return self.values[1]
