"""Attribution graphs in circuit-tracer's JSON, which its viewer opens; what that has no place for stands beside it.

A file has "metadata", "qParams" (the viewer's state, supernodes in it), "nodes" and "links", and under "vitlens" what
completes the rows: the sources that are no nodes, what rows sum to, and the labels.

Source: circuit-tracer (Hanna et al. 2025), its classes Metadata, QParams, Node and Link, schema version 1.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vitlens.circuits.graphs.influence import cumulative_shares
from vitlens.circuits.graphs.supernodes import Supernodes, read_supernodes
from vitlens.errors import InputError
from vitlens.files import write_whole
from vitlens.results.axes import NodeLabel
from vitlens.results.files import pack, unpack

if TYPE_CHECKING:
    from vitlens.circuits.graphs.graph import AttributionGraph

SCHEMA_VERSION = 1
OURS = "vitlens"
#: circuit-tracer's word for each kind of node; embeddings have one word.
FEATURE_TYPES = {
    "logit": "logit",
    "feature": "cross layer transcoder",
    "neuron": "cross layer transcoder",
    "error": "mlp reconstruction error",
}
EMBEDDING_TYPE = "embedding"
#: Fields of a graph that are read from the nodes and links, or that are pictures.
ELSEWHERE = ("values", "pixels")


def write_graph(graph: "AttributionGraph", path: str | Path, supernodes: Supernodes | None) -> None:
    """Writes a graph as circuit-tracer does.

    Raises:
        InputError: nodes are merged to supernodes already; a supernode that the graph cannot have.
    """
    if any(label.kind == "group" for label in graph.sources):
        raise InputError(
            "circuit-tracer's files hold the nodes themselves: write the graph from before group(), and pass supernodes="
        )
    ids = {str(label): _id(graph, label) for label in graph.nodes}
    groups = {} if supernodes is None else read_supernodes(supernodes, graph.nodes)
    members = {name: [ids[str(label)] for label in labels] for name, labels in groups.items()}
    logits = [ids[str(label)] for label in graph.targets if label.kind == "logit"]
    kept = {name: value for name, value in graph.content().items() if name not in ELSEWHERE}
    tensors, rest = pack(kept)
    no_nodes = [i for i, label in enumerate(graph.sources) if str(label) not in ids]
    content = {
        "metadata": {
            "slug": Path(path).stem,
            "scan": str(graph.settings["model"]),
            "transcoder_list": [],
            "prompt_tokens": [str(token) for token in graph.tokens],
            "prompt": ", ".join(str(label) for label in graph.targets if label.kind == "logit"),
            "node_threshold": 1.0,
            "schema_version": SCHEMA_VERSION,
        },
        "qParams": {
            "pinnedIds": [*logits, *(member for some in members.values() for member in some)] if members else [],
            "supernodes": [[name, *some] for name, some in members.items()],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": list(_nodes(graph, ids)),
        "links": list(_links(graph, ids)),
        OURS: {
            "dtype": str(graph.values.dtype).removeprefix("torch."),
            "no_nodes": {str(graph.sources[i]): graph.values[:, i].tolist() for i in no_nodes},
            "tensors": {name: _numbers(value) for name, value in tensors.items()},
            "rest": json.loads(rest),
        },
    }
    write_whole(path, json.dumps(content, allow_nan=False).encode())


def read_graph(path: str | Path) -> dict[str, Any]:
    """The fields of the graph in a file that `write_graph` wrote; the viewer may have changed its supernodes.

    Raises:
        InputError: there is no such file, or it holds no graph of vitlens.
    """
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as an attribution graph: {error}") from error
    if not isinstance(content, dict) or not {"nodes", "links"} <= set(content):
        raise InputError(
            f'{path} holds no attribution graph: it needs "nodes" and "links", as circuit-tracer writes them'
        )
    if OURS not in content:
        raise InputError(
            f"{path} is a graph of another program: it does not say what its rows sum to, which a graph of vitlens does"
        )
    try:
        return _fields(content)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise InputError(f"{path} holds a graph of another version of vitlens, or a broken one: {error}") from None


def _fields(content: dict[str, Any]) -> dict[str, Any]:
    ours = content[OURS]
    dtype = getattr(torch, ours["dtype"])
    tensors = {
        name: torch.tensor(
            [torch.nan if number is None else number for number in value["numbers"]],
            dtype=getattr(torch, value["dtype"]),
        ).reshape(value["shape"])
        for name, value in ours["tensors"].items()
    }
    fields = unpack(tensors, json.dumps(ours["rest"]))
    targets, sources = fields["axes"]["target"], fields["axes"]["source"]
    names = {node["node_id"]: node["vitlens_name"] for node in content["nodes"]}
    rows, columns = ({str(label): i for i, label in enumerate(labels)} for labels in (targets, sources))
    values = torch.zeros(len(targets), len(sources), dtype=dtype)
    for name, column in ours["no_nodes"].items():
        values[:, columns[name]] = torch.tensor(column, dtype=dtype)
    for link in content["links"]:
        values[rows[names[link["target"]]], columns[names[link["source"]]]] = link["weight"]
    settings = dict(fields["settings"])
    groups = content.get("qParams", {}).get("supernodes")
    if groups:
        labels = {str(label): label for label in sources}
        settings["supernodes"] = {name: [labels[names[member]] for member in members] for name, *members in groups}
    return {**fields, "values": values, "settings": settings}


def _nodes(graph: "AttributionGraph", ids: dict[str, str]) -> Iterator[dict[str, Any]]:
    column = {str(label): i for i, label in enumerate(graph.sources)}
    influence = graph.influence()
    places = [column[str(label)] for label in graph.nodes if label.kind != "logit"]
    # The viewer's slider keeps nodes up to a share of all influence.
    cumulative = dict(zip(places, cumulative_shares(influence[places]).clamp_max(1).tolist(), strict=True))
    n_blocks = 1 + max((label.block for label in graph.nodes if label.block is not None), default=-1)
    n_logits = 0
    for label in graph.nodes:
        node: dict[str, Any] = {
            "node_id": ids[str(label)],
            "jsNodeId": ids[str(label)],
            "feature_type": FEATURE_TYPES.get(label.kind, EMBEDDING_TYPE),
            "layer": str(label.block),
            "ctx_idx": label.token or 0,
            "clerp": str(label),
            "run_idx": 0,
            "reverse_ctx_idx": 0,
            "token_prob": 0.0,
            "is_target_logit": False,
            "influence": cumulative.get(column.get(str(label), -1)),
            "activation": None,
            "vitlens_name": str(label),
        }
        if label.kind == "logit":
            probability = _probability(graph, n_logits)
            node |= {
                "layer": str(n_blocks + 1),
                "feature": _class(graph, n_logits),
                "token_prob": probability,
                "is_target_logit": n_logits == 0,
                # The viewer takes the logit's name from between the quotation marks.
                "clerp": f'Output "{str(label).removeprefix("logit of ")}" (p={probability:.3f})',
            }
            n_logits += 1
        elif label.kind == "error":
            node["feature"] = -1
        elif label.feature is None:
            kinds = list(dict.fromkeys(other.kind for other in graph.sources))
            node |= {"layer": "E", "feature": kinds.index(label.kind) * len(graph.tokens) + (label.token or 0)}
        else:
            assert label.block is not None
            activation = graph.activations[column[str(label)]].item()
            node |= {"feature": _paired(label.block, label.feature), "activation": activation}
        yield node


def _links(graph: "AttributionGraph", ids: dict[str, str]) -> Iterator[dict[str, Any]]:
    sources = [ids.get(str(label)) for label in graph.sources]
    targets = [ids[str(label)] for label in graph.targets]
    for row, column in (graph.values != 0).nonzero().tolist():
        if sources[column] is not None:
            weight = graph.values[row, column].item()
            yield {"source": sources[column], "target": targets[row], "weight": weight}


def _id(graph: "AttributionGraph", label: NodeLabel) -> str:
    if label.kind == "logit":
        return f"logit_{graph.targets.index(label)}"
    if label.feature is not None:
        return f"{label.block}_{label.feature}_{label.token}"
    return f"{label.kind}_{label.token}" if label.block is None else f"{label.kind}_{label.block}_{label.token}"


def _paired(x: int, y: int) -> int:
    """Cantor's pairing: a feature of a block as one number, under which the viewer looks for its examples."""
    return (x + y) * (x + y + 1) // 2 + y


def _class(graph: "AttributionGraph", logit: int) -> int:
    return int(graph.classes[0, logit]) if graph.classes is not None else logit


def _probability(graph: "AttributionGraph", logit: int) -> float:
    """That of the logit's class; 0, as circuit-tracer says it, where outputs have none."""
    return 0.0 if graph.probabilities is None else graph.probabilities[logit].item()


def _numbers(tensor: Tensor) -> dict[str, Any]:
    """A tensor as JSON, which has no NaN."""
    numbers = [None if number != number else number for number in tensor.flatten().tolist()]
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "numbers": numbers}
