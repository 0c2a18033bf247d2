"""What pictures are called on a page."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from vitlens.arguments import short
from vitlens.data.picture_sets import PictureSet
from vitlens.data.pictures import Picture, Pictures, as_list
from vitlens.errors import InputError, printable
from vitlens.model.runs.picture_batches import PictureSource


def names_of_images(images: Pictures, names: Sequence[str] | None, n: int) -> list[str]:
    """Of pictures that a page is about: the names that were given, or those of their files.

    Raises:
        InputError: names that are no texts, or not one for each picture.
    """
    if names is not None:
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise InputError(f"names are a list of texts, one for each picture, not {short(names)}")
        if len(names) != n:
            raise InputError(f"{len(names)} names were given for {n} pictures")
        return [str(name) for name in names]
    return [
        printable(Path(item).name) if isinstance(item, (str, Path)) else f"picture {i}"
        for i, item in enumerate(given_images(images, n))
    ]


def given_images(images: Pictures, n: int) -> Sequence[Picture | None]:
    """What each picture was given as; None for those of a tensor."""
    return [None] * n if isinstance(images, Tensor) else as_list(images)


def picture_names(images: PictureSource, numbers: Iterable[int]) -> dict[int, str]:
    """Of pictures of a data set, by number: the files' names, where they are files."""
    if isinstance(images, PictureSet):
        rows = ((number, (images.rows([number]) or [{}])[0]) for number in numbers)
        # A row of a table may hold a picture's bytes, and then its path is no name of a file.
        files = ((number, row.get("path")) for number, row in rows if not (row.get("image") or {}).get("bytes"))
    else:
        given = as_list(images) if isinstance(images, (str, Path, list, tuple)) else []
        files = ((number, given[number]) for number in numbers if number < len(given))
    return {number: printable(Path(file).name) for number, file in files if isinstance(file, (str, Path))}
