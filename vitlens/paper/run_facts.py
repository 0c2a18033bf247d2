"""What a run depends on: it is saved with the results, and compared before a run is resumed."""

import hashlib
import platform
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from vitlens.model.fingerprint import fingerprint
from vitlens.model.hooked_vit import HookedViT
from vitlens.paper.settings import StudySettings
from vitlens.version import __version__


def run_facts(settings: StudySettings, model: HookedViT, experiments: list[str]) -> dict[str, Any]:
    """What settings.json holds: settings, the model's facts, the versions of what computed, and in how many threads."""
    packages = {name: version(name) for name in ("torch", "timm", "transformer-lens", "datasets", "numpy")}
    return {
        "experiments": experiments,
        "settings": asdict(settings),
        **model_facts(model),
        "versions": {"python": platform.python_version(), "vitlens": __version__, **packages},
        "threads": torch.get_num_threads(),
    }


def model_facts(model: HookedViT) -> dict[str, Any]:
    """What of a model changes numbers or names in tables, however it was made."""
    names = (
        None if model.class_names is None else hashlib.sha256("\n".join(model.class_names).encode()).hexdigest()[:16]
    )
    return {"weights": fingerprint(model), "class_names": names, "preprocessing": model.cfg.data_config}


def difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first thing in which two descriptions differ, as text; None where they agree."""
    for name in sorted(before["settings"].keys() | now["settings"].keys()):
        old, new = before["settings"].get(name), now["settings"].get(name)
        if old != new:
            return f"{name} was {old!r} and is now {new!r}"
    if before["weights"] != now["weights"]:
        return "the weights are others"
    if before.get("class_names") != now.get("class_names"):
        return "the classes have other names"
    preparation = (before.get("preprocessing") or {}, now.get("preprocessing") or {})
    for name in sorted(preparation[0].keys() | preparation[1].keys()):
        old, new = (facts.get(name) for facts in preparation)
        if old != new:
            return f"pictures were prepared with {name} {old!r}, and now with {new!r}"
    if before["experiments"] != now["experiments"]:
        return f"it holds {', '.join(before['experiments'])}, and now {', '.join(now['experiments'])} are to be run"
    for name, old in before["versions"].items():
        if old != now["versions"].get(name):
            return f"{name} was {old} and is now {now['versions'].get(name)}"
    return None
