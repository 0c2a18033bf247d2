"""Hook names and their shorthands, the cache, and TransformerLens' own ways of hooking."""

import ast
import operator
import re

import pytest
import torch
from IPython.core.completer import IPCompleter
from IPython.core.interactiveshell import InteractiveShell
from variants import VARIANTS, build, pictures

from vitlens import HookedViT, InputError, ViTActivationCache
from vitlens.model.hooks.hook_points import resolve_names, shortest_key
from vitlens.model.other_names import CALLED_HERE


@pytest.fixture
def small():
    return HookedViT.from_timm(build())


@pytest.fixture
def images(small):
    return pictures(small.cfg, 2)


POSTS = [f"blocks.{block}.hook_resid_post" for block in range(3)]


def test_blocks_are_counted_in_the_model_not_in_what_was_cached(small, images):
    last = small.cfg.n_layers - 1
    _, cache = small.run_with_cache(images, names_filter=[f"pattern{last}"])
    assert cache["pattern", last] is cache["pattern", -1] is cache[f"blocks.{last}.attn.hook_pattern"]
    with pytest.raises(InputError, match=r"\('pattern', 0\) is a hook point of the model, but it is not in this cache"):
        cache["pattern", 0]
    with pytest.raises(InputError, match="'pattern0' is a hook point of the model, but it is not in this cache"):
        cache["pattern0"]
    with pytest.raises(InputError, match=rf'no hook point is called .*; the nearest names are \("pattern", {last}\)'):
        cache["patern", last]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("resid_post", POSTS),
        ("hook_resid_post", POSTS),
        (POSTS[1], POSTS[1:2]),
        ("resid_post1", POSTS[1:2]),
        ("resid_post_1", POSTS[1:2]),
        (("resid_post", 1), POSTS[1:2]),
        (("resid_post", -1), POSTS[2:]),
        (["resid_post0", ("resid_post", 2)], [POSTS[0], POSTS[2]]),
        ({POSTS[2], POSTS[0]}, [POSTS[0], POSTS[2]]),
        ((POSTS[2], POSTS[0]), [POSTS[0], POSTS[2]]),
        (lambda name: name.endswith("resid_post"), POSTS),
        ("pattern1", ["blocks.1.attn.hook_pattern"]),
        (("scale", 1, "ln2"), ["blocks.1.ln2.hook_scale"]),
        ("ln1.hook_scale", [f"blocks.{block}.ln1.hook_scale" for block in range(3)]),
        ("logits", ["hook_logits"]),
        ("embed", ["hook_embed"]),
        ("pre2", ["blocks.2.mlp.hook_pre"]),
    ],
)
def test_names_filter_takes_what_one_would_type(small, images, names, expected):
    _, cache = small.run_with_cache(images, names_filter=names)
    assert list(cache) == expected


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("resid_pots", "nearest names are.*resid_post"),
        ("patern1", "nearest names are.*pattern"),
        ("blocks.7.hook_resid_post", r"nearest names are.*blocks\.\d\.hook_resid_post"),
        (("pattern", 7), "blocks 0 to 2"),
        (("pattern", -4), "blocks 0 to 2"),
        ("pattern7", "blocks 0 to 2"),
        (["resid_post", "nope"], "nope"),
        ([], "empty"),
        (lambda name: False, "accepts none"),
        ("hook_q_normed", "nearest"),
    ],
)
def test_names_that_match_nothing_are_errors(small, images, names, sentence):
    with pytest.raises(InputError, match=sentence):
        small.run_with_cache(images, names_filter=names)
    with pytest.raises(InputError, match=sentence):
        small.add_hook(names, lambda activation, hook: None)
    if not isinstance(names, list):
        with pytest.raises(InputError, match=sentence):
            small.run_with_hooks(images, fwd_hooks=[(names, lambda activation, hook: None)])
    assert small.list_hooks() == {}


def test_names_come_in_the_order_of_the_forward_pass(model):
    """Whatever the order of the filter, and of modules: the cache is filled, and hooks are listed, as the model runs."""
    order = list(model.run_with_cache(pictures(model.cfg, 1))[1])
    backwards = order[::-1]
    _, cache = model.run_with_cache(pictures(model.cfg, 1), names_filter=backwards)
    assert list(cache) == order
    assert set(order) == set(model.hook_dict)


def test_a_name_that_the_run_does_not_reach_is_an_error(small, images):
    with pytest.raises(InputError, match="did not reach"):
        small.run_with_cache(images, names_filter="pattern2", stop_at_layer=1)
    stream, cache = small.run_with_cache(images, stop_at_layer=1)
    assert torch.equal(stream, cache["resid_post", 0])


def test_cache_shorthands(small, images):
    _, cache = small.run_with_cache(images)
    assert isinstance(cache, ViTActivationCache)
    assert cache["resid_post", 2] is cache[POSTS[2]]
    assert cache["pattern", -1] is cache["blocks.2.attn.hook_pattern"]
    assert cache["pattern0"] is cache["blocks.0.attn.hook_pattern"]
    assert cache["logits"] is cache["hook_logits"]
    with pytest.raises(InputError, match="names 3 activations"):
        cache["pattern"]
    with pytest.raises(InputError, match="nearest names"):
        cache["patern", 0]


def test_reprs_are_short_and_say_what_matters(small, images):
    _, cache = small.run_with_cache(images)
    assert len(repr(small)) < 300
    for fact in ("3 blocks × 4 heads", "3 × 3 patches + class", "10 classes", "float64"):
        assert fact in repr(small)
    assert len(repr(cache)) < 300
    for fact in ("activations", "MiB", "3 × 3 patches"):
        assert fact in repr(cache)


def test_decompositions_of_transformerlens_sum_to_the_stream(model):
    _, cache = model.run_with_cache(pictures(model.cfg, 2))
    last = cache["resid_post", -1]
    parts, labels = cache.decompose_resid(return_labels=True)
    assert len(parts) == len(labels)
    written = [f"{block}_{part}_out" for block in range(3) for part in ("attn", "mlp")]
    if model.ln_pre is not None:
        start = ["embed_norm"]
    else:
        start = ["embed", "pos_embed"] if model.embed.pos_embed is not None else ["embed"]
    assert labels == [*start, *written]
    torch.testing.assert_close(parts.sum(0), last, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(cache.decompose_resid(layer=1, mlp_input=True).sum(0), cache["resid_mid", 1])
    torch.testing.assert_close(cache.decompose_resid(layer=0).sum(0), cache["resid_pre", 0])
    streams = cache.accumulated_resid()
    torch.testing.assert_close(streams[-1], last)
    heads = cache.stack_head_results(layer=2)
    torch.testing.assert_close(heads[: model.cfg.n_heads].sum(0) + model.b_O[0], cache["attn_out", 0])
    patterns = cache.stack_activation("pattern")
    assert len(patterns) == model.cfg.n_layers
    assert torch.equal(patterns[1], cache["pattern", 1])


@pytest.mark.parametrize("name", ["class_token", "norm_pre", "no_position"])
def test_parts_of_a_decomposition(name):
    model = HookedViT.from_timm(VARIANTS[name]())
    _, cache = model.run_with_cache(pictures(model.cfg, 2))
    attention, labels = cache.decompose_resid(mode="attn", incl_embeds=False, return_labels=True)
    assert labels == ["0_attn_out", "1_attn_out", "2_attn_out"]
    assert torch.equal(attention[1], cache["attn_out", 1])
    one_token = cache.decompose_resid(pos_slice=2)
    torch.testing.assert_close(one_token.sum(0), cache["resid_post", -1][:, 2])
    streams, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    assert labels == ["0_pre", "0_mid", "1_pre", "1_mid", "2_pre", "2_mid", "final_post"]
    assert torch.equal(streams[3], cache["resid_mid", 1])


@pytest.mark.parametrize("name", ["class_token", "norm_pre"])
def test_normalised_decompositions_sum_to_what_the_final_norm_returns_but_for_its_bias(name):
    model = HookedViT.from_timm(VARIANTS[name]())
    _, cache = model.run_with_cache(pictures(model.cfg, 2))
    normed = cache.decompose_resid(apply_ln=True).sum(0)
    torch.testing.assert_close(normed, cache["ln_final.hook_normalized"] * model.ln_final.weight)


def test_slices_and_grids(small, images):
    _, cache = small.run_with_cache(images)
    first = cache.apply_slice_to_batch_dim(0)
    assert isinstance(first, ViTActivationCache)
    assert torch.equal(first["resid_post", 0], cache["resid_post", 0][0])
    stream = cache["resid_post", 0]
    assert torch.equal(cache.prefix(stream), stream[:, :1])
    patches = cache.patches(stream)
    assert torch.equal(patches[1, 2, 0], stream[1, 1 + 2 * 3])
    assert torch.equal(first.patches(first["resid_post", 0]), patches[0])


def test_pos_slice_cuts_tokens_and_nothing_else(model):
    """The token axis is told by its length, as no other axis but the keys' is as long."""
    images = pictures(model.cfg, 2)
    tokens, n_patches = model.cfg.n_ctx, model.cfg.grid_size[0] * model.cfg.grid_size[1]
    _, whole = model.run_with_cache(images)
    _, cut = model.run_with_cache(images, pos_slice=(1, 4))
    assert list(cut) == list(whole)
    for name, activation in whole.items():
        length = n_patches if name == "hook_patch_embed" else tokens
        if name.startswith("fc_norm") or name in ("hook_pooled", "hook_pooled_dist", "hook_logits"):
            expected = activation
        else:
            expected = activation.narrow(activation.shape.index(length), 1, 3)
        assert torch.equal(cut[name], expected), name
    _, one = model.run_with_cache(images, names_filter=["q", "z", "pattern"], pos_slice=-1)
    torch.testing.assert_close(one["q", 1], whole["q", 1][:, -1:])
    torch.testing.assert_close(one["pattern", 1], whole["pattern", 1][:, :, -1:])


def test_activations_are_kept_where_one_says(small, images):
    logits, cache = small.run_with_cache(images, names_filter="resid_post", device="meta")
    assert {cache[name].device.type for name in cache} == {"meta"}
    assert logits.device.type == "cpu"


def test_one_picture_without_batch_axis(small, images):
    _, cache = small.run_with_cache(images[:1], remove_batch_dim=True)
    assert cache["resid_post", 0].shape == (10, 32)
    assert cache["logits"].shape == (10,)
    with pytest.raises(InputError, match="single picture"):
        small.run_with_cache(images, remove_batch_dim=True)


def test_gradients_in_the_cache_leave_parameters_alone(small, images):
    labels = torch.tensor([1, 2])
    _, cache = small.run_with_cache(images, incl_bwd=True, return_type="loss", labels=labels)
    assert all(parameter.grad is None for parameter in small.parameters())
    small.unembed.bias.grad = torch.ones_like(small.unembed.bias)
    small.run_with_cache(images, names_filter="logits", incl_bwd=True, return_type="loss", labels=labels)
    assert torch.equal(small.unembed.bias.grad, torch.ones(10, dtype=torch.float64))
    small.unembed.bias.grad = None
    logits = cache["logits"].clone().requires_grad_()
    (expected,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), logits)
    torch.testing.assert_close(cache["hook_logits_grad"], expected)
    stream = cache["resid_pre", 1].clone().requires_grad_()
    loss = small(stream, start_at_layer=1, return_type="loss", labels=labels)
    (expected,) = torch.autograd.grad(loss, stream)
    torch.testing.assert_close(cache["blocks.1.hook_resid_pre_grad"], expected)
    assert "blocks.2.attn.hook_pattern_grad" in list(cache)
    with pytest.raises(InputError, match="scalar"):
        small.run_with_cache(images, incl_bwd=True)
    assert small.list_hooks() == {}


def test_hooks_nest_persist_and_go(small, images):
    seen = []

    def note(activation, hook):
        seen.append(hook.name)

    with small.hooks([("logits", note)]):
        with small.hooks([("embed", note)]):
            small(images)
        small(images)
    small(images)
    assert seen == ["hook_embed", "hook_logits", "hook_logits"]

    def fail(activation, hook):
        raise RuntimeError("from the hook")

    with pytest.raises(RuntimeError, match="from the hook"):
        small.run_with_hooks(images, fwd_hooks=[("pattern", fail)])
    assert small.list_hooks() == {}
    small.add_perma_hook("logits", note)
    small.reset_hooks()
    small(images)
    assert seen[-1] == "hook_logits"
    assert len(seen) == 4
    small.reset_hooks(including_permanent=True)
    small(images)
    assert len(seen) == 4


def test_a_users_own_hook_survives_a_cached_run(small, images):
    small.add_hook("pooled", lambda pooled, hook: torch.zeros_like(pooled))
    _, cache = small.run_with_cache(images, names_filter="pooled")
    assert cache["pooled"].count_nonzero() == 0
    torch.testing.assert_close(small(images), small.b_U.expand(2, -1))
    small.reset_hooks()
    assert small(images).std(0).min() > 0


def test_language_model_calls_point_to_ours(small, images):
    _, cache = small.run_with_cache(images)
    with pytest.raises(InputError, match="class_lens"):
        cache.logit_lens()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "boot_transformers",
            r"no .boot_transformers.: use HookedViT\.from_timm or HookedViT\.from_pretrained$",
        ),
        ("W_E", r"HookedViT has no 'W_E': .* model\.embed\.patch_embed_weight$"),
        ("to_single_str_token", r"model\.class_label\(index\)$"),
        ("nonsense", "has no attribute 'nonsense'"),
    ],
)
def test_names_of_other_libraries_say_what_is_here(small, name, sentence):
    for owner in (small, HookedViT):
        assert not hasattr(owner, name)
        with pytest.raises(AttributeError, match=sentence) as caught:
            getattr(owner, name)
        assert caught.value.__context__ is None


def test_what_is_advised_is_there(small):
    for name, advice in CALLED_HERE.items():
        assert not hasattr(small, name)
        for path in re.findall(r"(?:model|HookedViT)((?:\.\w+)+)", advice):
            assert operator.attrgetter(path[1:])(small) is not None
    small.head = torch.nn.Identity()
    try:
        assert isinstance(small.head, torch.nn.Identity), "an attribute of the user's own"
    finally:
        del small.head


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"start_at_layer": 5}, "blocks 0 to 2"),
        ({"stop_at_layer": -4}, "blocks 0 to 2"),
        ({"return_type": "logit"}, "return_type is"),
        ({"return_type": "loss"}, "needs labels="),
        ({"start_at_layer": 1}, r"residual stream \[batch, tokens, 32\].*not \[2, 3, 48, 48\]"),
    ],
)
def test_wrong_arguments_of_a_forward(small, images, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        small(images, **arguments)


@pytest.mark.parametrize(
    ("stream", "sentence"),
    [
        (torch.zeros(2, 10, 31, dtype=torch.float64), "not \\[2, 10, 31\\]"),
        (torch.zeros(2, 10, 32), "float32, the model computes in torch.float64"),
        (torch.full((2, 10, 32), float("nan"), dtype=torch.float64), "NaN"),
        ([0.0], "not list"),
    ],
)
def test_streams_that_no_block_can_read(small, stream, sentence):
    with pytest.raises(InputError, match=sentence):
        small(stream, start_at_layer=1)


@pytest.mark.parametrize("key", ["resid_post", "scale", "pattern", "normalized", ("scale", 1), ("normalized", -1)])
def test_advice_on_a_key_of_several_activations_works(small, images, key):
    _, cache = small.run_with_cache(images)
    with pytest.raises(InputError, match="name one of them, as in") as refused:
        cache[key]
    advised = str(refused.value).split("as in ")[1]
    assert torch.is_tensor(eval(advised, {"cache": cache}))


@pytest.mark.parametrize(
    "wrong",
    ["resid_psot", "resid_psot2", "patern1", "attn_weights", "features", "logts", ("attn_weights", 1), ("scale", 0, "ln7"),
     ("out", -1), "blocks.1", "blocks.1.hook_resid_pots", "q3x"],
)  # fmt: skip
def test_the_nearest_names_are_names(small, images, wrong):
    """Each of them is found, as it is written, and those of a name with a block keep the block."""
    _, cache = small.run_with_cache(images)
    with pytest.raises(InputError, match="the nearest names are") as refused:
        cache[wrong]
    near = str(refused.value).split("the nearest names are ")[1]
    keys = list(ast.literal_eval(f"[{near}]")) if near.startswith("(") else near.split(", ")
    for key in keys:
        names = resolve_names(key, cache.cache_dict, 3)
        assert names
        if wrong in ("resid_psot2", "patern1"):
            assert {name.split(".")[1] for name in names} == {wrong[-1]}


def test_shortest_keys_mean_their_hook_point(model):
    _, cache = model.run_with_cache(pictures(model.cfg, 1))
    for full in cache:
        assert cache[shortest_key(full, cache.cache_dict)] is cache[full]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ('cache["', {"resid_post", "pattern", "logits", "blocks.0.hook_resid_post"}),
        ('cache["resid_po', {"resid_post"}),
        ("cache['patt", {"pattern"}),
        ('cache["resid_post", ', {"0", "1", "2"}),
        ('cache["scale", 1, "', {"ln1", "ln2"}),
        ('cache["blocks.2.attn.hook_pa', {"blocks.2.attn.hook_pattern"}),
    ],
)
def test_ipython_completes_names_of_activations(small, images, typed, offered):
    _, cache = small.run_with_cache(images)
    completer = IPCompleter(shell=InteractiveShell.instance(), namespace={"cache": cache}, use_jedi=False)
    found = {text.strip("\"'], ").split('"')[-1] for text in completer.complete(None, typed, len(typed))[1]}
    assert offered <= found


def test_what_a_cache_was_not_to_keep_is_said_to_be_the_models(small, images):
    _, cache = small.run_with_cache(images, names_filter="pattern")
    for key in (("resid_pre", 1), "blocks.1.hook_resid_pre", "resid_pre1"):
        with pytest.raises(InputError, match=r"hook point of the model, but it is not in this cache.*names_filter="):
            cache[key]
    with pytest.raises(InputError, match="no hook point is called"):
        cache["resid_prae", 1]
