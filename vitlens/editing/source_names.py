"""Writes the weights of a model back by the names of the library that it was opened from.

Where each number of a source goes is learnt by reading it once with numbers of its own in the places of its tensors, so that
no family needs a way back of its own.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitlens.editing.timm_copies import largest_difference
from vitlens.errors import InputError
from vitlens.model.checkpoints.files import State, state_dicts
from vitlens.model.families.door import recipe_of
from vitlens.model.families.recipe import Recipe
from vitlens.model.families.sources import OpenedSource
from vitlens.model.hooked_vit import HookedViT

#: The first number that stands for a place. The sum of two of them is none, and double precision holds each.
FIRST_PLACE = 2**51
#: How many tensors are tried one by one, of those that are read in sums with others.
MOST_TRIED = 8


def by_source_names(model: HookedViT, read: OpenedSource) -> State:
    """The tensors of a source, by its own names, with the model's weights in their places.

    Numbers that the model has as the source has them stay as they are there, in its own precision.

    Raises:
        InputError: a weight that was edited has no place of its own in the source; the source, with the new weights, is not
            read as this model.
    """
    state: State = model.timm_module.state_dict()
    before = _recipe(model, read).state
    _check_same_shapes(state, before, read.name)
    places = _Places(read)
    found = places.of(_recipe(model, places.numbered()).state)
    new = places.values()
    moved = {key: state[key].cpu() != before[key].cpu().to(state[key].dtype) for key in state}
    in_sums = []
    for key, where in found.items():
        alone = moved[key].flatten() & (where >= 0)
        new[where[alone]] = state[key].cpu().flatten()[alone].double()
        if (moved[key].flatten() & (where < 0)).any():
            in_sums.append(key)
    for one in places.unread(found)[:MOST_TRIED] if in_sums else []:
        # Of a sum, the first part takes all of what was added.
        for key, where in places.of(_recipe(model, places.numbered(one)).state).items():
            alone = moved[key].flatten() & (found[key] < 0) & (where >= 0)
            added = (state[key].cpu().double() - before[key].cpu().double()).flatten()
            new[where[alone]] += added[alone]
            found[key][alone] = where[alone]
    for key in in_sums:
        if (moved[key].flatten() & (found[key] < 0)).any():
            raise InputError(
                f"{key} was edited, and {read.name} has no numbers for it alone (they are computed from others when it is "
                "read, or are missing): save the model without like=, or keep the hooks"
            )
    written = places.filled(new, found)
    _check_read_again(model, OpenedSource(read.name, written, read.config, read.is_folder))
    return written


def _recipe(model: HookedViT, read: OpenedSource) -> Recipe:
    """How the source is read as this model: with its heads and, where they differ, for pictures of its size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recipe, _ = recipe_of(read, model.cfg.n_heads)
        if tuple(recipe.keywords.get("img_size", model.cfg.image_size)) != model.cfg.image_size:
            # Not every family is read at another size: then the shapes differ.
            with suppress(InputError):
                recipe, _ = recipe_of(read, model.cfg.n_heads, model.cfg.image_size)
    return recipe


def _check_same_shapes(state: State, before: State, source: str) -> None:
    for key in {**state, **before}:
        shapes = [list(tensors[key].shape) if key in tensors else "none" for tensors in (state, before)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"like= is not what the model was opened from: the model's {key} is {shapes[0]}, and that of {source} "
                f"{shapes[1]}"
            )


class _Places:
    """A place for each number in the tensors of a source, whatever they are nested in; those of whole numbers stay."""

    def __init__(self, read: OpenedSource) -> None:
        self.read = read
        self.tensors: list[Tensor] = []
        self.names: list[tuple[str, ...]] = []
        _mapped(read.tensors, self._add)
        self.starts = [0]
        for tensor in self.tensors:
            self.starts.append(self.starts[-1] + tensor.numel())

    def _add(self, name: tuple[str, ...], tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            self.tensors.append(tensor)
            self.names.append(name)
        return tensor

    def _with(self, of_place: Callable[[int], Tensor]) -> Any:
        """The nested tensors, each of floats replaced by another."""
        by_name = {name: i for i, name in enumerate(self.names)}
        return _mapped(self.read.tensors, lambda name, tensor: of_place(by_name[name]) if name in by_name else tensor)

    def numbered(self, alone: int | None = None) -> OpenedSource:
        """The source with the number of its place in the place of each number; of one tensor alone, with zeros elsewhere."""

        def of_place(i: int) -> Tensor:
            shape = self.tensors[i].shape
            if alone not in (None, i):
                return torch.zeros(shape, dtype=torch.float64)
            return FIRST_PLACE + torch.arange(self.starts[i], self.starts[i + 1], dtype=torch.float64).reshape(shape)

        return OpenedSource(self.read.name, self._with(of_place), self.read.config, self.read.is_folder)

    def of(self, state: State) -> dict[str, Int[Tensor, "number"]]:
        """From which place each number of a state came; −1 where it is no number of a single place."""
        found = {}
        for key, tensor in state.items():
            numbers = tensor.cpu().double().flatten() - FIRST_PLACE
            is_place = (numbers >= 0) & (numbers < self.starts[-1]) & (numbers == numbers.round())
            found[key] = torch.where(is_place, numbers, -1).long()
        # A number that is read twice is not free to change in one place.
        times = torch.cat(list(found.values())).add(1).bincount(minlength=self.starts[-1] + 1)
        times[0] = 0
        return {key: where.where(times[where + 1] == 1, -1) for key, where in found.items()}

    def unread(self, found: Mapping[str, Int[Tensor, "number"]]) -> list[int]:
        """The tensors of which some numbers were not found."""
        seen = torch.zeros(self.starts[-1] + 1, dtype=torch.bool)
        for where in found.values():
            seen[where] = True
        return [
            i
            for i, (start, end) in enumerate(zip(self.starts, self.starts[1:], strict=False))
            if not seen[start:end].all()
        ]

    def values(self) -> Float[Tensor, "place"]:
        """All numbers of the source, in double precision."""
        return torch.cat([tensor.detach().cpu().double().flatten() for tensor in self.tensors])

    def filled(self, values: Float[Tensor, "place"], found: Mapping[str, Int[Tensor, "number"]]) -> State:
        """The state dict among the nested tensors that holds the model, with these numbers."""
        parts = [
            part.reshape(tensor.shape).to(tensor.dtype)
            for part, tensor in zip(
                values.split([tensor.numel() for tensor in self.tensors]), self.tensors, strict=True
            )
        ]
        firsts = torch.stack([where.max() for where in found.values()])
        holders = torch.bucketize(firsts[firsts >= 0], torch.tensor(self.starts), right=True) - 1
        label, _ = Counter(self.names[i][:-1] for i in holders.tolist()).most_common(1)[0]
        return state_dicts(self._with(lambda i: parts[i]), self.read.name)["".join(f"{key}." for key in label)]


def _mapped(nested: Any, of_tensor: Callable[[tuple[str, ...], Tensor], Tensor], name: tuple[str, ...] = ()) -> Any:
    if isinstance(nested, Tensor):
        return of_tensor(name, nested)
    if isinstance(nested, Mapping):
        return {key: _mapped(value, of_tensor, (*name, str(key))) for key, value in nested.items()}
    return nested


def _check_read_again(model: HookedViT, written: OpenedSource) -> None:
    """Raises InputError unless the written source is read as the model."""
    module: nn.Module = _recipe(model, written).build(written.name)
    coarsest = max(
        (
            tensor.dtype
            for tensor in (*written.tensors.values(), model.embed.patch_embed_weight)
            if tensor.is_floating_point()
        ),
        key=lambda dtype: torch.finfo(dtype).eps,
    )
    difference = largest_difference(model, module)
    if not difference <= {torch.float64: 1e-9, torch.float32: 1e-4}.get(coarsest, 0.1):
        raise InputError(
            f"the weights cannot be written as {written.name} has them: read again, the logits differ by {difference:.1g} "
            "of the largest; save the model without like="
        )
