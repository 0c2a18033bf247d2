"""A model whose outlier tokens were planted by hand, for the tests of registers and of descriptions."""

import pytest
import torch
from variants import build, pictures

from vitlens import HookedViT

PLANTED = (1, 7)
BRIGHT = [(0, 1), (2, 3), (3, 0)]


@pytest.fixture
def planted():
    """A model in which one neuron writes a large vector at bright patches, and pictures with one such patch each."""
    module = build(img_size=64)
    block, neuron = PLANTED
    with torch.no_grad():
        for part in module.blocks:
            for weight in (part.attn.proj.weight, part.mlp.fc2.weight):
                weight.mul_(0.1)
        module.pos_embed.mul_(0.1)
        # The mean brightness of a patch is the first coordinate of its stream, and nothing else of it.
        module.patch_embed.proj.weight[0] = 1 / (3 * 16 * 16)
        module.patch_embed.proj.weight[1:] *= 0.1
        module.patch_embed.proj.weight[1:] -= module.patch_embed.proj.weight[1:].mean(dim=(1, 2, 3), keepdim=True)
        mlp = module.blocks[block].mlp
        mlp.fc1.weight[neuron] = 0
        mlp.fc1.weight[neuron, 0] = 10
        mlp.fc1.bias[neuron] = -30
        mlp.fc2.weight[:, neuron] = torch.randn(32, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    model = HookedViT.from_timm(module)
    images = 0.3 * pictures(model.cfg, len(BRIGHT))
    for image, (row, column) in enumerate(BRIGHT):
        images[image, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] += 5
    return model, images
