"""A change of one hook point: everything there, or some directions of it, is replaced by a constant, in part or whole."""

from dataclasses import dataclass, replace

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.arguments import short
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Hooks


@dataclass(frozen=True)
class Directions:
    """Directions to be removed: x becomes x − Σᵢ writeᵢ ⟨readᵢ, x − mean⟩.

    Of an orthogonal projection `read` and `write` are the same orthonormal vectors. Where they differ, the projection is
    oblique: what it keeps need not be at a right angle to what it removes (see `group_directions`).
    """

    read: Float[Tensor, "k d"]
    write: Float[Tensor, "k d"]
    mean: Float[Tensor, "d"] | None = None

    def __len__(self) -> int:
        return len(self.read)

    def first(self, k: int) -> "Directions":
        """The first k of them."""
        return Directions(self.read[:k], self.write[:k], self.mean)

    @classmethod
    def orthogonal(cls, vectors: Float[Tensor, "k d"] | Float[Tensor, "d"]) -> "Directions":
        """The orthogonal projection away from the span of these vectors.

        Raises:
            InputError: no finite vectors, or vectors that depend on each other.
        """
        if not isinstance(vectors, Tensor) or vectors.ndim not in (1, 2) or not vectors.numel():
            raise InputError(f"directions are a tensor of vectors, [d] or [k, d], not {short(vectors)}")
        if not vectors.is_floating_point() or not bool(vectors.isfinite().all()):
            raise InputError("directions are finite numbers, and these are not all: leave out or repair the others")
        vectors = torch.atleast_2d(vectors)
        _, sizes, basis = torch.linalg.svd(vectors.double(), full_matrices=False)
        if len(vectors) > vectors.shape[1] or sizes[-1] <= 1e-9 * sizes[0]:
            raise InputError(
                "the directions depend on each other, or one of them is zero: leave out those that add nothing"
            )
        basis = basis.to(vectors)
        return cls(basis, basis)


@dataclass(frozen=True)
class Change:
    """At one hook point: x becomes x + dose · (constant − what is removed of x).

    Args:
        hook: the full name of the hook point.
        units: heads or neurons, of hook points that have them; None: all that is there.
        removed: directions, or None: everything.
        constant: what takes its place, [d] for every token alike or [token, d]; with the units' axis before d. None: zeros.
        tokens: [token] or [image, token]: at which tokens. None: at all.
        dose: 0 changes nothing, 1 is the whole change; beyond 1 the opposite of what was there is put in.
    """

    hook: str
    units: tuple[int, ...] | None = None
    removed: Directions | None = None
    constant: Float[Tensor, "..."] | None = None
    tokens: Bool[Tensor, "*image token"] | None = None
    dose: float = 1.0

    @property
    def unit_axis(self) -> int | None:
        """Where the heads or neurons are among the axes of the activation."""
        return unit_axis(self.hook)

    def at(self, dose: float) -> "Change":
        return replace(self, dose=dose)

    def __call__(self, activation: Tensor, hook: HookPoint | None = None) -> Tensor:
        if not self.dose:
            return activation
        axis = self.unit_axis
        here = activation
        if self.units is not None and axis is not None:
            places = torch.tensor(self.units, device=activation.device)
            here = activation.index_select(axis, places)
        moved = self.dose * (self._target_of(here) - self._removed_of(here))
        if self.tokens is not None:
            moved = moved * self._mask(moved)
        if self.units is None or axis is None:
            return activation + moved
        return activation.index_add(activation.ndim + axis, places, moved)

    def _target_of(self, here: Tensor) -> Tensor:
        return torch.zeros_like(here) if self.constant is None else self.constant.to(here)

    def _removed_of(self, here: Tensor) -> Tensor:
        if self.removed is None:
            return here
        read, write = self.removed.read.to(here), self.removed.write.to(here)
        centred = here if self.removed.mean is None else here - self.removed.mean.to(here)
        return einsum(einsum(centred, read, "... d, k d -> ... k"), write, "... k, k d -> ... d")

    def _mask(self, moved: Tensor) -> Tensor:
        assert self.tokens is not None
        mask = self.tokens.to(moved)
        n_images, n_tokens = moved.shape[:2]
        if mask.shape[-1] != n_tokens or (mask.ndim == 2 and len(mask) not in (1, n_images)):
            raise InputError(
                f"the edit is for tokens {list(mask.shape)}, and this run has {n_images} pictures of {n_tokens} tokens: "
                "make the edit again for these pictures"
            )
        return mask.reshape(*([1] * (2 - mask.ndim)), *mask.shape, *([1] * (moved.ndim - 2)))


Changes = tuple[Change, ...]


def unit_axis(hook: str) -> int | None:
    """The axis of heads (hook_z, hook_result) or neurons (hook_post) of a hook point; None where it has none."""
    name = hook.rsplit(".", 1)[-1]
    return {"hook_z": -2, "hook_result": -2, "hook_post": -1}.get(name)


def hooks_of(changes: Changes) -> Hooks:
    """As `model.hooks` takes them, in their order."""
    return [(change.hook, change) for change in changes]


def check_hooks(model: HookedViT, changes: Changes) -> None:
    """Raises InputError for changes that are not of this model."""
    for change in changes:
        if change.hook not in model.hook_dict:
            raise InputError(f"the edit is of another model: {model.cfg.model_name} has no hook point {change.hook}")
