"""Maps beside masks of the object: the pointing game, the patches' AUROC, segmentation; against scikit-learn and loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from faithfulness.conftest import random_maps
from sklearn.metrics import average_precision_score, roc_auc_score

from vitlens import InputError, evaluate_heatmaps, load_demo, load_result
from vitlens.faithfulness import evaluate_segmentation
from vitlens.faithfulness.localisation import patch_auroc, pointing_game
from vitlens.faithfulness.maps import ScoredMap
from vitlens.faithfulness.run import bench_of
from vitlens.statistics import bootstrap


def some_masks(images, seed=0):
    """Smooth blobs that do not follow the grid."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randn(len(images), 1, 5, 5, generator=generator)
    return F.interpolate(low, images.shape[-2:], mode="bicubic")[:, 0] > 0.2


@pytest.fixture
def case(plain, images_of):
    images = images_of(plain, 3)
    return bench_of(plain, images, 1), random_maps(plain, images), some_masks(images)


def test_the_pointing_game_counts_pixels_from_the_centre(case):
    bench, maps, _ = case
    down, across = bench.model.cfg.patch_size
    height, width = bench.images.shape[-2:]
    masks = torch.zeros(3, height, width, dtype=torch.bool)
    for image in range(3):
        row, column = divmod(int(maps[image].argmax()), bench.grid[1])
        masks[image, row * down + down // 2, column * across + across // 2] = True
    assert pointing_game(bench, masks, tolerance=0.0)(ScoredMap(maps)).tolist() == [1, 1, 1]
    moved = masks.roll(4, dims=1)
    far = [moved[i].nonzero()[0, 0].item() - masks[i].nonzero()[0, 0].item() for i in range(3)]
    assert pointing_game(bench, moved, tolerance=2.0)(ScoredMap(maps)).tolist() == [0, 0, 0]
    expected = [float(abs(step) == 4) for step in far]
    assert pointing_game(bench, moved, tolerance=5.0)(ScoredMap(maps)).tolist() == expected
    assert 1.0 in expected
    empty = pointing_game(bench, torch.zeros_like(masks))(ScoredMap(maps))
    assert empty.isnan().all()
    with pytest.raises(InputError, match="0 or more"):
        pointing_game(bench, masks, tolerance=-1.0)(ScoredMap(maps))


def test_patch_auroc_is_scikit_learns(case):
    bench, maps, masks = case
    maps = (maps * 2).round()  # ties
    masks[2] = False
    found = patch_auroc(bench, masks)(ScoredMap(maps))
    down, across = bench.model.cfg.patch_size
    for image in range(2):
        patches = masks[image, : bench.grid[0] * down, : bench.grid[1] * across].double()
        inside = F.avg_pool2d(patches[None, None], (down, across)).flatten() >= 0.5
        assert found[image].item() == pytest.approx(roc_auc_score(inside, maps[image]), abs=1e-12)
    assert found[2].isnan()


@pytest.mark.parametrize("level", [0.95])
def test_segmentation_as_chefer_measures_it(case, level):
    bench, maps, masks = case
    found = evaluate_segmentation(
        bench.model, bench.images, 1, masks=masks, heatmaps={"mine": maps}, n_draws=2, progress=False
    )
    assert found.axes["method"] == ["mine", "random", "centre_prior", "raw_attention", "all_background"]
    down, across = bench.model.cfg.patch_size
    correct = labelled = 0
    inter, union, precision = np.zeros(2), np.zeros(2), []
    for values, mask in zip(maps, masks, strict=True):
        grid = values.unflatten(0, bench.grid)[None, None]
        large = F.interpolate(grid, scale_factor=(down, across), mode="bilinear")[0, 0]
        large = (large - large.min()) / (large.max() - large.min())
        truth = mask[: large.shape[0], : large.shape[1]]
        large = large[: truth.shape[0], : truth.shape[1]]
        said = large > large.mean()
        correct, labelled = correct + (said == truth).sum().item(), labelled + truth.numel()
        for value in (0, 1):
            inter[value] += ((said == value) & (truth == value)).sum().item()
            union[value] += ((said == value) | (truth == value)).sum().item()
        one_hot = np.stack([~truth.numpy(), truth.numpy()]).flatten()
        precision.append(average_precision_score(one_hot, torch.stack([1 - large, large]).flatten().numpy()))
    table = found.summary(level=level)
    assert table.loc["mine", ("pixel_accuracy", "mean")] == pytest.approx(correct / labelled, abs=1e-12)
    assert table.loc["mine", ("mIoU", "mean")] == pytest.approx((inter / union).mean(), abs=1e-12)
    assert table.loc["mine", ("mAP", "mean")] == pytest.approx(np.mean(precision), abs=1e-9)
    nothing = 1 - masks.double().mean().item()
    if bench.grid[0] * down == masks.shape[1] and bench.grid[1] * across == masks.shape[2]:
        assert table.loc["all_background", ("pixel_accuracy", "mean")] == pytest.approx(nothing, abs=1e-12)
        assert table.loc["all_background", ("mIoU", "mean")] == pytest.approx(nothing / 2, abs=1e-12)
    for name in table.columns.levels[0]:
        mean, low, high = table.loc["mine", name]
        assert low <= mean + 1e-12
        assert mean <= high + 1e-12
    counts = found.values[0, :4].double().numpy()
    ends = bootstrap(counts[[0, 3]].sum(axis=0), counts.sum(axis=0), level=level)
    np.testing.assert_allclose(table.loc["mine", "pixel_accuracy"].to_numpy(), ends, rtol=1e-12)
    ends = bootstrap(found.values[0, 5].numpy(), level=level)
    np.testing.assert_allclose(table.loc["mine", "patch_auroc"].to_numpy(), ends, rtol=1e-12)
    assert "mIoU" in str(found)


def test_a_perfect_map_and_its_opposite(plain, images_of):
    images = images_of(plain, 2)
    rows, columns = plain.embed.grid(*images.shape[-2:])
    down, across = plain.cfg.patch_size
    patches = torch.zeros(2, rows, columns, dtype=torch.bool)
    patches[0, : rows // 2], patches[1, :, : max(1, columns // 2)] = True, True
    masks = patches.repeat_interleave(down, 1).repeat_interleave(across, 2)
    masks = F.pad(masks, (0, images.shape[3] - masks.shape[2], 0, images.shape[2] - masks.shape[1]))
    maps = {"right": patches.double(), "wrong": -patches.double()}
    found = evaluate_segmentation(plain, images, 1, masks=masks, heatmaps=maps, baselines=False, progress=False)
    assert found.axes["method"] == ["right", "wrong"]
    table = found.summary()
    # Bilinear enlargement blurs the edge: most pixels, not all.
    assert table.loc["right", ("pixel_accuracy", "mean")] > 0.85
    assert table.loc["wrong", ("pixel_accuracy", "mean")] < 0.15
    assert table.loc["right", ("patch_auroc", "mean")] == 1
    assert table.loc["wrong", ("patch_auroc", "mean")] == 0


def test_saving_and_loading(case, tmp_path):
    bench, maps, masks = case
    found = evaluate_segmentation(
        bench.model, bench.images, 1, masks=masks, heatmaps={"mine": maps}, n_draws=1, progress=False
    )
    found.save(tmp_path / "segmentation.safetensors")
    again = load_result(tmp_path / "segmentation.safetensors")
    assert again.summary().equals(found.summary())


def test_masks_of_another_size(case):
    bench, maps, masks = case
    with pytest.raises(InputError, match="masks have the shape"):
        evaluate_segmentation(bench.model, bench.images, 1, masks=masks[:2], heatmaps=maps, progress=False)
    with pytest.raises(InputError, match="masks have the shape"):
        evaluate_heatmaps(
            bench.model, bench.images, 1, heatmaps=maps, metrics="pointing_game", masks=masks[:, 1:], progress=False
        )


def test_the_demo_models_maps_find_the_garment():
    model, images, labels, masks = load_demo()
    found = evaluate_segmentation(
        model, images[:8], labels[:8], masks=masks[:8], heatmaps=["gradient_rollout"], n_draws=1, progress=False
    ).summary()
    assert found.loc["gradient_rollout", ("mIoU", "low")] > found.loc["random", ("mIoU", "high")]
    assert found.loc["gradient_rollout", ("mIoU", "low")] > found.loc["all_background", ("mIoU", "high")]
