"""What the commands and the experiments' scripts share: loading the model, and printing errors."""

import ast
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from vitlens.errors import InputError

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT

DEMO = "demo"
DTYPES = ("float32", "float64", "bfloat16", "float16")
# Arguments of the library whose options have another name.
OPTIONS = {
    "checkpoint_path=": "--checkpoint",
    "pretrained=False": "--random-weights",
    "use_ema=": "--timm use_ema=",
    "(path=)": "(--out)",
    'model.set_output("sigmoid")': "--output sigmoid",
    "HookedViT.from_timm(name, checkpoint_path=…)": "--model NAME --checkpoint",
    "HookedViT.from_pretrained": "--checkpoint and no --model",
    "with classes=": "with --class",
    "baseline_text=": "--against-text",
}
#: Keywords with which files of other libraries are opened.
OF_ANY_LIBRARY = ("n_heads", "img_size", "use_ema")
KEYWORDS = (
    "img_size",
    "patch_size",
    "depth",
    "global_pool",
    "class_token",
    "reg_tokens",
    "in_chans",
    "dynamic_img_pad",
    "n_heads",
)


def load_model(
    name: str,
    checkpoint: Path | None,
    random_weights: bool,
    device: str = "cpu",
    dtype: str = "float32",
    class_names: Path | None = None,
    timm: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    output: str | None = None,
) -> "HookedViT":
    """Loads the model of the common options: of a timm name, or of a checkpoint alone, whatever library it is from.

    Args:
        timm: timm's keywords, each as `read_keywords` reads it.
        preprocessing: mean, std, crop_pct and interpolation, where they are not timm's; numbers of channels as text.
        output: what the model's outputs mean, if it is not what their number says.

    Raises:
        InputError: as `HookedViT.from_timm` and `from_pretrained`; a device or precision that cannot be used; not one name
            for each class.
    """
    import torch

    from vitlens.data.class_names import read_class_names
    from vitlens.demo import load_demo_model
    from vitlens.model.hooked_vit import HookedViT

    check_dtype(dtype)
    check_device(device)
    precision = getattr(torch, dtype)
    keywords = read_keywords(timm)
    prepared = {key: value for key, value in (preprocessing or {}).items() if value is not None}
    prepared |= {key: _numbers(prepared[key], flag(key)) for key in ("mean", "std") if key in prepared}
    check_one_source(checkpoint, random_weights)
    if name == DEMO and checkpoint is not None:
        other = [f"--timm {key}" for key in keywords if key not in OF_ANY_LIBRARY]
        if other:
            raise InputError(
                f"{other[0]} is a keyword of timm's models: it needs --model with a timm name (without --model, "
                f"--checkpoint takes --timm {', '.join(OF_ANY_LIBRARY)})"
            )
        with in_words_of_a_shell():
            hooked = HookedViT.from_pretrained(str(checkpoint), device=device, dtype=precision, **prepared, **keywords)
    elif name == DEMO:
        if random_weights:
            raise InputError("the demo model comes with its weights: --random-weights needs --model with a timm name")
        if keywords:
            raise InputError("the demo model is as it is: --timm needs --model with a timm name")
        if prepared:
            raise InputError(
                f"the demo model comes with its preprocessing: {flag(next(iter(prepared)))} needs --model with a timm name"
            )
        hooked = load_demo_model().to(device).to(precision)
    else:
        # The same command has the same random weights every time.
        with torch.random.fork_rng(devices=[]), in_words_of_a_shell():
            torch.manual_seed(0)
            hooked = HookedViT.from_timm(
                name,
                pretrained=not random_weights,
                checkpoint_path=checkpoint,
                device=device,
                dtype=precision,
                **prepared,
                **keywords,
            )
    if output is not None:
        hooked.set_output(output)
    if class_names is not None:
        hooked.class_names = read_class_names(class_names, hooked.cfg.n_classes)
    return hooked


def read_keywords(given: Sequence[str] | None) -> dict[str, Any]:
    """Keywords written KEY=VALUE: the value is a Python literal (384, None, (224, 448)), true or false, or else a text.

    Raises:
        InputError: not written so, given twice, or something that has an option of its own.
    """
    keywords: dict[str, Any] = {}
    for text in given or []:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key.isidentifier() or not value:
            raise InputError(f"--timm is written KEY=VALUE, such as --timm img_size=384, not {text!r}")
        if key in keywords:
            raise InputError(f"--timm {key} is given twice")
        if key in _arguments() and key != "use_ema":
            raise InputError(
                f"--timm takes keywords of timm's models; {key} has an option of its own, or none from a shell"
            )
        keywords[key] = _literal(value)
    return keywords


def check_one_source(checkpoint: Path | None, random_weights: bool) -> None:
    """Raises InputError if both --checkpoint and --random-weights are given."""
    if checkpoint is not None and random_weights:
        raise InputError("--checkpoint gives weights and --random-weights asks for none: choose one of them")


def _numbers(text: str, option: str) -> list[float]:
    """Numbers of channels, written 0.5 or 0.485,0.456,0.406."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} is a number, or numbers such as 0.485,0.456,0.406, not {text!r}") from None


def _literal(value: str) -> Any:
    try:
        return ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(value.lower(), value))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def _arguments() -> set[str]:
    import inspect

    from vitlens.model.hooked_vit import HookedViT

    return set(inspect.signature(HookedViT.from_timm).parameters) | {"pretrained_cfg", "features_only"}


@contextmanager
def in_words_of_a_shell() -> Iterator[None]:
    """Warnings are notes on stderr, which name options in place of arguments; `run` says errors so."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        yield
    for warning in told:
        note(in_options(str(warning.message)))


def flag(argument: str) -> str:
    """The option of an argument's name."""
    return "--" + argument.replace("_", "-")


def in_options(sentence: str, arguments: Iterable[str] = ("class_names",)) -> str:
    """Replaces the names of arguments in a sentence of the library by those of options."""
    for argument, option in OPTIONS.items():
        sentence = sentence.replace(argument, option)
    sentence = re.sub(r'HookedViT\.from_timm\("([^"]+)"\)', r"--model \1", sentence)
    sentence = re.sub(rf"(?<![\w-])({'|'.join(KEYWORDS)})=", r"--timm \1=", sentence)
    for argument in arguments:
        option, bare = flag(argument), rf"(?<![\w/.'\"-]){argument}"
        sentence = re.sub(rf"{bare}=True\b", option, sentence)
        sentence = re.sub(rf"{bare}=(?=[\w\"'])", f"{option} ", sentence)
        sentence = re.sub(rf"{bare}=", option, sentence)
        if "_" in argument:
            # A name without "_" may be an English word of the sentence; one with "_" is always the argument.
            sentence = re.sub(rf"{bare}(?=[\s,;:)]|$)", option, sentence)
    return sentence


def note(sentence: str) -> None:
    """Prints a note on stderr."""
    Console(stderr=True, soft_wrap=True).print(f"note: {sentence}", highlight=False, markup=False)


def check_dtype(dtype: str) -> None:
    """Raises InputError unless models compute in it."""
    if dtype not in DTYPES:
        raise InputError(f"--dtype is one of {', '.join(DTYPES)}, not {dtype!r}")


def check_device(device: str) -> None:
    """Raises InputError unless tensors can be made there."""
    from vitlens.model.placement import read_device

    read_device(device)


def require_classes(model: "HookedViT") -> None:
    """Raises InputError if the model has no classifier, before any work is done."""
    if model.unembed is None:
        raise InputError(
            f"{model.cfg.model_name} has no classifier, so there is no class to ask for: give weights that have one with "
            "--checkpoint, or choose another --model"
        )


def is_watched() -> bool:
    """Whether somebody watches progress bars."""
    return sys.stderr.isatty()


def complain(sentence: str) -> None:
    """Prints an error on stderr."""
    Console(stderr=True, soft_wrap=True).print(f"error: {sentence}", style="red", highlight=False, markup=False)


def run(command: typer.Typer) -> None:
    """Runs a command line; what is wrong with its input ends it with one sentence and exit code 2, without a traceback."""
    try:
        # On its own typer would print its usage errors as panels of several lines.
        status = _built(command)(standalone_mode=False)
    except (InputError, typer.TyperException) as error:
        sentence = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        # It is empty where no argument at all was given, and help was printed.
        if sentence:
            complain(in_options(sentence, _arguments_of(command)))
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        complain("memory is not enough: take fewer pictures, a smaller --batch-size or model, or another --device")
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)


@lru_cache(maxsize=1)
def _built(app: typer.Typer) -> Any:
    """The commands as typer makes them, which takes it a tenth of a second each time."""
    return typer.main.get_command(app)


def _arguments_of(app: typer.Typer) -> set[str]:
    """What the commands' options are called as arguments."""
    group = _built(app)
    commands = [group, *getattr(group, "commands", {}).values()]
    return {option.name for command in commands for option in command.params if option.param_type_name == "option"}


def _is_out_of_memory(error: Exception) -> bool:
    """Python's error, torch's on a GPU, or the one that torch has no class for."""
    named = type(error).__name__ in ("MemoryError", "OutOfMemoryError")
    return named or "DefaultCPUAllocator: can't allocate memory" in str(error)
