"""What a run over a data set depends on: written beside its results, and compared before they are added to."""

import hashlib
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from vitlens import __version__
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT

TARGETS = ("label", "predicted")


@dataclass(frozen=True)
class StudySettings:
    """Everything that changes a number. What does not (device, threads, processes) is left out on purpose."""

    model: str = "demo"
    checkpoint: str | None = None
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
        for name in ("limit", "per_class", "steps", "probe_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} is at least 1, not {value}")
        if self.target not in TARGETS:
            raise InputError(f"--target is {' or '.join(TARGETS)}, not {self.target!r}")


def describe(settings: StudySettings, model: HookedViT, experiments: list[str]) -> dict[str, Any]:
    """What settings.json holds: the settings, the weights' fingerprint, and the versions of what computed."""
    packages = {name: version(name) for name in ("torch", "timm", "transformer-lens", "datasets", "numpy")}
    return {
        "experiments": experiments,
        "settings": asdict(settings),
        "weights": fingerprint(model),
        "versions": {"python": platform.python_version(), "vitlens": __version__, **packages},
    }


def fingerprint(model: HookedViT) -> str:
    """A hash of all parameters: two checkpoints under one name are two models."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first thing in which two descriptions differ, as text; None where they agree."""
    for name in sorted(before["settings"].keys() | now["settings"].keys()):
        old, new = before["settings"].get(name), now["settings"].get(name)
        if old != new:
            return f"{name} was {old!r} and is now {new!r}"
    if before["weights"] != now["weights"]:
        return "the weights are others"
    if before["experiments"] != now["experiments"]:
        return f"it holds {', '.join(before['experiments'])}, and now {', '.join(now['experiments'])} are asked for"
    for name, old in before["versions"].items():
        if old != now["versions"].get(name):
            return f"{name} was {old} and is now {now['versions'].get(name)}"
    return None
