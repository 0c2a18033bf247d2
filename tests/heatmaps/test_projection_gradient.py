"""Projection-gradient against autograd, by block and head; gradient rollout against whole matrices."""

import pytest
import torch
from ported import on_each_property

from vitlens import InputError, direct_logit_attribution, heatmap
from vitlens.heatmaps.methods.projection_gradient import ProjectionGradientObserver
from vitlens.heatmaps.registry import METHODS


def gradient_by_autograd(model, images, classes, loss):
    """−∂ℓ/∂pattern, summed over the loss of every row that is read and averaged over them: all through the network's own
    steps, one block at a time with the pattern as a free variable."""
    maps = []
    for block in range(model.cfg.n_layers):
        seen = {}

        def free(pattern, hook, seen=seen):
            seen["pattern"] = pattern.detach().requires_grad_()
            return seen["pattern"]

        def out(value, hook, seen=seen):
            seen["out"] = value

        model.run_with_hooks(
            images,
            fwd_hooks=[(f"blocks.{block}.attn.hook_pattern", free), (f"blocks.{block}.hook_attn_out", out)],
        )
        tokens = list(range(seen["out"].shape[1]))[model.read_tokens]
        logits = model.project(seen["out"][:, tokens], tokens)
        wanted = classes[:, None].expand(-1, len(tokens)).flatten()
        flat = logits.flatten(0, 1)
        if loss == "logit":
            value = -flat.gather(1, wanted[:, None]).sum()
        elif loss == "cross_entropy" and model.cfg.output == "sigmoid":
            value = -flat.gather(1, wanted[:, None]).sigmoid().log().sum()
        elif loss == "cross_entropy":
            value = torch.nn.functional.cross_entropy(flat, wanted, reduction="sum")
        else:
            value = torch.nn.functional.cross_entropy(flat.softmax(-1), wanted, reduction="sum")
        gradient = torch.autograd.grad(value, seen["pattern"])[0]
        maps.append(-gradient[:, :, tokens].mean(dim=2)[..., model.cfg.n_prefix_tokens :])
    return torch.stack(maps, dim=1)


@on_each_property
@pytest.mark.parametrize("loss", ["cross_entropy", "logit", "double_softmax"])
def test_closed_form_equals_autograd(classifier, images_of, loss):
    images, classes = images_of(classifier, 2), torch.tensor([1, 4])
    with torch.enable_grad():
        expected = gradient_by_autograd(classifier, images, classes, loss)
    found = heatmap(
        classifier, images, classes, method="projection_gradient", loss=loss, keep=("block", "head"), warn=False
    )
    tolerance = max(expected.abs().max().item(), 1e-12) * 1e-9
    torch.testing.assert_close(found.values.flatten(-2), expected, rtol=1e-9, atol=tolerance)


def test_the_loss_of_a_sigmoid_is_its_own(plain, images_of):
    images, classes = images_of(plain, 2), torch.tensor([1, 4])
    labels = plain.with_class_embeddings(plain.W_U.T, bias=plain.b_U, space="features", output="sigmoid")
    with torch.enable_grad():
        expected = gradient_by_autograd(labels, images, classes, "cross_entropy")
    found = heatmap(labels, images, classes, method="projection_gradient", keep=("block", "head"), warn=False)
    torch.testing.assert_close(found.values.flatten(-2), expected, rtol=1e-9, atol=1e-12)


def test_several_classes_of_one_forward(plain, images_of):
    images = images_of(plain, 2)
    observer = ProjectionGradientObserver(plain)
    plain.run_with_hooks(images, fwd_hooks=observer.hooks([2]))
    both = observer.importance(torch.tensor([[1, 4], [1, 4]]))
    about = {"method": "projection_gradient", "blocks": [2], "keep": ("block", "head"), "warn": False}
    for position, label in enumerate((1, 4)):
        alone = heatmap(plain, images, label, **about)
        assert alone.axes["block"] == [2]
        torch.testing.assert_close(both[:, position].detach(), alone.values.flatten(-2))
    compat, published = (
        heatmap(plain, images, 4, **about, **loss) for loss in ({"paper_compat": True}, {"loss": "double_softmax"})
    )
    assert torch.equal(compat.values, published.values)


def test_rollout_equals_whole_matrices(plain, images_of):
    images = images_of(plain, 2)
    patterns = {}

    def keep(pattern, hook):
        pattern.retain_grad()
        patterns[int(hook.name.split(".")[1])] = pattern

    with torch.enable_grad():
        logits = plain.run_with_hooks(images, fwd_hooks=[("pattern", keep)])
        logits[:, 3].sum().backward()
    rollout = torch.eye(10, dtype=torch.float64).expand(2, 10, 10)
    for block in range(3):
        weighted = (patterns[block].grad * patterns[block]).clamp(min=0).mean(dim=1)
        rollout = rollout + weighted @ rollout
    found = heatmap(plain, images, 3, method="gradient_rollout", warn=False)
    torch.testing.assert_close(found.patches(), rollout[:, 0, 1:].detach(), rtol=1e-9, atol=1e-15)


@on_each_property
@pytest.mark.parametrize("method", ["projection_gradient", "head_patch"])
def test_what_is_kept_sums_to_the_map(classifier, images_of, method):
    images, classes = images_of(classifier, 3), torch.tensor([1, 4, 0])
    about = {"classes": classes, "method": method, "warn": False}
    plain, both = heatmap(classifier, images, **about), heatmap(classifier, images, keep=("head", "block"), **about)
    assert list(both.axes) == ["image", "block", "head", "row", "column"]
    torch.testing.assert_close(both.maps(), plain.values, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(both.patches(), plain.patches(), rtol=1e-9, atol=1e-12)
    assert both.top(3, image=1)[["row", "column"]].equals(plain.top(3, image=1)[["row", "column"]])
    for part, axis in (("block", 2), ("head", 1)):
        one = heatmap(classifier, images, keep=part, batch_size=2, **about)
        assert list(one.axes) == ["image", part, "row", "column"]
        torch.testing.assert_close(one.values, both.values.sum(dim=axis), rtol=1e-9, atol=1e-12)
    last = heatmap(classifier, images, keep="block", blocks=[-1], **about)
    assert last.axes["block"] == [classifier.cfg.n_layers - 1]
    torch.testing.assert_close(last.values, both.values.sum(dim=2)[:, -1:], rtol=1e-9, atol=1e-12)


def test_the_head_patch_terms_are_those_of_the_attribution(plain, images_of):
    images, classes = images_of(plain, 2), torch.tensor([1, 4])
    exact = direct_logit_attribution(plain, images, classes, unit="head_patch").values[:, 0, ..., 1:]
    found = heatmap(plain, images, classes, method="head_patch", keep=("block", "head"), warn=False)
    torch.testing.assert_close(found.values.flatten(-2), exact, rtol=1e-9, atol=1e-12)
    assert len(found.to_frame()) == found.values.numel()


def test_what_cannot_be_kept(plain, images_of):
    images = images_of(plain, 1)
    with pytest.raises(InputError, match=r"block and head .*, not 'layer'"):
        heatmap(plain, images, method="projection_gradient", keep="layer")
    for name, method in METHODS.items():
        if not method.keeps:
            with pytest.raises(InputError, match=rf"{name} is no sum over heads.* head_patch, projection_gradient can"):
                heatmap(plain, images, method=name, keep=("head",))
    with pytest.raises(InputError, match="cross_entropy"):
        heatmap(plain, images, method="projection_gradient", loss="hinge")
