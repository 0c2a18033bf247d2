"""Writes the weights of a model as an ordinary checkpoint, which needs no vitlens."""

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import timm.models
from torch import Tensor, nn

from vitlens.arguments import checked
from vitlens.editing.source_names import by_source_names
from vitlens.editing.timm_copies import rebuilt
from vitlens.errors import InputError
from vitlens.files import as_path, make_folder, write_whole
from vitlens.model.checkpoints.timm_models import WEIGHT_ENDINGS, weights_in
from vitlens.model.class_space.classifier import ClassEmbeddings
from vitlens.model.families.sources import find, folder_config, folder_of_timm, is_of_open_clip, read_source
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.results.tensor_files import save_tensors

#: What libraries keep beside weights: configurations, preprocessing, tokenizers. An index is of weights in several files.
KEPT_BESIDE = ("*.json", "*.txt", "*.model")
INDEX = ".index.json"
#: How Hugging Face marks files of PyTorch.
METADATA = {"format": "pt"}


@leaves_state
@checked
def save_checkpoint(model: HookedViT, path: str | Path, *, like: Any = None) -> None:
    """Writes the weights as timm, or the library that the model came from, has them.

    A path that ends in .safetensors becomes a file with the module's state dict, which
    `timm.create_model(name, checkpoint_path=path)` opens. Any other path becomes a folder, which
    `timm.create_model("local-dir:FOLDER", pretrained=True)` opens; with `like=`, the library's own `from_pretrained`.

    Args:
        path: a file that ends in .safetensors, or a folder. Files that are there are replaced.
        like: the folder, the file or the module of another library from which the model was opened with `from_pretrained`:
            the weights are written by that library's names, and its configuration is copied. None: timm's names.

    Raises:
        InputError: weights that are in no checkpoint, because they were rewritten by `process_weights_` or are those of
            test-time registers; a folder for a model that timm builds by no name; an edit of a weight that `like` has no
            place for; `like` is not what the model was opened from; a path that cannot be written.

    Examples:
        >>> import tempfile
        >>> import timm
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     vitlens.editing.save_checkpoint(model, folder)
        ...     module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        >>> bool((module(images[:2]) == model(images[:2])).all())
        True
    """
    target = as_path(path)
    is_file = check_is_checkpoint(target)
    _check_weights_are_timms(model)
    if like is not None:
        _save_like(model, target, is_file, like)
    elif is_file:
        save_tensors(model.timm_module.state_dict(), target, METADATA)
    else:
        _save_folder_of_timm(model, target)


def check_is_checkpoint(target: Path) -> bool:
    """Whether this is the path of a file; else it is that of a folder.

    Raises:
        InputError: a file of another format.
    """
    is_file = target.suffix == ".safetensors" and not target.is_dir()
    if not is_file and target.name.endswith((*WEIGHT_ENDINGS, ".pt", ".ckpt")) and not target.is_dir():
        raise InputError(f"{target.name}: a checkpoint is a file that ends in .safetensors, or a folder")
    return is_file


def _check_weights_are_timms(model: HookedViT) -> None:
    """Raises InputError for weights that no checkpoint has; warns about classes that are left out."""
    if model.timm_module is None:
        why = (
            f"rewritten by {', '.join(model.cfg.processed)}"
            if model.cfg.processed
            else "no longer those of timm's module"
        )
        raise InputError(
            f"the weights of {model.cfg.model_name} are {why}, so no checkpoint holds them: open the model again as it is"
        )
    own = {id(parameter) for parameter in model.timm_module.parameters()}
    by_hand = ("unembed.linear", "unembed_dist.linear") if isinstance(model.unembed, ClassEmbeddings) else ()
    others = [
        name
        for name, parameter in model.named_parameters()
        if id(parameter) not in own and not name.startswith(by_hand)
    ]
    if others:
        raise InputError(
            f"{others[0]} of {model.cfg.model_name} was replaced, and is no weight of timm's module any more"
        )
    if isinstance(model.unembed, ClassEmbeddings):
        warnings.warn(
            "the class embeddings that were set by hand are in no checkpoint: set them again on the model that is opened "
            "from it",
            stacklevel=4,
        )


def _save_folder_of_timm(model: HookedViT, folder: Path) -> None:
    module, keywords = rebuilt(model)
    data = {key: model.cfg.data_config[key] for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode")}
    # Not the rest of timm's configuration: the tag and the licence are those of its own weights.
    of_parts = ("architecture", "first_conv", "classifier", "fixed_input_size")
    kept = {key: value for key, value in module.pretrained_cfg.items() if key in of_parts}
    size = model.cfg.n_channels, *model.cfg.image_size
    module.pretrained_cfg = {**kept, **data, "input_size": size}
    own_classes = model.class_names is not None and len(model.class_names) == module.num_classes
    names = {"label_names": list(model.class_names or ())} if own_classes else {}
    with tempfile.TemporaryDirectory() as made:
        timm.models.save_for_hf(module, made, model_config=names, model_args=keywords, safe_serialization=True)
        _move_into(folder, Path(made))


def _save_like(model: HookedViT, target: Path, is_file: bool, like: Any) -> None:
    if folder_of_timm(like) is not None:
        raise InputError("like= is for models of other libraries, and this is a folder of timm: leave like= out")
    tensors = by_source_names(model, read_source(like))
    if is_file:
        save_tensors(tensors, target, METADATA)
        return
    with tempfile.TemporaryDirectory() as made:
        if isinstance(like, nn.Module):
            _save_like_module(like, tensors, Path(made))
        else:
            _save_like_folder(find(like), tensors, Path(made))
        _move_into(target, Path(made))


def _save_like_module(like: Any, tensors: dict[str, Tensor], made: Path) -> None:
    """Hugging Face's module writes its configuration, and the names of tensors that its files have."""
    if not hasattr(like, "save_pretrained"):
        raise InputError(
            f"a {type(like).__name__} is saved in no folder of its library: name a file that ends in .safetensors, and load "
            "it with module.load_state_dict(safetensors.torch.load_file(path))"
        )
    like.save_pretrained(made)
    for file in made.glob("*.safetensors*"):
        file.unlink()
    save_tensors(tensors, made / "model.safetensors", METADATA)


def _save_like_folder(like: Path, tensors: dict[str, Tensor], made: Path) -> None:
    folder = like if like.is_dir() else like.parent
    if not (folder / "config.json").is_file() and not (folder / "open_clip_config.json").is_file():
        raise InputError(f"{folder} has no configuration beside its weights: name a file that ends in .safetensors")
    for pattern in KEPT_BESIDE:
        for file in folder.glob(pattern):
            if not file.name.endswith(INDEX):
                shutil.copyfile(file, made / file.name)
    of_open_clip = is_of_open_clip(folder, folder_config(folder), weights_in(folder))
    save_tensors(tensors, made / f"{'open_clip_' if of_open_clip else ''}model.safetensors", METADATA)


def _move_into(folder: Path, made: Path) -> None:
    """Puts files into a folder, each as a whole; the weights last, so that no new ones stand beside an old configuration."""
    make_folder(folder)
    for file in sorted(made.iterdir(), key=lambda file: file.suffix == ".safetensors"):
        write_whole(folder / file.name, file.read_bytes())
