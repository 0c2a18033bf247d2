"""A timm module from a name: weights through timm, from a checkpoint file, or random; every failure one sentence."""

import pickle
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from timm.models import get_pretrained_cfg, load_state_dict
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import nn

from vitlens.errors import InputError, nearest

# What torch, safetensors and timm raise for files that are something else.
READ_ERRORS = (
    pickle.UnpicklingError,
    SafetensorError,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
)


def build_timm(
    name: str, pretrained: bool, checkpoint_path: str | Path | None, timm_kwargs: dict[str, Any]
) -> nn.Module:
    """timm's model of that name, with the weights that were asked for.

    Raises:
        InputError: unknown name or keyword; weights that cannot be had; a checkpoint of another architecture.
    """
    architecture = name.split("/")[-1].split(".")[0]
    if not timm.is_model(architecture):
        near = nearest(architecture, timm.list_models())
        raise InputError(f"timm knows no model {name!r}; the nearest names are {near}")
    _check_tag(name, architecture)
    if checkpoint_path is not None:
        return _with_checkpoint(name, Path(checkpoint_path), timm_kwargs)
    if pretrained:
        _check_weights_are_within_reach(name)
    return _create(name, pretrained, timm_kwargs)


def _check_tag(name: str, architecture: str) -> None:
    known = timm.list_models(f"{architecture}.*", include_tags=True)
    # Behind "hf-hub:" stands anybody's repository, whose name may have any ending.
    if name.startswith(f"{architecture}.") and name not in known:
        raise InputError(f"timm knows no weights {name!r}; it has {', '.join(known) or 'none of this model'}")


def _create(name: str, pretrained: bool, timm_kwargs: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=pretrained, **timm_kwargs)
    except (TypeError, AssertionError, ValueError, LookupError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"timm cannot build {name!r} with {timm_kwargs}: {reason}") from error
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"timm could not get {name!r} with its weights ({reason}): pass checkpoint_path= with a file "
            "that you have, or pretrained=False for random weights"
        ) from error


def _check_weights_are_within_reach(name: str) -> None:
    """Says at once what the hub's client would say only after a minute of retries."""
    cfg = get_pretrained_cfg(name)
    if cfg is None or not cfg.hf_hub_id:
        return
    if any(
        isinstance(try_to_load_from_cache(cfg.hf_hub_id, file), str)
        for file in ("model.safetensors", "pytorch_model.bin")
    ):
        return
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=5).close()
    except urllib.error.HTTPError:
        return
    except OSError:
        raise InputError(
            f"the weights of {name!r} are not on this machine and there is no network to fetch them: "
            "pass checkpoint_path= (--checkpoint) with a file that you have, "
            "or pretrained=False (--random-weights) for random weights"
        ) from None


def _with_checkpoint(name: str, path: Path, timm_kwargs: dict[str, Any]) -> nn.Module:
    state = _read_checkpoint(path)
    if "num_classes" not in timm_kwargs and "head.weight" in state:
        # A fine-tuned model has its own number of classes; the checkpoint knows it.
        timm_kwargs = {**timm_kwargs, "num_classes": len(state["head.weight"])}
    module: Any = _create(name, False, timm_kwargs)
    # timm's own conversion: older key names, positions of another image size. Where it fails, the comparison below
    # names what does not fit.
    with suppress(RuntimeError, KeyError, IndexError, AssertionError, AttributeError):
        state = checkpoint_filter_fn(state, module)
    expected = module.state_dict()
    problems = [
        f"{key} is {_shape(state[key])} in the file, {_shape(expected[key])} in the model"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    problems += [f"{key} is missing in the file" for key in expected if key not in state]
    problems += [f"{key} is not in the model" for key in state if key not in expected]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise InputError(f"{path} does not fit {name}: {'; '.join(problems[:3])}{more}")
    module.load_state_dict(state)
    return module


def _read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise InputError(f"there is no checkpoint file {path}")
    try:
        state = load_state_dict(str(path), use_ema=False, device="cpu", weights_only=True)
    except READ_ERRORS as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} cannot be read as a file of tensors ({reason}): "
            "save the state dict as safetensors, or with torch.save(model.state_dict(), …)"
        ) from None
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path} holds no state dict of tensors: save model.state_dict() and nothing else")
    return state


def _shape(tensor: torch.Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "a number"
