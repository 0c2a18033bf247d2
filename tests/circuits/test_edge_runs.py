"""Runs in which edges are kept or resampled: equal to the runs that they must equal, to path patching, to plain tensors."""

import pytest
import torch
from patching.test_paths import ADDITIVE, pair
from ported import build

from vitlens import InputError, path_patching
from vitlens.circuits.circuit import Circuit, prune
from vitlens.circuits.edge_runs import run_edges
from vitlens.model.graph import Graph

QUIET = {"progress": False, "classes": [1]}
EXACT = {"rtol": 1e-9, "atol": 1e-9}
MORE = [
    "rotary",
    "rotary_dynamic_size",
    "relative",
    "relative_mlp_shared",
    "parallel_fused_out",
    "rms_norm",
    "any_size",
]


def as_masks(graph, *circuits):
    return torch.stack([Circuit(frozenset(edges), "by hand").mask(graph) for edges in circuits])


@pytest.mark.parametrize("variant", [*ADDITIVE, *MORE])
def test_all_edges_give_the_clean_run_and_none_the_corrupted_one(variant, images_of):
    model = build(variant)
    clean, corrupted = pair(images_of, model, 3)
    graph = Graph(model)
    logits = run_edges(graph, clean, corrupted, torch.stack([graph.exists, ~graph.exists]), batch_size=4)
    with torch.no_grad():
        torch.testing.assert_close(logits[0], model(clean), **EXACT)
        torch.testing.assert_close(logits[1], model(corrupted), **EXACT)


def alone(graph, writer, reader):
    """All that the writer reads, directly or not, and of what it says only the one edge; what the reader changes goes on."""
    node = str(graph.writers[writer])
    places = {name: i for i, name in enumerate(graph.writer_index)}
    before, queue = set(), [node]
    while queue:
        now = queue.pop()
        for r, name in enumerate(map(str, graph.readers)):
            if name.split("<")[0] == now:
                found = {w for w in range(len(graph.writers)) if graph.exists[w, r]} - before
                before |= found
                queue += [str(graph.writers[w]) for w in found]
    mine = before | {places[node]}
    kept = graph.exists.clone()
    for r, name in enumerate(map(str, graph.readers)):
        into = places.get(name.split("<")[0])
        for w in mine:
            kept[w, r] = (w in before and into in mine) or (w == places[node] and r == reader)
    return kept & graph.exists


@pytest.mark.parametrize("variant", [*ADDITIVE, "rotary"])
def test_single_edges_equal_path_patching(variant, images_of):
    model = build(variant)
    clean, corrupted = pair(images_of, model)
    graph = Graph(model)
    writers = [graph.writer_index[name] for name in ("input", "L0H1", "L0 mlp", "L1H0")]
    readers = [graph.reader_index[name] for name in ("L0 mlp", "L1H1<q>", "L1H1<k>", "L1H1<v>", "L1 mlp", "logits")]
    edges = [(w, r) for w in writers for r in readers if graph.exists[w, r]]
    names = [str(graph.writers[w]) for w in writers], [str(graph.readers[r]) for r in readers]
    for direction in ("noise", "denoise"):
        paths = path_patching(
            model, clean, corrupted, senders=names[0], receivers=names[1], metric="logit", direction=direction, **QUIET
        )
        if direction == "noise":
            kept = graph.exists.repeat(len(edges), 1, 1)
            for i, (w, r) in enumerate(edges):
                kept[i, w, r] = False
        else:
            kept = torch.stack([alone(graph, w, r) for w, r in edges])
        logits = run_edges(graph, clean, corrupted, kept)[..., 1]
        expected = torch.stack([paths.patched[writers.index(w), readers.index(r)] for w, r in edges])
        assert (paths.shift().abs() > 1e-6).any()
        torch.testing.assert_close(logits, expected, **EXACT)


def test_a_chain_by_hand(plain, images_of):
    """input -> L0H2<v> -> L1 mlp -> logits, every step with plain tensors."""
    clean, corrupted = pair(images_of, plain)
    with torch.no_grad():
        _, ours = plain.run_with_cache(clean)
        _, theirs = plain.run_with_cache(corrupted)
        block = plain.blocks[0]
        v = block.ln1(ours["blocks.0.hook_resid_pre"]) @ block.attn.W_V[2] + block.attn.b_V[2]
        z_change = theirs["blocks.0.attn.hook_pattern"][:, 2] @ v - theirs["blocks.0.attn.hook_z"][:, :, 2]
        stream = theirs["blocks.1.hook_resid_mid"] + z_change @ block.attn.W_O[2]
        block = plain.blocks[1]
        change = block.mlp(block.ln2(stream)) - theirs["blocks.1.hook_mlp_out"]
        last = plain.cfg.n_layers - 1
        expected = plain(theirs[f"blocks.{last}.hook_resid_post"] + change, start_at_layer=last + 1)
    graph = Graph(plain)
    chain = ["input->L0H2<v>", "L0H2->L1 mlp", "L1 mlp->logits"]
    logits = run_edges(graph, clean, corrupted, as_masks(graph, chain, chain[:2], chain[1:]))
    torch.testing.assert_close(logits[0], expected, **EXACT)
    for broken in logits[1:]:
        torch.testing.assert_close(broken, plain(corrupted).detach(), **EXACT)
    assert not torch.allclose(logits[0], logits[1], atol=1e-6)


def test_batches_and_pruning_change_nothing(plain, images_of):
    clean, corrupted = pair(images_of, plain, 3)
    graph = Graph(plain)
    generator = torch.Generator().manual_seed(0)
    kept = (torch.rand(4, *graph.exists.shape, generator=generator) < 0.3) & graph.exists
    whole = run_edges(graph, clean, corrupted, kept, batch_size=12)
    for rows in (1, 5):
        torch.testing.assert_close(run_edges(graph, clean, corrupted, kept, batch_size=rows), whole, **EXACT)
    pruned = torch.stack([prune(graph, one) for one in kept])
    assert pruned.sum() < kept.sum()
    torch.testing.assert_close(run_edges(graph, clean, corrupted, pruned), whole, **EXACT)


def test_hooks_of_the_user_act(plain, images_of):
    clean, corrupted = pair(images_of, plain)
    graph = Graph(plain)
    hooks = [
        (f"blocks.0.{name}", lambda x, hook: x * 0.5)
        for name in ("ln1.hook_scale", "attn.hook_pattern", "mlp.hook_post")
    ]
    with plain.hooks(fwd_hooks=hooks), torch.no_grad():
        logits = run_edges(graph, clean, corrupted, graph.exists[None])[0]
        torch.testing.assert_close(logits, plain(clean), **EXACT)
    assert not torch.allclose(logits, plain(clean).detach())


def test_edges_of_another_graph(plain, images_of):
    with pytest.raises(InputError, match="writers and readers"):
        run_edges(Graph(plain), *pair(images_of, plain), torch.ones(1, 2, 2, dtype=torch.bool))
