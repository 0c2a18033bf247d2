"""Vision towers beside other parts: texts as classes, the tokens that LLaVA reads, folders of open_clip, what is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPSegVisionConfig,
    CLIPSegVisionModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    InternVLVisionConfig,
    InternVLVisionModel,
)

from vitlens import HookedViT, InputError
from vitlens.parity.peers.huggingface_towers import SMALL_TOWER, clip_with_texts, llava, siglip2
from vitlens.parity.peers.open_clip_towers import OF_TIMM, VISION, open_clip_model, open_clip_trunk
from vitlens.parity.peers.peer import KeepsFloat64
from vitlens.parity.reduced import randomise

pytestmark = pytest.mark.filterwarnings("ignore:.*(is read as|weights under)")
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
WORDS = torch.tensor([[0, 5, 7, 1], [0, 9, 3, 1], [0, 2, 2, 1]])


def equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def clip():
    return randomise(clip_with_texts())


def test_texts_are_classes_as_clip_compares_them(clip):
    with torch.no_grad():
        answer = clip(input_ids=WORDS, pixel_values=IMAGES)
        model = HookedViT.from_pretrained(clip)
        texts = model.with_class_embeddings(
            answer.text_embeds, ["a", "b", "c"], scale=clip.logit_scale.exp().item(), normalise=True, space="output"
        )
        equal(texts(IMAGES), answer.logits_per_image)
    assert model.cfg.output == "embedding"
    assert texts.cfg.output == "softmax"


def test_one_bias_for_all_classes_is_that_of_siglip(clip):
    model = HookedViT.from_pretrained(clip)
    embeddings = torch.randn(3, model.cfg.n_classes, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one, each = (
        model.with_class_embeddings(embeddings, ["a", "b", "c"], bias=bias, space="output")
        for bias in (-2.5, [-2.5] * 3)
    )
    equal(one(IMAGES), each(IMAGES))


def test_the_largest_internvl_has_norms_without_a_mean():
    options = {"norm_type": "rms_norm", "use_qk_norm": True, "layer_norm_eps": 1e-3}
    module = randomise(InternVLVisionModel(InternVLVisionConfig(**SMALL_TOWER | options)))
    with torch.no_grad(), KeepsFloat64():
        equal(
            HookedViT.from_pretrained(module)(IMAGES, return_type="features"),
            module(IMAGES).last_hidden_state[:, 1:].mean(dim=1),
        )


def test_dinov2_of_no_registers():
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 16, "image_size": 32}
    module = randomise(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**size, num_register_tokens=0)))
    with torch.no_grad():
        equal(HookedViT.from_pretrained(module)(IMAGES, return_type="features"), module(IMAGES).pooler_output)


def test_a_kind_of_another_name_is_said():
    module = randomise(CLIPSegVisionModel(CLIPSegVisionConfig(**SMALL_TOWER)))
    with pytest.warns(UserWarning, match="that a 'clipseg_vision_model' with its weights computes as it"):
        HookedViT.from_pretrained(module)


def test_llava_reads_the_patches_after_the_block_before_the_last():
    module = randomise(llava())
    model = HookedViT.from_pretrained(module)
    with torch.no_grad():
        read = module.get_image_features(IMAGES, vision_feature_layer=-2, vision_feature_select_strategy="default")
        equal(
            module.multi_modal_projector(model(IMAGES, stop_at_layer=-1)[:, 1:]), torch.stack(list(read.pooler_output))
        )
        _, cache = model.run_with_cache(IMAGES, names_filter=["resid_post"])
    equal(cache["resid_post", -2], model(IMAGES, stop_at_layer=-1))


def test_siglip2_reads_patches_of_pictures_of_several_sizes():
    module = randomise(siglip2())
    shapes, valid = torch.tensor([[2, 2], [1, 3]]), torch.tensor([[True] * 4, [True] * 3 + [False]])
    coordinates = torch.tensor([[[0, 0], [0, 1], [1, 0], [1, 1]], [[0, 0], [0, 1], [0, 2], [0, 0]]])
    patches = torch.randn(2, 4, 768, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = HookedViT.from_pretrained(module)
    with torch.no_grad(), KeepsFloat64():
        expected = module(patches, valid, shapes).pooler_output
        found = model({"patches": patches, "patch_coord": coordinates, "patch_valid": valid})
    # Both libraries resize positions in float32.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def folder_of(path, module, vision, preprocess, file):
    config = {"model_cfg": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": vision}, "preprocess_cfg": preprocess}
    (path / "open_clip_config.json").write_text(json.dumps(config))
    if file.endswith("bin"):
        torch.save(module.state_dict(), path / file)
    else:
        save_file(module.state_dict(), path / file)
    return path


def test_a_folder_of_open_clip_has_weights_settings_and_preprocessing(tmp_path):
    options = {"norm_kwargs": {"eps": 1e-3}, "pool_type": "avg", "final_ln_after_pool": True}
    module = randomise(open_clip_model(quick_gelu=True, **options))
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.4], "interpolation": "bilinear", "resize_mode": "squash"}
    folder = folder_of(tmp_path, module, VISION | options, preprocess, "open_clip_model.safetensors")
    # Repositories that hold the files of both libraries.
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    model = HookedViT.from_pretrained(folder)
    with torch.no_grad():
        equal(model(IMAGES), module.encode_image(IMAGES))
    said = str(model.preprocessing)
    assert all(part in said for part in ("32 × 32", "bilinear", "squash", "0.1, 0.2, 0.3", "0.5, 0.5, 0.4")), said


def test_a_folder_of_open_clip_names_the_model_of_timm(tmp_path):
    module = randomise(open_clip_trunk())
    model = HookedViT.from_pretrained(folder_of(tmp_path, module, OF_TIMM, {}, "open_clip_pytorch_model.bin"))
    images = IMAGES.repeat(1, 1, 5, 5)[:1]
    with torch.no_grad():
        equal(model(images), module.encode_image(images))


def test_the_published_preprocessing_is_that_of_the_family(clip):
    assert "mean 0.481, 0.458, 0.408" in str(HookedViT.from_pretrained(clip).preprocessing)


def test_a_tensor_beside_the_tower_that_is_not_known_is_refused(clip):
    with pytest.raises(InputError, match=r"the model lacks adapter\.weight"):
        HookedViT.from_pretrained(clip.state_dict() | {"adapter.weight": torch.ones(3)}, n_heads=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pool_type": "none"}, "returns tokens"),
        ({"attentional_pool": True, "attn_pooler_heads": 2, "pool_type": "avg"}, "several pools"),
    ],
)
def test_towers_without_one_embedding_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        HookedViT.from_pretrained(open_clip_model(**options).visual)


def test_weights_of_a_trunk_alone_do_not_tell_whose_they_are():
    with pytest.raises(InputError, match=r"pass the folder with open_clip_config\.json"):
        HookedViT.from_pretrained(open_clip_trunk().state_dict())
