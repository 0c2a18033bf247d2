"""Reads which parts of a model an edit is about, and finds the hook points at which it takes place."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitlens.arguments import index_of, short
from vitlens.errors import InputError
from vitlens.model.graph import read_head
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import NO_TOKENS, hook_name, resolve_names

PartName = str | tuple[int, int]
PartNames = PartName | Sequence[PartName]

_MLP = re.compile(r"L(\d+) (mlp|attn)")
_NEURON = re.compile(r"L(\d+) neuron (\d+)")
ALL_WRITERS = "writers"
CLASSIFIER = "classifier"
KNOWN = (
    'a part is a head ("L2H1" or (2, 1)), "L3 mlp", "L3 attn", "L3 neuron 17", "embed" (what enters block 0), "classifier" '
    '(what the classifier reads), "writers" (all that write to the stream), or the name of a hook point'
)


@dataclass(frozen=True)
class Part:
    """A part by its name: the hook point of what it writes or is, and there its head or neuron."""

    name: str
    hook: str
    unit: int | None = None


def read_parts(model: HookedViT, parts: PartNames, *, in_stream: bool = False) -> list[Part]:
    """The parts of these names, each once.

    Args:
        in_stream: take a head where its output has the stream's width (`hook_result`), and not before its W_O (`hook_z`).

    Raises:
        InputError: no part, or one that the model does not have.
    """
    one = isinstance(parts, str) or read_head(parts) is not None
    if not one and not isinstance(parts, (list, tuple)):
        raise InputError(f"{KNOWN}, or a list of them, not {short(parts)}")
    wanted: list[Any] = [parts] if one else list(parts)
    if not wanted:
        raise InputError("the list of parts is empty")
    found = [part for name in wanted for part in _read(model, name, in_stream)]
    return list(dict.fromkeys(found))


def classifier_hook(model: HookedViT) -> str:
    """The hook point of what the classifier reads.

    Raises:
        InputError: a distilled model, whose two classifiers read different vectors.
    """
    if model.is_distilled:
        raise InputError(
            f"{model.cfg.model_name} has two classifiers that read different vectors: name the hook point, hook_pooled or "
            "hook_pooled_dist"
        )
    return "hook_pooled" if model.fc_norm is None else "fc_norm.hook_normalized"


def _read(model: HookedViT, name: Any, in_stream: bool) -> list[Part]:
    blocks = model.cfg.n_layers
    head = read_head(name)
    if head is not None:
        block = index_of(head[0], blocks, "block", model.cfg.model_name)
        number = index_of(head[1], model.cfg.n_heads, "head")
        return [Part(f"L{block}H{number}", hook_name(block, "attn.result" if in_stream else "attn.z"), number)]
    if not isinstance(name, str):
        raise InputError(f"{KNOWN}, not {short(name)}")
    if name == ALL_WRITERS:
        each = [f"L{block} {part}" for block in range(blocks) for part in ("attn", "mlp")]
        return [part for writer in ("embed", *each) for part in _read(model, writer, in_stream)]
    if name == "embed":
        return [Part(name, "blocks.0.hook_resid_pre")]
    if name == CLASSIFIER:
        return [Part(name, classifier_hook(model))]
    if found := _MLP.fullmatch(name):
        block = index_of(int(found[1]), blocks, "block", model.cfg.model_name)
        return [Part(f"L{block} {found[2]}", hook_name(block, f"{found[2]}_out"))]
    if found := _NEURON.fullmatch(name):
        block = index_of(int(found[1]), blocks, "block", model.cfg.model_name)
        neuron = index_of(int(found[2]), model.blocks[block].mlp.W_out.shape[0], "neuron")
        if in_stream:
            raise InputError(f"{name} writes one direction alone: silence it, or remove directions from L{block} mlp")
        return [Part(f"L{block} neuron {neuron}", hook_name(block, "mlp.post"), neuron)]
    return [Part(hook, hook) for hook in _hook_points(model, name)]


def _hook_points(model: HookedViT, name: str) -> list[str]:
    try:
        return resolve_names(name, model.hook_dict)
    except InputError as error:
        raise InputError(f"{KNOWN}: {error}") from None


def require_tokens(model: HookedViT, part: Part) -> None:
    """Raises InputError where a part is one vector for each picture, so that no tokens can be chosen."""
    if model.hook_dict[part.hook].pos_dim == NO_TOKENS:
        raise InputError(f"{part.name} has no tokens to choose among: leave tokens= out")
