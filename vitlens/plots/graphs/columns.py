"""The figure of an attribution graph: a column for each block, from the embeddings to the logits, with the edges between."""

import math
from collections import defaultdict

import plotly.graph_objects as go

from vitlens.arguments import check_count
from vitlens.circuits.graphs.graph import EMBEDDINGS, NO_NODES, AttributionGraph
from vitlens.plots.shared.series import legend_below
from vitlens.plots.shared.style import AXIS, COLOURS, LOWERS, NEUTRAL, RAISES, finish, in_percent, text
from vitlens.results.axes import NodeLabel

#: How often the share of the influence that is drawn is halved in search of the one that leaves few enough nodes.
HALVINGS = 8
LEAST_SHARE = 1e-6
#: What a node is, by its mark: symbol, colour, and the word of the legend.
NODE_MARKS = {
    "logit": ("square", COLOURS[1], "logits"),
    "feature": ("circle", COLOURS[0], "features"),
    "neuron": ("circle", COLOURS[0], "neurons"),
    "group": ("hexagon", COLOURS[5], "supernodes"),
    "error": ("diamond", NEUTRAL, "errors"),
    "embed": ("square", COLOURS[2], "embeddings"),
    "pos_embed": ("triangle-up", COLOURS[3], "positions"),
    "embed_norm": ("square", COLOURS[2], "embeddings"),
}
SMALLEST_MARK, LARGEST_MARK = 9, 26
N_STEPS = 5
#: Pixels between two nodes of a column.
ROW_HEIGHT = 40
NodePlace = tuple[float, float]


def attribution_graph_figure(graph: AttributionGraph, n_nodes: int = 30) -> go.Figure:
    """The nodes that most of the influence goes through: a column for each block, kinds below one another in it.

    A node is the larger the more influence it has. Edges are red where they raise what they lead to and blue where they
    lower it, the wider the more influence goes through them. A feature at several tokens is one node here, and so are the
    embeddings of all tokens, and the positions.

    Args:
        n_nodes: draw at most so many features and errors; the others are pruned.

    Raises:
        InputError: n_nodes is no count.
    """
    joined = graph.group(graph.propose_supernodes("feature"))
    drawn, share = _readable(joined, check_count(n_nodes, "n_nodes"))
    n_drawn, drawn = _n_single(drawn), _with_joined_embeddings(drawn)
    # The influence that nodes have in the whole graph, not in what is drawn of it.
    influence = dict(zip(map(str, joined.sources), joined.influence().tolist(), strict=True))
    influence |= {str(label): 1 / len(_logits(drawn)) for label in _logits(drawn)}
    for label in drawn.nodes:
        if str(label) not in influence:
            members = drawn.settings["supernodes"][str(label)]
            influence[str(label)] = sum(influence[str(member)] for member in members)
    n_blocks = 1 + max((label.block for label in graph.nodes if label.block is not None), default=-1)
    columns = _columns(drawn, n_blocks)
    where = _places(drawn, columns, influence)
    figure = go.Figure()
    _draw_edges(figure, drawn, where, influence)
    _draw_nodes(figure, drawn, where, influence)
    names = {0: "embeddings", max(columns.values()): "logits"}
    steps = range(int(max(columns.values())) + 1)
    figure.update_xaxes(
        tickvals=list(steps), ticktext=[names.get(step, f"L{step - 1}") for step in steps], side="top", showgrid=False,
        zeroline=False, range=[-0.6, max(steps) + 0.6],
    )  # fmt: skip
    lowest = min(y for _, y in where.values())
    figure.update_yaxes(visible=False, range=[lowest - 0.8, 0.8])
    n_all = _n_single(graph)
    finish(
        figure,
        f"What made the {text(', '.join(_logits(graph)))}",
        f"{text(str(graph.settings['model']))}; {n_drawn:,} of {n_all:,} nodes: with {in_percent(share)} of the influence"
        "<br>size of a node, width of an edge: the influence that goes through it",
        height=200 + math.ceil(ROW_HEIGHT * (1 - lowest)),
        margin={"l": 30, "r": 30, "t": 120, "b": 70},
    )
    return legend_below(figure)


def _readable(graph: AttributionGraph, n_nodes: int) -> tuple[AttributionGraph, float]:
    """The largest part of the graph that has at most so many units and errors, and its share of the influence."""

    def n_between(part: AttributionGraph) -> int:
        return sum(label.kind not in ("logit", *EMBEDDINGS) for label in part.nodes)

    if n_between(graph) <= n_nodes:
        return graph, 1.0
    low, high, best = 0.0, 1.0, graph.prune(node_share=LEAST_SHARE, edge_share=LEAST_SHARE)
    for _ in range(HALVINGS):
        share = (low + high) / 2
        pruned = graph.prune(node_share=share, edge_share=share)
        if n_between(pruned) > n_nodes:
            high = share
        else:
            low, best = share, pruned
    return best, low


def _n_single(graph: AttributionGraph) -> int:
    members = graph.settings.get("supernodes", {})
    return sum(len(members[str(label)]) if label.kind == "group" else 1 for label in graph.nodes)


def _with_joined_embeddings(graph: AttributionGraph) -> AttributionGraph:
    """Patches are many, and a name for each would hide the rest."""
    found: dict[str, list[str]] = defaultdict(list)
    for label in graph.nodes:
        if label.kind in EMBEDDINGS:
            found[f"{NODE_MARKS[label.kind][2]} of {{}} tokens"].append(str(label))
    return graph.group({name.format(len(members)): members for name, members in found.items()})


def _logits(graph: AttributionGraph) -> list[NodeLabel]:
    return [label for label in graph.targets if label.kind == "logit"]


def _columns(graph: AttributionGraph, n_blocks: int) -> dict[str, float]:
    """The column of each node: 0 of embeddings, 1 of block 0; a supernode stands in the middle of its members."""
    members = graph.settings.get("supernodes", {})
    found = {}
    for label in graph.nodes:
        blocks = _blocks(label, members)
        found[str(label)] = float(n_blocks + 1) if label.kind == "logit" else sum(blocks) / len(blocks) + 1
    return found


def _blocks(label: NodeLabel, members: dict[str, list[NodeLabel]]) -> list[int]:
    """The blocks of a node or of a supernode's members; −1 of what enters block 0."""
    labels = members.get(str(label), [label]) if label.kind == "group" else [label]
    return [-1 if label.block is None else label.block for label in labels]


def _places(graph: AttributionGraph, columns: dict[str, float], influence: dict[str, float]) -> dict[str, NodePlace]:
    """Where each node stands: in its column kinds below one another, and of a kind the most influential first."""
    order = list(NODE_MARKS)
    below: dict[float, int] = defaultdict(int)
    found = {}
    for label in sorted(graph.nodes, key=lambda label: (order.index(label.kind), -influence[str(label)])):
        column = columns[str(label)]
        # Neighbouring columns are out of step, so that names do not run into each other.
        found[str(label)] = (column, -below[column])
        below[column] += 1
    # Columns hang in the middle, and neighbours out of step, so that names do not run into each other.
    longest = max(below.values())
    return {
        name: (column, y - (longest - below[column]) // 2 - (0.5 if column % 2 else 0.0))
        for name, (column, y) in found.items()
    }


def _draw_edges(
    figure: go.Figure, graph: AttributionGraph, where: dict[str, NodePlace], influence: dict[str, float]
) -> None:
    """Edges of one colour and width are one trace, for a figure of thousands of traces would be slow."""
    edges = graph.edges
    edges = edges[~edges["source"].isin(NO_NODES)]
    through = edges["share"] * edges["target"].astype(str).map(influence)
    largest = max(through.max(), 1e-12) if len(edges) else 1.0
    steps = (N_STEPS * (through / largest) ** 0.5).map(math.ceil).clip(lower=1)
    signs = (edges["effect"] >= 0).map({True: RAISES, False: LOWERS})
    for (step, colour), rows in edges.groupby([steps, signs]):
        ends = [
            (where[str(source)], where[str(target)])
            for source, target in zip(rows["source"], rows["target"], strict=True)
        ]
        figure.add_trace(
            go.Scatter(
                x=[x for (x0, _), (x1, _) in ends for x in (x0, x1, None)],
                y=[y for (_, y0), (_, y1) in ends for y in (y0, y1, None)],
                mode="lines", line={"color": colour, "width": 0.6 + 0.8 * step},
                opacity=0.2 + 0.6 * step / N_STEPS, hoverinfo="skip", showlegend=False,
            )
        )  # fmt: skip
    for colour, name in ((RAISES, "raises"), (LOWERS, "lowers")):
        if (signs == colour).any():
            mark = {"color": colour, "width": 2.5}
            figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name=name, line=mark))


def _draw_nodes(
    figure: go.Figure, graph: AttributionGraph, where: dict[str, NodePlace], influence: dict[str, float]
) -> None:
    largest = max(influence[str(label)] for label in graph.nodes if label.kind != "logit") if graph.sources[2:] else 1.0
    for kind in dict.fromkeys(label.kind for label in graph.nodes):
        nodes = [label for label in graph.nodes if label.kind == kind]
        symbol, colour, word = NODE_MARKS[kind]
        sizes = [min(1.0, (influence[str(label)] / (largest or 1.0)) ** 0.5) for label in nodes]
        figure.add_trace(
            go.Scatter(
                x=[where[str(label)][0] for label in nodes], y=[where[str(label)][1] for label in nodes],
                mode="markers+text", name=word, text=[_name(label, graph) for label in nodes], textposition="top center",
                textfont={"size": AXIS}, hoverinfo="text", hovertext=[_told(graph, label, influence) for label in nodes],
                marker={
                    "symbol": symbol, "color": colour, "line": {"width": 0},
                    "size": [SMALLEST_MARK + (LARGEST_MARK - SMALLEST_MARK) * size for size in sizes],
                },
            )
        )  # fmt: skip


def _name(label: NodeLabel, graph: AttributionGraph) -> str:
    """What stands at a node: its column says the block, its mark the kind."""
    if label.kind == "group" and label.feature is not None:
        return text(f"{label.feature} at {len(graph.settings['supernodes'][str(label)])} tokens")
    if label.kind in ("logit", "group"):
        return text(str(label).removeprefix("logit of "))
    token = "" if label.token is None else str(graph.tokens[label.token])
    return text(token if label.feature is None else f"{label.feature} at {token}")


def _told(graph: AttributionGraph, label: NodeLabel, influence: dict[str, float]) -> str:
    """A node's influence, and the strongest edges from and into it."""
    lines = [f"{text(str(label))}", f"influence {influence[str(label)]:.3f}"]
    if label in graph.targets:
        into = graph.edges_into(str(label), 6)
        ends = zip(into["source"], into["effect"], strict=True)
        lines += [f"total {graph.totals[graph.targets.index(label)].item():+.3f}"]
        lines += [f"from {text(str(source))} {effect:+.3f}" for source, effect in ends]
    if label in graph.sources:
        out = graph.edges_from(str(label), 4)
        lines += [
            f"to {text(str(end))} {effect:+.3f}" for end, effect in zip(out["target"], out["effect"], strict=True)
        ]
    return "<br>".join(lines)
