"""Figures show the patches, counts and shares that the results hold, and text from outside stays text."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from vitlens import InputError
from vitlens.features import SparseAutoencoder, evaluate_sae, feature_attribution, feature_effects, top_patches
from vitlens.plots.feature_answers import feature_bars
from vitlens.plots.features import OUTLINE, feature_card


@pytest.fixture
def found(variant, images_of, weights_of):
    model = variant("class_token")
    model.class_names = [f"<b>class {i}</b>" for i in range(10)]
    images = images_of(model, 6)
    sae = SparseAutoencoder.from_arrays(**weights_of(32), hook="blocks.1.hook_resid_post", source="<i>mine</i>")
    return model, images, sae


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))


def test_a_card_shows_the_crops_the_histogram_and_the_classes(found):
    model, images, sae = found
    result = top_patches(model, images, sae=sae, k=5, progress=False)
    feature = result.axes["feature"][0]
    # Every patch of every picture has a colour of its own.
    codes = torch.arange(6 * 9).reshape(6, 3, 3).float() / 54
    pixels = codes.repeat_interleave(16, 1).repeat_interleave(16, 2)[..., None].expand(-1, -1, -1, 3)
    figure = feature_card(result, feature, pixels_of=pixels, context=0)
    # The strongest patch of each picture, and beside it the whole picture.
    pictures = result.images[0].tolist()
    shown = [rank for rank, picture in enumerate(pictures) if picture not in pictures[:rank]]
    crops = [image for image in figure.layout.images if image.name == "crop"]
    assert len(crops) == len(shown) == len(figure.layout.images) - len(crops)
    for rank, image in zip(shown, crops, strict=True):
        patch = result.patch(feature, rank)
        colour = codes[result.images[0, rank], patch[0], patch[1]]
        assert np.allclose(decoded(image.source), round(float(colour) * 255), atol=1)
    boxes = [shape for shape in figure.layout.shapes if shape.line.color == OUTLINE and shape.name == "crop"]
    centres = [((box.y0 + box.y1) / 2, (box.x0 + box.x1) / 2) for box in boxes]
    assert centres == [result.patch(feature, rank) for rank in shown]
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert sum(bars[0].y) == result.counts[0].sum()
    assert figure.layout.title.text == f"Feature {feature} in the residual stream after block 1"
    assert "blocks.1.hook_resid_post" in figure.layout.title.subtitle.text
    order = result.promoted[0].argsort(descending=True).tolist()
    assert list(bars[1].customdata) == [f"&lt;b&gt;class {i}&lt;/b&gt;" for i in order]
    assert "&lt;i&gt;mine" in figure.layout.title.subtitle.text
    assert "<i>" not in figure.to_json().replace("\\u003c", "<")


def test_crops_keep_their_size_at_the_edge(found):
    model, images, sae = found
    result = top_patches(model, images, sae=sae, k=9, progress=False)
    feature = result.axes["feature"][0]
    asked = []

    def pixels_of(picture):
        asked.append(picture)
        return torch.full((48, 48, 3), 0.5)

    figure = feature_card(result, feature, pixels_of=pixels_of, context=1)
    assert {(image.sizex, image.sizey) for image in figure.layout.images} == {(3, 3)}
    assert asked == list(dict.fromkeys(result.images[0].tolist()))
    small = feature_card(result, feature, pixels_of=pixels_of, context=50)
    assert {decoded(image.source).shape for image in small.layout.images} == {(48, 48, 3)}
    with pytest.raises(InputError, match="pixels of 1 pictures"):
        feature_card(result, feature, pixels_of=torch.zeros(1, 48, 48, 3))
    with pytest.raises(InputError, match="is not in this result"):
        feature_card(result, 99, pixels_of=pixels_of)


def test_a_card_of_a_feature_that_is_never_on_or_no_patch(found):
    model, images, sae = found
    pixels = torch.full((6, 48, 48, 3), 0.5)
    tokens = top_patches(model, images, sae=sae, k=2, tokens="class", progress=False)
    figure = feature_card(tokens, tokens.axes["feature"][0], pixels_of=pixels)
    assert any("no patch" in note.text for note in figure.layout.annotations)
    assert not figure.layout.shapes
    dead = SparseAutoencoder.from_arrays(sae.W_enc, sae.b_enc - 1e6, sae.W_dec, None)
    silent = top_patches(model, images, hook="z1", sae=dead, features=[3], progress=False)
    figure = feature_card(replace(silent, settings={**silent.settings, "model": "<b>"}), 3, pixels_of=pixels)
    assert "never above 0" in figure.layout.title.subtitle.text
    assert "never on in these pictures" in [note.text for note in figure.layout.annotations]
    assert not figure.layout.images


def test_a_card_shows_the_answers_without_the_feature(found):
    model, images, sae = found
    result = top_patches(model, images, sae=sae, k=2, progress=False)
    feature, other = result.axes["feature"][:2]
    effects = feature_effects(model, images, "all", sae=sae, features=[other, feature], progress=False)
    figure = feature_card(result, feature, effects=effects, n_classes=2)
    bars = [trace for trace in figure.data if trace.type == "bar"][2]
    table = effects.means()
    table = table[table["feature"] == feature].set_index("class")
    # The four classes that change most, from the most raised to the most lowered.
    assert sorted(abs(bars.x)) == pytest.approx(sorted(table["change"].abs())[-4:])
    assert list(bars.x) == sorted(bars.x, reverse=True)
    for told, change, above, below in zip(
        bars.customdata, bars.x, bars.error_x.array, bars.error_x.arrayminus, strict=True
    ):
        row = table.loc[told[0].replace("&lt;", "<").replace("&gt;", ">")]
        ends = (row["change"], row["high"], row["low"])
        assert (change, change + above, change - below) == pytest.approx(ends)
    with pytest.raises(InputError, match="not of feature"):
        feature_card(result, feature, effects=feature_effects(model, images, sae=sae, features=other, progress=False))
    scored = evaluate_sae(model, images, sae=sae, metrics=["locality"], baselines=(), progress=False)
    scored = replace(scored, locality=torch.tensor([-0.25, torch.nan]).repeat(12))
    for one, words in ((0, "−0.25"), (1, "not defined")):
        card = feature_card(top_patches(model, images, sae=sae, features=one, progress=False), evaluation=scored)
        assert f"locality (Moran’s I): {words}" in card.layout.title.subtitle.text
    elsewhere = replace(effects, settings={**effects.settings, "dictionary": "another"})
    with pytest.raises(InputError, match="must be of one dictionary"):
        feature_card(result, feature, effects=elsewhere)


def test_features_are_ordered_by_how_much_the_answers_move(found):
    model, images, sae = found
    effects = feature_effects(model, images, 4, sae=sae, features=range(8), progress=False)
    figure = effects.plot(k=3)
    table = effects.means().sort_values("kl", ascending=False)
    assert list(figure.data[0].x) == list(table["change"][:3])
    assert list(figure.layout.yaxis.ticktext) == [f"feature {feature}" for feature in table["feature"][:3]]
    assert "&lt;b&gt;class 4" in figure.layout.xaxis.title.text


def test_bars_sum_to_the_logit(found):
    model, images, sae = found
    result = feature_attribution(model, images[:2], [4], sae=sae, progress=False)
    figure = feature_bars(result, k=6, image=1)
    assert sum(figure.data[0].x) == pytest.approx(float(result.logits[1, 0]), abs=1e-6)
    assert list(figure.data[0].y[6:]) == ["other features", "error", "bias", "rest"]
    assert "&lt;b&gt;class 4" in figure.layout.title.text
