"""Zero-shot accuracy counts what NumPy counts, over any source of pictures, and refuses numbers that mean nothing."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, top_k_accuracy_score
from variants import build

from vitlens import HookedViT, InputError, load_result
from vitlens.text import TextTower, zero_shot_accuracy

N_TEXTS, N = 7, 60
TEXTS = [f"text {i}" for i in range(N_TEXTS)]
DIRECTIONS = torch.randn(N_TEXTS, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.randint(0, N_TEXTS - 1, (N,), generator=torch.Generator().manual_seed(2))


def embed(texts):
    """A direction for each text; behind an article that of the next one."""
    return torch.stack([DIRECTIONS[(int(text[-1]) + text.startswith("a ")) % N_TEXTS] for text in texts])


@pytest.fixture(scope="module")
def model():
    return HookedViT.from_timm(build(num_classes=0))


@pytest.fixture(scope="module")
def images(model):
    return torch.randn(N, 3, *model.cfg.image_size, generator=torch.Generator().manual_seed(3), dtype=model.dtype)


@pytest.fixture(scope="module")
def logits(model, images):
    features = torch.nn.functional.normalize(model(images, return_type="features"), dim=-1)
    return (3.0 * features @ torch.nn.functional.normalize(DIRECTIONS, dim=-1).T - 1.0).detach().numpy()


@pytest.fixture(scope="module")
def tower():
    return TextTower(embed, scale=3.0, bias=-1.0, output="sigmoid")


@pytest.fixture(scope="module")
def found(model, images, tower):
    return zero_shot_accuracy(model, images, TEXTS, labels=LABELS, tower=tower, batch_size=7, progress=False)


def test_counts_and_tables(found, logits):
    truth = LABELS.numpy()
    expected = confusion_matrix(truth, logits.argmax(axis=1), labels=range(N_TEXTS))
    np.testing.assert_array_equal(found.values.numpy(), expected)
    first, top = (row for _, row in found.table().iterrows())
    right = expected.trace()
    assert found.accuracy == first["accuracy"] == right / N
    interval = binomtest(int(right), N).proportion_ci(0.95, method="wilson")
    assert (first["low"], first["high"]) == (interval.low, interval.high)
    assert top["accuracy"] == pytest.approx(top_k_accuracy_score(truth, logits, k=5, labels=range(N_TEXTS)))
    counts = np.sort(np.bincount(truth))[::-1]
    assert (first["baseline"], top["baseline"]) == (counts[0] / N, counts[:5].sum() / N)
    classes = found.by_class()
    assert classes["class"].tolist() == TEXTS[:-1], "the last text has no pictures"
    assert classes["n"].sum() == N
    for i, row in classes.iterrows():
        assert row["accuracy"] == expected[i, i] / expected[i].sum()
        wrong = np.where(np.arange(N_TEXTS) == i, -1, expected[i])
        assert row["taken_for_share"] == wrong.max() / expected[i].sum()
        assert row["taken_for"] == (TEXTS[wrong.argmax()] if wrong.max() else "")
    assert found.shares()[-1].isnan().all()
    assert found.shares()[:-1].sum(dim=1).allclose(torch.ones(N_TEXTS - 1, dtype=torch.float64))


def test_sources_of_pictures(model, images, tower, found, tmp_path):
    about = {"tower": tower, "progress": False}
    batches = list(zip(images.split(11), LABELS.split(11), strict=True))
    for source in (batches, lambda: iter(batches)):
        assert torch.equal(zero_shot_accuracy(model, source, TEXTS, **about).values, found.values)
    other = zero_shot_accuracy(model, batches, TEXTS, labels=LABELS.flip(0).tolist(), **about)
    assert not torch.equal(other.values, found.values), "the labels that are given come before those of the batches"
    model.set_text_tower(tower)
    own = zero_shot_accuracy(model, batches, TEXTS, progress=False)
    model.set_text_tower(None)
    assert torch.equal(own.values, found.values)
    own.save(tmp_path / "found.safetensors")
    assert torch.equal(load_result(tmp_path / "found.safetensors").among_first, found.among_first)
    assert model.unembed is None, "the model is left as it is"


def test_templates_take_the_place_of_the_towers(model, images, found):
    of_a = TextTower(embed, scale=3.0, bias=-1.0, output="sigmoid", templates="a {}")
    about = {"labels": LABELS, "progress": False}
    other = zero_shot_accuracy(model, images, TEXTS, tower=of_a, **about)
    assert not torch.equal(other.values, found.values)
    same = zero_shot_accuracy(model, images, TEXTS, tower=of_a, templates="{}", **about)
    assert torch.equal(same.values, found.values)
    assert (of_a.templates, same.settings["templates"]) == (("a {}",), ["{}"])


def test_of_few_texts_only_the_first_counts(model, images, tower):
    few = zero_shot_accuracy(model, images, TEXTS[:3], labels=LABELS % 3, tower=tower, progress=False)
    assert few.table()["measure"].tolist() == ["top-1"]
    assert "top_5" not in few.by_class()


def test_equal_logits_tell_nothing_apart(model, images):
    same = TextTower(lambda texts: torch.ones(len(texts), 32))
    found = zero_shot_accuracy(model, images, TEXTS, labels=LABELS, tower=same, progress=False)
    assert found.accuracy == 0
    assert found.among_first.sum() == 0
    assert found.n.sum() == N


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tells_texts_apart(model, images, tower, found, dtype):
    """Logits of half precision would mostly be equal: the accuracy is that of exact ones, but for pictures on the edge."""
    half = HookedViT.from_timm(build(num_classes=0)).to(dtype)
    about = {"labels": LABELS, "tower": tower, "progress": False}
    near = zero_shot_accuracy(half, images.to(dtype), TEXTS, **about)
    assert (near.values - found.values).abs().sum() <= 8
    assert near.accuracy == pytest.approx(found.accuracy, abs=0.05)


def test_a_board_shows_the_shares(found):
    board = found.plot().data[0]
    np.testing.assert_allclose(np.asarray(board.z), found.shares().numpy(), rtol=1e-6)
    assert f"{100 * found.accuracy:.1f} %" in found.plot().layout.title.subtitle.text


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        (TEXTS, {"labels": None}, "needs the class of each picture"),
        (TEXTS, {"labels": LABELS[:-1]}, "59 labels, and more pictures"),
        (TEXTS, {"labels": torch.cat([LABELS, LABELS])}, "120 labels for 60 pictures"),
        (TEXTS[:3], {}, "and there are texts for classes 0 to 2"),
        (TEXTS[:1], {}, "at least two texts"),
        ([*TEXTS, TEXTS[0]], {}, "pass each sentence once"),
        (TEXTS, {"tower": None}, "has no text tower, and texts need one"),
        (TEXTS, {"level": 1.0}, "level is between 0 and 1"),
        (TEXTS, {"tower": TextTower(lambda texts: torch.ones(len(texts), 9))}, "width 9 do not fit"),
    ],
)
def test_what_means_nothing_is_refused(model, images, tower, texts, options, said):
    with pytest.raises(InputError, match=said):
        zero_shot_accuracy(model, images, texts, **{"labels": LABELS, "tower": tower, "progress": False, **options})
