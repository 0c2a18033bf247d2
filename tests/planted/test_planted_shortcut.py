"""The planted shortcut: the context decides until its head is removed, and then the object does, exactly."""

from functools import cache

import pytest
import torch
from interventions import margin, patches_of, picture_of, replaced, zeros

from vitlens import InputError
from vitlens.planted import planted

SEEDS = [seed if seed < 2 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(5)]
N = 32
every_build = pytest.mark.parametrize("seed", SEEDS)


@cache
def run(seed):
    """The model, its pictures in groups, and what it computed."""
    vit = planted("shortcut", seed=seed, dtype=torch.float64)
    pictures = vit.pictures(N, seed=seed + 100).grouped()
    with torch.no_grad():
        return vit, pictures, *vit.model.run_with_cache(pictures.images, names_filter="z")


def accuracy(logits, pictures, group):
    chosen = torch.tensor([each == group for each in pictures.groups])
    return (logits.argmax(dim=1) == pictures.labels)[chosen].double().mean().item()


# ---- the pictures ------------------------------------------------------------------------------------------------


def test_a_pair_is_one_object_in_two_contexts():
    vit, pictures, *_ = run(0)
    pairs = vit.pictures(N, seed=100)
    agree = torch.tensor([group == "agreeing" for group in pictures.groups])
    assert torch.equal(agree, pictures.contexts == pictures.labels)
    assert pictures.groups[::2] == ("agreeing",) * N
    assert pictures.groups[1::2] == ("conflicting",) * N
    assert torch.equal(pictures.images[::2], pairs.images)
    assert torch.equal(pictures.images[1::2], pairs.corrupted)
    for of_both in (pictures.labels, pictures.masks):
        assert torch.equal(of_both[::2], of_both[1::2])
    differ = (patches_of(pairs.images) != patches_of(pairs.corrupted)).flatten(2).any(dim=2)
    assert (differ.sum(dim=1) == 3).all()
    assert torch.equal(differ | pairs.objects, pairs.patches)
    assert not (differ & pairs.objects).any()
    inside = patches_of(pictures.masks[::2, None])
    assert torch.equal(inside.flatten(2).any(dim=2), pairs.objects)
    assert torch.equal(inside.flatten(2).all(dim=2), pairs.objects)
    more = vit.pictures(128).grouped()
    every_class_in_every_context = {(label, context) for label in range(4) for context in range(4)}
    assert {*zip(more.labels.tolist(), more.contexts.tolist(), strict=True)} == every_class_in_every_context


def test_other_models_have_no_groups_and_nothing_to_repair():
    vit = planted("evidence_copying")
    assert not vit.truth.shortcuts | vit.truth.register_neurons
    with pytest.raises(InputError, match=r'planted\("shortcut"\)'):
        vit.pictures(2).grouped()
    ours, theirs = vit.model.state_dict(), vit.repaired().state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


# ---- the model ---------------------------------------------------------------------------------------------------


@every_build
def test_the_context_decides_until_the_shortcut_is_removed(seed):
    vit, pictures, logits, cached = run(seed)
    assert accuracy(logits, pictures, "agreeing") == 1
    assert accuracy(logits, pictures, "conflicting") == 0
    assert margin(logits, pictures.contexts).min() > 5
    without = replaced(vit, pictures.images, zeros(cached), vit.truth.shortcuts)
    assert accuracy(without, pictures, "agreeing") == accuracy(without, pictures, "conflicting") == 1
    assert margin(without, pictures.labels).min() > 5


@every_build
def test_without_the_shortcut_the_model_is_that_built_without_it(seed):
    vit, pictures, logits, cached = run(seed)
    repaired = vit.repaired()
    with torch.no_grad():
        expected = repaired(pictures.images)
    without = replaced(vit, pictures.images, zeros(cached), vit.truth.shortcuts)
    torch.testing.assert_close(without, expected, rtol=1e-12, atol=1e-12)
    assert (logits - expected).abs().amax(dim=1).min() > 5
    # Of the weights, those of that head alone are gone.
    ((block, head),) = vit.truth.shortcuts
    for ours, theirs in zip(vit.model.blocks, repaired.blocks, strict=True):
        for name in ("W_Q", "W_K", "W_V", "W_O"):
            kept, gone = getattr(ours.attn, name), getattr(theirs.attn, name)
            same = [torch.equal(kept[i], gone[i]) for i in range(len(kept))]
            assert same == [(ours is not vit.model.blocks[block]) or i != head for i in range(len(kept))]
        assert torch.equal(ours.mlp.W_in, theirs.mlp.W_in)
        assert torch.equal(ours.mlp.W_out, theirs.mlp.W_out)
    assert not repaired.blocks[block].attn.W_O[head].any()


@every_build
def test_no_other_head_repairs_it(seed):
    """Without an idle head nothing changes, without the object's head the context has no rival left."""
    vit, pictures, logits, cached = run(seed)
    usual = margin(logits, pictures.contexts)
    ((block, head),) = vit.truth.shortcuts
    for other in {(b, h) for b in range(4) for h in range(4)} - {(block, head)}:
        without = replaced(vit, pictures.images, zeros(cached), {other})
        assert accuracy(without, pictures, "agreeing") == 1
        assert accuracy(without, pictures, "conflicting") == 0
        change = (margin(without, pictures.contexts) - usual).abs()
        if other in vit.truth.heads:
            assert change.min() > 4
        else:
            assert 0 < change.mean() < 0.02 * usual.mean()


@every_build
def test_the_two_heads_decide_together(seed):
    """Without both no class stands out; each reads its own patches, and no other."""
    vit, pictures, logits, cached = run(seed)
    neither = margin(replaced(vit, pictures.images, zeros(cached), vit.truth.heads), pictures.labels)
    assert neither.abs().mean() < 0.05 * margin(logits, pictures.contexts).mean()
    pairs = vit.pictures(N, seed=seed + 100)
    context = (pairs.patches & ~pairs.objects)[..., None, None, None]
    patches = patches_of(pairs.corrupted)
    with torch.no_grad():
        plain_context = vit.model(picture_of(patches.masked_fill(context, 0)))
        plain_object = vit.repaired()(picture_of(patches.masked_fill(pairs.objects[..., None, None, None], 0)))
    assert (plain_context.argmax(dim=1) == pairs.labels).all()
    assert margin(plain_object, pairs.labels).mean() < 1
