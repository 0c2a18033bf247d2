"""Takes a shortcut out of a model: which parts carry it, which edit helps, and what it costs, beside the usual remedies.

Without arguments on the demo: an edit is chosen on training garments of Fashion-MNIST, in three groups by their background
(of their own class, plain, of another class), and reported on the 10,000 test garments; without Debian's package
dataset-fashion-mnist on the demo's 100 pictures. With --data on a folder or a table of your own, split in two halves.

\b
    python experiments/repair_context.py
    python experiments/repair_context.py --data birds.parquet --group-column place --checkpoint birds/
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import timm
import torch
import typer
from demo_fashion import (
    Placement,
    compose,
    conflicting_contexts,
    draw_plain,
    draw_textures,
    load_garments,
)
from rich.console import Console
from torch import Tensor
from tqdm import tqdm

from vitlens import HookedViT, InputError, open_pictures, repair
from vitlens.cli import ModelOptions, run, with_model
from vitlens.demo import load_demo_pictures
from vitlens.editing import Repair, evaluate_edits, read_groups
from vitlens.editing.baselines import classifier_inputs, retrain_classifier
from vitlens.editing.repairs import RETRAINED, UNLIMITED
from vitlens.files import make_folder, write_whole
from vitlens.pages import write_repair_page

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
BACKGROUNDS = ("agreeing", "plain", "conflicting")
OBJECTS_AT_ONCE = 500
DOSES = (0.1, 0.25, 0.5, 0.75, 1.0)
SHOWN = ["edit", "group", "accuracy", "low", "high", "change", "change_low", "change_high", "kl"]


@dataclass(frozen=True)
class Experiment:
    """Labelled pictures in groups, which of them are held out, and which show the same object."""

    images: Any
    labels: Tensor | None = None
    groups: list[str] | None = None
    clusters: Tensor | None = None
    held_out: float | Tensor = 0.5
    #: Of each agreeing picture that is held out the number, that of its conflicting partner, and the partner's context.
    pairs: Tensor | None = None
    rivals: Tensor | None = None


@app.command(help=__doc__)
@with_model
def main(
    model: ModelOptions,
    data: Annotated[str | None, typer.Option(help="a folder, a Parquet file, or a name on the hub")] = None,
    group_column: Annotated[
        str | None, typer.Option(help="of --data: the column that says each picture's group")
    ] = None,
    fashion: Annotated[Path | None, typer.Option(help="folder of Fashion-MNIST's IDX files")] = None,
    chosen_on: Annotated[int, typer.Option(help="so many training garments choose the edit", min=20)] = 2000,
    garments: Annotated[int, typer.Option(help="so many test garments are reported", min=20, max=10_000)] = 10_000,
    max_loss: Annotated[float, typer.Option(help="how much accuracy any group may lose, as a share")] = 0.01,
    n_random: Annotated[int, typer.Option(help="random edits of the same kind and norm", min=1)] = 10,
    seed: Annotated[int, typer.Option(help="of places, textures and random edits")] = 1,
    batch_size: Annotated[int | None, typer.Option(help="pictures per forward")] = None,
    out: Annotated[
        Path, typer.Option(help="folder for page.html, table.csv, figures.json and the repaired weights")
    ] = Path("out/repair_context"),
) -> None:
    hooked = model.load()
    console = Console()
    experiment = _experiment(hooked, model.is_demo, data, group_column, fashion, chosen_on, garments, seed)
    found = repair(
        hooked, experiment.images, experiment.labels, experiment.groups, max_loss=max_loss, held_out=experiment.held_out,
        doses=DOSES, clusters=experiment.clusters, n_draws=n_random, seed=seed, batch_size=batch_size,
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    make_folder(out)
    table = found.table()
    write_repair_page(found, path=out / "page.html")
    write_whole(out / "table.csv", table.to_csv(index=False).encode())
    figures: dict[str, Any] = {"chosen": found.chosen, "without a limit": found.unlimited}
    if found.edit is not None:
        found.edit.save(out / "repaired")
        figures["saved"] = _largest_difference(hooked, found, experiment, out / "repaired")
    if experiment.pairs is not None:
        figures["context share"] = context_shares(hooked, found, experiment)
    if isinstance(experiment.held_out, Tensor):
        figures["last layer, conflicting alone"] = readout_of_conflicting(hooked, experiment, experiment.held_out)
    write_whole(out / "figures.json", json.dumps(figures, indent=1).encode())
    console.print(table[SHOWN].round(4).to_string(index=False), highlight=False, soft_wrap=True)
    console.print(json.dumps(figures, indent=1), highlight=False, soft_wrap=True)
    console.print(f"wrote page.html, table.csv, figures.json and the repaired weights to {out}", highlight=False)


def _experiment(
    model: HookedViT,
    is_demo: bool,
    data: str | None,
    group_column: str | None,
    fashion: Path | None,
    chosen_on: int,
    garments: int,
    seed: int,
) -> Experiment:
    if data is not None:
        if group_column is None:
            raise InputError("--data needs --group-column, the column that says each picture's group")
        return Experiment(open_pictures(data, model.class_names, model.cfg.n_classes, group_column=group_column))
    if not is_demo:
        raise InputError("another model needs --data with --group-column (only the demo brings its own pictures)")
    try:
        return garments_in_groups(chosen_on, garments, fashion, seed)
    except FileNotFoundError as error:
        print(f"{error}; the demo's 100 pictures are used instead, which are few", file=sys.stderr)
    pictures = load_demo_pictures(model)
    n = len(pictures.images)
    pairs = torch.arange(n).view(-1, 2)
    return Experiment(
        pictures.images, pictures.labels, ["agreeing", "conflicting"] * (n // 2), torch.arange(n) // 2,
        pairs=pairs, rivals=pictures.contexts[1::2],
    )  # fmt: skip


def garments_in_groups(chosen_on: int, garments: int, fashion: Path | None, seed: int) -> Experiment:
    """Training garments and test garments, each at one place on three backgrounds; the test garments are held out."""
    generator = torch.Generator().manual_seed(seed)
    images, labels, contexts = [], [], []
    for split, n in (("train", chosen_on), ("test", garments)):
        all_of_them = load_garments(split, fashion)
        order = torch.randperm(len(all_of_them), generator=generator) if split == "train" else torch.arange(garments)
        for index in tqdm(order[:n].split(OBJECTS_AT_ONCE), desc=f"{split} garments", disable=not sys.stderr.isatty()):
            some = all_of_them.take(index)
            placement = Placement.draw(len(some), generator)
            others = conflicting_contexts(some.labels, generator)
            backgrounds = (
                draw_textures(some.labels, generator),
                draw_plain(len(some), generator),
                draw_textures(others, generator),
            )
            made = [compose(some, placement, background, some.labels).images / 127.5 - 1 for background in backgrounds]
            images.append(torch.stack(made, dim=1).flatten(0, 1))
            labels.append(some.labels.repeat_interleave(len(BACKGROUNDS)))
            contexts.append(others)
    n_all = chosen_on + garments
    clusters = torch.arange(n_all).repeat_interleave(len(BACKGROUNDS))
    first = torch.arange(chosen_on, n_all) * len(BACKGROUNDS)
    return Experiment(
        torch.cat(images), torch.cat(labels), list(BACKGROUNDS) * n_all, clusters, clusters >= chosen_on,
        torch.stack([first, first + 2], dim=1), torch.cat(contexts)[chosen_on:],
    )  # fmt: skip


@torch.no_grad()
def context_shares(model: HookedViT, found: Repair, experiment: Experiment) -> dict[str, Any]:
    """How much of the object's lead over the class of the conflicting context that context carries, before and after.

    The share is that of experiments/patch_context.py: (lead in its own context − lead in the other) / lead in its own.
    """
    assert experiment.pairs is not None
    assert experiment.labels is not None
    assert experiment.rivals is not None
    classes = torch.stack([experiment.labels[experiment.pairs[:, 0]], experiment.rivals], dim=1)
    hooks: dict[str, Any] = {"unedited": []}
    if found.edit is not None:
        hooks |= {"chosen": found.edit.hooks, "whole": found.edit.at(1.0).hooks}
    if UNLIMITED in found.report.axes["edit"]:
        hooks[UNLIMITED] = found.edits[found.unlimited].hooks
    shares = {}
    for name, these in hooks.items():
        leads = []
        for side in range(2):
            logits = torch.cat(
                [
                    model.run_with_hooks(experiment.images[some], fwd_hooks=these)
                    for some in experiment.pairs[:, side].split(OBJECTS_AT_ONCE)
                ]
            )
            of_pair = logits.gather(1, classes)
            leads.append((of_pair[:, 0] - of_pair[:, 1]).double().mean().item())
        shares[name] = {"own": leads[0], "other": leads[1], "share": (leads[0] - leads[1]) / leads[0]}
    return shares


def readout_of_conflicting(model: HookedViT, experiment: Experiment, held_out: Tensor) -> dict[str, float]:
    """Accuracy by group of a last layer that was trained on conflicting pictures alone: what is there to be read."""
    assert experiment.labels is not None
    assert experiment.groups is not None
    names = pd.Series(experiment.groups)
    chosen = ~held_out & torch.tensor((names == "conflicting").tolist())
    labels = experiment.labels[chosen]
    halves = read_groups(["a", "b"] * (len(labels) // 2) + ["a"] * (len(labels) % 2), len(labels))
    trained = retrain_classifier(model, classifier_inputs(model, experiment.images[chosen]), labels, halves)
    reported = evaluate_edits(
        model, experiment.images[held_out], experiment.labels[held_out], names[held_out.numpy()].tolist(),
        edits={RETRAINED: trained},
    )  # fmt: skip
    return dict(zip(reported.groups, reported.accuracies()[1].tolist(), strict=True))


@torch.no_grad()
def _largest_difference(model: HookedViT, found: Repair, experiment: Experiment, folder: Path) -> str:
    """Opens the saved weights with timm alone, and compares them with the hooks."""
    assert found.edit is not None
    module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    if not isinstance(experiment.images, Tensor):
        return f"timm opens {folder.name}"
    images = experiment.images[:OBJECTS_AT_ONCE]
    hooked = model.run_with_hooks(images, fwd_hooks=found.edit.hooks)
    apart = (module(images) - hooked).abs().max() / hooked.abs().max()
    return f"timm opens {folder.name}; its logits differ from those of the hooks by {apart:.1e} of the largest"


if __name__ == "__main__":
    run(app)
