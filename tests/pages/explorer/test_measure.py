"""What an explorer holds: the analyses' own numbers, and attention and cosines as near as is said."""

import numpy as np
import pytest
import torch
from pages.explorer.conftest import unpack
from ported import DERIVED

from vitlens import InputError, class_lens, direct_logit_attribution, explore
from vitlens.pages.explorer.measure.quantise import attention_codes, cosine_codes


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


@pytest.mark.parametrize("name", DERIVED)
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
