"""Removes or replaces tokens, and measures the prediction and the class in the other tokens (Methods B2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.arguments import checked
from vitlens.choose.classes import Classes, classes_by_batch
from vitlens.choose.texts import takes_text
from vitlens.choose.tokens import TokenSet, check_masks_are_used, select_tokens
from vitlens.data.counterfactuals import blurred
from vitlens.data.masks import MaskInput
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.class_space.outputs import is_predicted
from vitlens.model.class_space.ranks import check_logits, rank_of
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_run import PictureRun, RunningMean
from vitlens.results.axes import grid_of
from vitlens.results.result import Result

TOKEN_REPLACEMENTS = ("remove", "zero", "mean", "blur", "other")


@dataclass(frozen=True, repr=False)
class TokenAblation(Result):
    """A run without some patches. `values` [image, patch] are the ranks of the target class at the patches that stayed
    (`kept`), in the last block's residual stream (0 is best, −1 for removed patches); `logits` [image, class];
    `class_token_ranks` [image]."""

    logits: Float[Tensor, "image classes"]
    kept: Bool[Tensor, "image patch"]
    class_token_ranks: Int[Tensor, "image"] | None

    @property
    def ranks(self) -> Int[Tensor, "image patch"]:
        return self.values

    @property
    def rate(self) -> Float[Tensor, "image"]:
        """The share of the remaining patches at rank 0 (Methods A3); NaN if none remain."""
        return ((self.ranks == 0) & self.kept).sum(dim=1) / self.kept.sum(dim=1)

    @property
    def correct(self) -> Bool[Tensor, "image"]:
        """Whether the chosen class is predicted; of sigmoid outputs, whether it has more than one half."""
        assert self.classes is not None
        return is_predicted(self.logits, self.classes[:, 0], self.settings["output"]).bool()

    def columns(self) -> dict[str, Tensor]:
        return {"rank": self.values, "kept": self.kept}

    def maps(self, image: int = 0) -> Float[Tensor, "rows columns"]:
        """1 − rank / C of the class at each remaining patch, NaN at the others."""
        rows, columns = grid_of(self.axes["patch"])
        said = 1 - self.values[image].double() / self.logits.shape[1]
        return said.masked_fill(~self.kept[image], torch.nan).unflatten(0, (rows, columns))

    def __repr__(self) -> str:
        gone = 1 - self.kept.double().mean().item()
        return (
            f"TokenAblation({len(self.kept)} pictures, {gone:.0%} of the patches ablated, the class predicted for "
            f"{self.correct.double().mean().item():.0%})"
        )


@dataclass(frozen=True)
class KeptRanks:
    """One forward's pictures without some patches, as `TokenAblation` has them; `classes` [image] are those ranked."""

    logits: Float[Tensor, "image class"]
    classes: Int[Tensor, "image"]
    kept: Bool[Tensor, "image patch"]
    ranks: Int[Tensor, "image patch"]
    class_token_ranks: Int[Tensor, "image"] | None

    @property
    def correct(self) -> Bool[Tensor, "image"]:
        return self.logits.argmax(dim=-1) == self.classes


@leaves_state
@checked
@takes_text("predicted")
def ablate_tokens(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    tokens: TokenSet,
    replacement: str = "remove",
    masks: MaskInput | None = None,
    others: Pictures | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> TokenAblation:
    """Runs the model without a set of patches: removes them after the positions are added, or replaces their embeddings.

    Args:
        classes: one for each picture, such as the labels; by default the class predicted for the whole picture.
        tokens: the patches to ablate, as a token set: "context", "object", a box, a bool tensor … Prefix tokens stay. A
            picture without such patches stays whole, as long as another picture has some.
        replacement: "remove" (paper), or what replaces a patch's embedding before its position is added: "zero", "mean"
            (over the pictures, at each position), "blur" (the same patch of the blurred picture), "other" (the same patch
            of `others`).
        masks: object masks, for "object" and "context".
        others: one picture for each of `images`.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        TokenAblation with axes image, patch.

    Raises:
        InputError: prefix tokens, unknown names, masks or other pictures that are missing; several classes for a picture; a
            model without a classifier, or whose outputs have no rank; logits that are not finite.

    Source: Vilas, Schaumlöffel & Roig 2023, section 4; Methods B2.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> alone = vitlens.ablate_tokens(model, images[:2], labels[:2], tokens="context", masks=masks[:2])
        >>> alone
        TokenAblation(2 pictures, 80% of the patches ablated, the class predicted for 0%)
    """
    model.require_rank("a rank or a prediction", "run model.forward_kept for the logit")
    if replacement not in TOKEN_REPLACEMENTS:
        raise InputError(f"the replacement of tokens is one of {', '.join(TOKEN_REPLACEMENTS)}, not {replacement!r}")
    run = PictureRun(model, images, batch_size, progress, "token ablation")
    gone = _patches(model, tokens, run, masks)
    classes_of = classes_by_batch(model, classes, run.n, one_each="the removal of tokens")
    partners = run.partners(others, replacement)
    mean = _mean_embedding(model, run) if replacement == "mean" else None
    batches = []
    for where, pictures in run:
        with torch.no_grad():
            chosen = classes_of(where, pictures).indices[:, 0]
            if replacement == "remove":
                stream = model(pictures, stop_at_layer=0)
                batches.append(kept_ranks(model, stream, ~gone[where], chosen, run.grid))
                continue
            source = pictures if partners is None else model.as_partners(partners[where], pictures)
            stand_in = _stand_in(model, source, replacement) if mean is None else mean
            batches.append(_replaced(model, pictures, gone[where], stand_in, chosen, run.grid))
    whole = _joined(batches)
    return TokenAblation(
        whole.ranks,
        {"image": run.images, "patch": model.cfg.token_labels(run.grid)[model.cfg.n_prefix_tokens :]},
        "rank",
        logits=whole.logits,
        kept=whole.kept,
        class_token_ranks=whole.class_token_ranks,
        classes=whole.classes[:, None],
        class_names=model.class_names,
        pixels=run.pixels,
        settings={"model": model.cfg.model_name, "output": model.cfg.output, "replacement": replacement},
    )


def _patches(
    model: HookedViT, tokens: TokenSet, run: PictureRun, masks: MaskInput | None
) -> Bool[Tensor, "image patch"]:
    """The patches to ablate."""
    check_masks_are_used(masks, [tokens])
    n_prefix = model.cfg.n_prefix_tokens
    gone = select_tokens(model, tokens, run.n, masks=masks, grid=run.grid, some_may_be_empty=True)
    if gone[:, :n_prefix].any():
        raise InputError("only patches can be ablated: leave the class token and registers out of tokens=")
    return gone[:, n_prefix:]


def _replaced(
    model: HookedViT,
    pictures: Float[Tensor, "image channels height width"],
    gone: Bool[Tensor, "image patch"],
    stand_in: Float[Tensor, "#image patch d"],
    classes: Int[Tensor, "image"],
    grid: tuple[int, int],
) -> KeptRanks:
    """The run with the embeddings of these patches replaced."""
    hook = ("hook_patch_embed", lambda x, hook: torch.where(gone[..., None], stand_in, x))
    stream = model.run_with_hooks(pictures, fwd_hooks=[hook], stop_at_layer=0)
    run = kept_ranks(model, stream, torch.ones_like(gone), classes, grid)
    return KeptRanks(run.logits, classes, ~gone, run.ranks.masked_fill(gone, -1), run.class_token_ranks)


def _joined(batches: Sequence[KeptRanks]) -> KeptRanks:
    """Joins the runs of several batches."""
    of_class_token = [batch.class_token_ranks for batch in batches if batch.class_token_ranks is not None]
    return KeptRanks(
        torch.cat([batch.logits for batch in batches]),
        torch.cat([batch.classes for batch in batches]),
        torch.cat([batch.kept for batch in batches]),
        torch.cat([batch.ranks for batch in batches]),
        torch.cat(of_class_token) if of_class_token else None,
    )


def kept_ranks(
    model: HookedViT,
    stream: Float[Tensor, "image tokens d"],
    keep: Bool[Tensor, "image patch"],
    classes: Int[Tensor, "image"],
    grid: tuple[int, int] | None = None,
) -> KeptRanks:
    """The run on the patches that are kept, from the stream that enters block 0, and the class in its last tokens."""
    n_prefix = model.cfg.n_prefix_tokens
    run = model.forward_kept(stream, keep, grid)
    # Every patch is read by the same classifier: any patch's number will do for its place.
    places = [*range(n_prefix), *[n_prefix] * run.patches.shape[1]]
    logits = model.project(run.resid, places)
    best = logits.amax(dim=-1)
    check_logits(best[:, :n_prefix], "the last stream")
    # A picture of which nothing is left has no tokens but padding.
    check_logits(best[:, n_prefix:][run.valid], "the last stream")
    check_logits(run.logits.amax(dim=-1), "the run without the tokens")
    found = rank_of(logits, logits.gather(-1, classes[:, None, None].expand(-1, logits.shape[1], 1))).long()
    ranks = torch.full(keep.shape, -1, dtype=torch.long, device=keep.device)
    here = found[:, n_prefix:].where(run.valid, torch.full_like(found[:, n_prefix:], -1))
    ranks.scatter_(1, run.patches, here)
    class_token = found[:, model.cfg.prefix_tokens.index("class")] if model.cfg.has_class_token else None
    return KeptRanks(run.logits, classes, keep.to(ranks.device), ranks, class_token)


def _stand_in(model: HookedViT, source: Tensor, replacement: str) -> Float[Tensor, "image patch d"]:
    """The embeddings that replace those of the patches."""
    if replacement == "zero":
        return torch.zeros_like(_embedded(model, source[:1]))
    return _embedded(model, blurred(source) if replacement == "blur" else source)


def _mean_embedding(model: HookedViT, run: PictureRun) -> Float[Tensor, "1 patch d"]:
    """The mean over all pictures, at each position."""
    mean = RunningMean()
    for _, pictures in run:
        with torch.no_grad():
            mean.add("embedding", _embedded(model, pictures))
    return mean.of("embedding")


def _embedded(model: HookedViT, pictures: Tensor) -> Float[Tensor, "image patch d"]:
    _, cache = model.run_with_cache(pictures, names_filter="hook_patch_embed", stop_at_layer=0)
    return cache["hook_patch_embed"]
