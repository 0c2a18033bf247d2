"""Attribution patching: estimates the effect of every cell from two forwards and a backward (gradient × difference)."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.arguments import checked
from vitlens.choose.classes import Classes
from vitlens.choose.metrics import Measures, Metrics
from vitlens.choose.sites import EDGE_SITES, Cells, TokenSets
from vitlens.choose.texts import takes_text
from vitlens.choose.tokens import TokenSet
from vitlens.data.masks import MaskInput
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError, nearest
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Hooks
from vitlens.model.runs.gradients import gradients_disabled
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.patching.propagation import propagation_rules
from vitlens.patching.results import Patching
from vitlens.patching.sweep import Plan
from vitlens.patching.whole_runs import WholeRuns, make_result, run_pair

PICTURES_AT_ONCE = 8
ATTRIBUTION_METHODS = ("gradient", "integrated_inputs", "integrated_activations", "atp_star", "relevance")
Activations = dict[str, Tensor]


@leaves_state
@checked
@takes_text("predicted")
@gradients_disabled()
def attribution_patching(
    model: HookedViT,
    clean: Pictures,
    corrupted: Pictures,
    classes: Classes = None,
    *,
    baseline_classes: Classes = None,
    metric: Metrics = "logit_difference",
    sites: str | Sequence[str] = "resid_pre",
    method: str = "gradient",
    n_steps: int = 5,
    tokens: TokenSets = None,
    blocks: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    neurons: int | Sequence[int] | None = None,
    keys: TokenSet | None = None,
    direction: str = "denoise",
    masks: MaskInput | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Patching:
    """Estimates the effects of all cells at once, as `activation_patching` measures them, with gradients.

    effect ≈ Σ (source − target) · ∂metric/∂activation

    Args:
        method: "gradient": at the target run; "integrated_inputs": the gradient averaged over runs whose stream into block 0
            lies between target's and source's (EAP-IG); "integrated_activations": averaged over runs in which the site
            itself lies between them, block by block; "atp_star": as "gradient", but the effect of a patched query or key on
            the pattern is computed through the softmax (sites "q" and "k"; elsewhere the same as "gradient"); "relevance":
            coefficients of relevance propagation in place of gradients (RelP): norms divide by constants, activations
            multiply by f(x) / x, a gate takes half of a product's relevance, and patterns are constants for what lies
            before their queries and keys. Best for the stream and what MLPs write; queries and keys count for their own
            pattern only.
        n_steps: points of the midpoint rule, for the integrated methods.
        batch_size: pictures of a forward and backward, by default 8.

    All other arguments are those of `activation_patching`.

    Returns:
        Patching with the same axes, `settings["method"]` saying that its values are estimates.

    Raises:
        InputError: as `activation_patching`; an unknown method; a metric that is one number for all pictures.

    Source: Nanda 2023 (attribution patching); Hanna et al. 2024 (EAP-IG); Kramár et al. 2024 (AtP*), section 3.1;
        Rezaei Jafari et al. 2025 (RelP), with the rules that its released code lists; that of attention it uses only if
        asked to.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> estimate = vitlens.attribution_patching(model, images[4:5], images[5:6], sites="z")
        >>> estimate.effect().shape  # block, head
        torch.Size([6, 4])
        >>> estimate.settings["method"]
        'gradient'
    """
    check_method(method, ATTRIBUTION_METHODS, n_steps)
    runs = run_pair(model, clean, corrupted, classes, baseline_classes, metric, direction)
    check_per_picture(runs.measures)
    plan = Plan.make(
        model, runs.target, sites, blocks, tokens=tokens, heads=heads, neurons=neurons, keys=keys, masks=masks
    )
    batches = picture_batches(len(runs.target), batch_size or PICTURES_AT_ONCE)
    estimates = []
    with ProgressBar(len(runs.target), f"attribution patching ({method})", "pair", progress, len(batches)) as bar:
        for images in batches:
            estimates.append(_estimate(model, runs, plan, images, method, n_steps))
            bar.update(images.stop - images.start)
    shift = torch.cat(estimates, dim=-1)
    sizes = [len(labels) for labels in plan.axes.values()]
    of_target = runs.found["target"].reshape(len(shift), *[1] * len(sizes), -1)
    patched = of_target + shift.reshape(len(shift), *sizes, -1)
    settings = {"site": plan.site_names, "method": method}
    return make_result(Patching, runs, plan.axes, patched, quantity="effect", settings=settings)


def picture_batches(n_images: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n_images)) for start in range(0, n_images, size)]


def check_method(method: str, methods: Sequence[str], n_steps: int) -> None:
    if method not in methods:
        raise InputError(f"no method is called {method!r}; the nearest names are {nearest(method, methods)}")
    if n_steps < 1:
        raise InputError(f"n_steps is at least 1, not {n_steps}")


def check_per_picture(measures: Measures) -> None:
    if measures.need_all_at_once:
        raise InputError(
            "attribution patching takes the gradient of each picture's own metric: return one number per picture"
        )


def _estimate(
    model: HookedViT, runs: WholeRuns, plan: Plan, images: slice, method: str, n_steps: int
) -> Float[Tensor, "metric site block cell image"]:
    """The estimated shift of the metric for each cell."""
    softmax = {cells.site.name for cells in plan.sites} & ({"q", "k"} if method == "atp_star" else set())
    others = [cells for cells in plan.sites if cells.site.name not in softmax]
    by_site: dict[str, Float[Tensor, "metric block cell image"]] = {}
    if others:
        by_site |= _first_order(model, runs, others, plan.blocks, images, method, n_steps)
    if softmax:
        followed = [cells for cells in plan.sites if cells.site.name in softmax]
        by_site |= _through_softmax(model, runs, followed, plan.blocks, images)
    return torch.stack([by_site[cells.site.name] for cells in plan.sites], dim=1)


def _first_order(
    model: HookedViT,
    runs: WholeRuns,
    sites: list[Cells],
    blocks: list[int],
    images: slice,
    method: str,
    n_steps: int,
) -> dict[str, Float[Tensor, "metric block cell image"]]:
    """Gradient × difference, for each site."""
    names = [cells.site.hook(block) for cells in sites for block in blocks]
    source, target = runs.source[images], runs.target[images]
    of_source, of_target = (run_and_keep(model, pictures, names) for pictures in (source, target))
    change = {name: of_source[name] - of_target[name] for name in names}
    if method == "integrated_activations":
        gradients = _along_the_sites(model, target, of_target, change, runs.measures, images, n_steps)
    else:
        points = midpoints(n_steps) if method == "integrated_inputs" else [0.0]
        with propagation_rules(model) if method == "relevance" else nullcontext():
            gradients = mean_gradients(model, source, target, names, runs.measures, images, points)

    def of_block(cells: Cells, block: int) -> Float[Tensor, "metric cell image"]:
        name = cells.site.hook(block)
        return torch.stack([_sum_cells(cells, gradient[name] * change[name], images) for gradient in gradients])

    return {cells.site.name: torch.stack([of_block(cells, block) for block in blocks], dim=1) for cells in sites}


def midpoints(n_steps: int) -> list[float]:
    return [(step + 0.5) / n_steps for step in range(n_steps)]


def run_and_keep(model: HookedViT, pictures: Tensor, names: list[str]) -> Activations:
    with torch.no_grad():
        return model.run_with_cache(pictures, names_filter=names)[1].cache_dict


def mean_gradients(
    model: HookedViT,
    source: Float[Tensor, "image channels height width"],
    target: Float[Tensor, "image channels height width"],
    names: list[str],
    measures: Measures,
    images: slice,
    points: Sequence[float],
) -> list[Activations]:
    """For each metric its gradient by each activation, averaged over runs between target (0.0) and source (1.0)."""
    with torch.no_grad():
        start, end = model(target, stop_at_layer=0), model(source, stop_at_layer=0)
    total: list[Activations] = [{} for _ in measures.metrics]
    for point in points:
        found = gradients_at(model, torch.lerp(start, end, point), target.shape[-2:], names, measures, images)
        for sums, gradient in zip(total, found, strict=True):
            for name in names:
                sums[name] = sums[name] + gradient[name] if name in sums else gradient[name]
    return [{name: value / len(points) for name, value in gradient.items()} for gradient in total]


def gradients_at(
    model: HookedViT,
    stream: Float[Tensor, "image tokens d"],
    size: Sequence[int],
    names: list[str],
    measures: Measures,
    images: slice,
    edits: Hooks | None = None,
    first: int = 0,
    kept: Activations | None = None,
) -> list[Activations]:
    """For each metric its gradient by each activation, in the run of this stream from block `first` on.

    Args:
        edits: hooks that act before activations are kept.
        kept: filled with the activations of this run.
    """
    reached: Activations = {} if kept is None else kept

    def keep(activation: Tensor, hook: HookPoint) -> Tensor:
        reached[str(hook.name)] = activation
        return activation

    with torch.enable_grad():
        leaf = stream.detach().requires_grad_()
        hooks: Hooks = [*(edits or []), *[(name, keep) for name in names]]
        grid = model.embed.grid(*size)
        logits = model.run_with_hooks(leaf, start_at_layer=first, grid=grid, fwd_hooks=hooks)
        values = measures(logits, "the run whose gradient is taken", images)
        return [_gradients(value.sum(), reached, names, i < len(values) - 1) for i, value in enumerate(values)]


def _gradients(value: Tensor, reached: Activations, names: list[str], again: bool) -> Activations:
    # What the classifier does not read (a patch in the last block) has no gradient: its effect is 0. Nor has what a user's
    # hook put in the place of an activation.
    followed = [name for name in names if reached[name].requires_grad and value.requires_grad]
    wanted = [reached[name] for name in followed]
    found = torch.autograd.grad(value, wanted, retain_graph=again, allow_unused=True) if wanted else ()
    gradients = dict(zip(followed, found, strict=True))
    return {name: torch.zeros_like(reached[name]) if gradients.get(name) is None else gradients[name] for name in names}


def _along_the_sites(
    model: HookedViT,
    target: Tensor,
    of_target: Activations,
    change: Activations,
    measures: Measures,
    images: slice,
    n_steps: int,
) -> list[Activations]:
    """Gradients averaged along the path of one block's site from target to source, one block at a time."""
    total: list[Activations] = [{} for _ in measures.metrics]
    streams = {int(name.split(".")[1]): f"blocks.{name.split('.')[1]}.hook_resid_pre" for name in change}
    starts = run_and_keep(model, target, list(streams.values()))
    for name, difference in change.items():
        block = int(name.split(".")[1])
        for point in midpoints(n_steps):
            between = (of_target[name] + point * difference).detach().requires_grad_()
            edits: Hooks = [(name, lambda activation, hook, between=between: between)]
            stream = starts[streams[block]]
            found = gradients_at(model, stream, target.shape[-2:], [name], measures, images, edits, first=block)
            for sums, gradient in zip(total, found, strict=True):
                sums[name] = sums.get(name, torch.zeros_like(difference)) + gradient[name] / n_steps
    return total


def _sum_cells(cells: Cells, by_entry: Tensor, images: slice) -> Float[Tensor, "cell image"]:
    """Entries of an activation, summed over those that each cell patches."""
    if cells.site.unit == "neuron":
        assert cells.units is not None
        by_token = by_entry[..., cells.units]
    elif cells.site.name in EDGE_SITES:
        assert cells.units is not None
        seen = by_entry if cells.keys is None else by_entry * cells.keys[images, None, None]
        # Scores of −∞, those of padding, do not change, and their difference would be NaN.
        by_token = rearrange(seen.nan_to_num().sum(dim=-1)[:, cells.units], "i h t -> i t h")
    elif cells.site.unit == "head":
        by_token = by_entry.sum(dim=-1)[..., cells.units]
    else:
        by_token = by_entry.sum(dim=-1)[..., None]
    summed = einsum(cells.sets[:, images].to(by_token.dtype), by_token, "s i t, i t u -> s u i")
    return rearrange(summed, "s u i -> (s u) i")


def _through_softmax(
    model: HookedViT, runs: WholeRuns, sites: list[Cells], blocks: list[int], images: slice
) -> dict[str, Float[Tensor, "metric block cell image"]]:
    """AtP*: the pattern that patched queries or keys give, minus the pattern, times the pattern's gradient.

    The runs on source and target and the backward pass serve all sites and blocks.
    """
    final = {(block, part): _final_name(model, block, part) for block in blocks for part in "qk"}
    patterns = [f"blocks.{block}.attn.hook_pattern" for block in blocks]
    scores = [f"blocks.{block}.attn.hook_attn_scores" for block in blocks]
    source, target = runs.source[images], runs.target[images]
    mine = run_and_keep(model, target, [*final.values(), *scores, *patterns])
    theirs = run_and_keep(model, source, list(final.values()))
    gradients = mean_gradients(model, source, target, patterns, runs.measures, images, [0.0])

    def of_block(cells: Cells, block: int) -> Float[Tensor, "metric cell image"]:
        part = cells.site.name
        patched, other = final[block, part], final[block, "k" if part == "q" else "q"]
        change = (theirs[patched] - mine[patched]) * model.blocks[block].attn.attn_scale
        # [image, head, patched token, other token]: what each patched token changes of the scores.
        moved = einsum(change, mine[other], "i t h e, i u h e -> i h t u")
        moved = moved.mT if part == "k" else moved
        pattern = f"blocks.{block}.attn.hook_pattern"
        by_set = []
        for tokens in cells.sets[:, images]:
            where = tokens[:, None, :, None] if part == "q" else tokens[:, None, None, :]
            followed = (mine[f"blocks.{block}.attn.hook_attn_scores"] + moved * where).softmax(dim=-1)
            difference = followed - mine[pattern]
            by_set.append(torch.stack([(difference * gradient[pattern]).sum(dim=(-2, -1)) for gradient in gradients]))
        assert cells.units is not None
        return rearrange(torch.stack(by_set)[..., cells.units], "s m i h -> m (s h) i")

    return {cells.site.name: torch.stack([of_block(cells, block) for block in blocks], dim=1) for cells in sites}


def _final_name(model: HookedViT, block: int, part: str) -> str:
    """The hook point of queries or keys as they meet: normalised and turned, where they are."""
    names = [f"blocks.{block}.attn.hook_{name}" for name in (f"rot_{part}", f"{part}_normed", part)]
    return next(name for name in names if name in model.hook_dict)
