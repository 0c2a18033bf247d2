"""Activation patching: activations of one picture put into the run on another, cell by cell (METHODS.md B3)."""

from collections.abc import Sequence

from vitlens.arguments import checked
from vitlens.choose.classes import Classes
from vitlens.choose.metrics import Metrics
from vitlens.choose.sites import TokenSets
from vitlens.choose.tokens import TokenSet
from vitlens.data.masks import MaskInput
from vitlens.data.pictures import Pictures
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.patching.contrast import Contrast, Patching
from vitlens.patching.plan import Plan
from vitlens.patching.sources import OtherRun


@leaves_state
@checked
def activation_patching(
    model: HookedViT,
    clean: Pictures,
    corrupted: Pictures,
    metric: Metrics = "logit_difference",
    site: str | Sequence[str] = "resid_pre",
    *,
    tokens: TokenSets = None,
    blocks: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    neurons: int | Sequence[int] | None = None,
    keys: TokenSet | None = None,
    direction: str = "denoise",
    classes: Classes = None,
    baseline_classes: Classes = None,
    masks: MaskInput | None = None,
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
        site: "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out" by token set; "z", "q", "k", "v",
            "attn_scores", "pattern" by head; "pre", "post" (of the MLP's nonlinearity) by neuron. Several of a kind give
            an axis "site".
        tokens: "each" token by itself; one token set; a list of them; or a mapping from names to them. For heads and
            neurons the tokens at which they are patched (queries of the pattern), by default all; several give an axis.
        blocks, heads, neurons: by default all.
        keys: of "attn_scores" and "pattern", at which keys, one token set; by default all.
        direction: "denoise": clean into corrupted; "noise": corrupted into clean.
        masks: object masks, for the token sets "object" and "context", see `select_tokens`.
        batch_size: rows per forward, cells × pictures; by default as many as are fast and fit.
        resume: the partial result of the same call.

    Returns:
        Patching with axes (metric), (site), block, tokens and/or head or neuron, image.

    Raises:
        InputError: pairs of different shape, an unknown site or direction, a hook name in place of a site, an empty token
            set, a metric that returns the wrong shape or NaN, a batch that does not fit in memory.

    Source: METHODS.md B3; Vig et al. 2020; Meng et al. 2022.
    """
    contrast = Contrast.make(model, clean, corrupted, metric, direction, classes, baseline_classes)
    plan = Plan.make(
        model, contrast.target, site, blocks, tokens=tokens, heads=heads, neurons=neurons, keys=keys, masks=masks
    )
    settings = contrast.settings(model, plan.site_names, "exact")
    known = contrast.known(resume, plan.axes, settings)
    source = OtherRun(contrast.source)
    patched = plan.run(
        model, contrast.target, source, contrast.measures, known, batch_size=batch_size, progress=progress
    )
    return contrast.result(model, plan.axes, patched, settings)
