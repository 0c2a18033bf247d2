"""Everything public, as users reach it: the names of `vitlens` and of its chapters."""

from types import ModuleType
from typing import Any

import vitlens

#: The chapters with calls of their own; `plots` and `planted` have figures and models.
CHAPTERS = [
    name
    for name in vitlens.__all__
    if isinstance(getattr(vitlens, name), ModuleType) and name not in ("plots", "planted")
]


def public() -> dict[str, Any]:
    """Every public object by its name, whichever chapter it is in; a name is that of one object only."""
    found: dict[str, Any] = {}
    for module in (vitlens, *(getattr(vitlens, chapter) for chapter in CHAPTERS)):
        for name in module.__all__:
            value = getattr(module, name)
            if isinstance(value, ModuleType):
                continue
            assert found.setdefault(name, value) is value, f"{name} is two things"
    return found
