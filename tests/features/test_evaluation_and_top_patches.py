"""Measures equal their definitions computed at once; the strongest tokens are the strongest of all."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vitlens import InputError
from vitlens.features import SparseAutoencoder, Transcoder, evaluate_sae, top_patches, with_sae
from vitlens.features.dictionaries.nonlinearities import Relu
from vitlens.results.result import load_result
from vitlens.statistics import bootstrap

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture
def sae_of(weights_of):
    def make(width, **options):
        return SparseAutoencoder.from_arrays(**weights_of(width, **options), activation="topk", k=5)

    return make


def kl(clean, other):
    p = clean.softmax(dim=-1)
    return (p * (clean.log_softmax(dim=-1) - other.log_softmax(dim=-1))).sum(dim=-1).mean()


READERS = [
    "class_token",
    "distilled",
    "registers",
    "average_norm_before_pool",
    "maximum",
    "attention_pool",
    "post_norm",
]
READERS += ["parallel", "differential", "rotary_dynamic_size", "relative_shared", "any_size"]


@pytest.mark.parametrize("name", READERS)
def test_measures_are_their_definitions(variant, images_of, sae_of, name):
    classifier = variant(name)
    images, sae = images_of(classifier, 7), sae_of(classifier.cfg.d_model)
    with torch.no_grad():
        # These labels make the clean loss the least, so that there is something to recover.
        labels = classifier(images).argmax(dim=-1)
    result = evaluate_sae(
        classifier, images, hook=HOOK, sae=sae, labels=labels, metrics=["downstream"], baselines=[], batch_size=3,
        progress=False,
    )  # fmt: skip
    x = classifier.run_with_cache(images, names_filter=HOOK)[1][HOOK]
    rows = x.flatten(0, 1)
    features = sae.encode(rows)
    difference = rows - sae(rows)
    with torch.no_grad():
        clean = classifier(images)
        runs = {
            "sae": classifier.run_with_hooks(images, fwd_hooks=[(HOOK, lambda x, hook: sae(x))]),
            "zero": classifier.run_with_hooks(images, fwd_hooks=[(HOOK, lambda x, hook: x * 0)]),
            "mean": classifier.run_with_hooks(
                images, fwd_hooks=[(HOOK, lambda x, hook: rows.mean(dim=0).expand_as(x))]
            ),
        }
    expected = {
        "mse": difference.pow(2).mean(),
        "explained_variance": 1 - difference.pow(2).sum() / (rows - rows.mean(dim=0)).pow(2).sum(),
        "cosine": F.cosine_similarity(rows, sae(rows), dim=-1).mean(),
        "l0": (features != 0).double().sum(dim=-1).mean(),
        "dead_share": (features == 0).all(dim=0).double().mean(),
        "dense_share": ((features != 0).double().mean(dim=0) > 0.1).double().mean(),
        "loss_clean": F.cross_entropy(clean, labels),
        "accuracy_clean": (clean.argmax(dim=-1) == labels).double().mean(),
    }
    labelled = classifier.cfg.token_labels(classifier.embed.grid(*images.shape[-2:]))
    kinds = [label.split()[0] if label.kind == "prefix" else "patches" for label in labelled]
    for kind in set(kinds) if len(set(kinds)) > 1 else ():
        of_kind = x[:, [i for i, own in enumerate(kinds) if own == kind]].flatten(0, 1)
        left = (of_kind - sae(of_kind)).pow(2).sum() / (of_kind - of_kind.mean(dim=0)).pow(2).sum()
        expected[f"explained_variance_{'registers' if kind == 'register' else kind}"] = 1 - left
    for name, logits in runs.items():
        expected[f"kl_{name}"] = kl(clean, logits)
        expected[f"agreement_{name}"] = (clean.argmax(dim=-1) == logits.argmax(dim=-1)).double().mean()
        expected[f"loss_{name}"] = F.cross_entropy(logits, labels)
        expected[f"accuracy_{name}"] = (logits.argmax(dim=-1) == labels).double().mean()
    for name in ("zero", "mean"):
        each = F.cross_entropy(runs[name], labels, reduction="none") - F.cross_entropy(clean, labels, reduction="none")
        loss = expected[f"loss_{name}"]
        if bootstrap(each.numpy())[1] > 0:
            expected[f"loss_recovered_{name}"] = (loss - expected["loss_sae"]) / (loss - expected["loss_clean"])
        else:
            assert any(why.startswith(f"loss recovered from {name}") for why in result.left_out)
    assert set(expected) == set(result.axes["measure"])
    for name, value in expected.items():
        tolerance = 1e-6 if name.startswith("loss_recovered") else 1e-9
        assert result[name] == pytest.approx(float(value), rel=tolerance, abs=tolerance), name
    assert torch.allclose(result.density, (features != 0).double().mean(dim=0), atol=1e-12)
    assert torch.allclose(result.mean_activation, features.mean(dim=0), atol=1e-10)


def test_no_loss_is_recovered_where_none_is_lost(plain, images_of, sae_of):
    """Labels that the model knows nothing of: zeros and means answer as well as the model does."""
    images = images_of(plain, 8)
    with torch.no_grad():
        labels = plain(images).argmin(dim=-1)
    result = evaluate_sae(plain, images, hook=HOOK, sae=sae_of(32), labels=labels, baselines=[], progress=False)
    assert result["loss_mean"] < result["loss_clean"]
    assert not any(name.startswith("loss_recovered") for name in result.axes["measure"])
    assert sum("loss recovered from" in why for why in result.left_out) == 2


def test_explained_variance_does_not_cancel_far_from_zero(plain, images_of, weights_of):
    w = weights_of(32)
    far = 1e6
    shifted = {**w, "b_dec": w["b_dec"] + far}
    sae = SparseAutoencoder.from_arrays(**shifted, centred=True)
    plain.add_hook(HOOK, lambda x, hook: x + far)
    images = images_of(plain, 6)
    result = evaluate_sae(plain, images, hook=HOOK, sae=sae, metrics="reconstruction", batch_size=1, progress=False)
    rows = plain.run_with_cache(images, names_filter=HOOK)[1][HOOK].flatten(0, 1)
    expected = 1 - (rows - sae(rows)).pow(2).sum() / (rows - rows.mean(dim=0)).pow(2).sum()
    assert result["explained_variance"] == pytest.approx(float(expected), abs=1e-6)


def test_evaluation_of_some_tokens_of_heads_and_before_the_blocks(plain, images_of, sae_of):
    images = images_of(plain, 4)
    for hook, width in (("z1", 32), ("z1", 8), ("hook_embed", 32), ("hook_pooled", 32)):
        sae = sae_of(width)
        tokens = "all" if hook == "hook_pooled" else "patches"
        result = evaluate_sae(
            plain, images, hook=hook, sae=sae, tokens=tokens, baselines=[], batch_size=3, progress=False
        )
        with torch.no_grad():
            clean = plain(images)
            with with_sae(plain, hook, sae, tokens=tokens):
                expected = kl(clean, plain(images))
        assert result["kl_sae"] == pytest.approx(float(expected), abs=1e-9)
        assert result["l0"] <= 5
    with torch.no_grad():
        mean = plain.run_with_cache(images)[1]["z", 1][:, 1:].mean(dim=(0, 1, 2))
        replaced = lambda x, hook: torch.cat([x[:, :1], mean.expand_as(x[:, 1:])], dim=1)  # noqa: E731
        expected = kl(plain(images), plain.run_with_hooks(images, fwd_hooks=[("z1", replaced)]))
    result = evaluate_sae(plain, images, hook="z1", sae=sae_of(8), tokens="patches", baselines=[], progress=False)
    assert result["kl_mean"] == pytest.approx(float(expected), abs=1e-9)


def test_evaluation_of_a_transcoder_and_labels_from_a_loader(plain, images_of, weights_of):
    images, labels = images_of(plain, 5), torch.tensor([1, 2, 3, 4, 5])
    transcoder = Transcoder(**weights_of(32), activation=Relu())
    batches = [(images[:2], labels[:2]), (images[2:], labels[2:])]
    result = evaluate_sae(plain, batches, hook="resid_mid1", sae=transcoder, baselines=[], progress=False)
    cache = plain.run_with_cache(images)[1]
    difference = cache["mlp_out", 1] - transcoder(cache["resid_mid", 1])
    assert result["mse"] == pytest.approx(float(difference.pow(2).mean()), abs=1e-10)
    assert result["loss_clean"] == pytest.approx(float(F.cross_entropy(plain(images).detach(), labels)), abs=1e-10)
    with torch.no_grad():
        zero = plain.run_with_hooks(images, fwd_hooks=[("mlp_out1", lambda x, hook: x * 0)])
    assert result["loss_zero"] == pytest.approx(float(F.cross_entropy(zero, labels)), abs=1e-10)
    for wrong in (labels[:4], labels[:2]):
        with pytest.raises(InputError, match="labels"):
            evaluate_sae(plain, images, hook="resid_mid1", sae=transcoder, labels=wrong, batch_size=2, progress=False)


def test_evaluation_without_a_classifier_and_saved(headless, images_of, sae_of, tmp_path):
    result = evaluate_sae(headless, images_of(headless, 2), hook=HOOK, sae=sae_of(32), progress=False)
    assert result.axes["measure"][:3] == ["mse", "explained_variance", "explained_variance_class"]
    assert not [name for name in result.axes["measure"] if name.endswith("_sae")]
    assert any("no classifier" in why for why in result.left_out)
    with pytest.raises(InputError, match="not 'kl_sae'"):
        result["kl_sae"]
    result.save(tmp_path / "evaluation.safetensors")
    assert load_result(tmp_path / "evaluation.safetensors")["mse"] == result["mse"]
    with pytest.raises(InputError, match="no pictures"):
        evaluate_sae(headless, [], hook=HOOK, sae=sae_of(32), progress=False)


def test_top_patches_are_the_strongest_of_all(plain, images_of, sae_of):
    images, sae = images_of(plain, 9), sae_of(32)
    result = top_patches(plain, images, hook=HOOK, sae=sae, features=[3, 17, 0], k=4, batch_size=2, progress=False)
    features = sae.encode(plain.run_with_cache(images)[1]["resid_post", 1][:, 1:]).numpy()
    for row, feature in enumerate([3, 17, 0]):
        flat = features[..., feature].ravel()
        order = np.argsort(-flat, kind="stable")[:4]
        order = order[flat[order] > 0]
        n = len(order)
        assert np.allclose(result.values[row, :n], flat[order])
        assert result.images[row, :n].tolist() == (order // 9).tolist()
        assert result.tokens[row, :n].tolist() == (1 + order % 9).tolist()
        assert (result.images[row, n:] == -1).all()
        assert (result.values[row, n:] == 0).all()
        assert float(result.density[row]) == pytest.approx((flat > 0).mean())
        width = float(result.bin_width[row])
        edges = np.arange(result.counts.shape[1] + 1) * width
        assert np.array_equal(np.histogram(flat[flat > 0], edges)[0], result.counts[row].numpy())
        assert flat.max() > edges[len(edges) // 2 - 1], "the bins are as fine as they can be"
    assert result.axes["feature"] == [3, 17, 0]


def test_top_patches_do_not_depend_on_batches(plain, images_of, sae_of):
    images, sae = images_of(plain, 9), sae_of(32)
    results = [
        top_patches(plain, images, hook=HOOK, sae=sae, k=5, batch_size=size, progress=False) for size in (1, 4, 9)
    ]
    for other in results[1:]:
        assert other.axes == results[0].axes
        assert torch.allclose(other.values, results[0].values, atol=1e-12)
        for name in ("images", "tokens", "counts", "bin_width"):
            assert torch.equal(getattr(other, name), getattr(results[0], name)), name
    features = sae.encode(plain.run_with_cache(images)[1]["resid_post", 1][:, 1:]).sum(dim=(0, 1))
    assert results[0].axes["feature"] == features.argsort(descending=True)[:12].tolist()
    single = top_patches(plain, images, hook=HOOK, sae=sae, features=3, k=5, one_per_image=True, progress=False)
    of_picture = sae.encode(plain.run_with_cache(images)[1]["resid_post", 1][:, 1:])[..., 3].amax(dim=1)
    assert torch.allclose(single.values[0], of_picture.sort(descending=True).values[:5], atol=1e-12)
    found = single.images[0][single.images[0] >= 0].tolist()
    assert len(set(found)) == len(found) > 1


def test_places_and_saving_of_top_patches(variant, images_of, sae_of, tmp_path):
    model = variant("wide_picture")
    result = top_patches(model, images_of(model, 3), hook=HOOK, sae=sae_of(32), k=2, tokens="all", progress=False)
    feature = result.axes["feature"][0]
    token = int(result.tokens[0, 0])
    assert result.patch(feature, 0) == (None if token == 0 else ((token - 1) // 4, (token - 1) % 4))
    only = top_patches(
        model, images_of(model, 3), hook=HOOK, sae=sae_of(32), features=[feature], k=2, tokens="class", progress=False
    )
    assert only.patch(feature) is None
    result.save(tmp_path / "tops.safetensors")
    again = load_result(tmp_path / "tops.safetensors")
    assert again.patch(feature) == result.patch(feature)
    assert {"image", "token", "activation"} <= set(again.to_frame().columns)
    with pytest.raises(InputError, match="is not in this result"):
        only.patch(feature + 1)
    with pytest.raises(InputError, match="no feature 24"):
        top_patches(model, images_of(model, 3), hook=HOOK, sae=sae_of(32), features=[24], progress=False)
    with pytest.raises(InputError, match="empty"):
        top_patches(model, images_of(model, 3), hook=HOOK, sae=sae_of(32), features=[], progress=False)
    with pytest.raises(InputError, match="at least 1"):
        top_patches(model, images_of(model, 3), hook=HOOK, sae=sae_of(32), k=0, progress=False)
    with pytest.raises(InputError, match="no pictures"):
        top_patches(model, [], hook=HOOK, sae=sae_of(32), progress=False)


@pytest.mark.parametrize(
    "name", ["class_token", "distilled", "average_norm_before_pool", "rms_norm", "norm_after_token_pool"]
)
def test_promoted_classes_rank_as_the_linear_readout(variant, images_of, sae_of, name):
    """Adding a feature to the last stream moves the logits, the norms frozen, as `promoted` says, up to a factor."""
    classifier = variant(name)
    images, sae = images_of(classifier, 1), sae_of(classifier.cfg.d_model)
    last = classifier.cfg.n_layers - 1
    result = top_patches(
        classifier, images, hook=("resid_post", last), sae=sae, features=[2, 7], tokens="all", progress=False
    )
    final = classifier.run_with_cache(images)[1]["resid_post", last]
    every = torch.arange(classifier.W_U.shape[1])[None]
    for row, feature in enumerate([2, 7]):
        written = sae.W_dec[feature].expand_as(final)
        moved = sum(readout.choose(every).share(written) for readout in classifier.linear_readouts(final))[0]
        similarity = F.cosine_similarity(moved, result.promoted[row], dim=0)
        if classifier.is_distilled or (classifier.ln_final is not None and classifier.fc_norm is not None):
            assert similarity > 0.9
        else:
            assert similarity > 1 - 1e-9
    elsewhere = top_patches(
        classifier,
        images,
        hook="pattern1",
        sae=sae_of(_pattern_width(classifier, images)),
        tokens="all",
        progress=False,
    )
    assert elsewhere.promoted.shape[1] == 0


def _pattern_width(model, images):
    name = "blocks.1.attn.hook_pattern"
    pattern = model.run_with_cache(images, names_filter=name)[1][name]
    return pattern.shape[1] * pattern.shape[3]
