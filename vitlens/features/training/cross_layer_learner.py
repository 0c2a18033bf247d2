"""A cross-layer transcoder in training: the features of all its blocks learn from one loss over all its outputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vitlens.errors import InputError
from vitlens.features.activations import Rows
from vitlens.features.dictionaries.cross_layer import CrossLayerTranscoder
from vitlens.features.places import HookPlace
from vitlens.features.training.descent import Descent, Trainable
from vitlens.features.training.learned import LearnedDictionary, Scale
from vitlens.features.training.learner import autocast
from vitlens.features.training.settings import TrainingSettings
from vitlens.features.training.sparse_part import SparsePart, part_measures
from vitlens.workers import Workers

#: What a cross-layer transcoder is called among the dictionaries of a training.
CROSS_LAYER = "cross_layer"


class LearnedCrossLayer(Trainable):
    """A transcoder in each block, whose output is that of this block and all later ones side by side; their sum is ŷ.

    All directions of a feature together have length 1. The bias of an output is the sum of the transcoders' biases.
    """

    def __init__(self, d_in: int, d_out: int, n_blocks: int, settings: TrainingSettings, *, seed: int) -> None:
        super().__init__()
        self.d_out = d_out
        # The skip connection is of each block alone.
        without_skip = replace(settings, skip=False)
        self.parts = nn.ModuleList(
            LearnedDictionary(d_in, (n_blocks - i) * d_out, without_skip, ties=False, seed=seed + i)
            for i in range(n_blocks)
        )
        self.skips = nn.ParameterList(torch.zeros(d_out, d_in) for _ in range(n_blocks) if settings.skip)

    def __iter__(self) -> Iterator[LearnedDictionary]:
        for part in self.parts:
            assert isinstance(part, LearnedDictionary)
            yield part

    @property
    def n_features(self) -> int:
        return next(iter(self)).n_features

    def begin(self, x: Sequence[Float[Tensor, "row d_in"]]) -> None:
        """Sets what the first standardised rows decide."""
        for part, rows in zip(self, x, strict=True):
            part.begin(rows)

    def groups(self) -> list[dict[str, Any]]:
        groups = [group for part in self for group in part.groups()]
        return [*groups, {"params": list(self.skips), "speed": 1.0}] if len(self.skips) else groups

    def reconstructions(
        self, features: Sequence[Float[Tensor, "row feature"]], x: Sequence[Float[Tensor, "row d_in"]]
    ) -> Iterator[Float[Tensor, "row d_outs"]]:
        """All outputs side by side, from the first features of each block, for each width of the matryoshka."""
        each = [part.reconstructions(*given) for part, *given in zip(self, features, x, strict=True)]
        skipped = [rows @ skip.T for rows, skip in zip(x, self.skips, strict=True)] if len(self.skips) else []
        for written in zip(*each, strict=True):
            total = torch.cat(skipped, dim=1) + written[0] if skipped else written[0]
            for i, later in enumerate(written[1:], start=1):
                total = total + F.pad(later, (i * self.d_out, 0))
            yield total

    def keep_lengths(self) -> None:
        for part in self:
            part.keep_lengths()

    def remove_growth(self) -> None:
        for part in self:
            part.remove_growth()

    @torch.no_grad()
    def finished(
        self, scales_in: Sequence[Scale], scales_out: Sequence[Scale], hooks: list[str], hooks_out: list[str]
    ) -> CrossLayerTranscoder:
        """The transcoder of the activations as the model has them; features stay in the units of the training."""
        n = len(hooks)
        sizes = torch.tensor(
            [scale.size for scale in scales_out], dtype=torch.float64, device=scales_out[0].mean.device
        )
        W_enc = [part.W_enc.double() / scale.size for part, scale in zip(self, scales_in, strict=True)]
        b_enc = [
            part.b_enc.double() - scale.mean.double() @ weight
            for part, scale, weight in zip(self, scales_in, W_enc, strict=True)
        ]
        W_dec = [part.W_dec.unflatten(1, (-1, self.d_out)).movedim(1, 0) for part in self]
        W_dec = [weight * sizes[i:, None, None] for i, weight in enumerate(W_dec)]
        biases = [part.b_dec.double().unflatten(0, (-1, self.d_out)) for part in self]
        b_dec = [sum(biases[i][j - i] for i in range(j + 1)) * sizes[j] + scales_out[j].mean for j in range(n)]
        skips = [skip.double() * (sizes[j] / scales_in[j].size) for j, skip in enumerate(self.skips)]
        for j, skip in enumerate(skips):
            b_dec[j] = b_dec[j] - skip @ scales_in[j].mean.double()
        W_enc, b_enc, W_dec, b_dec, skips = (
            [weight.float().contiguous() for weight in each] for each in (W_enc, b_enc, W_dec, b_dec, skips)
        )
        activations = [part.activation.finished(part.n_features, 1.0) for part in self]
        return CrossLayerTranscoder(
            W_enc, b_enc, W_dec, b_dec, activations, W_skip=skips or None, hooks=hooks, hooks_out=hooks_out,
            source="trained",
        )  # fmt: skip


class CrossLayerLearner:
    """A cross-layer transcoder while it is trained; as `Learner` for one dictionary.

    Args:
        pairs: where each block reads, and what is predicted there.
        rows: the first rows of all places, which set the scales.
    """

    name = CROSS_LAYER

    def __init__(
        self,
        pairs: Sequence[tuple[HookPlace, HookPlace]],
        rows: Rows,
        settings: TrainingSettings,
        workers: Workers,
        seed: int,
    ) -> None:
        self.settings = settings
        self.hooks, self.hooks_out = ([place.name for place in places] for places in zip(*pairs, strict=True))
        x, y = ([rows[name] for name in names] for names in (self.hooks, self.hooks_out))
        widths = {(read.shape[1], written.shape[1]) for read, written in zip(x, y, strict=True)}
        if len(widths) > 1:
            raise InputError(
                f"the hook points of a cross-layer transcoder are as wide in all blocks, not {sorted(widths)}: name "
                "the same place of each block"
            )
        self.scales_in, self.scales_out = ([Scale.of(found, workers) for found in each] for each in (x, y))
        (d_in, d_out), n = widths.pop(), len(pairs)
        self.learned = LearnedCrossLayer(d_in, d_out, n, settings, seed=seed).to(x[0].device)
        self.learned.begin(
            [scale(found[: settings.batch_rows]) for scale, found in zip(self.scales_in, x, strict=True)]
        )
        self.parts = [SparsePart(part, settings, workers, seed + i) for i, part in enumerate(self.learned)]
        self.descent = Descent(self.learned, settings, workers)
        self.seen: tuple[Tensor, Tensor, Tensor, list[Tensor]] | None = None

    def step(self, rows: Rows) -> None:
        """Trains on a batch of rows."""
        x = [scale(rows[name]) for scale, name in zip(self.scales_in, self.hooks, strict=True)]
        y = torch.cat([scale(rows[name]) for scale, name in zip(self.scales_out, self.hooks_out, strict=True)], dim=1)
        with autocast(self.settings.precision, y.device):
            pre = [part.pre(read) for part, read in zip(self.learned, x, strict=True)]
            features = [part.activation(found) for part, found in zip(self.learned, pre, strict=True)]
            reconstructions = list(self.learned.reconstructions(features, x))
            loss = torch.stack([(y - written).square().mean() for written in reconstructions]).mean()
            error = (y - reconstructions[-1]).detach()
            for i, part in enumerate(self.parts):
                loss = part.add_to(loss, pre[i], features[i], self._later(error, i))
        self.descent.step(loss)
        features = [found.detach() for found in features]
        for i, part in enumerate(self.parts):
            part.after_step(features[i], x[i], self._later(error, i), self.descent)
        self.seen = loss.detach(), y, error, features

    def _later(self, rows: Float[Tensor, "row d_outs"], block: int) -> Float[Tensor, "row later"]:
        """The outputs of this block and of the later ones: those that its features write."""
        return rows[:, block * self.learned.d_out :]

    def measures(self) -> list[dict[str, float]]:
        """Of each block for the last batch: the loss of all together, explained variance of its output, and its features."""
        assert self.seen is not None
        loss, y, error, features = self.seen
        outputs, errors = (rows.unflatten(1, (-1, self.learned.d_out)) for rows in (y, error))
        return [
            {"loss": float(loss), **part_measures(outputs[:, i], errors[:, i], features[i], part)}
            for i, part in enumerate(self.parts)
        ]

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "learned": self.learned.state_dict(),
            "descent": self.descent.state(),
            "parts": [part.state() for part in self.parts],
            "scales": [[(scale.mean, scale.size) for scale in each] for each in (self.scales_in, self.scales_out)],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.learned.load_state_dict(state["learned"])
        self.descent.load_state(state["descent"])
        for part, kept in zip(self.parts, state["parts"], strict=True):
            part.load_state(kept)
        self.scales_in, self.scales_out = ([Scale(*scale) for scale in each] for each in state["scales"])

    def finished(self) -> CrossLayerTranscoder:
        return self.learned.finished(self.scales_in, self.scales_out, self.hooks, self.hooks_out)
