"""What the modules are decides, not what their attributes say; where timm goes by an attribute, both must agree."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from variants import SMALL, build

import vitlens
from vitlens import HookedViT, InputError


def changed(path, value, **keywords):
    """A small module with one part or attribute replaced."""
    module = build(**keywords).float().eval()
    holder, _, name = path.rpartition(".")
    setattr(module.get_submodule(holder), name, value)
    return module.eval()


def test_parts_put_in_by_hand_are_what_counts():
    for module, n_classes, n_channels in (
        (changed("head", nn.Linear(32, 6)), 6, 3),
        (changed("head", nn.Linear(32, 2, bias=False)), 2, 3),
        (changed("head", nn.Sequential(nn.Dropout(0.5), nn.Linear(32, 6))), 6, 3),
        (changed("head", nn.Identity()), 0, 3),
        (changed("patch_embed.proj", nn.Conv2d(1, 32, 16, 16)), 10, 1),
        (changed("patch_embed.proj", nn.Conv2d(5, 32, 16, 16)), 10, 5),
        (changed("patch_embed.proj", nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 32, 16, 16))), 10, 4),
        (changed("num_classes", 77), 10, 3),
        (changed("in_chans", 1), 10, 3),
        (changed("embed_dim", 99), 10, 3),
        (changed("global_pool", "avg"), 10, 3),
    ):
        model = HookedViT.from_timm(module)
        cfg = model.cfg
        assert (cfg.n_classes, cfg.n_channels, cfg.d_model, model.class_names) == (n_classes, n_channels, 32, None)
        assert (len(cfg.data_config["mean"]), cfg.data_config["input_size"]) == (n_channels, (n_channels, 48, 48))
        assert cfg.pool == module.global_pool
        images = torch.randn(2, n_channels, 48, 48)
        torch.testing.assert_close(model(images), module(images))


def test_classes_put_in_by_hand_have_no_names_of_others():
    own = HookedViT.from_timm(changed("head", nn.Linear(32, 6), num_classes=1000), class_names=list("abcdef"))
    assert own.class_label(5) == "f"
    model = HookedViT.from_timm(changed("head", nn.Linear(32, 6), num_classes=1000))
    assert model.class_label(0) == "class 0"
    with pytest.raises(InputError, match="there is no class 500: the model has classes 0 to 5"):
        vitlens.heatmap(model, torch.randn(1, 3, 48, 48), 500, method="gradient_rollout")
    assert HookedViT.from_timm(changed("head", nn.Linear(32, 1000))).class_names is None
    assert HookedViT.from_timm(build(num_classes=1000)).class_names[1] == "goldfish, Carassius auratus"
    pair = HookedViT.from_timm(changed("head", nn.Linear(32, 2)))
    assert vitlens.class_lens(pair, torch.randn(1, 3, 48, 48)).top_classes.shape[-1] == 2
    for names, expected in ((["a", "b"], ["a", "b"]), ({"1": "b", "0": "a"}, ["a", "b"]), ({"1": "b", "5": "c"}, None)):
        module = build(num_classes=2)
        module.pretrained_cfg = {**module.pretrained_cfg, "label_names": names}
        assert HookedViT.from_timm(module).class_names == expected
        module.head = nn.Linear(32, 3, dtype=torch.float64)
        assert HookedViT.from_timm(module.eval()).class_names is None
    module.pretrained_cfg = None
    assert HookedViT.from_timm(module).cfg.model_name == "VisionTransformer"


def test_a_distilled_model_has_two_classifiers_of_the_same_classes():
    module = build("deit_tiny_distilled_patch16_224").float()
    module.head = nn.Linear(32, 6)
    with pytest.raises(InputError, match=r"head has 6 classes and head_dist 10.*replace both"):
        HookedViT.from_timm(module.eval())
    module.head_dist = nn.Linear(32, 6)
    assert HookedViT.from_timm(module.eval()).cfg.n_classes == 6


@pytest.mark.parametrize(
    ("path", "value", "keywords", "sentence"),
    [
        ("head", nn.Linear(31, 6), {}, "head reads 31 numbers, and the model gives it 32"),
        ("head", None, {}, "head is a NoneType"),
        (
            "patch_embed.proj",
            nn.Conv2d(3, 32, 8, 8),
            {},
            "makes 36 patches of a picture of 48 × 48.*say 3 × 3 of 16 × 16",
        ),
        ("patch_embed.proj", nn.Conv2d(3, 31, 16, 16), {}, "patches of width 31, and a prefix token has 32"),
        ("patch_embed.img_size", (96, 96), {}, "makes 36 patches of a picture of 96 × 96.*module.set_input_size"),
        ("patch_embed.img_size", None, {}, "patch_embed.img_size is None"),
        ("patch_embed.patch_size", (8, 8), {}, "its attributes say 3 × 3 of 8 × 8"),
        ("patch_embed.grid_size", (1, 9), {}, "its attributes say 1 × 9"),
        (
            "num_prefix_tokens",
            0,
            {"global_pool": "avg"},
            "num_prefix_tokens is 0, and the model has 1 class and register",
        ),
        ("reg_token", nn.Parameter(torch.zeros(1, 4, 32)), {}, "num_prefix_tokens is 1, and the model has 5"),
        ("cls_token", None, {}, 'global_pool is "token", and the model has no class token'),
        ("global_pool", "token", {"class_token": False, "global_pool": "avg"}, "the model has no class token"),
        ("global_pool", "map", {}, "global_pool is 'map', and the model has no attn_pool"),
        ("pos_embed", nn.Parameter(torch.zeros(1, 1, 32)), {}, "pos_embed is 1 × 32, and the model has 10 tokens"),
        ("no_embed_class", True, {}, "pos_embed is 10 × 32, and the model has 9 tokens"),
        ("blocks.1.attn.num_heads", 2, {}, "blocks.1 has 2 heads and blocks.0 has 4"),
    ],
)
def test_attributes_that_the_parts_contradict_are_refused(path, value, keywords, sentence):
    with pytest.raises(InputError, match=sentence) as refusal:
        HookedViT.from_timm(changed(path, value, **keywords))
    assert "\n" not in str(refusal.value)


def test_pooling_by_attention_is_called_so_whatever_the_attribute_says():
    module = changed("global_pool", "token", global_pool="map")
    assert HookedViT.from_timm(module).cfg.pool == "map"


class Linear(nn.Module):
    """As peft's: called like torch's, around the linear map that it adapts."""

    def __init__(self, base):
        super().__init__()
        self.base_layer, self.lora_A = base, nn.Linear(32, 4, bias=False)


class SameName(nn.Linear):
    pass


SameName.__name__, SameName.__module__ = "Linear", "bitsandbytes.nn"


def test_wrappers_are_named_and_how_to_take_them_off():
    module = build()
    module.blocks[0].attn.qkv = Linear(module.blocks[0].attn.qkv)
    with pytest.raises(InputError, match=r"blocks\.0\.attn\.qkv carries an adapter \(.*lora_A\): merge it"):
        HookedViT.from_timm(module.eval())
    with pytest.raises(InputError, match="adapters are merged first"):
        HookedViT.from_timm(nn.Sequential(module))
    for wrapped, inside in ((nn.DataParallel(build()), "module"), (nn.Sequential(nn.Identity(), build()), "1")):
        with pytest.raises(
            InputError, match=rf"not a model that vitlens ports: port the model inside, module\.{inside};"
        ):
            HookedViT.from_timm(wrapped)
    with pytest.raises(InputError, match=r"head is a bitsandbytes\.nn\.SameName.*before it was quantised"):
        HookedViT.from_timm(changed("head", SameName(32, 6).eval()))
    normed = build()
    torch.nn.utils.parametrizations.weight_norm(normed.blocks[0].mlp.fc1)
    with pytest.raises(InputError, match=r"blocks.0.mlp.fc1 is a ParametrizedLinear.*remove_parametrizations"):
        HookedViT.from_timm(normed.eval())


def test_sizes_that_timm_changes_itself_are_read():
    module = VisionTransformer(**{**SMALL, "num_classes": 4})
    module.set_input_size((32, 80))
    module.reset_classifier(3, "avg")
    cfg = HookedViT.from_timm(module.eval()).cfg
    assert (cfg.image_size, cfg.grid_size, cfg.n_classes, cfg.pool) == ((32, 80), (2, 5), 3, "avg")
