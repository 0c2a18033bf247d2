"""Finds the patches on which each feature of a dictionary is most active, over any number of pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vitlens.arguments import checked, items
from vitlens.choose.tokens import TokenSet
from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.placed import ends
from vitlens.features.places import STREAM_WIDE, HookPlace
from vitlens.features.strongest import StrongestTokens, encoded_pictures
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureBatches, PictureSource
from vitlens.model.runs.small_pictures import small_pictures
from vitlens.results.result import Result

#: Pictures of top patches that a result keeps.
MOST_SHOWN = 64


@dataclass(frozen=True, repr=False)
class TopPatches(Result):
    """`values` [feature, rank]: the largest activations of each feature, at token `tokens` of picture `images`.

    Rank 0 is the largest. If a feature is positive on fewer tokens than there are ranks, the other values are 0, with
    picture and token −1. `counts` [feature, bin] is the histogram of positive activations, with bins of width `bin_width`
    from 0 up, and `density` the share of tokens with a positive activation. `promoted` [feature, class] is what the feature
    adds to the logits, up to a positive factor per feature; it is empty if the hook point does not write to the residual
    stream. `pixels` are the top patches' pictures, at most 64; their numbers are `kept`.
    """

    images: Int[Tensor, "feature rank"]
    tokens: Int[Tensor, "feature rank"]
    counts: Int[Tensor, "feature bin"]
    bin_width: Float[Tensor, "feature"]
    density: Float[Tensor, "feature"]
    promoted: Float[Tensor, "feature classes"]
    kept: list[int] = field(default_factory=list)

    def picture(self, image: int = 0) -> UInt8[Tensor, "height width 3"]:
        """A picture by its number.

        Raises:
            InputError: the result does not keep it.
        """
        if self.pixels is None or image not in self.kept:
            why = (
                f"picture {image} is not among the {len(self.kept)} that the result keeps"
                if self.kept
                else "this result keeps no pictures, since its source cannot give a picture again (a data loader, a "
                "function or a stream)"
            )
            raise InputError(f"{why}: pass pixels_of=, a function from the number of a picture to its colours")
        return self.pixels[self.kept.index(image)]

    @checked
    def row_of(self, feature: int) -> int:
        """The position of a feature on the first axis.

        Raises:
            InputError: the result has no such feature.
        """
        if feature not in self.axes["feature"]:
            some = ", ".join(map(str, self.axes["feature"][:8]))
            raise InputError(
                f"feature {feature} is not in this result, which has {some}{', …' * (len(self.axes['feature']) > 8)}"
            )
        return self.axes["feature"].index(feature)

    @checked
    def patch(self, feature: int, rank: int = 0) -> tuple[int, int] | None:
        """Row and column of a top patch; None for a token that is no patch."""
        row, n_ranks = self.row_of(feature), self.tokens.shape[1]
        if not -n_ranks <= rank < n_ranks:
            raise InputError(f"there is no rank {rank}: each feature has ranks 0 to {n_ranks - 1}")
        token = int(self.tokens[row, rank]) - self.settings["n_prefix_tokens"]
        return divmod(token, self.settings["grid"][1]) if token >= 0 else None

    def columns(self) -> dict[str, Tensor]:
        return {**super().columns(), "image": self.images, "token": self.tokens}


@leaves_state
@checked
def top_patches(
    model: HookedViT,
    images: PictureSource,
    *,
    sae: SparseAutoencoder,
    hook: HookName | None = None,
    features: int | Sequence[int] | None = None,
    k: int = 9,
    hook_out: HookName | None = None,
    tokens: TokenSet = "patches",
    n_features: int = 12,
    one_per_image: bool = False,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> TopPatches:
    """Finds the k tokens on which each feature is largest, in one pass over the pictures and constant memory.

    Args:
        images: as `stream_activations`; a picture's number is its position in it.
        sae: the dictionary.
        hook: where it reads; None for the hook point it was trained on.
        features: indices of features; None for the `n_features` with the largest summed activations.
        k: how many tokens for each feature.
        hook_out: what a transcoder predicts, see `with_sae`.
        tokens: the tokens that count, see `select_tokens`.
        one_per_image: count only the strongest token of each picture, so that all ranks show different pictures.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        TopPatches with axes feature and rank.

    Raises:
        InputError: a feature that does not exist; a dictionary of another width; no pictures.

    Examples:
        >>> import torch
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> identity = torch.eye(model.cfg.d_model)
        >>> sae = vitlens.features.SparseAutoencoder.from_arrays(identity, None, identity, None, hook="resid_post3")
        >>> found = vitlens.features.top_patches(model, images[:8], sae=sae, features=[7], k=3)
        >>> found.images[0].tolist()  # in which pictures feature 7 is strongest
        [1, 7, 6]
        >>> [found.patch(7, rank) for rank in range(3)]  # and on which patches, as (row, column)
        [(11, 11), (6, 13), (10, 1)]
    """
    if k < 1 or n_features < 1:
        raise InputError(f"k and n_features are at least 1, not {k} and {n_features}")
    source, target = ends(model, hook, sae, hook_out)
    wanted = None if features is None else feature_numbers(features, sae.d_sae)
    batches = PictureBatches(model, images, batch_size)
    tops = StrongestTokens(k, one_per_image)
    grid: tuple[int, int] = model.cfg.grid_size
    with torch.no_grad():
        for some in encoded_pictures(model, batches, sae, source, target, tokens, "top patches", progress):
            grid = some.grid
            tops.add(some.codes if wanted is None else some.codes[..., wanted], some.ids, some.tokens)
        if tops.best is None:
            raise InputError("there are no pictures to look for features in")
        chosen = (
            torch.arange(len(tops.total))
            if wanted is not None
            else tops.total.cpu().argsort(descending=True)[:n_features]
        )
        numbers = [wanted[i] if wanted is not None else i for i in chosen.tolist()]
        promoted = promoted_classes(model, target, sae, numbers)
    # There are no more ranks than tokens (or pictures, with one_per_image).
    ranks = slice(min(k, tops.n_offered))
    values = tops.best[ranks].T[chosen].cpu()
    found_any = values > 0
    images_of = torch.where(found_any, tops.images[ranks].T[chosen].cpu(), -1)
    pixels = _pixels_of(model, batches, images_of)
    return TopPatches(
        torch.where(found_any, values, 0.0),
        {"feature": numbers, "rank": list(range(values.shape[1]))},
        "activation",
        settings={
            "model": model.cfg.model_name,
            "hook": source.name,
            "dictionary": sae.source,
            "grid": list(grid),
            "n_prefix_tokens": model.cfg.n_prefix_tokens,
            "tokens_seen": tops.n_rows,
        },
        class_names=model.class_names,
        images=images_of,
        tokens=torch.where(found_any, tops.tokens[ranks].T[chosen].cpu(), -1),
        counts=tops.counts[chosen].cpu(),
        bin_width=torch.exp2(tops.exponents[chosen].double()).cpu(),
        density=tops.counts[chosen].sum(dim=1).double().cpu() / tops.n_rows,
        promoted=promoted,
        kept=list(pixels),
        pixels=torch.stack(list(pixels.values())) if pixels else None,
    )


def _pixels_of(
    model: HookedViT, batches: PictureBatches, images: Int[Tensor, "feature rank"]
) -> dict[int, UInt8[Tensor, "height width 3"]]:
    """The pictures of top patches by number, if the source can give them again; only those of the first picture's size."""
    wanted = [number for number in dict.fromkeys(images.flatten().tolist()) if number >= 0][:MOST_SHOWN]
    found: dict[int, Tensor] = {}
    for number, image in batches.by_number(wanted):
        small = small_pictures(model, image[None])[0]
        if not found or small.shape == next(iter(found.values())).shape:
            found[number] = small
    return found


def promoted_classes(
    model: HookedViT, place: HookPlace, sae: SparseAutoencoder, features: Sequence[int]
) -> Float[Tensor, "feature classes"]:
    """Each feature's direction projected onto the classes: E ν(W_dec) − E ν(0).

    The norm ν divides by the direction's own standard deviation, so the numbers rank the classes of one feature and do not
    compare features. Empty if the hook point does not write to the residual stream, or the model has no classifier.
    """
    kind = place.name.rsplit("hook_", 1)[-1]
    if place.block is None or kind not in STREAM_WIDE or model.unembed is None:
        return torch.zeros(len(features), 0)
    return classes_of_directions(model, sae.W_dec[list(features)])


def classes_of_directions(
    model: HookedViT, directions: Float[Tensor, "direction d"]
) -> Float[Tensor, "direction classes"]:
    """Directions of the stream projected onto the classes: E ν(direction) − E ν(0); empty without a classifier."""
    if model.unembed is None:
        return torch.zeros(len(directions), 0)
    directions = directions.to(model.device, model.dtype)[:, None]
    # A patch, so that a distilled model answers with both of its classifiers.
    token = [model.cfg.n_prefix_tokens]
    moved = model.project(directions, token) - model.project(torch.zeros_like(directions[:1]), token)
    return moved[:, 0].cpu()


def feature_numbers(features: int | Sequence[int], n_features: int) -> list[int]:
    """A list of features' numbers.

    Raises:
        InputError: no feature, or one that the dictionary does not have.
    """
    chosen = [int(feature) for feature in items(features)]
    if not chosen:
        raise InputError("the list of features is empty: name at least one")
    for feature in chosen:
        if not 0 <= feature < n_features:
            raise InputError(f"there is no feature {feature}: the dictionary has features 0 to {n_features - 1}")
    return chosen
