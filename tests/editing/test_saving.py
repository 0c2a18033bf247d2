"""Checkpoints that need no vitlens: timm and transformers open them, and compute what the edited model computes."""

import json
from functools import partial

import pytest
import timm
import torch
import transformers
from ported import build
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from variants import SMALL as SMALL_VIT
from variants import VARIANTS, attention_pool_alone, pictures

import vitlens
from vitlens import HookedViT, InputError
from vitlens.editing.changes import Change, Directions
from vitlens.editing.fold import fold_changes
from vitlens.editing.saving import save_checkpoint
from vitlens.parity.peers.cases import CASES, build_case
from vitlens.parity.peers.huggingface_vit import small
from vitlens.parity.reduced import randomise


def edited(model, *hooks):
    """The model without two directions of what these hook points write, or without head 1."""
    removed = Directions.orthogonal(
        torch.randn(2, model.cfg.d_model, generator=torch.Generator().manual_seed(0)).double()
    )
    changes = [Change(hook, removed=removed) for hook in hooks] or [Change("blocks.1.attn.hook_z", units=(1,))]
    return fold_changes(model, tuple(changes))


def relative(theirs, ours):
    return ((theirs - ours).abs().max() / ours.abs().max()).item()


def opened_by_timm(folder, model):
    return timm.create_model(f"local-dir:{folder}", pretrained=True).to(model.dtype).eval()


@torch.no_grad()
def test_timm_opens_a_folder_of_a_model_that_is_in_none_of_its_lists(tmp_path):
    demo, images, *_ = vitlens.load_demo()
    model = edited(demo)
    save_checkpoint(model, tmp_path)
    assert relative(opened_by_timm(tmp_path, model)(images[:4]), model(images[:4])) == 0
    assert relative(demo(images[:4]), model(images[:4])) > 1e-3
    again = HookedViT.from_pretrained(tmp_path)
    assert again.class_names == demo.class_names
    assert str(again.preprocessing) == str(demo.preprocessing)
    assert again.provenance.weights == f"a vit_tiny_patch16_224 in the folder {tmp_path.name}"
    config = json.loads((tmp_path / "config.json").read_text())
    assert not {"tag", "license"} & set(config["pretrained_cfg"])


def timm_vit(**keywords):
    return VisionTransformer(**SMALL_VIT, **keywords).eval()


SMALL = {"img_size": 32, "num_classes": 3}
NAMED = {
    "vit_tiny_patch16_224": {"depth": 2, "reg_tokens": 2, "init_values": 0.1, "global_pool": "avg"},
    "eva02_tiny_patch14_224": {"depth": 2, "img_size": (28, 42)},
    "vit_base_patch16_siglip_224": {"depth": 2, "embed_dim": 64, "num_heads": 2},
}


@torch.no_grad()
@pytest.mark.parametrize("name", NAMED)
def test_timm_opens_a_folder_of_a_model_that_it_has_by_a_name(tmp_path, name):
    kept = {"class_names": list("abc"), "mean": 0.25, "crop_pct": 0.5, "dtype": "float64"}
    model = edited(HookedViT.from_timm(name, pretrained=False, **{**SMALL, **NAMED[name]}, **kept))
    save_checkpoint(model, tmp_path / "new" / "folder")
    images = pictures(model.cfg, 2)
    assert relative(opened_by_timm(tmp_path / "new" / "folder", model)(images), model(images)) <= 1e-9
    again = HookedViT.from_timm(f"local-dir:{tmp_path}/new/folder", dtype="float64")
    assert relative(again(images), model(images)) <= 1e-9
    assert (again.class_names, str(again.preprocessing)) == (list("abc"), str(model.preprocessing))


@torch.no_grad()
@pytest.mark.parametrize("name", ["distilled", "norm_pre", "no_embed_class", "average_norm_before_pool", "quick_gelu"])
def test_the_keywords_of_a_module_in_hand_are_read_off_its_parts(tmp_path, name):
    module = VARIANTS[name]()
    module._model_args, module.pretrained_cfg = {}, {"architecture": "my_vit"}
    model = edited(HookedViT.from_timm(module.float()))
    save_checkpoint(model, tmp_path)
    images = pictures(model.cfg, 2).float()
    assert relative(opened_by_timm(tmp_path, model)(images), model(images)) == 0


@torch.no_grad()
def test_a_file_holds_the_state_of_timms_module(tmp_path):
    model = edited(HookedViT.from_timm("vit_tiny_patch16_224", pretrained=False, depth=2, **SMALL))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"old")
    save_checkpoint(model, path)
    module = timm.create_model("vit_tiny_patch16_224", checkpoint_path=str(path), depth=2, **SMALL).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(module(images), model(images))
    opened = HookedViT.from_timm("vit_tiny_patch16_224", checkpoint_path=path, depth=2)
    assert torch.equal(opened(images), model(images))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_model_that_timm_builds_by_no_name_becomes_a_file(tmp_path):
    model = HookedViT.from_timm(attention_pool_alone())
    with pytest.raises(InputError, match=r"by no name that is known here.*\.safetensors"):
        save_checkpoint(model, tmp_path / "folder")
    save_checkpoint(model, tmp_path / "weights.safetensors")
    again = attention_pool_alone()
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))


@torch.no_grad()
def test_the_eps_of_norms_decides_which_name_fits(tmp_path):
    """No shape shows it, and timm takes it by no keyword that a configuration could hold."""
    models = [HookedViT.from_timm(timm_vit(norm_layer=partial(torch.nn.LayerNorm, eps=eps))) for eps in (1e-5, 1e-3)]
    images = pictures(models[0].cfg, 2).float()
    save_checkpoint(models[0], tmp_path)
    assert relative(opened_by_timm(tmp_path, models[0])(images), models[0](images)) == 0
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == "vit_base_patch32_clip_224"
    with pytest.raises(InputError, match="by no name that is known here"):
        save_checkpoint(models[1], tmp_path)


def test_what_is_in_no_checkpoint_is_refused(tmp_path):
    model = build("class_token")
    with pytest.raises(InputError, match=r"ends in \.safetensors, or a folder"):
        save_checkpoint(model, tmp_path / "weights.pth")
    with_embeddings = model.with_class_embeddings(torch.randn(2, 32).double())
    with pytest.warns(UserWarning, match="class embeddings that were set by hand"):
        save_checkpoint(with_embeddings, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="rewritten by fold_ln"):
        save_checkpoint(build("class_token").process_weights_(fold_ln=True), tmp_path)
    model.blocks[0].attn.proj = torch.nn.Linear(32, 32).double()
    with pytest.raises(InputError, match=r"blocks\.0\.attn\.proj\.weight of .* was replaced"):
        save_checkpoint(model, tmp_path)


WRITERS = ["blocks.0.hook_mlp_out", "blocks.1.hook_attn_out", "blocks.1.ln1.hook_normalized"]
HUGGING_FACE = {
    ("Hugging Face ViT", "classifier"): ["blocks.0.hook_resid_pre", *WRITERS],
    # Its registers have no position, so that of the class token is read as a part of the token.
    ("Hugging Face DINOv2 with registers", "classifier"): ["blocks.0.hook_resid_pre", *WRITERS],
    # The source also holds a model of texts.
    ("Hugging Face CLIP", "with texts"): WRITERS,
}


@torch.no_grad()
@pytest.mark.parametrize("family", HUGGING_FACE)
def test_transformers_opens_what_was_its_module(tmp_path, family):
    case = next(case for case in CASES if (case.family, case.name) == family)
    module, model, images = build_case(case)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    changed = edited(model, *HUGGING_FACE[family])
    save_checkpoint(changed, tmp_path, like=module)
    again = type(module).from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert relative(case.peer.answer(again, images), changed(images)) <= 1e-9
    assert relative(model(images), changed(images)) > 1e-3
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    others = [key for key in before if "text" in key]
    assert all(torch.equal(before[key], again.state_dict()[key]) for key in others)


@torch.no_grad()
def test_transformers_opens_what_was_its_folder(tmp_path):
    """With positions that are interpolated for the pictures of its preprocessing; what was not edited stays as it was."""
    source, target = tmp_path / "source", tmp_path / "target"
    module = randomise(small("Dinov2", image_size=64)).float().eval()
    module.save_pretrained(source)
    transformers.BitImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(source)
    (source / "labels.txt").write_text("one\n")
    model = HookedViT.from_pretrained(source, dtype="float64")
    assert model.cfg.image_size == (32, 32)
    changed = edited(model)
    save_checkpoint(changed, target, like=source)
    assert {file.name for file in target.iterdir()} == {file.name for file in source.iterdir()}
    images = torch.randn(2, 3, 32, 32)
    again = transformers.Dinov2ForImageClassification.from_pretrained(target).eval()
    assert relative(again(images).logits, changed(images.double())) < 1e-5
    old, new = (load_file(folder / "model.safetensors") for folder in (source, target))
    assert [key for key in old if not torch.equal(old[key], new[key])] == [
        "dinov2.encoder.layer.1.attention.output.dense.weight"
    ]
    save_checkpoint(changed, target / "weights.safetensors", like=str(source))
    assert load_file(target / "weights.safetensors").keys() == old.keys()
    with pytest.raises(InputError, match=r"pos_embed was edited, and .* has no numbers for it alone"):
        save_checkpoint(edited(model, "blocks.0.hook_resid_pre"), target, like=source)


@torch.no_grad()
def test_files_and_modules_of_libraries_without_folders(tmp_path):
    case = next(case for case in CASES if case.family == "torchvision VisionTransformer")
    module, model, images = build_case(case)
    changed, path = edited(model), tmp_path / "weights.safetensors"
    save_checkpoint(changed, path, like=module)
    module.load_state_dict(load_file(path))
    assert relative(module(images), changed(images)) <= 1e-9
    with pytest.raises(InputError, match=r"is saved in no folder of its library"):
        save_checkpoint(changed, tmp_path / "folder", like=module)
    # A training run keeps the weights beside other things.
    trained = build("class_token").timm_module
    raw = {key: value + 1 for key, value in trained.state_dict().items()}
    torch.save({"model": raw, "model_ema": trained.state_dict(), "epoch": 3}, tmp_path / "run.pth")
    changed_run = edited(HookedViT.from_pretrained(tmp_path / "run.pth", n_heads=4))
    save_checkpoint(changed_run, path, like=tmp_path / "run.pth")
    trained.load_state_dict(load_file(path))
    assert relative(trained(pictures(changed_run.cfg, 2)), changed_run(pictures(changed_run.cfg, 2))) <= 1e-9
    with pytest.raises(InputError, match="like= is not what the model was opened from"):
        save_checkpoint(changed, path, like=tmp_path / "run.pth")
    save_file(module.state_dict(), tmp_path / "alone.safetensors")
    with pytest.raises(InputError, match="no configuration beside its weights"):
        save_checkpoint(changed, tmp_path / "folder", like=tmp_path / "alone.safetensors")


def test_like_a_folder_of_timm_is_refused(tmp_path):
    demo = vitlens.demo.load_demo_model()
    save_checkpoint(demo, tmp_path)
    with pytest.raises(InputError, match="a folder of timm: leave like= out"):
        save_checkpoint(demo, tmp_path / "other", like=tmp_path)
