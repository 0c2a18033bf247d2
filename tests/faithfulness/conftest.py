"""The loop that curves are compared with; `classifier` is a composed model here, and each variant in make test-all."""

import torch
from ported import derived_classifier

__all__ = ["derived_classifier"]


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def random_maps(model, images, seed=0):
    rows, columns = model.embed.grid(*images.shape[-2:])
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(images), rows * columns, generator=generator, dtype=torch.float64)


def noise_pictures(size, n=2, seed=0):
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(model, image, importance, label, fill, counts, show):
    """One picture, one step after the other: the first `count` patches of the order replaced, or alone shown."""
    patch_height, patch_width = model.cfg.patch_size
    columns = model.embed.grid(*image.shape[-2:])[1]
    order = sorted(range(len(importance)), key=lambda patch: -importance[patch].item())
    values, hits = [], []
    for count in counts:
        picture = image.clone()
        for patch in order[count:] if show else order[:count]:
            top, left = patch // columns * patch_height, patch % columns * patch_width
            where = (..., slice(top, top + patch_height), slice(left, left + patch_width))
            picture[where] = fill[where]
        with torch.no_grad():
            logits = model(picture[None])[0]
        values.append(logits.softmax(-1)[label])
        hits.append((logits.argmax() == label).double())
    return torch.stack(values), torch.stack(hits)
