"""Checks the tensors that a HookedViT is given; each check says what was wrong."""

import warnings
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from vitlens.errors import InputError
from vitlens.model.config import HookedViTConfig


def check_batch(images: Any, cfg: HookedViTConfig, dtype: torch.dtype, pads: bool, usual: float) -> Tensor:
    """Raises InputError unless `images` is [batch, channels, height, width] as the model reads it, and finite.

    A model of dynamic size reads any size that whole patches fill, and if it `pads`, any at all. Values ten times the
    `usual` largest magnitude are colours from 0 to 255: it warns.
    """
    channels, (height, width) = cfg.n_channels, cfg.image_size
    if not isinstance(images, Tensor):
        raise InputError(f"a model reads tensors, not {type(images).__name__}: use model.to_images on pictures")
    if images.ndim != 4:
        one = ": images[None] makes a batch of one" if images.ndim == 3 else ""
        raise InputError(f"pictures have the shape [batch, {channels}, height, width], not {list(images.shape)}{one}")
    if images.numel() == 0:
        raise InputError(f"there are no pictures in the batch: its shape is {list(images.shape)}")
    if images.shape[1] != channels:
        raise InputError(f"the pictures have {images.shape[1]} channels, {cfg.model_name} reads {channels}")
    size = tuple(images.shape[-2:])
    if not cfg.dynamic_img_size and size != (height, width):
        raise InputError(
            f"the pictures are {size[0]} × {size[1]}, {cfg.model_name} reads "
            f"{height} × {width}: use model.to_images, or load the model with img_size="
        )
    if (
        cfg.dynamic_img_size
        and not pads
        and any(side % patch for side, patch in zip(size, cfg.patch_size, strict=True))
    ):
        raise InputError(
            f"the pictures are {size[0]} × {size[1]}, which patches of {cfg.patch_size[0]} × {cfg.patch_size[1]} "
            "do not fill: resize them, or load the model with dynamic_img_pad=True"
        )
    largest = _largest_value(images, "pictures", dtype)
    if largest > 10 * usual:
        warnings.warn(
            f"the pictures hold values up to {largest:.3g}, and preprocessed ones lie within {usual:.2g} of 0: "
            "use model.to_images, which normalises colours",
            stacklevel=4,
        )
    return for_autograd(images)


def check_stream(stream: Any, cfg: HookedViTConfig, dtype: torch.dtype) -> Tensor:
    """Raises InputError unless `stream` is a residual stream [batch, tokens, d_model], and finite."""
    if not isinstance(stream, Tensor):
        raise InputError(f"start_at_layer takes the residual stream as a tensor, not {type(stream).__name__}")
    if stream.ndim != 3 or stream.shape[-1] != cfg.d_model:
        raise InputError(
            f"start_at_layer takes the residual stream [batch, tokens, {cfg.d_model}] that enters the block, "
            f"not {list(stream.shape)}"
        )
    _largest_value(stream, "stream's values", dtype)
    return for_autograd(stream)


def check_dense(x: Tensor, device: torch.device) -> None:
    """Raises InputError for tensors that hold no rectangle of numbers, or that a model on `device` cannot read."""
    kind = "nested" if x.is_nested else "sparse" if x.layout != torch.strided else None
    if x.is_meta and device.type != "meta":
        kind = "meta"
    if kind is not None:
        raise InputError(
            f"a model reads a dense tensor with values ([batch, channels, height, width] of pictures), not a {kind} tensor"
        )


def check_device(given: Any, device: torch.device) -> None:
    """Raises InputError unless tensors are dense, and lie where the model computes."""
    for x in given.values() if isinstance(given, dict) else [given]:
        if not isinstance(x, Tensor):
            continue
        check_dense(x, device)
        if x.device != device:
            raise InputError(
                f"what the model was given is on {x.device}, and the model on {device}: use .to(model.device)"
            )


def for_autograd(x: Tensor) -> Tensor:
    """The same values in a tensor that autograd takes: a copy of one that was made under torch.inference_mode."""
    return x.clone() if x.is_inference() and not torch.is_inference_mode_enabled() else x


def check_yes_or_no(labels: Any, logits: Tensor) -> Tensor:
    """The answers of a loss of sigmoids [batch, outputs], as the logits are; of a single output also [batch].

    Raises:
        InputError: anything but numbers from 0 (no) to 1 (yes), one for each output of each picture.
    """
    if labels is None:
        raise InputError('return_type="loss" needs labels=, 0 or 1 for every output [batch, outputs]')
    try:
        answers = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        answers = torch.empty(0)
    if logits.shape[1] == 1 and answers.ndim == 1:
        answers = answers[:, None]
    in_range = not answers.is_complex() and bool(((answers >= 0) & (answers <= 1)).all())
    if answers.shape != logits.shape or not in_range:
        got = f"{list(labels.shape)} of {labels.dtype}" if isinstance(labels, Tensor) else repr(labels)
        raise InputError(
            f"labels= of sigmoid outputs are 0 or 1 for every output, a tensor {list(logits.shape)}, not {got}"
        )
    return answers.to(logits)


def check_labels(labels: Any, n_images: int, n_classes: int, device: torch.device) -> Tensor:
    """The class indices [batch] of a loss, where the logits are.

    Raises:
        InputError: anything but one whole number for each picture; a class that the model does not have.
    """
    if labels is None:
        raise InputError('return_type="loss" needs labels=, the class indices [batch]')
    try:
        chosen = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        chosen = torch.empty(0, dtype=torch.float)
    whole = not (chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool)
    if not whole or tuple(chosen.shape) != (n_images,):
        got = f"{list(labels.shape)} of {labels.dtype}" if isinstance(labels, Tensor) else repr(labels)
        raise InputError(f"labels= are the class indices of {n_images} pictures, a tensor [{n_images}], not {got}")
    if not (chosen.is_meta or torch.compiler.is_compiling()):
        for bad in chosen[(chosen < 0) | (chosen >= n_classes)][:1].tolist():
            raise InputError(
                f"there is no class {bad}, which labels= names: the model has classes 0 to {n_classes - 1}"
            )
    return chosen.to(device).long()


def _largest_value(x: Tensor, what: str, dtype: torch.dtype) -> float:
    """The largest magnitude, read once since an accelerator waits for it; 0 where no value can be read.

    Raises:
        InputError: another dtype; NaN or infinite values.
    """
    # Autocast converts by itself.
    if x.dtype != dtype and not (x.is_floating_point() and torch.is_autocast_enabled(x.device.type)):
        # Whole numbers are colours from 0 to 255: a change of dtype does not normalise them.
        how = "use model.to_images, or .to(dtype)" if x.is_floating_point() else "use model.to_images"
        raise InputError(f"the {what} are {x.dtype}, the model computes in {dtype}: {how}")
    if x.is_meta or x.numel() == 0 or torch.compiler.is_compiling():
        return 0.0
    low, high = torch.stack(x.detach().aminmax()).tolist()
    largest = max(-low, high)
    # Both ends are NaN where one value is.
    if not isfinite(largest):
        raise InputError(f"the {what} contain NaN or infinite values")
    return largest
