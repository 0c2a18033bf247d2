"""`--text`: sentences in place of classes, embedded by the text tower of the checkpoint."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitlens.cli.options import ModelOptions
from vitlens.cli.shared import in_words_of_a_shell
from vitlens.errors import InputError

if TYPE_CHECKING:
    from vitlens.choose.texts import TextClasses
    from vitlens.model.hooked_vit import HookedViT
    from vitlens.text.tower import TextTower

AskedTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        help="instead of a class a sentence, where the model was trained with text (CLIP, SigLIP); several times",
        show_default=False,
    ),
]
AgainstText = Annotated[
    str | None, typer.Option("--against-text", help="the sentence to compare --text with", show_default=False)
]
Tower = Annotated[
    str | None,
    typer.Option(
        help="the model with the text tower: a folder, or owner/name on the hub [default: --checkpoint]",
        show_default=False,
    ),
]
Templates = Annotated[
    list[str] | None,
    typer.Option(
        metavar='"a photo of a {}."',
        show_default=False,
        help='a sentence with {} where a text goes, or "photo" for a set of them; several times: their mean',
    ),
]


def whole_templates(given: list[str] | None) -> list[str]:
    """The sentences that `--template` names, those of a set among them."""
    from vitlens.text.templates import PHOTO_TEMPLATES

    return [each for one in given or [] for each in (PHOTO_TEMPLATES if one == "photo" else [one])]


def load_asked(
    options: ModelOptions,
    classes: Any,
    text: list[str] | None,
    against_class: str | None = None,
    against_text: str | None = None,
    *,
    tower: str | None = None,
    several: str = "all",
) -> "TextClasses":
    """The model, and the classes that a command asks for: its own, or sentences.

    Args:
        tower: the source of the text tower, if it is not the checkpoint.
        several: as of `takes_text`.

    Raises:
        InputError: classes and sentences at once; a checkpoint without a text tower; as `ModelOptions.load`.
    """
    from vitlens.arguments import different_texts
    from vitlens.choose.texts import TextClasses, classes_of_texts

    if not text:
        if against_text is not None:
            raise InputError("--against-text is what --text is compared with: pass --text too")
        if tower is not None:
            raise InputError("--tower is the text tower that reads --text: pass --text too")
        return TextClasses(options.load(), classes or None, against_class)
    different_texts("--text", text)
    if classes:
        raise InputError("--class names one of the model's own classes and --text others: pass one of the two")
    if against_class is not None:
        raise InputError("--against-class is one of the model's own classes: --text is compared with --against-text")
    return classes_of_texts(load_with_tower(options, tower), text, against_text, several=several)


def load_with_tower(options: ModelOptions, source: str | None) -> "HookedViT":
    """The model with the text tower of another source, or with its own: that of the checkpoint, if it has none yet.

    Raises:
        InputError: as `open_tower`, and as `ModelOptions.load`.
    """
    hooked = options.load()
    if source is not None or hooked.text_tower is None:
        hooked.set_text_tower(open_tower(options, source))
    return hooked


def open_tower(options: ModelOptions, source: str | None) -> "TextTower":
    """The text tower of another source, or of the checkpoint itself.

    Raises:
        InputError: there is none.
    """
    from vitlens.text.tower import TextTower

    if source is None and options.checkpoint is None:
        raise InputError(
            f"texts need the text tower that {options.called} was trained with: pass both as --checkpoint, such as the "
            "folder of a CLIP or SigLIP model, or the tower alone as --tower"
        )
    with in_words_of_a_shell():
        return TextTower.from_pretrained(str(source or options.checkpoint), device=options.device, dtype=options.dtype)
