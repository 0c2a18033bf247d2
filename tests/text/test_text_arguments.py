"""`text=` in every public call that takes `classes=`: the same numbers as on a model whose classes are the texts."""

import inspect
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_glossary import CALLS
from variants import build

import vitlens
from vitlens import HookedViT, InputError
from vitlens.text import TextTower

#: Calls that take classes of logits or of indices which the caller has already: these are of the model as it is.
OF_GIVEN_LOGITS = {"class_metric", "select_classes", "HookedViT.class_ids", "HookedViT.project_chosen"}
WITH_CLASSES = {
    name: function
    for name, function in CALLS.items()
    if "classes" in inspect.signature(function).parameters and name not in OF_GIVEN_LOGITS
}
ONE, TWO, THREE = "a cat", "a dog on grass", "stripes"
SMALL = {"img_size": 32, "depth": 2, "num_heads": 2, "embed_dim": 16, "num_classes": 5}


def embed(texts: list[str]) -> torch.Tensor:
    """A direction of its own for each text."""
    return torch.stack(
        [torch.randn(16, generator=torch.Generator().manual_seed(sum(map(ord, text)))) for text in texts]
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = HookedViT.from_timm(build(**SMALL).float())
    made.architecture = lambda: build(**SMALL).float()
    made.set_text_tower(TextTower(embed, scale=20.0))
    return made


@pytest.fixture(scope="module")
def arguments(model, tmp_path_factory):
    """What each call needs besides the model and the texts."""
    images, others = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(1)).unbind(0)
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[:, :16, :16] = True
    importance = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(2))
    sae = vitlens.features.SparseAutoencoder.from_arrays(
        *(torch.randn(16, 8), None, torch.randn(8, 16), None), hook="blocks.0.hook_resid_post"
    )
    folder = tmp_path_factory.mktemp("pictures")
    for label in (0, 1):
        Image.new("RGB", (32, 32), (90 * label, 80, 70)).save(folder / f"{label}_picture.png")
    about, pair = {"images": images}, {"clean": images, "corrupted": others}
    scores = vitlens.patching.edge_attribution_patching(model, **pair, metric="logit", classes=0)
    circuit = vitlens.find_circuit(model, scores, n_edges=20)
    few = {"metrics": "deletion", "n_steps": 2, "n_draws": 1, "baselines": False}
    return {
        "ablate_tokens": about | {"tokens": "object", "masks": masks},
        "activation_ablation": about,
        "activation_patching": pair,
        "attribution_graph": {"images": images[:1], "n_nodes": 5},
        "attribution_means": about,
        "attribution_patching": pair,
        "class_lens": about,
        "class_trace": about,
        "confusing_donors": about | {"others": torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(3))},
        "direct_logit_attribution": about | {"unit": "head_patch"},
        "edge_attribution_patching": pair,
        "evaluate_circuits": pair | {"scores": scores, "sizes": [10], "n_draws": 1},
        "evaluate_heatmaps": about | {"heatmaps": importance} | few,
        "evaluate_heatmaps_over_data": {
            "images": vitlens.open_pictures(folder, ["cat", "dog", "cow", "car", "boat"], 5),
            "methods": "legrad",
            "workers": 1,
        }
        | few,
        "evaluate_segmentation": about | {"masks": masks, "heatmaps": importance},
        "explore": about | {"image_names": ["one", "two", "three"], "n_classes": 2, "n_runs": 5},
        "explore_graph": {"images": images[:1], "n_nodes": 5},
        "feature_attribution": about | {"sae": sae},
        "feature_effects": about | {"sae": sae, "features": [0, 3]},
        "heatmap": about | {"method": "legrad"},
        "key_value_agreement": about | {"k": 1},
        "minimality": pair | {"circuit": circuit},
        "path_patching": pair | {"senders": "L0H0"},
        "perturbation_test": about | {"importance": importance, "n_steps": 2},
        "prune_circuit": pair | {"max_change": 0.1},
        "randomisation_test": about | {"methods": "legrad"},
    }


def outcome(function: Any, tmp_path_factory: pytest.TempPathFactory, *given: Any, **named: Any) -> Any:
    """What a call returns, or the sentence with which it refuses."""
    if "folder" in inspect.signature(function).parameters:
        named["folder"] = tmp_path_factory.mktemp("scores")
    if "progress" in inspect.signature(function).parameters:
        named["progress"] = False
    try:
        return function(*given, **named)
    except InputError as refusal:
        return str(refusal)


def assert_same(first: Any, second: Any) -> None:
    """To the last bit, in whatever a result holds; models are compared by the names of their classes."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
    elif isinstance(first, np.ndarray):
        np.testing.assert_array_equal(first, second)
    elif isinstance(first, (pd.DataFrame, pd.Series)):
        assert first.equals(second)
    elif isinstance(first, HookedViT):
        assert first.class_names == second.class_names
    elif isinstance(first, dict):
        assert_same(list(first.items()), list(second.items()))
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    elif type(first).__module__.startswith("vitlens.") and hasattr(first, "__dict__") and not isinstance(first, str):
        assert_same(vars(first), vars(second))
    else:
        assert first == second or first != first


@pytest.mark.parametrize("name", sorted(WITH_CLASSES))
def test_texts_are_the_classes_of_a_call(name, model, arguments, tmp_path_factory):
    function, given = WITH_CLASSES[name], arguments[name]
    parameters = inspect.signature(function).parameters
    assert "text" in parameters, f"{name} takes classes= and not text=: decorate it with takes_text"
    default = parameters["classes"].default
    shows_all = "all are shown" in " ".join(inspect.getdoc(function).split())

    single = model.with_class_embeddings(model.text_tower, [ONE])
    several = model.with_class_embeddings(model.text_tower, [ONE, TWO, THREE])
    cases = [
        ({"text": ONE}, single, {"classes": "all" if default is None else default}),
        ({"text": [ONE, TWO, THREE]}, several, {"classes": "all" if shows_all else default}),
    ]
    if "baseline_classes" in parameters:
        pair = model.with_class_embeddings(model.text_tower, [TWO, ONE])
        cases.append(({"text": TWO, "baseline_text": ONE}, pair, {"classes": [0], "baseline_classes": [1]}))
    answered = 0
    for texts, view, classes in cases:
        found = outcome(function, tmp_path_factory, model, **given, **texts)
        assert_same(found, outcome(function, tmp_path_factory, view, **given, **classes))
        answered += not isinstance(found, str)
    assert answered, f"{name} refuses texts: {found}"
    assert model.class_names is None
    assert model.cfg.n_classes == 5


@pytest.mark.parametrize("name", sorted(WITH_CLASSES))
def test_docstrings_say_what_a_text_is(name):
    said = inspect.getdoc(WITH_CLASSES[name])
    compares = "baseline_classes" in inspect.signature(WITH_CLASSES[name]).parameters
    assert said.count("\n    text: in place of `classes`") == 1
    assert said.count("\n    baseline_text: ") == compares
    assert said.index("Args:") < said.index("    text: ") < said.index("Returns:")
    assert all(len(line) <= 121 for line in said.splitlines())


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ({"text": ONE, "classes": 0}, "pass one of the two"),
        ({"text": ONE, "classes": [0, 1]}, "pass one of the two"),
        ({"text": ONE, "baseline_classes": 0}, "baseline_text="),
        ({"baseline_text": ONE}, "pass text= too"),
        ({"text": [ONE, ONE]}, "'a cat' 2 times"),
        ({"text": []}, "at least one sentence"),
        ({"text": " "}, "a sentence or a list of them"),
        ({"text": [ONE, TWO], "baseline_text": [ONE, TWO, THREE]}, "2 classes need 1 or 2 baseline classes"),
    ],
)
def test_texts_that_are_refused(model, texts, sentence):
    with pytest.raises(InputError, match=sentence):
        vitlens.direct_logit_attribution(model, torch.zeros(1, 3, 32, 32), **texts)


def test_a_model_without_a_tower_says_how_to_give_it_one():
    bare = HookedViT.from_timm(build(**SMALL).float())
    with pytest.raises(InputError, match=r"model\.set_text_tower\(vitlens\.text\.TextTower"):
        vitlens.class_lens(bare, torch.zeros(1, 3, 32, 32), text=ONE)
    bare.set_text_tower(TextTower(embed))
    bare.set_text_tower(None)
    with pytest.raises(InputError, match="set_text_tower"):
        vitlens.class_lens(bare, torch.zeros(1, 3, 32, 32), text=ONE)


def test_random_weights_are_asked_about_the_same_texts(model, arguments):
    fresh = model.with_fresh_weights(seed=3)
    lens = vitlens.class_lens(fresh, **arguments["class_lens"], text=[ONE, TWO])
    assert lens.axes["class"] == [ONE, TWO]


def test_a_text_is_no_keyword_of_calls_without_a_baseline(model):
    with pytest.raises(TypeError, match="unexpected keyword argument 'baseline_text'"):
        vitlens.class_lens(model, torch.zeros(1, 3, 32, 32), text=ONE, baseline_text=TWO)


def test_what_needs_several_texts_says_so(model, arguments):
    with pytest.raises(InputError, match="pass several texts"):
        vitlens.ablate_tokens(model, **arguments["ablate_tokens"], text=ONE)
    with pytest.raises(InputError, match="compare with baseline_text="):
        vitlens.activation_patching(model, **arguments["activation_patching"], text=ONE)


def test_a_tower_that_is_a_module_is_no_part_of_the_model():
    class Module(torch.nn.Embedding):
        scale, bias, output = 1.0, None, "softmax"

        def embed(self, texts):
            return self.weight[: len(texts)]

    model = HookedViT.from_timm(build(**SMALL).float())
    before = list(model.state_dict())
    tower = Module(4, 16)
    model.set_text_tower(tower)
    assert model.text_tower is tower
    assert list(model.state_dict()) == before
    assert model.with_class_embeddings(model.text_tower, [ONE]).text_tower is tower


def test_hooks_and_views_hold_for_texts_too(model, arguments):
    """A hook on the caller's model edits the run about a text, and is still there after it."""
    images = arguments["class_lens"]["images"]
    view = model.with_class_embeddings(model.text_tower, [ONE])

    def ablate(z, hook):
        return torch.zeros_like(z)

    with model.hooks([(("z", 0), ablate)]):
        found = vitlens.direct_logit_attribution(model, images, text=ONE, unit="head")
        assert_same(found, vitlens.direct_logit_attribution(view, images, "all", unit="head"))
        assert found.part("L0H0").abs().max() == 0
    assert vitlens.direct_logit_attribution(model, images, text=ONE, unit="head").part("L0H0").abs().max() > 0


def test_a_sweep_about_another_text_is_not_resumed(model, arguments):
    given = arguments["activation_patching"]
    found = vitlens.activation_patching(model, **given, text=ONE, baseline_text=TWO)
    assert found.settings["classes"] == ONE
    vitlens.activation_patching(model, **given, text=ONE, baseline_text=TWO, resume=found)
    with pytest.raises(InputError, match="another sweep"):
        vitlens.activation_patching(model, **given, text=THREE, baseline_text=TWO, resume=found)


def test_means_of_texts_are_over_all_pictures(model, arguments):
    images = arguments["class_lens"]["images"]
    means = vitlens.attribution.attribution_means(model, images, text=[ONE, TWO], batch_size=2, progress=False)
    shares = vitlens.direct_logit_attribution(model, images, text=[ONE, TWO], unit="head")
    assert means.axes["class"] == [ONE, TWO]
    assert means.n.tolist() == [3, 3]
    torch.testing.assert_close(means.values, shares.values.double().mean(dim=0))
    torch.testing.assert_close(means.spread, shares.values.double().std(dim=0, correction=0))
    labelled = (images, torch.tensor([0, 1, 0]))
    same = vitlens.attribution.attribution_means(model, labelled, text=[ONE, TWO], batch_size=2, progress=False)
    assert torch.equal(same.values, means.values)
