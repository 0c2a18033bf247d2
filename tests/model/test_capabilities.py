"""What an architecture allows, and what a cache costs, said before anything is computed."""

import pytest
import torch
from variants import OTHERS, VARIANTS, build, pictures

from vitlens import HookedViT, InputError
from vitlens.model.capabilities import APPROXIMATE, EXACT, IMPOSSIBLE


def status(model, analysis):
    table = model.capabilities().set_index("analysis")
    return table.loc[analysis, "status"]


def test_a_plain_model_can_do_everything_exactly():
    table = HookedViT.from_timm(build()).capabilities()
    assert list(table.columns) == ["analysis", "status", "why"]
    assert set(table["status"]) == {EXACT}
    assert (table["why"].str.len() > 5).all()


def test_limits_are_named_with_their_reason():
    rotary = HookedViT.from_timm(OTHERS["rotary_dynamic_size"]())
    assert status(rotary, "model.QK") == APPROXIMATE
    assert status(rotary, "class_lens") == IMPOSSIBLE
    parallel = HookedViT.from_timm(OTHERS["parallel"]())
    assert status(parallel, 'activation_patching(sites="resid_mid")') == IMPOSSIBLE
    post_norm = HookedViT.from_timm(OTHERS["post_norm"]()).capabilities().set_index("analysis")
    assert post_norm.loc["fold_ln", "status"] == IMPOSSIBLE
    assert "norms follow" in post_norm.loc["fold_ln", "why"]
    pooled = HookedViT.from_timm(OTHERS["attention_pool"]())
    assert status(pooled, "direct_logit_attribution by head") == EXACT
    assert status(pooled, "cache.apply_ln_to_stack and logit_attrs") == IMPOSSIBLE


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_called_impossible_is_refused_and_what_is_exact_is_not(name):
    """The table is checked against the calls themselves."""
    model = HookedViT.from_timm(OTHERS[name]())
    if model.unembed is None:
        model.set_class_embeddings(torch.randn(4, model.cfg.d_model))
    _, cache = model.run_with_cache(pictures(model.cfg, 1))
    calls = {
        "cache.apply_ln_to_stack and logit_attrs": lambda: cache.logit_attrs(cache.decompose_resid(), 1),
        "cache.decompose_resid, accumulated_resid": cache.decompose_resid,
        "cache.stack_head_results, stack_neuron_results, get_full_resid_decomposition": cache.stack_head_results,
    }
    for analysis, call in calls.items():
        if status(model, analysis) == IMPOSSIBLE:
            with pytest.raises(InputError):
                call()
        else:
            call()


@pytest.mark.parametrize("names", [None, "resid_post", "pattern", ["z", "mlp.hook_post"]])
@pytest.mark.parametrize("name", ["class_token", "registers", "rotary", "relative", "any_size", "attention_pool"])
def test_the_size_of_a_cache_is_known_beforehand(name, names):
    model = HookedViT.from_timm((VARIANTS | OTHERS)[name]())
    images = pictures(model.cfg, 3)
    size = model.cache_size(images, names)
    _, cache = model.run_with_cache(images, names_filter=names)
    assert size.bytes == {key: value.numel() * value.element_size() for key, value in cache.items()}
    assert size.total == sum(size.bytes.values())
    assert size.by_kind()["share"].sum() == pytest.approx(1)
    assert size.by_kind()["MiB"].is_monotonic_decreasing


def test_the_size_of_a_cache_says_what_costs_most():
    model = HookedViT.from_timm("vit_base_patch16_224", pretrained=False, depth=4)
    size = model.cache_size(8)
    assert size.by_kind()["hook"].iloc[0] == "attn.hook_result"
    assert "attn.hook_result" in repr(size)
    assert size.bytes["blocks.3.attn.hook_pattern"] == 8 * 12 * 197 * 197 * 4
    with pytest.raises(InputError, match="a number of them that is at least 1, not 0"):
        model.cache_size(0)
    with pytest.raises(InputError, match="nearest names"):
        model.cache_size(1, "patern")
