"""The effect of a feature is what a hook that subtracts its part of the activation does to the answer."""

import pytest
import torch

from vitlens import InputError
from vitlens.features import SparseAutoencoder, Transcoder, feature_effects
from vitlens.features.dictionaries.nonlinearities import TopK

CHOSEN = [5, 0, 11]


@pytest.fixture(scope="module")
def stream_sae():
    def make(weights):
        return SparseAutoencoder.from_arrays(**weights, activation="topk", k=4, hook="blocks.0.hook_resid_post")

    return make


def by_hand(model, images, codes, sae, hook, tokens):
    """Logits without each chosen feature, [feature, image, class], by a hook that subtracts what it wrote."""
    answers = []
    for feature in CHOSEN:
        part = codes[..., feature, None] * sae.W_dec[feature]

        def less(activation, hook, part=part):
            activation[:, tokens] -= part
            return activation

        answers.append(model.run_with_hooks(images, fwd_hooks=[(hook, less)]))
    return torch.stack(answers)


def check(found, model, images, codes, expected):
    clean = model(images)
    active = (codes[..., CHOSEN] != 0).any(dim=1)
    # Some pictures have a feature, and others do not: both are tested.
    assert active.any()
    assert not active.all()
    for place in range(len(CHOSEN)):
        on = active[:, place]
        torch.testing.assert_close(found.values[on, place], (expected[place] - clean)[on], atol=1e-10, rtol=1e-9)
        own, other = clean[on].log_softmax(-1), expected[place][on].log_softmax(-1)
        torch.testing.assert_close(found.kl[on, place], (own.exp() * (own - other)).sum(-1), atol=1e-12, rtol=1e-6)
        assert found.values[~on, place].isnan().all()
        assert found.kl[~on, place].isnan().all()


def test_it_is_what_a_hook_by_hand_does(variant, images_of, weights_of, stream_sae):
    model = variant("class_token")
    images, sae = images_of(model, 5), stream_sae(weights_of(model.cfg.d_model))
    with torch.no_grad():
        codes = sae.encode(model.run_with_cache(images)[1]["resid_post", 0][:, 2:4])
        found = feature_effects(model, images, "all", sae=sae, features=CHOSEN, tokens=[2, 3], batch_size=2)
        check(found, model, images, codes, by_hand(model, images, codes, sae, sae.hook, slice(2, 4)))
    table = found.means()
    row = table[(table["feature"] == 0) & (table["class"] == found.axes["class"][3])].iloc[0]
    known = found.values[:, 1, 3][~found.kl[:, 1].isnan()]
    assert row["images"] == len(known)
    assert row["change"] == pytest.approx(float(known.mean()))
    assert row["low"] <= row["change"] <= row["high"]


def test_of_a_transcoder_the_error_of_the_prediction_is_kept(variant, images_of, weights_of):
    model = variant("class_token")
    images, weights = images_of(model, 5), weights_of(model.cfg.d_model, seed=3)
    places = {"hook": "blocks.1.hook_resid_mid", "hook_out": "blocks.1.hook_mlp_out"}
    transcoder = Transcoder(**weights, activation=TopK(1, 24), **places)
    with torch.no_grad():
        codes = transcoder.encode(model.run_with_cache(images)[1]["resid_mid", 1])
        found = feature_effects(model, images, "all", sae=transcoder, features=CHOSEN)
        check(found, model, images, codes, by_hand(model, images, codes, transcoder, transcoder.hook_out, slice(None)))


def test_classes_are_each_pictures_own(variant, images_of, weights_of, stream_sae):
    model = variant("class_token")
    images, sae = images_of(model, 5), stream_sae(weights_of(model.cfg.d_model))
    every = feature_effects(model, images, "all", sae=sae, features=5)
    own = torch.tensor([3, 1, 4, 1, 0])
    found = feature_effects(model, images, own, sae=sae, features=5, batch_size=2)
    torch.testing.assert_close(found.values[..., 0], every.values[range(5), :, own], equal_nan=True)
    with pytest.raises(InputError, match="classes for 4 pictures, and 5 pictures"):
        feature_effects(model, images, own[:4], sae=sae, features=5)
    with pytest.raises(InputError, match="no feature 24"):
        feature_effects(model, images, sae=sae, features=[24])
