"""The object that `explore_graph` returns: the graphs, and the page about them."""

import html
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from vitlens.circuits.graphs.graph import AttributionGraph
from vitlens.files import check_writable, write_whole
from vitlens.pages.graph.measured import MeasuredGraphs
from vitlens.pages.graph.page import graph_page
from vitlens.pages.one_file import pack_tensors


class GraphExplorer:
    """`graphs` of one or several pictures, and their page; see `explore_graph`."""

    def __init__(self, graphs: Sequence[AttributionGraph], measured: MeasuredGraphs) -> None:
        self.graphs = list(graphs)
        self.facts, self.tensors, self.crops = measured.facts, measured.tensors, measured.crops

    def to_html(self) -> str:
        """The page as text."""
        return graph_page(self.facts, self.packed, self.crops)

    @cached_property
    def packed(self) -> bytes:
        """The numbers as the page reads them."""
        return pack_tensors(self.tensors)

    def save(self, path: str | Path) -> None:
        """Writes the page: one HTML file that needs no network.

        Raises:
            InputError: the folder does not exist or cannot be written to.
        """
        check_writable(path)
        write_whole(path, self.to_html().encode(errors="backslashreplace"))

    def _repr_html_(self) -> str:
        """The page in a frame of its own."""
        return (
            f'<iframe srcdoc="{html.escape(self.to_html())}" title="vitlens attribution graph" '
            'style="width: 100%; height: 900px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        pictures = "1 picture" if len(self.graphs) == 1 else f"{len(self.graphs)} pictures"
        units = sum(len(graph.units) for graph in self.graphs)
        return f"GraphExplorer({units:,} {self.facts['unit_kind']}s of {pictures}; .save(path) writes the page)"
