"""Planted models decide as their truth says: by interventions made here with plain hooks, and by path patching."""

import doctest
from functools import cache, lru_cache

import pytest
import torch
from einops import einsum
from interventions import margin, patches_of, picture_of, replaced, zeros

from vitlens import HookedViT, InputError, path_patching
from vitlens.planted import PLANTED, PlantedViT, planted, planted_vit, recovery, sparse_code, words

SEEDS = range(5)
SOME_SEEDS = [seed if seed < 2 else pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS]
N = 64
BLOCKS, HEADS, NEURONS = 4, 4, 128


def each_of(names):
    """By model and not by test: what a model computed is kept for as long as its tests run."""
    return pytest.mark.parametrize(
        ("name", "seed"),
        [
            pytest.param(name, seed, marks=[pytest.mark.slow] if seed > 1 else [])
            for name in names for seed in SEEDS
        ],
        scope="module",
    )  # fmt: skip


every_model = each_of(PLANTED)
# Object and context say the same of a picture of "shortcut", and each would do: test_planted_shortcut.py takes both away.
without_a_spare = each_of([name for name in PLANTED if name != "shortcut"])


@cache
def build(name, seed):
    return planted(name, seed=seed)


@lru_cache(maxsize=1)
def run(name, seed):
    """The model, its pictures, and what it computed on both sides of the pairs."""
    vit = build(name, seed)
    pairs = vit.pictures(N, seed=seed + 100)
    with torch.no_grad():
        sides = (
            vit.model.run_with_cache(images, names_filter=["z", "post", "pattern", "resid_post", "mlp_out"])
            for images in (pairs.images, pairs.corrupted)
        )
        return vit, pairs, *sides


def components(vit):
    """All heads and all neurons."""
    return {(b, h) for b in range(BLOCKS) for h in range(HEADS)}, {
        (b, n) for b in range(BLOCKS) for n in range(NEURONS)
    }


def means(cached):
    return lambda name: cached[name].mean(dim=0, keepdim=True).expand_as(cached[name])


def of_others(cached):
    """The activations of other pictures."""
    return lambda name: cached[name].roll(7, dims=0)


# ---- what is promised to callers ---------------------------------------------------------------------------------


@every_model
def test_every_picture_and_partner_is_classified_with_a_clear_margin(name, seed):
    vit, pairs, (clean, _), (corrupted, _) = run(name, seed)
    assert isinstance(vit, PlantedViT)
    assert isinstance(vit.model, HookedViT)
    assert (pairs.labels != pairs.corrupted_labels).all()
    # The logits are 10 times the strength with which an answer was written.
    assert margin(clean, pairs.labels).min() > 5
    assert margin(corrupted, pairs.corrupted_labels).min() > 5


@pytest.mark.parametrize("name", PLANTED)
def test_a_seed_fixes_weights_and_pictures_and_leaves_the_global_generator_alone(name):
    before = torch.get_rng_state()
    one, same, other = planted(name, seed=1), planted(name, seed=1), planted(name, seed=2)
    pictures, again, more = one.pictures(8, seed=3), same.pictures(8, seed=3), one.pictures(8, seed=4)
    assert torch.equal(before, torch.get_rng_state())
    ours, theirs, others = (vit.model.state_dict() for vit in (one, same, other))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not torch.equal(ours["blocks.0.mlp.fc1.weight"], others["blocks.0.mlp.fc1.weight"])
    assert one.truth == same.truth
    assert torch.equal(pictures.images, again.images)
    assert torch.equal(pictures.corrupted, again.corrupted)
    assert not torch.equal(pictures.images, more.images)
    assert len({build(name, seed).truth.heads for seed in SEEDS}) > 2


@pytest.mark.parametrize("name", PLANTED)
def test_the_dtype_changes_nothing_but_precision(name):
    single, double = build(name, 0), planted(name, dtype=torch.float64)
    pictures, precise = single.pictures(16), double.pictures(16)
    assert pictures.images.dtype == single.model.dtype == torch.float32
    assert precise.images.dtype == double.model.dtype == torch.float64
    logits = double.model(precise.images)
    torch.testing.assert_close(single.model(pictures.images).double(), logits, rtol=0, atol=1e-2)


def test_a_few_pictures_can_be_drawn_and_none_cannot():
    vit = build("context_cue", 0)
    assert len(vit.pictures(1).images) == len(vit.pictures(1).changed) == 1
    with pytest.raises(InputError, match="ask for one or more"):
        vit.pictures(0)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="context_cue"):
        planted("context_clue")


@pytest.mark.parametrize("module", [planted_vit, recovery, sparse_code, words])
def test_examples_in_docstrings_run(module):
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


def test_fresh_weights_know_nothing():
    vit = build("evidence_copying", 0)
    pairs = vit.pictures(N)
    predicted = vit.model.with_fresh_weights()(pairs.images).argmax(dim=1)
    assert (predicted == pairs.labels).float().mean() < 0.6


# ---- the circuit -------------------------------------------------------------------------------------------------


@without_a_spare
def test_each_true_head_is_needed(name, seed):
    """Without it no class wins; with the partner's output the partner's class does."""
    vit, pairs, (clean, cached), (_, partner) = run(name, seed)
    usual = margin(clean, pairs.labels).mean()
    for head in vit.truth.heads - vit.truth.backups:
        together = {head} | vit.truth.backups
        for source in (zeros(cached), means(cached)):
            undecided = margin(replaced(vit, pairs.images, source, together), pairs.labels)
            assert undecided.mean() < 0.1 * usual
    everything = vit.truth.heads, vit.truth.neurons
    flipped = replaced(vit, pairs.images, partner.__getitem__, *everything)
    assert margin(flipped, pairs.corrupted_labels).min() > 0.4 * usual


@every_model
def test_nothing_outside_the_truth_is_needed(name, seed):
    """Every idle head and neuron at once, from the partners or from other pictures: each prediction stays."""
    vit, pairs, (clean, cached), (_, partner) = run(name, seed)
    all_heads, all_neurons = components(vit)
    idle = all_heads - vit.truth.heads, all_neurons - vit.truth.neurons
    usual = margin(clean, pairs.labels)
    for source in (partner.__getitem__, of_others(cached)):
        kept = margin(replaced(vit, pairs.images, source, *idle), pairs.labels)
        assert ((kept - usual).abs() < 0.1 * usual.mean()).all()


@every_model
def test_one_idle_component_moves_the_margin_by_less_than_2_percent(name, seed):
    """Never exactly nothing: LayerNorm's scale and the dust in the weights carry a little."""
    vit, pairs, (clean, cached), _ = run(name, seed)
    all_heads, all_neurons = components(vit)
    usual = margin(clean, pairs.labels)[:16]
    idle = [({head}, ()) for head in all_heads - vit.truth.heads]
    idle += [((), {place for place in all_neurons - vit.truth.neurons if place[0] == b}) for b in range(BLOCKS)]
    for heads, neurons in idle:
        kept = margin(replaced(vit, pairs.images[:16], zeros(cached), heads, neurons), pairs.labels[:16])
        share = (kept - usual).abs().mean() / usual.mean()
        assert 0 < share < 0.02


@every_model
def test_the_true_patches_carry_the_class(name, seed):
    """With the partner's true patches the partner's class wins; the other patches may change places among themselves."""
    vit, pairs, _, _ = run(name, seed)
    ours, theirs = patches_of(pairs.images), patches_of(pairs.corrupted)
    true = pairs.patches | pairs.corrupted_patches
    with torch.no_grad():
        flipped = vit.model(picture_of(torch.where(true[..., None, None, None], theirs, ours)))
        shuffled = ours.clone()
        generator = torch.Generator().manual_seed(seed)
        for image, free in enumerate(~true):
            places = free.nonzero()[:, 0]
            shuffled[image, places] = ours[image, places[torch.randperm(len(places), generator=generator)]]
        kept = vit.model(picture_of(shuffled))
    assert (flipped.argmax(dim=1) == pairs.corrupted_labels).all()
    assert (kept.argmax(dim=1) == pairs.labels).all()


@without_a_spare
def test_each_true_patch_is_needed(name, seed):
    """A true patch made plain grey takes the margin away; a backup cannot help either, for it reads the same patch."""
    vit, pairs, (clean, _), _ = run(name, seed)
    usual = margin(clean, pairs.labels).mean()
    for turn in range(int(pairs.patches[0].sum())):
        blank = patches_of(pairs.images)
        for image, true in enumerate(pairs.patches):
            blank[image, true.nonzero()[turn, 0]] = 0
        with torch.no_grad():
            assert margin(vit.model(picture_of(blank)), pairs.labels).mean() < 0.1 * usual


@pytest.mark.parametrize("name", PLANTED)
def test_the_true_edges_are_those_that_path_patching_finds(name):
    """Each true edge turns the class in its own kinds of pairs; every other edge moves the logits by next to nothing."""
    vit = build(name, 3)
    pairs = vit.pictures(4)
    result = path_patching(
        vit.model,
        pairs.images,
        pairs.corrupted,
        receivers=["L*H*<?>", "L* mlp", "logits"],
        direction="noise",
        progress=False,
    )
    effect = (result.shift() / result.gap()).abs()
    found = {
        f"{sender}->{receiver}": effect[i, j]
        for i, sender in enumerate(result.axes["sender"])
        for j, receiver in enumerate(result.axes["receiver"])
    }
    assert vit.truth.edges | vit.truth.backup_edges <= set(found)
    n_kinds = len(set(pairs.changed))
    for edge, effects in found.items():
        if edge in vit.truth.edges:
            assert effects.mean() > 0.9 / n_kinds
        else:
            assert effects.mean() < 0.01


# ---- what is special about each ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SOME_SEEDS)
def test_the_backup_repairs_a_missing_primary(seed):
    vit, pairs, (clean, cached), (_, partner) = run("backup_head", seed)
    usual = margin(clean, pairs.labels)
    primary, backup = vit.truth.heads - vit.truth.backups, vit.truth.backups
    for missing in (primary, backup):
        repaired = margin(replaced(vit, pairs.images, zeros(cached), missing), pairs.labels)
        assert ((repaired - usual).abs() < 0.1 * usual.mean()).all()
    # A wrong answer is an answer: the backup stays away, and its own output in the partner's run says nothing.
    wrong = replaced(vit, pairs.images, partner.__getitem__, primary)
    assert (wrong.argmax(dim=1) == pairs.corrupted_labels).all()
    silent = margin(replaced(vit, pairs.images, partner.__getitem__, backup), pairs.labels)
    assert ((silent - usual).abs() < 0.02 * usual.mean()).all()


@pytest.mark.parametrize("seed", SOME_SEEDS)
def test_one_attribute_alone_decides_nothing(seed):
    """Without shape or without colour no true neuron fires and no class stands out; all classes go with each attribute."""
    vit, pairs, (clean, cached), _ = run("conjunction_memory", seed)
    block = min(vit.truth.mlps)
    memory = [neuron for _, neuron in sorted(vit.truth.neurons)]
    assert len(memory) == 16
    fires = cached[f"blocks.{block}.mlp.hook_post"][:, 0, memory] > 1
    assert (fires.sum(dim=1) == 1).all()
    for head in vit.truth.heads:
        logits = replaced(vit, pairs.images, zeros(cached), {head})
        assert (logits.amax(dim=1) - logits.amin(dim=1)).max() < 0.15 * margin(clean, pairs.labels).mean()
    assert margin(replaced(vit, pairs.images, zeros(cached), (), vit.truth.neurons), pairs.labels).mean() < 0.5


@pytest.mark.parametrize("seed", SOME_SEEDS)
def test_the_large_token_draws_attention_and_has_no_effect(seed):
    vit, pairs, (clean, cached), _ = run("large_distractor", seed)
    (true_block, true_head), = vit.truth.heads  # fmt: skip
    stream = torch.stack([cached[f"blocks.{b}.hook_resid_post"] for b in range(BLOCKS)])
    norms = stream.norm(dim=-1)
    first = int((norms.amax(dim=-1) / norms.median(dim=-1).values > 10).all(dim=-1).nonzero()[0, 0])
    assert first < true_block
    large = norms[first].argmax(dim=-1)
    for block in range(first + 1, BLOCKS):
        pattern = cached[f"blocks.{block}.attn.hook_pattern"][:, :, 0]
        share = pattern.gather(2, large[:, None, None].expand(-1, HEADS, 1))[..., 0].mean(dim=0)
        for head in range(HEADS):
            assert share[head] < 0.01 if (block, head) == (true_block, true_head) else share[head] > 0.5

    def empty(x, hook):
        x = x.clone()
        x[torch.arange(N), large] = 0
        return x

    with torch.no_grad():
        without = vit.model.run_with_hooks(pairs.images, fwd_hooks=[(f"blocks.{first}.hook_resid_post", empty)])
    # What is left is what all idle heads together do when they all look elsewhere.
    usual, moved = margin(clean, pairs.labels).mean(), (without - clean).abs()
    assert moved.mean() < 0.01 * usual
    assert moved.max() < 0.05 * usual
    assert not (pairs.patches.gather(1, large[:, None] - 1)).any()


@pytest.mark.parametrize("seed", SOME_SEEDS)
def test_without_register_neurons_the_model_is_that_built_without_them(seed):
    vit = planted("large_distractor", seed=seed, dtype=torch.float64)
    images = vit.pictures(8, seed=seed).images
    neurons = vit.truth.register_neurons
    assert len(neurons) == 3
    assert not neurons & vit.truth.neurons
    with torch.no_grad():
        usual, cached = vit.model.run_with_cache(images, names_filter=["post", "resid_post"])
        repaired, kept = vit.repaired().run_with_cache(images, names_filter="resid_post")
    ((block, _), *_) = neurons
    large, ordinary = (cache[f"blocks.{block}.hook_resid_post"].norm(dim=-1) for cache in (cached, kept))
    assert (large.amax(dim=1) / large.median(dim=1).values > 10).all()
    assert (ordinary.amax(dim=1) / ordinary.median(dim=1).values < 1.1).all()
    silenced = replaced(vit, images, zeros(cached), (), neurons)
    torch.testing.assert_close(silenced, repaired, rtol=1e-12, atol=1e-12)
    assert (usual - repaired).abs().max() > 1e-3
    for neuron in neurons:
        one_left = replaced(vit, images, zeros(cached), (), neurons - {neuron})
        assert (one_left - repaired).abs().max() > 1e-3


# ---- everything else is busy -------------------------------------------------------------------------------------


@every_model
def test_idle_components_are_as_busy_as_the_circuit(name, seed):
    """They attend sharply, write vectors as long as the circuit's, and fire: only what they write goes unread."""
    vit, _, (_, cached), _ = run(name, seed)
    written, sharpness = {}, {}
    for block in range(BLOCKS):
        z = cached[f"blocks.{block}.attn.hook_z"][:, 0]
        norms = einsum(z, vit.model.blocks[block].attn.W_O, "i h e, h e d -> i h d").norm(dim=-1).mean(dim=0)
        peaks = cached[f"blocks.{block}.attn.hook_pattern"][:, :, 0].amax(dim=-1).mean(dim=0)
        for head in range(HEADS):
            written[block, head], sharpness[block, head] = norms[head], peaks[head]
        assert (cached[f"blocks.{block}.mlp.hook_post"][:, 0] > 0.1).float().mean() > 0.05
        assert cached[f"blocks.{block}.hook_mlp_out"][:, 0].norm(dim=-1).mean() > 0.5
    of_circuit = torch.stack([written[head] for head in vit.truth.heads]).mean()
    for head in set(written) - vit.truth.heads:
        assert written[head] > 0.7 * of_circuit
        assert sharpness[head] > 0.7
