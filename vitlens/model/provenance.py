"""Where the weights, classes and preprocessing of a model came from, as every page about it states."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm.data import ImageNetInfo
from torch import nn

from vitlens.model.class_space.classifier import ClassEmbeddings

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT

#: timm's lists of class names, by how many there are.
LISTS = {1000: "imagenet-1k", 11821: "imagenet-12k", 21841: "imagenet-22k", 21843: "imagenet-21k-goog"}


@dataclass(frozen=True)
class Provenance:
    """Where weights came from, as text, the warning on top of a page about a model that was not trained, and the call that
    opens the model again."""

    weights: str
    warning: str | None = None
    call: str = "vitlens.HookedViT.from_timm(module)"


#: How a page says what the outputs mean, where they are not classes that exclude each other.
MEANT = {
    "softmax": "",
    "sigmoid": ", each a yes or no of its own (sigmoid)",
    "identity": ", each a number",
    "embedding": ", each a coordinate of an embedding",
}

IN_HAND = Provenance("of a given timm module")
RANDOM = Provenance("random", "random weights: nothing on this page was learnt")


def weights_of(
    name_or_module: str | nn.Module, module: Any, pretrained: bool, checkpoint_path: str | Path | None
) -> Provenance:
    """Where the weights of `module`, made of these arguments of `HookedViT.from_timm`, came from."""
    if not isinstance(name_or_module, str):
        return IN_HAND
    if checkpoint_path is not None:
        path = Path(checkpoint_path)
        call = f"vitlens.HookedViT.from_timm({json.dumps(name_or_module)}, checkpoint_path={json.dumps(path.name)})"
        return Provenance(f"{path.name}, sha256 {_sha256(path)}", call=call)
    if not pretrained:
        return RANDOM
    cfg = getattr(module, "pretrained_cfg", None) or {}
    tag = ".".join(part for part in (cfg.get("architecture"), cfg.get("tag")) if part) or name_or_module
    if name_or_module.startswith("local-dir:"):
        # Somebody saved these weights, which need not be those that timm has under this name.
        folder = Path(name_or_module.removeprefix("local-dir:")).name
        call = f"vitlens.HookedViT.from_timm({json.dumps(f'local-dir:{folder}')})"
        return Provenance(f"a {tag} in the folder {folder}", call=call)
    n_classes = module.num_classes
    if n_classes and cfg.get("num_classes") not in (None, n_classes):
        # timm drops a classifier of another size and draws a new one.
        return Provenance(
            f"timm's {tag}, with a random classifier",
            f"the classifier of {n_classes:,} classes is random: no class on this page was learnt",
        )
    return Provenance(f"timm's {tag}", call=f"vitlens.HookedViT.from_timm({json.dumps(name_or_module)})")


def of_another_library(source: Any, said: str) -> Provenance:
    """Of `HookedViT.from_pretrained(source)`, which was read as `said`; of a path the last name alone."""
    name = "module"
    if isinstance(source, (str, Path)):
        name = json.dumps(Path(source).name if Path(source).exists() else str(source))
    return Provenance(said, call=f"vitlens.HookedViT.from_pretrained({name})")


def page_facts(model: "HookedViT") -> dict[str, str]:
    """The facts about a model on pages: its name, weights, classes and preprocessing."""
    facts = {"model": model.cfg.model_name, "weights": model.provenance.weights}
    rewritten = ", ".join(model.cfg.processed)
    if rewritten:
        facts["weights rewritten by"] = rewritten
    return facts | {"classes": class_source(model), "preprocessing": str(model.preprocessing)}


def class_source(model: "HookedViT") -> str:
    """The number of classes and the source of their names."""
    n, names = model.cfg.n_classes, model.class_names
    if not n:
        return "none"
    meant = MEANT[model.cfg.output].replace("each a", "a" if n == 1 else "each a")
    by_hand = meant + (", embeddings set by hand" if isinstance(model.unembed, ClassEmbeddings) else "")
    if names is None:
        return f"{n:,}, without names{by_hand}"
    if n in LISTS:
        info = ImageNetInfo(LISTS[n])
        if names == [info.index_to_description(index) for index in range(n)]:
            return f"{n:,}, timm's names of {LISTS[n]}{by_hand}"
    ends = f"{names[0]} … {names[-1]}" if n > 1 else names[0]
    return f"{n:,}, own names ({ends}){by_hand}"


def _sha256(path: Path) -> str:
    """The first letters of the file's digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
