"""The search for shortcuts: exact sums, a planted head that is found, shuffled groups that are not, and wrong input."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import vitlens
from vitlens import InputError, activation_ablation, find_shortcut
from vitlens.patching import mean_activations
from vitlens.statistics import bootstrap

FEW = {"n_draws": 199, "progress": False}


def find(planted, **options):
    about = {"model": planted.model, "images": planted.images, "labels": planted.labels, "groups": planted.groups}
    return find_shortcut(**{**about, **FEW, **options})


@pytest.fixture(scope="module")
def masks(planted):
    inside = torch.zeros(len(planted.images), *planted.model.cfg.image_size, dtype=torch.bool)
    inside[:, :32, :16] = True
    return inside


@pytest.fixture(scope="module")
def found(planted, masks):
    sae = vitlens.features.SparseAutoencoder.from_arrays(
        torch.randn(32, 40), None, torch.randn(40, 32), None, hook="resid_post1"
    ).to(torch.float64)
    partners = planted.images[torch.arange(len(planted.images)) ^ 1]
    about = {"clusters": planted.pairs, "others": partners, "masks": masks, "sae": sae, "k": 6}
    return find(planted, parts=["heads", "mlps", "neurons"], **about)


def same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_shares_sum_to_the_margin(planted, found):
    logits = planted.model(planted.images)
    margins = logits[:, 0] - logits[:, 1:].amax(dim=1)
    same(found.margins, torch.stack([margins[::2].mean(), margins[1::2].mean()]))
    same(found.accuracy, torch.stack([(margins[::2] > 0).double().mean(), (margins[1::2] > 0).double().mean()]))
    assert found.residual.abs().max() < 1e-9
    heads = find(planted, parts="heads")
    assert heads.residual.abs().max() < 1e-9
    mlps = [i for i, part in enumerate(found.axes["component"]) if part.kind == "mlp"]
    same(heads.rest, found.rest + found.values[mlps].sum(dim=0))


def test_the_planted_head_is_found(found):
    table = found.table()
    # Features of a random dictionary are as large as its norm.
    table = table[~table["component"].str.startswith("feature")].reset_index(drop=True)
    assert table["component"][0] == "L1H2"
    assert table["p"][0] == pytest.approx(1 / 200)
    assert table["low"][0] < table["difference"][0] < table["high"][0] < -1
    assert table["change_conflicting_low"][0] > 1
    assert table["change_agreeing_high"][0] < -1
    assert table["gained_accuracy"][0] > 0.5
    assert table["lost_accuracy"][0] > 0.5
    assert found.strongest(1) == ["L1H2"]
    assert "L1H2" in repr(found)
    # The partner's activation does away with the whole difference, and its mean with half of it.
    assert table["patched_conflicting"][0] > table["change_conflicting"][0]
    assert table["patched_agreeing"][0] < table["change_agreeing"][0]


def test_the_same_groups_are_worst_by_default_and_by_name(planted, found):
    assert found.settings["inside"] == "conflicting"
    swapped = find(planted, contrast=("agreeing", "conflicting"), parts="heads")
    heads = [i for i, part in enumerate(found.axes["component"]) if part.kind == "head"]
    same(swapped.difference, -found.difference[heads])
    assert swapped.axes["group"] == ["agreeing", "conflicting"]


def test_a_third_group_is_compared_only_by_default(planted):
    groups = ["agreeing", "conflicting"] * 12 + ["third"] * 8
    by_default, pair = (
        find(planted, groups=groups, contrast=pair, parts="heads") for pair in (None, ("third", "agreeing"))
    )
    assert by_default.settings["outside"] == ["agreeing", "third"]
    n = by_default.n.double()
    assert n.tolist() == [12, 12, 8]
    rest = (by_default.values[:, 0] * n[0] + by_default.values[:, 2] * n[2]) / (n[0] + n[2])
    same(by_default.difference, by_default.values[:, 1] - rest)
    same(pair.difference, pair.values[:, 2] - pair.values[:, 0])
    lost = -(by_default.accuracy_change[:, [0, 2]] @ n[[0, 2]]) / 20
    same(-by_default.over_outside(by_default.accuracy_change), lost)


def test_effects_are_those_of_ablation_and_patching(planted, found):
    model, images, labels = planted.model, planted.images, planted.labels
    rivals = model(images)[:, 1:].argmax(dim=1) + 1
    where = {
        "L1H2": {"sites": "z", "blocks": 1, "heads": 2},
        "L2 mlp": {"sites": "mlp_out", "blocks": 2, "tokens": ["all"]},
    }
    neuron = next(part for part in found.axes["component"] if part.kind == "neuron")
    where[neuron] = {"sites": "post", "blocks": neuron.block, "neurons": neuron.neuron}
    about = {"baseline_classes": rivals, "metric": "logit_difference", "progress": False}
    for name, cell in where.items():
        row = found.axes["component"].index(name)
        means = mean_activations(model, images, sites=cell["sites"], progress=False)
        ablated = activation_ablation(model, images, labels, replacement=means, **about, **cell).values.flatten()
        same(found.change[row], torch.stack([ablated[::2].mean(), ablated[1::2].mean()]))
        _, low, high = bootstrap(ablated[1::2].numpy(), clusters=planted.pairs[1::2].numpy(), n_draws=199)
        same(found.change_low[row, 1], torch.tensor(float(low), dtype=torch.float64))
        same(found.change_high[row, 1], torch.tensor(float(high), dtype=torch.float64))
        others = images[torch.arange(len(images)) ^ 1]
        patched = activation_ablation(model, images, labels, replacement="other", others=others, **about, **cell)
        same(found.patched[row, 0], patched.values.flatten()[::2].mean())


def test_finer_splits_sum_to_their_parts(planted, masks, found):
    names = list(found.axes["component"])
    row = names.index("L1H2")
    split = [names.index(f"L1H2 ← {source}") for source in ("object", "context", "prefix")]
    same(found.values[split].sum(dim=0), found.values[row])
    kinds = [part.kind for part in names]
    assert [kinds.count(kind) for kind in ("head", "mlp", "neuron", "path", "feature")] == [12, 3, 6, 36, 6]
    # What is no head, MLP or neuron was not ablated.
    other = [i for i, kind in enumerate(kinds) if kind in ("path", "feature")]
    assert found.change[other].isnan().all()
    assert not found.change[[i for i in range(len(names)) if i not in other]].isnan().any()


def test_the_neurons_that_are_listed_differ_most(planted, found):
    shares = vitlens.direct_logit_attribution(
        planted.model, planted.images, planted.labels, unit="neuron", progress=False,
        baseline_classes=planted.model(planted.images)[:, 1:].argmax(dim=1) + 1,
    )  # fmt: skip
    differences = (shares.values[1::2].mean(dim=0) - shares.values[::2].mean(dim=0)).flatten()
    largest = differences.abs().topk(6).indices.sort().values
    rows = [i for i, part in enumerate(found.axes["component"]) if part.kind == "neuron"]
    assert [found.axes["component"][i] for i in rows] == [shares.unit_names()[i] for i in largest.tolist()]
    same(found.difference[rows], differences[largest])


def test_shuffled_groups_find_nothing(planted):
    """Twelve heads are compared each time: without a correction about half of the draws would have a finding."""
    generator = torch.Generator().manual_seed(0)
    agreeing = planted.images[::2]
    findings = []
    for seed in range(12):
        groups = torch.randperm(16, generator=generator) % 2
        result = find_shortcut(planted.model, agreeing, planted.labels[::2], groups, parts="heads", seed=seed, **FEW)
        findings.append(bool((result.p <= 0.05).any()))
    assert sum(findings) <= 2


def test_the_size_of_batches_and_the_kind_of_source_change_nothing(planted, found):
    loader = DataLoader(TensorDataset(planted.images, planted.labels), batch_size=5)
    whole = find(planted)
    for other in (find(planted, batch_size=7), find(planted, images=loader)):
        for name in ("values", "difference", "p", "change", "accuracy_change"):
            same(getattr(other, name), getattr(whole, name))


def test_a_picture_set_brings_labels_and_groups():
    model = vitlens.demo.load_demo_model()
    pictures = vitlens.open_pictures("demo", model.class_names, 10, n_images=12, group_column="group")
    of_set = find_shortcut(model, pictures, parts="mlps", **FEW)
    images, labels = vitlens.load_demo()[1:3]
    given = find_shortcut(model, images[:12], labels[:12], ["agreeing", "conflicting"] * 6, parts="mlps", **FEW)
    assert of_set.axes["group"] == ["agreeing", "conflicting"]
    torch.testing.assert_close(of_set.change, given.change, rtol=1e-4, atol=1e-4)


def test_pictures_that_cannot_be_read_are_left_out(tmp_path):
    model = vitlens.demo.load_demo_model()
    for i in range(6):
        folder = tmp_path / "bag"
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 255, (56, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (tmp_path / "bag" / "2.png").write_bytes(b"no picture")
    pictures = vitlens.open_pictures(tmp_path, model.class_names, 10)
    result = find_shortcut(model, pictures, groups=[0, 1] * 3, parts="mlps", **FEW)
    assert result.n.tolist() == [2, 3]


def test_groups_are_proposed_from_masks():
    model, images, labels, masks = vitlens.load_demo()
    found = find_shortcut(model, images[:30], labels[:30], masks=masks[:30], parts="mlps", **FEW)
    assert found.settings["groups"] == "proposed"
    assert (found.settings["inside"], found.settings["outside"]) == ("conflicting", ["agreeing"])
    assert int(found.n.sum()) == 30


WRONG = {
    "no groups": ({"groups": None}, "groups= are missing"),
    "one group": ({"groups": ["a"] * 32}, "all pictures are in the group 'a'"),
    "a group of one": ({"groups": ["a"] * 31 + ["b"]}, "the group 'b' has a single picture"),
    "too few groups": ({"groups": ["a", "b"]}, "2 groups were given for 32 pictures"),
    "no labels": ({"labels": None}, "labels= are missing"),
    "too few labels": ({"labels": [0, 1]}, "2 labels were given for 32 pictures"),
    "no class": ({"labels": [99] * 32}, "there is no class 99"),
    "an unknown part": ({"parts": ["heads", "attention"]}, "not 'attention'"),
    "no parts": ({"parts": []}, "the list is empty"),
    "an unknown group": ({"contrast": ("agreeing", "neutral")}, "no group is called 'neutral'"),
    "one group against itself": ({"contrast": ("agreeing", "agreeing")}, "a pair of groups"),
    "too few partners": ({"others": torch.zeros(3, 3, 48, 48, dtype=torch.float64)}, "3 others were given"),
    "too few clusters": ({"clusters": [0, 1]}, "2 clusters were given for 32 pictures"),
    "a hook alone": ({"hook": "resid_post1"}, "give the dictionary as sae="),
    "no draws": ({"n_draws": 0}, "n_draws"),
    "no level": ({"level": 1.0}, "level"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_input_is_refused(planted, kind):
    given, said = WRONG[kind]
    with pytest.raises(InputError, match=said):
        find(planted, **given)


def test_sources_that_change_their_order_are_refused(planted):
    data = TensorDataset(planted.images, torch.arange(32) % 10)
    shuffled = DataLoader(data, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="other labels than those given"):
        find(planted, images=shuffled, labels=torch.arange(32) % 10)
    with pytest.raises(InputError, match="an iterator gives them once"):
        find(planted, images=iter([planted.images]))
    with pytest.raises(InputError, match="there are more pictures"):
        find(planted, images=[planted.images], labels=[0] * 30, groups=[0, 1] * 15)
    with pytest.raises(InputError, match="40 labels were given for 32 pictures"):
        find(planted, images=[planted.images], labels=[0] * 40, groups=[0, 1] * 20)


def test_the_figure_shows_the_table(found):
    figure = found.plot(k=5)
    bars, sure, unsure = figure.data
    table = found.table().head(5)
    assert list(bars.y) == list(table["component"])
    np.testing.assert_allclose(bars.x, table["difference"])
    np.testing.assert_allclose(bars.x + bars.error_x.array, table["high"])
    assert [opacity == 1 for opacity in bars.marker.opacity] == (table["p"] <= 0.05).tolist()
    place = list(sure.customdata).index("L1H2")
    row = found.axes["component"].index("L1H2")
    assert sure.y[place] == pytest.approx(found.change[row, 1].item())
    assert sure.x[place] == pytest.approx(found.change[row, 0].item())
    assert "L1H2" in sure.text
    n_ablated = sum(part.kind in ("head", "mlp", "neuron") for part in found.axes["component"])
    assert len(sure.y) + len(unsure.y) == n_ablated
