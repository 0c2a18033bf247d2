"""The removal of what is marked in an explorer, and two runs on one page: the analyses' own numbers."""

import numpy as np
import pytest
import torch
from pages.explorer.conftest import unpack

from vitlens import InputError, ablate_tokens, explore


@pytest.fixture
def explorer(variant):
    model, images = variant("registers", 2)
    return explore(model, images, n_classes=3, n_runs=1, progress=False)


def test_marked_patches_leave_the_sequence(explorer):
    model, image = explorer.model, explorer.images[1:2]
    first = model.cfg.n_prefix_tokens
    explorer.selected_picture, explorer.marked_tokens = 1, [first, first + 4]
    result = explorer.remove()
    expected = ablate_tokens(model, image, [explorer.selected_class], tokens=[first, first + 4])
    torch.testing.assert_close(result.logits, expected.logits)
    before, after = model(image)[0].detach(), expected.logits[0]
    for name, logits in (("before", before), ("after", after)):
        top = logits.softmax(-1).topk(3)
        assert [index for index, _ in explorer.effect[name]] == top.indices.tolist()
        np.testing.assert_allclose([share for _, share in explorer.effect[name]], top.values, rtol=1e-5)
    classes = explorer.facts["pictures"][1]["classes"]
    np.testing.assert_allclose(explorer.effect["shift"], (after - before)[classes], atol=1e-5)
    assert explorer.effect["picture"] == 1
    assert explorer.effect["title"].startswith("Without 2 patches")
    assert explorer.widget.effect == explorer.effect


def test_without_marks_the_chosen_patch_leaves(explorer):
    explorer.selected_token = explorer.model.cfg.n_prefix_tokens
    assert explorer.remove().kept.sum() == 8
    assert explorer.effect["title"].startswith("Without 1 patch,")
    explorer.selected_token = 0
    with pytest.raises(InputError, match="only patches"):
        explorer.remove()


def test_the_widgets_button_asks_for_it(explorer):
    explorer.marked_tokens = [explorer.model.cfg.n_prefix_tokens]
    explorer.widget._answer(explorer.widget, {"ask": "ablate", "replacement": "remove"}, [])
    assert explorer.widget.effect["title"].startswith("Without 1 patch")
    explorer.marked_tokens = [0]
    explorer.widget._answer(explorer.widget, {"ask": "ablate", "replacement": "remove"}, [])
    assert "only patches" in explorer.widget.effect["title"]


def test_a_run_before_and_after_an_edit(variant):
    model, images = variant("class_token", 1)
    about = {"classes": 3, "n_classes": 2, "n_runs": 1, "progress": False}
    before = explore(model, images, **about)
    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", lambda z, hook: torch.zeros_like(z))]):
        after = explore(model, images, **about)
        logits = model(images)[0].detach()
    both = before.beside(after)
    assert [picture["name"] for picture in both.facts["pictures"]] == ["picture 0 (first)", "picture 0 (second)"]
    assert both.pictures == before.pictures + after.pictures
    np.testing.assert_allclose(unpack(both.pictures[1])["answer_logits"], logits, rtol=1e-5, atol=1e-6)
    both.selected_picture = 1
    with pytest.raises(InputError, match="two runs"):
        both.remove()
    with pytest.raises(InputError, match="two runs"):
        both.patch()


def test_two_models_on_one_page(variant):
    (one, images), (other, _) = variant("class_token", 1), variant("layer_scale", 1)
    about = {"n_classes": 2, "n_runs": 1, "progress": False}
    other.cfg.model_name = "another"
    both = explore(one, images, **about).beside(explore(other, images, **about))
    assert both.facts["model"] == "vit_tiny_patch16_224 and another"
    assert [picture["name"] for picture in both.facts["pictures"]] == [
        "picture 0 (vit_tiny_patch16_224)", "picture 0 (another)",
    ]  # fmt: skip
    with pytest.raises(InputError, match="they differ in blocks"):
        explore(one, images, **about).beside(explore(other, images, blocks=[0], **about))
