"""Hugging Face's DeiT: a distillation token that takes part, and is read by a classifier of its own or by none."""

from timm.models.deit import VisionTransformerDistilled

from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family
from vitlens.model.families.huggingface.config import facts
from vitlens.model.families.huggingface.positions import resize_positions
from vitlens.model.families.huggingface.vit import (
    BLOCK_NAMES,
    IMAGENET_COLOURS,
    NAMES_AROUND,
    TRAINING_ALONE,
    common_keywords,
    meaning,
    pooler,
    pooler_names,
)
from vitlens.model.families.keys import leave_out, translate
from vitlens.model.families.recipe import Recipe
from vitlens.model.porting.other_readings import ClassOfDistilledViT

_NAMES = (
    BLOCK_NAMES
    | NAMES_AROUND
    | {
        "embeddings.distillation_token": "dist_token",
        "cls_classifier": "head",
        "distillation_classifier": "head_dist",
    }
)


def read_deit(state: State, config: Config) -> Recipe:
    """With both classifiers of a distilled model the mean of them; with one, or none, the class token is read."""
    ours, rest = translate(state, _NAMES | pooler_names(state))
    keywords, assumed = common_keywords(ours, config, 1e-12)
    ours, keywords = resize_positions(ours, keywords, config.get("img_size"))
    rest, unused = leave_out(rest, TRAINING_ALONE)
    return Recipe(
        VisionTransformerDistilled if "head_dist.weight" in ours else ClassOfDistilledViT,
        # A distilled model has both tokens; its class knows no other.
        {name: value for name, value in keywords.items() if name != "class_token"},
        ours | rest,
        parts=pooler(ours, config),
        pretrained_cfg=facts(config, **IMAGENET_COLOURS, interpolation="bicubic") | meaning(ours),
        unused=unused,
        assumed=assumed,
    )


DEIT = Family(
    "Hugging Face DeiT",
    ("encoder.layer.0.attention.attention.query.weight", "embeddings.distillation_token"),
    read_deit,
    model_types=("deit",),
)
