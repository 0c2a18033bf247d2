"""All that the explorer shows of one picture: the lens, the attention, the shares of the logit, the cosines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.attribution.direct import direct_logit_attribution
from vitlens.attribution.results import PatchAttribution
from vitlens.errors import InputError
from vitlens.lens.lens import ClassLens, class_lens
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name
from vitlens.pages.explorer.quantise import attention_codes, cosine_codes
from vitlens.plots.shared.picture import picture_uri

# What no head wrote, in the groups that the footer names.
SHARE_GROUPS = ("MLPs", "embedding and positions", "biases and constant")


@dataclass(frozen=True)
class Measured:
    """`tensors` by name, as explorer's scripts read them, and `facts`: what else there is to say, as JSON can keep it.

    B blocks, H heads, T tokens, C classes, k top classes:
    pattern [B, H, T, T] codes and pattern_scale [B, H, T]; cosines [B, T (T + 1) / 2] codes; shares [C, B, H, T] and
    heads [C, B, H] of the logits [C], the groups [C, 4] of what else wrote them, residuals [C]; lens_logit, lens_rank,
    lens_probability [B, T, C], and the same as the model reads, reading_… [B, C]; top_classes, top_logits,
    top_probabilities [B, T, k].
    """

    facts: dict[str, Any]
    tensors: dict[str, np.ndarray]


@torch.no_grad()
def measure_picture(
    model: HookedViT,
    image: Float[Tensor, "1 channels height width"],
    name: str,
    wanted: Sequence[int],
    blocks: Sequence[int],
    n_classes: int,
) -> Measured:
    """Measures one picture at these blocks, for the given classes and the top ones."""
    classes = _choose_classes(model, image, wanted, n_classes)
    chosen = torch.tensor([classes])
    lens = class_lens(model, image, chosen, blocks=blocks)
    reading = class_lens(model, image, chosen, blocks=blocks, tokens="pooled")
    attribution = direct_logit_attribution(model, image, chosen, unit="head_patch", progress=False)
    assert isinstance(attribution, PatchAttribution)
    tensors = _lens_tensors(lens) | _attribution_tensors(attribution, blocks)
    tensors |= {f"reading_{what}": _small(reading.at(what)[:, 0, 0]) for what in ("logit", "rank", "probability")}
    tensors |= _activation_tensors(model, image, blocks)
    pixels = model.to_pixels(image)[0]
    named = sorted({*classes, *np.unique(tensors["top_classes"]).tolist()})
    facts = {
        "name": name,
        "uri": picture_uri(pixels),
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "classes": classes,
        "class_names": {index: model.class_label(index) for index in named},
    }
    return Measured(facts, tensors)


def _choose_classes(model: HookedViT, image: Tensor, wanted: Sequence[int], n_classes: int) -> list[int]:
    """The given classes, the top classes of the prediction, and those that led after earlier blocks."""
    tops = class_lens(model, image, tokens="pooled", k=n_classes).top_classes[0, :, 0, 0]
    answer, led_before = tops[-1].tolist(), tops[:-1, 0].flip(0).tolist()
    # Half of the places are for the top classes of the prediction before those that led earlier get theirs.
    ordered = dict.fromkeys([*wanted, *answer[: (n_classes + 1) // 2], *led_before, *answer])
    return list(ordered)[: max(n_classes, len(set(wanted)))]


def _lens_tensors(lens: ClassLens) -> dict[str, np.ndarray]:
    logits, probabilities = lens.at("logit")[:, 0], lens.at("probability")[:, 0]
    top_logits = lens.top_logits[0, :, 0]
    # p(top) = p(c) exp(logit(top) − logit(c)), of the most probable of the chosen classes; unknown where p(c) is 0 in float.
    best = probabilities.argmax(dim=-1, keepdim=True)
    known = probabilities.gather(-1, best).double()
    log_normaliser = logits.gather(-1, best).double() - known.where(known > 0, torch.nan).log()
    return {
        "lens_logit": _small(logits),
        "lens_rank": lens.at("rank")[:, 0].cpu().numpy().astype(np.int32),
        "lens_probability": _small(probabilities),
        "top_classes": lens.top_classes[0, :, 0].cpu().numpy().astype(np.int32),
        "top_logits": _small(top_logits),
        "top_probabilities": _small((top_logits.double() - log_normaliser).exp()),
    }


def _attribution_tensors(attribution: PatchAttribution, blocks: Sequence[int]) -> dict[str, np.ndarray]:
    heads = attribution.by_head[0]
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
    return {
        "shares": _small(attribution.values[0][:, list(blocks)]),
        "heads": _small(heads[:, list(blocks)]),
        "groups": _small(torch.stack(list(groups.values()), dim=-1)),
        "logits": _small(attribution.logits[0]),
        "residuals": _small(attribution.residual[0]),
    }


def _activation_tensors(model: HookedViT, image: Tensor, blocks: Sequence[int]) -> dict[str, np.ndarray]:
    hooks = [hook_name(block, site) for block in blocks for site in ("attn.pattern", "resid_post")]
    _, cache = model.run_with_cache(image, names_filter=hooks)
    codes, scales = attention_codes(_small(torch.stack([cache["pattern", block][0] for block in blocks])))
    stream = torch.stack([cache["resid_post", block][0] for block in blocks])
    return {"pattern": codes, "pattern_scale": scales, "cosines": cosine_codes(_small(stream))}


def check_page_size(model: HookedViT, n_pictures: int, n_tokens: int, n_blocks: int, most: int) -> None:
    """Raises InputError where no browser could open the page: a byte for every attention weight is what counts."""
    size = n_pictures * n_blocks * model.cfg.n_heads * n_tokens**2
    if size > most:
        raise InputError(
            f"{n_pictures} pictures × {n_blocks} blocks × {model.cfg.n_heads} heads × {n_tokens}² attention weights are "
            f"{size / 2**20:.0f} MiB, more than the {most / 2**20:.0f} MiB that a browser opens well: pass fewer pictures, "
            "or blocks= with some of the blocks"
        )


def _small(values: Tensor) -> Float[np.ndarray, "..."]:
    return values.detach().float().cpu().numpy()
