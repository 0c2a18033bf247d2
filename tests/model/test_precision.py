"""Half precision, other devices, and compiling: what a user may do to a model once it is there."""

import shutil

import jaxtyping
import pytest
import torch
from variants import OTHERS, VARIANTS, build, pictures

from vitlens import HookedViT, class_lens, direct_logit_attribution
from vitlens.parity.measure import relative_difference

KINDS = VARIANTS | OTHERS
SOME = ["class_token", "registers", "rotary", "relative", "gated", "differential", "post_norm", "rms_norm", "any_size"]
# The largest relative difference from timm in the same precision: the kernels differ, the arithmetic does not.
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 0.15, torch.float16: 0.02}


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("name", SOME)
def test_other_precisions_compute_what_timm_computes_in_them(name, dtype):
    module = KINDS[name]().to(dtype)
    model = HookedViT.from_timm(module)
    images = pictures(model.cfg, 2).to(dtype)
    with torch.no_grad():
        expected = module(images)
        logits, cache = model.run_with_cache(images)
        assert model(images).dtype == logits.dtype == dtype == model.dtype
        for ours in (model(images), logits):
            assert relative_difference(ours, expected) <= LIMITS[dtype]
    assert {activation.dtype for activation in cache.values()} == {dtype}


def test_a_model_may_be_moved_afterwards():
    module = build()
    model = HookedViT.from_timm(module)
    images = pictures(model.cfg, 2)
    expected = model(images)
    half = model.half()
    assert half is model
    assert model.dtype == torch.float16
    assert relative_difference(model(images.half()), expected) <= 0.05
    assert relative_difference(model.to(torch.float32)(images.float()), expected) <= 0.05
    assert module.head.weight.dtype == torch.float32, "the module in hand goes with its port"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("dtype", [torch.float64, *LIMITS], ids=str)
def test_on_a_gpu(dtype):
    module = build().to("cuda", dtype)
    model = HookedViT.from_timm(module)
    images = pictures(model.cfg, 2).to("cuda", dtype)
    with torch.no_grad():
        assert relative_difference(model(images), module(images)) <= {torch.float64: 1e-9, **LIMITS}[dtype]
    assert class_lens(model, images).values.is_cuda
    assert direct_logit_attribution(model, images).values.is_cuda


COMPILER = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler"
)


# What goes wrong goes wrong while the graph is made; the real backend takes half a minute to compile it.
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=[pytest.mark.slow, COMPILER])])
@pytest.mark.parametrize("name", ["class_token", "rotary"])
def test_the_unwatched_forward_compiles(name, backend, monkeypatch):
    # The compiler would trace the checks of types as well, and count them.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    # Each block is traced alike, and takes as long as all the others.
    model = HookedViT.from_timm(KINDS[name](depth=1))
    images = pictures(model.cfg, 2)
    with torch.no_grad():
        expected = model(images)
        compiled = torch.compile(model, backend=backend)
        assert relative_difference(compiled(images), expected) <= 1e-9
        # Hooks still work on the model itself, watched or not.
        _, cache = model.run_with_cache(images, names_filter="pattern")
        assert len(cache) == model.cfg.n_layers
        assert relative_difference(compiled(images), expected) <= 1e-9
