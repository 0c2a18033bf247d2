"""Checks that the output of a run is finite, and says in which block it stopped being finite."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vitlens.errors import InputError
from vitlens.model.hooks.edits import may_be_edited
from vitlens.model.parts.positions import Layout
from vitlens.model.runs.forward import run_blocks

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT


def require_finite(
    output: Tensor, what: str, model: "HookedViT", stream: Tensor, layout: Layout, blocks: Sequence[int]
) -> Tensor:
    """Checks that the output of a run through `blocks` from `stream` is finite, and returns it.

    A run that the user's own hooks edit may be meant to overflow: it only warns.

    Raises:
        InputError: NaN or infinite values; the block in which they come up is named.
    """
    if output.is_meta or torch.compiler.is_compiling() or output.isfinite().all():
        return output
    picture = int((~output.isfinite().flatten(1).all(dim=1)).nonzero()[0, 0])
    sentence = f"the {what} of picture {picture} are NaN or infinite"
    edited = next((name for name, point in model.hook_dict.items() if may_be_edited(point)), None)
    if edited is not None:
        warnings.warn(f"{sentence}, in a run that a hook at {edited} edits", stacklevel=3)
        return output
    raise InputError(f"{sentence}: {_where(model, stream, layout, blocks)}. {_remedy(output.dtype)}")


@torch.no_grad()
def _where(model: "HookedViT", stream: Tensor, layout: Layout, blocks: Sequence[int]) -> str:
    if not stream.isfinite().all():
        return "the embedding of the picture is not finite"
    for block in blocks:
        stream = run_blocks(model, stream, layout, [block])
        if not stream.isfinite().all():
            return f"the residual stream stops being finite in block {block}"
    return "the residual stream is finite, the final norm or the classifier overflows"


def _remedy(dtype: torch.dtype) -> str:
    largest = torch.finfo(dtype).max
    if dtype == torch.float16:
        return f"float16 ends at {largest:,.0f}: load the model with dtype=torch.float32 or torch.bfloat16"
    return (
        f"{str(dtype).removeprefix('torch.')} ends at {largest:.1e}: look for pictures far outside the range that "
        "model.to_images gives, or for weights that were never trained in this precision"
    )
