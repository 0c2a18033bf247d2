"""What cannot be ported or loaded is refused in a sentence that names it; what can be loaded arrives whole."""

import pickle
import urllib.error
from functools import partial

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import GatedMlp, SwiGLU
from timm.models.vision_transformer import Block, ParallelThingsBlock, VisionTransformer, checkpoint_filter_fn
from torch import nn
from variants import SMALL, build, pictures

from vitlens import HookedViT, InputError


class CustomBlock(Block):
    """So may a block."""


class Custom(VisionTransformer):
    """A subclass may compute anything, so it is no model that is known."""


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (partial(timm.create_model, "resnet18"), "ResNet"),
        (partial(timm.create_model, "swin_tiny_patch4_window7_224"), "SwinTransformer"),
        (partial(timm.create_model, "cait_xxs24_224"), "Cait"),
        (partial(timm.create_model, "convnext_atto"), "ConvNeXt"),
        (partial(Custom, **SMALL), "Custom"),
        (partial(build, block_fn=CustomBlock), "blocks.0 is a CustomBlock"),
        (partial(build, global_pool="prr"), "'prr'"),
        (partial(build, global_pool="", num_classes=0), "global_pool=''"),
        (partial(build, depth=0), "no transformer blocks"),
        (partial(build, norm_layer="layernormfp32"), "LayerNormFp32"),
        (partial(build, mlp_layer=GatedMlp), "GatedMlp"),
        (partial(build, block_fn=ParallelThingsBlock, mlp_layer=SwiGLU), "ffns.mlp is a SwiGLU"),
        (partial(build, block_fn=ParallelThingsBlock, attn_layer="diff"), "attns.attn is a DiffAttention"),
        (partial(nn.Linear, 3, 3), "Linear"),
    ],
)
def test_what_is_not_ported_is_refused_by_name(make, sentence):
    with pytest.raises(InputError, match=sentence) as refusal:
        HookedViT.from_timm(make())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("where", ["blocks.1", "blocks.1.attn", "blocks.0.mlp", ""])
def test_an_unknown_part_is_refused_by_name(where):
    module = build()
    module.get_submodule(where).surprise = nn.Linear(2, 2)
    with pytest.raises(InputError, match="surprise"):
        HookedViT.from_timm(module)


class Adapted(nn.Linear):
    """As adapters do it: a linear map whose `weight` is not all of what it computes."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("where", ["blocks.1.attn.qkv", "blocks.1.attn.proj", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2"])
def test_a_linear_map_that_computes_more_is_refused_by_name(where):
    module = build()
    module.get_submodule(where).__class__ = Adapted
    with pytest.raises(InputError, match=f"{where} is a Adapted"):
        HookedViT.from_timm(module)


def test_a_module_that_is_more_than_its_parameters_is_refused():
    hooked = build()
    hooked.blocks[1].mlp.register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(InputError, match=r"blocks.1.mlp \(Mlp\) has a hook of torch's inside"):
        HookedViT.from_timm(hooked)
    patched = build()
    patched.blocks[0].attn.forward = lambda x, **options: x
    with pytest.raises(InputError, match=r"blocks.0.attn \(Attention\) has a forward of its own"):
        HookedViT.from_timm(patched)
    with pytest.raises(InputError, match=r"compiled.*_orig_mod"):
        HookedViT.from_timm(torch.compile(build()))
    quantised = torch.ao.quantization.quantize_dynamic(build().float(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(InputError, match=r"is a quantised Linear"):
        HookedViT.from_timm(quantised)


def test_unknown_names_list_the_nearest():
    with pytest.raises(InputError, match=r"nearest names are.*vit_tiny_patch16_224"):
        HookedViT.from_timm("vit_tinny_patch16_224", pretrained=False)


def test_unknown_weights_list_the_known(monkeypatch):
    monkeypatch.setattr("timm.create_model", lambda *args, **kwargs: pytest.fail("timm was asked to download"))
    for pretrained in (True, False):
        with pytest.raises(
            InputError, match=r"'vit_tiny_patch16_224\.nope'; it has vit_tiny_patch16_224\.augreg_in21k,"
        ):
            HookedViT.from_timm("vit_tiny_patch16_224.nope", pretrained=pretrained)


def test_a_name_may_tell_the_weights():
    module = timm.create_model("vit_base_patch16_224.mae", pretrained=False, depth=1, num_classes=3)
    model = HookedViT.from_timm("vit_base_patch16_224.mae", pretrained=False, depth=1, num_classes=3)
    assert model.cfg.data_config["mean"] == module.pretrained_cfg["mean"] != (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    "keywords",
    [
        {"nonsense": 3},
        {"num_heads": 5},
        {"act_layer": "nope"},
        {"norm_layer": "nope"},
        {"img_size": "big"},
        {"patch_size": 0},
        {"global_pool": "nope"},
    ],
)
def test_keywords_that_timm_cannot_build_are_named(keywords):
    pattern = rf"timm cannot build 'vit_tiny_patch16_224' with.*{next(iter(keywords))}"
    with pytest.raises(InputError, match=pattern) as refusal:
        HookedViT.from_timm("vit_tiny_patch16_224", pretrained=False, **keywords)
    assert "\n" not in str(refusal.value)


def test_pictures_too_small_for_a_patch_are_refused():
    with pytest.raises(InputError, match="8 × 8 hold no patch"):
        HookedViT.from_timm("vit_tiny_patch16_224", pretrained=False, img_size=8)


def test_keywords_go_with_names_only():
    with pytest.raises(InputError, match="img_size"):
        HookedViT.from_timm(build(), img_size=96)
    with pytest.raises(InputError, match="checkpoint_path goes with a model name"):
        HookedViT.from_timm(build(), checkpoint_path="weights.safetensors")


def test_timm_keywords_are_passed_through():
    model = HookedViT.from_timm(
        "vit_tiny_patch16_224", pretrained=False, img_size=96, num_classes=5, reg_tokens=2, depth=2, global_pool="avg"
    )
    cfg = model.cfg
    assert (cfg.image_size, cfg.grid_size, cfg.n_classes, cfg.n_layers, cfg.pool) == ((96, 96), (6, 6), 5, 2, "avg")
    assert cfg.prefix_tokens == ("class", "register 1", "register 2")
    assert cfg.token_labels()[2:5] == ["register 2", "(0, 0)", "(0, 1)"]
    assert cfg.data_config["input_size"] == (3, 96, 96)
    assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 5)


def test_without_network_and_weights_it_says_so_at_once(monkeypatch):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("timm.create_model", lambda *args, **kwargs: pytest.fail("timm was asked to download"))
    with pytest.raises(InputError, match=r"no network.*checkpoint_path="):
        HookedViT.from_timm("vit_tiny_patch16_224")


@pytest.mark.parametrize("kind", ["safetensors", "pth", "wrapped"])
def test_ones_own_checkpoint_arrives_whole(tmp_path, kind):
    torch.manual_seed(0)
    mine = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=7, depth=2).eval()
    path = tmp_path / f"mine.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        save_file(mine.state_dict(), path)
    else:
        torch.save(mine.state_dict() if kind == "pth" else {"state_dict": mine.state_dict(), "epoch": 3}, path)
    names = [f"kind {i}" for i in range(7)]
    model = HookedViT.from_timm("vit_tiny_patch16_224", checkpoint_path=path, depth=2, class_names=names)
    images = pictures(model.cfg, 1).float()
    assert torch.equal(model(images), mine(images))
    assert model.class_index("kind 3") == 3


def test_positions_of_another_size_are_resampled_as_timm_does(tmp_path):
    mine = timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=1)
    save_file(mine.state_dict(), tmp_path / "mine.safetensors")
    path = tmp_path / "mine.safetensors"
    model = HookedViT.from_timm("vit_tiny_patch16_224", checkpoint_path=path, depth=1, img_size=96)
    smaller = timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=1, img_size=96)
    filtered = checkpoint_filter_fn(mine.state_dict(), smaller)
    assert torch.equal(model.embed.pos_embed, filtered["pos_embed"])
    mine.set_input_size(96)
    images = pictures(model.cfg, 1).float()
    torch.testing.assert_close(model(images), mine.eval()(images))


def test_a_checkpoint_of_another_architecture_names_the_first_keys(tmp_path):
    other = timm.create_model("vit_small_patch32_224", pretrained=False, depth=1)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"does not fit vit_tiny.*cls_token is 1 × 1 × 384.*and \d+ more"):
        HookedViT.from_timm("vit_tiny_patch16_224", checkpoint_path=tmp_path / "other.safetensors")
    resnet = timm.create_model("resnet18", pretrained=False)
    save_file(resnet.state_dict(), tmp_path / "resnet.safetensors")
    with pytest.raises(InputError, match=r"does not fit .*: the file lacks"):
        HookedViT.from_timm("vit_tiny_patch16_224", checkpoint_path=tmp_path / "resnet.safetensors")


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_pickle_is_ever_run(tmp_path):
    bomb = tmp_path / "bomb.pth"
    bomb.write_bytes(pickle.dumps({"head.weight": Bomb(tmp_path / "exploded")}, protocol=2))
    with pytest.raises(InputError, match="cannot be read as a file of tensors"):
        HookedViT.from_timm("vit_tiny_patch16_224", checkpoint_path=bomb)
    torch.save({"head.weight": Bomb(tmp_path / "exploded")}, bomb)
    with pytest.raises(InputError, match="cannot be read as a file of tensors"):
        HookedViT.from_timm("vit_tiny_patch16_224", checkpoint_path=bomb)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["missing.safetensors", "text.safetensors", "text.pth", "empty.pth", "list.pth"])
def test_files_that_are_no_checkpoints(tmp_path, name):
    if name.startswith("text"):
        (tmp_path / name).write_text("not weights")
    if name.startswith("empty"):
        torch.save({}, tmp_path / name)
    if name.startswith("list"):
        torch.save([torch.zeros(2)], tmp_path / name)
    with pytest.raises(InputError, match=name):
        HookedViT.from_timm("vit_tiny_patch16_224", checkpoint_path=tmp_path / name)


def test_class_names_must_be_as_many_as_classes():
    with pytest.raises(InputError, match="2 class names were given for 10"):
        HookedViT.from_timm(build(), class_names=["a", "b"])


def test_a_trained_backbone_in_half_precision_is_what_timm_makes_of_it(assets):
    path = assets / "vit_small_patch14_backbone_fp16.safetensors"
    keywords = {"img_size": 224, "num_classes": 0}
    model = HookedViT.from_timm("vit_small_patch14_dinov2", checkpoint_path=path, **keywords)
    module = timm.create_model("vit_small_patch14_dinov2", pretrained=False, checkpoint_path=str(path), **keywords)
    images = pictures(model.cfg, 1).float()
    with torch.no_grad():
        expected = module.eval()(images)
        torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
        watched, _ = model.run_with_cache(images, names_filter=["pattern", "scale", "result"])
        torch.testing.assert_close(watched, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_a_file_of_weights_is_no_name_of_a_model(tmp_path):
    with pytest.raises(InputError, match=r"'mine\.pth' is a file of weights.*as checkpoint_path="):
        HookedViT.from_timm("mine.pth")
    (tmp_path / "weights").write_bytes(b"any")
    with pytest.raises(InputError, match="is a file of weights"):
        HookedViT.from_timm(str(tmp_path / "weights"))


def test_a_wrong_keyword_is_refused_before_weights_are_missed(monkeypatch):
    def missed(what, instead):
        raise AssertionError("the network was looked for")

    monkeypatch.setattr("vitlens.model.checkpoints.timm_models._is_here", lambda *args: False)
    monkeypatch.setattr("vitlens.model.checkpoints.timm_models._check_network", missed)
    for keyword, value in (("checkpoint", "mine.pth"), ("checkpoints", {"a": torch.zeros(99, 99)})):
        with pytest.raises(InputError, match=r"the nearest keyword is checkpoint_path=$") as caught:
            HookedViT.from_timm("vit_tiny_patch16_224", **{keyword: value})
        assert len(str(caught.value)) < 300
