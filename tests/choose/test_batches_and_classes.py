"""What the analyses of many pictures share: batches that change nothing, what `classes=` may be, what is refused."""

import dataclasses

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from ported import borrow, build

from vitlens import (
    HookedViT,
    InputError,
    ablate_tokens,
    class_lens,
    direct_logit_attribution,
    knockout_attention,
)
from vitlens.choose.classes import class_labels, select_classes
from vitlens.faithfulness import perturbation_test
from vitlens.lens import (
    ProbeFit,
    class_change_by_sublayer,
    class_similarity_change_rate,
    class_trace,
    identifiability,
    identifiability_rate,
    residual_composition,
)
from vitlens.memories import key_value_agreement
from vitlens.model.runs.batch_size import MOST_BYTES, MOST_PICTURES, default_batch_size
from vitlens.patching import activation_ablation, confusing_donors
from vitlens.removal import Edges, knockout_hooks

MEASURES = (
    identifiability,
    identifiability_rate,
    class_similarity_change_rate,
    class_change_by_sublayer,
    residual_composition,
)


@pytest.fixture
def any_type():
    """Calls as users make them: without the suite's check of types."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def same(one: object, other: object) -> None:
    """Equal results: tensors to rounding, everything else exactly."""
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, rtol=1e-12, atol=1e-12)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11, equal_nan=True)
    elif dataclasses.is_dataclass(one):
        for item in dataclasses.fields(one):
            same(getattr(one, item.name), getattr(other, item.name))
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            same(one[key], other[key])
    else:
        assert one == other


def calls(model: HookedViT, images: torch.Tensor, others: torch.Tensor) -> dict:
    """Every analysis that runs in batches, as a function of its batch size."""
    n, (height, width) = len(images), model.cfg.image_size
    labels = torch.arange(n) % 10
    masks = torch.zeros(n, height, width, dtype=torch.bool)
    for image in range(n):
        masks[image, : height // 2, : width // (1 + image % 2)] = True

    def given(how):
        return {"masks": masks} | ({"others": others} if how == "other" else {})

    found = {
        "lens of labels": lambda **k: class_lens(model, images, labels, sites="all", **k),
        "lens of predictions": lambda **k: class_lens(model, images, tokens="pooled", **k),
        "lens of classes": lambda **k: class_lens(model, images, [3, 1], blocks=-1, **k),
        "trace": lambda **k: class_trace(model, images, labels, **k),
        "trace of predictions": lambda **k: class_trace(model, images, blocks=[1], **k),
        "agreement": lambda **k: key_value_agreement(model, images, labels, k=3, **k),
    }
    for how in ("remove", "zero", "mean", "blur", "other"):
        found[f"ablation {how}"] = lambda how=how, **k: ablate_tokens(
            model, images, labels, tokens="context", replacement=how, **given(how), **k
        )
    edges = [Edges("patches", "object", heads=-1), Edges("patches", "all", blocks=0, except_self=True)]
    for how in ("zero", "renormalise", "mean", "other"):
        found[f"knockout {how}"] = lambda how=how, **k: knockout_attention(
            model, images, edges=edges[:1], replacement=how, **given(how), **k
        )
    found["knockouts of two kinds"] = lambda **k: knockout_attention(
        model, images, edges=edges, replacement="mean", masks=masks, **k
    )
    return found


@pytest.mark.parametrize(
    "name", ["class_token", "distilled", "average_without_class_token", "differential", "relative", "maximum"]
)
def test_batches_give_what_one_forward_gives(name, images_of):
    with borrow(name) as model:
        images, others = images_of(model, 5), images_of(model, 5, seed=3)
        seen: list[int] = []
        for what, call in calls(model, images, others).items():
            whole = call(batch_size=5)
            with model.hooks([("hook_patch_embed", lambda x, hook: seen.append(len(x)))]):
                same(call(batch_size=2), whole)
            assert set(seen) == {2, 1}, f"{what}: never more than a batch at once"
            seen.clear()


def test_probes_from_batches_are_those_of_one_forward(plain, images_of):
    images, labels = images_of(plain, 12), torch.arange(12) % 3
    fits = [ProbeFit(plain, sites="resid_post", blocks=-1, tokens=[0, -1]) for _ in range(2)]
    for fit, batch_size in zip(fits, (12, 5), strict=True):
        fit.add(images, labels, batch_size=batch_size)
    whole, parts = (fit.solve() for fit in fits)
    assert whole.tokens == [0, 9]
    for site, weight in whole.weights.items():
        torch.testing.assert_close(parts.weights[site], weight, rtol=1e-7, atol=1e-9)


def test_files_are_read_batch_by_batch_and_nobody_needs_to_say_how_many(plain, images_of, monkeypatch):
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 256, (48, 48, 3), np.uint8)) for _ in range(5)]
    expected = class_trace(plain, plain.to_images(pictures), 1)
    asked = []
    read = plain.as_images
    monkeypatch.setattr(plain, "as_images", lambda images: asked.append(len(images)) or read(images))
    same(class_trace(plain, pictures, 1, batch_size=2), expected)
    assert max(asked) == 2
    forwards = []
    with plain.hooks([("hook_patch_embed", lambda x, hook: forwards.append(len(x)))]):
        class_trace(plain, images_of(plain, MOST_PICTURES + 6), 1, blocks=0)
    assert forwards == [MOST_PICTURES, 6]
    size = default_batch_size(plain, n_tokens=1025)
    assert size == MOST_BYTES // (1025 * 4 * 1025 * 8) == 7
    assert default_batch_size(plain, n_tokens=10**6) == 1


def test_a_bar_is_shown_where_it_is_wanted(plain, images_of, capsys):
    images = images_of(plain, 3)
    class_trace(plain, images, 1, batch_size=2)
    assert capsys.readouterr().err == "", "nobody watches a pipe"
    class_trace(plain, images, 1, batch_size=2, progress=True)
    assert "3/3" in capsys.readouterr().err
    with pytest.raises(InputError, match="batch_size is a whole number of at least 1, not 0"):
        class_trace(plain, images, 1, batch_size=0)


def test_hooks_fit_the_pictures_they_were_made_for(plain, images_of):
    images = images_of(plain, 3)
    masks = torch.zeros(3, 48, 48, dtype=torch.bool)
    masks[0, :16, :16] = masks[1, 16:] = masks[2, :, :32] = True
    everywhere = knockout_hooks(plain, images, edges=Edges("class", "patches"))
    by_picture = knockout_hooks(plain, images, edges=Edges("class", "object"), masks=masks)
    with plain.hooks(everywhere):
        same(class_trace(plain, images, 1, batch_size=2), class_trace(plain, images, 1, batch_size=3))
    with plain.hooks(by_picture):
        with pytest.raises(InputError, match=r"for 3 pictures, and the run has 2.*batch_size=3"):
            class_trace(plain, images, 1, batch_size=2)
        inside = class_trace(plain, images, 1, batch_size=3)
    outside = class_trace(plain, images, 1)
    assert not torch.equal(inside.tables().logits["resid_post", 2], outside.tables().logits["resid_post", 2])


def test_heads_and_blocks_are_numbers_or_lists_of_them(plain, images_of):
    images = images_of(plain, 2)
    for one, several in [(-1, [3]), (0, [0])]:
        found, expected = (knockout_attention(plain, images, edges=Edges(heads=heads)) for heads in (one, several))
        assert torch.equal(found.values, expected.values)
    found, expected = (knockout_attention(plain, images, edges=Edges(blocks=blocks)) for blocks in (-1, [2]))
    assert torch.equal(found.values, expected.values)


# ---- what classes= may be ---------------------------------------------------------------------------------------------


def test_classes_are_what_they_are_said_to_be(plain):
    plain.class_names = ["crane", "crane", *map(str, "cdefghij")]

    def chosen(classes: object, n_images: int = 3) -> list[list[int]]:
        def predict() -> torch.Tensor:
            raise AssertionError("classes that are given need no forward")

        return select_classes(plain, classes, n_images, predict).indices.tolist()

    for classes, expected in [
        (4, [[4]] * 3),
        (np.int64(4), [[4]] * 3),
        (torch.tensor(4), [[4]] * 3),
        ("e", [[4]] * 3),
        (["e", 2], [[4, 2]] * 3),
        ((1,), [[1]] * 3),
        ("all", [list(range(10))] * 3),
        (torch.tensor([1, 0, 9], dtype=torch.uint8), [[1], [0], [9]]),
        (np.array([[1, 2], [2, 2], [0, 1]]), [[1, 2], [2, 2], [0, 1]]),
    ]:
        assert chosen(classes) == expected
    assert class_labels(plain, [1, 3, 0]) == ["crane (1)", "d", "crane (0)"]


def test_classes_called_the_same_keep_their_own_rows(plain, images_of):
    plain.class_names = ["crane", "crane", *map(str, "cdefghij")]
    frame = class_lens(plain, images_of(plain, 1), [0, 1], tokens="class", blocks=-1).to_frame()
    assert frame["class_index"].tolist() == [0, 1]
    assert frame["class_name"].tolist() == ["crane", "crane"]


def test_what_is_no_class_is_refused(plain, images_of, any_type):
    images = images_of(plain, 3)
    for classes, sentence in [
        (1.9, "an index .a whole number. or a name"),
        (float("nan"), "not nan"),
        (True, "not True"),
        ([True, 2], r"not (\[True, 2\]|True)"),
        ([1.0], r"not (\[1\.0\]|1\.0)"),
        ([None], r"not (\[None\]|None)"),
        ("1.9", "'1.9' cannot be looked up"),
        (-1, "no class -1: the model has classes 0 to 9"),
        ([], "empty"),
        ([2, 2], "names class 2 .* 2 times"),
        ({1, 2}, "not {1, 2}"),
        ({}, "not {}"),
        (b"1", "not b'1'"),
        (torch.tensor([0, 1]), "one row of indices per picture: got .2."),
        (torch.tensor([0.0, 1.0, 2.0]), "torch.float32 for 3 pictures"),
        (torch.tensor([True, False, True]), "torch.bool for 3 pictures"),
        (torch.tensor([0, 1, -1]), "no class -1"),
        (np.array([0, 10, 1]), "no class 10"),
        (torch.zeros(3, 0, dtype=torch.long), "empty"),
        (torch.zeros(3, 1, 1, dtype=torch.long), "one row of indices per picture"),
        (np.array(["a", "b", "c"]), "pass names as a list"),
    ]:
        for call in (class_lens, class_trace, key_value_agreement):
            with pytest.raises(InputError, match=sentence):
                call(plain, images, classes)


def test_several_classes_are_not_cut_to_the_first(plain, images_of):
    images = images_of(plain, 2)
    calls = [
        lambda classes: class_trace(plain, images, classes),
        lambda classes: ablate_tokens(plain, images, classes, tokens=[1]),
        lambda classes: key_value_agreement(plain, images, classes, k=2),
        lambda classes: confusing_donors(plain, images, others=images, classes=classes),
        lambda classes: perturbation_test(plain, images, classes, importance=torch.rand(2, 9)),
        lambda classes: [measure(class_lens(plain, images, classes, sites="all")) for measure in MEASURES],
    ]
    for call in calls:
        for classes in ([0, 1], torch.tensor([[0, 1], [2, 3]])):
            with pytest.raises(InputError, match="one class per picture"):
                call(classes)


# ---- what means nothing -----------------------------------------------------------------------------------------------


def test_one_output_and_equal_classes_have_no_ranks(images_of):
    model = build("class_token")
    images = images_of(model, 2)
    one = model.with_class_embeddings(torch.randn(1, 32, dtype=torch.float64))
    calls = {
        "a rank": lambda model: class_trace(model, images, 0),
        "a rank or a prediction": lambda model: ablate_tokens(model, images, 0, tokens=[1]),
        "a memory's class": lambda model: key_value_agreement(model, images, 0),
    }
    for quantity, call in calls.items():
        with pytest.raises(InputError, match=rf"is a number \(output=.identity.\), for which {quantity} means nothing"):
            call(one)
        one.set_output("sigmoid")
        with pytest.raises(InputError, match=f"a single output, for which {quantity} means nothing"):
            call(one)
        one.set_output("identity")
    _, cache = one.run_with_cache(images)
    last = one.project(cache["resid_post", -1], range(10))
    torch.testing.assert_close(last[:, 0], one(images))
    torch.testing.assert_close(class_lens(one, images, tokens="all").values[0, -1, ..., 0], last[..., 0])
    shares = direct_logit_attribution(one, images, 0, progress=False)
    torch.testing.assert_close(shares.values.sum(-1)[:, 0] + shares.residual[:, 0], one(images)[:, 0])
    assert knockout_attention(one, images).values.shape == (2, 1)
    fit = ProbeFit(one, blocks=0, tokens=[0])
    fit.add(images, torch.zeros(2, dtype=torch.long))
    with pytest.raises(InputError, match="two classes"):
        fit.solve()
    equal = model.with_class_embeddings(torch.ones(4, 32, dtype=torch.float64))
    with pytest.raises(InputError, match=r"all 4 classes .* the same embedding"):
        class_lens(equal, images, 0)
    two = model.with_class_embeddings(torch.randn(2, 32, dtype=torch.float64))
    assert class_lens(two, images, "all").top_classes.shape[-1] == 2
    with pytest.raises(InputError, match="top 5 of 2 classes are all of them"):
        key_value_agreement(two, images, 0)


def test_logits_that_are_not_finite_have_no_rank(images_of):
    broken, last = build("class_token"), build("class_token")
    images = images_of(broken, 2)
    with torch.no_grad():
        broken.blocks[1].mlp.fc2.weight[0, 0] = torch.nan
        last.unembed.bias[3] = -torch.inf
    for call, sentence in [
        (lambda: class_lens(broken, images, 0), "the class lens at blocks.1.hook_resid_post has logits that are NaN"),
        (lambda: class_trace(broken, images, 0), "NaN or infinite.* in block 1"),
        (lambda: ablate_tokens(broken, images, 0, tokens=[1]), "the last stream has logits that are NaN"),
        (lambda: class_lens(broken, images), "the logits of picture 0 are NaN or infinite"),
    ]:
        with pytest.raises(InputError, match=sentence):
            call()
    lens = class_lens(last, images, [3, 4])
    assert (lens.ranks[..., 0] == 9).all(), "a class that is ruled out is last"
    assert (lens.probabilities[..., 0] == 0).all()
    assert (class_trace(last, images, 3).tables().ranks["resid_post", 2] == 9).all()
    half = build("class_token").to(torch.bfloat16)
    with torch.no_grad():
        half.unembed.bias.fill_(3e38)
        half.unembed.bias[0] = torch.inf
    with pytest.raises(InputError, match="compute in float32"):
        class_lens(half, images.bfloat16(), 0)


def test_probabilities_in_half_precision_are_those_of_its_logits(images_of):
    model = build("class_token").to(torch.bfloat16)
    lens = class_lens(model, images_of(model, 2).bfloat16(), "all")
    expected = lens.values.double().softmax(dim=-1)
    torch.testing.assert_close(lens.probabilities.double(), expected, rtol=2**-8, atol=0)


def test_a_measure_of_blocks_that_were_not_watched_is_refused(plain, images_of):
    images = images_of(plain, 2)
    trace = class_trace(plain, images, 1)
    assert "block 3" in repr(trace), "what leaves the last block enters none"
    for lens in (class_lens(plain, images, 1, blocks=[0, 2]), class_trace(plain, images, 1, blocks=[0, 2])):
        with pytest.raises(InputError, match="two blocks that follow each other"):
            class_similarity_change_rate(lens)
        with pytest.raises(InputError, match="the blocks 0, 2, not after 1"):
            identifiability_rate(lens, block=1)
        assert identifiability_rate(lens, block=-1).equals(identifiability_rate(lens, block=2))
    with pytest.raises(InputError, match="reads patches"):
        identifiability_rate(class_lens(plain, images, 1, tokens="class"))


def test_probes_are_solved_once_from_labels_that_are_classes(plain, images_of, any_type):
    images, labels = images_of(plain, 6), torch.arange(6) % 2
    fit = ProbeFit(plain, blocks=0, tokens=[0])
    for wrong in (None, 3, labels[:5], labels.double(), labels.bool(), labels - 1, ["a"] * 6, [0.5] * 6):
        with pytest.raises(InputError, match="one label of 0 to 9 for each of the 6 pictures"):
            fit.add(images, wrong)
    fit.add(images, labels.tolist())
    for alpha in (0, -1.0, float("nan"), "1", True):
        with pytest.raises(InputError, match="alpha is the strength of the ridge"):
            fit.solve(alpha)
    fit.solve()
    for again in (fit.solve, lambda: fit.add(images, labels)):
        with pytest.raises(InputError, match="make another ProbeFit"):
            again()


def test_arguments_of_wrong_types_are_one_sentence(plain, images_of, any_type):
    images = images_of(plain, 2)
    lens = class_lens(plain, images, 0)
    for call, sentence in [
        (lambda: class_lens(plain, images, 0, sites=3), "sites is a name, or a list of names"),
        (lambda: class_lens(plain, images, 0, sites=[3]), r"sites is a name, or a list of names, not \[3\]"),
        (
            lambda: class_trace(plain, images, 0, sites="resid_pre"),
            "no lens site is called 'resid_pre'; the nearest names are resid_post",
        ),
        (lambda: class_lens(plain, images, 0, k=0), "k is a whole number of at least 1"),
        (lambda: class_lens(plain, images, 0, k=2.5), "k is a whole number of at least 1"),
        (lambda: class_lens(plain, images, 0, batch_size="2"), "batch_size is a whole number"),
        (lambda: class_lens(plain, images, 0, batch_size=True), "batch_size is a whole number"),
        (lambda: class_lens(plain, images, 0, progress="yes"), "progress is True or False, not 'yes'"),
        (lambda: lens.maps(image=2), "no picture 2"),
        (lambda: lens.maps(class_position=1), "no position on the axis of classes 1"),
        (lambda: lens.top_names(3), "no place on the axis 'block' 3"),
        (lambda: identifiability(None), "as class_lens or class_trace makes it, not None"),
        (lambda: identifiability_rate(lens, block=1.5), "block is a whole number, not 1.5"),
        (lambda: knockout_attention(plain, images, edges=3), "edges are self_only, no_cls, an Edges"),
        (lambda: knockout_attention(plain, images, edges=[None]), "edges are self_only, no_cls, an Edges"),
        (lambda: knockout_attention(plain, images, replacement=""), "one of zero, renormalise, mean, other, not ''"),
        (lambda: knockout_attention(plain, images, edges=Edges(heads="0")), "heads are numbers from 0 to 3"),
        (lambda: knockout_attention(plain, images, edges=Edges(heads=[1.5])), "not 1.5"),
        (lambda: knockout_attention(plain, images, edges=Edges(heads=True)), "not True"),
        (lambda: knockout_attention(plain, images, edges=Edges(heads=[])), "list of heads is empty"),
        (lambda: knockout_attention(plain, images, edges=Edges(except_self=1)), "except_self is True or False"),
        (
            lambda: knockout_attention(plain, images, edges="no_cls", replacement="other", others=images[:1]),
            "1 other pictures",
        ),
        (lambda: ablate_tokens(plain, images, tokens=[1], replacement="other", others=images[:1]), "1 other pictures"),
        (lambda: ablate_tokens(plain, images, tokens=[1], replacement=3), "replacement is a name, as text, not 3"),
        (lambda: ProbeFit(plain, sites="resid"), "no lens site"),
        (lambda: ProbeFit(plain, tokens=3), "tokens is a list of numbers"),
        (lambda: ProbeFit(plain, tokens=[10]), "no token 10"),
        (
            lambda: ProbeFit(plain, tokens=[0.5]),
            r"tokens are numbers, counted from 0: one of them or a list, not \[0.5\]",
        ),
        (
            lambda: activation_ablation(plain, images, sites="z", heads="L9H0"),
            "heads are numbers, counted from 0: one of them or a list, not 'L9H0': head L9H0 is blocks=9, heads=0",
        ),
        (lambda: key_value_agreement(plain, images, 0, k=0), "k is a whole number of at least 1"),
    ]:
        with pytest.raises(InputError, match=sentence):
            call()
