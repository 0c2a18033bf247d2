"""Why a head attended there: its query-key score as a sum over pairs of what nodes wrote."""

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.arguments import check_count, checked, index_of, short
from vitlens.choose.tokens import TokenSet, select_tokens
from vitlens.circuits.graphs.edges import Sources, unit_label
from vitlens.circuits.graphs.frozen_run import FrozenBlock, FrozenRun, Reads
from vitlens.circuits.graphs.graph import NO_NODES, AttributionGraph
from vitlens.circuits.graphs.graph_run import one_picture, run_of_graph
from vitlens.circuits.graphs.replacement import Transcoders, replaced_run
from vitlens.circuits.graphs.validation.matched_units import places_of
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.graph import Node
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name
from vitlens.model.parts.attention import Attention
from vitlens.model.runs.gradients import gradients_disabled
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.small_pictures import small_pictures
from vitlens.results.axes import ComponentLabel, NodeLabel, head_label
from vitlens.results.frames import Frame
from vitlens.results.result import Result

QUERY_AND_KEY = ("query", "key")


@dataclass(frozen=True, repr=False)
class AttentionContributions(Result):
    """`values` [query node, key node]: how much of a head's score, before the softmax, comes from what the one node wrote at
    the query's token and the other at the key's.

    All sum to the `score` without its `bias`, which positions add (relative ones, or masks). `heads` [side, head] is how
    much of the score came to the query's, and to the key's token through each earlier head, as the last one on the way;
    what did not come through a head is under "no head", with all biases.
    """

    score: float
    bias: float
    heads: Float[Tensor, "side head"]
    head_labels: list[ComponentLabel]

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k pairs of nodes that move the score most: "query node", "key node", "contribution".

        Raises:
            InputError: k is no count.
        """
        check_count(k, "k")
        queries, keys = self.axes.values()
        best = self.values.flatten().abs().argsort(descending=True, stable=True)[:k].tolist()
        n = len(keys)
        return Frame(
            {
                "query node": [queries[i // n] for i in best],
                "key node": [keys[i % n] for i in best],
                "contribution": self.values.flatten()[best].cpu().numpy(),
            }
        )


@leaves_state
@checked
@gradients_disabled()
def attention_contributions(
    model: HookedViT,
    images: Pictures,
    graph: AttributionGraph | None = None,
    *,
    head: str,
    query: TokenSet,
    key: TokenSet,
    transcoders: Transcoders = None,
    n_nodes: int = 100,
) -> AttentionContributions:
    """Splits a head's score for one query and one key into contributions of pairs of nodes.

    score = scale · ⟨q, k⟩ + bias is bilinear in what nodes wrote at the two tokens, with the patterns of earlier heads, the
    scales of norms (those of queries and keys too) and rotary positions as they are in the run:

        contribution(s, r) = scale · ⟨q's part from s, k's part from r⟩

    Softmax compares the scores of one query: what adds the same to all keys, such as all that goes with the keys' constant,
    does not move the head's attention.

    Args:
        images: one picture.
        graph: the units that are its nodes are shown here too; None for none.
        head: by name, such as "L3H1".
        query, key: one token each, see `select_tokens`.
        transcoders: as in `attribution_graph`; those of the graph.
        n_nodes: of each side, how many units are shown besides: those with the greatest parts in the score. All others are
            in "rest".

    Returns:
        AttentionContributions with axes query node, key node.

    Raises:
        InputError: no such head, or one of differential attention, which has two scores; not one token; a graph of another
            picture, model or dictionary.

    Source: Kamath et al. 2025 (Tracing Attention Computation), QK attributions.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> about = {"transcoders": vitlens.demo.load_demo_transcoders()}
        >>> found = vitlens.circuits.attention_contributions(
        ...     model, images[4:5], head="L5H1", query="class", key=vitlens.choose.patch(11, 9), **about
        ... )
        >>> abs(found.values.sum().item() + found.bias - found.score) < 1e-3
        True
    """
    check_count(n_nodes, "n_nodes")
    block, number = _head_of(model, head)
    if graph is None:
        picture = one_picture(model, images)
        run, replacements = replaced_run(model, picture, transcoders)
    else:
        of = run_of_graph(model, images, graph, transcoders)
        picture, run, replacements = of.picture, of.run, of.replacements
    grid = model.embed.grid(*picture.shape[-2:])
    tokens = [_one_token(model, token, name, grid) for name, token in zip(QUERY_AND_KEY, (query, key), strict=True)]
    seen = _seen(model, picture, run, block)
    before = replace(run, blocks=run.blocks[:block], reads=run.reads[:block], skips=run.skips[:block])
    sources = Sources(before, [one for one in replacements if one.block < block])
    sides = [
        _Side(before, model.blocks[block].attn, seen, number, name, token, _angles(model, grid, block))
        for name, token in zip(QUERY_AND_KEY, tokens, strict=True)
    ]
    scale = model.blocks[block].attn.attn_scale
    labels = model.cfg.token_labels(grid)
    named = [] if graph is None else [unit for unit in graph.units if unit.block is not None and unit.block < block]
    parts, axes, heads = [], {}, []
    for name, side, other in zip(QUERY_AND_KEY, sides, sides[::-1], strict=True):
        found, constant = side.parts(sources)
        shown = _shown(sources, found @ other.total, named, n_nodes)
        rest = found[: sources.n_units].sum(dim=0) - found[shown].sum(dim=0)
        parts.append(torch.cat([found[shown], found[sources.n_units :], torch.stack([constant, rest])]))
        axes[f"{name} node"] = [
            *(unit_label(*sources.at(place), labels) for place in shown.tolist()),
            *sources.labels_besides(labels),
            *(NodeLabel(kind, kind) for kind in NO_NODES),
        ]
        heads.append(side.of_heads(scale * other.total))
    values = scale * parts[0] @ parts[1].T
    score = seen["attn_scores"][number, tokens[0], tokens[1]].item()
    of_nodes = float(scale * sides[0].total @ sides[1].total)
    by_head = torch.stack(heads)
    return AttentionContributions(
        values,
        axes,
        "contribution",
        score=score,
        bias=score - of_nodes,
        heads=torch.cat([by_head, of_nodes - by_head.sum(dim=1, keepdim=True)], dim=1),
        head_labels=[
            *(head_label(b, h) for b in range(block) for h in range(model.cfg.n_heads)),
            ComponentLabel("no head", "direct"),
        ],
        pixels=small_pictures(model, picture),
        settings={
            "model": model.cfg.model_name,
            "head": str(head_label(block, number)),
            "query": labels[tokens[0]],
            "key": labels[tokens[1]],
            "frozen": "earlier attention patterns, norms, gates",
        },
    )


class _Side:
    """A query or a key of one head: its vector, and the linear map that makes it of the stream at its token."""

    def __init__(
        self,
        before: FrozenRun,
        attn: Attention,
        seen: dict[str, Tensor],
        head: int,
        name: str,
        token: int,
        angles: Tensor | None,
    ) -> None:
        self.before, self.token = before, token
        letter = name[0]
        norm = attn.q_norm if letter == "q" else attn.k_norm
        #: [d, d_head]: what the projection makes of what the block's norm lets through.
        turned = (attn.W_Q if letter == "q" else attn.W_K)[head]
        if norm is not None:
            turned = turned if not norm.centres else norm.centre(turned)
            if norm.weight is not None:
                turned = turned * (norm.weight[head] if norm.weight.ndim > 1 else norm.weight)
            turned = turned / seen[f"{letter}_norm.scale"][token].flatten(1).expand(attn.n_heads, 1)[head]
        found = seen[f"{letter}_normed" if norm is not None else letter][token, head]
        if attn.rotation is not None and angles is not None:
            found = seen[f"rot_{letter}"][token, head]
            turned = turned @ _rotation(attn, angles, token, head, before.n_tokens, turned)
        self.total = found
        block = seen["block"]
        assert isinstance(block, FrozenBlock)
        before_norm = block.block.norm_before("attn")
        self.map = turned if before_norm is None else before_norm.pull_back(turned.T / block.attn_scale[token]).T
        self.local = found - seen["resid_pre"][token] @ self.map

    def parts(self, sources: Sources) -> tuple[Float[Tensor, "source d_head"], Float[Tensor, "d_head"]]:
        """What each source wrote into the vector, and what is in it whatever they write."""
        edges, on_the_way = sources.edges_into(self._reads(self.map.T))
        return edges.T, self.local + on_the_way

    def of_heads(self, other: Float[Tensor, "d_head"]) -> Float[Tensor, "head"]:
        """How much of ⟨the vector, the other side's⟩ each earlier head wrote at the token, without biases."""
        found = []
        for pulled in self.before.pull(self._reads((self.map @ other)[None]), through_heads=False):
            if pulled.block >= 0:
                block = self.before.blocks[pulled.block]
                token = torch.tensor([self.token])
                gradient = block.pull_heads(pulled.written_by_attn[:, self.token], token)[0]
                z = block.z(self.before.seen[hook_name(pulled.block, "resid_pre")][None])[0, self.token]
                found.append((z * gradient).sum(dim=-1))
        return torch.cat(found[::-1]) if found else other.new_zeros(0)

    def _reads(self, directions: Float[Tensor, "row d"]) -> Reads:
        n = len(directions)
        final = directions.new_zeros(n, self.before.n_tokens, directions.shape[1])
        final[:, self.token] = directions
        blocks = torch.full((n,), len(self.before.blocks), device=directions.device)
        return Reads(blocks, torch.zeros_like(blocks), torch.zeros_like(directions), final)


def _rotation(
    attn: Attention, angles: Tensor, token: int, head: int, n_tokens: int, like: Tensor
) -> Float[Tensor, "d_head d_head"]:
    """The matrix by which rotary positions turn the vectors of a token."""
    width = like.shape[-1]
    one = like.new_zeros(width, n_tokens, attn.n_heads, width)
    one[torch.arange(width), token, head, torch.arange(width)] = 1
    assert attn.rotation is not None
    return attn.rotation(one, angles)[:, token, head]


def _angles(model: HookedViT, grid: tuple[int, int], block: int) -> Tensor | None:
    return model.embed.layout_of_grid(grid).angles_of(block)


def _head_of(model: HookedViT, name: str) -> tuple[int, int]:
    """The block and number of a head by name.

    Raises:
        InputError: no such head, or one with two scores.
    """
    node = Node.of(name)
    if node.kind != "head" or node.part:
        raise InputError(f'head is the name of a head, such as "L3H1", not {short(name)}')
    block = model.block_index(node.block)
    number = index_of(node.head, model.cfg.n_heads, "head")
    if model.blocks[block].attn.subtracts_patterns:
        raise InputError(
            "a head of differential attention has two scores, whose softmaxes are subtracted: neither is split"
        )
    return block, number


def _one_token(model: HookedViT, token: TokenSet, name: str, grid: tuple[int, int]) -> int:
    chosen = select_tokens(model, token, 1, grid=grid)[0].nonzero()[:, 0].tolist()
    if len(chosen) != 1:
        raise InputError(f"{name}= is one token, and {short(token)} is {len(chosen)}")
    return chosen[0]


def _seen(model: HookedViT, picture: Tensor, run: FrozenRun, block: int) -> dict[str, Any]:
    """Queries, keys and scores of a block, with what the frozen run has of it."""
    attn = model.blocks[block].attn
    sites = ["q", "k", "attn_scores"]
    sites += [
        f"{letter}_{site}"
        for letter, norm in (("q", attn.q_norm), ("k", attn.k_norm))
        for site in ("normed", "norm.scale")
        if norm is not None
    ]
    sites += ["rot_q", "rot_k"] if attn.rotation is not None else []
    names = {hook_name(block, f"attn.{site}"): site for site in sites}
    _, cache = model.run_with_cache(picture, names_filter=list(names), stop_at_layer=block + 1)
    seen: dict[str, Any] = {site: cache[name][0] for name, site in names.items()}
    return seen | {"resid_pre": run.seen[hook_name(block, "resid_pre")], "block": run.blocks[block]}


def _shown(sources: Sources, strength: Tensor, named: list[NodeLabel], n: int) -> Int[Tensor, "place"]:
    """The places of units that are named, and of the n strongest of the others."""
    strength = strength[: sources.n_units].abs().clone()
    places = places_of(sources, named).to(strength.device)
    strength[places] = 0
    strongest = strength.topk(min(n, len(strength)))
    return torch.cat([places, strongest.indices[strongest.values > 0]]).sort().values
