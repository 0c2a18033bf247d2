"""Follows the values of one block to the logit, with attention pattern, norms and gates frozen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from vitlens.attribution.run import Kept
from vitlens.errors import InputError
from vitlens.model.class_space.readout import ChosenReadout
from vitlens.model.hooks.hook_points import hook_name
from vitlens.model.parts.attention import Attention
from vitlens.model.parts.block import AnyBlock


@dataclass(frozen=True)
class ValueRoute:
    """A part of the way from the values v of one block to the logit; the parts' shares sum to the heads'.

    share_h = Σ_j ⟨directions_h, reach_hj ∘ v_hj⟩ with reach_hj = Σ_q opening_hq pattern_hqj. `pattern` is A, over the
    scale of differential attention's own norm where there is one. `opening` is the weight of the query in the logit, over
    the scales that divide behind the heads, times the gate: its last axis is 1 where there is none. If the norm
    after the heads `centres`, each head loses its share of the mean over heads.
    """

    pattern: Float[Tensor, "image head query source"]
    opening: Float[Tensor, "image #head query #d_head"]
    reach: Float[Tensor, "image head source #d_head"]
    directions: Float[Tensor, "#image class head d_head"]
    centres: bool

    def by_source(self, v: Float[Tensor, "image source head d_head"]) -> Float[Tensor, "image class head source"]:
        """The share of what each head fetched from each source."""
        fetched = self.reach * rearrange(v, "i j h e -> i h j e")
        if self.centres:
            mean = einsum(self.pattern, v.mean(dim=-1), "i h q j, i j h -> i q j") / v.shape[2]
            fetched = fetched - einsum(self.opening, mean, "i h q e, i q j -> i h j e")
        return einsum(fetched, self.directions, "i h j e, i c h e -> i c h j")

    def by_unit(
        self, z: Float[Tensor, "image source unit width"], to_values: Float[Tensor, "unit width head d_head"]
    ) -> Float[Tensor, "image class head unit"]:
        """The share of each unit's part z to_values of the values: pooled over sources before it is multiplied out."""
        pooled = einsum(self.reach, z, "i h j e, i j k f -> i h e k f")
        fetched = einsum(pooled, to_values, "i h e k f, k f h e -> i k h e")
        if self.centres:
            mean = einsum(z, to_values.mean(dim=-1), "i j k f, k f h -> i j k h")
            mean = einsum(self.pattern, mean, "i h q j, i j k h -> i q k") / to_values.shape[2]
            fetched = fetched - einsum(self.opening, mean, "i h q e, i q k -> i k h e")
        return einsum(fetched, self.directions, "i k h e, i c h e -> i c h k")


def value_routes(block: AnyBlock, index: int, kept: Kept, readouts: Sequence[ChosenReadout]) -> Iterator[ValueRoute]:
    """The routes of a block, one for each group of each readout; `through_sub_norm` is what they take as values."""
    attn = block.attn
    pattern, gate = kept[hook_name(index, "attn.pattern")], kept.get(hook_name(index, "attn.gate"))
    for reader in readouts:
        rows = pattern[:, :, reader.tokens]
        if attn.head_norm is not None:
            scale = kept[hook_name(index, "attn.sub_norm.scale")][:, reader.tokens]
            rows = rows / rearrange(scale, "i q h 1 -> i h q 1")
        opening = _openings(block, index, kept, reader)
        directions = _directions(block, reader)
        if attn.ln_z is not None:
            scale = kept[hook_name(index, "attn.ln_z.scale")][:, reader.tokens]
            opening = opening / rearrange(scale, "i q 1 -> i 1 1 q")
            if attn.ln_z.weight is not None:
                directions = directions * attn.ln_z.weight.unflatten(0, (attn.n_heads, -1))
        opening = opening[..., None]
        if gate is not None:
            opening = opening * rearrange(gate[:, reader.tokens], "i q h e -> i 1 h q e")
        # Without a gate all groups' reach is one small product; with one, a group at a time is as large as the values.
        for start in range(0, opening.shape[1], 1 if gate is not None else opening.shape[1]):
            some = opening[:, start : None if gate is None else start + 1]
            reach = einsum(rows, some, "i h q j, i g h q e -> i g h j e")
            for group in range(some.shape[1]):
                yield ValueRoute(
                    rows,
                    some[:, group],
                    reach[:, group],
                    directions[:, start + group],
                    attn.ln_z is not None and attn.ln_z.centres,
                )


def shares_of_biases(
    block: AnyBlock, index: int, kept: Kept, readouts: Sequence[ChosenReadout]
) -> Float[Tensor, "image class head"] | None:
    """What the bias of the norm behind the heads writes, which was fetched from nowhere; None where there is none."""
    attn = block.attn
    if attn.ln_z is None or attn.ln_z.bias is None:
        return None
    gate = kept.get(hook_name(index, "attn.gate"))
    bias = attn.ln_z.bias.unflatten(0, (attn.n_heads, -1))
    shares = []
    for reader in readouts:
        written = _openings(block, index, kept, reader)[:, :, 0, :, None, None] * bias
        if gate is not None:
            written = written * gate[:, None, reader.tokens]
        shares.append(einsum(written, _directions(block, reader), "i g q h e, i g c h e -> i c h"))
    return torch.stack(shares).sum(dim=0)


def through_sub_norm(attn: Attention, values: Float[Tensor, "*rest d_head"]) -> Float[Tensor, "*rest d_head"]:
    """Values behind the linear part of differential attention's norm, which each head has for itself.

    Raises:
        InputError: that norm adds a bias.
    """
    norm = attn.head_norm
    if norm is None:
        return values
    if norm.bias is not None:
        raise InputError(
            "the norm inside this differential attention adds a bias, which no source token wrote: use unit=\"head\""
        )  # fmt: skip
    return norm.linear_part(values) * attn.head_factor


def _openings(
    block: AnyBlock, index: int, kept: Kept, reader: ChosenReadout
) -> Float[Tensor, "image group 1 query"]:  # fmt: skip
    """The weight of each query in the logit, divided by the scale of a norm after the attention."""
    weights = reader.weights
    if block.norms_behind:
        scale = kept[hook_name(index, "ln1.scale")][:, reader.tokens]
        weights = weights / rearrange(scale, "i q 1 -> i 1 q")
    return weights[:, :, None]


def _directions(block: AnyBlock, reader: ChosenReadout) -> Float[Tensor, "image group class head d_head"]:
    """The classes' directions as hook_z sees them."""
    norm, W_O = block.norm_behind("attn"), block.attn.W_O
    if norm is not None:
        W_O = norm.linear_part(W_O)
    return einsum(reader.directions, W_O, "i g c d, h e d -> i g c h e")
