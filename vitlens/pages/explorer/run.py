"""The interactive explorer: click a patch, and see what the model makes of it, where it looks, and what it writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitlens.arguments import checked, short
from vitlens.choose.classes import Classes, select_classes
from vitlens.data.pictures import Picture, Pictures, as_list
from vitlens.errors import InputError, printable
from vitlens.files import check_writable
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.pages.explorer.explorer import Explorer
from vitlens.pages.explorer.measure import check_page_size, measure_picture
from vitlens.pages.seen_part import picture_fact
from vitlens.patching.whole_runs import logits_of

# What Chromium, Firefox and Safari all still open: their longest string is about twice as long.
MOST_PAGE_BYTES = 384 * 2**20


@leaves_state
@checked
def explore(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    image_names: Sequence[str] | None = None,
    blocks: int | Sequence[int] | None = None,
    n_classes: int = 6,
    progress: bool | None = None,
) -> Explorer:
    """Measures pictures for the interactive explorer: in a notebook, the last line of a cell shows it.

    Every token has its class lens, what it attends to and who attends to it, its direct contribution to the class through
    every head, and its neighbours by cosine similarity. All numbers are those of `class_lens`, `direct_logit_attribution`
    and the cache; attention is kept in one byte a weight, and shown with its error.

    Args:
        images: pictures as a tensor, or anything `model.to_images` reads.
        classes: which to show first (indices, names, or a tensor [image] of each picture's own); those
            that lead the model's own reading are added.
        image_names: of the pictures; by default the files' names.
        blocks: which blocks to show; by default all.
        n_classes: how many classes a picture has on the page, unless `classes` are more.
        progress: show a bar over the pictures, which are run one by one; by default on a terminal only.

    Returns:
        Explorer: `.save("explorer.html")` writes the page; `.selected_token` and its like say and set what is chosen.

    Raises:
        InputError: a model without a classifier, or with a single output; a class or block that does not exist; more than a
            browser can open.

    Source: Vilas et al. 2023 for the lens; Elhage et al. 2021 for the heads' direct contributions.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> explorer = vitlens.explore(model, images[:1])
        >>> explorer
        Explorer(fashion_in_context_vit: 1 pictures × 6 blocks × 4 heads, ...; .save(path) writes the page)
        >>> explorer.save("explorer.html")
    """
    model.require_choice("a rank or probability", "take direct_logit_attribution for the logit")
    pictures = model.as_images(images)
    if not len(pictures):
        raise InputError("there are no pictures to explore: the tensor is empty")
    labels = _picture_names(images, image_names, len(pictures))
    chosen_blocks = sorted(set(model.block_indices(blocks)))
    if n_classes < 1:
        raise InputError(f"n_classes is how many classes a picture has on the page, at least 1, not {n_classes}")
    rows, columns = model.embed.grid(*pictures.shape[-2:])
    check_page_size(
        model, len(pictures), model.cfg.n_prefix_tokens + rows * columns, len(chosen_blocks), MOST_PAGE_BYTES
    )
    wanted = select_classes(
        model, classes, len(pictures), lambda: torch.cat([logits_of(model, picture[None]) for picture in pictures])
    ).indices.tolist()
    measured = []
    with ProgressBar(len(labels), "explorer", "picture", progress, len(labels)) as bar:
        for i, name in enumerate(labels):
            measured.append(measure_picture(model, pictures[i : i + 1], name, wanted[i], chosen_blocks, n_classes))
            bar.update(1)
    for picture, found in zip(_given(images, len(pictures)), measured, strict=True):
        found.facts["file"] = picture_fact(model, picture) if isinstance(picture, (str, Path)) else None
    return Explorer(model, pictures, measured, chosen_blocks)


def write_explorer(
    model: HookedViT,
    images: Sequence[Picture] | Picture,
    classes: int | str | None = None,
    *,
    path: str | Path,
    progress: bool | None = None,
    **options: Any,
) -> None:
    """Writes the explorer's page about pictures: one file that needs no network.

    Args:
        images: files.
        classes: one class, by index or name; by default each picture's predicted class.
        path: the HTML file to write.
        options: those of `explore`.

    Raises:
        InputError: as `explore`; an output file that cannot be written.
    """
    check_writable(path)
    explore(model, as_list(images), classes, progress=progress, **options).save(path)


def _picture_names(images: Pictures, names: Sequence[str] | None, n: int) -> list[str]:
    if names is not None:
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise InputError(f"names are a list of texts, one for each picture, not {short(names)}")
        if len(names) != n:
            raise InputError(f"{len(names)} names were given for {n} pictures")
        return [str(name) for name in names]
    return [
        printable(Path(item).name) if isinstance(item, (str, Path)) else f"picture {i}"
        for i, item in enumerate(_given(images, n))
    ]


def _given(images: Pictures, n: int) -> Sequence[Picture | None]:
    """What each picture was given as; None for those of a tensor."""
    return [None] * n if isinstance(images, Tensor) else as_list(images)
