"""Activation patching: activations of one picture put into the run on another, cell by cell (METHODS.md B3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.analysis.classes import Classes
from vitlens.analysis.interventions import Intervention, Plan, first_pixels, known_values, logits_of
from vitlens.analysis.metrics import Measures, Metrics, choose_metrics
from vitlens.analysis.sites import TokenSets
from vitlens.analysis.sources import OtherRun
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT


@dataclass(frozen=True, repr=False, kw_only=True)
class Patching(Intervention):
    """The effect of patching each (block, token set) or (block, head), picture by picture.

    `patched` [block, token or head, image] is the metric of the patched run; `target` and `source` [image] that of the
    run that was patched into and of the one the activations came from. `values` is the effect: how far the metric moved
    from target (0) to source (1). Denoising patches clean activations into the corrupted run, noising the reverse.
    """

    source: Float[Tensor, "*metric image"]

    def gap(self) -> Float[Tensor, "... image"]:
        """What an effect of 1 is: how far the source's metric is from the target's."""
        return self.over_cells(self.source - self.target)


def activation_patching(
    model: HookedViT,
    clean: Pictures,
    corrupted: Pictures,
    metric: Metrics = "logit_difference",
    site: str | Sequence[str] = "resid_pre",
    *,
    tokens: TokenSets = None,
    blocks: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    neurons: Sequence[int] | None = None,
    direction: str = "denoise",
    classes: Classes = None,
    baseline_classes: Classes = None,
    masks: Tensor | np.ndarray | None = None,
    batch_size: int | None = None,
    progress: bool = True,
    resume: Patching | None = None,
) -> Patching:
    """Patches a site, one (block, token set), (block, head) or (block, neuron) at a time: how far does the metric move?

    Equal to running the whole network once per cell. The run before the patch is shared, cells of a block share forwards,
    and in the last block only what the classifier reads is computed. Memory does not grow with the number of pairs. A
    sweep that is interrupted (Ctrl-C, Jupyter's stop) returns what it has, NaN elsewhere; `resume` goes on from there.

    Args:
        clean, corrupted: equally many pictures, pair by pair; tensors, or anything `model.to_images` reads.
        metric: "logit_difference", "logit", "probability" (of `classes`, by default the clean prediction, against
            `baseline_classes`, by default the corrupted prediction, or the runner-up where that is the same), or a
            function of the logits [image, classes] that returns [image] or a single number. Several at once: a list of
            names, or a mapping from names to names or functions.
        site: "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out" by token set; "z", "q", "k", "v", "pattern" by
            head; "pre", "post" (of the MLP's nonlinearity) by neuron. Several of a kind give an axis "site".
        tokens: "each" token by itself; one token set; a list of them; or a mapping from names to them. For heads and
            neurons the tokens at which they are patched (rows of the pattern), by default all; several give an axis.
        blocks, heads, neurons: by default all.
        direction: "denoise": clean into corrupted; "noise": corrupted into clean.
        masks: object masks at the pictures' size, bool [image, height, width], for the token sets "object" and "context".
        batch_size: rows per forward, cells × pictures; by default as many as are fast and fit.
        resume: the partial result of the same call.

    Returns:
        Patching with axes (metric), (site), block, tokens and/or head or neuron, image.

    Raises:
        InputError: pairs of different shape, an unknown site or direction, a hook name in place of a site, an empty token
            set, a metric that returns the wrong shape or NaN, a batch that does not fit in memory.

    Source: METHODS.md B3; Vig et al. 2020; Meng et al. 2022.
    """
    if direction not in ("denoise", "noise"):
        raise InputError(f'direction is "denoise" or "noise", not {direction!r}')
    model.require_classifier()
    clean, corrupted = model.as_pair(clean, corrupted)
    plan = Plan.make(model, clean, site, blocks, tokens=tokens, heads=heads, neurons=neurons, masks=masks)
    clean_logits, corrupted_logits = logits_of(model, clean), logits_of(model, corrupted)
    metrics = choose_metrics(model, metric, clean_logits, corrupted_logits, classes, baseline_classes)
    runs = [(clean, clean_logits, "the clean pictures"), (corrupted, corrupted_logits, "the corrupted pictures")]
    source, target = runs if direction == "denoise" else runs[::-1]
    measures = Measures(metrics, target[1])
    of_source, of_target = measures(*source[1:]), measures(*target[1:])
    for name, before, after in zip(metrics, of_target, of_source, strict=True):
        if torch.equal(before, after):
            raise InputError(
                f"the metric {name} is the same on the clean and the corrupted pictures, so there is no effect to trace"
            )
    settings = {"model": model.cfg.model_name, "site": plan.site_names, "direction": direction}
    known = known_values(resume, plan, metrics, settings, of_target)
    patched = plan.run(model, target[0], OtherRun(source[0]), measures, known, batch_size=batch_size, progress=progress)
    return plan.result(
        Patching,
        patched,
        metric,
        metrics,
        {"target": of_target, "source": of_source},
        quantity="effect",
        settings=settings,
        pixels=first_pixels(model, target[0]),
    )
