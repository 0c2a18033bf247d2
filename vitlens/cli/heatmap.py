"""`vitlens heatmap`: heatmaps of a class by one method or many, and how faithful they are."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitlens.cli.given import called, name_pictures, say_cost
from vitlens.cli.names import HEATMAP_METHODS, one_of
from vitlens.cli.options import Json, ModelOptions, Out, PictureFiles, WantedClass, with_model
from vitlens.cli.output import MOST_ON_PAGE, Answer, check_out, hand_over
from vitlens.cli.shared import require_classes
from vitlens.cli.texts import AskedTexts, Tower, load_asked
from vitlens.errors import InputError, printable

if TYPE_CHECKING:
    from torch import Tensor

    from vitlens.choose.classes import Classes
    from vitlens.faithfulness.result import Faithfulness
    from vitlens.heatmaps.run import Heatmap
    from vitlens.model.hooked_vit import HookedViT
    from vitlens.pages.page import Section

ALL = "all"
#: Measured: what a map costs at most methods, in forwards of its picture, and what each step of its curves costs.
METHOD_FORWARDS, CURVE_FORWARDS = 100, 18
#: A terminal shows the maps of at most this many pictures and methods.
MOST_DRAWN = 4
#: From no importance to the largest.
SHADES = " ░▒▓█"


@with_model
def heatmap(
    pictures: PictureFiles,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(HEATMAP_METHODS)}, or all; several times [default: token_mask]",
            autocompletion=one_of(*HEATMAP_METHODS, ALL), show_default=False,
        ),
    ] = None,
    wanted_class: WantedClass = None,
    text: AskedTexts = None,
    tower: Tower = None,
    faithfulness: Annotated[
        bool, typer.Option("--faithfulness", help="also measure what removing patches in the maps' order does")
    ] = False,
    n_steps: Annotated[int, typer.Option(min=1, help="of --faithfulness: steps of each curve")] = 50,
    top: Annotated[int, typer.Option(min=1, help="how many of the most important patches to show")] = 5,
    *,
    model: ModelOptions,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="pictures of one forward [default: as many as memory holds]", show_default=False),
    ] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Draw which patches the class came from, by one method or many, and score the maps on request."""
    import pandas as pd

    check_out(out)
    chosen = _choose(method)
    asked = load_asked(model, wanted_class, text, tower=tower, several="predicted")
    hooked = asked.model
    if faithfulness:
        require_classes(hooked)
    if wanted_class is not None and hooked.unembed is not None:
        # Methods that are not class-specific ignore the class, but an unknown class is a mistake.
        hooked.class_index(wanted_class)
    images = hooked.to_images(pictures)
    per_map = METHOD_FORWARDS + (CURVE_FORWARDS * n_steps if faithfulness else 0)
    say_cost(
        hooked, images, per_map * len(chosen) * len(images), "fewer methods, pictures or steps (--n-steps) are faster"
    )
    maps, left_out = _maps(hooked, images, asked.classes, chosen, batch_size, ALL in (method or []))
    scores = None
    if faithfulness:
        from vitlens.faithfulness.run import evaluate_heatmaps

        scores = evaluate_heatmaps(
            hooked,
            images,
            asked.classes,
            heatmaps=dict(maps),
            n_steps=n_steps,
            batch_size=batch_size,
        )
    largest = [row for name, one in maps.items() for row in _largest(name, one, pictures, top)]
    facts = [row for name, one in maps.items() for row in _facts(name, one, pictures)]
    tidy = [name_pictures(one.to_frame(), pictures) for one in maps.values()]
    for name, frame in zip(maps, tidy, strict=True):
        frame.insert(0, "method", name)
    hand_over(
        Answer(
            "heatmap",
            hooked.cfg.model_name,
            pd.concat(tidy, ignore_index=True),
            {"top": largest, "maps": facts} | ({} if scores is None else {"faithfulness": _scores(scores)}),
            [
                (
                    f"{picture}: the {top} patches (row, column) that count most",
                    _shown(largest, facts, printable(picture)),
                )
                for picture in dict.fromkeys(pictures)
            ]
            + [
                (f"{printable(picture)}: {name}", _drawn(maps[name], image))
                for image, picture in enumerate(pictures[:MOST_DRAWN])
                for name in list(maps)[:MOST_DRAWN]
            ]
            + ([] if scores is None else [(f"faithfulness: {scores.protocol()}", _shown_scores(scores))]),
            lambda: _sections(hooked, images, pictures, maps, scores),
            lambda: _sections(hooked, images, pictures, maps, scores)[0].figures[0],
            f"Heatmaps of {called(pictures)}, {hooked.cfg.model_name}",
            facts={"pictures": str(len(pictures)), "methods": str(len(maps))},
            notes=[
                *left_out,
                *(f"{row['picture']}, {row['method']}: {row['warning']}" for row in facts if row["warning"]),
                *([] if scores is None else [f"{name} {text}" for name, text in scores.definitions().items()]),
            ],
            settings={name: one.settings for name, one in maps.items()},
            hooked=hooked,
        ),
        out,
        as_json,
    )


def _choose(asked: Sequence[str] | None) -> list[str]:
    """The methods' names, each once.

    Raises:
        InputError: there is no such method.
    """
    from vitlens.heatmaps.registry import METHODS
    from vitlens.heatmaps.run import find_method

    asked = asked or ["token_mask"]
    return list(METHODS) if ALL in asked else list(dict.fromkeys(find_method(name).name for name in asked))


def _maps(
    model: "HookedViT",
    images: "Tensor",
    wanted: "Classes",
    methods: list[str],
    batch_size: int | None,
    some_may_fail: bool,
) -> "tuple[dict[str, Heatmap], list[str]]":
    """The maps by method; and where some may fail, which methods this model does not allow, and why."""
    from vitlens.heatmaps.run import heatmap as draw

    maps, left_out = {}, []
    for name in methods:
        try:
            maps[name] = draw(model, images, wanted, method=name, batch_size=batch_size)
        except InputError as refusal:
            if not some_may_fail:
                raise
            left_out.append(f"left out {name}: {refusal}")
    return maps, left_out


def _drawn(one: "Heatmap", image: int) -> str:
    """A map in letters: the darker a patch, the more it counts; what speaks against the class is left white."""
    values = one.values[image].float().cpu()
    above = (values - (0 if one.method.signed else values.min())).clamp(min=0)
    share = above / above.max().clamp(min=1e-30)
    n_letters = 2 if share.shape[1] <= 40 else 1
    rows = (share * (len(SHADES) - 1)).round().int().tolist()
    return "\n".join("".join(SHADES[shade] * n_letters for shade in row) for row in rows)


def _largest(method: str, one: "Heatmap", pictures: list[Path], top: int) -> list[dict[str, Any]]:
    return [
        {
            "picture": printable(picture),
            "method": method,
            "row": row,
            "column": column,
            "importance": one.values[image, row, column].item(),
        }
        for image, picture in enumerate(pictures)
        for row, column in one.top(top, image)[["row", "column"]].itertuples(index=False)
    ]


def _facts(method: str, one: "Heatmap", pictures: list[Path]) -> list[dict[str, Any]]:
    """What each map is about, its sum and what it misses of it, and what carries it wrongly."""
    gap = one.completeness_gap
    return [
        {
            "picture": printable(picture),
            "method": method,
            "class": None if one.classes is None else one.class_label(image),
            "sum": one.values[image].sum().item(),
            "completeness_gap": None if gap is None else gap[image].item(),
            "warning": None if one.warnings is None else one.warnings[image],
        }
        for image, picture in enumerate(pictures)
    ]


def _shown(largest: list[dict[str, Any]], facts: list[dict[str, Any]], picture: str) -> Any:
    """A row for each method: its class, and its first patches with their importance."""
    import pandas as pd

    from vitlens.data.class_names import short_name

    rows = []
    for fact in facts:
        if fact["picture"] == picture:
            first = [row for row in largest if (row["picture"], row["method"]) == (picture, fact["method"])]
            named = [f"({row['row']}, {row['column']}) {row['importance']:.3g}" for row in first]
            rows.append(
                {"method": fact["method"], "class": short_name(fact["class"] or "any"), "patches": "  ".join(named)}
            )
    return pd.DataFrame(rows)


def _scores(scores: "Faithfulness") -> list[dict[str, Any]]:
    table = scores.summary()
    return [
        {"method": method, "metric": metric, **table.loc[method, metric].to_dict()}
        for method in table.index
        for metric in scores.axes["metric"]
    ]


def _shown_scores(scores: "Faithfulness") -> Any:
    import pandas as pd

    from vitlens.statistics import with_interval

    by_method: dict[str, dict[str, str]] = {}
    for row in _scores(scores):
        number = with_interval(row["mean"], row["low"], row["high"])
        by_method.setdefault(row["method"], {})[row["metric"]] = number
    return pd.DataFrame([{"method": method, **cells} for method, cells in by_method.items()])


def _sections(
    model: "HookedViT",
    images: "Tensor",
    pictures: list[Path],
    maps: "dict[str, Heatmap]",
    scores: "Faithfulness | None",
) -> "list[Section]":
    from vitlens.data.class_names import short_name
    from vitlens.pages.page import Section
    from vitlens.plots.faithfulness import faithfulness_curves, faithfulness_table
    from vitlens.plots.heatmaps import heatmap_comparison

    titles = {name: one.method.title for name, one in maps.items()}
    about = next((one for one in maps.values() if one.classes is not None), None)
    marked = next((one.artefacts for one in maps.values() if one.artefacts is not None), None)
    sections = [
        Section(
            printable(picture.name),
            figures=[
                heatmap_comparison(
                    model.to_pixels(images[image : image + 1])[0],
                    {titles[name]: one.values[image] for name, one in maps.items()},
                    signed=[titles[name] for name, one in maps.items() if one.method.signed],
                    class_free=[titles[name] for name, one in maps.items() if not one.method.class_specific],
                    warnings={titles[name]: one.warnings[image] for name, one in maps.items() if one.warnings},
                    artefacts=None if marked is None else marked[image],
                    class_name=None if about is None else short_name(about.class_label(image)),
                    model_name=model.cfg.model_name,
                )
            ],
        )
        for image, picture in enumerate(pictures[:MOST_ON_PAGE])
    ]
    if scores is not None:
        sections.append(Section("Faithfulness", figures=[faithfulness_curves(scores), faithfulness_table(scores)]))
    return sections
