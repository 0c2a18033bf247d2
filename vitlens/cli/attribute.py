"""`vitlens attribute`: how much each part of the model adds to the logit of a class."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitlens.cli.given import artefacts_on_page, called, in_batches, name_pictures
from vitlens.cli.names import UNITS, one_of
from vitlens.cli.options import AgainstClass, BatchSize, Json, ModelOptions, Out, PictureFiles, WantedClass, with_model
from vitlens.cli.output import MOST_ON_PAGE, Answer, check_out, hand_over
from vitlens.cli.shared import require_classes
from vitlens.cli.texts import AgainstText, AskedTexts, Tower, load_asked
from vitlens.errors import printable

if TYPE_CHECKING:
    from torch import Tensor

    from vitlens.attribution.direct import Attribution
    from vitlens.pages.page import Section


@with_model
def attribute(
    pictures: PictureFiles,
    unit: Annotated[
        str, typer.Option(help=f"split the logit by {', '.join(UNITS)}", autocompletion=one_of(*UNITS))
    ] = "component",
    wanted_class: WantedClass = None,
    against_class: AgainstClass = None,
    text: AskedTexts = None,
    against_text: AgainstText = None,
    tower: Tower = None,
    top: Annotated[int, typer.Option(min=1, help="how many of the largest shares to show")] = 15,
    *,
    model: ModelOptions,
    batch_size: BatchSize = 16,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Split the logit of a class, or its lead over another one, into what each part of the network wrote; they sum to it."""
    import pandas as pd

    from vitlens.attribution.direct import direct_logit_attribution

    check_out(out)
    asked = load_asked(model, wanted_class, text, against_class, against_text, tower=tower)
    hooked = asked.model
    require_classes(hooked)
    found, marked, shares, totals, elsewhere = [], [], [], [], []
    for start, images in in_batches(hooked, pictures, batch_size, "attribution"):
        one = direct_logit_attribution(
            hooked, images, asked.classes, baseline_classes=asked.baseline_classes, unit=unit, progress=False
        )
        found.append((start, one))
        marked += artefacts_on_page(hooked, images, start, out, batch_size)
        for image in range(len(images)):
            for class_position in range(len(one.axes["class"])):
                about = {"picture": printable(pictures[start + image]), "class": one.class_label(image, class_position)}
                largest = one.top(top, image, class_position)
                shares.append(pd.DataFrame([{**about, **row} for row in largest.to_dict("records")]))
                totals.append({**about, **_total(one, largest, image, class_position)})
                elsewhere += [
                    {**about, "part": name, "logit": one.part(name)[image, class_position].item()}
                    for name in one.elsewhere_names or []
                ]
    first = found[0][1]
    hand_over(
        Answer(
            "attribute",
            hooked.cfg.model_name,
            pd.concat([name_pictures(one.to_frame(), pictures, start) for start, one in found], ignore_index=True),
            {"top": pd.concat(shares, ignore_index=True), "totals": totals, "elsewhere": elsewhere},
            [
                (f"{total['picture']}: {_about(total)}, by {unit}", _shown(rows, total, first.quantity))
                for rows, total in zip(shares, totals, strict=True)
            ],
            lambda: _sections(found, marked, pictures),
            lambda: _sections(found, marked, pictures)[0].figures[0],
            f"Who writes the {first.quantity} of {called(pictures)}, {hooked.cfg.model_name}",
            facts={"pictures": str(len(pictures)), "unit": unit},
            notes=[_sum(total, first.quantity, len(pictures) > 1) for total in totals],
            settings=first.settings | {"quantity": first.quantity},
            hooked=hooked,
        ),
        out,
        as_json,
    )


def _total(one: "Attribution", shown: Any, image: int, class_position: int) -> dict[str, Any]:
    logit = one.logits[image, class_position].item()
    names = one.baseline_names
    return {
        "against": None if names is None else names[min(class_position, len(names) - 1)],
        "logit": logit,
        "residual": one.residual[image, class_position].item(),
        "all_else": logit - float(shown["logit"].sum()),
    }


def _shown(rows: Any, total: dict[str, Any], quantity: str) -> Any:
    """The largest shares and all else, with their signs."""
    import pandas as pd

    names, logits = [*rows["component"], "all else"], [*rows["logit"], total["all_else"]]
    return pd.DataFrame({"part": names, quantity: [f"{logit:+.4f}" for logit in logits]})


def _about(total: dict[str, Any]) -> str:
    from vitlens.data.class_names import short_name

    against = "" if total["against"] is None else f" over “{short_name(total['against'])}”"
    return f"“{short_name(total['class'])}”{against}"


def _sum(total: dict[str, Any], quantity: str, several: bool) -> str:
    where = f"{total['picture']}: " if several else ""
    return f"{where}sum = {quantity} {total['logit']:+.4f} (residual {total['residual']:+.1e})"


def _sections(
    found: "list[tuple[int, Attribution]]", artefacts: "list[Tensor]", pictures: list[Path]
) -> "list[Section]":
    from vitlens.pages.page import Section

    return [
        Section(
            printable(pictures[start + image].name),
            figures=[
                figure
                for class_position in range(len(one.axes["class"]))
                for figure in _figures(one, marked[image], image, class_position)
            ],
        )
        for (start, one), marked in zip(found, artefacts, strict=False)
        for image in range(min(len(one.axes["image"]), MOST_ON_PAGE - start))
    ]


def _figures(one: "Attribution", artefacts: "Tensor", image: int, class_position: int) -> list[Any]:
    """The figure of the unit; over the picture where patches have shares."""
    from vitlens.attribution.direct import PatchAttribution, TokenAttribution
    from vitlens.plots import attribution_head_map, attribution_map, attribution_patches, attribution_waterfall
    from vitlens.plots.shared.artefacts import hatch

    place = {"image": image, "class_position": class_position}
    figures = [attribution_waterfall(one, **place)]
    if one.settings["unit"] in ("head", "head_patch", "path"):
        figures.append(attribution_head_map(one, **place))
    if isinstance(one, PatchAttribution):
        maps = attribution_map(one, **place), attribution_patches(one, **place)
        figures += [hatch(figure, artefacts) for figure in maps]
    if isinstance(one, TokenAttribution) and len(one.axes["token"]) >= one.grid[0] * one.grid[1]:
        figures.append(hatch(attribution_map(one, **place), artefacts))
    return figures
