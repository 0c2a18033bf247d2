"""Loads dictionaries from files: one door for the formats of all libraries, and one for folders of several dictionaries."""

import os
from pathlib import Path

import torch
from torch import Tensor

from vitlens.arguments import checked
from vitlens.errors import InputError
from vitlens.features.dictionaries.cross_layer import CrossLayerTranscoder
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.formats.dictionary_format import DictionaryFormat, LoadOptions
from vitlens.features.formats.opened import DictionaryFiles
from vitlens.features.formats.registry import DICTIONARY_FORMATS
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
    centred: bool | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> SparseAutoencoder | CrossLayerTranscoder:
    """Loads a sparse autoencoder or transcoder that any of these libraries trained; nothing in its files is run.

    SAELens, Overcomplete, ViT-Prisma, saev, dictionary_learning and sae-for-vlm, ViSAEBench, EleutherAI's sparsify, and
    circuit-tracer. The format is recognised by the files; what it says is carried exactly, or refused.

    Args:
        path: the folder of a dictionary, or its file of weights.
        activation, k, threshold: what follows the encoder, where the files do not say it (Overcomplete's never do): "relu";
            "topk" with k; "batchtopk" with threshold=sae.running_threshold.
        dictionary_norm: for an Overcomplete dictionary whose atoms do not have length 1 (within 1 %): "max_l2", "l1",
            "max_l1" or "identity".
        scaling_factor: the factor of a SAELens SAE's activations in training ("expected_average_only_in"), if its folder
            has no activation_scaler.json and its weights do not include it.
        centred: whether b_dec is subtracted before the encoder, for files of saev from the summer of 2025.
        dtype: torch's, or its name; by default that of the file (SAELens: that of cfg.json).

    Returns:
        SparseAutoencoder, or its subclass Transcoder, whose `hook` is the hook point that it was trained at, if the files
        name one that vitlens has; CrossLayerTranscoder from a folder of circuit-tracer.

    Raises:
        InputError: no such file; an unknown format, architecture, setting or weight; a pickled object; weights that are not
            finite floats, or not in `dtype`; a device that is not available.

    Source: the formats of SAELens 3 to 6, Overcomplete 0.3, ViT-Prisma 2.0, saev 0.1, dictionary_learning 0.1, ViSAEBench
    0.1, sparsify 1.3 and circuit-tracer 0.1.

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
    target = read_device(device)
    options = LoadOptions(activation, k, threshold, dictionary_norm, scaling_factor, centred, read_dtype(dtype))
    if not path.exists():
        raise InputError(f"there is no file or folder {path}")
    files = DictionaryFiles(path)
    found = _format_of(files)
    if found is None:
        raise InputError(_what_is_read(files))
    useless = [name for name in options.given() if name not in found.asks]
    if useless:
        taken = f", but {', '.join(f'{name}=' for name in found.asks)}" if found.asks else ""
        raise InputError(
            f"{path} is a dictionary of {found.name}, which does not take {', '.join(f'{name}=' for name in useless)}{taken}"
        )
    sae = found.read(files, options)
    return sae if target is None else sae.to(target)


@checked
def load_saes(
    path: str | Path, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> dict[str, SparseAutoencoder]:
    """Loads all dictionaries below a folder, one for each hook point, as `with_saes` takes them.

    Args:
        path: a folder with a folder or file for each dictionary, at any depth.
        dtype: as in `load_sae`.

    Returns:
        The dictionaries by their hook points, in the order of the blocks.

    Raises:
        InputError: no dictionary is there, or one cannot be read; one does not say its hook point, or two say the same.

    Examples:
        >>> import torch
        >>> import vitlens
        >>> W_enc, W_dec = torch.randn(8, 32), torch.randn(32, 8)
        >>> for block in range(2):
        ...     hook = f"blocks.{block}.hook_resid_post"
        ...     sae = vitlens.features.SparseAutoencoder.from_arrays(W_enc, None, W_dec, None, hook=hook)
        ...     sae.save(f"my_saes/{block}")
        >>> list(vitlens.features.load_saes("my_saes"))
        ['blocks.0.hook_resid_post', 'blocks.1.hook_resid_post']
    """
    folder = as_path(path, "path")
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; load_sae reads a dictionary that is one file")
    places = _dictionaries_in(folder)
    if not places:
        raise InputError(_what_is_read(DictionaryFiles(folder)))
    saes: dict[str, SparseAutoencoder] = {}
    for place in places:
        sae = load_sae(place, device=device, dtype=dtype)
        if isinstance(sae, CrossLayerTranscoder):
            raise InputError(f"{place} is one dictionary of {sae.n_blocks} blocks: load it with load_sae")
        if sae.hook is None:
            raise InputError(
                f"{place} does not say a hook point of vitlens: load each one with load_sae, and pass with_saes a "
                "dictionary from hook points to them"
            )
        if sae.hook in saes:
            raise InputError(
                f"{place} and {saes[sae.hook].source} both belong to {sae.hook}: load one of them with load_sae"
            )
        saes[sae.hook] = sae
    return dict(sorted(saes.items(), key=lambda item: _in_order(item[0])))


def _format_of(files: DictionaryFiles) -> DictionaryFormat | None:
    return next((known for known in DICTIONARY_FORMATS if known.recognise(files)), None)


def _dictionaries_in(folder: Path) -> list[Path]:
    """The folders and files below a folder that a format recognises; not those within a recognised folder."""
    found: list[Path] = []
    for place, inner, _ in os.walk(folder):
        inner.sort()
        files = DictionaryFiles(Path(place))
        if _format_of(files) is not None:
            found.append(Path(place))
            inner.clear()
        else:
            found += [path for path in files.all_weights if _format_of(DictionaryFiles(path)) is not None]
    return found


def _in_order(hook: str) -> tuple[int | str, ...]:
    return tuple(int(part) if part.isdigit() else part for part in hook.split("."))


def _what_is_read(files: DictionaryFiles) -> str:
    """A sentence about files of no known format."""
    known = ", ".join(f"{known.name} ({known.layout})" for known in DICTIONARY_FORMATS)
    several = ", ".join(path.name for path in files.all_weights[:4])
    if len(files.all_weights) > 1:
        return f"{files.path} holds several files of weights ({several}): name one of them. vitlens reads {known}"
    names = f" (its tensors are {', '.join(sorted(files.state)[:4])}, …)" if files.state else ""
    return f"{files.path} is no dictionary of a format that vitlens reads{names}: {known}"
