"""Finds the mask of each picture in a folder of masks."""

import os
from pathlib import Path
from typing import Any

from vitlens.data.pictures import PICTURE_ENDINGS
from vitlens.errors import InputError


class MaskFolder:
    """Masks at the same relative path as their pictures, whatever their ending.

    The path is relative to the folder of the pictures. If no mask is there, its first folders are left out one by one: that
    of the split, then that of the class. No two pictures share a mask.
    """

    def __init__(self, folder: Path, pictures: Path | None) -> None:
        """`pictures` is the folder that the paths of pictures are in, if there is one.

        Raises:
            InputError: no such folder; two masks that differ in nothing but their endings.
        """
        if not folder.is_dir():
            raise InputError(f"there is no folder of masks {folder}")
        self.folder = folder
        self.roots = [] if pictures is None else [Path(os.path.abspath(pictures)), pictures.resolve()]
        self.files: dict[tuple[str, ...], Path] = {}
        for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_ENDINGS):
            key = path.relative_to(folder).with_suffix("").parts
            if key in self.files:
                raise InputError(f"{self.files[key]} and {path} may both be the mask of one picture: keep one of them")
            self.files[key] = path
        self._owners: dict[Path, str] = {}

    def of(self, picture: str) -> dict[str, Any]:
        """The undecoded mask of the picture at this path.

        Raises:
            InputError: it has none, or it is another picture's.
        """
        key = self._relative(picture).with_suffix("").parts
        found = next((self.files[key[i:]] for i in range(len(key)) if key[i:] in self.files), None)
        if found is None:
            expected = self.folder / (Path(Path(picture).name) if Path(*key).is_absolute() else Path(*key)).with_suffix(
                ".png"
            )
            raise InputError(f"{picture} has no mask in {self.folder}: expected a picture at {expected}")
        owner = self._owners.setdefault(found, picture)
        if owner != picture:
            raise InputError(
                f"{found} would be the mask of both {owner} and {picture}: put the masks into the same folders as their "
                "pictures"
            )
        return {"path": str(found), "bytes": None}

    def _relative(self, picture: str) -> Path:
        path = Path(os.path.abspath(picture))
        for root in self.roots:
            for place in (path, path.resolve()):
                if place.is_relative_to(root):
                    return place.relative_to(root)
        return Path(picture)
