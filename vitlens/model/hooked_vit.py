"""HookedViT: a timm vision transformer whose intermediate values can be read and edited by name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import FactoredMatrix

from vitlens.data.class_names import check_class_names
from vitlens.data.preprocessing import Preprocessing
from vitlens.errors import InputError
from vitlens.model import capabilities as what_is_exact
from vitlens.model import inputs, loading
from vitlens.model import transformer_lens_tools as tools
from vitlens.model.checks import check_device, check_stream
from vitlens.model.class_space import embeddings, outputs, projection, requirements
from vitlens.model.class_space.classifier import Classifier
from vitlens.model.hooks import cache_size as sizes
from vitlens.model.hooks.hook_points import NO_TOKENS, expose, hook_point
from vitlens.model.other_names import OtherNames
from vitlens.model.parts.pooling import ClassAndMeanPool
from vitlens.model.porting import Parts
from vitlens.model.provenance import IN_HAND, Provenance
from vitlens.model.runs import features, kept_tokens
from vitlens.model.runs.caching import NamedHooks
from vitlens.model.runs.finite import require_finite
from vitlens.model.runs.forward import blocks_to_run, classify, embed_images, pool, run_blocks
from vitlens.model.weights import processing, stacked
from vitlens.model.weights.checks import FiniteWeights
from vitlens.model.weights.stacked import Stacked


class HookedViT(OtherNames, FiniteWeights, NamedHooks):
    """A vision transformer whose parameters are timm's own and whose every step is a hook point.

    Make one with `HookedViT.from_timm`, or with `from_pretrained` of a model of another library. Hook names, shapes and
    tools are TransformerLens': `run_with_cache`, `run_with_hooks`, `hooks`, `add_hook`, `reset_hooks`, `W_Q` … `W_U`.
    Names may be shortened: "pattern" (every block), "pattern5", ("pattern", 5). Dropout and stochastic depth of timm are
    left out: it always computes what timm computes
    in evaluation mode.
    """

    #: Whether classes are directions of the residual stream as it is, with no norm before them.
    reads_stream = False

    #: What embeds the texts that calls take as classes: see `set_text_tower`.
    text_tower: embeddings.EmbedsTexts | None = None

    #: The timm module that holds the parameters too, as a checkpoint of timm names them: no submodule, so that nothing is
    #: counted twice. None where the weights are no longer its own.
    timm_module: Any = None

    def __init__(self, parts: Parts, class_names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.cfg = parts.cfg
        self.class_names = None if class_names is None else check_class_names(class_names, self.cfg.n_classes)
        self.hook_patch_embed = hook_point()
        self.embed = parts.embedding
        self.hook_embed = hook_point()
        if parts.embedding.has_positions:
            self.hook_pos_embed = hook_point()
        self.ln_pre = parts.ln_pre
        if parts.ln_pre is not None:
            self.hook_embed_norm = hook_point()
        self.blocks: Any = nn.ModuleList(parts.blocks)
        self.ln_final = parts.ln_final
        self.pool = parts.pool
        self.hook_pooled = hook_point(NO_TOKENS)
        self.fc_norm = parts.fc_norm
        self.unembed: Classifier | None = parts.unembed
        self.pool_dist = parts.pool_dist
        self.unembed_dist: Classifier | None = parts.unembed_dist
        if self.is_distilled:
            self.hook_pooled_dist = hook_point(NO_TOKENS)
        self.hook_logits = hook_point(NO_TOKENS)
        self.preprocessing = Preprocessing(self.cfg.data_config)
        #: Builds a module of this architecture with re-initialised weights; None if the model was made from a timm module.
        self.architecture: Callable[[], nn.Module] | None = None
        #: Where the weights came from, for pages.
        self.provenance = IN_HAND
        self.setup()
        self.eval()

    from_timm = classmethod(loading.from_timm)
    from_pretrained = classmethod(loading.from_pretrained)
    with_fresh_weights = loading.with_fresh_weights

    # ---- forward -------------------------------------------------------------------------------------------------

    def forward(
        self,
        images: Any,
        return_type: str | None = "logits",
        labels: Tensor | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor | None:
        """The logits [batch, classes] of pictures [batch, channels, height, width].

        Args:
            images: pictures; with `start_at_layer` the residual stream [batch, tokens, d_model] that enters that block.
                A NaFlexVit also reads the dictionary of patches that timm's collator makes.
            return_type: "logits", "probs" (by a softmax over all classes, or by sigmoids: see `set_output`), "loss" (mean
                cross-entropy against `labels`), "features" (what the classifier reads, [batch, d_model] unless its pooling
                has another width), or None.
            labels: for "loss" the class of each picture [batch]; of sigmoids 0 or 1 for every output [batch, classes].
            start_at_layer: first block to run, from the stream given; may be negative, or the number of blocks.
            stop_at_layer: return the stream that would enter this block, and run no further.
            grid: rows and columns of patches of the given stream, if they differ from the model's own (rotary positions).

        Raises:
            InputError: wrong size or channels, NaN, a block that does not exist, or blocks that run backwards; labels that
                do not fit; probabilities or the loss of outputs that are no classes; a run
                that ends in NaN or infinite values (in a run that a hook edits this is a warning).
        """
        first, last = blocks_to_run(self, start_at_layer, stop_at_layer)
        if return_type not in ("logits", "probs", "loss", "features", None):
            raise InputError(f'return_type is "logits", "probs", "loss", "features" or None, not {return_type!r}')
        if (
            return_type in ("probs", "loss")
            and stop_at_layer is None
            and self.cfg.output not in outputs.WITH_PROBABILITIES
        ):
            self.require_probability(
                "a probability" if return_type == "probs" else "a cross-entropy", "take the logits"
            )
        check_device(images, self.device)
        if start_at_layer is None:
            pictures = self.check_images(images)
            layout = self.embed.layout(pictures)
            resid = embed_images(self, pictures)
        else:
            resid = check_stream(images, self.cfg, self.dtype)
            layout = self.embed.layout_of_stream(resid.shape[1], self.cfg.grid_size, grid)
        entering, blocks = resid, range(first, last)
        resid = run_blocks(self, resid, layout, blocks)
        if stop_at_layer is not None:
            return require_finite(resid, "residual streams", self, entering, layout, blocks)
        features = pool(self, resid, layout)
        if return_type == "features":
            pooled = features[0] if len(features) == 1 else torch.stack(features).mean(dim=0)
            return require_finite(pooled, "features", self, entering, layout, blocks)
        logits = expose(self.hook_logits, classify(self, features))
        require_finite(logits, "logits", self, entering, layout, blocks)
        if return_type == "probs":
            return outputs.probabilities(logits, self.cfg.output)
        if return_type == "loss":
            return outputs.loss(self, logits, labels)
        return None if return_type is None else logits

    # ---- what users call on a model: functions of a model, each in the file of its subject ------------------------

    to_images, to_masks, to_pixels = inputs.to_images, inputs.to_masks, inputs.to_pixels
    as_images, as_pair, as_partners = inputs.as_images, inputs.as_pair, inputs.as_partners
    as_masks, read_masks, check_images = inputs.as_masks, inputs.read_masks, inputs.check_images
    patch_grid = inputs.patch_grid
    class_index, class_label = inputs.class_index, inputs.class_label
    block_index, block_indices = inputs.block_index, inputs.block_indices

    set_class_embeddings = embeddings.set_class_embeddings
    with_class_embeddings = embeddings.with_class_embeddings
    set_text_tower = embeddings.set_text_tower
    set_output = outputs.set_output
    require_classifier, require_prediction = requirements.require_classifier, requirements.require_prediction
    predicts = property(requirements.predicts)
    require_probability, require_rank = requirements.require_probability, requirements.require_rank
    require_single_direction = requirements.require_single_direction
    project, project_chosen = projection.project, projection.project_chosen
    read_out, linear_readouts = projection.read_out, projection.linear_readouts

    process_weights_ = processing.process_weights_
    forward_kept, patch_features = kept_tokens.forward_kept, features.patch_features
    capabilities = what_is_exact.capabilities
    cache_size = sizes.cache_size

    accumulated_bias, tl_parameters = tools.accumulated_bias, tools.tl_parameters
    tokens_to_residual_directions = tools.tokens_to_residual_directions
    class_ids, to_single_token, to_tokens = tools.class_ids, tools.to_single_token, tools.to_tokens
    all_head_labels, all_composition_scores = tools.all_head_labels, tools.all_composition_scores

    # ---- weights and facts ---------------------------------------------------------------------------------------

    #: Of every block [L, H, d, d_h], W_O [L, H, d_h, d], W_in [L, d, d_mlp], W_out [L, d_mlp, d], and their biases. What
    #: writes to the stream includes LayerScale; keys and values that heads share are shown once for each of these heads.
    W_Q, W_K, W_V, W_O = Stacked("attn"), Stacked("attn"), Stacked("attn"), Stacked("attn")
    b_Q, b_K, b_V, b_O = Stacked("attn"), Stacked("attn"), Stacked("attn"), Stacked("attn")
    W_in, W_gate, W_out = Stacked("mlp"), Stacked("mlp"), Stacked("mlp")
    b_in, b_gate, b_out = Stacked("mlp"), Stacked("mlp"), Stacked("mlp")

    @property
    def W_pos(self) -> Float[Tensor, "tokens d"]:
        return stacked.positions(self)

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q W_Kᵀ of every head [L, H, d, d]: to which tokens a head attends (before any q/k norm)."""
        return stacked.qk_circuits(self)

    @property
    def OV(self) -> FactoredMatrix:
        """W_V W_O of every head [L, H, d, d]: what a head writes, as a linear map of what it reads."""
        return FactoredMatrix(self.W_V, self.W_O)

    @property
    def classifiers(self) -> list[Classifier]:
        """The classifier, or both classifiers of a distilled model, whose logits are averaged.

        Raises:
            InputError: the model has none.
        """
        if self.unembed is None:
            raise InputError(
                f"{self.cfg.model_name} was loaded without a classifier (num_classes=0), so there is no class to ask "
                "for: give it one with model.set_class_embeddings(weight, names)"
            )
        return [head for head in (self.unembed, self.unembed_dist) if head is not None]

    @property
    def W_U(self) -> Float[Tensor, "d classes"]:
        """The class embeddings as columns; of a distilled model, the mean of its two classifiers.

        Where class token and mean of the patches are read side by side, the sum of their two halves: what a class reads if
        every token is the same.

        Raises:
            InputError: the model has no classifier; its pooling makes vectors of another width than the stream's.
        """
        heads = self.classifiers
        weight = sum([head.weight for head in heads[1:]], heads[0].weight).T / len(heads)
        if isinstance(self.pool, ClassAndMeanPool):
            return weight[: self.cfg.d_model] + weight[self.cfg.d_model :]
        if len(weight) != self.cfg.d_model:
            raise InputError(
                f"the classifier of {self.cfg.model_name} reads {len(weight)} numbers and the stream has "
                f"{self.cfg.d_model}, so its weights are no directions of the stream: use vitlens.class_lens or "
                "vitlens.direct_logit_attribution"
            )
        return weight

    @property
    def b_U(self) -> Float[Tensor, "classes"]:
        heads = self.classifiers
        biases = [head.weight.new_zeros(len(head.weight)) if head.bias is None else head.bias for head in heads]
        return sum(biases[1:], biases[0]) / len(biases)

    @property
    def is_distilled(self) -> bool:
        """Whether the model also reads a distillation token; the logits are then the mean of two classifiers."""
        return self.pool_dist is not None

    @property
    def read_tokens(self) -> slice:
        """The tokens that the classifier reads."""
        return self.pool.tokens

    @property
    def device(self) -> torch.device:
        return self.embed.patch_embed_weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.patch_embed_weight.dtype

    # ---- torch's own ----------------------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """torch's method; `provenance` then says that the weights were replaced."""
        self.provenance = Provenance("put in with load_state_dict")
        if assign:
            # Other parameters then stand here in place of those that timm's module has too.
            self.timm_module = None
        return super().load_state_dict(state_dict, strict, assign)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        applied = super()._apply(fn, recurse)
        if recurse and self.timm_module is not None:
            # Parameters are shared and stay so; buffers are replaced by others.
            self.timm_module._apply(fn)
        return applied

    def train(self, mode: bool = True) -> "HookedViT":
        """Stays in evaluation mode.

        Raises:
            InputError: `mode` is True.
        """
        if mode:
            raise InputError(
                "a HookedViT always computes in evaluation mode: train the timm module and port it again, or take "
                "gradients as they are (they need no training mode)"
            )
        super().train(False)
        return self

    def __repr__(self) -> str:
        cfg = self.cfg
        prefix = " + ".join(("", *cfg.prefix_tokens))
        outputs_are = "1 output" if cfg.n_classes == 1 else f"{cfg.n_classes or 'no'} outputs"
        answers = f"{cfg.n_classes} classes" if cfg.output == "softmax" else f"{outputs_are} ({cfg.output})"
        n_parameters = sum(parameter.numel() for parameter in self.parameters())
        return (
            f"HookedViT({cfg.model_name}: {cfg.n_layers} blocks × {cfg.n_heads} heads, d_model {cfg.d_model}, "
            f"{cfg.grid_size[0]} × {cfg.grid_size[1]} patches{prefix}, {cfg.pool} pooling, {answers}, "
            f"{n_parameters / 1e6:.1f} M parameters, {str(self.dtype).removeprefix('torch.')} on {self.device}, "
            f"{len(self.hook_dict)} hook points)"
        )
