"""`--text`: sentences in place of classes, embedded by the text tower of the checkpoint."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitlens.cli.options import ModelOptions
from vitlens.errors import InputError

if TYPE_CHECKING:
    from vitlens.choose.texts import TextClasses
    from vitlens.model.class_space.embeddings import EmbedsTexts

AskedTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        help="instead of a class a sentence, of a --checkpoint that was trained with text (CLIP, SigLIP); several times",
        show_default=False,
    ),
]
AgainstText = Annotated[
    str | None, typer.Option("--against-text", help="the sentence to compare --text with", show_default=False)
]


def load_asked(
    options: ModelOptions,
    classes: Any,
    text: list[str] | None,
    against_class: str | None = None,
    against_text: str | None = None,
    *,
    several: str = "all",
) -> "TextClasses":
    """The model, and the classes that a command asks for: its own, or sentences.

    Args:
        several: as of `takes_text`.

    Raises:
        InputError: classes and sentences at once; a checkpoint without a text tower; as `ModelOptions.load`.
    """
    from vitlens.arguments import different_texts
    from vitlens.choose.texts import TextClasses, classes_of_texts

    if not text:
        if against_text is not None:
            raise InputError("--against-text is what --text is compared with: pass --text too")
        return TextClasses(options.load(), classes or None, against_class)
    different_texts("--text", text)
    if classes:
        raise InputError("--class names one of the model's own classes and --text others: pass one of the two")
    if against_class is not None:
        raise InputError("--against-class is one of the model's own classes: --text is compared with --against-text")
    hooked = options.load()
    if hooked.text_tower is None:
        hooked.set_text_tower(_tower(options))
    return classes_of_texts(hooked, text, against_text, several=several)


def _tower(options: ModelOptions) -> "EmbedsTexts":
    from vitlens.text.tower import TextTower

    if options.checkpoint is None:
        raise InputError(
            f"--text needs the text tower that {options.called} was trained with: pass both as --checkpoint, such as the "
            "folder of a CLIP or SigLIP model"
        )
    return TextTower.from_pretrained(str(options.checkpoint))
