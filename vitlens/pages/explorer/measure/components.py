"""The patches of all pictures as colours, by the principal components of their streams."""

from collections.abc import Sequence

import torch

from vitlens.errors import InputError
from vitlens.pages.explorer.measure.picture import Measured
from vitlens.pages.explorer.measure.quantise import as_numpy
from vitlens.similarity.moments import Moments
from vitlens.similarity.results import as_channels


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
