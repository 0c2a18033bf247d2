"""The page of attribution graphs: the features that made a decision, drawn over the picture that they are in."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vitlens.arguments import check_count, checked, is_whole, short
from vitlens.choose.classes import Classes, select_classes
from vitlens.choose.texts import takes_text
from vitlens.circuits.graphs.attribution_graph import attribution_graph
from vitlens.circuits.graphs.graph import AttributionGraph
from vitlens.circuits.graphs.replacement import Transcoders, placed_transcoders
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.features.dictionaries.cross_layer import CrossLayerTranscoder
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureBatches, PictureSource
from vitlens.pages.dictionary.labels import FeatureLabels, dictionary_fingerprint, read_feature_labels
from vitlens.pages.graph.graph_explorer import GraphExplorer
from vitlens.pages.graph.measure.units import BlockUnit
from vitlens.pages.graph.measured import PageData, measured_graphs
from vitlens.pages.picture_names import names_of_images

#: More graphs would make the page too large for a browser.
MOST_GRAPHS = 8


@leaves_state
@checked
@takes_text("all")
def explore_graph(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    baseline_classes: Classes = None,
    transcoders: Transcoders = None,
    n_nodes: int = 1000,
    n_edges: int = 2000,
    graphs: AttributionGraph | Sequence[AttributionGraph] | None = None,
    data: PictureSource | None = None,
    feature_labels: Mapping[int, FeatureLabels] | None = None,
    image_names: Sequence[str] | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> GraphExplorer:
    """Makes the attribution graphs of one or a few pictures, and the interactive page about them.

    The page draws each graph by block, as large as can be read, beside its picture. A click on a node shows where in the
    picture it is active, the pictures of `data` in which it is strongest, the classes that it raises, and its edges. Nodes
    can be pinned and grouped, two pictures shown side by side, and all choices are in the page's address.

    Args:
        images: one picture, or up to eight whose graphs are compared.
        classes: whose logits are explained, as `attribution_graph` takes it; by default each picture's predicted class.
        baseline_classes: explain logit(class) − logit(baseline class) instead.
        transcoders: of the model's MLPs, as `attribution_graph` takes them; None: the MLPs' own neurons.
        n_nodes: how many units become nodes of each graph.
        n_edges: of how many edges, the most influential, the page says through which heads they lead; 0: of none.
        graphs: graphs that are there already, one for each picture, in place of `classes`; made with these `transcoders`.
        data: where the units' strongest pictures are looked for, as `stream_activations` takes it; None: nowhere else.
        feature_labels: names of units by block, each as `explore_features` takes them: {3: {12: "grass"}}.
        image_names: of the pictures; by default the files' names.
        batch_size: pictures of a forward over `data`; by default 64, or fewer where these would take much memory.
        progress: show bars; by default on a terminal only.

    Returns:
        GraphExplorer: `.save("graph.html")` writes the page, `.graphs` are the graphs.

    Raises:
        InputError: no picture, or too many; a class that does not exist; graphs of other pictures or transcoders; labels of
            a unit that does not exist; `data` without pictures.

    Source: Ameisen et al. 2025 (Circuit Tracing) for graphs and their display; Bricken et al. 2023 for a feature's card.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> transcoders = vitlens.demo.load_demo_transcoders()
        >>> explorer = vitlens.explore_graph(model, images[4:5], "T-shirt", transcoders=transcoders, n_nodes=30)
        >>> explorer
        GraphExplorer(30 features of 1 picture; .save(path) writes the page)
        >>> explorer.save("graph.html")
    """
    pictures = model.as_images(images)
    if not 1 <= len(pictures) <= MOST_GRAPHS:
        raise InputError(f"the page shows the graphs of 1 to {MOST_GRAPHS} pictures, not of {len(pictures)}")
    names = names_of_images(images, image_names, len(pictures))
    check_count(n_edges, "n_edges", 0)
    labels = _labels(model, transcoders, feature_labels)
    batches = None if data is None else PictureBatches(model, data, batch_size)
    if graphs is None:
        wanted, compared = (_of_each(model, each, len(pictures)) for each in (classes, baseline_classes))
        made = [
            attribution_graph(
                model,
                pictures[i : i + 1],
                wanted[i],
                baseline_classes=compared[i],
                transcoders=transcoders,
                n_nodes=n_nodes,
                progress=progress,
            )
            for i in range(len(pictures))
        ]
    else:
        made = _given(graphs, len(pictures), classes, baseline_classes)
    return GraphExplorer(
        made,
        measured_graphs(model, pictures, made, transcoders, names, PageData(batches, data, labels, n_edges, progress)),
    )


def _of_each(model: HookedViT, classes: Classes, n: int) -> list[Tensor | None]:
    """The classes of each picture; None: the predicted one."""
    if classes is None:
        return [None] * n
    indices = select_classes(model, classes, n, lambda: torch.empty(0)).indices
    return list(indices.expand(n, -1).split(1))


def _given(
    graphs: AttributionGraph | Sequence[AttributionGraph], n: int, classes: Classes, baseline_classes: Classes
) -> list[AttributionGraph]:
    """
    Raises:
        InputError: not one graph for each picture, or classes besides.
    """
    if classes is not None or baseline_classes is not None:
        raise InputError("graphs= have their classes already: leave classes and baseline_classes= out")
    given = [graphs] if isinstance(graphs, AttributionGraph) else graphs
    if not isinstance(given, (list, tuple)) or not all(isinstance(graph, AttributionGraph) for graph in given):
        raise InputError(f"graphs= are what attribution_graph returns, one or a list of them, not {short(graphs)}")
    if len(given) != n:
        raise InputError(f"{len(given)} graphs were given for {n} pictures: pass one for each picture")
    if any(label.kind == "group" for graph in given for label in graph.sources):
        raise InputError("the page groups nodes itself: pass the graph as it was before group()")
    return list(given)


def _labels(
    model: HookedViT, transcoders: Transcoders, given: Mapping[int, FeatureLabels] | None
) -> dict[BlockUnit, str]:
    """The labels of all blocks.

    Raises:
        InputError: no mapping from blocks; a block or a unit that does not exist.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f'feature_labels are labels by block, such as {{3: {{12: "grass"}}}}, not {short(given)}')
    known = _dictionaries(model, transcoders)
    found: dict[BlockUnit, str] = {}
    for block, labels in given.items():
        if not is_whole(block) or block not in known:
            raise InputError(
                f"feature_labels has labels for block {short(block)}, and units that can have some are in blocks "
                f"{', '.join(map(str, known))}"
            )
        n, fingerprint = known[block]
        found |= {(int(block), unit): text for unit, text in read_feature_labels(labels, n, fingerprint).items()}
    return found


def _dictionaries(model: HookedViT, transcoders: Transcoders) -> dict[int, tuple[int, str]]:
    """The number of units of each block, and the fingerprint of its transcoder; "" of neurons."""
    if transcoders is None:
        return {block: (len(layer.mlp.W_out), "") for block, layer in enumerate(model.blocks)}
    found: dict[int, tuple[int, str]] = {}
    for placed in placed_transcoders(model, transcoders):
        for part, source in enumerate(placed.sources):
            sae: Any = placed.sae.of_block(part) if isinstance(placed.sae, CrossLayerTranscoder) else placed.sae
            if source.block is not None:
                found[source.block] = (placed.n_features[part], dictionary_fingerprint(sae))
    return found
