"""The planted sparse code: the stream is what the truth says, and scores of dictionaries are right where they are known."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from vitlens import InputError
from vitlens.features import CrossLayerTranscoder, SparseAutoencoder, Transcoder
from vitlens.features.dictionaries.nonlinearities import Relu
from vitlens.planted import feature_recovery, planted_features

ORTHOGONAL, OVERLAPPING = 12, 96
N = 16


@cache
def build(n_features, dtype=torch.float64):
    return planted_features(n_features, dtype=dtype)


@cache
def run(n_features, dtype=torch.float64):
    """The model, its pictures, and what it computed."""
    vit = build(n_features, dtype)
    pictures = vit.pictures(N, seed=3)
    with torch.no_grad():
        return vit, pictures, vit.model.run_with_cache(pictures.images)[1]


def parts(vit, stream):
    """The stream in the span of the directions, and outside of it."""
    _, sizes, rows = torch.linalg.svd(vit.directions, full_matrices=False)
    basis = rows[sizes > 1e-6].to(stream)
    inside = stream @ basis.T @ basis
    return inside, stream - inside


# ---- the model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("n_features", [ORTHOGONAL, OVERLAPPING])
def test_the_stream_is_the_planted_code_and_a_busy_rest(n_features, dtype, error):
    vit, pictures, cached = run(n_features, dtype)
    code = pictures.strengths @ vit.directions.to(dtype)
    for hook in ("blocks.0.hook_resid_pre", vit.hook, "blocks.3.hook_resid_post"):
        inside, outside = parts(vit, cached[hook])
        torch.testing.assert_close(inside, code, rtol=0, atol=error)
    inside, outside = (part[:, 1:].flatten(0, 1).var(dim=0).sum() for part in parts(vit, cached[vit.hook]))
    assert 0.03 < outside / inside < 0.3
    before = cached["blocks.0.hook_attn_out"], cached["blocks.0.hook_mlp_out"]
    assert all(written.norm(dim=-1).mean() > 0.1 for written in before)


def test_directions_are_orthogonal_where_there_is_room():
    for n_features in (ORTHOGONAL, OVERLAPPING):
        directions = build(n_features).directions
        overlap = (directions @ directions.T - torch.eye(n_features)).abs().max()
        assert overlap < 1e-12 if n_features == ORTHOGONAL else overlap > 0.3


def test_each_mlp_writes_its_directions_for_the_features_that_are_on():
    """Other neurons write elsewhere: what an MLP writes along the planted directions comes from the features alone."""
    vit, pictures, cached = run(ORTHOGONAL)
    assert list(vit.written) == [1, 2, 3]
    is_on = pictures.strengths > 0
    for block, directions in vit.written.items():
        amounts = cached[f"blocks.{block}.hook_mlp_out"] @ directions.T
        assert amounts[is_on].min() > 0.05
        assert amounts[~is_on].abs().max() < 1e-12
        # The stronger a feature, the more is written for it.
        assert torch.corrcoef(torch.stack([amounts[is_on], pictures.strengths[is_on]]))[0, 1] > 0.9
    assert build(OVERLAPPING).written == {}


def test_frequencies_and_magnitudes_are_those_that_were_asked_for():
    vit = planted_features(30, n_active=2.0, zipf=1.0, magnitudes=(2.0, 3.0))
    assert vit.frequencies[0] / vit.frequencies[4] == pytest.approx(5)
    strengths = vit.pictures(200).strengths
    assert not strengths[:, 0].any()
    found = (strengths[:, 1:] > 0).double().mean(dim=(0, 1))
    assert found.sum() == pytest.approx(2.0, rel=0.03)
    torch.testing.assert_close(found, vit.frequencies, rtol=0.2, atol=0.005)
    on = strengths[strengths > 0]
    assert 2 <= on.min() < 2.01 < 2.99 < on.max() <= 3


def test_a_seed_fixes_everything_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    one, same, other = planted_features(ORTHOGONAL, seed=1), planted_features(ORTHOGONAL, seed=1), build(ORTHOGONAL)
    pictures, again, more = one.pictures(2, seed=5), same.pictures(2, seed=5), one.pictures(2, seed=6)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.directions, same.directions)
    assert torch.equal(pictures.images, again.images)
    assert not torch.equal(pictures.images, more.images)
    assert not torch.equal(one.directions, other.directions)
    torch.testing.assert_close(build(ORTHOGONAL, torch.float32).directions, other.directions, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n_features": 193}, "at most 192, not 193"),
        ({"n_features": 0}, "at least 1, not 0"),
        ({"width": 26}, "from 1 to 25, not 26"),
        ({"n_features": 3}, "on in 1.33 of a patch"),
        ({"n_active": 0.0}, "n_active is above 0"),
        ({"magnitudes": (0.0, 1.0)}, "both above 0"),
        ({"magnitudes": (2.0, 1.0)}, "both above 0"),
        ({"n_features": 3.5}, "whole number"),
    ],
)
def test_a_code_that_cannot_be(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        planted_features(**arguments)


# ---- the scores --------------------------------------------------------------------------------------------------


def dictionary(rows, reads=None, *, hook, threshold=0.25):
    """One that reads along these rows."""
    reads = rows if reads is None else reads
    bias = torch.full((len(rows),), -threshold, dtype=rows.dtype)
    return SparseAutoencoder.from_arrays(reads.T, bias, rows, None, hook=hook)


def test_the_truth_itself_scores_1():
    vit = build(ORTHOGONAL)
    order = torch.randperm(ORTHOGONAL, generator=torch.Generator().manual_seed(0))
    found = feature_recovery(vit, dictionary(3 * vit.directions[order], vit.directions[order], hook=vit.hook))
    ours = [found.cosine, found.found, found.one_to_one, found.auroc, found.precision, found.recall, found.auroc_any]
    assert ours == pytest.approx([1] * 7, abs=1e-12)
    assert found.nearest.tolist() == order.argsort().tolist()


def test_half_of_the_features_mixed_in_pairs_score_what_they_should():
    """Features 0 and 1 share one direction, 2 and 3 another: cos 45°, found by none, and one of two is left over."""
    vit = build(ORTHOGONAL)
    first, rest = vit.directions[:4], vit.directions[4:]
    mixed = torch.cat([F.normalize(first[0::2] + first[1::2], dim=1), rest])
    sae = dictionary(mixed, hook=vit.hook)
    found = feature_recovery(vit, sae, n_images=N, seed=3)
    assert found.cosines.tolist() == pytest.approx([0.5**0.5] * 4 + [1] * 8)
    assert found.found == pytest.approx(8 / 12)
    assert found.one_to_one == pytest.approx((2 * 0.5**0.5 + 8) / 12)
    _, pictures, cached = run(ORTHOGONAL)
    is_on = (pictures.strengths[:, 1:, 1] > 0).flatten()
    activity = sae.encode(cached[vit.hook][:, 1:])[..., 0].flatten()
    assert found.aurocs[1].item() == pytest.approx(roc_auc_score(is_on, activity))
    assert found.recall == pytest.approx(1)
    assert 0.85 < found.precision < 0.95


def test_activity_alone_knows_nothing_of_directions():
    """A dictionary that reads rightly and writes noise: only the score that may look anywhere calls it good."""
    vit = build(ORTHOGONAL)
    noise = torch.randn(ORTHOGONAL, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = feature_recovery(vit, dictionary(noise, vit.directions, hook=vit.hook))
    assert found.cosine < 0.5
    assert abs(found.auroc - 0.5) < 0.2
    assert found.auroc_any == pytest.approx(1)


def test_transcoders_are_compared_with_what_mlps_write():
    vit = build(ORTHOGONAL)
    inside = Relu()
    bias = torch.full((ORTHOGONAL,), -0.25).double(), torch.zeros(64).double()
    weights = vit.directions.T, bias[0], vit.written[2], bias[1], inside
    right = Transcoder(*weights, hook="blocks.2.hook_resid_mid", hook_out="blocks.2.hook_mlp_out")
    wrong = Transcoder(*weights, hook="blocks.1.hook_resid_mid", hook_out="blocks.1.hook_mlp_out")
    assert feature_recovery(vit, right).cosine == pytest.approx(1)
    assert feature_recovery(vit, wrong).cosine < 0.7


def test_a_cross_layer_transcoder_must_write_into_all_blocks():
    vit = build(ORTHOGONAL)

    def cross_layer(amounts):
        """Features of the first block which write these amounts of the truth into each block; the others write nothing."""
        truth = torch.stack([amount * vit.written[block] for block, amount in zip((1, 2, 3), amounts, strict=True)])
        nothing = [torch.zeros(n, 1, 64).double() for n in (2, 1)]
        return CrossLayerTranscoder.from_arrays(
            [vit.directions.T, *[torch.zeros(64, 1).double()] * 2],
            [torch.full((ORTHOGONAL,), -0.25).double(), *[torch.zeros(1).double()] * 2],
            [truth, *nothing],
            None,
            hooks=[f"blocks.{block}.hook_resid_mid" for block in (1, 2, 3)],
            hooks_out=[f"blocks.{block}.hook_mlp_out" for block in (1, 2, 3)],
        )

    everywhere, here = (feature_recovery(vit, cross_layer(amounts)) for amounts in ((1, 0.5, 2), (1, 0, 0)))
    assert [everywhere.cosine, everywhere.auroc, everywhere.precision] == pytest.approx([1] * 3)
    assert here.cosine == pytest.approx(1 / 3)


def test_only_places_with_planted_features_are_scored():
    vit = build(ORTHOGONAL)
    with pytest.raises(InputError, match="set its hook"):
        feature_recovery(vit, dictionary(vit.directions, hook=None))
    for hook in ("blocks.2.hook_resid_pre", "blocks.0.hook_mlp_out"):
        with pytest.raises(InputError, match="features are planted at"):
            feature_recovery(vit, dictionary(vit.directions, hook=hook))


def test_the_truth_stays_where_the_model_is_another():
    vit = build(ORTHOGONAL)
    random = replace(vit, model=vit.model.with_fresh_weights(0))
    found = feature_recovery(random, dictionary(vit.directions, hook=vit.hook))
    assert found.cosine == pytest.approx(1)
    assert found.auroc < 0.7
