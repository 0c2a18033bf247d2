"""D4: a mask on the keys of every head, its limits, its gradient, and what its path integral sums to."""

import math

import pytest
import torch

from vitlens import InputError, heatmap, load_demo
from vitlens.heatmaps.methods.token_mask import completeness_gap, path_points, token_mask
from vitlens.heatmaps.shared.explained import EXPLAINED
from vitlens.model.runs.kept_tokens import forward_masked
from vitlens.planted import PLANTED, planted

CLASSES = torch.tensor([1, 4])


def parts_of(model, images):
    stream = model(images, stop_at_layer=0)
    return stream, model.embed.grid(*images.shape[-2:]), stream.shape[1] - model.cfg.n_prefix_tokens


def test_a_whole_mask_is_the_model(classifier, images_of):
    images = images_of(classifier, 2)
    stream, grid, n_patches = parts_of(classifier, images)
    whole = torch.ones(2, n_patches, dtype=images.dtype)
    torch.testing.assert_close(
        forward_masked(classifier, stream, whole, grid), classifier(images), rtol=1e-9, atol=1e-9
    )


def test_a_vanishing_mask_is_removal(classifier, images_of):
    images = images_of(classifier, 2)
    stream, grid, n_patches = parts_of(classifier, images)
    keep = torch.rand(2, n_patches, generator=torch.Generator().manual_seed(0)) > 0.5
    keep[:, 0] = True
    nearly = torch.where(keep, 1.0, 1e-200).to(images.dtype)
    torch.testing.assert_close(
        forward_masked(classifier, stream, nearly, grid),
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
    torch.testing.assert_close(forward_masked(plain, stream, mask, grid), by_hand, rtol=1e-9, atol=1e-9)


def f_by_hand(model, stream, grid, masks, metric):
    logits = forward_masked(model, stream.detach(), masks, grid)
    return {
        "probability": logits.softmax(dim=-1),
        "log_probability": logits.log_softmax(dim=-1),
        "logit": logits,
    }[metric][torch.arange(2), CLASSES]


@pytest.mark.parametrize("metric", list(EXPLAINED))
def test_of_every_metric_it_is_the_integral_written_out(plain, images_of, metric):
    _check_against_the_integral(plain, images_of(plain, 2), metric, batch_sizes=(1, 4, 64))


def test_it_is_the_integral_written_out(classifier, images_of):
    _check_against_the_integral(classifier, images_of(classifier, 2), "probability", batch_sizes=(4,))


def _check_against_the_integral(classifier, images, metric, batch_sizes):
    stream, grid, n_patches = parts_of(classifier, images)
    logs = torch.linspace(math.log(1e-12), 0, 6, dtype=torch.float64)
    masks = [torch.full((2, n_patches), log.exp().item(), dtype=images.dtype) for log in logs]
    seen = torch.stack([f_by_hand(classifier, stream, grid, mask, metric) for mask in masks], dim=1).detach()
    points, widths = path_points(logs, seen, 3)
    expected = 0.0
    for step in range(3):
        mask = points[:, step, None].exp().expand(-1, n_patches).clone().requires_grad_()
        f = f_by_hand(classifier, stream, grid, mask, metric)
        expected = expected + torch.autograd.grad(f.sum(), mask)[0] * widths[:, step, None]
    for batch_size in batch_sizes:
        found = token_mask(classifier, images, CLASSES, metric=metric, n_steps=3, n_scanned=5, batch_size=batch_size)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9 * expected.abs().max().item())
        assert not found.requires_grad


def test_points_cover_the_path_and_follow_what_moves():
    logs = torch.linspace(math.log(1e-12), 0, 33, dtype=torch.float64)
    still, turning = torch.ones(1, 33, dtype=torch.float64), torch.sigmoid(4 * (logs + 15))[None]
    for seen in (still, turning):
        points, widths = path_points(logs, seen, 16)
        edges = [math.log(1e-12), *(points[0] + widths[0] / points[0].exp() / 2).tolist()]
        assert edges == pytest.approx(sorted(edges))
        assert edges[-1] == pytest.approx(0.0, abs=1e-9)
        assert (points[0] - widths[0] / points[0].exp() / 2).tolist() == pytest.approx(edges[:-1])
    # Where nothing moves, α^¼ is spread evenly; where something turns at e⁻¹⁵, half of the points lie there.
    quarters = (path_points(logs, still, 4)[0][0] / 4).exp()
    assert quarters[2:].tolist() == pytest.approx([0.625, 0.875], abs=0.02)
    near = (path_points(logs, turning, 16)[0][0] + 15).abs() < 2
    assert near.sum() >= 7


@pytest.mark.parametrize(("steps", "tolerance"), [(16, 0.15), (64, 0.03)])
def test_a_softmax_that_turns_sharply_is_seen(steps, tolerance):
    """∫ dα of a class that turns from 0 to 1 where a sharp softmax does, far below any point of an even rule."""
    logs = torch.linspace(math.log(1e-12), 0, 33, dtype=torch.float64)
    points, widths = path_points(logs, torch.sigmoid(logs + 15)[None], steps)
    share = torch.sigmoid(points + 15)
    # df/dα = σ'(log α + 15) / α
    found = (share * (1 - share) / points.exp() * widths).sum()
    assert found.item() == pytest.approx(1.0, abs=tolerance)


def test_the_importances_become_complete(plain, images_of):
    """The midpoint rule's error falls with the square of the step."""
    images = images_of(plain, 2)
    gaps = []
    for steps in (16, 64, 256):
        importance = token_mask(plain, images, CLASSES, n_steps=steps, n_scanned=64)
        gaps.append(completeness_gap(plain, images, CLASSES, importance).abs().max().item())
    ends = [plain(images).softmax(dim=-1)[[0, 1], CLASSES]]
    stream, grid, n_patches = parts_of(plain, images)
    nothing = torch.zeros(2, n_patches, dtype=torch.bool)
    ends.append(plain.forward_kept(stream, nothing, grid).logits.softmax(dim=-1)[[0, 1], CLASSES])
    torch.testing.assert_close(importance.sum(dim=1), ends[0] - ends[1], rtol=0, atol=max(1e-3, 2 * gaps[2]))
    assert gaps[2] < gaps[1] / 2 < gaps[0] / 4


def test_the_demo_model_is_nearly_complete_and_says_by_how_much():
    model, images, labels, _ = load_demo()
    images, labels = images[:2], labels[:2]
    few = heatmap(model, images, labels, method="token_mask", n_steps=2)
    usual = heatmap(model, images, labels, method="token_mask")
    assert usual.completeness_gap.abs().max() < 0.06 < few.completeness_gap.abs().max()
    gap = completeness_gap(model, images, labels, few.patches())
    torch.testing.assert_close(few.completeness_gap, gap)


@pytest.mark.parametrize("name", list(PLANTED))
def test_planted_evidence_is_found_whole(name):
    vit = planted(name, seed=0)
    pictures = vit.pictures(4, seed=7)
    found = heatmap(vit.model, pictures.images, pictures.labels, method="token_mask")
    assert found.completeness_gap.abs().max() < 0.2
    for importance, read in zip(found.patches(), pictures.patches, strict=True):
        assert importance[read].min() > importance[~read].max()


def test_wrong_input(plain, images_of):
    images = images_of(plain, 2)
    with pytest.raises(InputError, match="one of probability, log_probability, logit, not 'odds'"):
        token_mask(plain, images, CLASSES, metric="odds")
    with pytest.raises(InputError, match="at least one step, not 0"):
        token_mask(plain, images, CLASSES, n_steps=0)
    with pytest.raises(InputError, match="at least one interval"):
        token_mask(plain, images, CLASSES, n_scanned=0)
    with pytest.raises(InputError, match="one entry per patch"):
        forward_masked(plain, plain(images, stop_at_layer=0), torch.ones(2, 3, dtype=images.dtype))
