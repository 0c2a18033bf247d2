"""Hugging Face's DINOv3 ViT: rotary positions, registers, LayerScale."""

from math import pi
from typing import Any

import torch
from jaxtyping import Float
from timm.models.eva import Eva
from torch import Tensor, nn

from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family
from vitlens.model.families.huggingface.config import facts
from vitlens.model.families.huggingface.positions import patches_of_size
from vitlens.model.families.huggingface.preprocessing import input_size
from vitlens.model.families.huggingface.vit import IMAGENET_COLOURS, common_keywords, meaning
from vitlens.model.families.keys import leave_out, of_any_block, translate
from vitlens.model.families.recipe import Recipe, own_dtype

_NAMES = {
    "layer.{i}.norm1": "blocks.{i}.norm1",
    "layer.{i}.norm2": "blocks.{i}.norm2",
    "layer.{i}.attention.q_proj": "blocks.{i}.attn.qkv#0",
    "layer.{i}.attention.k_proj": "blocks.{i}.attn.qkv#1",
    "layer.{i}.attention.v_proj": "blocks.{i}.attn.qkv#2",
    "layer.{i}.attention.o_proj": "blocks.{i}.attn.proj",
    "layer.{i}.layer_scale1.lambda1": "blocks.{i}.gamma_1",
    "layer.{i}.layer_scale2.lambda1": "blocks.{i}.gamma_2",
    "embeddings.cls_token": "cls_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings": "patch_embed.proj",
    "norm": "norm",
}
_PLAIN_MLP = {"layer.{i}.mlp.up_proj": "blocks.{i}.mlp.fc1", "layer.{i}.mlp.down_proj": "blocks.{i}.mlp.fc2"}
_GATED_MLP = _PLAIN_MLP | {
    "layer.{i}.mlp.gate_proj": "blocks.{i}.mlp.fc1_g",
    "layer.{i}.mlp.up_proj": "blocks.{i}.mlp.fc1_x",
}
_THETA = 100.0
_PUBLISHED_SIZE = 224


def read_dinov3(state: State, config: Config) -> Recipe:
    """The class token is the answer."""
    gated = any(".mlp.gate_proj." in key for key in state)
    ours, rest = translate(state, _NAMES | (_GATED_MLP if gated else _PLAIN_MLP))
    n_registers = ours["reg_token"].shape[1]
    if not n_registers:
        del ours["reg_token"]
    ours |= _zero_biases(ours)
    size = config.get("img_size") or input_size(config) or config.get("image_size")
    keywords, assumed = common_keywords(ours, {**config, "image_size": size or _PUBLISHED_SIZE}, 1e-5)
    assumed += () if size else (f"pictures of {_PUBLISHED_SIZE} × {_PUBLISHED_SIZE}",)
    patches_of_size(keywords["img_size"], keywords["patch_size"])
    act = keywords.pop("act_layer")
    acts = (
        {} if act is (nn.SiLU if gated else nn.GELU) else {f"blocks.{i}.mlp.act": act for i in range(keywords["depth"])}
    )
    rest, unused = leave_out(rest, ("embeddings.mask_token",))
    width = keywords["embed_dim"] // keywords["num_heads"]
    theta, dtype = config.get("rope_theta", _THETA), torch.promote_types(own_dtype(ours), torch.float32)
    return Recipe(
        Eva,
        keywords
        | {
            "num_classes": 0,
            "global_pool": "token",
            "use_fc_norm": False,
            "attn_type": "rope",
            "swiglu_mlp": gated,
            "swiglu_align_to": int(gated),
            "init_values": 1.0,
            "num_reg_tokens": n_registers,
            "use_abs_pos_emb": False,
            "use_rot_pos_emb": True,
            "rope_type": "dinov3",
            "rope_rotate_half": True,
        },
        ours | rest,
        parts=acts | {"rope": lambda: Dinov3Angles(width, theta).to(dtype)},
        pretrained_cfg=facts(config, **IMAGENET_COLOURS, interpolation="bilinear") | meaning(ours),
        unused=unused,
        assumed=assumed,
    )


def _zero_biases(ours: State) -> State:
    """Zeros for the biases that the source has in no block, since timm's linear maps have one each."""
    present = {of_any_block(name) for name in ours}
    return {
        bias: weight.new_zeros(len(weight))
        for name, weight in ours.items()
        if name.endswith("weight") and (".attn." in name or ".mlp." in name)
        if of_any_block(bias := name.removesuffix("weight") + "bias") not in present
    }


class Dinov3Angles(nn.Module):
    """Sines and cosines of the angles by which the queries and keys of patches are turned, rounded as Hugging Face does.

    timm divides by periods where Hugging Face multiplies by frequencies: the two differ in the seventh digit.
    """

    def __init__(self, width: int, theta: float) -> None:
        super().__init__()
        frequencies = 1 / theta ** torch.arange(0, 1, 4 / width, dtype=torch.float32)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.frequencies: Tensor

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # Frequencies in half precision would turn patches by other angles: as in timm, they stay in float32.
        frequencies = self.frequencies
        super()._apply(fn, recurse)
        if self.frequencies.itemsize < 4:
            self.frequencies = frequencies.to(self.frequencies.device, torch.float32)
        return self

    def get_embed(self, shape: tuple[int, int]) -> Float[Tensor, "patches two_widths"]:
        """Of a grid of patches, whose coordinates run from −1 to 1."""
        sides = (torch.arange(0.5, n, dtype=torch.float32, device=self.frequencies.device) / n for n in shape)
        places = 2 * torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1).flatten(0, 1) - 1
        angles = (2 * pi * places[:, :, None] * self.frequencies).flatten(1).tile(2)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


DINOV3 = Family(
    "Hugging Face DINOv3",
    (
        "layer.0.attention.q_proj.weight",
        "layer.0.layer_scale1.lambda1",
        "embeddings.register_tokens",
        "embeddings.cls_token",
    ),
    read_dinov3,
    model_types=("dinov3_vit",),
)
