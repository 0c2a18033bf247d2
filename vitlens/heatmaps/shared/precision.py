"""Runs methods outside inference_mode and autocast, in single precision or better, and refuses maps with NaN."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.gradients import gradients_disabled, outside_inference

HALF = (torch.float16, torch.bfloat16)


@contextmanager
def careful(
    model: HookedViT, images: Float[Tensor, "image channels height width"]
) -> Iterator[tuple[HookedViT, Float[Tensor, "image channels height width"]]]:
    """The model and pictures that maps are computed with: in single precision, outside autocast and inference_mode.

    A map is made of small differences, of gradients and of quotients. In half precision the differences drown (a map of
    occlusion in bfloat16 correlated at .65 with that of the same model in single precision, a token mask in float16 at
    .68), stabilisers vanish and numbers overflow. So a model in half precision lends its weights, as they are, to a copy
    in single precision, and autocast does not reach inside. inference_mode is switched off, because gradients do not work
    in it.

    Raises:
        InputError: there are no pictures.
    """
    if not len(images):
        raise InputError("there are no pictures: the batch is empty")
    with gradients_disabled(), torch.autocast(model.device.type, enabled=False):
        able = in_single_precision(model)
        yield able, _widened_pictures(able, outside_inference(images.detach())).to(able.dtype)


def in_single_precision(model: HookedViT) -> HookedViT:
    """The model; one in half precision, or made under inference_mode, as a copy in which gradients are numbers.

    The copy shares the hook points, so whoever hooked the model hooked the copy.
    """
    if model.dtype not in HALF and not any(parameter.is_inference() for parameter in model.parameters()):
        return model
    shared: dict[int, object] = {id(point): point for point in model.modules() if isinstance(point, HookPoint)}
    shared[id(model.architecture)] = model.architecture
    for parameter in model.parameters():
        shared[id(parameter)] = nn.Parameter(_widened(parameter.detach()), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        shared[id(buffer)] = _widened(buffer)
    return copy.deepcopy(model, shared)


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype in HALF else x.clone()


def _widened_pictures(
    model: HookedViT, images: Float[Tensor, "image channels height width"]
) -> Float[Tensor, "image channels height width"]:
    """Pictures in single precision; pixels that were rounded to half precision become the 8-bit colours that they were.

    A random map, which depends on the picture's pixels, is therefore the same in every precision.
    """
    if images.dtype not in HALF:
        return images
    mean, std = (x.to(images.device)[:, None, None] for x in (model.preprocessing.mean, model.preprocessing.std))
    levels = ((images.float() * std + mean) * 255).round()
    restored = (levels / 255 - mean) / std
    are_levels = (restored.to(images.dtype) == images).flatten(1).all(dim=1)
    return restored.where(are_levels[:, None, None, None], images.float())


def require_finite_maps(values: Float[Tensor, "image *rest"], what: str, why: str, first: int = 0) -> None:
    """Raises InputError with the first picture at which `what` is not a number; `first` is the first picture's number."""
    bad = ~values.isfinite().flatten(1).all(dim=1)
    if bad.any():
        raise InputError(f"{what} of picture {first + int(bad.nonzero()[0])} has NaN or infinite values: {why}")


def require_finite_logits(model: HookedViT, logits: Float[Tensor, "image classes"], first: int = 0) -> None:
    """Raises InputError where the model's answer to a picture is not a number, of which nothing follows."""
    require_finite_maps(
        logits,
        f"what {model.cfg.model_name} answers (its logits)",
        "look at its weights (model.named_parameters()), and whether the pictures went through model.to_images",
        first,
    )
