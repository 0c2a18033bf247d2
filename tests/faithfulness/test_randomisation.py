"""Maps of models with re-initialised weights: the metric, the cascade from the classifier down, and rank correlation."""

import pytest
import torch
from faithfulness.conftest import close, random_maps
from scipy import stats

from vitlens import HookedViT, InputError, evaluate_heatmaps, heatmap
from vitlens.faithfulness import randomisation_test
from vitlens.faithfulness.randomisation import rank_correlation

NAME = "vit_tiny_patch16_224"
SMALL = {"depth": 3, "embed_dim": 24, "num_heads": 2, "img_size": 64, "num_classes": 7}


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        found = HookedViT.from_timm(NAME, pretrained=False, dtype=torch.float64, **SMALL)
        with torch.no_grad():
            for parameter in found.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return found


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def spearman(one, other):
    return abs(stats.spearmanr(one.flatten().numpy(), other.flatten().numpy()).statistic)


def test_rank_correlation_is_spearmans():
    generator = torch.Generator().manual_seed(0)
    one = torch.randint(0, 5, (3, 16), generator=generator).double()
    other = torch.randint(0, 5, (3, 16), generator=generator).double()
    for found, a, b in zip(rank_correlation(one, other), one, other, strict=True):
        assert found.item() == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert rank_correlation(torch.ones(1, 4).double(), torch.rand(1, 4).double()).item() == 0


def test_the_metric_maps_again_with_fresh_weights(model, images):
    classes = torch.tensor([1, 4])
    maps = {
        "by name": "gradient_rollout",
        "with options": heatmap(model, images, classes, method="raw_attention", block=0, warn=False),
        "numbers": random_maps(model, images),
    }
    found = evaluate_heatmaps(model, images, classes, heatmaps=maps, metrics="randomisation", progress=False)
    fresh = model.with_fresh_weights(0)
    again = {
        "by name": heatmap(fresh, images, classes, method="gradient_rollout", warn=False),
        "with options": heatmap(fresh, images, method="raw_attention", block=0, warn=False),
    }
    trained = {"by name": heatmap(model, images, classes, method="gradient_rollout", warn=False), **maps}
    trained["by name"] = heatmap(model, images, classes, method="gradient_rollout", warn=False)
    for row, name in enumerate(again):
        for image in range(2):
            expected = spearman(trained[name].values[image], again[name].values[image])
            assert found.values[row, 0, image].item() == pytest.approx(expected, abs=1e-9)
    # Nobody knows how these numbers came about; what does not look at the weights stays as it is.
    assert found.values[2].isnan().all()
    close(found.values[found.axes["method"].index("random")], torch.ones(1, 2, dtype=torch.float64))
    close(found.values[found.axes["method"].index("centre_prior")], torch.ones(1, 2, dtype=torch.float64))
    assert (found.values[found.axes["method"].index("raw_attention")] < 1 - 1e-6).all()


def test_a_map_of_pictures_that_were_not_kept_is_not_made_again(model, images):
    other = heatmap(model, images, 1, method="patching_effect", replacement=images.flip(0), warn=False)
    found = evaluate_heatmaps(
        model, images, 1, heatmaps=other, metrics="randomisation", baselines=False, progress=False
    )
    assert found.values.isnan().all()


def test_the_cascade_goes_from_the_classifier_to_everything(model, images):
    methods = ["gradient_rollout", "attention_rollout", "centre_prior"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = randomisation_test(model, images, [1], methods=methods, seed=5, progress=False)
    assert found.axes["depth"] == [
        "nothing", "classifier", "blocks 2 and later", "blocks 1 and later", "blocks 0 and later", "everything",
    ]  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    close(found.values[:, 0], torch.ones(3, 2, dtype=torch.float64))
    close(found.values[2], torch.ones(6, 2, dtype=torch.float64))
    # Attention knows nothing of the classifier, but of the blocks.
    close(found.values[1, 1], torch.ones(2, dtype=torch.float64))
    assert (found.values[1, 3:] < 1 - 1e-6).all()
    assert (found.values[0, 1:] < 1 - 1e-6).all()
    fresh = model.with_fresh_weights(5)
    for row, name in enumerate(methods[:2]):
        maps = [heatmap(m, images, [1], method=name, warn=False).values for m in (model, fresh)]
        for image in range(2):
            assert found.values[row, -1, image].item() == pytest.approx(spearman(*(m[image] for m in maps)), abs=1e-9)
    # One block is what differs between two depths.
    mixed = model.with_fresh_weights(0)
    mixed.load_state_dict(model.state_dict())
    mixed.load_state_dict(
        {
            name: value
            for name, value in fresh.state_dict().items()
            if not name.startswith(("embed", "blocks.0", "blocks.1"))
        },
        strict=False,
    )
    maps = [heatmap(m, images, [1], method="gradient_rollout", warn=False).values for m in (model, mixed)]
    assert found.values[0, 2, 0].item() == pytest.approx(spearman(*(m[0] for m in maps)), abs=1e-9)


def test_one_method_may_be_named_alone(model, images):
    found = randomisation_test(model, images, 1, methods="centre prior", progress=False)
    assert found.axes["method"] == ["centre_prior"]


def test_what_cannot_be_randomised(plain, images_of, model, images):
    with pytest.raises(InputError, match="was made from a timm module"):
        randomisation_test(plain, images_of(plain, 1), progress=False)
    with pytest.raises(InputError, match="the nearest are token_mask"):
        randomisation_test(model, images, 1, methods=["token_masks"], progress=False)
    with pytest.raises(InputError, match="one class per picture"):
        randomisation_test(model, images, [1, 2], progress=False)
