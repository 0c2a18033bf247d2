"""Random transcoders of a model's MLPs, of every kind that an attribution graph takes."""

import torch

from vitlens.features import CrossLayerTranscoder, Transcoder, mlp_hooks
from vitlens.model.hooks.hook_points import hook_name


def transcoders_of(model, seed=0, n=12):
    """Random transcoders, of kinds in turn: one block of three has none, and its errors are all that its MLP writes."""
    generator = torch.Generator().manual_seed(seed)
    d = model.cfg.d_model

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * d**-0.5

    kinds = [
        {"normalisation": "layer_norm", "rescaled": True, "W_skip": draw(d, d)},
        {"normalisation": "constant_norm_rescale", "rescaled": False},
        {"W_skip": draw(d, d)},
        {"normalisation": "constant_norm_rescale", "rescaled": True},
        {"normalisation": "layer_norm", "rescaled": False},
        {},
    ]
    found = {}
    for block, (hook, hook_out) in enumerate(mlp_hooks(model)):
        kind = kinds[(block + seed) % len(kinds)]
        if block == seed % 3:
            continue
        if seed % 2 and model.blocks[block].has_middle:
            hook = hook_name(block, "resid_mid")
        sae = Transcoder(
            draw(d, n), draw(n), draw(n, d), draw(d), torch.nn.ReLU(), hook=hook, hook_out=hook_out, **kind
        )
        # Half of them are in another precision than the model.
        found[hook] = sae.float() if seed % 4 < 2 else sae
    return found


def clt_of(model, blocks=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pairs, d = mlp_hooks(model, blocks=blocks), model.cfg.d_model

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * d**-0.5

    return CrossLayerTranscoder.from_arrays(
        [draw(d, 9 + i) for i in range(len(pairs))],
        [draw(9 + i) for i in range(len(pairs))],
        [draw(len(pairs) - i, 9 + i, d) for i in range(len(pairs))],
        [draw(d) for _ in pairs],
        W_skip=[draw(d, d) for _ in pairs],
        hooks=[hook for hook, _ in pairs],
        hooks_out=[hook_out for _, hook_out in pairs],
    )
