"""`vitlens report`: a page about one picture."""

from pathlib import Path
from typing import Annotated

import typer

from vitlens.cli.options import (
    Checkpoint,
    ClassNames,
    Device,
    Dtype,
    Json,
    Model,
    RandomWeights,
    Timm,
    WantedClass,
)
from vitlens.cli.output import hand_over_page
from vitlens.cli.shared import DEMO, is_watched, load_model
from vitlens.files import check_writable


def report(
    picture: Annotated[Path, typer.Argument(help="the picture to explain", show_default=False)],
    model: Model = DEMO,
    checkpoint: Checkpoint = None,
    timm: Timm = None,
    random_weights: RandomWeights = False,
    class_names: ClassNames = None,
    wanted_class: WantedClass = None,
    head: Annotated[
        str | None, typer.Option(help="head to show large, as L9H3 [default: the one that writes most]")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="a second picture: patch this picture's activations into the run on it"),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    out: Annotated[Path, typer.Option("-o", "--out", help="the page to write")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """Write a page about one picture: answer, heatmap with its test, class lens, attribution, attention and patching."""
    from vitlens.pages.picture_report import write_picture_report

    check_writable(out)
    hooked = load_model(model, checkpoint, random_weights, device, dtype, class_names, timm)
    write_picture_report(
        hooked, picture, path=out, classes=wanted_class, head=head, corrupted=against, progress=is_watched()
    )
    hand_over_page("report", hooked.cfg.model_name, out, as_json)
