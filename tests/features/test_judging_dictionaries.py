"""Measures equal ViSAEBench's on the same tensors, and find what was planted; baselines are what they say."""

import jaxtyping
import numpy as np
import pytest
import torch
from sklearn.feature_selection import f_classif
from torch.nn import functional as F

from vitlens import InputError, load_result
from vitlens.features import (
    CrossLayerTranscoder,
    SparseAutoencoder,
    Transcoder,
    baseline_dictionaries,
    evaluate_sae,
    with_sae,
)
from vitlens.features.dictionaries.nonlinearities import Linear, TopK
from vitlens.features.evaluation import entrants, image_codes
from vitlens.features.evaluation.absorption import absorption
from vitlens.features.evaluation.entrants import CodedPictures
from vitlens.features.evaluation.estimates import PictureRows
from vitlens.features.evaluation.image_codes import CodeSample
from vitlens.features.evaluation.locality import Locality, morans_i
from vitlens.features.evaluation.monosemanticity import Likeness
from vitlens.features.evaluation.probing import sparse_probing
from vitlens.statistics import bootstrap

HOOK = "blocks.1.hook_resid_post"
N, PATCHES, CLASSES = 60, 9, 4


class Same:
    """A dictionary of ViSAEBench whose features are what it reads."""

    def encode(self, x):
        return x


@pytest.fixture(scope="module")
def codes():
    """Sparse features [picture, patch, feature] and the pictures' classes, of which each feature likes one."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(N) % CLASSES
    values = torch.rand(N, PATCHES, 24, generator=generator)
    liked = (torch.arange(24) % CLASSES == labels[:, None])[:, None]
    on = torch.rand(values.shape, generator=generator) < torch.where(liked, 0.75, 0.5)
    return values * on, labels


def sampled(values, labels):
    sample = CodeSample()
    sample.add(CodedPictures(values, values, values, values, torch.arange(values.shape[1]), (1, 1), labels=labels))
    return sample.gathered()


def test_morans_i_is_visaebenchs(codes):
    bench = pytest.importorskip("visaebench.metrics.spatial_coherence.localization")
    values, _ = codes
    found, counted = morans_i(values.transpose(1, 2).unflatten(-1, (3, 3)).double())
    metric = bench.FeatureLocalization((3, 3), min_images_per_feature=1, max_features=100)
    theirs = metric.compute(Same(), values, device="cpu").metadata["per_feature_scores"]
    ours = found.where(counted, 0).sum(dim=0) / counted.sum(dim=0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    weights = bench._build_weight_matrix(3, 3).double().numpy()
    z = (values[0, :, 0] - values[0, :, 0].mean()).double().numpy()
    assert float(found[0, 0]) == pytest.approx(9 / weights.sum() * (z @ weights @ z) / (z @ z), rel=1e-6)


def test_morans_i_of_a_region_of_no_order_and_of_a_chessboard():
    place = torch.arange(14)
    region = torch.zeros(14, 14, dtype=torch.float64)
    region[3:10, 4:11] = 1
    board = ((place[:, None] + place) % 2).double()
    found, counted = morans_i(torch.stack([region, board, torch.ones(14, 14, dtype=torch.float64)])[None])
    assert found[0, 0] > 0.7
    assert found[0, 1] < 0
    assert counted.tolist() == [[True, True, False]]
    shuffled = torch.stack([region.flatten()[torch.randperm(196)] for _ in range(2000)]).unflatten(1, (14, 14))
    assert float(morans_i(shuffled[None])[0].mean()) == pytest.approx(-1 / 195, abs=3e-3)


def test_locality_of_regions_is_lost_in_random_directions_that_mix_them():
    generator = torch.Generator().manual_seed(0)
    regions = torch.zeros(12, 14, 14, 8)
    for picture in range(12):
        for feature in range(8):
            y, x = torch.randint(10, (2,), generator=generator).tolist()
            regions[picture, y : y + 4, x : x + 4, feature] = 1
    regions = regions.flatten(1, 2)
    mixed = (
        regions @ torch.randn(8, 40, generator=generator) + 0.5 * torch.randn(12, 196, 40, generator=generator)
    ).relu()
    scattered = torch.stack([one[torch.randperm(196, generator=generator)] for one in regions])
    found = {}
    for name, features in {"regions": regions, "mixed": mixed, "scattered": scattered}.items():
        locality = Locality(1)
        for some in (slice(0, 5), slice(5, None)):
            values = features[some]
            locality.add(CodedPictures(values, values, values, values, torch.arange(1, 197), (14, 14)))
        found[name] = locality.estimates()["morans_i"]
        of_each, counted = morans_i(features.transpose(1, 2).unflatten(-1, (14, 14)))
        mean = of_each.where(counted, 0).sum(dim=0) / counted.sum(dim=0)
        assert found[name].value == pytest.approx(float(mean.mean()), rel=1e-5)
        assert found[name].low < found[name].value < found[name].high
    assert found["regions"].value > 0.6 > 0.5 > found["mixed"].value
    assert found["scattered"].low < -1 / 195 < found["scattered"].high


def brute_force(values, vectors):
    weights = values - values.min(axis=0)
    alike = vectors @ vectors.T
    off = 1 - np.eye(len(values))
    return [(w @ (alike * off) @ w) / (w @ off @ w) for w in weights.T]


def test_monosemanticity_over_all_pairs_is_visaebenchs_and_the_papers(codes):
    values, _ = codes
    vectors = torch.randn(N, 6, generator=torch.Generator().manual_seed(1))
    likeness = Likeness()
    pooled = values.amax(dim=1) - 0.3
    for some in (slice(0, 20), slice(20, None)):
        likeness.add(pooled[some], vectors[some])
    unit = F.normalize(vectors.double(), dim=1).numpy()
    np.testing.assert_allclose(likeness.of_features(), brute_force(pooled.double().numpy(), unit), rtol=1e-9)
    off = unit @ unit.T - np.eye(N)
    assert likeness.of_any_pair() == pytest.approx(off.sum() / (N * N - N), rel=1e-9)
    bench = pytest.importorskip("visaebench.metrics.concept_detection.monosemanticity")

    class Evaluator:
        def extract_activations(self, images, layer):
            return vectors[torch.tensor(images)][:, None]

    theirs = bench.MonosemanticityScore(top_k_images=N).compute(
        Same(), values, device="cpu", images=range(N), evaluator_backbone=Evaluator()
    )
    np.testing.assert_allclose(likeness.of_features(), theirs.metadata["ms_distribution"], rtol=2e-4)


def test_a_feature_of_one_class_has_monosemanticity_one():
    labels = torch.arange(40) % 4
    values = torch.stack([(labels == 2) * 1.5, torch.ones(40), torch.zeros(40), (torch.arange(40) == 7) * 1.0], dim=1)
    likeness = Likeness()
    likeness.add(values, F.one_hot(labels).double())
    found = likeness.of_features()
    assert float(found[0]) == pytest.approx(1, abs=1e-12)
    assert found[1:].isnan().all(), "always on by the same amount, never on, on in one picture: no pairs to compare"


def test_sparse_probing_is_visaebenchs_on_the_same_split(codes, monkeypatch):
    bench = pytest.importorskip("visaebench.metrics.concept_detection.sparse_probing")
    values, labels = codes
    data = sampled(values, labels)
    found = sparse_probing(data, n_features=24, seed=5)
    split = bench.train_test_split(np.arange(N), test_size=0.2, stratify=labels.numpy(), random_state=5)
    # ViSAEBench also looks at the pictures that it scores on to rank features; we do not.
    monkeypatch.setattr(bench, "f_classif", lambda x, y: f_classif(x[split[0]], y[split[0]]))
    theirs = bench.SparseProbing().compute(Same(), values, device="cpu", labels=labels.numpy(), seed=5)
    assert found["probing"].value == pytest.approx(theirs.value, rel=1e-9)
    for k, accuracy in theirs.metadata["k_accuracies"].items():
        assert found[f"probing_{k}"].value == pytest.approx(accuracy, rel=1e-9)
    assert found["probing"].low <= found["probing"].value <= found["probing"].high


def test_a_task_that_one_feature_decides(codes):
    values, _ = codes
    labels = torch.arange(N) % 2
    assert sparse_probing(sampled(values, labels), n_features=24)["probing_1"].value < 0.9
    decided = torch.cat([values, (3.0 * labels)[:, None, None].expand(-1, PATCHES, 1)], dim=-1)
    found = sparse_probing(sampled(decided, labels), n_features=25)
    assert found["probing_1"].value == 1


def test_absorption_is_visaebenchs(codes):
    bench = pytest.importorskip("visaebench.metrics.disentanglement.absorption")
    values, labels = codes
    found = absorption(sampled(values, labels), {"all": [0, 1, 2, 3], "two": [0, 1]})
    groups = {"all": {"class_indices": [0, 1, 2, 3]}, "two": {"class_indices": [0, 1]}}
    theirs = bench.FeatureAbsorption().compute(
        Same(), values, device="cpu", labels=labels.numpy(), sibling_groups=groups, seed=0
    )
    assert found["absorption"].value == pytest.approx(theirs.value)
    assert found["absorption_overlap"].value == pytest.approx(theirs.metadata["mean_overlap"])
    assert found["absorption_gain"].value == pytest.approx(theirs.metadata["mean_f1_gap"], abs=1e-9)
    assert found["absorption_gain"].value > 0.02


def test_absorption_that_was_planted():
    labels = torch.arange(40) % 4
    strength = torch.rand(40, 1, 40, generator=torch.Generator().manual_seed(0)) + 1
    own = (torch.arange(40) % 4 == labels[:, None])[:, None]
    apart = absorption(sampled(strength * own, labels), {"kinds": [0, 1, 2, 3]})
    assert (apart["absorption"].value, apart["absorption_gain"].value) == (0, 0)
    shared = torch.zeros(40, 1, 40)
    shared[..., :10] = strength[..., :10]
    assert absorption(sampled(shared, labels), {"kinds": [0, 1, 2, 3]})["absorption"].value == 1


def test_rows_of_pictures_and_the_sample_stay_bounded(codes, monkeypatch):
    one, many = PictureRows(4), PictureRows(4)
    places = [*one.next(3), *one.next(30), *one.next(7)]
    assert places == [*many.next(40)]
    assert places[:4] == [0, 1, 2, 3]
    assert sorted(set(places[4:])) == [0, 1, 2, 3]
    monkeypatch.setattr(image_codes, "MOST_KEPT_CODES", 10)
    values, _ = codes
    kept = sampled(values, torch.arange(N))
    assert len(set(kept.labels.tolist())) == 10
    assert min(kept.labels) < 50
    assert max(kept.labels) > 9
    np.testing.assert_allclose(kept.codes.toarray(), values.amax(dim=1)[kept.labels], rtol=1e-6)


@pytest.fixture
def planted(plain):
    """A model whose stream is a sparse code: four regions, each of one class, and eight scattered features."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(N) % CLASSES
    code = torch.zeros(N, 10, 12, dtype=torch.float64)
    code[:, 1:, 4:] = (torch.rand(N, 9, 8, generator=generator) < 0.08).double()
    rows = torch.rand(N, 1, generator=generator) < 0.5
    code[torch.arange(N)[:, None], torch.where(rows, torch.arange(1, 7), torch.arange(4, 10)), labels[:, None]] = 1
    code *= 1 + torch.rand(code.shape, generator=generator)
    directions = torch.linalg.qr(torch.randn(32, 12, generator=generator, dtype=torch.float64))[0].T
    plain.add_hook(HOOK, lambda x, hook: (code @ directions)[: len(x)])
    sae = SparseAutoencoder.from_arrays(directions.T, None, directions, None, hook=HOOK)
    return plain, sae, labels


def test_random_directions_do_not_look_good(planted, images_of, tmp_path):
    model, sae, labels = planted
    result = evaluate_sae(
        model, images_of(model, N), sae=sae, labels=labels, metrics="all", groups={"kinds": [0, 1, 2, 3]},
        tokens="patches", batch_size=N, progress=False,
    )  # fmt: skip
    assert result.axes["dictionary"] == ["dictionary", "neurons", "pca", "kmeans", "random"]
    assert result["explained_variance"] > 0.999
    assert result["agreement_sae"] == 1
    assert result["random", "explained_variance"] < 0.7
    for measure in ("explained_variance", "class_monosemanticity", "probing"):
        assert result[measure] > result["random", measure] + 0.1, measure
    assert result["kl_sae"] < 1e-9 < result["random", "kl_sae"]
    assert result["probing_5"] == 1
    assert result["class_monosemanticity_of_any_pair"] == pytest.approx((N / 4 - 1) / (N - 1))
    low, high = result.interval(("random", "explained_variance"))
    assert low < result["random", "explained_variance"] < high
    assert result.monosemanticity[:4].tolist() == pytest.approx([1] * 4)
    printed = str(result)
    assert "random" in printed
    assert "Moran's I" in printed
    assert {"dictionary", "measure", "value", "low", "high"} <= set(result.to_frame().columns)
    result.save(tmp_path / "judged.safetensors")
    assert load_result(tmp_path / "judged.safetensors")["pca", "l0"] == result["pca", "l0"]
    with pytest.raises(InputError, match="not 'nobody'"):
        result["nobody", "l0"]


def test_baselines_are_what_they_say(plain, images_of, weights_of):
    images = images_of(plain, 6)
    rows = plain.run_with_cache(images, names_filter=HOOK)[1][HOOK].flatten(0, 1)
    mean = rows.mean(dim=0)
    sae = SparseAutoencoder.from_arrays(**weights_of(32, 60), activation="topk", k=3, hook=HOOK)
    found = baseline_dictionaries(plain, images, sae=sae, batch_size=4, progress=False)
    components = torch.linalg.svd(rows - mean, full_matrices=False).Vh
    scores = (rows - mean) @ components.T
    kept = scores.abs().topk(3).indices
    expected = mean + (scores * torch.zeros_like(scores).scatter(1, kept, 1)) @ components
    assert torch.allclose(found["pca"](rows), expected, atol=1e-9)
    largest = (rows - mean).abs().topk(3).indices
    expected = mean + (rows - mean) * torch.zeros_like(rows).scatter(1, largest, 1)
    assert torch.allclose(found["neurons"](rows), expected, atol=1e-9)
    assert found["random"].d_sae == 60
    assert ((found["random"].encode(rows) != 0).sum(dim=1) <= 3).all()
    written = found["random"](rows) - mean
    assert float(((rows - mean - written) * written).sum()) == pytest.approx(0, abs=1e-9), "the scale fits best"
    clusters = found["kmeans"]
    assert torch.allclose(clusters.b_dec, mean, atol=1e-12)
    centres = clusters.W_dec + mean
    nearest = torch.cdist(rows, centres).argmin(dim=1)
    assert torch.allclose(clusters(rows), centres[nearest], atol=1e-12)
    own = clusters.encode(rows).argmax(dim=1)
    assert torch.allclose(centres[own[0]], clusters.decode(clusters.encode(rows[:1]))[0])


def test_baselines_of_a_transcoder_predict_its_target(plain, images_of, weights_of):
    """A target that is linear in what is read is predicted exactly by as many components as there are."""
    images = images_of(plain, 8)
    matrix = weights_of(32)["W_enc"][:, :1] @ weights_of(32, seed=1)["W_enc"][:, :1].T
    plain.add_hook("blocks.1.hook_resid_mid", lambda x, hook: plain.__dict__.update(read=x))
    plain.add_hook("blocks.1.hook_mlp_out", lambda x, hook: plain.__dict__["read"] @ matrix + 2)
    identity = torch.eye(32, dtype=torch.float64)
    sae = Transcoder(identity, torch.ones(32).double(), identity, torch.zeros(32).double(), Linear(), hook="resid_mid1")
    result = evaluate_sae(
        plain, images, sae=sae, baselines=["pca", "kmeans"], metrics="downstream", batch_size=3, progress=False
    )
    assert result["l0"] == 32
    assert result["pca", "explained_variance"] == pytest.approx(1, abs=1e-9)
    assert result["pca", "kl_sae"] == pytest.approx(0, abs=1e-9)
    assert result["kmeans", "explained_variance"] < 0.99
    del plain.__dict__["read"]


def test_neurons_of_a_transcoder_are_those_of_its_mlp(plain, images_of, weights_of):
    images = images_of(plain, 5)
    weights = weights_of(32, 400)
    every = Transcoder(**weights, activation=Linear(), hook="resid_mid1")
    result = evaluate_sae(plain, images, sae=every, baselines="neurons", metrics="downstream", progress=False)
    assert result["neurons", "explained_variance"] == pytest.approx(1, abs=1e-12)
    assert result["neurons", "kl_sae"] == pytest.approx(0, abs=1e-12)
    few = Transcoder(**weights, activation=TopK(3, 400), hook="resid_mid1")
    neurons = baseline_dictionaries(plain, images, sae=few, baselines="neurons", progress=False)["neurons"]
    hidden = plain.run_with_cache(images)[1]["post", 1]
    mlp = plain.blocks[1].mlp
    writes = hidden[..., None] * mlp.W_out
    kept = writes.norm(dim=-1).topk(3).indices
    expected = writes.gather(-2, kept[..., None].expand(*kept.shape, 32)).sum(dim=-2) + mlp.b_out
    assert torch.allclose(neurons(hidden), expected, atol=1e-12)


def test_a_cross_layer_transcoder_is_the_sum_of_its_blocks(plain, images_of, weights_of):
    images, one, two = images_of(plain, 5), weights_of(32, 20), weights_of(32, 20, seed=4)
    hooks = [f"blocks.{block}.hook_resid_mid" for block in (0, 1)]
    hooks_out = [f"blocks.{block}.hook_mlp_out" for block in (0, 1)]
    clt = CrossLayerTranscoder.from_arrays(
        [one["W_enc"], two["W_enc"]], None, [torch.stack([one["W_dec"], two["W_dec"]]), two["W_dec"][None]], None,
        hooks=hooks, hooks_out=hooks_out,
    )  # fmt: skip
    result = evaluate_sae(plain, images, sae=clt, progress=False)
    assert result.axes["dictionary"] == ["dictionary"]
    assert any("cross-layer" in why for why in result.left_out)
    cache = plain.run_with_cache(images)[1]
    features = [(cache[hook] @ w["W_enc"]).relu() for hook, w in zip(hooks, (one, two), strict=True)]
    written = [features[0] @ one["W_dec"], features[0] @ two["W_dec"] + features[1] @ two["W_dec"]]
    errors, spreads = [], []
    for block, prediction in enumerate(written):
        y = cache[hooks_out[block]]
        errors.append((y - prediction).square().sum())
        spreads.append((y - y.mean(dim=(0, 1))).square().sum())
        explained = float(1 - errors[-1] / spreads[-1])
        assert result[f"explained_variance_block_{block}"] == pytest.approx(explained, rel=1e-9)
    assert result["explained_variance"] == pytest.approx(float(1 - sum(errors) / sum(spreads)), rel=1e-9)
    assert result["l0"] == pytest.approx(sum(float((f > 0).double().sum(-1).mean()) for f in features))
    with torch.no_grad(), with_sae(plain, None, clt):
        answers = plain(images)
    assert result["agreement_sae"] == float((answers.argmax(-1) == plain(images).argmax(-1)).double().mean())
    assert result["kl_zero"] > 0


def test_dictionaries_beside_of_the_same_and_of_another_model(plain, variant, images_of, weights_of, monkeypatch):
    images = images_of(plain, 6)
    sae = SparseAutoencoder.from_arrays(**weights_of(32), hook=HOOK)
    fresh = variant("registers")
    again = evaluate_sae(fresh, images, sae=sae, baselines=[], progress=False)
    result = evaluate_sae(
        plain, images, sae=sae, baselines=[], beside={"twin": sae, "random model": (fresh, sae)}, other_model=fresh,
        progress=False,
    )  # fmt: skip
    assert result["twin", "kl_sae"] == result["kl_sae"]
    with torch.no_grad():
        clean, answer = plain(images), plain.run_with_hooks(images, fwd_hooks=[(HOOK, lambda x, hook: sae(x))])
    kl = (clean.softmax(-1) * (clean.log_softmax(-1) - answer.log_softmax(-1))).sum(dim=-1)
    assert result.interval("kl_sae") == pytest.approx([end.item() for end in bootstrap(kl.numpy())[1:]], rel=1e-9)
    assert result["random model", "explained_variance"] == again["explained_variance"] != result["explained_variance"]
    assert np.isnan(result["random model", "kl_sae"])
    pooled = fresh.run_with_cache(images)[1]["hook_pooled"]
    likeness = Likeness()
    likeness.add(sae.encode(plain.run_with_cache(images)[1][HOOK]).amax(dim=1), pooled)
    assert result["monosemanticity"] == pytest.approx(float(likeness.of_features().nanmean()), rel=1e-9)
    labelled = {
        "labels": torch.tensor([0, 1, 1, 0, 2, 2]),
        "metrics": ["monosemanticity", "downstream"],
        "baselines": [],
    }
    whole = evaluate_sae(plain, images, sae=sae, **labelled, progress=False)
    monkeypatch.setattr(entrants, "MOST_VALUES", 1)
    in_parts = evaluate_sae(plain, images, sae=sae, **labelled, batch_size=4, progress=False)
    torch.testing.assert_close(in_parts.values, whole.values, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(in_parts.low, whole.low, rtol=1e-9, atol=1e-12, equal_nan=True)
    elsewhere = SparseAutoencoder.from_arrays(**weights_of(32), hook="blocks.0.hook_resid_post")
    wrong = {
        "nearest is probing": {"metrics": "probin"},
        "probing needs labels": {"metrics": "probing"},
        "groups= of classes": {"metrics": "absorption"},
        "other_model= or labels": {"metrics": "monosemanticity"},
        "all patches": {"metrics": "locality", "tokens": "class"},
        "choose another name": {"beside": {"dictionary": sae}},
        "predicts blocks.0": {"beside": {"early": elsewhere}},
        "gives a dictionary": {"beside": {"early": 3}},
        "gives a list of classes": {"groups": {"kinds": "abc"}},
        "single class": {"metrics": "probing", "labels": torch.zeros(6).long()},
        "nearest is kmeans": {"baselines": ["kmean"]},
    }
    # Users have no such checks: what they see are these sentences.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for sentence, options in wrong.items():
        with pytest.raises(InputError, match=sentence):
            evaluate_sae(plain, images, sae=sae, progress=False, **{"baselines": [], **options})
    quiet = evaluate_sae(plain, images, sae=sae, tokens="class", metrics="all", baselines=[], progress=False)
    assert any("all patches" in why for why in quiet.left_out)
    assert any("probing needs labels" in why for why in quiet.left_out)
