"""What a run cannot be given, and hooks that give back what cannot go on: a sentence each, and never a number."""

import warnings

import jaxtyping
import numpy as np
import pytest
import torch
from variants import build, pictures

from vitlens import HookedViT, InputError


@pytest.fixture(scope="module", autouse=True)
def unchecked():
    """Types are checked in tests alone: users meet the sentences."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def model():
    return HookedViT.from_timm(build())


@pytest.fixture(scope="module")
def images(model):
    return pictures(model.cfg, 2)


def refuses(cases):
    for call, words in cases:
        with pytest.raises(InputError, match=words):
            call()


def test_tensors_that_hold_no_batch_of_pictures(model, images):
    nested = torch.nested.nested_tensor([images[0], images[1]], layout=torch.jagged)
    for run in (model, model.run_with_cache, lambda x: model.run_with_hooks(x, fwd_hooks=[])):
        refuses(
            [
                (lambda run=run: run(images.to_sparse()), "sparse"),
                (lambda run=run: run(nested), "nested"),
                (lambda run=run: run(images.to("meta")), "meta"),
                (lambda run=run: run(images[:0]), "no pictures in the batch"),
                (lambda run=run: run(None), "a model reads tensors, not NoneType"),
                (lambda run=run: run(3), "a model reads tensors, not int"),
                (lambda run=run: run(torch.tensor(1.0)), r"the shape \[batch"),
            ]
        )
    stream = model(images, stop_at_layer=1)
    refuses(
        [
            (lambda: model(stream.to_sparse(), start_at_layer=1), "sparse"),
            (lambda: model(stream.to("meta"), start_at_layer=1), "meta"),
        ]
    )


def test_tensors_made_under_inference_mode_run_as_others(model, images):
    expected = model(images)
    with torch.inference_mode():
        made, stream = images.clone(), model(images, stop_at_layer=1)
        torch.testing.assert_close(model.run_with_cache(images)[0], model(made))
        loaded = HookedViT.from_timm("vit_tiny_patch16_224", pretrained=False, img_size=32, depth=1)
    torch.testing.assert_close(model.run_with_cache(made)[0], expected)
    torch.testing.assert_close(model(stream, start_at_layer=1), expected)
    silent = model.run_with_hooks(made, fwd_hooks=[("z", lambda z, hook: z.zero_())])
    torch.testing.assert_close(silent, model.run_with_hooks(images, fwd_hooks=[("z", lambda z, hook: 0 * z)]))
    assert not next(loaded.parameters()).is_inference(), "a model loaded there takes gradients elsewhere"


def test_labels_are_one_class_for_each_picture(model, images):
    labels = torch.tensor([3, 9])
    expected = torch.nn.functional.cross_entropy(model(images), labels)
    for form in (labels, labels.int(), [3, 9], labels.numpy()):
        torch.testing.assert_close(model(images, return_type="loss", labels=form), expected)
    wrong = {
        "no class 10": torch.tensor([3, 10]),
        "no class -100": torch.tensor([-100, 3]),
        r"a tensor \[2\], not \[1\] of torch.int64": labels[:1],
        "of torch.float": labels.double(),
        "of torch.bool": labels > 3,
        "class indices of 2 pictures": ["cat", "dog"],
        "needs labels=": None,
    }
    refuses([(lambda x=x: model(images, return_type="loss", labels=x), words) for words, x in wrong.items()])


def test_one_number_has_neither_probability_nor_cross_entropy(images):
    single = HookedViT.from_timm(build(num_classes=1))
    nothing = r'a number \(output="identity"\), for which a {} means nothing: take the logits'
    refuses(
        [
            (lambda: single(images, return_type="probs"), nothing.format("probability")),
            (lambda: single(images, return_type="loss", labels=[0, 0]), nothing.format("cross-entropy")),
        ]
    )


def test_blocks_are_whole_numbers_and_run_forwards(model, images):
    stream = model(images, stop_at_layer=1)
    for layer in (1, np.int64(1), torch.tensor(1), -2):
        torch.testing.assert_close(model(stream, start_at_layer=layer), model(images))
    for wrong in (1.0, True, "1", None):
        refuses([(lambda wrong=wrong: model.block_index(wrong), "a block is a whole number")])
    refuses(
        [
            (lambda: model(stream, start_at_layer=1.0), "a block is a whole number, not 1.0"),
            (lambda: model(stream, start_at_layer=True), "a block is a whole number, not True"),
            (lambda: model(images, stop_at_layer="1"), "a block is a whole number, not '1'"),
            (lambda: model(stream, start_at_layer=2, stop_at_layer=1), "goes backwards"),
            (lambda: model.block_indices("12"), "a block is a whole number"),
            (lambda: model.block_indices([0, 1.5]), "a block is a whole number"),
            (lambda: model.accumulated_bias(4), "blocks 0 to 3"),
            (lambda: model(images, return_type="logit"), "return_type is"),
        ]
    )
    assert model.block_indices(np.arange(2)) == [0, 1]
    assert model.block_indices(np.int64(2)) == [2]


def test_class_ids_take_lists_of_one_length(model):
    assert model.class_ids(np.array([1, 2])).tolist() == [1, 2]
    refuses([(lambda: model.class_ids([[1, 2], [3]]), "of one length"), (lambda: model.class_ids([]), "of one length")])
    for wrong in (1.9, True, [0, 1.5], torch.tensor([0.0, 1.0]), torch.tensor([True]), np.array([False]), None, [None]):
        refuses([(lambda wrong=wrong: model.class_ids(wrong), "a class is given by its index")])


def test_hooks_give_back_what_they_were_given(model, images):
    def run(hook):
        return lambda: model.run_with_hooks(images, fwd_hooks=[(("z", 1), hook)])

    at = r"the hook at blocks.1.attn.hook_z returned "
    refuses(
        [
            (run(lambda z, hook: 3), at + r"int: it must return a tensor \[2, 10, 4, 8\]"),
            (run(lambda z, hook: z[:1]), at + r"\[1, 10, 4, 8\]: it must return \[2, 10, 4, 8\]"),
            (run(lambda z, hook: z[0]), at + r"\[10, 4, 8\]"),
            (run(lambda z, hook: [z]), at + "list"),
            (run(lambda z, hook: z.detach().numpy()), at + "ndarray"),
            (run(lambda z, hook: z > 0), at + "torch.bool: it must return torch.float64"),
            (run(lambda z, hook: z.to("meta")), at + "a tensor on meta"),
            (run(lambda z: z), "a hook is called as function"),
            (run(3), "a hook is a function of"),
            (lambda: model.add_hook("z", None), "a hook is a function of"),
            (lambda: model.run_with_hooks(images, fwd_hooks=("z", print)), "a list of pairs"),
        ]
    )
    with model.hooks(bwd_hooks=[(("z", 1), lambda g, hook: g[:1])]), pytest.raises(InputError, match=at):
        model(images).sum().backward()
    with model.hooks(bwd_hooks=[(("z", 1), lambda g, hook: (0 * g,))]):
        model(images).sum().backward()
    model.zero_grad()
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


def test_keys_of_a_cache(model, images):
    _, cache = model.run_with_cache(images)
    assert torch.equal(cache["resid_post", np.int64(1)], cache["resid_post", 1])
    assert torch.equal(cache.patches("resid_post1"), cache.patches(cache["resid_post", 1]))
    assert torch.equal(cache.prefix(("resid_post", 1)), cache["resid_post", 1][:, :1])
    refuses(
        [
            (lambda: cache["scale", 1], r'name one of them, as in cache\["scale", 1, "ln1"\]'),
            (lambda: cache["resid_post"], r'name one of them, as in cache\["resid_post", 0\]'),
            (
                lambda: cache["resid_post", [1, 2]],
                r'for several blocks use \[cache\["resid_post", block\] for block in',
            ),
            (lambda: cache["resid_post", 1.0], "a key with one block"),
            (lambda: cache["resid_post", True], "a key with one block"),
            (lambda: cache[5], "a hook point is named by"),
            (lambda: cache.patches(("z", 1)), r"10 tokens \(1 \+ 3 × 3\), not \[2, 10, 4, 8\]"),
            (lambda: model.run_with_cache(images, names_filter=[None]), "a hook point is named by"),
            (lambda: model.run_with_cache(images, names_filter=3), "a hook point is named by"),
            (lambda: model.run_with_cache(images, pos_slice=100), "pos_slice=100 names a token that hook_patch_embed"),
            (lambda: model.run_with_cache(images, device="xyz"), "device 'xyz' cannot be used"),
            (lambda: model.run_with_cache(images, pos_slice="a"), "pos_slice is a token, a slice"),
        ]
    )


def test_class_embeddings_are_finite_rows_that_point_somewhere(model):
    weight = torch.randn(3, 32, dtype=torch.float64)
    broken, empty = weight.clone(), weight.clone()
    broken[1, 2] = float("nan")
    empty[2] = 0
    names = ["a", "b", "c"]
    refuses(
        [
            (lambda: model.with_class_embeddings(empty), "embedding of class 2 is all zeros"),
            (lambda: model.with_class_embeddings(broken), "class embeddings contain NaN"),
            (lambda: model.with_class_embeddings(weight[:0]), "class embeddings for"),
            (lambda: model.with_class_embeddings(weight[None]), "class embeddings for"),
            (lambda: model.with_class_embeddings("text"), "class embeddings are numbers"),
            (lambda: model.with_class_embeddings(weight > 0), "are floats"),
            (lambda: model.with_class_embeddings(weight, bias=[0, 1]), r"one number per class, \[3\]"),
            (lambda: model.with_class_embeddings(weight, bias=[0, 1, float("inf")]), "biases contain NaN or inf"),
            (lambda: model.with_class_embeddings(weight, names[:2]), "2 class names"),
            (lambda: model.with_class_embeddings(weight, "abc"), "a list of strings"),
            (lambda: model.with_class_embeddings(weight, ["a", None, "c"]), "None"),
        ]
    )
    for scale in (float("nan"), float("inf"), 0.0, -1.0, "big", [1.0, 2.0], True, None):
        refuses([(lambda scale=scale: model.with_class_embeddings(weight, scale=scale), "scale")])
    half = HookedViT.from_timm(build()).half()
    refuses(
        [
            (lambda: half.with_class_embeddings(1e6 * weight), "overflow torch.float16"),
            (lambda: half.with_class_embeddings(1e3 * weight, scale=1e4), "overflow torch.float16"),
        ]
    )
    plain = model.with_class_embeddings(weight, names, scale=torch.tensor(2.0), bias=[1, 0, 0])
    assert plain.class_names == names
    assert plain.cfg.n_classes == 3


def test_colours_from_0_to_255_are_not_taken_for_preprocessed(plain):
    colours = torch.randint(0, 256, (1, 3, *plain.cfg.image_size), dtype=torch.uint8)
    with pytest.raises(InputError, match=r"uint8, the model computes in .*: use model\.to_images$"):
        plain(colours)
    with pytest.warns(UserWarning, match=r"values up to 25\d, .* use model\.to_images"):
        plain(colours.to(plain.dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain(colours.to(plain.dtype) / 50)
