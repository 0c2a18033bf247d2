"""A cross-layer transcoder: features of one block, which write into the MLP outputs of this block and all later ones."""

from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitlens.arguments import checked, short
from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import Transcoder, read_array
from vitlens.features.dictionaries.nonlinearities import nonlinearity
from vitlens.model.weights.checks import FiniteWeights, check_weights

PerBlock = list[Float[Tensor, "..."]]


class CrossLayerTranscoder(FiniteWeights):
    """ŷ_j = Σ_{i ≤ j} f_i W_dec[i, j − i] + b_dec[j] (+ x_j W_skipᵀ[j]) with f_i = act_i(x_i W_enc[i] + b_enc[i]).

    It stands for the MLPs of n blocks: x_i is what the MLP of block i reads, ŷ_j predicts what the MLP of block j writes. A
    feature reads in one block and has a direction for each later block. Blocks are counted within the dictionary, from 0;
    `hooks` and `hooks_out` say which of the model they are. Weights are buffers, and are not trained.
    Make one with `CrossLayerTranscoder.from_arrays`, or read one with `load_sae`.

    Source: Ameisen et al. 2025 (Circuit Tracing), equations 1 and 2; for vision transformers Chatzoudis et al. 2026.
    """

    def __init__(
        self,
        W_enc: Sequence[Float[Tensor, "d_in _"]],
        b_enc: Sequence[Float[Tensor, "_"]],
        W_dec: Sequence[Float[Tensor, "_ _ d_out"]],
        b_dec: Sequence[Float[Tensor, "d_out"]],
        activations: Sequence[nn.Module],
        *,
        W_skip: Sequence[Float[Tensor, "d_out d_in"]] | None = None,
        hooks: Sequence[str],
        hooks_out: Sequence[str],
        source: str = "",
    ) -> None:
        super().__init__()
        given = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec, "W_skip": W_skip}
        for name, values in given.items():
            for block, value in enumerate(() if values is None else values):
                self.register_buffer(f"{name}_{block}", value)
        self.activations = nn.ModuleList(activations)
        self.has_skip = W_skip is not None
        #: The hook points that it reads, one of each block.
        self.hooks = list(hooks)
        #: The hook points that it predicts, one of each block.
        self.hooks_out = list(hooks_out)
        #: Where it came from, for figures and results.
        self.source = source
        #: What its files say of its training.
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
        hooks: Sequence[str],
        hooks_out: Sequence[str],
        activation: str = "relu",
        k: int | Sequence[int] | None = None,
        threshold: Any = None,
        W_skip: Any = None,
        source: str = "arrays",
    ) -> "CrossLayerTranscoder":
        """A cross-layer transcoder from its weights, as tensors or arrays. Blocks may have different numbers of features.

        Args:
            W_enc: for each block [d_in, features].
            b_enc: for each block [features], or None for zeros.
            W_dec: for each block i of n [n − i, features, d_out]: the directions in block i and in each later one.
            b_dec: for each block [d_out], or None for zeros.
            hooks: the hook point that each block's features read, in the order of the network.
            hooks_out: the hook point that is predicted in each block.
            activation: as in `SparseAutoencoder.from_arrays`.
            k: for "topk", one for all blocks or one for each.
            threshold: for "jumprelu" and "batchtopk", one for all blocks, or for each block one or one per feature.
            W_skip: for each block [d_out, d_in], what adds x W_skipᵀ to its prediction; None for none.

        Raises:
            InputError: values that are not finite floats, shapes that do not fit, another number of blocks somewhere.
        """
        n = len(hooks)
        if not n or any(not isinstance(hook, str) for hook in (*hooks, *hooks_out)):
            raise InputError(f"hooks= and hooks_out= are names of hook points, one for each block, not {short(hooks)}")
        weights: dict[str, PerBlock] = {
            name: _blocks(name, values, n) for name, values in (("W_enc", W_enc), ("W_dec", W_dec))
        }
        widths = _check_shapes(weights["W_enc"], weights["W_dec"])
        for name, values, shapes in (
            ("b_enc", b_enc, [(n_features,) for _, n_features, _ in widths]),
            ("b_dec", b_dec, [(d_out,) for _, _, d_out in widths]),
            ("W_skip", W_skip, [(d_out, d_in) for d_in, _, d_out in widths]),
        ):
            if values is None and name == "W_skip":
                continue
            like = weights["W_enc"][0]
            found = [like.new_zeros(shape) for shape in shapes] if values is None else _blocks(name, values, n)
            for block, (value, shape) in enumerate(zip(found, shapes, strict=True)):
                if tuple(value.shape) != shape:
                    raise InputError(f"{name} of block {block} has the shape {list(shape)}, not {list(value.shape)}")
            weights[name] = found
        if len(hooks_out) != n:
            raise InputError(f"hooks= names {n} blocks and hooks_out= {len(hooks_out)}: they belong together in pairs")
        like = weights["W_enc"][0]
        chosen = [
            nonlinearity(activation, n_features, k=_of_block(k, block, n), threshold=bound, like=like)
            for block, ((_, n_features, _), bound) in enumerate(zip(widths, _thresholds(threshold, n), strict=True))
        ]
        return cls(
            **{name: [value.detach().to(like).contiguous() for value in values] for name, values in weights.items()},
            activations=chosen,
            hooks=hooks,
            hooks_out=hooks_out,
            source=source,
        )

    @checked
    def save(self, path: str | Path) -> None:
        """Writes a folder in circuit-tracer's format (config.yaml, W_enc_….safetensors, W_dec_….safetensors).

        `load_sae` reads it again. circuit-tracer reads it where it has such dictionaries: ReLU or JumpReLU, with the same
        number of features in all blocks, and at hook points of one kind that holds the same in TransformerLens (not
        `hook_normalized`, which has the norm's weight and bias there).

        Raises:
            InputError: an activation function that the format has no name for; the folder cannot be written.
        """
        from vitlens.features.formats.circuit_tracer import save_cross_layer

        save_cross_layer(self, path)

    @property
    def n_blocks(self) -> int:
        return len(self.hooks)

    @property
    def W_enc(self) -> list[Float[Tensor, "d_in _"]]:
        return self._of_blocks("W_enc")

    @property
    def b_enc(self) -> list[Float[Tensor, "_"]]:
        return self._of_blocks("b_enc")

    @property
    def W_dec(self) -> list[Float[Tensor, "_ _ d_out"]]:
        return self._of_blocks("W_dec")

    @property
    def b_dec(self) -> list[Float[Tensor, "d_out"]]:
        return self._of_blocks("b_dec")

    @property
    def W_skip(self) -> list[Float[Tensor, "d_out d_in"]] | None:
        return self._of_blocks("W_skip") if self.has_skip else None

    @property
    def d_in(self) -> int:
        return self._buffer("W_enc", 0).shape[0]

    @property
    def d_out(self) -> int:
        return self._buffer("b_dec", 0).shape[0]

    @property
    def n_features(self) -> list[int]:
        """The number of features of each block."""
        return [len(bias) for bias in self.b_enc]

    @property
    def d_sae(self) -> int:
        """The number of features of all blocks."""
        return sum(self.n_features)

    def encode_block(self, block: int, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch feature"]:
        """The features of one block, from what its MLP reads."""
        features: Tensor = self.activations[block](self.pre_activations_block(block, x))
        return features

    def pre_activations_block(self, block: int, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch feature"]:
        """What the activation function of one block's features reads."""
        W_enc = self._buffer("W_enc", block)
        _check_rows(x, len(W_enc), f"block {block} of the dictionary", "activations")
        return x.to(W_enc) @ W_enc + self._buffer("b_enc", block)

    def decode_block(
        self,
        block: int,
        features: Sequence[Float[Tensor, "*batch _"]],
        x: Float[Tensor, "*batch d_in"] | None = None,
    ) -> Float[Tensor, "*batch d_out"]:
        """What is predicted in one block, from the features of this block and of all before it.

        Args:
            x: what the block's MLP reads; needed if the dictionary has a skip connection.
        """
        if len(features) <= block:
            raise InputError(
                f"block {block} needs the features of blocks 0 to {block}, and there are those of {len(features)}"
            )
        written = self._buffer("b_dec", block)
        for source, found in enumerate(features[: block + 1]):
            W_dec = self._buffer("W_dec", source)
            _check_rows(found, W_dec.shape[1], f"block {source} of the dictionary", "features")
            written = written + found @ W_dec[block - source]
        if not self.has_skip:
            return written
        if x is None:
            raise InputError("this dictionary has a skip connection, so it needs the activations x to decode")
        return written + x.to(written) @ self._buffer("W_skip", block).T

    def encode(self, x: Sequence[Float[Tensor, "*batch _"]]) -> PerBlock:
        """The features of every block, from what each MLP reads."""
        self._check_number(x, "activations")
        return [self.encode_block(block, rows) for block, rows in enumerate(x)]

    def decode(
        self,
        features: Sequence[Float[Tensor, "*batch _"]],
        x: Sequence[Float[Tensor, "*batch _"]] | None = None,
    ) -> PerBlock:
        """What is predicted in every block; `x` is needed if the dictionary has a skip connection."""
        self._check_number(features, "features")
        if x is not None:
            self._check_number(x, "activations")
        return [self.decode_block(block, features, None if x is None else x[block]) for block in range(self.n_blocks)]

    def forward(self, x: Sequence[Float[Tensor, "*batch _"]]) -> PerBlock:
        """ŷ of every block."""
        return self.decode(self.encode(x), x)

    def written_per_feature(self, gradient: Sequence[Float[Tensor, "*batch d_out"]]) -> PerBlock:
        """∂Σ_j⟨gradient_j, ŷ_j⟩/∂f for the features of each block: how much each would move what the gradients measure."""
        self._check_number(gradient, "gradients")
        found = []
        for block, W_dec in enumerate(self.W_dec):
            later = [moved.to(W_dec) @ directions.T for moved, directions in zip(gradient[block:], W_dec, strict=True)]
            found.append(reduce(add, later))
        return found

    def of_block(self, block: int) -> Transcoder:
        """One block's features as a transcoder of this block alone: the same features, and what they write here.

        For whatever reads one dictionary at a time, such as `top_patches`. What it leaves out are the directions in later
        blocks, and what features of earlier blocks write here.

        Raises:
            InputError: no such block.
        """
        if not isinstance(block, int) or not 0 <= block < self.n_blocks:
            raise InputError(f"the dictionary has blocks 0 to {self.n_blocks - 1}, not {short(block)}")
        return Transcoder(
            self._buffer("W_enc", block),
            self._buffer("b_enc", block),
            self._buffer("W_dec", block)[0],
            self._buffer("b_dec", block),
            self.activations[block],
            W_skip=self._buffer("W_skip", block) if self.has_skip else None,
            hook=self.hooks[block],
            hook_out=self.hooks_out[block],
            source=f"{self.source}, block {block}",
        )

    def _buffer(self, name: str, block: int) -> Tensor:
        value: Tensor = getattr(self, f"{name}_{block}")
        return value

    def _of_blocks(self, name: str) -> PerBlock:
        return [self._buffer(name, block) for block in range(self.n_blocks)]

    def _check_number(self, rows: Sequence[Tensor], what: str) -> None:
        if isinstance(rows, Tensor) or len(rows) != self.n_blocks:
            raise InputError(
                f"a cross-layer transcoder takes a list of {what}, one for each of its {self.n_blocks} blocks"
            )

    def extra_repr(self) -> str:
        reads = f"{self.hooks[0]} … {self.hooks[-1]}"
        return f"{self.n_blocks} blocks, {self.d_in} → {self.n_features} features → {self.d_out}, {reads}"


def _blocks(name: str, values: Any, n: int) -> PerBlock:
    """The tensors of each block, checked."""
    try:
        found = [read_array(f"{name} of block {block}", value) for block, value in enumerate(values)]
    except TypeError:
        raise InputError(f"{name} is a sequence with an array for each block, not {short(values)}") from None
    if len(found) != n:
        raise InputError(f"hooks= names {n} blocks, and {name} has the weights of {len(found)}")
    check_weights(((f"{name} of block {block}", value) for block, value in enumerate(found)), "the dictionary")
    return found


def _check_shapes(W_enc: PerBlock, W_dec: PerBlock) -> list[tuple[int, int, int]]:
    """d_in, the number of features and d_out of each block.

    Raises:
        InputError: shapes that do not fit each other.
    """
    n, found = len(W_enc), []
    d_in, d_out = W_enc[0].shape[:1], W_dec[0].shape[2:]
    for block, (enc, dec) in enumerate(zip(W_enc, W_dec, strict=True)):
        n_features = enc.shape[1:]
        if (enc.ndim, dec.ndim) != (2, 3) or enc.shape[:1] != d_in or dec.shape != (n - block, *n_features, *d_out):
            raise InputError(
                f"of block {block} W_enc is [d_in, features] and W_dec [{n - block}, features, d_out], its directions in "
                f"this block and the later ones; {list(enc.shape)} and {list(dec.shape)} do not fit"
            )
        found.append((*d_in, *n_features, *d_out))
    return found


def _of_block(k: int | Sequence[int] | None, block: int, n: int) -> int | None:
    if k is None or isinstance(k, int):
        return k
    if len(k) != n:
        raise InputError(f"k is one number, or one for each of {n} blocks, not {len(k)}")
    return int(k[block])


def _thresholds(threshold: Any, n: int) -> list[Any]:
    if threshold is None or isinstance(threshold, (int, float)):
        return [threshold] * n
    found = [read_array("threshold", value) for value in threshold]
    if len(found) != n:
        raise InputError(f"threshold is one number, or one or more for each of {n} blocks, not {len(found)}")
    return found


def _check_rows(rows: Tensor, width: int, where: str, what: str) -> None:
    if not isinstance(rows, Tensor) or not rows.ndim or rows.shape[-1] != width:
        raise InputError(f"{where} takes {what} as a tensor [..., {width}], not {short(rows)}")
