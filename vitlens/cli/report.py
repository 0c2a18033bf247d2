"""`vitlens report`: a page about one picture."""

from pathlib import Path
from typing import Annotated

import typer

from vitlens.cli.given import say_cost
from vitlens.cli.options import Json, ModelOptions, WantedClass, files_are_there, with_model
from vitlens.cli.output import hand_over_page
from vitlens.cli.shared import is_watched
from vitlens.files import check_writable

#: Measured: what a page costs, in forwards of its picture.
REPORT_FORWARDS, AGAINST_FORWARDS = 170, 130


@with_model
def report(
    picture: Annotated[
        Path, typer.Argument(help="the picture to explain", show_default=False, callback=files_are_there)
    ],
    wanted_class: WantedClass = None,
    head: Annotated[
        str | None, typer.Option(help="head to show large, as L9H3 [default: the one that writes most]")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="a second picture: patch this picture's activations into the run on it", callback=files_are_there
        ),
    ] = None,
    *,
    model: ModelOptions,
    out: Annotated[Path, typer.Option("-o", "--out", help="the page to write")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """Write a page about one picture: answer, heatmap with its test, class lens, attribution, attention and patching."""
    from vitlens.pages.picture_report import write_picture_report

    check_writable(out)
    hooked = model.load()
    n_forwards = REPORT_FORWARDS + (0 if against is None else AGAINST_FORWARDS)
    say_cost(
        hooked, hooked.to_images(picture), n_forwards, "vitlens lens and vitlens heatmap each give a part of it sooner"
    )
    write_picture_report(
        hooked, picture, path=out, classes=wanted_class, head=head, corrupted=against, progress=is_watched()
    )
    hand_over_page("report", hooked.cfg.model_name, out, as_json)
