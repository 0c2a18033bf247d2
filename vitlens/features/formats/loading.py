"""Loads sparse autoencoders and transcoders from files in the formats of SAELens and Overcomplete."""

from pathlib import Path

import torch
from torch import Tensor

from vitlens.arguments import checked
from vitlens.errors import InputError
from vitlens.features.dictionaries.cross_layer import CrossLayerTranscoder
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.formats.circuit_tracer import SETTINGS, load_cross_layer
from vitlens.features.formats.overcomplete import load_overcomplete
from vitlens.features.formats.saelens import CONFIG, WEIGHTS, load_saelens
from vitlens.files import as_path
from vitlens.model.placement import read_device, read_dtype


@checked
def load_sae(
    path: str | Path,
    *,
    activation: str | None = None,
    k: int | None = None,
    threshold: Tensor | float | None = None,
    dictionary_norm: str | None = None,
    scaling_factor: float | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> SparseAutoencoder | CrossLayerTranscoder:
    """Loads a sparse autoencoder or transcoder from a SAELens folder or an Overcomplete state_dict, without unpickling.

    Args:
        path: a folder with cfg.json and sae_weights.safetensors (SAELens: standard, gated, jumprelu, topk, batchtopk,
            transcoder, skip_transcoder, jumprelu_transcoder, jumprelu_skip_transcoder), or a file with the state_dict of an
            Overcomplete SAE, TopKSAE, BatchTopKSAE, JumpSAE, RATopKSAE or RAJumpSAE (.safetensors, or .pt of tensors).
        activation, k, threshold: for an Overcomplete state_dict, which does not contain them: "relu"; "topk" with k;
            "batchtopk" with threshold=sae.running_threshold.
        dictionary_norm: for an Overcomplete dictionary whose atoms do not have length 1 (within 1 %): "max_l2", "l1",
            "max_l1" or "identity".
        scaling_factor: the factor of a SAELens SAE's activations in training ("expected_average_only_in"), if its folder
            has no activation_scaler.json and its weights do not include it.
        dtype: torch's, or its name; by default that of the file (SAELens: that of cfg.json).

    Returns:
        SparseAutoencoder, or its subclass Transcoder; CrossLayerTranscoder from a folder of circuit-tracer (config.yaml).

    Raises:
        InputError: no such file; an unknown format, architecture or weight; a pickled module; weights that are not finite
            floats, or not in `dtype`; a device that is not available.

    Source: the formats of SAELens 3 to 6 and Overcomplete 0.3.

    Examples:
        >>> import torch
        >>> import vitlens
        >>> W_enc, W_dec = torch.randn(8, 32), torch.randn(32, 8)
        >>> sae = vitlens.features.SparseAutoencoder.from_arrays(W_enc, None, W_dec, None, activation="topk", k=4)
        >>> sae.save("my_sae")
        >>> vitlens.load_sae("my_sae")
        SparseAutoencoder(
          8 → 32 features → 8
          (activation): TopK(k=4)
        )
    """
    path = as_path(path, "path")
    target, precision = read_device(device), read_dtype(dtype)
    folder = path.parent if path.name in (CONFIG, WEIGHTS, SETTINGS) else path
    settings = next((name for name in (CONFIG, SETTINGS) if (folder / name).is_file()), None)
    sae: SparseAutoencoder | CrossLayerTranscoder
    if settings is not None:
        given = {"activation": activation, "k": k, "threshold": threshold, "dictionary_norm": dictionary_norm}
        named = [name for name, value in given.items() if value is not None]
        if named:
            raise InputError(
                f"the {settings} of {folder} sets {', '.join(named)}: these arguments go with an Overcomplete state_dict"
            )
        if settings == SETTINGS:
            sae = load_cross_layer(folder, precision)
        else:
            sae = load_saelens(folder, scaling_factor, precision)
    elif path.is_file():
        if path.name == WEIGHTS:
            raise InputError(f"{path} needs the {CONFIG} that SAELens saved in the same folder")
        if scaling_factor is not None:
            raise InputError(f"scaling_factor= goes with a SAELens folder, not with {path}")
        sae = load_overcomplete(
            path, activation=activation, k=k, threshold=threshold, dictionary_norm=dictionary_norm, dtype=precision
        )
    elif path.is_dir():
        raise InputError(f"{path} holds no {CONFIG}, so it is no SAELens folder; of Overcomplete name the file itself")
    else:
        raise InputError(f"there is no file or folder {path}")
    return sae if target is None else sae.to(target)
