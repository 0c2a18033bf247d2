"""Names of neurons: effects sum to the splits of the attribution, and what they explain is that of all vectors."""

from functools import cache

import pytest
import torch
from ported import borrow, build
from sklearn.linear_model import orthogonal_mp
from variants import pictures

import vitlens
from vitlens import InputError, direct_logit_attribution
from vitlens.planted import planted_words
from vitlens.text.names.moments import VectorMoments
from vitlens.text.names.neuron_effects import neuron_effects
from vitlens.text.names.neurons import chance_of_texts, greedy_code
from vitlens.text.names.spans import spread_of
from vitlens.text.seen import embedding_view

QUIET = {"progress": False}
close = torch.testing.assert_close


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vectors_of(view, images, block, order):
    """[image, neuron, joint] of all neurons."""
    neurons = range(view.blocks[block].mlp.W_out.shape[0])
    found, embedding = neuron_effects(view, images, block, order, neurons)
    return torch.einsum("iuw,uwe->iue", found.coordinates, found.maps(slice(None))), embedding


FIXED = ["class_token", "attention_pool", "class_and_mean", "average_with_registers", "distilled", "post_norm", "gated"]


@pytest.mark.parametrize("name", FIXED)
def test_direct_effects_are_the_shares_of_the_neurons(name):
    with borrow(name) as model:
        view, images = embedding_view(model, model.cfg.d_vocab), pictures(model.cfg, 2)
        shares = direct_logit_attribution(view, images, "all", unit="neuron")
        for block in range(model.cfg.n_layers):
            found, embedding = vectors_of(view, images, block, 1)
            close(found, shares.values[:, :, block].mT, rtol=1e-9, atol=1e-9 * float(shares.values.abs().max()))
        close(embedding, model(images))


@pytest.mark.parametrize("name", FIXED)
def test_effects_of_second_order_sum_to_the_paths_of_their_mlp(name):
    model = build(name)
    for block in model.blocks:
        # The bias of an MLP is no neuron's.
        block.mlp.b_out.data.zero_()
        if block.norm_behind("mlp") is not None and block.norm_behind("mlp").bias is not None:
            block.norm_behind("mlp").bias.data.zero_()
    view, images = embedding_view(model, model.cfg.d_vocab), pictures(model.cfg, 2)
    paths = direct_logit_attribution(view, images, "all", unit="path")
    for block in range(model.cfg.n_layers - 1):
        found, _ = vectors_of(view, images, block, 2)
        writer = paths.axes["writer"].index(f"L{block} mlp")
        expected = paths.values[..., writer].sum(dim=(2, 3))
        close(found.sum(dim=1), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
        assert expected.abs().max() > 1e-6


@pytest.mark.parametrize(("name", "order"), [("maximum", 1), ("maximum", 2), ("gated_attention", 2), ("sub_norms", 2)])
def test_neurons_without_a_fixed_direction_are_refused(name, order):
    with borrow(name) as model:
        view = embedding_view(model, model.cfg.d_vocab)
        with pytest.raises(InputError, match="direct_logit_attribution"):
            neuron_effects(view, pictures(model.cfg, 2), 0, order, [0])


def test_the_code_is_that_of_orthogonal_matching_pursuit():
    """scikit-learn's, which also takes texts that point the other way: here each comes with both signs."""
    half = drawn(40, 12, seed=1)
    texts = torch.cat([half, -half]) / torch.cat([half, half]).norm(dim=1, keepdim=True)
    directions = drawn(6, 12, seed=2)
    chosen, axes = greedy_code(directions, texts, 4)
    close(axes @ axes.mT, torch.eye(4, dtype=torch.float64).expand(6, -1, -1))
    coefficients = orthogonal_mp(texts[:40].T.numpy(), directions.T.numpy(), n_nonzero_coefs=4)
    for i in range(6):
        assert sorted((chosen[i] % 40).tolist()) == coefficients[:, i].nonzero()[0].tolist()
        reached = texts[:40].T @ torch.from_numpy(coefficients[:, i])
        close((axes[i] @ directions[i]) @ axes[i], reached)


def test_nothing_is_chosen_for_no_direction_and_none_twice():
    texts = torch.eye(3, dtype=torch.float64)[:2]
    chosen, axes = greedy_code(torch.tensor([[0.0, 0.0, 0.0], [2.0, 1.0, 0.0]], dtype=torch.float64), texts, 3)
    assert chosen.tolist() == [[-1, -1, -1], [0, 1, -1]]
    assert (axes[0] == 0).all()
    assert (axes[1, 2] == 0).all()


@cache
def words():
    return planted_words(60, dtype=torch.float64)


@cache
def named(order=2, k=3):
    vit = words()
    about = {"tower": vit.tower, "block": vit.neuron[0], "order": order, "k": k, "n_draws": 2, **QUIET}
    return vitlens.text.name_neurons(vit.model, vit.pictures(48).images, vit.texts, **about)


@pytest.mark.parametrize("order", [1, 2])
def test_numbers_are_those_of_all_vectors(order):
    vit, found = words(), named(order)
    view = embedding_view(vit.model, 40)
    with torch.no_grad():
        vectors, embedding = vectors_of(view, vit.pictures(48).images, vit.neuron[0], order)
    texts = vit.tower.embed(vit.texts)
    whole = embedding.var(dim=0, correction=0).sum()
    # At the class token the planted neuron never fires.
    assert found.values[vit.neuron[1]].isnan().all() == (order == 1)
    for neuron in (0, 5, 7, *([vit.neuron[1]] if order == 2 else [])):
        rows = vectors[:, neuron]
        centred = rows - rows.mean(dim=0)
        total = centred.square().sum()
        _, lengths, principal = torch.linalg.svd(centred, full_matrices=False)
        close(found.variance[neuron], total / 48 / whole)
        close(found.rank_one[neuron], lengths[0] ** 2 / total)
        sizes = rows.square().sum(dim=1)
        close(found.pictures[neuron], sizes.sum() ** 2 / sizes.square().sum())
        direction = principal[0] * (sizes @ rows @ principal[0]).sign()
        chosen = found.indices[neuron].tolist()
        assert chosen[0] == int((texts @ direction).argmax())
        for k in range(1, 4):
            basis = torch.linalg.qr(texts[chosen[:k]].T).Q
            close(found.values[neuron, k - 1], (centred @ basis).square().sum() / total)


def test_a_planted_neuron_has_its_word_through_the_head_behind_it():
    vit, found = words(), named()
    row = vit.neuron[1]
    assert found.texts[row][0] == vit.neuron_word
    assert found.values[row, 0] > found.random[row, 0] + 0.3
    assert found.variance.argmax() == row
    strengths = vit.pictures(48).strengths[:, vit.words.index(vit.neuron_word)]
    assert 0.5 < found.pictures[row] / (strengths > 0).sum() < 1.05
    assert found.names[f"L{vit.neuron[0]} neuron {row}"] == [vit.neuron_word]
    # Others write next to nothing into a word's head, and most have no name.
    assert found.variance[found.is_name[:, 0]].sort().values[:-1].max() < 1e-5
    assert found.is_name[:, 0].sum() < 4
    table = found.table()
    assert table["names"][0] == vit.neuron_word
    assert table["neuron"][0] == f"L{vit.neuron[0]} neuron {row}"
    assert len(found.to_frame()) == found.values.numel()
    assert vit.neuron_word in found.plot(k=3).data[0].customdata[0]


def test_p_is_that_of_texts_drawn_at_random():
    """Of shares that one in twenty random directions has, behind the axes that were taken before."""
    maps, rows = drawn(2, 3, 8, seed=1), drawn(50, 2, 3, seed=2)
    moments = VectorMoments()
    moments.add(rows)
    spread = spread_of(maps, moments.mean, moments.covariance, moments.covariance)
    axes = torch.linalg.qr(drawn(2, 8, 3, seed=3)).Q.mT
    shares, random = torch.zeros(2, 3, dtype=torch.float64), drawn(100_000, 8, seed=4)
    for neuron in range(2):
        vectors = (rows[:, neuron] - rows[:, neuron].mean(dim=0)) @ maps[neuron]
        covariance = vectors.mT @ vectors / vectors.square().sum()
        left = random
        for rank in range(3):
            along = torch.nn.functional.normalize(left, dim=1)
            shares[neuron, rank] = (along @ covariance * along).sum(dim=1).quantile(0.95)
            left = left - (left @ axes[neuron, rank])[:, None] * axes[neuron, rank]
    found = chance_of_texts(shares, spread, axes, n_texts=5)
    close(found, 0.05 * torch.tensor([5.0, 4.0, 3.0], dtype=torch.float64).expand(2, -1), rtol=0.15, atol=0)
    assert chance_of_texts(shares, spread, axes, n_texts=100).min() == 1


def test_what_all_texts_have_in_common_names_no_neuron():
    vit = words()
    view, images = embedding_view(vit.model, 40), vit.pictures(48).images
    with torch.no_grad():
        vectors, _ = vectors_of(view, images, vit.neuron[0], 2)
    rows = vectors[:, vit.neuron[1]]
    axis = torch.linalg.svd(rows - rows.mean(dim=0)).Vh[0]
    axis = axis * (rows @ axis).sum().sign()
    table = dict(
        zip(
            vit.texts, torch.nn.functional.normalize(drawn(len(vit.texts), 40) / 40**0.5 + 2 * axis, dim=1), strict=True
        )
    )
    cone = vitlens.text.TextTower(lambda texts: torch.stack([table[text] for text in texts]))
    about = {"tower": cone, "block": vit.neuron[0], "neurons": vit.neuron[1], "k": 2, "n_draws": 1, **QUIET}
    found = vitlens.text.name_neurons(vit.model, images, vit.texts, **about)
    assert found.p[0, 0] < 0.05
    assert found.p_turned[0, 0] > 0.05
    assert list(found.names.values()) == [[]]


def test_some_neurons_are_rows_of_all():
    vit, found = words(), named()
    about = {"tower": vit.tower, "block": vit.neuron[0], "k": 3, "n_draws": 2, **QUIET}
    images = iter(vit.pictures(48).images.split(20))
    some = vitlens.text.name_neurons(vit.model, images, vit.texts, neurons=[7, -1, 7], batch_size=20, **about)
    rows = [7, len(found.values) - 1]
    assert some.axes["neuron"] == [found.axes["neuron"][row] for row in rows]
    close(some.values, found.values[rows])
    close(some.pictures, found.pictures[rows])
    close(some.variance, found.variance[rows])


def test_what_cannot_be_named_is_refused():
    vit = words()
    about = {
        "model": vit.model, "images": vit.pictures(2).images, "texts": vit.texts, "tower": vit.tower, "block": 0, **QUIET,
    }  # fmt: skip
    for wrong, said in [
        ({"order": 3}, "order is 1"),
        ({"block": -1}, "no head follows"),
        ({"neurons": 999}, "no neuron 999"),
        ({"neurons": []}, "list of neurons is empty"),
        ({"texts": ["red"]}, "k=5 texts"),
        ({"images": about["images"][:1]}, "two pictures"),
    ]:
        with pytest.raises(InputError, match=said):
            vitlens.text.name_neurons(**(about | wrong))
