"""The activations of one run, by name: TransformerLens' cache, that knows tokens and patches."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.utilities import Slice, SliceInput

from vitlens.errors import InputError
from vitlens.model.hook_points import resolve_names


class ViTActivationCache(ActivationCache):
    """`cache["resid_post", 5]`, `cache["pattern", -1]`, `cache["blocks.5.hook_resid_post"]`, `cache.decompose_resid()`.

    The tensors are views of what the model computed, not copies: clone before editing in place.
    """

    model: Any

    def __init__(
        self,
        cache_dict: dict[str, Tensor],
        model: Any,
        has_batch_dim: bool = True,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(cache_dict, model, has_batch_dim)
        self.grid_size = grid or model.cfg.grid_size
        if "hook_embed_norm" in cache_dict:
            # After norm_pre the stream is no sum of embedding and positions: they enter as one normalised term.
            self.has_embed = self.has_pos_embed = False

    def __getitem__(self, key: str | tuple) -> Tensor:
        if isinstance(key, str) and key in self.cache_dict:
            return self.cache_dict[key]
        names = resolve_names(key, list(self.cache_dict))
        if len(names) > 1:
            raise InputError(
                f"{key!r} stands for {len(names)} activations ({names[0]}, …): say the block, "
                f"as in cache[{key!r}, 0], or use stack_activation"
            )
        return self.cache_dict[names[0]]

    def __repr__(self) -> str:
        size = sum(x.numel() * x.element_size() for x in self.cache_dict.values())
        prefix = ", ".join(self.model.cfg.prefix_tokens) or "no prefix tokens"
        first = list(self.cache_dict)[:3]
        return (
            f"ViTActivationCache({len(self.cache_dict)} activations, {size / 2**20:.1f} MiB; "
            f"{self.grid_size[0]} × {self.grid_size[1]} patches, {prefix}; {', '.join(first)}, …)"
        )

    def apply_slice_to_batch_dim(self, batch_slice: Slice | SliceInput) -> "ViTActivationCache":
        sliced = super().apply_slice_to_batch_dim(batch_slice)
        return ViTActivationCache(sliced.cache_dict, self.model, sliced.has_batch_dim, grid=self.grid_size)

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: Literal["all", "mlp", "attn"] = "all",
        apply_ln: bool = False,
        pos_slice: Slice | SliceInput = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Tensor | tuple[Tensor, list[str]]:
        """TransformerLens' decomposition; a model with `norm_pre` has the one term "embed_norm" for its embedding.

        Raises:
            InputError: `apply_ln` for a model with `norm_pre`.
        """
        normed = self.cache_dict.get("hook_embed_norm")
        if normed is None or not incl_embeds:
            return super().decompose_resid(layer, mlp_input, mode, apply_ln, pos_slice, incl_embeds, return_labels)
        if apply_ln:
            raise InputError(
                "decompose_resid(apply_ln=True) is not available for a model with norm_pre: "
                "use vitlens.direct_logit_attribution"
            )
        # As in TransformerLens' own decompositions, a single position drops the token axis.
        cut = pos_slice if isinstance(pos_slice, Slice) else Slice(pos_slice)
        stack, labels = cut.apply(normed, dim=-2)[None], ["embed_norm"]
        if layer != 0 or mlp_input:
            rest, more = super().decompose_resid(layer, mlp_input, mode, False, pos_slice, False, True)
            stack, labels = torch.cat([stack, rest]), [*labels, *more]
        return (stack, labels) if return_labels else stack

    def logit_lens(self, **kwargs: Any) -> Any:
        raise InputError("TransformerLens' logit_lens is for language models: use vitlens.class_lens(model, images)")

    def prefix(self, x: Float[Tensor, "*batch tokens d"]) -> Float[Tensor, "*batch prefix d"]:
        """The class, distillation and register tokens of [..., tokens, d]."""
        return x[..., : self.model.cfg.n_prefix_tokens, :]

    def patches(self, x: Float[Tensor, "*batch tokens d"]) -> Float[Tensor, "*batch rows columns d"]:
        """The patch tokens of [..., tokens, d] on the picture's grid."""
        return x[..., self.model.cfg.n_prefix_tokens :, :].unflatten(-2, self.grid_size)
