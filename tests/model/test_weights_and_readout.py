"""Weights in TransformerLens' layout, and the classifier as an exactly linear map of the last stream."""

import pytest
import torch
from variants import VARIANTS, pictures

from vitlens import HookedViT, InputError


def test_layout_and_content_of_the_stacked_weights(module, model):
    cfg = model.cfg
    L, H, d, d_h, d_mlp = cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_head, cfg.d_mlp
    assert model.W_Q.shape == model.W_K.shape == model.W_V.shape == (L, H, d, d_h)
    assert model.W_O.shape == (L, H, d_h, d)
    assert model.b_Q.shape == model.b_K.shape == model.b_V.shape == (L, H, d_h)
    assert model.W_in.shape == (L, d, d_mlp)
    assert model.W_out.shape == (L, d_mlp, d)
    assert (model.b_O.shape, model.b_in.shape, model.b_out.shape) == ((L, d), (L, d_mlp), (L, d))
    qkv = module.blocks[1].attn.qkv.weight
    head = 2
    rows = slice(head * d_h, (head + 1) * d_h)
    for i, weight in enumerate((model.W_Q, model.W_K, model.W_V)):
        assert torch.equal(weight[1, head], qkv[i * d : (i + 1) * d][rows].T)
    gamma = getattr(module.blocks[1].ls1, "gamma", torch.ones(d, dtype=torch.float64))
    bias = module.blocks[1].attn.qkv.bias
    for i, ours in enumerate((model.b_Q, model.b_K, model.b_V)):
        expected = torch.zeros(d_h, dtype=torch.float64) if bias is None else bias[i * d : (i + 1) * d][rows]
        assert torch.equal(ours[1, head], expected)
    torch.testing.assert_close(model.W_O[1, head], module.blocks[1].attn.proj.weight[:, rows].T * gamma)
    for ours, linear, scale in (
        (model.b_O, module.blocks[1].attn.proj, gamma),
        (model.b_out, module.blocks[1].mlp.fc2, getattr(module.blocks[1].ls2, "gamma", torch.ones_like(gamma))),
    ):
        expected = torch.zeros_like(gamma) if linear.bias is None else linear.bias * scale
        torch.testing.assert_close(ours[1], expected)


def test_circuits_are_the_products(model):
    if model.cfg.qk_norm:
        with pytest.warns(UserWarning, match="normalised"):
            circuit = model.QK
    else:
        circuit = model.QK
    torch.testing.assert_close(circuit.AB, model.W_Q @ model.W_K.mT)
    torch.testing.assert_close(model.OV.AB, model.W_V @ model.W_O)


def test_class_embeddings():
    model = HookedViT.from_timm(VARIANTS["class_token"]())
    assert model.W_U.shape == (32, 10)
    assert torch.equal(model.W_U, model.unembed.weight.T)
    assert torch.equal(model.b_U, model.unembed.bias)
    distilled = HookedViT.from_timm(VARIANTS["distilled"]())
    torch.testing.assert_close(distilled.W_U, (distilled.unembed.weight + distilled.unembed_dist.weight).T / 2)
    torch.testing.assert_close(distilled.b_U, (distilled.unembed.bias + distilled.unembed_dist.bias) / 2)
    with pytest.raises(InputError, match="without a classifier"):
        _ = HookedViT.from_timm(VARIANTS["no_classifier"]()).W_U


def test_positions():
    model = HookedViT.from_timm(VARIANTS["no_embed_class"]())
    assert model.W_pos.shape == (model.cfg.n_ctx, model.cfg.d_model)
    assert model.W_pos[: model.cfg.n_prefix_tokens].abs().max() == 0
    with pytest.raises(InputError, match="no position embedding"):
        _ = HookedViT.from_timm(VARIANTS["no_position"]()).W_pos


def test_the_readout_is_linear_and_exact(model):
    images = pictures(model.cfg, 3)
    logits, cache = model.run_with_cache(images, names_filter=["resid_post", "attn_out"])
    last = cache["resid_post", -1]
    if model.unembed is None:
        with pytest.raises(InputError, match="without a classifier"):
            model.linear_readouts(last)
        return
    readouts = model.linear_readouts(last)
    assert len(readouts) == 1 + model.is_distilled
    torch.testing.assert_close(sum(readout(last) for readout in readouts), logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.read_out(last), logits, rtol=1e-12, atol=1e-12)
    part = cache["attn_out", 1]
    for readout in readouts:
        fixed = readout(torch.zeros_like(last))
        halves = readout(part) + readout(last - part) - fixed
        torch.testing.assert_close(halves, readout(last), rtol=1e-9, atol=1e-9)
