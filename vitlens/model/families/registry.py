"""All families of weights that vitlens reads, and how one is recognised."""

from vitlens.errors import InputError
from vitlens.model.checkpoints.files import State, first_keys
from vitlens.model.families.family import Config, Family, looks_like
from vitlens.model.families.huggingface.aimv2 import AIMV2
from vitlens.model.families.huggingface.beit import BEIT, DATA2VEC_VISION
from vitlens.model.families.huggingface.clip import CLIP
from vitlens.model.families.huggingface.deit import DEIT
from vitlens.model.families.huggingface.dinov2 import DINOV2, DINOV2_WITH_REGISTERS
from vitlens.model.families.huggingface.dinov3 import DINOV3
from vitlens.model.families.huggingface.internvl import INTERNVL
from vitlens.model.families.huggingface.siglip import IDEFICS_3, SIGLIP
from vitlens.model.families.huggingface.vit import I_JEPA, VIT, VIT_MAE, VIT_MSN, VIT_MSN_SAVED_BY_5
from vitlens.model.families.open_clip.trunk import OPEN_CLIP_TRUNK, OPEN_CLIP_TRUNK_ALONE
from vitlens.model.families.open_clip.vit import OPEN_CLIP, OPEN_CLIP_TOWER

FAMILIES: tuple[Family, ...] = (
    VIT,
    VIT_MSN,
    VIT_MSN_SAVED_BY_5,
    VIT_MAE,
    I_JEPA,
    DEIT,
    DINOV2,
    DINOV2_WITH_REGISTERS,
    DINOV3,
    BEIT,
    DATA2VEC_VISION,
    CLIP,
    SIGLIP,
    IDEFICS_3,
    AIMV2,
    INTERNVL,
    OPEN_CLIP,
    OPEN_CLIP_TOWER,
    OPEN_CLIP_TRUNK,
    OPEN_CLIP_TRUNK_ALONE,
)


def recognise(state: State, config: Config, source: str) -> tuple[Family, str]:
    """The family of these tensors, and the prefix of its names.

    Raises:
        InputError: none of the families; the three that are nearest.
    """
    told = [family for family in FAMILIES if config.get("model_type") in family.model_types]
    for family in told or FAMILIES:
        prefix = family.prefix_in(state)
        if prefix is not None:
            return family, prefix
    near = sorted(FAMILIES, key=lambda family: looks_like(state, family), reverse=True)[:3]
    raise InputError(
        f"{source} is of no kind that vitlens reads (its tensors are called {first_keys(state)}); the nearest kinds are "
        f"{', '.join(family.name for family in near)}"
    )
