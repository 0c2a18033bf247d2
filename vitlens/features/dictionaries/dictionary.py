"""Dictionaries of features: sparse autoencoders and transcoders from any library."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitlens.arguments import checked, short
from vitlens.errors import InputError, reason
from vitlens.features.dictionaries.nonlinearities import nonlinearity
from vitlens.model.weights.checks import FiniteWeights, check_weights

NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")


class SparseAutoencoder(FiniteWeights):
    """x ≈ x̂ = f W_dec + b_dec with f = act((x − b_dec) W_enc + b_enc); b_dec is taken off first only where `centred`.

    If `normalisation` is not "none", each row x is normalised first, and x̂ is scaled back by the statistics of the same row:
    `decode` then needs x. Weights are buffers: they move and cast with `.to`, and are not trained.
    Make one with `load_sae`, `SparseAutoencoder.from_arrays` or `SparseAutoencoder.from_sklearn`.

    Source: Bricken et al. 2023; Cunningham et al. 2023.
    """

    W_enc: Float[Tensor, "d_in feature"]
    b_enc: Float[Tensor, "feature"]
    W_dec: Float[Tensor, "feature d_out"]
    b_dec: Float[Tensor, "d_out"]

    def __init__(
        self,
        W_enc: Float[Tensor, "d_in feature"],
        b_enc: Float[Tensor, "feature"],
        W_dec: Float[Tensor, "feature d_out"],
        b_dec: Float[Tensor, "d_out"],
        activation: nn.Module,
        *,
        centred: bool = False,
        normalisation: str = "none",
        hook: str | None = None,
        source: str = "",
    ) -> None:
        super().__init__()
        if normalisation not in NORMALISATIONS:
            raise InputError(f"activations are normalised by {', '.join(NORMALISATIONS)}, not {normalisation!r}")
        for name, value in (("W_enc", W_enc), ("b_enc", b_enc), ("W_dec", W_dec), ("b_dec", b_dec)):
            self.register_buffer(name, value)
        self.activation = activation
        self.centred = centred
        self.normalisation = normalisation
        #: The hook point that it was trained on, where that is known.
        self.hook = hook
        #: Where it came from, for figures and results.
        self.source = source
        #: log10 of how often each feature fired in training, where SAELens saved it.
        self.log_sparsity: Tensor | None = None
        #: What else its file says of it, such as the model and the settings of its training.
        self.metadata: dict[str, Any] = {}

    @classmethod
    @checked
    def from_arrays(
        cls,
        W_enc: Any,
        b_enc: Any,
        W_dec: Any,
        b_dec: Any,
        *,
        activation: str = "relu",
        k: int | None = None,
        threshold: Any = None,
        centred: bool = False,
        normalisation: str = "none",
        hook: str | None = None,
        source: str = "arrays",
    ) -> "SparseAutoencoder":
        """A sparse autoencoder from its weights, as tensors or arrays.

        Args:
            W_enc: [d_in, features].
            b_enc: [features], or None for zeros.
            W_dec: [features, d_in].
            b_dec: [d_in], or None for zeros.
            activation: "relu", "jumprelu" or "batchtopk" (with `threshold`, one or one per feature), "topk" (with `k`),
                "tanh-relu", "linear".
            centred: whether b_dec is subtracted before the encoder.
            normalisation: "none", "layer_norm" or "constant_norm_rescale", as SAELens defines them.
            hook: the hook point that it belongs to.

        Raises:
            InputError: values that are not finite floats, shapes that do not fit, an unknown activation or normalisation.
        """
        weights, chosen = read_dictionary(W_enc, b_enc, W_dec, b_dec, activation, k, threshold)
        return cls(**weights, activation=chosen, centred=centred, normalisation=normalisation, hook=hook, source=source)

    @classmethod
    def from_sklearn(cls, estimator: Any, hook: str | None = None) -> "SparseAutoencoder":
        """A fitted DictionaryLearning, MiniBatchDictionaryLearning, NMF or MiniBatchNMF of scikit-learn.

        Its codes are solutions of an optimisation, not a layer: `encode` runs the estimator's own `transform`, on the
        CPU, and no gradient goes through it.

        Raises:
            InputError: another estimator, or one that is not fitted.
        """
        from vitlens.features.dictionaries.from_sklearn import FittedDictionary

        return FittedDictionary(estimator, hook)

    @checked
    def save(self, path: str | Path) -> None:
        """Writes a folder in SAELens' format (cfg.json, sae_weights.safetensors), which `load_sae` reads again.

        Raises:
            InputError: SAELens has no such dictionary (a linear one, or one of scikit-learn); the folder cannot be written.
        """
        from vitlens.features.formats.saving import save_saelens

        save_saelens(self, path)

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """The number of features."""
        return self.W_dec.shape[0]

    @property
    def d_out(self) -> int:
        return self.W_dec.shape[1]

    @property
    def needs_input(self) -> bool:
        """Whether `decode` needs the x that the features came from."""
        return self.normalisation != "none"

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch feature"]:
        """The features of activations."""
        features: Tensor = self.activation(self.pre_activations(x))
        return features

    def pre_activations(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch feature"]:
        """What the activation function of the features reads."""
        self._check_width(x)
        read = self._normalise(x.to(self.W_enc))
        if self.centred:
            read = read - self.b_dec
        return read @ self.W_enc + self.b_enc

    def read_directions(self, features: Int[Tensor, "row"], x: Float[Tensor, "row d_in"]) -> Float[Tensor, "row d_in"]:
        """∂pre-activation/∂x of one feature for each row x, what divides in the row's normalisation frozen."""
        directions = self.W_enc[:, features].T
        if self.normalisation == "none":
            return directions
        if self.normalisation == "layer_norm":
            directions = directions - directions.mean(dim=-1, keepdim=True)
        return directions / self._statistics(x.to(self.W_enc))[1]

    def output_scale(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch 1"]:
        """What the reconstruction is multiplied by: the row's statistics where it is scaled back by them, else 1."""
        x = x.to(self.W_enc)
        return self._statistics(x)[2] if self._scales_output else x.new_ones(*x.shape[:-1], 1)

    def decode(
        self, features: Float[Tensor, "*batch feature"], x: Float[Tensor, "*batch d_in"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """The reconstructed activations; `x` is needed if the dictionary normalises each row.

        Raises:
            InputError: `x` is needed and missing.
        """
        self._check_features(features)
        written = features @ self.W_dec + self.b_dec
        if not self.needs_input:
            return written
        shift, _, back = self._statistics(self._given(x))
        return written * back + shift

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """x̂: the reconstruction."""
        return self.decode(self.encode(x), x)

    def written_per_feature(
        self, gradient: Float[Tensor, "*batch d_out"], x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch feature"]:
        """∂⟨gradient, x̂⟩/∂f: how much each feature would move what the gradient measures, per unit of the feature."""
        moved = gradient.to(self.W_dec) @ self.W_dec.T
        return moved * self._statistics(x.to(self.W_enc))[2] if self._scales_output else moved

    @property
    def _scales_output(self) -> bool:
        return self.normalisation != "none"

    def _normalise(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        if self.normalisation == "none":
            return x
        shift, divisor, _ = self._statistics(x)
        return (x - shift) / divisor

    def _statistics(self, x: Float[Tensor, "*batch d_in"]) -> tuple[Tensor, Tensor, Tensor]:
        """What is subtracted from each row, what divides it, and what the reconstruction is multiplied by."""
        if self.normalisation == "layer_norm":
            # The deviation is the unbiased one, and SAELens adds its 1e-5 on the way in only.
            deviation = x.std(dim=-1, keepdim=True)
            return x.mean(dim=-1, keepdim=True), deviation + 1e-5, deviation
        length = x.norm(dim=-1, keepdim=True) / self.d_in**0.5
        return torch.zeros_like(length), length, length

    def _given(self, x: Tensor | None) -> Tensor:
        if x is None:
            raise InputError("this dictionary needs the activation x to decode: call decode(features, x)")
        return x.to(self.W_enc)

    def _check_width(self, x: Tensor) -> None:
        if not isinstance(x, Tensor) or not x.ndim:
            raise InputError(f"a dictionary reads activations as a tensor [..., {self.d_in}], not {short(x)}")
        if x.shape[-1] != self.d_in:
            raise InputError(f"the dictionary is {self.d_in} wide, and the activations are {x.shape[-1]} wide")

    def _check_features(self, features: Tensor) -> None:
        if not isinstance(features, Tensor) or not features.ndim or features.shape[-1] != self.d_sae:
            raise InputError(f"a dictionary decodes features as a tensor [..., {self.d_sae}], not {short(features)}")

    def extra_repr(self) -> str:
        where = f", {self.hook}" if self.hook else ""
        return f"{self.d_in} → {self.d_sae} features → {self.d_out}{where}"


class Transcoder(SparseAutoencoder):
    """y ≈ ŷ = f W_dec + b_dec (+ x W_skip) with f = act(x W_enc + b_enc): reads one hook point, predicts another.

    Usually an MLP's: it reads what the MLP reads and predicts what it writes. `normalisation` is of what it reads only; if
    it is `rescaled`, all of ŷ is scaled back by the statistics of the row x, as ViT-Prisma's transcoders are.

    Source: Dunefsky, Chlenski & Nanda 2024, equations 2 and 3; Paulo et al. 2025 (skip connection).
    """

    def __init__(
        self,
        W_enc: Float[Tensor, "d_in feature"],
        b_enc: Float[Tensor, "feature"],
        W_dec: Float[Tensor, "feature d_out"],
        b_dec: Float[Tensor, "d_out"],
        activation: nn.Module,
        *,
        W_skip: Float[Tensor, "d_out d_in"] | None = None,
        normalisation: str = "none",
        rescaled: bool = False,
        hook: str | None = None,
        hook_out: str | None = None,
        source: str = "",
    ) -> None:
        super().__init__(
            W_enc, b_enc, W_dec, b_dec, activation, normalisation=normalisation, hook=hook, source=source
        )  # fmt: skip
        self.register_buffer("W_skip", W_skip)
        self.rescaled = rescaled and normalisation != "none"
        #: The hook point that it predicts, where that is known.
        self.hook_out = hook_out

    W_skip: Float[Tensor, "d_out d_in"] | None

    @classmethod
    @checked
    def from_arrays(  # type: ignore[override]
        cls,
        W_enc: Any,
        b_enc: Any,
        W_dec: Any,
        b_dec: Any,
        *,
        activation: str = "relu",
        k: int | None = None,
        threshold: Any = None,
        W_skip: Any = None,
        normalisation: str = "none",
        hook: str | None = None,
        hook_out: str | None = None,
        source: str = "arrays",
    ) -> "Transcoder":
        """A transcoder from its weights, as tensors or arrays.

        Args:
            W_enc: [d_in, features].
            b_enc: [features], or None for zeros.
            W_dec: [features, d_out].
            b_dec: [d_out], or None for zeros.
            activation, k, threshold, normalisation: as in `SparseAutoencoder.from_arrays`.
            W_skip: [d_out, d_in], what adds x W_skipᵀ to the prediction; None for none.
            hook: the hook point that it reads.
            hook_out: the hook point that it predicts.

        Raises:
            InputError: values that are not finite floats, shapes that do not fit, an unknown activation or normalisation.
        """
        weights, chosen = read_dictionary(W_enc, b_enc, W_dec, b_dec, activation, k, threshold)
        if W_skip is not None:
            W_skip, shape = read_array("W_skip", W_skip), (weights["W_dec"].shape[1], weights["W_enc"].shape[0])
            check_weights([("W_skip", W_skip)], "the dictionary")
            if tuple(W_skip.shape) != shape:
                raise InputError(f"W_skip is [d_out, d_in], {list(shape)} here, not {list(W_skip.shape)}")
            W_skip = W_skip.detach().to(weights["W_enc"])
        return cls(
            weights["W_enc"],
            weights["b_enc"],
            weights["W_dec"],
            weights["b_dec"],
            chosen,
            W_skip=W_skip,
            normalisation=normalisation,
            hook=hook,
            hook_out=hook_out,
            source=source,
        )

    @property
    def needs_input(self) -> bool:
        return self.W_skip is not None or self.rescaled

    @property
    def _scales_output(self) -> bool:
        return self.rescaled

    def decode(
        self, features: Float[Tensor, "*batch feature"], x: Float[Tensor, "*batch d_in"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        self._check_features(features)
        written = features @ self.W_dec + self.b_dec
        if self.W_skip is not None:
            written = written + self._given(x) @ self.W_skip.T
        if not self.rescaled:
            return written
        shift, _, back = self._statistics(self._given(x))
        return written * back + shift


def read_dictionary(
    W_enc: Any, b_enc: Any, W_dec: Any, b_dec: Any, activation: str, k: int | None, threshold: Any
) -> tuple[dict[str, Tensor], nn.Module]:
    """The weights of a dictionary that was given as arrays, and its activation function.

    Raises:
        InputError: values that are not finite floats, shapes that do not fit, an unknown activation.
    """
    if threshold is not None:
        threshold = read_array("threshold", threshold)
        if threshold.isnan().any():
            raise InputError("threshold holds NaN")
    given = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    weights = complete_weights({name: read_array(name, value) for name, value in given.items() if value is not None})
    return weights, nonlinearity(activation, len(weights["W_dec"]), k=k, threshold=threshold, like=weights["W_enc"])


def read_array(name: str, value: Any) -> Tensor:
    """Weights as a tensor.

    Raises:
        InputError: no array of numbers.
    """
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is no array of numbers: {reason(error)}") from None


def complete_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """W_enc, b_enc, W_dec, b_dec of fitting shapes, in one dtype; biases that are missing are zeros.

    Raises:
        InputError: a matrix is missing or no matrix, values that are not finite floats, or shapes that do not fit.
    """
    for name in ("W_enc", "W_dec"):
        if name not in weights or weights[name].ndim != 2 or not weights[name].is_floating_point():
            raise InputError(f"{name} is a matrix of floats, [d_in, features] (W_enc) or [features, d_out] (W_dec)")
    check_weights(weights.items(), "the dictionary")
    W_enc, W_dec = weights["W_enc"], weights["W_dec"]
    if W_enc.shape[1] != W_dec.shape[0]:
        raise InputError(
            f"W_enc is [d_in, features] and W_dec [features, d_out]: {list(W_enc.shape)} and {list(W_dec.shape)} do not fit"
        )
    full = {"W_enc": W_enc, "W_dec": W_dec}
    for name, length in (("b_enc", W_enc.shape[1]), ("b_dec", W_dec.shape[1])):
        bias = weights.get(name, W_enc.new_zeros(length))
        if tuple(bias.shape) != (length,):
            raise InputError(f"{name} has the shape [{length}], not {list(bias.shape)}")
        full[name] = bias
    return {name: value.detach().to(W_enc) for name, value in full.items()}
