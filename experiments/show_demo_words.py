"""A page about the demo's two towers: which heads speak of garments, and which of textures?

One picture is read by two sentences, block by block and patch by patch. Heads get the words that explain what they write.
Then heads are exchanged between pictures that differ in the texture alone, or in the garment: what a head's output does to
the decision between two texture words, and to that between two garment words.

    python experiments/show_demo_words.py
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from demo_fashion import CLASS_NAMES, TEXTURE_NAMES
from jaxtyping import Int
from torch import Tensor
from train_demo_words import GARMENTS as GARMENT_WORDS
from train_demo_words import TEXTURES as TEXTURE_WORDS

from vitlens import HookedViT
from vitlens.attribution import direct_logit_attribution
from vitlens.cli import run
from vitlens.demo import DemoPictures, load_demo_pictures, load_demo_words
from vitlens.heatmaps import heatmap
from vitlens.lens import class_lens
from vitlens.model.provenance import page_facts
from vitlens.pages.page import Section, write_page
from vitlens.patching import Patching, activation_patching
from vitlens.plots import attribution_head_map, patching_board
from vitlens.text import HeadNames, TextTower, name_heads, zero_shot_accuracy

GARMENTS = [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in CLASS_NAMES]
TEXTURES = list(TEXTURE_NAMES)
#: Of the demo: a T-shirt on the texture of bags.
PICTURE = 5

app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def main(
    out: Annotated[Path, typer.Option(help="the page to write")] = Path("out/demo_words.html"),
    pairs: Annotated[
        int, typer.Option(help="of pictures, for the exchange of heads: one of every garment at a time")
    ] = 20,
) -> None:
    model, tower = load_demo_words()
    model = name_everything(model, tower)
    pictures = load_demo_pictures(model)
    accuracy = zero_shot(model, pictures)
    print(accuracy.text)
    write_page(
        out,
        "Words for pictures",
        page_facts(model) | {"texts": repr(tower), "pictures": f"{len(pictures.images)} of the demo"},
        [accuracy, *one_picture(model, pictures), names(model, pictures), heads(model, pictures, pairs)],
    )
    print(f"wrote {out}")


def name_everything(model: HookedViT, tower: TextTower) -> HookedViT:
    """The picture tower whose classes are the ten garments, and then the ten textures."""
    return model.with_class_embeddings(tower, [*GARMENTS, *TEXTURES])


def zero_shot(model: HookedViT, pictures: DemoPictures) -> Section:
    """How many garments and textures are named rightly."""
    said, boards = [], []
    for what, (texts, labels) in {
        "garments": (GARMENTS, pictures.labels),
        "textures": (TEXTURES, pictures.contexts),
    }.items():
        for kind, some in {"agreeing": pictures.agreeing, "conflicting": pictures.conflicting}.items():
            found = zero_shot_accuracy(model, pictures.images[some], texts, labels=labels[some], progress=False)
            said.append(f"{what} {kind} {100 * found.accuracy:.0f} %")
        boards.append(found.plot())
    return Section(
        "Zero-shot",
        f"Named rightly: {', '.join(said)}. Below: those on conflicting textures.",
        [(boards[0], boards[1])],
    )


def one_picture(model: HookedViT, pictures: DemoPictures) -> list[Section]:
    """What two sentences find in one picture."""
    image = pictures.images[PICTURE : PICTURE + 1]
    garment, texture = GARMENTS[pictures.labels[PICTURE]], TEXTURES[pictures.contexts[PICTURE]]
    lens = class_lens(model, image, [garment, texture], tokens="class")
    shares = direct_logit_attribution(model, image, [garment, texture], unit="head", progress=False)
    maps = [heatmap(model, image, sentence, method="head_patch").plot() for sentence in (garment, texture)]
    return [
        Section(
            f"“{garment}” and “{texture}” in one picture",
            "Both sentences are true of it. The map of a sentence shows which patches wrote its logit directly, through the "
            "heads: those of the garment, or those around it.",
            [*maps, lens.plot()],
        ),
        Section(
            "The heads that write them",
            "Each head's direct share of the two logits.",
            [(attribution_head_map(shares), attribution_head_map(shares, class_position=1))],
        ),
    ]


def words_of_heads(model: HookedViT, pictures: DemoPictures) -> HeadNames:
    """The words, of all that the text tower was trained with, that explain most of what each head writes."""
    return name_heads(model, pictures.images, [*GARMENT_WORDS, *TEXTURE_WORDS], progress=False)


def names(model: HookedViT, pictures: DemoPictures) -> Section:
    """What each head writes, in words."""
    found = words_of_heads(model, pictures)
    table = found.table()
    k = found.values.shape[1]
    lines = [
        f"{head}: {', '.join(texts)} ({100 * own:.0f} %, shuffled {100 * shuffled:.0f} %, random {100 * random:.0f} %)"
        for head, texts, own, shuffled, random in zip(
            table["head"], found.texts, table[f"{k} texts"], table["shuffled"], table["random"], strict=True
        )
    ]
    said = (
        f"The {k} words that explain most of the variance of what a head writes, and their share on pictures held out, "
        "beside that of shuffled contributions and of random texts. The board shows names: words that explain more by "
        "themselves than any would by chance. A head that tells many things apart has none."
    )
    return Section("The words of the heads", "\n".join([said, *lines]), [found.plot()])


@dataclass(frozen=True)
class Pairs:
    """Pictures of the demo, by number, that differ in one thing, and the words between which this decides."""

    clean: Int[Tensor, "pair"]
    corrupted: Int[Tensor, "pair"]
    classes: Int[Tensor, "pair"]
    baseline: Int[Tensor, "pair"]

    def patched(self, model: HookedViT, pictures: DemoPictures) -> Patching:
        """Every head's output at the class token, patched from the clean picture into the corrupted one."""
        return activation_patching(
            model,
            pictures.images[self.clean],
            pictures.images[self.corrupted],
            classes=self.classes,
            baseline_classes=self.baseline,
            sites="z",
            tokens="class",
        )


def texture_pairs(pictures: DemoPictures, n: int) -> Pairs:
    """The same garment at the same place on two textures."""
    clean = spread(n)
    return Pairs(
        clean,
        clean + 1,
        len(GARMENTS) + pictures.contexts[clean],
        len(GARMENTS) + pictures.contexts[clean + 1],
    )


def garment_pairs(pictures: DemoPictures, n: int) -> Pairs:
    """Two garments on the same kind of texture: a conflicting picture, and an agreeing one whose texture it has."""
    corrupted = spread(n) + 1
    first = {int(label): 2 * i for i, label in reversed(list(enumerate(pictures.labels[pictures.agreeing])))}
    clean = torch.tensor([first[int(context)] for context in pictures.contexts[corrupted]])
    return Pairs(clean, corrupted, pictures.labels[clean], pictures.labels[corrupted])


def spread(n: int) -> Int[Tensor, "pair"]:
    """The agreeing pictures of n pairs, one of every garment before a second of any."""
    return 2 * torch.arange(50).reshape(10, 5).T.flatten()[:n]


def heads(model: HookedViT, pictures: DemoPictures, n_pairs: int) -> Section:
    """Which heads decide between texture words, and which between garment words."""
    boards = []
    for words, pairs in {"textures": texture_pairs, "garments": garment_pairs}.items():
        board = patching_board(pairs(pictures, n_pairs).patched(model, pictures))
        boards.append(board.update_layout(title_text=f"Between two {words}"))
    return Section(
        "The heads that decide",
        "A head's output at the class token, put from one picture into another that differs in the texture (left) or in the "
        f"garment (right), over {n_pairs} pairs each: the share of the decision between the two words that it restores.",
        [(boards[0], boards[1])],
    )


if __name__ == "__main__":
    run(app)
