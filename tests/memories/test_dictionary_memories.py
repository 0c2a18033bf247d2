"""The memories of a layer as a dictionary: their top patches are those of the activations, their classes read_memories'."""

import pytest
import torch
from ported import ALL, build

from vitlens import InputError
from vitlens.memories import read_memories, top_memory_patches
from vitlens.memories.dictionary import LayerMemories

# One of each way in which a layer writes to the stream.
WRITERS = [
    "class_token",
    "registers_without_class_token",
    "layer_scale",
    "wide_patches",
    "post_norm",
    "gated",
    "distilled",
]


@pytest.mark.parametrize("part", ["mlp", "attn"])
@pytest.mark.parametrize("name", WRITERS)
def test_top_patches_are_the_largest_coefficients(images_of, name, part):
    model = build(name)
    images = images_of(model, 5)
    result = top_memory_patches(
        model, images, block=-1, part=part, memories=[3, 0, 17], k=4, batch_size=2, progress=False
    )
    hook = "blocks.2.mlp.hook_post" if part == "mlp" else "blocks.2.attn.hook_z"
    _, cache = model.run_with_cache(images, names_filter=hook)
    coefficients = cache[hook].flatten(2)[:, model.cfg.n_prefix_tokens :]
    for row, memory in enumerate([3, 0, 17]):
        top = coefficients[..., memory].flatten().topk(4)
        torch.testing.assert_close(result.values[row], top.values.clamp(min=0), rtol=0, atol=1e-9)
        for rank, place in enumerate(top.indices.tolist()):
            if top.values[rank] > 0:
                picture, patch = divmod(place, coefficients.shape[1])
                assert result.images[row, rank] == picture
                assert result.patch(memory, rank) == divmod(patch, model.embed.grid(*images.shape[-2:])[1])
        share = (coefficients[..., memory] > 0).double().mean()
        assert result.density[row] == pytest.approx(share.item())


@pytest.mark.parametrize("part", ["mlp", "attn"])
@pytest.mark.parametrize("name", WRITERS)
def test_classes_are_those_of_read_memories(images_of, name, part):
    model = build(name)
    result = top_memory_patches(model, images_of(model, 2), block=1, part=part, k=1, n_memories=5, progress=False)
    assert len(result.axes["feature"]) == 5
    for row, memory in enumerate(result.axes["feature"]):
        read = read_memories(model, 1, part=part, memories=[memory], k=3)
        top = result.promoted[row].topk(3)
        assert read["class_index"].tolist() == top.indices.tolist()
        assert read["logit"].tolist() == pytest.approx(top.values.tolist(), abs=1e-9)


def test_there_are_no_more_ranks_than_tokens_were_seen(images_of):
    model = build("class_token")
    images = images_of(model, 2)
    every = top_memory_patches(model, images, block=1, memories=[3], k=100, progress=False)
    assert every.axes["rank"] == list(range(2 * 9))
    few = top_memory_patches(model, images, block=1, memories=[3], k=100, one_per_image=True, progress=False)
    assert few.axes["rank"] == [0, 1]
    assert torch.equal(few.values[:, 0], every.values[:, 0])


def test_the_dictionary_writes_what_the_layer_writes(images_of):
    """Of a ReLU network all coefficients are positive parts, so the sum of what memories write is the MLP's output."""
    model = build("relu")
    layer = LayerMemories(model, 0, "mlp")
    _, cache = model.run_with_cache(images_of(model, 2))
    features = layer.encode(cache["post", 0])
    torch.testing.assert_close(features, cache["post", 0], rtol=0, atol=0)
    written = layer.decode(features) + model.blocks[0].mlp.b_out
    torch.testing.assert_close(written, cache["mlp_out", 0], rtol=0, atol=1e-9)
    torch.testing.assert_close(cache["post", 0] @ layer.W_enc, features, rtol=0, atol=0)


def test_what_cannot_be(images_of):
    model = build("class_token")
    images = images_of(model, 1)
    with pytest.raises(InputError, match='"attn" or "mlp", not \'mpl\''):
        top_memory_patches(model, images, block=0, part="mpl")
    with pytest.raises(InputError, match="there is no feature 128"):
        top_memory_patches(model, images, block=0, memories=128, progress=False)
    with pytest.raises(InputError, match="block"):
        top_memory_patches(model, images, block=7)
    assert "no_classifier" in ALL
    bare = top_memory_patches(build("no_classifier"), images, block=0, k=2, progress=False)
    assert bare.promoted.shape[1] == 0
    assert bare.plot().layout.title.text.startswith("Memory ")
