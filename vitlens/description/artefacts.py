"""Checks whether a heatmap shows the model's artefact tokens, and writes the warning for it."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.arguments import checked
from vitlens.data.pictures import Pictures
from vitlens.description.token_norms import stream_outliers
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Reader, hook_name
from vitlens.model.runs.picture_run import PictureRun


@checked
def artefact_warning(
    model: HookedViT,
    images: Pictures | dict[str, Tensor],
    *,
    values: Float[Tensor, "image *map"],
    outlier_threshold: float = 5.0,
    late_block: int | None = None,
    least_share: float = 0.1,
    times: float = 3.0,
    among: int = 5,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> list[str | None]:
    """Warns, for each picture, if artefact tokens are among the strongest patches of a heatmap or carry much of it.

    Artefact tokens are patches whose residual stream after a late block has a norm above `outlier_threshold` times the
    median of their picture's patches, as in `find_register_neurons`. Their share of a map is
    Σ_artefacts |value| / Σ |value|.

    Args:
        values: importances of the patches, [image, patch] row by row or [image, row, column]; signs do not matter.
        outlier_threshold: how many times the median norm makes an artefact.
        late_block: the block after which norms are taken; by default the last but one.
        least_share: the smallest share of the map that gives a warning.
        times: warn if the share of the map is at least this many times the artefacts' share of the patches.
        among: warn if an artefact is among this many strongest patches, by magnitude.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        One sentence or None for each picture, such as "4 artefact tokens (2.0 % of the patches) carry 37 % of this map" or
        "2 of the 5 strongest patches are artefact tokens: (0, 0), (13, 13)", or both.

    Raises:
        InputError: maps that do not fit the pictures or their grid, a block that does not exist, a threshold that is not
            above 1.

    Source: after Darcet et al. 2024 (Vision Transformers Need Registers, arXiv:2309.16588).

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> maps = vitlens.heatmap(model, images[:2], method="raw_attention").values
        >>> vitlens.description.artefact_warning(model, images[:2], values=maps)
        [None, None]
    """
    if isinstance(images, dict):
        raise InputError("artefacts are looked for in pictures of one size: pass a tensor, not a dictionary of patches")
    pictures = model.as_images(images)
    rows, columns = model.embed.grid(*pictures.shape[-2:])
    shape = list(values.shape)
    if shape not in ([len(pictures), rows * columns], [len(pictures), rows, columns]):
        raise InputError(
            f"heatmaps of these pictures are [{len(pictures)}, {rows * columns}] or [{len(pictures)}, {rows}, {columns}], "
            f"not {shape}"
        )
    artefact = artefact_tokens(
        model,
        pictures,
        outlier_threshold=outlier_threshold,
        late_block=late_block,
        batch_size=batch_size,
        progress=progress,
    )
    return artefact_sentences(values, artefact, columns, least_share=least_share, times=times, among=among)


def artefact_sentences(
    values: Float[Tensor, "image *map"],
    artefact: Bool[Tensor, "image patch"],
    columns: int,
    *,
    least_share: float = 0.1,
    times: float = 3.0,
    among: int = 5,
) -> list[str | None]:
    """`artefact_warning` for known artefact tokens, on a grid with this number of columns."""
    size = values.detach().abs().flatten(1).double().cpu()
    artefact = artefact.cpu()
    n_patches = size.shape[1]
    carried = (size * artefact).sum(dim=1) / size.sum(dim=1)
    found = []
    for image, (n, share) in enumerate(zip(artefact.sum(dim=1).tolist(), carried.tolist(), strict=True)):
        parts = []
        if share >= least_share and share >= times * n / n_patches:
            parts.append(_sentence(n, n_patches, share))
        leading = _leading(size[image], artefact[image], among)
        if leading:
            parts.append(_led([divmod(patch, columns) for patch in leading], among))
        found.append("; ".join(parts) or None)
    return found


def _leading(size: Float[Tensor, "patch"], artefact: Bool[Tensor, "patch"], among: int) -> list[int]:
    """The artefacts that are among the strongest patches however equal ones are ordered, the strongest first."""
    if not 0 < among < len(size):
        return []
    in_order = size.argsort(descending=True, stable=True)
    leading = artefact[in_order] & (size[in_order] > size[in_order[among]])
    return in_order[leading].tolist()


def artefact_tokens(
    model: HookedViT,
    images: Pictures,
    *,
    outlier_threshold: float = 5.0,
    late_block: int | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Bool[Tensor, "image patch"]:
    """Which patches of every picture are outliers behind a late block; parameters as `artefact_warning`.

    Raises:
        InputError: a block that does not exist, a threshold that is not above 1.
    """
    if outlier_threshold <= 1:
        raise InputError(
            f"outlier_threshold is how many times the median norm makes an artefact, above 1, not {outlier_threshold:g}"
        )
    run = PictureRun(model, images, batch_size, progress, "artefacts")
    late = max(model.cfg.n_layers - 2, 0) if late_block is None else model.block_index(late_block)
    found: list[Tensor] = []

    def read(resid: Tensor, hook: object) -> None:
        found.append(stream_outliers(resid.detach(), model.cfg.n_prefix_tokens, outlier_threshold))

    hooks: list[Any] = [(hook_name(late, "resid_post"), Reader(read))]
    with torch.no_grad():
        for _, pictures in run:
            model.run_with_hooks(pictures, fwd_hooks=hooks, stop_at_layer=late + 1)
    return torch.cat(found)


def _led(places: list[tuple[int, int]], among: int) -> str:
    verb = "is an artefact token" if len(places) == 1 else "are artefact tokens"
    return f"{len(places)} of the {among} strongest patches {verb}: {', '.join(map(str, places))}"


def _sentence(n: int, n_patches: int, share: float) -> str:
    tokens, carry = ("token", "carries") if n == 1 else ("tokens", "carry")
    return f"{n} artefact {tokens} ({100 * n / n_patches:.1f} % of the patches) {carry} {100 * share:.0f} % of this map"
