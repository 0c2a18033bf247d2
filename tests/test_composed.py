"""The composed models are what their names say, agree with timm, and miss no pair of properties that timm can build."""

from collections.abc import Sequence
from itertools import combinations, product

import pytest
from composed import ATTENTIONS, COMPOSED, NORMS, POOLINGS, PREFIXES, SIZES, Properties
from variants import pictures

from vitlens import HookedViT
from vitlens.model.parts.attention import DifferentialAttention
from vitlens.model.parts.block import Block, ParallelBlock, PostNormBlock
from vitlens.model.parts.linear import ParallelIn
from vitlens.model.parts.mlp import GatedMLP
from vitlens.model.parts.norm import LayerNorm, RMSNorm, SimpleNorm
from vitlens.model.parts.projections import SplitProjection
from vitlens.parity.measure import measure_port

ANY_NORM, ANY_SIZE, ANY_PREFIX = tuple(NORMS), tuple(SIZES), tuple(PREFIXES)
LEARNED_OR_NONE = ("learned", "no-positions")
NO_GATE = ("plain", "qk-norm", "differential")
#: What timm combines freely, class by class: any property of one axis with any of another.
BUILDABLE = [
    (("pre-norm", "post-norm"), tuple(ATTENTIONS), LEARNED_OR_NONE, tuple(POOLINGS), ANY_PREFIX, ("mlp", "gated-mlp")),
    (("parallel",), NO_GATE, LEARNED_OR_NONE, tuple(POOLINGS), ANY_PREFIX, ("mlp",)),
    (("branches",), ("plain",), LEARNED_OR_NONE, tuple(POOLINGS), ANY_PREFIX, ("mlp",)),
    (
        ("pre-norm", "post-norm"),
        tuple(ATTENTIONS),
        ("learned",),
        ("token",),
        ("class+distillation",),
        ("mlp", "gated-mlp"),
    ),
    (("parallel",), NO_GATE, ("learned",), ("token",), ("class+distillation",), ("mlp",)),
    (("branches",), ("plain",), ("learned",), ("token",), ("class+distillation",), ("mlp",)),
    (("pre-norm",), ("plain", "qk-norm"), ("rotary",), tuple(POOLINGS), ANY_PREFIX, ("mlp", "gated-mlp")),
    (("post-norm",), ("plain",), ("rotary",), tuple(POOLINGS), ANY_PREFIX, ("mlp", "gated-mlp")),
    (
        ("pre-norm", "post-norm"),
        ("plain", "qk-norm"),
        ("relative",),
        ("token", "average"),
        ("class", "no-prefix"),
        ("mlp",),
    ),
    (("pre-norm",), ("plain",), ("relative",), ("token", "average"), ("class",), ("gated-mlp",)),
]


def pairs(properties: Sequence[str]) -> set[tuple[tuple[int, str], tuple[int, str]]]:
    return set(combinations(enumerate(properties), 2))


def buildable() -> set[tuple[tuple[int, str], tuple[int, str]]]:
    """Every pair of properties that some model of timm has; a pool that reads the class token needs one."""
    found = set()
    for wiring, attentions, positions, poolings, prefixes, mlps in BUILDABLE:
        axes = (wiring, attentions, ANY_NORM, positions, poolings, prefixes, mlps, ANY_SIZE)
        for properties in product(*axes):
            if properties[4] != "token" or "class" in properties[5]:
                found |= pairs(properties)
    return found


def test_no_pair_is_missing():
    held = set().union(*(pairs(name.split()) for name in COMPOSED))
    assert held == buildable()
    assert len(COMPOSED) <= 25


@pytest.mark.all_types
@pytest.mark.parametrize("name", COMPOSED)
def test_a_model_is_what_its_name_says(name):
    module = COMPOSED[name]()
    model = HookedViT.from_timm(module)
    assert properties_of(model) == Properties(*name.split())
    for mode, rows in measure_port(module, model, pictures(model.cfg, 2)).items():
        for site, difference in rows.items():
            assert difference <= 1e-9, f"{mode} {site}: {difference}"


WIRINGS = {ParallelBlock: "parallel", PostNormBlock: "post-norm", Block: "pre-norm"}
PREFIX = {"register": "registers"}
KINDS = {LayerNorm: "layer-norm", RMSNorm: "rms-norm", SimpleNorm: "simple-norm"}


def properties_of(model: HookedViT) -> Properties:
    """Read from the parts of a port."""
    block, cfg = model.blocks[0], model.cfg
    attention, project = block.attn, block.attn.project
    if isinstance(project, SplitProjection) and isinstance(project.q, ParallelIn):
        wiring = "branches"
    else:
        wiring = WIRINGS[type(block)]
    if isinstance(attention, DifferentialAttention):
        kind = "differential"
    else:
        kind = "qk-norm" if attention.q_norm is not None else "gated" if attention.gate is not None else "plain"
    if attention.rotation is not None:
        positions = "rotary"
    elif attention.rel_pos is not None or model.embed.rel_pos is not None:
        positions = "relative"
    else:
        positions = "no-positions" if model.embed.pos_embed is None else "learned"
    prefix = dict.fromkeys(token.split()[0] for token in cfg.prefix_tokens)
    if cfg.patch_size[0] != cfg.patch_size[1]:
        size = "wide-patches"
    else:
        size = "square" if cfg.image_size[0] == cfg.image_size[1] else "wide-picture"
    return Properties(
        wiring=wiring,
        attention=kind,
        norm=KINDS[type(block.ln1)],
        positions=positions,
        pooling={timms: ours for ours, timms in POOLINGS.items()}[cfg.pool],
        prefix="+".join(PREFIX.get(token, token) for token in prefix) or "no-prefix",
        mlp="gated-mlp" if isinstance(block.mlp, GatedMLP) else "mlp",
        size=size,
    )
