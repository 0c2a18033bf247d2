"""Graphs in circuit-tracer's JSON: its schema, field by field, and that nothing of a graph is lost in it."""

import json

import pytest
import torch
from ported import borrow
from random_transcoders import transcoders_of
from variants import pictures

from vitlens import InputError, attribution_graph
from vitlens.circuits import AttributionGraph

#: What circuit-tracer's models ask for, of its version of November 2025: names and types, all without defaults included.
METADATA = {"slug": str, "scan": str, "transcoder_list": list, "prompt_tokens": list, "prompt": str,
            "node_threshold": float, "schema_version": int}  # fmt: skip
Q_PARAMS = {"pinnedIds": list, "supernodes": list, "linkType": str, "clickedId": str, "sg_pos": str}
NODE = {"node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str, "token_prob": float,
        "is_target_logit": bool, "run_idx": int, "reverse_ctx_idx": int, "jsNodeId": str, "clerp": str}  # fmt: skip
LINK = {"source": str, "target": str, "weight": float}


@pytest.fixture(scope="module")
def made():
    with borrow("class_token") as model:
        transcoders = transcoders_of(model, seed=2)
        return attribution_graph(model, pictures(model.cfg, 1), [1, 4], transcoders=transcoders, n_nodes=30)


@pytest.fixture
def written(made, tmp_path):
    made.to_json(tmp_path / "garment.json")
    return json.loads((tmp_path / "garment.json").read_text())


def has(item, fields):
    assert {name: type(item[name]) for name in fields} == fields
    return True


def test_its_schema(made, written):
    assert has(written["metadata"], METADATA)
    assert has(written["qParams"], Q_PARAMS)
    assert all(has(node, NODE) for node in written["nodes"])
    assert all(has(link, LINK) for link in written["links"])
    assert written["metadata"]["slug"] == "garment"
    assert written["metadata"]["prompt_tokens"] == made.tokens
    ids = [node["node_id"] for node in written["nodes"]]
    assert len(set(ids)) == len(ids) == len(made.nodes)
    assert {end for link in written["links"] for end in (link["source"], link["target"])} <= set(ids)
    # The viewer tells nodes apart by these three.
    features = [(node["layer"], node["feature"], node["ctx_idx"]) for node in written["nodes"] if node["feature"] >= 0]
    assert len(set(features)) == len(features)


def test_what_nodes_say(made, written):
    nodes = dict(zip(map(str, made.nodes), written["nodes"], strict=True))
    unit = made.units[0]
    mine = nodes[unit]
    assert (mine["layer"], mine["ctx_idx"], mine["clerp"]) == (str(unit.block), unit.token, unit)
    # Cantor's pairing, undone.
    total = int(((8 * mine["feature"] + 1) ** 0.5 - 1) / 2)
    second = mine["feature"] - total * (total + 1) // 2
    assert (total - second, second) == (unit.block, unit.feature)
    assert mine["activation"] == made.activations[0].item()
    assert {node["feature_type"] for node in nodes.values()} == {
        "logit", "cross layer transcoder", "mlp reconstruction error", "embedding",
    }  # fmt: skip
    logit = nodes["logit of class 4"]
    assert logit["clerp"] == f'Output "class 4" (p={made.probabilities[1]:.3f})'
    assert (logit["feature"], logit["is_target_logit"], logit["token_prob"]) == (4, False, made.probabilities[1].item())
    assert nodes["logit of class 1"]["is_target_logit"]
    # The share of all influence that a node and those above it have: the viewer's slider keeps nodes up to one.
    top = made.top(len(made.sources))
    shares = (top["influence"].cumsum() / top["influence"].sum()).tolist()
    assert [nodes[node]["influence"] for node in top["node"][:20]] == pytest.approx(shares[:20])
    assert max(node["influence"] for node in nodes.values() if node["influence"] is not None) <= 1


def test_links_are_the_edges_between_nodes(made, written):
    names = {node["node_id"]: str(label) for node, label in zip(written["nodes"], made.nodes, strict=True)}
    found = {(names[link["target"]], names[link["source"]]): link["weight"] for link in written["links"]}
    expected = {
        (target, source): effect
        for target, source, effect in made.edges[["target", "source", "effect"]].itertuples(index=False)
        if source not in ("constant", "rest")
    }
    assert found == expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nothing_is_lost(made, tmp_path, dtype):
    kinds = ("values", "totals", "activations", "left_out", "probabilities")
    graph = AttributionGraph(**{**made.content(), **{name: getattr(made, name).to(dtype) for name in kinds}})
    graph.to_json(tmp_path / "graph.json")
    again = AttributionGraph.from_json(tmp_path / "graph.json")
    for name in kinds:
        torch.testing.assert_close(getattr(again, name), getattr(graph, name), rtol=0, atol=0, equal_nan=True)
    assert again.axes == graph.axes
    assert [label.facts and label.token for label in again.sources] == [label.token for label in graph.sources]
    assert again.tokens == graph.tokens
    assert again.tokens[1].row == 0
    assert again.settings == graph.settings
    assert torch.equal(again.classes, graph.classes)
    assert again.pixels is None
    assert (again.grid, again.class_names) == (graph.grid, graph.class_names)
    again.prune().to_json(tmp_path / "small.json")
    torch.testing.assert_close(AttributionGraph.from_json(tmp_path / "small.json").values, graph.prune().values)


def test_supernodes_go_with_it(made, tmp_path):
    path, units = tmp_path / "graph.json", [str(unit) for unit in made.units]
    made.to_json(path, supernodes={"first": units[:2], "second": units[2:5]})
    content = json.loads(path.read_text())
    groups = content["qParams"]["supernodes"]
    assert [group[0] for group in groups] == ["first", "second"]
    assert set(groups[0][1:]) | set(groups[1][1:]) < set(content["qParams"]["pinnedIds"])
    again = AttributionGraph.from_json(path)
    assert again.settings["supernodes"] == {"first": units[:2], "second": units[2:5]}
    # The viewer saves its own state in the file.
    groups[1] = ["renamed", *groups[1][1:3]]
    path.write_text(json.dumps(content))
    edited = AttributionGraph.from_json(path)
    assert edited.settings["supernodes"] == {"first": units[:2], "renamed": units[2:4]}
    edited.to_json(path)
    assert AttributionGraph.from_json(path).settings == edited.settings
    grouped = edited.group(edited.settings["supernodes"])
    torch.testing.assert_close(grouped.values.sum(dim=1), grouped.totals)
    with pytest.raises(InputError, match=r"from before group\(\), and pass supernodes="):
        grouped.to_json(path)
    with pytest.raises(InputError, match="no node of this graph"):
        made.to_json(path, supernodes={"first": ["L9 feature 7 at class"]})


def test_what_holds_no_graph(written, tmp_path):
    path = tmp_path / "other.json"
    with pytest.raises(InputError, match="cannot be read"):
        AttributionGraph.from_json(path)
    for content, sentence in (
        ("{", "cannot be read"),
        ("[]", "holds no attribution graph"),
        (json.dumps({"nodes": [], "links": []}), "of another program"),
        (json.dumps({**written, "nodes": written["nodes"][1:]}), "a broken one"),
        (json.dumps({**written, "vitlens": {}}), "a broken one"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=sentence):
            AttributionGraph.from_json(path)
