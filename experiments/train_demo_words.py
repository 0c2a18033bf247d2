"""Trains the demo's two towers: pictures of "Fashion in context" beside captions that name garment, texture, or both.

The garments stand on backgrounds that are drawn independently of them: in 20 % of the pictures a plain colour, else one of
the ten textures (so 8 % agree with the demo model's classes, and 72 % conflict). No word can be read from the wrong pixels.
The picture tower begins from the demo model's weights, with a new projection, and its first blocks stay as they are; the
text tower (vitlens/demo_words.py) begins from nothing. Loss: the sigmoid of every picture and caption (Zhai et al. 2023,
SigLIP), where every caption that is true of a picture is a positive, whichever picture it was written for.

    python experiments/train_demo_words.py                # prints the seconds of one core, and the accuracies
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import torch.nn.functional as F
import typer
from demo_fashion import (
    CLASS_NAMES,
    TEXTURE_NAMES,
    Garments,
    Pictures,
    Placement,
    compose,
    conflicting_contexts,
    draw_plain,
    draw_textures,
    load_garments,
)
from jaxtyping import Bool, Int
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from tqdm import tqdm
from train_demo_model import ARCHITECTURE, N_VALIDATION

from vitlens import HookedViT
from vitlens.data.demo_files import demo_folder
from vitlens.demo_words import SumOfWords
from vitlens.files import make_folder, write_whole
from vitlens.results.tensor_files import save_tensors
from vitlens.text import TextTower, zero_shot_accuracy

PLAIN = len(TEXTURE_NAMES)
#: What a caption may call a garment or a texture, and of which of them it is true.
GARMENTS = {name: (i,) for i, name in enumerate(CLASS_NAMES)} | {"boot": (9,), "shoe": (5, 7, 9)}
TEXTURES = {name: (i,) for i, name in enumerate((*TEXTURE_NAMES, "plain background"))} | {
    "stripes": (0, 1),
    "diagonals": (2, 6),
    "grid": (7,),
    "clouds": (8,),
    "noise": (9,),
}
#: Words that say nothing of a picture.
FILLERS = (
    *("a", "an", "the", "of", "on", "in", "with", "and", "front", "before", "behind"),
    *("photo", "picture", "background", "texture", "garment"),
)
WIDTH = 64
SHARE_PLAIN = 0.2
#: Blocks that stay the demo model's, which saves a quarter of the time.
N_FROZEN = 2


@dataclass(frozen=True)
class Captions:
    """Sentences, and of which garments and textures each is true."""

    texts: list[str]
    garments: Bool[Tensor, "caption garment"]
    textures: Bool[Tensor, "caption texture"]

    def true_of(self, pictures: Pictures) -> Bool[Tensor, "picture caption"]:
        return (self.garments[:, pictures.labels] & self.textures[:, pictures.contexts]).T


def main(
    out: Annotated[Path, typer.Option(help="folder for the weights and the lists of words")] = Path(
        "assets/demo/words"
    ),
    fashion: Annotated[Path | None, typer.Option(help="folder of Fashion-MNIST's four IDX files")] = None,
    n_steps: Annotated[int, typer.Option(help="steps of training")] = 1_000,
    n_full: Annotated[int, typer.Option(help="last steps, which see every patch; others see half of them")] = 120,
    learning_rate: Annotated[float, typer.Option(help="peak, after 5 % of the steps")] = 1e-3,
    batch_size: Annotated[int, typer.Option(help="pictures per step, and half of its captions")] = 64,
    n_held_out: Annotated[int, typer.Option(help="test garments for the accuracies")] = 2_000,
    seed: Annotated[int, typer.Option(help="of weights, order, places, textures and captions")] = 0,
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    garments = load_garments("train", fashion)
    seen = garments.take(torch.arange(len(garments) - N_VALIDATION))
    pictures_tower, texts_tower = start_pictures_tower(), SumOfWords(words(), FILLERS, WIDTH)
    begun = time.process_time()
    scale, bias = train(pictures_tower, texts_tower, seen, n_steps, n_full, learning_rate, batch_size, seed)
    print(f"trained in {time.process_time() - begun:.0f} s of one core")

    store(out, pictures_tower, texts_tower, scale, bias)
    held_out = load_garments("test", fashion).take(torch.arange(n_held_out))
    model = HookedViT.from_timm(pictures_tower.eval(), output="embedding")
    found = accuracies(model, TextTower(texts_tower), held_out, seed + 1)
    print(found.to_string(float_format="{:.1%}".format))


def start_pictures_tower() -> VisionTransformer:
    """The demo model with a projection in the place of its classifier; embedding and first blocks are frozen."""
    tower = VisionTransformer(**ARCHITECTURE | {"num_classes": WIDTH}, patch_drop_rate=0.5)
    weights = load_file(demo_folder() / "model.safetensors")
    tower.load_state_dict(weights | {f"head.{name}": value for name, value in tower.head.state_dict().items()})
    for part in (tower.patch_embed, *tower.blocks[:N_FROZEN]):
        part.requires_grad_(False)
    for parameter in (tower.cls_token, tower.pos_embed):
        parameter.requires_grad_(False)
    return tower


def train(
    pictures_tower: VisionTransformer,
    texts_tower: SumOfWords,
    garments: Garments,
    n_steps: int,
    n_full: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> tuple[float, float]:
    """Trains both towers in place; returns scale and bias of logit = scale · cos(picture, text) + bias."""
    generator = torch.Generator().manual_seed(seed)
    scale, bias = nn.Parameter(torch.tensor(math.log(10.0))), nn.Parameter(torch.tensor(-5.0))
    parameters = [one for one in pictures_tower.parameters() if one.requires_grad]
    parameters += [*texts_tower.parameters(), scale, bias]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.05, betas=(0.9, 0.98))
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, n_steps, pct_start=0.05, cycle_momentum=False)
    progress = tqdm(range(n_steps), mininterval=5)
    for step in progress:
        pictures_tower.patch_drop.prob = 0.5 if step < n_steps - n_full else 0.0
        batch = garments.take(torch.randint(len(garments), (batch_size,), generator=generator))
        pictures = drawn(batch, independent_contexts(batch_size, generator), generator)
        captions = write_captions(pictures, 2, generator)
        seen, read = pictures_tower(pictures.images / 127.5 - 1), texts_tower(captions.texts)
        logits = scale.exp() * F.normalize(seen, dim=1) @ F.normalize(read, dim=1).T + bias
        loss = F.binary_cross_entropy_with_logits(logits, captions.true_of(pictures).float())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rate.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return scale.exp().item(), bias.item()


def words() -> list[str]:
    """The words of all captions but fillers, each once."""
    found = " ".join((*GARMENTS, *TEXTURES)).lower().split()
    return [word for word in dict.fromkeys(found) if word not in FILLERS]


def independent_contexts(n: int, generator: torch.Generator) -> Int[Tensor, "n"]:
    """Plain for a share of the pictures, else any of the ten textures."""
    plain = torch.rand(n, generator=generator) < SHARE_PLAIN
    return torch.where(plain, PLAIN, torch.randint(PLAIN, (n,), generator=generator))


def drawn(garments: Garments, contexts: Int[Tensor, "n"], generator: torch.Generator) -> Pictures:
    """Garments at random places on these textures, or on plain colours."""
    textures = draw_textures(contexts.clamp(max=PLAIN - 1), generator)
    plain = (contexts == PLAIN)[:, None, None, None]
    backgrounds = torch.where(plain, draw_plain(len(garments), generator), textures)
    return compose(garments, Placement.draw(len(garments), generator), backgrounds, contexts)


def write_captions(pictures: Pictures, n_each: int, generator: torch.Generator) -> Captions:
    """Some for each picture: its garment, its texture or both, each a third of the time, in any of its names."""

    def one_of(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    def name(kinds: dict[str, tuple[int, ...]], kind: int) -> str:
        fitting = [text for text, true_of in kinds.items() if kind in true_of]
        return fitting[one_of(len(fitting))]

    texts = []
    pairs = list(zip(pictures.labels.tolist(), pictures.contexts.tolist(), strict=True)) * n_each
    garments = torch.ones(len(pairs), len(CLASS_NAMES), dtype=torch.bool)
    textures = torch.ones(len(pairs), PLAIN + 1, dtype=torch.bool)
    for i, (label, context) in enumerate(pairs):
        garment, texture, form = name(GARMENTS, label), name(TEXTURES, context), one_of(3)
        texts.append((garment, texture, f"{garment} on {texture}")[form])
        if form != 1:
            garments[i] = torch.isin(torch.arange(len(CLASS_NAMES)), torch.tensor(GARMENTS[garment]))
        if form != 0:
            textures[i] = torch.isin(torch.arange(PLAIN + 1), torch.tensor(TEXTURES[texture]))
    return Captions(texts, garments, textures)


def store(out: Path, pictures_tower: nn.Module, texts_tower: nn.Module, scale: float, bias: float) -> None:
    """Writes both towers in half precision, and what is needed to build and to use them; rounds the towers to the same."""
    make_folder(out)
    for name, tower in {"pictures": pictures_tower, "texts": texts_tower}.items():
        save_tensors(tower.half().state_dict(), out / f"{name}.safetensors")
        tower.float()
    description = {
        "name": "fashion_in_context_words",
        "width": WIDTH,
        "scale": scale,
        "bias": bias,
        "words": words(),
        "fillers": FILLERS,
    }
    write_whole(out / "words.json", (json.dumps(description, indent=2) + "\n").encode())
    print(f"wrote {out}: {sum(path.stat().st_size for path in out.iterdir()) / 1e6:.2f} MB")


def accuracies(model: HookedViT, tower: TextTower, garments: Garments, seed: int) -> pd.DataFrame:
    """Zero-shot accuracy for garments (of 10) and textures (of 11, among them plain), by kind of background."""
    generator = torch.Generator().manual_seed(seed)
    contexts = {
        "agreeing": garments.labels,
        "conflicting": conflicting_contexts(garments.labels, generator),
        "plain": torch.full_like(garments.labels, PLAIN),
    }
    texts = {"garment": [f"a {name}" for name in CLASS_NAMES], "texture": [*TEXTURE_NAMES, "a plain background"]}
    rows = {}
    for background, kinds in contexts.items():
        pictures = drawn(garments, kinds, generator)
        images, truth = pictures.images / 127.5 - 1, {"garment": pictures.labels, "texture": pictures.contexts}
        rows[background] = {
            what: zero_shot_accuracy(model, images, names, labels=truth[what], tower=tower, progress=False).accuracy
            for what, names in texts.items()
        }
    return pd.DataFrame(rows).T


if __name__ == "__main__":
    typer.run(main)
