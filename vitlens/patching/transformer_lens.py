"""TransformerLens' activation patching for pictures, under the same names and with the same results.

`transformer_lens.patching` takes the number of positions from the last axis of its input, which for a picture is the
width. The functions here call the same code with the number of tokens of the pictures. Functions without an axis of
positions are TransformerLens' own. `vitlens.activation_patching` is faster, and patches token sets, pairs and both
directions.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformer_lens import patching
from transformer_lens.patching import (
    PatchingResult,
    generic_activation_patch,
    get_act_patch_attn_head_all_pos_every,
    get_act_patch_attn_head_k_all_pos,
    get_act_patch_attn_head_out_all_pos,
    get_act_patch_attn_head_pattern_all_pos,
    get_act_patch_attn_head_q_all_pos,
    get_act_patch_attn_head_v_all_pos,
    make_df_from_ranges,
)

from vitlens.arguments import short
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT

__all__ = [
    "PatchingResult",
    "generic_activation_patch",
    "get_act_patch_attn_head_all_pos_every",
    "get_act_patch_attn_head_by_pos_every",
    "get_act_patch_attn_head_k_all_pos",
    "get_act_patch_attn_head_k_by_pos",
    "get_act_patch_attn_head_out_all_pos",
    "get_act_patch_attn_head_out_by_pos",
    "get_act_patch_attn_head_pattern_all_pos",
    "get_act_patch_attn_head_pattern_by_pos",
    "get_act_patch_attn_head_pattern_dest_src_pos",
    "get_act_patch_attn_head_q_all_pos",
    "get_act_patch_attn_head_q_by_pos",
    "get_act_patch_attn_head_v_all_pos",
    "get_act_patch_attn_head_v_by_pos",
    "get_act_patch_attn_out",
    "get_act_patch_block_every",
    "get_act_patch_mlp_out",
    "get_act_patch_resid_mid",
    "get_act_patch_resid_pre",
]

Sweep = Callable[..., Any]


def _over_tokens(theirs: Sweep, name: str, axes: tuple[str, ...]) -> Sweep:
    """TransformerLens' sweep, every axis as long as it is for these pictures."""

    def sweep(model: Any, corrupted_images: Tensor, clean_cache: Any, patching_metric: Any, **options: Any) -> Any:
        if not isinstance(model, HookedViT):
            raise InputError(f"model is a HookedViT, as HookedViT.from_timm makes it, not {short(model)}")
        rows, columns = model.embed.grid(*model.check_images(corrupted_images).shape[-2:])
        n_tokens = model.cfg.n_prefix_tokens + rows * columns
        sizes = {"layer": model.cfg.n_layers, "head": model.cfg.n_heads, "head_index": model.cfg.n_heads}
        shape = [sizes.get(axis, n_tokens) for axis in axes]
        cells = make_df_from_ranges(shape, list(axes))
        result = theirs(
            model,
            corrupted_images,
            clean_cache,
            _finite(patching_metric),
            index_df=cells,
            index_axis_names=None,
            **options,
        )
        if isinstance(result, PatchingResult):
            before = 1 if result.has_metric_axis else 0
            values = result.values.unflatten(before, shape)
            return replace(result, values=values, axis_names=list(axes))
        if isinstance(result, tuple):
            return result[0].reshape(shape), result[1]
        return result.reshape(shape)

    sweep.__name__ = sweep.__qualname__ = name
    sweep.__doc__ = (
        f"transformer_lens.patching.{name} for pictures: [{', '.join(axes)}].\n\n"
        "Positions are the model's tokens, prefix tokens first. Arguments and result as there: the model, the corrupted\n"
        "pictures, the cache of the clean ones, a metric of the logits; options `reduce`, `baseline`, `return_index_df`."
    )
    return sweep


def _finite(metric: Any) -> Any:
    """The same metric, or metrics by name, with an error for NaN or infinite values.

    Raises:
        InputError: it is no function of the logits, nor a mapping to such functions.
    """
    if isinstance(metric, Mapping) and metric:
        return {name: _finite(one) for name, one in metric.items()}
    if not callable(metric):
        raise InputError(
            f"a patching metric is a function of the logits that returns a number, or a mapping to such functions, not "
            f"{short(metric)}"
        )

    def measured(logits: Tensor) -> Tensor:
        value = metric(logits)
        try:
            is_finite = bool(torch.as_tensor(value).isfinite().all())
        except (TypeError, ValueError, RuntimeError):
            raise InputError(f"a patching metric returns a number, not {short(value)}") from None
        if not is_finite:
            raise InputError("the patching metric returned NaN or an infinite value")
        return value

    return measured


def _by_position(name: str, axes: tuple[str, ...] = ("layer", "pos")) -> Sweep:
    return _over_tokens(getattr(patching, name), name, axes)


BY_HEAD = ("layer", "pos", "head")
get_act_patch_resid_pre = _by_position("get_act_patch_resid_pre")
get_act_patch_resid_mid = _by_position("get_act_patch_resid_mid")
get_act_patch_attn_out = _by_position("get_act_patch_attn_out")
get_act_patch_mlp_out = _by_position("get_act_patch_mlp_out")
get_act_patch_attn_head_out_by_pos = _by_position("get_act_patch_attn_head_out_by_pos", BY_HEAD)
get_act_patch_attn_head_q_by_pos = _by_position("get_act_patch_attn_head_q_by_pos", BY_HEAD)
get_act_patch_attn_head_k_by_pos = _by_position("get_act_patch_attn_head_k_by_pos", BY_HEAD)
get_act_patch_attn_head_v_by_pos = _by_position("get_act_patch_attn_head_v_by_pos", BY_HEAD)
get_act_patch_attn_head_pattern_by_pos = _by_position(
    "get_act_patch_attn_head_pattern_by_pos", ("layer", "head_index", "dest_pos")
)
get_act_patch_attn_head_pattern_dest_src_pos = _by_position(
    "get_act_patch_attn_head_pattern_dest_src_pos", ("layer", "head_index", "dest_pos", "src_pos")
)


def get_act_patch_block_every(
    model: Any, corrupted_images: Tensor, clean_cache: Any, metric: Callable[[Tensor], Tensor]
) -> Tensor:
    """resid_pre, attn_out and mlp_out by position: [3, layer, pos], as transformer_lens.patching's."""
    sweeps = (get_act_patch_resid_pre, get_act_patch_attn_out, get_act_patch_mlp_out)
    return torch.stack([sweep(model, corrupted_images, clean_cache, metric) for sweep in sweeps])


def get_act_patch_attn_head_by_pos_every(
    model: Any, corrupted_images: Tensor, clean_cache: Any, metric: Callable[[Tensor], Tensor]
) -> Tensor:
    """Output, q, k, v and pattern of every head by position: [5, layer, pos, head], as transformer_lens.patching's."""
    sweeps = (
        get_act_patch_attn_head_out_by_pos,
        get_act_patch_attn_head_q_by_pos,
        get_act_patch_attn_head_k_by_pos,
        get_act_patch_attn_head_v_by_pos,
    )
    by_position = [sweep(model, corrupted_images, clean_cache, metric) for sweep in sweeps]
    pattern = get_act_patch_attn_head_pattern_by_pos(model, corrupted_images, clean_cache, metric)
    return torch.stack([*by_position, pattern.transpose(1, 2)])
