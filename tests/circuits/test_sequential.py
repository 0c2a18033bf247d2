"""Circuits found by removing edges one by one: as the plain loop has it, as planted, and smaller than by scores."""

import math
import signal
from functools import cache

import pytest
import torch
from patching.test_paths import pair
from ported import borrow, build

import vitlens
from vitlens import InputError, find_circuit, path_patching
from vitlens.circuits import Circuit, evaluate_circuits, prune_circuit, sequential
from vitlens.circuits.circuit import prune
from vitlens.circuits.edge_runs import EdgePair, run_edges
from vitlens.model.graph import Graph
from vitlens.patching import edge_attribution_patching
from vitlens.patching.sweep import InterruptedWarning
from vitlens.planted import PLANTED, planted
from vitlens.results.result import load_result

QUIET = {"progress": False, "classes": [1], "metric": "logit"}


@pytest.fixture
def shown(images_of):
    """A small model and two pairs."""
    with borrow("class_token") as model:
        yield (model, *pair(images_of, model))


def one_by_one(model, clean, corrupted, max_change, kept, order=None):
    """ACDC as it is written down: one run, one decision."""
    graph = Graph(model)
    with torch.no_grad():
        ends = [model(images)[:, 1] for images in (clean, corrupted)]

    def delta(kept):
        found = run_edges(graph, clean, corrupted, kept[None])[0, :, 1]
        return ((found - ends[0]).abs().mean() / (ends[1] - ends[0]).abs().mean()).item()

    kept, rises = kept.clone(), {}
    now = delta(kept)
    for reader in reversed(range(len(graph.readers))):
        writers = [w for w in reversed(range(len(graph.writers))) if kept[w, reader]]
        for writer in writers if order is None else sorted(writers, key=lambda w: order[w, reader]):
            kept[writer, reader] = False
            after = delta(kept)
            if after - now < max_change:
                now = after
            else:
                kept[writer, reader] = True
                rises[f"{graph.writers[writer]}->{graph.readers[reader]}"] = after - now
    left = prune(graph, kept)
    return {f"{graph.writers[w]}->{graph.readers[r]}" for w, r in left.nonzero().tolist()}, rises


@pytest.mark.parametrize(("batch_size", "ordered"), [(None, False), (2, True), (7, False)])
def test_it_is_the_plain_loop_however_many_are_tested_at_once(batch_size, ordered, shown):
    scores = path_patching(*shown, receivers=None, **QUIET)
    start = find_circuit(shown[0], scores, n_edges=60, method="greedy")
    order = scores.effect().abs() if ordered else None
    edges, rises = one_by_one(*shown, 0.05, start.mask(Graph(shown[0])), order)
    about = {"max_change": 0.05, "batch_size": batch_size, "scores": scores if ordered else None, **QUIET}
    found = prune_circuit(*shown, circuit=start, **about)
    assert found.edges == edges
    assert 3 < len(edges) < len(start)
    for edge, rise in found.scores.items():
        assert rise == pytest.approx(rises[edge], rel=1e-9)
    assert found.settings["method"] == "sequential"


def test_blocks_that_no_missing_edge_reaches_are_not_run_again(shown):
    """Alone, and beside a run without any edge, in which all blocks run."""
    model, clean, corrupted = shown
    graph = Graph(model)
    pairs = EdgePair.make(graph, clean, corrupted)
    for edge in ("L0 mlp->logits", "L1H0->L2 mlp", "input->L1H1<q>", "L0H0->L1H2<v>", "input->L0H0<k>"):
        writer, reader = edge.split("->")
        kept = graph.exists.clone()
        kept[graph.writer_index[writer], graph.reader_index[reader]] = False
        with torch.no_grad():
            alone, beside = pairs.run(kept[None])[0], pairs.run(torch.stack([kept, ~graph.exists]))[0]
        torch.testing.assert_close(alone, beside, rtol=1e-9, atol=1e-9)


@cache
def of_planted(name):
    vit = planted(name, seed=1)
    pictures = vit.pictures(6, seed=2)
    about = {"classes": pictures.labels, "baseline_classes": pictures.corrupted_labels, "progress": False}
    return (vit.model, pictures.images, pictures.corrupted), about, vit.truth


@pytest.mark.parametrize("name", PLANTED)
def test_planted_circuits_are_found(name):
    shown, about, truth = of_planted(name)
    assert prune_circuit(*shown, **about) == Circuit(truth.edges, shown[0].cfg.model_name)


@pytest.mark.parametrize("name", ["context_cue", "conjunction_memory"])
def test_it_needs_fewer_edges_than_scores_do_for_the_same_faithfulness(name):
    shown, about, _ = of_planted(name)
    found = prune_circuit(*shown, **about)
    reached = evaluate_circuits(*shown, scores=found, n_draws=0, **about).faithfulness().item()
    scores = edge_attribution_patching(*shown, **about)
    greedy = evaluate_circuits(*shown, scores=scores, method="greedy", sizes=[len(found)], n_draws=0, **about)
    assert greedy.n_edges["circuit"] <= [len(found)]
    assert greedy.faithfulness().item() < 0.9 < reached


def test_what_is_around_the_object_may_be_what_is_replaced():
    model, images, _, masks = vitlens.load_demo()
    clean = images[4:5]
    corrupted = vitlens.replace_context(clean, masks[4:5], replacement="blur")
    about = {"classes": "T-shirt", "baseline_classes": "bag", "progress": False}
    scores = edge_attribution_patching(model, clean, corrupted, **about)
    start = find_circuit(model, scores, n_edges=25, method="greedy")
    found = prune_circuit(model, clean, corrupted, circuit=start, max_change=0.05, **about)
    assert found.edges < start.edges


def test_an_interrupted_call_goes_on_where_it_was(shown, monkeypatch, tmp_path):
    whole = prune_circuit(*shown, max_change=0.1, **QUIET)
    original, calls = sequential._Delta.__call__, []

    def interrupted(self, kept):
        calls.append(len(kept))
        if len(calls) == 9:
            signal.raise_signal(signal.SIGINT)
        return original(self, kept)

    with monkeypatch.context() as patch:
        patch.setattr(sequential._Delta, "__call__", interrupted)
        with pytest.warns(InterruptedWarning, match="resume=result"):
            part = prune_circuit(*shown, max_change=0.1, **QUIET)
    assert part.values.isnan().any()
    assert part.edges > whole.edges
    part.save(tmp_path / "part.safetensors")
    loaded = load_result(tmp_path / "part.safetensors")
    resumed = prune_circuit(*shown, max_change=0.1, resume=loaded, **QUIET)
    assert resumed.edges == whole.edges
    assert resumed.scores == pytest.approx(whole.scores, rel=1e-9)
    with pytest.raises(InputError, match="result of another call"):
        prune_circuit(*shown, max_change=0.2, resume=part, **QUIET)
    with pytest.raises(InputError, match="result of another call"):
        prune_circuit(shown[0], shown[1], shown[2].flip(-1), max_change=0.1, resume=part, **QUIET)


def test_what_cannot_be_pruned(shown):
    for options, sentence in [
        ({"max_change": 0.0}, "above 0"),
        ({"max_change": -0.1}, "above 0"),
        ({"max_change": math.nan}, "max_change"),
        ({"max_change": 1e6}, "no edge is needed"),
        ({"metric": ["logit", "probability"]}, "one metric at a time"),
        ({"circuit": Circuit({"L9H0->logits"}, "deep")}, "has no edge 'L9H0->logits'"),
        ({"resume": Circuit({"L0H0->logits"}, "by hand")}, "result of another call"),
    ]:
        with pytest.raises(InputError, match=sentence):
            prune_circuit(*shown, **{**QUIET, **options})
    with pytest.raises(InputError, match="paths need parts"):
        prune_circuit(build("post_norm"), *shown[1:], **QUIET)
