"""Recognises the family of tensors from their names, and takes what wrappers and other models of a file put around them."""

import re
import warnings
from collections.abc import Iterable

from vitlens.errors import InputError
from vitlens.model.checkpoints.files import (
    BLOCK,
    State,
    Weights,
    choose_weights,
    first_keys,
    refuse_adapters,
    state_dicts,
)
from vitlens.model.families.family import Family, looks_like, without_prefix
from vitlens.model.families.huggingface.released_names import released_names
from vitlens.model.families.originals.timm_keys import TIMM_KEYS
from vitlens.model.families.registry import FAMILIES
from vitlens.model.families.sources import OpenedSource

#: What training code calls the model that it wraps.
WRAPPERS = {
    "module", "model", "backbone", "encoder", "_orig_mod", "net", "network", "student", "teacher", "ema", "ema_model",
}  # fmt: skip
#: What models of other kinds look like: a part of the name of a tensor, or Hugging Face's name of the kind.
OTHER_KINDS = {
    r"layers\.\d+\.(blocks\.\d+\..*)?relative_position_bias_table|encoder\.layers\.\d+\.blocks\.|^swin": (
        "a Swin transformer, whose attention is in windows"
    ),
    r"convnext|dwconv|conv_dw|layer1\.0\.conv1": "a convolutional network",
    r"image_encoder\.|rel_pos_h|^sam": "the encoder of SAM, whose attention is in windows",
    r"feature_extractor\.conv_layers|encoder\.conv1\.|spectrogram|^wav2vec|^hubert|^whisper|^audio": "a model of sound",
    r"word_embeddings|embed_tokens|wte\.|tok_embeddings|^bert|^gpt|^llama|^t5": "a model of text",
    r"temporal|conv_in\.|down_blocks": "a model of video, or one that makes pictures",
}


def recognise(source: OpenedSource, use_ema: bool = True) -> tuple[Family, State, str]:
    """The family, its tensors by its own names, and the wrapper's prefix that they had.

    Raises:
        InputError: none of the families (what it looks like, and the three nearest), several models, an adapter, quantised
            tensors.
    """
    dictionaries = state_dicts(source.tensors, source.name)
    told = [family for family in FAMILIES if source.config.get("model_type") in family.model_types]
    found: list[tuple[Family, Weights]] = []
    for label, state in dictionaries.items():
        refuse_adapters(state, source.name)
        for named in (state, released_names(state)):
            of_state = [
                (family, Weights(label + prefix, prefix, named))
                for family in _families_of(named, told or FAMILIES)
                for prefix in family.prefixes_in(named)
            ]
            if of_state:
                found += of_state
                break
    if not found:
        raise InputError(_what_it_is(source, max(dictionaries.values(), key=len)))
    weights = [one for _, one in found]
    chosen = choose_weights(weights, use_ema, source.name)
    others = [one.inner for one in weights if one.around is chosen.around and one is not chosen]
    wrapper = _wrapper(chosen.inner)
    inside = {key: tensor for key, tensor in chosen.around.items() if not key.startswith(tuple(others))}
    left = [key for key in inside if not key.startswith(wrapper)]
    if left:
        warnings.warn(
            f"{source.name}: the weights under {wrapper!r} are taken, and {_some(left)} left out", stacklevel=5
        )
    family = next(family for family, one in found if one is chosen)
    kept = {key: tensor for key, tensor in inside.items() if key.startswith(wrapper)}
    return family, without_prefix(kept, chosen.inner), chosen.prefix.removesuffix(chosen.inner) + wrapper


def is_of_another_library(source: OpenedSource) -> bool:
    """Whether the names of the tensors are those of a family, and not timm's own."""
    states = state_dicts(source.tensors, source.name).values()
    return any(
        TIMM_KEYS not in found
        for state in states
        for named in (state, released_names(state))
        if (found := _families_of(named, FAMILIES))
    )


def _families_of(state: State, families: Iterable[Family]) -> list[Family]:
    """The first family whose names these are, in a list, which is empty if there is none."""
    return [family for family in families if family.prefixes_in(state)][:1]


def _wrapper(prefix: str) -> str:
    """The part of a prefix that is of training code, and not the library's own name of a part."""
    parts = prefix.split(".")[:-1]
    n = next((i for i, part in enumerate(parts) if part not in WRAPPERS), len(parts))
    return "".join(f"{part}." for part in parts[:n])


def _what_it_is(source: OpenedSource, state: State) -> str:
    """Says what tensors of no family look like."""
    model_type = source.config.get("model_type")
    names: Iterable[str] = ([str(model_type)] if model_type else []) + list(state)
    kind = next((kind for mark, kind in OTHER_KINDS.items() if any(re.search(mark, name) for name in names)), None)
    if kind is None and any(BLOCK.match(name) for name in state):
        return (
            f"{source.name} has names of timm, and does not tell of which model: open it with "
            "HookedViT.from_timm(name, checkpoint_path=…)"
        )
    near = sorted(FAMILIES, key=lambda family: looks_like(state, family), reverse=True)[:3]
    what = f" ({model_type})" if model_type else ""
    looks = (
        f"looks like {kind}{what}, which vitlens does not read" if kind else f"is of no kind that vitlens reads{what}"
    )
    return (
        f"{source.name} {looks}: its tensors are called {first_keys(state)}; the nearest kinds that it reads are "
        f"{', '.join(family.name for family in near)}"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
