"""DINOv2's own files, with and without registers, in chunks of blocks or not."""

import re

from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family
from vitlens.model.families.keys import leave_out
from vitlens.model.families.originals.timm_keys import timm_recipe
from vitlens.model.families.recipe import Recipe


def unchunked(state: State) -> State:
    """Blocks by one number: training keeps them in chunks, as blocks.0.3 for block 3."""
    return {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key): tensor for key, tensor in state.items()}


def read_original_dinov2(state: State, config: Config) -> Recipe:
    """The output is the class token. Registers have no position, and what the class token's adds goes into the token."""
    ours, left = leave_out(unchunked(state), ("mask_token",))
    ours = {key.replace("mlp.w12.", "mlp.fc1.").replace("mlp.w3.", "mlp.fc2."): value for key, value in ours.items()}
    if "register_tokens" in ours:
        ours["reg_token"] = ours.pop("register_tokens")
        ours["cls_token"] = ours["cls_token"] + ours["pos_embed"][:, :1]
        ours["pos_embed"] = ours["pos_embed"][:, 1:]
    return timm_recipe(ours, config, 1e-6, left)


ORIGINAL_DINOV2 = Family(
    "DINOv2 (its own files)",
    ("mask_token", "cls_token", "patch_embed.proj.weight", "pos_embed"),
    read_original_dinov2,
    lacks=("decoder_pos_embed", "blocks.0.attn.q_bias"),
)
