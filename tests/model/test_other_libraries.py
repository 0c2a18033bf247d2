"""Weights of other libraries: in wrappers, folders, shards and repositories; and what is no vision transformer is named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VisionTransformer
from transformers import (
    DINOv3ViTConfig,
    DINOv3ViTModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)
from vit_pytorch import ViT

import vitlens
from vitlens import HookedViT, InputError

NAMES = {0: "healthy", 1: "rust", 2: "scab"}


@pytest.fixture(scope="module")
def hugging():
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=32, id2label=NAMES
    )  # fmt: skip
    return ViTForImageClassification(config).eval()


@pytest.fixture(scope="module")
def folder(hugging, tmp_path_factory):
    """What save_pretrained writes, with its preprocessing."""
    path = tmp_path_factory.mktemp("weights") / "leaves"
    hugging.save_pretrained(path)
    ViTImageProcessor(image_mean=[0.1] * 3, image_std=[0.2] * 3, size={"height": 32, "width": 32}).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def torchvision():
    torch.manual_seed(1)
    module = VisionTransformer(32, 16, 2, 4, 32, 48, num_classes=3).eval()
    nn.init.normal_(module.heads.head.weight)
    return module


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def prefixed(prefix, state):
    return {prefix + key: tensor for key, tensor in state.items()}


def check_same(model, logits, images):
    torch.testing.assert_close(model(images), logits, rtol=1e-5, atol=1e-5)


def test_a_folder_with_its_preprocessing_and_names(folder, hugging, images):
    model = HookedViT.from_pretrained(folder)
    check_same(model, hugging(images).logits, images)
    assert model.class_names == list(NAMES.values())
    assert str(model.preprocessing) == "32 × 32 pixels, bilinear, squash crop 1, mean 0.1, std 0.2"
    assert model.provenance.weights == "Hugging Face ViT, leaves"
    assert model.with_fresh_weights().cfg.n_layers == 2
    # The file in it goes with the same configuration.
    assert HookedViT.from_pretrained(folder / "model.safetensors").class_names == list(NAMES.values())


def test_shards_and_a_missing_one(hugging, images, tmp_path):
    hugging.save_pretrained(tmp_path, max_shard_size="20KB")
    check_same(HookedViT.from_pretrained(tmp_path), hugging(images).logits, images)
    index = tmp_path / "model.safetensors.index.json"
    check_same(HookedViT.from_pretrained(index), hugging(images).logits, images)
    (tmp_path / "model-00001-of-00002.safetensors").unlink(missing_ok=True)
    missing = sorted(set(json.loads(index.read_text())["weight_map"].values()))[0]
    (tmp_path / missing).unlink(missing_ok=True)
    with pytest.raises(InputError, match=rf"names {missing}.*not in"):
        HookedViT.from_pretrained(tmp_path)


def test_weights_without_a_configuration(hugging, images, folder, tmp_path):
    shutil.copy(folder / "model.safetensors", tmp_path)
    logits = hugging(images).logits
    check_same(HookedViT.from_pretrained(tmp_path, n_heads=4), logits, images)
    # The names that transformers 5 gives a model that is loaded.
    check_same(HookedViT.from_pretrained(hugging.state_dict(), n_heads=4), logits, images)
    torch.save(hugging.state_dict(), tmp_path / "mine.pth")
    check_same(HookedViT.from_pretrained(tmp_path / "mine.pth", n_heads=4), logits, images)
    with pytest.raises(InputError, match="how many heads a stream of width 32 has: pass n_heads="):
        HookedViT.from_pretrained(tmp_path / "mine.pth")
    with pytest.raises(InputError, match="5 heads cannot share a stream of width 32"):
        HookedViT.from_pretrained(tmp_path / "mine.pth", n_heads=5)


@pytest.mark.filterwarnings("ignore:.*(left out|of several models|is read as)")
@pytest.mark.parametrize("wrapper", ["module.", "model.", "backbone.", "encoder.", "module._orig_mod.", "net."])
def test_wrappers(torchvision, hugging, images, wrapper):
    state = prefixed(wrapper, torchvision.state_dict()) | {"criterion.weight": torch.ones(3)}
    model = HookedViT.from_pretrained({"state_dict": state, "optimizer": {"state": {0: 1}}}, n_heads=4)
    check_same(model, torchvision(images), images)
    assert f"(under 'state_dict.{wrapper}')" in model.provenance.weights
    model = HookedViT.from_pretrained(prefixed(wrapper, hugging.state_dict()), n_heads=4)
    check_same(model, hugging(images).logits, images)


def test_the_average_of_a_training_run(torchvision, images, recwarn):
    raw, average = torchvision.state_dict(), {key: tensor * 1.5 for key, tensor in torchvision.state_dict().items()}
    saved = {"model": raw, "model_ema": prefixed("module.", average)}
    model = HookedViT.from_pretrained(saved, n_heads=4)
    assert torch.equal(model.unembed.weight, average["heads.head.weight"])
    assert "the averaged weights under 'model_ema.module.' are taken" in str(recwarn.list[0].message)
    check_same(HookedViT.from_pretrained(saved, n_heads=4, use_ema=False), torchvision(images), images)


def test_with_a_name_of_timm(hugging, images, tmp_path):
    torch.manual_seed(0)
    size = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 8}
    module = ViTForImageClassification(ViTConfig(**size, image_size=32, num_labels=3)).eval()
    path = tmp_path / "mine.safetensors"
    save_file(module.state_dict(), path)
    with pytest.warns(UserWarning, match="is read as Hugging Face ViT.*is that library's"):
        model = HookedViT.from_timm("vit_tiny_patch16_224", checkpoint_path=path)
    check_same(model, module(images).logits, images)
    for name, keywords, sentence in (
        ("vit_small_patch16_224", {}, "12 blocks of width 192, and vit_small_patch16_224 has 12 of width 384"),
        ("vit_tiny_patch16_224", {"img_size": 64}, "leave img_size out"),
    ):
        with pytest.raises(InputError, match=sentence):
            HookedViT.from_timm(name, checkpoint_path=path, **keywords)


def test_an_adapter_is_merged_or_refused(hugging, images, tmp_path):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        ViTForImageClassification(hugging.config), peft.LoraConfig(target_modules=".*q_proj", init_lora_weights=False)
    ).eval()
    check_same(HookedViT.from_pretrained(adapted), adapted(images).logits, images)
    assert any("lora_" in name for name, _ in adapted.named_parameters())
    adapted.save_pretrained(tmp_path)
    for source in (tmp_path, tmp_path / "adapter_model.safetensors", adapted.state_dict()):
        with pytest.raises(InputError, match="holds an adapter"):
            HookedViT.from_pretrained(source)


#: Names of tensors, and what they look like.
OTHER_MODELS = {
    "embeddings.word_embeddings.weight": "looks like a model of text",
    "wav2vec2.feature_extractor.conv_layers.0.conv.weight": "looks like a model of sound",
    "layers.0.blocks.0.attn.relative_position_bias_table": "looks like a Swin transformer",
    "stages.0.blocks.0.conv_dw.weight": "looks like a convolutional network",
    "vision_encoder.layers.0.attn.rel_pos_h": "looks like the encoder of SAM",
    "something.weight": "is of no kind that vitlens reads",
    "blocks.0.attn.q_bias": "has names of timm, and does not tell of which model",
    "vit.layers.0.mlp.fc1.weight.absmax": "holds quantised weights",
}


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_what_it_is_not(name):
    with pytest.raises(InputError, match=OTHER_MODELS[name]) as refusal:
        HookedViT.from_pretrained({name: torch.ones(2)})
    if "looks like" in OTHER_MODELS[name]:
        assert len(str(refusal.value).split("the nearest kinds that it reads are ")[1].split(", ")) == 3


def test_files_that_are_no_weights(torchvision, hugging, folder, tmp_path):
    torch.save(torchvision, tmp_path / "whole.pth")
    torch.save(torch.optim.AdamW(torchvision.parameters()).state_dict(), tmp_path / "optimiser.pth")
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    torch.save(torchvision.state_dict(), tmp_path / "cut.pth")
    shutil.copy(folder / "model.safetensors", tmp_path / "cut.safetensors")
    for name in ("cut.pth", "cut.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:5000])
    shutil.copytree(folder, tmp_path / "quantised")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "quantised" / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}})
    )
    for source, sentence in {
        "whole.pth": "it holds a torchvision.models.vision_transformer.VisionTransformer",
        "optimiser.pth": "is the state of an optimiser",
        "model.gguf": "is a GGUF file",
        "cut.pth": "is cut short",
        "cut.safetensors": "is cut short",
        "quantised": r"holds quantised weights \(bitsandbytes\)",
        "missing.pth": "there is no file or folder",
    }.items():
        with pytest.raises(InputError, match=sentence):
            HookedViT.from_pretrained(tmp_path / source)


def test_wrong_sources(torchvision, hugging, monkeypatch):
    monkeypatch.setattr("vitlens.model.families.hub.has_network", lambda: False)
    for source, options, sentence in (
        ("vit_base_patch16_224", {}, r'is a name of timm: open it with HookedViT.from_timm\("vit_base_patch16_224"\)'),
        ("owner/name", {}, "there is no network to fetch them"),
        (5, {}, "a source is a module, a state dict, the path"),
        (hugging, {"class_names": ["one"]}, "1 class names were given for 3 classes"),
        (hugging, {"depth": 3}, "from_pretrained takes class_names.*and not depth"),
        (hugging, {"n_heads": 0}, "n_heads is a number of heads, not 0"),
        (hugging, {"img_size": 0}, "img_size is one number, or height and width"),
        (torchvision, {"img_size": 64}, "leave img_size= out"),
    ):
        with pytest.raises(InputError, match=sentence):
            HookedViT.from_pretrained(source, **options)
    with pytest.raises(InputError, match=r"models of other libraries are opened with HookedViT\.from_pretrained"):
        HookedViT.from_timm(torchvision)


def test_tensors_that_are_missing_are_no_zeros(hugging):
    state = hugging.state_dict()
    for name, lacks in (
        ("vit.layers.1.attention.k_proj.weight", "lacks blocks.1.attn.qkv.weight"),
        ("vit.layers.1.attention.k_proj.bias", "lacks blocks.1.attn.qkv.bias"),
        ("vit.layers.0.mlp.fc1.weight", "do not fit together: 'blocks.0.mlp.fc1.weight' is missing"),
    ):
        with pytest.raises(InputError, match=lacks):
            HookedViT.from_pretrained({key: state[key] for key in state if key != name}, n_heads=4)
    in_bytes = {key: tensor.to(torch.int8) if tensor.ndim == 2 else tensor for key, tensor in state.items()}
    with pytest.raises(InputError, match="holds quantised weights"):
        HookedViT.from_pretrained(in_bytes, n_heads=4)


@pytest.mark.filterwarnings("ignore:.*is read as")
def test_a_bias_that_one_block_lacks_is_no_zero():
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    state = DINOv3ViTModel(DINOv3ViTConfig(**size, image_size=32)).state_dict()
    name = next(key for key in state if key.endswith("1.attention.o_proj.bias"))
    with pytest.raises(InputError, match=r"lacks blocks\.1\.attn\.proj\.bias"):
        HookedViT.from_pretrained({key: state[key] for key in state if key != name}, n_heads=2)


#: Values in config.json or preprocessor_config.json, and what is said of them.
WRONG_VALUES = {
    "config.json": {
        "num_hidden_layers": (1, "holds the weights of 2 blocks, and its configuration says that it has 1"),
        "num_attention_heads": ("four", "config.json of a 'vit' cannot be read.*num_attention_heads"),
        "model_type": ("banana", "transformers knows no model_type 'banana'"),
        "vision_config": ("x", "vision_config holds the values of a tower"),
        "quantization_config": ("x", r"holds quantised weights \(x\)"),
    },
    "preprocessor_config.json": {
        "size": ("big", "preprocessor_config.json of a ViTImageProcessor cannot be read"),
        "image_mean": ("x", "image_mean is a number for each colour"),
    },
}


def test_wrong_values_in_a_folder(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for file, values in WRONG_VALUES.items():
        right = (folder / file).read_text()
        for name, (value, sentence) in values.items():
            (tmp_path / file).write_text(json.dumps(json.loads(right) | {name: value}))
            with pytest.raises(InputError, match=sentence):
                HookedViT.from_pretrained(tmp_path)
        (tmp_path / file).write_text(right)


def test_verification_says_why_a_folder_is_not_opened(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(InputError, match="transformers does not open"):
        vitlens.parity.verify_port(tmp_path)


def test_layers_without_weights_and_hooks_are_found(hugging):
    module = VisionTransformer(32, 16, 1, 2, 16, 16, num_classes=3).eval()
    nn.init.normal_(module.heads.head.weight)
    module.heads.append(nn.Softmax(dim=-1))
    with pytest.raises(InputError, match=r"this VisionTransformer answers otherwise.*a softmax"):
        HookedViT.from_pretrained(module)
    hook = hugging.vit.layernorm.register_forward_hook(lambda part, inputs, output: output * 2)
    with pytest.raises(InputError, match=r"this ViTForImageClassification answers otherwise.*hooks"):
        HookedViT.from_pretrained(hugging)
    hook.remove()


def test_vit_pytorch_with_pictures_that_are_no_squares():
    torch.manual_seed(0)
    module = ViT(image_size=(16, 24), patch_size=8, num_classes=3, dim=16, depth=1, heads=2, mlp_dim=16, dim_head=8)
    pictures = torch.randn(2, 3, 16, 24)
    with pytest.raises(InputError, match="pass the height and width of the pictures as img_size="):
        HookedViT.from_pretrained(module.eval())
    check_same(HookedViT.from_pretrained(module, img_size=(16, 24)), module(pictures), pictures)


class Plant(VisionTransformer):
    """A class of one's own that computes what its parent does."""


class Scaled(VisionTransformer):
    """And one that does not."""

    def forward(self, x):
        return super().forward(x) * 2


class Wrapped(nn.Module):
    def __init__(self, vit):
        super().__init__()
        self.backbone = vit

    def forward(self, x):
        return self.backbone(x).logits


def test_a_class_of_ones_own_is_compared(torchvision, hugging, images):
    plant, scaled = (kind(32, 16, 2, 4, 32, 48, num_classes=3).eval() for kind in (Plant, Scaled))
    for module in (plant, scaled):
        module.load_state_dict(torchvision.state_dict())
    check_same(HookedViT.from_pretrained(plant), torchvision(images), images)
    with pytest.raises(InputError, match=r"Scaled is a class of your own.*answers otherwise"):
        HookedViT.from_pretrained(scaled)
    check_same(HookedViT.from_pretrained(scaled.state_dict(), n_heads=4), torchvision(images), images)
    check_same(HookedViT.from_pretrained(Wrapped(hugging)), hugging(images).logits, images)


def test_a_repository_on_the_hub(folder, hugging, images, monkeypatch):
    """The client's answer is put in its place: tests have no network."""
    asked = []

    def snapshot(repository, **options):
        asked.append((repository, options["revision"], options["local_files_only"]))
        return str(folder)

    monkeypatch.setattr("vitlens.model.families.hub.snapshot_download", snapshot)
    check_same(HookedViT.from_pretrained("owner/leaves@v2"), hugging(images).logits, images)
    assert asked == [("owner/leaves", "v2", True)]
