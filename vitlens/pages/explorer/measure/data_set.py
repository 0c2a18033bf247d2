"""What a description of the model says of every head and MLP over a data set, for the cards of the page."""

import base64
import io
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image

from vitlens.description.result import Description
from vitlens.description.tokens import OUTLIER
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.provenance import page_facts

#: Where a token looks, in the words of the page, and the shares of a description that are this.
PLACES_LOOKED_AT = {
    "the class token": ("class",),
    "other prefix tokens": ("distillation", "register"),
    "itself": ("self",),
    "its 8 neighbours": ("neighbours",),
    "other patches": ("rest",),
    "patches": ("patch",),
}
#: A share that is counted among the others too.
ARTEFACTS_AMONG = "among these, artefact tokens"
#: Sinks and the tokens that they are, in the words of the page.
SINKS = {
    "no-op": "a no-op sink",
    "broadcast": "a broadcast sink",
    "other": "an attention sink (neither no-op nor broadcast)",
}
SINK_TOKENS = {"class": "the class token", "patch": "single patches", OUTLIER: "artefact tokens"}
#: A head that gives this much of its attention to one thing is named after it.
NAMED = 0.5


def data_set_facts(
    description: Description, model: HookedViT, grid: tuple[int, int], blocks: Sequence[int]
) -> dict[str, Any]:
    """As JSON can keep it: `heads` [block][head] and `mlps` [block], and `thumbnails` of their top pictures by number.

    Raises:
        InputError: the description is of another model, of other weights, or of pictures of another size.
    """
    _require_same(description, model, grid)
    table = description.heads.set_index(["block", "head"])
    n_heads = model.cfg.n_heads
    heads = [
        [_head(table.loc[(block, head)].to_dict()) | _tops(description, block, head) for head in range(n_heads)]
        for block in blocks
    ]
    mlps = [_tops(description, block, n_heads) for block in blocks]
    shown = {number for part in [*chain(*heads), *mlps] for number, *_ in part["top"]}
    pixels = dict(zip(description.top_kept, description.top_pixels.numpy(), strict=True))
    return {
        "n_images": description.n_images,
        "heads": heads,
        "mlps": mlps,
        "thumbnails": {str(number): thumbnail(pixels[number]) for number in sorted(shown)},
    }


def thumbnail(pixels: np.ndarray) -> str:
    """A small photograph as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _require_same(description: Description, model: HookedViT, grid: tuple[int, int]) -> None:
    ours, theirs = page_facts(model), description.settings["provenance"]
    for what in ("model", "weights"):
        if ours[what] != theirs[what]:
            raise InputError(
                f"the description is of the {what} {theirs[what]}, and the page of {ours[what]}: describe the model of "
                "the page"
            )
    if tuple(description.settings["grid"]) != grid:
        rows, columns = description.settings["grid"]
        raise InputError(
            f"the description is of pictures of {rows} × {columns} patches, and the page's have {grid[0]} × {grid[1]}: "
            "describe pictures of this size"
        )


def _head(facts: dict[str, Any]) -> dict[str, Any]:
    looks = {reader: _shares(facts, reader) for reader in ("class", "patch")}
    return {
        "name": head_name(facts),
        "looks": {reader: shares for reader, shares in looks.items() if shares},
        "distance": facts["distance"],
        "sink": None if facts["sink"] == "none" else _sink(facts["sink"], facts["sink_token"]),
        "nearest": [facts["nearest_head"], facts["nearest_similarity"]] if "nearest_head" in facts else None,
    }


def _sink(kind: str, token: str) -> str:
    return f"{SINKS[kind]}, mostly {SINK_TOKENS.get(token, f'{token} tokens')}"


def _shares(facts: dict[str, Any], reader: str) -> dict[str, float]:
    """Where the class token, or the patches on average, look; parts that no such model has are left out."""
    found = {}
    for name, kinds in PLACES_LOOKED_AT.items():
        there = [facts[f"{reader}_to_{kind}"] for kind in kinds if f"{reader}_to_{kind}" in facts]
        if there:
            found[name] = float(sum(there))
    if found and facts[f"{reader}_to_outliers"] > 0:
        found[ARTEFACTS_AMONG] = float(facts[f"{reader}_to_outliers"])
    return found


def head_name(facts: dict[str, Any]) -> str | None:
    """What a head is called after where patches look, if that is mostly one thing."""
    shares = _shares(facts, "patch")
    local = shares["itself"] + shares["its 8 neighbours"]
    for name, share in (
        ("artefact head", shares.get(ARTEFACTS_AMONG, 0)),
        ("class-token head", shares.get("the class token", 0)),
        ("register head", shares.get("other prefix tokens", 0)),
        ("own-patch head", shares["itself"]),
        ("local head", local),
    ):
        if share >= NAMED:
            return name
    return None


def _tops(description: Description, block: int, part: int) -> dict[str, Any]:
    """The pictures in which a head (or, behind the heads, the MLP) writes most: number, how much, row and column."""
    columns = description.settings["grid"][1]
    rows = zip(
        description.top_images[block, part].tolist(),
        description.top_values[block, part].tolist(),
        description.top_patches[block, part].tolist(),
        strict=True,
    )
    return {
        "top": [
            [image, value, *(divmod(patch, columns) if patch >= 0 else (None, None))] for image, value, patch in rows
        ]
    }
