"""Do the methods find what is there? Every method of the library on models whose circuit was built, not trained.

A method scores every head, neuron, edge or patch of a planted model (`vitlens.planted`); the number is the AUROC of the
true ones among all: 1 where they all stand before the others, 0.5 for scores that say nothing. Heads, neurons and edges are
scored by the mean absolute effect over all pairs of pictures, patches picture by picture.

A picture and its counterfactual differ at true patches only, but not at all of them: where two are read, patching between
the two pictures can only find the one that differs. What finds all of them are ablations and heatmaps.

\b
    python experiments/planted_benchmark.py
    python experiments/planted_benchmark.py --model backup_head --seeds 5 --pairs 64
"""

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from jaxtyping import Bool, Float
from page_table import markdown, renew
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from vitlens.attribution import direct_logit_attribution
from vitlens.cli import run
from vitlens.errors import InputError
from vitlens.files import check_writable, write_whole
from vitlens.heatmaps import heatmap
from vitlens.model import Graph
from vitlens.patching import (
    Intervention,
    activation_ablation,
    activation_patching,
    attribution_patching,
    edge_attribution_patching,
    path_patching,
)
from vitlens.planted import PLANTED, PlantedPictures, PlantedViT, planted

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
#: What a method gives: a score for every component, [component], or for every patch of every picture, [image, patch].
Method = Callable[[PlantedViT, PlantedPictures], Tensor]


@app.command(help=__doc__)
def main(
    model: Annotated[list[str], typer.Option(help=f"one of {', '.join(PLANTED)}; by default all")] = list(PLANTED),  # noqa: B006
    seeds: Annotated[int, typer.Option(help="how often each model is built anew")] = 3,
    pairs: Annotated[int, typer.Option(help="pairs of pictures for each")] = 24,
    out: Annotated[Path | None, typer.Option(help="also write every number to this Parquet file")] = None,
    renew_page: Annotated[bool, typer.Option("--renew", help="renew the table in docs/pages/planted.md")] = False,
) -> None:
    if seeds < 1:
        raise InputError(f"--seeds is at least 1, not {seeds}")
    if out is not None:
        check_writable(out)
    rows = []
    jobs = [(name, seed) for name in model for seed in range(seeds)]
    for name, seed in tqdm(jobs, desc="planted models", unit="model", disable=not sys.stderr.isatty()):
        vit = planted(name, seed=seed)
        pictures = vit.pictures(pairs, seed=1000 + seed)
        for what, methods in METHODS.items():
            truth = true_components(vit, pictures, what)
            if not truth.any():
                continue
            for method, score in methods.items():
                found = auroc(score(vit, pictures), truth)
                rows.append({"find": what, "method": method, "model": name, "seed": seed, "auroc": found})
    frame = pd.DataFrame(rows)
    if out is not None:
        write_whole(out, frame.to_parquet(index=False))
    table = frame.pivot_table(index=["find", "method"], columns="model", values="auroc", sort=False)[model]
    show(table, f"AUROC of the true components, mean of {seeds} builds, {pairs} pairs of pictures each")
    if renew_page:
        renew("planted.md", "planted benchmark", as_markdown(table))


def true_components(vit: PlantedViT, pictures: PlantedPictures, what: str) -> Bool[Tensor, "..."]:
    """Which of the components that a method scores are the circuit's."""
    cfg = vit.model.cfg
    if what == "patches":
        return pictures.patches
    if what == "edges":
        return torch.tensor([edge in vit.truth.edges for edge in Graph(vit.model).edges()])
    n_units = cfg.n_heads if what == "heads" else vit.model.blocks[0].mlp.W_out.shape[0]
    chosen = vit.truth.heads if what == "heads" else vit.truth.neurons
    truth = torch.zeros(cfg.n_layers, n_units, dtype=torch.bool)
    for block, unit in chosen:
        truth[block, unit] = True
    return truth.flatten()


def auroc(scores: Float[Tensor, "..."], truth: Bool[Tensor, "..."]) -> float:
    """How often a true component stands before another one, ties counted as half; over pictures the mean."""
    if scores.ndim == 2:
        return float(np.mean([auroc(s, t) for s, t in zip(scores, truth, strict=True)]))
    statistic = stats.mannwhitneyu(scores[truth].double(), scores[~truth].double()).statistic
    return float(statistic / (truth.sum() * (~truth).sum()))


# ---- the methods -------------------------------------------------------------------------------------------------------


def contrast(function: Callable[..., Intervention], site: str | None = None, **options: Any) -> Method:
    """A method that compares a picture with its counterfactual."""

    def score(vit: PlantedViT, pictures: PlantedPictures) -> Tensor:
        sites = {} if site is None else {"sites": site}
        about = {"classes": pictures.labels, "baseline_classes": pictures.corrupted_labels, "progress": False}
        result = function(vit.model, pictures.images, pictures.corrupted, **sites, **about, **options)
        if site is None:
            return mean_size(result)[Graph(vit.model).exists]
        return per_patch(vit, result) if site == "resid_pre" else mean_size(result).flatten()

    return score


def ablate(replacement: str, site: str, **options: Any) -> Method:
    """A method that takes a component away."""

    def score(vit: PlantedViT, pictures: PlantedPictures) -> Tensor:
        others = {"others": pictures.corrupted} if replacement == "other" else {}
        result = activation_ablation(
            vit.model, pictures.images, metric="logit_difference", sites=site, replacement=replacement,
            classes=pictures.labels, baseline_classes=pictures.corrupted_labels, progress=False, **others, **options,
        )  # fmt: skip
        return per_patch(vit, result) if site == "resid_pre" else mean_size(result).flatten()

    return score


def mean_size(result: Intervention) -> Float[Tensor, "..."]:
    """How far each cell moves the metric, whichever way, over pictures."""
    return result.shift().abs().mean(dim=-1)


def per_patch(vit: PlantedViT, result: Intervention) -> Float[Tensor, "image patch"]:
    """How far each patch's cell moves the metric of each picture."""
    return result.shift()[0, vit.model.cfg.n_prefix_tokens :].abs().T


def direct(vit: PlantedViT, pictures: PlantedPictures) -> Float[Tensor, "head"]:
    """What each head writes into the difference of the two classes."""
    result = direct_logit_attribution(
        vit.model, pictures.images, pictures.labels, baseline_classes=pictures.corrupted_labels, unit="head"
    )
    is_head = [re.fullmatch(r"L\d+H\d+", label) is not None for label in result.axes["component"]]
    return result.values[:, 0].abs().mean(dim=0)[torch.tensor(is_head)]


def head_norms(vit: PlantedViT, pictures: PlantedPictures) -> Float[Tensor, "head"]:
    """How much each head writes to the class token, whatever it says: a heuristic that knows nothing of classes."""
    _, cache = vit.model.run_with_cache(pictures.images, names_filter="result")
    return torch.stack([cache["result", block][:, 0].norm(dim=-1).mean(dim=0) for block in blocks(vit)]).flatten()


def neuron_norms(vit: PlantedViT, pictures: PlantedPictures) -> Float[Tensor, "neuron"]:
    """How much each neuron writes to the class token."""
    _, cache = vit.model.run_with_cache(pictures.images, names_filter="post")
    fired = [cache["post", block][:, 0].abs().mean(dim=0) for block in blocks(vit)]
    return torch.cat([one * vit.model.blocks[block].mlp.W_out.norm(dim=-1) for block, one in enumerate(fired)]).detach()


def attention(vit: PlantedViT, pictures: PlantedPictures) -> Float[Tensor, "image patch"]:
    """Raw attention: what the class token looks at, mean over all heads and blocks."""
    _, cache = vit.model.run_with_cache(pictures.images, names_filter="pattern")
    rows = torch.stack([cache["pattern", block][:, :, 0, vit.model.cfg.n_prefix_tokens :] for block in blocks(vit)])
    return rows.mean(dim=(0, 2))


def map_of(method: str, vit: PlantedViT, pictures: PlantedPictures) -> Float[Tensor, "image patch"]:
    return heatmap(vit.model, pictures.images, pictures.labels, method=method, warn=False).patches()


def blocks(vit: PlantedViT) -> range:
    return range(vit.model.cfg.n_layers)


INTERVENTIONS: dict[str, Callable[[str], Method]] = {
    "activation patching, denoising": lambda site: contrast(activation_patching, site, **at_start(site)),
    "activation patching, noising": lambda site: contrast(
        activation_patching, site, direction="noise", **at_start(site)
    ),
    "ablation by zero": lambda site: ablate("zero", site, **at_start(site)),
    "ablation by the mean": lambda site: ablate("mean", site, **at_start(site)),
    "attribution patching": lambda site: contrast(attribution_patching, site, direction="noise", **at_start(site)),
    "attribution patching, integrated inputs": lambda site: contrast(
        attribution_patching, site, method="integrated_inputs", direction="noise", **at_start(site)
    ),
    "attribution patching, integrated activations": lambda site: contrast(
        attribution_patching, site, method="integrated_activations", direction="noise", **at_start(site)
    ),
}


def at_start(site: str) -> dict[str, Any]:
    """Patches are exchanged where they enter."""
    return {"blocks": [0]} if site == "resid_pre" else {}


METHODS: dict[str, dict[str, Method]] = {
    "heads": {
        **{name: make("z") for name, make in INTERVENTIONS.items()},
        "AtP* on queries": contrast(attribution_patching, "q", method="atp_star", direction="noise"),
        "AtP* on keys": contrast(attribution_patching, "k", method="atp_star", direction="noise"),
        "direct logit attribution": direct,
        "norm of what it writes": head_norms,
    },
    "neurons": {
        **{name: make("post") for name, make in INTERVENTIONS.items()},
        "norm of what it writes": neuron_norms,
    },
    "edges": {
        "path patching, denoising": contrast(path_patching, senders=None, receivers=None),
        "path patching, noising": contrast(path_patching, senders=None, receivers=None, direction="noise"),
        "edge attribution patching": contrast(edge_attribution_patching, direction="noise"),
        "edge attribution patching, integrated": contrast(
            edge_attribution_patching, method="integrated_inputs", direction="noise"
        ),
    },
    "patches": {
        **{name: make("resid_pre") for name, make in INTERVENTIONS.items()},
        "projection-gradient": partial(map_of, "projection_gradient"),
        "gradient rollout": partial(map_of, "gradient_rollout"),
        "raw attention": attention,
    },
}


# ---- the table ---------------------------------------------------------------------------------------------------------


def show(table: pd.DataFrame, title: str) -> None:
    rich = Table(*["find", "method", *[name.replace("_", " ") for name in table.columns]], title=title)
    for (what, method), row in table.iterrows():
        rich.add_row(what, method, *[as_text(value) for value in row])
    console = Console() if sys.stdout.isatty() else Console(width=150)
    console.print(rich)


def as_markdown(table: pd.DataFrame) -> str:
    header = ["find", "method", *[name.replace("_", " ") for name in table.columns]]
    return markdown(header, [[*names, *map(as_text, row)] for names, row in table.iterrows()])


def as_text(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


if __name__ == "__main__":
    run(app)
