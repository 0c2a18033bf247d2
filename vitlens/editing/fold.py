"""Folds changes into the weights: a new model that does by itself what the hooks do."""

import copy
from collections import defaultdict
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from vitlens.editing.changes import Change, Changes, check_hooks, hooks_of
from vitlens.editing.folding.affine import alike_in_all_pictures, refuse
from vitlens.editing.folding.readers import READERS
from vitlens.editing.folding.writers import WRITERS
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import block_and_site
from vitlens.model.provenance import Provenance

#: The largest relative difference between the logits of the folded weights and those of the hooks, in double precision.
LARGEST_DIFFERENCE = 1e-9
#: The one stream that is nothing but what parts have written.
FIRST_STREAM = "blocks.0.hook_resid_pre"


@torch.inference_mode(False)
@torch.no_grad()
def fold_changes(model: HookedViT, changes: Changes) -> HookedViT:
    """A copy of the model whose weights do what the hooks of these changes do. The model keeps its own weights.

    New weights are computed in double precision, compared there with the hooks on two pictures of noise, and rounded once.

    Raises:
        InputError: a change that no weights can do, with the reason; weights that were rewritten before, or that are used in
            two places.
    """
    check_hooks(model, changes)
    _check_weights(model)
    made = [_foldable(model, change) for change in changes if change.dose]
    folded = _copy_in_double_precision(model)
    images = _noise(folded)
    hooked = folded.run_with_hooks(images, fwd_hooks=hooks_of(tuple(made)))
    _into_weights(folded, made)
    _check_does_the_same(model, hooked, folded(images))
    folded.to(model.device, model.dtype)
    folded.provenance = _edited(model.provenance, changes)
    return folded


def _foldable(model: HookedViT, change: Change) -> Change:
    """The change with a mask that is the same for all pictures.

    Raises:
        InputError: no weights do what an edit there does, or it is one of some of the tokens that are read.
    """
    site = _site(change.hook)
    if site.startswith("resid_") and change.hook != FIRST_STREAM:
        refuse(
            change.hook,
            "an edit of the stream itself is no change of weights (remove the direction from what the parts write, "
            'parts="writers")',
        )
    if site not in READERS and site not in WRITERS:
        refuse(
            change.hook, "only what heads, neurons and layers write, and what linear layers read, is made by weights"
        )
    return alike_in_all_pictures(model, change)


def _into_weights(model: HookedViT, changes: list[Change]) -> None:
    """Puts the changes into the model's own parameters.

    Edits of what a matrix returns come first, in the order of the forward pass; edits of what it reads then pass through the
    edited matrix, the one next to it first.
    """
    place = {hook: i for i, hook in enumerate(model.hook_dict)}
    in_order = sorted(changes, key=lambda change: place[change.hook])
    for hook, here in groupby(in_order, key=lambda change: change.hook):
        if _site(hook) in WRITERS:
            WRITERS[_site(hook)](model, list(here))
    for change in reversed(in_order):
        if _site(change.hook) in READERS:
            READERS[_site(change.hook)](model, change)


def _site(hook: str) -> str:
    """The name of a hook point without its block."""
    place = block_and_site(hook)
    return hook if place is None else place[1]


def _check_weights(model: HookedViT) -> None:
    """Raises InputError for weights that are not those of a checkpoint, or of which one is used in two places."""
    if model.cfg.processed:
        raise InputError(
            f"the weights of {model.cfg.model_name} were rewritten ({', '.join(model.cfg.processed)}), so an edit cannot be "
            "folded into those of its checkpoint: open the model without the rewrite, or keep the hooks, which still work"
        )
    names: dict[int, list[str]] = defaultdict(list)
    if model.timm_module is not None:
        for name, parameter in model.timm_module.named_parameters(remove_duplicate=False):
            names[id(parameter)].append(name)
    for shared in names.values():
        if len(shared) > 1:
            raise InputError(
                f"{shared[0]} and {shared[1]} are one parameter, so an edit of one place would reach the other: keep the "
                "hooks, which still work"
            )


def _copy_in_double_precision(model: HookedViT) -> HookedViT:
    """A copy without the hooks that somebody set for a while. The text tower and what builds the architecture are shared."""
    kept: dict[int, Any] = {id(one): one for one in (model.text_tower, model.architecture) if one is not None}
    copied = copy.deepcopy(model, kept)
    copied.reset_hooks()
    # Apple's accelerators know no double precision.
    device = torch.device("cpu") if model.device.type == "mps" else model.device
    return copied.to(device, torch.float64)


def _noise(model: HookedViT) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, model.cfg.n_channels, *model.cfg.image_size, generator=generator).to(
        model.device, model.dtype
    )


def _check_does_the_same(model: HookedViT, hooked: Tensor, folded: Tensor) -> None:
    difference = ((folded - hooked).abs().max() / hooked.abs().max().clamp(min=1e-12)).item()
    if not difference <= LARGEST_DIFFERENCE:
        raise InputError(
            f"the weights of {model.cfg.model_name} cannot do what the edit does: with it folded into them, the logits of "
            f"two pictures of noise differ from those of its hooks by {difference:.1g} of the largest; the hooks still work"
        )


def _edited(provenance: Provenance, changes: Changes) -> Provenance:
    hooks = list(dict.fromkeys(change.hook for change in changes))
    more = f" and {len(hooks) - 3} more" if len(hooks) > 3 else ""
    return replace(
        provenance,
        weights=f"{provenance.weights}, edited at {', '.join(hooks[:3])}{more}",
        call=Provenance.call,
    )
