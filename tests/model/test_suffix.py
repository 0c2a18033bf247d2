"""A run from one block on equals the whole forward."""

import torch

from vitlens.model.runs.suffix import forward_suffix


def test_a_suffix_equals_the_whole_forward(classifier, images_of):
    images = images_of(classifier, 2)
    grid = classifier.embed.grid(*images.shape[-2:])
    with torch.no_grad():
        logits = classifier(images)
        for block in (0, 1, classifier.cfg.n_layers - 1):
            stream = classifier(images, stop_at_layer=block)
            for whole in (False, True):
                got = forward_suffix(classifier, stream, block, grid, whole=whole)
                torch.testing.assert_close(got, logits, rtol=1e-10, atol=1e-10)
