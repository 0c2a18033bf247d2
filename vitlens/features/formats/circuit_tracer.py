"""Reads and writes cross-layer transcoders as circuit-tracer has them: config.yaml, and two safetensors files per block."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from vitlens.errors import InputError, reason
from vitlens.features.dictionaries.cross_layer import CrossLayerTranscoder
from vitlens.features.dictionaries.nonlinearities import JumpRelu, Linear, Relu, TanhRelu, TopK
from vitlens.features.formats.saelens import read_safetensors
from vitlens.files import make_folder, write_whole
from vitlens.model.hooks.hook_points import block_and_site, hook_name
from vitlens.model.weights.checks import check_range, check_weights
from vitlens.results.tensor_files import save_tensors

SETTINGS = "config.yaml"
#: What circuit-tracer calls such a dictionary, and what one is called that it would compute otherwise than vitlens.
KIND, OWN_KIND = "cross_layer_transcoder", "vitlens_cross_layer_transcoder"
#: The names of activation functions; circuit-tracer knows the first two, and takes those with thresholds for the second.
KINDS_OF_ACTIVATION: dict[type[nn.Module], str] = {
    Relu: "relu",
    JumpRelu: "jumprelu",
    TopK: "topk",
    TanhRelu: "tanh-relu",
    Linear: "linear",
}


def load_cross_layer(folder: Path, dtype: torch.dtype | None) -> CrossLayerTranscoder:
    """The cross-layer transcoder of a folder with config.yaml.

    Raises:
        InputError: files that are missing or something else; weights that are not finite floats.
    """
    settings = _read_settings(folder)
    n = len(list(folder.glob("W_enc_*.safetensors")))
    weights: dict[str, Tensor] = {}
    for block in range(n):
        for file in (f"W_enc_{block}.safetensors", f"W_dec_{block}.safetensors"):
            weights |= read_safetensors(folder / file)
    check_weights(weights.items(), str(folder))
    _check_names(weights, n, folder)
    if dtype is not None:
        check_range(weights.items(), dtype)
        weights = {name: value.to(dtype) for name, value in weights.items()}

    def of_blocks(name: str) -> list[Tensor] | None:
        return [weights[f"{name}_{block}"] for block in range(n)] if f"{name}_0" in weights else None

    threshold = of_blocks("threshold")
    if threshold is not None and min(float(values.min()) for values in threshold) < 0:
        raise InputError(
            f"{folder} holds thresholds below 0, with which features would be negative: vitlens has none such"
        )
    return CrossLayerTranscoder.from_arrays(
        [weights[f"W_enc_{block}"].T for block in range(n)],
        of_blocks("b_enc"),
        [weights[f"W_dec_{block}"].movedim(1, 0) for block in range(n)],
        of_blocks("b_dec"),
        hooks=_hooks(settings, "hooks", "feature_input_hook", n, folder),
        hooks_out=_hooks(settings, "hooks_out", "feature_output_hook", n, folder),
        activation=settings.get("activation") or ("relu" if threshold is None else "jumprelu"),
        k=settings.get("k"),
        threshold=threshold,
        W_skip=of_blocks("W_skip"),
        source=str(folder),
    )


def save_cross_layer(clt: CrossLayerTranscoder, folder: str | Path) -> None:
    """Writes the folder, which is made where it is missing.

    Raises:
        InputError: the activation function has no name here, or is not the same in all blocks; the folder cannot be written.
    """
    kinds = {KINDS_OF_ACTIVATION.get(type(activation)) for activation in clt.activations}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None:
        raise InputError(
            f"a cross-layer transcoder is saved with one of {', '.join(KINDS_OF_ACTIVATION.values())} in all of its "
            "blocks: save its arrays instead"
        )
    reads, writes = (_common_site(hooks) for hooks in (clt.hooks, clt.hooks_out))
    is_theirs = kind in ("relu", "jumprelu") and not clt.has_skip and len(set(clt.n_features)) == 1
    settings = {
        "model_kind": KIND if is_theirs and reads and writes else OWN_KIND,
        "feature_input_hook": reads,
        "feature_output_hook": writes,
        "hooks": clt.hooks,
        "hooks_out": clt.hooks_out,
        "activation": kind,
        **({"k": [activation.k for activation in clt.activations]} if kind == "topk" else {}),
    }
    folder = make_folder(folder)
    for block, activation in enumerate(clt.activations):
        own = {
            "W_enc": clt.W_enc[block].T,
            "b_enc": clt.b_enc[block],
            "b_dec": clt.b_dec[block],
            # Below 0 a threshold changes nothing here, and would in circuit-tracer.
            **({"threshold": activation.threshold.clamp(min=0)} if isinstance(activation, JumpRelu) else {}),
            **({} if clt.W_skip is None else {"W_skip": clt.W_skip[block]}),
        }
        save_tensors({f"{name}_{block}": value for name, value in own.items()}, folder / f"W_enc_{block}.safetensors")
        save_tensors({f"W_dec_{block}": clt.W_dec[block].movedim(0, 1)}, folder / f"W_dec_{block}.safetensors")
    # YAML includes JSON.
    write_whole(folder / SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())


def _read_settings(folder: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load((folder / SETTINGS).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{folder / SETTINGS} cannot be read as YAML: {reason(error)}") from None
    kind = found.get("model_kind") if isinstance(found, dict) else None
    if kind not in (KIND, OWN_KIND):
        raise InputError(f"{folder / SETTINGS}: model_kind is {kind!r}, and vitlens reads {KIND!r}")
    return dict(found)


def _check_names(weights: dict[str, Tensor], n: int, folder: Path) -> None:
    """Every block has the same weights, and no others than are known."""
    optional = [name for name in ("threshold", "W_skip") if f"{name}_0" in weights]
    wanted = {f"{name}_{block}" for block in range(n) for name in ("W_enc", "b_enc", "W_dec", "b_dec", *optional)}
    if not n or wanted != set(weights):
        wrong = sorted(wanted ^ set(weights)) or ["no W_enc_0.safetensors"]
        raise InputError(f"{folder} is no whole cross-layer transcoder: see {', '.join(wrong[:4])}")


def _hooks(settings: dict[str, Any], own: str, theirs: str, n: int, folder: Path) -> list[str]:
    """The hook point of each block: vitlens says all of them, circuit-tracer the part that all blocks share."""
    if isinstance(settings.get(own), list):
        return [str(hook) for hook in settings[own]]
    shared = settings.get(theirs)
    if not isinstance(shared, str):
        raise InputError(f"{folder / SETTINGS} says neither {own} nor {theirs}")
    return [f"blocks.{block}.{shared}" for block in range(n)]


def _common_site(hooks: list[str]) -> str | None:
    """What follows "blocks.<i>." where the hook points are those of blocks 0, 1, 2, … and else the same."""
    places = [block_and_site(hook) for hook in hooks]
    sites = {place and place[1] for place in places}
    site = sites.pop() if len(sites) == 1 else None
    if site is None or [place and place[0] for place in places] != list(range(len(hooks))):
        return None
    return hook_name(0, site).removeprefix("blocks.0.")
