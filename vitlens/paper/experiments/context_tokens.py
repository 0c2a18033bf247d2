"""Compares tokens of the object with tokens of its context: class identifiability and attention of the class token."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.model.hooks.hook_points import Hooks, hook_name
from vitlens.paper.experiment import Arrays, Batch, Experiment, Tables, rank_quantiles
from vitlens.paper.figures.lens import attention_to_context, context_boxes
from vitlens.paper.store import Records
from vitlens.statistics import permutation_test_of_counts

PARTS = ("attn_out", "mlp_out")


class ContextTokens(Experiment):
    name = "context_tokens"
    title = "Object and context"
    question = "Compares tokens of the object and its context: class identifiability, and attention of the class token."
    uses_masks = needs_masks = True

    def hooks(self, labels: Int[Tensor, "image"]) -> Hooks:
        self._rows: dict[int, Tensor] = {}
        if not self.model.cfg.has_class_token:
            return []
        class_token = self.model.cfg.prefix_tokens.index("class")

        def keep(block: int) -> Any:
            def row(pattern: Tensor, hook: HookPoint) -> None:
                self._rows[block] = pattern[:, :, class_token, self.model.cfg.n_prefix_tokens :]

            return row

        return [(hook_name(block, "attn.pattern"), keep(block)) for block in self.blocks]

    def measure(self, batch: Batch) -> Arrays:
        """Sums over object and over context patches: identifiability, change of the logit, the class token's attention."""
        assert batch.object_patches is not None
        assert batch.context_patches is not None
        inside, around = batch.object_patches, batch.context_patches
        n_prefix, trace = self.model.cfg.n_prefix_tokens, batch.trace
        found: Arrays = {self.own("n"): torch.stack([inside.sum(1), around.sum(1)], dim=1).int()}

        def split(values: Tensor) -> Tensor:
            """[image, block, 2]: the sums inside and outside."""
            parts = [(values * where[:, None]).sum(dim=-1) for where in (inside, around)]
            return torch.stack(parts, dim=-1).double()

        ranks = torch.stack([trace.ranks["resid_post", b][:, n_prefix:] for b in self.blocks], dim=1)
        found[self.own("identifiability")] = split(1 - ranks.double() / trace.n_classes)
        for part in PARTS:
            changes = [
                (trace.logits[part, b] - trace.logits["resid_pre", b])[:, n_prefix:].double() for b in self.blocks
            ]
            found[self.own(f"change/{part}")] = split(torch.stack(changes, dim=1))
        if self._rows:
            rows = torch.stack([self._rows[b] for b in self.blocks], dim=1)
            mass = (rows * around[:, None, None]).sum(dim=-1)
            # Void patches are neither.
            judged = (rows * (inside | around)[:, None, None]).sum(dim=-1)
            found[self.own("attention")] = torch.stack([mass, judged], dim=-1).float()
        return found

    def tables(self, records: Records) -> Tables:
        tables = {"context_identifiability": self._identifiability(records), "context_change": self._change(records)}
        if self.own("attention") in records:
            tables["attention_to_context"] = self._attention(records)
        return tables

    def _difference(self, sums: np.ndarray, n: np.ndarray) -> np.ndarray:
        """Each picture's mean over object patches minus that over context patches: NaN where it has none of one kind."""
        with np.errstate(invalid="ignore", divide="ignore"):
            means = sums / n[:, None, :]
        return np.where((n.min(axis=1) > 0)[:, None], means[..., 0] - means[..., 1], np.nan)

    def _identifiability(self, records: Records) -> pd.DataFrame:
        n_classes = self.model.cfg.n_classes
        counts = np.zeros((2, len(self.blocks), n_classes), dtype=np.int64)
        for chunk in records.chunks("ranks", "object_patches", "context_patches"):
            for block in self.blocks:
                for kind, where in enumerate((chunk["object_patches"], chunk["context_patches"])):
                    counts[kind, block] += np.bincount(chunk["ranks"][:, block][where], minlength=n_classes)
        sums, n = records[self.own("identifiability")], records[self.own("n")]
        table = self.summary(self._difference(sums, n), {"block": self.blocks}).rename(columns={"mean": "difference"})
        values = 1 - np.arange(n_classes) / n_classes
        tests = [
            permutation_test_of_counts(
                values,
                inside,
                outside,
                n_draws=self.settings.n_permutations,
                seed=self.settings.seed,
                paper_compat=self.settings.paper_compat,
            )
            for inside, outside in zip(counts[0], counts[1], strict=True)
        ]
        table["pooled_difference"] = [test.difference for test in tests]
        table["p_permutation"] = [test.p for test in tests]
        for kind, name in enumerate(("object", "context")):
            boxes = pd.DataFrame([rank_quantiles(row) for row in counts[kind]]).add_prefix(f"{name}_")
            table[f"{name}_mean"] = counts[kind] @ values / np.maximum(counts[kind].sum(axis=1), 1)
            table = pd.concat([table, boxes], axis=1)
        return table

    def _change(self, records: Records) -> pd.DataFrame:
        n = records[self.own("n")]
        tables = []
        for part in PARTS:
            sums = records[self.own(f"change/{part}")]
            table = self.summary(self._difference(sums, n), {"block": self.blocks}).assign(part=part)
            # As published: over the tokens of all pictures together.
            pooled = sums.sum(axis=0) / np.maximum(n.sum(axis=0), 1)
            tables.append(table.assign(pooled_difference=pooled[:, 0] - pooled[:, 1]))
        return pd.concat(tables, ignore_index=True).rename(columns={"mean": "difference"})

    def _attention(self, records: Records) -> pd.DataFrame:
        """The share of the class token's attention to patches that goes to context, by head, and what areas would give."""
        mass, n = records[self.own("attention")], records[self.own("n")]
        share = mass[..., 0] / np.maximum(mass[..., 1], 1e-12)
        axes: dict[str, Sequence] = {"block": self.blocks, "head": list(range(share.shape[2]))}
        table = self.summary(share, axes)
        table["area_share"] = (n[:, 1] / n.sum(axis=1)).mean()
        return table

    def figures(self, tables: Tables) -> dict[str, go.Figure]:
        name = self.model.cfg.model_name
        figures = {"context_boxes": context_boxes({name: tables["context_identifiability"]})}
        if "attention_to_context" in tables:
            figures["attention_to_context"] = attention_to_context(tables["attention_to_context"], name)
        return figures
