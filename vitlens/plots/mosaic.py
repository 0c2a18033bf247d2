"""The figure of the top-1 class of every patch: colours over the picture, names in the legend and on hover."""

from collections import Counter

import numpy as np
import plotly.graph_objects as go

from vitlens.data.class_names import short_name
from vitlens.lens.lens import ClassLens
from vitlens.plots.shared.picture import add_picture, aspect, keep_shape, patch_heatmap, picture_uri
from vitlens.plots.shared.places import site_in_words
from vitlens.plots.shared.style import COLOURS, NEUTRAL, finish, text

#: Of the commonest classes; all others are clear.
SHADES = tuple(colour for colour in COLOURS if colour != NEUTRAL)
CLEAR = "rgba(0,0,0,0)"
OPACITY = 0.5
# Pixels of the picture's longer side.
LONGER_SIDE = 620


def class_mosaic(lens: ClassLens, block: int = -1, image: int = 0, site: str | None = None) -> go.Figure:
    """The top-1 class of each patch as a colour over the picture; the most frequent classes have colours.

    Args:
        lens: with every patch: `class_lens(model, images)`.
        block: by its place among the lens' blocks.

    Raises:
        InputError: the lens was not taken at all patches, or has no ranks.
    """
    index, patches, pixels = lens.site_index(site), lens.patch_places(), lens.picture(image)
    grid = (lens.grid[0], lens.grid[1])
    names = [lens.top_names(block, token, image, site)[0] for token in range(len(lens.axes["token"]))]
    logits = lens.ranked().top_logits[index, block, image, :, 0]
    said = Counter(names[token] for token in patches)
    coloured = [name for name, _ in said.most_common(len(SHADES))]
    shades = [*SHADES[: len(coloured)], CLEAR]
    codes = [coloured.index(names[token]) if names[token] in coloured else len(coloured) for token in patches]
    hover = [f"{text(names[token], 120)}<br>logit {logits[token].item():.3f}" for token in patches]
    tiles = patch_heatmap(
        np.reshape(codes, grid), "%{customdata}", OPACITY, zmin=-0.5, zmax=len(shades) - 0.5, showscale=False,
        colorscale=[[(i + side) / len(shades), shade] for i, shade in enumerate(shades) for side in (0, 1)],
        customdata=np.reshape(hover, grid),
    )  # fmt: skip
    figure = go.Figure().set_subplots(1, 1)
    figure.add_trace(tiles, row=1, col=1)
    add_picture(figure, picture_uri(pixels, grey=True), grid)
    keep_shape(figure, pixels, grid)
    for name, shade in zip(coloured, shades, strict=False):
        entry = f"{text(short_name(name), 28)} ({said[name]})"
        marker = {"color": shade, "size": 13, "symbol": "square", "opacity": 0.75}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=entry), row=1, col=1)
    prefix = [token for token in range(len(names)) if token not in set(patches)]
    others = ", ".join(f"{text(lens.axes['token'][token])}: {text(short_name(names[token]))}" for token in prefix[:4])
    where = f"{site_in_words(lens.axes['site'][index])} ({text(lens.axes['site'][index])}), read"
    rest = f"; {len(said) - len(coloured)} rarer classes have no colour" if len(said) > len(coloured) else ""
    return finish(
        figure,
        f"The top-1 class of each patch after block {lens.axes['block'][block]}",
        f"{text(lens.settings['model'])}; {where} patch by patch: {len(said)} of {lens.n_classes:,} classes{rest}"
        + (f"<br>top-1 class of the other tokens: {others}" if others else ""),
        height=int(130 + LONGER_SIDE * min(1.0, aspect(pixels))),
        margin={"l": 10, "r": 10, "t": 110, "b": 20},
        legend={"x": 1.0, "y": 1.0, "title": {"text": "class (patches)"}},
    )
