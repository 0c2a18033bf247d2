"""Maps of sentences: patch × sentence of a class lens, head × patch of a difference, and every heatmap method."""

import pytest
import torch
import transformers
from torch.nn import functional as F

import vitlens
from vitlens import HookedViT
from vitlens.heatmaps.registry import METHODS
from vitlens.text import TextTower

SENTENCES = ["a stop sign", "a tree", "two dogs in the snow"]
SCALE = 30.0
#: What a method is asked for where its default is about probabilities, of which a single sentence has none.
ABOUT_ONE = {"projection_gradient": {"loss": "logit"}}


def embed(texts: list[str]) -> torch.Tensor:
    """A direction of its own for each text."""
    return torch.stack(
        [
            torch.randn(8, generator=torch.Generator().manual_seed(sum(map(ord, text))), dtype=torch.float64)
            for text in texts
        ]
    )


@pytest.fixture(scope="module")
def module():
    """A small CLIP's tower of pictures, every parameter drawn."""
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8,
        projection_dim=8,
    )  # fmt: skip
    made = transformers.CLIPVisionModelWithProjection(config).double().eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.fixture(scope="module")
def model(module):
    made = HookedViT.from_pretrained(module)
    made.set_text_tower(TextTower(embed, scale=SCALE))
    return made


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def cosines(module, images) -> torch.Tensor:
    """[image, token, sentence]: of every token's embedding in the joint space with each sentence's, by the library alone."""
    tower = module.vision_model
    stream = tower(images).last_hidden_state
    joint = module.visual_projection(tower.post_layernorm(stream))
    return F.normalize(joint, dim=-1) @ F.normalize(embed(SENTENCES), dim=-1).T


def test_a_lens_on_patches_is_their_likeness_to_sentences(module, model, images):
    lens = vitlens.class_lens(model, images, text=SENTENCES, tokens="patches", blocks=-1)
    expected = cosines(module, images)[:, 1:]
    assert lens.axes["class"] == SENTENCES
    close(lens.values[0, 0] / SCALE, expected)
    close(lens.probabilities[0, 0], (SCALE * expected).softmax(dim=-1))
    assert torch.equal(lens.maps(image=1, class_position=2)[0], lens.values[0, 0, 1, :, 2].reshape(4, 4).float())


def test_the_map_of_all_sentences_has_one_picture_for_each(model, images):
    lens = vitlens.class_lens(model, images, text=SENTENCES, tokens="patches", blocks=[0, -1])
    figure = lens.plot("maps", class_position=None, image=1)
    tiles = [trace for trace in figure.data if trace.type == "heatmap"]
    assert [note.text for note in figure.layout.annotations[:3]] == SENTENCES
    for position, tile in enumerate(tiles):
        shown = torch.as_tensor(tile.z)
        assert torch.equal(shown.float(), lens.maps(image=1, class_position=position)[-1])
    assert len(tiles) == len(SENTENCES)


def test_what_each_patch_reads_as_is_the_nearest_sentence(module, model, images):
    lens = vitlens.class_lens(model, images, text=SENTENCES, tokens="patches", blocks=-1)
    assert torch.equal(lens.top_classes[0, 0, :, :, 0], cosines(module, images)[:, 1:].argmax(dim=-1))
    assert lens.plot("mosaic").layout.title.text.startswith("The top-1 class of each patch")


def test_the_difference_of_two_sentences_by_head_and_patch(module, model, images):
    shares = vitlens.direct_logit_attribution(
        model, images, text=SENTENCES[0], baseline_text=SENTENCES[1], unit="head_patch"
    )
    likeness = cosines(module, images)[:, 0]
    close(shares.logits[:, 0], SCALE * (likeness[:, 0] - likeness[:, 1]))
    assert shares.residual.abs().max() <= 1e-9 * shares.logits.abs().max()
    apart = vitlens.direct_logit_attribution(model, images, text=SENTENCES[:2], unit="head_patch")
    close(shares.values[:, 0], apart.values[:, 0] - apart.values[:, 1])
    assert (shares.axes["class"], shares.baseline_names) == ([SENTENCES[0]], [SENTENCES[1]])
    shares.plot()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_heatmap_method_explains_a_sentence(method, model, images):
    view = model.with_class_embeddings(model.text_tower, SENTENCES)
    predicted = vitlens.heatmap(model, images, text=SENTENCES, method=method)
    assert torch.equal(predicted.values, vitlens.heatmap(view, images, method=method).values)
    one = vitlens.heatmap(model, images, text=SENTENCES[0], method=method, **ABOUT_ONE.get(method, {}))
    assert one.values.shape == (2, 4, 4)
    if METHODS[method].class_specific:
        assert one.class_label(0) == SENTENCES[0]
        assert predicted.class_label(0) in SENTENCES
