"""One call for all methods: every method on every model, what it returns, and what it says of wrong input."""

import inspect

import pytest
import torch
from composed import COMPOSED, SINGLES
from ported import CLASSIFIERS

import vitlens
from vitlens import InputError, direct_logit_attribution, heatmap, load_result
from vitlens.heatmaps import heatmap_methods
from vitlens.heatmaps.methods.head_patch import head_patch
from vitlens.heatmaps.registry import LITERATURE, METHODS, NOT_INCLUDED
from vitlens.heatmaps.run import find_method
from vitlens.model.parts.attention import DifferentialAttention
from vitlens.plots import heatmap_figure

CLASSES = torch.tensor([1, 4])
# Methods that are defined by a run for every patch, or draw noise, with fewer of them.
QUICK = {
    "token_mask": {"n_steps": 2},
    "integrated_gradients": {"n_steps": 2},
    "smooth_grad": {"n_draws": 2},
    "transition_attention": {"n_steps": 2},
}


def options_of(method):
    return {name: value for name, value in QUICK.get(method, {}).items() if name in METHODS[method].options}


# Two runs of two dozen methods: a model for every property, and in make test-all every pair of them and every variant.
OTHERWISE = [name for name in (*COMPOSED, *CLASSIFIERS) if name not in SINGLES]
EVERY = [*SINGLES, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERWISE)]


@pytest.mark.parametrize("classifier", EVERY, indirect=True)
def test_every_method_on_every_model(classifier, images_of):
    images = images_of(classifier, 2)
    for method in METHODS:
        if method == "relevance_propagation" and isinstance(classifier.blocks[0].attn, DifferentialAttention):
            with pytest.raises(InputError, match="differential"):
                heatmap(classifier, images, CLASSES, method=method)
            continue
        found = heatmap(classifier, images, CLASSES, method=method, warn=False, **options_of(method))
        assert found.values.shape == (2, *classifier.embed.grid(*images.shape[-2:])), method
        assert found.values.isfinite().all(), method
        assert not found.values.requires_grad, method
        assert all(parameter.grad is None for parameter in classifier.parameters()), method
        alone = heatmap(classifier, images, CLASSES, method=method, warn=False, batch_size=1, **options_of(method))
        near = {"rtol": 1e-7, "atol": 1e-9 + 1e-7 * found.values.abs().max().item()}
        torch.testing.assert_close(
            alone.values, found.values, **near, msg=lambda text, method=method: f"{method}: {text}"
        )


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_knows_the_class_depends_on_it_and_no_other(plain, images_of, method):
    images = images_of(plain, 2)
    one, other = (
        heatmap(plain, images, classes, method=method, warn=False, **options_of(method))
        for classes in (CLASSES, CLASSES.flip(0))
    )
    assert METHODS[method].class_specific == (not torch.equal(one.values, other.values))
    assert METHODS[method].class_specific == (one.classes is not None)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.signed])
def test_a_method_without_sign_has_none(plain, images_of, method):
    if method == "centre_prior":
        pytest.skip("nearness counts from the centre down")
    found = heatmap(plain, images_of(plain, 2), CLASSES, method=method, warn=False, **options_of(method))
    assert (found.values >= 0).all()


def test_no_class_is_the_predicted_class(plain, images_of):
    images = images_of(plain, 3)
    predicted = plain(images).argmax(dim=-1)
    found = heatmap(plain, images, method="head_patch")
    assert torch.equal(found.classes[:, 0], predicted)
    torch.testing.assert_close(found.values, heatmap(plain, images, predicted, method="head patch").values)
    assert found.title(1) == f"Head × patch attribution: {plain.class_label(int(predicted[1]))}"


def test_methods_without_class_need_no_classifier(headless, images_of):
    images = images_of(headless, 2)
    for name, method in METHODS.items():
        if method.class_specific:
            with pytest.raises(InputError, match="has no classifier"):
                heatmap(headless, images, method=name)
        else:
            found = heatmap(headless, images, method=name)
            assert found.classes is None
            assert found.title() == method.title


def test_the_head_patch_map_and_the_rest_sum_to_the_logit(classifier, images_of):
    images = images_of(classifier, 2)
    exact = direct_logit_attribution(classifier, images, CLASSES, unit="head_patch")
    n_prefix = classifier.cfg.n_prefix_tokens
    rest = exact.values[..., :n_prefix].sum(dim=(1, 2, 3, 4)) + exact.elsewhere[:, 0].sum(dim=-1)
    found = head_patch(classifier, images, CLASSES)
    logits = classifier(images)[[0, 1], CLASSES]
    torch.testing.assert_close(found.sum(dim=1) + rest, logits, rtol=1e-9, atol=1e-9)
    by_block = sum(head_patch(classifier, images, CLASSES, blocks=[block]) for block in range(classifier.cfg.n_layers))
    torch.testing.assert_close(by_block, found, rtol=1e-9, atol=1e-9)


def test_a_heatmap_can_be_saved_ranked_and_drawn(plain, images_of, tmp_path):
    images = images_of(plain, 2)
    found = heatmap(plain, images, CLASSES, method="token_mask", n_steps=2)
    found.save(tmp_path / "map.safetensors")
    again = load_result(tmp_path / "map.safetensors")
    assert torch.equal(again.values, found.values)
    assert torch.equal(again.completeness_gap, found.completeness_gap)
    assert again.settings == {
        "model": plain.cfg.model_name,
        "method": "token_mask",
        "n_steps": 2,
        "metric": "probability",
    }
    row, column = found.top(1).loc[0, ["row", "column"]].astype(int)
    assert found.values[0, row, column] == found.values[0].max()
    frame = found.to_frame()
    assert len(frame) == found.values.numel()
    figure = found.plot(image=1)
    assert figure.to_dict() == heatmap_figure(found, 1).to_dict()
    assert "patches sum to " in figure.layout.title.subtitle.text
    assert " in probability" in figure.layout.title.subtitle.text
    assert found.plot().layout.images


def test_the_table_of_methods_names_their_options():
    table = heatmap_methods()
    assert list(table.index) == list(METHODS)
    for name, method in METHODS.items():
        assert vitlens.heatmaps.registry.METHODS[name].name == name
        assert inspect.getdoc(method.function).split("\n")[0]
        assert "Source:" in method.function.__doc__ or method.source.startswith("baseline")
        assert all(option in table.loc[name, "options"] for option in method.options)


def test_wrong_input(plain, images_of):
    images = images_of(plain, 2)
    with pytest.raises(InputError, match="it is called grad_cam here"):
        heatmap(plain, images, method="gradcam")
    with pytest.raises(InputError, match="the nearest are token_mask, "):
        heatmap(plain, images, method="zzzz")
    with pytest.raises(InputError, match="legrad has no option 'n_steps'; it has first_block, tokens"):
        heatmap(plain, images, method="legrad", n_steps=3)
    with pytest.raises(InputError, match="one class per picture, not 2"):
        heatmap(plain, images, [1, 2])
    with pytest.raises(InputError, match="there is no block 99"):
        heatmap(plain, images, method="head_patch", blocks=[99])


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lrp", "relevance_propagation"),
        ("chefer", "gradient_rollout or relevance_propagation"),
        ("GradCAM", "grad_cam"),
        ("ig", "integrated_gradients"),
        ("rollout", "attention_rollout"),
    ],
)
def test_names_of_the_literature_are_led_to_the_method(name, meant):
    with pytest.raises(InputError, match=f"no heatmap method '{name}'; it is called {meant}"):
        find_method(name)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("Attn-LRP", "relevance_propagation"),
        ("saliency", "smooth_grad or integrated_gradients"),
        ("layercam", "grad_cam"),
    ],
)
def test_methods_that_are_not_included_are_not_given_the_name_of_another(name, near):
    with pytest.raises(InputError, match=f"the heatmap method '{name}' is not included; the nearest is {near}"):
        find_method(name)


def test_names_of_the_literature_name_methods_that_there_are():
    assert not set(LITERATURE) & set(NOT_INCLUDED)
    for advice in (*LITERATURE.values(), *NOT_INCLUDED.values()):
        methods = {word.strip(",") for word in advice.split() if "_" in word or word.strip(",") in METHODS}
        assert methods
        assert methods <= set(METHODS)


def test_the_bar_counts_pictures(plain, images_of, capsys):
    heatmap(plain, images_of(plain, 3), method="legrad", batch_size=2, progress=True)
    last = capsys.readouterr().err.rstrip().split("\r")[-1]
    assert "3/3" in last
    assert "picture/s" in last
