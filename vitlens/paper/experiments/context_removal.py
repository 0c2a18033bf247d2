"""Identifiability of the class and accuracy without the context, or without the object (Methods B2)."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from vitlens.paper.experiment import Arrays, Batch, Experiment, Tables, no_grad_forward
from vitlens.paper.figures.interventions import intervention_bars
from vitlens.paper.store import Records
from vitlens.removal.tokens import TOKEN_REPLACEMENTS, KeptRanks, TokenAblation, ablate_tokens, kept_ranks

SETS = ("context", "object")


class ContextRemoval(Experiment):
    name = "context_removal"
    title = "Context and object removed or replaced"
    question = "How the class and the prediction change without the context, or without the object."
    uses_masks = needs_masks = True

    def measure(self, batch: Batch) -> Arrays:
        """By (what goes, how): how many of the patches that stay have the class first, before and after, and the decision.

        "mean" is that of the chunk, "other" the next picture of the chunk: both the same however a run is split.
        """
        assert batch.object_patches is not None
        assert batch.context_patches is not None
        n_prefix = self.model.cfg.n_prefix_tokens
        last = batch.trace.ranks["resid_post", self.model.cfg.n_layers - 1]
        first = last[:, n_prefix:] == 0
        found: Arrays = {self.own("correct"): batch.correct.float()}
        others = batch.images.roll(-1, dims=0)
        for name in SETS:
            goes = batch.object_patches if name == "object" else batch.context_patches
            found[self.own(f"{name}/before")] = torch.stack([(first & ~goes).sum(1), (~goes).sum(1)], dim=1).int()
            tokens = torch.nn.functional.pad(goes, (n_prefix, 0))
            for how in TOKEN_REPLACEMENTS:
                run = self._ablate(batch, tokens, how, others)
                counts = [((run.ranks == 0) & run.kept).sum(1), run.kept.sum(1)]
                found[self.own(f"{name}/{how}/after")] = torch.stack(counts, dim=1).int()
                found[self.own(f"{name}/{how}/correct")] = run.correct.float()
                if self.settings.paper_compat and run.class_token_ranks is not None:
                    found[self.own(f"{name}/{how}/class_token_first")] = (run.class_token_ranks == 0).float()
        return found

    def _ablate(self, batch: Batch, tokens: torch.Tensor, how: str, others: torch.Tensor) -> TokenAblation | KeptRanks:
        if tokens.any():
            return ablate_tokens(
                self.model,
                batch.images,
                batch.labels,
                tokens=tokens,
                replacement=how,
                others=others if how == "other" else None,
                batch_size=len(batch.images),
                progress=False,
            )
        # No picture of the chunk has such a patch, so nothing is removed.
        stream = no_grad_forward(self.model, batch.images, [], stop_at_layer=0)
        with torch.no_grad():
            return kept_ranks(
                self.model, stream, ~tokens[:, self.model.cfg.n_prefix_tokens :], batch.labels, batch.grid
            )

    def tables(self, records: Records) -> Tables:
        rows = [self._row("nothing", "", None, None, records[self.own("correct")], None)]
        for name in SETS:
            before = records[self.own(f"{name}/before")]
            for how in TOKEN_REPLACEMENTS:
                after = records[self.own(f"{name}/{how}/after")]
                extra = self.own(f"{name}/{how}/class_token_first")
                rows.append(
                    self._row(
                        f"{how} {name}", name, before, after, records[self.own(f"{name}/{how}/correct")],
                        _column(records, extra),
                    )
                )  # fmt: skip
        return {"context_removal": pd.DataFrame(rows)}

    def _row(
        self,
        what: str,
        removed: str,
        before: np.ndarray | None,
        after: np.ndarray | None,
        correct: np.ndarray,
        class_token_first: np.ndarray | None,
    ) -> dict[str, object]:
        row: dict[str, object] = {"intervention": what, "removed": removed}
        accuracy = self.summary(correct[:, None], {"": [0]}, scale=100.0).iloc[0]
        row |= {f"accuracy_percent{end}": accuracy[key] for key, end in ENDS.items()}
        if before is None or after is None:
            return row
        for label, pair in {"rate": after, "unperturbed_rate": before}.items():
            with np.errstate(invalid="ignore"):
                share = np.where(pair[:, 1] > 0, pair[:, 0] / np.maximum(pair[:, 1], 1), np.nan)
            if class_token_first is not None and label == "rate":
                # As released: the class token counts among what is left, and the reference is pooled over tokens.
                share = (pair[:, 0] + class_token_first) / (pair[:, 1] + 1)
            if class_token_first is not None and label == "unperturbed_rate":
                interval = self.summary(pair[:, :1].astype(float), {"": [0]}, pair[:, 1:].astype(float), 100.0).iloc[0]
            else:
                interval = self.summary(share[:, None], {"": [0]}, scale=100.0).iloc[0]
            row |= {f"{label}_percent{end}": interval[key] for key, end in ENDS.items()}
        return row

    def figures(self, tables: Tables) -> dict[str, go.Figure]:
        of_model = {self.model.cfg.model_name: tables["context_removal"]}
        return {
            "context_removal": intervention_bars(of_model, "intervention", "Context and object removed or replaced")
        }


def _column(records: Records, name: str) -> np.ndarray | None:
    """A record that only `paper_compat` keeps."""
    if name not in records:
        return None
    return records[name]


ENDS = {"mean": "", "low": "_low", "high": "_high"}
