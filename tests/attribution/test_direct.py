"""Direct logit attribution: the parts sum to the logit, and each part is what the definition says."""

import numpy as np
import pytest
import torch

from vitlens import InputError, direct_logit_attribution, load_result
from vitlens.model.class_space.layered import LayeredClassifier


@pytest.mark.parametrize("unit", ["component", "head"])
def test_parts_sum_to_the_logit_for_all_classes(classifier, images_of, unit):
    images = images_of(classifier, 3)
    result = direct_logit_attribution(classifier, images, "all", unit=unit)
    torch.testing.assert_close(result.logits, classifier(images), rtol=1e-12, atol=1e-12)
    scale = result.logits.abs().max()
    assert result.residual.abs().max() <= 1e-9 * scale
    assert result.values.abs().amax(dim=(0, 1)).min() >= 0


@pytest.mark.parametrize("unit", ["component", "head"])
def test_class_differences_sum_to_the_logit_difference(classifier, images_of, unit):
    images = images_of(classifier, 2)
    result = direct_logit_attribution(classifier, images, [1, 2], baseline_classes=[4, 0], unit=unit)
    logits = classifier(images)
    torch.testing.assert_close(result.logits, logits[:, [1, 2]] - logits[:, [4, 0]])
    assert result.residual.abs().max() <= 1e-9 * logits.abs().max()


def test_heads_and_their_bias_sum_to_the_attention(classifier, images_of):
    images = images_of(classifier, 2)
    components = direct_logit_attribution(classifier, images, [0])
    heads = direct_logit_attribution(classifier, images, [0], unit="head")
    for block in range(classifier.cfg.n_layers):
        whole = components.values[..., components.axes["component"].index(f"L{block} attn")]
        parts = [
            i for i, label in enumerate(heads.axes["component"]) if label.startswith((f"L{block}H", f"L{block} attn"))
        ]
        assert len(parts) == classifier.cfg.n_heads + 1
        torch.testing.assert_close(heads.values[..., parts].sum(-1), whole, rtol=1e-9, atol=1e-10)


def test_a_share_is_what_leaves_the_logit_when_the_component_leaves_the_last_stream(classifier, images_of):
    """With the norms frozen the logit is linear: taking a component out of the stream takes its share out of the logit."""
    if not classifier.pool.is_mean:
        pytest.skip("the places of maxima and the pattern of the pool would have to be frozen too")
    if isinstance(classifier.unembed, LayeredClassifier):
        pytest.skip("its classifier is not linear")
    images = images_of(classifier, 2)
    result = direct_logit_attribution(classifier, images, [3])
    _, cache = classifier.run_with_cache(images)
    scales = {
        name: cache[name] for name in ("ln_final.hook_scale", "fc_norm.hook_scale") if name in classifier.hook_dict
    }

    def freeze(scale, hook):
        return scales[hook.name]

    for label, name in (("L0 mlp", "blocks.0.hook_mlp_out"), ("L1 attn", "blocks.1.hook_attn_out")):
        without = cache["resid_post", -1] - cache[name]
        with classifier.hooks([(scale, freeze) for scale in scales]):
            logits = classifier(without, start_at_layer=classifier.cfg.n_layers)
        share = result.values[:, 0, result.axes["component"].index(label)]
        torch.testing.assert_close(classifier(images)[:, 3] - logits[:, 3], share, rtol=1e-8, atol=1e-10)


def test_head_map_top_and_frame(plain, images_of):
    result = direct_logit_attribution(plain, images_of(plain, 2), unit="head")
    heads = result.head_map(image=1)
    assert heads.shape == (plain.cfg.n_layers, plain.cfg.n_heads)
    assert heads[2, 1] == result.values[1, 0, result.axes["component"].index("L2H1")]
    top = result.top(3, image=1)
    assert len(top) == 3
    assert abs(top["logit"].iloc[0]) == pytest.approx(result.values[1, 0].abs().max().item())
    frame = result.to_frame()
    assert frame.query("image == 0")["logit"].sum() == pytest.approx(result.logits[0, 0].item())
    assert "logit [image 2, class 1" in repr(result)


def test_one_class_per_picture_from_labels(plain, images_of):
    images = images_of(plain, 3)
    labels = torch.tensor([2, 0, 1])
    result = direct_logit_attribution(plain, images, labels)
    torch.testing.assert_close(result.logits[:, 0], plain(images)[torch.arange(3), labels])


@pytest.mark.parametrize("classes", [2, "2", np.int64(2), [2], np.array([2, 2]), torch.tensor([[2], [2]])])
def test_a_class_may_be_said_in_many_ways(plain, images_of, classes):
    images = images_of(plain, 2)
    torch.testing.assert_close(direct_logit_attribution(plain, images, classes).logits, plain(images)[:, 2:3])


def test_saved_results_come_back(plain, images_of, tmp_path):
    result = direct_logit_attribution(plain, images_of(plain, 1), [0, 1])
    result.save(tmp_path / "attribution.safetensors")
    again = load_result(tmp_path / "attribution.safetensors")
    assert type(again) is type(result)
    assert torch.equal(again.values, result.values)
    assert again.axes == result.axes
    assert again.settings == result.settings
    assert list(tmp_path.iterdir()) == [tmp_path / "attribution.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"unit": "neurone"}, "component, head"),
        ({"classes": "tabby"}, "no class names"),
        ({"classes": [0, 1, 2], "baseline_classes": [0, 1]}, "3 classes need 1 or 3"),
        ({"classes": torch.tensor([99])}, "classes 0 to"),
    ],
)
def test_wrong_input_is_one_clear_sentence(plain, images_of, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        direct_logit_attribution(plain, images_of(plain, 1), **arguments)


def test_heads_are_asked_of_a_head_attribution(plain, images_of):
    with pytest.raises(InputError, match='unit="head"'):
        direct_logit_attribution(plain, images_of(plain, 1)).head_map()
