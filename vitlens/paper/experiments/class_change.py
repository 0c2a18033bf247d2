"""How the class's identifiability changes from block to block, and by what attention and MLP write."""

import pandas as pd
import plotly.graph_objects as go

from vitlens.lens.measures import change_values, picture_means, sublayer_change_values
from vitlens.paper.experiment import Arrays, Batch, Experiment, Tables, stack_means
from vitlens.paper.figures.lens import change_rates, sublayer_changes
from vitlens.paper.store import Records

GROUPS = ("class token", "patches")


class ClassChange(Experiment):
    name = "class_change"
    title = "Class-similarity change"
    question = "Where the logit of the class rises: from block to block, and by what attention and the MLP write."

    def measure(self, batch: Batch) -> Arrays:
        compat = self.settings.paper_compat
        blocks = picture_means(batch.trace, change_values(batch.trace), compat)
        sublayers = picture_means(batch.trace, sublayer_change_values(batch.trace, compat), compat)
        return stack_means(blocks, self.own("")) | stack_means(sublayers, self.own(""))

    def tables(self, records: Records) -> Tables:
        groups = [group for group in GROUPS if self.own(f"change_rate/{group}") in records]
        change = [
            self.summary(records[self.own(f"change_rate/{group}")], {"block": self.blocks[1:]}).assign(tokens=group)
            for group in groups
        ]
        sublayer = [
            self.summary(records[self.own(f"{part}/{group}")], {"block": self.blocks}).assign(tokens=group, part=part)
            for group in groups
            for part in ("attention", "mlp")
        ]
        return {
            "change_rate": pd.concat(change, ignore_index=True),
            "sublayer_change": pd.concat(sublayer, ignore_index=True),
        }

    def figures(self, tables: Tables) -> dict[str, go.Figure]:
        name = self.model.cfg.model_name
        return {
            "change_rates": change_rates({name: tables["change_rate"]}),
            "sublayer_changes": sublayer_changes({name: tables["sublayer_change"]}),
        }
