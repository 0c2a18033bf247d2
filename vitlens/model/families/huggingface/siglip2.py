"""Hugging Face's SigLIP 2 for pictures of any size and proportions (NaFlex). Its models of one size have SigLIP's files."""

from dataclasses import replace
from math import isqrt

from einops import rearrange

from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family
from vitlens.model.families.huggingface.siglip import SIGLIP_LACKS, SIGLIP_MARKS, read_siglip
from vitlens.model.families.huggingface.towers import tower_config
from vitlens.model.families.recipe import Recipe
from vitlens.model.porting.timm_classes import NaFlexVit

_STEM = "embeddings.patch_embedding.weight"


def read_siglip2(state: State, config: Config) -> Recipe:
    """As SigLIP, with a stem that reads flattened patches, and positions that are resized to each picture."""
    flat, n_channels = state[_STEM], tower_config(config).get("num_channels", 3)
    patch = isqrt(flat.shape[1] // n_channels)
    # Seen as a convolution, the stem shows its sizes as SigLIP's does.
    stem = rearrange(flat, "d (p q c) -> d c p q", p=patch, q=patch)
    recipe = read_siglip(state | {_STEM: stem}, config, interpolates=False)
    height, width = recipe.keywords["img_size"]
    grid = height // patch, width // patch
    ours = dict(recipe.state)
    ours["embeds.proj.weight"], ours["embeds.proj.bias"] = flat, ours.pop("patch_embed.proj.bias")
    del ours["patch_embed.proj.weight"]
    ours["embeds.pos_embed"] = rearrange(ours.pop("pos_embed"), "1 (h w) d -> 1 h w d", h=grid[0])
    return replace(
        recipe,
        kind=NaFlexVit,
        keywords={
            **recipe.keywords,
            "pos_embed_grid_size": grid,
            "pos_embed_interp_mode": "bilinear",
            "embed_proj_type": "linear",
        },
        state=ours,
        pretrained_cfg={**recipe.pretrained_cfg, "input_size": (n_channels, height, width)},
    )


SIGLIP_2 = Family(
    "Hugging Face SigLIP 2 (NaFlex)",
    SIGLIP_MARKS,
    read_siglip2,
    model_types=("siglip2", "siglip2_vision_model"),
    lacks=SIGLIP_LACKS,
)
