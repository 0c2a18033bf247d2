"""Embeddings as sums of few words: the weights are the lasso's, planted words come back, and random words explain less."""

import numpy as np
import pytest
import torch
from ported import borrow
from scipy.optimize import nnls
from variants import pictures

from vitlens import InputError, load_result
from vitlens.text import TextTower, load_vocabulary, sparse_words, sparse_words_of
from vitlens.text.sparse_codes.positive_codes import code_of_size, cosine_of, off_optimum, positive_code, random_turn

WORDS = load_vocabulary(category="material")[:40]


def tower_of(vectors):
    return TextTower(lambda texts: vectors[[WORDS.index(text) for text in texts]])


def vectors(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def lasso(words, target, sparsity):
    """The same problem as least squares with w ≥ 0, for words that are linearly independent: w solves AᵀA w = Aᵀz − λ."""
    a = words.T
    shifted = target - sparsity * a @ np.linalg.solve(a.T @ a, np.ones(len(words)))
    return nnls(a, shifted)[0]


@pytest.mark.parametrize("sparsity", [0.3, 0.1, 0.01])
def test_weights_are_those_of_another_solver(sparsity):
    words, targets = unit(vectors(30, 48, 0).numpy()), unit(vectors(12, 48, 1).numpy())
    counts = []
    for target in targets:
        code = positive_code(words, target, sparsity)
        np.testing.assert_allclose(code, lasso(words, target, sparsity), atol=1e-9)
        counts.append((code > 0).sum())
    assert max(counts) > 0


def test_many_words_that_are_alike_are_solved_too():
    """More words than dimensions, near one another: at the optimum no word's cosine with what is left exceeds λ."""
    base = vectors(6, 24, 2)
    words = unit((vectors(200, 6, 3) @ base + 0.05 * vectors(200, 24, 4)).numpy())
    for target in unit((vectors(10, 6, 5) @ base).numpy()):
        code = positive_code(words, target, 0.05)
        assert off_optimum(words, target, code, 0.05) < 1e-7
        assert (code >= 0).all()
        assert 0 < (code > 0).sum() < 24
    # What is off by more is told.
    assert off_optimum(words, target, np.zeros(200), 0.05) > 0.5


def test_a_planted_code_comes_back():
    texts = vectors(40, 64, 6) + 3 * vectors(1, 64, 7)
    tower = tower_of(texts)
    named = tower.embed(WORDS)
    centred = torch.nn.functional.normalize(named - named.mean(dim=0), dim=1)
    draw = np.random.default_rng(8)
    planted = [draw.choice(40, 3, replace=False) for _ in range(30)]
    weights = torch.tensor([0.7, 0.5, 0.3], dtype=torch.float64)
    seen = torch.stack([weights @ centred[row] for row in planted])
    seen = 0.5 * (seen - seen.mean(dim=0)) + 2 * torch.nn.functional.normalize(vectors(1, 64, 9), dim=1)
    # Of other lengths: only directions count.
    found = sparse_words_of(seen * torch.linspace(1, 5, 30)[:, None], WORDS, tower=tower, sparsity=0.12, n_draws=3)
    for row, words in enumerate(planted):
        told = list(found.words(row))
        assert set(told[:2]) <= {WORDS[i] for i in words}
        assert told[0] == WORDS[words[0]]
    assert found.cosine.min() > 0.9
    assert found.baseline.mean() < 0.6 * found.cosine.mean()
    assert (found.cosine_with_mean > found.mean_alone).all()


def test_cosines_are_those_of_the_sums():
    tower, seen, others = tower_of(vectors(40, 16, 10)), vectors(5, 16, 11), vectors(9, 16, 12) + 1
    found = sparse_words_of(seen, WORDS, tower=tower, others=others, sparsity=0.2, n_draws=2, seed=4)
    words = tower.embed(WORDS).numpy()
    words = unit(words - words.mean(0))
    mean = unit(others.numpy()).mean(0)
    generator = np.random.default_rng(4)
    turns = [random_turn(16, generator) for _ in range(2)]
    for row, e in enumerate(unit(seen.numpy())):
        code = np.zeros(40)
        for word, weight in found.words(row).items():
            code[WORDS.index(word)] = weight
        assert off_optimum(words, unit(e - mean), code, 0.2) < 1e-9
        assert found.n_words[row] == (code > 0).sum()
        total = code @ words
        assert found.cosine[row] == pytest.approx(unit(total) @ unit(e - mean), rel=1e-9)
        whole = mean + np.linalg.norm(e - mean) * unit(total)
        assert found.cosine_with_mean[row] == pytest.approx(unit(whole) @ e, rel=1e-9)
        assert found.mean_alone[row] == pytest.approx(unit(mean) @ e, rel=1e-9)
        turned = []
        for turn in turns:
            np.testing.assert_allclose(turn @ turn.T, np.eye(16), atol=1e-12)
            other_words = words @ turn
            other_code = code_of_size(other_words, unit(e - mean), int(found.n_words[row]))
            assert (other_code > 0).sum() <= found.n_words[row]
            turned.append(cosine_of(other_code @ other_words, unit(e - mean)))
        assert found.baseline[row] == pytest.approx(np.mean(turned), rel=1e-6)


def test_pictures_are_their_embeddings(tmp_path):
    with borrow("class_token") as model:
        images = pictures(model.cfg, 6)
        tower = tower_of(vectors(40, 10, 13))
        about = {"tower": tower, "sparsity": 0.1}
        found = sparse_words(model, images, WORDS, batch_size=4, progress=False, **about)
        same = sparse_words_of(model(images).detach(), WORDS, **about)
        torch.testing.assert_close(found.values, same.values, rtol=1e-9, atol=1e-12)
        assert found.indices.tolist() == same.indices.tolist()
        assert len(sparse_words(model, images, WORDS, others=images, progress=False, **about).pixels) == 6
        one = sparse_words(model, images[:1], WORDS, others=images, progress=False, **about)
        assert one.words(0) == pytest.approx(found.words(0), rel=1e-9)
        with pytest.raises(InputError, match="a single picture is its own mean: pass others="):
            sparse_words(model, images[:1], WORDS, progress=False, **about)
    assert (found.values[:, 1:] <= found.values[:, :-1]).all()
    frame = found.to_frame()
    assert (frame["text"] == "").sum() == found.values.numel() - int(found.n_words.sum())
    frame = frame[frame["text"] != ""]
    assert len(found.pixels) == 6
    assert frame[frame["image"] == 0]["text"].tolist() == list(found.words(0))
    means = found.means(k=3)
    totals = frame.groupby("text")["weight"].sum() / 6
    np.testing.assert_allclose(means["mean weight"], totals.sort_values(ascending=False)[:3], rtol=1e-9)
    assert found.table().loc[0, "words"].split(", ") == list(found.words(0))[:5]
    found.save(tmp_path / "words.safetensors")
    assert load_result(tmp_path / "words.safetensors").words(3) == found.words(3)
    assert list(found.plot(image=2).data[0].customdata) == list(found.words(2))[:15]


def test_a_picture_without_words_says_so():
    tower = tower_of(vectors(40, 16, 14))
    found = sparse_words_of(vectors(3, 16, 15), WORDS, tower=tower, sparsity=0.99)
    assert found.n_words.tolist() == [0, 0, 0]
    assert found.words(0) == {}
    assert found.cosine.isnan().all()
    assert found.baseline.isnan().all()
    assert found.table().loc[0, "words"] == "–"
    assert found.means().empty
    with pytest.raises(InputError, match="picture 0 has no words: lower sparsity="):
        found.plot()
    with pytest.raises(InputError, match="there is no picture 3"):
        found.words(3)


def test_what_means_nothing_is_refused():
    tower, seen = tower_of(vectors(40, 16, 16)), vectors(3, 16, 17)
    for embeddings, about, sentence in (
        (seen, {"sparsity": 1.0}, "sparsity lies between 0 and 1"),
        (seen[:, :9], {}, "the words are vectors of 16 numbers, and the embeddings of 9"),
        (seen[0], {}, r"embeddings are a tensor of floats \[image, features\]"),
        (seen * torch.nan, {}, "NaN or infinite"),
        (seen, {"others": seen[:0]}, "others= has no pictures"),
        (seen[:0], {"others": seen}, "there are no pictures"),
    ):
        with pytest.raises(InputError, match=sentence):
            sparse_words_of(embeddings, WORDS, tower=tower, **about)
    with pytest.raises(InputError, match="'wood' is the mean of all texts"):
        sparse_words_of(seen, "wood", tower=tower)
