"""ImageNet-S (Gao et al. 2022): ImageNet pictures with masks, in the layout that its authors distribute.

    ROOT/validation/n01440764/*.JPEG
    ROOT/validation-segmentation/n01440764/*.png      red + 256 · green is the number of the class of each pixel, from 1
    ROOT/**/ImageNetS_categories_im919.txt            which class has which number

ROOT may also be the folder that holds ImageNetS919/, ImageNetS300/ or ImageNetS50/.
"""

from pathlib import Path
from typing import Any

from timm.data import ImageNetInfo

from vitlens.errors import InputError

#: What masks hold where it is not known which class a pixel belongs to: neither object nor context.
VOID_NUMBER = 1000
#: Classes that the paper leaves out, by WordNet id.
EXCLUDED = frozenset(
    {
        "n04356056",
        "n04355933",
        "n04493381",
        "n02808440",
        "n03642806",
        "n03832673",
        "n04008634",
        "n03773504",
        "n03887697",
        "n15075141",
    }
)


def is_imagenet_s(source: str | Path) -> bool:
    """Whether a folder has this layout."""
    return _root(Path(source)) is not None


def read_imagenet_s(folder: Path, split: str) -> list[dict[str, Any]]:
    """Rows of all pictures whose class is not excluded, sorted by path; with masks where the split has them.

    Raises:
        InputError: no such split, or no list of categories for the masks.
    """
    root = _root(folder)
    assert root is not None
    pictures = root / split
    if not pictures.is_dir():
        raise InputError(f"{root} has no split {split!r}: expected a folder {pictures}")
    segmentation = root / f"{split}-segmentation"
    has_masks = segmentation.is_dir()
    numbers = _numbers(folder) if has_masks else {}
    info = ImageNetInfo()
    index = {info.index_to_label_name(i): i for i in range(1000)}
    rows = []
    for path in sorted(pictures.rglob("*.JPEG")):
        wnid = path.parent.name
        if wnid in EXCLUDED:
            continue
        if wnid not in index:
            raise InputError(f"the folder {wnid} is no class of ImageNet-1k")
        row: dict[str, Any] = {
            "image": {"path": str(path), "bytes": None},
            "label": index[wnid],
            "path": str(path.relative_to(root)),
        }
        if has_masks:
            mask = segmentation / wnid / f"{path.stem}.png"
            row |= {"mask": {"path": str(mask), "bytes": None}, "mask_value": numbers[wnid]}
        rows.append(row)
    return rows


def _root(folder: Path) -> Path | None:
    for root in (folder, *sorted(folder.glob("ImageNetS*"))):
        if (root / "validation-segmentation").is_dir() or (root / "train-semi-segmentation").is_dir():
            return root
    return None


def _numbers(folder: Path) -> dict[str, int]:
    lists = sorted(folder.rglob("ImageNetS_categories*.txt")) or sorted(
        folder.parent.rglob("ImageNetS_categories*.txt")
    )
    if not lists:
        raise InputError(
            f"the masks of {folder} cannot be read without ImageNet-S' list of categories: put "
            "ImageNetS_categories_im919.txt (im300, im50) into that folder"
        )
    names = lists[0].read_text(encoding="utf-8-sig").split()
    return {wnid: number for number, wnid in enumerate(names, start=1)}
