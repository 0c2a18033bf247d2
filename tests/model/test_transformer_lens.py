"""TransformerLens' own tools run on a HookedViT, and agree with ours and with what they should sum to."""

import itertools

import pytest
import torch
from transformer_lens import FactoredMatrix, SVDInterpreter
from transformer_lens.utilities import composition_scores
from variants import VARIANTS, build, pictures

from vitlens import HookedViT, InputError, activation_patching, direct_logit_attribution
from vitlens.parity.reduced import build_reduced, reduced_images
from vitlens.patching import transformer_lens as patching

# Everything that a decomposition can meet, but for norms behind the branches.
KINDS = ["class_token", "registers", "norm_pre", "no_position", "average_without_class_token", "average_norm_before_pool",
         "layer_scale", "qk_norm", "no_proj_bias", "no_final_norm"]  # fmt: skip
NAMES = ["aimv2_large_patch14_224", "eva02_tiny_patch14_224", "vit_pwee_patch16_reg1_gap_256", "vitamin_small_224",
         "vit_small_patch16_18x2_224", "vit_dpwee_patch16_reg1_gap_256", "beit_base_patch16_224"]  # fmt: skip


@pytest.fixture(scope="module", params=[*KINDS, *NAMES])
def run(request):
    """Model, images, logits and cache."""
    if request.param in KINDS:
        model = HookedViT.from_timm(VARIANTS[request.param]())
        images = pictures(model.cfg, 2)
    else:
        model = HookedViT.from_timm(build_reduced(request.param))
        images = reduced_images(model.cfg)
        if model.unembed is None:
            generator = torch.Generator().manual_seed(0)
            model.set_class_embeddings(torch.randn(10, model.cfg.d_model, generator=generator, dtype=torch.float64))
    with torch.no_grad():
        logits, cache = model.run_with_cache(images)
    return model, images, logits, cache


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pos_slice", [None, 0, (1, 3)])
def test_decompositions_sum_to_the_stream(run, pos_slice):
    model, _, _, cache = run
    last = cache["resid_post", -1]
    last = {None: last, 0: last[:, 0], (1, 3): last[:, 1:3]}[pos_slice]
    stack, labels = cache.decompose_resid(return_labels=True, pos_slice=pos_slice)
    assert len(labels) == len(stack)
    close(stack.sum(0), last)
    for expand_neurons in (True, False):
        stack, labels = cache.get_full_resid_decomposition(
            expand_neurons=expand_neurons, return_labels=True, pos_slice=pos_slice
        )
        assert len(labels) == len(stack) == len(set(labels))
        close(stack.sum(0), last)
    heads, labels = cache.stack_head_results(return_labels=True, incl_remainder=True, pos_slice=pos_slice)
    assert labels[:-1] == model.all_head_labels()
    close(heads.sum(0), last)
    direction = torch.linspace(-1, 1, model.cfg.d_model, dtype=torch.float64)
    neurons = cache.stack_neuron_results(
        -1, pos_slice=pos_slice, incl_remainder=True, project_output_onto=direction
    )  # fmt: skip
    close(neurons.sum(0), last @ direction)


def test_head_results_are_those_of_the_hook(run):
    model, images, _, cache = run
    watched = cache["result", 1]
    _, without = model.run_with_cache(images, names_filter=["z", "resid_post"])
    without.compute_head_results()
    close(without["result", 1], watched)


def test_accumulated_streams_and_stacks(run):
    model, _, _, cache = run
    streams, labels = cache.accumulated_resid(return_labels=True)
    assert len(labels) == model.cfg.n_layers + 1
    close(streams[1], cache["resid_pre", 1])
    close(cache.stack_activation("resid_post")[-1], cache["resid_post", -1])
    lens = cache.accumulated_resid(apply_ln=True) @ model.W_U + model.b_U
    expected = model.project(streams, list(range(streams.shape[-2])))
    close(lens, expected)


def test_norms_of_blocks_are_frozen(run):
    model, _, _, cache = run
    block = model.blocks[1]
    parts = cache.decompose_resid(1, apply_ln=True)
    read = parts.sum(0) + (0 if block.ln1.bias is None else block.ln1.bias)
    close(read, block.ln1.normalise(cache["resid_pre", 1]))


def test_logit_attributions_sum_to_the_logit(run):
    """And equal ours, component by component, where the model reads one token."""
    model, images, logits, cache = run
    stack, labels = cache.decompose_resid(return_labels=True)
    norm = model.fc_norm if model.ln_final is None else model.ln_final
    constant = model.b_U + (model.W_U.T @ norm.bias if norm is not None and norm.bias is not None else 0)
    shares = cache.logit_attrs(stack, [3, 1])
    read = shares[:, :, model.read_tokens].mean(-1)
    close(read.sum(0) + constant[[3, 1]], logits[[0, 1], [3, 1]])
    difference = cache.logit_attrs(stack, "3", incorrect_tokens=4)[:, :, model.read_tokens].mean(-1)
    close(difference.sum(0) + (constant[3] - constant[4]), logits[:, 3] - logits[:, 4])
    ours = direct_logit_attribution(model, images, torch.tensor([3, 1]))
    close(read.T, ours.values[:, 0, :-1])
    assert len(ours.axes["component"]) == len(labels) + 1


@pytest.mark.parametrize("name", ["vit_base_patch16_siglip_224", "deit_tiny_distilled_patch16_224"])
def test_what_has_no_single_direction_is_refused(name):
    model = HookedViT.from_timm(build_reduced(name))
    _, cache = model.run_with_cache(reduced_images(model.cfg))
    if model.unembed is None:
        model.set_class_embeddings(torch.randn(4, model.cfg.d_model))
    with pytest.raises(InputError, match="direct_logit_attribution"):
        cache.logit_attrs(cache.decompose_resid(), 1)


def test_norms_behind_the_branches_are_refused_by_name():
    model = HookedViT.from_timm(build_reduced("vit_relpos_base_patch32_plus_rpn_256"))
    _, cache = model.run_with_cache(reduced_images(model.cfg))
    close(cache.decompose_resid().sum(0), cache["resid_post", -1])
    for call in (cache.stack_head_results, lambda: cache.stack_neuron_results(-1), cache.get_full_resid_decomposition):
        with pytest.raises(InputError, match="a norm follows"):
            call()
    with pytest.raises(InputError, match="read the stream without a norm"):
        cache.decompose_resid(1, apply_ln=True)


# ---- patching ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair():
    """A model of more tokens than its pictures are wide or high in pixels, so that axes cannot be mixed up."""
    model = HookedViT.from_timm(build(img_size=12, patch_size=2, depth=2, embed_dim=16, num_heads=2).float())
    clean, corrupted = pictures(model.cfg, 4).float().chunk(2)
    _, cache = model.run_with_cache(clean)
    return model, clean, corrupted, cache


def metric(logits):
    return (logits[:, 0] - logits[:, 1]).mean()


SWEEPS = {
    "resid_pre": patching.get_act_patch_resid_pre,
    "resid_mid": patching.get_act_patch_resid_mid,
    "attn_out": patching.get_act_patch_attn_out,
    "mlp_out": patching.get_act_patch_mlp_out,
}


@pytest.mark.parametrize("site", SWEEPS)
def test_sweeps_by_position_cover_every_token_and_equal_ours(pair, site):
    model, clean, corrupted, cache = pair
    assert model.cfg.n_ctx == 37 > max(model.cfg.image_size)
    theirs = SWEEPS[site](model, corrupted, cache, metric)
    ours = activation_patching(
        model, clean, corrupted, metric=lambda logits: logits[:, 0] - logits[:, 1], sites=site, progress=False
    )  # fmt: skip
    assert theirs.shape == (2, 37)
    torch.testing.assert_close(theirs, ours.patched.mean(-1), rtol=1e-4, atol=1e-5)


def test_every_sweep_has_transformer_lens_shape(pair):
    model, _, corrupted, cache = pair
    layers, tokens, heads = 2, 37, 2
    by_head = patching.get_act_patch_attn_head_by_pos_every(model, corrupted[:1], cache_of(model, corrupted), metric)
    assert by_head.shape == (5, layers, tokens, heads)
    all_positions = patching.get_act_patch_attn_head_all_pos_every(model, corrupted, cache, metric)
    assert all_positions.shape == (5, layers, heads)
    assert patching.get_act_patch_block_every(model, corrupted, cache, metric).shape == (3, layers, tokens)
    detailed = patching.get_act_patch_resid_pre(
        model, corrupted, cache, lambda logits: logits[:, 0] - logits[:, 1], reduce="none", baseline=True
    )
    assert detailed.values.shape == (layers, tokens, 2)
    assert detailed.axis_names == ["layer", "pos"]
    flat, frame = patching.get_act_patch_resid_pre(model, corrupted, cache, metric, return_index_df=True)
    assert flat.shape == (layers, tokens)
    assert len(frame) == layers * tokens


def cache_of(model, images):
    return model.run_with_cache(images[:1])[1]


def test_heads_at_all_positions_equal_ours(pair):
    model, clean, corrupted, cache = pair
    for site, sweep in (
        ("z", patching.get_act_patch_attn_head_out_all_pos),
        ("q", patching.get_act_patch_attn_head_q_all_pos),
        ("k", patching.get_act_patch_attn_head_k_all_pos),
        ("v", patching.get_act_patch_attn_head_v_all_pos),
        ("pattern", patching.get_act_patch_attn_head_pattern_all_pos),
    ):
        ours = activation_patching(
            model, clean, corrupted, metric=lambda logits: logits[:, 0] - logits[:, 1], sites=site, progress=False
        )  # fmt: skip
        theirs = sweep(model, corrupted, cache, metric)
        torch.testing.assert_close(theirs, ours.patched.mean(-1), rtol=1e-4, atol=1e-5)


def test_a_pattern_entry_is_one_number(pair):
    """The sweep over destination and source, checked on one entry by hand."""
    model = HookedViT.from_timm(build(img_size=(4, 6), patch_size=2, depth=1, embed_dim=16, num_heads=2).float())
    clean, corrupted = pictures(model.cfg, 2).float().chunk(2)
    cache = cache_of(model, clean)
    sweep = patching.get_act_patch_attn_head_pattern_dest_src_pos(model, corrupted, cache, metric)
    assert sweep.shape == (1, 2, 7, 7)

    def patch(pattern, hook):
        pattern[:, 1, 0, 5] = cache["pattern", 0][:, 1, 0, 5]

    by_hand = metric(model.run_with_hooks(corrupted, fwd_hooks=[(("pattern", 0), patch)]))
    torch.testing.assert_close(sweep[0, 1, 0, 5], by_hand)
    assert pair is not None


# ---- circuits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["Q", "K", "V"])
def test_composition_scores(mode):
    model = HookedViT.from_timm(build())
    scores = model.all_composition_scores(mode)
    assert scores.shape == (3, 4, 3, 4)
    left = model.W_V[0, 1] @ model.W_O[0, 1]
    qk = model.W_Q[2, 3] @ model.W_K[2, 3].T
    right = {"Q": qk, "K": qk.T, "V": model.W_V[2, 3] @ model.W_O[2, 3]}[mode]
    close(scores[0, 1, 2, 3], (left @ right).norm() / left.norm() / right.norm())
    for first, later in itertools.product(range(3), range(3)):
        assert (scores[first, :, later] == 0).all() == (later <= first)
    assert isinstance(model.OV, FactoredMatrix)
    close(composition_scores(model.OV[0], model.OV[1])[1, 2], scores[0, 1, 1, 2]) if mode == "V" else None
    with pytest.raises(InputError, match='"Q", "K" or "V"'):
        model.all_composition_scores("OV")


def test_singular_vectors_in_class_space():
    model = HookedViT.from_timm(build())
    interpreter = SVDInterpreter(model)
    vectors = interpreter.get_singular_vectors("OV", layer_index=1, head_index=2, num_vectors=3)
    _, _, V = torch.linalg.svd(model.W_V[1, 2] @ model.W_O[1, 2])
    expected = model.W_U.T @ V[:3].T
    close(vectors[:, 0].abs(), expected.abs())
    assert interpreter.get_singular_vectors("w_in", layer_index=0, num_vectors=2).shape == (10, 1, 2)
    assert interpreter.get_singular_vectors("w_out", layer_index=0, num_vectors=2).shape == (10, 1, 2)


def test_classes_stand_where_tokens_stood():
    model = HookedViT.from_timm(build(), class_names=list("abcdefghij"))
    close(model.tokens_to_residual_directions("c"), model.W_U[:, 2])
    close(model.tokens_to_residual_directions(["c", 4]), model.W_U[:, [2, 4]].T)
    assert model.to_single_token("d") == 3
    close(model.accumulated_bias(2), model.b_O[:2].sum(0) + model.b_out[:2].sum(0))
    with pytest.raises(InputError, match="classes 0 to 9"):
        model.tokens_to_residual_directions(12)
