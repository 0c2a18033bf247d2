"""What a run over a data set depends on: written beside its results, and compared before they are added to."""

import hashlib
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch

from vitlens.errors import InputError
from vitlens.model.fingerprint import fingerprint
from vitlens.model.hooked_vit import HookedViT
from vitlens.version import __version__

TARGETS = ("label", "predicted")


@dataclass(frozen=True)
class StudySettings:
    """Everything that changes a number. What does not (device, threads, processes) is left out on purpose."""

    model: str = "demo"
    checkpoint: str | None = None
    timm: list[str] | None = None
    random_weights: bool = False
    dtype: str = "float32"
    data: str = "demo"
    split: str | None = None
    streaming: bool = False
    limit: int | None = None
    per_class: int | None = None
    drop_incomplete: bool = False
    masks: str | None = None
    object_id: int | None = None
    class_map: str | None = None
    class_names: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    mask_reduction: str = "area"
    squash: bool = False
    batch_size: int = 16
    seed: int = 0
    paper_compat: bool = False
    random_models: int = 2
    bootstrap: int = 1000
    permutations: int = 300
    target: str = "label"
    steps: int | None = None
    random_orders: int = 3
    train_data: str | None = None
    train_split: str | None = None
    train_per_class: int = 10
    probe_tokens: int | None = None

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        least = {"batch_size": 1, "random_models": 0, "bootstrap": 10, "permutations": 10, "random_orders": 1}
        for name, lowest in {**least, "train_per_class": 1}.items():
            if getattr(self, name) < lowest:
                raise InputError(f"--{name.replace('_', '-')} is at least {lowest}, not {getattr(self, name)}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"--seed is a whole number from 0 to 2^63 − 1, not {self.seed}")
        for name in ("limit", "per_class", "steps", "probe_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} is at least 1, not {value}")
        if self.target not in TARGETS:
            raise InputError(f"--target is {' or '.join(TARGETS)}, not {self.target!r}")


def study_description(settings: StudySettings, model: HookedViT, experiments: list[str]) -> dict[str, Any]:
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
        return f"it holds {', '.join(before['experiments'])}, and now {', '.join(now['experiments'])} are asked for"
    for name, old in before["versions"].items():
        if old != now["versions"].get(name):
            return f"{name} was {old} and is now {now['versions'].get(name)}"
    return None
