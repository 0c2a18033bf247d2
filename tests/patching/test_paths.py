"""Path patching: equal to doing it by hand, to TransformerLens, and summing to the whole effect where all is linear."""

import pytest
import torch
from ported import build
from transformer_lens.patching import get_act_patch_direct_path

from vitlens import InputError, activation_patching, path_patching
from vitlens.model.graph import Graph
from vitlens.patching import paths

QUIET = {"progress": False, "classes": [1]}
ADDITIVE = [
    "class_token", "distilled", "layer_scale", "qk_norm", "average_with_registers", "norm_pre", "registers", "gated",
    "parallel", "rotary_mixed", "relative_shared", "grouped_keys", "attention_pool", "maximum",
]  # fmt: skip


def pair(images_of, model, n=2):
    return images_of(model, n, seed=1), images_of(model, n, seed=2)


def by_hand(model, clean, corrupted, writer, reader):
    """The readers' input is made with plain tensors, and put in by one hook."""
    _, ours = model.run_with_cache(clean)
    _, theirs = model.run_with_cache(corrupted)
    block, parallel = model.blocks[reader.block], model.cfg.wiring == "parallel"

    def written(cache):
        if writer.kind == "input":
            return cache["blocks.0.hook_resid_pre"]
        if writer.kind == "mlp":
            return cache[f"blocks.{writer.block}.hook_mlp_out"]
        return cache[f"blocks.{writer.block}.attn.hook_result"][:, :, writer.head]

    change = written(ours) - written(theirs)
    if reader.kind == "logits":
        name = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
        hooks = [(name, lambda x, hook: x + change)]
    elif reader.kind == "mlp":
        stream = theirs[f"blocks.{reader.block}.hook_resid_{'pre' if parallel else 'mid'}"] + change
        out = block.mlp((block.ln1 if parallel else block.ln2)(stream))
        hooks = [(f"blocks.{reader.block}.hook_mlp_out", lambda x, hook: out)]
    else:
        part = block.attn.project(block.ln1(theirs[f"blocks.{reader.block}.hook_resid_pre"] + change))

        def hear(x, hook):
            x = x.clone()
            x[:, :, reader.head] = part["qkv".index(reader.part)][:, :, reader.head]
            return x

        hooks = [(f"blocks.{reader.block}.attn.hook_{reader.part}", hear)]
    with torch.no_grad():
        return model.run_with_hooks(corrupted, fwd_hooks=hooks)


@pytest.mark.parametrize("variant", ADDITIVE)
def test_every_kind_of_path_equals_doing_it_by_hand(variant, images_of):
    model = build(variant)
    clean, corrupted = pair(images_of, model)
    graph = Graph(model)
    senders = graph.find_writers(["input", "L0H1", "L0 mlp", "L1H0"])
    receivers = graph.find_readers(["L1H1", "L1 mlp", "L0 mlp", "logits"])
    result = path_patching(
        model,
        clean,
        corrupted,
        senders=[str(w) for w in senders],
        receivers=[str(r) for r in receivers],
        metric="logit",
        batch_size=6,
        **QUIET,
    )
    assert list(result.axes) == ["sender", "receiver", "image"]
    assert [(label.kind, label.block, label.head) for label in result.axes["sender"]] == [
        ("input", None, None), ("head", 0, 1), ("mlp", 0, None), ("head", 1, 0)
    ]  # fmt: skip
    target = model(corrupted)[:, 1]
    for i, writer in enumerate(senders):
        for j, reader in enumerate(receivers):
            got = result.patched[i, j]
            if graph.exists[graph.writer_index[str(writer)], graph.reader_index[str(reader)]]:
                expected = by_hand(model, clean, corrupted, writer, reader)[:, 1]
                torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)
            else:
                torch.testing.assert_close(got, target, rtol=1e-9, atol=1e-10)


class WithForks:
    """What TransformerLens asks of a model: hook_{q,k,v}_input, each head's own copy of the stream before the norm."""

    def __init__(self, model):
        self.model, self.cfg, self.blocks = model, model.cfg, model.blocks
        self.training = False

    def set_use_split_qkv_input(self, on):
        pass

    def modules(self):
        return self.model.modules()

    def named_modules(self):
        return self.model.named_modules()

    def run_with_hooks(self, images, fwd_hooks):
        ((name, edit),) = fwd_hooks
        index, part = int(name.split(".")[1]), name.split("_")[1]
        block, streams = self.blocks[index], {}

        def keep(stream, hook):
            streams["pre"] = stream

        def fork(x, hook):
            forked = edit(streams["pre"][:, :, None].expand(-1, -1, self.cfg.n_heads, -1), hook)
            weight, bias = (getattr(block.attn, f"{kind}_{part.upper()}") for kind in "Wb")
            return torch.einsum("bthd,hde->bthe", block.ln1(forked), weight) + bias

        hooks = [(f"blocks.{index}.hook_resid_pre", keep), (f"blocks.{index}.attn.hook_{part}", fork)]
        with torch.no_grad():
            return self.model.run_with_hooks(images, fwd_hooks=hooks)


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_head_to_head_equals_transformer_lens(part, plain, images_of):
    clean, corrupted = pair(images_of, plain, 1)
    caches = [plain.run_with_cache(images)[1] for images in (clean, corrupted)]
    theirs = get_act_patch_direct_path(
        WithForks(plain), corrupted, *caches, lambda logits: logits[0, 1], 0, 2, component=part, verbose=False
    )
    ours = path_patching(plain, clean, corrupted, senders="L0H2", receivers=f"*<{part}>", metric="logit", **QUIET)
    later = ours.patched[0, :, 0].reshape(plain.cfg.n_layers, plain.cfg.n_heads)[1:]
    torch.testing.assert_close(later, theirs[1:].to(later), rtol=1e-6, atol=1e-6)


def linearised(model, images):
    """Hooks that make the network linear in the stream: patterns and norms as on these pictures, MLPs tangent there."""
    _, cache = model.run_with_cache(images)
    hooks = []
    for name in model.hook_dict:
        if name.endswith((".hook_pattern", ".hook_scale")):
            hooks.append((name, lambda x, hook, fixed=cache[name]: fixed.expand_as(x)))
        elif name.endswith("mlp.hook_post"):
            before = cache[name.replace("post", "pre")]
            after = cache[name]
            slope = torch.func.jvp(torch.nn.functional.gelu, (before,), (torch.ones_like(before),))[1]
            inputs = {}
            hooks.append((name.replace("post", "pre"), lambda x, hook, inputs=inputs: inputs.update(x=x)))
            tangent = (before, after, slope)

            def tangent_hook(x, hook, inputs=inputs, tangent=tangent):
                before, after, slope = tangent
                return after + slope * (inputs["x"] - before)

            hooks.append((name, tangent_hook))
    return hooks


@pytest.mark.parametrize("sender", ["input", "L0H1", "L0 mlp", "L1H3"])
def test_direct_paths_of_a_linear_network_sum_to_the_whole_effect(sender, plain, images_of):
    clean, corrupted = pair(images_of, plain, 1)
    with plain.hooks(fwd_hooks=linearised(plain, corrupted)):
        paths = path_patching(
            plain, clean, corrupted, senders=sender, receivers=None, metric="logit", batch_size=1, **QUIET
        )
        values = [r for r in paths.axes["receiver"] if "<q>" not in r and "<k>" not in r]
        direct = paths.shift()[0, [paths.axes["receiver"].index(r) for r in values], 0]
        if sender == "input":
            whole = activation_patching(
                plain, clean, corrupted, metric="logit", tokens="all", blocks=[0], batch_size=1, **QUIET
            )
        elif sender.endswith("mlp"):
            whole = activation_patching(
                plain,
                clean,
                corrupted,
                metric="logit",
                sites="mlp_out",
                tokens="all",
                blocks=[0],
                batch_size=1,
                **QUIET,
            )
        else:
            block, head = int(sender[1]), int(sender[-1])
            whole = activation_patching(
                plain, clean, corrupted, metric="logit", sites="z", blocks=[block], heads=[head], batch_size=1, **QUIET
            )
    assert direct.abs().max() > 1e-3
    torch.testing.assert_close(direct.sum(), whole.shift().squeeze(), rtol=1e-8, atol=1e-10)


def test_tokens_chunks_groups_and_resuming(plain, images_of):
    clean, corrupted = pair(images_of, plain, 3)
    about = {"metric": "logit", **QUIET}
    senders, receivers = ["L0H1", "L0 mlp"], ["L1H1<v>", "logits"]
    whole = path_patching(plain, clean, corrupted, senders=senders, receivers=receivers, **about)
    parts = [
        path_patching(plain, clean[i : i + 1], corrupted[i : i + 1], senders=senders, receivers=receivers, **about)
        for i in range(3)
    ]
    torch.testing.assert_close(whole.patched, torch.cat([part.patched for part in parts], dim=-1))
    by_token = [
        path_patching(plain, clean, corrupted, senders=senders, receivers=receivers, tokens=tokens, **about).shift()
        for tokens in ("class", "patches")
    ]
    assert not torch.allclose(by_token[0], by_token[1])
    grouped = path_patching(
        plain, clean, corrupted, senders=senders, receivers={"both": receivers, "alone": "logits"}, **about
    )
    torch.testing.assert_close(grouped.patched[:, 1], whole.patched[:, 1])
    assert not torch.allclose(grouped.patched[:, 0], whole.patched[:, 0])
    again = path_patching(plain, clean, corrupted, senders=senders, receivers=receivers, resume=whole, **about)
    assert torch.equal(again.patched, whole.patched)


def test_forwards_have_no_more_rows_than_asked(plain, images_of, monkeypatch):
    clean, corrupted = pair(images_of, plain, 5)
    rows = []
    whole = paths.forward_suffix

    def watched(model, stream, *arguments, **options):
        rows.append(len(stream))
        return whole(model, stream, *arguments, **options)

    monkeypatch.setattr(paths, "forward_suffix", watched)
    path_patching(
        plain, clean, corrupted, senders=["L0 mlp", "L0H1"], receivers="logits", metric="logit", batch_size=2, **QUIET
    )
    assert max(rows) == 2
    with pytest.raises(InputError, match="batch_size=5"):
        path_patching(
            plain,
            clean,
            corrupted,
            senders="L0 mlp",
            receivers="logits",
            metric=lambda logits: logits.sum(),
            batch_size=2,
            progress=False,
        )


def test_names_and_patterns(plain):
    graph = Graph(plain)
    heads, blocks = plain.cfg.n_heads, plain.cfg.n_layers
    assert len(graph.writers) == 1 + blocks * (heads + 1)
    assert len(graph.find_readers("L1H0")) == 3
    assert len(graph.find_readers("*<q>")) == blocks * heads
    assert len(graph.find_readers("L1H*")) == 3 * heads
    assert [str(node) for node in graph.find_writers(["L1H*", "L0 mlp"])][:2] == ["L0 mlp", "L1H0"]
    assert (
        graph.find_writers((1, 2))
        == graph.find_writers((1 - blocks, 2 - heads))
        == graph.find_writers([(1, 2)])
        == graph.find_writers("L1H2")
    )
    assert [str(node) for node in graph.find_writers("L* mlp")] == [f"L{i} mlp" for i in range(blocks)]
    assert "L0H0->L0 mlp" in graph.edges()
    assert "L0 mlp->L0H0<q>" not in graph.edges()
    assert "L0H0->L0 mlp" not in Graph(build("parallel")).edges()
    assert len(graph.edges()) == int(graph.exists.sum())


@pytest.mark.parametrize(
    ("senders", "receivers", "sentence"),
    [
        ("L9H0", "logits", "no sender is called 'L9H0'; the nearest names are"),
        ("L0 mlp", "L1H0<z>", "no receiver is called"),
        ([], "logits", "list of senders is empty"),
        ("logits", "logits", "no sender"),
    ],
)
def test_wrong_names_are_one_clear_sentence(plain, images_of, senders, receivers, sentence):
    with pytest.raises(InputError, match=sentence):
        path_patching(plain, *pair(images_of, plain), senders=senders, receivers=receivers, **QUIET)


@pytest.mark.parametrize("variant", ["post_norm", "differential", "gated_attention", "sub_norms"])
def test_heads_that_do_not_write_by_themselves_are_refused(variant, images_of):
    model = build(variant)
    with pytest.raises(InputError, match="paths need parts"):
        path_patching(model, *pair(images_of, model), **QUIET)
