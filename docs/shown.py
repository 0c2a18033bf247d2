"""How an example on a page shows its result: in a line that the page hides, and that its source does not have."""

import ast
import re

import pandas as pd
from plotly.graph_objects import Figure

from vitlens.plots.shared.style import CONFIG

#: An example that shows a figure or a table, and its code.
EXAMPLE = re.compile(r'^```python exec="true" html="true"[^\n]*\n(.*?)(?=^```$)', re.MULTILINE | re.DOTALL)


def showing_results(markdown: str) -> str:
    """Lets each example show the figure or table that it assigns last.

    Raises:
        ValueError: an example ends with something else.
    """
    return EXAMPLE.sub(lambda example: f"{example[0]}{hidden(assigned_last(example[1]))}\n", markdown)


def assigned_last(code: str) -> str:
    match ast.parse(code).body[-1]:
        case ast.Assign(targets=[ast.Name(name)]):
            return name
    raise ValueError(f"an example on a page ends by assigning what it shows, unlike this one:\n{code}")


def hidden(name: str) -> str:
    return f"from shown import html; print(html({name}))  # markdown-exec: hide"


def html(result: Figure | pd.DataFrame) -> str:
    """A figure, whose script the page has, or a table, without rows' numbers."""
    if isinstance(result, Figure):
        return result.to_html(include_plotlyjs=False, full_html=False, config=CONFIG)
    numbers = result.index.name is None and pd.api.types.is_integer_dtype(result.index)
    return result.to_html(index=not numbers, border=0)
