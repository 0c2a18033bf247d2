"""The default batch size of a forward pass."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT

#: What the largest tensor of a forward may take by default, and how many pictures it has at most.
MOST_BYTES = 2**28
MOST_PICTURES = 64


def default_batch_size(model: "HookedViT", n_tokens: int | None = None, n_kept: int = 1) -> int:
    """The default number of pictures per forward pass: 64, or fewer, so that its largest tensors take 256 MiB at most.

    The largest are attention patterns, hidden units of the MLP, and the logits of all tokens. The rule reads the model's
    shape and not what memory is free, so that two machines compute the same.

    Args:
        n_tokens: of a picture, where they differ from the model's own (dynamic image size).
        n_kept: how many such tensors are held at once: one of each block where gradients are taken.
    """
    cfg = model.cfg
    tokens = cfg.n_ctx if n_tokens is None else n_tokens
    widest = max(cfg.n_heads * tokens, cfg.d_mlp or 0, cfg.n_classes)
    bytes_of_one = n_kept * tokens * widest * torch.empty(0, dtype=model.dtype).element_size()
    return max(1, min(MOST_PICTURES, MOST_BYTES // bytes_of_one))
