"""Computes a hash of all weights, which distinguishes two checkpoints of one name."""

import hashlib

from vitlens.model.hooked_vit import HookedViT


def fingerprint(model: HookedViT) -> str:
    """The parameters' names and values, in sixteen letters; the same on every device."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
