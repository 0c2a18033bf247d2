"""How identifiable the true class is at every token, block by block, compared with re-initialised models."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy import stats

from vitlens.lens.measures import identifiability_values, picture_means
from vitlens.lens.trace import SiteTables, TraceObserver
from vitlens.paper.experiment import Arrays, Batch, Experiment, Tables, no_grad_forward, rank_quantiles
from vitlens.paper.figures.lens import identifiability_boxes, identifiability_curves
from vitlens.paper.store import Records


class ClassIdentifiability(Experiment):
    name = "class_identifiability"
    title = "Class identifiability"
    question = "How identifiable the true class is at every token, block by block, compared with re-initialised models."
    uses_random_models = True

    def measure(self, batch: Batch) -> Arrays:
        found = self._of_trace(batch.trace, "trained")
        for seed, fresh in enumerate(self.context.random_models):
            observer = TraceObserver(fresh, batch.labels, batch.grid)
            no_grad_forward(fresh, batch.images, observer.hooks(sites=("resid_post",)), fresh.cfg.n_layers)
            found |= self._of_trace(observer.trace(), f"random {seed}")
        return found

    def _of_trace(self, trace: SiteTables, which: str) -> Arrays:
        """Means of 1 − rank/C by group, and the share of patches at rank 0 with whether there is one, by block."""
        compat = self.settings.paper_compat
        means = picture_means(trace, identifiability_values(trace), compat)
        first = {"first": {b: (trace.ranks["resid_post", b] == 0).double() for b in self.blocks}}
        shares = picture_means(trace, first, compat)
        found = {self.own(f"{which}/{group}"): values.float() for (group, _), values in means.items()}
        found |= {self.own(f"{which}/first/{group}"): values.float() for (group, _), values in shares.items()}
        return found

    def tables(self, records: Records) -> Tables:
        return {"identifiability": self._by_block(records), "identifiability_rate": self._rates(records)}

    def _by_block(self, records: Records) -> pd.DataFrame:
        tables = []
        for group, boxes in self._boxes(records).items():
            trained = records[self.own(f"trained/{group}")]
            table = self.summary(trained, {"block": self.blocks})
            random = [records[self.own(f"random {seed}/{group}")] for seed in range(len(self.context.random_models))]
            if random:
                mean = np.mean(random, axis=0)
                table["random_mean"] = mean.mean(axis=0)
                table["p_above_random"] = [_wilcoxon(trained[:, b], mean[:, b]) for b in self.blocks]
            tables.append(pd.concat([table, boxes], axis=1).assign(tokens=group))
        return pd.concat(tables, ignore_index=True)

    def _boxes(self, records: Records) -> dict[str, pd.DataFrame]:
        """Quantiles over all tokens of all pictures, from how often each rank occurs."""
        n_classes = self.model.cfg.n_classes
        groups = {"patches": "ranks"} | ({"class token": "class_token_ranks"} if "class_token_ranks" in records else {})
        found = {}
        for group, name in groups.items():
            counts = np.zeros((len(self.blocks), n_classes), dtype=np.int64)
            for chunk in records.chunks(name):
                ranks = chunk[name].reshape(len(chunk[name]), len(self.blocks), -1)
                for block in self.blocks:
                    counts[block] += np.bincount(ranks[:, block].ravel(), minlength=n_classes)
            found[group] = pd.DataFrame([rank_quantiles(row) for row in counts])
        return found

    def _rates(self, records: Records) -> pd.DataFrame:
        """Methods A3 in the last block; the model itself, then one row per random model."""
        rows = []
        for which in ["trained", *[f"random {seed}" for seed in range(len(self.context.random_models))]]:
            share = records[self.own(f"{which}/first/patches")][:, -1]
            row = {"model": which}
            for name, values in {"rate_percent": share, "images_with_one_percent": (share > 0).astype(float)}.items():
                interval = self.summary(values[:, None], {"": [0]}, scale=100.0).iloc[0]
                row |= {name: interval["mean"], f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
            if which == "trained":
                row["accuracy_percent"] = 100 * (records["prediction"] == records["label"]).mean()
            rows.append(row)
        return pd.DataFrame(rows)

    def figures(self, tables: Tables) -> dict[str, go.Figure]:
        of_model = {self.model.cfg.model_name: tables["identifiability"]}
        return {
            "identifiability_boxes": identifiability_boxes(of_model),
            "identifiability_curves": identifiability_curves(of_model),
        }


def _wilcoxon(trained: np.ndarray, random: np.ndarray) -> float:
    """Wilcoxon's test of paired pictures, not of tokens, because the tokens of one picture are not independent."""
    if len(trained) < 2 or not (trained != random).any():
        return 1.0
    return float(stats.wilcoxon(trained, random, alternative="greater").pvalue)
