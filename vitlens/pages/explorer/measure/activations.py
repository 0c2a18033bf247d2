"""The attention pattern of every head, and the cosines between the streams of all pairs of tokens."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name
from vitlens.pages.explorer.measure.quantise import as_numpy, attention_codes, cosine_codes


def activation_tensors(model: HookedViT, image: Tensor, blocks: Sequence[int]) -> dict[str, np.ndarray]:
    """pattern, pattern_scale and cosines of `Measured`."""
    hooks = [hook_name(block, site) for block in blocks for site in ("attn.pattern", "resid_post")]
    _, cache = model.run_with_cache(image, names_filter=hooks)
    codes, scales = attention_codes(as_numpy(torch.stack([cache["pattern", block][0] for block in blocks])))
    stream = torch.stack([cache["resid_post", block][0] for block in blocks])
    return {"pattern": codes, "pattern_scale": scales, "cosines": cosine_codes(as_numpy(stream))}
