"""Edge attribution patching: estimates the effect of every direct path from two forwards and a backward."""

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import checked
from vitlens.choose.classes import Classes
from vitlens.choose.metrics import Metrics
from vitlens.choose.texts import takes_text
from vitlens.data.pictures import Pictures
from vitlens.model.graph import Graph, Writings
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.gradients import gradients_disabled
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.patching.gradients import (
    Activations,
    check_method,
    check_per_picture,
    gradients_at,
    midpoints,
    picture_batches,
    run_and_keep,
)
from vitlens.patching.propagation import propagation_rules
from vitlens.patching.results import Patching
from vitlens.patching.whole_runs import WholeRuns, make_result, run_pair

EDGE_PICTURES = 2
EDGE_METHODS = ("gradient", "integrated_inputs", "relevance")


@leaves_state
@checked
@takes_text("predicted")
@gradients_disabled()
def edge_attribution_patching(
    model: HookedViT,
    clean: Pictures,
    corrupted: Pictures,
    classes: Classes = None,
    *,
    baseline_classes: Classes = None,
    metric: Metrics = "logit_difference",
    method: str = "gradient",
    n_steps: int = 5,
    direction: str = "denoise",
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Patching:
    """Estimates the effect of every edge, as `path_patching` measures it, with gradients.

    effect ≈ ⟨change of the sender's output, ∂metric/∂(what the receiver reads)⟩

    Args:
        method: "gradient": at the target run (EAP); "integrated_inputs": the gradient averaged over runs whose stream into
            block 0 lies between target's and source's (EAP-IG); "relevance": coefficients of relevance propagation in place
            of gradients, by the rules that `attribution_patching` lists.
        n_steps: points of the midpoint rule, for "integrated_inputs".
        classes, baseline_classes, metric, direction: as in `activation_patching`.
        batch_size: pictures of a forward and backward; by default 2, since the outputs of all parts are in memory together.
        progress: show a bar; by default on a terminal only.

    Returns:
        Patching with axes (metric), sender, receiver, image, as `path_patching` with all senders and receivers.

    Raises:
        InputError: as `path_patching`; an unknown method; a metric that is one number for all pictures.

    Source: Syed, Rager & Conmy 2023 (EAP); Hanna, Pezzelle & Belinkov 2024 (EAP-IG); Rezaei Jafari et al. 2025 (RelP).

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> scores = vitlens.patching.edge_attribution_patching(model, images[4:5], images[5:6])
        >>> list(scores.axes)
        ['sender', 'receiver', 'image']
        >>> scores.axes["sender"][:3], scores.axes["receiver"][-2:]
        (['input', 'L0H0', 'L0H1'], ['L5 mlp', 'logits'])
    """
    check_method(method, EDGE_METHODS, n_steps)
    graph = Graph(model)
    runs = run_pair(model, clean, corrupted, classes, baseline_classes, metric, direction)
    check_per_picture(runs.measures)
    points = midpoints(n_steps) if method == "integrated_inputs" else [0.0]
    batches = picture_batches(len(runs.target), batch_size or EDGE_PICTURES)
    estimates = []
    with ProgressBar(len(runs.target), f"edge attribution ({method})", "pair", progress, len(batches)) as bar:
        for images in batches:
            with propagation_rules(model) if method == "relevance" else nullcontext():
                estimates.append(_estimate(graph, runs, images, points))
            bar.update(images.stop - images.start)
    shift = torch.cat(estimates, dim=-1)
    patched = runs.found["target"][:, None, None] + shift
    cells: dict[str, list] = {"sender": list(graph.writer_index), "receiver": list(graph.reader_index)}
    settings = {"site": "path", "method": method}
    return make_result(Patching, runs, cells, patched, quantity="effect", settings=settings)


@torch.no_grad()
def _estimate(
    graph: Graph, runs: WholeRuns, images: slice, points: list[float]
) -> Float[Tensor, "metric writer reader image"]:
    model = graph.model
    target = runs.target[images]
    writings = [
        Writings(model, run_and_keep(model, run, Writings.names(model))) for run in (runs.source[images], target)
    ]
    change = writings[0].minus(writings[1])
    changes = torch.cat(
        [
            change.of(graph.writers[0])[None],
            *[
                part
                for block in range(model.cfg.n_layers)
                for part in (change.of_heads(block), change.values[f"blocks.{block}.hook_mlp_out"][None])
            ],
        ]
    )
    n_metrics = len(runs.measures.metrics)
    scores = changes.new_zeros(n_metrics, len(graph.writers), len(graph.readers), len(target))
    start, end = (run.values["blocks.0.hook_resid_pre"] for run in reversed(writings))
    for point in points:
        kept: Activations = {}
        names = _watched(graph)
        stream = torch.lerp(start, end, point)
        found = gradients_at(model, stream, target.shape[-2:], names, runs.measures, images, kept=kept)
        for m, gradients in enumerate(found):
            for block in range(model.cfg.n_layers + 1):
                _add_block(graph, block, changes, kept, gradients, scores[m], 1 / len(points))
    return scores


def _watched(graph: Graph) -> list[str]:
    parts = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "hook_mlp_out")
    return [*graph.streams(), *[f"blocks.{b}.{part}" for b in range(graph.model.cfg.n_layers) for part in parts]]


def _add_block(
    graph: Graph,
    block: int,
    changes: Float[Tensor, "writer image tokens d"],
    kept: Activations,
    gradients: Activations,
    scores: Float[Tensor, "writer reader image"],
    share: float,
) -> None:
    """Adds the scores of the edges into one block's readers; behind the last block into the logits."""
    model = graph.model
    if block == model.cfg.n_layers:
        through = gradients[f"blocks.{block - 1}.hook_resid_post"][None]
        _add(graph, "logits", changes, through, scores, share)
        return
    layer: Any = model.blocks[block]
    prefix = f"blocks.{block}"
    stream = kept[f"{prefix}.hook_resid_pre"].detach()
    for part, weight in zip("qkv", layer.attn.project.matrices(), strict=True):
        read = einsum(gradients[f"{prefix}.attn.hook_{part}"], weight, "i t h e, h d e -> h i t d")
        _add(graph, f"L{block}H0<{part}>", changes, _behind(layer.ln1.normalise, stream, read), scores, share)
    mlp = graph.readers[graph.reader_index[f"L{block} mlp"]]
    read_by_mlp = kept[graph.stream_of(mlp)].detach()
    through = _behind(partial(graph.mlp, block), read_by_mlp, gradients[f"{prefix}.hook_mlp_out"][None])
    _add(graph, str(mlp), changes, through, scores, share)


def _behind(
    function: Any, x: Float[Tensor, "image tokens d"], gradient: Tensor
) -> Float[Tensor, "reader image tokens d"]:
    """Gradients [reader, image, tokens, d] by a function's output, pulled back to its input x."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        output = function(leaf)
        pulled = [torch.autograd.grad(output, leaf, of_one, retain_graph=True)[0] for of_one in gradient]
    return torch.stack(pulled)


def _add(
    graph: Graph,
    first_reader: str,
    changes: Float[Tensor, "writer image tokens d"],
    through: Float[Tensor, "some image tokens d"],
    scores: Float[Tensor, "writer reader image"],
    share: float,
) -> None:
    place = graph.reader_index[first_reader]
    n_seen = graph.n_before(graph.readers[place])
    found = einsum(changes[:n_seen], through, "w i t d, r i t d -> w r i")
    scores[:n_seen, place : place + len(through)] += found * share
