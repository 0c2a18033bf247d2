"""Activation patching: activations of one picture put into the run on another, cell by cell (Methods B3)."""

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
from vitlens.patching.results import Patching
from vitlens.patching.sources import OtherRun
from vitlens.patching.sweep import Plan, run_sweep
from vitlens.patching.whole_runs import known_values, make_result, run_pair


@leaves_state
@checked
def activation_patching(
    model: HookedViT,
    clean: Pictures,
    corrupted: Pictures,
    classes: Classes = None,
    *,
    baseline_classes: Classes = None,
    metric: Metrics = "logit_difference",
    sites: str | Sequence[str] = "resid_pre",
    tokens: TokenSets = None,
    blocks: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    neurons: int | Sequence[int] | None = None,
    keys: TokenSet | None = None,
    direction: str = "denoise",
    masks: MaskInput | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
    resume: Patching | None = None,
) -> Patching:
    """Patches a site, one (block, token set), (block, head) or (block, neuron) at a time: how far does the metric move?

    Equal to running the whole network once per cell. The run before the patch is shared, cells of a block share forwards,
    and in the last block only what the classifier reads is computed. Memory does not grow with the number of pairs. A
    sweep that is interrupted (Ctrl-C, Jupyter's stop) returns what it has, NaN elsewhere; `resume` goes on from there.

    Args:
        clean, corrupted: equally many pictures, pair by pair; tensors, or anything `model.to_images` reads.
        classes: the class of interest of each pair, by default the clean prediction.
        baseline_classes: what a logit difference compares it with, by default the corrupted prediction, or the runner-up
            where that is the same.
        metric: "logit_difference", "logit", "probability", or a function of the logits [image, classes] that returns
            [image] or a single number. Several at once: a list of names, or a mapping from names to names or functions.
        sites: "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out" by token set; "z", "q", "k", "v",
            "attn_scores", "pattern" by head; "pre", "post" (of the MLP's nonlinearity) by neuron. Several of a kind give
            an axis "site".
        tokens: "each" token by itself; one token set; a list of them; or a mapping from names to them. For heads and
            neurons the tokens at which they are patched (queries of the pattern), by default all; several give an axis.
        blocks, heads, neurons: one or several, by default all; -1 is the last.
        keys: of "attn_scores" and "pattern", at which keys, one token set; by default all.
        direction: "denoise": clean into corrupted; "noise": corrupted into clean.
        masks: object masks, for the token sets "object" and "context", see `select_tokens`.
        batch_size: pictures of a forward, counted once for every cell that is run; by default as many as are fast and fit.
        progress: show a bar; by default on a terminal only.
        resume: the partial result of the same call.

    Returns:
        Patching with axes (metric), (site), block, tokens and/or head or neuron, image.

    Raises:
        InputError: pairs of different shape, an unknown site or direction, a hook name in place of a site, an empty token
            set, a metric that returns the wrong shape or NaN, a batch that does not fit in memory.

    Source: Methods B3; Vig et al. 2020; Meng et al. 2022.
    """
    runs = run_pair(model, clean, corrupted, classes, baseline_classes, metric, direction)
    plan = Plan.make(
        model, runs.target, sites, blocks, tokens=tokens, heads=heads, neurons=neurons, keys=keys, masks=masks
    )
    settings = {"site": plan.site_names, "method": "exact"}
    known = known_values(resume, runs, plan.axes, settings)
    source = OtherRun(runs.source)
    patched = run_sweep(
        model, plan, runs.target, source, runs.measures, known, batch_size=batch_size, progress=progress
    )
    return make_result(Patching, runs, plan.axes, patched, quantity="effect", settings=settings)
