"""Models of Hugging Face beside their numbers: hidden states, image processors, folders, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BitImageProcessor, DeiTImageProcessor, ViTImageProcessor
from transformers.core_model_loading import revert_weight_conversion

from vitlens import HookedViT, InputError
from vitlens.data.preprocessing import Preprocessing
from vitlens.model.families.huggingface.preprocessing import full_preprocessor, input_size, read_preprocessing
from vitlens.model.families.sizes import read_sizes
from vitlens.parity import verify_port
from vitlens.parity.measure import relative_difference
from vitlens.parity.peers.cases import CASES, build_case
from vitlens.parity.peers.huggingface_vit import small
from vitlens.parity.reduced import randomise

PROCESSORS = {
    # Where an odd number of pixels is cut off, the two libraries may round the place of the crop otherwise.
    "shorter side, then a crop": BitImageProcessor(size={"shortest_edge": 48}, crop_size=32),
    "both sides": ViTImageProcessor(size=32),
    "both sides, then a crop": DeiTImageProcessor(size=186, crop_size=32),
    "without normalising": ViTImageProcessor(size=32, do_normalize=False, resample=3),
    "colours from -1 to 1 in one step": ViTImageProcessor(
        size=32, rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3
    ),
}


def saved_names(module):
    """The tensors of a module by the names that released files have."""
    return dict(revert_weight_conversion(module, module.state_dict()))


@pytest.mark.parametrize("name", ["Hugging Face ViT", "Hugging Face BEiT", "Hugging Face DINOv2 with registers"])
def test_blocks_are_numbered_as_hidden_states_are(name):
    module, model, images = build_case(next(case for case in CASES if case.family == name))
    with torch.no_grad():
        expected = module(images, output_hidden_states=True).hidden_states
        _, cache = model.run_with_cache(images, names_filter=["resid_pre", "resid_post"])
    streams = [cache["resid_pre", 0], *(cache["resid_post", block] for block in range(model.cfg.n_layers))]
    assert len(streams) == len(expected)
    for ours, theirs in zip(streams, expected, strict=True):
        assert relative_difference(ours, theirs) < 1e-9


@pytest.mark.parametrize("name", PROCESSORS)
def test_preprocessing_is_that_of_the_image_processor(name):
    rows, columns = np.mgrid[0:90, 0:120]
    waves = [np.sin(rows / 9 + k) * np.cos(columns / (7 + k)) for k in range(3)]
    photograph = Image.fromarray((127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8))
    theirs = PROCESSORS[name](photograph, return_tensors="pt").pixel_values[0]
    saved = full_preprocessor(json.loads(json.dumps(PROCESSORS[name].to_dict())))
    read = read_preprocessing(saved)
    config = {"input_size": (3, *input_size({"preprocessor": saved})), "interpolation": "bilinear", **read}
    ours = Preprocessing(config).image(photograph)
    assert ours.shape == theirs.shape
    # Pixels are rounded to one of 256 levels after resizing, by different code.
    assert (ours - theirs).abs().max() <= 1.01 / 255 / min(read["std"])


def test_a_saved_folder_has_its_class_names_and_preprocessing(tmp_path):
    module = small("ViT", id2label={i: f"bird {i}" for i in range(5)}, problem_type="multi_label_classification").eval()
    module.save_pretrained(tmp_path)
    ViTImageProcessor(size=32, resample=3, image_mean=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    model = HookedViT.from_pretrained(tmp_path)
    assert model.class_names == [f"bird {i}" for i in range(5)]
    assert model.cfg.output == "sigmoid"
    assert str(model.preprocessing) == "32 × 32 pixels, bicubic, squash crop 1, mean 0.4, 0.5, 0.6, std 0.5"
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(images), module(images).logits)


def test_dinov2_reads_pictures_of_the_size_that_its_image_processor_makes(tmp_path):
    module = small("Dinov2", "Model", image_size=64).eval()
    module.save_pretrained(tmp_path)
    BitImageProcessor(size={"shortest_edge": 40}, crop_size=32).save_pretrained(tmp_path)
    model = HookedViT.from_pretrained(tmp_path)
    assert model.cfg.grid_size == (2, 2)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(images), module(images).pooler_output)


def test_half_precision_turns_patches_by_the_same_angles():
    module = small("DINOv3ViT", "Model").eval()
    model, halved = (HookedViT.from_pretrained(module, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert torch.equal(model.embed.rope.get_embed((2, 2)), halved.embed.rope.get_embed((2, 2)))


def test_no_neuron_is_lost_to_rounding():
    state = {"patch_embed.proj.weight": torch.empty(1408, 3, 14, 14, device="meta")}
    state["blocks.0.mlp.fc1.weight"] = torch.empty(1414, 1408, device="meta")
    assert int(1408 * (1414 / 1408)) == 1413
    assert int(1408 * read_sizes(state, 224)["mlp_ratio"]) == 1414


def test_weights_without_configuration_show_heads_and_sizes_where_they_can():
    beit = randomise(small("Beit", use_relative_position_bias=True))
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.warns(UserWarning, match="assumed: activation gelu and eps 1e-12, as published"):
        model = HookedViT.from_pretrained(saved_names(beit))
    torch.testing.assert_close(model(images), beit(images).logits)
    with pytest.warns(UserWarning, match="assumed: .*pictures of 224 × 224"):
        model = HookedViT.from_pretrained(saved_names(small("DINOv3ViT", "Model")), n_heads=2)
    assert model.cfg.grid_size == (14, 14)


def test_what_older_files_hold_besides_is_left_out():
    index = "beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_index"
    beit = saved_names(small("Beit", use_relative_position_bias=True)) | {index: torch.zeros(5, 5, dtype=torch.long)}
    assert HookedViT.from_pretrained(beit).cfg.n_classes == 5
    vit = saved_names(small("ViT")) | {"vit.pooler.dense.weight": torch.zeros(32, 32)}
    with pytest.warns(UserWarning, match=r"left out: pooler\.dense\.weight"):
        assert HookedViT.from_pretrained(vit, n_heads=2).cfg.n_classes == 5


def test_a_model_without_classifier_has_a_random_baseline():
    model = HookedViT.from_pretrained(small("ViT", "Model", False))
    fresh = model.with_fresh_weights()
    assert fresh.cfg.model_name == "Hugging Face ViT"
    assert fresh.cfg.output == "embedding"
    assert not torch.equal(fresh.blocks[0].mlp.W_in, model.blocks[0].mlp.W_in)


@pytest.mark.parametrize("kind", ["ViT", "ViTMAE", "Data2VecVision"])
def test_models_are_verified_by_the_answer_that_they_have(kind):
    """A pooler or none, and patches left out at random; fresh, where the squares of a norm's output sum to a constant."""
    report = verify_port(small(kind, "Model").eval(), dtypes=("float64",))
    assert report.exact


def test_tensors_that_would_not_be_used_are_refused():
    with pytest.raises(InputError, match=r"pooler\.dense"):
        HookedViT.from_pretrained(small("IJepa", "Model", True))


def test_the_picture_size_has_patches():
    with pytest.raises(InputError, match="pictures of 8 × 8 hold no patch of 16 × 16"):
        HookedViT.from_pretrained(small("ViT"), img_size=8)


@pytest.mark.parametrize("option", ["use_absolute_position_embeddings", "use_relative_position_bias"])
def test_positions_that_the_configuration_promises_must_be_in_the_weights(option, tmp_path):
    beit = small("Beit", **{option: True})
    beit.save_pretrained(tmp_path)
    assert HookedViT.from_pretrained(tmp_path).cfg.n_classes == 5
    state = {key: value for key, value in load_file(tmp_path / "model.safetensors").items() if "position" not in key}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=f"the configuration has {option}, and the weights lack it"):
        HookedViT.from_pretrained(tmp_path)
