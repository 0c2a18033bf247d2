"""`vitlens verify`: compares the port of one model with its library."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vitlens.cli.names import dtype_names, model_names
from vitlens.cli.options import Checkpoint, Device, Json, Timm
from vitlens.cli.output import print_json, say_written, terminal
from vitlens.cli.shared import (
    check_device,
    check_one_source,
    complain,
    in_words_of_a_shell,
    is_watched,
    read_keywords,
)
from vitlens.files import check_writable


def verify(
    source: Annotated[
        str,
        typer.Argument(
            help="a timm name, or a folder that Hugging Face's save_pretrained wrote",
            show_default=False,
            autocompletion=model_names,
        ),
    ],
    checkpoint: Checkpoint = None,
    timm: Timm = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="re-initialise every parameter")] = False,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="float64, float32, bfloat16, float16; several times", autocompletion=dtype_names),
    ] = None,
    images: Annotated[int, typer.Option(help="how many pictures of noise")] = 2,
    device: Device = "cpu",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="also write the whole report there, as JSON")] = None,
    as_json: Json = False,
) -> None:
    """Compare a model's port with its library at full size, on this machine: every block, the logits, the gradient."""
    from vitlens.parity.verify import verify_port

    if out is not None:
        check_writable(out)
    check_device(device)
    keywords = read_keywords(timm)
    check_one_source(checkpoint, random_weights)
    with in_words_of_a_shell():
        report = verify_port(
            source,
            pretrained=not random_weights,
            checkpoint_path=checkpoint,
            dtypes=tuple(dtype) if dtype else ("float64", "float32"),
            n_images=images,
            device=device,
            progress=is_watched(),
            **keywords,
        )
    if out is not None:
        report.save(out)
    if as_json:
        print_json({**asdict(report), "exact": report.exact})
    else:
        terminal().print(report)
        if out is not None:
            say_written(out)
    if not report.exact:
        complain("the port differs by more than rounding explains")
        sys.exit(1)
