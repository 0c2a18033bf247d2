"""Makes the attribution graph of one picture: chooses its nodes by their influence, and computes all edges between."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import check_count, checked
from vitlens.attribution.direct import check_baseline
from vitlens.choose.classes import Classes, ClassSelection, select_classes
from vitlens.choose.texts import takes_text
from vitlens.circuits.graphs.chosen_rows import ChosenRows
from vitlens.circuits.graphs.edges import Sources, unit_label
from vitlens.circuits.graphs.frozen_run import FrozenRun
from vitlens.circuits.graphs.graph import NO_NODES, AttributionGraph
from vitlens.circuits.graphs.graph_run import one_picture
from vitlens.circuits.graphs.logits import logits_as_targets
from vitlens.circuits.graphs.replacement import Transcoders, replaced_run
from vitlens.data.pictures import Pictures
from vitlens.model.class_space.outputs import WITH_PROBABILITIES, probabilities
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.gradients import gradients_disabled
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.model.runs.small_pictures import small_pictures
from vitlens.patching.sweep import InterruptedWarning
from vitlens.results.axes import NodeLabel

#: Passes back between two rankings of the units that may become nodes.
PASSES_PER_RANKING = 4


@leaves_state
@checked
@takes_text("all")
@gradients_disabled()
def attribution_graph(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    baseline_classes: Classes = None,
    transcoders: Transcoders = None,
    n_nodes: int = 1000,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> AttributionGraph:
    """The graph of one decision: which features made the logit of one picture, through which other features.

    Each MLP is replaced by its transcoder plus an error term, so that the run stays what it is; attention patterns, scales
    of norms and gates are frozen. What is left between the MLPs is a linear map, and an edge is exact: what a source writes
    (activation × decoder direction) times the gradient of the target through all frozen paths of attention heads and the
    stream, without passing another MLP. A target is a logit or the pre-activation of a feature at a token.

        Σ_sources effect(source → target) = target     (constants and what is left out are sources, too)

    Nodes are chosen by influence: that of a logit is 1, shared among the targets' sources by the magnitudes of their edges,
    and on through the sources that are targets already. The units with the greatest influence become targets in turn.

    Args:
        images: one picture.
        classes: whose logits are explained; by default the predicted class.
        baseline_classes: explain logit(class) − logit(baseline class) instead.
        transcoders: of the model's MLPs: a mapping from hook points, as `load_saes` returns, a sequence, or one
            cross-layer transcoder. What an MLP without one writes is an error. None: the MLPs' own neurons, without errors.
        n_nodes: how many units become nodes; errors and embeddings are nodes besides.
        batch_size: targets of a pass back; by default 32, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        AttributionGraph with axes target, source.

    Raises:
        InputError: several pictures; no transcoder, or one that does not replace an MLP; a class that does not exist;
            hooks whose edits the graph does not see.

    Ctrl-C ends the choice of nodes: the graph has those that were chosen so far, and a warning says how many.

    Source: Ameisen et al. 2025 (Circuit Tracing), section 3; Dunefsky, Chlenski & Nanda 2024.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> transcoders = vitlens.demo.load_demo_transcoders()
        >>> graph = vitlens.attribution_graph(model, images[4:5], "T-shirt", transcoders=transcoders, n_nodes=50)
        >>> graph
        AttributionGraph(effect [target 51, source 1628], -11.8 to 5.65)
    """
    check_count(n_nodes, "n_nodes")
    picture = one_picture(model, images)
    run, replacements = replaced_run(model, picture, transcoders)
    selection = select_classes(model, classes, 1, lambda: run.logits[None])
    baseline = None
    if baseline_classes is not None:
        baseline = select_classes(model, baseline_classes, 1, lambda: run.logits[None])
        check_baseline(selection, baseline)
    sources = Sources(run, replacements)
    size = batch_size or sources.targets_at_once
    wanted = min(n_nodes, sources.n_units)
    compared = None if baseline is None else baseline.indices
    rows = ChosenRows(sources, *logits_as_targets(run, selection.indices, compared), max(1, wanted))
    try:
        _choose(rows, wanted, size, progress)
    except KeyboardInterrupt:
        warnings.warn(
            f"interrupted: the graph has {len(rows.units)} of {wanted} nodes, the most influential ones",
            InterruptedWarning,
            stacklevel=2,
        )
    return _as_graph(model, picture, rows, selection, baseline, n_nodes)


def _choose(rows: ChosenRows, wanted: int, size: int, progress: bool | None) -> None:
    """Makes the units with the greatest influence targets, some at a time."""
    with ProgressBar(wanted, "attribution graph", "node", progress, -(-wanted // size)) as bar:
        while len(rows.units) < wanted:
            chosen = rows.next_units(min(size * PASSES_PER_RANKING, wanted - len(rows.units)))
            if not len(chosen):
                return
            for places in chosen.split(size):
                rows.add_units(places)
                bar.update(len(places))


def _as_graph(
    model: HookedViT,
    picture: Tensor,
    rows: ChosenRows,
    selection: ClassSelection,
    baseline: ClassSelection | None,
    n_nodes: int,
) -> AttributionGraph:
    sources = rows.sources
    values, left_out = rows.table()
    grid = model.embed.grid(*picture.shape[-2:])
    tokens = model.cfg.token_labels(grid)
    units = [unit_label(*sources.at(place), tokens) for place in rows.units.tolist()]
    others = [
        *sources.labels_besides(tokens),
        *[NodeLabel(name, name) for name in NO_NODES],
    ]
    activations = torch.cat([sources.activations(rows.units), values.new_full((len(others),), torch.nan)])
    logits = [NodeLabel(name, "logit") for name in _logit_names(model, selection, baseline)]
    return AttributionGraph(
        values,
        {"target": [*logits, *units], "source": [*units, *others]},
        "effect",
        totals=rows.totals,
        activations=activations,
        left_out=left_out,
        tokens=tokens,
        grid=grid,
        probabilities=_probabilities(model, sources.run, selection),
        baselines=None if baseline is None else baseline.indices,
        classes=selection.indices,
        class_names=model.class_names,
        pixels=small_pictures(model, picture),
        settings={
            "model": model.cfg.model_name,
            "n_nodes": n_nodes,
            "active_units": sources.n_units,
            "frozen": "attention patterns, norms, gates",
        },
    )


def _probabilities(model: HookedViT, run: FrozenRun, selection: ClassSelection) -> Float[Tensor, "logit"] | None:
    if model.cfg.output not in WITH_PROBABILITIES:
        return None
    return probabilities(run.logits[None], model.cfg.output, selection.take(run.logits[None]))[0]


def _logit_names(model: HookedViT, selection: ClassSelection, baseline: ClassSelection | None) -> list[str]:
    names = [model.class_label(index) for index in selection.indices[0].tolist()]
    if baseline is None:
        return [f"logit of {name}" for name in names]
    others = [model.class_label(index) for index in baseline.indices.expand_as(selection.indices)[0].tolist()]
    return [f"logit of {name} − {other}" for name, other in zip(names, others, strict=True)]
