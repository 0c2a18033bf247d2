"""The port computes what timm computes: logits, every block, gradients, in float64 and float32, fused and watched."""

import pytest
import timm
import torch
from variants import VARIANTS, build, pictures, randomise

from vitlens import HookedViT, InputError


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def timm_blocks(module, images: torch.Tensor) -> list[torch.Tensor]:
    """timm's stream after every block, prefix tokens first."""
    _, outputs = module.forward_intermediates(images, output_fmt="NLC", return_prefix_tokens=True)
    return [torch.cat([output[1], output[0]], dim=1) if isinstance(output, tuple) else output for output in outputs]


def test_no_parameter_of_the_variants_is_left_at_its_start(module):
    for name, parameter in module.named_parameters():
        assert parameter.std() > 0.03, name
        assert (parameter - parameter.round()).abs().min() > 0, name


@pytest.mark.parametrize("names", ["resid_post", ["resid_post", "pattern"], None], ids=["fused", "eager", "all"])
def test_logits_and_every_block_in_float64(module, model, names):
    images = pictures(model.cfg, 3)
    logits, cache = model.run_with_cache(images, names_filter=names)
    assert relative(logits, module(images)) <= 1e-9
    blocks = timm_blocks(module, images)
    assert len(blocks) == model.cfg.n_layers
    for i, block in enumerate(blocks):
        assert relative(cache["resid_post", i], block) <= 1e-9
    assert relative(model(images), module(images)) <= 1e-9


def test_patch_features_are_timms_normalised_patch_tokens(module, model):
    """DINO's x_norm_patchtokens, on the grid."""
    images = pictures(model.cfg, 2)
    theirs = module.forward_features(images)
    theirs = theirs["patches"] if isinstance(theirs, dict) else theirs[:, model.cfg.n_prefix_tokens :]
    ours = model.patch_features(images)
    assert ours.shape == (2, *model.embed.grid(*images.shape[-2:]), model.cfg.d_model)
    assert relative(ours.flatten(1, 2), theirs) <= 1e-9
    assert torch.equal(model.patch_features(images[0])[0], model.patch_features(images[:1])[0])


@pytest.mark.parametrize("watched", [None, "pattern", lambda name: True], ids=["fused", "eager", "all"])
def test_gradients_of_pictures_and_parameters_in_float64(module, model, watched):
    images = pictures(model.cfg, 2).requires_grad_()
    weights = torch.randn(module(images).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    parameters = [parameter for parameter in model.parameters()]
    theirs = torch.autograd.grad((module(images) * weights).sum(), [images, *parameters], allow_unused=True)
    hooks = [(watched, lambda activation, hook: None)] if watched else []
    with model.hooks(hooks):
        ours = torch.autograd.grad((model(images) * weights).sum(), [images, *parameters], allow_unused=True)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine is None) == (other is None)
        # What softmax cancels, as b_K, has no gradient but rounding.
        if mine is not None and other.abs().max() > 1e-12:
            assert relative(mine, other) <= 1e-9


def test_float32_stays_within_rounding(module):
    module = module.float()
    model = HookedViT.from_timm(module)
    images = pictures(model.cfg, 3).float()
    assert relative(model(images), module(images)) <= 1e-5
    assert relative(model.run_with_cache(images)[0], module(images)) <= 1e-5


@pytest.mark.parametrize("name", ["dynamic_size", "dynamic_size_no_embed_class", "distilled_dynamic_size"])
def test_other_picture_sizes_where_the_model_takes_them(name):
    module = VARIANTS[name]()
    model = HookedViT.from_timm(module)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits, cache = model.run_with_cache(images)
    assert relative(logits, module(images)) <= 1e-9
    assert cache.grid_size == (4, 6)
    assert cache.patches(cache["resid_post", 1]).shape == (2, 4, 6, 32)
    with pytest.raises(InputError, match="50 × 96, which patches of 16 × 16 do not fill"):
        model(images[:, :, :50])


def test_a_model_that_pads_reads_any_size():
    module = build(dynamic_img_size=True, dynamic_img_pad=True)
    model = HookedViT.from_timm(module)
    images = torch.randn(2, 3, 50, 70, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits, cache = model.run_with_cache(images)
    assert relative(logits, module(images)) <= 1e-9
    assert cache.grid_size == (4, 5)


def test_a_picture_that_patches_do_not_fill_keeps_their_size():
    module = build(img_size=60)
    model = HookedViT.from_timm(module)
    images = pictures(model.cfg, 1)
    assert (model.cfg.patch_size, model.cfg.grid_size) == ((16, 16), (3, 3))
    assert relative(model(images), module(images)) <= 1e-9


def test_a_distilled_model_without_classifiers_answers_with_the_mean_of_its_two_tokens():
    module = build("deit_tiny_distilled_patch16_224", num_classes=0)
    model = HookedViT.from_timm(module)
    images = pictures(model.cfg, 2)
    logits, cache = model.run_with_cache(images)
    assert relative(logits, module(images)) <= 1e-9
    torch.testing.assert_close(logits, (cache["pooled"] + cache["pooled_dist"]) / 2)


#: These of half a second and more; parity/test_registry.py has their architectures in few dimensions.
WIDE = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("vit_tiny_patch16_224", {}),
        pytest.param("vit_base_patch32_224", {"depth": 2}, marks=WIDE),
        ("deit_tiny_distilled_patch16_224", {"depth": 2}),
        pytest.param("deit3_small_patch16_224", {"depth": 2}, marks=WIDE),
        pytest.param("vit_base_patch16_224_miil", {"depth": 2}, marks=WIDE),
        pytest.param("vit_base_patch16_clip_224", {"depth": 2}, marks=WIDE),
        pytest.param("vit_base_patch16_clip_quickgelu_224", {"depth": 2}, marks=WIDE),
        ("vit_small_patch14_dinov2", {"depth": 2, "img_size": 112}),
        ("vit_small_patch14_reg4_dinov2", {"depth": 2, "img_size": 112}),
        pytest.param("vit_medium_patch16_gap_240", {"depth": 2}, marks=WIDE),
        ("vit_small_patch8_224", {"depth": 2, "img_size": 64}),
        ("vit_tiny_r_s16_p8_224", {"depth": 2}),
    ],
)
def test_timms_own_names_at_their_own_width(name, keywords):
    module = randomise(timm.create_model(name, pretrained=False, **keywords))
    model = HookedViT.from_timm(module)
    images = pictures(model.cfg, 1)
    assert relative(model(images), module(images)) <= 1e-9
    assert relative(model.run_with_cache(images, names_filter="pattern")[0], module(images)) <= 1e-9


def test_a_run_can_start_and_stop_between_blocks(model):
    images = pictures(model.cfg, 2)
    logits, cache = model.run_with_cache(images, names_filter=["resid_pre", "resid_post"])
    n_layers = model.cfg.n_layers
    for block in range(n_layers):
        stream = model(images, stop_at_layer=block)
        assert torch.equal(stream, cache["resid_pre", block])
        assert torch.equal(model(stream, start_at_layer=block), logits)
        assert torch.equal(model(stream, start_at_layer=block - n_layers), logits)
    last = model(images, stop_at_layer=n_layers)
    assert torch.equal(last, cache["resid_post", -1])
    assert torch.equal(model(last, start_at_layer=n_layers), logits)
    assert torch.equal(model(cache["resid_pre", 1], start_at_layer=1, stop_at_layer=2), cache["resid_post", 1])
    assert torch.equal(model(images, stop_at_layer=-1), cache["resid_pre", -1])
    assert torch.equal(model(cache["resid_pre", 1], start_at_layer=1, stop_at_layer=-1), cache["resid_pre", -1])
    assert torch.equal(model(last, start_at_layer=1, stop_at_layer=1), last)


def test_return_types():
    model = HookedViT.from_timm(build())
    images, labels = pictures(model.cfg, 3), torch.tensor([1, 2, 3])
    logits = model(images)
    torch.testing.assert_close(model(images, return_type="probs"), logits.softmax(-1))
    torch.testing.assert_close(
        model(images, return_type="loss", labels=labels), torch.nn.functional.cross_entropy(logits, labels)
    )
    assert model(images, return_type=None) is None


def test_every_parameter_is_adopted_once_and_none_is_copied(module, model):
    theirs = {id(parameter): name for name, parameter in module.named_parameters()}
    ours = [parameter for _, parameter in model.named_parameters(remove_duplicate=False)]
    assert len(ours) == len({id(parameter) for parameter in ours}), "no parameter is reachable twice"
    assert {id(parameter) for parameter in ours} == set(theirs)
    pointers = {parameter.data_ptr(): parameter.numel() for parameter in module.parameters()}
    assert {parameter.data_ptr(): parameter.numel() for parameter in ours} == pointers
    assert list(model.buffers()) == list(module.buffers()) == []


def test_the_module_in_hand_and_its_port_stay_one(module, model):
    images = pictures(model.cfg, 1)
    after = model(images)
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            parameter.mul_(-1.5)
        before, after = after, model(images)
        # One shift of all keys moves the scores of a query alike, which softmax does not see.
        if not name.endswith("k_norm.bias"):
            assert relative(after, before) > 1e-9, name
    assert relative(model(images), module(images)) <= 1e-9


def test_device_and_dtype_are_passed_on():
    model = HookedViT.from_timm(build(), dtype=torch.float32, device="cpu")
    assert model.dtype == torch.float32
    assert model.device.type == "cpu"
    assert model(pictures(model.cfg, 1).float()).dtype == torch.float32


def test_training_only_parts_never_act():
    dropping = build(drop_rate=0.5, proj_drop_rate=0.5, attn_drop_rate=0.5, drop_path_rate=0.5, patch_drop_rate=0.5)
    images = pictures(HookedViT.from_timm(dropping).cfg, 2)
    assert relative(HookedViT.from_timm(dropping)(images), dropping(images)) <= 1e-9


def test_training_mode_is_named():
    """Where it changes what timm computes it is refused, elsewhere it is a warning; a HookedViT has no training mode."""
    for rate in ("proj_drop_rate", "attn_drop_rate", "drop_path_rate", "patch_drop_rate"):
        with pytest.raises(InputError, match=r"training mode.*call .eval\(\)"):
            HookedViT.from_timm(build(**{rate: 0.5}).train())
    with pytest.warns(UserWarning, match=r"training mode.*call .eval\(\)"):
        model = HookedViT.from_timm(build().train())
    with pytest.raises(InputError, match="always computes in evaluation mode"):
        model.train()
    assert not any(part.training for part in model.eval().modules())
