"""The attention pattern of every head, the streams of all tokens, and the cosines between all pairs of them."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.description.tokens import at_least_single
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name
from vitlens.pages.explorer.measure.quantise import as_numpy, attention_codes, cosine_codes


def activation_tensors(
    model: HookedViT, image: Tensor, blocks: Sequence[int]
) -> tuple[dict[str, np.ndarray], Float[Tensor, "block token d"]]:
    """pattern, pattern_scale and cosines of `Measured`, and the stream after each block."""
    hooks = [hook_name(block, site) for block in blocks for site in ("attn.pattern", "resid_post")]
    _, cache = model.run_with_cache(image, names_filter=hooks)
    codes, scales = attention_codes(as_numpy(torch.stack([cache["pattern", block][0] for block in blocks])))
    stream = torch.stack([cache["resid_post", block][0] for block in blocks])
    tensors = {"pattern": codes, "pattern_scale": scales, "cosines": cosine_codes(as_numpy(stream))}
    return tensors, at_least_single(stream).cpu()
