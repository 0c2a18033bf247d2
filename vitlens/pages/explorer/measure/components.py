"""What the patches of all pictures share: principal components of their streams as colours, and nearest patches."""

from collections.abc import Sequence

import torch

from vitlens.errors import InputError
from vitlens.pages.explorer.measure.picture import Measured
from vitlens.pages.explorer.measure.quantise import COSINE_STEPS, as_numpy
from vitlens.similarity.likeness import COSINE, comparable
from vitlens.similarity.matches import both_ways
from vitlens.similarity.moments import Moments
from vitlens.similarity.results import as_channels

#: Of more pictures than these the pairs would be much of the page.
MOST_MATCHED = 12


def add_colours(measured: Sequence[Measured]) -> None:
    """Adds colours and colour_shares to every picture: those of `patch_pca` over all of them, block by block.

    Where the patches have no three components no picture has colours, and the reason is said.
    """
    kept = torch.stack([torch.from_numpy(picture.tensors["outliers"] == 0) for picture in measured])
    colours, shares = [], []
    try:
        for block in range(len(measured[0].stream)):
            streams = torch.stack([picture.stream[block] for picture in measured])
            moments = Moments()
            moments.add(streams[kept])
            directions, of_variance = moments.components(3)
            scores = (streams.double() - moments.mean) @ directions.mT
            colours.append(as_channels(scores.masked_fill(~kept[..., None], torch.nan)).nan_to_num())
            shares.append(of_variance)
    except InputError as refusal:
        for picture in measured:
            picture.facts["missing"]["components"] = str(refusal)
        return
    codes = (torch.stack(colours, dim=1) * 255).round().to(torch.uint8).numpy()
    for picture, own in zip(measured, codes, strict=True):
        picture.tensors["colours"], picture.tensors["colour_shares"] = own, as_numpy(torch.stack(shares))


def add_nearest(measured: Sequence[Measured]) -> None:
    """Adds nearest and nearest_cosine to every picture, as `nearest_patches` finds them in each of the others."""
    n = len(measured)
    if not 1 < n <= MOST_MATCHED:
        return
    kept = [torch.from_numpy(picture.tensors["outliers"] == 0) for picture in measured]
    units = [comparable(picture.stream, COSINE) for picture in measured]
    shape = (n, n, *measured[0].stream.shape[:2])
    nearest, cosines = torch.full(shape, -1, dtype=torch.int16), torch.zeros(shape)
    for one in range(n):
        for other in range(one + 1, n):
            if not kept[one].any() or not kept[other].any():
                continue
            for block in range(shape[2]):
                found = both_ways(units[one][block] @ units[other][block].mT, kept[one], kept[other])
                nearest[one, other, block], cosines[one, other, block] = found[0].short(), found[1]
                nearest[other, one, block], cosines[other, one, block] = found[2].short(), found[3]
    codes = (cosines.nan_to_num().clamp(-1, 1) * COSINE_STEPS).round().short()
    for i, picture in enumerate(measured):
        picture.tensors["nearest"], picture.tensors["nearest_cosine"] = nearest[i].numpy(), codes[i].numpy()
