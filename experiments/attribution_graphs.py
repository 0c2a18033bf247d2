"""Are attribution graphs right? Predicted against measured changes, planted truth, and one garment on two backgrounds.

Validation: of each picture the graph of its predicted class over the runner-up. Each unit that the graph names is removed
at its token in the real model, and so are as many random ones that are as active (`vitlens.circuits.validate_graph`): means
over pictures, with 95 % intervals.

Planted: models whose mechanism is written into the weights (`vitlens.planted`), graphs of their own neurons. AUROC of the
neurons that fire in a picture by their influence, and of the true heads by how much of the influence they carry along edges.
A head that only tells another where to look carries nothing in a graph, whose patterns are frozen: it is ranked by what it
brings to the other's query (`vitlens.circuits.attention_contributions`).

Pair: what decides a T-shirt on its own background, and on a bag's?

\b
    python experiments/attribution_graphs.py
    python experiments/attribution_graphs.py --part planted --renew
    python experiments/attribution_graphs.py --part validation --model NAME --checkpoint FILE --transcoders FOLDER \\
        --pictures FOLDER
"""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from page_table import markdown, renew
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score
from torch import Tensor
from tqdm import tqdm

from vitlens import attribution_graph
from vitlens.choose import select_tokens
from vitlens.circuits import AttributionGraph, EdgeHeads, attention_contributions, edge_heads, validate_graph
from vitlens.cli import ModelOptions, run, with_model
from vitlens.demo import load_demo_pictures, load_demo_transcoders
from vitlens.errors import InputError
from vitlens.features import load_saes
from vitlens.model import Graph, HookedViT
from vitlens.planted import planted
from vitlens.statistics import bootstrap

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
PARTS = ("validation", "planted", "pair")
MECHANISMS = ("evidence_copying", "context_cue", "conjunction_memory", "backup_head", "large_distractor")
PAGE = "attribution_graphs.md"
#: The demo's T-shirt on a T-shirt's background, and on a bag's.
PAIR = (4, 5)


@app.command(help=__doc__)
@with_model
def main(
    model: ModelOptions,
    pictures: Annotated[
        Path | None, typer.Option(help="folder of pictures [default: the demo's, which no training has seen]")
    ] = None,
    transcoders: Annotated[
        Path | None, typer.Option(help="folder of transcoders [default: the demo's; else the MLPs' own neurons alone]")
    ] = None,
    parts: Annotated[list[str], typer.Option("--part", help=", ".join(PARTS))] = [*PARTS],  # noqa: B006
    n_images: Annotated[int, typer.Option(help="pictures of the validation, evenly spaced")] = 20,
    n_nodes: Annotated[int, typer.Option(help="units of each graph")] = 100,
    seeds: Annotated[int, typer.Option(help="how many planted models of each mechanism")] = 3,
    renew_page: Annotated[bool, typer.Option("--renew", help=f"renew the tables in docs/pages/{PAGE}")] = False,
) -> None:
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise InputError(f"--part is one of {', '.join(PARTS)}, not {unknown[0]!r}")
    if min(n_images, n_nodes, seeds) < 1:
        raise InputError("--n-images, --n-nodes and --seeds are at least 1")
    hooked = model.load()
    of_model = load_saes(transcoders) if transcoders else load_demo_transcoders() if model.is_demo else None
    if "validation" in parts:
        images = chosen_pictures(hooked, model.is_demo, pictures, n_images)
        show("validation", validation_table(hooked, images, of_model, n_nodes), renew_page)
    if "planted" in parts:
        show("planted graphs", planted_table(seeds), renew_page)
    if "pair" in parts and model.is_demo:
        tell_pair(hooked, of_model, n_nodes)


def chosen_pictures(model: HookedViT, is_demo: bool, folder: Path | None, n: int) -> Tensor:
    if folder is None and not is_demo:
        raise InputError("--pictures names a folder of pictures for this model")
    if folder is None:
        images = load_demo_pictures(model).images
        # Every fifth and not every fourth: garments on their own background and on others.
        return images[np.linspace(0, len(images) - 1, min(n, len(images))).round().astype(int)]
    return model.to_images(sorted(path for path in folder.iterdir() if path.is_file())[:n])


def validation_table(model: HookedViT, images: Tensor, transcoders: Any, n_nodes: int) -> pd.DataFrame:
    """Correlations of predicted with measured changes, for graphs of features and of neurons."""
    rows = []
    kinds = {"neurons": None} if transcoders is None else {"features": transcoders, "neurons": None}
    jobs = [(kind, i) for kind in kinds for i in range(len(images))]
    for kind, i in tqdm(jobs, desc="validation", unit="graph", disable=not sys.stderr.isatty()):
        about = {"images": images[i : i + 1], "transcoders": kinds[kind], "progress": False}
        best, second = model(images[i : i + 1])[0].topk(2).indices.tolist()
        graph = attribution_graph(model, classes=best, baseline_classes=second, n_nodes=n_nodes, **about)
        found = validate_graph(model, graph=graph, **about).summary(n_draws=1)
        rows.append(found.assign(kind=kind))
    frame = pd.concat(rows)
    cells = []
    for (kind, units, by, where), group in frame.groupby(["kind", "units", "predicted_by", "measured_in"], sort=False):
        cells.append(
            {
                "units": f"{kind}, {'the graph’s' if units == 'named' else 'random, as active'}",
                "predicted by": f"the {by}" if by == "graph" else "the model's gradient",
                "measured in": f"the {where}",
                "change": f"{group['change'].mean():.3f}",
                "r": interval(group["pearson"]),
                "ρ": interval(group["spearman"]),
                "least r": f"{group['pearson'].min():.2f}",
            }
        )
    return pd.DataFrame(cells)


def interval(values: pd.Series) -> str:
    mean, low, high = bootstrap(values.to_numpy())
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def planted_table(seeds: int, n_images: int = 8) -> pd.DataFrame:
    """How far the graphs of planted models rank their true neurons and heads before all others."""
    cells = []
    jobs = [(name, seed) for name in MECHANISMS for seed in range(seeds)]
    rows = [
        planted_scores(name, seed, n_images)
        for name, seed in tqdm(jobs, desc="planted graphs", unit="model", disable=not sys.stderr.isatty())
    ]
    for name, group in pd.DataFrame(rows).groupby("mechanism", sort=False):
        cells.append(
            {
                "mechanism": name.replace("_", " "),
                "neurons that fire": span(group["neurons"]),
                "heads whose output is used": span(group["carriers"]),
                "their share of all heads' influence": f"{group['share'].mean():.2f}",
                "edges into MLPs and logits": span(group["edges"]),
                "heads that make a query": span(group["askers"]),
                "backup heads": span(group["backups"]),
                "their share": f"{group['backup_share'].mean():.3f}" if group["backups"].notna().any() else "–",
            }
        )
    return pd.DataFrame(cells)


def span(values: pd.Series) -> str:
    """The mean of the models, and the least where it is another."""
    there = values.dropna()
    if not len(there):
        return "–"
    least = "" if there.min() == there.max() else f" (least {there.min():.3f})"
    return f"{there.mean():.3f}{least}"


def planted_scores(name: str, seed: int, n_images: int) -> dict[str, Any]:
    """AUROCs of one planted model; NaN of what it does not have."""
    vit = planted(name, seed=seed, dtype=torch.float64)
    model, pairs, truth = vit.model, vit.pictures(n_images), vit.truth
    size = (model.cfg.n_layers, model.cfg.n_heads)
    heads, queries, of_neurons, of_edges = torch.zeros(size), torch.zeros(size), [], Counter[str]()
    # A backup writes nothing while the other head works, so it is no part of these pictures' mechanism.
    working = truth.heads - truth.backups
    askers = {
        head for head in working if any(f"L{head[0]}H{head[1]}->" in edge and "<q>" in edge for edge in truth.edges)
    }
    for i in range(n_images):
        image = pairs.images[i : i + 1]
        classes = {"classes": int(pairs.labels[i]), "baseline_classes": int(pairs.corrupted_labels[i])}
        graph = attribution_graph(model, image, n_nodes=60, progress=False, **classes)
        if truth.neurons:
            of_neurons.append(neurons_of(model, image, graph, truth.neurons))
        loadings = edge_heads(model, image, graph, n_edges=10**6, progress=False)
        influence = carried(graph, loadings)
        heads += influence[:, :-1].sum(dim=0).unflatten(0, size)
        of_edges += of_parts(loadings, influence)
        if askers:
            queries += brought_queries(model, image, working - askers).unflatten(0, size)
    return {
        "mechanism": name,
        "neurons": float(np.mean(of_neurons)) if of_neurons else float("nan"),
        "carriers": auroc(heads, working - askers),
        "share": sum(heads[head].item() for head in working - askers) / heads.sum().item(),
        "edges": auroc_of_edges(model, of_edges, truth.edges),
        "askers": auroc(queries, askers),
        "backups": auroc(heads, truth.backups),
        "backup_share": sum(heads[head].item() for head in truth.backups) / heads.sum().item(),
    }


def neurons_of(model: HookedViT, image: Tensor, graph: AttributionGraph, truth: frozenset[tuple[int, int]]) -> float:
    """Does the influence of neurons say which of the true ones fire in this picture? Those that do not are left out."""
    influence, fires = (torch.zeros(model.cfg.n_layers, model.cfg.d_mlp) for _ in range(2))
    for label, share in zip(graph.sources, graph.influence().tolist(), strict=True):
        if label.kind == "neuron":
            influence[label.block, label.feature] += share
    _, cache = model.run_with_cache(image)
    is_counted = torch.ones_like(influence, dtype=torch.bool)
    for block, neuron in truth:
        fires[block, neuron] = cache["pre", block][0, 0, neuron] > 0
        is_counted[block, neuron] = fires[block, neuron] > 0
    return float(roc_auc_score(fires[is_counted], influence[is_counted]))


def brought_queries(model: HookedViT, image: Tensor, heads: frozenset[tuple[int, int]]) -> Tensor:
    """[head]: what each head brought to the queries of these heads, for the key to which they attend most."""
    found = torch.zeros(model.cfg.n_layers * model.cfg.n_heads)
    _, cache = model.run_with_cache(image)
    for block, head in heads:
        key = int(cache["pattern", block][0, head, 0].argmax())
        of_pair = attention_contributions(model, image, head=f"L{block}H{head}", query="class", key=key)
        found[: block * model.cfg.n_heads] += of_pair.heads[0, :-1].abs()
    return found


def carried(graph: AttributionGraph, loadings: EdgeHeads) -> Tensor:
    """[edge, head]: the influence that goes through each head along each edge, and through none: that of the target, by the
    magnitudes of the loadings into it."""
    influence = dict(zip(graph.sources, graph.influence().tolist(), strict=True))
    n_logits = sum(label.kind == "logit" for label in graph.targets)
    into = [1 / n_logits if label.kind == "logit" else influence[label] for label in loadings.targets]
    sums = {label: total for label, total in zip(graph.targets, graph.values[:, :-2].abs().sum(dim=1), strict=True)}
    weights = torch.stack([part / sums[label] for part, label in zip(into, loadings.targets, strict=True)])
    return weights[:, None] * loadings.values.abs()


def of_parts(loadings: EdgeHeads, influence: Tensor) -> Counter[str]:
    """The influence that goes from each part into each MLP and the logits, by the edge's name in the model's graph."""
    found: Counter[str] = Counter()
    *heads, _ = loadings.axes["head"]
    for source, target, row in zip(loadings.sources, loadings.targets, influence.tolist(), strict=True):
        reader = "logits" if target.kind == "logit" else f"L{target.block} mlp"
        itself = "input" if source.block is None else f"L{source.block} mlp"
        for writer, share in zip((*heads, itself), row, strict=True):
            found[f"{writer}->{reader}"] += share
    return found


def auroc_of_edges(model: HookedViT, found: Counter[str], truth: frozenset[str]) -> float:
    """Of all edges into MLPs and logits; those into queries, keys and values are no edges of an attribution graph."""
    edges = [edge for edge in Graph(model).edges() if edge.endswith((" mlp", "->logits"))]
    return float(roc_auc_score([edge in truth for edge in edges], [found[edge] for edge in edges]))


def auroc(scores: Tensor, truth: Any) -> float:
    is_true = torch.zeros_like(scores, dtype=torch.bool)
    for place in truth:
        is_true[place] = True
    return float(roc_auc_score(is_true.flatten(), scores.flatten())) if truth else float("nan")


def tell_pair(model: HookedViT, transcoders: Any, n_nodes: int, n_shown: int = 8) -> None:
    """The features that decide for the garment against the other background's class, in both pictures, and a sentence."""
    pictures = load_demo_pictures(model)
    own, other = (int(pictures.contexts[i]) for i in PAIR)
    tables, found = [], []
    for i in PAIR:
        image = pictures.images[i : i + 1]
        inside = select_tokens(model, "object", 1, masks=pictures.masks[i : i + 1])[0]
        about = {"classes": own, "baseline_classes": other, "transcoders": transcoders, "progress": False}
        graph = attribution_graph(model, image, n_nodes=n_nodes, **about)
        frame = pd.DataFrame(features_of(graph, inside))
        found.append((graph, frame))
        tables.append(frame.groupby("feature")[["influence", "effect"]].sum().add_suffix(f" {i}"))
    names = [model.class_label(index) for index in (own, other)]
    both = tables[0].join(tables[1], how="outer").fillna(0)
    of_own, of_other = (f"influence {i}" for i in PAIR)
    both["gained"] = both[of_other] - both[of_own]
    best = both.loc[(both[of_own] + both[of_other]).nlargest(2 * n_shown).index]
    table = Table("feature", f"influence on {names[0]}'s", f"on {names[1]}'s", f"effect on {names[0]}'s", f"on {names[1]}'s",
                  title=f"a {names[0]}: logit of {names[0]} − {names[1]}, its edges from features")  # fmt: skip
    for feature, row in best.sort_values("gained").iterrows():
        influence, effects = ([row[f"{name} {i}"] for i in PAIR] for name in ("influence", "effect"))
        table.add_row(str(feature), *(f"{x:.3f}" for x in influence), *(f"{x:+.2f}" for x in effects))
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)
    totals = [float(graph.totals[0]) for graph, _ in found]
    context = [
        frame.loc[frame["where"] == "context", "influence"].sum() / frame["influence"].sum() for _, frame in found
    ]
    gained, lost = both["gained"].nlargest(3).index, both["gained"].nsmallest(3).index
    print(
        f"On its own background the {names[0]} has {totals[0]:+.1f} over {names[1]}, on a {names[1]}'s {totals[1]:+.1f}. "
        f"{', '.join(gained)} come in, {', '.join(lost)} go out; of the features' influence {context[0]:.0%} is at context "
        f"patches on its own background, and {context[1]:.0%} on the other."
    )


def features_of(graph: AttributionGraph, inside: Tensor) -> Iterator[dict[str, Any]]:
    """Each feature at a token: its influence, its edge into the logit, and where it stands."""
    for label, influence, effect in zip(graph.sources, graph.influence(), graph.values[0], strict=True):
        if label.kind == "feature":
            token = graph.tokens[label.token]
            where = "class" if token.kind != "patch" else "object" if inside[label.token] else "context"
            yield {
                "feature": f"L{label.block} feature {label.feature}",
                "where": where,
                "influence": float(influence),
                "effect": float(effect),
            }


def show(title: str, table: pd.DataFrame, renew_page: bool) -> None:
    shown = Table(*table.columns, title=title)
    for row in table.itertuples(index=False):
        shown.add_row(*row)
    (Console() if sys.stdout.isatty() else Console(width=150)).print(shown)
    if renew_page:
        renew(PAGE, title, markdown(list(table.columns), table.to_numpy().tolist()))


if __name__ == "__main__":
    run(app)
