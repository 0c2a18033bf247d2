"""Linear probes at every site, block and token against the class projection at the same place."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from vitlens.arguments import bar_hidden
from vitlens.data.decoded_batches import decode_rows
from vitlens.data.picture_list import keep_list, list_pictures
from vitlens.data.picture_sets import PictureSet, open_pictures
from vitlens.errors import InputError
from vitlens.lens.probes import ProbeFit, Probes
from vitlens.lens.trace import FULL_SITES
from vitlens.model.hooks.hook_points import Hooks
from vitlens.paper.experiment import Arrays, Batch, Context, Experiment, Tables
from vitlens.paper.experiments.explainability import curve_tables, curves_of
from vitlens.paper.figures.interventions import probe_curves
from vitlens.paper.store import Records
from vitlens.plots.perturbation import perturbation_curves
from vitlens.results.result import load_result

LOG = logging.getLogger(__name__)
FILE, PICTURES = "probes.safetensors", "training_pictures.parquet"


class LinearProbe(Experiment):
    name = "linear_probe"
    title = "Linear probes"
    question = "Linear probes at every site, block and token, against the class projection at the same place."

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        if self.settings.train_data is None:
            raise InputError(
                "linear_probe needs pictures to train on that are not those it is tested on: name them with train_data= "
                "(and train_split=), or leave this experiment out"
            )
        same = (self.settings.train_data, self.settings.train_split) == (self.settings.data, self.settings.split)
        if same:
            raise InputError(
                "the probes would be tested on the pictures they were trained on: name other pictures with train_data=, or "
                "another split with train_split="
            )
        n_tokens = self.model.cfg.n_ctx
        wanted = self.settings.n_probe_tokens or n_tokens
        # The class token, and patches spread evenly over the picture.
        self.tokens = sorted({round(i * (n_tokens - 1) / max(wanted - 1, 1)) for i in range(min(wanted, n_tokens))})
        needed = ProbeFit.bytes_needed(self.model, len(FULL_SITES) * self.model.cfg.n_layers, len(self.tokens))
        available = _memory()
        if needed > 0.7 * available:
            fitting = int(len(self.tokens) * 0.7 * available / needed)
            raise InputError(
                f"probes at {len(self.tokens)} tokens of every site need {needed / 2**30:.0f} GiB, and this machine has "
                f"{available / 2**30:.0f}: pass n_probe_tokens={max(fitting, 1)} or fewer, which are spread over the picture"
            )
        self._ranks: dict[tuple[str, int], Tensor] = {}

    def prepare(self, folder: Path) -> None:
        """One pass over the training pictures; the probes are kept beside the records, so a stopped run finds them."""
        path = folder / FILE
        pictures = self._pictures()
        listed = list_pictures(pictures, self.context.workers, self.context.progress)
        if listed is not None:
            keep_list(folder / PICTURES, listed, must_exist=path.exists())
        try:
            if path.exists():
                load_result(path, Probes)
                return
        except InputError as error:
            LOG.warning("%s: the probes are trained again", error)
        self._train(pictures).save(path)

    def load(self, folder: Path) -> None:
        self.probes = load_result(folder / FILE, Probes).to(self.model.device)

    def _pictures(self) -> PictureSet:
        settings = self.settings
        assert settings.train_data is not None
        return open_pictures(
            settings.train_data, self.model.class_names, self.model.cfg.n_classes, split=settings.train_split,
            per_class=settings.train_per_class, drop_incomplete=settings.drop_incomplete, streaming=settings.streaming,
            class_map=settings.class_map, image_column=settings.image_column, label_column=settings.label_column,
        )  # fmt: skip

    def _train(self, pictures: PictureSet) -> Probes:
        settings = self.settings
        fit = ProbeFit(self.model, tokens=self.tokens)
        total = None if pictures.n is None else -(-pictures.n // settings.batch_size)
        chunks = pictures.chunks(settings.batch_size)
        for chunk, rows in tqdm(
            chunks, "training probes", total, unit="chunk", disable=bar_hidden(self.context.progress, total)
        ):
            batch = decode_rows(
                rows, chunk * settings.batch_size, self.context.preprocessing, self.model.patch_grid(),
                with_masks=False, workers=self.context.workers,
            )  # fmt: skip
            if not isinstance(batch, list):
                images = batch.images.to(self.model.device, self.model.dtype)
                fit.add(images, batch.labels, batch_size=len(images), progress=False)
        return fit.solve()

    def hooks(self, labels: Int[Tensor, "image"]) -> Hooks:
        self._ranks = {}
        return self.probes.hooks(labels, self._ranks)

    def measure(self, batch: Batch) -> Arrays:
        n_prefix = self.model.cfg.n_prefix_tokens
        groups = {"patches": [i for i, token in enumerate(self.tokens) if token >= n_prefix]}
        if self.model.cfg.has_class_token and 0 in self.tokens:
            groups["class token"] = [0]
        found: Arrays = {}
        for site in FULL_SITES:
            probe = torch.stack([self._ranks[site, b] == 0 for b in self.blocks], dim=1).float()
            lens = torch.stack([batch.trace.ranks[site, b][:, self.tokens] == 0 for b in self.blocks], dim=1).float()
            for group, chosen in groups.items():
                found[self.own(f"probe/{site}/{group}")] = probe[..., chosen].mean(dim=-1)
                found[self.own(f"projection/{site}/{group}")] = lens[..., chosen].mean(dim=-1)
        if len(self.tokens) == self.model.cfg.n_ctx:
            # A patch is important where the probes rank the class high, summed over blocks.
            ranks = sum(self._ranks["resid_post", b][:, n_prefix:].double() for b in self.blocks)
            found |= curves_of(self, "linear_probe", batch, -torch.as_tensor(ranks), batch.labels)
        return found

    def tables(self, records: Records) -> Tables:
        tables = [
            self.summary(records[self.own(f"{how}/{site}/{group}")], {"block": self.blocks}).assign(
                readout=how, site=site, tokens=group
            )
            for how in ("probe", "projection")
            for site in FULL_SITES
            for group in ("class token", "patches")
            if self.own(f"{how}/{site}/{group}") in records
        ]
        found = {"linear_probe": pd.concat(tables, ignore_index=True)}
        if self.own("linear_probe/negative/accuracy") in records:
            curves, areas = curve_tables(self, records, ("linear_probe",), 0)
            found |= {"probe_perturbation_curves": curves, "probe_perturbation_areas": areas}
        return found

    def figures(self, tables: Tables) -> dict[str, go.Figure]:
        name = self.model.cfg.model_name
        figures = {"linear_probe": probe_curves({name: tables["linear_probe"]})}
        if "probe_perturbation_curves" in tables:
            figures["probe_perturbation"] = perturbation_curves({name: tables["probe_perturbation_curves"]})
        return figures


def _memory() -> float:
    """The machine's memory in bytes; unlimited where it does not say."""
    try:
        text = Path("/proc/meminfo").read_text()
        return float(text.split("MemTotal:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return float(np.inf)
