"""Names of heads: the greedy texts, what they explain, and which of them are names, against arrays that keep everything."""

from functools import cache

import numpy as np
import pytest
import torch
from ported import borrow
from variants import pictures

import vitlens
from vitlens import InputError, direct_logit_attribution
from vitlens.planted import planted_words
from vitlens.text.names.contributions import Contributions, head_contributions
from vitlens.text.names.intervals import MOST_PICTURES, SomeRows, intervals
from vitlens.text.names.moments import VectorMoments
from vitlens.text.names.spans import (
    best_of_others,
    chance,
    chance_of_one,
    choose_texts,
    inside,
    random_like,
    rotations,
    spread_of,
)
from vitlens.text.seen import embedding_view

QUIET = {"progress": False}
N_HEADS, WAYS, JOINT, N_TEXTS, N = 3, 5, 9, 40, 30
close = torch.testing.assert_close


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments_of(rows, size=7):
    moments = VectorMoments()
    for start in range(0, len(rows), size):
        moments.add(rows[start : start + size])
    return moments


@cache
def arrays():
    """Coordinates whose mean is large and whose variances differ, of pictures to choose from and held out; maps; texts."""
    mixing = drawn(N_HEADS, WAYS, WAYS, seed=1)
    rows = torch.einsum("ihw,hwv->ihv", drawn(2 * N, N_HEADS, WAYS, seed=2), mixing) + 30 * drawn(N_HEADS, WAYS, seed=3)
    texts = drawn(N_TEXTS, JOINT, seed=4)
    return rows[:N], rows[N:], drawn(N_HEADS, WAYS, JOINT, seed=5), texts / texts.norm(dim=1, keepdim=True)


def spread():
    chosen_on, judged_on, maps, _ = arrays()
    first = moments_of(chosen_on)
    return spread_of(maps, first.mean, first.covariance, moments_of(judged_on).covariance)


def text_span(vectors, judged, span, texts, k):
    """Algorithm 1 with the vectors themselves, in NumPy: indices, shares, shares held out."""
    basis = np.linalg.qr(span.T)[0]
    left = texts @ basis @ basis.T
    vectors, judged = vectors - vectors.mean(axis=0), judged - judged.mean(axis=0)
    totals = [(rows**2).sum() for rows in (vectors, judged)]
    rests, found = [vectors, judged], []
    for _ in range(k):
        index = (rests[0] @ left.T).var(axis=0).argmax()
        axis = left[index] / np.linalg.norm(left[index])
        rests = [rows - np.outer(rows @ axis, axis) for rows in rests]
        left = left - np.outer(left @ axis, axis)
        found.append([index, *(1 - (rows**2).sum() / total for rows, total in zip(rests, totals, strict=True))])
    return np.array(found)


def test_moments_are_those_of_all_rows_at_once():
    rows = arrays()[0]
    moments = moments_of(rows)
    assert moments.n == N
    close(moments.mean, rows.mean(dim=0))
    for head in range(N_HEADS):
        close(moments.covariance[head], torch.cov(rows[:, head].T, correction=0), rtol=1e-10, atol=1e-10)


def test_texts_and_shares_are_those_of_the_algorithm_on_all_vectors():
    chosen_on, judged_on, maps, texts = arrays()
    found, k = spread(), 4
    chosen = choose_texts(inside(found, texts), found.variances, found.held_out, k)
    for head in range(N_HEADS):
        vectors, judged = ((rows[:, head] @ maps[head]).numpy() for rows in (chosen_on, judged_on))
        expected = text_span(vectors, judged, maps[head].numpy(), texts.numpy(), k)
        assert chosen.texts[head].tolist() == expected[:, 0].tolist()
        shares = chosen.gains[head].cumsum(0) / found.total[head]
        judged_shares = chosen.held_out[head].cumsum(0) / found.total_held_out[head]
        close(shares, torch.from_numpy(expected[:, 1]), rtol=1e-9, atol=0)
        close(judged_shares, torch.from_numpy(expected[:, 2]), rtol=1e-9, atol=0)


def test_the_best_of_other_texts_stands_behind_those_that_were_chosen():
    chosen_on, judged_on, maps, texts = arrays()
    others = drawn(17, JOINT, seed=8)
    here = spread()
    chosen = choose_texts(inside(here, texts), here.variances, here.held_out, 3)
    found = best_of_others(inside(here, others), chosen, here.variances, here.held_out)
    for head in range(N_HEADS):
        basis = np.linalg.qr(maps[head].T.numpy())[0]
        left, first = (rows.numpy() @ basis @ basis.T for rows in (others, texts))
        vectors, judged = ((rows[:, head] @ maps[head]).numpy() for rows in (chosen_on, judged_on))
        for rank, index in enumerate(chosen.texts[head].tolist()):
            best = left[(vectors @ left.T).var(axis=0).argmax()]
            assert found[head, rank].item() == pytest.approx((judged @ best).var() / (best @ best))
            axis = first[index] / np.linalg.norm(first[index])
            left, first = (rows - np.outer(rows @ axis, axis) for rows in (left, first))


def test_intervals_are_those_of_a_bootstrap_over_the_vectors():
    _, judged_on, maps, texts = arrays()
    here, mean = spread(), judged_on.mean(dim=0)
    chosen = choose_texts(inside(here, texts), here.variances, here.held_out, 3)
    low, high = intervals(judged_on, N, mean, maps, here, chosen, 5)
    shares = chosen.held_out.cumsum(dim=1) / here.total_held_out[:, None]
    for head in range(N_HEADS):
        vectors = (judged_on[:, head] - mean[head]) @ maps[head]
        seen = texts @ torch.linalg.pinv(maps[head]) @ maps[head]
        for rank in range(3):
            axes = torch.linalg.qr(seen[chosen.texts[head, : rank + 1]].T).Q
            along = (vectors @ axes).square().sum(dim=1)
            expected = vitlens.statistics.bootstrap(along.numpy(), vectors.square().sum(dim=1).numpy(), seed=5)
            got = [rows[head, rank].item() for rows in (shares, low, high)]
            np.testing.assert_allclose(got, [part.item() for part in expected], rtol=1e-9)
    # Of four times as many pictures, of which these are some: half as wide.
    for end, wide in zip(intervals(judged_on, 4 * N, mean, maps, here, chosen, 5), (low, high), strict=True):
        close(end - shares, (wide - shares) / 2)


def test_some_rows_are_a_sample_of_bounded_size():
    many = torch.arange(4.0 * MOST_PICTURES)[:, None, None]
    few, all_of_them = SomeRows(torch.Generator().manual_seed(0)), SomeRows(torch.Generator())
    for batch in many.split(64):
        few.add(batch)
    all_of_them.add(many[:9])
    all_of_them.add(many[:0])
    assert few.rows.shape == (MOST_PICTURES, 1, 1)
    assert len(few.rows.unique()) == MOST_PICTURES
    close(few.rows.mean(), many.mean(), rtol=0.1, atol=0)
    assert sorted(all_of_them.rows.flatten().tolist()) == list(range(9))


def test_a_full_span_explains_everything_and_then_nothing_is_left():
    found = spread()
    chosen = choose_texts(inside(found, arrays()[3]), found.variances, found.held_out, WAYS + 2)
    close(chosen.gains.sum(dim=1), found.total, rtol=1e-9, atol=0)
    close(chosen.held_out.sum(dim=1), found.total_held_out, rtol=1e-9, atol=0)
    assert (chosen.texts[:, WAYS:] == -1).all()
    assert (chosen.texts[:, :WAYS] >= 0).all()
    p = chance(chosen, found, N_TEXTS)
    # In the one direction that is left any text explains all.
    assert (p[:, WAYS - 1] == 1).all()
    assert p[:, WAYS:].isnan().all()


def test_a_head_that_writes_in_fewer_directions_than_its_ways_has_those_only():
    chosen_on, judged_on, maps, texts = arrays()
    maps = torch.cat([maps[:, :2], maps[:, :1] + maps[:, 1:2], torch.zeros(N_HEADS, 2, JOINT)], dim=1)
    first = moments_of(chosen_on)
    found = spread_of(maps, first.mean, first.covariance, moments_of(judged_on).covariance)
    assert (found.is_there.sum(dim=1) == 2).all()
    vectors = torch.einsum("ihw,hwe->ihe", chosen_on, maps)
    close(found.total, vectors.var(dim=0, correction=0).sum(dim=1))
    chosen = choose_texts(inside(found, texts), found.variances, found.held_out, 2)
    close(chosen.gains.sum(dim=1), found.total, rtol=1e-9, atol=0)


def test_a_constant_has_no_variance_and_no_texts():
    _, judged_on, maps, texts = arrays()
    rows = drawn(1, N_HEADS, WAYS).expand(N, -1, -1)
    first = moments_of(rows)
    found = spread_of(maps, first.mean, first.covariance, moments_of(judged_on).covariance)
    assert (found.total == 0).all()
    assert not found.is_there.any()
    chosen = choose_texts(inside(found, texts), found.variances, found.held_out, 2)
    assert (chosen.texts == -1).all()
    assert (chosen.gains == 0).all()


def test_the_chance_is_that_of_directions_drawn_at_random():
    variances = torch.tensor([[0.6, 0.2, 0.1, 0.06, 0.04, 0.0]], dtype=torch.float64)
    is_there = torch.ones(1, 6, dtype=torch.bool)
    units = drawn(200_000, 6, seed=6)
    along = ((units / units.norm(dim=1, keepdim=True)) ** 2 @ variances[0]).sort().values
    for share in (0.9, 0.99, 0.999):
        value = along[int(share * len(along))][None]
        found = chance_of_one(value, variances, is_there).item()
        assert found == pytest.approx(1 - share, rel=0.2)
    below = chance_of_one(along[:1], variances, is_there)
    largest = chance_of_one(variances[:, 0], variances, is_there)
    assert below == 1
    assert largest < 1e-12


def test_what_is_not_there_does_not_change_the_chance():
    variances = torch.tensor([[0.6, 0.3, 0.1, 5.0]], dtype=torch.float64)
    is_there = torch.tensor([[True, True, True, False]])
    value = torch.tensor([0.5], dtype=torch.float64)
    close(chance_of_one(value, variances, is_there), chance_of_one(value, variances[:, :3], is_there[:, :3]))


def test_rotations_turn_what_is_there_alone():
    is_there = torch.tensor([[True, True, True, False], [False, True, True, True]])
    turns = rotations(is_there, torch.Generator().manual_seed(0))
    close(turns @ turns.mT, torch.eye(4, dtype=torch.float64).expand(2, -1, -1))
    assert (turns[0, 3, :3] == 0).all()
    assert (turns[1, 0, 1:] == 0).all()
    assert (turns[0, :3, :3] != 0).all()


def test_random_texts_have_the_second_moments_of_the_texts():
    base = drawn(2, JOINT, seed=7)
    texts = drawn(4000, 2, seed=8) @ base
    texts = texts / texts.norm(dim=1, keepdim=True)
    found = random_like(texts, torch.Generator().manual_seed(1))
    close(found.norm(dim=1), torch.ones(4000, dtype=torch.float64))
    close(found, found @ torch.linalg.pinv(base) @ base, rtol=0, atol=1e-9)
    close(found.T @ found / 4000, texts.T @ texts / 4000, rtol=0, atol=0.05)


# ---- contributions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["class_token", "attention_pool", "maximum", "distilled", "class_and_mean", "post_norm", "layered_classifier"],
)
def test_contributions_are_the_shares_of_the_attribution_and_sum_to_the_embedding(name):
    with borrow(name) as model:
        width = model.cfg.d_vocab
        view = embedding_view(model, width)
        images = pictures(model.cfg, 2)
        found, embedding = head_contributions(view, images, range(model.cfg.n_layers))
        close(embedding, model(images))
        shares = direct_logit_attribution(view, images, "all", unit="head")
        heads = [i for i, label in enumerate(shares.axes["component"]) if label.kind == "head"]
        assert found.labels == [shares.axes["component"][i] for i in heads]
        tolerance = {"rtol": 1e-9, "atol": 1e-9 * float(shares.values.abs().max())}
        close(found.vectors, shares.values[..., heads].mT, **tolerance)
        others = [i for i in range(shares.values.shape[2]) if i not in heads]
        rest = 0.0 if shares.elsewhere is None else shares.elsewhere.sum(dim=2)
        whole = found.vectors.sum(dim=1) + shares.values[..., others].sum(dim=2) + rest
        close(whole, embedding, **tolerance)
        last, _ = head_contributions(view, images, [model.cfg.n_layers - 1])
        close(last.vectors, found.vectors[:, -model.cfg.n_heads :])


def test_coordinates_are_few_where_heads_have_fixed_directions():
    with borrow("class_token") as model:
        wide = drawn(50, model.cfg.d_model)
        view = embedding_view(model.with_class_embeddings(wide, space="features"), model.cfg.d_model)
        found, _ = head_contributions(view, pictures(model.cfg, 2), [0])
    assert isinstance(found, Contributions)
    assert found.coordinates.shape[2] == model.cfg.d_head
    assert found.maps.shape[1:] == (model.cfg.d_head, model.cfg.d_model)


# ---- the whole -------------------------------------------------------------------------------------------------------


@cache
def words(seed=0):
    return planted_words(60, seed=seed)


@cache
def named(n=256, seed=0, **options):
    vit = words(seed)
    about = {"tower": vit.tower, **QUIET, **options}
    return vitlens.text.name_heads(vit.model, vit.pictures(n).images, vit.texts, **about)


@pytest.mark.parametrize("seed", range(3))
def test_planted_names_come_back_in_their_order_and_others_get_none(seed):
    vit, found = words(seed), named(seed=seed)
    assert found.names == vit.names
    rows = {label: i for i, label in enumerate(found.axes["head"])}
    for label, truth in vit.names.items():
        row = rows[label]
        if truth:
            assert found.values[row, len(truth) - 1] > 0.8
            assert (found.low[row] < found.values[row]).all()
            assert (found.values[row] < found.high[row]).all()
            assert (found.high[row, 0] - found.low[row, 0]) < 0.3
            assert found.values[row, 0] > max(found.shuffled[row, 0], found.random[row, 0]) + 0.1
    assert found.variance[rows[vit.constant]] < 1e-4
    assert (
        found.p[rows[vit.constant], 0] < 0.05
    )  # It varies with the norm alone, along a word: the variance says how little.


def test_what_all_texts_have_in_common_names_no_head():
    """Texts of CLIP lie in a cone. A head that writes along its axis goes with every text alike, and no text is its name."""
    vit = words()
    images, found = vit.pictures(256).images, named()
    no_names = [i for i, label in enumerate(found.axes["head"]) if not vit.names[label] and found.variance[i] > 1e-3]
    contributions, _ = head_contributions(embedding_view(vit.model, 40), images, range(vit.model.cfg.n_layers))
    rows = contributions.vectors[:, no_names[0]].double()
    axis = torch.linalg.svd(rows - rows.mean(dim=0)).Vh[0]
    table = dict(
        zip(vit.texts, torch.nn.functional.normalize(vit.tower.embed(vit.texts) + 2 * axis, dim=1), strict=True)
    )
    cone = vitlens.text.TextTower(lambda texts: torch.stack([table[text] for text in texts]))
    again = vitlens.text.name_heads(vit.model, images, vit.texts, tower=cone, n_draws=1, **QUIET)
    assert again.p[no_names[0], 0] < 0.05
    assert again.p_turned[no_names[0], 0] > 0.05
    assert again.names[again.axes["head"][no_names[0]]] == []


def test_p_does_not_depend_on_the_draws_and_the_same_seed_gives_the_same():
    one, again, more = named(n=32, n_draws=2), named(n=32, n_draws=2, k=5), named(n=32, n_draws=3)
    close(one.values, again.values, equal_nan=True)
    close(one.random, again.random, equal_nan=True)
    close(one.p, more.p, equal_nan=True)
    assert not torch.equal(one.shuffled, more.shuffled)


def test_batches_and_blocks_are_parts_of_the_whole():
    vit = words()
    images = vit.pictures(32).images
    about = {"tower": vit.tower, "n_draws": 1, **QUIET}
    whole = named(n=32, n_draws=1)
    parts = vitlens.text.name_heads(vit.model, images, vit.texts, batch_size=32, **about)
    batches = vitlens.text.name_heads(vit.model, iter(images.split(8)), vit.texts, batch_size=8, **about)
    last = vitlens.text.name_heads(vit.model, images, vit.texts, blocks=-1, **about)
    close(parts.values, whole.values, equal_nan=True)
    assert batches.settings["pictures"] + batches.settings["pictures held out"] == 32
    assert last.axes["head"] == whole.axes["head"][-4:]
    close(last.values, whole.values[-4:], rtol=1e-6, atol=1e-9, equal_nan=True)


def test_tables_say_what_the_numbers_do():
    vit, found = words(), named()
    frame, table = found.to_frame(), found.table()
    assert list(frame.columns[:4]) == ["head", "rank", "text", "is_name"]
    assert frame[frame["is_name"]].groupby("head")["text"].apply(list).to_dict() == {
        label: names for label, names in vit.names.items() if names
    }
    assert list(table["names"]) == [", ".join(found.names[label]) for label in found.axes["head"]]
    silent = table.set_index("head").loc[vit.silent]
    assert silent["explained"] == 0
    assert "no name" in str(found.plot().data[0].customdata)


def test_what_cannot_be_named_is_refused():
    vit = words()
    images = vit.pictures(8).images
    about = {"model": vit.model, "images": images, "texts": vit.texts, "tower": vit.tower, **QUIET}
    narrow = vitlens.text.TextTower(lambda texts: torch.ones(len(texts), 7))
    for wrong, said in [
        ({"held_out": 0.0}, "between 0 and 1"),
        ({"held_out": 1.0}, "between 0 and 1"),
        ({"texts": ["red", "green"]}, "k=5 texts"),
        ({"images": images[:2]}, "pass more pictures"),
        ({"tower": narrow}, "width 7"),
        ({"texts": ["a word that it does not know"], "k": 1}, "knows its texts only"),
        ({"tower": None}, "has no text tower"),
    ]:
        with pytest.raises(InputError, match=said):
            vitlens.text.name_heads(**(about | wrong))
