"""Edits parts of a model: silences, replaces or scales them, or removes directions of what they write."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.arguments import checked, short
from vitlens.choose.sites import EDGE_SITES
from vitlens.choose.tokens import TokenSet, check_masks_are_used, select_tokens
from vitlens.data.masks import MaskInput
from vitlens.editing.changes import Change, Changes, Directions, hooks_of, unit_axis
from vitlens.editing.fold import fold_changes
from vitlens.editing.parts import Part, PartNames, read_parts, require_tokens
from vitlens.editing.saving import save_checkpoint
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import NO_TOKENS, Hooks
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureSource
from vitlens.patching.sources import means_at

WAYS = ("zero", "mean", "token_mean", "direction")
#: Hook points whose values are no vectors of a part: scores and patterns, and what a norm divides by.
_NO_VECTORS = (*(f"hook_{site}" for site in EDGE_SITES), "hook_scale", "hook_rel_pos_bias")


@dataclass(frozen=True, repr=False)
class Edit:
    """Changes of a model, in their order, as hooks (`hooks`) or folded into its weights (`fold`, `save`).

    The model itself is not changed. `edit + other` does both, one after the other; `edit.at(dose)` is the same edit at
    another dose.
    """

    model: HookedViT
    changes: Changes
    parts: tuple[str, ...]
    how: str

    def __repr__(self) -> str:
        doses = " and ".join(f"{dose:g}" for dose in dict.fromkeys(change.dose for change in self.changes))
        named = ", ".join(self.parts[:6]) + (f" and {len(self.parts) - 6} more" if len(self.parts) > 6 else "")
        return f"Edit({self.how} of {named}, dose {doses})"

    @property
    def hooks(self) -> Hooks:
        """For `model.hooks(…)`, `model.run_with_hooks(…, fwd_hooks=…)`, or any analysis inside `with model.hooks(…)`."""
        return hooks_of(self.changes)

    @checked
    def at(self, dose: float | int) -> "Edit":
        """The same edit at another dose: 0 changes nothing, 1 is the whole edit.

        Examples:
            >>> import vitlens
            >>> model, images, labels, masks = vitlens.load_demo()
            >>> vitlens.edit(model, "L2H1").at(0.5)
            Edit(zero of L2H1, dose 0.5)
        """
        check_dose(dose)
        return replace(self, changes=tuple(change.at(float(dose)) for change in self.changes))

    def __add__(self, other: "Edit") -> "Edit":
        if not isinstance(other, Edit):
            return NotImplemented
        if other.model is not self.model:
            raise InputError("the two edits are of different models: make both of one model")
        how = self.how if self.how == other.how else f"{self.how}, {other.how}"
        parts = tuple(dict.fromkeys((*self.parts, *other.parts)))
        return Edit(self.model, (*self.changes, *other.changes), parts, how)

    @leaves_state
    def fold(self) -> HookedViT:
        """A model whose weights do what the hooks do, to rounding; the model that was edited keeps its weights.

        Raises:
            InputError: a change that is no change of weights: of the residual stream itself, of some tokens, or of a part
                whose layer has no bias for what takes its place. The hooks still work.

        Examples:
            >>> import torch
            >>> import vitlens
            >>> model, images, labels, masks = vitlens.load_demo()
            >>> edited = vitlens.edit(model, ["L2H1", "L3 mlp"])
            >>> folded = edited.fold()
            >>> torch.allclose(folded(images[:2]), model.run_with_hooks(images[:2], fwd_hooks=edited.hooks), atol=1e-4)
            True
        """
        return fold_changes(self.model, self.changes)

    @leaves_state
    @checked
    def save(self, path: str | Path, *, like: Any = None) -> None:
        """Folds the edit, and writes the weights as an ordinary checkpoint that needs no vitlens, see `save_checkpoint`.

        Raises:
            InputError: as `fold` and `save_checkpoint`.

        Examples:
            >>> import tempfile
            >>> import timm
            >>> import vitlens
            >>> model, images, labels, masks = vitlens.load_demo()
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     vitlens.edit(model, "L2H1").save(folder)
            ...     module = timm.create_model(f"local-dir:{folder}", pretrained=True)
            >>> module(images[:2]).shape
            torch.Size([2, 10])
        """
        save_checkpoint(self.fold(), path, like=like)


@leaves_state
@checked
def edit(
    model: HookedViT,
    parts: PartNames,
    how: str = "zero",
    *,
    dose: float | int = 1.0,
    directions: Directions | Float[Tensor, "..."] | None = None,
    images: PictureSource | None = None,
    tokens: TokenSet = "all",
    masks: MaskInput | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Edit:
    """Edits parts of a model, as hooks that can also be folded into the weights; the model itself is not changed.

    Args:
        parts: one or several of: a head ("L2H1" or (2, 1)), "L3 mlp", "L3 attn", "L3 neuron 17"; "embed", what enters block
            0; "classifier", what the classifier reads; "writers", all that write to the residual stream; or a hook point, by
            its name or shorthand.
        how: "zero", silence; "mean", replace by the mean over `images` at each position; "token_mean", replace by one mean
            over `images` and tokens, which can be folded where a mean for each position cannot; "direction", remove
            `directions` from what the parts write.
        dose: how much of the edit is done: 0 nothing, 1 all of it. "zero" with dose 0.5 halves a part, with -1 doubles it.
        directions: vectors [d] or [k, d] whose span is projected out: a probe's, a feature's (`sae.W_dec[i]`), a class's
            (`model.W_U[:, i]`) or a text's, a difference of means; or `Directions`, such as `group_directions` finds.
        images: the pictures whose mean is taken, as in `mean_activations`.
        tokens: the tokens at which parts are edited; a set that reads `masks` makes an edit for these pictures alone.
        batch_size, progress: of the forwards over `images`.

    Returns:
        Edit, with `hooks`, `at(dose)`, `fold()` and `save(path)`.

    Raises:
        InputError: an unknown part or way; directions of another width, or that are missing; no pictures for a mean; a hook
            point without vectors, such as a pattern.

    Source: Methods B1, B2; Arditi et al. 2024 (directions removed from all that write); Belrose et al. 2023 (oblique
        projections).

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> edited = vitlens.edit(model, ["L2H1", "L4 neuron 7"], dose=0.5)
        >>> edited
        Edit(zero of L2H1, L4 neuron 7, dose 0.5)
        >>> model.run_with_hooks(images[:2], fwd_hooks=edited.hooks).shape
        torch.Size([2, 10])
        >>> away = vitlens.edit(model, "classifier", "direction", directions=model.W_U[:, 3])
        >>> with model.hooks(away.hooks):  # without the direction of the class "dress"
        ...     lens = vitlens.class_lens(model, images[:2])
    """
    _check_way(how, directions, images)
    check_dose(dose)
    in_stream = how == "direction"
    found = read_parts(model, parts, in_stream=in_stream)
    for part in found:
        if part.hook.endswith(_NO_VECTORS):
            raise InputError(f"{part.hook} holds no vectors that an edit could replace: name a part, or write a hook")
    where = _token_mask(model, tokens, masks, found)
    by_hook: dict[str, list[Part]] = defaultdict(list)
    for part in found:
        by_hook[part.hook].append(part)
    constants = _means(model, list(by_hook), how, images, where, batch_size, progress)
    removed = None if directions is None else _removed(model, list(by_hook), directions)
    changes = [_change(hook, here, removed, constants.get(hook), where, float(dose)) for hook, here in by_hook.items()]
    return Edit(model, tuple(changes), tuple(part.name for part in found), how)


def _check_way(how: str, directions: Any, images: Any) -> None:
    if how not in WAYS:
        raise InputError(f"how is one of {', '.join(WAYS)}, not {short(how)}")
    if (directions is not None) != (how == "direction"):
        raise InputError('how="direction" removes directions=, and no other way reads them')
    if (images is not None) != (how in ("mean", "token_mean")):
        raise InputError('how="mean" and "token_mean" take the mean over images=, and no other way reads them')


def check_dose(dose: Any) -> None:
    """Raises InputError for what is no dose."""
    if isinstance(dose, bool) or not isinstance(dose, (int, float)) or not -1e6 < dose < 1e6:
        raise InputError(f"a dose is a number such as 0.5 or 1, not {short(dose)}")


def _token_mask(
    model: HookedViT, tokens: TokenSet, masks: Any, parts: Sequence[Part]
) -> Bool[Tensor, "*image token"] | None:
    """At which tokens, [image, token] where masks or bools say it picture by picture; None: at all."""
    check_masks_are_used(masks, [tokens])
    if isinstance(tokens, str) and tokens == "all":
        return None
    for part in parts:
        require_tokens(model, part)
    n_images = 1
    read = None
    if masks is not None:
        read = model.read_masks(masks)
        n_images = len(read)
    elif isinstance(tokens, Tensor) and tokens.dtype == torch.bool and tokens.ndim == 2:
        n_images = len(tokens)
    chosen = select_tokens(model, tokens, n_images, masks=read)
    return chosen if n_images > 1 else chosen[0]


def _means(
    model: HookedViT,
    hooks: list[str],
    how: str,
    images: PictureSource | None,
    where: Tensor | None,
    batch_size: int | None,
    progress: bool | None,
) -> dict[str, Tensor]:
    """The mean activation of each hook point, at each position or over the tokens that are edited."""
    if images is None:
        return {}
    if where is not None and where.ndim == 2 and how == "token_mean":
        raise InputError('"token_mean" averages over tokens that are the same in every picture: use "mean"')
    found = means_at(model, images, hooks, batch_size, progress)
    means = {hook: mean[0] for hook, mean in found.items()}
    if how == "token_mean":
        means = {
            hook: mean
            if model.hook_dict[hook].pos_dim == NO_TOKENS
            else mean[slice(None) if where is None else where].mean(0)
            for hook, mean in means.items()
        }
    return {hook: mean.to(model.dtype) for hook, mean in means.items()}


def _removed(model: HookedViT, hooks: list[str], directions: Directions | Tensor) -> Directions:
    """The directions, which must be as wide as the vectors at these hook points."""
    removed = directions if isinstance(directions, Directions) else Directions.orthogonal(directions)
    image = torch.zeros(1, model.cfg.n_channels, *model.cfg.image_size, dtype=model.dtype, device=model.device)
    with torch.no_grad():
        cache = model.run_with_cache(image, names_filter=hooks)[1]
    for hook in hooks:
        given, width = removed.read.shape[-1], cache[hook].shape[-1]
        if given != width:
            raise InputError(f"the directions have {given} numbers, and the vectors at {hook} have {width}")
    return removed


def _change(
    hook: str,
    parts: Sequence[Part],
    removed: Directions | None,
    constant: Tensor | None,
    where: Tensor | None,
    dose: float,
) -> Change:
    units = tuple(part.unit for part in parts if part.unit is not None)
    axis = unit_axis(hook)
    if constant is not None and units and axis is not None:
        constant = constant.index_select(axis, torch.tensor(units, device=constant.device))
    return Change(hook, units or None, removed, constant, where, dose)
