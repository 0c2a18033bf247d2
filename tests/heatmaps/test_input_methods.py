"""Methods that change pictures or patch tokens, or take gradients at pixels, against their formulas written out."""

import sys

import numpy as np
import pytest
import torch
from ported import on_each_property
from variants import build

from vitlens import HookedViT, InputError, activation_patching
from vitlens.data.counterfactuals import blurred
from vitlens.heatmaps.methods.baselines import centre_prior, random_map
from vitlens.heatmaps.methods.class_projection import class_projection
from vitlens.heatmaps.methods.input_gradients import integrated_gradients, integration_gap, smooth_grad
from vitlens.heatmaps.methods.occlusion import occlusion
from vitlens.heatmaps.methods.patching_effect import patching_effect
from vitlens.heatmaps.shared.pixels import sum_over_patches
from vitlens.parity.reduced import build_reduced

CLASSES = torch.tensor([1, 4])
METRICS = {
    "logit": lambda logits, classes: logits[torch.arange(len(classes)), classes],
    "probability": lambda logits, classes: logits.softmax(-1)[torch.arange(len(classes)), classes],
    "log_probability": lambda logits, classes: logits.log_softmax(-1)[torch.arange(len(classes)), classes],
}


def close(found, expected, tolerance=1e-9):
    assert not found.requires_grad
    least = tolerance * max(expected.abs().max().item(), 1e-3)
    torch.testing.assert_close(found, expected.detach(), rtol=tolerance, atol=least)


def patch_slices(model, images):
    """Where the pixels of every patch are."""
    (rows, columns), (height, width) = model.embed.grid(*images.shape[-2:]), model.cfg.patch_size
    return [
        (..., slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width))
        for row in range(rows)
        for column in range(columns)
    ]


def summed(model, pixels):
    """Summed over the pixels and channels of every patch, patch by patch."""
    return torch.stack([pixels[where].sum(dim=(1, 2, 3)) for where in patch_slices(model, pixels)], dim=1)


def empty(images, how):
    if how == "blur":
        return blurred(images)
    return torch.zeros_like(images) + (images.mean(dim=(2, 3), keepdim=True) if how == "mean" else 0)


def gradient(model, images, metric="logit"):
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(METRICS[metric](model(images), CLASSES[: len(images)]).sum(), images)[0]


# ---- class projection ----


def test_class_projection_equals_the_cache(classifier, images_of):
    images = images_of(classifier, 2)
    _, cache = classifier.run_with_cache(images)
    n_prefix, n_layers = classifier.cfg.n_prefix_tokens, classifier.cfg.n_layers
    sums = dict.fromkeys(("logit", "probability", "identifiability"), 0)
    for block in range(n_layers):
        resid = cache["resid_post", block]
        logits = classifier.project(resid, range(resid.shape[1]))[:, n_prefix:]
        chosen = torch.stack([logits[image, :, c] for image, c in enumerate(CLASSES)])
        ranks = logits.argsort(dim=-1, descending=True).argsort(dim=-1)
        expected = {
            "logit": chosen,
            "probability": torch.stack([logits.softmax(-1)[image, :, c] for image, c in enumerate(CLASSES)]),
            "identifiability": 1 - torch.stack([ranks[image, :, c] for image, c in enumerate(CLASSES)]) / 10,
        }
        for metric, values in expected.items():
            found = class_projection(classifier, images, CLASSES, block=block - n_layers, metric=metric)
            close(found, values.to(images.dtype), 1e-6 if metric == "identifiability" else 1e-9)
            sums[metric] = sums[metric] + found
    for metric, values in sums.items():
        close(class_projection(classifier, images, CLASSES, block=None, metric=metric), values)


def test_class_projection_says_what_the_whole_model_would(plain, images_of):
    # If the token that is read were the patch's, the model's answer would be its projection.
    images = images_of(plain, 2)
    resid = plain(images, stop_at_layer=3)
    for patch in range(9):
        swapped = resid.clone()
        swapped[:, 0] = resid[:, patch + 1]
        answer = METRICS["logit"](plain(swapped, start_at_layer=3), CLASSES)
        close(class_projection(plain, images, CLASSES)[:, patch], answer)


# ---- gradients at pixels ----


@pytest.mark.parametrize(
    ("replacement", "metric"), [("zero", "logit"), ("blur", "probability"), ("mean", "log_probability")]
)
def test_integrated_gradients_equal_the_rule_written_out(plain, images_of, replacement, metric):
    compare_integrated(plain, images_of(plain, 2), replacement, metric)


def compare_integrated(model, images, replacement, metric, steps=5):
    start = empty(images, replacement)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    # captum keeps the weights in single precision.
    exact, rounded = torch.from_numpy(weights / 2), torch.from_numpy(weights / 2).float().double()
    gradients = torch.stack(
        [gradient(model, start + (0.5 + float(node) / 2) * (images - start), metric) for node in nodes]
    )
    found = integrated_gradients(model, images, CLASSES, n_steps=steps, replacement=replacement, metric=metric)
    close(found, summed(model, torch.einsum("s,s...->...", rounded, gradients) * (images - start)))
    close(found, summed(model, torch.einsum("s,s...->...", exact, gradients) * (images - start)), 1e-6)
    # However few rows share a forward.
    again = integrated_gradients(
        model, images, CLASSES, n_steps=steps, replacement=replacement, metric=metric, batch_size=steps - 1
    )
    close(again, found)


@pytest.mark.parametrize(("replacement", "metric"), [("zero", "logit"), ("blur", "logit"), ("mean", "probability")])
def test_integrated_gradients_are_complete(plain, images_of, replacement, metric):
    images = images_of(plain, 2)
    options = {"replacement": replacement, "metric": metric}
    ends = [METRICS[metric](plain(picture), CLASSES) for picture in (images, empty(images, replacement))]
    difference = (ends[0] - ends[1]).detach()
    gaps = []
    for steps in (2, 256):
        found = integrated_gradients(plain, images, CLASSES, n_steps=steps, batch_size=300, **options)
        gap = integration_gap(plain, images, CLASSES, found, **options)
        close(gap, found.sum(dim=1) - difference)
        gaps.append((gap / difference).abs().max())
    # Single precision of captum's weights bounds the second.
    assert gaps[1] < 1e-6
    assert gaps[1] < 1e-3 * gaps[0]


def smooth_by_hand(model, images, n, noise):
    """One noisy copy after the other; the noise as captum draws it, in single precision, at once for all copies."""
    found = []
    for picture, chosen in zip(images, CLASSES, strict=False):
        generator = torch.Generator().manual_seed(0)
        spread = noise * (picture.max() - picture.min())
        drawn = torch.randn(n, *picture.shape, generator=generator) * spread.float()
        total = 0
        for one in drawn:
            noisy = (picture + one)[None].requires_grad_()
            total = total + torch.autograd.grad(model(noisy)[0, chosen], noisy)[0].abs()
        found.append(total / n)
    return summed(model, torch.cat(found))


@pytest.mark.parametrize(("n", "noise", "batch_size"), [(4, 0.15, 64), (5, 0.3, 2), (3, 0.1, 3)])
def test_smooth_grad_equals_noisy_copies_one_by_one(plain, images_of, n, noise, batch_size):
    images = images_of(plain, 2)
    found = smooth_grad(plain, images, CLASSES, n_draws=n, noise=noise, batch_size=batch_size)
    close(found, smooth_by_hand(plain, images, n, noise))
    assert not torch.equal(smooth_grad(plain, images, CLASSES, n_draws=n, noise=noise, seed=1), found)


@on_each_property
def test_gradients_at_pixels_of_every_variant(classifier, images_of):
    images = images_of(classifier, 2)
    compare_integrated(classifier, images, "zero", "logit", steps=3)
    close(smooth_grad(classifier, images, CLASSES, n_draws=2), smooth_by_hand(classifier, images, 2, 0.15))
    plain_gradient = summed(classifier, gradient(classifier, images).abs())
    close(smooth_grad(classifier, images, CLASSES, n_draws=1, noise=0.0), plain_gradient)


def test_smooth_grad_leaves_the_random_state(plain, images_of):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    smooth_grad(plain, images_of(plain, 1), CLASSES[:1], n_draws=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", [integrated_gradients, smooth_grad])
def test_without_captum(plain, images_of, method, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(InputError, match="pip install captum"):
        method(plain, images_of(plain, 2), CLASSES)


# ---- occlusion ----


def occluded_by_hand(model, images, replacement, window, metric):
    """Every window in its own forward; every patch the mean over the windows that cover it."""
    (rows, columns), (height, width) = model.embed.grid(*images.shape[-2:]), model.cfg.patch_size
    whole = METRICS[metric](model(images), CLASSES)
    total, covering = torch.zeros(2, rows, columns, dtype=images.dtype), torch.zeros(rows, columns)
    stream = model(images, stop_at_layer=0)
    for top in range(rows - window + 1):
        for left in range(columns - window + 1):
            square = (..., slice(top, top + window), slice(left, left + window))
            if replacement == "remove":
                keep = torch.ones(2, rows, columns, dtype=torch.bool)
                keep[square] = False
                logits = model.forward_kept(stream, keep.flatten(1), (rows, columns)).logits
            else:
                hidden = images.clone()
                pixels = (
                    ...,
                    slice(top * height, (top + window) * height),
                    slice(left * width, (left + window) * width),
                )
                hidden[pixels] = empty(images, replacement)[pixels]
                logits = model(hidden)
            total[square] += (whole - METRICS[metric](logits, CLASSES))[:, None, None].detach()
            covering[square] += 1
    return (total / covering).flatten(1)


@pytest.mark.parametrize("replacement", ["mean", "zero", "blur", "remove"])
@pytest.mark.parametrize(("window", "metric", "batch_size"), [(1, "probability", 7), (2, "logit", 64)])
def test_occlusion_equals_a_loop(plain, images_of, replacement, window, metric, batch_size):
    images = images_of(plain, 2)
    found = occlusion(
        plain, images, CLASSES, replacement=replacement, window=window, metric=metric, batch_size=batch_size
    )
    close(found, occluded_by_hand(plain, images, replacement, window, metric))


@on_each_property
def test_occlusion_and_patching_of_every_variant(classifier, images_of):
    images = images_of(classifier, 2)
    patched = patched_by_hand(classifier, images, blurred(images), 0, "logit")
    assert patched.abs().max() > 1e-6
    close(patching_effect(classifier, images, CLASSES), patched)
    for replacement in ("mean", "remove"):
        found = occlusion(classifier, images, CLASSES, replacement=replacement, window=2, batch_size=5)
        close(found, occluded_by_hand(classifier, images, replacement, 2, "probability"))


def test_occlusion_holds_no_more_rows_than_asked(plain, images_of):
    rows = []
    plain.add_hook("hook_embed", lambda value, hook: rows.append(len(value)))
    occlusion(plain, images_of(plain, 2), CLASSES, batch_size=4)
    plain.reset_hooks()
    assert rows == [4, 4, 4, 4, 2, 2]


# ---- patching effect ----


def patched_by_hand(model, images, others, block, metric):
    """One whole run for each patch."""
    name = f"blocks.{block % model.cfg.n_layers}.hook_resid_pre"
    source = model.run_with_cache(others, names_filter=[name])[1][name]
    whole, found = METRICS[metric](model(images), CLASSES), []
    for token in range(model.cfg.n_prefix_tokens, source.shape[1]):

        def write(value, hook, token=token):
            value = value.clone()
            value[:, token] = source[:, token]
            return value

        logits = model.run_with_hooks(images, fwd_hooks=[(name, write)])
        found.append(whole - METRICS[metric](logits, CLASSES))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize(
    ("block", "replacement", "metric"), [(1, "mean", "probability"), (-1, "zero", "log_probability")]
)
def test_patching_effect_at_other_blocks(plain, images_of, block, replacement, metric):
    images = images_of(plain, 2)
    found = patching_effect(plain, images, CLASSES, block=block, replacement=replacement, metric=metric, batch_size=3)
    close(found, patched_by_hand(plain, images, empty(images, replacement), block, metric))


def test_patching_effect_with_given_pictures(plain, images_of):
    images, others = images_of(plain, 2), images_of(plain, 2, seed=9)
    found = patching_effect(plain, images, CLASSES, replacement=others)
    close(found, patched_by_hand(plain, images, others, 0, "logit"))
    for one in (others[0], others[:1]):
        found = patching_effect(plain, images, CLASSES, replacement=one)
        close(found, patched_by_hand(plain, images, others[:1].expand(2, -1, -1, -1), 0, "logit"))
    public = activation_patching(
        plain, images, others, metric="logit", blocks=0, direction="noise", classes=CLASSES, progress=False
    )
    close(patching_effect(plain, images, CLASSES, replacement=others), -public.shift()[0, 1:].T)
    # A picture that is its own corruption has no effect; it is no error either.
    close(patching_effect(plain, images, CLASSES, replacement=images), torch.zeros(2, 9, dtype=images.dtype))


# ---- baselines ----


def test_a_random_map_knows_its_picture_only(headless, images_of):
    images = images_of(headless, 5)
    together = random_map(headless, images)
    assert together.shape == (5, 9)
    assert ((together.sort(dim=1).values * 8).round() == torch.arange(9)).all()
    for order in ([3], [4, 0], [2, 2]):
        assert torch.equal(random_map(headless, images[order]), together[order])
    assert torch.equal(random_map(headless, images.float()), random_map(headless, images.float().double()).float())
    assert len({tuple(row.tolist()) for row in together}) == 5
    assert not torch.equal(random_map(headless, images, seed=1), together)


@pytest.mark.parametrize(
    ("size", "patch"), [((48, 48), (16, 16)), ((32, 64), (16, 16)), ((48, 48), (12, 24)), ((64, 64), (16, 16))]
)
def test_the_centre_prior_is_symmetric(size, patch):
    model = HookedViT.from_timm(build(img_size=size, patch_size=patch))
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    found = centre_prior(model, images)
    grid = found.unflatten(1, model.cfg.grid_size)
    assert torch.equal(grid, grid.flip(1))
    assert torch.equal(grid, grid.flip(2))
    assert torch.equal(found[0], found[1])
    by_hand = [
        -((((row + 0.5) * patch[0] - size[0] / 2) ** 2 + ((column + 0.5) * patch[1] - size[1] / 2) ** 2) ** 0.5)
        for row in range(grid.shape[1])
        for column in range(grid.shape[2])
    ]
    close(found[0] * (size[0] ** 2 + size[1] ** 2) ** 0.5 / 2, torch.tensor(by_hand, dtype=torch.float64))
    assert -1 < found.min() < found.max() <= 0


# ---- all of them ----

METHODS = {
    "class projection": class_projection,
    "identifiability": lambda *args: class_projection(*args, block=None, metric="identifiability"),
    "integrated gradients": lambda *args: integrated_gradients(*args, n_steps=3),
    "smooth grad": lambda *args: smooth_grad(*args, n_draws=2),
    "occlusion": lambda *args: occlusion(*args, window=2, batch_size=5),
    "patching effect": patching_effect,
    "random": lambda model, images, classes: random_map(model, images),
    "centre": lambda model, images, classes: centre_prior(model, images),
}


@on_each_property
def test_pictures_do_not_meet_and_nothing_is_left_behind(classifier, images_of):
    images = images_of(classifier, 2)
    rows, columns = classifier.embed.grid(*images.shape[-2:])
    for method in METHODS.values():
        with torch.no_grad():
            together = method(classifier, images, CLASSES)
        assert together.shape == (2, rows * columns)
        assert together.dtype == images.dtype
        assert not together.requires_grad
        close(together[1:], method(classifier, images[1:], CLASSES[1:]))
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert images.grad is None
    assert not images.requires_grad
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in classifier.modules())


@pytest.mark.parametrize("method", list(METHODS))
def test_parameters_that_ask_for_no_gradient(plain, images_of, method):
    images = images_of(plain, 2)
    expected = METHODS[method](plain, images, CLASSES)
    plain.requires_grad_(False)
    close(METHODS[method](plain, images, CLASSES), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(plain, images_of, dtype):
    images = images_of(plain, 2)
    exact = {name: method(plain, images, CLASSES) for name, method in METHODS.items()}
    model = plain.to(dtype)
    for name, method in METHODS.items():
        rounded = method(model, images.to(dtype), CLASSES)
        assert rounded.dtype == dtype
        # Other pixels are another picture, with random numbers of its own.
        if name != "random":
            tolerance = 1e-3 if dtype == torch.float32 else 0.5
            assert (rounded.double() - exact[name]).norm() < tolerance * exact[name].norm(), name


@pytest.mark.parametrize("name", ["dynamic", "padded", "rotary"])
def test_pictures_of_other_sizes(name):
    keywords = {"dynamic_img_size": True, **({"dynamic_img_pad": True} if name == "padded" else {})}
    if name == "rotary":
        model = HookedViT.from_timm(build_reduced("vit_small_patch16_dinov3", dynamic_img_size=True))
        model.set_class_embeddings(torch.randn(10, model.cfg.d_model, dtype=torch.float64))
    else:
        model = HookedViT.from_timm(build(**keywords))
    size = (40, 72) if name == "padded" else (32, 64)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (rows, columns) = model.embed.grid(*size)
    assert rows * columns == (15 if name == "padded" else 8)
    # Slices that run over the picture's edge end there.
    close(sum_over_patches(model, images), summed(model, images))
    close(occlusion(model, images, CLASSES, batch_size=5), occluded_by_hand(model, images, "mean", 1, "probability"))
    close(occlusion(model, images, CLASSES, replacement="remove", window=2),
          occluded_by_hand(model, images, "remove", 2, "probability"))  # fmt: skip
    close(patching_effect(model, images, CLASSES), patched_by_hand(model, images, blurred(images), 0, "logit"))
    compare_integrated(model, images, "zero", "logit", steps=2)
    for method in METHODS.values():
        assert method(model, images, CLASSES).shape == (2, rows * columns)
    # From the middle of the picture, not of the grid, which sticks out of a padded one.
    middle = [
        (where.start + 8 - side / 2) for where, side in zip(patch_slices(model, images)[-1][1:], size, strict=True)
    ]
    nearness = -(np.hypot(*middle) / (np.hypot(*size) / 2))
    assert centre_prior(model, images)[0, -1].item() == pytest.approx(nearness)


def test_pixels_that_whole_patches_leave_over_count_for_none():
    model = HookedViT.from_timm(build(img_size=(40, 52)))
    images = torch.randn(2, 3, 40, 52, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert model.embed.grid(40, 52) == (2, 3)
    close(occlusion(model, images, CLASSES), occluded_by_hand(model, images, "mean", 1, "probability"))
    found = integrated_gradients(model, images, CLASSES, n_steps=64)
    assert integration_gap(model, images, CLASSES, found).abs().max() < 1e-5


def test_without_a_classifier(headless, images_of):
    images = images_of(headless, 2)
    assert centre_prior(headless, images).shape == (2, 9)
    for method in (class_projection, integrated_gradients, smooth_grad, occlusion, patching_effect):
        with pytest.raises(InputError, match="without a classifier"):
            method(headless, images, CLASSES)


def test_wrong_options(plain, images_of):
    images = images_of(plain, 2)
    for method, options, sentence in [
        (class_projection, {"block": 3}, "no block 3"),
        (class_projection, {"metric": "rank"}, "logit, probability, identifiability"),
        (integrated_gradients, {"replacement": "black"}, "zero, mean, blur"),
        (integrated_gradients, {"metric": "loss"}, "probability, log_probability, logit"),
        (integrated_gradients, {"n_steps": 0}, "at least one step"),
        (integrated_gradients, {"batch_size": 0}, "one row"),
        (smooth_grad, {"n_draws": 0}, "at least one noisy copy"),
        (smooth_grad, {"noise": -0.1}, "0 or more"),
        (occlusion, {"replacement": "black"}, "mean, blur, remove"),
        (occlusion, {"metric": "loss"}, "probability"),
        (occlusion, {"window": 4}, "1 to 3 patches"),
        (occlusion, {"window": 0}, "1 to 3 patches"),
        (occlusion, {"batch_size": 0}, "at least one row"),
        (patching_effect, {"block": 3}, "no block 3"),
        (patching_effect, {"replacement": "black"}, "zero, mean, blur"),
        (patching_effect, {"replacement": torch.zeros(3, 3, 48, 48, dtype=torch.float64)}, "do not pair up"),
        (patching_effect, {"metric": "loss"}, "probability"),
        (patching_effect, {"batch_size": 0}, "at least 1"),
    ]:
        with pytest.raises(InputError, match=sentence):
            method(plain, images, CLASSES, **options)
