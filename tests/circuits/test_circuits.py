"""Circuits: pruning by hand, files, what their measures are made of, and circuits that were planted."""

import json

import pytest
import torch
from patching.test_paths import pair
from ported import build

from vitlens import InputError, path_patching
from vitlens.circuits.circuit import Circuit, find_circuit, parse_edge, prune, rank_edges
from vitlens.circuits.curves import CircuitCurve, evaluate_circuits, minimality
from vitlens.circuits.edge_runs import run_edges
from vitlens.model.graph import Graph
from vitlens.planted import PLANTED, planted
from vitlens.plots import circuit_curve, circuit_figure, plot
from vitlens.results.result import load_result

QUIET = {"progress": False, "classes": [1]}
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def as_masks(graph, *circuits):
    return torch.stack([Circuit(frozenset(edges), "by hand").mask(graph) for edges in circuits])


@pytest.fixture
def scored(plain, images_of):
    """A model, its pictures, and the effect of every edge."""
    clean, corrupted = pair(images_of, plain)
    return plain, clean, corrupted, path_patching(plain, clean, corrupted, receivers=None, metric="logit", **QUIET)


# ---- finding them ------------------------------------------------------------------------------------------------------


def test_pruning_by_hand(plain):
    graph = Graph(plain)
    path = {"input->L0H1<q>", "L0H1->L1H3<k>", "L1H3->logits"}
    dangling = {"input->L0 mlp", "L0H2->logits", "L0H0->L1H3<v>", "L1H3->L1 mlp", "input->L2H0<v>"}
    kept = prune(graph, as_masks(graph, path | dangling)[0])
    assert torch.equal(kept, as_masks(graph, path)[0])
    assert torch.equal(prune(graph, kept), kept)
    assert not prune(graph, as_masks(graph, dangling)[0]).any()
    assert torch.equal(prune(graph, graph.exists), graph.exists)


def table(graph, scores):
    values = torch.zeros(graph.exists.shape, dtype=torch.float64)
    for edge, score in scores.items():
        writer, reader = edge.split("->")
        values[graph.writer_index[writer], graph.reader_index[reader]] = score
    return values


def test_the_order_in_which_edges_are_taken(plain):
    graph = Graph(plain)
    # The best edge leads to L0 mlp, which greedy growth knows only once L0 mlp->logits, the worst of them, has been taken.
    scores = {"input->L0 mlp": 0.9, "L2H0->logits": 0.5, "input->L2H0<v>": 0.7, "L0 mlp->logits": 0.2}
    named = {
        method: [f"{graph.writers[w]}->{graph.readers[r]}" for w, r in rank_edges(graph, table(graph, scores), method)]
        for method in ("threshold", "greedy")
    }
    assert named["threshold"][:4] == ["input->L0 mlp", "input->L2H0<v>", "L2H0->logits", "L0 mlp->logits"]
    assert named["greedy"][:4] == ["L2H0->logits", "input->L2H0<v>", "L0 mlp->logits", "input->L0 mlp"]
    for order in named.values():
        assert sorted(order) == sorted(graph.edges())


@pytest.mark.parametrize("method", ["threshold", "greedy"])
@pytest.mark.parametrize("signed", [False, True])
def test_circuits_from_scores(method, signed, scored):
    model, _, _, scores = scored
    graph = Graph(model)
    n_all = int(graph.exists.sum())
    circuit = find_circuit(model, scores, n_edges=30, method=method, signed=signed)
    assert 0 < len(circuit) <= 30
    assert circuit.nodes[0] == "input"
    assert circuit.nodes[-1] == "logits"
    assert torch.equal(prune(graph, circuit.mask(graph)), circuit.mask(graph))
    effect = scores.effect()
    for edge, score in circuit.scores.items():
        writer, reader = edge.split("->")
        assert score == pytest.approx(effect[graph.writer_index[writer], graph.reader_index[reader]].item())
    rank = effect if signed else effect.abs()
    if method == "threshold":
        least = rank[graph.exists].sort(descending=True).values[29].item()
        assert find_circuit(model, scores, min_score=least, signed=signed) == circuit
    assert len(find_circuit(model, scores, n_edges=n_all, method=method, signed=signed)) == n_all
    assert circuit.settings["method"] == method
    assert repr(circuit) == f"Circuit({circuit.model_name}: {len(circuit)} edges between {len(circuit.nodes)} nodes)"


def test_names_of_edges():
    writer, reader = parse_edge("L11H3->L12H10<k>")
    assert (str(writer), str(reader)) == ("L11H3", "L12H10<k>")
    assert (writer.block, reader.head, reader.part) == (11, 10, "k")
    circuit = Circuit(frozenset({"input->L0H1<v>", "input->L0H1<q>", "L0H1->L0 mlp", "L0 mlp->logits"}), "by hand")
    assert circuit.nodes == ["input", "L0H1", "L0 mlp", "logits"]
    assert "L0 mlp->logits" in circuit
    assert "L1 mlp->logits" not in circuit


@pytest.mark.parametrize(
    "edge",
    ["L0H1", "logits->L0 mlp", "L0H1<q>->L0 mlp", "L0 mlp->L1H0", "L0 mlp->input", "L0 mlp -> logits", "x->L1 mlp"],
)
def test_what_is_no_edge(edge):
    with pytest.raises(InputError, match="no name of an edge"):
        Circuit(frozenset({edge}), "by hand")


def test_files(tmp_path, scored):
    model, _, _, scores = scored
    circuit = find_circuit(model, scores, n_edges=40, method="greedy")
    circuit.to_json(tmp_path / "circuit.json")
    again = Circuit.from_json(tmp_path / "circuit.json")
    assert again == circuit
    assert again.scores == circuit.scores
    assert again.settings == circuit.settings
    by_hand = {"model_name": "mine", "edges": ["input->logits"], "scores": {"input->logits": 1}}
    (tmp_path / "hand.json").write_text(json.dumps(by_hand))
    assert Circuit.from_json(tmp_path / "hand.json").scores == {"input->logits": 1.0}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "cannot be read as a circuit"),
        ("[]", "holds no circuit"),
        ('{"edges": []}', "holds no circuit"),
        ('{"edges": "input->logits", "model_name": "m"}', "holds no circuit"),
        ('{"edges": ["input"], "model_name": "m"}', "'input' is no name of an edge"),
        ('{"edges": [3], "model_name": "m"}', "'3' is no name of an edge"),
        ('{"edges": ["L2H1->L2H0<q>"], "model_name": "m"}', "runs backwards: L2H1 writes after"),
        ('{"edges": ["L2 mlp->L2 mlp"], "model_name": "m"}', "runs backwards"),
        ('{"edges": ["L3H1->L2 mlp"], "model_name": "m"}', "runs backwards"),
        ('{"edges": [], "model_name": "m", "scores": {"input->logits": "much"}}', "holds no circuit"),
        ('{"edges": [], "model_name": "m", "scores": [1]}', "holds no circuit"),
        ('{"edges": [], "model_name": "m", "settings": [1]}', "holds no circuit"),
    ],
)
def test_files_that_hold_no_circuit(content, sentence, tmp_path):
    (tmp_path / "circuit.json").write_text(content)
    with pytest.raises(InputError, match=sentence):
        Circuit.from_json(tmp_path / "circuit.json")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Circuit.from_json(tmp_path / "none.json")


# ---- how well they explain the model -----------------------------------------------------------------------------------


def test_faithfulness_and_completeness_are_what_they_are_called(scored, tmp_path):
    model, clean, corrupted, scores = scored
    graph = Graph(model)
    n_all = int(graph.exists.sum())
    curve = evaluate_circuits(
        model, clean, corrupted, scores=scores, sizes=[60, 30, n_all], metric="logit", n_draws=2, **QUIET
    )
    assert curve.axes["size"] == [30, 60, n_all]
    assert curve.axes["run"] == ["circuit", "complement", "random 1", "random 2"]
    with torch.no_grad():
        before, after = model(corrupted)[:, 1], model(clean)[:, 1]
    for place, size in enumerate(curve.axes["size"]):
        circuit = find_circuit(model, scores, n_edges=size)
        mask = circuit.mask(graph)
        own, rest = run_edges(graph, clean, corrupted, torch.stack([mask, graph.exists & ~mask]))[..., 1]
        expected = [((run - before).mean() / (after - before).mean()) for run in (own, rest)]
        torch.testing.assert_close(curve.faithfulness()[place], expected[0], **EXACT)
        torch.testing.assert_close(curve.completeness()[place], expected[1], **EXACT)
        assert curve.n_edges["circuit"][place] == len(circuit) <= curve.n_edges["random 1"][place]
    for run in ("circuit", "random 1"):
        torch.testing.assert_close(curve.select(run=run).effect()[-1], torch.ones((), dtype=torch.float64), **EXACT)
    assert abs(curve.completeness()[-1]) < 1e-9
    table = curve.summary()
    assert list(table.columns) == ["run", "size", "n_edges", "faithfulness", "low", "high"]
    assert (table["low"] <= table["high"] + 1e-9).all()
    assert len(curve.select(run="circuit").summary()) == 3
    again = evaluate_circuits(
        model, clean, corrupted, scores=scores, sizes=[60, 30, n_all], metric="logit", n_draws=2, **QUIET
    )
    assert torch.equal(again.values, curve.values)
    curve.save(tmp_path / "curve.safetensors")
    loaded = load_result(tmp_path / "curve.safetensors")
    assert isinstance(loaded, CircuitCurve)
    assert loaded.n_edges == curve.n_edges
    given = evaluate_circuits(
        model,
        clean,
        corrupted,
        scores=[find_circuit(model, scores, n_edges=n) for n in (30, 60)],
        metric="logit",
        **QUIET,
    )
    torch.testing.assert_close(given.faithfulness(), curve.faithfulness()[:2])


def test_sizes_by_default_and_metrics_of_the_users_own(scored):
    model, clean, corrupted, scores = scored

    def margin(logits):
        return (logits[:, 1] - logits[:, 2]).mean()

    curve = evaluate_circuits(
        model, clean, corrupted, scores=scores, metric=margin, method="greedy", n_draws=0, batch_size=1, progress=False
    )
    assert curve.axes["size"][-1] == int(Graph(model).exists.sum())
    assert curve.axes["run"] == ["circuit", "complement"]
    assert abs(curve.faithfulness()[-1] - 1) < 1e-9


def test_minimality_is_the_fall_without_each_edge(scored):
    model, clean, corrupted, scores = scored
    graph = Graph(model)
    circuit = find_circuit(model, scores, n_edges=25, method="greedy")
    found = minimality(model, clean, corrupted, circuit=circuit, metric="logit", **QUIET)
    assert set(found["edge"]) == circuit.edges
    assert found["drop"].is_monotonic_decreasing
    whole = evaluate_circuits(model, clean, corrupted, scores=circuit, metric="logit", **QUIET).faithfulness().item()
    assert found.attrs["faithfulness"] == pytest.approx(whole)
    for _, row in found.iloc[[0, -1]].iterrows():
        less = Circuit(circuit.edges - {row["edge"]}, "less")
        kept = less.mask(graph)[None]
        with torch.no_grad():
            before, after = model(corrupted)[:, 1], model(clean)[:, 1]
        value = ((run_edges(graph, clean, corrupted, kept)[0, :, 1] - before).mean() / (after - before).mean()).item()
        assert row["faithfulness"] == pytest.approx(value)
        assert row["drop"] == pytest.approx(whole - value)


@pytest.mark.parametrize("name", PLANTED)
def test_planted_circuits_are_faithful_complete_minimal_and_found(name):
    vit = planted(name, seed=1)
    pictures = vit.pictures(6, seed=2)
    shown = vit.model, pictures.images, pictures.corrupted
    about = {"classes": pictures.labels, "baseline_classes": pictures.corrupted_labels, "progress": False}
    truth = Circuit(vit.truth.edges, name)
    curve = evaluate_circuits(*shown, scores=truth, n_draws=1, **about)
    assert curve.faithfulness().item() == pytest.approx(1, abs=0.02)
    assert curve.completeness().item() == pytest.approx(0, abs=0.02)
    assert curve.select(run="random 1").effect().item() == pytest.approx(0, abs=0.1)
    assert (minimality(*shown, circuit=truth, **about)["drop"] > 0.05).all()
    scores = path_patching(*shown, receivers=None, **about)
    for method in ("threshold", "greedy"):
        assert find_circuit(vit.model, scores, min_score=0.02, method=method) == Circuit(
            truth.edges, vit.model.cfg.model_name
        )


# ---- wrong input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "either n_edges= or min_score="),
        ({"n_edges": 3, "min_score": 0.1}, "either n_edges= or min_score="),
        ({"n_edges": 0}, "n_edges is between 1 and"),
        ({"n_edges": 10**6}, "the number of edges of the model, not 1000000"),
        ({"min_score": 1e6}, "no edge reaches min_score"),
        ({"n_edges": 1}, "take more of them"),
        ({"n_edges": 9, "method": "random"}, "one of threshold, greedy, not 'random'"),
    ],
)
def test_circuits_that_cannot_be_found(options, sentence, scored):
    with pytest.raises(InputError, match=sentence):
        find_circuit(scored[0], scored[3], **options)


def test_scores_of_something_else(scored, images_of):
    model, clean, corrupted, scores = scored
    some = path_patching(model, clean, corrupted, senders=["input", "L0 mlp"], receivers=None, metric="logit", **QUIET)
    two = path_patching(model, clean, corrupted, receivers=None, metric=["logit", "probability"], **QUIET)
    for wrong, sentence in [
        (scores.select(sender="L0 mlp"), "with the axes sender and receiver, not receiver, image"),
        (some, "not of all edges"),
        (two, "choose one metric first"),
    ]:
        with pytest.raises(InputError, match=sentence):
            find_circuit(model, wrong, n_edges=30)
    assert len(find_circuit(model, two.select(metric="logit"), n_edges=30))
    scores.patched[0, 0] = torch.nan
    with pytest.raises(InputError, match="was interrupted"):
        find_circuit(model, scores, n_edges=30)


def test_wrong_sizes_and_circuits(scored):
    model, clean, corrupted, scores = scored
    shown = model, clean, corrupted
    for sizes, sentence in [
        ([0], "not 0"),
        ([5, -2], "not -2"),
        ([10**6], "not 1000000"),
        ([], "list of sizes is empty"),
    ]:
        with pytest.raises(InputError, match=sentence):
            evaluate_circuits(*shown, scores=scores, sizes=sizes, metric="logit", **QUIET)
    circuit = find_circuit(model, scores, n_edges=30)
    with pytest.raises(InputError, match="leave it out"):
        evaluate_circuits(*shown, scores=circuit, sizes=[3], metric="logit", **QUIET)
    with pytest.raises(InputError, match="list of circuits is empty"):
        evaluate_circuits(*shown, scores=[], metric="logit", **QUIET)
    with pytest.raises(InputError, match="one metric at a time"):
        evaluate_circuits(*shown, scores=scores, sizes=[5], metric=["logit", "probability"], **QUIET)
    with pytest.raises(InputError, match="n_draws is a whole number of at least 0"):
        evaluate_circuits(*shown, scores=scores, sizes=[5], metric="logit", n_draws=-1, **QUIET)
    with pytest.raises(InputError, match="is empty"):
        minimality(*shown, circuit=Circuit(frozenset(), "none"), metric="logit", **QUIET)
    with pytest.raises(InputError, match=r"n_layers 3, n_heads 4, wiring pre-norm: .* has .*parallel"):
        circuit.mask(Graph(build("parallel")))
    with pytest.raises(InputError, match=r"has no edge 'L9H0->logits'.*1 of its 2 edges are missing"):
        minimality(
            *shown, circuit=Circuit(frozenset({"L9H0->logits", "input->L0 mlp"}), "deep"), metric="logit", **QUIET
        )
    with pytest.raises(InputError, match="runs backwards: L1H0 writes after L0 mlp has read"):
        Circuit(frozenset({"L1H0->L0 mlp"}), "backwards")


# ---- figures -----------------------------------------------------------------------------------------------------------


def test_figures(scored):
    model, clean, corrupted, scores = scored
    circuit = find_circuit(model, scores, n_edges=40, method="greedy")
    figure = circuit.plot()
    nodes = next(trace for trace in figure.data if trace.mode == "markers+text")
    assert list(nodes.text) == circuit.nodes
    hovers = [text for trace in figure.data if trace.mode == "markers" for text in trace.hovertext]
    assert len(hovers) == len(circuit)
    assert all("score" in text for text in hovers)
    heights = dict(zip(nodes.text, nodes.y, strict=True))
    assert heights["input"] == min(heights.values())
    assert heights["logits"] == max(heights.values())
    assert len(circuit_figure(Circuit(frozenset({"input->L0 mlp", "L0 mlp->logits"}), "no heads, no scores")).data)
    with pytest.raises(InputError, match="nothing to draw"):
        circuit_figure(Circuit(frozenset(), "none"))
    curve = evaluate_circuits(
        model, clean, corrupted, scores=scores, sizes=[1, 30, 60], metric="logit", n_draws=2, **QUIET
    )
    assert curve.n_edges["circuit"][0] == 0
    lines = [trace for trace in plot(curve).data if trace.name]
    assert [trace.name.split(":")[0] for trace in lines] == ["random circuits"] * 2 + ["circuit", "all but the circuit"]
    assert all(min(trace.x) > 0 for trace in lines)
    with pytest.raises(InputError, match="before select"):
        circuit_curve(curve.select(run="circuit"))
    nothing = evaluate_circuits(model, clean, corrupted, scores=scores, sizes=[1], metric="logit", **QUIET)
    with pytest.raises(InputError, match="larger sizes"):
        circuit_curve(nothing)
