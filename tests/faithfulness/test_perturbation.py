"""Removal in order against a loop over pictures and steps, and the area under its curve."""

import numpy as np
import pytest
import torch
from ported import on_each_property
from variants import VARIANTS

from vitlens import HookedViT, InputError, heatmap
from vitlens.faithfulness.perturbation import area, perturbation_test, removal_steps
from vitlens.heatmaps.methods.baselines import random_importance


@on_each_property
def test_perturbation_equals_one_picture_and_step_at_a_time(classifier, images_of):
    images = images_of(classifier, 2)
    rows, columns = classifier.embed.grid(*images.shape[-2:])
    n_patches = rows * columns
    importance = random_importance([0, 1], n_patches, seed=3)
    labels = torch.tensor([2, 0])
    steps = removal_steps(n_patches, 5)
    result = perturbation_test(classifier, images, labels, importance=importance, n_steps=5)
    assert result.axes["removed"] == [step / n_patches for step in steps]
    with torch.no_grad():
        stream = classifier(images, stop_at_layer=0)
        for d, sign in enumerate((1, -1)):
            for i in range(2):
                order = (sign * importance[i]).argsort(stable=True)
                for s, step in enumerate(steps):
                    keep = torch.ones(1, n_patches, dtype=torch.bool)
                    keep[0, order[:step]] = False
                    logits = classifier.forward_kept(stream[i : i + 1], keep, (rows, columns)).logits
                    probability = logits.softmax(-1)[0, labels[i]]
                    torch.testing.assert_close(result.probabilities[d, i, s], probability, rtol=1e-9, atol=1e-12)
                    assert bool(result.values[d, i, s]) == bool(logits.argmax() == labels[i])
        torch.testing.assert_close(result.probabilities[0, :, 0], result.probabilities[1, :, 0])
        torch.testing.assert_close(result.probabilities[0, :, -1], result.probabilities[1, :, -1])
        whole = classifier(images).softmax(-1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(result.probabilities[0, :, 0], whole, rtol=1e-9, atol=1e-12)


def test_area_is_the_trapezoid_over_zero_to_one_and_as_published():
    curve = torch.tensor([0.8, 0.8, 0.4, 0.2, 0.0], dtype=torch.float64)
    removed = [0.0, 0.25, 0.5, 0.75, 1.0]
    assert area(curve, removed).item() == pytest.approx(0.25 * (0.4 + 0.8 + 0.4 + 0.2 + 0.0))
    assert area(curve, removed, paper_compat=True).item() == pytest.approx((0.8 + 0.4 + 0.2) / (0.8 * 4))
    assert area(torch.ones(50), list(np.linspace(0, 1, 50)), paper_compat=True).item() == pytest.approx(48 / 49)


def test_random_orders_are_the_pictures_own():
    alone, batch = random_importance([7], 9, seed=1), random_importance([3, 7], 9, seed=1)
    assert torch.equal(alone[0], batch[1])
    assert not torch.equal(batch[0], batch[1])
    shared = random_importance([3, 7], 9, seed=1, shared=True)
    assert torch.equal(shared[0], shared[1])


def test_wrong_perturbations(plain, images_of):
    images = images_of(plain, 1)
    for importance, options, sentence in [
        (torch.zeros(1, 5), {}, r"\[1, 9\]"),
        (torch.full((1, 9), float("nan")), {}, "NaN"),
        (torch.zeros(1, 9), {"perturbations": ["up"]}, "negative or positive"),
        (torch.zeros(1, 9), {"n_steps": 0}, "n_steps is a whole number of at least 1"),
        (torch.zeros(1, 9), {"n_steps": True}, "n_steps is a whole number"),
        (torch.zeros(1, 9), {"perturbations": []}, "at least one perturbation"),
        (torch.zeros(1, 9), {}, "the same for all patches"),
        (torch.zeros(9), {}, r"\[1, 9\] or \[1, 3, 3\], not \[9\]"),
        (torch.zeros(1, 1, 9), {}, r"not \[1, 1, 9\]"),
        (torch.full((1, 9), float("inf")), {}, "infinity"),
        (np.array([["a"]]), {}, "a tensor or an array of numbers"),
        (torch.arange(9.0)[None], {"classes": [1, 2]}, "one class per picture, not 2"),
    ]:
        with pytest.raises(InputError, match=sentence):
            perturbation_test(plain, images, importance=importance, **options)
    wide = HookedViT.from_timm(VARIANTS["wide_picture"]())
    pictures = images_of(wide, 1)
    order = torch.arange(8.0).reshape(1, 2, 4)
    assert perturbation_test(wide, pictures, importance=order).values.shape == (2, 1, 9)
    with pytest.raises(InputError, match=r"\[1, 2, 4\], not \[1, 4, 2\]"):
        perturbation_test(wide, pictures, importance=order.mT)
    one, both = (
        perturbation_test(wide, pictures, importance=order, perturbations=way)
        for way in ("positive", ("negative", "positive"))
    )
    assert torch.equal(one.probabilities[0], both.probabilities[1])
    with pytest.raises(InputError, match="at least one picture and one patch"):
        random_importance([], 9)


def test_pictures_are_run_so_many_at_a_time(plain, images_of):
    images, labels = images_of(plain, 5), torch.tensor([1, 0, 3, 2, 1])
    order = random_importance(range(5), 9)
    seen = []
    calls = [
        lambda **options: heatmap(plain, images, labels, method="projection_gradient", warn=False, **options),
        lambda **options: heatmap(plain, images, method="projection_gradient", warn=False, **options),
        lambda **options: heatmap(plain, images, labels, method="gradient_rollout", warn=False, **options),
        lambda **options: perturbation_test(plain, images, importance=order, **options),
        lambda **options: perturbation_test(plain, images, labels, importance=order.numpy(), n_steps=4, **options),
    ]
    for call in calls:
        together = call()
        with plain.hooks([("resid_pre", lambda x, hook: seen.append(len(x)))]):
            apart = call(batch_size=2)
        assert apart.axes == together.axes
        torch.testing.assert_close(apart.values, together.values, rtol=1e-9, atol=1e-12)
        if together.classes is not None:
            assert torch.equal(apart.classes, together.classes)
    assert max(seen) == 2
    with pytest.raises(InputError, match="one row of indices per picture"):
        heatmap(plain, images, labels[:2], method="gradient_rollout", batch_size=2)
