"""All small models of other libraries that ports are compared with."""

import torch
from torch import Tensor, nn

from vitlens.model.hooked_vit import HookedViT
from vitlens.parity.measure import measure_port
from vitlens.parity.peers import (
    huggingface_beit,
    huggingface_dino,
    huggingface_towers,
    huggingface_vit,
    open_clip_towers,
    torchvision_vit,
    vit_pytorch_vit,
)
from vitlens.parity.peers.peer import Case
from vitlens.parity.reduced import randomise

CASES: list[Case] = [
    *huggingface_vit.VIT_CASES,
    *torchvision_vit.TORCHVISION_CASES,
    *vit_pytorch_vit.VIT_PYTORCH_CASES,
    *huggingface_beit.BEIT_CASES,
    *huggingface_dino.DINO_CASES,
    *huggingface_towers.TOWER_CASES,
    *open_clip_towers.OPEN_CLIP_CASES,
]


def build_case(case: Case) -> tuple[nn.Module, HookedViT, Tensor]:
    """The library's module in float64 with every parameter drawn at random, its port, and pictures of noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = randomise(case.build())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *case.image_size, generator=generator, dtype=torch.float64)
    return module, HookedViT.from_pretrained(module, **case.options), images


def measure_case(case: Case) -> dict[str, dict[str, float]]:
    """The relative differences between the library and the port, by mode and then by site: as `measure_port`."""
    module, model, images = build_case(case)
    return measure_port(module, model, images, peer=case.peer)
