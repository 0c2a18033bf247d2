"""What an example on a page prints of its result, in a line that the page hides."""

import pandas as pd
from plotly.graph_objects import Figure

from vitlens.plots.shared.style import CONFIG


def html(result: Figure | pd.DataFrame, index: bool = True) -> str:
    """A figure, whose script the page has, or a table."""
    if isinstance(result, Figure):
        return result.to_html(include_plotlyjs=False, full_html=False, config=CONFIG)
    return result.to_html(index=index, border=0)
