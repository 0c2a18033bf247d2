"""The activations of one run by name: TransformerLens' cache with the tokens and patches of a picture."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.utilities import Slice, SliceInput

from vitlens.errors import InputError
from vitlens.model.hooks.hook_points import HookName, resolve_names, shortest_key, typed_key


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
        try:
            names = resolve_names(key, self.cache_dict, self.model.cfg.n_layers)
        except InputError:
            if self._is_of_model(key):
                raise InputError(
                    f"{key!r} is a hook point of the model, but it is not in this cache: run_with_cache keeps it if "
                    "names_filter= names it"
                ) from None
            raise
        if len(names) > 1:
            shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
            raise InputError(
                f"{key!r} names {len(names)} activations ({shown}): name one of them, as in "
                f"cache[{typed_key(shortest_key(names[0], self.cache_dict))}]"
            )
        return self.cache_dict[names[0]]

    def _is_of_model(self, key: str | tuple) -> bool:
        try:
            return bool(resolve_names(key, self.model.hook_dict))
        except InputError:
            return False

    def _ipython_key_completions_(self) -> list[HookName]:
        """What IPython and Jupyter offer after `cache["`: the shortest keys first, then the full names."""
        keys = {key: None for full in self.cache_dict for key in (shortest_key(full, self.cache_dict), full)}
        return sorted(keys, key=lambda key: isinstance(key, str) and key in self.cache_dict)

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
        """TransformerLens' decomposition; a model with `norm_pre` has the one term "embed_norm" for its embedding."""
        normed = self.cache_dict.get("hook_embed_norm")
        if normed is None or not incl_embeds:
            return super().decompose_resid(layer, mlp_input, mode, apply_ln, pos_slice, incl_embeds, return_labels)
        # As in TransformerLens' own decompositions, a single position drops the token axis.
        cut = _as_slice(pos_slice)
        stack, labels = cut.apply(normed, dim=-2)[None], ["embed_norm"]
        if layer != 0 or mlp_input:
            rest, more = super().decompose_resid(layer, mlp_input, mode, False, pos_slice, False, True)
            stack, labels = torch.cat([stack, rest]), [*labels, *more]
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, layer, mlp_input, pos_slice)
        return (stack, labels) if return_labels else stack

    def apply_ln_to_stack(
        self,
        residual_stack: Float[Tensor, "components *batch_and_tokens d"],
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: Slice | SliceInput = None,
        batch_slice: Slice | SliceInput = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> Float[Tensor, "components *batch_and_tokens d"]:
        """The share of each component in a norm's output, the scale frozen at the run's value (TransformerLens' name).

        TransformerLens' own leaves out the norm's weight, which is right after fold_ln alone, and has no norm after
        the pooling; here the weight is part of the share, and a pooled vector's scale is that of all its tokens. The
        norm's bias is no component's. `recompute_ln` gives each component statistics of its own, as a lens does.

        Raises:
            InputError: a block whose norms follow attention and MLP; two norms in a row before the classifier.
        """
        cut, cut_batch = _as_slice(pos_slice), _as_slice(batch_slice)
        if has_batch_dim:
            residual_stack = cut_batch.apply(residual_stack, dim=1)
        name, norm = self._norm_before(layer, mlp_input)
        if norm is None:
            return residual_stack
        if recompute_ln:
            return norm.normalise(residual_stack)
        scale = self[f"{name}.hook_scale"]
        if self.has_batch_dim:
            scale = cut_batch.apply(scale, dim=0)
        if name != "fc_norm":
            scale = cut.apply(scale, dim=-2)
        elif cut.mode != "int":
            # The pooled vector has no token axis: all tokens share its scale.
            scale = scale.unsqueeze(-2)
        return norm.linear_part(residual_stack) / scale

    def _norm_before(self, layer: int | None, mlp_input: bool) -> tuple[str, Any]:
        """Name and module of the norm that reads the stream: of a block, or before the classifier."""
        model = self.model
        if layer not in (None, -1, model.cfg.n_layers):
            if model.cfg.wiring == "post-norm":
                raise InputError(
                    f"the blocks of {model.cfg.model_name} read the stream without a norm: theirs follow attention "
                    "and MLP"
                )
            name = "ln2" if mlp_input and hasattr(model.blocks[layer], "ln2") else "ln1"
            return f"blocks.{layer}.{name}", getattr(model.blocks[layer], name)
        if model.ln_final is not None and model.fc_norm is not None:
            raise InputError(
                f"{model.cfg.model_name} has a norm before and one after its pooling: use vitlens.direct_logit_attribution"
            )
        return ("fc_norm", model.fc_norm) if model.ln_final is None else ("ln_final", model.ln_final)

    def logit_attrs(
        self,
        residual_stack: Float[Tensor, "components *batch_and_tokens d"],
        tokens: Any,
        incorrect_tokens: Any = None,
        pos_slice: Slice | SliceInput = None,
        batch_slice: Slice | SliceInput = None,
        has_batch_dim: bool = True,
    ) -> Float[Tensor, "components *batch_and_tokens"]:
        """Each component's share in the logit of a class (or in the difference of two), token by token.

        TransformerLens' method, with classes (indices or names; a list or tensor has one per picture) where it has
        tokens. The mean over the tokens that the model reads (`model.read_tokens`), summed over components, is the logit
        but for its constant (the biases of classifier and last norm).

        Raises:
            InputError: a class that does not exist; attention or maximum pooling, two classifiers, one with layers or norms
                of its own: a token's share is then no single direction. `vitlens.direct_logit_attribution` takes them all.
        """
        model = self.model
        model.require_classifier()
        model.require_single_direction()
        ids = model.class_ids(tokens).to(residual_stack.device)
        others = None if incorrect_tokens is None else model.class_ids(incorrect_tokens).to(residual_stack.device)
        return super().logit_attrs(residual_stack, ids, others, pos_slice, batch_slice, has_batch_dim)

    def stack_head_results(self, layer: int = -1, *args: Any, **options: Any) -> Any:
        """TransformerLens' method.

        Raises:
            InputError: heads that a norm follows (post-norm blocks), so that their results are not what they add.
        """
        self._require_results_to_be_written("head")
        return super().stack_head_results(layer, *args, **options)

    def stack_neuron_results(self, layer: int, *args: Any, **options: Any) -> Any:
        """TransformerLens' method.

        Raises:
            InputError: neurons that a norm follows (post-norm blocks).
        """
        self._require_results_to_be_written("neuron")
        return super().stack_neuron_results(layer, *args, **options)

    def _require_results_to_be_written(self, unit: str) -> None:
        if self.model.cfg.wiring == "post-norm":
            raise InputError(
                f"a norm follows attention and MLP of {self.model.cfg.model_name}, so a {unit}'s result is not "
                'what it adds to the stream: vitlens.direct_logit_attribution(unit="head") freezes that norm'
            )

    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
        pos_slice: Slice | SliceInput = None,
        return_labels: bool = False,
        project_output_onto: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, list[str]]:
        """TransformerLens' decomposition into heads, neurons (or MLPs), embedding, positions and biases.

        A model with `norm_pre` has the one row "embed_norm" for its embedding, last.
        """
        stack, labels = super().get_full_resid_decomposition(
            layer, mlp_input, expand_neurons, apply_ln, pos_slice, True, project_output_onto
        )
        normed = self.cache_dict.get("hook_embed_norm")
        if normed is not None:
            row = _as_slice(pos_slice).apply(normed, dim=-2)[None]
            if apply_ln:
                row = self.apply_ln_to_stack(row, layer, mlp_input, pos_slice)
            if project_output_onto is not None:
                row = row @ project_output_onto
            stack, labels = torch.cat([stack, row]), [*labels, "embed_norm"]
        return (stack, labels) if return_labels else stack

    def logit_lens(self, **kwargs: Any) -> Any:
        raise InputError("TransformerLens' logit_lens is for language models: use vitlens.class_lens(model, images)")

    def prefix(self, x: Float[Tensor, "*batch tokens d"] | HookName) -> Float[Tensor, "*batch prefix d"]:
        """The class, distillation and register tokens of [..., tokens, d], or of the activation of that name.

        Raises:
            InputError: as `patches`.
        """
        return self._whole_sequence(x)[..., : self.model.cfg.n_prefix_tokens, :]

    def patches(self, x: Float[Tensor, "*batch tokens d"] | HookName) -> Float[Tensor, "*batch rows columns d"]:
        """The patch tokens of [..., tokens, d], or of the activation of that name, on the picture's grid.

        Raises:
            InputError: the axis before the last does not run over all tokens.
        """
        return self._whole_sequence(x)[..., self.model.cfg.n_prefix_tokens :, :].unflatten(-2, self.grid_size)

    def _whole_sequence(self, x: Tensor | HookName) -> Float[Tensor, "*batch tokens d"]:
        activation = x if isinstance(x, Tensor) else self[x]
        n_prefix, (rows, columns) = self.model.cfg.n_prefix_tokens, self.grid_size
        if activation.ndim < 2 or activation.shape[-2] != n_prefix + rows * columns:
            raise InputError(
                f"patches and prefix cut [..., tokens, d] with {n_prefix + rows * columns} tokens "
                f"({n_prefix} + {rows} × {columns}), not {list(activation.shape)}"
            )
        return activation


def _as_slice(cut: Slice | SliceInput) -> Slice:
    return cut if isinstance(cut, Slice) else Slice(cut)
