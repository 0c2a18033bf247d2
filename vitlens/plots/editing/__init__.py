"""Figures of finding and fixing: the parts that carry a shortcut."""

from vitlens.editing.search.shortcut_result import Shortcut
from vitlens.plots.editing.shortcut import shortcut_board

FIGURES = {Shortcut: shortcut_board}
