"""The page about pictures: what the model answers, when and by which parts it is decided, and what their removal does."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vitlens.arguments import checked
from vitlens.choose.classes import Classes, select_classes
from vitlens.choose.texts import takes_text
from vitlens.data.pictures import Pictures
from vitlens.description.result import Description
from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.placed import ends
from vitlens.model.graph import read_head
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.pages.explorer.explorer import Explorer
from vitlens.pages.explorer.facts import page_facts_of
from vitlens.pages.explorer.measure.components import add_colours, add_nearest
from vitlens.pages.explorer.measure.data_set import data_set_facts
from vitlens.pages.explorer.measure.features import Dictionary
from vitlens.pages.explorer.measure.picture import Settings, check_page_size, measure_picture
from vitlens.pages.explorer.page import pack_measured
from vitlens.pages.explorer.selection import first_selection
from vitlens.pages.picture_names import given_images, names_of_images
from vitlens.pages.seen_part import picture_fact
from vitlens.patching.whole_runs import logits_of

# What Chromium, Firefox and Safari all still open: their longest string is about twice as long.
MOST_PAGE_BYTES = 384 * 2**20


@leaves_state
@checked
@takes_text("all")
def explore(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    image_names: Sequence[str] | None = None,
    blocks: int | Sequence[int] | None = None,
    head: str | tuple[int, int] | None = None,
    against: Pictures | None = None,
    description: Description | None = None,
    sae: SparseAutoencoder | None = None,
    hook: HookName | None = None,
    n_classes: int = 12,
    n_runs: int = 1000,
    progress: bool | None = None,
) -> Explorer:
    """Measures pictures for the interactive page: in a notebook, the last line of a cell shows it.

    The page says in sentences what the model answers, from which block on the class leads, which parts write it and what
    their removal does; each sentence leads to the figure that shows it. Every patch, head and MLP is removed once and the
    model run without it. All numbers are those of `class_lens`, `direct_logit_attribution`, `heatmap`, `perturbation_test`,
    `activation_ablation` and the cache; attention is kept in one byte a weight, and shown with its error.

    A model without a classifier has a page of attention and similarity; what a model does not have is said in its place.

    Args:
        images: pictures as a tensor, or anything `model.to_images` reads.
        classes: which to show first (indices, names, or a tensor [image] of each picture's own); by default the predicted
            one. Those that lead the model's own reading are added.
        image_names: of the pictures; by default the files' names.
        blocks: which blocks to show; by default all.
        head: the head to show first, as "L9H3" or (block, head); by default the one that writes most for the class.
        against: one more picture, which comes last; what its patches, heads and MLPs do in the place of those of each of
            `images` is measured by activation patching.
        description: what `describe` found of this model over a data set, for the cards of heads and MLPs.
        sae: a dictionary, whose strongest features the page shows.
        hook: where it reads; None for the hook point it was trained on.
        n_classes: how many classes of a picture are measured in detail, unless `classes` are more.
        n_runs: how many single removals a picture may cost. Where its patches, heads and MLPs are more, heads and MLPs are
            estimated by attribution patching; where its patches alone are more, they are removed in boxes.
        progress: show a bar over the pictures, which are run one by one; by default on a terminal only.

    Returns:
        Explorer: `.save("page.html")` writes the page; `.selected_token` and its like say and set what is chosen.

    Raises:
        InputError: a class, block or head that does not exist; classes of a model without a classifier; no removals; logits
            that are not finite; more than a browser can open.

    Source: Vilas et al. 2023 for the lens; Elhage et al. 2021 for the heads' direct contributions; Nanda 2023 for
    attribution patching.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> explorer = vitlens.explore(model, images[:1], n_classes=2, n_runs=50)
        >>> explorer
        Explorer(fashion_in_context_vit: 1 pictures × 6 blocks × 4 heads, ...; .save(path) writes the page)
        >>> explorer.save("page.html")
    """
    pictures = model.as_images(images)
    if not len(pictures):
        raise InputError("there are no pictures to explore: the tensor is empty")
    labels = names_of_images(images, image_names, len(pictures))
    settings = Settings(sorted(set(model.block_indices(blocks))), n_classes, n_runs, _dictionary(model, sae, hook))
    if n_classes < 1:
        raise InputError(f"n_classes is how many classes a picture has on the page, at least 1, not {n_classes}")
    if n_runs < 1:
        raise InputError(f"n_runs is how many removals a picture may cost, at least 1, not {n_runs}")
    first_head = None if head is None else _head_of(model, head, settings.blocks)
    rows, columns = model.embed.grid(*pictures.shape[-2:])
    of_data_set = None if description is None else data_set_facts(description, model, (rows, columns), settings.blocks)
    wanted = _wanted_classes(model, pictures, classes)
    given = [*given_images(images, len(pictures))]
    other = None
    if against is not None:
        other = _other_picture(model, against, pictures)
        answer = _wanted_classes(model, other, None)
        # Classes that are each picture's own are not those of one more.
        shared = [] if classes is None or isinstance(classes, Tensor) else _wanted_classes(model, other, classes)[0]
        wanted = [*[[*own, *answer[0]] for own in wanted], [*shared, *answer[0]]]
        pictures = torch.cat([pictures, other])
        given += given_images(against, 1)
        labels.append(
            names_of_images(against, None, 1)[0] if isinstance(given[-1], (str, Path)) else "the other picture"
        )
    check_page_size(
        model, len(pictures), model.cfg.n_prefix_tokens + rows * columns, len(settings.blocks), MOST_PAGE_BYTES
    )
    measured = []
    with ProgressBar(len(labels), "explorer", "picture", progress, len(labels)) as bar:
        for i, name in enumerate(labels):
            own = replace(settings, other=None if other is not None and i == len(labels) - 1 else other)
            measured.append(measure_picture(model, pictures[i : i + 1], name, wanted[i], own))
            bar.update(1)
    add_colours(measured)
    add_nearest(measured)
    for picture, found in zip(given, measured, strict=True):
        found.facts["file"] = picture_fact(model, picture) if isinstance(picture, (str, Path)) else None
    return Explorer(
        model,
        pictures,
        [pack_measured(picture) for picture in measured],
        page_facts_of(model, measured, (rows, columns), settings) | {"data_set": of_data_set},
        first_selection(model, measured, settings, first_head),
    )


def _dictionary(model: HookedViT, sae: SparseAutoencoder | None, hook: HookName | None) -> Dictionary | None:
    if sae is None:
        if hook is not None:
            raise InputError("hook= says where a dictionary reads: pass it as sae=")
        return None
    ends(model, hook, sae)
    return Dictionary(sae, hook)


def _other_picture(model: HookedViT, against: Pictures, pictures: Tensor) -> Tensor:
    """The picture whose activations are put in, of the same size.

    Raises:
        InputError: several pictures, or one of another size.
    """
    other = model.as_images(against)
    if len(other) != 1:
        raise InputError(f"against is one picture, and {len(other)} were given")
    if other.shape[1:] != pictures.shape[1:]:
        sizes = [" × ".join(map(str, each.shape[-2:])) for each in (other, pictures)]
        raise InputError(f"against is a picture of the same size: it has {sizes[0]} pixels, and the others {sizes[1]}")
    return other


def _wanted_classes(model: HookedViT, pictures: Tensor, classes: Classes) -> list[list[int]]:
    """The given classes of every picture, by default the predicted one; none where nothing is predicted."""
    if classes is None and not model.predicts:
        return [[]] * len(pictures)
    model.require_classifier()
    # Given classes need no run.
    return select_classes(
        model, classes, len(pictures), lambda: torch.cat([logits_of(model, picture[None]) for picture in pictures])
    ).indices.tolist()


def _head_of(model: HookedViT, head: str | tuple[int, int], blocks: list[int]) -> tuple[int, int]:
    """Block and head of "L9H3" or (9, 3).

    Raises:
        InputError: no such head, or one of a block that the page does not show.
    """
    found = read_head(head.strip().upper() if isinstance(head, str) else head)
    if found is None:
        raise InputError(f"a head is written as L9H3 (block 9, head 3), not {head!r}")
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    if not (-n_layers <= found[0] < n_layers and -n_heads <= found[1] < n_heads):
        raise InputError(f"there is no head {head}: the model has L0H0 to L{n_layers - 1}H{n_heads - 1}")
    block, number = found[0] % n_layers, found[1] % n_heads
    if block not in blocks:
        raise InputError(f"head {head} is of block {block}, and the page shows {', '.join(map(str, blocks))}")
    return block, number
