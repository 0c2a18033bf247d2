"""The maps to be scored, from whatever a user has in hand, and the baselines that stand beside them."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.errors import InputError
from vitlens.heatmap_scores.curves import Bench
from vitlens.heatmaps.baselines import centre_prior, random_map
from vitlens.heatmaps.heatmap import Heatmap, heatmap

Map = Heatmap | Tensor | np.ndarray | str
Maps = None | Map | Sequence[Map] | Mapping[str, Map]

#: Scored where no maps are named.
DEFAULT = ("token_mask", "gradient_rollout", "attention_rollout")
RANDOM = ("random", "random_map")
PICTURES_AT_ONCE = 16


def read_maps(
    bench: Bench, heatmaps: Maps, *, baselines: bool, seeds: int, progress: bool
) -> dict[str, list[Float[Tensor, "image patch"]]]:
    """Importances by name, in double precision; several maps under one name are to be averaged over.

    Raises:
        InputError: maps of another shape, with NaN, of another class than is followed, or without a name.
    """
    if baselines and seeds < 1:
        raise InputError(f"the random baseline takes at least one seed, not {seeds}")
    found = {name: [_read(bench, name, value, progress)] for name, value in _named(heatmaps).items()}
    if baselines:
        if not set(RANDOM) & set(found):
            found["random"] = [random_map(bench.model, bench.images, seed=seed).double() for seed in range(seeds)]
        if "centre_prior" not in found:
            found["centre_prior"] = [centre_prior(bench.model, bench.images).double()]
        if "raw_attention" not in found:
            found["raw_attention"] = [_read(bench, "raw_attention", "raw_attention", progress)]
    return found


def _named(heatmaps: Maps) -> dict[str, Map]:
    if heatmaps is None:
        heatmaps = DEFAULT
    if isinstance(heatmaps, Mapping):
        return {str(name): value for name, value in heatmaps.items()}
    if isinstance(heatmaps, (Tensor, np.ndarray)):
        return {"map": heatmaps}
    several = [heatmaps] if isinstance(heatmaps, (str, Heatmap)) else list(heatmaps)
    named: dict[str, Map] = {}
    for value in several:
        if isinstance(value, (Tensor, np.ndarray)):
            raise InputError("maps that are tensors need names: pass heatmaps={name: tensor, …}")
        name = value if isinstance(value, str) else value.method.name
        if name in named:
            raise InputError(f"there are two maps called {name}: pass heatmaps={{name: map, …}} with a name for each")
        named[name] = value
    return named


def _read(bench: Bench, name: str, value: Map, progress: bool) -> Float[Tensor, "image patch"]:
    if isinstance(value, str):
        value = heatmap(
            bench.model, bench.images, bench.classes, method=value,
            batch_size=min(PICTURES_AT_ONCE, bench.batch_size), warn=False, progress=progress,
        )  # fmt: skip
    if isinstance(value, Heatmap):
        _check_class(bench, name, value)
        value = value.values
    importance = torch.as_tensor(value).detach().to(bench.images.device, torch.float64)
    (rows, columns), n_images = bench.grid, len(bench.images)
    if list(importance.shape) not in ([n_images, rows * columns], [n_images, rows, columns]):
        raise InputError(
            f"the map {name!r} is [{n_images}, {rows * columns}] or [{n_images}, {rows}, {columns}] for these pictures, "
            f"not {list(importance.shape)}"
        )
    if not importance.isfinite().all():
        raise InputError(f"the map {name!r} has NaN or infinite importances, which cannot be put in order")
    return importance.flatten(1)


def _check_class(bench: Bench, name: str, value: Heatmap) -> None:
    """A map of one class says nothing of another one's curve."""
    if value.classes is None or len(value.classes) != len(bench.images):
        return
    if not torch.equal(value.classes[:, 0].to(bench.classes), bench.classes):
        raise InputError(
            f"the map {name!r} is of another class than the one followed: pass classes=heatmap.classes, or its .values "
            "where that is meant"
        )
