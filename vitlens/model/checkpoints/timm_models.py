"""Builds a timm module from a name, with timm's weights, those of a checkpoint file, or random ones."""

import difflib
import json
import re
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from timm.models import get_pretrained_cfg, parse_model_name
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitlens.arguments import short
from vitlens.errors import InputError, nearest, reason
from vitlens.files import as_path
from vitlens.model.checkpoints.files import read_checkpoint
from vitlens.model.checkpoints.fit_to_model import first_keywords, fit, other_keywords

# What timm looks for in a repository or a folder, in its order.
WEIGHT_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
#: What from_timm takes, and the keywords of timm's models that are used most.
KEYWORDS = (
    *("pretrained", "checkpoint_path", "class_names", "mean", "std", "crop_pct", "interpolation", "device", "dtype"),
    *("img_size", "patch_size", "num_classes", "in_chans", "reg_tokens", "global_pool", "dynamic_img_size"),
)
WEIGHT_ENDINGS = (".safetensors", ".pth", ".pth.tar", ".bin")


def build_timm(
    name: str,
    pretrained: bool,
    checkpoint_path: str | Path | None,
    timm_kwargs: dict[str, Any],
    use_ema: bool = True,
) -> tuple[nn.Module, dict[str, Any]]:
    """timm's model of that name with its weights, and the keywords that build it again.

    The keywords are those given, and what a checkpoint says about how its model is built.

    Raises:
        InputError: unknown name or keyword; weights that cannot be had; a checkpoint of another architecture.
    """
    path = None if checkpoint_path is None else as_path(checkpoint_path, "checkpoint_path")
    if name.endswith((*WEIGHT_ENDINGS, ".pt", ".ckpt")) or Path(name).is_file():
        raise InputError(
            f"{name!r} is a file of weights: pass the name of its architecture, and the file as checkpoint_path=, or open "
            "the file with HookedViT.from_pretrained"
        )
    source, model_id = _read_name(name)
    if source == "local-dir":
        folder = _check_folder(Path(model_id))
        path = weights_in(folder) if path is None and pretrained else path
    elif source == "hf-hub":
        _check_hub(name, model_id, needs_weights=path is None and pretrained)
    else:
        _check_registered(name)
    if path is None and not use_ema:
        raise InputError(
            "use_ema=False is for a checkpoint that holds averaged weights too: it goes with checkpoint_path="
        )
    if path is not None:
        return _with_checkpoint(name, path, timm_kwargs, use_ema)
    if pretrained and source is None:
        _check_weights_are_within_reach(name, timm_kwargs)
    module = create(name, timm_kwargs, pretrained)
    if pretrained:
        _tell_new_classifier(module, name)
    return module, timm_kwargs


def create(name: str, timm_kwargs: dict[str, Any], pretrained: bool = False) -> nn.Module:
    """timm's model of that name and keywords.

    Raises:
        InputError: timm cannot build it.
    """
    try:
        return timm.create_model(name, pretrained=pretrained, **timm_kwargs)
    except (TypeError, AssertionError, ValueError, LookupError, ZeroDivisionError) as error:
        given = ", ".join(f"{key!r}: {short(value)}" for key, value in timm_kwargs.items())
        near = difflib.get_close_matches(_unknown_keyword(error), KEYWORDS, n=1)
        advice = f"; the nearest keyword is {near[0]}=" if near else ""
        raise InputError(f"timm cannot build {name!r} with {{{given}}}: {reason(error)}{advice}") from error
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"timm could not get {name!r} with its weights ({reason(error)}): pass checkpoint_path= with a file "
            "that you have, or pretrained=False for random weights"
        ) from error


#: What initialises parameters in place.
_FILLS = {Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_, Tensor.fill_}


class _WithoutValues(TorchFunctionMode):
    """Skips what initialises tensors without values, which takes most of the time that building takes.

    Older versions of timm read numbers while they build (rates of drop path): of tensors without values they are zero.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FILLS and args[0].is_meta:
            return args[0]
        if func in (Tensor.item, Tensor.tolist) and args[0].is_meta:
            return func(torch.zeros(args[0].shape, device="cpu"))
        return func(*args, **(kwargs or {}))


def build_without_values(name: str, timm_kwargs: dict[str, Any]) -> Any:
    """timm's model of that name and keywords, with shapes and no values: it takes no memory.

    Raises:
        InputError: as `create`.
    """
    with torch.device("meta"), _WithoutValues():
        return create(name, timm_kwargs)


def _unknown_keyword(error: Exception) -> str:
    """The keyword that Python's error is about, or nothing."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    return found[1] if found else ""


def _read_name(name: str) -> tuple[str | None, str]:
    """Where timm finds a model, and what it is called there: "hf-hub:owner/name", "local-dir:folder", or a timm name."""
    try:
        source, model_id = parse_model_name(name)
        return (None if source == "timm" else source), model_id  # older versions of timm say "timm" for their own names
    except (ValueError, AssertionError) as error:
        # Older versions of timm only know names and hubs, and say nothing of it.
        why = reason(error) if str(error) else f"timm {timm.__version__} opens no such source, a newer one may"
        raise InputError(f"timm knows no model {name!r}: {why}") from None


def _check_registered(name: str) -> None:
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        raise InputError(
            f"timm knows no model {name!r}; the nearest names are {nearest(architecture, timm.list_models())}"
        )
    known = timm.list_models(f"{architecture}.*", include_tags=True)
    if "." in name and name not in known:
        raise InputError(f"timm knows no weights {name!r}; it has {', '.join(known) or 'none of this model'}")


def _check_folder(folder: Path) -> Path:
    """A folder that timm saved a model in (timm.models.save_for_hf)."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds no config.json, so timm did not save it: name the model, and pass the file of weights in it as "
            "checkpoint_path="
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'config.json'} cannot be read as JSON: {reason(error)}") from None
    architecture = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        said = f"names the architecture {architecture!r}, which timm does not know" if architecture else (
            "names no architecture of timm"
        )  # fmt: skip
        raise InputError(
            f"{folder / 'config.json'} {said}: folders of other libraries are opened with HookedViT.from_pretrained"
        )
    return folder


def weights_in(folder: Path) -> Path:
    """The file of weights in a folder, or the index of several.

    Raises:
        InputError: there is none.
    """
    named = [folder / file for file in WEIGHT_FILES]
    others = [path for ending in WEIGHT_ENDINGS for path in sorted(folder.glob(f"*{ending}"))]
    found = next((path for path in [*named, *others] if path.is_file()), None)
    if found is None:
        raise InputError(f"{folder} holds no file of weights ({', '.join(WEIGHT_FILES[:2])}, …)")
    return found


def _check_hub(name: str, model_id: str, needs_weights: bool) -> None:
    repository, _, revision = model_id.partition("@")
    if repository.count("/") != 1:
        raise InputError(f"{name!r} names no repository: it is written hf-hub:owner/name")
    wanted = [("config.json",), WEIGHT_FILES] if needs_weights else [("config.json",)]
    if not all(_is_here(repository, files, revision or None) for files in wanted):
        _check_network(
            f"{name!r} is", 'it: open a folder that timm saved as "local-dir:FOLDER", or name the architecture and'
        )


def _check_weights_are_within_reach(name: str, timm_kwargs: dict[str, Any]) -> None:
    cfg = get_pretrained_cfg(name)
    if cfg is not None and cfg.hf_hub_id and not _is_here(cfg.hf_hub_id, WEIGHT_FILES[:2]):
        if timm_kwargs:
            # A wrong keyword is to be refused before the weights are fetched or missed.
            build_without_values(name, timm_kwargs)
        _check_network(f"the weights of {name!r} are", "them:")


def _is_here(repository: str, files: tuple[str, ...], revision: str | None = None) -> bool:
    """Whether the hub's client has one of the files already."""
    try:
        found = [try_to_load_from_cache(repository, file, revision=revision) for file in files]
    except ValueError as error:
        raise InputError(f"{repository!r} is no repository on the hub: {reason(error)}") from None
    return any(isinstance(path, str) for path in found)


def _check_network(what: str, instead: str) -> None:
    """Raises InputError if there is no network."""
    if not has_network():
        raise InputError(
            f"{what} not on this machine and there is no network to fetch {instead} pass checkpoint_path= with a "
            "file that you have, or pretrained=False for random weights"
        )


def has_network() -> bool:
    """Whether the hub answers; its client would retry for a minute."""
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _tell_new_classifier(module: Any, name: str) -> None:
    """timm leaves the classifier out where it has another number of classes, and draws one."""
    trained = (module.pretrained_cfg or {}).get("num_classes")
    if module.num_classes and trained is not None and module.num_classes != trained:
        warnings.warn(
            f"the weights of {name!r} are for {trained} classes: the classifier for {module.num_classes} is drawn at random "
            "and knows nothing until it is trained",
            stacklevel=4,
        )


def _with_checkpoint(
    name: str, path: Path, timm_kwargs: dict[str, Any], use_ema: bool
) -> tuple[nn.Module, dict[str, Any]]:
    state = read_checkpoint(path, use_ema)
    keywords = {**first_keywords(state), **timm_kwargs}
    module = create(name, keywords)
    told = {key: value for key, value in other_keywords(state, module, path).items() if key not in keywords}
    if told:
        try:
            module = create(name, keywords | told)
        except InputError:
            # Not every architecture has these keywords: the comparison names what does not fit.
            told = {key: value for key, value in told.items() if key == "img_size"}
            module = create(name, keywords | told) if told else module
    size = told.get("img_size")
    fit(state, module, path, name)
    if size is not None:
        own = " × ".join(map(str, size))
        warnings.warn(
            f"{path} was trained on pictures of {own}, so the model reads {own}: pass img_size= for another size, to which "
            "its positions are then resampled",
            stacklevel=4,
        )
    return module, keywords | told
