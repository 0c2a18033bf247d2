"""Components of patches against scikit-learn, nearest patches and similarities against NumPy and planted truth."""

import numpy as np
import pytest
import torch
from outliers import BRIGHT, planted  # noqa: F401
from sklearn.decomposition import PCA
from variants import OTHERS, VARIANTS, pictures

from vitlens import HookedViT, InputError
from vitlens.choose import box, patch
from vitlens.similarity import nearest_patches, patch_pca, patch_similarity
from vitlens.similarity.moments import Moments

EVERY = {**VARIANTS, **OTHERS}
KINDS = ["registers", "average_without_class_token", "no_classifier", "attention_pool", "no_final_norm"]
QUIET = {"progress": False}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    model = HookedViT.from_timm(EVERY[request.param]())
    return model, pictures(model.cfg, 5)


@pytest.fixture(scope="module")
def any_size():
    model = HookedViT.from_timm(EVERY["dynamic_size"]())
    images = torch.randn(2, 3, 64, 48, dtype=model.dtype, generator=torch.Generator().manual_seed(1))
    return model, pictures(model.cfg, 2), images


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11 * np.abs(expected).max())


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def stay(vectors, expected):
    """scikit-learn's scores with the signs of ours, whose rule is checked by itself."""
    largest = expected.components_[np.arange(len(expected.components_)), np.abs(expected.components_).argmax(axis=1)]
    return expected.transform(vectors) * np.sign(largest), expected.components_ * np.sign(largest)[:, None]


@pytest.mark.parametrize("hook", [None, "k1"])
def test_components_are_those_of_scikit_learn(kind, hook):
    model, images = kind
    if hook is None:
        vectors = model.patch_features(images).detach().flatten(1, 2)
    else:
        _, cache = model.run_with_cache(images, names_filter=hook)
        vectors = cache["k", 1].flatten(2)[:, model.cfg.n_prefix_tokens :]
    vectors = vectors.numpy()
    flat = vectors.reshape(-1, vectors.shape[-1])
    expected = PCA(4, svd_solver="full").fit(flat)
    found = patch_pca(model, images, hook=hook, n_components=4, outlier_threshold=None, batch_size=2, **QUIET)
    scores, directions = stay(flat, expected)
    close(found.values.flatten(0, 1), scores)
    close(found.directions, directions)
    close(found.variance_shares, expected.explained_variance_ratio_)
    close(found.mean, expected.mean_)
    assert found.settings["n_patches"] == len(flat)


def test_a_large_mean_costs_no_digits():
    vectors = np.random.default_rng(0).normal(size=(60, 5)) * [5, 4, 3, 2, 1]
    moments = Moments()
    for part in np.split(vectors + 1e6, 6):
        moments.add(torch.from_numpy(part))
    directions, shares = moments.components(2)
    expected = PCA(2).fit(vectors)
    np.testing.assert_allclose(shares, expected.explained_variance_ratio_, rtol=1e-8)
    assert (directions.numpy() * expected.components_).sum(axis=1).__abs__() == pytest.approx(1, abs=1e-8)


def test_colours_have_one_scale_and_outliers_none(planted):  # noqa: F811
    model, images = planted
    found = patch_pca(model, images, **QUIET)
    places = torch.tensor(BRIGHT)
    outliers = torch.zeros(len(BRIGHT), 4, 4, dtype=torch.bool)
    outliers[range(len(BRIGHT)), places[:, 0], places[:, 1]] = True
    assert torch.equal(found.outliers.unflatten(1, (4, 4)), outliers)
    assert torch.equal(found.values.isnan().any(dim=-1), found.outliers)
    kept = model.patch_features(images).detach().flatten(1, 2)[~found.outliers].numpy()
    scores, _ = stay(kept, PCA(3, svd_solver="full").fit(kept))
    close(found.values[~found.outliers], scores)
    low, high = np.percentile(scores, [1, 99], axis=0)
    colours = found.colours()
    np.testing.assert_allclose(colours[~outliers], ((scores - low) / (high - low)).clip(0, 1), atol=1e-6)
    assert colours[outliers].isnan().all()
    assert "hatched" in found.plot().layout.title.subtitle.text
    assert not patch_pca(model, images, outlier_threshold=None, **QUIET).values.isnan().any()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_background_is_the_side_at_the_edges(any_size, sign):
    model, _, _ = any_size
    images = 0.1 * torch.randn(3, 3, 80, 64, dtype=model.dtype, generator=torch.Generator().manual_seed(2))
    images[:, :, 16:48, 16:48] += sign
    found = patch_pca(model, images, hook="hook_patch_embed", foreground=True, outlier_threshold=None, **QUIET)
    inside = torch.zeros(3, 5, 4, dtype=torch.bool)
    inside[:, 1:3, 1:3] = True
    assert torch.equal(~found.background.unflatten(1, (5, 4)), inside)
    _, cache = model.run_with_cache(images, names_filter="hook_patch_embed")
    kept = cache["hook_patch_embed"][inside.flatten(1)].numpy()
    close(found.values[~found.background], stay(kept, PCA(3, svd_solver="full").fit(kept))[0])
    assert "background" in found.plot().layout.title.subtitle.text


def test_shared_patches_are_found(any_size):
    model, _, _ = any_size
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(2, 3, 48, 48, dtype=model.dtype, generator=generator)
    order = torch.randperm(9, generator=generator)
    tiles = images.unfold(2, 16, 16).unfold(3, 16, 16).flatten(2, 3)[:, :, order]
    others = tiles.unflatten(2, (3, 3)).permute(0, 1, 2, 4, 3, 5).reshape(images.shape)
    found = nearest_patches(model, images, others=others, hook="hook_patch_embed", batch_size=1, **QUIET)
    assert torch.equal(found.nearest, order.argsort().expand(2, 9))
    assert torch.equal(found.nearest_back, order.expand(2, 9))
    assert found.mutual.all()
    torch.testing.assert_close(found.values, torch.ones_like(found.values))
    one, other, similarity = found.pairs(image=1, k=1)[0]
    assert order[3 * other[0] + other[1]] == 3 * one[0] + one[1]
    assert similarity == pytest.approx(1)


@pytest.mark.parametrize("method", ["cosine", "dot_product"])
def test_nearest_patches_and_similarities_by_numpy(any_size, method):
    model, images, others = any_size
    one, other = (model.patch_features(each).detach().flatten(1, 2).numpy() for each in (images, others))
    if method == "cosine":
        one, other = unit(one), unit(other)
    scores = one @ other.swapaxes(1, 2)
    found = nearest_patches(model, images, others=others, method=method, outlier_threshold=None, **QUIET)
    np.testing.assert_array_equal(found.nearest, scores.argmax(axis=2))
    np.testing.assert_array_equal(found.nearest_back, scores.argmax(axis=1))
    close(found.values, scores.max(axis=2))
    close(found.values_back, scores.max(axis=1))
    mutual = [[scores[i, :, scores[i, p].argmax()].argmax() == p for p in range(9)] for i in range(2)]
    np.testing.assert_array_equal(found.mutual, mutual)
    table = found.to_frame()
    assert (4 * 0 + 3 * table["nearest_row"] + table["nearest_column"]).tolist() == found.nearest.flatten().tolist()
    assert len(found.plot(k=3, spacing=1).data) == min(3, int(found.mutual[0].sum()))

    like = patch_similarity(model, images, others=others, queries=box(0, 1, 2, 1), method=method, **QUIET)
    close(like.values, scores[:, [1, 4]].mean(axis=1))
    assert like.maps().shape == (2, 4, 3)
    itself = patch_similarity(model, images, queries=patch(2, 0), method=method, batch_size=1, **QUIET)
    close(itself.values, (one @ one.swapaxes(1, 2))[:, 6])
    assert itself.settings["queries"] == "patch (2, 0)"
    assert len(like.plot().layout.shapes) == 2
    assert len(itself.plot().layout.shapes) == 2


def test_outliers_are_neither_compared_nor_found(planted):  # noqa: F811
    model, images = planted
    # Long vectors have the largest products with all that point their way.
    about = {"others": images.roll(1, 0), "hook": "resid_post1", "method": "dot_product", **QUIET}
    found = nearest_patches(model, images, **about)
    outliers = [4 * row + column for row, column in BRIGHT]
    everything = nearest_patches(model, images, outlier_threshold=None, **about)
    for image in range(3):
        assert (everything.nearest[image] == outliers[image - 1]).sum() > 1
        assert (everything.nearest_back[image] == outliers[image]).sum() > 1
    for image, outlier in enumerate(outliers):
        assert found.nearest[image, outlier] == found.nearest_back[(image + 1) % 3, outlier] == -1
        assert found.values[image, outlier].isnan()
        assert not (found.nearest[image] == outliers[image - 1]).any()
        assert not (found.nearest_back[image] == outlier).any()
        assert not found.mutual[image, outlier]
    like = patch_similarity(model, images, queries=patch(0, 0), **QUIET)
    assert like.outliers.nonzero()[:, 1].tolist() == outliers
    assert not like.values.isnan().any()


def test_the_class_token_of_the_final_tokens(kind):
    model, images = kind
    if not model.cfg.has_class_token:
        return
    stream = model(images, stop_at_layer=model.cfg.n_layers).detach()
    tokens = unit((stream if model.ln_final is None else model.ln_final(stream)).detach().numpy())
    expected = (tokens[:, model.cfg.n_prefix_tokens :] @ tokens[:, :1].swapaxes(1, 2))[..., 0]
    close(patch_similarity(model, images, queries="class", **QUIET).values, expected)


def test_wrong_input_has_one_sentence(any_size):
    model, images, others = any_size
    for wrong, sentence in [
        ({"hook": "hook_pooled"}, "has no vector for each patch"),
        ({"hook": ("scale", 1, "ln1")}, "one number for each patch"),
        ({"hook": "resid_post"}, "stands for 3 hook points"),
        ({"n_components": 18}, "differ in 17 directions"),
        ({"outlier_threshold": 1.0}, "above 1, or None"),
    ]:
        with pytest.raises(InputError, match=sentence):
            patch_pca(model, images, **wrong, **QUIET)
    with pytest.raises(InputError, match="differ in 0 directions"):
        patch_pca(model, torch.zeros_like(images), hook="hook_patch_embed", outlier_threshold=None, **QUIET)
    with pytest.raises(InputError, match="not known which side is the background"):
        patch_pca(model, torch.randn(1, 3, 32, 32, dtype=model.dtype), foreground=True, **QUIET)
    with pytest.raises(InputError, match="1 other pictures were given for 2 pictures"):
        nearest_patches(model, images, others=others[:1], **QUIET)
    with pytest.raises(InputError, match="cosine or dot_product"):
        nearest_patches(model, images, others=others, method="euclid", **QUIET)
    with pytest.raises(InputError, match="no vectors of prefix tokens"):
        patch_similarity(model, images, queries="class", hook="hook_patch_embed", **QUIET)
    with pytest.raises(InputError, match="colours need three components"):
        patch_pca(model, images, n_components=2, **QUIET).plot()
    assert patch_pca(model, images, n_components=2, **QUIET).plot("components").data
