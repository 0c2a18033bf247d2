"""Every kind of output in every analysis, against NumPy: one sigmoid, several labels, one number, three, an embedding."""

import numpy as np
import pytest
import torch
from variants import build, pictures

from vitlens import (
    HookedViT,
    InputError,
    ablate_tokens,
    activation_ablation,
    activation_patching,
    class_lens,
    evaluate_heatmaps,
    heatmap,
    knockout_attention,
)
from vitlens.faithfulness import perturbation_test
from vitlens.features import SparseAutoencoder, evaluate_sae
from vitlens.lens import class_trace
from vitlens.memories import key_value_agreement
from vitlens.patching import confusing_donors

HOOK = "blocks.0.hook_resid_post"
KINDS = {
    "yes or no": (1, "sigmoid"),
    "labels": (3, "sigmoid"),
    "number": (1, "identity"),
    "numbers": (3, "identity"),
    "embedding": (3, "embedding"),
}
#: Of these the outputs have probabilities.
SURE = ("yes or no", "labels")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture(scope="module")
def models():
    tiny = {"depth": 2, "embed_dim": 16, "num_heads": 2}
    of = {n: HookedViT.from_timm(build(num_classes=n, **tiny)) for n in (1, 3)}
    return {
        kind: of[n].with_class_embeddings(of[n].W_U.T.detach(), bias=of[n].b_U, output=output, space="features")
        for kind, (n, output) in KINDS.items()
    }


@pytest.fixture(scope="module")
def images(models):
    return pictures(models["number"].cfg, 2)


@pytest.fixture(scope="module")
def sae():
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((16, 8), (8, 16))]
    return SparseAutoencoder.from_arrays(weights[0], None, weights[1], None, hook="resid_post0")


def answers(model, images):
    return model(images).detach().numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_the_lens_reads_what_the_outputs_mean(models, images, kind):
    model, last = models[kind], models[kind].cfg.n_classes - 1
    lens = class_lens(model, images, last)
    stream = model.run_with_cache(images)[1]["resid_post", 0].numpy()
    norm = model.ln_final
    centred = stream - stream.mean(-1, keepdims=True)
    read = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + model.cfg.eps)
    read = read * norm.weight.detach().numpy() + norm.bias.detach().numpy()
    logits = read @ model.W_U.detach().numpy() + model.b_U.detach().numpy()
    np.testing.assert_allclose(lens.values[0, 0, ..., 0].numpy(), logits[..., last], rtol=1e-9)
    assert (lens.probabilities is not None) == (kind in SURE)
    if kind in SURE:
        np.testing.assert_allclose(lens.probabilities[0, 0, ..., 0].numpy(), sigmoid(logits[..., last]), rtol=1e-9)
    assert (lens.ranks is not None) == (kind == "labels")
    if kind == "labels":
        ranks = (logits > logits[..., last, None]).sum(-1)
        np.testing.assert_array_equal(lens.ranks[0, 0, ..., 0].numpy(), ranks)
        return
    assert not {"rank", "identifiability"} & set(lens.to_frame())
    for read in (lambda: lens.identifiability, lambda: lens.top_names(0), lambda: lens.plot("mosaic")):
        with pytest.raises(InputError, match="neither ranks nor top classes"):
            read()
    assert len(lens.plot("trajectory").data) == 1


@pytest.mark.parametrize("kind", SURE)
def test_probabilities_are_patched_explained_and_followed(models, images, kind):
    model, clean = models[kind], images[:1]
    whole = sigmoid(answers(model, clean))[0, 0]
    about = {"sites": "attn_out", "blocks": [1], "progress": False}
    both = {"classes": 0, "metric": "probability"}
    silent = [("blocks.1.hook_attn_out", lambda x, hook: x * 0)]
    lost = activation_ablation(model, clean, tokens="all", replacement="zero", **both, **about)
    without = sigmoid(model.run_with_hooks(clean, fwd_hooks=silent).detach().numpy())[0, 0]
    np.testing.assert_allclose(lost.values.flatten().numpy(), [without - whole], rtol=1e-9)
    # Occlusion explains the probability where nothing else is said.
    hidden = clean.clone()
    hidden[..., :16, :16] = 0
    found = heatmap(model, clean, 0, method="occlusion", replacement="zero", warn=False)
    assert found.settings["metric"] == "probability"
    np.testing.assert_allclose(found.values[0, 0, 0], whole - sigmoid(answers(model, hidden))[0, 0], rtol=1e-9)
    log = heatmap(model, clean, 0, method="occlusion", replacement="zero", metric="log_probability", warn=False)
    change = np.log(whole / sigmoid(answers(model, hidden))[0, 0])
    np.testing.assert_allclose(log.values[0, 0, 0], change, rtol=1e-9)
    order = torch.arange(9.0, dtype=torch.float64).flip(0)[None]
    shown = [clean[0].clone() for _ in range(10)]
    for step, picture in enumerate(shown):
        for patch in range(step):
            row, column = divmod(patch, 3)
            picture[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 0
    curve = sigmoid(answers(model, torch.stack(shown)))[:, 0]
    scores = evaluate_heatmaps(
        model, clean, 0, heatmaps={"map": order}, metrics="deletion", replacement="zero", n_steps=9, baselines=False,
        progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(scores.curves[0, 0, 0].numpy(), curve, rtol=1e-9)
    np.testing.assert_allclose(scores.correct[0, 0, 0].numpy(), curve > 0.5)
    np.testing.assert_allclose(scores.values[0, 0, 0], ((curve[1:] + curve[:-1]) / 18).sum(), rtol=1e-9)
    test = perturbation_test(model, clean, 0, importance=order, n_steps=3, perturbations="positive")
    stream = model(clean, stop_at_layer=0)
    kept = [
        model.forward_kept(stream, torch.arange(9)[None] >= n, (3, 3)).logits.detach().numpy() for n in (0, 3, 6, 9)
    ]
    chances = sigmoid(np.stack(kept)[:, 0, 0])
    np.testing.assert_allclose(test.probabilities[0, 0].numpy(), chances, rtol=1e-9)
    np.testing.assert_array_equal(test.values[0, 0].numpy(), chances > 0.5)


def test_labels_do_not_compete(models, images):
    """The probability of one label stays what it is, whatever is added to another's logit."""
    model = models["labels"]
    more = model.with_class_embeddings(
        model.W_U.T.detach(), bias=model.b_U + torch.tensor([0, 9.0, 0]), output="sigmoid", space="features"
    )
    for found in (
        lambda m: m(images, return_type="probs")[:, 0],
        lambda m: class_lens(m, images, 0).probabilities,
        lambda m: heatmap(m, images, 0, warn=False).values,
        lambda m: heatmap(m, images, 0, method="projection_gradient", warn=False).values,
        lambda m: heatmap(m, images, 0, method="class_projection", metric="probability", warn=False).values,
        lambda m: perturbation_test(m, images, 0, importance=torch.arange(9.0).repeat(2, 1)).values,
    ):
        torch.testing.assert_close(found(model), found(more))


@pytest.mark.parametrize("kind", KINDS)
def test_a_dictionary_is_judged_by_what_the_outputs_mean(models, images, sae, kind):
    model = models[kind]
    found = evaluate_sae(model, images, sae=sae, progress=False)
    clean = answers(model, images)
    other = model.run_with_hooks(images, fwd_hooks=[(HOOK, lambda x, hook: x * 0)]).detach().numpy()
    if kind in SURE:
        p, q = sigmoid(clean), sigmoid(other)
        terms = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        assert found["kl_zero"] == pytest.approx(terms.sum(1).mean(), rel=1e-9)
        assert found["agreement_zero"] == pytest.approx(((clean > 0) == (other > 0)).mean())
    else:
        assert found["squared_difference_zero"] == pytest.approx(((clean - other) ** 2).sum(1).mean(), rel=1e-9)
    with pytest.raises(InputError, match="exclude each other"):
        evaluate_sae(model, images, sae=sae, labels=torch.tensor([0, 0]), progress=False)


@pytest.mark.parametrize("kind", ["number", "numbers", "embedding"])
def test_numbers_and_embeddings_have_logits_and_no_more(models, images, kind):
    model, order = models[kind], torch.arange(9.0).repeat(2, 1)
    found = heatmap(model, images, 0, method="occlusion", replacement="zero", warn=False)
    assert found.settings["metric"] == "logit"
    hidden = images.clone()
    hidden[..., :16, :16] = 0
    change = (answers(model, images) - answers(model, hidden))[:, 0]
    np.testing.assert_allclose(found.values[:, 0, 0], change, rtol=1e-9)
    shift = activation_patching(model, images[:1], images[1:], 0, metric="logit", tokens="all", progress=False).shift()
    # All of the clean picture is put into the run on the other.
    np.testing.assert_allclose(shift[0, 0, 0], -np.diff(answers(model, images)[:, 0])[0], rtol=1e-9)
    assert knockout_attention(model, images).plot().data[0].hovertemplate.count("logit")
    for call in (
        lambda: model(images, return_type="probs"),
        lambda: model(images, return_type="loss", labels=torch.tensor([0, 0])),
        lambda: class_trace(model, images, 0),
        lambda: heatmap(model, images, 0, metric="probability"),
        lambda: heatmap(model, images, 0, method="projection_gradient"),
        lambda: heatmap(model, images, 0, method="class_projection", metric="identifiability"),
        lambda: perturbation_test(model, images, 0, importance=order),
        lambda: evaluate_heatmaps(model, images, 0, heatmaps={"map": order}),
        lambda: activation_patching(model, images[:1], images[1:], 0, metric="probability"),
        lambda: ablate_tokens(model, images, 0, tokens=[1]),
        lambda: key_value_agreement(model, images, 0),
        lambda: confusing_donors(model, images[:1], 0, others=images),
    ):
        with pytest.raises(InputError, match=r'\(output="(identity|embedding)"\), for which .* means nothing'):
            call()


@pytest.mark.parametrize("kind", ["numbers", "embedding"])
def test_none_of_several_numbers_is_predicted(models, images, kind):
    model = models[kind]
    for call in (
        lambda: class_lens(model, images),
        lambda: heatmap(model, images),
        lambda: activation_ablation(model, images),
        lambda: activation_patching(model, images[:1], images[1:], 0),
    ):
        with pytest.raises(InputError, match="so none is predicted: name outputs with classes="):
            call()
    told = activation_patching(model, images[:1], images[1:], 0, baseline_classes=2, tokens="all", progress=False)
    gaps = answers(model, images)[:, 0] - answers(model, images)[:, 2]
    np.testing.assert_allclose(told.shift()[0, 0, 0], gaps[0] - gaps[1], rtol=1e-9)


def test_a_single_yes_or_no_has_no_rank(models, images):
    model = models["yes or no"]
    for call in (
        lambda: class_trace(model, images),
        lambda: ablate_tokens(model, images, tokens=[1]),
        lambda: key_value_agreement(model, images),
        lambda: heatmap(model, images, method="class_projection", metric="identifiability"),
    ):
        with pytest.raises(InputError, match=r"a single output, for which .* means nothing \(it is first whatever"):
            call()
    with pytest.raises(InputError, match="no other to take a logit difference with"):
        activation_patching(model, images[:1], images[1:])
    with pytest.raises(InputError, match='which have no softmax: pass loss="cross_entropy"'):
        heatmap(model, images, method="projection_gradient", loss="double_softmax")
