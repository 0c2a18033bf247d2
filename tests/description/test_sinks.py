"""Kinds of sinks on patterns and values made by hand, and every number against singular values of full outputs."""

import pytest
import torch
from ported import build, on_each_property
from torch import nn
from variants import pictures

from vitlens.description.run import describe
from vitlens.description.sinks import SINK_KINDS, SinkRule, sink_facts
from vitlens.description.warnings import _of_queries

SINGLE = SinkRule(keys=0.0)


def same(left, right):
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


def facts_of(pattern, received, v, W_O, rule, n_prefix=0, class_token=None):
    """The definitions of one head in one picture, on its full output [tokens, d]."""
    n = len(pattern)
    mean = received.mean(dim=0)
    order = mean.argsort(descending=True).tolist()
    median = mean.sort().values[(n - 1) // 2]
    keys = [key for key in order[: rule.most_keys(n)] if key == order[0] or mean[key] >= rule.times * median]
    u = v @ W_O
    lengths = u.norm(dim=-1)
    others = [lengths[j] for j in range(n) if j not in keys]
    output = pattern @ u
    sigma = torch.linalg.svdvals(output)
    of_sink = sum(torch.outer(pattern[:, key], u[key]) for key in keys)
    mass = sum(mean[key] for key in keys)
    of_rows = received[:, keys].sum(dim=1)
    of_class = {} if class_token is None else {"sink_class_mass": of_rows[class_token].item()}
    return {
        "sink_patch_mass": of_rows[n_prefix:].mean().item(),
        **of_class,
        "sink_keys": float(len(keys)),
        "sink_mass": mass.item(),
        "sink_concentration": (mean.max() / median).item(),
        "sink_routed": (received[:, keys].sum(dim=1) >= rule.attention).double().mean().item(),
        "sink_value_ratio": (sum(mean[key] * lengths[key] for key in keys) / mass / (sum(others) / len(others))).item(),
        "sink_explained": (1 - (output - of_sink).norm() ** 2 / output.norm() ** 2).item(),
        "stable_rank": (output.norm() ** 2 / sigma[0] ** 2).item(),
    }, order[0]


WIDE = SinkRule(keys=0.3, times=1.1, attention=0.25)


@on_each_property
def test_every_architecture_has_the_sinks_of_its_patterns(classifier, images_of):
    """Under a rule whose thresholds random patterns cross, and under that of the paper: a single key."""
    images = images_of(classifier, 2)
    check_sinks(classifier, images, SINGLE)
    assert (check_sinks(classifier, images, WIDE).fact("sink_keys") > 1).any()


def kind_of_token(token, cfg, outlier):
    if token < cfg.n_prefix_tokens:
        return "register" if cfg.prefix_tokens[token].startswith("register") else cfg.prefix_tokens[token]
    return "outlier patch" if outlier[token - cfg.n_prefix_tokens] else "patch"


def check_sinks(classifier, images, rule):
    cfg = classifier.cfg
    description = describe(classifier, images, sink_rule=rule, outlier_threshold=1.05, progress=False)
    _, cache = classifier.run_with_cache(images, names_filter=["pattern", "attn.hook_v", "resid_pre"])
    for block in range(cfg.n_layers):
        W_O = classifier.blocks[block].attn.W_O
        pattern, v = cache["pattern", block], cache[f"blocks.{block}.attn.hook_v"]
        received = pattern.abs() / pattern.abs().sum(dim=-1, keepdim=True)
        norms = cache["resid_pre", block][:, cfg.n_prefix_tokens :].norm(dim=-1)
        outlier = norms > 1.05 * norms.median(dim=-1, keepdim=True).values
        for head in range(cfg.n_heads):
            class_token = cfg.prefix_tokens.index("class") if "class" in cfg.prefix_tokens else None
            tokens = (cfg.n_prefix_tokens, class_token)
            found = [
                facts_of(pattern[i, head], received[i, head], v[i, :, head], W_O[head], rule, *tokens) for i in range(2)
            ]
            for name in found[0][0]:
                expected = sum(facts[name] for facts, _ in found) / 2
                assert description.fact(name)[block, head].item() == pytest.approx(expected, rel=1e-9, abs=1e-9), name
            kinds = [kind_of_token(token, cfg, outlier[i]) for i, (_, token) in enumerate(found)]
            counts = [kinds.count(kind) for kind in description.settings["sink_token_kinds"]]
            assert description.sink_tokens[block, head].tolist() == counts
    return description


@pytest.fixture
def head():
    """20 tokens, one head of width 4 that writes to 6 features, its values of length about 1."""
    generator = torch.Generator().manual_seed(0)
    v = nn.functional.normalize(torch.randn(1, 20, 1, 4, generator=generator, dtype=torch.float64), dim=-1)
    W_O = torch.linalg.qr(torch.randn(6, 4, generator=generator, dtype=torch.float64)).Q.T[None]
    return v, W_O.contiguous()


def to_keys(*keys, share=0.96):
    """Every token gives `share` to these keys and the rest to itself."""
    pattern = (1 - share) * torch.eye(20, dtype=torch.float64)
    pattern[:, list(keys)] += share / len(keys)
    return pattern[None, None]


def kind(pattern, v, W_O, rule):
    events = rule.events(sink_facts(pattern, pattern, v, W_O, rule))[:, 0, 0]
    assert events.sum() <= 1
    return SINK_KINDS[int(events.int().argmax())] if events.any() else "none"


def test_a_key_that_writes_nothing_is_a_no_op(head):
    v, W_O = head
    v[:, 7] *= 0.01
    facts = sink_facts(to_keys(7), to_keys(7), v, W_O, SinkRule())
    assert facts.token.item() == 7
    assert facts.mass.item() == pytest.approx(0.96 + 0.04 / 20)
    assert facts.routed.item() == 1
    assert facts.value_ratio.item() == pytest.approx(0.01)
    assert facts.explained < 0.2
    assert kind(to_keys(7), v, W_O, SinkRule()) == kind(to_keys(7), v, W_O, SINGLE) == "no-op"


def test_a_value_that_is_large_but_not_written_is_a_no_op(head):
    """What counts is the length behind W_O."""
    v, W_O = head
    W_O[0, 0] = 0
    v[0, :, 0, 0] = 0
    v[0, 7, 0] = torch.tensor([5.0, 0, 0, 0])
    assert kind(to_keys(7), v, W_O, SinkRule()) == "no-op"


def test_a_vector_that_is_handed_to_all_tokens_is_a_broadcast(head):
    v, W_O = head
    facts = sink_facts(to_keys(7), to_keys(7), v, W_O, SinkRule())
    assert facts.value_ratio.item() == pytest.approx(1)
    assert facts.stable_rank.item() == pytest.approx(1, abs=0.01)
    assert facts.explained > 0.99
    assert kind(to_keys(7), v, W_O, SinkRule()) == "broadcast"


def test_a_sink_that_is_neither(head):
    v, W_O = head
    v[:, 7] *= 0.3
    assert kind(to_keys(7), v, W_O, SinkRule()) == "other"
    assert kind(to_keys(7), v, W_O, SinkRule(no_op=0.3001)) == "no-op"
    # A long value, but tokens write much else: the output has a high rank.
    wide = to_keys(7, share=0.5)
    v[:, 7] *= 0.5 / 0.3
    assert kind(wide, v, W_O, SinkRule(broadcast=0.4)) == "other"
    assert kind(wide, v, W_O, SinkRule(broadcast=0.4, rank=4.0)) == "broadcast"


def test_no_sink(head):
    v, W_O = head
    alike = torch.full((1, 1, 20, 20), 0.05, dtype=torch.float64)
    facts = sink_facts(alike, alike, v, W_O, SinkRule())
    assert (facts.concentration.item(), facts.n_keys.item(), facts.routed.item()) == (pytest.approx(1), 1, 0)
    assert kind(alike, v, W_O, SinkRule()) == "none"
    assert kind(to_keys(7, share=0.45), v, W_O, SinkRule()) == "none"
    most = to_keys(7)
    most[0, 0, :3] = torch.eye(20, dtype=torch.float64)[:3]
    assert kind(most, v, W_O, SinkRule()) == "none"
    assert kind(most, v, W_O, SinkRule(queries=0.85)) == "broadcast"


def test_a_no_op_that_two_keys_share(head):
    """No single key gets half of the attention; together they do."""
    v, W_O = head
    v[:, [3, 11]] *= 0.01
    pair = to_keys(3, 11)
    assert kind(pair, v, W_O, SINGLE) == "none"
    rule = SinkRule(keys=0.1)
    facts = sink_facts(pair, pair, v, W_O, rule)
    assert (facts.n_keys.item(), rule.most_keys(20), SinkRule().most_keys(197)) == (2, 2, 10)
    assert facts.value_ratio.item() == pytest.approx(0.01)
    assert kind(pair, v, W_O, rule) == "no-op"


def test_the_table_tells_how_often_and_where():
    """Keys of the class token so long that all attend to it, and values that are its own alone."""
    model = build("class_token")
    images = pictures(model.cfg, 5)
    attn = model.blocks[1].attn
    with torch.no_grad():
        qkv = attn.project.qkv
        qkv.weight[:64] = 0
        qkv.bias[:32] = 10
        # The keys read one feature, in which the class token is far above all patches.
        model.embed.prefix[0][..., 5] += 100
        qkv.weight[32:64, 5] = 10
    description = describe(model, images, progress=False)
    table = description.heads.query("block == 1")
    assert (table["sink_routed"] == 1).all()
    assert (table[["no-op_share", "broadcast_share", "other_share"]].sum(axis=1) == 1).all()
    assert (table["sink_token"] == "class").all()
    assert (table["sink"] != "none").all()
    assert (description.sink_events[:, 1].sum(dim=0) == 5).all()
    named = [sentence for sentence in description.warnings if "sinks" in sentence]
    assert named
    assert all("L1H" in sentence for sentence in named)


def test_the_sentence_tells_the_class_tokens_row_from_the_patches():
    """A sink of the patches that the class token does not share, one that it does, and a model without class token."""

    class Told:
        def __init__(self):
            self.facts = ("sink_patch_mass", "sink_class_mass")
            patches, of_class = torch.tensor([[0.68, 0.77]]), torch.tensor([[0.17, 0.33]])
            self.shares = {"sink_patch_mass": patches, "sink_class_mass": of_class}

        def fact(self, name):
            return self.shares[name]

    told = Told()
    both = [(0, 0), (0, 1)]
    patches_only = "a patch's row shows the sink and not the picture, the class token's row still reads the picture"
    expected = "L0H0 (patches give it 68 %, the class token 17 %), L0H1 (patches give it 77 %, the class token 33 %)"
    assert _of_queries(told, both) == f"{expected}; {patches_only}"
    told.shares = told.shares | {"sink_class_mass": torch.tensor([[0.17, 0.63]])}
    sentence = _of_queries(told, both)
    assert sentence.endswith(
        "half or more of the class token's row goes there too in L0H1, elsewhere it reads the picture"
    )
    assert _of_queries(told, both[1:]).endswith("and half or more of the class token's row goes there too")
    told.facts = ("sink_patch_mass",)
    assert _of_queries(told, both[:1]) == (
        "L0H0 (patches give it 68 %); a patch's row shows the sink and not the picture"
    )
    assert "L0H1" in _of_queries(told, both * 4)
    assert "and 2 more" in _of_queries(told, both * 4)
