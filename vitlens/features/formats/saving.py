"""Writes a dictionary as a folder that SAELens and `load_sae` read: cfg.json and sae_weights.safetensors."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder, Transcoder
from vitlens.features.dictionaries.nonlinearities import Gated, JumpRelu, Relu, TanhRelu, TopK
from vitlens.features.formats.saelens import CONFIG, SPARSITY, WEIGHTS
from vitlens.files import make_folder, write_whole
from vitlens.results.tensor_files import save_tensors


def save_saelens(sae: SparseAutoencoder, folder: str | Path) -> None:
    """Writes the folder, which is made where it is missing.

    Raises:
        InputError: SAELens has no format for such a dictionary; the folder cannot be written to.
    """
    architecture, own, settings = _architecture(sae)
    cfg = {
        "architecture": architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": str(sae.W_enc.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": sae.centred,
        "normalize_activations": sae.normalisation,
        "reshape_activations": "none",
        **settings,
        "metadata": {**sae.metadata, "hook_name": sae.hook},
    }
    weights = {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec, **own}
    if isinstance(sae, Transcoder):
        cfg |= {"d_out": sae.d_out}
        cfg["metadata"] |= {"hook_name_out": sae.hook_out}
        weights |= {} if sae.W_skip is None else {"W_skip": sae.W_skip}
    folder = make_folder(folder)
    save_tensors(weights, folder / WEIGHTS)
    write_whole(folder / CONFIG, (json.dumps(cfg, indent=1) + "\n").encode())
    if sae.log_sparsity is not None:
        save_tensors({"sparsity": sae.log_sparsity}, folder / SPARSITY)


def _architecture(sae: SparseAutoencoder) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """SAELens' name of the architecture, the weights that it has besides W_enc, W_dec and b_dec, and its settings."""
    if isinstance(sae, Transcoder) and sae.rescaled:
        raise InputError(
            "SAELens has no transcoder whose prediction is scaled back by what it reads: save its arrays instead"
        )
    skip = "skip_" if isinstance(sae, Transcoder) and sae.W_skip is not None else ""
    kind, activation, bias = f"{skip}transcoder", sae.activation, {"b_enc": sae.b_enc}
    is_transcoder = isinstance(sae, Transcoder)
    if isinstance(activation, Relu):
        return kind if is_transcoder else "standard", bias, {}
    if isinstance(activation, JumpRelu):
        return f"jumprelu_{kind}" if is_transcoder else "jumprelu", bias | {"threshold": activation.threshold}, {}
    if not is_transcoder and isinstance(activation, TanhRelu):
        return "standard", bias, {"activation_fn": "tanh-relu"}
    if not is_transcoder and isinstance(activation, TopK) and not activation.signed:
        return "topk", bias, {"k": activation.k, "rescale_acts_by_decoder_norm": False}
    if isinstance(activation, Gated):
        return "gated", {name: getattr(activation, name) for name in ("b_gate", "b_mag", "r_mag")}, {}
    raise InputError(
        f"a {type(sae).__name__} with the activation {str(activation).removesuffix('()')} has no format in SAELens: save "
        "its arrays W_enc, b_enc, W_dec and b_dec"
    )
