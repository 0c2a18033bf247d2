"""Do names come back? Heads of planted models (`vitlens.planted.planted_words`) write known words, and most write none.

For each model: how many heads have exactly their words, in their order, on how many pictures; how many others have a name;
the AUROC of the words of a head among all texts by the rank at which they were chosen; and what the texts explain on
pictures held out, of shuffled contributions, and as random texts. The neuron whose pattern a later head says in a word: is
that its first text?

\b
    python experiments/planted_words.py
    python experiments/planted_words.py --renew
"""

import sys
from typing import Annotated

import pandas as pd
import torch
import typer
from page_table import markdown, renew
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from vitlens.cli import run
from vitlens.errors import InputError
from vitlens.planted import PlantedWords, planted_words
from vitlens.text import HeadNames, name_heads, name_neurons

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
PICTURES = (64, 128, 256, 512)
#: Heads by what they write; the number is that of their words.
KINDS = ("1 word", "2 words", "3 words", "4 words", "a neuron's word", "a constant", "nothing", "other things")


@app.command(help=__doc__)
def main(
    seeds: Annotated[int, typer.Option(help="how many models are built, with other words, heads and pictures")] = 12,
    n_distractors: Annotated[int, typer.Option(help="texts that no head writes")] = 200,
    n_images: Annotated[list[int], typer.Option(help="pictures, half of them held out")] = list(PICTURES),  # noqa: B006
    renew_page: Annotated[bool, typer.Option("--renew", help="renew the table in docs/pages/planted.md")] = False,
) -> None:
    if seeds < 1:
        raise InputError(f"--seeds is at least 1, not {seeds}")
    rows = []
    jobs = [(seed, n) for seed in range(seeds) for n in sorted(set(n_images))]
    for seed, n in tqdm(jobs, desc="planted words", unit="run", disable=not sys.stderr.isatty()):
        rows += rows_of(planted_words(n_distractors, seed=seed), n)
    frame = pd.DataFrame(rows)
    most = int(frame["pictures"].max())
    tables = [exact_names(frame), explained(frame[frame["pictures"] == most])]
    titles = [
        "heads with exactly their names, in their order, by the number of pictures",
        f"means over {most} pictures",
    ]
    console = Console() if sys.stdout.isatty() else Console(width=150)
    for table, title in zip(tables, titles, strict=True):
        shown = Table(*table.columns, title=title)
        for row in table.itertuples(index=False):
            shown.add_row(*row)
        console.print(shown)
    if renew_page:
        parts = [
            f"{title[0].upper()}{title[1:]}:\n\n{markdown(list(table.columns), table.to_numpy().tolist())}"
            for table, title in zip(tables, titles, strict=True)
        ]
        renew("planted.md", "planted words", "\n\n".join(parts))


def rows_of(vit: PlantedWords, n: int) -> list[dict]:
    """What was found of each head of a model, and of its neuron."""
    images = vit.pictures(n).images
    about = {"tower": vit.tower, "progress": False}
    found = name_heads(vit.model, images, vit.texts, **about)
    rows = []
    for row, label in enumerate(found.axes["head"]):
        truth, names = vit.names[label], found.names[label]
        # Of a head without words, what would be its first name.
        last = max(len(truth), 1) - 1
        rows.append(
            {
                "pictures": n,
                "kind": kind_of(vit, label),
                "exact": names == truth,
                "false": len(set(names) - set(truth)),
                "auroc": auroc(found, row, truth) if truth else float("nan"),
                "held out": found.values[row, last].item(),
                "shuffled": found.shuffled[row, last].item(),
                "random": found.random[row, last].item(),
                "variance": found.variance[row].item(),
            }
        )
    block, neuron = vit.neuron
    named = name_neurons(vit.model, images, vit.texts, block=block, neurons=neuron, k=1, **about)
    numbers = {"held out": named.values.item(), "random": named.random.item(), "variance": named.variance.item()}
    is_found = named.texts[0] == [vit.neuron_word]
    return [
        *rows,
        {"pictures": n, "kind": "the neuron, order 2", "exact": is_found, "false": int(not is_found), **numbers},
    ]


def kind_of(vit: PlantedWords, label: str) -> str:
    special = {vit.constant: "a constant", vit.silent: "nothing", vit.relay: "a neuron's word"}
    n = len(vit.names[label])
    return special.get(label) or (f"{n} word{'s' * (n > 1)}" if n else "other things")


def auroc(found: HeadNames, row: int, truth: list[str]) -> float:
    """Are the words of a head chosen before all other texts? Those that were not chosen share the last place."""
    ranks = torch.full((len(found.vocabulary),), float(found.values.shape[1] + 1))
    for rank, index in enumerate(found.indices[row].tolist()):
        ranks[index] = rank + 1 if index >= 0 else ranks[index]
    return float(roc_auc_score([text in truth for text in found.vocabulary], -ranks))


def exact_names(frame: pd.DataFrame) -> pd.DataFrame:
    """How many of the heads of each kind have their names, by the number of pictures."""
    counts = frame.groupby(["kind", "pictures"])["exact"].agg(["sum", "count"])
    cells = (counts["sum"].astype(int).astype(str) + " of " + counts["count"].astype(str)).unstack()
    cells = cells.reindex([*KINDS, "the neuron, order 2"]).rename(columns=lambda n: f"{n} pictures")
    return cells.reset_index().rename(columns={"kind": "what it writes"})


def explained(frame: pd.DataFrame) -> pd.DataFrame:
    """The means of the other numbers."""
    means = frame.groupby("kind")[["false", "auroc", "held out", "shuffled", "random", "variance"]].mean()
    means = means.reindex([*KINDS, "the neuron, order 2"])
    cells = pd.DataFrame(
        {
            "what it writes": means.index,
            "false names": means["false"].map("{:.2f}".format),
            "AUROC of its words": means["auroc"].map(number),
            "explained, held out": means["held out"].map(number),
            "of shuffled contributions": means["shuffled"].map(number),
            "by random texts": means["random"].map(number),
            "variance": means["variance"].map("{:.2g}".format),
        }
    )
    return cells.reset_index(drop=True)


def number(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.3f}"


if __name__ == "__main__":
    run(app)
