"""Path patching: changes what one part writes for one reader only, with all other paths frozen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.arguments import checked
from vitlens.choose.classes import Classes
from vitlens.choose.metrics import Metrics
from vitlens.choose.texts import takes_text
from vitlens.choose.tokens import TokenSet, check_masks_are_used, select_tokens
from vitlens.data.masks import MaskInput
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.graph import Graph, Node, NodeNames, Writings
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Hooks
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.model.runs.suffix import forward_suffix
from vitlens.patching.results import Patching
from vitlens.patching.sweep import Interrupts, open_values, picture_chunks, rows_per_forward
from vitlens.patching.whole_runs import WholeRuns, known_values, make_result, run_pair
from vitlens.results.axes import ComponentLabel


@leaves_state
@checked
@takes_text("predicted")
def path_patching(
    model: HookedViT,
    clean: Pictures,
    corrupted: Pictures,
    classes: Classes = None,
    *,
    senders: NodeNames = None,
    receivers: NodeNames | Mapping[str, NodeNames] = "logits",
    baseline_classes: Classes = None,
    metric: Metrics = "logit_difference",
    tokens: TokenSet = "all",
    direction: str = "denoise",
    masks: MaskInput | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
    resume: Patching | None = None,
) -> Patching:
    """Measures the effect of each sender on each receiver along the direct path, with all other paths frozen.

    In the target run (the corrupted pictures when denoising) the receiver reads the residual stream with the sender's output
    replaced by that of the source run; parts between the two do not react. The rest of the network then reads what the
    receiver writes. The receiver "logits" is the classifier, which gives the sender's direct effect. Receivers of a group
    each read the change, and their outputs change together.

    Args:
        senders: "input", "L3H1" or (3, 1) (block 3, head 1), "L3 mlp"; one, a list, patterns such as "L3H*", by default
            (None) all.
        receivers: "L5H0<q>", "L5H0<k>", "L5H0<v>" (the inputs of a head; "L5H0" means all three), "L5 mlp", "logits"; or a
            mapping from names to groups of receivers; None: all.
        tokens: the tokens at which the sender's output is replaced.
        classes, baseline_classes, metric, direction, masks, batch_size, progress, resume: as in `activation_patching`.

    Returns:
        Patching with axes (metric), sender, receiver, image. Among several senders and receivers, the effect is 0 where the
        receiver comes before the sender.

    Raises:
        InputError: as `activation_patching`; an unknown sender or receiver; a path that runs backwards; heads whose outputs
            do not simply add up (behind a norm or a gate).

    Source: Wang et al. 2023 (Interpretability in the Wild), section 3; Goldowsky-Dill et al. 2023.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> direct = vitlens.path_patching(model, images[4:5], images[5:6], senders="L5H*", receivers="logits")
        >>> direct.axes["sender"]
        ['L5H0', 'L5H1', 'L5H2', 'L5H3']
        >>> direct.effect().shape  # sender, receiver
        torch.Size([4, 1])
    """
    graph = Graph(model)
    runs = run_pair(model, clean, corrupted, classes, baseline_classes, metric, direction)
    chosen = graph.find_writers(senders)
    groups = _groups(graph, receivers)
    _check_paths(graph, senders, receivers, chosen, groups)
    check_masks_are_used(masks, [tokens])
    at = select_tokens(model, tokens, len(runs.target), masks=masks, grid=model.embed.grid(*runs.target.shape[-2:]))
    cells: dict[str, list] = {"sender": [node.label for node in chosen], "receiver": list(groups)}
    settings = {"site": "path", "method": "exact", "tokens": str(tokens) if isinstance(tokens, str) else "given"}
    known = known_values(resume, runs, cells, settings)
    patched = _run_paths(graph, runs, chosen, groups, at, known, batch_size=batch_size, progress=progress)
    return make_result(Patching, runs, cells, patched, quantity="effect", settings=settings)


def _groups(graph: Graph, receivers: NodeNames | Mapping[str, NodeNames]) -> dict[str, list[Node]]:
    if isinstance(receivers, Mapping):
        if not receivers:
            raise InputError("there is no group of receivers in the mapping")
        return {ComponentLabel(str(name), "group"): graph.find_readers(nodes) for name, nodes in receivers.items()}
    return {node.label: [node] for node in graph.find_readers(receivers)}


def _check_paths(
    graph: Graph, senders: NodeNames, receivers: Any, chosen: list[Node], groups: dict[str, list[Node]]
) -> None:
    """Raises InputError for a named sender that no receiver can read, or a named receiver that can read no sender.

    With all senders or receivers, and with patterns, some pairs run backwards: that is no mistake.
    """
    last_heard = {name: max(graph.n_before(node) for node in nodes) for name, nodes in groups.items()}
    places = {str(node): graph.writer_index[str(node)] for node in chosen}
    for sender, place in places.items() if _are_named(senders) else ():
        if place >= max(last_heard.values()):
            raise InputError(f"no path leads from {sender} to {', '.join(list(groups)[:3])}, which comes before it")
    for receiver, n_before in last_heard.items() if _are_named(receivers) else ():
        if min(places.values()) >= n_before:
            raise InputError(f"no path leads to {receiver} from {', '.join(list(places)[:3])}, which comes after it")


def _are_named(names: Any) -> bool:
    return names is not None and not any(mark in str(names) for mark in "*?")


@dataclass(frozen=True)
class Frozen:
    """The frozen runs: the streams of the target run, and the difference of what the source run writes."""

    streams: dict[str, Tensor]
    change: Writings


def _run_paths(
    graph: Graph,
    runs: WholeRuns,
    senders: list[Node],
    groups: dict[str, list[Node]],
    at: Bool[Tensor, "image tokens"],
    known: Float[Tensor, "metric ..."] | None,
    *,
    batch_size: int | None,
    progress: bool | None,
) -> Float[Tensor, "metric sender receiver image"]:
    """The metrics along every path; for each receiver, senders share forwards that start at its block."""
    model, measures = graph.model, runs.measures
    values = open_values(model, (len(measures.metrics), len(senders), len(groups), len(runs.target)), known)
    todo = values.isnan().any(dim=0)
    n_runs = int(todo.sum())
    grid = model.embed.grid(*runs.target.shape[-2:])
    rows = rows_per_forward(model, at.shape[1], batch_size, False)
    with (
        torch.no_grad(),
        Interrupts(values) as interrupts,
        ProgressBar(n_runs, "path patching", "run", progress, -(-n_runs // rows)) as bar,
    ):
        for images in picture_chunks(len(runs.target), rows, batch_size, measures.need_all_at_once):
            here = todo[..., images].any(dim=-1)
            if not here.any():
                continue
            frozen = _freeze(graph, runs.source[images], runs.target[images])
            at_once = max(1, rows // (images.stop - images.start))
            for column, (name, readers) in enumerate(groups.items()):
                waiting = here[:, column].nonzero()[:, 0].tolist()
                for start in range(0, len(waiting), at_once):
                    these = waiting[start : start + at_once]
                    logits = _run(graph, frozen, [senders[i] for i in these], readers, at[images], grid)
                    for sender, of_sender in zip(these, logits, strict=True):
                        where = f"the path {senders[sender]}->{name}"
                        values[:, sender, column, images] = measures(of_sender, where, images)
                    bar.update(len(these) * (images.stop - images.start))
                    if interrupts.asked:
                        return values
    return values


def _freeze(graph: Graph, source: Tensor, target: Tensor) -> Frozen:
    model = graph.model
    names, streams = Writings.names(model), graph.streams()
    _, of_source = model.run_with_cache(source, names_filter=names)
    _, of_target = model.run_with_cache(target, names_filter=[*names, *streams])
    change = {name: of_source[name] - of_target[name] for name in names}
    return Frozen({name: of_target[name] for name in streams}, Writings(model, change))


def _run(
    graph: Graph,
    frozen: Frozen,
    senders: list[Node],
    readers: list[Node],
    at: Bool[Tensor, "image tokens"],
    grid: tuple[int, int],
) -> Float[Tensor, "sender image classes"]:
    """The logits when these readers read the senders' other outputs; the rows of the forward are senders × pictures."""
    model, n_senders = graph.model, len(senders)
    change = torch.stack([frozen.change.of(node) for node in senders]) * at[..., None]
    index = [graph.writer_index[str(node)] for node in senders]

    def read(node: Node) -> Float[Tensor, "row tokens d"]:
        # A reader cannot read a writer that comes after it.
        seen = torch.tensor([place < graph.n_before(node) for place in index], device=change.device)
        stream = frozen.streams[graph.stream_of(node)]
        return rearrange(stream + change * seen[:, None, None, None], "s i t d -> (s i) t d")

    end = model.cfg.n_layers
    first = min(end if node.kind == "logits" else node.block for node in readers)
    hooks: Hooks = []
    for node in readers:
        if node.kind == "head":
            heard = _project(model, node, read(node))
            hooks.append((f"blocks.{node.block}.attn.hook_{node.part}", _set_head(node.head, heard)))
        elif node.kind == "mlp":
            hooks.append((f"blocks.{node.block}.hook_mlp_out", _set(graph.mlp(node.block, read(node)))))
        else:
            # Other receivers of the group have changed the stream before: the sender's change is added to theirs.
            hooks.append((f"blocks.{end - 1}.hook_resid_post", _add(rearrange(change, "s i t d -> (s i) t d"))))
    if first == end:
        logits = forward_suffix(model, read(readers[0]), end, grid)
    else:
        stream = repeat(frozen.streams[f"blocks.{first}.hook_resid_pre"], "i t d -> (s i) t d", s=n_senders)
        with model.hooks(fwd_hooks=hooks):
            logits = forward_suffix(model, stream, first, grid, whole=True)
    return rearrange(logits, "(s i) k -> s i k", s=n_senders)


def _project(model: HookedViT, node: Node, stream: Float[Tensor, "row tokens d"]) -> Float[Tensor, "row tokens d_head"]:
    """A head's queries, keys or values of a stream."""
    block = model.blocks[node.block]
    place = "qkv".index(node.part)
    weight, bias = block.attn.project.matrices()[place][node.head], block.attn.project.biases()[place][node.head]
    return block.ln1(stream) @ weight + bias


def _set_head(head: int, value: Float[Tensor, "row tokens d_head"]) -> Any:
    def edit(activation: Float[Tensor, "row tokens heads d_head"], hook: HookPoint) -> Tensor:
        activation = activation.clone()
        activation[:, :, head] = value
        return activation

    return edit


def _set(value: Tensor) -> Any:
    return lambda activation, hook: value


def _add(value: Tensor) -> Any:
    return lambda activation, hook: activation + value
