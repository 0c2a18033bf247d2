"""Means of attributions by class: the same as averaging all pictures at once, however they are streamed."""

import numpy as np
import pytest
import torch
from PIL import Image
from variants import VARIANTS

from vitlens import HookedViT, InputError, direct_logit_attribution
from vitlens.attribution.means import attribution_means
from vitlens.data.picture_sets import open_pictures
from vitlens.results.result import load_result

LABELS = torch.tensor([3, 0, 3, 7, 0, 3, 3])


@pytest.fixture
def pictures(plain, images_of):
    return images_of(plain, len(LABELS))


@pytest.mark.parametrize("unit", ["component", "head", "neuron", "head_patch"])
def test_means_are_those_of_all_pictures(plain, pictures, unit):
    means = attribution_means(plain, pictures, LABELS, unit=unit, batch_size=2, progress=False)
    every = direct_logit_attribution(plain, pictures, LABELS, unit=unit)
    assert means.axes["class"] == ["class 0", "class 3", "class 7"]
    assert means.n.tolist() == [2, 4, 1]
    for row, label in enumerate((0, 3, 7)):
        shares = every.values[label == LABELS, 0].flatten(1)
        torch.testing.assert_close(means.values[row], shares.mean(dim=0), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(means.spread[row], shares.std(dim=0, correction=0), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(means.logits[row], plain(pictures)[label == LABELS, label].mean())
    assert means.residual.abs().max() <= 1e-9
    top = every.top(1)["component"][0]
    assert top in means.axes["component"]


def test_means_of_differences(plain, pictures):
    means = attribution_means(plain, (pictures, LABELS), baseline_classes=5, progress=False)
    logits = plain(pictures)
    assert means.quantity == "mean logit difference"
    torch.testing.assert_close(means.logits[2], logits[3, 7] - logits[3, 5])
    assert means.residual.abs().max() <= 1e-9


def test_pictures_come_in_many_ways(plain, pictures):
    expected = attribution_means(plain, pictures, LABELS, progress=False)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(pictures, LABELS), batch_size=3)
    ways = {
        "pair": (pictures, LABELS),
        "loader": loader,
        "list of batches": [(pictures[:4], LABELS[:4]), (pictures[4:], LABELS[4:])],
        "iterator": iter([(pictures[:4], LABELS[:4]), (pictures[4:], LABELS[4:])]),
        "function": lambda: iter(loader),
    }
    for name, source in ways.items():
        means = attribution_means(plain, source, batch_size=4, progress=False)
        torch.testing.assert_close(means.values, expected.values, rtol=1e-9, atol=1e-12, msg=name)
        assert means.settings["pictures"] == 7
    some = attribution_means(plain, loader, n_images=4, progress=False)
    assert some.n.tolist() == [1, 2, 1]
    first = attribution_means(plain, pictures[:4], LABELS[:4], progress=False)
    torch.testing.assert_close(some.values, first.values, rtol=1e-9, atol=1e-12)


def test_a_picture_set_is_gone_through(plain, tmp_path):
    generator = np.random.default_rng(0)
    for label in (1, 4):
        (tmp_path / str(label)).mkdir()
        for i in range(3):
            noise = generator.integers(0, 255, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / str(label) / f"{i}.png")
    pictures = open_pictures(tmp_path, None, 10)
    means = attribution_means(plain, pictures, batch_size=2, progress=False)
    assert means.axes["class"] == ["class 1", "class 4"]
    assert means.n.tolist() == [3, 3]
    images = plain.to_images([tmp_path / "4" / f"{i}.png" for i in range(3)])
    shares = direct_logit_attribution(plain, images, 4, unit="head").values[:, 0].mean(dim=0)
    torch.testing.assert_close(means.values[1], shares, rtol=1e-9, atol=1e-12)


def test_tables_name_heads_and_classes(plain, pictures):
    plain.class_names = [f"kind {i}" for i in range(10)]
    means = attribution_means(plain, pictures, LABELS, progress=False)
    head = means.axes["component"].index("L1H2")
    values = means.values.clone()
    values[1, head], values[0, head] = 100.0, -50.0
    values[:, 0] = 70.0
    changed = type(means)(**{**vars(means), "values": values})
    heads = changed.top_heads("kind 3", k=3)
    assert heads["component"][0] == "L1H2"
    assert changed.top_heads(3, k=3).equals(heads)
    assert heads["mean logit"][0] == 100
    assert set(heads["component"]) <= {name for name in means.axes["component"] if "H" in name}
    # What is written for all classes alike says nothing of one of them.
    assert means.axes["component"][0] == "embed"
    assert changed.top("kind 7", k=1, specific=False)["component"][0] == "embed"
    assert changed.top("kind 7", k=1)["component"][0] == "L1H2"
    classes = changed.top_classes("L1H2", k=3)
    assert classes["class"].tolist()[0] == "kind 3"
    assert classes["class"].tolist()[-1] == "kind 0"
    assert classes["n"].tolist() == [4, 1, 2]
    torch.testing.assert_close(torch.tensor(classes["specific"][0]), 100 - values[:, head].mean())


def test_means_come_back_from_disk_and_as_a_table(plain, pictures, tmp_path):
    means = attribution_means(plain, pictures, LABELS, unit="neuron", progress=False)
    means.save(tmp_path / "means.safetensors")
    again = load_result(tmp_path / "means.safetensors")
    assert type(again) is type(means)
    assert torch.equal(again.residual, means.residual)
    assert again.top("class 3", 4).equals(means.top("class 3", 4))
    frame = means.to_frame()
    assert len(frame) == means.values.numel()
    row = frame[(frame["class"] == "class 3") & (frame["component"] == "L2 neuron 5")].iloc[0]
    column = means.axes["component"].index("L2 neuron 5")
    assert row["mean logit"] == means.values[1, column].item()
    assert row["n"] == 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"classes": None}, "need classes"),
        ({"classes": LABELS[:3]}, "as many pictures: 3 classes"),
        ({"classes": LABELS + 9}, "classes 0 to 9"),
        ({"classes": LABELS, "n_images": 0}, "at least 1"),
        ({"classes": LABELS, "unit": "patch"}, "unit is one of"),
    ],
)
def test_wrong_input_is_one_clear_sentence(plain, pictures, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        attribution_means(plain, pictures, progress=False, **arguments)


def test_pictures_of_other_sizes_have_other_patches():
    model = HookedViT.from_timm(VARIANTS["dynamic_size"]())
    generator = torch.Generator().manual_seed(0)
    sizes = [(48, 48), (32, 64)]
    batches = [
        (torch.randn(1, 3, *size, generator=generator, dtype=torch.float64), torch.tensor([1])) for size in sizes
    ]
    assert attribution_means(model, batches, progress=False).n.tolist() == [2]
    with pytest.raises(InputError, match="other grids"):
        attribution_means(model, batches, unit="head_patch", progress=False)


def test_unknown_rows_and_columns_are_named(plain, pictures):
    means = attribution_means(plain, pictures, LABELS, unit="component", progress=False)
    with pytest.raises(InputError, match="no pictures of the class 5"):
        means.top(5)
    with pytest.raises(InputError, match="no component 'L9H9'"):
        means.top_classes("L9H9")
    with pytest.raises(InputError, match='unit="head"'):
        means.top_heads(3)
    with pytest.raises(InputError, match="no pictures"):
        attribution_means(plain, [], progress=False)
