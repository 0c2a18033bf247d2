"""Selects where an intervention takes place: a site, the same in every block, and its cells."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from vitlens.arguments import index_of, items
from vitlens.choose.tokens import Box, TokenSet, check_masks_are_used, select_tokens
from vitlens.data.masks import MaskInput
from vitlens.errors import InputError, nearest
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name
from vitlens.results.axes import TokenLabel, patch_label

TokenSets = TokenSet | Mapping[str, TokenSet] | Sequence[TokenSet] | None


@dataclass(frozen=True)
class Site:
    """A hook point that every block has; `unit` is the other axis of its activations: head or neuron."""

    name: str
    path: str
    unit: str | None

    def hook(self, block: int) -> str:
        return hook_name(block, self.path)


HEAD_SITES = ("z", "q", "k", "v", "attn_scores", "pattern")
#: Sites of which an entry belongs to a query and a key: [image, head, query, key].
EDGE_SITES = ("attn_scores", "pattern")
SITES = {
    site.name: site
    for site in [
        *[Site(name, name, None) for name in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")],
        *[Site(name, f"attn.{name}", "head") for name in HEAD_SITES],
        *[Site(name, f"mlp.{name}", "neuron") for name in ("pre", "post")],
    ]
}


def find_site(model: HookedViT, name: str) -> Site:
    """The site of this name.

    Raises:
        InputError: no such site, the name of a hook point, or a site that this architecture does not have.
    """
    if not isinstance(name, str):
        raise InputError(f"a site is given by its name, such as 'resid_pre' (blocks= chooses blocks), not {name!r}")
    if name not in SITES:
        if name in model.hook_dict or name.startswith("blocks."):
            parts = name.split(".")
            short = parts[-1].removeprefix("hook_")
            hint = f'"{short}" with blocks=[{parts[1]}]' if short in SITES and len(parts) > 2 else "a site"
            raise InputError(
                f"{name!r} is the name of a hook point; a sweep goes over a site in all blocks or some: pass {hint} "
                f"(sites are {', '.join(SITES)})"
            )
        raise InputError(f"no patching site is called {name!r}; the nearest names are {nearest(name, SITES)}")
    site = SITES[name]
    if site.hook(0) not in model.hook_dict:
        raise InputError(f"{model.cfg.model_name} has no {name}: its blocks are {model.cfg.wiring}")
    if name in ("q", "k", "attn_scores") and model.blocks[0].attn.W_Q.shape[0] != model.cfg.n_heads:
        raise InputError(
            f"{model.cfg.model_name} has two heads of {name} for each head of v: patch v, z or the pattern"
        )
    return site


@dataclass(frozen=True)
class Cells:
    """What is patched, one cell at a time: token sets × heads or neurons. `axes` are those of the result, in order.

    Of patterns and scores the token sets are those of the queries, and `keys` are the keys; None: all.
    """

    site: Site
    sets: Bool[Tensor, "set image tokens"]
    units: list[int] | None
    n_units: int
    axes: dict[str, list]
    keys: Bool[Tensor, "image tokens"] | None = None

    def __len__(self) -> int:
        return len(self.sets) * (1 if self.units is None else len(self.units))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(labels) for labels in self.axes.values())

    def label(self, cell: int) -> str:
        places = np.unravel_index(cell, self.shape)
        named = zip(self.axes.items(), places, strict=True)
        return ", ".join(f"{name} {labels[int(place)]}" for (name, labels), place in named)

    def where(self, cells: list[int], images: slice) -> Bool[Tensor, "cell image ..."]:
        """The activation's entries that these cells patch, its last axis left to broadcast."""
        per_set = 1 if self.units is None else len(self.units)
        chosen = self.sets[[cell // per_set for cell in cells], images]
        if self.units is None:
            return chosen[..., None]
        units = torch.tensor([self.units[cell % per_set] for cell in cells], device=chosen.device)
        one_hot = torch.nn.functional.one_hot(units, self.n_units).bool()[:, None, None]
        inside = chosen[..., None] & one_hot
        if self.site.name in EDGE_SITES:
            edges = inside.transpose(-1, -2)[..., None]
            return edges if self.keys is None else edges & self.keys[images, None, None]
        return inside[..., None] if self.site.unit == "head" else inside


def make_cells(
    model: HookedViT,
    site: Site,
    n_images: int,
    grid: tuple[int, int],
    *,
    tokens: TokenSets = None,
    heads: int | Sequence[int] | None = None,
    neurons: int | Sequence[int] | None = None,
    keys: TokenSet | None = None,
    masks: MaskInput | None = None,
) -> Cells:
    """The cells of a sweep.

    Args:
        tokens: "each" token by itself (the default of sites without heads or neurons), one token set, a list of them, or a
            mapping from names to them; for heads and neurons all tokens by default, which is no axis of the result.
        heads, neurons: one or several, by default all, of sites that have them; -1 is the last.
        keys: of patterns and scores, the keys that are patched; by default all.

    Raises:
        InputError: heads or neurons of a site without; a number that does not exist; an empty list or token set; masks that
            no token set reads.
    """
    asked = {"head": heads, "neuron": neurons}
    for unit, wanted in asked.items():
        if wanted is not None and unit != site.unit:
            having = ", ".join(other.name for other in SITES.values() if other.unit == unit)
            raise InputError(f"{site.name} has no {unit}s: patch {having} by {unit}")
    if keys is not None and site.name not in EDGE_SITES:
        raise InputError(f"{site.name} has no keys: patch {' or '.join(EDGE_SITES)} by queries (tokens=) and keys")
    check_masks_are_used(masks, [keys, *(tokens.values() if isinstance(tokens, Mapping) else items(tokens))])
    labels, sets = _token_sets(model, tokens, site, n_images, masks, grid)
    axes: dict[str, list] = {}
    if site.unit is None or labels is not None:
        axes["tokens"] = labels or []
    if site.unit is None:
        return Cells(site, sets, None, 1, axes)
    n_units = model.cfg.n_heads if site.unit == "head" else model.blocks[0].mlp.W_out.shape[0]
    chosen = asked[site.unit]
    units = (
        list(range(n_units)) if chosen is None else [index_of(number, n_units, site.unit) for number in items(chosen)]
    )
    if not units:
        raise InputError(f"the list of {site.unit}s is empty")
    axes[site.unit] = [f"{site.unit[0].upper()}{number}" for number in units]
    seen = None if keys is None else select_tokens(model, keys, n_images, masks=masks, grid=grid)
    return Cells(site, sets, units, n_units, axes, seen)


def _token_sets(
    model: HookedViT,
    tokens: TokenSets,
    site: Site,
    n_images: int,
    masks: MaskInput | None,
    grid: tuple[int, int],
) -> tuple[list[TokenLabel] | None, Bool[Tensor, "set image tokens"]]:
    """Labels (None where a single set is no axis) and masks of the token sets."""
    if tokens is None:
        tokens = "each" if site.unit is None else "all"
    sets: dict[TokenLabel, Any]
    single = False
    if isinstance(tokens, str) and tokens == "each":
        sets = {label: i for i, label in enumerate(model.cfg.token_labels(grid))}
    elif isinstance(tokens, Mapping):
        sets = {TokenLabel(str(name), "set"): item for name, item in tokens.items()}
    elif isinstance(tokens, (str, int, Tensor, np.ndarray)) or not isinstance(tokens, Iterable):
        single = site.unit is not None
        sets = {_label(model, tokens, grid): tokens}
    else:
        sets = {_label(model, item, grid): item for item in tokens}
    if not sets:
        raise InputError('there is no token set to patch: name at least one, or pass "each"')
    masked = torch.stack([select_tokens(model, item, n_images, masks=masks, grid=grid) for item in sets.values()])
    return (None if single else list(sets)), masked


def _label(model: HookedViT, tokens: Any, grid: tuple[int, int]) -> TokenLabel:
    """What a token set that was given without a name is called."""
    if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0:
        return model.cfg.token_label(tokens, grid)
    if isinstance(tokens, Box) and (tokens.height, tokens.width) == (1, 1):
        return patch_label(tokens.row, tokens.column)
    return TokenLabel("tokens" if isinstance(tokens, (Tensor, np.ndarray)) else str(tokens), "set")
