"""The class lens of every token, for the page's classes, and the model's own reading of every block, for all classes."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.lens.lens import ClassLens, class_lens
from vitlens.model.hooked_vit import HookedViT
from vitlens.pages.explorer.measure.quantise import as_numpy, linear_codes

QUANTITIES = ("logit", "rank", "probability")


def choose_classes(model: HookedViT, image: Tensor, wanted: Sequence[int], n_classes: int) -> list[int]:
    """The given classes, the top classes of the prediction, and those that led after earlier blocks."""
    tops = class_lens(model, image, tokens="pooled", k=n_classes).ranked().top_classes[0, :, 0, 0]
    answer, led_before = tops[-1].tolist(), tops[:-1, 0].flip(0).tolist()
    # Half of the places are for the top classes of the prediction before those that led earlier get theirs.
    ordered = dict.fromkeys([*wanted, *answer[: (n_classes + 1) // 2], *led_before, *answer])
    return list(ordered)[: max(n_classes, len(set(wanted)))]


def lens_tensors(
    model: HookedViT, image: Tensor, classes: Sequence[int], blocks: Sequence[int]
) -> dict[str, np.ndarray]:
    """lens_…, reading_… and top_… of `Measured`, as far as the model's outputs have them."""
    chosen = torch.tensor([list(classes)])
    reading = class_lens(model, image, chosen, blocks=blocks, tokens="pooled")
    tensors = _of_tokens(class_lens(model, image, chosen, blocks=blocks))
    known = [what for what in QUANTITIES if what in reading.columns()]
    return tensors | {f"reading_{what}": as_numpy(reading.at(what)[:, 0, 0]) for what in known}


def reading_of_all(model: HookedViT, image: Tensor, blocks: Sequence[int]) -> dict[str, np.ndarray]:
    """all_reading: the logit of every class, as the model reads the stream after every block."""
    reading = class_lens(model, image, "all", blocks=blocks, tokens="pooled")
    codes, scale = linear_codes(as_numpy(reading.at("logit")[:, 0, 0]), np.int16)
    return {"all_reading": codes, "all_reading_scale": scale}


def _of_tokens(lens: ClassLens) -> dict[str, np.ndarray]:
    tensors = {"lens_logit": as_numpy(lens.at("logit")[:, 0])}
    if lens.probabilities is not None:
        tensors["lens_probability"] = as_numpy(lens.at("probability")[:, 0])
    if lens.ranks is None:
        return tensors
    ranked = lens.ranked()
    top_logits = ranked.top_logits[0, :, 0]
    return tensors | {
        "lens_rank": lens.at("rank")[:, 0].cpu().numpy().astype(np.int32),
        "top_classes": ranked.top_classes[0, :, 0].cpu().numpy().astype(np.int32),
        "top_logits": as_numpy(top_logits),
        "top_probabilities": as_numpy(_top_probabilities(lens, top_logits)),
    }


def _top_probabilities(lens: ClassLens, top_logits: Float[Tensor, "*rest k"]) -> Float[Tensor, "*rest k"]:
    if lens.settings["output"] == "sigmoid":
        return top_logits.double().sigmoid()
    logits, probabilities = lens.at("logit")[:, 0], lens.at("probability")[:, 0]
    # p(top) = p(c) exp(logit(top) − logit(c)), of the most probable of the chosen classes; unknown where p(c) is 0 in float.
    best = probabilities.argmax(dim=-1, keepdim=True)
    known = probabilities.gather(-1, best).double()
    log_normaliser = logits.gather(-1, best).double() - known.where(known > 0, torch.nan).log()
    return (top_logits.double() - log_normaliser).exp()
