"""Figures of finding and fixing: the parts that carry a shortcut, and what edits do to each group of pictures."""

from vitlens.editing.evaluation import EditEvaluation
from vitlens.editing.repairs import Repair
from vitlens.editing.search.shortcut_result import Shortcut
from vitlens.plots.editing.evaluation import edit_accuracies, edit_changes
from vitlens.plots.editing.repair import dose_curves, repair_table, repair_trade_off
from vitlens.plots.editing.shortcut import shortcut_board

FIGURES = {
    Shortcut: shortcut_board,
    EditEvaluation: {"accuracies": edit_accuracies, "changes": edit_changes},
    Repair: {"doses": dose_curves, "trade_off": repair_trade_off, "table": repair_table},
}
