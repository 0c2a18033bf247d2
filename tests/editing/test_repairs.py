"""Repairs: chosen on some pictures, reported on others, beside baselines; the planted shortcut is removed exactly."""

import pytest
import torch
from variants import build

import vitlens
from vitlens import HookedViT, InputError, edit
from vitlens.editing import EditEvaluation
from vitlens.editing.groups import read_groups
from vitlens.editing.repairs import _choose
from vitlens.editing.split import split_pictures
from vitlens.planted import planted

N_PAIRS = 48
ABOUT = {"n_draws": 3, "progress": False}


@pytest.fixture(scope="module")
def vit():
    return planted("shortcut", dtype=torch.float64)


@pytest.fixture(scope="module")
def pictures(vit):
    return vit.pictures(N_PAIRS, seed=11).grouped()


@pytest.fixture(scope="module")
def repaired(vit, pictures):
    pairs = torch.arange(2 * N_PAIRS) // 2
    return vitlens.repair(
        vit.model, pictures.images, pictures.labels, pictures.groups, clusters=pairs, doses=(0.5, 1.0), **ABOUT
    )


def test_the_planted_shortcut_is_found_and_removed(vit, pictures, repaired):
    (block, head) = next(iter(vit.truth.shortcuts))
    assert repaired.shortcut.strongest() == [f"L{block}H{head}"]
    accuracies = dict(zip(repaired.report.axes["edit"], repaired.report.accuracies().tolist(), strict=True))
    agreeing, conflicting = (repaired.report.groups.index(name) for name in ("agreeing", "conflicting"))
    assert accuracies["unedited"][conflicting] == 0
    assert accuracies["unedited"][agreeing] == accuracies["dose 1"][agreeing] == accuracies["dose 1"][conflicting] == 1
    drawn = [accuracies[f"random {i}"][conflicting] for i in (1, 2, 3)]
    assert max(drawn) < 0.5
    # Silenced alone, the head leaves exactly the model that was built without it, in its weights too.
    exact = edit(vit.model, [(block, head)])
    with torch.no_grad():
        wanted = vit.repaired()(pictures.images)
        hooked = vit.model.run_with_hooks(pictures.images, fwd_hooks=exact.hooks)
        torch.testing.assert_close(hooked, wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(exact.fold()(pictures.images), wanted, rtol=1e-12, atol=1e-12)


def test_pairs_stay_together_and_the_report_is_of_the_others(repaired):
    chosen, reported = (set(part.clusters.tolist()) for part in (repaired.candidates, repaired.report))
    assert not chosen & reported
    assert len(chosen | reported) == N_PAIRS
    assert len(repaired.report.of_image) == 2 * len(reported)


def test_tables_say_what_was_tried_and_what_came_of_it(repaired):
    tried, found = repaired.trade_off(), repaired.table(n_draws=50)
    assert repaired.chosen in tried["edit"].tolist()
    assert tried["largest_loss"].iloc[0] == 0
    assert list(dict.fromkeys(found["edit"])) == [
        "unedited",
        "dose 0.5",
        "dose 1",
        "last layer retrained",
        "random (mean)",
    ]
    assert repr(repaired).startswith(f"Repair({repaired.chosen}: Edit(")


def evaluation(accuracies, kl):
    """Of two groups with 4,000 pictures each; accuracies in percent."""
    right = torch.zeros(len(accuracies), 8000)
    for row, (first, second) in enumerate(accuracies):
        right[row, : 40 * first], right[row, 4000 : 4000 + 40 * second] = 1, 1
    rows = {"edit": ["unedited", *map(str, range(1, len(accuracies)))], "image": list(range(8000))}
    moved = torch.tensor(kl)[:, None].expand(-1, 8000)
    return EditEvaluation(
        right, rows, "correct", moved, moved, torch.zeros(len(kl), 2, 1), ["a", "b"], torch.arange(8000) // 4000
    )


@pytest.mark.parametrize(("max_loss", "chosen"), [(0.02, "2"), (0.01, "1"), (0.0, "1"), (None, "3"), (0.1, "3")])
def test_the_choice_is_the_best_worst_group_within_the_limit(max_loss, chosen):
    found = evaluation([(96, 70), (96, 72), (95, 75), (90, 80), (95, 75)], [0.0, 0.1, 0.2, 0.5, 0.3])
    assert _choose(found, max_loss) == chosen


def test_nothing_is_chosen_where_nothing_helps():
    found = evaluation([(96, 70), (96, 69), (80, 75)], [0.0, 0.1, 0.2])
    assert _choose(found, 0.01) == "unedited"


def test_an_edit_that_does_not_help_is_not_taken(vit, pictures):
    harmful = {"without the object": edit(vit.model, sorted(vit.truth.heads - vit.truth.shortcuts))}
    found = vitlens.repair(
        vit.model, pictures.images, pictures.labels, pictures.groups, edits=harmful, n_draws=1, progress=False
    )
    assert (found.edit, found.chosen) == (None, "unedited")
    assert found.report.axes["edit"] == ["unedited", "last layer retrained"]


def test_distilled_models_have_no_last_layer_and_other_outputs_no_prediction():
    model = HookedViT.from_timm(build("deit_tiny_distilled_patch16_224"))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(24, 3, 48, 48, generator=generator, dtype=torch.float64)
    labels, groups = model(images).argmax(dim=1), ["a", "b"] * 12
    given = {"groups": groups, "edits": {"one": edit(model, "L1H1")}, "max_loss": None, **ABOUT}
    found = vitlens.repair(model, images, labels, **given)
    assert "last layer retrained" not in found.report.axes["edit"]
    model.set_output("sigmoid")
    with pytest.raises(InputError, match="no classes that exclude each other"):
        vitlens.repair(model, images, labels, **given)


def test_splits_are_by_class_and_cluster():
    labels, clusters = torch.arange(60) % 3, torch.arange(60) // 6 * 3 + torch.arange(60) % 3
    groups = read_groups(["a", "b"] * 30, 60)
    chosen = split_pictures(labels, groups, clusters, 0.4, seed=1)
    assert all(chosen[clusters == one].float().mean() in (0, 1) for one in clusters.unique())
    assert [int(chosen[labels == label].sum()) for label in range(3)] == [8, 8, 8]
    assert not torch.equal(chosen, split_pictures(labels, groups, clusters, 0.4, seed=2))


def folder_of(pictures, path, broken=None):
    """Pictures of the demo in folders of their classes, and the group of each in the order of their paths."""
    model = vitlens.demo.load_demo_model()
    for i, source in enumerate(pictures.paths[:24]):
        folder = path / model.class_names[int(pictures.labels[i])]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:02}.png").write_bytes(b"no picture" if i == broken else source.read_bytes())
    chosen = vitlens.open_pictures(path, model.class_names, model.cfg.n_classes)
    names = [row["path"].rsplit("/", 1)[-1] for row in chosen.rows(range(24))]
    return model, chosen, ["conflicting" if int(name[:2]) % 2 else "agreeing" for name in names]


def test_a_picture_set_is_split_by_its_own_labels(tmp_path):
    pictures = vitlens.demo.load_demo_pictures(vitlens.demo.load_demo_model())
    model, chosen, groups = folder_of(pictures, tmp_path)
    about = {"edits": {"one": edit(model, "L2H1")}, "batch_size": 7, **ABOUT}
    of_set = vitlens.repair(model, chosen, groups=groups, **about)
    images = model.to_images(sorted(tmp_path.rglob("*.png")))
    labels = [row["label"] for row in chosen.rows(range(24))]
    of_tensor = vitlens.repair(model, images, labels, groups, **about)
    assert torch.equal(of_set.report.values, of_tensor.report.values)
    assert torch.equal(of_set.candidates.values, of_tensor.candidates.values)


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    pictures = vitlens.demo.load_demo_pictures(vitlens.demo.load_demo_model())
    model, chosen, groups = folder_of(pictures, tmp_path, broken=5)
    with pytest.raises(InputError, match=r"picture \d+ \(counted from 0\) cannot be read"):
        vitlens.repair(model, chosen, groups=groups, edits={"one": edit(model, "L2H1")}, batch_size=7, **ABOUT)


def test_what_cannot_be_repaired_is_refused(vit, pictures):
    given = {"images": pictures.images[:8], "labels": pictures.labels[:8], "groups": pictures.groups[:8]}
    made = {"edits": {"one": edit(vit.model, "L0H0")}}
    for arguments, sentence in [
        ({"held_out": 1.5}, "held_out is the share"),
        ({"held_out": torch.zeros(3, dtype=torch.bool)}, "of each of 8 pictures"),
        ({"held_out": torch.arange(8) % 2 == 0}, "no picture of the group"),
        ({"max_loss": -0.1}, "max_loss is a share"),
        ({"edits": {"two": edit(vit.model, "L0H0") + edit(vit.model, "L1H0", dose=0.5)}}, "parts at different doses"),
        ({"doses": ()}, "doses are at least one number"),
        ({"doses": (0.0, 1.0)}, "at which nothing is edited"),
        ({"images": lambda: iter([pictures.images[:8]])}, "splits the pictures"),
        ({"labels": pictures.labels[:5]}, "5"),
    ]:
        with pytest.raises(InputError, match=sentence):
            vitlens.repair(vit.model, **{**given, **made, **ABOUT, **arguments})
