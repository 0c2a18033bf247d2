"""The command `vitlens`. Errors of the user's are one sentence on stderr and exit code 2."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from vitlens.command_line import DEMO, check_device, load_model, run
from vitlens.study.command import study_command

app = typer.Typer(
    help="See how a vision transformer builds its decision.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def vitlens() -> None:
    """See how a vision transformer builds its decision."""


@app.command()
def report(
    picture: Annotated[Path, typer.Argument(help="the picture to explain", show_default=False)],
    model: Annotated[str, typer.Option(help='a timm name such as vit_base_patch16_224, or "demo"')] = DEMO,
    checkpoint: Annotated[
        Path | None, typer.Option(help="your own weights for it: safetensors, or a .pth of tensors")
    ] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="do not load any weights")] = False,
    wanted_class: Annotated[
        str | None,
        typer.Option("--class", help="name or index of the class to explain [default: the predicted one]"),
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="head to show large, as L9H3 [default: the one that writes most]")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="a second picture: patch this picture's activations into the run on it"),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    out: Annotated[Path, typer.Option("-o", "--out", help="the page to write")] = Path("report.html"),
) -> None:
    """Write a page about one picture: predictions, class lens, attribution, attention and, with --against, patching."""
    from vitlens.report.page import check_writable
    from vitlens.report.picture_report import write_picture_report

    check_writable(out)
    hooked = load_model(model, checkpoint, random_weights, device)
    write_picture_report(
        hooked,
        picture,
        out,
        wanted_class=wanted_class,
        head=head,
        against=against,
        progress=sys.stderr.isatty(),
    )
    Console().print(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB)", highlight=False)


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="part of a name, or wildcards as in 'eva02*448'")] = "*",
) -> None:
    """List the timm models that vitlens ports: what they are made of, and their measured difference from timm."""
    from vitlens.parity.supported import supported_models

    table = supported_models(pattern)
    shown = Table("name", "model", "blocks", "tokens", "positions", "pooling", "classes", "difference")
    for row in table.to_dict("records"):
        before = "" if row["prefix_tokens"] == "none" else f"{row['prefix_tokens']} + "
        cells = [row["name"], row["model"], row["blocks"], before + row["patches"], row["positions"], row["pooling"],
                 row["classes"], row["refused"] or row["difference"]]  # fmt: skip
        shown.add_row(*map(str, cells))
    # A table that is piped into a file or another command must not be cut to the width of a terminal.
    console = Console() if sys.stdout.isatty() else Console(width=220)
    console.print(shown)
    console.print(
        f"{len(table)} models; difference: the largest relative one from timm in float64 (logits, blocks, gradient)",
        highlight=False,
    )


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help="a timm name", show_default=False)],
    checkpoint: Annotated[Path | None, typer.Option(help="your own weights for it")] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="draw every parameter anew")] = False,
    dtype: Annotated[list[str] | None, typer.Option(help="float64, float32, bfloat16, float16; several times")] = None,
    images: Annotated[int, typer.Option(help="how many pictures of noise")] = 2,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="also write the whole report there, as JSON")] = None,
) -> None:
    """Compare a model's port with timm at full size, on this machine: every block, the logits, the gradient."""
    from vitlens.parity.verify import verify as run_verification
    from vitlens.report.page import check_writable

    if out is not None:
        check_writable(out)
    check_device(device)
    report = run_verification(
        name,
        pretrained=not random_weights,
        checkpoint_path=checkpoint,
        dtypes=tuple(dtype) if dtype else ("float64", "float32"),
        n_images=images,
        device=device,
        progress=sys.stderr.isatty(),
    )
    Console().print(report)
    if out is not None:
        report.save(out)
        Console().print(f"wrote {out}", highlight=False)
    if not report.exact:
        Console(stderr=True).print("error: the port differs by more than rounding explains", style="red")
        sys.exit(1)


app.command(
    name="reproduce",
    help="Run the paper's experiments over a data set, in one pass: tables, figures, a page. The same command goes on where "
    "it was stopped; under torchrun several processes share the pictures.",
)(study_command())


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
