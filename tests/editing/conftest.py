"""A model in which one head carries a shortcut, by construction, and pictures in two groups that show it."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from variants import build, pictures

from vitlens import HookedViT

HEAD = (1, 2)


@dataclass(frozen=True)
class Planted:
    """Pairs of pictures: 2i as it is, of the group "agreeing"; 2i + 1 with a marker on it, of the group "conflicting".

    Head L1H2 writes against class 0, the label of all, wherever it reads the marker. Where it does not, it writes for it.
    """

    model: HookedViT
    images: Tensor
    labels: Tensor
    groups: list[str]
    pairs: Tensor


def marked(images: Tensor, marker: Tensor) -> Tensor:
    """Each picture twice: as it is, and with the marker on all its patches."""
    return torch.stack([images, images + marker], dim=1).flatten(0, 1)


@pytest.fixture(scope="session")
def planted():
    torch.manual_seed(0)
    module = build()
    plain = HookedViT.from_timm(module)
    patch = torch.randn(3, 16, 16, dtype=torch.float64)
    images = marked(pictures(plain.cfg, 16), patch.repeat(1, 3, 3))
    block, head, size = *HEAD, plain.cfg.d_head
    _, cache = plain.run_with_cache(images, names_filter=f"blocks.{block}.ln1.hook_normalized")
    read = next(iter(cache.cache_dict.values()))[:, 1:].mean(dim=1)
    marker = (read[1::2] - read[::2]).mean(dim=0)
    middle = read.mean(dim=0) @ marker / marker.norm()
    classifier = module.head.weight
    against = classifier[1:].mean(dim=0) - classifier[0]
    with torch.no_grad():
        attention, rows = module.blocks[block].attn, slice(head * size, (head + 1) * size)
        value = attention.qkv.weight[2 * 32 :][rows]
        value.zero_()
        value[0] = marker / marker.norm()
        bias = attention.qkv.bias[2 * 32 :][rows]
        bias.zero_()
        bias[0] = -middle
        attention.proj.weight[:, rows] = 0
        attention.proj.weight[:, rows.start] = 6 * against / against.norm()
    model = HookedViT.from_timm(module)
    return Planted(
        model,
        images,
        torch.zeros(len(images), dtype=torch.long),
        ["agreeing", "conflicting"] * (len(images) // 2),
        torch.arange(len(images)) // 2,
    )
