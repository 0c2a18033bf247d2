"""The bench of heatmaps: rows, baselines, tables and intervals, saving, and clear refusals."""

import numpy as np
import pytest
import torch
from faithfulness.conftest import by_hand, close, noise_pictures, random_maps
from ported import build as build_variant
from ported import on_each_property
from variants import build

from vitlens import HookedViT, InputError, heatmap
from vitlens.data.counterfactuals import blurred
from vitlens.faithfulness import perturbation_test
from vitlens.faithfulness.metrics import CURVES, METRICS, FaithfulnessMetric, faithfulness_metrics
from vitlens.faithfulness.result import few
from vitlens.faithfulness.run import evaluate_heatmaps
from vitlens.heatmaps.methods.baselines import centre_prior, random_map
from vitlens.heatmaps.registry import METHODS
from vitlens.results.result import load_result
from vitlens.statistics import bootstrap

ON_CURVES = [name for name, metric in METRICS.items() if metric.curves]
BASELINES = ["random", "centre_prior", "raw_attention"]


def score(model, images, classes=None, heatmaps=None, **options):
    return evaluate_heatmaps(model, images, classes, heatmaps=heatmaps, **{"progress": False, "n_steps": 4, **options})


def masks_of(images):
    masks = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
    masks[:, 4:30, 10:40] = True
    return masks


@pytest.fixture(scope="module")
def result():
    model, images = build_variant("class_token"), noise_pictures((48, 48), n=5)
    maps = {"one": random_maps(model, images, 1), "two": random_maps(model, images, 2)}
    return score(model, images, heatmaps=maps, metrics=ON_CURVES, road_shares=(0.4, 0.7))


@on_each_property
def test_every_variant(classifier, images_of):
    images = images_of(classifier, 2)
    rows, columns = classifier.embed.grid(*images.shape[-2:])
    found = score(classifier, images, metrics=["deletion", "negative"], n_draws=1)
    assert found.axes["method"] == ["token_mask", "gradient_rollout", "attention_rollout", *BASELINES]
    assert found.values.isfinite().all()
    n_patches = rows * columns
    counts = sorted({round(i * n_patches / 4) for i in range(5)})
    maps = {
        "token_mask": heatmap(classifier, images, method="token_mask", warn=False).patches(),
        "centre_prior": centre_prior(classifier, images),
    }
    classes = classifier(images).argmax(dim=-1)
    for name, importance in maps.items():
        row, (shares, curves) = found.axes["method"].index(name), found.curve("deletion")
        assert shares == [count / n_patches for count in counts]
        for i in range(2):
            curve, _ = by_hand(classifier, images[i], importance[i], classes[i], blurred(images)[i], counts, False)
            close(curves[row, i], curve)
            close(found.values[row, 0, i], torch.trapezoid(curve, torch.tensor(counts).double() / n_patches))
        removed = perturbation_test(classifier, images, importance=importance, n_steps=4, perturbations="negative")
        close(found.values[row, 1], removed.areas()[0])
    assert not any(module._forward_hooks for module in classifier.modules())
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_maps_in_every_form_are_the_same(plain, images_of):
    images, classes = images_of(plain, 2), torch.tensor([1, 4])
    one = heatmap(plain, images, classes, method="legrad", warn=False)
    forms = {"flat": one.patches(), "grid": one.values, "array": one.values.numpy(), "result": one, "name": "legrad"}
    found = score(plain, images, classes, forms, baselines=False)
    assert found.axes["method"] == list(forms)
    for row in found.values[1:]:
        close(row, found.values[0])
    assert score(plain, images, classes, "legrad", baselines=False).axes["method"] == ["legrad"]
    assert score(plain, images, classes, [one, "occlusion"], baselines=False).axes["method"] == ["legrad", "occlusion"]
    assert score(plain, images, classes, one.values, baselines=False).axes["method"] == ["map"]
    # A map without a class can be scored against any, one with a class when its numbers are passed.
    free = heatmap(plain, images, method="attention_rollout", warn=False)
    assert score(plain, images, classes, free, baselines=False).values.isfinite().all()
    with pytest.raises(InputError, match="'legrad' is of another class than the one followed"):
        score(plain, images, torch.tensor([1, 5]), one)


def test_baselines_stand_beside_every_map(plain, images_of):
    images, classes = images_of(plain, 2), torch.tensor([1, 4])
    found = score(plain, images, classes, {"mine": random_maps(plain, images)}, n_draws=2, metrics=ON_CURVES)
    assert found.axes["method"] == ["mine", *BASELINES]
    by_name = {
        "centre_prior": centre_prior(plain, images),
        "raw_attention": METHODS["raw_attention"].function(plain, images),
        "seed 0": random_map(plain, images, seed=0),
        "seed 1": random_map(plain, images, seed=1),
    }
    expected = score(plain, images, classes, by_name, metrics=ON_CURVES, baselines=False)
    for name in ("values", "curves", "correct"):
        rows, known = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(rows[2:], known[:2], equal_nan=True)
        torch.testing.assert_close(rows[1], known[2:].mean(dim=0), equal_nan=True)
    assert not torch.allclose(expected.values[2], expected.values[3])
    # Those that are among the maps are not added again.
    named = score(plain, images, classes, ["random_map", "centre_prior"])
    assert named.axes["method"] == ["random_map", "centre_prior", "raw_attention"]


def test_classes_in_every_form(plain, images_of):
    images, maps = images_of(plain, 3), {"mine": random_maps(plain, images_of(plain, 3))}
    predicted = plain(images).argmax(dim=-1)
    by_default = score(plain, images, None, maps)
    close(by_default.values, score(plain, images, predicted, maps).values)
    assert by_default.classes[:, 0].tolist() == predicted.tolist()
    same = score(plain, images, 4, maps)
    close(same.values, score(plain, images, torch.full((3,), 4), maps).values)
    assert not torch.allclose(same.values, by_default.values)
    with pytest.raises(InputError, match="one class per picture, not 2"):
        score(plain, images, [1, 4], maps)


def test_batches_make_no_difference(plain, images_of):
    images = images_of(plain, 3)
    maps = {"mine": random_maps(plain, images)}
    together = score(plain, images, heatmaps=maps, metrics=ON_CURVES, baselines=False)
    small = score(plain, images, heatmaps=maps, metrics=ON_CURVES, baselines=False, batch_size=2)
    alone = score(plain, images[1:2], heatmaps={"mine": maps["mine"][1:2]}, metrics=ON_CURVES, baselines=False)
    close(small.values, together.values)
    close(alone.values[..., 0], together.values[..., 1])
    torch.testing.assert_close(alone.curves[:, :, 0], together.curves[:, :, 1], equal_nan=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_other_precisions(plain, images_of, dtype, tolerance):
    images, classes = images_of(plain, 2), torch.tensor([1, 4])
    maps, metrics = {"mine": random_maps(plain, images)}, ["deletion", "insertion", "negative_probability", "road"]
    exact = score(plain, images, classes, maps, metrics=metrics, baselines=False)
    rounded = score(plain.to(dtype), images.to(dtype), classes, maps, metrics=metrics)
    assert rounded.values.isfinite().all()
    close(rounded.values[:1], exact.values, tolerance)


def test_cost_and_shared_ends():
    model = HookedViT.from_timm(build(img_size=128))
    images, rows = noise_pictures((128, 128)), []
    maps = {f"map {seed}": random_maps(model, images, seed) for seed in range(2)}
    model.add_hook("hook_embed", lambda value, hook: rows.append(len(value)))
    score(model, images, heatmaps=maps, metrics=["deletion", "insertion"], n_steps=50, baselines=False, batch_size=32)
    assert sum(rows) == 2 * (1 + 1 + 2 * 2 * 49)
    rows.clear()
    score(model, images, heatmaps=maps["map 0"], metrics="deletion", n_steps=50, baselines=False, batch_size=32)
    model.reset_hooks()
    assert sum(rows) == 2 * 51
    assert max(rows) == 32


def test_metrics_that_are_functions_of_their_own(plain, images_of, monkeypatch):
    """They get the masks and their options, may know nothing of a picture, and are averaged over random maps too."""

    def covered(bench, masks, *, scale=1.0):
        def score(scored):
            share = scored.importance.softmax(dim=1)[:, 0] * scale
            return share.where(masks.inside.flatten(1).any(dim=1), torch.nan)

        return score

    metric = FaithfulnessMetric("covered", True, "Nothing in particular.", scorer=covered, needs_masks=True)
    monkeypatch.setitem(METRICS, "covered", metric)
    images, maps = images_of(plain, 3), random_maps(plain, images_of(plain, 3))
    masks = masks_of(images)
    masks[1] = False
    options = {"metrics": ["covered", "deletion"], "masks": masks, "options": {"covered": {"scale": 3.0}}}
    found = score(plain, images, None, {"mine": maps}, n_draws=2, **options)
    assert found.values[:, 0].isnan().any(dim=0).tolist() == [False, True, False]
    close(found.values[0, 0, [0, 2]], 3 * maps.softmax(dim=1)[[0, 2], 0])
    seeds = torch.stack([random_map(plain, images, seed=seed).softmax(dim=1) for seed in range(2)])
    close(found.values[1, 0, 0], 3 * seeds[:, 0, 0].mean())
    known = found.values[0, 0, [0, 2]].mean().item()
    assert found.summary().loc["mine", ("covered", "mean")] == pytest.approx(known)
    alone = score(plain, images, None, {"mine": maps}, metrics="covered", masks=masks)
    assert (alone.curve_names, alone.curves.numel()) == ([], 0)
    assert "–" not in str(alone)
    with pytest.raises(InputError, match="pass masks="):
        score(plain, images, metrics=["deletion", "covered"])
    names = score(plain, images, None, {"mine": maps}, metrics="all").axes["metric"]
    assert names == [name for name in METRICS if not METRICS[name].needs_masks and name != "randomisation"]
    with pytest.raises(InputError, match="was made from a timm module"):
        score(plain, images, None, {"mine": maps}, metrics="randomisation")


# ---- what is returned ----


def test_curves_belong_to_their_metrics(result):
    assert result.curve_names == list(CURVES)
    longest = max(result.shares.isfinite().sum(dim=1)).item()
    assert result.curves.shape == result.correct.shape == (5, len(CURVES), 5, longest)
    for name in ON_CURVES:
        metric = METRICS[name]
        shares = result.curve(metric.curves[0])[0]
        values = [result.curve(curve, metric.quantity)[1] for curve in metric.curves]
        for row in range(5):
            expected = metric.combine(*(value[row].double() for value in values), shares)
            close(result.values[row, result.axes["metric"].index(name)], expected)
    assert result.curve("road_morf")[0] == [4 / 9, 6 / 9]
    assert result.curve("positive")[1].unique().tolist()[-1] == 1
    for name, quantity, sentence in (
        ("area", None, "no curve 'area'"),
        ("deletion", "loss", "probability or accuracy"),
    ):
        with pytest.raises(InputError, match=sentence):
            result.curve(name, quantity)


def test_the_tables_intervals_are_the_bootstraps(result):
    table = result.summary(level=0.9, n_draws=200)
    assert list(table.index) == ["one", "two", *BASELINES]
    for row, method in enumerate(table.index):
        for column, metric in enumerate(result.axes["metric"]):
            values = result.values[row, column].numpy()
            ends = bootstrap(values, level=0.9, n_draws=200)
            np.testing.assert_allclose(table.loc[method, metric].to_numpy(), ends, rtol=1e-12, atol=1e-12)
            assert table.loc[method, (metric, "mean")] == pytest.approx(values.mean())
    assert (table["deletion"]["low"] < table["deletion"]["high"]).all()


def test_tables_of_few_pictures_say_so(result):
    assert "intervals over 5 pictures are unreliable" in str(result)
    assert few(1) == "; one picture has no interval"
    assert few(10) == ""


def test_pairs_of_methods(result):
    paired = result.paired("one", "centre_prior", n_draws=200)
    for column, metric in enumerate(result.axes["metric"]):
        difference = (result.values[0, column] - result.values[3, column]).numpy()
        expected = bootstrap(difference, n_draws=200)
        np.testing.assert_allclose(
            paired.loc[metric, ["difference", "low", "high"]].astype(float), expected, atol=1e-12
        )
    same = result.paired("one", "one")
    assert (same["difference"] == 0).all()
    assert (same["better"] == "").all()
    with pytest.raises(InputError, match="no method 'three'"):
        result.paired("one", "three")


def test_who_is_better(plain, images_of):
    images = images_of(plain, 8)
    true = heatmap(plain, images, method="occlusion", replacement="blur", warn=False).patches()
    found = score(plain, images, heatmaps={"true": true, "false": -true}, metrics=["deletion", "insertion"], n_steps=9)
    paired = found.paired("false", "true")
    assert paired.loc["deletion", "difference"] > 0 > paired.loc["insertion", "difference"]
    assert paired["better"].tolist() == ["true", "true"]
    assert found.paired("true", "false")["better"].tolist() == ["true", "true"]


def test_every_metric_says_what_it_is(result):
    written = str(result)
    for name in result.axes["metric"]:
        definition = result.definitions()[name]
        assert definition[0] == METRICS[name].arrow
        assert f"\n{name} {definition}" in written
        assert f"{METRICS[name].title}" in written.split("\n")[2]
    mean, low, high = result.summary().loc["two", "insertion"]
    assert f"{mean:.3f} [{low:.3f}, {high:.3f}]" in written
    assert "5 pictures, predicted class, replacement blur" in written
    metrics = faithfulness_metrics()
    assert list(metrics.index) == list(METRICS)
    for name, metric in METRICS.items():
        assert metric.definition.endswith(".")
        assert len(metric.definition) > 40
        assert bool(metric.curves) == (metric.combine is not None) == (metric.scorer is None)
        assert metrics.loc[name, "better"] == ("↑" if metric.higher_is_better else "↓")
    assert METRICS["deletion"].arrow == METRICS["positive"].arrow == METRICS["road_morf"].arrow == "↓"
    assert METRICS["insertion"].arrow == METRICS["negative"].arrow == METRICS["road_lerf"].arrow == "↑"


def test_saved_and_read_back(result, tmp_path):
    result.save(tmp_path / "scores.safetensors")
    back = load_result(tmp_path / "scores.safetensors")
    assert type(back) is type(result)
    for name in ("values", "curves", "correct", "shares", "classes"):
        torch.testing.assert_close(getattr(back, name), getattr(result, name), equal_nan=True, rtol=0, atol=0)
    assert str(back) == str(result)
    assert back.curve("pixel_negative")[0] == result.curve("pixel_negative")[0]
    frame = back.to_frame()
    assert len(frame) == result.values.numel()
    assert frame["score"].tolist() == result.values.flatten().tolist()


# ---- refusals ----


def test_wrong_maps(plain, images_of):
    images = images_of(plain, 2)
    maps = random_maps(plain, images)
    for bad, sentence in [
        ({"mine": maps[:1]}, r"'mine' is \[2, 9\] or \[2, 3, 3\]"),
        ({"mine": maps[:, :8]}, r"not \[2, 8\]"),
        ({"mine": maps.where(maps != maps.max(), torch.nan)}, "'mine' has NaN"),
        ({"fine": maps, "mine": maps.where(maps != maps.max(), torch.inf)}, "'mine' has NaN or infinite"),
        ([maps, maps], "need names"),
        (["occlusion", "occlusion"], "two maps called occlusion"),
        ("oclusion", "the nearest are occlusion"),
    ]:
        with pytest.raises(InputError, match=sentence):
            score(plain, images, heatmaps=bad)


def test_wrong_settings(plain, images_of):
    images = images_of(plain, 2)
    for options, sentence in [
        ({"metrics": "deletoin"}, "no metric 'deletoin': the nearest are deletion"),
        ({"metrics": []}, "at least one metric"),
        ({"replacement": "blurr"}, "blur, black, not 'blurr'"),
        ({"n_steps": 0}, "n_steps is a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size is a whole number of at least 1"),
        ({"n_draws": 0}, "n_draws is a whole number of at least 1"),
        ({"road_shares": (0.5, 1.0)}, "between 0 and 1"),
        ({"road_shares": ()}, "between 0 and 1"),
        ({"masks": masks_of(images)[:, 1:]}, r"masks have the shape \[2, 48, 48\]"),
        ({"options": {"deletion": {"n": 1}}}, "not 'deletion'"),
    ]:
        with pytest.raises(InputError, match=sentence):
            score(plain, images, **options)


def test_without_a_classifier(headless, images_of):
    with pytest.raises(InputError, match="without a classifier"):
        score(headless, images_of(headless, 2))
