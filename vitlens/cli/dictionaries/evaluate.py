"""`vitlens evaluate-sae`: the measures of a dictionary, next to dictionaries that need no training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitlens.cli.given import TOKENS_HELP, read_tokens
from vitlens.cli.names import DICTIONARY_BASELINES, DICTIONARY_METRICS, one_of
from vitlens.cli.options import BatchSize, Json, ModelOptions, ResultOut, files_are_there, with_model
from vitlens.cli.output import WRITTEN, Answer, check_out, hand_over
from vitlens.cli.shared import is_watched, note
from vitlens.errors import InputError
from vitlens.results.writing import RESULTS

if TYPE_CHECKING:
    from vitlens.data.picture_sets import PictureSet
    from vitlens.features.evaluation.result import DictionaryEvaluation
    from vitlens.model.hooked_vit import HookedViT
    from vitlens.pages.page import Section


@with_model
def evaluate_sae(
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PICTURE...]", help="the pictures", show_default=False, callback=files_are_there),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help='instead, with labels: a folder with one folder for each class, a Parquet file, or "demo"',
            show_default=False,
        ),
    ] = None,
    per_class: Annotated[
        int | None, typer.Option(min=1, help="of --data, at most this many pictures of each class", show_default=False)
    ] = None,
    hook: Annotated[
        str | None, typer.Option(help="where the dictionary reads [default: where it was trained]", show_default=False)
    ] = None,
    hook_out: Annotated[
        str | None, typer.Option(help="what a transcoder predicts [default: as it was trained]", show_default=False)
    ] = None,
    tokens: Annotated[
        str,
        typer.Option(help=f"the tokens that the dictionary was trained on: all, class, patches, …; or {TOKENS_HELP}"),
    ] = "all",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(DICTIONARY_METRICS)}, or all; several times [default: the first three]",
            autocompletion=one_of(*DICTIONARY_METRICS, "all"), show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(DICTIONARY_BASELINES)}, or none; several times [default: all four]",
            autocompletion=one_of(*DICTIONARY_BASELINES, "none"), show_default=False,
        ),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH", help="a further dictionary to compare with; several times", show_default=False
        ),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=CLASS,CLASS,CLASS", show_default=False,
            help="classes that are kinds of one thing, for absorption; several times",
        ),
    ] = None,
    *,
    dictionary: Annotated[
        Path, typer.Option(help="a sparse autoencoder or transcoder, as `load_sae` reads it", show_default=False)
    ],
    seed: Annotated[int, typer.Option(min=0, help="of random directions, k-means and probes")] = 0,
    model: ModelOptions,
    batch_size: BatchSize = 16,
    out: ResultOut = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Measure a dictionary, and beside it the neurons themselves, PCA, k-means and random directions."""
    from vitlens.features.evaluation.run import evaluate_sae as evaluate
    from vitlens.features.formats.loading import load_sae

    check_out(out, (*WRITTEN, *RESULTS))
    if bool(pictures) == (data is not None):
        raise InputError("say which pictures: their files, or --data FOLDER for labelled ones")
    if per_class is not None and data is None:
        raise InputError("--per-class is about the classes of --data: leave it out")
    groups = {name: classes.split(",") for name, classes in _pairs(group, "--group", "NAME=CLASS,CLASS,CLASS")}
    others = {name: load_sae(path) for name, path in _pairs(beside, "--beside", "NAME=PATH")}
    chosen = read_tokens(tokens)
    sae = load_sae(dictionary)
    hooked = model.load()
    found = evaluate(
        hooked, pictures or _labelled(hooked, str(data), per_class), sae=sae, hook=hook, hook_out=hook_out, tokens=chosen,
        metrics="all" if "all" in (metric or []) else metric or None,
        baselines=[] if baseline == ["none"] else baseline or DICTIONARY_BASELINES,
        beside=others or None, groups={name: [_class(one) for one in classes] for name, classes in groups.items()} or None,
        seed=seed, batch_size=batch_size, progress=is_watched(),
    )  # fmt: skip
    hand_over(_answer(found, hooked), out, as_json)


def _pairs(given: list[str] | None, option: str, written: str) -> list[tuple[str, str]]:
    """Texts NAME=VALUE as pairs.

    Raises:
        InputError: one that is not written so.
    """
    found = []
    for text in given or []:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise InputError(f"{option} is written {written}, not {text!r}")
        found.append((name, value))
    return found


def _class(text: str) -> int | str:
    """A class by its index or name."""
    name = text.strip()
    return int(name) if name.isdigit() else name


def _labelled(hooked: "HookedViT", data: str, per_class: int | None) -> "PictureSet | list[Path]":
    """Pictures with their labels; those of a folder that names no classes without, with a note."""
    from vitlens.data.picture_sets import open_pictures
    from vitlens.data.pictures import PICTURE_ENDINGS

    try:
        return open_pictures(data, hooked.class_names, hooked.cfg.n_classes, per_class=per_class)
    except InputError as error:
        folder = Path(data)
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_ENDINGS)
        if not files or per_class is not None:
            raise
        note(f"the pictures have no labels, since {error}")
        return files


def _answer(found: "DictionaryEvaluation", hooked: "HookedViT") -> Answer:
    table: Any = found.table().reset_index()
    settings = found.settings
    return Answer(
        "evaluate-sae",
        hooked.cfg.model_name,
        found.to_frame(),
        {"dictionaries": table, "left_out": found.left_out},
        [(f"{settings['hook']}, tokens: {settings['tokens']}, {settings['pictures']:,} pictures", table)],
        lambda: _sections(found),
        found.plot,
        f"Dictionaries at {settings['hook']} of {hooked.cfg.model_name}",
        facts={"pictures": f"{settings['pictures']:,}", "tokens": settings["tokens"]},
        notes=[f"left out: {why}" for why in found.left_out],
        settings=settings,
        hooked=hooked,
        result=found,
    )


def _sections(found: "DictionaryEvaluation") -> "list[Section]":
    from vitlens.pages.page import Section

    return [Section("Measures", figures=[found.plot()]), Section("Density", figures=[found.plot("density")])]
