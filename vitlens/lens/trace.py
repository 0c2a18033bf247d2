"""Streams the class lens of one class for each picture: logit, rank and top-1 class of every token."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.arguments import checked
from vitlens.choose.classes import Classes, classes_by_batch
from vitlens.choose.texts import takes_text
from vitlens.data.pictures import Pictures
from vitlens.lens.lens import LENS_SITES, LOGITS_ALONE, check_sites
from vitlens.model.class_space.ranks import no_rank, rank_of
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Hooks, Reader, hook_name
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_run import PictureRun
from vitlens.results.axes import TokenLabel
from vitlens.results.result import Result

#: The sites whose whole projection is needed: the stream after a block, and what attention and MLP wrote alone.
FULL_SITES = ("attn_out", "mlp_out", "resid_post")


@dataclass(frozen=True)
class SiteTables:
    """Of one class per picture: its `logits`, its `ranks` (0 is best) and the `first` class, all [image, token], by
    (site, block). Of the sites "resid_pre" and "resid_mid" a block has what the measures compare with, no more."""

    logits: dict[tuple[str, int], Float[Tensor, "image token"]]
    ranks: dict[tuple[str, int], Int[Tensor, "image token"]]
    first: dict[tuple[str, int], Int[Tensor, "image token"]]
    n_classes: int
    token_labels: list[TokenLabel]


@dataclass(frozen=True, repr=False)
class ClassTrace(Result):
    """For one class per picture: its logit (`values`), its rank (`ranks`, 0 is best), and the top-1 class (`first`), all
    [site, block, image, token].

    "resid_pre" and "resid_mid" hold only what the measures compare with; elsewhere logits are NaN, ranks and classes −1.
    """

    ranks: Int[Tensor, "site block image token"]
    first: Int[Tensor, "site block image token"]
    n_classes: int

    def columns(self) -> dict[str, Tensor]:
        return {"logit": self.values, "rank": self.ranks, "first_class": self.first}

    def tables(self) -> SiteTables:
        """The recorded values by (site, block), as the measures read them."""
        places = list(product(enumerate(self.axes["site"]), enumerate(self.axes["block"])))
        logits, ranks, first = (
            {
                (site, block): values[i, j]
                for (i, site), (j, block) in places
                if not (values[i, j].isnan() if values.is_floating_point() else values[i, j] < 0).all()
            }
            for values in (self.values, self.ranks, self.first)
        )
        return SiteTables(logits, ranks, first, self.n_classes, self.axes["token"])


class TraceObserver:
    """Hooks that fill `SiteTables` during any forward of `model`; nothing of the size of the logits is kept.

    Raises:
        InputError: a model without a classifier, or whose outputs have no rank.
    """

    def __init__(self, model: HookedViT, labels: Int[Tensor, "image"], grid: tuple[int, int]) -> None:
        model.require_rank("a rank", LOGITS_ALONE)
        self.model = model
        self.labels = labels
        self.tokens = range(model.cfg.n_prefix_tokens + grid[0] * grid[1])
        self.token_labels = model.cfg.token_labels(grid)
        self.logits: dict[tuple[str, int], Tensor] = {}
        self.ranks: dict[tuple[str, int], Tensor] = {}
        self.first: dict[tuple[str, int], Tensor] = {}
        # Read once, at the end: reading it at every site would wait for the GPU each time.
        self._finite: dict[tuple[str, int], Tensor] = {}

    def hooks(self, blocks: Sequence[int] | None = None, sites: Sequence[str] = FULL_SITES) -> Hooks:
        """The hooks to run with. With all sites and blocks the trace holds what Methods A2 to A7 need."""
        chosen = range(self.model.cfg.n_layers) if blocks is None else blocks
        hooks: Hooks = [(hook_name(block, site), self._full(site, block)) for block in chosen for site in sites]
        if set(sites) == set(FULL_SITES):
            has_middle = self.model.blocks[0].has_middle
            for block in chosen:
                if block == 0:
                    hooks.append(("blocks.0.hook_resid_pre", self._full("resid_pre", 0)))
                if has_middle:
                    hooks.append((hook_name(block, "resid_mid"), self._label_only("resid_mid", block)))
        return hooks

    def trace(self) -> SiteTables:
        """The tables of the last forward; the input of a block is the output of the previous one.

        Raises:
            InputError: logits that are NaN or infinite, which have no rank.
        """
        for (site, block), finite in self._finite.items():
            if not finite:
                raise no_rank(f"the class lens at blocks.{block}.hook_{site}", self.logits[site, block].dtype)
        watched = {block for _, block in self.logits}
        for table in (self.logits, self.ranks, self.first):
            for site, block in list(table):
                if site == "resid_post" and block + 1 in watched:
                    table["resid_pre", block + 1] = table[site, block]
        if not self.model.blocks[0].has_middle:
            # Both sublayers of a parallel block read the block's input.
            self.logits |= {("resid_mid", b): x for (site, b), x in list(self.logits.items()) if site == "resid_pre"}
        return SiteTables(self.logits, self.ranks, self.first, self.model.cfg.n_classes, self.token_labels)

    def _full(self, site: str, block: int) -> Reader:
        def read(activation: Tensor, hook: HookPoint) -> None:
            logits = self.model.project(activation, self.tokens)
            of_label = logits.gather(-1, self.labels[:, None, None].expand(-1, logits.shape[1], 1))
            best = logits.max(dim=-1)
            self.logits[site, block] = of_label.squeeze(-1)
            self.ranks[site, block] = rank_of(logits, of_label)
            self.first[site, block] = best.indices
            self._finite[site, block] = best.values.isfinite().all()

        return Reader(read)

    def _label_only(self, site: str, block: int) -> Reader:
        def read(activation: Tensor, hook: HookPoint) -> None:
            logits = self.model.project_chosen(activation, self.tokens, self.labels)
            self.logits[site, block] = logits
            # −∞ is allowed (such a class is last); NaN is refused, because it compares as False.
            self._finite[site, block] = (logits < torch.inf).all()

        return Reader(read)


@leaves_state
@checked
@takes_text("predicted")
def class_trace(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    blocks: int | Sequence[int] | None = None,
    sites: str | Sequence[str] = FULL_SITES,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> ClassTrace:
    """The class lens of one class per picture at every token, for many pictures: all that Methods A2 to A7 need.

    It keeps three numbers per token (logit, rank, top-1 class), where `class_lens` also keeps probabilities and top classes.

    Args:
        images: pictures as a tensor, or anything `model.to_images` reads.
        classes: one for each picture, such as the labels; by default the predicted class.
        blocks: one or several; by default all.
        sites: of "attn_out", "mlp_out", "resid_post".
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        ClassTrace with axes site, block, image, token.

    Raises:
        InputError: a block or class that does not exist, or several classes for a picture; a model without a classifier, or
            whose outputs have no rank; logits that are not finite.

    Source: Vilas, Schaumlöffel & Roig 2023; Methods A1, A2.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> trace = vitlens.lens.class_trace(model, images[:8], labels[:8])
        >>> list(trace.axes)
        ['site', 'block', 'image', 'token']
        >>> vitlens.lens.identifiability(trace).round(1).tail(2)
            block   tokens  identifiability
        10      4  patches              0.7
        11      5  patches              0.9
    """
    model.require_rank("a rank", LOGITS_ALONE)
    run = PictureRun(model, images, batch_size, progress, "class trace")
    chosen_sites, chosen_blocks = check_sites(sites, FULL_SITES), model.block_indices(blocks)
    classes_of = classes_by_batch(model, classes, run.n, one_each="a class trace")
    traces, selections = [], []
    for where, pictures in run:
        with torch.no_grad():
            selections.append(classes_of(where, pictures))
            observer = TraceObserver(model, selections[-1].indices[:, 0], run.grid)
            hooks = observer.hooks(chosen_blocks, chosen_sites)
            model.run_with_hooks(pictures, fwd_hooks=hooks, stop_at_layer=model.cfg.n_layers)
        traces.append(observer.trace())
    tables = join_traces(traces)
    sites = [site for site in LENS_SITES if any(place[0] == site for place in tables.logits)]
    values, ranks, first = (
        _stacked(table, sites, chosen_blocks) for table in (tables.logits, tables.ranks, tables.first)
    )
    return ClassTrace(
        values,
        {"site": sites, "block": chosen_blocks, "image": run.images, "token": tables.token_labels},
        "logit",
        ranks=ranks,
        first=first,
        n_classes=tables.n_classes,
        classes=torch.cat([selection.indices for selection in selections]),
        class_names=model.class_names,
        pixels=run.pixels,
        settings={"model": model.cfg.model_name},
    )


def _stacked(
    table: dict[tuple[str, int], Tensor], sites: Sequence[str], blocks: Sequence[int]
) -> Float[Tensor, "site block image token"] | Int[Tensor, "site block image token"]:
    some = next(iter(table.values()))
    nothing = torch.full_like(some, torch.nan if some.is_floating_point() else -1)
    return torch.stack([torch.stack([table.get((site, block), nothing) for block in blocks]) for site in sites])


def join_traces(traces: Sequence[SiteTables]) -> SiteTables:
    """The tables of several batches as one."""
    if len(traces) == 1:
        return traces[0]
    first = traces[0]
    return SiteTables(
        {key: torch.cat([trace.logits[key] for trace in traces]) for key in first.logits},
        {key: torch.cat([trace.ranks[key] for trace in traces]) for key in first.ranks},
        {key: torch.cat([trace.first[key] for trace in traces]) for key in first.first},
        first.n_classes,
        first.token_labels,
    )
