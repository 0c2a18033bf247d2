"""`text=` wherever `classes=` is taken: the texts are the classes of that call, in place of the model's own."""

import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload, runtime_checkable

from vitlens.arguments import items
from vitlens.choose.classes import Classes
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT

P = ParamSpec("P")
R = TypeVar("R")
Returned = TypeVar("Returned", covariant=True)
Texts = str | Sequence[str]

#: What a docstring says of the arguments that are added; of several texts it says what the call does with them.
TEXT_SAID = (
    "text: in place of `classes` one or several sentences, which the model's text tower makes the classes of this call, see "
    "`HookedViT.set_text_tower`. {}"
)
SEVERAL_SAID = {
    "all": "Of several, all are shown.",
    "predicted": "Of several, the one that is predicted for each picture is followed.",
}
BASELINE_TEXT_SAID = "baseline_text: in place of `baseline_classes`, the sentence that `text` is compared with."
LINE_LENGTH = 120


@runtime_checkable
class TakesText(Protocol[P, Returned]):
    """A call with `classes=` that takes `text=` in its place."""

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Returned: ...
    @overload
    def __call__(self, *args: Any, text: Texts, **kwargs: Any) -> Returned: ...


@dataclass(frozen=True)
class TextClasses:
    """A view of the model whose classes are texts, and which of them are meant: None for the predicted one."""

    model: HookedViT
    classes: Classes
    baseline_classes: Classes


def takes_text(several: str) -> Callable[[Callable[P, R]], TakesText[P, R]]:
    """Decorates a public function of `model` and `classes`: it also takes `text`, and `baseline_text` where it compares.

    The two stand in its signature and in its docstring. `checked` stands above this, to check them too.

    Args:
        several: which of several texts the call is about: "all", or where it follows one class of each picture the
            "predicted" one.
    """

    def decorate(function: Callable[P, R]) -> TakesText[P, R]:
        signature = inspect.signature(function)
        default = signature.parameters["classes"].default
        compares = "baseline_classes" in signature.parameters

        @functools.wraps(function)
        def on_texts(*args: Any, **kwargs: Any) -> R:
            text = kwargs.pop("text", None)
            baseline_text = kwargs.pop("baseline_text", None) if compares else None
            if text is None:
                if baseline_text is not None:
                    raise InputError("baseline_text= is what text= is compared with: pass text= too")
                return function(*args, **kwargs)
            given = signature.bind(*args, **kwargs)
            _refuse_classes(given.arguments, default)
            found = classes_of_texts(given.arguments["model"], text, baseline_text, several=several)
            given.arguments["model"] = found.model
            # Over a data set the class has a name, such as "predicted", which texts leave as it is.
            if default is None:
                given.arguments["classes"] = found.classes
            if compares:
                given.arguments["baseline_classes"] = found.baseline_classes
            return function(*given.args, **given.kwargs)

        on_texts.__signature__ = with_texts(signature)  # type: ignore[attr-defined]
        on_texts.__doc__ = say_texts(function.__doc__ or "", several, compares)
        return cast(TakesText[P, R], on_texts)

    return decorate


def classes_of_texts(
    model: HookedViT, text: Texts, baseline_text: Texts | None = None, *, several: str = "all"
) -> TextClasses:
    """The texts as classes of the model; its own stay as they are.

    Raises:
        InputError: the model has no text tower, or one whose embeddings do not fit it.
    """
    if model.text_tower is None:
        raise InputError(
            f"text= needs the text tower that {model.cfg.model_name} was trained with: give it to the model with "
            "model.set_text_tower(vitlens.text.TextTower(…))"
        )
    wanted, compared = items(text), [] if baseline_text is None else items(baseline_text)
    names = list(dict.fromkeys([*wanted, *compared]))
    view = model.with_class_embeddings(model.text_tower, names)
    if compared:
        return TextClasses(view, [names.index(one) for one in wanted], [names.index(one) for one in compared])
    return TextClasses(view, "all" if several == "all" or len(wanted) == 1 else None, None)


def _refuse_classes(given: dict[str, Any], default: Any) -> None:
    """Raises InputError for classes of the model beside texts."""
    classes = given.get("classes")
    if classes is not None and not (isinstance(default, str) and classes == default):
        raise InputError(
            "classes= are the model's own classes and text= are others in their place: pass one of the two"
        )
    if given.get("baseline_classes") is not None:
        raise InputError(
            "baseline_classes= are the model's own classes, which text= replaces: say with baseline_text= what the text is "
            "compared with"
        )


def with_texts(signature: inspect.Signature) -> inspect.Signature:
    """The signature with `text` first of what is passed by name, and `baseline_text` behind `baseline_classes`."""
    placed: list[inspect.Parameter] = []
    text, baseline = (
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Texts | None)
        for name in ("text", "baseline_text")
    )
    for parameter in signature.parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD and text not in placed:
            placed.append(text)
        placed += [parameter, baseline] if parameter.name == "baseline_classes" else [parameter]
    return signature.replace(parameters=placed)


def say_texts(docstring: str, several: str, compares: bool) -> str:
    """The docstring with an entry for each new argument, behind that of the argument whose place it takes, or last."""
    head, args, rest = docstring.partition("    Args:\n")
    section, gap, tail = rest.partition("\n\n")
    entries = re.split(r"\n(?= {8}\S)", section)
    said = {"classes": TEXT_SAID.format(SEVERAL_SAID[several])} | (
        {"baseline_classes": BASELINE_TEXT_SAID} if compares else {}
    )
    for name, entry in said.items():
        named = (i for i, each in enumerate(entries) if re.match(rf" {{8}}[^:]*\b{name}\b[^:]*:", each))
        entries.insert(next(named, len(entries) - 1) + 1, _wrapped(entry))
    return head + args + "\n".join(entries) + gap + tail


def _wrapped(entry: str) -> str:
    return textwrap.fill(entry, LINE_LENGTH, initial_indent=" " * 8, subsequent_indent=" " * 12, break_on_hyphens=False)
