"""The removal of what is marked in an explorer: the analysis' own numbers, and the answer before and after."""

import numpy as np
import pytest
import torch

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
