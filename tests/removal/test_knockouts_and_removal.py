"""Knockouts and removal against loops that do the same by hand."""

import pytest
import torch
from torchvision.transforms.functional import gaussian_blur

from vitlens import InputError
from vitlens.lens import class_trace
from vitlens.removal.knockouts import Edges, knockout_attention, knockout_hooks
from vitlens.removal.tokens import ablate_tokens


def by_hand(model, images, edit):
    """The logits with every pattern edited by a function of it."""
    return model.run_with_hooks(images, fwd_hooks=[("pattern", lambda pattern, hook: edit(pattern.clone(), hook))])


def test_self_only_is_one_on_the_diagonal(plain, images_of):
    images = images_of(plain, 2)

    def diagonal(pattern, hook):
        pattern[:, :, 1:] = torch.eye(pattern.shape[-1], dtype=pattern.dtype)[1:]
        return pattern

    expected = by_hand(plain, images, diagonal)
    torch.testing.assert_close(
        knockout_attention(plain, images, edges="self_only").values, expected, rtol=1e-9, atol=1e-9
    )


def test_no_cls_is_zero_without_renormalising(plain, images_of):
    images = images_of(plain, 2)

    def cut(pattern, hook):
        pattern[:, :, 1:, 0] = 0
        return pattern

    def share_out(pattern, hook):
        pattern[:, :, 1:, 0] = 0
        return pattern / pattern.sum(dim=-1, keepdim=True)

    zeroed = knockout_attention(plain, images, edges="no_cls").values
    torch.testing.assert_close(zeroed, by_hand(plain, images, cut), rtol=1e-9, atol=1e-9)
    shared = knockout_attention(plain, images, edges="no_cls", replacement="renormalise").values
    torch.testing.assert_close(shared, by_hand(plain, images, share_out), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(zeroed, shared)


@pytest.mark.parametrize("how", ["zero", "mean", "other"])
def test_any_edges_in_any_heads(plain, images_of, how):
    images, others = images_of(plain, 3), images_of(plain, 3, seed=5)
    _, cache = plain.run_with_cache(others if how == "other" else images)
    masks = torch.zeros(3, 48, 48, dtype=torch.bool)
    masks[0, :16, :16] = masks[1, :, :32] = masks[2, 16:] = True
    inside = torch.nn.functional.adaptive_avg_pool2d(masks[:, None].double(), 3)[:, 0].flatten(1) >= 0.5

    def edit(pattern, hook):
        block = int(hook.name.split(".")[1])
        if block not in (1, 2):
            return pattern
        source = {"zero": 0 * pattern, "mean": cache["pattern", block].mean(0, keepdim=True).expand_as(pattern)}
        source["other"] = cache["pattern", block]
        for image in range(3):
            for key in range(9):
                if not inside[image, key]:
                    pattern[image, [0, 3], 0, 1 + key] = source[how][image, [0, 3], 0, 1 + key]
        return pattern

    edges = Edges("class", "context", blocks=[1, 2], heads=[0, -1])
    found = knockout_attention(
        plain, images, edges=edges, replacement=how, masks=masks, others=others if how == "other" else None
    )
    torch.testing.assert_close(found.values, by_hand(plain, images, edit), rtol=1e-9, atol=1e-9)


def test_hooks_carry_any_analysis(plain, images_of):
    images, labels = images_of(plain, 2), torch.tensor([1, 2])
    with plain.hooks(knockout_hooks(plain, images, edges="self_only")):
        inside = class_trace(plain, images, labels)
    outside = class_trace(plain, images, labels)
    assert not torch.equal(inside.tables().logits["resid_post", 2], outside.tables().logits["resid_post", 2])


@pytest.mark.parametrize(
    ("edges", "replacement", "sentence"),
    [
        ("self_onyl", None, "self_only"),
        ("no_cls", "halve", "zero, renormalise, mean, other"),
        (Edges(heads=[7]), None, "heads 0 to 3"),
        (Edges(blocks=[7]), None, "blocks 0 to 2"),
        (Edges("all", "all"), "renormalise", "without any key"),
        ("no_cls", "other", "others="),
        ([], None, "empty"),
        (Edges("class", "context"), None, "masks="),
    ],
)
def test_wrong_knockouts(plain, images_of, edges, replacement, sentence):
    with pytest.raises(InputError, match=sentence):
        knockout_attention(plain, images_of(plain, 1), edges=edges, replacement=replacement)


def test_masks_that_no_edges_read_are_refused(plain, images_of):
    images, masks = images_of(plain, 1), torch.ones(1, 48, 48, dtype=torch.bool)
    for edges in ("no_cls", Edges("class", "patches")):
        for call in (knockout_attention, knockout_hooks):
            with pytest.raises(InputError, match="leave masks= out"):
                call(plain, images, edges=edges, masks=masks)


def test_removal_matches_the_shorter_sequence(plain, images_of):
    images, labels = images_of(plain, 2), torch.tensor([3, 1])
    gone = torch.zeros(2, 10, dtype=torch.bool)
    gone[0, [2, 3, 9]] = gone[1, 1:6] = True
    run = ablate_tokens(plain, images, labels, tokens=gone)
    stream = plain(images, stop_at_layer=0)
    for i in range(2):
        kept = stream[i : i + 1, ~gone[i]]
        last = plain(kept, start_at_layer=0, stop_at_layer=plain.cfg.n_layers - 1)
        last = plain.blocks[-1](last)
        torch.testing.assert_close(run.logits[i], plain(kept, start_at_layer=0)[0], rtol=1e-9, atol=1e-9)
        logits = plain.project(last, range(last.shape[1]))[0]
        ranks = (logits > logits[:, labels[i], None]).sum(-1)
        assert run.ranks[i, ~gone[i, 1:]].tolist() == ranks[1:].tolist()
        assert (run.ranks[i, gone[i, 1:]] == -1).all()
        assert run.class_token_ranks[i] == ranks[0]
        assert run.rate[i].item() == pytest.approx((ranks[1:] == 0).double().mean().item())


@pytest.mark.parametrize("how", ["zero", "mean", "blur", "other"])
def test_replacement_changes_the_embedding_of_these_patches_only(plain, images_of, how):
    images, others = images_of(plain, 2), images_of(plain, 2, seed=5)
    run = ablate_tokens(plain, images, [0], tokens=[1, 4], replacement=how, others=others if how == "other" else None)
    source = {"other": others, "blur": gaussian_blur(images, [13, 13], [3.0, 3.0])}.get(how, images)
    _, cache = plain.run_with_cache(source)
    patches = cache["hook_patch_embed"]
    mean = patches.mean(0, keepdim=True).expand_as(patches)
    new = {"zero": 0 * patches, "mean": mean, "blur": patches, "other": patches}[how]

    def edit(x, hook):
        x = x.clone()
        x[:, [0, 3]] = new[:, [0, 3]]
        return x

    expected = plain.run_with_hooks(images, fwd_hooks=[("hook_patch_embed", edit)])
    torch.testing.assert_close(run.logits, expected, rtol=1e-9, atol=1e-9)
    assert run.kept.sum(1).tolist() == [7, 7]


def test_wrong_removals(plain, images_of):
    images = images_of(plain, 1)
    for arguments, sentence in [
        ({"tokens": "class"}, "only patches"),
        ({"tokens": [1], "replacement": "halo"}, "remove, zero"),
        ({"tokens": [1], "replacement": "other"}, "others="),
        ({"tokens": "context"}, "masks="),
    ]:
        with pytest.raises(InputError, match=sentence):
            ablate_tokens(plain, images, **arguments)
