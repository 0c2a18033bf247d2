"""Attention and MLP as key-value memories of classes."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Int
from torch import Tensor

from vitlens.memories.memories import (
    ORIENTATIONS,
    Memories,
    MemoryObserver,
    class_value_agreement,
    compare_with_random,
    read_memories,
)
from vitlens.model.hooks.hook_points import Hooks
from vitlens.paper.experiment import Arrays, Batch, Context, Experiment, Tables
from vitlens.paper.figures.memories import (
    agreement_difference,
    agreement_rates,
    class_value_boxes,
    composition_lines,
    memory_overview,
)
from vitlens.paper.store import Records
from vitlens.statistics import permutation_test

NAMED_MEMORIES = 20


class MemoriesOfClasses(Experiment):
    name = "memories"
    title = "Layers as key-value memories"
    question = "Attention and MLP as key-value memories of classes."
    uses_random_models = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.memories = Memories.of(self.model, paper_compat=self.settings.paper_compat)

    @property
    def usual(self) -> tuple[str, str]:
        """Orientation and MLP coefficients that the figures show: the definition's, or the released code's."""
        return ("memories_of_class", "pre") if self.settings.paper_compat else ("classes_of_keys", "post")

    def hooks(self, labels: Int[Tensor, "image"]) -> Hooks:
        self._observer = MemoryObserver(self.model)
        return self._observer.hooks()

    def measure(self, batch: Batch) -> Arrays:
        tables: dict[str, list[Tensor]] = {}
        chance = self._random_labels(batch)
        class_token = self.model.cfg.prefix_tokens.index("class") if self.model.cfg.has_class_token else None
        for (part, block, coefficients), fired in self._observer.fired.items():
            key = (part, block)
            name = f"{part}/{coefficients}"
            composed = self.memories.composed(key, fired, batch.trace.first[f"{part}_out", block])
            tables.setdefault(f"{name}/composition", []).append(composed.float().mean(dim=1))
            for orientation in ORIENTATIONS:
                agrees = self.memories.agree(key, fired, batch.labels, orientation).float()
                by_chance = self.memories.agree(key, fired, chance, orientation).float()
                tables.setdefault(f"{name}/{orientation}/all", []).append(agrees.mean(dim=1))
                tables.setdefault(f"{name}/{orientation}/random", []).append(by_chance.mean(dim=1))
                if class_token is not None:
                    tables.setdefault(f"{name}/{orientation}/class", []).append(agrees[:, class_token])
        self._observer.fired.clear()
        return {self.own(name): torch.stack(by_block, dim=1) for name, by_block in tables.items()}

    def _random_labels(self, batch: Batch) -> Tensor:
        """A class drawn for every picture from its place in the data set."""
        n_classes, seed = self.model.cfg.n_classes, self.settings.seed
        drawn = [np.random.default_rng([seed, key]).integers(n_classes) for key in batch.keys]
        return torch.tensor(drawn, device=batch.labels.device)

    def tables(self, records: Records) -> Tables:
        rates, differences, compositions = [], [], []
        correct = records["prediction"] == records["label"]
        for part, coefficients in [("attn", "z"), ("mlp", "post"), ("mlp", "pre")]:
            name = f"{part}/{coefficients}"
            composition = self.summary(records[self.own(f"{name}/composition")], {"block": self.blocks}, scale=100.0)
            compositions.append(composition.assign(part=part, coefficients=coefficients))
            for orientation in ORIENTATIONS:
                about = {"part": part, "coefficients": coefficients, "orientation": orientation}
                for tokens in ("all", "class"):
                    record = self.own(f"{name}/{orientation}/{tokens}")
                    if record not in records:
                        continue
                    values = records[record]
                    table = self.summary(values, {"block": self.blocks}, scale=100.0).assign(**about, tokens=tokens)
                    if tokens == "all":
                        table["random_mean"] = 100 * records[self.own(f"{name}/{orientation}/random")].mean(axis=0)
                    rates.append(table)
                    if tokens == "class" or not self.model.cfg.has_class_token:
                        differences.append(self._difference(values, correct).assign(**about, tokens=tokens))
        classes = class_value_agreement(self.model, paper_compat=self.settings.paper_compat)
        tables = {
            "key_value_rate": pd.concat(rates, ignore_index=True),
            "key_value_by_class": self._by_class(records),
            "key_value_correct": pd.concat(differences, ignore_index=True),
            "memory_composition": pd.concat(compositions, ignore_index=True),
            "class_value": classes,
            "value_vectors": self._named(),
        }
        if self.context.random_models:
            fresh = class_value_agreement(self.context.random_models[0], paper_compat=self.settings.paper_compat)
            tables["class_value_tests"] = compare_with_random(classes, fresh)
        return tables

    def _difference(self, values: np.ndarray, correct: np.ndarray) -> pd.DataFrame:
        """The rate of correctly minus that of wrongly classified pictures, in percent (Methods C3)."""
        right, wrong = values[correct], values[~correct]
        rows = []
        for block in self.blocks:
            if not len(right) or not len(wrong):
                rows.append({"block": block, "difference": np.nan, "p": np.nan})
                continue
            test = permutation_test(
                right[:, block].astype(np.float64),
                wrong[:, block].astype(np.float64),
                n_draws=self.settings.n_permutations,
                seed=self.settings.seed,
                paper_compat=self.settings.paper_compat,
            )
            rows.append({"block": block, "difference": 100 * test.difference, "p": test.p})
        table = pd.DataFrame(rows)
        return table.assign(n_correct=len(right), n_wrong=len(wrong))

    def _by_class(self, records: Records) -> pd.DataFrame:
        """The means of every class's pictures: the dots of the figure."""
        orientation, coefficients = self.usual
        labels = records["label"]
        tables = []
        for part, name in [("attn", "z"), ("mlp", coefficients)]:
            values = pd.DataFrame(100 * records[self.own(f"{part}/{name}/{orientation}/all")], columns=self.blocks)
            means = values.groupby(labels).mean().rename_axis("class_index").reset_index()
            tables.append(means.melt("class_index", var_name="block", value_name="rate").assign(part=part))
        return pd.concat(tables, ignore_index=True)

    def _named(self) -> pd.DataFrame:
        """The strongest value vectors of the last blocks' MLPs, by the names of the classes they promote (Methods C5)."""
        blocks = self.blocks[-3:]
        tables = []
        for block in blocks:
            named = read_memories(self.model, block, part="mlp")
            tables.append(named[named["memory"].isin(named["memory"].unique()[:NAMED_MEMORIES])].assign(block=block))
        return pd.concat(tables, ignore_index=True)

    def figures(self, tables: Tables) -> dict[str, go.Figure]:
        name = self.model.cfg.model_name
        rates = self._usual_rows(tables["key_value_rate"])
        figures = {
            "class_value": class_value_boxes({name: tables["class_value"]}),
            "key_value_rate": agreement_rates({name: tables["key_value_by_class"]}),
            "memory_overview": memory_overview({name: tables["class_value"]}, {name: rates.query("tokens == 'all'")}),
            "memory_composition": composition_lines({name: self._usual_rows(tables["memory_composition"])}),
        }
        differences = self._usual_rows(tables["key_value_correct"])
        if differences["difference"].notna().any():
            figures["key_value_correct"] = agreement_difference({name: differences})
        return figures

    def _usual_rows(self, table: pd.DataFrame) -> pd.DataFrame:
        orientation, coefficients = self.usual
        chosen = table[table["coefficients"].isin(["z", coefficients])]
        return chosen[chosen["orientation"] == orientation] if "orientation" in chosen else chosen
