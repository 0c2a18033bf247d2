"""Through which heads the edges of a page lead, of the most influential ones."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vitlens.circuits.graphs.edge_heads import edge_heads
from vitlens.circuits.graphs.graph import AttributionGraph
from vitlens.circuits.graphs.replacement import Transcoders
from vitlens.model.hooked_vit import HookedViT
from vitlens.pages.explorer.measure.quantise import as_numpy, linear_codes
from vitlens.pages.graph.measure.flow import Flow


def heads_of_edges(
    model: HookedViT,
    image: Float[Tensor, "1 channels height width"],
    graph: AttributionGraph,
    transcoders: Transcoders,
    flow: Flow,
    n_edges: int,
    progress: bool | None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """heads_edge [h], the place among the page's edges; heads_codes [h, head] with heads_scale [h], the part of it that
    each head brought, scale · code / 127; and the heads' names, the last of which stands for paths through none."""
    found = edge_heads(model, image, graph, transcoders=transcoders, n_edges=n_edges, progress=progress)
    node = {label: i for i, label in enumerate(graph.nodes)}
    held = {pair: i for i, pair in enumerate(zip(flow.edge_target.tolist(), flow.edge_source.tolist(), strict=True))}
    edges = [
        held.get((node[target], node[source]), -1) for target, source in zip(found.targets, found.sources, strict=True)
    ]
    on_page = np.array(edges, dtype=np.int32)
    codes, scale = linear_codes(as_numpy(found.values)[on_page >= 0], np.int8)
    tensors = {"heads_edge": on_page[on_page >= 0], "heads_codes": codes, "heads_scale": scale}
    return tensors, [str(label) for label in found.axes["head"]]
