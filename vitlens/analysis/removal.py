"""Tokens removed or replaced: what of the decision, and of the class in the other tokens, is left (METHODS.md B2)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.analysis.classes import Classes, select_classes
from vitlens.analysis.tokens import TokenSet, token_mask
from vitlens.data.counterfactuals import blurred
from vitlens.data.masks import MaskInput
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT

HOW = ("remove", "zero", "mean", "blur", "other")


@dataclass(frozen=True, repr=False)
class TokenAblation:
    """The run without some patches: `logits` [image, class]; of the patches that stayed the rank of the chosen class in the
    last stream, `ranks` [image, patch], −1 for those that did not; and what the class token says, `class_token_ranks`."""

    logits: Float[Tensor, "image class"]
    classes: Int[Tensor, "image"]
    kept: Bool[Tensor, "image patch"]
    ranks: Int[Tensor, "image patch"]
    class_token_ranks: Int[Tensor, "image"] | None

    def __repr__(self) -> str:
        gone = 1 - self.kept.double().mean().item()
        return (
            f"TokenAblation({len(self.kept)} pictures, {gone:.0%} of the patches ablated, the class predicted for "
            f"{self.correct.double().mean().item():.0%})"
        )

    @property
    def rate(self) -> Float[Tensor, "image"]:
        """A3 of what stayed: the share of its patches at rank 0; NaN where nothing stayed."""
        return ((self.ranks == 0) & self.kept).sum(dim=1) / self.kept.sum(dim=1)

    @property
    def correct(self) -> Bool[Tensor, "image"]:
        """Whether the chosen class is predicted."""
        return self.logits.argmax(dim=-1) == self.classes


def ablate_tokens(
    model: HookedViT,
    images: Pictures,
    tokens: TokenSet,
    classes: Classes = None,
    *,
    how: str = "remove",
    masks: MaskInput | None = None,
    others: Pictures | None = None,
) -> TokenAblation:
    """Runs the model without a set of patches: removed from the sequence after the positions were added, or replaced there.

    Args:
        tokens: which patches go, as a token set: "context", "object", a box, a bool tensor … Prefix tokens stay. A picture
            that has none of them stays whole, as long as another has some.
        classes: one per picture, such as the labels; by default the one predicted for the whole picture.
        how: "remove" (paper); or the patch's embedding, before its position, replaced: "zero" by zeros, "mean" by the
            mean over the pictures at each position, "blur" by that of the same patch of the blurred picture, "other" by that
            of the same patch of `others`.
        masks: object masks, for "object" and "context".
        others: one picture for each of `images`.

    Raises:
        InputError: prefix tokens, unknown names, masks or other pictures that are missing.

    Source: Vilas, Schaumlöffel & Roig 2023, section 4; METHODS.md B2.
    """
    model.require_classifier()
    if how not in HOW:
        raise InputError(f"tokens are ablated by one of {', '.join(HOW)}, not {how!r}")
    pictures = model.as_images(images)
    grid, n_prefix = model.embed.grid(*pictures.shape[-2:]), model.cfg.n_prefix_tokens
    gone = token_mask(model, tokens, len(pictures), masks, grid, some_may_be_empty=True)
    if gone[:, :n_prefix].any():
        raise InputError("only patches can be ablated: leave the class token and registers out of tokens=")
    gone = gone[:, n_prefix:]
    with torch.no_grad():
        whole = model(pictures) if classes is None else pictures.new_empty(len(pictures), model.cfg.n_classes)
        chosen = select_classes(model, classes, whole).indices[:, 0]
        if how == "remove":
            return kept_ranks(model, model(pictures, stop_at_layer=0), ~gone, chosen, grid)
        replacement = _replacement(model, pictures, how, others)
        hook = ("hook_patch_embed", lambda x, hook: torch.where(gone[..., None], replacement, x))
        stream = model.run_with_hooks(pictures, fwd_hooks=[hook], stop_at_layer=0)
        everything = torch.ones_like(gone)
        run = kept_ranks(model, stream, everything, chosen, grid)
        return TokenAblation(run.logits, chosen, ~gone, run.ranks.masked_fill(gone, -1), run.class_token_ranks)


def kept_ranks(
    model: HookedViT,
    stream: Float[Tensor, "image tokens d"],
    keep: Bool[Tensor, "image patch"],
    classes: Int[Tensor, "image"],
    grid: tuple[int, int] | None = None,
) -> TokenAblation:
    """The run on the patches that are kept, from the stream that enters block 0, and the class in its last tokens."""
    n_prefix = model.cfg.n_prefix_tokens
    run = model.forward_kept(stream, keep, grid)
    # Every patch is read by the same classifier: any patch's number will do for its place.
    places = [*range(n_prefix), *[n_prefix] * run.patches.shape[1]]
    logits = model.project(run.resid, places)
    of_class = logits.gather(-1, classes[:, None, None].expand(-1, logits.shape[1], 1))
    found = (logits > of_class).sum(dim=-1)
    ranks = torch.full(keep.shape, -1, dtype=torch.long, device=keep.device)
    here = found[:, n_prefix:].where(run.valid, torch.full_like(found[:, n_prefix:], -1))
    ranks.scatter_(1, run.patches, here)
    class_token = found[:, model.cfg.prefix_tokens.index("class")] if model.cfg.has_class_token else None
    return TokenAblation(run.logits, classes, keep.to(ranks.device), ranks, class_token)


def _replacement(
    model: HookedViT, pictures: Tensor, how: str, others: Pictures | None
) -> Float[Tensor, "image patch d"]:
    """What stands in the place of a patch's embedding."""
    source = blurred(pictures) if how == "blur" else pictures
    if how == "other":
        source = model.as_partners(others, pictures)
    _, cache = model.run_with_cache(source, names_filter="hook_patch_embed", stop_at_layer=0)
    embedded = cache["hook_patch_embed"]
    if how in ("other", "blur"):
        return embedded
    return torch.zeros_like(embedded[:1]) if how == "zero" else embedded.mean(dim=0, keepdim=True)
