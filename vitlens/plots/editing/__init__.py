"""Figures of finding and fixing: what edits do to each group of pictures, and how one of them was chosen."""

from vitlens.editing.evaluation import EditEvaluation
from vitlens.editing.repair import Repair
from vitlens.plots.editing.evaluation import edit_accuracies, edit_changes
from vitlens.plots.editing.repair import dose_curves, repair_table, repair_trade_off

FIGURES = {
    EditEvaluation: {"accuracies": edit_accuracies, "changes": edit_changes},
    Repair: {"doses": dose_curves, "trade_off": repair_trade_off, "table": repair_table},
}
