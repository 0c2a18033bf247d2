"""How much of a decision does the context carry, and where? Activation patching of context and object tokens.

The clean picture's activations are patched into the run on a corrupted one (`--direction noise`: the reverse), by token
set (context, object, class token) and block, by patch and block, and by head and block. Without arguments it runs on the
demo: garments on their own class's texture (clean) against the same garments on another's (corrupted), over all 50 pairs.

\b
    python experiments/patch_context.py
    python experiments/patch_context.py --model vit_base_patch16_224 --clean dog.jpg --mask dog_mask.png --replace blur
    python experiments/patch_context.py --model vit_base_patch16_224 --clean dog.jpg --corrupted cat.jpg --box 4,4,6,6
"""

import dataclasses
import hashlib
import json
import math
import platform
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from plotly.graph_objects import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vitlens import __version__
from vitlens.choose import Box, class_metric, select_tokens
from vitlens.cli import ModelOptions, run, with_model
from vitlens.data import replace_context
from vitlens.data.class_names import short_name
from vitlens.data.counterfactuals import CONTEXT_REPLACEMENTS
from vitlens.demo import load_demo_pictures
from vitlens.errors import InputError
from vitlens.files import make_folder, only_process_in, write_whole
from vitlens.model import HookedViT
from vitlens.model.fingerprint import fingerprint
from vitlens.model.provenance import page_facts
from vitlens.pages.page import Section, write_page
from vitlens.patching import Patching, activation_patching
from vitlens.plots import patching_board, patching_maps, picture_with_grid
from vitlens.results import load_result

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
#: Kept with a part: what it depends on.
ORIGIN = "origin"


@dataclass
class Experiment:
    """Pairs of pictures, where the object is, and the two classes whose logit difference is followed."""

    clean: Tensor
    corrupted: Tensor
    sets: dict[str, Tensor]
    classes: Tensor
    baseline: Tensor
    description: str
    same_object: bool


@app.command(help=__doc__)
@with_model
def main(
    model: ModelOptions,
    clean: Annotated[Path | None, typer.Option(help="the clean picture [default: the demo's pairs]")] = None,
    corrupted: Annotated[
        Path | None,
        typer.Option(help="the corrupted picture; or, with --replace other, the donor of the context"),
    ] = None,
    replace: Annotated[
        str | None,
        typer.Option(
            help=f"make the corrupted picture from the clean one: context replaced by {', '.join(CONTEXT_REPLACEMENTS)}"
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="picture of the object's mask: black and white, class ids, or an alpha channel")
    ] = None,
    box: Annotated[
        str | None, typer.Option(help="instead of a mask: the object's patches as row,column,height,width")
    ] = None,
    wanted_class: Annotated[
        str | None, typer.Option("--class", help="class to follow [default: the clean prediction]")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="class to compare with [default: the corrupted prediction, else the runner-up]"),
    ] = None,
    direction: Annotated[
        str, typer.Option(help="denoise: clean into corrupted; noise: corrupted into clean")
    ] = "denoise",
    pairs: Annotated[int | None, typer.Option(help="of the demo, only the first so many pairs [default: all]")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="rows per forward [default: as many as are fast and fit]")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for page.html, table.parquet and settings.json")] = Path(
        "out/patch_context"
    ),
) -> None:
    given = dataclasses.asdict(model) | {name: value for name, value in locals().items() if name != "model"}
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    console = Console()
    hooked = model.load()
    if clean is None:
        if not model.is_demo:
            raise InputError(f"{model.called} needs --clean, the picture to work on (only the demo brings its own)")
        about_pictures = {"--corrupted": corrupted, "--replace": replace, "--mask": mask, "--box": box}
        for option, value in about_pictures.items():
            if value is not None:
                raise InputError(f"{option} goes with --clean; without it the demo's own pairs are used")
        experiment = demo_experiment(hooked, pairs)
    else:
        experiment = picture_experiment(hooked, clean, corrupted, replace, mask, box, wanted_class, baseline)

    with only_process_in(make_folder(out)):
        try:
            results = sweep(hooked, experiment, direction, batch_size, out / "part")
        except KeyboardInterrupt:
            print(f"interrupted: {out / 'part'} holds what was computed; the same command goes on", file=sys.stderr)
            raise typer.Exit(130) from None
        headline = describe(experiment, results)
        table = pd.concat(
            result.to_frame().rename(columns={"head": "unit", "tokens": "unit"}).assign(sweep=name)
            for name, result in results.items()
        )
        write_whole(out / "table.parquet", table.to_parquet(index=False))
        write_whole(out / "settings.json", _settings(settings, headline).encode())
        facts = page_facts(hooked) | {"pairs": str(len(experiment.clean)), "direction": direction}
        write_page(
            out / "page.html",
            "What the context carries",
            facts,
            page_sections(hooked, experiment, results, headline),
            warning=hooked.provenance.warning,
        )
    console.print(_rich_table(results["tokens"]))
    console.print(headline, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"wrote page.html, table.parquet and settings.json to {out}", highlight=False, markup=False, soft_wrap=True
    )


def demo_experiment(model: HookedViT, n_pairs: int | None) -> Experiment:
    """All pairs of the demo: garment against the class whose texture conflicts."""
    pictures = load_demo_pictures(model)
    if n_pairs is not None and not 1 <= n_pairs <= len(pictures.images) // 2:
        raise InputError(f"--pairs is 1 to {len(pictures.images) // 2}, not {n_pairs}")
    agreeing = slice(0, 2 * n_pairs if n_pairs else None, 2)
    conflicting = slice(1, 2 * n_pairs if n_pairs else None, 2)
    clean, masks = pictures.images[agreeing], pictures.masks[agreeing]
    sets = {name: select_tokens(model, name, len(clean), masks=masks) for name in ("context", "object", "class")}
    return Experiment(
        clean,
        pictures.images[conflicting],
        sets,
        pictures.labels[agreeing],
        pictures.contexts[conflicting],
        "the garment's class over the class whose texture conflicts",
        same_object=True,
    )


def picture_experiment(
    model: HookedViT,
    clean: Path,
    corrupted: Path | None,
    replace: str | None,
    mask: Path | None,
    box: str | None,
    wanted_class: str | None,
    baseline: str | None,
) -> Experiment:
    """One pair, from files."""
    if (mask is None) == (box is None):
        raise InputError("say where the object is: either --mask FILE or --box row,column,height,width")
    images = model.to_images(clean)
    cut = model.patch_grid(*images.shape[-2:])
    if mask is not None:
        pixel_mask = model.read_masks(mask)
        sets = {name: select_tokens(model, name, 1, masks=pixel_mask) for name in ("context", "object")}
    else:
        inside = select_tokens(model, _parse_box(box), 1)
        context = ~inside
        context[:, : model.cfg.n_prefix_tokens] = False
        sets = {"context": select_tokens(model, context, 1), "object": inside}
        pixel_mask = cut.pixels_of(inside[:, model.cfg.n_prefix_tokens :].unflatten(1, cut.grid), *images.shape[-2:])
    if model.cfg.has_class_token:
        sets["class"] = select_tokens(model, "class", 1)

    donor = None if corrupted is None else model.to_images(corrupted)
    if replace == "other" and donor is None:
        raise InputError("--replace other takes the context of a second picture: name it with --corrupted FILE")
    if replace is not None:
        others = donor if replace == "other" else None
        other = replace_context(images, pixel_mask, replacement=replace, others=others, patch_size=cut)
    elif donor is not None:
        other = donor
    else:
        raise InputError("say what the clean picture is compared with: --corrupted FILE, or --replace HOW")
    with torch.no_grad():
        metric = class_metric(
            model, model(images), model(other), wanted_class, metric="logit_difference", baseline_classes=baseline
        )
    assert metric.baseline is not None
    names = [short_name(model.class_label(int(index))) for index in (metric.classes[0], metric.baseline[0])]
    return Experiment(
        images,
        other,
        sets,
        metric.classes,
        metric.baseline,
        f"“{names[0]}” over “{names[1]}”",
        same_object=replace is not None,
    )


def _parse_box(box: str | None) -> Box:
    try:
        row, column, height, width = (int(part) for part in str(box).split(","))
    except ValueError:
        raise InputError(f"--box is row,column,height,width in patches, such as 4,4,6,6, not {box!r}") from None
    return Box(row, column, height, width)


def sweep(
    model: HookedViT, experiment: Experiment, direction: str, batch_size: int | None, part: Path
) -> dict[str, Patching]:
    """Over all blocks: the stream by token set, every head's output at each set, and the first pair patch by patch.

    What an interrupted run has reached lies in the folder `part` until the same command has finished it.
    """
    common: dict[str, Any] = {
        "direction": direction,
        "batch_size": batch_size,
        "progress": sys.stderr.isatty(),
    }
    pictures = (experiment.clean, experiment.corrupted)
    about = {"classes": experiment.classes, "baseline_classes": experiment.baseline}
    first = {name: classes[:1] for name, classes in about.items()}
    sweeps: dict[str, tuple[tuple[Tensor, ...], dict[str, Any]]] = {
        "tokens": (pictures, {"tokens": experiment.sets, **about}),
        **{
            f"heads at {name} tokens": (pictures, {"sites": "z", "tokens": tokens, **about})
            for name, tokens in experiment.sets.items()
        },
        "patches": (tuple(images[:1] for images in pictures), first),
    }
    paths = {name: part / f"{name.replace(' ', '_')}.safetensors" for name in sweeps}
    origin = _origin(model, experiment, direction)
    known = {name: _known(path, origin) for name, path in paths.items()}
    results = {}
    for name, (pair, settings) in sweeps.items():
        make_folder(part)
        found = activation_patching(model, *pair, **settings, **common, resume=known[name])
        _with_settings(found, found.settings | {ORIGIN: origin}).save(paths[name])
        if not found.complete:
            raise KeyboardInterrupt
        results[name] = found
    for path in paths.values():
        path.unlink()
    # What somebody else has put there stays.
    with suppress(OSError):
        part.rmdir()
    return results


def _origin(model: HookedViT, experiment: Experiment, direction: str) -> str:
    """What a part depends on, in sixteen letters."""
    digest = hashlib.blake2b(f"{fingerprint(model)} {direction}".encode(), digest_size=8)
    about = (experiment.clean, experiment.corrupted, *experiment.sets.values(), experiment.classes, experiment.baseline)
    for tensor in about:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _known(path: Path, origin: str) -> Patching | None:
    """What an interrupted run has found; a damaged file is computed again, and that is said.

    Raises:
        InputError: it belongs to another run.
    """
    if not path.exists():
        return None
    try:
        found = load_result(path, Patching)
    except InputError as error:
        print(f"{error}; it is computed again", file=sys.stderr)
        return None
    if found.settings.get(ORIGIN) != origin:
        raise InputError(f"{path.parent} holds a part of another run: remove it, or choose another --out")
    return _with_settings(found, {name: value for name, value in found.settings.items() if name != ORIGIN})


def _with_settings(result: Patching, settings: dict[str, Any]) -> Patching:
    return dataclasses.replace(result, settings=settings)


def describe(experiment: Experiment, results: dict[str, Patching]) -> str:
    """The finding in one line: logits before and after; a share only where it is one, over pairs whose difference is not
    too small to divide by."""
    by_tokens = results["tokens"]
    clean, corrupted = by_tokens.source, by_tokens.target
    if by_tokens.settings["direction"] == "noise":
        clean, corrupted = corrupted, clean
    n_pairs = len(clean)
    before, after = clean.mean().item(), corrupted.mean().item()
    if n_pairs == 1:
        first = f"the lead of {experiment.description} goes from {before:+.2f} to {after:+.2f} logits"
        start = "On this pair"
        if before * after < 0:
            first += ", which turns the answer"
    else:
        won = [f"{100 * (lead > 0).float().mean():.0f} %" for lead in (clean, corrupted)]
        start = f"Over {n_pairs} pairs"
        first = (
            f"the mean lead of {experiment.description} goes from {before:+.2f} to {after:+.2f} logits "
            f"(won: {won[0]} of the pairs before, {won[1]} after)"
        )
    if experiment.same_object:
        share = (before - after) / before if before else math.nan
        told = f"; the context carries {100 * share:.0f} % of the lead" if n_pairs > 1 and 0 <= share <= 1 else ""
        return f"{start}, exchanging the context alone: {first}{told}."
    return f"{start}, {first}; {_brought(by_tokens)}."


def _brought(by_tokens: Patching) -> str:
    """What context and object tokens bring with them into the first block, in logits, and as shares where these are."""
    warned = by_tokens.caution()
    start = by_tokens.target.mean().item()
    lead = dict(zip(by_tokens.axes["tokens"], by_tokens.patched[0].mean(dim=-1).tolist(), strict=True))
    effect = dict(zip(by_tokens.axes["tokens"], by_tokens.effect()[0].tolist(), strict=True))
    parts = []
    for name in ("context", "object"):
        is_share = 0 <= effect[name] <= 1 and by_tokens.ill_conditioned() is None
        share = f" ({100 * effect[name]:.0f} % of the difference)" if is_share else ""
        parts.append(f"{name} tokens to {lead[name]:+.2f}{share}")
    more = f" ({warned})" if warned else ""
    return f"patched in at block {by_tokens.axes['block'][0]}, {' and '.join(parts)}, from {start:+.2f}{more}"


def page_sections(
    model: HookedViT, experiment: Experiment, results: dict[str, Patching], headline: str
) -> list[Section]:
    grid = model.cfg.grid_size
    clean, corrupted = (model.to_pixels(images[:1])[0] for images in (experiment.clean, experiment.corrupted))
    outline = experiment.sets["object"][0, model.cfg.n_prefix_tokens :].unflatten(0, grid)
    which = "the first of the pairs" if len(experiment.clean) > 1 else "the pair"
    return [
        Section(headline, figures=[picture_with_grid({"clean": clean, "corrupted": corrupted}, grid, outline)]),
        Section(
            "By kind of token",
            "The stream that enters each block, at context, object or class token. What the context says is read off the "
            "context tokens in the early blocks; where their effect falls and the class token's rises, it has moved there.",
            [patching_board(results["tokens"])],
        ),
        *[
            Section(f"By head, {_where(name)}", figures=[_board_of_heads(result, name)])
            for name, result in results.items()
            if name.startswith("heads")
        ],
        Section("By patch", f"Single patches, for {which}.", [patching_maps(results["patches"])]),
    ]


def _board_of_heads(result: Patching, name: str) -> Figure:
    """The board, which says at which tokens: several stand on the page."""
    board = patching_board(result)
    return board.update_layout(title_text=f"{board.layout.title.text} {_where(name)}")


def _where(name: str) -> str:
    """Of a sweep over heads at which tokens: there is one class token, and tokens of a class are something else."""
    return name.removeprefix("heads ").replace("class tokens", "the class token")


def _rich_table(result: Patching) -> Table:
    if result.ill_conditioned() is None:
        values, title = result.effect(), "effect of patching resid_pre (0: none, 1: all)"
    else:
        values, title = result.shift().mean(dim=-1), "logits by which patching resid_pre moves the lead"
    table = Table("block", *result.axes["tokens"], title=title)
    for block, row in zip(result.axes["block"], values.tolist(), strict=True):
        table.add_row(str(block), *[f"{value:+.3f}" for value in row])
    return table


def _settings(settings: dict[str, Any], headline: str) -> str:
    packages = {name: version(name) for name in ("torch", "timm", "transformer-lens")}
    versions = {"python": platform.python_version(), "vitlens": __version__} | packages
    return json.dumps({"settings": settings, "versions": versions, "finding": headline}, indent=2) + "\n"


if __name__ == "__main__":
    run(app)
