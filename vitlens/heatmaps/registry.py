"""The list of heatmap methods: name, whether it is class-specific, whether it has a sign, and its source."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from vitlens.heatmaps.methods.attention_rollout import attention_rollout
from vitlens.heatmaps.methods.baselines import centre_prior, random_map
from vitlens.heatmaps.methods.beyond_intuition import beyond_intuition
from vitlens.heatmaps.methods.class_projection import class_projection
from vitlens.heatmaps.methods.grad_cam import grad_cam
from vitlens.heatmaps.methods.gradient_rollout import gradient_rollout
from vitlens.heatmaps.methods.head_patch import head_patch, head_patch_by_head
from vitlens.heatmaps.methods.input_gradients import integrated_gradients, smooth_grad
from vitlens.heatmaps.methods.legrad import legrad
from vitlens.heatmaps.methods.occlusion import occlusion
from vitlens.heatmaps.methods.patching_effect import patching_effect
from vitlens.heatmaps.methods.projection_gradient import projection_gradient, projection_gradient_by_head
from vitlens.heatmaps.methods.raw_attention import raw_attention
from vitlens.heatmaps.methods.relevance import relevance_propagation
from vitlens.heatmaps.methods.token_mask import completeness_gap, token_mask
from vitlens.heatmaps.methods.transition_attention import transition_attention
from vitlens.results.frames import Frame

#: What a map may be kept apart by, in the order of the axes.
PARTS = ("block", "head")


@dataclass(frozen=True)
class Method:
    """A heatmap method: `function(model, images, classes, **options)`, without `classes` where it is not class-specific.

    `gap` says by how much its importances miss the difference that they divide, for methods that divide one. `by_head`
    gives the terms [image, block, head, patch] of a method that is a sum over blocks and heads.
    """

    function: Callable[..., Tensor]
    title: str
    source: str
    class_specific: bool = True
    signed: bool = False
    gap: Callable[..., Tensor] | None = None
    by_head: Callable[..., Tensor] | None = None

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def options(self) -> dict[str, object]:
        """The method's own options and their defaults; `batch_size` is that of `heatmap`."""
        return {name: x.default for name, x in keyword_only(self.function).items() if name != "batch_size"}

    @property
    def takes_batch_size(self) -> bool:
        """Whether it runs a picture many times, `batch_size` rows at once."""
        return "batch_size" in keyword_only(self.function)

    @property
    def whole_numbers(self) -> list[str]:
        """The options that are whole numbers, such as steps and blocks."""
        parameters = keyword_only(self.function)
        return [name for name in self.options if parameters[name].annotation in (int, int | None)]

    @property
    def gap_options(self) -> list[str]:
        """The options that `gap` shares with the method."""
        return [] if self.gap is None else list(keyword_only(self.gap))

    @property
    def keeps(self) -> tuple[str, ...]:
        """The parts of the model by which its map can be kept apart."""
        return () if self.by_head is None else PARTS


def keyword_only(function: Callable[..., Tensor]) -> dict[str, inspect.Parameter]:
    """The options of a function: model, images and classes come before them, by their place."""
    parameters = inspect.signature(function).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}


_ALL = [
    Method(
        token_mask,
        "Token-mask integrated gradients",
        "ours: patches enter the sequence bit by bit",
        signed=True,
        gap=completeness_gap,
    ),
    Method(
        head_patch,
        "Head × patch attribution",
        "ours: the exact direct path",
        signed=True,
        by_head=head_patch_by_head,
    ),
    Method(patching_effect, "Activation patching", "ours: patches of an empty picture, one by one", signed=True),
    Method(class_projection, "Class projection", "Vilas et al. 2023", signed=True),
    Method(
        projection_gradient,
        "Projection-gradient",
        "Vilas et al. 2023",
        signed=True,
        by_head=projection_gradient_by_head,
    ),
    Method(gradient_rollout, "Gradient rollout", "Chefer, Gur & Wolf 2021, Generic Attention-model Explainability"),
    Method(relevance_propagation, "Relevance propagation", "Chefer, Gur & Wolf 2021, Beyond Attention Visualization"),
    Method(legrad, "LeGrad", "Bousselham et al. 2024"),
    Method(beyond_intuition, "Beyond Intuition", "Chen et al. 2023"),
    Method(transition_attention, "Transition attention", "Yuan et al. 2021"),
    Method(grad_cam, "Grad-CAM", "Selvaraju et al. 2017"),
    Method(integrated_gradients, "Integrated gradients", "Sundararajan, Taly & Yan 2017", signed=True),
    Method(smooth_grad, "SmoothGrad", "Smilkov et al. 2017"),
    Method(occlusion, "Occlusion", "Zeiler & Fergus 2014", signed=True),
    Method(attention_rollout, "Attention rollout", "Abnar & Zuidema 2020", class_specific=False),
    Method(raw_attention, "Raw attention", "the pattern of the last block", class_specific=False),
    Method(centre_prior, "Centre", "baseline: nearness to the centre", class_specific=False),
    Method(random_map, "Random", "baseline: random numbers", class_specific=False),
]
METHODS: dict[str, Method] = {method.name: method for method in _ALL}


#: What others call these methods, in letters alone: an error says which one is meant.
LITERATURE = {
    **dict.fromkeys(("lrp", "layerwiserelevancepropagation", "transformerattribution"), "relevance_propagation"),
    **dict.fromkeys(("chefer", "cheferattribution"), "gradient_rollout or relevance_propagation"),
    **dict.fromkeys(("gae", "genericattention", "genericattentionmodelexplainability"), "gradient_rollout"),
    **dict.fromkeys(("ig", "integratedgradient"), "integrated_gradients, or token_mask (integrated over the tokens)"),
    **dict.fromkeys(("rollout", "attnrollout", "abnar"), "attention_rollout"),
    **dict.fromkeys(("attention", "attn", "dino", "selfattention"), "raw_attention"),
    "cam": "grad_cam",
    "relprop": "relevance_propagation",
    **dict.fromkeys(("tam", "transitionattentionmaps"), "transition_attention"),
    **dict.fromkeys(("bi", "intuition"), "beyond_intuition"),
    **dict.fromkeys(("vilas", "gradientprojection"), "projection_gradient or class_projection"),
    **dict.fromkeys(("dla", "logitattribution", "directlogitattribution"), "head_patch"),
    **dict.fromkeys(("patching", "activationpatching", "causaltracing"), "patching_effect"),
    **dict.fromkeys(("perturbation", "slidingwindow", "ablation"), "occlusion"),
    **dict.fromkeys(("lens", "logitlens", "classlens"), "class_projection"),
    **dict.fromkeys(("centre", "center", "centerprior"), "centre_prior"),
    "random": "random_map",
}

#: Methods of the literature that are not here, in letters alone, and those here that come nearest.
NOT_INCLUDED = {
    **dict.fromkeys(("gradcampp", "layercam", "xgradcam", "scorecam"), "grad_cam"),
    **dict.fromkeys(("saliency", "gradient", "gradients", "vanillagradient"), "smooth_grad or integrated_gradients"),
    "attnlrp": "relevance_propagation",
}


def heatmap_methods() -> pd.DataFrame:
    """A table of all heatmap methods.

    Its columns are the title, whether the map depends on the class and has a sign, the parts of the model that can be kept
    apart (the argument `heatmap` calls keep), the options with their defaults, and the source.

    Examples:
        >>> import vitlens
        >>> methods = vitlens.heatmaps.heatmap_methods()
        >>> methods.loc["grad_cam", "title"], methods.loc["grad_cam", "source"]
        ('Grad-CAM', 'Selvaraju et al. 2017')
    """
    return Frame(
        {
            "title": method.title,
            "class_specific": method.class_specific,
            "signed": method.signed,
            "keeps": ", ".join(method.keeps),
            "options": ", ".join(f"{name}={value!r}" for name, value in method.options.items()),
            "source": method.source,
        }
        for method in _ALL
    ).set_index(pd.Index(list(METHODS), name="method"))
