"""The one-picture page: what a model says about a picture, how that builds up, who writes it, and where it looks."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitlens.analysis.attribution import direct_logit_attribution
from vitlens.analysis.contrast import Patching
from vitlens.analysis.lens import class_lens
from vitlens.analysis.patching import activation_patching
from vitlens.analysis.tokens import box
from vitlens.data.class_names import short_name
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.plots import (
    attention_mosaic,
    attention_overlay,
    attribution_head_map,
    attribution_waterfall,
    class_maps,
    lens_trajectory,
    patching_board,
    patching_maps,
    picture_with_grid,
    predictions,
)
from vitlens.report.page import Section, check_writable, write_page

# At most this many boxes a side are patched one by one on the page; larger grids are patched in boxes of several patches.
MOST_BOXES = 7


def write_picture_report(
    model: HookedViT,
    picture: str | Path,
    out: str | Path,
    *,
    wanted_class: int | str | None = None,
    head: str | None = None,
    against: str | Path | None = None,
    progress: bool = True,
) -> None:
    """Writes the page about one picture.

    Args:
        picture: a file.
        out: the HTML file to write.
        wanted_class: index or name; by default the predicted class.
        head: the head whose attention is shown large, as "L9H3"; by default the one that writes most for the class.
        against: a second picture; its activations are what the first one's are patched into.
        progress: show a bar while patching.

    Raises:
        InputError: picture, class, head or output file that cannot be.
    """
    check_writable(out)
    model.require_choice("a probability", "take `vitlens attribute` for the logit")
    images = model.to_images(picture)
    index = int(model(images).argmax()) if wanted_class is None else model.class_index(wanted_class)
    chosen_head = None if head is None else _parse_head(model, head)
    other = None if against is None else model.to_images(against)
    sections = picture_sections(model, images, index, chosen_head, Path(picture).name)
    if other is not None:
        sections.append(_patching_section(model, images, other, index, Path(str(against)).name, progress))
    probability = model(images, return_type="probs")[0, index].item()
    facts = {
        "model": model.cfg.model_name,
        "picture": Path(picture).name,
        "class": f"{short_name(model.class_label(index))} ({index})",
        "probability": f"{probability:.1%}",
        "patches": f"{model.cfg.grid_size[0]} × {model.cfg.grid_size[1]}",
        "prefix tokens": ", ".join(model.cfg.prefix_tokens) or "none",
    }
    write_page(out, f"{Path(picture).name} through {model.cfg.model_name}", facts, sections)


@torch.no_grad()
def picture_sections(
    model: HookedViT, images: Tensor, index: int, head: tuple[int, int] | None, name: str
) -> list[Section]:
    """The sections of the page for one picture [1, channels, height, width] and one class."""
    cfg = model.cfg
    pixels = model.to_pixels(images)[0]
    names = [model.class_label(i) for i in range(cfg.n_classes)]
    probabilities = model(images, return_type="probs")[0]
    first = [index, *[i for i in probabilities.topk(min(5, cfg.n_classes)).indices.tolist() if i != index]][:5]

    # Read as the model reads its last stream, so that the curves end at its answer.
    reader = "class" if cfg.pool == "token" and not model.is_distilled else "pooled"
    trajectory = class_lens(model, images, first, tokens=reader)
    over_patches = class_lens(model, images, index, tokens="patches")
    components = direct_logit_attribution(model, images, index)
    heads = direct_logit_attribution(model, images, index, unit="head")
    block, number = head if head is not None else _strongest_head(heads.head_map())
    _, cache = model.run_with_cache(images, names_filter="pattern")
    # Token-pooled models decide at the class token; else the mean over all queries that are pooled says what is read.
    rows = [cache["pattern", b][0][:, model.read_tokens].mean(dim=1) for b in range(cfg.n_layers)]
    attention = torch.stack(rows)
    query = "class" if cfg.pool == "token" else "average pooled"
    on_grid = attention[..., cfg.n_prefix_tokens :].unflatten(-1, over_patches.grid)
    label = short_name(model.class_label(index))
    return [
        Section(
            "The picture and the answer",
            figures=[
                (
                    picture_with_grid({name: pixels}, over_patches.grid),
                    predictions(probabilities, names, cfg.model_name),
                )
            ],
        ),
        Section(
            "How the answer builds up",
            "The hidden state after every block, read as if it were the last one: probability and rank of the classes "
            "that lead in the end.",
            [lens_trajectory(trajectory)],
        ),
        Section(
            f"Where the patches say “{label}”",
            "The same reading for every patch token.",
            [class_maps(over_patches, pixels)],
        ),
        Section(
            "Who writes it",
            "The logit is a sum over everything that was ever added to the stream, the final norm's statistics frozen. "
            "The parts add up exactly; each figure says by how much they miss.",
            [attribution_waterfall(components), attribution_head_map(heads)],
        ),
        Section(
            "What the heads read",
            f"L{block}H{number} is shown large: "
            + ("the head asked for." if head is not None else f"of all heads it writes most for “{label}”."),
            [
                attention_overlay(
                    attention[block, number], pixels, over_patches.grid, cfg.prefix_tokens,
                    f"L{block}H{number}", query, cfg.model_name,
                ),
                attention_mosaic(on_grid, query, cfg.model_name),
            ],
        ),
    ]  # fmt: skip


def _patching_section(
    model: HookedViT, images: Tensor, other: Tensor, index: int, other_name: str, progress: bool
) -> Section:
    """Where the picture's activations, put into the run on the other one, bring the class back."""
    grid = model.embed.grid(*images.shape[-2:])
    n_layers = model.cfg.n_layers
    blocks = sorted({0, n_layers // 3, 2 * n_layers // 3})
    size = max(-(-side // MOST_BOXES) for side in grid)
    starts = [(row, column) for row in range(0, grid[0], size) for column in range(0, grid[1], size)]
    boxes = {
        f"rows {row}+, columns {column}+": box(row, column, min(size, grid[0] - row), min(size, grid[1] - column))
        for row, column in starts
    }
    common: dict[str, Any] = {"classes": index, "progress": progress}
    by_box = activation_patching(model, images, other, tokens=boxes, blocks=blocks, **common)
    groups = {"patches": "patches"} | {name: name for name in ("class",) if model.cfg.has_class_token}
    by_group = activation_patching(model, images, other, tokens=groups, **common)
    by_head = activation_patching(model, images, other, site="z", **common)
    pixels = model.to_pixels(torch.cat([images, other]))
    label = short_name(model.class_label(index))
    return Section(
        f"What brings “{label}” back",
        f"The run on {other_name}, with activations of this picture put in: by place (boxes of {size} × {size} patches), "
        "by kind of token, and by head.",
        [
            picture_with_grid({"clean (patched in)": pixels[0], f"corrupted ({other_name})": pixels[1]}, grid),
            patching_maps(_spread(by_box, size, grid), pixels[0]),
            (patching_board(by_group), patching_board(by_head)),
        ],
    )


def _spread(by_box: Patching, size: int, grid: tuple[int, int]) -> Patching:
    """A sweep over boxes as one over patches: every patch shows the effect of its box."""
    columns = -(-grid[1] // size)
    owner = [(row // size) * columns + column // size for row in range(grid[0]) for column in range(grid[1])]
    labels = [f"({row}, {column})" for row in range(grid[0]) for column in range(grid[1])]
    return replace(
        by_box,
        values=by_box.values[:, owner],
        patched=by_box.patched[:, owner],
        axes=by_box.axes | {"tokens": labels},
    )


def _strongest_head(heads: Tensor) -> tuple[int, int]:
    block, head = divmod(int(heads.argmax()), heads.shape[1])
    return block, head


def _parse_head(model: HookedViT, head: str) -> tuple[int, int]:
    match = re.fullmatch(r"L(\d+)H(\d+)", head.strip(), re.IGNORECASE)
    if match is None:
        raise InputError(f"a head is written as L9H3 (block 9, head 3), not {head!r}")
    block, number = int(match[1]), int(match[2])
    if block >= model.cfg.n_layers or number >= model.cfg.n_heads:
        raise InputError(
            f"there is no head {head}: the model has L0H0 to L{model.cfg.n_layers - 1}H{model.cfg.n_heads - 1}"
        )
    return block, number
