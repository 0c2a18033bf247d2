"""A checkpoint is opened as it is: which weights of a file are meant, by which keys, and of what model they tell to be."""

import json
import urllib.error
import warnings

import pytest
import timm
import torch
from timm.models._hub import save_for_hf
from torch import nn

from vitlens import HookedViT, InputError

NAME = "vit_tiny_patch16_224"
BUILD = {"img_size": 32, "depth": 1, "num_classes": 3}


def make(name=NAME, seed=0, **keywords):
    torch.manual_seed(seed)
    module = timm.create_model(name, pretrained=False, **{**BUILD, **keywords}).eval()
    if module.num_classes:
        nn.init.normal_(module.head.weight)
    return module


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


@pytest.fixture(scope="module")
def raw():
    return make(seed=1).state_dict()


@pytest.fixture(scope="module")
def averaged():
    return make(seed=2).state_dict()


@pytest.fixture
def load(tmp_path):
    """Saves tensors, and opens them."""

    def load_state(state, name=NAME, **keywords):
        torch.save(state, tmp_path / "mine.pth")
        keywords = {"img_size": 32, "depth": 1, **keywords}
        return HookedViT.from_timm(
            name, checkpoint_path=tmp_path / "mine.pth", **{k: v for k, v in keywords.items() if v is not None}
        )

    return load_state


@pytest.mark.filterwarnings("ignore:.*of several models")
@pytest.mark.filterwarnings("ignore:.*left out")
def test_the_weights_that_timm_opens_or_the_only_ones(load, raw, averaged):
    optimiser = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}
    student = prefixed("module.backbone.", raw) | {"module.head.mlp.0.weight": torch.zeros(2, 2)}
    teacher = prefixed("backbone.", averaged) | {"head.mlp.0.weight": torch.zeros(2, 2)}
    for saved, is_average, keywords in (
        ({"state_dict": raw, "state_dict_ema": averaged, "epoch": 3, "optimizer": optimiser}, True, {}),
        ({"state_dict": raw, "state_dict_ema": averaged}, False, {"use_ema": False}),
        ({"model": raw, "model_ema": averaged}, True, {}),
        ({"model": raw, "model_ema": None, "optimizer": optimiser}, False, {}),
        ({"student": student, "teacher": teacher}, True, {}),
        ({"student": student, "teacher": teacher}, False, {"use_ema": False}),
        (prefixed("teacher.backbone.", averaged) | prefixed("student.backbone.", raw), True, {}),
        ({"state_dict": prefixed("model.", raw) | {"criterion.weight": torch.ones(3)}}, False, {}),
        (prefixed("net.", raw), False, {}),
        (prefixed("backbone.", raw), False, {}),
        (prefixed("module.", raw) | {"n_averaged": torch.tensor(3)}, False, {}),
        (prefixed("module._orig_mod.module.", raw), False, {}),
        (prefixed("model._orig_mod.", raw), False, {}),
        ({**raw, "epoch": 3}, False, {}),
    ):
        model = load(saved, **keywords)
        assert torch.equal(model.unembed.weight, (averaged if is_average else raw)["head.weight"])


def test_a_choice_among_weights_is_told(load, raw, averaged, recwarn):
    load({"state_dict": raw, "state_dict_ema": averaged})
    load({"state_dict": {**prefixed("model.", raw), "criterion.weight": torch.ones(3)}})
    load(raw)
    several, around = (str(warning.message) for warning in recwarn)
    assert (
        "averaged weights under 'state_dict_ema.' are taken, and not those under 'state_dict.' (use_ema=False"
        in several
    )
    assert "the weights under 'state_dict.model.' are taken, and criterion.weight left out" in around
    with pytest.raises(InputError, match=r"several models, under 'first\.', 'second\.'"):
        load({"first": raw, "second": averaged})
    with pytest.raises(InputError, match=r"averaged weights alone \('state_dict_ema\.'\)"):
        load({"state_dict_ema": averaged}, use_ema=False)


def test_other_keys_are_shown(load, raw):
    with pytest.raises(
        InputError, match=r"No name agrees: its tensors are called encoder\.0\.weight, encoder\.0\.bias"
    ):
        load({"encoder.0.weight": torch.ones(2), "encoder.0.bias": torch.ones(2)})
    merged = prefixed("base_model.model.", raw)
    adapter = "base_model.model.blocks.0.attn.qkv.lora_A.default.weight"
    with pytest.raises(InputError, match=rf"an adapter \(LoRA or alike: {adapter}\): merge it.*merge_and_unload"):
        load({**merged, adapter: torch.ones(2, 2)})
    with pytest.raises(InputError, match="adapter"):
        load({adapter: torch.ones(2, 2)})
    with pytest.raises(InputError, match=r"quantised weights \(blocks\.0\.attn\.qkv\.weight\.absmax\)"):
        load({**raw, "blocks.0.attn.qkv.weight.absmax": torch.ones(2)})


@pytest.mark.filterwarnings("ignore:.*was trained on pictures")
def test_what_a_checkpoint_tells_is_read_off_it(load):
    for told in (
        {"num_classes": 5}, {"num_classes": 0}, {"in_chans": 1}, {"in_chans": 5}, {"reg_tokens": 4}, {"global_pool": "map"},
        {"init_values": 0.1}, {"qk_norm": True}, {"qkv_bias": False}, {"pre_norm": True}, {"img_size": 48},
        {"no_embed_class": True}, {"no_embed_class": True, "reg_tokens": 3, "img_size": 48},
    ):  # fmt: skip
        module = make(**told)
        model = load(module.state_dict(), img_size=None)
        assert model.cfg.image_size == (told.get("img_size", 32),) * 2
        images = torch.randn(2, model.cfg.n_channels, *model.cfg.image_size)
        torch.testing.assert_close(model(images), module(images))
    fresh = model.with_fresh_weights()
    assert fresh.cfg.prefix_tokens == ("class", "register 1", "register 2", "register 3")
    assert fresh.cfg.image_size == (48, 48)


def test_the_picture_size_is_that_of_the_positions_and_told(load):
    with pytest.warns(
        UserWarning, match=r"was trained on pictures of 48 × 48, so the model reads 48 × 48: pass img_size="
    ):
        model = load(make(img_size=48).state_dict(), img_size=None)
    assert (model.cfg.image_size, model.cfg.grid_size) == ((48, 48), (3, 3))
    for name in ("beit_base_patch16_224", "deit_tiny_distilled_patch16_224"):
        small = {"embed_dim": 48, "num_heads": 3}
        module = make(name, img_size=48, **small)
        with pytest.warns(UserWarning, match="48 × 48"):
            assert load(module.state_dict(), name, img_size=None, **small).cfg.image_size == (48, 48)
    wide = make(img_size=(16, 64)).state_dict()
    with pytest.raises(InputError, match=r"6 positions \(pos_embed\).*no square.*pass img_size=\(height, width\)"):
        load(make(img_size=(16, 96)).state_dict() | {"pos_embed": torch.zeros(1, 6, 192)}, img_size=(48, 48))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # As many patches as 2 × 2 would have: they are not resampled into others.
        assert torch.equal(load(wide, img_size=(16, 64)).embed.pos_embed, wide["pos_embed"])


def test_a_checkpoint_that_does_not_fit_says_what_would_fit(load):
    for built, sentence in (
        ({"global_pool": "avg"}, 'It normalises what was pooled.*pass global_pool="avg"'),
        ({"class_token": False, "global_pool": "avg"}, 'no class token: pass class_token=False, global_pool="avg"'),
        ({"depth": 2}, "It has 2 blocks, the model 1: pass depth=2"),
        ({"patch_size": 8}, "It cuts patches of 8 × 8: open the model of those patches, or pass patch_size=8"),
        ({"in_chans": 1}, "patch_embed.proj.weight is 192 × 1 × 16 × 16 in the file, 192 × 3 × 16 × 16 in the model"),
    ):
        given = {"in_chans": 3} if "in_chans" in built else {}
        with pytest.raises(InputError, match=f"does not fit {NAME}: .*{sentence}"):
            load(make(**built).state_dict(), **given)
    load(make(patch_size=8).state_dict(), patch_size=8)
    model = load(make(class_token=False, global_pool="avg").state_dict(), global_pool="avg")
    assert (model.cfg.pool, model.cfg.prefix_tokens) == ("avg", ())


def test_a_folder_that_timm_saved(tmp_path):
    own, folder = make(), tmp_path / "my_vit"
    names = ["cyst", "normal", "stone"]
    save_for_hf(own, folder, model_args={"img_size": 32, "depth": 1}, model_config={"label_names": names})
    model = HookedViT.from_timm(f"local-dir:{folder}")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), own(images))
    assert (model.class_names, model.cfg.image_size) == (names, (32, 32))
    assert model.with_fresh_weights().class_names == names
    assert HookedViT.from_timm(f"local-dir:{folder}", pretrained=False).cfg.n_classes == 3
    with pytest.raises(InputError, match=r"head\.weight is 3 × 192 in the file, 5 × 192 in the model"):
        HookedViT.from_timm(f"local-dir:{folder}", num_classes=5)
    config = json.loads((folder / "config.json").read_text())
    for saved, sentence in (
        ({"architectures": ["ViTForImageClassification"]}, "names no architecture of timm"),
        ({**config, "architecture": "my_vit"}, "names the architecture 'my_vit', which timm does not know"),
        ([], "names no architecture of timm"),
        (None, "cannot be read as JSON"),
    ):
        (folder / "config.json").write_text("{" if saved is None else json.dumps(saved))
        with pytest.raises(InputError, match=f"config.json {sentence}"):
            HookedViT.from_timm(f"local-dir:{folder}")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"holds no file of weights \(model.safetensors"):
        HookedViT.from_timm(f"local-dir:{folder}")
    with pytest.raises(InputError, match="there is no folder nowhere"):
        HookedViT.from_timm("local-dir:nowhere")
    with pytest.raises(InputError, match=r"holds no config\.json, so timm did not save it"):
        HookedViT.from_timm(f"local-dir:{tmp_path}")


@pytest.mark.verified_timm
def test_names_on_the_hub_without_network(monkeypatch):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("timm.create_model", lambda *args, **kwargs: pytest.fail("timm was asked to download"))
    for name in ("hf-hub:owner/model", "hf_hub:owner/model@v1"):
        for pretrained in (True, False):
            with pytest.raises(InputError, match=r"'.*owner/model.*' is not on this machine and there is no network"):
                HookedViT.from_timm(name, pretrained=pretrained)
    for name, sentence in (
        ("hf-hub:model", "it is written hf-hub:owner/name"),
        ("hf-hub:", "has no model id"),
        ("other:model", "valid sources: hf-hub, local-dir"),
        ("owner/model", "Use 'hf-hub:owner/model'"),
    ):
        with pytest.raises(InputError, match=sentence):
            HookedViT.from_timm(name)


def test_what_does_not_fit_is_named_on_both_sides(load):
    """Keys of another library: the sentence says which the file has, and which the model waits for."""
    state = make().state_dict()
    state["encoder.norm.weight"] = state.pop("norm.weight")
    with pytest.raises(InputError, match=r": the file lacks norm\.weight; the model lacks encoder\.norm\.weight"):
        load(state)
    state = prefixed(
        "vit.encoder.layer.0.", {"attention.query.weight": torch.zeros(3, 3), "dense.weight": torch.zeros(3)}
    )
    with pytest.raises(InputError, match=r"No name agrees: its tensors are called vit\.encoder\.layer\.0\.attention"):
        load(state)
