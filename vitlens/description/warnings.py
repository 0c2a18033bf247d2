"""Writes the warnings of a description: tokens and heads that show up in every heatmap based on attention."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitlens.description.result import Description

#: Positions that are outliers in at least this share of the pictures are named, up to this many.
FIXED_SHARE, MOST_PLACES = 0.5, 4
#: The most heads of a kind that are named.
MOST_HEADS = 6
#: Outliers with at least this many times their share of a row's attention get a sentence.
DRAWN = 2.0


def heatmap_warnings(description: "Description") -> list[str]:
    """The sentences, one for each fact that corrupts heatmaps."""
    return [*_outliers(description), *_sinks(description)]


def _outliers(description: "Description") -> list[str]:
    settings = description.settings
    late, first = settings["late_block"], settings["outlier_block"]
    if first is None:
        return []
    share = description.outlier_share()[late].item()
    per_image = description.outlier_counts[late].sum().item() / description.n_images
    sentences = [
        f"{100 * share:.1f} % of the patches ({per_image:.1f} a picture) have norms above "
        f"{settings['outlier_threshold']:g} times "
        f"their picture's median after block {late}, most of them from block {first} on: such register-like tokens show in "
        "heatmaps that follow attention or norms, whatever the picture shows there"
    ]
    often = description.outlier_counts[late] / description.n_images
    places = (often >= FIXED_SHARE).nonzero().tolist()
    if places:
        named = ", ".join(f"({row}, {column})" for row, column in places[:MOST_PLACES])
        more = f" and {len(places) - MOST_PLACES} more" if len(places) > MOST_PLACES else ""
        sentences.append(
            f"the outliers have fixed places: {named}{more} (row, column) are outliers in at least "
            f"{100 * FIXED_SHARE:.0f} % of the "
            "pictures"
        )
    drawn = description.fact("patch_to_outliers").mean(dim=1)
    block = int(drawn.argmax())
    if drawn[block] >= DRAWN * share:
        of_class = ""
        if "class_to_outliers" in description.facts:
            of_class = f" and {100 * description.fact('class_to_outliers')[block].mean():.0f} % of the class token's"
        sentences.append(
            f"in block {block} outliers receive {100 * drawn[block]:.0f} % of the patches' attention{of_class} "
            "(mean over heads)"
        )
    return sentences


def _sinks(description: "Description") -> list[str]:
    kinds = description.sink_kind()
    sentences = []
    meaning = {
        "no-op": "attention is parked on keys that write next to nothing",
        "broadcast": "all tokens are handed the same vector",
        "other": "nearly all attention goes to a few keys",
    }
    for kind, what in meaning.items():
        heads = [(b, h) for b, row in enumerate(kinds) for h, found in enumerate(row) if found == kind]
        if heads:
            name = "sinks of neither kind" if kind == "other" else f"{kind} sinks"
            sentences.append(f"{name} ({what}) in the rows of most queries: {_of_queries(description, heads)}")
    return sentences


def _of_queries(description: "Description", heads: list[tuple[int, int]]) -> str:
    """How much attention patches and class token give to the sink in each head, and which maps of these heads show it."""
    patches = description.fact("sink_patch_mass")
    has_class = "sink_class_mass" in description.facts
    of_class = description.fact("sink_class_mass") if has_class else None
    shares = []
    for at in heads[:MOST_HEADS]:
        row = f", the class token {100 * of_class[at]:.0f} %" if of_class is not None else ""
        shares.append(f"L{at[0]}H{at[1]} (patches give it {100 * patches[at]:.0f} %{row})")
    listed = ", ".join(shares) + (f" and {len(heads) - MOST_HEADS} more" if len(heads) > MOST_HEADS else "")
    told = f"{listed}; a patch's row shows the sink and not the picture"
    if of_class is None:
        return told
    too = [at for at in heads if of_class[at] >= 0.5]
    if not too:
        return f"{told}, the class token's row still reads the picture"
    if len(too) == len(heads):
        return f"{told}, and half or more of the class token's row goes there too"
    named = ", ".join(f"L{block}H{head}" for block, head in too[:MOST_HEADS])
    more = f" and {len(too) - MOST_HEADS} more" if len(too) > MOST_HEADS else ""
    return (
        f"{told}; half or more of the class token's row goes there too in {named}{more}, elsewhere it reads the picture"
    )
