"""All families of weights that vitlens reads, in the order in which they are tried."""

from vitlens.model.families.family import Family
from vitlens.model.families.huggingface.aimv2 import AIMV2
from vitlens.model.families.huggingface.beit import BEIT, DATA2VEC_VISION
from vitlens.model.families.huggingface.clip import CLIP
from vitlens.model.families.huggingface.deit import DEIT
from vitlens.model.families.huggingface.dinov2 import DINOV2, DINOV2_WITH_REGISTERS
from vitlens.model.families.huggingface.dinov3 import DINOV3
from vitlens.model.families.huggingface.internvl import INTERNVL
from vitlens.model.families.huggingface.siglip import IDEFICS_3, SIGLIP
from vitlens.model.families.huggingface.siglip2 import SIGLIP_2
from vitlens.model.families.huggingface.vit import I_JEPA, VIT, VIT_MAE, VIT_MSN, VIT_MSN_SAVED_BY_5
from vitlens.model.families.open_clip.trunk import OPEN_CLIP_TRUNK, OPEN_CLIP_TRUNK_ALONE
from vitlens.model.families.open_clip.vit import CLIP_OF_OPENAI, CLIP_OF_OPENAI_TOWER
from vitlens.model.families.originals.original_dinov2 import ORIGINAL_DINOV2
from vitlens.model.families.originals.original_dinov3 import ORIGINAL_DINOV3
from vitlens.model.families.originals.timm_keys import TIMM_KEYS
from vitlens.model.families.torchvision_vit import TORCHVISION_VIT
from vitlens.model.families.vit_pytorch import SIMPLE_VIT, VIT_PYTORCH

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
    SIGLIP_2,
    AIMV2,
    INTERNVL,
    CLIP_OF_OPENAI,
    CLIP_OF_OPENAI_TOWER,
    OPEN_CLIP_TRUNK,
    OPEN_CLIP_TRUNK_ALONE,
    TORCHVISION_VIT,
    VIT_PYTORCH,
    SIMPLE_VIT,
    # These have timm's names, and some of their own.
    ORIGINAL_DINOV3,
    ORIGINAL_DINOV2,
    TIMM_KEYS,
)
