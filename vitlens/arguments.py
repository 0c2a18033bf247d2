"""Checks the arguments of public functions when a call begins, by their annotation or by their name.

Only what is wrong for every model and every picture is refused here: text instead of a number, block 1.7, a batch of 0.
Whether a model has a certain block, class or hook point is checked where it is looked up.
"""

import functools
import inspect
import operator
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, log
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

import numpy as np
from PIL import ExifTags, Image
from torch import Tensor
from torch import bool as torch_bool

from vitlens.errors import InputError, nearest

Public = TypeVar("Public", bound=Callable[..., Any])
Check = Callable[[str, Any], None]


def checked(function: Public) -> Public:
    """Decorates a public function: checks each argument by its annotation or by its name."""
    signature = inspect.signature(function)
    found = {name: check_of(parameter) for name, parameter in signature.parameters.items()}
    checks = {name: check for name, check in found.items() if check is not None}

    @functools.wraps(function)
    def at_the_door(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            given = None
        if given is None:
            # After the handler, so that the user sees one traceback. Python's own sentence names the function.
            _refuse_unknown(function.__name__, signature, kwargs)
            return function(*args, **kwargs)
        for name, check in checks.items():
            if name in given:
                check(name, given[name])
        if "masks" in given:
            check_mask_shapes(given.get("images", given.get("clean")), given["masks"])
        return function(*args, **kwargs)

    return cast(Public, at_the_door)


def _refuse_unknown(function: str, signature: inspect.Signature, keywords: Mapping[str, Any]) -> None:
    """Raises TypeError for a keyword that the function does not have, with the nearest that it has."""
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    for name in keywords:
        if not takes_any and name not in signature.parameters:
            known = [other for other in signature.parameters if other != "self"]
            raise TypeError(
                f"{function}() got an unexpected keyword argument {name!r}; the nearest are {nearest(name, known)}"
            ) from None


def check_of(parameter: inspect.Parameter) -> Check | None:
    """The check of a parameter; None if neither its type nor its name says enough."""
    annotation, name = parameter.annotation, parameter.name
    is_union = get_origin(annotation) in (Union, UnionType)
    kinds = set(get_args(annotation)) if is_union else {annotation}
    check = _by_type(name, kinds - {NoneType}) or BY_NAME.get(name)
    if check is hook and any(get_origin(kind) is Sequence for kind in kinds):
        check = several_hooks
    if check is None or NoneType not in kinds:
        return check
    return lambda name, value: None if value is None else check(name, value)


def _by_type(name: str, kinds: set[Any]) -> Check | None:
    if kinds == {int}:
        return whole(LEAST.get(name))
    if kinds == {float}:
        return number(LEAST.get(name))
    if kinds == {bool}:
        return flag
    if kinds == {str}:
        return text
    if kinds and kinds <= {int, Sequence[int]}:
        return numbers_of
    ours = all(isinstance(kind, type) and kind.__module__.startswith("vitlens.") for kind in kinds)
    return made_by(tuple(kinds)) if ours and kinds else None


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number: 3, also NumPy's or a tensor's, but not 3.0, True or "3"."""
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, Tensor) and (value.ndim or value.dtype == torch_bool)):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def as_whole(value: Any, what: str) -> int:
    """Any kind of whole number as an int.

    Raises:
        InputError: it is none.
    """
    if not is_whole(value):
        raise InputError(f"{what} is a whole number, not {short(value)}")
    return operator.index(value)


def require_whole(**numbers: Any) -> None:
    """Raises InputError unless every keyword's value is a whole number."""
    for name, value in numbers.items():
        as_whole(value, name)


def require_seed(seed: Any) -> None:
    """Raises InputError unless the seed is one that generators take."""
    whole(0)("seed", seed)


def check_count(value: Any, name: str, least: int = 1) -> int:
    """A whole number that is not too small, as an int.

    Raises:
        InputError: anything else.
    """
    whole(least)(name, value)
    return operator.index(value)


def index_of(value: Any, n: int, what: str, owner: str = "a block") -> int:
    """A place among n as an index from 0 up; -1 is the last.

    Raises:
        InputError: there is no such place; `what` is counted, and `owner` has them.
    """
    if not is_whole(value) or not -n <= value < n:
        raise InputError(f"there is no {what} {short(value)}: {owner} has {what}s 0 to {n - 1}")
    return operator.index(value) % n


def bar_hidden(progress: bool | None, n_batches: int | None) -> bool | None:
    """tqdm's `disable`: by default a bar is shown on a terminal only (None), and only where it has more than one step."""
    if progress is None:
        return True if n_batches is not None and n_batches < 2 else None
    return not progress


def whole(least: int | None = None) -> Check:
    """A whole number, as generators and tensors take it."""
    ends = "" if least is None else f" of at least {least}"

    def check(name: str, value: Any) -> None:
        if not is_whole(value) or (least is not None and value < least) or abs(int(value)) >= 2**63:
            raise InputError(f"{name} is a whole number{ends}, not {short(value)}")

    return check


def number(least: int | None = None) -> Check:
    """A finite number."""
    ends = "" if least is None else f" of at least {least}"

    def check(name: str, value: Any) -> None:
        is_number = isinstance(value, (int, float, np.number)) or (isinstance(value, Tensor) and value.ndim == 0)
        if isinstance(value, bool) or not is_number or not isfinite(value) or (least is not None and value < least):
            raise InputError(f"{name} is a finite number{ends}, not {short(value)}")

    return check


def flag(name: str, value: Any) -> None:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name} is True or False, not {short(value)}")


def text(name: str, value: Any) -> None:
    """A name; the function itself checks which."""
    if not isinstance(value, str):
        raise InputError(f"{name} is a name, as text, not {short(value)}")


def made_by(kinds: tuple[type, ...]) -> Check:
    """An object of a class of vitlens."""
    named = " or ".join(sorted(kind.__name__ for kind in kinds))

    def check(name: str, value: Any) -> None:
        if not isinstance(value, kinds):
            by_kind = {MAKERS[kind.__name__] for kind in kinds if kind.__name__ in MAKERS}
            makers = [MAKERS[name]] if name in MAKERS else sorted(by_kind)
            made = f", as {' or '.join(makers)} makes it" if makers else ""
            raise InputError(f"{name} is a {named}{made}, not {short(value)}")

    return check


def items(value: Any) -> list[Any]:
    """The items of a list, tuple, range, tensor or array; anything else is the only item."""
    if isinstance(value, (Tensor, np.ndarray)):
        return value.tolist() if value.ndim == 1 and not getattr(value, "is_meta", False) else [value]
    return list(value) if isinstance(value, (list, tuple, range)) else [value]


def numbers_of(name: str, value: Any) -> None:
    """One or several whole numbers."""
    if not all(is_whole(item) for item in items(value)):
        hint = ": head L9H0 is blocks=9, heads=0" if name == "heads" else ""
        raise InputError(f"{name} are numbers, counted from 0: one of them or a list, not {short(value)}{hint}")


def different_texts(name: str, value: Any) -> None:
    """One or several texts, each once."""
    given = items(value)
    for each in given:
        if not isinstance(each, str) or not each.strip():
            raise InputError(f"{name} is a sentence or a list of them, not {short(value)}")
    if not given:
        raise InputError(f"{name} is an empty list: name at least one sentence")
    for each, n in Counter(given).items():
        if n > 1:
            raise InputError(f"{name} has {each!r} {n} times: pass each sentence once")


def hook(name: str, value: Any) -> None:
    """The name of a hook point, or a key as TransformerLens writes it."""
    is_key = isinstance(value, tuple) and len(value) in (2, 3) and isinstance(value[0], str) and is_whole(value[1])
    if not (isinstance(value, str) or is_key):
        raise InputError(
            f"{name} is the name of a hook point, such as 'resid_post5', or a key such as ('resid_post', 5), not "
            f"{short(value)}"
        )


def several_hooks(name: str, value: Any) -> None:
    """The name of a hook point, or a list of them."""
    for item in value if isinstance(value, list) else [value]:
        hook(name, item)


def names(name: str, value: Any) -> None:
    """One or several names."""
    if not all(isinstance(item, str) for item in items(value)):
        raise InputError(f"{name} is a name, or a list of names, not {short(value)}")


def metric(name: str, value: Any) -> None:
    """Names or functions, as `vitlens.choose.metrics` takes them."""
    wanted = list(value.values()) if isinstance(value, Mapping) else items(value)
    if not all(isinstance(one, str) or callable(one) for one in wanted):
        raise InputError(
            f"{name} is the name of a metric, a function of the logits, a list or a mapping of them, not {short(value)}"
        )


def classes(name: str, value: Any) -> None:
    """Indices or names; whether they exist is checked with the model."""
    wanted = [] if isinstance(value, (Tensor, np.ndarray)) else items(value)
    if not all(is_whole(item) or isinstance(item, str) for item in wanted):
        raise InputError(
            f"{name} are an index (a whole number) or a name, a list of them, or a tensor with those of each picture, not "
            f"{short(value)}"
        )


def masks(name: str, value: Any) -> None:
    """What masks are read from, where a set of tokens needs them."""
    ours = type(value).__module__.startswith("vitlens.")
    if not all(ours or isinstance(item, (Tensor, np.ndarray, str, os.PathLike, Image.Image)) for item in items(value)):
        raise InputError(
            f"{name} are a bool tensor [image, height, width], or a picture of the mask for each, not {short(value)}"
        )


def check_mask_shapes(images: Any, masks: Any) -> None:
    """Raises InputError if a mask has another shape than its picture, where both are files or PIL pictures.

    They may differ in size, up to rounding in their ratio of width to height: both are resized and cropped alike.
    """
    for picture, mask in zip(items(images), items(masks), strict=False):
        size, mask_size = _size_of(picture), _size_of(mask)
        if size is None or mask_size is None:
            continue
        (width, height), (mask_width, mask_height) = size, mask_size
        rounding = 0.02 + 0.5 / min(mask_width, mask_height)
        if abs(log((mask_width * height) / (mask_height * width))) > rounding:
            raise InputError(
                f"the mask is {mask_width} × {mask_height} pixels, its picture {width} × {height}: a mask has the shape "
                "of its picture"
            )


def _size_of(picture: Any) -> tuple[int, int] | None:
    """Width and height of a file or PIL picture, turned as its tag says; None for anything else, or if it is no picture."""
    if not isinstance(picture, (str, os.PathLike, Image.Image)):
        return None
    try:
        if not isinstance(picture, Image.Image):
            with Image.open(picture) as image:
                return _size_of(image)
        turned = picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except Exception:
        # Pillow raises many kinds of errors, and reading the file says what is wrong with it.
        return None
    return (picture.height, picture.width) if turned else picture.size


def path(name: str, value: Any) -> None:
    """A file's or folder's."""
    if not isinstance(value, (str, os.PathLike)) or "\0" in str(value):
        raise InputError(f"{name} is the path of a file or folder, not {short(value)}")


def short(value: Any) -> str:
    """A value as short text for an error message."""
    if isinstance(value, Tensor) and value.is_nested:
        return "a nested Tensor"
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim:
        return f"a {type(value).__name__} {list(value.shape)} of {value.dtype}"
    written = " ".join(repr(value).split())
    return f"{written[:57]}…" if len(written) > 60 else written


#: The least value of a number, by the name of the argument.
LEAST = {
    **dict.fromkeys(
        ("batch_size", "k", "n_rows", "n_steps", "n_images", "n_registers", "n_components", "chunk_size"), 1
    ),
    **dict.fromkeys(("n_memories", "n_features", "n_classes", "cka_rows", "workers"), 1),
    **dict.fromkeys(("similarity_queries", "height", "width"), 1),
    **dict.fromkeys(("n_examples", "n_draws", "seed", "row", "column", "noise_scale"), 0),
}
#: The check of an argument with several possible types, by its name.
BY_NAME: dict[str, Check] = {
    **dict.fromkeys(("classes", "baseline_classes"), classes),
    **dict.fromkeys(("hook", "hook_out"), hook),
    **dict.fromkeys(("site", "sites", "methods", "metrics", "perturbations", "keep"), names),
    **dict.fromkeys(("text", "baseline_text"), different_texts),
    "metric": metric,
    "masks": masks,
    "path": path,
}
#: Which call makes what an argument is, by the name of its class or of the argument.
MAKERS = {
    "HookedViT": "HookedViT.from_timm",
    "ClassLens": "class_lens",
    "ClassTrace": "class_trace",
    "Patching": "activation_patching",
    "Circuit": "find_circuit",
    "SparseAutoencoder": "load_sae, or the layer(block) of a CrossLayerTranscoder,",
    "scores": "path_patching(…, receivers=None) or edge_attribution_patching",
}
