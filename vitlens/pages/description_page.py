"""Writes the page of a description: facts about tokens, heads and blocks over many pictures, and warnings."""

from pathlib import Path

from vitlens.arguments import checked
from vitlens.description.result import Description
from vitlens.files import check_writable
from vitlens.pages.page import Section, write_page
from vitlens.plots.description import example_norms, norms_by_block, outlier_map
from vitlens.plots.description_heads import (
    cka_against_matrix,
    cka_matrix,
    distance_boards,
    distance_by_block,
    head_similarity_matrix,
    mass_boards,
    sink_board,
    sink_boards,
)


@checked
def write_description_page(
    description: Description,
    *,
    path: str | Path,
    title: str | None = None,
) -> None:
    """Writes the page.

    Args:
        path: the HTML file to write.
        title: by default names the model.

    Raises:
        InputError: the folder does not exist or cannot be written to.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> description = vitlens.describe(model, images[:2])
        >>> vitlens.pages.write_description_page(description, path="description.html")
    """
    check_writable(path)
    settings = description.settings
    facts = {"model": settings["model"], **settings.get("provenance", {})} | {
        "pictures": f"{description.n_images:,}",
        "blocks × heads": f"{len(description.axes['block'])} × {len(description.axes['head'])}",
        "patches": f"{settings['grid'][0]} × {settings['grid'][1]}",
        "tokens": ", ".join(settings["kinds"]),
    }
    if settings["other_model"] is not None:
        facts["other model"] = settings["other_model"]
    write_page(
        path,
        title or f"Tokens and heads of {settings['model']}",
        facts,
        description_sections(description),
        warning=settings.get("warning"),
    )


def description_sections(description: Description) -> list[Section]:
    """The sections of the page."""
    tokens = Section(
        "Norms of tokens",
        "A few patches of many trained ViTs come to hold many times the norm of the others. They work like registers: they "
        "draw attention and say little of their place.",
        [norms_by_block(description), outlier_map(description)],
    )
    if len(description.example_norms):
        tokens.figures.append(example_norms(description))
    looks = Section(
        "Where heads look",
        "Heads of low distance look around each patch like a convolution, those near the dashed line look everywhere.",
        [distance_by_block(description), distance_boards(description), mass_boards(description)],
    )
    sinks = Section(
        "Attention sinks",
        "Where nearly all queries attend to the same few keys, their rows of the head's pattern show its sink. Most queries "
        "are patches: the class token's row may read the picture all the same, and its share is given apart. A no-op parks "
        "attention on keys that write next to nothing; a broadcast hands one vector to all tokens.",
        [sink_board(description), sink_boards(description)],
    )
    pairs = description.redundant_heads(5)
    alike = ", ".join(f"{row.head} and {row.other} ({row.similarity:.2f})" for row in pairs.itertuples())
    likeness = Section(
        "What is alike", f"Most alike are {alike}." if alike else "", [head_similarity_matrix(description)]
    )
    if description.cka is not None:
        likeness.figures.append(cka_matrix(description))
    if description.cka_against is not None:
        likeness.figures.append(cka_against_matrix(description))
    return [_warnings(description), tokens, looks, sinks, likeness]


def _warnings(description: Description) -> Section:
    """What corrupts heatmaps, before all figures."""
    warnings = description.warnings
    text = "\n".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in warnings)
    return Section("What to mind in heatmaps", text or "No outlier patches and no sinks were found in these pictures.")
