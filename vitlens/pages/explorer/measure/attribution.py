"""What heads, MLPs and all else write directly into the logits, for the page's classes and for all."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vitlens.attribution.direct import direct_logit_attribution
from vitlens.attribution.results import Attribution, PatchAttribution
from vitlens.model.hooked_vit import HookedViT
from vitlens.pages.explorer.measure.quantise import as_numpy, linear_codes

#: Neurons of each MLP that a class has on the page.
N_NEURONS = 6
# What no head wrote, in the groups that the page names.
SHARE_GROUPS = ("MLPs", "embedding and positions", "biases and constant")


def attribution_tensors(
    model: HookedViT, image: Tensor, classes: Sequence[int], blocks: Sequence[int]
) -> dict[str, np.ndarray]:
    """shares, heads, mlps, groups, logits and residuals of `Measured`."""
    chosen = torch.tensor([list(classes)])
    attribution = direct_logit_attribution(model, image, chosen, unit="head_patch", progress=False)
    assert isinstance(attribution, PatchAttribution)
    heads = attribution.by_head[0]
    shares, scale = linear_codes(as_numpy(attribution.values[0][:, list(blocks)]), np.int8)
    return {
        "shares": shares,
        "shares_scale": scale,
        "heads": as_numpy(heads[:, list(blocks)]),
        "mlps": as_numpy(_mlps(attribution, blocks)),
        "groups": as_numpy(_groups(attribution, heads, blocks)),
        "logits": as_numpy(attribution.logits[0]),
        "residuals": as_numpy(attribution.residual[0]),
    }


def attribution_of_all(model: HookedViT, image: Tensor, blocks: Sequence[int]) -> dict[str, np.ndarray]:
    """all_heads and all_mlps: the same for every class of the model."""
    attribution = direct_logit_attribution(model, image, "all", unit="head", progress=False)
    labels = attribution.axes["component"]
    places = [i for i, label in enumerate(labels) if label.kind == "head" and label.block in blocks]
    heads = attribution.values[0, :, places].mT.unflatten(0, (len(blocks), -1))
    mlps = torch.stack([attribution.values[0, :, labels.index(f"L{block} mlp")] for block in blocks])
    (head_codes, head_scale), (mlp_codes, mlp_scale) = (linear_codes(as_numpy(x), np.int16) for x in (heads, mlps))
    return {
        "all_heads": head_codes,
        "all_heads_scale": head_scale,
        "all_mlps": mlp_codes,
        "all_mlps_scale": mlp_scale,
    }


def neuron_tensors(
    model: HookedViT, image: Tensor, classes: Sequence[int], blocks: Sequence[int]
) -> dict[str, np.ndarray]:
    """neurons and neuron_writes of `Measured`: those that write most for or against each class."""
    chosen = torch.tensor([list(classes)])
    values = direct_logit_attribution(model, image, chosen, unit="neuron", progress=False).values[0][:, list(blocks)]
    order = values.abs().argsort(dim=-1, descending=True, stable=True)[..., :N_NEURONS]
    return {"neurons": order.cpu().numpy().astype(np.int32), "neuron_writes": as_numpy(values.gather(-1, order))}


def _mlps(attribution: Attribution, blocks: Sequence[int]) -> Tensor:
    return torch.stack([attribution.part(f"L{block} mlp")[0] for block in blocks], dim=-1)


def _groups(attribution: Attribution, heads: Tensor, blocks: Sequence[int]) -> Tensor:
    """What the heads of the page's blocks did not write: [class, group]."""
    assert attribution.elsewhere is not None
    assert attribution.elsewhere_names is not None
    groups = dict.fromkeys((*SHARE_GROUPS, "heads of other blocks"), torch.zeros_like(attribution.logits[0]))
    for part, share in zip(attribution.elsewhere_names, attribution.elsewhere[0].unbind(dim=-1), strict=True):
        if part.head is not None:
            continue  # A head's own bias is in `heads`.
        group = SHARE_GROUPS[0] if part.kind == "mlp" else SHARE_GROUPS[1] if part.kind == "embed" else SHARE_GROUPS[2]
        groups[group] = groups[group] + share
    others = [block for block in range(heads.shape[1]) if block not in blocks]
    groups["heads of other blocks"] = heads[:, others].sum(dim=(1, 2))
    return torch.stack(list(groups.values()), dim=-1)
