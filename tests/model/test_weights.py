"""Weights that cannot be computed with are refused by the tensor's name, through whatever door they come."""

import inspect
import warnings

import numpy as np
import pytest
import timm
import torch
from torch import nn
from variants import build

from vitlens import HookedViT, InputError
from vitlens.files import as_path
from vitlens.model.placement import read_device, read_dtype

NAME = "vit_tiny_patch16_224"
KEYWORDS = {"img_size": 32, "depth": 1, "num_classes": 3}
QKV = "blocks.0.attn.qkv.weight"


@pytest.fixture(scope="module")
def state():
    return timm.create_model(NAME, pretrained=False, **KEYWORDS).state_dict()


def broken(value):
    def change(tensor):
        tensor[0, :2] = value
        return tensor

    return change


BROKEN = [
    (broken(float("nan")), "holds 2 NaN among its 110,592 values"),
    (broken(float("-inf")), "holds 2 infinite among its 110,592 values"),
    (lambda tensor: (tensor * 100).to(torch.int8), "is int8, and weights are floats"),
    (lambda tensor: tensor > 0, "is bool, and weights are floats"),
    (lambda tensor: tensor.to(torch.complex64), "is complex64, and weights are floats"),
    (lambda tensor: tensor.to("meta"), 'is on the device "meta", so it holds no values'),
    (lambda tensor: tensor.to_sparse(), "is a sparse tensor: make it dense"),
    (lambda tensor: torch.nested.nested_tensor([tensor]), "is a nested tensor: make it dense"),
    (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "is quantised"),
]


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_weights_that_cannot_be_computed_with(state, tmp_path):
    for change, sentence in BROKEN:
        torch.save(state | {QKV: change(state[QKV].clone())}, tmp_path / "mine.pth")
        with pytest.raises(InputError) as refusal:
            HookedViT.from_timm(NAME, checkpoint_path=tmp_path / "mine.pth", **KEYWORDS)
        # Matrices of a byte each are what quantised files hold.
        of_a_byte = "int8" in sentence or "quantised" in sentence
        expected = f"mine.pth holds quantised weights ({QKV})" if of_a_byte else f"mine.pth: {QKV} {sentence}"
        assert expected in str(refusal.value)


def test_a_module_in_hand_of_weights_that_cannot_be_computed_with():
    for change, sentence in BROKEN[:6]:
        module = build().float()
        weight = module.blocks[1].mlp.fc1.weight
        changed = change(weight.detach().clone())
        module.blocks[1].mlp.fc1.weight = nn.Parameter(changed, requires_grad=changed.is_floating_point())
        # The numbers are those of another tensor.
        with pytest.raises(
            InputError, match=rf"the timm module: blocks\.1\.mlp\.fc1\.weight {sentence.split(' among')[0]}"
        ):
            HookedViT.from_timm(module)
        with pytest.raises(InputError, match=r"blocks\.1\.mlp\.fc1\.weight"):
            HookedViT.from_timm(module, device="cpu", dtype=torch.bfloat16)
    spread = build()
    spread.head = nn.Linear(32, 3, device="meta")
    with pytest.raises(InputError, match=r'head\.weight is on the device "meta"'):
        HookedViT.from_timm(spread)
    mixed = build()
    mixed.head = nn.Linear(32, 3)
    with pytest.raises(InputError, match=r"head is float32 and patch_embed\.proj float64: give all one dtype"):
        HookedViT.from_timm(mixed)


def test_weights_that_a_dtype_cannot_hold_are_not_made_infinite():
    module = build().float()
    with torch.no_grad():
        module.blocks[1].mlp.fc2.weight[0, 0] = -1e6
    sentence = (
        r"blocks\.1\.mlp\.fc2\.weight holds values of up to 1e\+06, and float16 ends at 6\.55e\+04: take bfloat16"
    )
    with pytest.raises(InputError, match=sentence):
        HookedViT.from_timm(module, dtype="float16")
    model = HookedViT.from_timm(module)
    for cast in (model.half, lambda: model.to("cpu", torch.float16), lambda: model.to(torch.zeros(1).half())):
        with pytest.raises(InputError, match="float16 ends at"):
            cast()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert HookedViT.from_timm(module, dtype="bfloat16").dtype == torch.bfloat16
    assert model.double().dtype == torch.float64


def test_dtypes_and_devices_by_name_or_a_sentence():
    assert [read_dtype(name) for name in ("float16", "torch.bfloat16", "half", "double", None)] == [
        torch.float16, torch.bfloat16, torch.float16, torch.float64, None,
    ]  # fmt: skip
    module = build()
    for dtype in ("int8", "nope", "load", 16, torch.int32, torch.float8_e4m3fn, np.float32):
        with pytest.raises(InputError, match="dtype is one of float32, float64, bfloat16, float16"):
            read_dtype(dtype)
    with pytest.raises(InputError, match="dtype is one of"):
        HookedViT.from_timm(module, dtype="int8")
    devices = ["xyz", 3.5, "cpu:x", "cuda:99"] + ([] if torch.cuda.is_available() else ["cuda", 0])
    for device in devices:
        with pytest.raises(InputError, match=f"device {str(device)!r} cannot be used: ") as refusal:
            read_device(device)
        assert "\n" not in str(refusal.value)
    with pytest.raises(InputError, match="device 'xyz' cannot be used"):
        HookedViT.from_timm(module, device="xyz")
    with pytest.raises(InputError, match="device 'meta' holds no values"):
        HookedViT.from_timm(module, device="meta")


def test_what_is_no_model_and_no_path_is_a_sentence(tmp_path):
    for thing in (None, 3, ["vit"], build):
        with pytest.raises(InputError, match="a model is a timm name or a timm module, not"):
            # Past the checker of types that tests run under.
            inspect.unwrap(HookedViT.from_timm.__func__)(HookedViT, thing)
    for keyword, value in (("pretrained", False), ("use_ema", False), ("checkpoint_path", "x.pth"), ("img_size", 3)):
        with pytest.raises(InputError, match=f"a timm module is taken as it is: {keyword} goes with a model name"):
            HookedViT.from_timm(build(), **{keyword: value})
    with pytest.raises(InputError, match=r"use_ema=False.* goes with checkpoint_path="):
        HookedViT.from_timm(NAME, pretrained=False, use_ema=False)
    for path in (3, b"x.pth", True, ["x.pth"]):
        with pytest.raises(InputError, match="checkpoint_path is the path of a file, not"):
            as_path(path, "checkpoint_path")
    for path, sentence in ((tmp_path, "is a folder: name the file"), ("a\0b", "there is no checkpoint file")):
        with pytest.raises(InputError, match=sentence):
            HookedViT.from_timm(NAME, checkpoint_path=path)
    for name in ("nothing.pth", "nothing.safetensors"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match=f"{name} is empty: save the state dict"):
            HookedViT.from_timm(NAME, checkpoint_path=tmp_path / name)


@pytest.mark.verified_timm
def test_a_classifier_that_timm_draws_beside_its_weights_is_told(state, tmp_path, monkeypatch):
    torch.save(state, tmp_path / "timms.pth")
    monkeypatch.setattr(
        "vitlens.model.checkpoints.timm_models._check_weights_are_within_reach", lambda name, timm_kwargs: None
    )
    overlay = {"file": str(tmp_path / "timms.pth"), "num_classes": 3}
    keywords = {**KEYWORDS, "pretrained_cfg_overlay": overlay}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HookedViT.from_timm(NAME, **keywords)
        HookedViT.from_timm(NAME, **{**keywords, "num_classes": 0})
    with pytest.warns(UserWarning, match="for 3 classes: the classifier for 5 is drawn at random"):
        HookedViT.from_timm(NAME, **{**keywords, "num_classes": 5})
