"""The planted text tower: heads write their words as strongly as they should, and the others what no text says."""

from functools import cache

import pytest
import torch

from vitlens import InputError
from vitlens.planted import planted_words
from vitlens.planted.words import STRENGTHS
from vitlens.text.names.contributions import head_contributions
from vitlens.text.seen import embedding_view

N = 24


@cache
def run(seed=1):
    """The model, how strongly its words are on, and what its heads write, [image, head, joint], by label."""
    vit = planted_words(20, seed=seed, dtype=torch.float64)
    pictures = vit.pictures(N, seed=5)
    with torch.no_grad():
        found, _ = head_contributions(embedding_view(vit.model, 40), pictures.images, range(4))
    return vit, pictures.strengths, dict(zip(found.labels, found.vectors.unbind(dim=1), strict=True))


def test_heads_write_their_words_in_proportion_to_what_is_there():
    vit, strengths, written = run()
    vectors = vit.tower.embed(vit.words)
    several = {label: names for label, names in vit.names.items() if names and label != vit.relay}
    assert sorted(map(len, several.values())) == [1, 2, 3, 4]
    for label, names in several.items():
        along = written[label] @ vectors.T
        expected = torch.zeros_like(along)
        for strength, name in zip(STRENGTHS, names, strict=False):
            column = vit.words.index(name)
            expected[:, column] = strength * strengths[:, column]
        # The noise of all patches is read too: a fifth of how the strengths vary.
        assert (along - expected).square().mean(dim=0).sqrt().max() < 0.2
        for strength, name in zip(STRENGTHS, names, strict=False):
            column = vit.words.index(name)
            is_there = strengths[:, column]
            slope = (along[:, column] * is_there).sum() / is_there.square().sum()
            assert abs(slope / strength - 1) < 0.15


def test_the_relay_says_what_the_neuron_finds():
    vit, strengths, written = run()
    (name,) = vit.names[vit.relay]
    assert name == vit.neuron_word
    assert vit.neuron[0] < int(vit.relay[1])
    said = written[vit.relay] @ vit.tower.embed(name)[0]
    is_on = strengths[:, vit.words.index(name)] > 0
    assert said[is_on].min() > 0.2
    assert said[~is_on].abs().max() < 0.1


def test_others_write_nothing_a_constant_or_along_no_word():
    vit, _, written = run()
    vectors = vit.tower.embed(vit.words)
    assert written[vit.silent].abs().max() < 1e-6
    constant = written[vit.constant]
    assert constant.var(dim=0).sum() < 1e-4 * constant.square().sum(dim=1).mean()
    assert (constant @ vectors.T).mean(dim=0).max() > 0.9
    for label, names in vit.names.items():
        if not names and label not in (vit.silent, vit.constant):
            assert (written[label] @ vectors.T).abs().max() < 0.2 * written[label].norm(dim=1).mean()


def test_the_seed_draws_everything_and_the_texts_are_known():
    one, again, other = (planted_words(5, seed=seed) for seed in (1, 1, 2))
    assert one.names == again.names != other.names
    torch.testing.assert_close(one.pictures(2).images, again.pictures(2).images, rtol=0, atol=0)
    assert len(one.texts) == len(one.words) + 5
    torch.testing.assert_close(one.tower.embed(one.words) @ one.tower.embed(one.words).T, torch.eye(len(one.words)))


def test_what_cannot_be_planted_is_refused():
    vit, _, _ = run()
    with pytest.raises(InputError, match="0 or more"):
        planted_words(-1)
    with pytest.raises(InputError, match="one or more"):
        vit.pictures(0)
    with pytest.raises(InputError, match="knows its texts only"):
        vit.tower.embed("a cat")
