"""A real ImageNet ViT-Ti/16 on real photographs, where the folder shared/assets beside the repository holds them."""

from pathlib import Path

import pytest
import timm
import torch

from vitlens import HookedViT, activation_patching, direct_logit_attribution, evaluate_heatmaps, explore, heatmap
from vitlens.choose import box

ASSETS = Path(__file__).parents[2] / "shared" / "assets"
WEIGHTS = ASSETS / "vit_tiny_patch16_224_imagenet1k.safetensors"
pytestmark = pytest.mark.skipif(not WEIGHTS.exists(), reason=f"no {WEIGHTS.name} in shared/assets")

DOGS, CATS = range(151, 269), range(281, 286)


@pytest.fixture(scope="module")
def model():
    return HookedViT.from_timm("vit_tiny_patch16_224", checkpoint_path=WEIGHTS)


@pytest.fixture(scope="module")
def cat_and_dog(model):
    """The dog sits above, the cat lies below; and the same picture with one half grey."""
    image = model.to_images(ASSETS / "photos" / "catdog.png")
    without_dog, without_cat = image.clone(), image.clone()
    without_dog[:, :, :112] = 0
    without_cat[:, :, 112:] = 0
    return image, without_dog, without_cat


def dogs_over_cats(logits: torch.Tensor) -> torch.Tensor:
    dogs = logits[:, list(DOGS)].logsumexp(-1)
    return dogs - logits[:, list(CATS)].logsumexp(-1)


def test_the_port_answers_as_timm_does_on_photographs(model):
    files = sorted((ASSETS / "photos" / "imagenet").glob("*.jpg"))[:24]
    images = model.to_images(files)
    module = timm.create_model("vit_tiny_patch16_224", pretrained=False, checkpoint_path=str(WEIGHTS)).eval()
    with torch.no_grad():
        ours, theirs = model(images), module(images)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    truth = torch.tensor([int(file.name[:4]) for file in files])
    assert (ours.argmax(-1) == truth).float().mean() > 0.6


@pytest.mark.parametrize("missing", ["dog half", "cat half"])
def test_patching_tells_the_dogs_half_from_the_cats(model, cat_and_dog, missing):
    """Only the half that was greyed brings back what the grey took away."""
    image, without_dog, without_cat = cat_and_dog
    corrupted = {"dog half": without_dog, "cat half": without_cat}[missing]
    halves = {"dog half": box(0, 0, 7, 14), "cat half": box(7, 0, 7, 14)}
    result = activation_patching(
        model, image, corrupted, metric=dogs_over_cats, tokens=halves, blocks=[0, 4], progress=False
    )
    for name, effect in zip(halves, result.effect().T, strict=True):
        if name == missing:
            assert (effect > 0.9).all(), name
        else:
            assert (effect.abs() < 0.1).all(), name


def test_patching_row_by_row_points_to_the_dog(model, cat_and_dog):
    image, without_dog, _ = cat_and_dog
    rows = {f"row {row}": box(row, 0, 1, 14) for row in range(14)}
    result = activation_patching(
        model, image, without_dog, metric=dogs_over_cats, tokens=rows, blocks=[4, 6], progress=False
    )
    for effect in result.effect():
        assert effect[:7].sum() > 5 * effect[7:].sum().abs()
        assert effect.argmax() < 7


@pytest.mark.slow
def test_the_token_mask_says_which_tokens_carry_the_decision(model):
    """D4 beside its path's promise, and beside maps that know less: removal of tokens in their order (D3)."""
    files = sorted((ASSETS / "photos" / "imagenet").glob("*.jpg"))[::30]
    images = model.to_images(files)
    found = heatmap(model, images, method="token_mask", warn=False)
    assert found.completeness_gap.abs().max() < 0.1
    scores = evaluate_heatmaps(
        model, images, found.classes[:, 0], heatmaps=[found], metrics=["negative", "positive", "insertion"], n_steps=7,
        n_draws=1, progress=False,
    ).summary()  # fmt: skip
    assert scores.loc["token_mask", ("negative", "low")] > scores.loc["random", ("negative", "mean")]
    for name in ("random", "centre_prior"):
        assert scores.loc["token_mask", ("positive", "high")] < scores.loc[name, ("positive", "mean")]
        assert scores.loc["token_mask", ("insertion", "low")] > scores.loc[name, ("insertion", "mean")]


def test_attribution_tells_dog_from_cat(model, cat_and_dog):
    _, without_dog, without_cat = cat_and_dog
    pictures = torch.cat([without_cat, without_dog])
    result = direct_logit_attribution(model, pictures, "bull mastiff", baseline_classes="tabby")
    assert result.residual.abs().max() < 1e-4
    written = result.values[:, 0, [i for i, label in enumerate(result.axes["component"]) if label.startswith("L")]]
    dog_alone, cat_alone = written.sum(-1)
    assert dog_alone > 0 > cat_alone


@pytest.mark.slow
def test_the_page_of_a_photograph(model, tmp_path):
    explore(model, ASSETS / "photos" / "catdog.png", "tabby", progress=False).save(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 6 * 2**20
