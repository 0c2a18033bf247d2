"""Reads the maps that are evaluated (methods, heatmaps, tensors) and adds the baselines they are compared with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import require_whole
from vitlens.errors import InputError
from vitlens.faithfulness.curves import Bench
from vitlens.heatmaps.run import Heatmap, heatmap
from vitlens.model.hooked_vit import HookedViT

Map = Heatmap | Tensor | np.ndarray | str
Maps = None | Map | Sequence[Map] | Mapping[str, Map]

#: Scored where no maps are named.
DEFAULT = ("token_mask", "gradient_rollout", "attention_rollout")
RANDOM = ("random", "random_map")


@dataclass(frozen=True)
class ScoredMap:
    """A map of each picture, in double precision; and how the same method maps them with another model, where one is known
    to have made the map."""

    importance: Float[Tensor, "image patch"]
    remake: Callable[[HookedViT], Float[Tensor, "image patch"]] | None = None


#: Scores one map of each picture.
MapScorer = Callable[[ScoredMap], Float[Tensor, "image"]]


def read_maps(
    bench: Bench, heatmaps: Maps, *, baselines: bool, n_draws: int, progress: bool | None
) -> dict[str, list[ScoredMap]]:
    """Maps by name; several under one name are to be averaged over.

    Raises:
        InputError: maps of another shape, with NaN, of another class than is followed, or without a name.
    """
    require_whole(n_draws=n_draws)
    if baselines and n_draws < 1:
        raise InputError(f"n_draws is a whole number of at least 1, not {n_draws}")
    found = {name: [_read(bench, name, value, progress)] for name, value in _named(heatmaps).items()}
    if baselines:
        if not set(RANDOM) & set(found):
            drawn = [
                _read(bench, "random", method_map(bench, "random_map", seed=seed), progress) for seed in range(n_draws)
            ]
            found["random"] = drawn
        for name in ("centre_prior", "raw_attention"):
            if name not in found:
                found[name] = [_read(bench, name, name, progress)]
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


def method_map(bench: Bench, method: str, progress: bool | None = False, **options: Any) -> Heatmap:
    """The bench's pictures by one of the methods."""
    return _mapped(bench, method, options, progress, bench.model)


def _mapped(
    bench: Bench, method: str, options: Mapping[str, Any], progress: bool | None, model: HookedViT
) -> Heatmap:  # fmt: skip
    return heatmap(
        model, bench.images, bench.classes, method=method, batch_size=bench.rows_of_maps, warn=False, progress=progress,
        **options,
    )  # fmt: skip


def _remaker(bench: Bench, value: Heatmap) -> Callable[[HookedViT], Float[Tensor, "image patch"]] | None:
    """Makes the map again for another model; None if an option, such as a picture, was not kept in the map's settings."""
    given = {name: value.settings[name] for name in value.method.options if name in value.settings}
    if {"Tensor", "ndarray"} & {option for option in given.values() if isinstance(option, str)}:
        return None
    remake = partial(_mapped, bench, value.method.name, given, False)
    return lambda model: remake(model).patches().double()


def _read(bench: Bench, name: str, value: Map, progress: bool | None) -> ScoredMap:
    remake = None
    if isinstance(value, str):
        value = method_map(bench, value, progress)
    if isinstance(value, Heatmap):
        _check_class(bench, name, value)
        remake = _remaker(bench, value)
        value = value.maps()
    importance = torch.as_tensor(value).detach().to(bench.images.device, torch.float64)
    (rows, columns), n_images = bench.grid, len(bench.images)
    if list(importance.shape) not in ([n_images, rows * columns], [n_images, rows, columns]):
        raise InputError(
            f"the map {name!r} is [{n_images}, {rows * columns}] or [{n_images}, {rows}, {columns}] for these pictures, "
            f"not {list(importance.shape)}"
        )
    if not importance.isfinite().all():
        raise InputError(f"the map {name!r} has NaN or infinite importances, which cannot be put in order")
    return ScoredMap(importance.flatten(1), remake)


def _check_class(bench: Bench, name: str, value: Heatmap) -> None:
    """Raises InputError if the map explains another class than the one that the curves follow."""
    if value.classes is None or len(value.classes) != len(bench.images):
        return
    if not torch.equal(value.classes[:, 0].to(bench.classes), bench.classes):
        raise InputError(
            f"the map {name!r} is of another class than the one followed: pass classes=heatmap.classes, or its .values "
            "where that is meant"
        )
