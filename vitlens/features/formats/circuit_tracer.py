"""Reads and writes cross-layer transcoders as circuit-tracer has them: config.yaml, and two safetensors files per block."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vitlens.errors import InputError
from vitlens.features.dictionaries.cross_layer import CrossLayerTranscoder
from vitlens.features.dictionaries.nonlinearities import JumpRelu, Linear, Relu, TanhRelu, TopK
from vitlens.features.formats.dictionary_format import DictionaryFormat, LoadOptions
from vitlens.features.formats.exact import Axes, exact_weights
from vitlens.features.formats.opened import DictionaryFiles, read_safetensors, read_settings
from vitlens.features.formats.sites import transformer_lens_hook
from vitlens.files import make_folder, write_whole
from vitlens.model.hooks.hook_points import block_and_site, hook_name
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


def read_circuit_tracer(files: DictionaryFiles, options: LoadOptions) -> CrossLayerTranscoder:
    """The cross-layer transcoder of a folder with config.yaml.

    Raises:
        InputError: files that are missing or something else; weights that are not finite floats.
    """
    folder = files.folder
    cfg = _read_cfg(folder)
    n = len(list(folder.glob("W_enc_*.safetensors")))
    state: dict[str, Tensor] = {}
    for block in range(n):
        for file in (f"W_enc_{block}.safetensors", f"W_dec_{block}.safetensors"):
            state |= read_safetensors(folder / file)
    weights = exact_weights(state, _axes_of_blocks(n, state), str(folder), options.dtype)

    def of_blocks(name: str) -> list[Tensor] | None:
        return [weights[f"{name}_{block}"] for block in range(n)] if f"{name}_0" in weights else None

    threshold, skip = of_blocks("threshold"), of_blocks("W_skip")
    if threshold is not None and min(float(values.min()) for values in threshold) < 0:
        raise InputError(
            f"{folder} holds thresholds below 0, with which features would be negative: vitlens has none such"
        )
    kind = cfg.get("activation", "relu" if threshold is None else "jumprelu")
    if threshold is not None and kind != "jumprelu":
        raise InputError(f"{folder} holds thresholds, and {SETTINGS} says the activation {kind!r}, which has none")
    clt = CrossLayerTranscoder.from_arrays(
        [weights[f"W_enc_{block}"].T for block in range(n)],
        of_blocks("b_enc"),
        [weights[f"W_dec_{block}"].movedim(1, 0) for block in range(n)],
        of_blocks("b_dec"),
        hooks=_hooks(cfg, "hooks", "feature_input_hook", n, folder),
        hooks_out=_hooks(cfg, "hooks_out", "feature_output_hook", n, folder),
        activation=kind,
        k=cfg.get("k"),
        threshold=threshold,
        # circuit-tracer adds x W_skip, and its transcoders of one block x W_skipᵀ.
        W_skip=None if skip is None else [values.T for values in skip],
        source=str(folder),
    )
    clt.metadata = cfg.get("metadata") or {}
    return clt


def save_cross_layer(clt: CrossLayerTranscoder, folder: str | Path) -> None:
    """Writes the folder, which is made where it is missing.

    Raises:
        InputError: the activation function has no name here, or is not the same in all blocks; the folder cannot be written.
    """
    kinds = {
        None if getattr(activation, "signed", False) else KINDS_OF_ACTIVATION.get(type(activation))
        for activation in clt.activations
    }
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None:
        raise InputError(
            f"a cross-layer transcoder is saved with one of {', '.join(KINDS_OF_ACTIVATION.values())} in all of its "
            "blocks: save its arrays instead"
        )
    reads, writes = (_common_site(hooks) for hooks in (clt.hooks, clt.hooks_out))
    same_sites = all(site and transformer_lens_hook(f"blocks.0.{site}") for site in (reads, writes))
    is_theirs = same_sites and kind in ("relu", "jumprelu") and len(set(clt.n_features)) == 1
    settings = {
        "model_kind": KIND if is_theirs else OWN_KIND,
        "feature_input_hook": reads,
        "feature_output_hook": writes,
        "hooks": clt.hooks,
        "hooks_out": clt.hooks_out,
        "activation": kind,
        **({"k": [activation.k for activation in clt.activations]} if kind == "topk" else {}),
        "metadata": clt.metadata,
    }
    folder = make_folder(folder)
    for block, activation in enumerate(clt.activations):
        own = {
            "W_enc": clt.W_enc[block].T,
            "b_enc": clt.b_enc[block],
            "b_dec": clt.b_dec[block],
            # Below 0 a threshold changes nothing here, and would in circuit-tracer.
            **({"threshold": activation.threshold.clamp(min=0)} if isinstance(activation, JumpRelu) else {}),
            **({} if clt.W_skip is None else {"W_skip": clt.W_skip[block].T}),
        }
        save_tensors({f"{name}_{block}": value for name, value in own.items()}, folder / f"W_enc_{block}.safetensors")
        save_tensors({f"W_dec_{block}": clt.W_dec[block].movedim(0, 1)}, folder / f"W_dec_{block}.safetensors")
    # YAML includes JSON.
    write_whole(folder / SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())


def _read_cfg(folder: Path) -> dict[str, Any]:
    found = read_settings(folder / SETTINGS)
    kind = found.get("model_kind")
    if kind not in (KIND, OWN_KIND):
        raise InputError(f"{folder / SETTINGS}: model_kind is {kind!r}, and vitlens reads {KIND!r}")
    return found


def _axes_of_blocks(n: int, state: dict[str, Tensor]) -> Axes:
    """Every block has the same kinds of weights; it may have features of its own number."""
    axes: dict[str, tuple[str, ...]] = {}
    for block in range(n):
        features = f"features {block}"
        axes |= {
            f"W_enc_{block}": (features, "d_in"),
            f"b_enc_{block}": (features,),
            f"W_dec_{block}": (features, f"blocks from {block} on", "d_out"),
            f"b_dec_{block}": ("d_out",),
            **({f"threshold_{block}": (features,)} if "threshold_0" in state else {}),
            **({f"W_skip_{block}": ("d_in", "d_out")} if "W_skip_0" in state else {}),
        }
    return axes


def _hooks(settings: dict[str, Any], own: str, theirs: str, n: int, folder: Path) -> list[str]:
    """The hook point of each block: vitlens says all of them, circuit-tracer the part that all blocks share."""
    if isinstance(settings.get(own), list):
        return [str(hook) for hook in settings[own]]
    shared = settings.get(theirs)
    if not isinstance(shared, str):
        raise InputError(f"{folder / SETTINGS} says neither {own} nor {theirs}")
    site = transformer_lens_hook(f"blocks.0.{shared}")
    if site is None:
        raise InputError(
            f"{folder / SETTINGS} says {theirs} {shared!r}, which holds something else here or nothing: make the dictionary "
            "from its arrays, with the hook points that you mean (CrossLayerTranscoder.from_arrays)"
        )
    return [site.replace("blocks.0.", f"blocks.{block}.") for block in range(n)]


def _common_site(hooks: list[str]) -> str | None:
    """What follows "blocks.<i>." where the hook points are those of blocks 0, 1, 2, … and else the same."""
    places = [block_and_site(hook) for hook in hooks]
    sites = {place and place[1] for place in places}
    site = sites.pop() if len(sites) == 1 else None
    if site is None or [place and place[0] for place in places] != list(range(len(hooks))):
        return None
    return hook_name(0, site).removeprefix("blocks.0.")


CIRCUIT_TRACER = DictionaryFormat(
    "circuit-tracer",
    f"{SETTINGS}, W_enc_0.safetensors, …",
    recognise=lambda files: files.holds("W_enc_0.safetensors"),
    read=read_circuit_tracer,
)
