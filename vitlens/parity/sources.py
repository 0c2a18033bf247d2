"""What a port is compared with: timm's module, or the model of another library, and how each is run."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from vitlens.errors import InputError, reason
from vitlens.model.checkpoints.formats import read_json
from vitlens.model.checkpoints.timm_models import build_timm
from vitlens.model.families.sources import find, folder_of_timm
from vitlens.model.hooked_vit import HookedViT
from vitlens.parity.peers.cases import CASES
from vitlens.parity.peers.peer import TIMM, Peer
from vitlens.parity.reduced import randomise


@dataclass(frozen=True)
class Compared:
    """A module of a library, and its port.

    Args:
        name: for the report.
        weights: where they are from, in words.
        library: "timm", or "its library".
        module: in evaluation mode.
        open: makes a port of such a module.
        peer: how the module is run.
    """

    name: str
    weights: str
    library: str
    module: nn.Module
    open: Callable[[nn.Module], HookedViT]
    peer: Peer


def compared(
    source: Any, pretrained: bool, checkpoint_path: str | Path | None, timm_kwargs: dict[str, Any], seed: int
) -> Compared:
    """What `verify_port` compares, from its arguments.

    Raises:
        InputError: what `HookedViT.from_timm` and `from_pretrained` raise; a file, which does not say how its library
            computes.
    """
    folder = folder_of_timm(source)
    if folder is not None:
        source = f"local-dir:{folder}"
    if isinstance(source, str) and _is_timm_name(source):
        module = build_timm(source, pretrained, checkpoint_path, timm_kwargs)[0].eval()
        random = checkpoint_path is None and not pretrained
        weights = "random weights" if random else Path(checkpoint_path).name if checkpoint_path else "timm's weights"
        module = randomise(module, seed).float() if random else module
        return Compared(source, weights, "timm", module, HookedViT.from_timm, TIMM)
    given = [f"{name}=" for name in (*timm_kwargs, *(["checkpoint_path"] if checkpoint_path is not None else []))]
    if given:
        raise InputError(f"{', '.join(given)} goes with a name of timm: the model of another library is taken as it is")
    module = copy.deepcopy(library_module(source)).eval()
    weights = "its weights" if pretrained else "random weights"
    if not pretrained:
        module = randomise(module, seed).float()
    name = type(module).__name__ if isinstance(source, nn.Module) else str(source)
    if type(module).__module__.startswith("timm."):
        return Compared(name, weights, "timm", module, HookedViT.from_timm, TIMM)
    return Compared(name, weights, "its library", module, HookedViT.from_pretrained, _peer_of(module))


def library_module(source: Any) -> nn.Module:
    """The model of another library that a source is, or that its configuration names.

    Raises:
        InputError: a file, or a folder whose configuration names no class of transformers, or which that cannot open.
    """
    if isinstance(source, nn.Module):
        # peft merges in place; the given model keeps its adapter.
        merges: Any = copy.deepcopy(source) if hasattr(source, "merge_and_unload") else None
        return source if merges is None else merges.merge_and_unload()
    if not isinstance(source, (str, Path)):
        raise InputError(f"a model is a name of timm, a module, or a folder, not {type(source).__name__}")
    path = find(source)
    config = read_json(path / "config.json") if path.is_dir() else {}
    import transformers

    kind = getattr(transformers, str((config.get("architectures") or [None])[0]), None)
    if kind is None:
        raise InputError(
            f"{source} does not say which class of its library it belongs to, so there is nothing to compare with: pass the "
            "library's module with these weights, or a folder that save_pretrained wrote"
        )
    try:
        return kind.from_pretrained(path, local_files_only=True)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"transformers does not open {source}: {reason(error)}") from None


def _is_timm_name(name: str) -> bool:
    return name.startswith(("hf-hub:", "local-dir:")) or timm.is_model(name.split(".")[0])


def _peer_of(module: nn.Module) -> Peer:
    """How the small models of the same class are run, with an answer of the shape of the port's.

    Raises:
        InputError: vitlens knows no such class.
    """
    model = HookedViT.from_pretrained(module)
    cfg = model.cfg
    images = torch.zeros(1, cfg.n_channels, *cfg.image_size, dtype=model.dtype, device=model.device)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        shape = model(images).shape
        for case in CASES:
            if case.family == cfg.model_name and type(case.build()) is type(module):
                answer = _answer(case.peer, module, images)
                if answer is not None and answer.shape == shape:
                    return case.peer
    raise InputError(
        f"vitlens does not know how {type(module).__name__} answers: it compares the classes that "
        "vitlens.parity.supported_families() lists"
    )


def _answer(peer: Peer, module: nn.Module, images: Tensor) -> Tensor | None:
    """What the peer reads of the module's answer; None where such a module answers otherwise."""
    try:
        return peer.answer(module, images)
    except (AttributeError, TypeError, RuntimeError):
        return None
