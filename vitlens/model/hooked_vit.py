"""HookedViT: a timm vision transformer, every intermediate value readable and writable by name."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities import Slice, SliceInput

from vitlens.data.class_names import find_class, infer_class_names
from vitlens.data.pictures import Picture, Preprocessing, as_list
from vitlens.errors import InputError
from vitlens.model.cache import ViTActivationCache
from vitlens.model.checks import check_images, check_stream
from vitlens.model.head import LinearReadout, linear_readout, pool
from vitlens.model.hook_points import NO_TOKENS, NamesFilter, expose, hook_point, resolve_names
from vitlens.model.loading import build_timm
from vitlens.model.porting import Parts, port
from vitlens.model.weights import StackedWeights


class HookedViT(StackedWeights):
    """A vision transformer whose parameters are timm's own and whose every step is a hook point.

    Make one with `HookedViT.from_timm`. Hook names, shapes and tools are TransformerLens': `run_with_cache`,
    `run_with_hooks`, `hooks`, `add_hook`, `reset_hooks`, `W_Q` … `W_U`. Names may be shortened: "pattern" (every block),
    "pattern5", ("pattern", 5). Dropout and stochastic depth of timm are left out: it always computes what timm computes
    in evaluation mode.
    """

    def __init__(self, parts: Parts, class_names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.cfg = parts.cfg
        self.class_names = list(class_names) if class_names is not None else None
        if self.class_names is not None and len(self.class_names) != self.cfg.n_classes:
            raise InputError(f"{len(self.class_names)} class names were given for {self.cfg.n_classes} classes")
        self.hook_patch_embed = hook_point()
        self.embed = parts.embedding
        self.hook_embed = hook_point()
        if parts.embedding.pos_embed is not None:
            self.hook_pos_embed = hook_point()
        self.ln_pre = parts.ln_pre
        if parts.ln_pre is not None:
            self.hook_embed_norm = hook_point()
        self.blocks = nn.ModuleList(parts.blocks)  # type: ignore[assignment]
        self.ln_final = parts.ln_final
        self.hook_pooled = hook_point(NO_TOKENS)
        self.fc_norm = parts.fc_norm
        self.unembed = parts.unembed
        self.unembed_dist = parts.unembed_dist
        if self.is_distilled:
            self.hook_pooled_dist = hook_point(NO_TOKENS)
        self.hook_logits = hook_point(NO_TOKENS)
        self.preprocessing = Preprocessing(self.cfg.data_config)
        self.setup()
        self.eval()

    @classmethod
    def from_timm(
        cls,
        name_or_module: str | nn.Module,
        *,
        pretrained: bool = True,
        checkpoint_path: str | Path | None = None,
        class_names: Sequence[str] | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        **timm_kwargs: Any,
    ) -> "HookedViT":
        """A HookedViT from a timm name or a timm module in hand, whose parameters it then shares.

        Args:
            name_or_module: e.g. "vit_base_patch16_224", or a timm VisionTransformer.
            pretrained: fetch timm's weights; False for random ones.
            checkpoint_path: your own weights (safetensors, or a .pth of tensors); the number of classes is read off it.
            class_names: one per class; by default timm's ImageNet names where the number of classes fits.
            timm_kwargs: everything else timm.create_model takes: img_size, num_classes, reg_tokens, global_pool, …

        Raises:
            InputError: unknown name, no weights, a checkpoint that does not fit, an architecture that is not ported.
        """
        if isinstance(name_or_module, str):
            module = build_timm(name_or_module, pretrained, checkpoint_path, timm_kwargs)
        elif timm_kwargs or checkpoint_path is not None:
            given = ", ".join([*timm_kwargs, *(["checkpoint_path"] if checkpoint_path else [])])
            raise InputError(f"a timm module in hand is taken as it is: {given} goes with a model name")
        else:
            module = name_or_module
        if device is not None or dtype is not None:
            module = module.to(device=device, dtype=dtype)
        parts = port(module)
        return cls(parts, class_names if class_names is not None else infer_class_names(module))

    # ---- forward -------------------------------------------------------------------------------------------------

    def forward(
        self,
        images: Any,
        return_type: str | None = "logits",
        labels: Tensor | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
    ) -> Tensor | None:
        """The logits [batch, classes] of pictures [batch, channels, height, width].

        Args:
            images: pictures; with `start_at_layer` the residual stream [batch, tokens, d_model] that enters that block.
            return_type: "logits", "probs", "loss" (mean cross-entropy against `labels`), or None.
            start_at_layer: first block to run, from the stream given; may be negative, or the number of blocks.
            stop_at_layer: return the stream that would enter this block, and run no further.

        Raises:
            InputError: wrong size or channels, NaN, a block that does not exist.
        """
        end = self.cfg.n_layers
        first = 0 if start_at_layer is None else end if start_at_layer == end else self.block_index(start_at_layer)
        last = end if stop_at_layer in (None, end) else self.block_index(stop_at_layer)
        if start_at_layer is None:
            resid = self._embed_images(self.check_images(images))
        else:
            resid = check_stream(images, self.cfg, self.dtype)
        for block in self.blocks[first:last]:
            resid = block(resid)
        if stop_at_layer is not None:
            return resid
        logits = expose(self.hook_logits, self._read_out(resid))
        if return_type == "logits":
            return logits
        if return_type == "probs":
            return logits.softmax(dim=-1)
        if return_type == "loss":
            if labels is None:
                raise InputError('return_type="loss" needs labels=, the class indices [batch]')
            return nn.functional.cross_entropy(logits, labels)
        if return_type is None:
            return None
        raise InputError(f'return_type is "logits", "probs", "loss" or None, not {return_type!r}')

    def _embed_images(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens d"]:
        patches = self.hook_patch_embed(self.embed.patches(images))
        resid = self.hook_embed(self.embed.with_prefix(patches))
        if self.embed.pos_embed is not None:
            positions = self.embed.positions(self.embed.grid(*images.shape[-2:]))
            resid = resid + expose(self.hook_pos_embed, positions.expand(len(resid), -1, -1))
        return resid if self.ln_pre is None else self.hook_embed_norm(self.ln_pre(resid))

    def _read_out(self, resid: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch out"]:
        if self.ln_final is not None:
            resid = self.ln_final(resid)
        pooled = expose(self.hook_pooled, pool(resid, self.read_tokens))
        if self.fc_norm is not None:
            pooled = self.fc_norm(pooled)
        logits = pooled if self.unembed is None else self.unembed(pooled)
        if self.is_distilled:
            pooled_dist = expose(self.hook_pooled_dist, pool(resid, slice(1, 2)))
            logits = (logits + (pooled_dist if self.unembed_dist is None else self.unembed_dist(pooled_dist))) / 2
        return logits

    @property
    def is_distilled(self) -> bool:
        """Whether the distillation token is read beside the class token; the logits are then the mean of both."""
        return "distillation" in self.cfg.prefix_tokens

    @property
    def read_tokens(self) -> slice:
        """The tokens that the classifier reads (their mean)."""
        return slice(*self.cfg.read_tokens)

    def project(
        self, x: Float[Tensor, "*batch tokens d"], tokens: Sequence[int]
    ) -> Float[Tensor, "*batch tokens classes"]:
        """The class projection p(v) = E ν(v) + b of hidden states at the tokens named, past all hook points (A1).

        ν is the norm between stream and classifier. Of a distilled model the class token is read by its classifier, the
        distillation token by the other, and any other token by the mean of both.
        """
        unembed, *dist_heads = self.classifiers
        for norm in (self.ln_final, self.fc_norm):
            x = x if norm is None else norm.normalise(x)
        logits = unembed(x)
        if dist_heads:
            share = logits.new_tensor([{0: 0.0, 1: 1.0}.get(token, 0.5) for token in tokens])[:, None]
            logits = (1 - share) * logits + share * dist_heads[0](x)
        return logits

    def read_out(self, resid: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch classes"]:
        """The logits that the model would give if this were its last residual stream, past all hook points."""
        unembed, *dist_heads = self.classifiers
        if self.ln_final is not None:
            resid = self.ln_final.normalise(resid)
        pooled = pool(resid, self.read_tokens)
        logits = unembed(pooled if self.fc_norm is None else self.fc_norm.normalise(pooled))
        if dist_heads:
            logits = (logits + dist_heads[0](pool(resid, slice(1, 2)))) / 2
        return logits

    def linear_readouts(self, resid: Float[Tensor, "batch tokens d"]) -> list[LinearReadout]:
        """Frozen-norm linear maps of the last residual stream whose sum is exactly the logits (TRANSFORMERLENS' DLA).

        One for most models, two for a distilled one. `resid` [batch, tokens, d] is the last `resid_post`.
        """
        unembed, *dist_heads = self.classifiers
        readout = linear_readout(resid, self.read_tokens, self.ln_final, self.fc_norm, unembed)
        if not dist_heads:
            return [readout]
        dist = linear_readout(resid, slice(1, 2), self.ln_final, None, dist_heads[0])
        return [readout * 0.5, dist * 0.5]

    def block_index(self, layer: int) -> int:
        """The block's number counted from 0; -1 is the last.

        Raises:
            InputError: there is no such block.
        """
        n_layers = self.cfg.n_layers
        if not -n_layers <= layer < n_layers:
            raise InputError(f"there is no block {layer}: the model has blocks 0 to {n_layers - 1}")
        return layer % n_layers

    def block_indices(self, layers: Sequence[int] | None) -> list[int]:
        """Several blocks' numbers, each as `block_index`; None means all.

        Raises:
            InputError: there is no such block, or the list is empty.
        """
        chosen = list(range(self.cfg.n_layers)) if layers is None else [self.block_index(layer) for layer in layers]
        if not chosen:
            raise InputError("the list of blocks is empty: name at least one, or pass None for all")
        return chosen

    # ---- input ---------------------------------------------------------------------------------------------------

    def to_images(self, pictures: Picture | Sequence[Picture]) -> Float[Tensor, "batch channels height width"]:
        """Pictures (paths, PIL images, arrays, or a list of them) through the model's own preprocessing.

        Raises:
            InputError: a file that is missing or no picture, an array of another shape.
        """
        chosen = as_list(pictures)
        if not chosen:
            raise InputError("there are no pictures in the list")
        images = torch.stack([self.preprocessing.image(picture) for picture in chosen])
        return images.to(self.device, self.dtype)

    def to_masks(self, masks: Picture | Sequence[Picture]) -> Bool[Tensor, "batch height width"]:
        """Object masks through the geometry of the pictures' preprocessing; pixels that are not 0 are inside."""
        chosen = as_list(masks)
        if not chosen:
            raise InputError("there are no masks in the list")
        return torch.stack([self.preprocessing.mask(mask) for mask in chosen]).to(self.device)

    def to_pixels(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch height width 3"]:
        """Preprocessed pictures back as colours in [0, 1], channels last: what the figures lay their maps over."""
        return self.preprocessing.undo(images)

    def as_images(self, images: Tensor | Picture | Sequence[Picture]) -> Float[Tensor, "batch channels height width"]:
        """A batch of checked pictures from whatever a user has in hand: a tensor is taken as preprocessed."""
        if not isinstance(images, Tensor):
            return self.to_images(images)
        if images.ndim == 3:
            images = images[None]
        return self.check_images(images.to(self.device))

    def check_images(self, images: Any) -> Tensor:
        """Raises InputError unless `images` is [batch, channels, height, width] as this model reads it, and finite."""
        return check_images(images, self.cfg, self.dtype, pads=self.embed.patch_embed.dynamic_img_pad)

    def class_index(self, wanted: int | str | np.integer) -> int:
        """The index of a class given by index or name.

        Raises:
            InputError: no such class (the nearest names are listed), or several.
        """
        return find_class(wanted, self.class_names, self.cfg.n_classes)

    def class_label(self, index: int) -> str:
        return self.class_names[index] if self.class_names is not None else f"class {index}"

    # ---- hooks and caches ----------------------------------------------------------------------------------------

    def add_hook(self, name: NamesFilter, hook: Callable, *args: Any, **kwargs: Any) -> None:
        """TransformerLens' add_hook; `name` may be a shorthand, a collection or a predicate."""
        for full_name in resolve_names(name, list(self.hook_dict)):
            super().add_hook(full_name, hook, *args, **kwargs)

    def _enable_hook(self, name: NamesFilter, hook: Callable, dir: Literal["fwd", "bwd"]) -> None:
        for full_name in resolve_names(name, list(self.hook_dict)):
            self._enable_hook_with_name(full_name, hook, dir)

    def run_with_cache(  # type: ignore[override]
        self,
        images: Tensor,
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
            names_filter: what to keep: None (everything, `hook_result` included), a name or shorthand, a collection,
                a predicate. The last is what saves memory: for ViT-B/16 the patterns alone are 22 MB a picture.
            device: where to keep the activations; by default where they are.
            remove_batch_dim: drop the batch axis (one picture only).
            incl_bwd: also keep gradients of the (scalar) output, as `name + "_grad"`; parameters' `.grad` stay as they are.
            pos_slice: which tokens to keep of activations that have them.

        Raises:
            InputError: a name that matches nothing, or one that this run did not reach.
        """
        if remove_batch_dim and len(images) != 1:
            raise InputError(f"remove_batch_dim needs a single picture, not {len(images)}")
        names = resolve_names(names_filter, list(self.hook_dict))
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
                f"{missed[0]} was asked for, but this run did not reach it "
                "(start_at_layer and stop_at_layer choose the blocks that run)"
            )
        grid = self.embed.grid(*images.shape[-2:]) if images.ndim == 4 else None
        return output, ViTActivationCache(cache, self, not remove_batch_dim, grid)

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
        cut = Slice.unwrap(pos_slice)

        def save(activation: Tensor, hook: HookPoint, suffix: str) -> None:
            kept = activation.detach()
            if hook.pos_dim != NO_TOKENS:
                kept = cut.apply(kept, dim=hook.pos_dim)  # type: ignore[arg-type]
            kept = kept.to(device)
            cache[f"{hook.name}{suffix}"] = kept[0] if remove_batch_dim else kept

        names = resolve_names(names_filter, list(self.hook_dict))
        fwd_hooks = [(name, partial(save, suffix="")) for name in names]
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

    # ---- small things --------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.embed.patch_embed_weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.patch_embed_weight.dtype

    def __repr__(self) -> str:
        cfg = self.cfg
        prefix = " + ".join(("", *cfg.prefix_tokens))
        n_parameters = sum(parameter.numel() for parameter in self.parameters())
        return (
            f"HookedViT({cfg.model_name}: {cfg.n_layers} blocks × {cfg.n_heads} heads, d_model {cfg.d_model}, "
            f"{cfg.grid_size[0]} × {cfg.grid_size[1]} patches{prefix}, {cfg.pool} pooling, {cfg.n_classes} classes, "
            f"{n_parameters / 1e6:.1f} M parameters, {str(self.dtype).removeprefix('torch.')} on {self.device}, "
            f"{len(self.hook_dict)} hook points)"
        )
