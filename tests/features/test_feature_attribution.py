"""Shares of features are what ablation, autograd and the frozen readout say, and all parts sum to the logit."""

import pytest
import torch

from vitlens import InputError
from vitlens.features import SparseAutoencoder, Transcoder, feature_attribution, with_sae
from vitlens.features.dictionaries.nonlinearities import Relu
from vitlens.results.result import load_result


@pytest.fixture
def sae_of(weights_of):
    def make(width, **options):
        return SparseAutoencoder.from_arrays(**weights_of(width), **{"activation": "topk", "k": 6, **options})

    return make


def test_direct_shares_at_the_last_stream_are_the_whole_logit(classifier, images_of, sae_of):
    images, sae = images_of(classifier, 3), sae_of(classifier.cfg.d_model)
    last = classifier.cfg.n_layers - 1
    result = feature_attribution(
        classifier, images, [1, 4], hook=("resid_post", last), sae=sae, method="direct", batch_size=2, progress=False
    )
    with torch.no_grad():
        logits = classifier(images)
        x = classifier.run_with_cache(images)[1]["resid_post", last]
        readouts = classifier.linear_readouts(x)
    features = sae.encode(x)
    chosen = torch.tensor([[1, 4]]).expand(3, -1)
    share = lambda written: sum(readout.choose(chosen).share(written) for readout in readouts)  # noqa: E731
    assert torch.allclose(result.logits, logits[:, [1, 4]], atol=1e-9)
    for feature in (0, 5, 20):
        expected = share(features[..., feature : feature + 1] * sae.W_dec[feature])
        assert torch.allclose(result.values[..., feature], expected, atol=1e-9)
    assert torch.allclose(result.error, share(x - sae(x)), atol=1e-9)
    assert torch.allclose(result.bias, share(sae.b_dec.expand_as(x)), atol=1e-9)
    whole = result.values.sum(dim=-1) + result.error + result.bias
    assert torch.allclose(whole, share(x), atol=1e-9)
    constant = sum(readout.choose(chosen).constant + sum(readout.choose(chosen).terms.values()) for readout in readouts)
    assert torch.allclose(result.rest, constant, atol=1e-9)


def test_gradient_shares_are_autograds(classifier, images_of, sae_of):
    images, sae = images_of(classifier, 3), sae_of(classifier.cfg.d_model)
    hook = "blocks.1.hook_resid_post"
    result = feature_attribution(classifier, images, "all", hook=hook, sae=sae, batch_size=2, progress=False)
    x = classifier.run_with_cache(images, names_filter=hook)[1][hook]
    features, error = sae.encode(x), x - sae(x)

    def logits_of(f):
        replaced = f @ sae.W_dec + sae.b_dec + error
        return classifier.run_with_hooks(images, fwd_hooks=[(hook, lambda x, hook: replaced)])

    for position in (0, 3):
        leaf = features.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(logits_of(leaf)[:, position].sum(), leaf)
        assert torch.allclose(result.values[:, position], (leaf * gradient).sum(dim=1), atol=1e-9)
    total = result.values.sum(dim=-1) + result.error + result.bias + result.rest
    assert torch.allclose(total, classifier(images), atol=1e-9)


@pytest.mark.parametrize("hook", ["z1", "post0", "hook_embed", "hook_pooled", "resid_mid2"])
@pytest.mark.parametrize("normalisation", ["none", "layer_norm"])
def test_gradients_at_other_hook_points_and_through_a_rows_own_scale(plain, images_of, weights_of, hook, normalisation):
    images = images_of(plain, 2)
    (x,) = plain.run_with_cache(images, names_filter=hook)[1].cache_dict.values()
    rows = x[:, None] if hook == "hook_pooled" else x.flatten(2)
    sae = SparseAutoencoder.from_arrays(**weights_of(rows.shape[-1]), normalisation=normalisation)
    result = feature_attribution(plain, images, [2], hook=hook, sae=sae, progress=False)
    features, error = sae.encode(rows), rows - sae(rows)
    leaf = features.clone().requires_grad_()
    replaced = (sae.decode(leaf, rows) + error).reshape(x.shape)
    logits = plain.run_with_hooks(images, fwd_hooks=[(hook, lambda x, hook: replaced)])
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), leaf)
    assert torch.allclose(result.values[:, 0], (leaf * gradient).sum(dim=1), atol=1e-9)
    nothing = torch.zeros_like(features).requires_grad_()
    base = sae.decode(nothing, rows).detach().requires_grad_()
    whole = base + (replaced.reshape(rows.shape) - base).detach()
    logits = plain.run_with_hooks(images, fwd_hooks=[(hook, lambda x, hook: whole.reshape(x.shape))])
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), base)
    assert torch.allclose(result.bias[:, 0], (base * gradient).sum(dim=(1, 2)), atol=1e-9)
    assert torch.allclose(result.error[:, 0], (error * gradient).sum(dim=(1, 2)), atol=1e-9)


@pytest.mark.parametrize(
    "name", ["class_token", "distilled", "average_with_registers", "attention_pool", "post_norm", "rotary", "gated"]
)
def test_integrated_shares_sum_to_what_removing_all_features_does(variant, images_of, sae_of, name):
    model = variant(name)
    images, sae = images_of(model, 2), sae_of(model.cfg.d_model)
    options = {"images": images, "classes": [2], "hook": ("resid_post", 1), "sae": sae, "progress": False}
    with torch.no_grad():
        clean = model(images)[:, 2]
        with with_sae(model, ("resid_post", 1), sae, error_term=True, edit=torch.zeros_like):
            effect = clean - model(images)[:, 2]

    def miss(**method):
        return (feature_attribution(model, **options, **method).values[:, 0].sum(dim=-1) - effect).abs().max()

    # The midpoint rule's error falls with the square of the number of steps.
    few, many = miss(method="integrated", n_steps=8), miss(method="integrated", n_steps=32)
    assert many < 1e-3 * effect.abs().max()
    assert many < few / 4
    assert miss() > 100 * many


def test_one_step_is_the_middle_of_the_way(plain, images_of, sae_of):
    images, sae = images_of(plain, 2), sae_of(32)
    result = feature_attribution(
        plain,
        images,
        [2],
        hook="resid_post0",
        sae=sae,
        method="integrated",
        n_steps=1,
        tokens="patches",
        progress=False,
    )
    x = plain.run_with_cache(images)[1]["resid_post", 0]
    features = sae.encode(x[:, 1:])
    leaf = (features / 2).requires_grad_()
    replaced = torch.cat([x[:, :1], leaf @ sae.W_dec + sae.b_dec + (x - sae(x))[:, 1:]], dim=1)
    logits = plain.run_with_hooks(images, fwd_hooks=[("resid_post0", lambda x, hook: replaced)])
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), leaf)
    assert torch.allclose(result.values[:, 0], (features * gradient).sum(dim=1), atol=1e-10)


def test_a_transcoders_features(plain, images_of, weights_of):
    images = images_of(plain, 2)
    transcoder = Transcoder(**weights_of(32), activation=Relu(), W_skip=weights_of(32, 32, seed=3)["W_enc"])
    result = feature_attribution(plain, images, [2], hook="resid_mid1", sae=transcoder, progress=False)
    cache = plain.run_with_cache(images)[1]
    x, y = cache["resid_mid", 1], cache["mlp_out", 1]
    features = transcoder.encode(x)
    leaf = features.clone().requires_grad_()
    replaced = transcoder.decode(leaf, x) + y - transcoder(x)
    logits = plain.run_with_hooks(images, fwd_hooks=[("mlp_out1", lambda x, hook: replaced)])
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), leaf)
    assert torch.allclose(result.values[:, 0], (leaf * gradient).sum(dim=1), atol=1e-10)
    direct = feature_attribution(plain, images, [2], hook="resid_mid1", sae=transcoder, method="direct", progress=False)
    (readout,) = plain.linear_readouts(cache["resid_post", 2])
    expected = readout.choose(torch.full((2, 1), 2)).share(features[..., 7:8] * transcoder.W_dec[7])
    assert torch.allclose(direct.values[..., 7], expected, atol=1e-10)


def test_classes_batches_and_traces(plain, images_of, sae_of, tmp_path):
    images, sae = images_of(plain, 5), sae_of(32)
    labels = torch.tensor([3, 1, 4, 1, 5])
    with torch.no_grad():
        result = feature_attribution(plain, images, labels, hook="resid_post1", sae=sae, batch_size=2, progress=False)
        alone = feature_attribution(plain, images[3:4], [1], hook="resid_post1", sae=sae, progress=False)
    assert torch.allclose(result.values[3], alone.values[0], atol=1e-10)
    assert result.classes.tolist() == [[3], [1], [4], [1], [5]]
    assert all(parameter.grad is None for parameter in plain.parameters())
    assert not any(point.fwd_hooks for point in plain.hook_dict.values())
    top = result.top(3, image=3)
    order = result.values[3, 0].abs().argsort(descending=True)[:3]
    assert top["feature"].tolist() == order.tolist()
    assert top["logit"].tolist() == pytest.approx(result.values[3, 0][order].tolist())
    predicted = feature_attribution(plain, images, None, hook="resid_post1", sae=sae, progress=False)
    assert predicted.classes[:, 0].tolist() == plain(images).argmax(dim=-1).tolist()
    result.save(tmp_path / "attribution.safetensors")
    assert torch.equal(load_result(tmp_path / "attribution.safetensors").rest, result.rest)


def test_mistakes_are_said_in_a_sentence(plain, headless, images_of, sae_of):
    images, sae = images_of(plain, 1), sae_of(32)
    with pytest.raises(InputError, match="no method is called 'grad'"):
        feature_attribution(plain, images, None, hook="resid_post1", sae=sae, method="grad", progress=False)
    with pytest.raises(InputError, match="no direct path"):
        feature_attribution(plain, images, None, hook="z1", sae=sae, method="direct", progress=False)
    with pytest.raises(InputError, match="at least 1"):
        feature_attribution(plain, images, None, hook="z1", sae=sae, method="integrated", n_steps=0, progress=False)
    with pytest.raises(InputError, match="32 wide"):
        feature_attribution(plain, images, None, hook="resid_post1", sae=sae_of(16), progress=False)
    with pytest.raises(InputError, match="without a classifier"):
        feature_attribution(headless, images_of(headless, 1), None, hook="resid_post1", sae=sae, progress=False)
