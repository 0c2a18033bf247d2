"""Files in the layouts in which CLIP, DINO, MAE and others were published: they load to the numbers of the same module."""

import re
from functools import partial

import pytest
import torch
from timm.layers import SwiGLUPacked
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitlens import HookedViT, InputError
from vitlens.parity.reduced import randomise

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SMALL = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}


def plain(**keywords):
    return randomise(VisionTransformer(**{**SMALL, **keywords}))


def renamed(state, *rules):
    for ours, theirs in rules:
        state = {re.sub(ours, theirs, key): tensor for key, tensor in state.items()}
    return state


def mae():
    module = plain()
    decoder = {"mask_token": torch.ones(1, 1, 16), "decoder_pos_embed": torch.ones(1, 5, 16)}
    return module, module.state_dict() | decoder


def mae_classifier():
    module = plain(num_classes=5, global_pool="avg")
    return module, {"model": module.state_dict(), "epoch": 3}


def dino():
    module = plain()
    teacher = {f"backbone.{key}": tensor for key, tensor in module.state_dict().items()}
    student = {f"module.backbone.{key}": tensor * 2 for key, tensor in module.state_dict().items()}
    return module, {"teacher": teacher, "student": student}


def dinov2(**keywords):
    module = plain(init_values=1e-5, **keywords)
    return module, module.state_dict() | {"mask_token": torch.ones(1, 32)}


def dinov2_registers():
    module = plain(init_values=1e-5, reg_tokens=2, no_embed_class=True, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU)
    rules = (r"^reg_token", "register_tokens"), (r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3")
    state = renamed(module.state_dict(), *rules) | {"mask_token": torch.ones(1, 32)}
    # A norm would forget one number for all.
    position = torch.linspace(-1, 1, 32, dtype=torch.float64).reshape(1, 1, 32)
    state |= {
        "cls_token": state["cls_token"] - position,
        "pos_embed": torch.cat([position, state["pos_embed"]], 1),
    }
    return module, renamed(state, (r"^blocks\.0\.", "blocks.0.0."), (r"^blocks\.1\.", "blocks.1.1."))


def dinov3():
    rotary = {"rope_type": "dinov3", "rope_temperature": 100, "rope_rotate_half": True, "use_rot_pos_emb": True}
    module = Eva(
        **SMALL | {"img_size": 224}, **rotary, use_abs_pos_emb=False, num_reg_tokens=2, init_values=1e-5,
        dynamic_img_size=True, global_pool="token", use_fc_norm=False, swiglu_mlp=True, swiglu_align_to=8,
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    module = randomise(module)
    state = renamed(
        module.state_dict(), (r"reg_token", "storage_tokens"), (r"gamma_(\d)", r"ls\1.gamma"), (r"fc1_g", "w1"),
        (r"fc1_x", "w2"), (r"mlp\.fc2", "mlp.w3"),
    )  # fmt: skip
    for block in range(2):
        q, v = (state.pop(f"blocks.{block}.attn.{x}_bias") for x in "qv")
        state[f"blocks.{block}.attn.qkv.bias"] = torch.cat([q, torch.full_like(q, 7.0), v])
        state[f"blocks.{block}.attn.qkv.bias_mask"] = torch.cat([torch.ones(32), torch.zeros(32), torch.ones(32)])
    periods = 100 ** (torch.arange(4) / 4)
    return module, state | {"rope_embed.periods": periods, "mask_token": torch.ones(1, 32)}


def clip():
    module = plain(
        embed_dim=64, num_heads=1, num_classes=8, pre_norm=True, act_layer="quick_gelu",
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    nn.init.zeros_(module.head.bias)
    state = renamed(
        module.state_dict(), (r"^norm_pre", "ln_pre"), (r"^norm\.", "ln_post."), (r"norm(\d)", r"ln_\1"),
        (r"qkv\.", "in_proj_"), (r"attn\.proj", "attn.out_proj"), (r"mlp\.fc1", "mlp.c_fc"), (r"mlp\.fc2", "mlp.c_proj"),
        (r"^blocks", "transformer.resblocks"), (r"^patch_embed\.proj", "conv1"),
    )  # fmt: skip
    tower = {key: state[key] for key in state if not key.startswith(("cls", "pos", "head"))} | {
        "class_embedding": state["cls_token"][0, 0],
        "positional_embedding": state["pos_embed"][0],
        "proj": state["head.weight"].T,
    }
    text = {"transformer.resblocks.0.ln_1.weight": torch.ones(4), "text_projection": torch.ones(4, 4)}
    return module, {f"visual.{key}": tensor for key, tensor in tower.items()} | text | {
        "logit_scale": torch.tensor(4.6)
    }


#: The layout, and the heads where the published models have no such width and the file does not tell.
FILES = {
    mae: 2, mae_classifier: 2, dino: 2, dinov2: 2, dinov2_registers: 2, dinov3: None, clip: None,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*(is read as|of several models)")
@pytest.mark.parametrize("layout", FILES, ids=lambda layout: layout.__name__)
def test_a_published_layout_loads_to_the_same_numbers(layout):
    module, saved = layout()
    images = IMAGES if layout is not dinov3 else IMAGES.repeat(1, 1, 7, 7)
    model = HookedViT.from_pretrained(saved, n_heads=FILES[layout])
    assert model.dtype == torch.float64
    torch.testing.assert_close(model(images), module(images), rtol=1e-9, atol=1e-9)


def test_what_is_left_out_and_assumed_is_said(recwarn):
    _, saved = clip()
    HookedViT.from_pretrained(saved)
    _, saved = mae()
    HookedViT.from_pretrained(saved, n_heads=2)
    told = " ".join(str(warning.message) for warning in recwarn)
    assert "left out: transformer (1 tensor), text_projection (1 tensor), logit_scale (1 tensor)" in told
    assert "assumed: quick-GELU, as OpenAI's models have it" in told
    assert "left out: mask_token, decoder_pos_embed" in told
    assert "assumed: layer norms of eps 1e-06, GELU" in told


@pytest.mark.filterwarnings("ignore:.*is read as")
def test_a_tensor_that_is_not_used_is_refused():
    _, saved = clip()
    with pytest.raises(InputError, match="the model lacks extra"):
        HookedViT.from_pretrained(saved | {"extra": torch.ones(3)})
