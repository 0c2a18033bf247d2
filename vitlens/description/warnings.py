"""What a description warns of: tokens and heads that draw themselves into every heatmap that follows attention."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitlens.description.result import Description

#: Places that are outliers in at least this share of the pictures are named, up to so many.
FIXED_SHARE, MOST_PLACES = 0.5, 4
#: Outliers that get at least this many times their share of a row's attention are worth a sentence.
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
        f"{share:.1%} of the patches ({per_image:.1f} a picture) have norms above {settings['threshold']:g} times their "
        f"picture's median behind block {late}, most of them from block {first} on: such register-like tokens show in "
        "heatmaps that follow attention or norms, whatever the picture shows there"
    ]
    often = description.outlier_counts[late] / description.n_images
    places = (often >= FIXED_SHARE).nonzero().tolist()
    if places:
        named = ", ".join(f"({row}, {column})" for row, column in places[:MOST_PLACES])
        more = f" and {len(places) - MOST_PLACES} more" if len(places) > MOST_PLACES else ""
        sentences.append(
            f"the outliers have fixed places: {named}{more} (row, column) are outliers in at least {FIXED_SHARE:.0%} of the "
            "pictures"
        )
    drawn = description.fact("patch_to_outliers").mean(dim=1)
    block = int(drawn.argmax())
    if drawn[block] >= DRAWN * share:
        of_class = ""
        if "class_to_outliers" in description.facts:
            of_class = f" and {description.fact('class_to_outliers')[block].mean():.0%} of the class token's"
        sentences.append(
            f"in block {block} outliers receive {drawn[block]:.0%} of the patches' attention{of_class} (mean over heads)"
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
        heads = [f"L{b}H{h}" for b, row in enumerate(kinds) for h, found in enumerate(row) if found == kind]
        if heads:
            listed = ", ".join(heads[:6]) + (f" and {len(heads) - 6} more" if len(heads) > 6 else "")
            name = "sinks of neither kind" if kind == "other" else f"{kind} sinks"
            sentences.append(f"heads that are {name} ({what}), whose maps show the sink and not the picture: {listed}")
    return sentences
