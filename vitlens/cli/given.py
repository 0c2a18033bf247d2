"""Converts what users write on a command line into arguments of the library."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vitlens.cli.output import MOST_ON_PAGE
from vitlens.cli.shared import DEMO, is_watched, note
from vitlens.errors import InputError, printable
from vitlens.results.writing import IMAGES, PAGES

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from vitlens.choose.tokens import TokenSet
    from vitlens.data.picture_sets import PictureSet
    from vitlens.features.dictionaries.dictionary import SparseAutoencoder
    from vitlens.model.hooked_vit import HookedViT

#: Work of fewer seconds is not announced.
LONG = 20
TOKENS_HELP = "patch:ROW,COLUMN, box:ROW,COLUMN,HEIGHT,WIDTH, or the token's number"


def read_tokens(text: str) -> "TokenSet":
    """A token set as `vitlens.choose.select_tokens` takes it.

    Raises:
        InputError: a patch or box without its numbers. Names are left to the library.
    """
    from vitlens.choose.tokens import Box, box, patch

    if re.fullmatch(r"-?\d+", text):
        return int(text)
    kind, colon, rest = text.partition(":")
    shapes: dict[str, tuple[Callable[..., Box], int, str]] = {
        "patch": (patch, 2, "patch:3,4"),
        "box": (box, 4, "box:4,4,6,6"),
    }
    if not colon or kind not in shapes:
        return text
    make, n_numbers, example = shapes[kind]
    numbers = rest.split(",")
    if len(numbers) != n_numbers or not all(re.fullmatch(r"\s*\d+\s*", number) for number in numbers):
        raise InputError(f"{text!r} is no {kind}: it is written like {example}, counted in patches from the upper left")
    return make(*map(int, numbers))


def load_dictionary(path: Path) -> "SparseAutoencoder":
    """The dictionary of a page: `load_sae` with what a page cannot show refused.

    Raises:
        InputError: as `load_sae`; features of several blocks.
    """
    from vitlens.features.dictionaries.cross_layer import CrossLayerTranscoder
    from vitlens.features.formats.loading import load_sae

    sae = load_sae(path)
    if isinstance(sae, CrossLayerTranscoder):
        raise InputError(
            f"{path} has features of {sae.n_blocks} blocks, and the page shows those of one: save one block's, "
            "which is load_sae(…).of_block(block), and pass that"
        )
    return sae


def in_batches(
    model: "HookedViT", pictures: list[Path], batch_size: int, description: str
) -> Iterator[tuple[int, "Tensor"]]:
    """The pictures as the model reads them, batch by batch, with the number of the first; a bar over several batches."""
    starts = range(0, len(pictures), batch_size)
    for start in tqdm(starts, desc=description, unit="batch", disable=len(starts) < 2 or not is_watched()):
        yield start, model.to_images(pictures[start : start + batch_size])


def artefacts_on_page(
    model: "HookedViT", images: "Tensor", start: int, out: Path | None, batch_size: int
) -> list["Tensor"]:
    """The artefact tokens [image, row, column] of a batch that a page is going to show, to be hatched in its maps."""
    if out is None or out.suffix.lower() not in (*PAGES, *IMAGES) or start >= MOST_ON_PAGE:
        return []
    from vitlens.description.artefacts import artefact_tokens

    found = artefact_tokens(model, images, batch_size=batch_size)
    return [found.unflatten(1, model.embed.grid(*images.shape[-2:]))]


def name_pictures(frame: "pd.DataFrame", pictures: list[Path], first: int = 0) -> "pd.DataFrame":
    """Adds the file of each picture to the table, and counts pictures from `first`."""
    frame = frame.assign(image=frame["image"] + first)
    frame.insert(list(frame.columns).index("image") + 1, "picture", [printable(pictures[i]) for i in frame["image"]])
    return frame


def say_cost(model: "HookedViT", images: "Tensor", n_forwards: int, shorter: str) -> None:
    """Where somebody watches and work is long: about how long it takes on this machine, and how to make it shorter."""
    import torch

    if not is_watched():
        return
    with torch.no_grad():
        # The first forward of a process is slower than others.
        model(images[:1])
        start = perf_counter()
        model(images[:1]).sum().item()
        seconds = n_forwards * (perf_counter() - start)
    if seconds >= LONG:
        time = f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
        note(f"this takes about as long as {n_forwards:,} forwards of a picture: {time} on {model.device}")
        note(shorter)


def called(pictures: list[Path]) -> str:
    """The pictures in a page's title."""
    return printable(pictures[0].name) if len(pictures) == 1 else f"{len(pictures)} pictures"


def picture_files(pictures: list[Path], data: str | None) -> list[Path]:
    """The pictures themselves, or those of the folder in the order of their paths.

    Raises:
        InputError: neither or both are given; there is no such folder, or no picture in it.
    """
    from vitlens.data.demo_files import demo_folder
    from vitlens.data.pictures import PICTURE_ENDINGS

    if bool(pictures) == (data is not None):
        raise InputError("say which pictures: their files, or --data FOLDER for all in a folder")
    if data is None:
        return pictures
    folder = demo_folder() / "pictures" if data == DEMO else Path(data)
    if not folder.is_dir():
        raise InputError(f'there is no folder {folder}: --data takes a folder of pictures, or "demo"')
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_ENDINGS)
    if not found:
        raise InputError(f"{folder} holds no picture: files that end in {', '.join(PICTURE_ENDINGS)} are looked for")
    return found


def as_picture_set(files: list[Path], name: str) -> "PictureSet":
    """The files as a picture set without labels, whose unreadable pictures are left out."""
    from datasets import Dataset

    from vitlens.data.picture_sets import PictureSet

    def to_row(entry: dict[str, Any], index: int) -> dict[str, Any]:
        file = files[entry["place"]]
        return {"image": {"path": str(file), "bytes": None}, "label": 0, "path": printable(file)}

    places = Dataset.from_dict({"place": list(range(len(files)))})
    return PictureSet(name, places, to_row, has_masks=False, n=len(files))
