"""D4: a mask on the keys of every head, its limits, its gradient, and what its path integral sums to."""

import pytest
import torch

from vitlens import InputError, heatmap, load_demo
from vitlens.heatmaps.token_mask import TARGETS, completeness_gap, token_mask

CLASSES = torch.tensor([1, 4])


def parts_of(model, images):
    stream = model(images, stop_at_layer=0)
    return stream, model.embed.grid(*images.shape[-2:]), stream.shape[1] - model.cfg.n_prefix_tokens


def test_a_whole_mask_is_the_model(classifier, images_of):
    images = images_of(classifier, 2)
    stream, grid, n_patches = parts_of(classifier, images)
    whole = torch.ones(2, n_patches, dtype=images.dtype)
    torch.testing.assert_close(classifier.forward_masked(stream, whole, grid), classifier(images), rtol=1e-9, atol=1e-9)


def test_a_vanishing_mask_is_removal(classifier, images_of):
    images = images_of(classifier, 2)
    stream, grid, n_patches = parts_of(classifier, images)
    keep = torch.rand(2, n_patches, generator=torch.Generator().manual_seed(0)) > 0.5
    keep[:, 0] = True
    nearly = torch.where(keep, 1.0, 1e-200).to(images.dtype)
    torch.testing.assert_close(
        classifier.forward_masked(stream, nearly, grid),
        classifier.forward_kept(stream, keep, grid).logits,
        rtol=1e-9,
        atol=1e-9,
    )


def test_the_mask_weighs_every_pattern(plain, images_of):
    """A[q, j] ∝ m_j exp(s[q, j]), by hand at the hook of the pattern."""
    images = images_of(plain, 2)
    stream, grid, n_patches = parts_of(plain, images)
    mask = torch.rand(2, n_patches, generator=torch.Generator().manual_seed(1)).to(images.dtype) + 0.1

    def weigh(pattern, hook):
        weighed = pattern.clone()
        weighed[..., plain.cfg.n_prefix_tokens :] *= mask[:, None, None]
        return weighed / weighed.sum(dim=-1, keepdim=True)

    by_hand = plain.run_with_hooks(images, fwd_hooks=[("pattern", weigh)])
    torch.testing.assert_close(plain.forward_masked(stream, mask, grid), by_hand, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("target", list(TARGETS))
def test_it_is_the_integral_written_out(classifier, images_of, target):
    images = images_of(classifier, 2)
    stream, grid, n_patches = parts_of(classifier, images)
    steps, expected = 3, 0.0
    for step in range(steps):
        t = (step + 0.5) / steps
        mask = torch.full((2, n_patches), t**4, dtype=images.dtype, requires_grad=True)
        logits = classifier.forward_masked(stream.detach(), mask, grid)
        f = {
            "probability": logits.softmax(dim=-1),
            "log_probability": logits.log_softmax(dim=-1),
            "logit": logits,
        }[target][torch.arange(2), CLASSES]
        expected = expected + torch.autograd.grad(f.sum(), mask)[0] * 4 * t**3 / steps
    for batch_size in (1, 4, 64):
        found = token_mask(classifier, images, CLASSES, target=target, steps=steps, batch_size=batch_size)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        assert not found.requires_grad


def test_the_importances_become_complete(plain, images_of):
    """The midpoint rule's error falls with the square of the step."""
    images = images_of(plain, 2)
    gaps = []
    for steps in (16, 64, 256):
        importance = token_mask(plain, images, CLASSES, steps=steps)
        gaps.append(completeness_gap(plain, images, CLASSES, importance).abs().max().item())
    ends = [plain(images).softmax(dim=-1)[[0, 1], CLASSES]]
    stream, grid, n_patches = parts_of(plain, images)
    nothing = torch.zeros(2, n_patches, dtype=torch.bool)
    ends.append(plain.forward_kept(stream, nothing, grid).logits.softmax(dim=-1)[[0, 1], CLASSES])
    torch.testing.assert_close(importance.sum(dim=1), ends[0] - ends[1], rtol=0, atol=max(1e-3, 2 * gaps[2]))
    assert gaps[2] < gaps[1] / 4 < gaps[0] / 16


def test_the_demo_model_is_nearly_complete_and_says_by_how_much():
    model, images, labels, _ = load_demo()
    few = heatmap(model, images[:4], labels[:4], method="token_mask", steps=4)
    many = heatmap(model, images[:4], labels[:4], method="token_mask", steps=128)
    assert many.completeness_gap.abs().max() < 0.02 < few.completeness_gap.abs().max()
    gap = completeness_gap(model, images[:4], labels[:4], few.patches())
    torch.testing.assert_close(few.completeness_gap, gap)


def test_wrong_input(plain, images_of):
    images = images_of(plain, 2)
    with pytest.raises(InputError, match="one of probability, log_probability, logit, not 'odds'"):
        token_mask(plain, images, CLASSES, target="odds")
    with pytest.raises(InputError, match="at least one step, not 0"):
        token_mask(plain, images, CLASSES, steps=0)
    with pytest.raises(InputError, match="one entry per patch"):
        plain.forward_masked(plain(images, stop_at_layer=0), torch.ones(2, 3, dtype=images.dtype))
