"""Names from activations: planted units get theirs, what is random gets none, and numbers are those of the equations."""

import numpy as np
import pytest
import torch
from ported import borrow
from scipy.stats import mannwhitneyu
from variants import build, pictures

import vitlens
from vitlens import HookedViT, InputError, load_result
from vitlens.features import SparseAutoencoder
from vitlens.pages.dictionary.labels import read_feature_labels
from vitlens.planted import planted_words
from vitlens.text import TextTower, load_vocabulary, name_features
from vitlens.text.names.best_texts import Naming, name_units
from vitlens.text.names.likeness_scores import Auc, SoftWpmi, best_by_chance
from vitlens.text.names.turned import turned_about_mean
from vitlens.text.names.unit_values import UnitTable

N, WIDTH = 24, 10
TEXTS = load_vocabulary(category="colour")[:12]
QUIET = {"progress": False}


def tower_of(vectors):
    """Of texts by their places in the list above."""
    return TextTower(lambda texts: vectors[[TEXTS.index(text) for text in texts]])


@pytest.fixture(scope="module")
def tower():
    return tower_of(torch.randn(len(TEXTS), WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64))


@pytest.fixture
def plain():
    with borrow("class_token") as model:
        yield model


@pytest.fixture
def images(plain):
    return pictures(plain.cfg, N)


@pytest.fixture
def sae():
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((32, 7), (7, 32))]
    return SparseAutoencoder.from_arrays(weights[0], None, weights[1], None, hook="resid_post0")


def cosines_of(model, images, tower):
    embedded = model(images).detach().numpy()
    texts = tower.embed(TEXTS).numpy()
    return embedded @ texts.T / np.linalg.norm(embedded, axis=1, keepdims=True)


def wpmi(values, cosines, n, scale=10.0):
    """Soft weighted PMI of one unit with every text, from the equations."""
    p = np.exp(scale * cosines) / np.exp(scale * cosines).sum(1, keepdims=True)
    sure = [0.998 - (0.998 - 0.97) * rank / (n - 1) for rank in range(n)]
    order = [i for i in np.argsort(-values, kind="stable")[:n] if values[i] > values.min()]
    given = sum(np.log(1 + s * (p[i] - 1)) for s, i in zip(sure, order, strict=False))
    return given - sum(np.log(1 + s * (p.mean(0) - 1)) for s, _ in zip(sure, order, strict=False))


def pair_area(inside, outside):
    return np.mean((inside[:, None] > outside) + 0.5 * (inside[:, None] == outside))


def test_scores_are_those_of_the_equations(plain, images, sae, tower):
    found = name_features(plain, images, TEXTS, tower=tower, sae=sae, k=len(TEXTS), n_examples=6, n_draws=19, **QUIET)
    stream = plain.run_with_cache(images)[1]["resid_post", 0]
    values = sae.encode(stream).amax(dim=1).detach().numpy()
    cosines = cosines_of(plain, images, tower)
    for feature in range(7):
        scores = wpmi(values[:, feature], cosines, 6)
        order = np.argsort(-scores)
        assert found.texts[feature] == [TEXTS[i] for i in order]
        np.testing.assert_allclose(found.values[feature].numpy(), scores[order], rtol=1e-9)
        active = values[:, feature] > (values[:, feature].min() + values[:, feature].max()) / 2
        areas = [pair_area(cosines[active, i], cosines[~active, i]) for i in order]
        np.testing.assert_allclose(found.auc[feature].numpy(), areas, rtol=1e-9)
        assert found.n_active[feature] == active.sum()


def test_the_batch_size_changes_nothing(plain, images, sae, tower):
    one, other = (
        name_features(plain, images, TEXTS, tower=tower, sae=sae, batch_size=size, n_draws=19, **QUIET)
        for size in (24, 7)
    )
    np.testing.assert_allclose(one.values.numpy(), other.values.numpy(), rtol=1e-9)
    assert one.texts == other.texts
    torch.testing.assert_close(one.p, other.p)


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_neurons_and_heads_are_units(plain, images, tower, pooling):
    _, cache = plain.run_with_cache(images)
    about = {"tower": tower, "method": "auc", "pooling": pooling, "tokens": "patches", "n_draws": 19, **QUIET}
    cosines = cosines_of(plain, images, tower)
    first = plain.cfg.n_prefix_tokens
    units = {
        ("post", 1): cache["post", 1][:, first:],
        ("z", 0): cache["z", 0][:, first:].norm(dim=-1),
    }
    for hook, rows in units.items():
        found = name_features(plain, images, TEXTS, hook=hook, k=1, **about)
        values = (rows.amax(dim=1) if pooling == "max" else rows.mean(dim=1)).numpy()
        assert len(found.values) == values.shape[1]
        for unit in range(values.shape[1]):
            active = values[:, unit] > (values[:, unit].min() + values[:, unit].max()) / 2
            areas = [
                mannwhitneyu(c[active], c[~active]).statistic / (active.sum() * (~active).sum()) for c in cosines.T
            ]
            assert found.values[unit, 0] == pytest.approx(max(areas), rel=1e-9)
    assert found.axes["feature"] == [f"L0H{head}" for head in range(plain.cfg.n_heads)]


def test_chosen_features_are_named_as_among_all(plain, images, sae, tower):
    about = {"tower": tower, "k": 2, "n_draws": 19, **QUIET}
    everything = name_features(plain, images, TEXTS, sae=sae, **about)
    some = name_features(plain, images, TEXTS, sae=sae, features=[5, 2], **about)
    assert some.axes["feature"] == [5, 2]
    np.testing.assert_allclose(some.values.numpy(), everything.values[[5, 2]].numpy(), rtol=1e-9)
    assert name_features(plain, images, TEXTS, hook="hook_pooled", features=3, **about).axes["feature"] == [3]


def test_a_feature_that_is_named_twice_is_there_once(plain, images, sae, tower):
    for about in ({"sae": sae}, {"hook": "post0"}):
        found = name_features(plain, images, TEXTS, tower=tower, features=[3, 1, 3], n_draws=19, **about, **QUIET)
        assert found.axes["feature"] == [3, 1]
        assert found.table()["feature"].tolist() == [3, 1]


def test_logits_of_other_classes_are_units(plain, images, tower):
    """The texts' space is that of the head, whatever classes were set behind it."""
    zero_shot = plain.with_class_embeddings(tower, TEXTS[:4])
    found = name_features(zero_shot, images, TEXTS, tower=tower, hook="hook_logits", k=1, method="auc", **QUIET)
    assert found.axes["feature"] == [0, 1, 2, 3]
    cosines = cosines_of(plain, images, tower)
    for unit, own in enumerate(cosines.T[:4]):
        active = own > (own.min() + own.max()) / 2
        # A class is its text: it is told apart perfectly.
        assert found.auc[unit, 0] == 1.0
        assert pair_area(cosines[active, unit], cosines[~active, unit]) == 1.0


def test_another_model_can_see_the_pictures(plain, images, sae, tower):
    other = HookedViT.from_timm(build(num_classes=0, embed_dim=WIDTH, num_heads=2))
    found = name_features(
        plain, images, TEXTS, tower=tower, sae=sae, other_model=other, k=1, method="auc", n_draws=19, **QUIET
    )
    seen = other(images, return_type="features").detach().numpy()
    cosines = seen @ tower.embed(TEXTS).numpy().T / np.linalg.norm(seen, axis=1, keepdims=True)
    values = sae.encode(plain.run_with_cache(images)[1]["resid_post", 0]).amax(dim=1)[:, 0].detach().numpy()
    active = values > (values.min() + values.max()) / 2
    areas = [pair_area(c[active], c[~active]) for c in cosines.T]
    assert found.values[0, 0] == pytest.approx(max(areas), rel=1e-9)
    with pytest.raises(InputError, match="gives its pictures only once"):
        name_features(plain, iter([images]), TEXTS, tower=tower, sae=sae, other_model=other, **QUIET)
    with pytest.raises(InputError, match=r"vectors of 10 numbers.*32 \(features\).*other_model= takes"):
        name_features(HookedViT.from_timm(build(num_classes=0)), images, TEXTS, tower=tower, hook="post0", **QUIET)


@pytest.fixture(scope="module")
def planted():
    """60 pictures with concepts, each in a third of them; the units: those of four concepts, 40 random ones, a constant."""
    draw = np.random.default_rng(1)
    concepts = draw.random((60, 12)) < 1 / 3
    cosines = 0.2 * concepts + 0.02 * draw.normal(size=concepts.shape)
    values = np.zeros((60, 45))
    values[:, :4] = concepts[:, :4] * draw.uniform(1, 2, size=(60, 4))
    values[:, 4:44] = (draw.random((60, 40)) < 1 / 3) * draw.uniform(1, 2, size=(60, 40))
    # Texts are the axes.
    return UnitTable(values, cosines, list(range(45)))


def names_of(table, method):
    return name_units(table, np.eye(12), method, 15, 10.0, 2, 200, 0, False)


@pytest.mark.parametrize("method", ["wpmi", "auc"])
def test_planted_units_get_their_names_and_random_ones_none(planted, method):
    found = names_of(planted, method)
    assert found["indices"][:4, 0].tolist() == [0, 1, 2, 3]
    assert found["auc"][:4, 0].tolist() == [1.0] * 4
    assert (found["p"][:4, 0] == 1 / 201).all()
    sizes = np.minimum((planted.values > 0).sum(axis=0), 15)
    if method == "auc":
        lowest, highest = planted.values.min(axis=0), planted.values.max(axis=0)
        sizes = (planted.values > (lowest + highest) / 2).sum(axis=0)
    score = Auc(planted.embeddings) if method == "auc" else SoftWpmi(planted.embeddings, 15, 10.0)
    chance = best_by_chance(score, sizes, 60, 200, seed=0)
    for unit in range(44):
        above = [(chance[:, unit] >= value - 1e-9).sum() for value in found["values"][unit].numpy()]
        np.testing.assert_allclose(found["p"][unit].numpy(), (1 + np.array(above)) / 201)
        assert found["chance"][unit] == pytest.approx(chance[:, unit].mean())
    assert (found["p_turned"][:4, 0] == 1 / 20).all()
    # At most one in twenty is expected to have one; no more than three times as many do.
    assert (found["p"][4:44, 0] <= 0.05).sum() <= 6
    assert found["values"][44].isnan().all()
    assert found["p"][44].isnan().all()
    assert (found["indices"][44] == -1).all()


@pytest.mark.parametrize("method", ["wpmi", "auc"])
def test_lists_that_are_turned_are_scored_as_the_list_is(planted, method):
    found, generator = names_of(planted, method), np.random.default_rng(0)
    best = []
    for _ in range(19):
        texts = turned_about_mean(np.eye(12), generator)
        best.append(Naming(planted.values, planted.embeddings @ texts.T, method, 15, 10.0).scores().max(axis=1))
    for unit in range(44):
        above = [sum(row[unit] >= value for row in best) for value in found["values"][unit].numpy()]
        np.testing.assert_allclose(found["p_turned"][unit].numpy(), (1 + np.array(above)) / 20)
    np.testing.assert_allclose(found["turned"].numpy(), np.mean(best, axis=0))


def test_a_turn_keeps_the_mean_and_the_angles():
    texts = np.random.default_rng(6).normal(size=(9, 12)) + 1
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    found = turned_about_mean(texts, np.random.default_rng(7))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    assert np.abs(found - texts).max() > 0.3
    # Their lengths before they are scaled are those for which the mean is the same.
    mean = texts.mean(0)
    lengths = np.linalg.lstsq(found.T, 9 * mean, rcond=None)[0]
    before = lengths[:, None] * found - mean
    np.testing.assert_allclose(before @ before.T, (texts - mean) @ (texts - mean).T, atol=1e-9)
    alone = turned_about_mean(texts[:1], np.random.default_rng(8))
    assert np.linalg.norm(alone) == pytest.approx(1)
    assert abs(alone @ texts[0]) < 0.95


def test_a_unit_without_a_word_gets_none():
    """It follows a concept that the list does not have, and the nearest texts are no better than others would be."""
    draw = np.random.default_rng(9)
    concepts = np.linalg.qr(draw.normal(size=(24, 24)))[0]
    strengths = (draw.random((300, 24)) < 0.3) * 1.0
    seen = strengths @ concepts + 0.05 * draw.normal(size=(300, 24))
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    # Eight words are concepts, and 40 are anything; unit 0 follows a word, units 1 to 10 follow no word.
    texts = np.concatenate([concepts[:8], draw.normal(size=(40, 24))])
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    table = UnitTable(strengths[:, [0, *range(12, 22)]], seen, list(range(11)))
    found = name_units(table, texts, "auc", 30, 10.0, 1, 100, 0, False)
    assert found["indices"][0, 0] == 0
    assert found["p_turned"][0, 0] == 1 / 20
    # Their pictures are no random ones, and some text goes with them.
    assert (found["p"][1:, 0] <= 0.05).sum() >= 8
    assert (found["p_turned"][1:, 0] <= 0.05).sum() <= 2


def test_planted_heads_and_neurons_get_the_words_that_they_write():
    """Of four heads the word that each writes most strongly; of the neuron its own; none of the head that writes nothing."""
    vit = planted_words()
    images = vit.pictures(400).images
    about = {"tower": vit.tower, "method": "auc", "k": 1, "n_draws": 19, **QUIET}
    labels, chosen = {}, [name for name, words in vit.names.items() if words and name != vit.relay]
    for block in range(vit.model.cfg.n_layers):
        labels |= name_features(vit.model, images, vit.texts, hook=("z", block), **about).labels()
    assert {name: labels.get(name) for name in chosen} == {name: vit.names[name][0] for name in chosen}
    assert vit.silent not in labels
    block, neuron = vit.neuron
    found = name_features(vit.model, images, vit.texts, hook=("post", block), features=neuron, **about)
    assert found.labels() == {neuron: vit.neuron_word}


def test_chance_is_that_of_pictures_drawn_one_set_at_a_time():
    draw = np.random.default_rng(2)
    cosines, sizes = draw.normal(size=(20, 5)), np.array([3, 1, 0, 7])
    for score in (SoftWpmi(cosines, 8, 10.0), Auc(cosines)):
        found = best_by_chance(score, sizes, 20, 4, seed=3)
        shuffles = np.random.default_rng(3)
        for row in found:
            order = shuffles.permutation(20)
            for size, best in zip(sizes, row, strict=True):
                if not size:
                    assert np.isnan(best)
                elif isinstance(score, Auc):
                    inside = np.isin(np.arange(20), order[:size])
                    assert best == pytest.approx(max(pair_area(c[inside], c[~inside]) for c in cosines.T), rel=1e-9)
                else:
                    ranked = np.zeros(20)
                    ranked[order[:size]] = np.arange(size, 0, -1)
                    assert best == pytest.approx(wpmi(ranked, cosines, 8).max(), rel=1e-9)


def test_intervals_are_delongs():
    draw = np.random.default_rng(4)
    cosines = draw.normal(size=(40, 3)).round(1)
    inside = draw.random(40) < 0.3
    cosines[inside] += 0.5
    area, low, high = Auc(cosines).with_intervals(inside, np.array([2, 0]))
    for i, text in enumerate((2, 0)):
        a, b = cosines[inside, text], cosines[~inside, text]
        wins = (a[:, None] > b) + 0.5 * (a[:, None] == b)
        spread = np.sqrt(wins.mean(1).var(ddof=1) / len(a) + wins.mean(0).var(ddof=1) / len(b))
        assert area[i] == pytest.approx(wins.mean(), rel=1e-9)
        assert high[i] - low[i] == pytest.approx(2 * 1.959963984540054 * spread, rel=1e-9)
    alone = np.arange(40) == 7
    area, low, high = Auc(cosines).with_intervals(alone, np.array([0]))
    assert area[0] == pytest.approx(pair_area(cosines[alone, 0], cosines[~alone, 0]))
    assert np.isnan([low, high]).all()


def test_names_are_labels_for_the_page_of_features(planted, tmp_path):
    found = vitlens.text.FeatureNames(
        **names_of(planted, "wpmi"),
        axes={"feature": planted.labels, "rank": [1, 2]},
        quantity="wpmi",
        vocabulary=TEXTS,
        settings={"model": "arrays", "hook": "none", "pictures": 60},
    )
    labels = found.labels()
    assert {feature: labels[feature] for feature in range(4)} == dict(enumerate(TEXTS[:4]))
    assert read_feature_labels(labels, 45, "any") == labels
    assert all(bool(names) == (feature in labels) for feature, names in found.names.items())
    assert found.names[44] == []
    assert found.texts[44] == ["", ""]
    assert all(label.count(",") <= 1 for label in found.labels(k=2).values())
    table = found.table().set_index("feature")
    assert table.loc[0, "names"].startswith("red")
    assert table.loc[44, "names"] == table.loc[44, "auc"] == "–"
    assert f"{len(labels)} of 45 have a name" in str(found)
    frame = found.to_frame()
    assert frame[frame["is_name"]].groupby("feature")["text"].first().to_dict() == labels
    found.save(tmp_path / "names.safetensors")
    again = load_result(tmp_path / "names.safetensors")
    assert again.names == found.names
    drawn = found.plot(k=44)
    shown = [tick.split(": ") for tick in drawn.layout.yaxis.ticktext]
    assert {int(feature): text for feature, text in shown if text != "–"} == labels
    assert "–" not in [text for _, text in shown[: len(labels)]]
    assert len(shown) == 44
    assert [drawn.data[0].x[i] for i in range(4)] == [1.0] * 4


def test_what_means_nothing_is_refused(plain, images, sae, tower):
    for about, sentence in (
        ({"sae": sae, "method": "best"}, 'method is "wpmi" or "auc"'),
        ({"sae": sae, "pooling": "sum"}, 'pooling is "max" or "mean"'),
        ({"sae": sae, "scale": 0}, "scale is a positive number"),
        ({"sae": sae, "n_draws": 18}, "n_draws is a whole number of at least 19"),
        ({"sae": sae, "k": 13}, "k=13 texts cannot be chosen among 12"),
        ({"sae": sae, "n_examples": N}, "n_examples is from 1 to 23"),
        ({"sae": sae, "features": [7]}, "there is no feature 7"),
        ({"hook": "post0", "features": [10**6]}, "features= are units of blocks.0.mlp.hook_post"),
        ({"hook": "pattern0"}, "numbers of pairs of tokens"),
        ({"hook": "post0", "hook_out": "mlp_out0"}, "hook_out= goes with a transcoder"),
        ({}, "name what gets names"),
    ):
        with pytest.raises(InputError, match=sentence):
            name_features(plain, images, TEXTS, tower=tower, **about, **QUIET)
    with pytest.raises(InputError, match="names need 10 pictures or more, and there are 9"):
        name_features(plain, images[:9], TEXTS, tower=tower, sae=sae, **QUIET)
    with pytest.raises(InputError, match="'red' 2 times"):
        name_features(plain, images, ["red", "red"], tower=tower, sae=sae, **QUIET)
    with pytest.raises(InputError, match="has no text tower, and texts need one: pass tower="):
        name_features(plain, images, TEXTS, sae=sae, **QUIET)


def test_a_model_that_has_its_tower_needs_none(plain, images, sae, tower):
    about = {"sae": sae, "k": 1, "n_draws": 19, **QUIET}
    given = name_features(plain, images, TEXTS, tower=tower, **about)
    plain.set_text_tower(tower)
    try:
        own = name_features(plain, images, TEXTS, **about)
    finally:
        plain.set_text_tower(None)
    assert own.texts == given.texts
    torch.testing.assert_close(own.values, given.values)
