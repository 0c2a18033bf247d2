"""A dictionary during its training: its parameters, on standardised activations, and what it is when it is finished."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vitlens.features.dictionaries.dictionary import SparseAutoencoder, Transcoder
from vitlens.features.training.activations import THRESHOLD_SPEED, learned_activation
from vitlens.features.training.descent import Trainable
from vitlens.features.training.settings import TrainingSettings
from vitlens.workers import Workers


@dataclass(frozen=True)
class Scale:
    """Standardises activations: the mean is taken off, and the mean squared length of a row becomes its width.

    One learning rate then serves activations of any size; the finished dictionary contains both numbers in its weights.
    """

    mean: Float[Tensor, "d"]
    size: float

    @classmethod
    def of(cls, rows: Float[Tensor, "row d"], workers: Workers) -> "Scale":
        """The scale of these rows, of all processes together."""
        mean = workers.mean(rows.double().mean(dim=0))
        spread = float(workers.mean((rows.double() - mean).square().mean()))
        return cls(mean.float(), spread**0.5 or 1.0)

    def __call__(self, rows: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        return (rows.float() - self.mean) / self.size


class LearnedDictionary(Trainable):
    """f = act((x − b) W_enc + b_enc) and ŷ = f W_dec + b_dec (+ x W_skip), with decoder rows of length 1.

    A sparse autoencoder predicts its own input (`hook_out` is None), and b is b_dec; a transcoder's b is 0.
    """

    def __init__(self, d_in: int, d_out: int, settings: TrainingSettings, *, ties: bool, seed: int) -> None:
        super().__init__()
        n_features = settings.width(d_in)
        generator = torch.Generator().manual_seed(seed)
        W_dec = F.normalize(torch.randn(n_features, d_out, generator=generator), dim=1)
        # The encoder of a sparse autoencoder begins as the decoder's transpose (Gao et al. 2024, section 2.4).
        W_enc = W_dec if ties else F.normalize(torch.randn(n_features, d_in, generator=generator), dim=1)
        self.W_enc = nn.Parameter(W_enc.T.clone())
        self.b_enc = nn.Parameter(torch.zeros(n_features))
        self.W_dec = nn.Parameter(W_dec)
        self.b_dec = nn.Parameter(torch.zeros(d_out))
        self.W_skip = nn.Parameter(torch.zeros(d_out, d_in)) if settings.skip and not ties else None
        self.ties = ties
        self.activation = learned_activation(settings.kind, settings.k, n_features, aims_at_k=settings.sparsity is None)
        self.widths = (*settings.matryoshka, n_features)

    @property
    def n_features(self) -> int:
        return len(self.W_dec)

    @torch.no_grad()
    def begin(self, x: Float[Tensor, "row d_in"]) -> None:
        """Sets what the first standardised rows decide: thresholds, and the size of an autoencoder's encoder."""
        self.activation.begin(self.pre(x))
        if self.ties and self.activation.begins_sparse:
            # Its first reconstructions point the right way, and begin as long as the rows. Those of a transcoder point
            # anywhere; and with relu half of the features are active at first, so that the encoder would be too small to
            # learn fast.
            *_, written = self.reconstructions(self.activation(self.pre(x)), x)
            self.W_enc.mul_(x.shape[1] ** 0.5 * len(x) ** 0.5 / written.norm().clamp(min=1e-12))
            self.activation.begin(self.pre(x))

    def groups(self) -> list[dict[str, Any]]:
        thresholds = list(self.activation.parameters())
        weights = [parameter for name, parameter in self.named_parameters() if not name.startswith("activation.")]
        groups = [{"params": weights, "speed": 1.0}]
        return [*groups, {"params": thresholds, "speed": THRESHOLD_SPEED}] if thresholds else groups

    def pre(self, x: Float[Tensor, "row d_in"]) -> Float[Tensor, "row feature"]:
        """The pre-activations of standardised rows."""
        # b_dec comes off after the product: rows that need no gradient save one product of this size.
        shift = self.b_enc - self.b_dec @ self.W_enc if self.ties else self.b_enc
        return torch.addmm(shift, x, self.W_enc)

    def reconstructions(
        self, features: Float[Tensor, "row feature"], x: Float[Tensor, "row d_in"]
    ) -> Iterator[Float[Tensor, "row d_out"]]:
        """ŷ from the first features alone, for each width of the matryoshka, and from all of them last."""
        written = self.b_dec.expand(len(x), -1) if self.W_skip is None else self.b_dec + x @ self.W_skip.T
        start = 0
        for width in self.widths:
            written = written + features[:, start:width] @ self.W_dec[start:width]
            start = width
            yield written

    @torch.no_grad()
    def keep_lengths(self) -> None:
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp(min=1e-12))

    @torch.no_grad()
    def remove_growth(self) -> None:
        if self.W_dec.grad is not None:
            along = (self.W_dec.grad * self.W_dec).sum(dim=1, keepdim=True)
            self.W_dec.grad -= along * self.W_dec

    @torch.no_grad()
    def finished(self, scale_in: Scale, scale_out: Scale, hook: str, hook_out: str | None) -> SparseAutoencoder:
        """The dictionary of the activations as the model has them: features are in their units, decoder rows of length 1."""
        factor = scale_out.size
        W_enc = self.W_enc.double() * (factor / scale_in.size)
        b_enc = self.b_enc.double() * factor
        b_dec = self.b_dec.double() * factor + scale_out.mean.double()
        activation = self.activation.finished(self.n_features, factor)
        W_dec = self.W_dec.detach().clone()
        if self.ties:
            return SparseAutoencoder(
                W_enc.float(),
                b_enc.float(),
                W_dec,
                b_dec.float(),
                activation,
                centred=True,
                hook=hook,
                source="trained",
            )
        b_enc = b_enc - scale_in.mean.double() @ W_enc
        W_skip = None
        if self.W_skip is not None:
            W_skip = self.W_skip.double() * (factor / scale_in.size)
            b_dec = b_dec - W_skip @ scale_in.mean.double()
            W_skip = W_skip.float()
        return Transcoder(
            W_enc.float(), b_enc.float(), W_dec, b_dec.float(), activation, W_skip=W_skip, hook=hook,
            hook_out=hook_out, source="trained",
        )  # fmt: skip
