"""The sentence on heatmaps that artefact tokens corrupt, on outliers planted by hand and in a trained model."""

import pytest
import torch
from outliers import BRIGHT
from ported import build
from variants import pictures

from vitlens import HookedViT, InputError, heatmap
from vitlens.description.artefacts import artefact_sentences, artefact_tokens, artefact_warning

SENTENCE = "1 artefact token (6.2 % of the patches) carries {} of this map"
LED = "1 of the 5 strongest patches is an artefact token: {}"


@pytest.fixture
def maps():
    """16 patches of 1, and the bright one as it is set."""

    def make(*values):
        made = torch.ones(len(values), 16)
        for image, value in enumerate(values):
            row, column = BRIGHT[image]
            made[image, 4 * row + column] = value
        return made

    return make


def test_planted_artefacts_are_found(planted):
    model, images = planted
    found = artefact_tokens(model, images, batch_size=2)
    expected = torch.zeros(3, 4, 4, dtype=torch.bool)
    for image, place in enumerate(BRIGHT):
        expected[image][place] = True
    assert torch.equal(found, expected.flatten(1))
    assert torch.equal(found, artefact_tokens(model, images, late_block=1))
    assert not artefact_tokens(model, images, late_block=0).any()
    assert not artefact_tokens(model, images, outlier_threshold=1000.0).any()


def test_only_the_maps_that_artefacts_carry_are_warned_of(planted, maps):
    model, images = planted
    found = artefact_warning(model, images, values=maps(15.0, 1.0, -5.0))
    both = [f"{SENTENCE.format(share)}; {LED.format(BRIGHT[image])}" for image, share in ((0, "50 %"), (2, "25 %"))]
    assert found == [both[0], None, both[1]]
    assert artefact_warning(model, images, values=maps(15.0, 1.0, -5.0).unflatten(1, (4, 4))) == found
    scaled = maps(15.0, 1.0, -5.0) * torch.tensor([[1e-6], [1e6], [-3.0]])
    assert artefact_warning(model, images, values=scaled) == found
    elsewhere = torch.ones(3, 16)
    elsewhere[:, 8] = 50
    assert artefact_warning(model, images, values=elsewhere) == [None] * 3


def test_thresholds(planted, maps):
    """A share of 1/16 of the patches: 3 times that is 18.75 %."""
    model, images = planted
    just = 15 * 0.1876 / (1 - 0.1876)
    below = 15 * 0.1874 / (1 - 0.1874)
    values = maps(just, below, below)
    carried = {"among": 0}
    assert artefact_warning(model, images, values=values, **carried) == [SENTENCE.format("19 %"), None, None]
    assert artefact_warning(model, images, values=values, times=2.0, **carried) == [SENTENCE.format("19 %")] * 3
    assert artefact_warning(model, images, values=values, least_share=0.2, **carried) == [None] * 3
    assert artefact_warning(model, images, values=maps(15.0, 15.0, 15.0), outlier_threshold=1000.0) == [None] * 3


def test_an_artefact_among_the_strongest_patches_is_warned_of_whatever_it_carries():
    """A zebra's gradient rollout: two corners lead, and carry 8 % of the map."""
    values = torch.ones(2, 100)
    values[0, [3, 11, 20, 30, 40]] = torch.tensor([1.5, -1.4, 1.3, 1.2, 1.1])
    values[1, [3, 11, 20, 30, 40, 50]] = torch.tensor([1.5, 1.4, 1.4, 1.3, 1.2, 1.1])
    artefact = torch.zeros(2, 100, dtype=torch.bool)
    artefact[0, [11, 40, 99]] = True
    artefact[1, [50, 99]] = True
    assert artefact_sentences(values, artefact, 10) == [
        "2 of the 5 strongest patches are artefact tokens: (1, 1), (4, 0)",
        None,
    ]
    assert (
        artefact_sentences(values, artefact, 10, among=6)[1]
        == "1 of the 6 strongest patches is an artefact token: (5, 0)"
    )
    # Of equals none is stronger than the others, and of a few patches all are strongest.
    assert artefact_sentences(torch.ones(1, 100), artefact[:1], 10, times=20.0) == [None]
    assert artefact_sentences(values[:, :5], artefact[:, :5] | True, 5, times=20.0) == [None, None]


def test_empty_maps_are_not_warned_of(planted):
    model, images = planted
    assert artefact_warning(model, images, values=torch.zeros(3, 16)) == [None] * 3


@pytest.mark.parametrize(
    "name", ["class_token", "registers", "distilled", "attention_pool", "post_norm", "parallel", "rotary", "any_size"]
)
def test_architectures(name):
    classifier = build(name)
    images = pictures(classifier.cfg, 3)
    _, cache = classifier.run_with_cache(images, names_filter="resid_post")
    late = max(classifier.cfg.n_layers - 2, 0)
    norms = cache["resid_post", late][:, classifier.cfg.n_prefix_tokens :].norm(dim=-1)
    expected = norms > 1.05 * norms.median(dim=1, keepdim=True).values
    assert torch.equal(artefact_tokens(classifier, images, outlier_threshold=1.05), expected)
    found = artefact_warning(
        classifier, images, values=expected.double(), outlier_threshold=1.05, least_share=0.0, times=0.0
    )
    n = expected.shape[1]
    for image, sentence in enumerate(found):
        count = int(expected[image].sum())
        assert (sentence is not None) == (count > 0)
        if sentence is not None:
            assert f"{count} artefact token" in sentence
            assert f"({100 * count / n:.1f} % of the patches)" in sentence
            assert "100 % of this map" in sentence


def test_corners_of_a_trained_model(assets):
    weights = assets / "vit_tiny_patch16_224_imagenet1k.safetensors"
    model = HookedViT.from_timm("vit_tiny_patch16_224", checkpoint_path=weights)
    images = model.to_images(sorted((assets / "photos" / "imagenet").glob("*.jpg"))[:4])
    _, cache = model.run_with_cache(images, names_filter="pattern")
    found = artefact_warning(model, images, values=cache["pattern", -1][:, :, 0, 1:].mean(dim=1))
    assert sum(sentence is not None for sentence in found) >= 3
    assert found[0].startswith("4 artefact tokens (2.0 % of the patches) carry ")
    assert artefact_warning(model, images, values=torch.rand(4, 14, 14), among=0) == [None] * 4
    # The picture on which attention rollout's strongest patches are corners.
    zebra = next((assets / "photos" / "imagenet").glob("0340_*"), None)
    if zebra is not None:
        rollout = heatmap(model, zebra, method="attention_rollout")
        assert "strongest patches" in rollout.warnings[0]
        assert rollout.artefacts[0].nonzero().tolist() == [[0, 0], [0, 13], [13, 0], [13, 13]]


def test_wrong_input(planted):
    model, images = planted
    values = torch.ones(3, 16)
    for arguments, message in [
        ({"outlier_threshold": 1.0}, "above 1, not 1"),
        ({"late_block": 3}, "no block 3"),
    ]:
        with pytest.raises(InputError, match=message):
            artefact_warning(model, images, values=values, **arguments)
    for wrong in (torch.ones(2, 16), torch.ones(3, 17), torch.ones(3, 2, 8)):
        with pytest.raises(InputError, match=r"\[3, 16\] or \[3, 4, 4\], not"):
            artefact_warning(model, images, values=wrong)
    with pytest.raises(InputError, match="not a dictionary of patches"):
        artefact_warning(model, {"patches": images}, values=values)


def test_pictures_of_another_size():
    model = build("dynamic_size")
    images = torch.randn(2, 3, 32, 64, dtype=torch.float64)
    assert artefact_warning(model, images, values=torch.ones(2, 2, 4)) == [None, None]
    assert artefact_tokens(model, pictures(model.cfg, 2)).shape == (2, 9)
