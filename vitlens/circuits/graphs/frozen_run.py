"""A picture's run as a linear map from what is written to the stream to what is read of it, its statistics frozen."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.attribution.run import Wanted, attribution_run, unchanged, wanted_embedding
from vitlens.features.places import mlp_hooks
from vitlens.model.class_space.readout import Readout
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name
from vitlens.model.parts.block import AnyBlock
from vitlens.model.parts.mlp import GatedMLP

StreamRows = Float[Tensor, "row token d"]


class Pulled(NamedTuple):
    """Gradients of a batch of targets by the stream: after a block's MLP has written, and after its attention has.

    Block −1 stands for the stream that enters block 0. Only the first rows are there, those of targets that read later.
    """

    block: int
    written_by_mlp: StreamRows
    written_by_attn: StreamRows


@dataclass(frozen=True)
class Reads:
    """What a batch of targets reads: row i the direction i of what the MLP of block i reads at one token.

    Rows are sorted by block, the last block first. The first rows may read the last stream instead, `final` of them; their
    block is the number of blocks.
    """

    blocks: Int[Tensor, "row"]
    tokens: Int[Tensor, "row"]
    directions: Float[Tensor, "row d"]
    final: Float[Tensor, "logit token d"]

    def n_behind(self, block: int) -> int:
        """How many rows read behind this block's MLP."""
        return int((self.blocks > block).sum())


@dataclass(frozen=True)
class FrozenBlock:
    """One block's attention, and the norm before its MLP, as linear maps: pattern, scales and gate are those of a run."""

    block: AnyBlock
    pattern: Float[Tensor, "head query key"]
    attn_scale: Float[Tensor, "token 1"]
    mlp_scale: Float[Tensor, "token 1"]
    head_scale: Float[Tensor, "token head 1"] | None
    z_scale: Float[Tensor, "token 1"] | None
    gate: Float[Tensor, "token head d_head"] | None

    def attend(self, x: StreamRows) -> StreamRows:
        """What attention adds to the stream for this part of the stream; biases are left out."""
        written = einsum(self.z(x), self.block.attn.W_O, "r t h e, h e d -> r t d")
        norm = self.block.norm_behind("attn")
        return written if norm is None else norm.linear_part(written) / self.attn_scale

    def z(self, x: StreamRows) -> Float[Tensor, "row token head d_head"]:
        """What multiplies W_O, for this part of the stream."""
        attn = self.block.attn
        v = einsum(self.before_heads(x), attn.W_V, "r t d, h d e -> r t h e")
        z = einsum(self.pattern, v, "h q k, r k h e -> r q h e")
        if attn.head_norm is not None and self.head_scale is not None:
            z = attn.head_norm.linear_part(z) / self.head_scale * attn.head_factor
        if attn.ln_z is not None and self.z_scale is not None:
            z = (attn.ln_z.linear_part(z.flatten(-2)) / self.z_scale).unflatten(-1, z.shape[-2:])
        return z if self.gate is None else z * self.gate

    def before_heads(self, x: StreamRows) -> StreamRows:
        """What queries, keys and values are projections of."""
        norm = self.block.norm_before("attn")
        return x if norm is None else norm.linear_part(x) / self.attn_scale

    def pull_attend(self, gradient: StreamRows) -> StreamRows:
        """The transpose of `attend`."""
        return self.pull_z(self.pull_heads(gradient, slice(None)))

    def pull_heads(
        self, gradient: Float[Tensor, "row *token d"], tokens: Int[Tensor, "row"] | slice
    ) -> Float[Tensor, "row *token head d_head"]:
        """The gradient by what multiplies W_O, from that by what attention adds to the stream at these tokens."""
        norm = self.block.norm_behind("attn")
        if norm is not None:
            gradient = norm.pull_back(gradient / self.attn_scale[tokens])
        return einsum(gradient, self.block.attn.W_O, "... d, h e d -> ... h e")

    def pull_z(self, gradient: Float[Tensor, "row token head d_head"]) -> StreamRows:
        """The transpose of `z`."""
        attn = self.block.attn
        if self.gate is not None:
            gradient = gradient * self.gate
        if attn.ln_z is not None and self.z_scale is not None:
            flat = attn.ln_z.pull_back(gradient.flatten(-2) / self.z_scale)
            gradient = flat.unflatten(-1, gradient.shape[-2:])
        if attn.head_norm is not None and self.head_scale is not None:
            gradient = attn.head_norm.pull_back(gradient / self.head_scale * attn.head_factor)
        of_values = einsum(self.pattern, gradient, "h q k, r q h e -> r k h e")
        read = einsum(of_values, attn.W_V, "r t h e, h d e -> r t d")
        before = self.block.norm_before("attn")
        return read if before is None else before.pull_back(read / self.attn_scale)

    def read(self, x: StreamRows, is_normalised: bool) -> StreamRows:
        """What the MLP reads of this part of the stream: the norm up to `hook_normalized`, or the stream itself."""
        norm = self.block.norm_before("mlp")
        return norm.centre(x) / self.mlp_scale if norm is not None and is_normalised else x

    def pull_read(
        self, direction: Float[Tensor, "row *token d"], tokens: Int[Tensor, "row"] | slice, is_normalised: bool
    ) -> Float[Tensor, "row *token d"]:
        """The transpose of `read`, at these tokens."""
        norm = self.block.norm_before("mlp")
        return norm.centre(direction / self.mlp_scale[tokens]) if norm is not None and is_normalised else direction


@dataclass(frozen=True)
class Skip:
    """A transcoder's skip connection, which passes what it reads on: scale · x Wᵀ."""

    W: Float[Tensor, "d_out d_in"]
    scale: Float[Tensor, "token 1"]


@dataclass(frozen=True)
class FrozenRun:
    """One picture's run. All that is not linear between the MLPs is frozen; what MLPs write is what enters.

    `seen` are activations of the run by hook name, without the axis of pictures; `reads` the hook point at which
    each MLP is read; `skips` what a transcoder with a skip connection passes on.
    """

    model: HookedViT
    blocks: list[FrozenBlock]
    seen: dict[str, Tensor]
    logits: Float[Tensor, "classes"]
    readouts: list[Readout]
    reads: list[str]
    skips: list[Skip | None]

    @property
    def n_tokens(self) -> int:
        return self.mlp_out(0).shape[0]

    def mlp_out(self, block: int) -> Float[Tensor, "token d"]:
        return self.seen[hook_name(block, "mlp_out")]

    def is_normalised(self, block: int) -> bool:
        return self.reads[block].endswith("hook_normalized")

    def read_at(self, targets: Reads) -> Float[Tensor, "row d"]:
        """What the MLPs of the targets' blocks read at the targets' tokens."""
        places = zip(targets.blocks.tolist(), targets.tokens.tolist(), strict=True)
        return torch.stack([self.seen[self.reads[block]][token] for block, token in places])

    def attn_constant(self, block: int) -> Float[Tensor, "token d"]:
        """What attention writes whatever the stream: the biases of its norm, values and output."""
        stream = self.seen[hook_name(block, "resid_pre")]
        return self.seen[hook_name(block, "attn_out")] - self.blocks[block].attend(stream[None])[0]

    def embeddings(self) -> dict[str, Float[Tensor, "token d"]]:
        """What the stream that enters block 0 is the sum of."""
        return {name.removeprefix("hook_"): self.seen[name] for name in wanted_embedding(self.model, unchanged)}

    def pull(self, targets: Reads, *, through_heads: bool = True) -> Iterator[Pulled]:
        """The gradients of the targets by what is written, from the last block that they read behind to the input.

        Without `through_heads` only along paths that stay at their token: the stream, and transcoders' skip connections.
        """
        n_rows = len(targets.blocks)
        gradient = targets.directions.new_zeros(n_rows, *self.mlp_out(0).shape)
        gradient[: len(targets.final)] = targets.final
        for index in range(int(targets.blocks[0]), -1, -1):
            if index == len(self.blocks):
                continue
            block = self.blocks[index]
            behind, here = targets.n_behind(index), targets.n_behind(index - 1)
            of_mlp = gradient[:behind]
            before = gradient[:here].clone()
            skip = self.skips[index]
            if skip is not None:
                passed = (of_mlp * skip.scale) @ skip.W
                before[:behind] += block.pull_read(passed, slice(None), self.is_normalised(index))
            reading = torch.arange(behind, here, device=before.device)
            tokens = targets.tokens[behind:here]
            before[reading, tokens] += block.pull_read(
                targets.directions[behind:here], tokens, self.is_normalised(index)
            )
            # In parallel blocks MLP and attention read the same stream, and both write behind it.
            of_attn = before if self.blocks[index].block.has_middle else gradient[:here]
            yield Pulled(index, of_mlp, of_attn)
            if through_heads:
                before = before + block.pull_attend(of_attn)
            gradient = torch.cat([before, gradient[here:]])
        yield Pulled(-1, gradient, gradient)

    def push(self, written: dict[int, StreamRows]) -> Iterator[tuple[int, StreamRows, StreamRows]]:
        """The parts of the stream that come from what is written, block by block from the first that writes on: before its
        attention, and as its MLP reads the stream.

        Args:
            written: by block what is written in the place of its MLP; under −1 what enters block 0.
        """
        like = next(iter(written.values()))
        stream = written.get(-1, torch.zeros_like(like))
        for index, block in enumerate(self.blocks):
            if index < min(written):
                continue
            attended = block.attend(stream)
            middle = stream + attended if block.block.has_middle else stream
            yield index, stream, middle
            stream = stream + attended
            skip = self.skips[index]
            if skip is not None:
                stream = stream + block.read(middle, self.is_normalised(index)) @ skip.W.T * skip.scale
            if index in written:
                stream = stream + written[index]


def freeze(model: HookedViT, image: Float[Tensor, "1 channels height width"], reads: list[str]) -> FrozenRun:
    """Runs the model on one picture, and keeps what its frozen run needs.

    Raises:
        InputError: hooks of the user edit what the frozen run works out again.
    """
    kept, stream, logits = attribution_run(model, image, _wanted(model, reads), "graph")
    seen = {name: activation[0] for name, activation in kept.items()}
    return FrozenRun(
        model,
        [_frozen_block(block, index, seen) for index, block in enumerate(model.blocks)],
        seen,
        logits[0],
        model.linear_readouts(stream),
        reads,
        [None] * model.cfg.n_layers,
    )


def usual_reads(model: HookedViT) -> list[str]:
    """What each MLP reads."""
    return [hook for hook, _ in mlp_hooks(model)]


def _wanted(model: HookedViT, reads: list[str]) -> Wanted:
    wanted = wanted_embedding(model, unchanged)
    for index, block in enumerate(model.blocks):
        sites = ["resid_pre", "attn.pattern", "ln1.scale", "attn_out", "mlp_out", "mlp.post"]
        sites.append("mlp.pre_linear" if isinstance(block.mlp, GatedMLP) else "mlp.pre")
        if block.norm_of("mlp") is not block.ln1:
            sites.append("ln2.scale")
        if block.attn.head_norm is not None:
            sites.append("attn.sub_norm.scale")
        if block.attn.ln_z is not None:
            sites.append("attn.ln_z.scale")
        if block.attn.gate is not None:
            sites.append("attn.gate")
        wanted |= {hook_name(index, site): unchanged for site in sites}
    return wanted | {name: unchanged for name in reads}


def _frozen_block(block: AnyBlock, index: int, seen: dict[str, Tensor]) -> FrozenBlock:
    def of(site: str) -> Tensor | None:
        return seen.get(hook_name(index, site))

    of_mlp = "ln1" if block.norm_of("mlp") is block.ln1 else "ln2"
    pattern, gate = seen[hook_name(index, "attn.pattern")], of("attn.gate")
    return FrozenBlock(
        block,
        pattern,
        seen[hook_name(index, "ln1.scale")],
        seen[hook_name(index, f"{of_mlp}.scale")],
        of("attn.sub_norm.scale"),
        of("attn.ln_z.scale"),
        # Where a hook silences a head, one gate shuts it at all tokens.
        None if gate is None else gate.expand(pattern.shape[-1], -1, -1),
    )
