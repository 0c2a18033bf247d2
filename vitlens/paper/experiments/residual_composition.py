"""Which sublayer's top-1 class becomes the residual stream's top-1 class, block by block (Methods A7)."""

import pandas as pd
import plotly.graph_objects as go

from vitlens.lens.measures import composition_values, picture_means
from vitlens.paper.experiment import Arrays, Batch, Experiment, Tables, stack_means
from vitlens.paper.figures.lens import composition_curves
from vitlens.paper.store import Records

SOURCES = ("previous", "attention", "mlp", "composed")


class ResidualComposition(Experiment):
    name = "residual_composition"
    title = "Residual-stream composition"
    question = (
        "Which sublayer's top-1 class the residual stream takes in each block: attention's, the MLP's, its own or a "
        "new one."
    )

    def measure(self, batch: Batch) -> Arrays:
        compat = self.settings.paper_compat
        return stack_means(picture_means(batch.trace, composition_values(batch.trace, compat), compat), self.own(""))

    def tables(self, records: Records) -> Tables:
        tables = [
            self.summary(records[self.own(f"{source}/{group}")], {"block": self.blocks}).assign(
                tokens=group, source=source
            )
            for group in ("class token", "patches")
            for source in SOURCES
            if self.own(f"{source}/{group}") in records
        ]
        return {"residual_composition": pd.concat(tables, ignore_index=True)}

    def figures(self, tables: Tables) -> dict[str, go.Figure]:
        of_model = {self.model.cfg.model_name: tables["residual_composition"]}
        return {"residual_composition": composition_curves(of_model)}
