"""Computes the size of a cache before it is made."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.func import functional_call
from transformer_lens.hook_points import HookPoint

from vitlens.errors import InputError
from vitlens.model.hooks.hook_points import NamesFilter, resolve_names


@dataclass(frozen=True)
class CacheSize:
    """The size of a cache: `bytes` of each activation by its full name, and their `total`."""

    bytes: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.bytes.values())

    def by_kind(self) -> pd.DataFrame:
        """The hook points that cost most, all blocks together: `hook`, `points`, `MiB`, `share`."""
        table = pd.DataFrame({"full": list(self.bytes), "bytes": list(self.bytes.values())})
        table["hook"] = table["full"].str.replace(r"^blocks\.\d+\.", "", regex=True)
        kinds = table.groupby("hook")["bytes"].agg(["size", "sum"]).sort_values("sum", ascending=False)
        return pd.DataFrame(
            {
                "hook": kinds.index,
                "points": kinds["size"].to_numpy(),
                "MiB": (kinds["sum"] / 2**20).to_numpy(),
                "share": (kinds["sum"] / max(self.total, 1)).to_numpy(),
            }
        )

    def __repr__(self) -> str:
        most = self.by_kind().head(5)
        costly = ", ".join(f"{row.hook} {row.MiB:.1f} MiB" for row in most.itertuples())
        return f"CacheSize({self.total / 2**20:.1f} MiB in {len(self.bytes)} activations; most: {costly})"


def cache_size(model: Any, images: Any = 1, names_filter: NamesFilter = None) -> CacheSize:
    """The bytes that `run_with_cache(images, names_filter=…)` would keep; nothing is computed.

    Args:
        images: pictures, or how many of them at the model's own size.
        names_filter: as in `run_with_cache`.

    Raises:
        InputError: a name that matches nothing, fewer than one picture.
    """
    cfg = model.cfg
    if isinstance(images, int):
        if images < 1 or isinstance(images, bool):
            raise InputError(f"cache_size needs pictures, or a number of them that is at least 1, not {images}")
        images = torch.empty(images, cfg.n_channels, *cfg.image_size, dtype=model.dtype, device="meta")
    elif not isinstance(images, Tensor):
        images = model.as_images(images)
    names = resolve_names(names_filter, model.hook_dict)
    sizes: dict[str, int] = {}

    def note(activation: Tensor, hook: HookPoint) -> None:
        sizes[str(hook.name)] = activation.numel() * activation.element_size()

    # On the meta device tensors have shapes and no values: the forward pass costs its Python alone.
    with torch.no_grad(), model.hooks([(name, note) for name in names]):
        functional_call(model, _shapes(model), (images.to("meta", model.dtype),), tie_weights=False)
    return CacheSize({name: sizes[name] for name in names if name in sizes})


def _shapes(model: torch.nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, once for each module that holds it, without its values."""
    return {
        f"{path}.{name}" if path else name: tensor.detach().to("meta")
        for path, module in model.named_modules()
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    }
