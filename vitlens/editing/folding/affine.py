"""A change as an affine map x ↦ A x + c of each vector at its hook point, the same for every token that is read."""

from dataclasses import dataclass, replace
from typing import NoReturn

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.editing.changes import Change
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import NO_TOKENS, block_and_site
from vitlens.model.parts.pooling import ClassAndMeanPool

#: What stands behind the mixing of tokens in a block: in the last one, only the tokens that are pooled matter.
BEHIND_MIXING = ("attn.z", "attn.result", "attn_out", "ln2.normalized", "mlp.post", "mlp_out")


def refuse(hook: str, why: str) -> NoReturn:
    """Raises InputError: this change cannot be folded."""
    raise InputError(f"the edit at {hook} cannot be folded into the weights: {why}; its hooks still work")


@dataclass(frozen=True)
class Affine:
    """x ↦ A x + c with A = 1 − dose, or A = 1 − dose · Σᵢ writeᵢ readᵢᵀ; `shift` is c, [d] or [unit, d]."""

    dose: float
    read: Float[Tensor, "k d"] | None
    write: Float[Tensor, "k d"] | None
    shift: Float[Tensor, "*unit d"]

    @property
    def scales(self) -> bool:
        """Whether A is a multiple of the identity."""
        return self.read is None

    def times(self, weight: Float[Tensor, "d *rest"]) -> Float[Tensor, "d *rest"]:
        """A W: the map follows the weights."""
        if self.read is None or self.write is None:
            return (1 - self.dose) * weight
        return weight - self.dose * torch.tensordot(self.write.T, torch.tensordot(self.read, weight, dims=1), dims=1)

    def before(self, weight: Float[Tensor, "out d"]) -> Float[Tensor, "out d"]:
        """W A: the weights read what the map returns."""
        if self.read is None or self.write is None:
            return (1 - self.dose) * weight
        return weight - self.dose * (weight @ self.write.T) @ self.read


def alike_in_all_pictures(model: HookedViT, change: Change) -> Change:
    """The same change with a mask [token] or none.

    Raises:
        InputError: it differs from picture to picture, at tokens that are read.
    """
    if change.tokens is None:
        return change
    mask = change.tokens if change.tokens.ndim == 1 else change.tokens.all(dim=0)
    if not mask.cpu()[_read_tokens(model, change.hook, len(mask))].all():
        refuse(
            change.hook,
            "it is an edit of some tokens alone, and weights are the same for all tokens that are read there",
        )
    return replace(change, tokens=mask)


def affine_of(model: HookedViT, change: Change, n_units: int | None, width: int) -> Affine:
    """The map of a change whose mask leaves out no token that is read.

    Args:
        n_units: how many heads are edited; None where vectors belong to no heads.
        width: of each vector.

    Raises:
        InputError: what takes the place of the vectors differs from token to token, at tokens that are read.
    """
    like = next(model.parameters())
    shape = (width,) if n_units is None else (n_units, width)
    shift = like.new_zeros(shape)
    if change.constant is not None:
        shift = shift + _same_for_all_tokens(model, change, len(shape)).to(like)
    if change.removed is None:
        return Affine(change.dose, None, None, change.dose * shift)
    read, write = change.removed.read.to(like), change.removed.write.to(like)
    if change.removed.mean is not None:
        shift = shift + write.T @ (read @ change.removed.mean.to(like))
    return Affine(change.dose, read, write, change.dose * shift)


def _same_for_all_tokens(model: HookedViT, change: Change, n_axes: int) -> Float[Tensor, "*unit d"]:
    """The constant of every token that is read."""
    constant = change.constant
    assert constant is not None
    if constant.ndim <= n_axes:
        return constant
    if constant.ndim > n_axes + 1 or model.hook_dict[change.hook].pos_dim == NO_TOKENS:
        refuse(change.hook, "what takes the place of its values differs from picture to picture")
    of_read = constant[_read_tokens(model, change.hook, len(constant)).to(constant.device)]
    if not (of_read == of_read[:1]).all():
        refuse(
            change.hook,
            "what takes the place of its values differs from token to token, and a bias is one for all (take "
            'how="token_mean")',
        )
    return of_read[0]


def _read_tokens(model: HookedViT, hook: str, n_tokens: int) -> Bool[Tensor, "token"]:
    """At which tokens the values of a hook point matter to the output."""
    place = block_and_site(hook)
    behind = place is None or (place[0] == model.cfg.n_layers - 1 and place[1] in BEHIND_MIXING)
    if not behind or n_tokens == 1:
        return torch.ones(n_tokens, dtype=torch.bool)
    read = torch.zeros(n_tokens, dtype=torch.bool)
    read[model.pool.tokens] = True
    if isinstance(model.pool, ClassAndMeanPool):
        read[1 : model.pool.first_patch] = False
    if model.pool_dist is not None:
        read[model.pool_dist.tokens] = True
    return read
