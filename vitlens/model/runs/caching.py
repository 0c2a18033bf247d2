"""TransformerLens' `hooks`, `run_with_hooks` and `run_with_cache`, which also take shorthands of hook names."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint, LensHandle
from transformer_lens.utilities import Slice, SliceInput

from vitlens.errors import InputError
from vitlens.model.hooks.cache import ViTActivationCache
from vitlens.model.hooks.hook_points import NO_TOKENS, Direction, NamesFilter, OwnedHookPoint, Reader, resolve_names
from vitlens.model.placement import read_device
from vitlens.model.runs.leaves_state import leaves_state


class NamedHooks(HookedRootModule):
    """TransformerLens' HookedRootModule, with hook points named by shorthands, keys, collections or predicates."""

    def add_hook(self, name: NamesFilter, hook: Callable, *args: Any, **kwargs: Any) -> None:
        """TransformerLens' add_hook; `name` may be a shorthand, a collection or a predicate."""
        for full_name in resolve_names(name, self.hook_dict):
            super().add_hook(full_name, hook, *args, **kwargs)

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Iterable[tuple[NamesFilter, Callable]] = (),
        bwd_hooks: Iterable[tuple[NamesFilter, Callable]] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator["NamedHooks"]:
        """TransformerLens' `hooks`, for the thread that enters it: runs of other threads are not affected."""
        added: list[tuple[OwnedHookPoint, LensHandle]] = []
        directions: tuple[tuple[Direction, Iterable], ...] = (("fwd", fwd_hooks), ("bwd", bwd_hooks))
        try:
            for direction, pairs in directions:
                for name, hook in map(_as_pair, pairs):
                    for full_name in resolve_names(name, self.hook_dict):
                        point = cast(OwnedHookPoint, self.hook_dict[full_name])
                        added.append((point, point.add_hook(hook, direction, level=1)))
            yield self
        finally:
            if reset_hooks_end:
                for point, handle in added:
                    point.remove(handle)
                if clear_contexts:
                    self.clear_contexts()

    @leaves_state
    def run_with_hooks(self, *model_args: Any, **keywords: Any) -> Any:
        """TransformerLens' `run_with_hooks`; a run that fails or is stopped removes its hooks too.

        Examples:
            >>> import vitlens
            >>> model, images, labels, masks = vitlens.load_demo()
            >>> def without_head_1(z, hook):
            ...     z[:, :, 1] = 0
            >>> logits = model.run_with_hooks(images[:2], fwd_hooks=[("z3", without_head_1)])
            >>> bool((logits == model(images[:2])).all())
            False
        """
        return super().run_with_hooks(*model_args, **keywords)

    @leaves_state
    def run_with_cache(  # type: ignore[override]
        self,
        images: Tensor | dict[str, Tensor],
        *model_args: Any,
        names_filter: NamesFilter = None,
        device: str | torch.device | None = None,
        remove_batch_dim: bool = False,
        incl_bwd: bool = False,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        pos_slice: Slice | SliceInput = None,
        **model_kwargs: Any,
    ) -> tuple[Any, ViTActivationCache]:
        """The model's output and the activations of the run.

        Args:
            images: as `forward`.
            names_filter: what to keep: None (everything, the results of heads included), a name or shorthand, a collection,
                a predicate. The last is what saves memory: for ViT-B/16 the patterns alone are 22 MB a picture.
            device: where to keep the activations; by default where they are.
            remove_batch_dim: drop the batch axis (one picture only).
            incl_bwd: also keep gradients of the (scalar) output, as `name + "_grad"`; parameters' `.grad` stay as they are.
            pos_slice: which tokens to keep of activations that have them.

        Raises:
            InputError: a name that matches nothing, or one that this run did not reach.

        Examples:
            >>> import vitlens
            >>> model, images, labels, masks = vitlens.load_demo()
            >>> logits, cache = model.run_with_cache(images[:2])
            >>> cache["resid_post", 3].shape, cache["pattern", -1].shape
            (torch.Size([2, 197, 96]), torch.Size([2, 4, 197, 197]))
            >>> cache.patches("resid_post3").shape
            torch.Size([2, 14, 14, 96])
        """
        pictures = next(iter(images.values()), None) if isinstance(images, dict) else images
        if remove_batch_dim and isinstance(pictures, Tensor) and pictures.ndim and len(pictures) != 1:
            raise InputError(f"remove_batch_dim needs a single picture, not {len(pictures)}")
        names = resolve_names(names_filter, self.hook_dict)
        # On the meta device a cache keeps shapes alone.
        device = device if str(device) == "meta" else read_device(device)
        cache, fwd_hooks, bwd_hooks = self.get_caching_hooks(
            names, incl_bwd, device, remove_batch_dim, pos_slice=pos_slice
        )
        with self.hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            output = self(images, *model_args, **model_kwargs)
            if incl_bwd:
                self._backward(output)
        missed = [name for name in names if name not in cache]
        if missed and names_filter is not None:
            raise InputError(
                f"names_filter names {missed[0]}, but this run did not reach it "
                "(start_at_layer and stop_at_layer choose the blocks that run)"
            )
        return output, ViTActivationCache(cache, self, not remove_batch_dim, _grid_of(self, images))

    def get_caching_hooks(
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: str | torch.device | None = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
        pos_slice: Slice | SliceInput = None,
    ) -> tuple[dict[str, Tensor], list, list]:
        """TransformerLens' caching hooks; tokens are cut along the axis that each hook point declares."""
        cache = {} if cache is None else cache
        try:
            cut = Slice.unwrap(pos_slice)
        except ValueError:
            raise InputError(f"pos_slice is a token, a slice or a list of tokens, not {pos_slice!r}") from None

        def save(activation: Tensor, hook: HookPoint, suffix: str) -> None:
            kept = activation.detach()
            if hook.pos_dim != NO_TOKENS:
                kept = _cut(kept, hook, cut, pos_slice)
            kept = kept.to(device)
            cache[f"{hook.name}{suffix}"] = kept[0] if remove_batch_dim else kept

        names = resolve_names(names_filter, self.hook_dict)
        fwd_hooks = [(name, Reader(partial(save, suffix=""))) for name in names]
        bwd_hooks = [(name, partial(save, suffix="_grad")) for name in names] if incl_bwd else []
        return cache, fwd_hooks, bwd_hooks

    def _backward(self, output: Tensor) -> None:
        """Sends gradients through the hook points without touching any parameter's `.grad`."""
        if output.numel() != 1 or not output.requires_grad:
            raise InputError(
                'incl_bwd needs a scalar output with gradients: pass return_type="loss" and labels=, outside no_grad'
            )
        leaves = [parameter for parameter in self.parameters() if parameter.requires_grad]
        torch.autograd.grad(output.squeeze(), leaves, allow_unused=True)


def _grid_of(model: Any, images: Any) -> tuple[int, int] | None:
    """Rows and columns of patches, where the run began with pictures."""
    return model.embed.grid(*images.shape[-2:]) if isinstance(images, Tensor) and images.ndim == 4 else None


def _cut(activation: Tensor, hook: HookPoint, cut: Slice, asked: Slice | SliceInput) -> Tensor:
    try:
        return cut.apply(activation, dim=hook.pos_dim)  # type: ignore[arg-type]
    except IndexError:
        n_tokens = activation.shape[hook.pos_dim or NO_TOKENS]
        raise InputError(
            f"pos_slice={asked!r} names a token that {hook.name} does not have: it has {n_tokens}"
        ) from None


def _as_pair(pair: Any) -> tuple[NamesFilter, Callable]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise InputError(f"hooks are a list of pairs (name, function), and {pair!r} is none")
    return pair[0], pair[1]
