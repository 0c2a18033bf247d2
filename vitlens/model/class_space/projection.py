"""Hidden states in class space: the model's classifier, what is put in its place, and the way there as a linear map."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar

from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitlens.data.class_names import check_class_names
from vitlens.errors import InputError
from vitlens.model.class_space.classifier import ClassEmbeddings, Classifier, choose_projection, read_embeddings
from vitlens.model.class_space.readout import LinearReadout, linear_readout
from vitlens.model.config import HookedViTConfig
from vitlens.model.parts.norm import Norm
from vitlens.model.parts.pooling import MeanPool, Pool

Space = TypeVar("Space", bound="ClassSpace")


class ClassSpace(nn.Module):
    """The part of a HookedViT behind the last stream."""

    #: Whether classes are directions of the residual stream as it is, with no norm before them.
    reads_stream = False
    cfg: HookedViTConfig
    class_names: list[str] | None
    ln_final: Norm | None
    pool: Pool
    fc_norm: Norm | None
    unembed: Classifier | None
    pool_dist: Pool | None
    unembed_dist: Classifier | None
    setup: Callable[[], None]

    @property
    def is_distilled(self) -> bool:
        """Whether the distillation token is read beside the class token; the logits are then the mean of both."""
        return self.pool_dist is not None

    @property
    def read_tokens(self) -> slice:
        """The tokens that the classifier reads."""
        return self.pool.tokens

    @property
    def classifiers(self) -> list[Classifier]:
        """The classifier, or the two whose mean a distilled model answers with.

        Raises:
            InputError: the model has none.
        """
        if self.unembed is None:
            raise InputError(
                f"{self.cfg.model_name} was loaded without a classifier (num_classes=0), so there is no class to ask "
                "for: give it one with model.set_class_embeddings(weight, names)"
            )
        return [head for head in (self.unembed, self.unembed_dist) if head is not None]

    def require_classifier(self) -> None:
        """Raises InputError where there is no classifier, before any work is done."""
        self.classifiers  # noqa: B018

    def require_choice(self, quantity: str, instead: str = 'ask for the logit: metric="logit"') -> None:
        """Raises InputError unless the model chooses among at least two classes, as `quantity` ("a rank") needs.

        The softmax over one output is 1 and its rank is 0 whatever the model computes, and so are all ranks among classes
        that are all the same. `instead` is what can be asked for of a single output.
        """
        self.require_classifier()
        if self.cfg.n_classes < 2:
            raise InputError(
                f"{self.cfg.model_name} has a single output, for which {quantity} means nothing (the softmax of one "
                f"number is 1 whatever it is): {instead}"
            )
        weight, bias = self.W_U, self.b_U
        if bool((weight == weight[:, :1]).all()) and bool((bias == bias[:1]).all()):
            raise InputError(
                f"all {self.cfg.n_classes} classes of {self.cfg.model_name} have the same embedding (a classifier that was "
                f"never trained?), so {quantity} means nothing: load trained weights, or model.set_class_embeddings"
            )

    @property
    def W_U(self) -> Float[Tensor, "d classes"]:
        """The class embeddings as columns; of a distilled model, the mean of its two classifiers."""
        heads = self.classifiers
        return sum([head.weight for head in heads[1:]], heads[0].weight).T / len(heads)

    @property
    def b_U(self) -> Float[Tensor, "classes"]:
        heads = self.classifiers
        biases = [head.weight.new_zeros(len(head.weight)) if head.bias is None else head.bias for head in heads]
        return sum(biases[1:], biases[0]) / len(biases)

    def set_class_embeddings(
        self,
        weight: Any,
        names: Sequence[str] | None = None,
        bias: Any = None,
        scale: float = 1.0,
        normalise: bool = False,
        space: str | None = None,
    ) -> None:
        """Makes any linear or zero-shot classifier the class space: of the logits, lens, attribution and metrics.

        logit_c = scale ⟨w_c, f⟩ + b_c. f is what the model's classifier reads ("features", where `weight` is as wide as
        `d_model`) or what its head returns ("output": a CLIP tower's projection into the joint space).

        In place; `with_class_embeddings` leaves this model as it is.

        Args:
            weight: one row per class, [classes, features]: a linear probe, class prototypes, text embeddings.
            names: one per class.
            bias: one number per class.
            scale: CLIP's exp(logit_scale).
            normalise: divide rows and features by their norms, as zero-shot classifiers do.
            space: "features" or "output", where the width of `weight` fits both.

        Raises:
            InputError: widths, names or biases that do not fit; values that are not finite, an embedding of zeros, a scale
                that is not positive.
        """
        weight, bias, scale = read_embeddings(weight, bias, scale, self.cfg.model_name, next(self.parameters()))
        chosen_names = None if names is None else check_class_names(names, len(weight))
        if self.is_distilled and normalise:
            raise InputError("a distilled model averages what two tokens say, which normalised features cannot do")

        def embeddings(head: Classifier | None) -> ClassEmbeddings:
            projection = choose_projection(head, weight.shape[1], self.cfg.d_model, space)
            if projection is None and head is not None and "fold_ln" in self.cfg.processed and not self.reads_stream:
                raise InputError(
                    "fold_ln moved the last norm's affine part into the classifier, so the features are not timm's: "
                    "set these class embeddings on a model without fold_ln"
                )
            return ClassEmbeddings(projection, weight, bias, scale, normalise)

        second = embeddings(self.unembed_dist) if self.is_distilled else None
        self.unembed, self.unembed_dist = embeddings(self.unembed), second
        self.cfg.d_vocab = len(weight)
        self.class_names = chosen_names

    def with_class_embeddings(
        self: Space,
        weight: Any,
        names: Sequence[str] | None = None,
        bias: Any = None,
        scale: float = 1.0,
        normalise: bool = False,
        space: str | None = None,
    ) -> Space:
        """This model, read with any directions in place of its class embeddings: for lens, attribution, patching, heatmaps.

        Weights and hook points are shared with this model, which keeps its own classes.

            text = model.with_class_embeddings(clip_text_features, ["a dog", "a cat"], scale=100.0, normalise=True)
            probe = model.with_class_embeddings(weights, ["striped"], bias, space="residual")

        Args:
            weight: directions [classes, features], or one of them: text embeddings, probe weights, differences of means.
            names, bias, scale, normalise: as in `set_class_embeddings`.
            space: "features", "output", or "residual": the residual stream as it is. Any block's hidden state is then read
                by logit_c = scale ⟨w_c, x⟩ + b_c without any norm, and the model's answer is the mean over the tokens that
                its classifier reads.

        Raises:
            InputError: widths, names or biases that do not fit.
        """
        view = copy(self)
        view._modules = dict(self._modules)
        view.cfg = replace(self.cfg)
        if space == "residual":
            view._read_the_stream()
            space = "features"
        view.set_class_embeddings(weight, names, bias, scale, normalise, space)
        view.setup()
        return view

    def _read_the_stream(self) -> None:
        """Takes away what stands between the residual stream and the classifier."""
        self.reads_stream = True
        self.ln_final, self.fc_norm = None, None
        if not isinstance(self.pool, MeanPool):
            self.pool = MeanPool(self.pool.tokens)

    def _read_like(self, other: "ClassSpace") -> None:
        """Takes over the class embeddings that another model of this architecture was given."""
        if other.reads_stream:
            self._read_the_stream()
        self.unembed, self.unembed_dist = other.unembed, other.unembed_dist
        self.cfg.d_vocab, self.class_names = other.cfg.d_vocab, other.class_names
        self.setup()

    def project(
        self, x: Float[Tensor, "*batch tokens d"], tokens: Sequence[int]
    ) -> Float[Tensor, "*batch tokens classes"]:
        """The class projection p(v) = E ν(v) + b of hidden states at the tokens named, past all hook points (A1).

        p(v) is what the model would answer if every token that it reads were v: ν is the norm between stream and
        classifier, and with attention pooling also the value path and the MLP of the pool. Of a distilled model the
        class token is read by its classifier, the distillation token by the other, any other token by the mean of both.
        """
        unembed, *dist_heads = self.classifiers
        x = self._before_classifier(x)
        logits = unembed(x)
        if dist_heads:
            share = logits.new_tensor([{0: 0.0, 1: 1.0}.get(token, 0.5) for token in tokens])[:, None]
            logits = (1 - share) * logits + share * dist_heads[0](x)
        return logits

    def project_chosen(
        self, x: Float[Tensor, "batch tokens d"], tokens: Sequence[int], classes: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch tokens"]:
        """`project` for one class per picture; a plain linear classifier costs one product a token, not one a class."""
        unembed = self.unembed
        if self.is_distilled or not isinstance(unembed, nn.Linear):
            logits = self.project(x, tokens)
            return logits.gather(-1, classes[:, None, None].expand(-1, logits.shape[1], 1)).squeeze(-1)
        logits = einsum(self._before_classifier(x), unembed.weight[classes], "b t d, b d -> b t")
        return logits if unembed.bias is None else logits + unembed.bias[classes][:, None]

    def _before_classifier(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """What the classifier would read if every token that the model reads were x."""
        if self.ln_final is not None:
            x = self.ln_final.normalise(x)
        x = self.pool.of_one(x)
        return x if self.fc_norm is None else self.fc_norm.normalise(x)

    def read_out(self, resid: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch classes"]:
        """The logits that the model would give if this were its last residual stream, past all hook points."""
        unembed, *dist_heads = self.classifiers
        if self.ln_final is not None:
            resid = self.ln_final.normalise(resid)
        pooled = self.pool.read(resid)
        logits = unembed(pooled if self.fc_norm is None else self.fc_norm.normalise(pooled))
        if dist_heads and self.pool_dist is not None:
            logits = (logits + dist_heads[0](self.pool_dist.read(resid))) / 2
        return logits

    def linear_readouts(self, resid: Float[Tensor, "batch tokens d"]) -> list[LinearReadout]:
        """Linear maps of the last residual stream, everything nonlinear frozen, whose sum is exactly the logits.

        One for most models, two for a distilled one. `resid` [batch, tokens, d] is the last `resid_post`.
        """
        unembed, *dist_heads = self.classifiers
        readout = linear_readout(resid, self.pool, self.ln_final, self.fc_norm, unembed)
        if not dist_heads or self.pool_dist is None:
            return [readout]
        dist = linear_readout(resid, self.pool_dist, self.ln_final, None, dist_heads[0])
        return [readout * 0.5, dist * 0.5]
