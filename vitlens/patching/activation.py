"""Activation patching: copies activations of one run into another, one cell at a time (Methods B3)."""

from collections.abc import Sequence

from vitlens.arguments import checked
from vitlens.choose.classes import Classes
from vitlens.choose.metrics import Metrics
from vitlens.choose.sites import TokenSets
from vitlens.choose.texts import takes_text
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
@takes_text("predicted")
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
    """Patches one cell at a time, a (block, token set), (block, head) or (block, neuron), and measures the metric's shift.

    The effect of a cell is (metric of the patched run − target) / (source − target): 0 means that patching it changes
    nothing, 1 that it restores the whole difference between the two runs.

    The result is equal to one run of the whole network for each cell. Blocks before the patch are computed once, cells of
    a block share forwards, and the last block computes only the tokens that the classifier reads. Memory does not grow
    with the number of pairs. An interrupted sweep (Ctrl-C, Jupyter's stop) returns the cells it has, NaN elsewhere;
    `resume` continues it.

    Args:
        clean, corrupted: the pictures of each pair, in the same order; tensors, or anything `model.to_images` reads.
        classes: the target class of each pair; by default the class predicted for the clean picture.
        baseline_classes: the class that a logit difference subtracts; by default the class predicted for the corrupted
            picture, or the runner-up if that is the same class.
        metric: "logit_difference", "logit", "probability", or a function of the logits [image, classes] that returns
            [image] or a single number. Several at once: a list of names, or a mapping from names to names or functions.
            What a probability is follows from what the model's outputs mean, see `HookedViT.set_output`.
        sites: "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out" by token set; "z", "q", "k", "v",
            "attn_scores", "pattern" by head; "pre", "post" (of the MLP's nonlinearity) by neuron. Several of a kind give
            an axis "site".
        tokens: "each" token by itself; one token set; a list of them; or a mapping from names to them. For heads and
            neurons the tokens at which they are patched (queries of the pattern), by default all; several give an axis.
        blocks, heads, neurons: one or several, by default all; -1 is the last.
        keys: one token set, the keys at which "attn_scores" and "pattern" are patched; by default all.
        direction: "denoise": clean into corrupted; "noise": corrupted into clean.
        masks: object masks, for the token sets "object" and "context", see `select_tokens`.
        batch_size: rows of a forward, one for each picture and cell; by default as many as are fast and fit in memory.
        progress: show a bar; by default on a terminal only.
        resume: the partial result of the same call.

    Returns:
        Patching with axes (metric), (site), block, tokens and/or head or neuron, image.

    Raises:
        InputError: pairs of different shape, an unknown site or direction, a hook name in place of a site, an empty token
            set, a metric that returns the wrong shape or NaN, a batch that does not fit in memory.

    Source: Methods B3; Vig et al. 2020; Meng et al. 2022.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> clean, corrupted = images[4:5], images[5:6]  # a T-shirt on two textures
        >>> patched = vitlens.activation_patching(model, clean, corrupted, tokens=["class", "patches"])
        >>> list(patched.axes)
        ['block', 'tokens', 'image']
        >>> [round(effect, 1) for effect in patched.effect()[-1].tolist()]  # of the class token and the patches, last block
        [0.7, 0.4]
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
