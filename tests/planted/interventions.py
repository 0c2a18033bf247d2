"""What tests of planted models do to them, with plain hooks and pixels."""

import torch
from einops import rearrange


def margin(logits, labels):
    """How far the label's logit is above the best of the others."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return logits.gather(1, labels[:, None])[:, 0] - others.amax(dim=1)


def replaced(vit, images, source, heads=(), neurons=()):
    """The logits with these heads' and neurons' outputs taken from `source`, a function from hook names to activations."""
    hooks = []
    for site, chosen in (("attn.hook_z", heads), ("mlp.hook_post", neurons)):
        for block in {place[0] for place in chosen}:
            indices = [place[1] for place in chosen if place[0] == block]

            def put(x, hook, site=site, indices=indices):
                x = x.clone()
                x[:, :, indices] = source(hook.name)[: len(x), :, indices]
                return x

            hooks.append((f"blocks.{block}.{site}", put))
    with torch.no_grad():
        return vit.model.run_with_hooks(images, fwd_hooks=hooks)


def zeros(cached):
    return lambda name: torch.zeros_like(cached[name])


def patches_of(images):
    return rearrange(images, "i c (r y) (s x) -> i (r s) c y x", y=8, x=8).clone()


def picture_of(patches):
    return rearrange(patches, "i (r s) c y x -> i c (r y) (s x)", r=6)
