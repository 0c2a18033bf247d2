"""Finds attention sinks and their kind: no-op (keys that write almost nothing) or broadcast (one vector for all tokens)."""

import math
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

#: The kinds of sinks, in the order of `SinkRule.events`.
SINK_KINDS = ("no-op", "broadcast", "other")


@dataclass(frozen=True)
class SinkRule:
    """Decides whether a head has a sink in a picture, and of which kind.

    The sink's keys are the key that receives most attention, and those of the next keys (up to the share `keys` of all
    tokens) that receive at least `times` the attention of the median key. There is a sink if at least the share `queries` of
    all tokens give at least `attention` to these keys together. It is a "no-op" if the output of these keys is on average
    at most `no_op` times as long as that of the other keys: the head then writes almost nothing. It is a "broadcast" if that
    ratio is at least `broadcast` and the head's output has a stable rank of at most `rank`: all tokens receive the same
    vector. Otherwise it is "other".

    With `keys=0.0` the sink is a single key, as in the paper. In trained ViTs one no-op can be shared by several outlier
    patches, such as the four corners in the ImageNet ViT-Ti/16, which no single key shows.

    Source: Fesser, Jacobs et al. 2026 (arXiv:2606.08105), definition 1 with ε = 0.5 for 90 % of the queries, and the
    thresholds of its code; sets of keys are ours.
    """

    keys: float = 0.05
    times: float = 10.0
    attention: float = 0.5
    queries: float = 0.9
    no_op: float = 0.2
    broadcast: float = 0.5
    rank: float = 1.5

    def most_keys(self, n_tokens: int) -> int:
        """How many keys a sink may have."""
        return max(1, math.ceil(self.keys * n_tokens))

    def events(self, facts: "SinkFacts") -> Bool[Tensor, "kind image head"]:
        """Which heads have a sink of each of `SINK_KINDS` in which pictures."""
        sink = facts.routed >= self.queries
        no_op = sink & (facts.value_ratio <= self.no_op)
        broadcast = sink & (facts.value_ratio >= self.broadcast) & (facts.stable_rank <= self.rank)
        return torch.stack([no_op, broadcast, sink & ~no_op & ~broadcast])


@dataclass(frozen=True)
class SinkFacts:
    """The strongest keys of every head in every picture, and what they do; see `sink_facts`."""

    token: Int[Tensor, "image head"]
    n_keys: Int[Tensor, "image head"]
    mass: Float[Tensor, "image head"]
    patch_mass: Float[Tensor, "image head"]
    class_mass: Float[Tensor, "image head"] | None
    concentration: Float[Tensor, "image head"]
    routed: Float[Tensor, "image head"]
    value_ratio: Float[Tensor, "image head"]
    explained: Float[Tensor, "image head"]
    stable_rank: Float[Tensor, "image head"]

    def columns(self) -> dict[str, Float[Tensor, "image head"]]:
        of_class = {} if self.class_mass is None else {"sink_class_mass": self.class_mass}
        return {
            "sink_keys": self.n_keys.to(self.mass.dtype),
            "sink_mass": self.mass,
            "sink_concentration": self.concentration,
            "sink_routed": self.routed,
            "sink_value_ratio": self.value_ratio,
            "sink_explained": self.explained,
            "stable_rank": self.stable_rank,
            "sink_patch_mass": self.patch_mass,
            **of_class,
        }


def sink_facts(
    pattern: Float[Tensor, "image head query tokens"],
    received: Float[Tensor, "image head query tokens"],
    v: Float[Tensor, "image tokens head d_head"],
    W_O: Float[Tensor, "head d_head d"],
    rule: SinkRule,
    n_prefix: int = 0,
    class_token: int | None = None,
) -> SinkFacts:
    """What every head's strongest keys receive and write.

    With c_j = mean_i A_ij, S the sink's keys (`SinkRule`), u_j = v_j W_O what a key offers to write and U = A u what the
    head writes (before a norm or gate behind the mixing, where there is one): `token` = argmax_j c_j; `mass` = Σ_S c_s;
    `patch_mass` and `class_mass`: the same of the patches' rows, Σ_S A_is on average over patches i, and of the class
    token's row, since a sink that all patches attend to need not be the class token's; `concentration` = max_j c_j /
    median_j c_j; `routed`: the share of queries i with Σ_S A_is ≥ `rule.attention`; `value_ratio` =
    (Σ_S c_s |u_s| / Σ_S c_s) / mean_{j∉S} |u_j|; `explained` = 1 − |U − A_S u_S|² / |U|², the share of the output's energy
    that the sink alone explains (negative where it writes against the rest); `stable_rank` = |U|² / σ₁(U)², 1 where all
    tokens are given one direction.

    Args:
        pattern: the pattern itself, which may be negative.
        received: the same as shares, of which the sums c are taken.
        n_prefix: how many tokens come before the patches.
        class_token: where the class token stands, if there is one.

    Source: Fesser, Jacobs et al. 2026 (arXiv:2606.08105), whose diagnostics these are for a single key.
    """
    tiny = torch.finfo(pattern.dtype).tiny
    mean = received.mean(dim=2)
    median = mean.median(dim=-1, keepdim=True).values.clamp(min=tiny)
    strongest, keys = mean.topk(rule.most_keys(mean.shape[-1]), dim=-1)
    counted = (strongest >= rule.times * median) | (torch.arange(keys.shape[-1], device=keys.device) == 0)
    weights = strongest * counted
    at_keys = keys[:, :, None].expand(-1, -1, received.shape[2], -1)
    from_queries = einsum(received.gather(-1, at_keys), counted.to(mean.dtype), "b h i k, b h k -> b h i")
    # Lengths behind W_O without a vector of the model's width for every key: |v W|² = v (W Wᵀ) vᵀ.
    gram = einsum(W_O, W_O, "h e d, h f d -> h e f")
    values = rearrange(v, "b t h e -> b h t e")
    lengths = einsum(values, gram, values, "b h t e, h e f, b h t f -> b h t").clamp(min=0).sqrt()
    of_keys = lengths.gather(-1, keys)
    others = (lengths.sum(dim=-1) - (of_keys * counted).sum(dim=-1)) / (lengths.shape[-1] - counted.sum(dim=-1))
    mixed = pattern @ values
    of_values = values.gather(2, keys[..., None].expand(-1, -1, -1, values.shape[-1])) * counted[..., None]
    without_sink = mixed - pattern.gather(-1, at_keys) @ of_values
    energy = _energy(mixed, gram)
    largest = _largest(einsum(mixed, mixed, "b h t e, b h t f -> b h e f"), gram)
    return SinkFacts(
        token=keys[..., 0],
        n_keys=counted.sum(dim=-1),
        mass=weights.sum(dim=-1),
        patch_mass=from_queries[:, :, n_prefix:].mean(dim=-1),
        class_mass=None if class_token is None else from_queries[:, :, class_token],
        concentration=strongest[..., 0] / median[..., 0],
        routed=(from_queries >= rule.attention).to(mean.dtype).mean(dim=-1),
        value_ratio=(weights * of_keys).sum(dim=-1) / weights.sum(dim=-1) / others,
        explained=1 - _energy(without_sink, gram) / energy,
        stable_rank=energy / largest.to(energy),
    )


def _energy(
    rows: Float[Tensor, "image head tokens d_head"], gram: Float[Tensor, "head d_head d_head"]
) -> Float[Tensor, "image head"]:
    """Σ |row W|² with gram = W Wᵀ."""
    return einsum(rows, gram, rows, "b h t e, h e f, b h t f -> b h")


def _largest(
    second: Float[Tensor, "image head d_head d_head"], gram: Float[Tensor, "head d_head d_head"]
) -> Float[Tensor, "image head"]:
    """The largest eigenvalue of Wᵀ M W, with M = `second` and gram = W Wᵀ, from a matrix of the head's width."""
    values, vectors = torch.linalg.eigh(gram.cpu().double())
    root = einsum(vectors, values.clamp(min=0).sqrt(), vectors, "h e k, h k, h f k -> h e f")
    return torch.linalg.eigvalsh(root @ second.cpu().double() @ root)[..., -1]
