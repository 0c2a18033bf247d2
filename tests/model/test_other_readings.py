"""Poolings that timm has not: class token and mean of the patches side by side, a distillation token that nobody reads."""

import pytest
import torch
from torch import nn
from variants import OTHERS, pictures, randomise

import vitlens
from vitlens import HookedViT, InputError


@pytest.fixture(scope="module")
def both():
    return HookedViT.from_timm(OTHERS["class_and_mean"]())


@pytest.fixture(scope="module")
def run(both):
    logits, cache = both.run_with_cache(pictures(both.cfg, 2), names_filter=["resid_post", "pooled"])
    return logits, cache["resid_post", -1], cache["hook_pooled"]


def equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_head_reads_the_class_token_and_the_mean_of_the_patches_without_registers(both, run):
    logits, last, pooled = run
    normed = both.ln_final.normalise(last)
    expected = torch.cat([normed[:, 0], normed[:, 3:].mean(dim=1)], dim=1)
    equal(pooled, expected)
    equal(logits, expected @ both.unembed.weight.T + both.unembed.bias)
    equal(both(pictures(both.cfg, 2), return_type="features"), expected)


def test_a_token_is_read_in_both_halves(both, run):
    alike = run[1][:, 4:5].expand(-1, run[1].shape[1], -1)
    equal(both.project(alike[:, :1], [4])[:, 0], both(alike, start_at_layer=3))
    equal(both.ln_final.normalise(alike[:, 0]) @ both.W_U + both.b_U, both(alike, start_at_layer=3))


def test_what_is_removed_counts_in_neither_half(both):
    stream = both(pictures(both.cfg, 2), stop_at_layer=0)
    keep = torch.tensor([[True, False, True, True, False, True, True, True, False], [False] * 9])
    resid = both.forward_kept(stream, keep).resid
    normed = both.ln_final.normalise(resid)
    halves = torch.cat([normed[:, 0], torch.stack([normed[0, 3:9].mean(dim=0), torch.zeros(32).double()])], dim=1)
    equal(both.forward_kept(stream, keep).logits, both.unembed(halves))


def test_the_norm_is_folded_into_both_halves(run):
    folded = HookedViT.from_timm(OTHERS["class_and_mean"]()).process_weights_(fold_ln=True, center_writing_weights=True)
    equal(folded(pictures(folded.cfg, 2)), run[0])


def test_class_embeddings_are_as_wide_as_both_halves(both, run):
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    equal(both.with_class_embeddings(weight)(pictures(both.cfg, 2)), run[2] @ weight.T)
    with pytest.raises(InputError, match=r"width 32 do not fit this model, which has 64 \(features\)"):
        both.with_class_embeddings(weight[:, :32])


def test_an_attention_pool_may_return_vectors_of_another_width():
    module = OTHERS["attention_pool_alone"]()
    module.attn_pool.proj, module.head = nn.Linear(32, 20), nn.Linear(20, 10)
    model = HookedViT.from_timm(randomise(module))
    images = pictures(model.cfg, 2)
    equal(model(images), module(images))
    assert vitlens.direct_logit_attribution(model, images, [3, 1], unit="head_patch").residual.abs().max() <= 1e-12
    alike = model(images, stop_at_layer=3)[:, :1].expand(-1, 9, -1)
    equal(model.project(alike[:, :1], [0])[:, 0], model(alike, start_at_layer=3))
    nothing = torch.zeros(2, 9, dtype=torch.bool)
    equal(model.forward_kept(model(images, stop_at_layer=0), nothing).logits, module.head.bias.expand(2, -1))
    with pytest.raises(InputError, match="reads 20 numbers and the stream has 32, so its weights are no directions"):
        _ = model.W_U
    table = model.capabilities().set_index("analysis")
    assert table.loc["model.W_U, vitlens.memories", "status"] == "impossible"
    assert "unembed.W_U" not in model.tl_parameters()
    equal(HookedViT.from_timm(module, fold_ln=True)(images), module(images))


def test_a_distillation_token_that_is_not_read_has_its_name():
    model = HookedViT.from_timm(OTHERS["class_of_distilled"]())
    assert model.cfg.prefix_tokens == ("class", "distillation")
    assert not model.is_distilled
    _, cache = model.run_with_cache(pictures(model.cfg, 1))
    equal(cache["hook_pooled"], model.ln_final.normalise(cache["resid_post", -1])[:, 0])
