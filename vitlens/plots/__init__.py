"""One function per figure: results in, plotly figures out. `plot(result)` chooses the one that fits.

Figures are light; `dark(figure)` gives the same one for a dark background.
"""

from functools import singledispatch
from typing import Any

import plotly.graph_objects as go

from vitlens.attribution.direct import Attribution, PatchAttribution, TokenAttribution
from vitlens.attribution.means import AttributionMeans
from vitlens.circuits.circuit import Circuit
from vitlens.circuits.curves import CircuitCurve
from vitlens.description.result import Description
from vitlens.errors import InputError
from vitlens.faithfulness.perturbation import Perturbation
from vitlens.faithfulness.randomisation import Randomisation
from vitlens.faithfulness.result import Faithfulness
from vitlens.faithfulness.segmentation import Segmentation
from vitlens.features.attribution import FeatureAttribution
from vitlens.features.top_examples import TopPatches
from vitlens.heatmaps.methods.saliency import Importance
from vitlens.heatmaps.run import Heatmap
from vitlens.lens.lens import ClassLens
from vitlens.patching.results import Intervention
from vitlens.plots.attention import attention_blocks, attention_grid, attention_mosaic, attention_overlay
from vitlens.plots.attribution import (
    attribution_head_map,
    attribution_map,
    attribution_means_board,
    attribution_patches,
    attribution_waterfall,
)
from vitlens.plots.circuits import circuit_curve, circuit_figure
from vitlens.plots.description import FIGURES as DESCRIPTION_FIGURES
from vitlens.plots.faithfulness import (
    faithfulness_curves,
    faithfulness_table,
    randomisation_curves,
    segmentation_table,
)
from vitlens.plots.features import feature_bars, feature_card
from vitlens.plots.heatmaps import heatmap_comparison, heatmap_figure, heatmap_overlay, importance_maps
from vitlens.plots.lens import class_maps, lens_trajectory, predictions, token_classes
from vitlens.plots.mosaic import class_mosaic
from vitlens.plots.patching import patching_board, patching_figure, patching_maps, path_board
from vitlens.plots.perturbation import perturbation_curves, perturbation_of_batch
from vitlens.plots.registers import register_board
from vitlens.plots.removal import removal_curves
from vitlens.plots.shared.picture import picture_with_grid
from vitlens.plots.shared.style import dark, refusal
from vitlens.registers.neurons import RegisterShift
from vitlens.results.result import Drawable

__all__ = [
    "attention_blocks",
    "attention_grid",
    "attention_mosaic",
    "attention_overlay",
    "attribution_head_map",
    "attribution_map",
    "attribution_means_board",
    "attribution_patches",
    "attribution_waterfall",
    "circuit_curve",
    "circuit_figure",
    "class_maps",
    "class_mosaic",
    "dark",
    "faithfulness_curves",
    "faithfulness_table",
    "feature_bars",
    "feature_card",
    "heatmap_comparison",
    "heatmap_figure",
    "heatmap_overlay",
    "importance_maps",
    "lens_trajectory",
    "patching_board",
    "patching_maps",
    "path_board",
    "perturbation_curves",
    "perturbation_of_batch",
    "picture_with_grid",
    "plot",
    "predictions",
    "randomisation_curves",
    "refusal",
    "register_board",
    "removal_curves",
    "segmentation_table",
    "token_classes",
]


@singledispatch
def plot(result: Drawable, **options: Any) -> go.Figure:
    """The figure for a result; options are those of the figure's own function."""
    raise InputError(f"there is no figure for a {type(result).__name__} yet; to_frame() gives its numbers")


@plot.register
def _(result: ClassLens, pixels: Any = None, **options: Any) -> go.Figure:
    """Maps over the picture where `pixels` are given, else the trajectory of a token."""
    return lens_trajectory(result, **options) if pixels is None else class_maps(result, pixels, **options)


@plot.register
def _(result: Attribution, **options: Any) -> go.Figure:
    if result.settings["unit"] == "head":
        return attribution_head_map(result, **options)
    return attribution_waterfall(result, **options)


@plot.register
def _(result: PatchAttribution, pixels: Any = None, **options: Any) -> go.Figure:
    """What patches wrote through which heads, over the picture where `pixels` are given, else blocks × heads."""
    if pixels is None:
        return attribution_head_map(result, **options)
    return attribution_patches(result, pixels, **options)


@plot.register
def _(result: TokenAttribution, pixels: Any = None, **options: Any) -> go.Figure:
    """Each patch's share over the picture where `pixels` are given, else the largest."""
    if pixels is None:
        return attribution_waterfall(result, **options)
    return attribution_map(result, pixels, **options)


@plot.register
def _(result: AttributionMeans, **options: Any) -> go.Figure:
    return attribution_means_board(result, **options)


@plot.register
def _(result: Heatmap, pixels: Any = None, **options: Any) -> go.Figure:
    """The map over its picture, which must be given."""
    if pixels is None:
        raise InputError("a heatmap is drawn over its picture: pass pixels=model.to_pixels(images)[0]")
    return heatmap_figure(result, pixels, **options)


@plot.register
def _(result: Faithfulness, **options: Any) -> go.Figure:
    """The table; the curves are `faithfulness_curves(result)`."""
    return faithfulness_table(result, **options)


@plot.register
def _(result: Segmentation, **options: Any) -> go.Figure:
    return segmentation_table(result, **options)


@plot.register
def _(result: Randomisation, **options: Any) -> go.Figure:
    return randomisation_curves(result, **options)


@plot.register
def _(result: Description, what: str = "norms", **options: Any) -> go.Figure:
    """One of the figures of `vitlens.plots.description`, by name."""
    if what not in DESCRIPTION_FIGURES:
        raise InputError(f"there is no figure {what!r} of a description; there are {', '.join(DESCRIPTION_FIGURES)}")
    return DESCRIPTION_FIGURES[what](result, **options)


@plot.register
def _(result: TopPatches, pixels: Any = None, feature: int | None = None, **options: Any) -> go.Figure:
    """The card of a feature, by default the first that was looked for; the pictures must be given."""
    if pixels is None:
        raise InputError("patches are shown as pictures: pass pixels=model.to_pixels(images)")
    return feature_card(result, pixels, result.axes["feature"][0] if feature is None else feature, **options)


@plot.register
def _(result: FeatureAttribution, **options: Any) -> go.Figure:
    return feature_bars(result, **options)


@plot.register
def _(result: Importance, pixels: Any = None, **options: Any) -> go.Figure:
    """Maps over the picture, which must be given."""
    if pixels is None:
        raise InputError("a heatmap is drawn over its picture: pass pixels=model.to_pixels(images)[0]")
    return importance_maps(result, pixels, **options)


@plot.register
def _(result: Perturbation) -> go.Figure:
    return perturbation_of_batch(result)


@plot.register
def _(result: Intervention, pixels: Any = None) -> go.Figure:
    """Maps over the picture of every patch, sender × receiver of paths, else block × token set, head or neuron."""
    return patching_figure(result, pixels)


@plot.register
def _(result: Circuit) -> go.Figure:
    return circuit_figure(result)


@plot.register
def _(result: CircuitCurve) -> go.Figure:
    return circuit_curve(result)


@plot.register
def _(result: RegisterShift, pixels: Any = None, **options: Any) -> go.Figure:
    """Maps over a picture, which must be given."""
    if pixels is None:
        raise InputError("norms and attention are drawn over their picture: pass pixels=model.to_pixels(images)[0]")
    return register_board(result, pixels, **options)
