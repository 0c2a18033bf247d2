"""The hooks of a description: each activation is reduced to numbers during the forward and not kept."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.description.attention_facts import attention_facts, shares
from vitlens.description.similarity import pattern_cosines
from vitlens.description.sinks import SINK_KINDS, SinkRule, sink_facts
from vitlens.description.token_norms import NormSums, stream_norms, stream_outliers
from vitlens.description.tokens import OUTLIER, TokenLayout, at_least_single
from vitlens.description.top_pictures import TopPictures, head_writes, mlp_writes
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Reader, hook_name

#: The most bytes for the patterns of one forward, which head similarity needs in memory together.
PATTERN_BYTES = 512 * 2**20


@dataclass
class Observer:
    """Runs batches through a model and adds up what a description tells; `facts` are sums over pictures."""

    model: HookedViT
    layout: TokenLayout
    norms: NormSums
    rule: SinkRule
    queries: Int[Tensor, "query"]
    facts: dict[str, Float[Tensor, "block head"]] = field(default_factory=dict)
    events: Int[Tensor, "kind block head"] = field(init=False)
    sink_tokens: Int[Tensor, "block head kind"] = field(init=False)
    cosines: Float[Tensor, "map map"] = field(init=False)
    tops: TopPictures = field(init=False)

    def __post_init__(self) -> None:
        blocks, heads = self.model.cfg.n_layers, self.model.cfg.n_heads
        self.events = torch.zeros(len(SINK_KINDS), blocks, heads, dtype=torch.long)
        self.sink_tokens = torch.zeros(blocks, heads, len(self.sink_token_kinds), dtype=torch.long)
        self.cosines = torch.zeros(blocks * heads, blocks * heads, dtype=torch.float64)
        self.tops = TopPictures(blocks, heads + 1)

    @property
    def sink_token_kinds(self) -> list[str]:
        """The kinds of single tokens: outlier patches are told from the others."""
        return [*self.layout.kinds, OUTLIER]

    def rows(self, asked: int) -> int:
        """How many pictures a forward may have."""
        cfg = self.model.cfg
        kept = cfg.n_layers * cfg.n_heads * len(self.queries) * len(self.layout.kind_of)
        return max(1, min(asked, PATTERN_BYTES // (kept * torch.empty((), dtype=self.model.dtype).element_size())))

    def run(self, images: Float[Tensor, "image channels height width"]) -> tuple[Tensor, Tensor]:
        """One forward: the norms [image, block, tokens] and the read states [image, block, kind, d] of its pictures."""
        run = _Run(self)
        with torch.no_grad():
            self.model.run_with_hooks(images, fwd_hooks=run.hooks(), stop_at_layer=self.model.cfg.n_layers)
        self.cosines += pattern_cosines(run.patterns)
        norms = torch.stack(run.norms, dim=1)
        self.norms.add(norms)
        sizes, patches = (torch.stack(parts, dim=1) for parts in zip(*run.writes, strict=True))
        self.tops.add(self.model, images, sizes, patches)
        return norms, torch.stack(run.states, dim=1)


class _Run:
    """What the hooks of one forward hand to each other."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.patterns: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.states: list[Tensor] = []
        self.writes: list[tuple[Tensor, Tensor]] = []
        self.of_heads = self.of_mlp = (torch.empty(0), torch.empty(0))
        self.outlier = torch.empty(0)
        self.v = torch.empty(0)

    def hooks(self) -> list[Any]:
        reads = {"resid_pre": self._enter, "attn.v": self._value, "attn.pattern": self._pattern,
                 "mlp_out": self._mlp, "resid_post": self._leave}  # fmt: skip
        blocks = range(self.observer.model.cfg.n_layers)
        return [
            (hook_name(block, site), Reader(partial(_call, read, block)))
            for block in blocks
            for site, read in reads.items()
        ]

    def _enter(self, resid: Tensor, block: int) -> None:
        self.outlier = stream_outliers(resid, self.observer.layout.n_prefix, self.observer.norms.outlier_threshold)

    def _value(self, v: Tensor, block: int) -> None:
        self.v = at_least_single(v)

    def _pattern(self, pattern: Tensor, block: int) -> None:
        seen, attn = self.observer, self.observer.model.blocks[block].attn
        self.patterns.append(pattern[:, :, seen.queries].clone())
        pattern = at_least_single(pattern)
        received = shares(pattern) if attn.subtracts_patterns else pattern
        layout, W_O = seen.layout, attn.W_O.to(pattern.dtype)
        of_sinks = sink_facts(pattern, received, self.v, W_O, seen.rule, layout.n_prefix, layout.class_token)
        facts = attention_facts(received, seen.layout, self.outlier) | of_sinks.columns()
        for name, of_pictures in facts.items():
            shape = seen.model.cfg.n_layers, seen.model.cfg.n_heads
            total = seen.facts.setdefault(name, torch.zeros(shape, dtype=torch.float64))
            total[block] += of_pictures.sum(dim=0).cpu().double()
        self.of_heads = head_writes(pattern, self.v, W_O, layout)
        seen.events[:, block] += seen.rule.events(of_sinks).sum(dim=1).cpu()
        kinds = seen.layout.kind_of[of_sinks.token]
        is_patch = of_sinks.token >= seen.layout.n_prefix
        place = (of_sinks.token - seen.layout.n_prefix).clamp(min=0)
        kinds[is_patch & self.outlier.gather(1, place)] = len(seen.layout.kinds)
        one_hot = torch.nn.functional.one_hot(kinds, len(seen.sink_token_kinds))
        seen.sink_tokens[block] += one_hot.sum(dim=0).cpu()

    def _mlp(self, out: Tensor, block: int) -> None:
        self.of_mlp = mlp_writes(at_least_single(out), self.observer.layout)

    def _leave(self, resid: Tensor, block: int) -> None:
        layout = self.observer.layout
        sizes, patches = (
            torch.cat([head, mlp[:, None]], dim=1) for head, mlp in zip(self.of_heads, self.of_mlp, strict=True)
        )
        self.writes.append((sizes, patches))
        self.norms.append(stream_norms(resid))
        self.states.append(read_states(resid, layout))


def read_states(resid: Float[Tensor, "image tokens d"], layout: TokenLayout) -> Float[Tensor, "image kind d"]:
    """What CKA compares: the mean over the patches and, where there is one, the class token."""
    states = [resid[:, layout.n_prefix :].mean(dim=1)]
    if layout.class_token is not None:
        states.append(resid[:, layout.class_token])
    return torch.stack(states, dim=1)


def _call(read: Any, block: int, activation: Tensor, hook: Any) -> None:
    read(activation.detach(), block)
