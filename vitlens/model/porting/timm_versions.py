"""Ports of models of other versions of timm than the verified one are compared with timm when they are made."""

from typing import Any

import timm
import torch

from vitlens.errors import InputError, reason

#: Every name of the registry is exact in this version (vitlens.supported_models(), experiments/measure_parity.py).
VERIFIED = "1.0.31"


@torch.no_grad()
def check_computes_the_same(module: Any, model: Any) -> None:
    """Compares the logits of one picture of noise, unless this timm is the verified one.

    The state of a module does not show what its forward does: timm before 1.0.26, for example, adds no class token if there
    are no position embeddings.

    Args:
        module: timm's model.
        model: its port, a HookedViT.

    Raises:
        InputError: the port computes something else than timm does, by more than rounding.
    """
    parameter = next(module.parameters())
    if timm.__version__ == VERIFIED or parameter.is_meta:
        return
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, model.cfg.n_channels, *model.cfg.image_size, generator=generator).to(parameter)
    try:
        theirs, ours = module(image), model(image)
    except RuntimeError as error:
        raise InputError(
            f"timm {timm.__version__} cannot compute this {type(module).__name__} in {parameter.dtype} ({reason(error)}): "
            f"install timm {VERIFIED}"
        ) from None
    difference = (theirs - ours).abs().max().item()
    if not difference <= 4 * torch.finfo(parameter.dtype).eps ** 0.5 * theirs.abs().max().item():
        raise InputError(
            f"timm {timm.__version__} computes this {type(module).__name__} in another way than timm {VERIFIED}, which "
            f"vitlens follows: the logits of one picture differ by {difference:.2g}; install timm {VERIFIED}"
        )
