"""Writes the page about one picture: prediction, heatmap, class lens, attribution and attention."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitlens.arguments import checked
from vitlens.attribution.direct import direct_logit_attribution
from vitlens.choose.tokens import box
from vitlens.data.class_names import short_name
from vitlens.description.artefacts import artefact_tokens
from vitlens.errors import InputError
from vitlens.files import check_writable
from vitlens.lens.lens import ClassLens, class_lens
from vitlens.model.graph import read_head
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.provenance import page_facts
from vitlens.pages.evidence import evidence
from vitlens.pages.page import Section, write_page
from vitlens.pages.seen_part import picture_fact
from vitlens.patching.activation import activation_patching
from vitlens.patching.results import Patching
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
from vitlens.plots.shared.artefacts import hatch
from vitlens.results.axes import patch_label

# At most this many boxes a side are patched one by one on the page; larger grids are patched in boxes of several patches.
MOST_BOXES = 7


@checked
def write_picture_report(
    model: HookedViT,
    images: str | Path,
    classes: int | str | None = None,
    *,
    path: str | Path,
    head: str | tuple[int, int] | None = None,
    corrupted: str | Path | None = None,
    progress: bool | None = None,
) -> None:
    """Writes the page about one picture.

    It takes about as long as 170 forwards of the picture, and with `corrupted` about 300, because three sweeps of patching
    are added; each of them says its cost if it takes more than a minute.

    Args:
        images: one file.
        classes: one class, by index or name; by default the predicted class.
        path: the HTML file to write.
        head: the head whose attention is shown large, as "L9H3"; by default the one that writes most for the class.
        corrupted: a second picture; its activations are what the first one's are patched into.
        progress: show a bar while patching; by default on a terminal only.

    Raises:
        InputError: picture, class, head or output file that cannot be.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> from torchvision.utils import save_image
        >>> save_image(model.to_pixels(images[0])[0].movedim(-1, 0), "picture.png")
        >>> vitlens.pages.write_picture_report(model, "picture.png", path="report.html")
    """
    check_writable(path)
    one = model.to_images(images)
    index = _class_of(model, one, classes)
    chosen_head = None if head is None else _parse_head(model, head)
    other = None if corrupted is None else model.to_images(corrupted)
    sections = picture_sections(model, one, index, chosen_head, Path(images).name)
    if other is not None:
        name = Path(str(corrupted)).name
        sections.append(
            _or_why("What brings the class back", lambda: _patching_section(model, one, other, index, name, progress))
        )
    facts = {"picture": f"{Path(images).name}, {picture_fact(model, images)}"} | page_facts(model)
    facts |= _answer(model, one, index) | {
        "patches": f"{model.cfg.grid_size[0]} × {model.cfg.grid_size[1]}",
        "prefix tokens": ", ".join(model.cfg.prefix_tokens) or "none",
    }
    title = f"{Path(images).name} through {model.cfg.model_name}"
    write_page(path, title, facts, sections, warning=model.provenance.warning)


def _class_of(model: HookedViT, images: Tensor, wanted: int | str | None) -> int | None:
    """The class that the page is about; None where the model has none."""
    if model.unembed is None and wanted is None:
        return None
    with torch.no_grad():
        return int(model(images).argmax()) if wanted is None else model.class_index(wanted)


def _answer(model: HookedViT, images: Tensor, index: int | None) -> dict[str, str]:
    """The class and what the model gives it: a probability where it chooses among several, else the output itself."""
    if index is None:
        return {}
    found = {"class": f"{short_name(model.class_label(index))} ({index})"}
    with torch.no_grad():
        if model.cfg.n_classes > 1:
            return found | {"probability": f"{model(images, return_type='probs')[0, index].item():.1%}"}
        return found | {"output": f"{model(images)[0, index].item():.4g}"}


def _or_why(heading: str, draw: Callable[[], Section]) -> Section:
    """The section, or in its place the sentence why it cannot be drawn: the rest of the page comes all the same."""
    try:
        return draw()
    except InputError as refusal:
        return Section(heading, f"Not drawn: {refusal}.")


@torch.no_grad()
def picture_sections(
    model: HookedViT, images: Tensor, index: int | None, head: tuple[int, int] | None, name: str
) -> list[Section]:
    """The sections of the page for one picture [1, channels, height, width] and one class."""
    if index is None:
        model_name = model.cfg.model_name
        nothing = f"Not drawn: {model_name} was loaded without a classifier, so there is no prediction to explain."
        return [
            _picture_section(model, images, None, name),
            Section("What it answers, where that comes from, and who writes it", nothing),
            _heads_section(model, images, None, head, None),
        ]
    readings: list[ClassLens] = []
    artefacts = artefact_tokens(model, images)[0].unflatten(0, model.embed.grid(*images.shape[-2:]))

    def reading() -> Section:
        return _reading_section(readings[0] if readings else _reading(model, images, index), artefacts)

    with suppress(InputError):
        readings.append(_reading(model, images, index))
    last = readings[0].maps()[-1] if readings else None
    label = short_name(model.class_label(index))
    return [
        _picture_section(model, images, index, name),
        _or_why(f"Where “{label}” comes from", lambda: evidence(model, images, index, last)),
        _or_why("How the answer builds up", lambda: _building_section(model, images, index)),
        _or_why("Who writes it", lambda: _writers_section(model, images, index)),
        _or_why("What the heads read", lambda: _heads_section(model, images, index, head, artefacts)),
        _or_why("What each patch reads as by itself", reading),
    ]


def _picture_section(model: HookedViT, images: Tensor, index: int | None, name: str) -> Section:
    """The picture, and the top classes of the model."""
    picture = picture_with_grid({name: model.to_pixels(images)[0]}, model.embed.grid(*images.shape[-2:]))
    if index is None:
        return Section("The picture", figures=[picture])
    if model.cfg.n_classes < 2:
        return Section(
            "The picture and the answer",
            f"The model has a single output, {model(images)[0, 0].item():.4g}; a probability among one class would be 1 "
            "whatever it is, so none is shown.",
            [picture],
        )
    names = [model.class_label(i) for i in range(model.cfg.n_classes)]
    probabilities = model(images, return_type="probs")[0]
    return Section(
        "The picture and the answer", figures=[(picture, predictions(probabilities, names, model.cfg.model_name))]
    )


def _building_section(model: HookedViT, images: Tensor, index: int) -> Section:
    cfg = model.cfg
    model.require_choice("a probability or a rank")
    top = model(images)[0].topk(min(5, cfg.n_classes)).indices.tolist()
    first = [index, *[i for i in top if i != index]][:5]
    # Read as the model reads its last stream, so that the curves end at its answer.
    reader = "class" if cfg.pool == "token" and not model.is_distilled else "pooled"
    return Section(
        "How the answer builds up",
        "The hidden state after every block, read as if it were the last one: probability and rank of the classes "
        "that lead in the end.",
        [lens_trajectory(class_lens(model, images, first, tokens=reader))],
    )


def _reading(model: HookedViT, images: Tensor, index: int) -> ClassLens:
    return class_lens(model, images, index, tokens="patches")


def _reading_section(lens: ClassLens, artefacts: Tensor) -> Section:
    return Section(
        "What each patch reads as by itself",
        "The stream of every patch, read as if it were the one that the classifier reads. It is a reading and not a "
        "location: a patch far from the object may read as the class, and the answer need not come from where it does "
        "(the heatmap above has the test of removing patches in its order).",
        [hatch(class_maps(lens), artefacts)],
    )


def _writers_section(model: HookedViT, images: Tensor, index: int) -> Section:
    components = direct_logit_attribution(model, images, index)
    heads = direct_logit_attribution(model, images, index, unit="head")
    return Section(
        "Who writes it",
        "The logit is a sum over everything that was ever added to the stream, the final norm's statistics frozen. "
        "The parts add up exactly; each figure says by how much they miss.",
        [attribution_waterfall(components), attribution_head_map(heads)],
    )


def _heads_section(
    model: HookedViT, images: Tensor, index: int | None, head: tuple[int, int] | None, artefacts: Tensor | None
) -> Section:
    cfg, grid = model.cfg, model.embed.grid(*images.shape[-2:])
    _, cache = model.run_with_cache(images, names_filter="pattern")
    # Token-pooled models decide at the class token; else the mean over all queries that are pooled says what is read.
    rows = [cache["pattern", b][0][:, model.read_tokens].mean(dim=1) for b in range(cfg.n_layers)]
    attention = torch.stack(rows)
    query = "the class token" if cfg.pool == "token" else "the pooled tokens (mean)"
    shown, why = head, "the head that you chose."
    if head is None and index is not None:
        shown = _strongest_head(direct_logit_attribution(model, images, index, unit="head").head_map())
        why = f"of all heads it writes most for “{short_name(model.class_label(index))}”."
    on_grid = attention[..., cfg.n_prefix_tokens :].unflatten(-1, grid)
    mosaic = attention_mosaic(on_grid, query, cfg.model_name)
    if shown is None:
        return Section("What the heads read", figures=[mosaic])
    block, number = shown
    overlay = attention_overlay(
        attention[block, number], model.to_pixels(images)[0], grid, cfg.prefix_tokens, f"L{block}H{number}", query,
        cfg.model_name,
    )  # fmt: skip
    return Section(
        "What the heads read", f"L{block}H{number} is shown large: {why}", [hatch(overlay, artefacts), mosaic]
    )


def _patching_section(
    model: HookedViT, images: Tensor, other: Tensor, index: int | None, other_name: str, progress: bool | None
) -> Section:
    """Where the picture's activations, put into the run on the other one, bring the class back."""
    if index is None:
        raise InputError(f"{model.cfg.model_name} was loaded without a classifier, so there is no class to bring back")
    grid = model.embed.grid(*images.shape[-2:])
    n_layers = model.cfg.n_layers
    blocks = sorted({0, n_layers // 3, 2 * n_layers // 3})
    size = max(-(-side // MOST_BOXES) for side in grid)
    starts = [(row, column) for row in range(0, grid[0], size) for column in range(0, grid[1], size)]
    boxes = {
        f"rows {row}+, columns {column}+": box(row, column, min(size, grid[0] - row), min(size, grid[1] - column))
        for row, column in starts
    }
    # A single output has no rival.
    metric = "logit_difference" if model.cfg.n_classes > 1 else "logit"
    common: dict[str, Any] = {"metric": metric, "classes": index, "progress": progress}
    by_box = activation_patching(model, images, other, tokens=boxes, blocks=blocks, **common)
    groups = {"patches": "patches"} | {name: name for name in ("class",) if model.cfg.has_class_token}
    by_group = activation_patching(model, images, other, tokens=groups, **common)
    by_head = activation_patching(model, images, other, sites="z", **common)
    pixels = model.to_pixels(torch.cat([images, other]))
    label = short_name(model.class_label(index))
    return Section(
        f"What brings “{label}” back",
        f"The run on {other_name}, with activations of this picture put in: by place (boxes of {size} × {size} patches), "
        "by kind of token, and by head.",
        [
            picture_with_grid({"clean (patched in)": pixels[0], f"corrupted ({other_name})": pixels[1]}, grid),
            patching_maps(_spread(by_box, size, grid)),
            (patching_board(by_group), patching_board(by_head)),
        ],
    )


def _spread(by_box: Patching, size: int, grid: tuple[int, int]) -> Patching:
    """A sweep over boxes as one over patches: every patch shows the effect of its box."""
    columns = -(-grid[1] // size)
    owner = [(row // size) * columns + column // size for row in range(grid[0]) for column in range(grid[1])]
    labels = [patch_label(row, column) for row in range(grid[0]) for column in range(grid[1])]
    return replace(
        by_box,
        values=by_box.values[:, owner],
        patched=by_box.patched[:, owner],
        axes=by_box.axes | {"tokens": labels},
    )


def _strongest_head(heads: Tensor) -> tuple[int, int]:
    block, head = divmod(int(heads.argmax()), heads.shape[1])
    return block, head


def _parse_head(model: HookedViT, head: str | tuple[int, int]) -> tuple[int, int]:
    found = read_head(head.strip().upper() if isinstance(head, str) else head)
    if found is None:
        raise InputError(f"a head is written as L9H3 (block 9, head 3), not {head!r}")
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    if not (-n_layers <= found[0] < n_layers and -n_heads <= found[1] < n_heads):
        raise InputError(f"there is no head {head}: the model has L0H0 to L{n_layers - 1}H{n_heads - 1}")
    return found[0] % n_layers, found[1] % n_heads
