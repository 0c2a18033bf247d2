"""How like a chosen patch every patch is."""

from itertools import repeat

import torch
from einops import einsum
from torch import Tensor

from vitlens.arguments import checked
from vitlens.choose.tokens import TokenSet, check_masks_are_used, queries_in_words
from vitlens.data.masks import MaskInput
from vitlens.data.pictures import Pictures
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_run import PictureRun
from vitlens.results.axes import patch_label
from vitlens.similarity.likeness import check_likeness, comparable
from vitlens.similarity.reading import VectorReader, other_run, query_tokens
from vitlens.similarity.results import PatchSimilarity


@leaves_state
@checked
def patch_similarity(
    model: HookedViT,
    images: Pictures,
    *,
    queries: TokenSet,
    masks: MaskInput | None = None,
    others: Pictures | None = None,
    hook: HookName | None = None,
    method: str = "cosine",
    outlier_threshold: float | None = 5.0,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> PatchSimilarity:
    """How like a chosen patch every patch of the same picture is, or of another picture.

    With several queries it is the mean of their similarities. Outlier patches keep their number and are marked in figures:
    they are like one another wherever they are.

    Args:
        queries: what the patches are compared with: `vitlens.choose.patch(3, 4)`, a box, "object", "class", or any other
            token set of `images`.
        masks: object masks, for token sets that need them.
        others: compare with the patches of these pictures, one for each; by default with those of `images` themselves.
        hook: where the vectors are read, as in `patch_pca`; by default the final patch tokens, `model.patch_features`, and
            the same of prefix tokens.
        method: "cosine" compares the vectors' directions, "dot_product" also their lengths.
        outlier_threshold: a patch whose residual stream after the last block but one has a norm above so many times the
            median of its picture's patches is marked as an outlier; None marks none.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        PatchSimilarity with axes image, patch.

    Raises:
        InputError: a token that does not exist, or that has no vector at this hook point; not one other picture for each; a
            hook point that does not exist or has no vector for each patch; an unknown method; an outlier_threshold that is
            not above 1.

    Source: Siméoni et al. 2021 (LOST, arXiv:2109.14279); Amir et al. 2022 (arXiv:2112.05814).

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> like = vitlens.similarity.patch_similarity(model, images[:2], queries=vitlens.choose.patch(6, 7))
        >>> like.maps().shape  # image, row, column
        torch.Size([2, 14, 14])
        >>> f"{like.maps()[0, 6, 7].item():.3f}"
        '1.000'
    """
    check_likeness(method)
    check_masks_are_used(masks, [queries])
    run = PictureRun(model, images, batch_size, progress, "similarity of patches", 2)
    against = run if others is None else other_run(model, others, run, progress, "similarity of patches")
    reader = VectorReader(model, hook, outlier_threshold, run.grid)
    reader_there = reader if others is None else VectorReader(model, hook, outlier_threshold, against.grid)
    chosen = query_tokens(model, queries, run, masks, reader)
    found: list[Tensor] = []
    outliers: list[Tensor] = []
    # Where a picture is compared with itself it is run once.
    theirs = (pictures for _, pictures in against) if others is not None else repeat(None)
    for (where, pictures), there in zip(run, theirs, strict=False):
        one = reader(pictures)
        other = one if there is None else reader_there(there)
        asked = chosen[where, one.first :].to(one.tokens.dtype)
        query = einsum(
            comparable(one.tokens, method), asked / asked.sum(dim=1, keepdim=True), "image q d, image q -> image d"
        )
        found.append(einsum(comparable(other.patches, method), query, "image patch d, image d -> image patch"))
        outliers.append(other.outliers)
    return PatchSimilarity(
        torch.cat(found),
        {
            "image": run.images,
            "patch": [patch_label(row, column) for row in range(against.grid[0]) for column in range(against.grid[1])],
        },
        "similarity",
        queries=chosen,
        outliers=torch.cat(outliers),
        grid=against.grid,
        query_grid=run.grid,
        pixels=against.pixels,
        query_pixels=None if others is None else run.pixels,
        settings={
            "model": model.cfg.model_name,
            "hook": reader.name,
            "method": method,
            "queries": queries_in_words(model, queries, run.grid),
            "outlier_threshold": outlier_threshold,
        },
    )
