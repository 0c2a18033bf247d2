"""Contributions of pairs of nodes sum to a head's score, and each is what the pair's parts of the stream give."""

import pytest
import torch
from ported import borrow, on_each_property
from test_edge_heads import made, transcoders_of
from variants import pictures

from vitlens import InputError
from vitlens.circuits import attention_contributions
from vitlens.circuits.graphs.edges import Sources
from vitlens.circuits.graphs.replacement import replaced_run
from vitlens.model.hooks.hook_points import hook_name


@on_each_property
def test_pairs_sum_to_the_score(classifier, images_of):
    image = images_of(classifier, 1)
    with torch.no_grad():
        _, cache = classifier.run_with_cache(image)
    for block, head, query, key in ((classifier.cfg.n_layers - 1, 1, 0, 3), (0, 0, 2, 2)):
        about = {"head": f"L{block}H{head}", "query": query, "key": key, "transcoders": transcoders_of(classifier)}
        if classifier.blocks[block].attn.subtracts_patterns:
            with pytest.raises(InputError, match="two scores"):
                attention_contributions(classifier, image, **about)
            continue
        found = attention_contributions(classifier, image, n_nodes=9, **about)
        score = cache["attn_scores", block][0, head, query, key].item()
        assert found.score == pytest.approx(score, rel=1e-9)
        largest = found.values.abs().sum().item()
        assert abs(found.values.sum().item() + found.bias - score) <= 1e-9 * largest
        name = hook_name(block, "attn.rel_pos_bias")
        relative = cache[name][0, head, query, key].item() if name in cache else 0
        assert found.bias == pytest.approx(relative, abs=1e-9)
        assert found.heads.shape == (2, block * classifier.cfg.n_heads + 1)
        assert found.heads.sum(dim=1).tolist() == pytest.approx([score - found.bias] * 2, abs=1e-9)
        no_head = found.head_labels[-1]
        assert (no_head, no_head.kind) == ("no head", "direct")
        if block:
            kinds = {label.kind for label in found.axes["query node"]}
            assert {"feature", "error", "constant", "rest"} < kinds


@pytest.mark.parametrize("name", ["class_token", "rotary", "qk_norm", "parallel", "post_norm"])
def test_a_pair_is_the_product_of_its_parts(name):
    """Finite differences of q and k: the stream before the block without what one node wrote, patterns and norms held."""
    with borrow(name) as model:
        image, transcoders = pictures(model.cfg, 1), transcoders_of(model)
        graph, _, _ = made(model, image)
        last = model.cfg.n_layers - 1
        about = {"head": f"L{last}H1", "query": 1, "key": 4, "transcoders": transcoders, "n_nodes": 2}
        found = attention_contributions(model, image, graph, **about)
        with torch.no_grad():
            run, replacements = replaced_run(model, image, transcoders)
            sources = Sources(run, replacements)
            _, cache = model.run_with_cache(image)
        attn = model.blocks[last].attn
        sites = [site for site, there in (("rot_{}", attn.rotation), ("{}_normed", attn.q_norm), ("{}", attn)) if there]

        def vectors(stream):
            """q at token 1 and k at token 4, the scales of all norms held."""
            kept = {}

            def keep(x, hook):
                kept[hook.name] = x.clone()

            scales = [name for name in cache if name.startswith(f"blocks.{last}.") and name.endswith("hook_scale")]
            names = [hook_name(last, f"attn.{sites[0].format(letter)}") for letter in "qk"]
            hooks = [(name, lambda x, hook: cache[hook.name]) for name in scales] + [(name, keep) for name in names]
            with torch.no_grad():
                model.run_with_hooks(stream, fwd_hooks=hooks, start_at_layer=last, stop_at_layer=last + 1)
            return kept[names[0]][0, 1, 1], kept[names[1]][0, 4, 1]

        stream = cache["resid_pre", last]
        base = vectors(stream)
        scale = attn.attn_scale
        for query_node, key_node in ((0, 1), (3, 0), (-3, -4), (-8, 2)):
            parts = []
            for side, (axis, node) in enumerate(zip(found.axes.values(), (query_node, key_node), strict=True)):
                part = part_of(run, sources, axis[node], last)
                parts.append(base[side] - vectors(stream - part[None])[side])
            expected = (scale * parts[0] @ parts[1]).item()
            assert found.values[query_node, key_node].item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def part_of(run, sources, label, last):
    """The part of the stream before a block that comes from a node."""
    like = run.mlp_out(0)
    written = like.new_zeros(1, *like.shape)
    block = -1 if label.block is None else label.block
    if label.kind == "error":
        of = next(one for one in sources.replacements if one.block == block)
        written[0, label.token] = of.error[label.token]
    elif label.kind == "feature":
        of = next(one for one in sources.replacements if one.block == block)
        value = of.values[label.token, label.feature] * of.scale[label.token, 0]
        written[0, label.token] = value * of.writes[block][label.feature]
    else:
        written[0, label.token] = run.embeddings()[label.kind][label.token]
    with torch.no_grad():
        return next(stream[0] for index, stream, _ in run.push({block: written}) if index == last)


def test_refusals(plain, images_of):
    image = images_of(plain, 1)
    about = {"transcoders": transcoders_of(plain), "head": "L1H1", "query": "class", "key": 3}
    for options, sentence in (
        ({"head": "L1 mlp"}, "name of a head"),
        ({"head": "L9H0"}, "block"),
        ({"head": "L1H9"}, "no head 9"),
        ({"query": "patches"}, "query= is one token"),
        ({"key": "all"}, "key= is one token"),
    ):
        with pytest.raises(InputError, match=sentence):
            attention_contributions(plain, image, **about | options)
