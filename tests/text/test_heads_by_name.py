"""Heads kept or ablated by what they are named: the calls that ablate take the heads of a table of names."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

import vitlens
from vitlens.planted import planted_words


@pytest.fixture(scope="module")
def vit():
    made = planted_words(20, seed=1)
    made.model.set_text_tower(made.tower)
    return made


@pytest.fixture(scope="module")
def names(vit):
    return vitlens.text.name_heads(vit.model, vit.pictures(64).images, vit.texts, tower=vit.tower, k=4, progress=False)


def aurocs(vit, places) -> dict[str, float]:
    """How well each word's similarity tells the pictures that show it, without some heads, on pictures of their own."""
    pictures = vit.pictures(64, seed=5)
    hooks = vitlens.patching.ablation_hooks(vit.model, pictures.images, site="z", places=places, replacement="mean")
    with vit.model.hooks(fwd_hooks=hooks):
        lens = vitlens.class_lens(vit.model, pictures.images, text=vit.words, tokens="pooled", blocks=-1)
    likeness = lens.values[0, 0, :, 0]
    shown = pictures.strengths > 0
    return {word: roc_auc_score(shown[:, i], likeness[:, i]) for i, word in enumerate(vit.words)}


@pytest.mark.parametrize("word", ["dots", "green"])
def test_words_go_with_the_heads_of_that_name_and_stay_with_them_alone(vit, names, word):
    """Of 64 pictures an AUROC by chance, 0.5, may be a third off."""
    heads = [head for head, texts in names.names.items() if word in texts]
    others = [head for head in names.axes["head"] if head not in heads]
    written = {one for head in heads for one in vit.names[head]}
    elsewhere = {one for head in others for one in vit.names[head]}
    assert word in written
    without, alone = aurocs(vit, heads), aurocs(vit, others)
    for one in written:
        assert without[one] < 0.67
        assert alone[one] > 0.99
    for one in elsewhere:
        assert without[one] > 0.99
        assert alone[one] < 0.67


def test_names_of_heads_are_places(vit, names):
    images = vit.pictures(2).images
    heads = [head for head, texts in names.names.items() if texts]
    pairs = [(head.block, head.head) for head in heads]
    found = [
        vit.model.run_with_hooks(
            images, fwd_hooks=vitlens.patching.ablation_hooks(vit.model, images, site="z", places=places)
        )
        for places in (heads, [str(head) for head in heads], pairs)
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], vit.model(images))
