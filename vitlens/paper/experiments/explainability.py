"""Heatmaps by projection-gradient and gradient rollout, and what removing patches in their order does."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Int
from torch import Tensor

from vitlens.data.class_names import short_name
from vitlens.data.decoded_batches import decode_rows
from vitlens.faithfulness.perturbation import area, removal_steps, remove_in_order
from vitlens.heatmaps.methods.baselines import random_importance
from vitlens.heatmaps.methods.projection_gradient import ProjectionGradientObserver
from vitlens.heatmaps.run import find_method, heatmap
from vitlens.model.hooks.hook_points import Hooks
from vitlens.paper.experiment import Arrays, Batch, Experiment, Tables
from vitlens.paper.store import Records
from vitlens.plots.heatmaps import heatmap_comparison
from vitlens.plots.perturbation import perturbation_curves

N_EXAMPLES = 3
PAPER_METHODS = ("projection_gradient", "gradient_rollout")


class Explainability(Experiment):
    name = "explainability"
    title = "Which patches the class came from"
    question = "Heatmaps by projection-gradient and gradient rollout, and what removing patches in their order does."

    def hooks(self, labels: Int[Tensor, "image"]) -> Hooks:
        self._observer = ProjectionGradientObserver(self.model)
        return self._observer.hooks()

    def measure(self, batch: Batch) -> Arrays:
        target = batch.labels if self.settings.heatmap_classes == "label" else batch.logits.argmax(dim=1)
        loss = "double_softmax" if self.settings.paper_compat else "cross_entropy"
        with torch.no_grad():
            maps = self._observer.importance(target[:, None], loss)[:, 0].sum(dim=(1, 2))
        del self._observer
        with one_thread():
            rollout = heatmap(
                self.model, batch.images, target, method="gradient_rollout", warn=False, progress=False
            ).patches()
        importance = {"projection_gradient": maps, "gradient_rollout": rollout}
        found: Arrays = {}
        for method, values in importance.items():
            found[self.own(f"map/{method}")] = values.detach().half()
            found |= curves_of(self, method, batch, values.detach(), target)
        for seed in range(self.settings.n_random_orders):
            order = random_importance(batch.keys, maps.shape[1], seed, shared=self.settings.paper_compat)
            found |= curves_of(self, f"random {seed}", batch, order, target, ("negative",))
        return found

    def tables(self, records: Records) -> Tables:
        curves = curve_tables(self, records, PAPER_METHODS, self.settings.n_random_orders)
        return {"perturbation_curves": curves[0], "perturbation_areas": curves[1]}

    def figures(self, tables: Tables) -> dict[str, go.Figure]:
        of_model = {self.model.cfg.model_name: tables["perturbation_curves"]}
        return {"perturbation": perturbation_curves(of_model)}

    def examples(self, records: Records) -> dict[str, go.Figure]:
        """The maps of the first pictures that could be read."""
        settings = self.settings
        maps = next(
            records.chunks("key", "label", "prediction", *[self.own(f"map/{method}") for method in PAPER_METHODS])
        )
        chunk = int(maps["key"][0]) // settings.batch_size
        rows = next(rows for number, rows in self.context.pictures.chunks(settings.batch_size) if number == chunk)
        batch = decode_rows(
            rows,
            chunk * settings.batch_size,
            self.context.preprocessing,
            self.model.patch_grid(),
            with_masks=False,
        )
        assert not isinstance(batch, list)
        found = {}
        for i in range(min(N_EXAMPLES, len(batch.images))):
            values = np.stack([maps[self.own(f"map/{method}")][i] for method in PAPER_METHODS]).astype(np.float32)
            target = maps["label" if settings.heatmap_classes == "label" else "prediction"][i]
            methods = [find_method(name) for name in PAPER_METHODS]
            on_grid = torch.from_numpy(values).unflatten(-1, self.model.cfg.grid_size)
            found[f"heatmaps_{i}"] = heatmap_comparison(
                self.model.to_pixels(batch.images[i : i + 1])[0],
                {method.title: one for method, one in zip(methods, on_grid, strict=True)},
                signed=[method.title for method in methods if method.signed],
                class_name=short_name(self.model.class_label(int(target))),
                model_name=self.model.cfg.model_name,
            )
        return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Backward passes sum in an order that depends on the number of threads, and the tables must not depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def curves_of(
    experiment: Experiment,
    method: str,
    batch: Batch,
    importance: Tensor,
    target: Int[Tensor, "image"],
    perturbations: tuple[str, ...] = ("negative", "positive"),
) -> Arrays:
    """Methods D3 of a chunk: whether the target is predicted, and its probability, [image, removed], by perturbation."""
    # One map of thousands that is the same everywhere does not end the run: its patches go in reading order.
    test = remove_in_order(
        experiment.model,
        batch.images,
        importance,
        target,
        n_steps=experiment.settings.n_steps,
        perturbations=perturbations,
        progress=False,
    )
    found: Arrays = {}
    for i, perturbation in enumerate(perturbations):
        found[experiment.own(f"{method}/{perturbation}/accuracy")] = test.values[i].bool()
        found[experiment.own(f"{method}/{perturbation}/probability")] = test.probabilities[i].half()
    return found


def curve_tables(
    experiment: Experiment, records: Records, methods: tuple[str, ...], n_random: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean curves, and areas under them with intervals over pictures. Random orders are averaged over their seeds."""
    grid = experiment.model.cfg.grid_size
    n_patches = grid[0] * grid[1]
    removed = [step / n_patches for step in removal_steps(n_patches, experiment.settings.n_steps)]
    compat = experiment.settings.paper_compat
    curves, areas = [], []
    series = [
        (method, perturbation, [f"{method}/{perturbation}"])
        for method in methods
        for perturbation in ("negative", "positive")
    ]
    if n_random:
        series.append(("random", "either", [f"random {seed}/negative" for seed in range(n_random)]))
    for method, perturbation, names in series:
        row: dict[str, object] = {"method": method, "perturbation": perturbation}
        for quantity in ("accuracy", "probability"):
            values = np.mean(
                [records[experiment.own(f"{name}/{quantity}")].astype(np.float64) for name in names], axis=0
            )
            table = experiment.summary(values, {"removed": removed})
            curves.append(table.assign(method=method, perturbation=perturbation, quantity=quantity))
            under = area(torch.from_numpy(values), removed).numpy()
            interval = experiment.summary(under[:, None], {"": [0]}).iloc[0]
            row |= {f"{quantity}_area": interval["mean"]}
            row |= {f"{quantity}_area_low": interval["low"], f"{quantity}_area_high": interval["high"]}
            if compat and quantity == "accuracy":
                # Divided by the maximum of the mean curve, so it has no value for single pictures.
                row["published_area"] = area(torch.from_numpy(values.mean(axis=0)), removed, paper_compat=True).item()
        areas.append(row)
    return pd.concat(curves, ignore_index=True), pd.DataFrame(areas)
