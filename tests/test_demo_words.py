"""The demo's two towers: what they were trained for, and that their heads tell garment words from texture words."""

import sys
from pathlib import Path

import pytest
import torch
from in_process import run_script
from test_demo import garments

import vitlens
from vitlens import InputError
from vitlens.attribution import Attribution
from vitlens.demo import demo_folder

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

import show_demo_words as show  # noqa: E402
import train_demo_words as training  # noqa: E402
from demo_fashion import DEBIAN_FOLDER, load_garments  # noqa: E402

N_GARMENTS = len(show.GARMENTS)
#: A head that restores less of a decision than this takes no part in it.
TAKES_PART = 0.01


@pytest.fixture(scope="module")
def towers():
    return vitlens.demo.load_demo_words()


@pytest.fixture(scope="module")
def pictures(towers):
    return vitlens.demo.load_demo_pictures(towers[0])


@pytest.fixture(scope="module")
def named(towers):
    return show.name_everything(*towers)


@pytest.fixture(scope="module")
def shares(named, pictures):
    """Each component's direct share of the logits of all words."""
    return vitlens.direct_logit_attribution(named, pictures.images, "all", unit="head", progress=False)


def test_the_weights_are_small_and_an_embedding_is_what_the_model_gives(towers, pictures):
    model, tower = towers
    assert sum(path.stat().st_size for path in (demo_folder() / "words").iterdir()) <= 3e6
    assert model.cfg.output == "embedding"
    seen, read = model(pictures.images[:2]), tower.embed(["a bag", "dots", "a bag on dots"])
    assert seen.shape[1] == read.shape[1]
    assert seen.dtype == torch.float32
    with pytest.raises(InputError, match="set_class_embeddings"):
        vitlens.class_lens(model, pictures.images[:2])


def test_garments_and_textures_are_named_on_either_background(shares, pictures):
    logits = shares.logits
    is_garment = (logits[:, :N_GARMENTS].argmax(dim=1) == pictures.labels).double()
    is_texture = (logits[:, N_GARMENTS:].argmax(dim=1) == pictures.contexts).double()
    for some in (pictures.agreeing, pictures.conflicting):
        assert is_garment[some].mean() >= 0.7
        assert is_texture[some].mean() >= 0.95
    difference = is_garment[pictures.agreeing].mean() - is_garment[pictures.conflicting].mean()
    assert difference.abs() <= 0.1, "garments are not read from textures"


def test_a_sentence_of_both_is_truest_of_the_picture_with_both(towers, pictures):
    """Against the same garment on the other texture, another garment on this one, and both others."""
    model, tower = towers
    sure = [i for i, label in enumerate(pictures.labels.tolist()) if show.GARMENTS[label] in ("a bag", "a trouser")]
    right = 0
    for i in sure:
        garment, texture = int(pictures.labels[i]), int(pictures.contexts[i])
        sentences = [
            f"{show.GARMENTS[g % N_GARMENTS]} on {show.TEXTURES[t % N_GARMENTS]}"
            for g in (garment, garment + 4)
            for t in (texture, texture + 4)
        ]
        logits = model.with_class_embeddings(tower, sentences)(pictures.images[i : i + 1])
        right += int(logits.argmax() == 0)
    assert right >= 0.9 * len(sure)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a T-shirt on dots", "dots behind the t-shirt"),
        ("a photo of an ankle boot.", "Ankle boots"),
        ("horizontal stripe", "the horizontal stripes"),
    ],
)
def test_order_articles_and_number_change_nothing(towers, text, same):
    first, second = towers[1].embed([text, same])
    assert torch.allclose(first, second, rtol=0, atol=1e-6)


def test_what_it_does_not_know_is_refused_with_what_it_knows(towers):
    with pytest.raises(InputError, match=r"knows no word 'zebra'; it knows t-shirt, .*plain"):
        towers[1].embed("a zebra on dots")
    with pytest.raises(InputError, match="'a photo' names nothing that the demo knows: t-shirt, "):
        towers[1].embed(["a bag", "a photo"])


def told_by(shares: Attribution, some: slice, groups: torch.Tensor) -> torch.Tensor:
    """The share of each head's variance over some pictures that lies between these groups of them."""
    heads = [i for i, label in enumerate(shares.axes["component"]) if label.kind == "head"]
    assert [shares.axes["component"][i] for i in heads] == [
        f"L{block}H{head}" for block in range(6) for head in range(4)
    ]
    values = shares.values[some][..., heads].double()
    centred, groups = values - values.mean(dim=0), groups[some]
    members = [centred[groups == group] for group in groups.unique()]
    between = sum(len(some) * some.mean(dim=0).square().sum(dim=0) for some in members)
    return between / centred.square().sum(dim=(0, 1))


@pytest.fixture(scope="module")
def deciding(named, pictures):
    """Which heads, exchanged between two pictures, decide between garments alone, and which between textures alone."""
    effects = {
        what: pairs(pictures, 10).patched(named, pictures).effect().flatten()
        for what, pairs in {"garment": show.garment_pairs, "texture": show.texture_pairs}.items()
    }
    return {
        what: (effects[what] >= TAKES_PART) & (effects[what] > 3 * effects[other])
        for what, other in (("garment", "texture"), ("texture", "garment"))
    }


def test_words_separate_the_heads_as_patching_does(deciding, pictures, shares):
    """Heads that decide between textures, when they are exchanged between pictures that differ in the texture, write of
    textures; those that decide between garments write of garments."""
    by_garment = told_by(shares, pictures.conflicting, pictures.labels)
    by_texture = told_by(shares, pictures.conflicting, pictures.contexts)
    assert all(heads.sum() >= 5 for heads in deciding.values())
    assert (by_garment > by_texture)[deciding["garment"]].all()
    assert (by_texture > by_garment)[deciding["texture"]].all()


def test_heads_get_words_of_what_they_decide(named, pictures, deciding):
    found = show.words_of_heads(named, pictures)
    is_garment = torch.tensor([[text in training.GARMENTS for text in row] for row in found.texts])
    assert is_garment[deciding["garment"]].all()
    assert (is_garment[deciding["texture"]].double().mean(dim=1) < 0.5).all()
    explained, table = found.values[:, -1], found.table()
    assert (explained.numpy() > table["shuffled"]).all()


def test_heads_that_look_at_the_object_write_garment_words(named, pictures, shares):
    some = pictures.conflicting
    cache = named.run_with_cache(pictures.images[some], names_filter="pattern")[1]
    inside = vitlens.choose.select_tokens(named, "object", 50, masks=pictures.masks[some])
    looks = torch.cat(
        [(cache["pattern", block][:, :, 0] * inside[:, None]).sum(dim=-1).mean(dim=0) for block in range(6)]
    )
    by_garment = told_by(shares, some, pictures.labels)
    by_texture = told_by(shares, some, pictures.contexts)
    at_object, elsewhere = looks > 0.7, looks < 0.1
    assert min(at_object.sum(), elsewhere.sum()) >= 5
    assert (by_garment > by_texture)[at_object].all()
    assert (by_texture > by_garment)[elsewhere].all()


def test_a_garment_word_comes_from_the_object_and_a_texture_word_from_its_context(named, pictures):
    """What patches write directly through heads: of the difference of the two words that are true of a pair's pictures."""
    some = torch.arange(1, 100, 2)
    labels, contexts = pictures.labels[some], pictures.contexts[some]
    inside = vitlens.choose.select_tokens(named, "object", len(some), masks=pictures.masks[some])[:, 1:]
    # Against a word of the same kind that is not true of the picture.
    words = {"garment": (labels, contexts), "texture": (N_GARMENTS + contexts, N_GARMENTS + labels)}
    from_object = {}
    for what, (true, other) in words.items():
        found = vitlens.direct_logit_attribution(
            named, pictures.images[some], true, baseline_classes=other, unit="head_patch", progress=False
        )
        by_patch = found.values[:, 0, :, :, 1:].sum(dim=(1, 2))
        from_object[what] = ((by_patch * inside).sum(dim=1).mean() / by_patch.sum(dim=1).mean()).item()
    assert from_object["garment"] >= 0.6
    assert from_object["texture"] <= 0.2


def test_captions_are_true_of_their_picture_and_of_all_others_that_they_fit():
    generator = torch.Generator().manual_seed(0)
    some = garments(40)
    seen = training.drawn(some, training.independent_contexts(40, generator), generator)
    captions = training.write_captions(seen, 2, generator)
    true = captions.true_of(seen)
    assert true.shape == (40, 80)
    assert true[:, :40].diagonal().all()
    assert true[:, 40:].diagonal().all()
    for caption, row in zip(captions.texts, true.T, strict=True):
        names = caption.split(" on ")
        for label, context, is_true in zip(seen.labels.tolist(), seen.contexts.tolist(), row.tolist(), strict=True):
            kinds = {**{name: (label, of) for name, of in training.GARMENTS.items()}}
            kinds |= {name: (context, of) for name, of in training.TEXTURES.items()}
            assert is_true == all(kinds[name][0] in kinds[name][1] for name in names)
    assert any(" on " in caption for caption in captions.texts)


def test_plain_backgrounds_are_plain_and_the_shares_are_as_said():
    generator = torch.Generator().manual_seed(0)
    contexts = training.independent_contexts(20_000, generator)
    assert (contexts == training.PLAIN).double().mean().item() == pytest.approx(training.SHARE_PLAIN, abs=0.02)
    some = garments(20)
    seen = training.drawn(some, torch.arange(20) % (training.PLAIN + 1), generator)
    spread = [
        picture[:, ~mask].double().std(dim=1).max().item()
        for picture, mask in zip(seen.images, seen.masks, strict=True)
    ]
    is_plain = seen.contexts == training.PLAIN
    assert is_plain.sum() == 1
    assert (torch.tensor(spread) == 0).equal(is_plain)


def test_a_step_of_training_moves_what_is_not_frozen():
    torch.manual_seed(0)
    texts_tower = training.SumOfWords(training.words(), training.FILLERS, training.WIDTH)
    pictures_tower = training.start_pictures_tower()
    before = {name: value.clone() for name, value in pictures_tower.state_dict().items()}
    training.train(pictures_tower, texts_tower, garments(20), 2, 1, 1e-3, 4, 0)
    moved = {name for name, value in pictures_tower.state_dict().items() if not torch.equal(value, before[name])}
    frozen = ("patch_embed", "cls_token", "pos_embed", *(f"blocks.{i}." for i in range(training.N_FROZEN)))
    assert moved == {name for name in before if not name.startswith(frozen)}


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN_FOLDER.exists(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_accuracy_on_held_out_garments_is_as_promised(towers):
    held_out = load_garments("test").take(torch.arange(1000))
    found = training.accuracies(*towers, held_out, seed=1)
    assert (found["garment"] >= 0.65).all()
    assert (found["texture"] >= 0.95).all()


def test_the_page(tmp_path):
    done = run_script(EXPERIMENTS / "show_demo_words.py", "--pairs", 1, "--out", tmp_path / "words.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "words.html").read_text()
    for said in (
        "Named rightly: garments agreeing",
        "Between two textures",
        "L5H1: shoe, ",
        "Between two garments",
        "sigmoid",
    ):
        assert said in page
