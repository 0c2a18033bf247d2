"""Likeness of heads and of blocks: the estimators' formulas written out, invariances, and streams of any batch."""

import pytest
import torch
from ported import build, on_each_property
from variants import pictures

from vitlens import InputError
from vitlens.description.run import describe
from vitlens.description.similarity import MinibatchCKA, pattern_cosines, unbiased_hsic


def same(left, right, tolerance=1e-9):
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hsic(x, y):
    """Song et al. 2012: means over all tuples of different pictures, which the closed form counts."""
    k, m = x @ x.T, y @ y.T
    n = len(k)
    range_n = range(n)
    pairs = sum(k[i, j] * m[i, j] for i in range_n for j in range_n if i != j) / (n * (n - 1))
    fours = sum(
        k[i, j] * m[p, q]
        for i in range_n for j in range_n for p in range_n for q in range_n if len({i, j, p, q}) == 4
    ) / (n * (n - 1) * (n - 2) * (n - 3))  # fmt: skip
    threes = sum(
        k[i, j] * m[i, q] for i in range_n for j in range_n for q in range_n if len({i, j, q}) == 3
    ) / (n * (n - 1) * (n - 2))  # fmt: skip
    return pairs + fours - 2 * threes


def cka_of(x, y, rows):
    """Nguyen et al. 2021, equation 2, over minibatches."""
    batches = [(a, b) for a, b in zip(x.split(rows), y.split(rows), strict=True) if len(a) >= 4]
    cross, left, right = (
        sum(hsic(*pair) for pair in pairs) / len(batches)
        for pairs in (batches, [(a, a) for a, _ in batches], [(b, b) for _, b in batches])
    )
    return cross / (left * right).sqrt()


def test_unbiased_hsic_is_the_mean_over_tuples():
    x, y = random(6, 3), random(6, 4, seed=1)
    same(unbiased_hsic((x @ x.T)[None], (y @ y.T)[None])[0, 0], hsic(x, y))


@pytest.mark.parametrize("rows", [4, 6, 8, 16])
def test_minibatch_cka_is_its_formula(rows):
    """Two blocks against three; 10 pictures leave rests of 2 (left out) and of 4."""
    left, right = random(10, 2, 5), random(10, 3, 7, seed=1)
    measure = MinibatchCKA(rows)
    for part in (slice(0, 3), slice(3, 4), slice(4, 10)):
        measure.add(left[part], right[part])
    expected = [[cka_of(left[:, a], right[:, b], rows) for b in range(3)] for a in range(2)]
    same(measure.value(), torch.tensor(expected, dtype=torch.float64))


def test_cka_does_not_see_rotation_scale_and_shift():
    x = random(40, 1, 6)
    turn = torch.linalg.qr(random(6, 6, seed=2)).Q
    measure = MinibatchCKA(16)
    measure.add(torch.cat([x, x @ turn, 3 * x + 7], dim=1), x)
    same(measure.value()[:, 0], torch.ones(3, dtype=torch.float64))
    stretched = MinibatchCKA(16)
    stretched.add(x * torch.tensor([9.0, 1, 1, 1, 1, 1]), x)
    assert stretched.value().item() < 0.8


def test_cka_of_what_has_nothing_in_common_is_about_0():
    measure = MinibatchCKA(50)
    measure.add(random(400, 1, 20), random(400, 1, 20, seed=3))
    assert abs(measure.value().item()) < 0.05


def test_cka_of_fewer_than_4_pictures_is_none():
    measure = MinibatchCKA(8)
    measure.add(random(3, 1, 4), random(3, 1, 4))
    assert measure.value() is None


def test_pattern_cosines_by_hand():
    one = torch.eye(3, dtype=torch.float64)
    alike = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    patterns = [torch.stack([one, alike])[None], torch.stack([one, one])[None]]
    root = 3**-0.5
    expected = [[1, root, 1, 1], [root, 1, root, root], [1, root, 1, 1], [1, root, 1, 1]]
    same(pattern_cosines(patterns), torch.tensor(expected, dtype=torch.float64))


def cosines_of(cache, model, rows):
    n_maps = model.cfg.n_layers * model.cfg.n_heads
    flat = [
        cache["pattern", b][:, h, rows].flatten(1) for b in range(model.cfg.n_layers) for h in range(model.cfg.n_heads)
    ]
    total = torch.zeros(n_maps, n_maps, dtype=torch.float64)
    for a in range(n_maps):
        for b in range(n_maps):
            total[a, b] = torch.nn.functional.cosine_similarity(flat[a], flat[b], dim=1).mean()
    return total


@on_each_property
def test_every_architecture_has_the_likenesses_of_its_activations(classifier, images_of):
    cfg, images = classifier.cfg, images_of(classifier, 9)
    description = describe(classifier, images, batch_size=4, cka_rows=5, similarity_queries=3, progress=False)
    _, cache = classifier.run_with_cache(images, names_filter=["pattern", "resid_post"])
    n_tokens = cache["resid_post", 0].shape[1]
    rows = [0, round((n_tokens - 1) / 2), n_tokens - 1]
    same(description.head_similarity, cosines_of(cache, classifier, rows))
    token = cfg.prefix_tokens.index("class") if cfg.has_class_token else None
    states = [
        cache["resid_post", block][:, cfg.n_prefix_tokens :].mean(dim=1)
        if token is None
        else cache["resid_post", block][:, token]
        for block in range(cfg.n_layers)
    ]
    same(description.cka[0, -1], cka_of(states[0], states[-1], 5))
    same(description.cka.diagonal(), torch.ones(cfg.n_layers, dtype=torch.float64))
    same(description.cka, description.cka.T)
    assert description.settings["cka_tokens"] == ("patches" if token is None else "class")


def test_cka_against_another_model():
    """Of another width, depth and pooling; the same pictures through both."""
    model, other = build("class_token"), build("rotary_dynamic_size")
    images = pictures(model.cfg, 6)
    assert (other.cfg.d_model, other.cfg.n_layers) != (model.cfg.d_model, model.cfg.n_layers)
    description = describe(model, images, other_model=other, cka_tokens="patches", batch_size=4, progress=False)
    left, right = (each.run_with_cache(images, names_filter="resid_post")[1] for each in (model, other))
    assert description.cka_against.shape == (model.cfg.n_layers, other.cfg.n_layers)
    for block in range(other.cfg.n_layers):
        ours = left["resid_post", 1][:, model.cfg.n_prefix_tokens :].mean(dim=1)
        theirs = right["resid_post", block][:, other.cfg.n_prefix_tokens :].mean(dim=1)
        same(description.cka_against[1, block], cka_of(ours, theirs, 6))
    assert description.settings["other_model"] == other.cfg.model_name
    itself = describe(model, images, other_model=model, progress=False)
    same(itself.cka_against, itself.cka)
    assert description.cka.shape == (3, 3)


def test_what_stands_for_a_picture(plain, images_of):
    images = images_of(plain, 6)
    by_class, by_patches = (
        describe(plain, images, cka_tokens=tokens, progress=False) for tokens in ("class", "patches")
    )
    assert not torch.allclose(by_class.cka, by_patches.cka)
    assert by_class.settings["cka_tokens"] == "class"
    without = build("average_without_class_token")
    assert describe(plain, images, other_model=without, progress=False).settings["cka_tokens"] == "patches"
    with pytest.raises(InputError, match="has no class token"):
        describe(without, images, cka_tokens="class", progress=False)
    with pytest.raises(InputError, match='"class" or "patches", not \'mean\''):
        describe(plain, images, cka_tokens="mean", progress=False)


def test_heads_that_are_copies_of_each_other(plain, images_of):
    """Head 2 of block 1 given the queries and keys of head 0."""
    attn = plain.blocks[1].attn
    with torch.no_grad():
        for part in range(2):
            rows = part * 32
            for table in (attn.project.qkv.weight, attn.project.qkv.bias):
                table[rows + 16 : rows + 24] = table[rows : rows + 8]
    description = describe(plain, images_of(plain, 3), progress=False)
    best = description.redundant_heads(1).iloc[0]
    assert (best["head"], best["other"]) == ("L1H0", "L1H2")
    assert best["similarity"] == pytest.approx(1)
    row = description.heads.query("block == 1 and head == 2").iloc[0]
    assert (row["nearest_head"], row["nearest_similarity"]) == ("L1H0", pytest.approx(1))
    assert len(description.redundant_heads(None)) == 12 * 11 / 2
