"""`vitlens patch`: activation patching between two pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitlens.cli.given import TOKENS_HELP, read_tokens, say_cost
from vitlens.cli.names import DIRECTIONS, METRICS, PATCHING_SITES, PATCHING_TOKENS, REPLACEMENTS, one_of
from vitlens.cli.options import (
    AgainstClass,
    Blocks,
    Json,
    ModelOptions,
    ObjectId,
    Out,
    WantedClass,
    files_are_there,
    with_model,
)
from vitlens.cli.output import Answer, check_out, hand_over
from vitlens.cli.shared import complain, is_watched, require_classes
from vitlens.cli.texts import AgainstText, AskedTexts, Tower, load_asked
from vitlens.errors import InputError, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vitlens.choose.tokens import TokenSet
    from vitlens.data.masks import Masks
    from vitlens.model.hooked_vit import HookedViT
    from vitlens.pages.page import Section
    from vitlens.patching.results import Patching

#: A table of blocks with more columns than these is shown as its largest cells.
MOST_COLUMNS = 12
FASTER = "fewer cells (--block, --tokens, --head) are faster, and Ctrl-C keeps what was reached"


@dataclass
class Pair:
    """The clean and the corrupted picture [1, channels, height, width], what they are called, and the object's mask."""

    clean: "Tensor"
    corrupted: "Tensor"
    names: tuple[str, str]
    mask: "Masks | None"


@with_model
def patch(
    clean: Annotated[
        Path, typer.Argument(help="the picture whose decision is traced", show_default=False, callback=files_are_there)
    ],
    corrupted: Annotated[
        Path | None,
        typer.Argument(help="the picture to compare it with", show_default=False, callback=files_are_there),
    ] = None,
    site: Annotated[
        str, typer.Option(help=", ".join(PATCHING_SITES), autocompletion=one_of(*PATCHING_SITES))
    ] = "resid_pre",
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            "--tokens", "--token", help=f"{', '.join(PATCHING_TOKENS)}, {TOKENS_HELP}; several times [default: each, with "
            "--mask object, context and class; of heads and neurons all]",
            autocompletion=one_of(*PATCHING_TOKENS), show_default=False,
        ),
    ] = None,
    block: Blocks = None,
    head: Annotated[
        list[int] | None, typer.Option(help="of z, q, k, v, attn_scores, pattern: a head; several times", show_default=False)
    ] = None,
    metric: Annotated[str, typer.Option(help=", ".join(METRICS), autocompletion=one_of(*METRICS))] = "logit_difference",
    direction: Annotated[
        str,
        typer.Option(help="denoise: clean into corrupted; noise: the reverse", autocompletion=one_of(*DIRECTIONS)),
    ] = "denoise",
    wanted_class: WantedClass = None,
    against_class: AgainstClass = None,
    text: AskedTexts = None,
    against_text: AgainstText = None,
    tower: Tower = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="the object's mask in the clean picture: black and white, class ids, or an alpha channel",
            show_default=False, callback=files_are_there,
        ),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(help="instead of a mask, the object's patches: ROW,COLUMN,HEIGHT,WIDTH", show_default=False),
    ] = None,
    object_id: ObjectId = None,
    replace_context: Annotated[
        str | None,
        typer.Option(
            help=f"make the corrupted picture: around the object {', '.join(REPLACEMENTS)} (of CORRUPTED); needs --mask or "
            "--box",
            autocompletion=one_of(*REPLACEMENTS), show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="how many of the largest effects to show")] = 15,
    *,
    model: ModelOptions,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="rows of one forward [default: as many as are fast]", show_default=False)
    ] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Activation patching: put activations of one picture into the run on another, and see which change its prediction."""
    import warnings

    from vitlens.arguments import check_mask_shapes
    from vitlens.data.class_names import short_name
    from vitlens.patching.activation import activation_patching
    from vitlens.patching.sweep import InterruptedWarning

    check_out(out)
    if mask is not None and box is not None:
        raise InputError("--mask and --box both say where the object is: choose one of them")
    object_box = None if box is None else read_tokens(f"box:{box}")
    asked = load_asked(model, wanted_class, text, against_class, against_text, tower=tower, several="predicted")
    hooked = asked.model
    require_classes(hooked)
    if mask is not None:
        check_mask_shapes(clean, mask)
    pair = _pair(hooked, clean, corrupted, replace_context, lambda: _mask(hooked, mask, object_id, object_box))
    sets = _token_sets(hooked, tokens, pair.mask, site)
    reads_mask = isinstance(sets, dict) and not {"object", "context"}.isdisjoint(sets)
    say_cost(hooked, pair.clean, _n_forwards(hooked, site, sets, block, head), FASTER)
    with warnings.catch_warnings():
        # The warning says how to continue in Python, which is no help in a shell.
        warnings.simplefilter("ignore", InterruptedWarning)
        result = activation_patching(
            hooked, pair.clean, pair.corrupted, asked.classes, baseline_classes=asked.baseline_classes, metric=metric,
            sites=site, tokens=sets, blocks=block or None, heads=head or None,
            direction=direction, masks=pair.mask if reads_mask else None, batch_size=batch_size, progress=is_watched(),
        )  # fmt: skip
    classes = [
        None if of_each is None else hooked.class_label(int(of_each[0, 0]))
        for of_each in (result.classes, result.baseline_classes)
    ]
    largest = _largest(result, top)
    facts = {
        "clean": pair.names[0],
        "corrupted": pair.names[1],
        "class": str(classes[0]),
        "direction": direction,
    } | ({} if classes[1] is None else {"against": classes[1]})
    hand_over(
        Answer(
            "patch",
            hooked.cfg.model_name,
            result.to_frame(),
            {
                "pictures": {"clean": pair.names[0], "corrupted": pair.names[1]},
                "class": classes[0],
                "against": classes[1],
                "metric": {
                    "name": metric,
                    "unpatched": result.target.item(),
                    "source": result.source.item(),
                },
                "top": largest,
            },
            [
                (
                    f"{pair.names[0]} against {pair.names[1]}: {result.shown()[0]} of patching {site}",
                    _shown(result, largest),
                )
            ],
            lambda: _sections(hooked, pair, result),
            result.plot,
            f"What brings “{short_name(str(classes[0]))}” back: {pair.names[0]} against {pair.names[1]}",
            facts=facts,
            notes=[_meaning(result, metric, classes), *filter(None, [result.caution()])],
            settings=result.settings,
            hooked=hooked,
        ),
        out,
        as_json,
    )
    if not result.complete:
        reached = 1 - result.patched.isnan().double().mean().item()
        complain(f"interrupted: {reached:.0%} of the cells were reached, the others are empty")
        raise typer.Exit(130)


def _pair(
    model: "HookedViT",
    clean: Path,
    corrupted: Path | None,
    replacement: str | None,
    read_object: "Callable[[], Masks | None]",
) -> Pair:
    from vitlens.data.counterfactuals import replace_context

    images = model.to_images(clean)
    other = None if corrupted is None else model.to_images(corrupted)
    inside = read_object()
    if replacement is None:
        if other is None:
            raise InputError(
                "say what the clean picture is compared with: a second picture, or --replace-context HOW with --mask FILE"
            )
        return Pair(images, other, (printable(clean.name), printable(Path(str(corrupted)).name)), inside)
    if inside is None:
        raise InputError(
            "--replace-context keeps the object and changes the rest: say where it is with --mask FILE or --box"
        )
    if replacement == "other" and other is None:
        raise InputError("--replace-context other takes the context of a second picture: name it after the clean one")
    if replacement != "other" and other is not None:
        raise InputError(
            f"--replace-context {replacement} makes the corrupted picture itself: leave {corrupted} out, or say "
            "--replace-context other to take its context"
        )
    made = replace_context(
        images, inside, replacement=replacement, others=other, patch_size=model.patch_grid(*images.shape[-2:])
    )
    around = f"{Path(str(corrupted)).name}'s context" if replacement == "other" else f"context: {replacement}"
    return Pair(images, made, (clean.name, f"{clean.name} ({around})"), inside)


def _mask(model: "HookedViT", file: Path | None, object_id: int | None, box: "TokenSet | None") -> "Masks | None":
    """Where the object is, from a file or as a box of patches."""
    import torch

    from vitlens.choose.tokens import select_tokens
    from vitlens.data.masks import Masks

    if file is not None:
        return model.read_masks(file, object_id=object_id)
    if box is None:
        return None
    cut = model.patch_grid()
    patches = select_tokens(model, box, 1)[:, model.cfg.n_prefix_tokens :].unflatten(1, cut.grid)
    inside = cut.pixels_of(patches, *model.cfg.image_size)
    return Masks(inside, torch.zeros_like(inside))


def _token_sets(model: "HookedViT", tokens: list[str] | None, mask: "Masks | None", site: str) -> Any:
    from vitlens.choose.sites import find_site

    if tokens:
        sets = {text: read_tokens(text) for text in tokens}
        if "each" in sets and len(sets) > 1:
            raise InputError("--tokens each patches every token by itself: leave the other token sets out")
        if mask is None and {"object", "context"} & set(sets):
            raise InputError(
                "the token sets object and context need --mask FILE or --box, which say where the object is"
            )
        return "each" if "each" in sets else sets
    if mask is None or find_site(model, site).unit is not None:
        return None
    return {name: name for name in ("object", "context", *(["class"] if model.cfg.has_class_token else []))}


def _n_forwards(model: "HookedViT", site: str, sets: Any, blocks: list[int] | None, heads: list[int] | None) -> int:
    """The number of forward passes of the cells: on average, a cell runs half of the blocks."""
    from vitlens.choose.sites import find_site

    unit = find_site(model, site).unit
    n_units = {None: 1, "head": len(heads or range(model.cfg.n_heads)), "neuron": model.cfg.d_mlp or 1}[unit]
    n_sets = len(sets) if isinstance(sets, dict) else model.cfg.n_ctx if unit is None or sets == "each" else 1
    return len(blocks or range(model.cfg.n_layers)) * n_sets * n_units // 2


def _largest(result: "Patching", top: int) -> list[dict[str, Any]]:
    """The cells of the largest effects, by magnitude: rows of the axes, the effect, and the shift in units of the metric."""
    import torch

    axes = {name: labels for name, labels in result.axes.items() if name != "image"}
    effect, shift = result.effect(), result.shift().mean(dim=-1)
    # Cells that an interrupted sweep did not reach come last, and are left out.
    order = effect.flatten().abs().nan_to_num(-1).argsort(descending=True, stable=True)
    order = order[~effect.flatten()[order].isnan()][:top]
    places = torch.stack(torch.unravel_index(order, effect.shape), dim=1).tolist()
    return [
        {
            **{name: labels[i] for (name, labels), i in zip(axes.items(), place, strict=True)},
            "effect": effect[tuple(place)].item(),
            "shift": shift[tuple(place)].item(),
        }
        for place in places
    ]


def _shown(result: "Patching", largest: list[dict[str, Any]]) -> Any:
    """Block × token set, head or neuron where that is small, else the largest cells."""
    import pandas as pd

    quantity, values = result.shown()
    columns = [name for name in result.axes if name not in ("block", "image")]
    if len(columns) == 1 and len(result.axes[columns[0]]) <= MOST_COLUMNS:
        labels = [str(label) for label in result.axes[columns[0]]]
        rows = zip(result.axes["block"], values.tolist(), strict=True)
        return pd.DataFrame(
            [
                {"block": block, **{name: "–" if x != x else f"{x:+.3f}" for name, x in zip(labels, row, strict=True)}}
                for block, row in rows
            ]
        )
    places = [name for name in result.axes if name != "image"]
    return pd.DataFrame(
        [{**{name: row[name] for name in places}, quantity: f"{row[quantity]:+.4f}"} for row in largest]
    )


def _meaning(result: "Patching", metric: str, classes: list[str | None]) -> str:
    from vitlens.data.class_names import short_name

    about = " over ".join(f"“{short_name(name)}”" for name in classes if name is not None)
    return (
        f"{metric.replace('_', ' ')} of {about}: effect 0 is {result.target.item():+.3f} (unpatched), 1 is "
        f"{result.source.item():+.3f} (the run that the activations come from)"
    )


def _sections(model: "HookedViT", pair: Pair, result: "Patching") -> "list[Section]":
    import torch

    from vitlens.choose.tokens import select_tokens
    from vitlens.pages.page import Section
    from vitlens.plots import picture_with_grid, plot

    grid = (result.grid[0], result.grid[1])
    pixels = model.to_pixels(torch.cat([pair.clean, pair.corrupted]))
    outline = None
    if pair.mask is not None:
        inside = select_tokens(model, "object", 1, masks=pair.mask, grid=grid, some_may_be_empty=True)
        outline = inside[0, model.cfg.n_prefix_tokens :].unflatten(0, grid)
    pictures = {f"clean: {pair.names[0]}": pixels[0], f"corrupted: {pair.names[1]}": pixels[1]}
    return [
        Section("The pictures", figures=[picture_with_grid(pictures, grid, outline)]),
        Section("What patching does", figures=[plot(result)]),
    ]
