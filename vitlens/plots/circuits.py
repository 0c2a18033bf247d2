"""Figures of circuits: nodes by block with the edges between them, and how much circuits of growing size explain."""

import math
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb

from vitlens.circuits.circuit import Circuit, parse_edge
from vitlens.circuits.curves import CircuitCurve
from vitlens.circuits.graphs.attention_contributions import AttentionContributions
from vitlens.circuits.graphs.edge_heads import EdgeHeads
from vitlens.circuits.graphs.graph import AttributionGraph
from vitlens.circuits.graphs.validation.graph_validation import GraphValidation
from vitlens.errors import InputError
from vitlens.model.graph import Node
from vitlens.patching.results import require_axes
from vitlens.plots.graphs.checks import contributions_board, edge_heads_board, validation_scatter
from vitlens.plots.graphs.columns import attribution_graph_figure
from vitlens.plots.shared.series import legend_below, line
from vitlens.plots.shared.style import AXIS, FIELD, LOWERS, NEUTRAL, ON_FIELD, RAISES, finish, text

DASHES = {"q": "dot", "k": "dash", "v": "solid", "": "solid"}
#: A head's three inputs stand side by side: so many times the reach of a node's middle to its edge.
SIDE = {"q": -1.0, "k": 0.0, "v": 1.0, "": 0.0}
REACH = 0.012
MLP_RISE = 0.5
#: Edges that a node names on hover, in each direction.
MOST_TOLD = 6
N_WIDTHS = 6
Point = tuple[float, float]


def circuit_figure(circuit: Circuit) -> go.Figure:
    """The circuit from the input (below) to the logits: a row for each block, its heads side by side and its MLP beside.

    An edge is the wider the larger its score, red where it is positive and blue where it is negative, and grey without
    scores. Those into a head's queries are dotted, into its keys dashed, into its values drawn through.

    Raises:
        InputError: the circuit is empty.
    """
    if not len(circuit):
        raise InputError("the circuit is empty: there is nothing to draw")
    ends = {edge: parse_edge(edge) for edge in sorted(circuit.edges)}
    where = _places([node for pair in ends.values() for node in pair])
    figure = go.Figure()
    _draw_edges(figure, circuit, ends, where)
    names = circuit.nodes
    shown = {str(node.owner): where[node.owner] for pair in ends.values() for node in pair}
    figure.add_trace(
        go.Scatter(
            x=[shown[name][0] for name in names], y=[shown[name][1] for name in names], text=names, mode="markers+text",
            marker={
                "size": 38, "color": FIELD, "line": {"width": 0},
                "symbol": ["circle" if Node.of(name).kind == "head" else "square" for name in names],
            },
            textfont={"size": AXIS, "color": ON_FIELD}, showlegend=False,
            hovertext=[_degree(circuit, name) for name in names], hoverinfo="text",
        )
    )  # fmt: skip
    heights = {block: float(y) for block, y in _rows(where).items()}
    width = max(x for x, _ in where.values()) + 1
    figure.update_xaxes(visible=False, range=[-0.8, width - 0.2])
    figure.update_yaxes(
        title="block (its MLP half a row higher)", tickvals=list(heights.values()),
        ticktext=[f"L{block}" for block in heights], showgrid=False, zeroline=False,
    )  # fmt: skip
    finish(
        figure,
        f"Circuit of {len(circuit)} edges between {len(names)} nodes",
        _caption(circuit),
        height=260 + 75 * (max(y for _, y in where.values()) + 1),
        margin={"l": 60, "r": 20, "t": 92, "b": 60},
    )
    return legend_below(figure)


def circuit_curve(curve: CircuitCurve) -> go.Figure:
    """Faithfulness and completeness against the number of edges that are kept, and random circuits of the same sizes.

    Sizes of which nothing is left on a path from input to logits have no place on the logarithmic axis.

    Raises:
        InputError: a run or size was selected; no circuit has an edge.
    """
    require_axes(curve, "run", "size")
    if not {"run", "size"} <= set(curve.axes):
        raise InputError("the curve is drawn from all runs and sizes: plot the result before select()")
    table = curve.summary().rename(columns={curve.quantity: "mean", "n_edges": "edges"})
    table = table[table["edges"] > 0].sort_values("edges", kind="stable")
    if table.empty:
        raise InputError("no circuit has an edge left on a path from the input to the logits: ask for larger sizes")
    figure = go.Figure()
    random = [run for run in curve.axes["run"] if run.startswith("random")]
    grey = "rgba({},{},{},0.55)".format(*hex_to_rgb(NEUTRAL))
    for run in random:
        rows = table[table["run"] == run]
        figure.add_trace(
            go.Scatter(
                x=rows["edges"].to_numpy(), y=rows["mean"].to_numpy(), mode="lines+markers",
                line={"color": grey, "width": 2.5}, marker={"size": 6, "symbol": "x"},
                name="random circuits: faithfulness", legendgroup="random", showlegend=run == random[0],
                hovertemplate=f"{text(run)}<br>%{{x}} edges: %{{y:.3f}}<extra></extra>",
            )
        )  # fmt: skip
    for run, name, colour in (
        ("circuit", "circuit: faithfulness", 0),
        ("complement", "all but the circuit: completeness", 1),
    ):
        line(figure, table[table["run"] == run], "edges", name, colour)
    for level, name, side in ((0, "corrupted run", "bottom left"), (1, "clean run", "top left")):
        grid = {"width": 1, "dash": "dot"}
        figure.add_hline(level, line=grid, annotation_text=name, annotation_position=side)
    decades = np.log10([table["edges"].min(), table["edges"].max()])
    figure.update_xaxes(title="edges in the circuit", type="log", dtick=1 if np.ptp(decades) > 1 else None)
    figure.update_yaxes(title="share of the metric recovered")
    n_images = len(curve.axes["image"])
    under = table[(table["run"] == "circuit") & (table["mean"] < 0)]["edges"].astype(int).tolist()
    below = (
        f"<br>the circuit of {' and of '.join(f'{n:,}' for n in under)} edges does worse than no edge at all"
        if under
        else ""
    )
    finish(
        figure,
        "What circuits explain",
        f"{text(curve.settings['model'])}; {text(curve.metric_name.replace('_', ' '))}: 0 = "
        f"{curve.target.mean().item():+.2f} (corrupted), 1 = {curve.source.mean().item():+.2f} (clean), "
        f"{n_images} pair{'s' * (n_images != 1)}<br>completeness: near 0 if no other edges do it too{below}",
        height=460,
        margin={"l": 60, "r": 20, "t": 92 + 18 * bool(below), "b": 90},
    )
    return legend_below(figure)


def _places(nodes: list[Node]) -> dict[Node, Point]:
    """Where each node stands; columns that no head of the circuit needs are left out, blocks between others are not."""
    owners = {node.owner for node in nodes}
    columns = {head: x for x, head in enumerate(sorted({node.head for node in owners if node.kind == "head"}))}
    blocks = _rows(owners)
    centre = len(columns) / 2
    fixed = {"input": (centre, 0.0), "logits": (centre, len(blocks) + 1.5)}

    def place(node: Node) -> Point:
        if node.kind in fixed:
            return fixed[node.kind]
        y = float(blocks[node.block])
        return (float(columns[node.head]), y) if node.kind == "head" else (float(len(columns)), y + MLP_RISE)

    return {node: place(node) for node in owners}


def _rows(nodes: Iterable[Node]) -> dict[int, int]:
    """The row of each block from the first to the last that has a node."""
    found = [node.block for node in nodes if node.block >= 0]
    return {block: y for y, block in enumerate(range(min(found), max(found) + 1), start=1)} if found else {}


def _draw_edges(
    figure: go.Figure, circuit: Circuit, ends: dict[str, tuple[Node, Node]], where: dict[Node, Point]
) -> None:
    """Edges of one colour, dash and width are one trace, for a figure of thousands of traces would be slow."""
    scores = circuit.scores or {}
    largest = max((abs(scores[edge]) for edge in ends if edge in scores), default=0.0) or 1.0
    groups: dict[tuple[str, str, int], list[str]] = defaultdict(list)
    for edge, (_, reader) in ends.items():
        score = scores.get(edge)
        colour = NEUTRAL if score is None else RAISES if score >= 0 else LOWERS
        step = 1 if score is None else math.ceil(N_WIDTHS * abs(score) / largest)
        groups[colour, reader.part, step].append(edge)
    for (colour, part, step), edges in sorted(groups.items(), key=lambda group: group[0][2]):
        points = [_curve(where, *ends[edge]) for edge in edges]
        figure.add_trace(
            go.Scatter(
                x=[x for curve in points for x in (*curve[0], None)], y=[y for curve in points for y in (*curve[1], None)],
                mode="lines", line={"color": colour, "width": 0.8 + 0.9 * step, "dash": DASHES[part]},
                opacity=0.45 + 0.5 * step / N_WIDTHS, hoverinfo="skip", showlegend=False,
            )
        )  # fmt: skip
        # Lines show their text at their points only: one of them, in the middle.
        figure.add_trace(
            go.Scatter(
                x=[curve[0][len(curve[0]) // 2] for curve in points], y=[curve[1][len(curve[1]) // 2] for curve in points],
                mode="markers", marker={"size": 8, "color": colour, "opacity": 0}, showlegend=False, hoverinfo="text",
                hovertext=[f"{text(edge)}" + (f"<br>score {scores[edge]:+.4f}" if edge in scores else "") for edge in edges],
            )
        )  # fmt: skip
    _explain(figure, {colour for colour, _, _ in groups}, {part for _, part, _ in groups})


def _curve(where: dict[Node, Point], writer: Node, reader: Node) -> tuple[np.ndarray, np.ndarray]:
    """From the writer's top to the reader's input; edges over several blocks bend, so as not to run through others."""
    (x0, y0), (x1, y1) = where[writer], where[reader.owner]
    side = SIDE[reader.part]
    x1 += side * REACH * (max(x for x, _ in where.values()) + 1)
    # A head's inputs bend apart, else the edges from one writer into its queries and keys lie on each other.
    bend = 0.18 * max(0.0, y1 - y0 - 1) * (1 if x1 >= x0 else -1) + 0.04 * side
    t = np.linspace(0, 1, 21)
    return x0 + (x1 - x0) * t + 4 * bend * t * (1 - t), y0 + (y1 - y0) * t + 0.5 * side * t * (1 - t)


def _explain(figure: go.Figure, colours: set[str], parts: set[str]) -> None:
    """What colours and dashes mean, in the legend."""
    signs = {RAISES: "positive score", LOWERS: "negative score"}
    entries = [(name, colour, "solid") for colour, name in signs.items() if colour in colours]
    readers = {"q": "into q", "k": "into k", "v": "into v, MLPs, logits"}
    entries += [(name, NEUTRAL, DASHES[part]) for part, name in readers.items() if part in parts]
    for name, colour, dash in entries:
        figure.add_trace(
            go.Scatter(x=[None], y=[None], mode="lines", name=name, line={"color": colour, "width": 2.5, "dash": dash})
        )


def _degree(circuit: Circuit, name: str) -> str:
    """A node's edges, the strongest first."""
    scores = circuit.scores or {}
    ordered = sorted(circuit.edges, key=lambda edge: (-abs(scores.get(edge, 0.0)), edge))
    ends = [(edge, *edge.split("->")) for edge in ordered]
    into = [edge for edge, _, reader in ends if reader.split("<")[0] == name]
    out = [edge for edge, writer, _ in ends if writer == name]
    lines = [f"{text(name)}: {len(into)} edges in, {len(out)} out"]
    for edges in (into, out):
        lines += [f"{text(edge)}" + (f" {scores[edge]:+.3f}" if edge in scores else "") for edge in edges[:MOST_TOLD]]
    return "<br>".join(lines)


def _caption(circuit: Circuit) -> str:
    """Which model, and how the circuit was found where that is known."""
    how, metric = circuit.settings.get("method"), circuit.settings.get("metric")
    found = f"; found by {text(how)}" if how else ""
    about = f" from effects on the {text(str(metric).replace('_', ' '))}" if metric else ""
    return f"{text(circuit.model_name)}{found}{about}<br>width: size of the score; squares: input, MLPs, logits"


FIGURES = {
    Circuit: circuit_figure,
    AttributionGraph: attribution_graph_figure,
    CircuitCurve: circuit_curve,
    AttentionContributions: contributions_board,
    EdgeHeads: edge_heads_board,
    GraphValidation: validation_scatter,
}
