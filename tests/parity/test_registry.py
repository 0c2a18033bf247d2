"""Every name in timm's vision-transformer files is ported exactly, or refused with the reason."""

import re

import pytest
import timm
import torch
from variants import pictures, randomise

from vitlens import HookedViT, InputError

NAMES = [
    name
    for module in ("vision_transformer", "vision_transformer_hybrid", "deit")
    for name in timm.list_models(module=module)
]
# Hybrid stems bring their own stride: these keep their own picture size.
HYBRID = re.compile(r"_r\d+_|_r_|resnet")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_exact_or_refused(name):
    """One block of every name at its full width, two by two patches, float64."""
    with torch.device("meta"):
        probe = timm.create_model(name, pretrained=False, depth=1)
    patch = probe.patch_embed.img_size[0] // probe.patch_embed.grid_size[0]
    size = {} if HYBRID.search(name) else {"img_size": 2 * patch}
    module = randomise(timm.create_model(name, pretrained=False, depth=1, **size))
    try:
        model = HookedViT.from_timm(module)
    except InputError:
        return  # The next test reads the reasons.
    images = pictures(model.cfg, 1)
    with torch.no_grad():
        expected = module(images)
        for logits in (model(images), model.run_with_cache(images, names_filter="pattern")[0]):
            assert (logits - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_most_names_are_ported():
    """The README's count: what is refused is refused because of a part, and that part is named."""
    ported, reasons = 0, []
    for name in NAMES:
        with torch.device("meta"):
            module = timm.create_model(name, pretrained=False, depth=1)
            try:
                HookedViT.from_timm(module)
                ported += 1
            except InputError as refusal:
                reasons.append(str(refusal))
    assert ported >= 145
    assert all(re.search(r"global_pool|norm|Block|Mlp|SwiGLU|Attention", reason) for reason in reasons)
