"""`vitlens zero-shot`: how often pictures are nearest to the text of their class."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitlens.cli.options import BatchSize, Json, ModelOptions, ResultOut, with_model
from vitlens.cli.output import WRITTEN, Answer, check_out, hand_over
from vitlens.cli.shared import is_watched
from vitlens.cli.texts import Templates, Tower, load_with_tower, whole_templates
from vitlens.errors import InputError, reason
from vitlens.results.writing import RESULTS

if TYPE_CHECKING:
    from vitlens.data.picture_sets import PictureSet
    from vitlens.model.hooked_vit import HookedViT
    from vitlens.text.accuracy import ZeroShotAccuracy

#: So many classes are shown on a terminal, the worst first; all are in the file and in JSON.
WORST = 20


@with_model
def zero_shot(
    data: Annotated[
        str,
        typer.Option(
            help='labelled pictures: a folder with one folder for each class, a Parquet file, or "demo"', show_default=False
        ),
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[CLASS=]TEXT", show_default=False,
            help="the text of a class: its name alone, or the folder's name and a sentence; several times",
        ),
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="a file with such texts, one per line, in place of --text", show_default=False)
    ] = None,
    template: Templates = None,
    tower: Tower = None,
    per_class: Annotated[
        int | None, typer.Option(min=1, help="at most this many pictures of each class", show_default=False)
    ] = None,
    *,
    model: ModelOptions,
    batch_size: BatchSize = 16,
    out: ResultOut = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Classify labelled pictures by the nearest text, with a model that was trained with text (CLIP, SigLIP)."""
    from vitlens.text.accuracy import zero_shot_accuracy

    check_out(out, (*WRITTEN, *RESULTS))
    names, sentences = read_named_texts(text, texts)
    hooked = load_with_tower(model, tower)
    found = zero_shot_accuracy(
        hooked,
        _labelled(data, names, per_class),
        sentences,
        templates=whole_templates(template) or None,
        batch_size=batch_size,
        progress=is_watched(),
    )
    hand_over(_answer(found, hooked), out, as_json)


def read_named_texts(given: list[str] | None, file: Path | None) -> tuple[list[str], list[str]]:
    """The names of classes, and their texts; a text without a name is its class's name itself.

    Raises:
        InputError: neither or both are given; the file cannot be read, or is empty; nothing before or behind a "=".
    """
    if bool(given) == (file is not None):
        raise InputError("say which texts the classes have: --text TEXT several times, or --texts FILE")
    lines = given or []
    if file is not None:
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file} cannot be read as texts, one per line: {reason(error)}") from None
        if not lines:
            raise InputError(f"{file} holds no texts: one per line")
    pairs = [line.partition("=") for line in lines]
    for name, equals, sentence in pairs:
        if not name.strip() or (equals and not sentence.strip()):
            raise InputError(f"a text is written TEXT or CLASS=TEXT, not {name + equals + sentence!r}")
    return [name.strip() for name, *_ in pairs], [(sentence or name).strip() for name, _, sentence in pairs]


def _labelled(data: str, names: list[str], per_class: int | None) -> "PictureSet":
    from vitlens.data.picture_sets import open_pictures

    try:
        return open_pictures(data, names, len(names), per_class=per_class)
    except InputError as error:
        advice = "say which is which with class_map="
        raise InputError(str(error).replace(advice, "write --text FOLDER=TEXT for each")) from None


def _answer(found: "ZeroShotAccuracy", hooked: "HookedViT") -> Answer:
    table, classes = found.table(), found.by_class()
    n_left_out = found.settings["left_out"]
    worst: Any = classes.sort_values("accuracy", kind="stable").head(WORST).reset_index(drop=True)
    return Answer(
        "zero-shot",
        hooked.cfg.model_name,
        found.to_frame(),
        {"accuracy": table, "classes": classes},
        [
            (f"{found.settings['pictures']:,} pictures, {len(found.axes['label'])} texts", table),
            ("classes, the least accurate first", worst),
        ],
        lambda: _sections(found),
        found.plot,
        f"Zero-shot accuracy of {hooked.cfg.model_name}",
        facts={"pictures": f"{found.settings['pictures']:,}", "templates": ", ".join(found.settings["templates"])},
        notes=["baseline: the accuracy of an answer that is the same for all pictures, the commonest classes"]
        + ([f"{n_left_out} files could not be read as pictures and were left out."] if n_left_out else []),
        settings=found.settings,
        hooked=hooked,
        result=found,
    )


def _sections(found: "ZeroShotAccuracy") -> list[Any]:
    from vitlens.pages.page import Section

    return [Section("Which text is nearest", figures=[found.plot()])]
