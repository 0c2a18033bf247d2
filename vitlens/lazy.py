"""Loads names when they are first used; the error for a wrong name says which names are similar and where they are."""

import difflib
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import lazy_loader

STUB = "__init__.pyi"


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose names are listed in its `__init__.pyi`."""
    find, list_names, names = lazy_loader.attach_stub(package, file)

    def get(name: str) -> Any:
        if name in names or name.startswith("_"):
            return find(name)
        raise AttributeError(f"{package} has no {name!r}{_advice(package, name)}", name=name)

    return get, list_names, names


def _advice(package: str, name: str) -> str:
    """Where a name is that this package does not have, or which names are similar, those of this package first."""
    top = package.split(".")[0]
    folder = Path(str(import_module(top).__file__)).parent
    chapters = [f"{top}.{stub.parent.name}" for stub in sorted(folder.glob(f"*/{STUB}"))]
    places: dict[str, str] = {}
    for place in dict.fromkeys((package, top, *chapters)):
        for known in import_module(place).__all__:
            places.setdefault(known, f"{place}.{known}")
    if name in places:
        return f": it is {places[name]}"
    if _defines(folder / "patching" / "transformer_lens.py", name):
        return f": it is {top}.patching.transformer_lens.{name}"
    if any(_defines(file, name) for file in (folder / "heatmaps" / "methods").glob("*.py")):
        return f": it is a heatmap method, {top}.heatmap(model, images, method={name!r})"
    near = difflib.get_close_matches(name, places, n=3, cutoff=0.5)
    return (
        f"; the nearest names are {', '.join(places[known] for known in near)}"
        if near
        else f"; dir({package}) lists its names"
    )


def _defines(file: Path, name: str) -> bool:
    """Whether a module defines this public name; its text is read, because importing it takes seconds."""
    return re.search(rf"^(def )?{re.escape(name)}\b[ :=(]", file.read_text(encoding="utf-8"), re.MULTILINE) is not None
