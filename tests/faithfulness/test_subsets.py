"""Sums of importances beside what the class loses without the patches: against loops, captum, and additive models."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from faithfulness.conftest import close, random_maps
from scipy import stats
from torch import Tensor

from vitlens import InputError, evaluate_heatmaps
from vitlens.data.counterfactuals import blurred
from vitlens.faithfulness.curves import Bench
from vitlens.faithfulness.maps import ScoredMap
from vitlens.faithfulness.run import bench_of
from vitlens.faithfulness.subsets import infidelity, random_sets, random_squares, saco, sensitivity_n

ALL = {"sensitivity_n": sensitivity_n, "infidelity": infidelity, "saco": saco}


@pytest.fixture
def bench(plain, images_of):
    return bench_of(plain, images_of(plain, 2), torch.tensor([1, 4]), batch_size=7)


@dataclass(frozen=True)
class AdditiveBench(Bench):
    """A model whose class loses the sum of the patches' true importances."""

    truth: Tensor | None = None

    def drops(self, patches: Tensor) -> Tensor:
        return (patches.double() * self.truth[:, None]).sum(dim=-1)


@pytest.fixture
def additive(bench):
    truth = random_maps(bench.model, bench.images)
    found = AdditiveBench(bench.model, bench.images, bench.classes, bench.logits, truth=truth)
    return found, truth


def by_hand(bench, image, patches):
    """What the class loses without each set of patches, one picture at a time."""
    hidden = blurred(bench.images)[image]
    found = []
    for chosen in patches:
        pixels = bench.pixels_of(chosen[None])[0]
        with torch.no_grad():
            logits = bench.model(torch.where(pixels, hidden, bench.images[image])[None])
        found.append(
            bench.logits.softmax(-1)[image, bench.classes[image]] - logits.softmax(-1)[0, bench.classes[image]]
        )
    return torch.stack(found).double()


def test_an_additive_model_is_said_exactly(additive):
    bench, truth = additive
    for scale in (1.0, 3.5):
        close(sensitivity_n(bench)(ScoredMap(scale * truth)), torch.ones(2, dtype=torch.float64))
        close(infidelity(bench)(ScoredMap(scale * truth)), torch.zeros(2, dtype=torch.float64))
        close(saco(bench)(ScoredMap(scale * truth + 2)), torch.ones(2, dtype=torch.float64))
    close(sensitivity_n(bench)(ScoredMap(-truth)), -torch.ones(2, dtype=torch.float64))
    close(saco(bench)(ScoredMap(-truth)), -torch.ones(2, dtype=torch.float64))
    close(infidelity(bench)(ScoredMap(torch.zeros_like(truth))), torch.ones(2, dtype=torch.float64))
    other = ScoredMap(random_maps(bench.model, bench.images, 7))
    assert (sensitivity_n(bench)(other).abs() < 0.9).all()
    assert (infidelity(bench)(other) > 0.01).all()


def test_sensitivity_n_as_in_a_loop(bench):
    maps = random_maps(bench.model, bench.images)
    found = sensitivity_n(bench, shares=(0.3, 0.6), n_draws=5, seed=3)(ScoredMap(maps))
    sizes = [round(share * bench.n_patches) for share in (0.3, 0.6)]
    patches = random_sets(bench, sizes, 5, seed=3)
    drops = bench.drops(patches)
    assert patches.sum(dim=-1).tolist() == [[size for size in sizes for _ in range(5)]] * 2
    for image in range(2):
        close(drops[image], by_hand(bench, image, patches[image]))
        sums = [maps[image, chosen].sum().item() for chosen in patches[image]]
        parts = [slice(0, 5), slice(5, 10)]
        expected = np.mean([stats.pearsonr(sums[part], drops[image, part]).statistic for part in parts])
        assert found[image].item() == pytest.approx(expected, abs=1e-9)


def test_infidelity_as_in_captum(bench):
    maps = random_maps(bench.model, bench.images)
    found = infidelity(bench, n_draws=6)(ScoredMap(maps))
    patches = random_squares(bench, 6)
    drops = bench.drops(patches)
    rows, columns = bench.grid
    for chosen in patches.flatten(0, 1).unflatten(1, (rows, columns)):
        down, across = chosen.any(dim=1).sum().item(), chosen.any(dim=0).sum().item()
        assert chosen.sum() == down * across
        assert down == across
    for image in range(2):
        close(drops[image], by_hand(bench, image, patches[image]))
        sets = iter(patches[image])
        whole, hidden = bench.images[image], blurred(bench.images)[image]

        def perturb(inputs, sets=sets, whole=whole, hidden=hidden):
            """The picture without the next set, as captum wants it: what was taken away, and what is left."""
            pixels = bench.pixels_of(next(sets)[None])[0]
            left = torch.where(pixels, hidden, whole)
            # captum multiplies what was taken with an attribution of its shape: one that counts patches, not pixels.
            return (whole - left)[None], left[None]

        # An attribution with Σ attribution × (what was taken) = Σ importance, over the first channel's pixels.
        taken = whole - hidden
        down, across = bench.model.cfg.patch_size
        share = maps[image].unflatten(0, bench.grid).repeat_interleave(down, 0).repeat_interleave(across, 1)
        attribution = torch.zeros_like(whole)
        attribution[0] = share / (down * across) / taken[0]

        def forward(inputs, image=image):
            return bench.model(inputs).softmax(dim=-1)[:, bench.classes[image]]

        expected = captum_infidelity(
            forward,
            perturb,
            whole[None],
            attribution[None],
            n_perturb_samples=6,
            max_examples_per_batch=1,
            normalize=True,
        )
        close(found[image], (expected[0] / drops[image].square().mean()), 1e-7)


def test_saco_as_in_a_loop(bench):
    maps = random_maps(bench.model, bench.images)
    found = saco(bench, n_groups=3)(ScoredMap(maps))
    n = bench.n_patches
    for image in range(2):
        order = maps[image].argsort(descending=True)
        groups = [order[[place for place in range(n) if place * 3 // n == group]] for group in range(3)]
        patches = torch.zeros(3, n, dtype=torch.bool)
        for group, members in enumerate(groups):
            patches[group, members] = True
        drops = by_hand(bench, image, patches)
        salience = [maps[image, members].mean().item() for members in groups]
        total = size = 0.0
        for i in range(3):
            for j in range(i + 1, 3):
                weight = salience[i] - salience[j]
                total += weight if drops[i] >= drops[j] else -weight
                size += abs(weight)
        assert found[image].item() == pytest.approx(total / size, abs=1e-9)


def test_sets_are_run_once_for_all_maps_and_in_batches(plain, images_of):
    images = images_of(plain, 2)
    maps = {f"map {seed}": random_maps(plain, images, seed) for seed in range(3)}
    rows = []
    plain.add_hook("hook_embed", lambda value, hook: rows.append(len(value)))
    options = {"sensitivity_n": {"n_draws": 4}, "infidelity": {"n_draws": 10}}
    chosen = {"metrics": list(options), "options": options, "baselines": False, "progress": False, "batch_size": 3}
    together = evaluate_heatmaps(plain, images, 4, heatmaps=maps, **chosen)
    plain.reset_hooks()
    assert sum(rows) == 2 * (1 + 5 * 4 + 10)
    assert max(rows) == 3
    # A picture's sets are its own, whatever stands beside it.
    alone = evaluate_heatmaps(plain, images[1:], 4, heatmaps={name: x[1:] for name, x in maps.items()}, **chosen)
    close(alone.values[..., 0], together.values[..., 1])


def test_every_variant(classifier, images_of):
    images = images_of(classifier, 2)
    found = evaluate_heatmaps(
        classifier, images, heatmaps=random_maps(classifier, images), metrics=list(ALL), n_draws=1, progress=False,
        options={"sensitivity_n": {"shares": (0.5,), "n_draws": 4}, "infidelity": {"n_draws": 4}, "saco": {"n_groups": 2}},
    )  # fmt: skip
    # On a grid of 2 × 2 all patches are as near to the centre as any other.
    told_apart = [name != "centre_prior" for name in found.axes["method"]]
    assert found.values[told_apart].isfinite().all()
    found = replace(found, values=found.values.nan_to_num())
    assert (found.values[:, 0].abs() <= 1 + 1e-9).all()
    assert ((found.values[:, 1] >= -1e-9) & (found.values[:, 1] <= 1 + 1e-9)).all()
    assert (found.values[:, 2].abs() <= 1 + 1e-9).all()


def test_a_constant_map_has_no_correlation(bench):
    same = ScoredMap(torch.ones(2, bench.n_patches, dtype=torch.float64))
    assert sensitivity_n(bench, shares=(0.5,))(same).isnan().all()
    assert saco(bench)(same).isnan().all()


@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        ("sensitivity_n", {"n_draws": 2}, "at least 3 sets"),
        ("sensitivity_n", {"shares": (0.0,)}, "some of the"),
        ("sensitivity_n", {"shares": (1.0,)}, "some of the"),
        ("infidelity", {"n_draws": 1}, "at least 2 squares"),
        ("saco", {"n_groups": 1}, "2 groups or more"),
    ],
)
def test_bad_options(bench, metric, options, message):
    with pytest.raises(InputError, match=message):
        ALL[metric](bench, **options)
