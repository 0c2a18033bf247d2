"""Effects are shares of a difference only where the difference is large enough: else that is said, and no share is."""

import dataclasses

import pytest
import torch

from vitlens.patching import activation_ablation, activation_patching

SENTENCE = (
    "ill-conditioned: the two runs differ by 0.3 in logit difference, and patching one cell alone moves it by 0.9"
)


@pytest.fixture
def made(plain, images_of):
    """A sweep whose numbers are set by hand: the metric of each pair's two runs, and by how much each cell moves it."""
    images = images_of(plain, 8)

    def make(target, source, shifts):
        n = len(target)
        found = activation_patching(
            plain, images[:n], images[n : 2 * n], tokens="class", blocks=list(range(len(shifts))), progress=False
        )
        target, source = torch.tensor(target).double(), torch.tensor(source).double()
        patched = target + torch.tensor(shifts).double()[:, None, None]
        return dataclasses.replace(found, target=target, source=source, patched=patched.expand(found.patched.shape))

    return make


def test_a_cell_that_moves_more_than_the_runs_differ(made):
    """The case of a real picture: a blurred context that changes 0.3 logits, and effects of −2.2 and +2.9."""
    found = made([6.5], [6.2], [0.65, -0.9])
    assert found.effect().flatten().tolist() == pytest.approx([-0.65 / 0.3, 0.9 / 0.3])
    assert found.ill_conditioned().startswith(SENTENCE)
    assert found.caution() == found.ill_conditioned()
    assert "; ill-conditioned, see ill_conditioned())" in repr(found)
    table = found.summary()
    assert table.attrs["note"] == found.ill_conditioned()
    assert "read shift(), not effect()" in " ".join(repr(table).split())
    assert "read shift(), not effect()" in table._repr_html_()
    well = made([6.5], [6.2], [0.1, -0.59])
    assert well.ill_conditioned() is None
    assert well.caution() == (
        "an effect above 1 goes beyond the source run, one below 0 moves the metric away from the source run"
    )
    assert "ill-conditioned" not in repr(well.summary())


def test_a_difference_whose_sign_is_not_known(made):
    found = made([0.0, 0.0, 0.0, 0.0], [1.0, -1.2, 1.1, -0.7], [0.01])
    spread = torch.tensor([1.0, -1.2, 1.1, -0.7]).std().item() / 2
    assert f"over 4 pairs the two runs differ by 0.05 in logit difference, with a standard error of {spread:.2g}" in (
        found.ill_conditioned()
    )
    assert made([0.0, 0.0, 0.0, 0.0], [1.0, 1.2, 1.1, 0.7], [0.01]).ill_conditioned() is None


def test_results_name_the_classes_that_were_measured(plain, images_of):
    images, names = images_of(plain, 4), plain.class_names
    about = {"sites": "z", "blocks": [0], "progress": False}
    plain.class_names = [f"<class> {i}" for i in range(plain.cfg.n_classes)]
    try:
        one = activation_patching(plain, images[:2], images[2:], classes=[1], baseline_classes=[2], **about)
        each = activation_ablation(plain, images[:2], classes=torch.tensor([1, 2]), metric="logit", **about)
    finally:
        plain.class_names = names
    assert one.settings["classes"] == "<class> 1"
    assert one.settings["baseline_classes"] == "<class> 2"
    assert repr(one).startswith("Patching(z, logit difference of “<class> 1” over “<class> 2” [block 1, ")
    assert each.settings["classes"] == "each picture's own"
    assert "baseline_classes" not in each.settings
    assert repr(each).startswith("Ablation(z, logit of each picture's own classes [")
    without = dataclasses.replace(one, class_names=None)
    assert without.metric_with_classes() == "logit difference of “class 1” over “class 2”"
    own = activation_ablation(plain, images[:2], metric={"mine": lambda logits: logits[:, 0]}, **about)
    assert own.metric_with_classes() == "mine"
    assert "classes" not in own.settings


def test_one_pair_has_no_interval(made, plain, images_of):
    one = made([6.5], [3.2], [0.65, 0.9]).summary()
    assert one[["low", "high"]].isna().all(axis=None)
    assert not one["effect"].isna().any()
    two = made([6.5, 6.4], [3.2, 3.1], [0.65, 0.9]).summary()
    assert not two[["low", "high"]].isna().any(axis=None)
    ablated = activation_ablation(plain, images_of(plain, 1), blocks=[0], progress=False)
    assert ablated.ill_conditioned() is None
    assert ablated.summary()["low"].isna().all()


def test_each_of_several_metrics_is_judged(plain, images_of):
    images = images_of(plain, 2)
    found = activation_patching(
        plain, images[:1], images[1:], classes=1, metric=["logit", "probability"], tokens="class", progress=False
    )
    far = found.target.clone()
    far[1] += 1e-6
    odd = dataclasses.replace(found, source=far, target=far - torch.tensor([[9.0], [1e-6]]))
    assert "in probability" in odd.ill_conditioned()
