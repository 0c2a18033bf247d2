"""Principal components of the vectors of patches, over several pictures together."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.arguments import checked
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_run import PictureRun
from vitlens.results.axes import patch_label
from vitlens.similarity.moments import Moments
from vitlens.similarity.reading import VectorReader
from vitlens.similarity.results import PatchPCA


@leaves_state
@checked
def patch_pca(
    model: HookedViT,
    images: Pictures,
    *,
    hook: HookName | None = None,
    n_components: int = 3,
    foreground: bool = False,
    outlier_threshold: float | None = 5.0,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> PatchPCA:
    """The directions along which patches differ most, over all pictures together; `.plot()` shows three of them as colours.

    The same colour means the same in all pictures of one call. Prefix tokens (class token, registers) are never part of it.
    Outlier patches are left out, as they would take the first component for themselves: those whose residual stream after
    the last block but one has a norm above `outlier_threshold` times the median of their picture's patches. The components
    are those of the covariance matrix, computed in float64 without keeping the vectors; each picture is run twice, with
    `foreground` three times.

    Args:
        hook: where the vectors are read: any hook point with a vector for each patch, such as "resid_post5" or "k11" (heads
            one behind the other). By default the final patch tokens, `model.patch_features`: the stream after the last
            block, through the model's final norm where it has one before pooling.
        n_components: how many components to keep.
        foreground: take components of the foreground alone, as DINOv2's figures do. The first component of all patches
            divides them at 0; the background is the side on which the larger share of the patches at the pictures' edges
            lies.
        outlier_threshold: how many times the median norm makes an outlier; None keeps all patches.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        PatchPCA with axes image, patch, principal_component; NaN at patches that were left out.

    Raises:
        InputError: a hook point that does not exist or has no vector for each patch; more components than the patches have;
            a foreground in a grid of edges only; an outlier_threshold that is not above 1.

    Source: Oquab et al. 2024 (DINOv2, arXiv:2304.07193), section 7.5; outliers after Darcet et al. 2024 (arXiv:2309.16588).

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> pca = vitlens.similarity.patch_pca(model, images[:4])
        >>> pca.values.shape  # image, patch, principal component
        torch.Size([4, 196, 3])
        >>> pca.plot().layout.title.text
        'Three principal components of the patches as colours'
    """
    run = PictureRun(model, images, batch_size, progress, "components of patches", 2)
    reader = VectorReader(model, hook, outlier_threshold, run.grid)
    moments = Moments()
    outliers: list[Tensor] = []
    for _, pictures in run:
        vectors = reader(pictures)
        moments.add(vectors.patches[~vectors.outliers])
        outliers.append(vectors.outliers)
    kept = ~torch.cat(outliers)
    background = torch.zeros_like(kept)
    if foreground:
        moments, background = _foreground(run, reader, moments, kept)
    directions, shares = moments.components(n_components)
    scores = _projected(run, reader, moments.mean, directions)
    return PatchPCA(
        scores.masked_fill(~kept[..., None] | background[..., None], torch.nan),
        {
            "image": run.images,
            "patch": [patch_label(row, column) for row in range(run.grid[0]) for column in range(run.grid[1])],
            "principal_component": [f"PC{i + 1}" for i in range(n_components)],
        },
        "score",
        directions=directions,
        mean=moments.mean,
        variance_shares=shares,
        outliers=~kept,
        background=background,
        grid=run.grid,
        pixels=run.pixels,
        settings={
            "model": model.cfg.model_name,
            "hook": reader.name,
            "foreground": foreground,
            "outlier_threshold": outlier_threshold,
            "n_patches": moments.n,
        },
    )


def _foreground(
    run: PictureRun, reader: VectorReader, moments: Moments, kept: Bool[Tensor, "image patch"]
) -> tuple[Moments, Bool[Tensor, "image patch"]]:
    """The moments of the foreground, and which patches are background.

    Raises:
        InputError: a grid without inner patches, or edges that lie on both sides as often as inner patches do.
    """
    direction, _ = moments.components(1)
    sides = {True: Moments(), False: Moments()}
    first: list[Tensor] = []
    for where, pictures in run:
        patches = reader(pictures).patches
        positive = (patches.double() - moments.mean) @ direction[0] > 0
        for side, part in sides.items():
            part.add(patches[(positive == side) & kept[where]])
        first.append(positive)
    positive = torch.cat(first)
    edge = _edge(run.grid).to(kept.device)
    shares = [positive[kept & chosen].double().mean().item() for chosen in (edge, ~edge)]
    if not shares[0] != shares[1] or any(share != share for share in shares):
        raise InputError(
            "the first component does not divide these pictures' edges from their inner patches, so it is not known which "
            "side is the background: leave foreground=False"
        )
    is_positive_background = shares[0] > shares[1]
    return sides[not is_positive_background], kept & (positive == is_positive_background)


def _edge(grid: tuple[int, int]) -> Bool[Tensor, "patch"]:
    """The patches at the edge of a picture."""
    edge = torch.ones(grid, dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    return edge.flatten()


def _projected(
    run: PictureRun, reader: VectorReader, mean: Float[Tensor, "d"], directions: Float[Tensor, "component d"]
) -> Float[Tensor, "image patch component"]:
    """The patches' places along the directions, computed in float64 and kept as precisely as the model computes."""
    parts = []
    for _, pictures in run:
        patches = reader(pictures).patches
        parts.append(((patches.double() - mean) @ directions.mT).to(patches.dtype))
    return torch.cat(parts)
