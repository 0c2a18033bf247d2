"""The nearest patches of two pictures, in both directions."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.arguments import checked
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_run import PictureRun
from vitlens.results.axes import patch_label
from vitlens.similarity.likeness import check_likeness, comparable
from vitlens.similarity.reading import VectorReader, other_run
from vitlens.similarity.results import NearestPatches


@leaves_state
@checked
def nearest_patches(
    model: HookedViT,
    images: Pictures,
    *,
    others: Pictures,
    hook: HookName | None = None,
    method: str = "cosine",
    outlier_threshold: float | None = 5.0,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> NearestPatches:
    """For each patch of a picture the patch of another picture that is most like it, and the other way round.

    Two patches that are nearest to one another are a mutual pair ("best buddies"); `.pairs()` lists these, most alike first,
    and `.plot()` joins them. Prefix tokens and outlier patches are neither compared nor found.

    Args:
        others: the picture that each picture is compared with, one for each.
        hook: where the vectors are read, as in `patch_pca`; by default the final patch tokens, `model.patch_features`.
        method: "cosine" compares the vectors' directions, "dot_product" also their lengths.
        outlier_threshold: a patch whose residual stream after the last block but one has a norm above so many times the
            median of its picture's patches is an outlier; None keeps all patches.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        NearestPatches with axes image, patch: the similarity to the nearest patch of the other picture; NaN at outliers.

    Raises:
        InputError: not one other picture for each; a hook point that does not exist or has no vector for each patch; an
            unknown method; an outlier_threshold that is not above 1.

    Source: Amir et al. 2022 (Deep ViT Features as Dense Visual Descriptors, arXiv:2112.05814); mutual pairs after Dekel et
    al. 2015 (Best-Buddies Similarity).

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> found = vitlens.similarity.nearest_patches(model, images[:1], others=images[1:2])
        >>> found.values.shape  # image, patch
        torch.Size([1, 196])
        >>> patch, other_patch, similarity = found.pairs(k=1)[0]
        >>> patch, other_patch, f"{similarity:.3f}"
        ((8, 6), (8, 6), '0.956')
    """
    check_likeness(method)
    run = PictureRun(model, images, batch_size, progress, "nearest patches", 2)
    against = other_run(model, others, run, progress, "nearest patches in others")
    readers = [VectorReader(model, hook, outlier_threshold, each.grid) for each in (run, against)]
    batches: list[tuple[Tensor, ...]] = []
    for (_, pictures), (_, theirs) in zip(run, against, strict=True):
        one, other = readers[0](pictures), readers[1](theirs)
        left, right = comparable(one.patches, method), comparable(other.patches, method)
        # One by one: of large pictures all pairs of patches are many.
        for i in range(len(pictures)):
            batches.append(both_ways(left[i] @ right[i].mT, ~one.outliers[i], ~other.outliers[i]))
    nearest, values, nearest_back, values_back = (torch.stack(parts) for parts in zip(*batches, strict=True))
    return NearestPatches(
        values,
        {
            "image": run.images,
            "patch": [patch_label(row, column) for row in range(run.grid[0]) for column in range(run.grid[1])],
        },
        "similarity",
        nearest=nearest,
        nearest_back=nearest_back,
        values_back=values_back,
        grid=run.grid,
        other_grid=against.grid,
        pixels=run.pixels,
        other_pixels=against.pixels,
        settings={
            "model": model.cfg.model_name,
            "hook": readers[0].name,
            "method": method,
            "outlier_threshold": outlier_threshold,
        },
    )


def both_ways(
    scores: Float[Tensor, "patch other"], kept: Bool[Tensor, "patch"], kept_others: Bool[Tensor, "other"]
) -> tuple[Int[Tensor, "patch"], Float[Tensor, "patch"], Int[Tensor, "other"], Float[Tensor, "other"]]:
    """The nearest of each row and of each column with its similarity; −1 and NaN for what is left out.

    Raises:
        InputError: a picture of which no patch is left.
    """
    if not kept.any() or not kept_others.any():
        raise InputError("all patches of a picture are outliers: pass outlier_threshold=None to keep them")
    chosen = scores.masked_fill(~(kept[:, None] & kept_others), -torch.inf)
    found: list[Tensor] = []
    for dim, there in ((1, kept), (0, kept_others)):
        best = chosen.max(dim=dim)
        found += [best.indices.masked_fill(~there, -1), best.values.masked_fill(~there, torch.nan)]
    return found[0], found[1], found[2], found[3]
