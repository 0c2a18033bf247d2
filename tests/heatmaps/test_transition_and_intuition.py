"""Transition attention and Beyond Intuition against whole matrices and whole backwards, one picture and level at a time."""

from functools import partial
from pathlib import Path

import pytest
import torch
from ported import build, on_each_property

from vitlens import HookedViT
from vitlens.errors import InputError
from vitlens.heatmaps.methods.beyond_intuition import beyond_intuition
from vitlens.heatmaps.methods.transition_attention import transition_attention
from vitlens.heatmaps.shared.reading import read_weights

ASSETS = Path(__file__).parents[3] / "shared" / "assets"
WEIGHTS = ASSETS / "vit_tiny_patch16_224_imagenet1k.safetensors"
METHODS = {
    "transition_attention": transition_attention,
    "token": partial(beyond_intuition, perception="token"),
    "head": partial(beyond_intuition, perception="head"),
}


def fail(activation, hook):
    raise ArithmeticError


def close(found, expected, tolerance=1e-9):
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def pools_by_attention(model):
    return model.cfg.pool == "map"


def pattern_names(model):
    names = [f"blocks.{block}.attn.hook_pattern" for block in range(model.cfg.n_layers)]
    return [*names, "pool.hook_pattern"] if pools_by_attention(model) else names


def gradients_of_patterns(model, image, wanted, scale_last=1.0):
    """∂y_c/∂A of every pattern by one backward of the whole run, the last pattern multiplied by a number."""
    names, patterns = pattern_names(model), []

    def keep(pattern, hook):
        if hook.name == names[-1]:
            pattern = pattern * scale_last
        patterns.append(pattern)
        return pattern

    with torch.enable_grad():
        logits = model.run_with_hooks(image.clone().requires_grad_(), fwd_hooks=[(name, keep) for name in names])
        return torch.autograd.grad(logits[0, wanted], patterns)


def whole_feedback(model, image, wanted, steps, path):
    """W over all rows of the last attention."""
    total = 0.0
    for step in range(steps):
        level = (step + 0.5) / steps
        run = (image * level, wanted) if path == "pictures" else (image, wanted, level)
        total = total + gradients_of_patterns(model, *run)[-1][0]
    return (total / steps).relu().mean(dim=0)


def widened(model, row, n_tokens):
    """The pool's own row, at all tokens."""
    wide = torch.zeros(1, n_tokens, dtype=row.dtype)
    wide[:, model.pool.tokens] = row
    return wide


def combined(model, states, feedback, cache):
    """The rows of states ∘ feedback, each as much as it is read; at the patches."""
    n_tokens = cache["resid_post", -1].shape[1]
    if pools_by_attention(model):
        weights, feedback = torch.ones(1, dtype=states.dtype), widened(model, feedback, n_tokens)
    else:
        weights = read_weights(model, cache["resid_post", -1])[0]
    return (weights @ (states * feedback))[model.cfg.n_prefix_tokens :]


def plain_transition(model, image, wanted, feedback, first_block=0):
    _, cache = model.run_with_cache(image)
    means = [cache[name][0].mean(dim=0) for name in pattern_names(model)]
    states = means.pop()
    if pools_by_attention(model):
        states = widened(model, states, means[0].shape[0])
    for mean in reversed(means[first_block:]):
        states = states @ mean + states
    return combined(model, states, feedback, cache)


def plain_matrices(model, image, wanted, level, cache):
    """Ā of every block, and of the pool."""
    found = []
    gradients = gradients_of_patterns(model, image, wanted)
    attentions = [block.attn for block in model.blocks] + ([model.pool] if pools_by_attention(model) else [])
    for index, (attn, name, gradient) in enumerate(zip(attentions, pattern_names(model), gradients, strict=True)):
        pattern = cache[name][0]
        if level == "head":
            importance = torch.stack([(a.T @ g).abs().mean() for a, g in zip(pattern, gradient[0], strict=True)])
            found.append(sum(share * a for share, a in zip(importance / importance.sum(), pattern, strict=True)))
            continue
        v = cache[name.replace("pattern", "v")][0]
        of_pool = attn is model.pool
        z = cache["resid_post", -1][0][model.pool.tokens] if of_pool else cache["resid_pre", index][0]
        written = sum(v[:, head] @ attn.W_O[head] for head in range(v.shape[1]))
        found.append(pattern.mean(dim=0) @ torch.diag(written.norm(dim=-1) / z.norm(dim=-1)))
    return found


def plain_intuition(model, image, wanted, feedback, level, first_block=0):
    _, cache = model.run_with_cache(image)
    matrices = plain_matrices(model, image, wanted, level, cache)
    n_tokens = cache["resid_post", -1].shape[1]
    last = widened(model, matrices.pop(), n_tokens) if pools_by_attention(model) else None
    perception = torch.eye(n_tokens, dtype=image.dtype)
    for matrix in matrices[first_block:]:
        perception = (matrix + torch.eye(n_tokens, dtype=image.dtype)) @ perception
    if last is not None:
        perception = last @ perception
    return combined(model, perception, feedback, cache)


PLAIN = {
    "transition_attention": plain_transition,
    "token": partial(plain_intuition, level="token"),
    "head": partial(plain_intuition, level="head"),
}


def check_all(model, images, steps, path, first_block=0):
    """Every method on every picture."""
    classes = torch.tensor([3, 7])[: len(images)]
    found = {
        name: method(model, images, classes, n_steps=steps, along=path, first_block=first_block)
        for name, method in METHODS.items()
    }
    for index, wanted in enumerate(classes.tolist()):
        image = images[index : index + 1]
        feedback = whole_feedback(model, image, wanted, steps, path)
        for name, plain in PLAIN.items():
            assert found[name][index].abs().max() > 1e-4
            close(found[name][index], plain(model, image, wanted, feedback, first_block=first_block).detach())


@on_each_property
def test_equal_to_whole_matrices_and_whole_backwards(classifier, images_of):
    check_all(classifier, images_of(classifier, 2), 2, "pictures")


SOME = ["class_token", "distilled", "average_with_class_token", "attention_pool", "maximum", "differential", "rotary"]


@pytest.mark.parametrize("name", SOME)
def test_the_attention_itself_can_be_scaled(name, images_of):
    model = build(name)
    check_all(model, images_of(model, 2), 3, "attention")


@pytest.mark.parametrize("name", SOME)
def test_the_first_blocks_can_be_left_out(name, images_of):
    model = build(name)
    images, last = images_of(model, 1), model.cfg.n_layers - 1
    for first_block in (1, last):
        check_all(model, images, 2, "pictures", first_block)
    for method in METHODS.values():
        maps = [method(model, images, torch.tensor([3]), n_steps=2, first_block=first) for first in (last, -1, 0)]
        assert torch.equal(maps[0], maps[1])
        assert (maps[0] - maps[2]).abs().max() > 1e-3


@pytest.mark.parametrize("path", ["pictures", "attention"])
@pytest.mark.parametrize("name", METHODS)
def test_chunks_and_batches_change_nothing(plain, images_of, name, path):
    images, classes = images_of(plain, 3), torch.tensor([0, 5, 2])
    method = partial(METHODS[name], plain, n_steps=5, along=path)
    together = method(images, classes)
    for batch_size in (1, 3, 5, 11):
        close(method(images, classes, batch_size=batch_size), together)
    for image in range(3):
        one = slice(image, image + 1)
        close(method(images[one], classes[one]), together[one])


@pytest.mark.parametrize("name", METHODS)
def test_the_integral_converges(plain, images_of, name):
    images, classes = images_of(plain, 2), torch.tensor([0, 5])
    fine = METHODS[name](plain, images, classes, n_steps=256, along="attention")
    errors = [
        (METHODS[name](plain, images, classes, n_steps=steps, along="attention") - fine).abs().max() / fine.abs().max()
        for steps in (4, 32)
    ]
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 20


def test_the_levels_differ_and_classes_matter(plain, images_of):
    images = images_of(plain, 1)
    maps = [method(plain, images, torch.tensor([3]), n_steps=2) for method in METHODS.values()]
    for first in range(3):
        for second in range(first):
            assert (maps[first] - maps[second]).abs().max() > 1e-3
    for method, found in zip(METHODS.values(), maps, strict=True):
        assert (method(plain, images, torch.tensor([4]), n_steps=2) - found).abs().max() > 1e-3


@pytest.mark.parametrize("path", ["pictures", "attention"])
@pytest.mark.parametrize("name", METHODS)
def test_no_traces_are_left(plain, images_of, name, path):
    images, classes = images_of(plain, 2), torch.tensor([0, 5])
    method = partial(METHODS[name], plain, images, n_steps=2, along=path)
    expected = method(classes)
    plain.requires_grad_(False)
    with torch.no_grad():
        found = method(classes)
    # Not to the last bit: kernels differ with and without gradients.
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert not found.requires_grad
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in plain.parameters())
    assert not plain.list_hooks()
    with plain.hooks(fwd_hooks=[("blocks.2.hook_mlp_out", fail)]), pytest.raises(ArithmeticError):
        method(classes)
    assert not plain.list_hooks()


@pytest.mark.parametrize("name", METHODS)
def test_what_is_refused(plain, headless, images_of, name):
    images, classes = images_of(plain, 1), torch.tensor([0])
    with pytest.raises(InputError, match="at least one step"):
        METHODS[name](plain, images, classes, n_steps=0)
    with pytest.raises(InputError, match="along one of pictures, attention"):
        METHODS[name](plain, images, classes, along="baseline")
    with pytest.raises(InputError, match="there is no block 3"):
        METHODS[name](plain, images, classes, first_block=3)
    with pytest.raises(InputError, match="perception is one of token, head"):
        beyond_intuition(plain, images, classes, perception="neuron")
    with pytest.raises(InputError, match="without a classifier"):
        METHODS[name](headless, images, classes)


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"no {WEIGHTS.name} in shared/assets")
@pytest.mark.parametrize("path", ["pictures", pytest.param("attention", marks=pytest.mark.slow)])
def test_the_dog_lies_above_the_cat(path):
    model = HookedViT.from_timm("vit_tiny_patch16_224", checkpoint_path=WEIGHTS)
    images = model.to_images([ASSETS / "photos" / "catdog.png"] * 2)
    classes = torch.tensor([model.class_index("bull mastiff"), model.class_index("tabby")])
    for name, method in METHODS.items():
        maps = method(model, images, classes, n_steps=4, along=path).unflatten(1, (14, 14))
        upper = maps[:, :7].sum(dim=(1, 2)) / maps.sum(dim=(1, 2))
        assert upper[0] > 0.55 > 0.5 > upper[1], name
