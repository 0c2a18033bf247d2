"""Influence, scores, pruning and supernodes, each against its definition written out on one dense matrix of all nodes."""

import numpy as np
import pytest
import torch
from ported import borrow
from random_transcoders import transcoders_of
from variants import pictures

from vitlens import InputError, attribution_graph
from vitlens.circuits import AttributionGraph
from vitlens.results.axes import NodeLabel, TokenLabel
from vitlens.results.result import load_result

EXACT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(scope="module")
def graph():
    """Of two logits, with features, errors, embeddings, and a rest."""
    with borrow("class_token") as model:
        image = pictures(model.cfg, 1)
        made = attribution_graph(model, image, [1, 4], transcoders=transcoders_of(model, seed=2), n_nodes=40)
    assert made.left_out.max() > 0.05, made.left_out
    assert {label.kind for label in made.nodes} == {"logit", "feature", "error", "embed", "pos_embed"}
    return made


def by_hand(values, activations=None, **rest_of):
    """A graph from its edges {target: {source: effect}}; targets that begin with "logit" are logits."""
    targets = [label_of(name) for name in values]
    sources = [label_of(name) for name in dict.fromkeys(name for row in values.values() for name in row)]
    sources = [label for label in sources if label.kind not in ("constant", "rest")]
    sources = [*[t for t in targets if t.kind != "logit"], *[s for s in sources if s not in targets]]
    sources += [label_of("constant"), label_of("rest")]
    table = torch.zeros(len(targets), len(sources), dtype=torch.float64)
    for row, of_target in enumerate(values.values()):
        for name, effect in of_target.items():
            table[row, sources.index(name)] = effect
    left_out = [rest_of.get(str(target), 0.0) for target in targets]
    return AttributionGraph(
        table,
        {"target": targets, "source": sources},
        "effect",
        totals=table.sum(dim=1),
        activations=torch.full((len(sources),), torch.nan, dtype=torch.float64),
        left_out=torch.tensor(left_out, dtype=torch.float64),
        tokens=[TokenLabel("class", "prefix"), TokenLabel("(0, 0)", "patch", 0, 0)],
        grid=(1, 1),
        settings={"model": "by hand"},
    )


def label_of(name):
    if name.startswith("logit"):
        return NodeLabel(name, "logit")
    if name in ("constant", "rest"):
        return NodeLabel(name, name)
    if name.startswith(("embed", "error")):
        return NodeLabel(name, name.split()[0], 0 if name.startswith("error") else None, int(name[-1]))
    block, feature, token = (int(part) for part in name.split("."))
    return NodeLabel(name, "feature", block, token, feature)


def dense(graph):
    """All nodes but the constant, the rest among them, in one square matrix of shares, and how the logits are weighted."""
    names = [str(label) for label in graph.targets if label.kind == "logit"]
    names += [str(label) for label in graph.sources if label.kind != "constant"]
    A = np.zeros((len(names), len(names)))
    for row, target in enumerate(graph.targets):
        magnitudes = {
            str(source): abs(effect)
            for source, effect in zip(graph.sources, graph.values[row].tolist(), strict=True)
            if source.kind != "constant" and source != target
        }
        left_out, rest = graph.left_out[row].item(), magnitudes.pop("rest")
        del rest  # its magnitude is not that of its sum
        for name, magnitude in magnitudes.items():
            A[names.index(target), names.index(name)] = magnitude / sum(magnitudes.values()) * (1 - left_out)
        A[names.index(target), names.index("rest")] = left_out
    weights = np.array([1.0 if label in graph.targets and label not in graph.sources else 0.0 for label in names])
    return names, A, weights / weights.sum()


def influence_of(A, weights):
    """Over all paths: w (A + A² + …) = w ((I − A)⁻¹ − I)."""
    return weights @ (np.linalg.inv(np.eye(len(A)) - A) - np.eye(len(A)))


def test_influence_is_a_sum_over_all_paths(graph):
    names, A, weights = dense(graph)
    expected = dict(zip(names, influence_of(A, weights), strict=True))
    found = dict(zip(map(str, graph.sources), graph.influence().tolist(), strict=True))
    assert found.pop("constant") == 0
    assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-9, abs=1e-15)
    ends = [value for node, value in found.items() if not node.startswith("L") or "error" in node]
    assert sum(ends) == pytest.approx(1), "each path ends at an embedding, an error or the rest"
    top = graph.top(5)
    assert top["influence"].is_monotonic_decreasing
    assert [found[node] for node in top["node"]] == pytest.approx(top["influence"].tolist())
    assert top["influence"].max() == max(value for node, value in found.items() if node != "rest")


def test_the_influence_of_a_small_graph():
    small = by_hand(
        {
            "logit a": {"1.0.0": 3.0, "embed 0": -1.0, "constant": 50.0},
            "1.0.0": {"0.0.0": -1.0, "0.1.1": 2.0, "error 0": 1.0},
            "0.0.0": {"embed 1": 5.0},
            "0.1.1": {"embed 0": 4.0, "embed 1": 4.0, "rest": 0.1},
        },
        **{"0.1.1": 0.5},
    )
    assert [*zip(map(str, small.sources), small.influence().tolist(), strict=True)] == [
        ("1.0.0", 0.75), ("0.0.0", 0.1875), ("0.1.1", 0.375), ("embed 0", 0.34375), ("error 0", 0.1875),
        ("embed 1", 0.28125), ("constant", 0.0), ("rest", 0.1875),
    ]  # fmt: skip
    assert small.replacement_score() == pytest.approx(0.625)
    # 1 of the logit, .75 of which 3/4 is no error, .1875 whole, .375 of which half is the rest.
    assert small.completeness_score() == pytest.approx(
        (1 + 0.75 * 0.75 + 0.1875 + 0.375 / 2) / (1 + 0.75 + 0.1875 + 0.375)
    )


def test_scores(graph):
    names, A, weights = dense(graph)
    influence = influence_of(A, weights)
    is_error = np.array(["error" in name or name == "rest" for name in names])
    is_embedding = np.array(["embed" in name for name in names])
    explained, errors = influence[is_embedding].sum(), influence[is_error].sum()
    assert graph.replacement_score() == pytest.approx(explained / (explained + errors), rel=1e-9)
    of_targets = (influence + weights) * A.any(axis=1)
    complete = (of_targets * A[:, ~is_error].sum(axis=1)).sum() / of_targets.sum()
    assert graph.completeness_score() == pytest.approx(complete, rel=1e-9)
    assert 0.05 < graph.replacement_score() < graph.completeness_score() < 0.95


def pruned_by_hand(graph, node_share, edge_share):
    """The names of the nodes and edges that are left, by loops over the dense matrix."""
    names, A, weights = dense(graph)
    rest, logits = names.index("rest"), {i for i, weight in enumerate(weights) if weight}
    influence = influence_of(A, weights)
    influence[rest] = 0
    kept, total = set(logits), 0.0
    for i in np.argsort(-influence):
        if total < node_share * influence.sum() - 1e-12:
            kept.add(int(i))
        total += influence[i]
    kept |= {i for i, name in enumerate(names) if "embed" in name}
    between = np.zeros_like(A)
    for i in kept:
        for j in kept:
            between[i, j] = A[i, j]
        between[i] /= between[i].sum() or 1
    scores = between * (influence_of(between, weights) + weights)[:, None]
    edges, total = set(), 0.0
    for place in np.argsort(-scores, axis=None):
        i, j = divmod(int(place), len(names))
        if total < edge_share * scores.sum() - 1e-12:
            edges.add((i, j))
        total += scores[i, j]
    while True:
        feeds, fed = {j for _, j in edges}, {i for i, _ in edges}
        ends = {i for i in kept if "embed" in names[i] or "error" in names[i]}
        left = logits | {i for i in kept if i in feeds and (i in ends or i in fed)}
        edges = {(i, j) for i, j in edges if i in left and j in left}
        if left == kept:
            return {names[i] for i in kept}, {(names[i], names[j]) for i, j in edges}
        kept = left


@pytest.mark.parametrize("shares", [(0.8, 0.98), (0.5, 0.8), (0.2, 0.5), (1.0, 1.0)])
def test_pruning(graph, shares):
    node_share, edge_share = shares
    small = graph.prune(node_share=node_share, edge_share=edge_share)
    nodes, edges = pruned_by_hand(graph, node_share, edge_share)
    assert {str(label) for label in small.nodes} == nodes
    found = {
        (str(target), str(source)) for target, source in zip(small.edges["target"], small.edges["source"], strict=True)
    }
    assert {edge for edge in found if edge[1] not in ("constant", "rest")} == edges
    torch.testing.assert_close(small.values.sum(dim=1), small.totals, **EXACT)
    rows = [graph.targets.index(label) for label in small.targets]
    torch.testing.assert_close(small.totals, graph.totals[rows])
    names, A, _ = dense(graph)
    for row, target in enumerate(small.targets):
        for column, source in enumerate(small.sources):
            was = graph.values[graph.targets.index(target), graph.sources.index(source)]
            assert small.values[row, column] in (0, was) or source == "rest"
        kept = sum(A[names.index(target), names.index(source)] for i, source in edges if i == target)
        assert small.left_out[row].item() == pytest.approx(1 - kept, rel=1e-9, abs=1e-12)
    columns = [graph.sources.index(label) for label in small.sources]
    torch.testing.assert_close(small.activations, graph.activations[columns], equal_nan=True)
    assert small.settings["node_share"] == node_share
    assert small.replacement_score() <= graph.replacement_score() + 1e-12


def test_pruning_keeps_fewer_nodes_the_smaller_the_share(graph):
    sizes = [len(graph.prune(node_share=share).units) for share in (0.9, 0.97, 0.999)]
    assert 0 < sizes[0] < sizes[1] < sizes[2] <= 40
    once = graph.prune()
    assert set(once.prune().nodes) <= set(once.nodes)


def test_a_supernode_is_the_sum_of_its_members(graph):
    units, errors = graph.units, [label for label in graph.nodes if label.kind == "error"]
    embeddings = [label for label in graph.nodes if label.kind == "embed"]
    members = {"some": [*units[3:6], errors[0]], "one": [units[0]], "the picture": embeddings}
    grouped = graph.group(members)
    owner = {str(member): name for name, some in members.items() for member in some}
    expected: dict[tuple[str, str], float] = {}
    for row, target in enumerate(graph.targets):
        for column, source in enumerate(graph.sources):
            edge = (owner.get(str(target), str(target)), owner.get(str(source), str(source)))
            expected[edge] = expected.get(edge, 0.0) + graph.values[row, column].item()
    found = {
        (str(target), str(source)): grouped.values[row, column].item()
        for row, target in enumerate(grouped.targets)
        for column, source in enumerate(grouped.sources)
    }
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(grouped.values.sum(dim=1), grouped.totals, **EXACT)
    assert grouped.sources.index("some") == 3
    some = next(label for label in grouped.sources if label == "some")
    assert (some.kind, some.feature) == ("group", None)
    one = next(label for label in grouped.targets if label == "one")
    assert (one.block, one.token, one.feature) == (units[0].block, units[0].token, units[0].feature)
    kept = [i for i, label in enumerate(grouped.sources) if label in graph.sources]
    was = [graph.sources.index(grouped.sources[i]) for i in kept]
    torch.testing.assert_close(grouped.activations[kept], graph.activations[was], equal_nan=True)
    assert grouped.activations[grouped.sources.index("some")].isnan()
    assert grouped.settings["supernodes"]["one"] == [units[0]]
    # A row that has no edge from or to a member stays what it was.
    untouched = graph.group({"one": [units[0]]})
    torch.testing.assert_close(untouched.values, graph.values)
    torch.testing.assert_close(untouched.left_out, graph.left_out, **EXACT)
    torch.testing.assert_close(untouched.influence(), graph.influence(), **EXACT)
    names, A, weights = dense(grouped)
    influence = dict(zip(names, influence_of(A, weights), strict=True))
    assert grouped.influence()[3].item() == pytest.approx(influence["some"], rel=1e-9)
    torch.testing.assert_close(grouped.prune().values.sum(dim=1), grouped.prune().totals, **EXACT)


def test_what_is_left_out_of_a_supernode():
    small = by_hand(
        {
            "logit a": {"0.0.0": 1.0, "0.1.0": -3.0},
            "0.0.0": {"embed 0": 1.0, "embed 1": 1.0, "rest": 2.0},
            "0.1.0": {"embed 0": 3.0, "rest": -1.0},
        },
        **{"0.0.0": 0.5, "0.1.0": 0.25},
    )
    grouped = small.group({"both": ["0.0.0", "0.1.0"]})
    assert grouped.values.tolist() == [[-2.0, 0.0, 0.0, 0.0, 0.0], [0.0, 4.0, 1.0, 0.0, 1.0]]
    # Magnitudes of 2 and of 1 are in the rest, beside edges of 4 and of 1.
    assert grouped.left_out.tolist() == pytest.approx([0.0, 3 / 8])


def test_supernodes_are_proposed_for_what_units_have_in_common():
    edges = {
        "logit a": {"1.0.0": 5.0, "1.1.0": -4.0, "1.2.1": 0.5},
        "1.0.0": {"0.0.0": 1.0, "0.0.1": 2.0},
        "1.1.0": {"0.0.0": 2.1, "0.0.1": 4.0},
        "1.2.1": {"0.1.0": 1.0},
        "0.0.0": {"embed 0": 1.0},
        "0.0.1": {"embed 1": 1.0},
        "0.1.0": {"embed 0": 2.0},
    }
    small = by_hand(edges)
    assert small.propose_supernodes("feature") == {"L0 feature 0 at 2 tokens": ["0.0.1", "0.0.0"]}
    assert small.propose_supernodes("input", min_similarity=0.99) == {
        "1.0.0 and 1 more": ["1.0.0", "1.1.0"],
        "0.0.0 and 1 more": ["0.0.0", "0.1.0"],
    }
    by_output = small.propose_supernodes("output", min_similarity=0.99)
    assert by_output == {"0.0.1 and 1 more": ["0.0.1", "0.0.0"], "1.0.0 and 1 more": ["1.0.0", "1.2.1"]}
    assert small.propose_supernodes(min_similarity=0.99) == {}
    assert [len(members) for members in small.propose_supernodes(min_similarity=-1.0).values()] == [6]
    assert small.group({}).sources == small.sources
    assert len(small.group(by_output).sources) == len(small.sources) - 2


def test_edges_of_a_node(graph):
    into = graph.edges_into("logit of class 1", 1000)
    assert into["effect"].sum() == pytest.approx(graph.totals[0].item(), rel=1e-9)
    assert into["effect"].abs().is_monotonic_decreasing
    assert into["share"].sum() == pytest.approx(1)
    assert into.iloc[:3].equals(graph.edges_into("logit of class 1", 3))
    unit = graph.units[-1]
    out = graph.edges_from(unit, 3)
    for _, (target, effect, share) in out.iterrows():
        place = graph.targets.index(target), graph.sources.index(unit)
        assert effect == graph.values[place].item() != 0
        assert share == pytest.approx(graph.shares()[place].item())
    with pytest.raises(InputError, match="no node 'L0 feature'; the nearest names are L0 feature"):
        graph.edges_into("L0 feature")
    with pytest.raises(InputError, match="nothing leads to it"):
        graph.edges_into("embed at class")
    with pytest.raises(InputError, match="it is a logit"):
        graph.edges_from("logit of class 4")


def test_files(graph, tmp_path):
    small = graph.prune()
    grouped = graph.group(graph.propose_supernodes("feature"))
    for one in (small, grouped):
        one.save(tmp_path / "graph.safetensors")
        again = load_result(tmp_path / "graph.safetensors", AttributionGraph)
        torch.testing.assert_close(again.values, one.values, rtol=0, atol=0)
        assert again.axes == one.axes
        assert [label.kind for label in again.nodes] == [label.kind for label in one.nodes]
        assert again.settings == one.settings
        torch.testing.assert_close(again.influence(), one.influence())
    assert next(iter(again.settings["supernodes"].values()))[0].kind == "feature"


def test_what_cannot_be_read_so(graph):
    unit, other = graph.units[:2]
    for share in (0.0, 1.1, -1.0):
        with pytest.raises(InputError, match="is a share, above 0 and at most 1"):
            graph.prune(node_share=share)
        with pytest.raises(InputError, match="is a share, above 0 and at most 1"):
            graph.prune(edge_share=share)
    wrong = {
        "a list of the names of its nodes": {"a": []},
        "is no node of this graph; the nearest names are": {"a": [unit, "L9 feature"]},
        "a logit, which belongs to no supernode": {"a": ["logit of class 1"]},
        "no node of this graph": {"a": ["rest"]},
        "in two supernodes, 'a' and 'b'": {"a": [unit], "b": [other, unit]},
        "a node is called": {str(unit): [unit, other]},
        "is a text": {" ": [unit]},
    }
    for sentence, supernodes in wrong.items():
        with pytest.raises(InputError, match=sentence):
            graph.group(supernodes)
    grouped = graph.group({"a": [unit, other]})
    for score in (grouped.replacement_score, grouped.completeness_score):
        with pytest.raises(InputError, match=r"before group\(\)"):
            score()
    with pytest.raises(InputError, match="proposed by one of feature, input, output, both"):
        graph.propose_supernodes("kind")
    with pytest.raises(InputError, match="a cosine"):
        graph.propose_supernodes(min_similarity=2.0)
