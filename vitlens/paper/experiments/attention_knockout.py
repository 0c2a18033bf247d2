"""Identifiability of the class and accuracy when attention edges are cut (Methods B1)."""

import pandas as pd
import plotly.graph_objects as go
import torch

from vitlens.data.masks import Masks
from vitlens.lens.trace import TraceObserver
from vitlens.paper.experiment import Arrays, Batch, Experiment, Tables, no_grad_forward
from vitlens.paper.figures.interventions import intervention_bars
from vitlens.paper.store import Records
from vitlens.removal.knockouts import Edges, knockout_hooks


class AttentionKnockout(Experiment):
    name = "attention_knockout"
    title = "Attention knockouts"
    question = (
        "How well the patches identify the class, and whether it is still predicted, when attention edges are cut."
    )
    uses_masks = True

    @property
    def knockouts(self) -> dict[str, str | Edges]:
        """The two published ones, and where there are masks and a class token: it does not see context, or object."""
        has_class = self.model.cfg.has_class_token
        chosen: dict[str, str | Edges] = {"self_only": "self_only"}
        if has_class:
            chosen["no_cls"] = "no_cls"
        if has_class and self.context.pictures.has_masks:
            chosen |= {
                "class token blind to context": Edges("class", "context"),
                "class token blind to object": Edges("class", "object"),
            }
        return chosen

    def measure(self, batch: Batch) -> Arrays:
        last = self.model.cfg.n_layers - 1
        found = self._keep("none", batch.trace.ranks["resid_post", last], batch.correct)
        for name, edges in self.knockouts.items():
            observer = TraceObserver(self.model, batch.labels, batch.grid)
            masks = None
            # The published knockouts read no masks.
            if isinstance(edges, Edges) and batch.object_patches is not None and batch.context_patches is not None:
                inside, around = batch.object_patches, batch.context_patches
                masks = Masks(*(patches.unflatten(1, batch.grid) for patches in (inside, ~(inside | around))))
            cut = (
                []
                if self._nothing_to_cut(edges, batch)
                else knockout_hooks(self.model, batch.images, edges=edges, masks=masks, progress=False)
            )
            logits = no_grad_forward(
                self.model, batch.images, cut + observer.hooks(blocks=[last], sites=("resid_post",))
            )
            found |= self._keep(name, observer.trace().ranks["resid_post", last], logits.argmax(1) == batch.labels)
        return found

    @staticmethod
    def _nothing_to_cut(edges: str | Edges, batch: Batch) -> bool:
        """Whether no picture of the chunk has a patch that the class token is to be blinded to."""
        if isinstance(edges, str) or batch.object_patches is None or batch.context_patches is None:
            return False
        wanted = batch.object_patches if edges.keys == "object" else batch.context_patches
        return not bool(wanted.any())

    def _keep(self, name: str, ranks: torch.Tensor, correct: torch.Tensor) -> Arrays:
        # The released code counts the class token among the tokens of perturbed runs, but not of the plain one.
        with_class_token = self.settings.paper_compat and name != "none"
        tokens = ranks if with_class_token else ranks[:, self.model.cfg.n_prefix_tokens :]
        return {
            self.own(f"{name}/rate"): (tokens == 0).float().mean(dim=1),
            self.own(f"{name}/correct"): correct.float(),
        }

    def tables(self, records: Records) -> Tables:
        rows = []
        for name in ["none", *self.knockouts]:
            row: dict[str, object] = {"knockout": name}
            for quantity in ("rate", "correct"):
                interval = self.summary(records[self.own(f"{name}/{quantity}")][:, None], {"": [0]}, scale=100.0).iloc[
                    0
                ]
                label = {"rate": "rate_percent", "correct": "accuracy_percent"}[quantity]
                row |= {label: interval["mean"], f"{label}_low": interval["low"], f"{label}_high": interval["high"]}
            rows.append(row)
        return {"attention_knockout": pd.DataFrame(rows)}

    def figures(self, tables: Tables) -> dict[str, go.Figure]:
        of_model = {self.model.cfg.model_name: tables["attention_knockout"]}
        return {"attention_knockout": intervention_bars(of_model, "knockout", "Attention knockouts")}
