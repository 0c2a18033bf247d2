"""What edits do to the answers: the same numbers as whole runs with hooks, and baselines of the same size."""

import numpy as np
import pytest
import torch
from ported import borrow

from vitlens import InputError, edit
from vitlens.editing import Directions, evaluate_edits
from vitlens.editing.baselines import classifier_inputs, edit_norms, random_edits, retrain_classifier
from vitlens.editing.groups import read_groups

N = 24


@pytest.fixture(scope="module", params=["class_token", "average_with_registers", "distilled"])
def case(request):
    with borrow(request.param) as model:
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(N, 3, *model.cfg.image_size, generator=generator, dtype=model.dtype)
        labels = model(images).argmax(dim=1)
        labels[::3] = (labels[::3] + 1) % model.cfg.n_classes
        yield model, images, labels, ["left", "right", "left"] * (N // 3)


def edits_of(model, images):
    direction = model.W_U[:, :2].T.detach()
    at_the_end = "pooled" if model.is_distilled else "classifier"
    return {
        "head": edit(model, "L1H2"),
        "mean": edit(model, "L2 mlp", "mean", images=images[:5]),
        "everywhere": edit(model, "writers", "direction", directions=direction, dose=0.5),
        "end": edit(model, at_the_end, "direction", directions=direction),
        "pictures": edit(model, "hook_embed", "zero", dose=0.1),
        "two": edit(model, "L0 neuron 4") + edit(model, "L2H0", dose=2.0),
    }


def test_evaluations_are_those_of_whole_runs(case):
    model, images, labels, groups = case
    edits = edits_of(model, images)
    found = evaluate_edits(model, images, labels, groups, edits=edits, batch_size=7)
    assert found.axes["edit"] == ["unedited", *edits]
    plain = model(images).detach()
    changed = [plain, *(model.run_with_hooks(images, fwd_hooks=made.hooks).detach() for made in edits.values())]
    for row, logits in enumerate(changed):
        assert torch.equal(found.values[row].bool(), logits.argmax(dim=1) == labels)
        own = logits.gather(1, labels[:, None])[:, 0]
        rest = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        torch.testing.assert_close(found.margins[row], (own - rest).float())
        kl = (plain.softmax(1) * (plain.log_softmax(1) - logits.log_softmax(1))).sum(dim=1)
        torch.testing.assert_close(found.kl[row], kl.float(), atol=1e-9, rtol=1e-5)
        moved = (logits - plain)[[group == "left" for group in groups]].mean(dim=0)
        torch.testing.assert_close(found.changes[row, 0], moved, atol=1e-9, rtol=1e-9)
    assert (found.values[1:] != found.values[0]).any()
    table = found.table(n_draws=50)
    rows = table[(table["edit"] == "mean") & (table["group"] == "right")]
    assert rows["accuracy"].item() == pytest.approx(found.accuracies()[2, 1].item())
    assert (table["low"] <= table["accuracy"]).all()
    assert (table["accuracy"] <= table["high"]).all()
    assert (table.groupby("edit")["worst"].sum() >= 1).all()


def test_clusters_make_intervals_of_pairs(case):
    model, images, labels, groups = case
    twice = {"images": images.repeat(2, 1, 1, 1), "labels": labels.repeat(2), "groups": groups * 2}
    made = {"edits": {"head": edit(model, "L1H2")}}
    single = evaluate_edits(model, **twice, **made).table(n_draws=400)
    paired = evaluate_edits(model, **twice, **made, clusters=torch.arange(N).repeat(2)).table(n_draws=400)
    assert (paired["high"] - paired["low"]).mean() > 1.2 * (single["high"] - single["low"]).mean()


def test_random_edits_change_as_much(case):
    model, images, _, _ = case
    generator = torch.Generator().manual_seed(4)
    read, write = torch.randn(2, 3, model.cfg.d_model, generator=generator, dtype=model.dtype)
    oblique = Directions(read, write, read[0])
    for made in [
        edit(model, ["L1H2", "L0H1"], dose=0.5),
        edit(model, ["L1 neuron 3", "L1 neuron 8"], "token_mean", images=images),
        edit(model, "L2 mlp", "mean", images=images),
        edit(model, "pooled", "direction", directions=oblique, dose=0.7),
        edit(model, ["L1H2", "L0 attn"], "direction", directions=read, dose=1.0),
    ]:
        drawn = random_edits(made, images, 3, seed=2, batch_size=10)
        sizes = edit_norms([made, *drawn.values()], images)
        np.testing.assert_allclose(sizes, sizes[0], rtol=1e-9)
        assert not any(part in made.parts for one in drawn.values() for part in one.parts) or made.how == "direction"
    values = model.run_with_cache(images, names_filter="z")[1]["z", 1][:, :, 2]
    alone = edit(model, "L1H2")
    expected = (values @ model.blocks[1].attn.W_O[2]).square().sum(dim=-1).mean().sqrt()
    assert edit_norms([alone], images)[0] == pytest.approx(expected.item(), rel=1e-9)


def test_the_last_layer_is_the_regression_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    with borrow("class_token") as model:
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(60, 3, *model.cfg.image_size, generator=generator, dtype=model.dtype)
        labels = torch.arange(60) % 4
        groups = read_groups(["rare"] * 12 + ["common"] * 48, 60)
        x = classifier_inputs(model, images, batch_size=25)
        made = retrain_classifier(model, x, labels, groups)
        logits = model.run_with_hooks(images, fwd_hooks=made.hooks)
        torch.testing.assert_close(logits, x @ made.weight.T + made.bias)
        # Classes without pictures are never predicted.
        assert logits.argmax(dim=1).max() < 4
        assert not made.knows_all_classes
        standard = ((x - x.mean(dim=0)) / x.std(dim=0, correction=0)).numpy()
        weights = np.where(np.arange(60) < 12, 60 / 24, 60 / 96)
        agree = [
            (LogisticRegression(C=penalty, max_iter=2000).fit(standard, labels, weights).predict(standard))
            == logits.argmax(dim=1).numpy()
            for penalty in (0.001, 0.01, 0.1, 1.0)
        ]
        assert any(same.all() for same in agree)


def test_what_cannot_be_evaluated_is_refused(case):
    model, images, labels, groups = case
    made = {"head": edit(model, "L1H2")}
    for arguments, sentence in [
        ({"edits": {}}, "to at least one edit"),
        ({"edits": {"unedited": made["head"]}}, "none of them called"),
        ({"edits": made, "labels": labels[:5], "groups": groups[:5]}, "5 labels|labels for 5"),
        ({"edits": made, "groups": groups[:5]}, "5 groups were given"),
        ({"edits": made, "clusters": [1, 2]}, "clusters"),
    ]:
        with pytest.raises(InputError, match=sentence):
            evaluate_edits(model, **{"images": images, "labels": labels, "groups": groups, **arguments})
