"""What an explorer holds: the analyses' own numbers, and attention and cosines as near as is said."""

import numpy as np
import pytest
import torch
from pages.explorer.conftest import unpack
from ported import DEAR

from vitlens import (
    InputError,
    ablate_tokens,
    activation_ablation,
    class_lens,
    direct_logit_attribution,
    explore,
    heatmap,
)
from vitlens.faithfulness import perturbation_test
from vitlens.pages.explorer.measure.causes import patch_boxes
from vitlens.pages.explorer.measure.quantise import attention_codes, cosine_codes, linear_codes


def decode(codes: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values and their largest errors, as the page computes them."""
    steps = 127 if codes.dtype == np.int8 else 255
    c, unit = codes.astype(np.float64), scale.astype(np.float64)[..., None] / steps**2
    return np.sign(c) * c**2 * unit, (np.abs(c) + 0.25) * unit


def as_cosines(codes: np.ndarray, n_tokens: int) -> np.ndarray:
    square = np.zeros((*codes.shape[:-1], n_tokens, n_tokens))
    rows, columns = np.triu_indices(n_tokens)
    square[..., rows, columns] = square[..., columns, rows] = codes / 32767
    return square


@pytest.mark.parametrize("name", DEAR)
def test_every_number_is_the_analyses_own(name, variant):
    model, images = variant(name, 1)
    explorer = explore(model, images, [3], progress=False)
    for i, packed in enumerate(explorer.pictures):
        held, image = unpack(packed), images[i : i + 1]
        classes = torch.tensor([explorer.facts["pictures"][i]["classes"]])
        assert classes[0, 0] == 3
        assert int(model(image).argmax()) in classes
        lens = class_lens(model, image, classes)
        for quantity in ("logit", "rank", "probability"):
            expected = lens.at(quantity)[:, 0].numpy()
            np.testing.assert_allclose(held[f"lens_{quantity}"], expected, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(held["top_classes"], lens.top_classes[0, :, 0].numpy())
        np.testing.assert_allclose(held["top_logits"], lens.top_logits[0, :, 0].numpy(), rtol=1e-6)
        every = class_lens(model, image, "all")
        tops = every.at("probability")[:, 0].gather(-1, every.top_classes[0, :, 0])
        np.testing.assert_allclose(held["top_probabilities"], tops.numpy(), rtol=1e-5)
        reading = class_lens(model, image, classes, tokens="pooled")
        np.testing.assert_allclose(held["reading_logit"], reading.at("logit")[:, 0, 0].numpy(), rtol=1e-6, atol=1e-7)

        attribution = direct_logit_attribution(model, image, classes, unit="head_patch", progress=False)
        shares = held["shares"] / 127 * held["shares_scale"][..., None]
        assert (np.abs(shares - attribution.values[0].numpy()) <= held["shares_scale"][..., None] / 254 + 1e-7).all()
        heads = direct_logit_attribution(model, image, classes, unit="head", progress=False)
        by_head = np.stack([heads.head_map(0, position).numpy() for position in range(classes.shape[1])])
        np.testing.assert_allclose(held["heads"], by_head, rtol=1e-5, atol=1e-6)
        total = held["heads"].astype(np.float64).sum(axis=(1, 2)) + held["groups"].sum(axis=1)
        np.testing.assert_allclose(total, model(image)[0, classes[0]].detach().numpy(), rtol=1e-5, atol=1e-5)
        assert np.abs(held["residuals"]).max() < 1e-9

        _, cache = model.run_with_cache(image, names_filter=["pattern", "resid_post"])
        patterns = torch.stack([cache["pattern", block][0] for block in range(model.cfg.n_layers)]).numpy()
        values, errors = decode(held["pattern"], held["pattern_scale"])
        assert (np.abs(values - patterns) <= errors * (1 + 1e-4) + 1e-7).all()
        stream = torch.stack([cache["resid_post", block][0] for block in range(model.cfg.n_layers)])
        cosines = torch.nn.functional.cosine_similarity(stream[:, :, None], stream[:, None], dim=-1).numpy()
        assert np.abs(as_cosines(held["cosines"], stream.shape[1]) - cosines).max() <= 0.5 / 32767 + 1e-6


def held_of(explorer, picture: int = 0) -> tuple[dict[str, np.ndarray], dict]:
    return unpack(explorer.pictures[picture]), explorer.facts["pictures"][picture]


def test_every_removal_is_the_analyses_own(variant):
    model, images = variant("registers", 1)
    held, facts = held_of(explore(model, images, [3], progress=False))
    assert facts["effects"] == {"patches": "exact", "box": 1, "heads": "exact", "mlps": "exact", "n_runs": 1000}
    classes = facts["classes"]
    without = [ablate_tokens(model, images, tokens=[model.cfg.n_prefix_tokens + patch]).logits[0] for patch in range(9)]
    for site, tokens in (("z", None), ("mlp_out", "all")):
        by_class = [
            activation_ablation(model, images, index, sites=site, tokens=tokens, progress=False).patched.flatten()
            for index in range(10)
        ]
        without += list(torch.stack(by_class, dim=-1))
    logits = torch.stack(without)
    np.testing.assert_allclose(held["effect_logits"], logits[:, classes].detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(held["effect_lse"], logits.logsumexp(-1).detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(held["effect_top"], logits.argmax(-1))
    np.testing.assert_allclose(held["answer_logits"], model(images)[0].detach(), rtol=1e-6, atol=1e-6)


def test_beyond_the_budget_heads_and_mlps_are_estimated(variant):
    """z · ∂logit/∂z is what a small cut of z costs, scaled up: checked by cutting a thousandth."""
    model, images = variant("class_token", 1)
    exact, _ = held_of(explore(model, images, 3, n_classes=3, progress=False))
    held, facts = held_of(explore(model, images, 3, n_classes=3, n_runs=20, progress=False))
    assert facts["effects"] == {"patches": "exact", "box": 1, "heads": "estimated", "mlps": "estimated", "n_runs": 20}
    np.testing.assert_array_equal(held["effect_logits"][:9], exact["effect_logits"][:9])
    assert np.isnan(held["effect_lse"][9:]).all()
    assert (held["effect_top"][9:] == -1).all()
    logits = model(images)[0]
    for cell, hook, head in ((9 + 1 * 4 + 2, "blocks.1.attn.hook_z", 2), (9 + 12 + 1, "blocks.1.hook_mlp_out", ...)):

        def cut(value, hook, head=head):
            value = value.clone()
            value[:, :, head] = value[:, :, head] * 0.999
            return value

        less = model.run_with_hooks(images, fwd_hooks=[(hook, cut)])[0]
        slope = 1000 * (less - logits)[facts["classes"]].detach().numpy()
        np.testing.assert_allclose(held["effect_logits"][cell] - held["logits"], slope, rtol=0.02, atol=1e-3)


def test_it_works_inside_inference_mode(variant):
    model, images = variant("class_token", 1)
    expected, _ = held_of(explore(model, images, 3, n_classes=2, n_runs=20, progress=False))
    with torch.inference_mode():
        held, facts = held_of(explore(model, images.clone(), 3, n_classes=2, n_runs=20, progress=False))
    assert facts["missing"] == {}
    for name, tensor in expected.items():
        np.testing.assert_allclose(held[name], tensor, rtol=1e-5, atol=1e-6)


def test_many_patches_leave_in_boxes(variant):
    box, owner = patch_boxes((3, 4), 5)
    assert box == 2
    assert owner.tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3]
    assert patch_boxes((3, 4), 12) == (1, pytest.approx(list(range(12))))
    model, images = variant("class_token", 1)
    held, facts = held_of(explore(model, images, n_classes=3, n_runs=4, progress=False))
    assert (facts["effects"]["patches"], facts["effects"]["box"]) == ("boxes", 2)
    corner = ablate_tokens(model, images, tokens=[1 + patch for patch in (0, 1, 3, 4)]).logits[0, facts["classes"]]
    for patch in (0, 1, 3, 4):
        np.testing.assert_allclose(held["effect_logits"][patch], corner.detach(), rtol=1e-5, atol=1e-5)


def test_heatmaps_come_with_their_test(variant):
    model, images = variant("class_token", 1)
    held, facts = held_of(explore(model, images, 3, n_classes=3, progress=False))
    maps = [heatmap(model, images, [3], method=name) for name in ("token_mask", "raw_attention")]
    assert [(each["name"], each["signed"], each["class"]) for each in facts["heatmaps"]] == [
        ("token_mask", True, 3),
        ("raw_attention", False, None),
    ]
    np.testing.assert_allclose(held["heatmap"], torch.cat([each.patches() for each in maps]), rtol=1e-5, atol=1e-7)
    assert [each["unit"] for each in facts["heatmaps"]] == ["probability", "share of attention"]
    assert facts["heatmaps"][0]["gap"] == pytest.approx(maps[0].completeness_gap.item(), abs=1e-6)
    for curve, importance in zip(held["removal_curves"], maps, strict=False):
        test = perturbation_test(
            model, images, [3], importance=importance.values, n_steps=20, perturbations="positive", progress=False
        )
        np.testing.assert_allclose(curve, test.probabilities[0, 0], rtol=1e-5)
    np.testing.assert_allclose(held["removal_steps"], test.axes["removed"], rtol=1e-6)
    assert held["removal_curves"].shape == (2 + 5, len(held["removal_steps"]))


def test_all_classes_are_there_where_they_are_few(variant, monkeypatch):
    model, images = variant("registers", 1)
    explorer = explore(model, images, n_classes=2, blocks=[0, 2], progress=False)
    held, facts = held_of(explorer)
    assert explorer.facts["all_classes"]
    assert set(explorer.facts["class_names"]) == {str(index) for index in range(10)}
    whole = direct_logit_attribution(model, images, "all", unit="head", progress=False)
    for position in range(10):
        exact = whole.head_map(0, position).numpy()[[0, 2]]
        assert (
            np.abs(decoded(held, "all_heads")[..., position] - exact) <= held["all_heads_scale"] / 60000 + 1e-6
        ).all()
    mlps = np.stack([whole.part(f"L{block} mlp")[0].numpy() for block in (0, 2)])
    assert (np.abs(decoded(held, "all_mlps") - mlps) <= held["all_mlps_scale"][:, None] / 60000 + 1e-6).all()
    np.testing.assert_allclose(held["mlps"], mlps[:, facts["classes"]].T, rtol=1e-5, atol=1e-6)
    reading = class_lens(model, images, "all", blocks=[0, 2], tokens="pooled").at("logit")[:, 0, 0].numpy()
    assert (np.abs(decoded(held, "all_reading") - reading) <= held["all_reading_scale"][:, None] / 60000 + 1e-6).all()
    # Any of them can be chosen.
    explorer.selected_class = next(index for index in range(10) if index not in facts["classes"])
    monkeypatch.setattr("vitlens.pages.explorer.measure.picture.MOST_OF_ALL_CLASSES", 100)
    few = explore(model, images, n_classes=2, progress=False)
    assert not few.facts["all_classes"]
    assert not any(name.startswith("all_") for name in unpack(few.pictures[0]))
    with pytest.raises(InputError, match="shows no class"):
        few.selected_class = explorer.selected_class


def decoded(held: dict[str, np.ndarray], name: str) -> np.ndarray:
    return held[name] / 32767 * held[f"{name}_scale"][..., None]


def test_a_model_without_a_classifier_has_a_page_of_attention(variant):
    model, images = variant("no_classifier", 1)
    explorer = explore(model, images, progress=False)
    held, facts = held_of(explorer)
    assert facts["classes"] == []
    assert "without a classifier" in facts["missing"]["answer"]
    assert [each["name"] for each in facts["heatmaps"]] == ["raw_attention"]
    assert {"pattern", "cosines", "outliers", "heatmap"} < set(held)
    assert "logits" not in held
    assert explorer.facts["title"].startswith("picture 0 through")
    assert (explorer.selected_block, explorer.selected_head) == (2, None)
    with pytest.raises(InputError, match="without a classifier"):
        _ = explorer.selected_class
    with pytest.raises(InputError, match="without a classifier"):
        explore(model, images, 3)


@pytest.mark.parametrize(("n", "output"), [(1, "identity"), (3, "identity"), (1, "sigmoid"), (3, "sigmoid")])
def test_outputs_have_the_lens_and_the_curves_that_mean_something(variant, n, output):
    model, images = variant("class_token", 1)
    view = model.with_class_embeddings(torch.randn(n, 32, dtype=model.dtype), output=output)
    explorer = explore(view, images, progress=False)
    held, facts = held_of(explorer)
    logits = view(images)[0].double().detach().numpy()
    chances = 1 / (1 + np.exp(-logits))
    assert facts["output"] == output
    assert sorted(facts["classes"]) == list(range(n))
    assert {"shares", "mlps", "effect_logits", "heatmap", "lens_logit", "reading_logit"} < set(held)
    assert ("lens_rank" in held, "top_classes" in held) == (output == "sigmoid" and n > 1,) * 2
    quantities = ["probability", "logit", *["rank"] * (n > 1)] if output == "sigmoid" else ["logit"]
    assert explorer.facts["quantities"] == quantities
    if output == "identity":
        assert set(facts["missing"]) == {"removal"}
        assert 'is a number (output="identity")' in facts["missing"]["removal"]
        assert "reading_probability" not in held
        assert (facts["answer"], facts["heatmaps"][0]["unit"]) == ([], "logit")
    else:
        assert not facts["missing"]
        np.testing.assert_allclose(held["reading_probability"][-1], chances[facts["classes"]], rtol=1e-5)
        np.testing.assert_allclose(held["removal_curves"][:, 0], chances[facts["classes"][0]], rtol=1e-5)
        order = np.argsort(-logits).tolist()
        assert [index for index, _ in facts["answer"]] == order
        np.testing.assert_allclose([p for _, p in facts["answer"]], chances[order], rtol=1e-5)
    if "top_probabilities" in held:
        np.testing.assert_allclose(held["top_probabilities"], 1 / (1 + np.exp(-held["top_logits"])), rtol=1e-5)


def test_the_head_that_is_shown_first(variant):
    model, images = variant("class_token", 1)
    explorer = explore(model, images, 3, n_classes=1, head="l1h2", progress=False)
    assert (explorer.selected_block, explorer.selected_head) == (1, 2)
    explorer = explore(model, images, 3, n_classes=1, head=(-1, 0), progress=False)
    assert (explorer.selected_block, explorer.selected_head) == (2, 0)
    held, _ = held_of(explore(model, images, 3, n_classes=1, progress=False))
    strongest = np.unravel_index(held["heads"][0].argmax(), (3, 4))
    explorer = explore(model, images, 3, n_classes=1, progress=False)
    assert (explorer.selected_block, explorer.selected_head) == strongest


def test_one_byte_tells_small_weights_apart_and_keeps_zeros():
    pattern = np.array([[1.0, 1e-4, 0.0, 0.25], [0.0, 0.0, 0.0, 0.0]], dtype=np.float32)
    codes, scale = attention_codes(pattern)
    assert codes.dtype == np.uint8
    values, errors = decode(codes, scale)
    assert (np.abs(values - pattern) <= errors + 1e-7).all()
    assert values[0, 1] > 0
    assert (values[pattern == 0] == 0).all()
    codes, scale = attention_codes(np.array([[-0.5, 0.25]], dtype=np.float32))
    assert codes.dtype == np.int8
    assert decode(codes, scale)[0][0, 0] == -0.5


def test_whole_numbers_stand_for_shares():
    values = np.array([[0.5, -1.0, 0.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    codes, scale = linear_codes(values, np.int8)
    np.testing.assert_array_equal(codes, [[64, -127, 0], [0, 0, 0]])
    np.testing.assert_array_equal(scale, [1, 0])
    assert linear_codes(values, np.int16)[0][0, 1] == -32767


def test_a_stream_of_zeros_is_like_nothing():
    stream = np.zeros((1, 3, 4), dtype=np.float32)
    stream[0, 1:] = 1
    np.testing.assert_array_equal(as_cosines(cosine_codes(stream), 3)[0], [[0, 0, 0], [0, 1, 1], [0, 1, 1]])


def test_some_blocks_leave_the_sum_whole(variant):
    model, images = variant("registers", 1)
    explorer = explore(model, images, blocks=[2, 0], progress=False)
    held = unpack(explorer.pictures[0])
    assert explorer.facts["blocks"] == [0, 2]
    whole = unpack(explore(model, images, progress=False).pictures[0])
    for name in ("pattern", "lens_logit", "cosines"):
        np.testing.assert_array_equal(held[name], whole[name][[0, 2]])
    np.testing.assert_array_equal(held["shares"], whole["shares"][:, [0, 2]])
    total = held["heads"].sum(axis=(1, 2)) + held["groups"].sum(axis=1)
    np.testing.assert_allclose(total, held["logits"], atol=1e-5)


def test_classes_of_a_page(variant):
    model, images = variant("class_token", 2)
    labels = torch.tensor([4, 9])
    explorer = explore(model, images, labels, n_classes=3, progress=False)
    first = [picture["classes"][0] for picture in explorer.facts["pictures"]]
    assert first == [4, 9]
    assert all(len(picture["classes"]) == 3 for picture in explorer.facts["pictures"])
    every = explore(model, images[:1], "all", n_classes=2, progress=False)
    assert every.facts["pictures"][0]["classes"] == list(range(10))


def test_what_cannot_be_explored_says_so(variant, demo, tmp_path, monkeypatch):
    model, images = variant("class_token", 1)
    for options, sentence in (
        ({"classes": 10}, "classes 0 to 9"),
        ({"blocks": [3]}, "blocks 0 to 2"),
        ({"n_classes": 0}, "at least 1"),
        ({"n_runs": 0}, "at least 1"),
        ({"head": "9.3"}, "L9H3"),
        ({"head": "L9H0"}, "L0H0 to L2H3"),
        ({"head": (1, 0), "blocks": [0, 2]}, "the page shows 0, 2"),
        ({"image_names": ["a", "b"]}, "2 names were given for 1"),
    ):
        with pytest.raises(InputError, match=sentence):
            explore(model, images, progress=False, **options)
    with pytest.raises(InputError, match="no pictures"):
        explore(model, images[:0])
    with pytest.raises(InputError, match="no folder"):
        explore(model, images, n_classes=1, n_runs=1, progress=False).save(tmp_path / "missing" / "page.html")
    with pytest.raises(InputError, match="nearest names"):
        explore(*demo, "sock")
    monkeypatch.setattr("vitlens.pages.explorer.run.MOST_PAGE_BYTES", 1000)
    with pytest.raises(InputError, match="fewer pictures"):
        explore(model, images)
    assert list(tmp_path.iterdir()) == []
