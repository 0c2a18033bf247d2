"""What a model's outputs mean: probabilities and losses against NumPy, and what is refused where they mean nothing."""

import jaxtyping
import numpy as np
import pytest
import torch
from variants import build, pictures

from vitlens import HookedViT, InputError
from vitlens.model.class_space.outputs import kl_divergence, probabilities
from vitlens.model.provenance import page_facts

TINY = {"depth": 2, "embed_dim": 16, "num_heads": 2}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture(scope="module")
def images():
    return pictures(HookedViT.from_timm(build(**TINY)).cfg, 3)


@pytest.fixture(scope="module")
def made():
    """A model of this number of outputs."""
    return {n: HookedViT.from_timm(build(num_classes=n, **TINY)) for n in (0, 1, 3)}


def test_the_meaning_follows_the_number_of_outputs_unless_it_is_given(made):
    assert [made[n].cfg.output for n in (0, 1, 3)] == ["embedding", "identity", "softmax"]
    module = build(num_classes=3, **TINY)
    assert HookedViT.from_timm(module, output="sigmoid").cfg.output == "sigmoid"
    module.pretrained_cfg = {**module.pretrained_cfg, "output": "identity"}
    assert HookedViT.from_timm(module).cfg.output == "identity"
    tower = {"architecture": "vit_base_patch16_clip_224", "num_classes": 3}
    module.pretrained_cfg = {**module.pretrained_cfg, "output": None, **tower}
    assert HookedViT.from_timm(module).cfg.output == "embedding"
    # The same tower with a classifier in place of its projection.
    module.pretrained_cfg = {**module.pretrained_cfg, "num_classes": 512}
    assert HookedViT.from_timm(module).cfg.output == "softmax"
    for n, wrong, words in (
        (1, "softmax", "softmax of a single output is 1 whatever"),
        (0, "sigmoid", "without a classifier returns an embedding"),
        (3, "logistic", "output is one of 'softmax', 'sigmoid', 'identity', 'embedding', not 'logistic'"),
    ):
        with pytest.raises(InputError, match=words):
            made[n].set_output(wrong)


def test_new_class_embeddings_have_a_meaning_of_their_own(made, images):
    view = made[0].with_class_embeddings(torch.randn(2, 16, dtype=torch.float64))
    assert (view.cfg.output, made[0].cfg.output) == ("softmax", "embedding")
    assert made[0].with_class_embeddings(torch.randn(1, 16, dtype=torch.float64)).cfg.output == "identity"
    pairs = made[0].with_class_embeddings(torch.randn(2, 16, dtype=torch.float64), output="sigmoid")
    expected = sigmoid(pairs(images).detach().numpy())
    np.testing.assert_allclose(pairs(images, return_type="probs").detach().numpy(), expected, rtol=1e-12)
    with pytest.raises(InputError, match="softmax of a single output"):
        made[0].with_class_embeddings(torch.randn(1, 16, dtype=torch.float64), output="softmax")


@pytest.mark.parametrize("n", [1, 3])
def test_sigmoid_probabilities_and_loss(made, images, n, monkeypatch):
    # Types are checked in tests alone: users meet the sentences.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model = made[n].with_class_embeddings(torch.randn(n, 16, dtype=torch.float64), output="sigmoid")
    logits = model(images).detach().numpy()
    p = sigmoid(logits)
    np.testing.assert_allclose(model(images, return_type="probs").detach().numpy(), p, rtol=1e-12)
    yes = np.array([[1, 0, 0.25], [0, 1, 1], [1, 1, 0]])[:, :n]
    expected = -(yes * np.log(p) + (1 - yes) * np.log(1 - p)).mean()
    for labels in [yes, yes.tolist(), torch.tensor(yes)] + [yes[:, 0]] * (n == 1):
        assert float(model(images, return_type="loss", labels=labels).detach()) == pytest.approx(expected, rel=1e-12)
    for wrong in (None, [0, 1, 2], yes + 1, "yes", yes[:2]):
        with pytest.raises(InputError, match="0 or 1 for every output"):
            model(images, return_type="loss", labels=wrong)


def test_what_outputs_have_is_told(made):
    def said(n, output):
        model = made[n].with_class_embeddings(torch.randn(n, 16, dtype=torch.float64), output=output)
        able = model.capabilities().set_index("analysis")["status"]
        return able["probabilities"], able["ranks, predicted classes"], repr(model), page_facts(model)["classes"]

    assert said(3, "softmax")[:2] == ("exact", "exact")
    assert said(3, "sigmoid")[:2] == ("exact", "exact")
    assert said(1, "sigmoid")[:2] == ("exact", "impossible")
    assert said(3, "identity")[:2] == ("impossible", "impossible")
    assert "3 outputs (sigmoid)" in said(3, "sigmoid")[2]
    assert ", 1 output (sigmoid)" in said(1, "sigmoid")[2]
    assert said(1, "identity")[3] == "1, without names, a number, embeddings set by hand"


def test_divergences_are_those_of_the_distributions():
    own, others = (np.random.default_rng(seed).normal(size=(4, 3)) for seed in (0, 1))
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (own, others))
    found = [
        kl_divergence(torch.tensor(own), torch.tensor(others), output).numpy() for output in ("softmax", "sigmoid")
    ]
    np.testing.assert_allclose(found[0], (p * np.log(p / q)).sum(1), rtol=1e-12)
    p, q = sigmoid(own), sigmoid(others)
    np.testing.assert_allclose(found[1], (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(1), rtol=1e-12)


def test_half_precision_is_rounded_once():
    logits = torch.linspace(-8, 8, 40).bfloat16().reshape(2, 20)
    others = logits + torch.linspace(0.5, -0.5, 40).bfloat16().reshape(2, 20)
    for output in ("softmax", "sigmoid"):
        exact = probabilities(logits.double(), output)
        assert torch.equal(probabilities(logits, output), exact.bfloat16()), output
        exact = kl_divergence(logits.double(), others.double(), output)
        torch.testing.assert_close(kl_divergence(logits, others, output).double(), exact, rtol=1e-4, atol=0)
