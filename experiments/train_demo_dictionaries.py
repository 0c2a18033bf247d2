"""Trains the demo's dictionaries: a sparse autoencoder of one residual stream, and a transcoder of each of the six MLPs.

The pictures are drawn as those that the demo model was trained on, from the same 58,000 garments; each is seen once by each
training. The figures are measured on garments that neither the model nor a dictionary has seen, with the weights as stored.

    python experiments/train_demo_dictionaries.py         # prints the figures and the seconds of each training
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import torch.nn.functional as F
import typer
from demo_fashion import Garments, agreeing_contexts, load_garments, make_pictures
from jaxtyping import Float, Int
from torch import Tensor
from train_demo_model import N_VALIDATION

from vitlens import HookedViT
from vitlens.demo import load_demo_dictionary, load_demo_model, load_demo_transcoders
from vitlens.features import TrainedDictionaries, evaluate_sae, train, with_saes

#: Half of the weights' bits are stored: the loader casts to float32, so the stored numbers are the dictionaries.
STORED = torch.float16
HOOK = "resid_post3"
DICTIONARY: dict[str, Any] = {"kind": "topk", "k": 8, "expansion": 8, "lr": 3e-3}
TRANSCODERS: dict[str, Any] = {"kind": "batchtopk", "k": 24, "expansion": 6, "skip": True, "lr": 2e-3}
AGREEMENT = 0.5
BATCH = 100


def main(
    out: Annotated[Path, typer.Option(help="folder for the dictionaries")] = Path("assets/demo/dictionaries"),
    fashion: Annotated[Path | None, typer.Option(help="folder of Fashion-MNIST's four IDX files")] = None,
    n_pictures: Annotated[int, typer.Option(help="training pictures of the sparse autoencoder")] = 6_000,
    n_for_mlps: Annotated[int, typer.Option(help="training pictures of the transcoders")] = 4_000,
    n_held_out: Annotated[int, typer.Option(help="pictures for the figures")] = 400,
    seed: Annotated[int, typer.Option(help="of pictures and weights")] = 0,
) -> None:
    model = load_demo_model()
    garments = load_garments("train", fashion)
    index = torch.arange(len(garments))
    seen, unseen = garments.take(index[:-N_VALIDATION]), garments.take(index[-N_VALIDATION:][:n_held_out])

    with timed("dictionary"):
        pictures, n_rows = drawn(seen, n_pictures, seed), n_pictures * model.cfg.n_ctx
        trained = train(model, pictures, HOOK, n_rows=n_rows, seed=seed, **DICTIONARY)
    store(trained, out / "sae")
    with timed("six transcoders"):
        pictures, n_rows = drawn(seen, n_for_mlps, seed), n_for_mlps * model.cfg.n_ctx
        trained = train(
            model, pictures, "ln2.hook_normalized", hook_out="mlp_out", n_rows=n_rows, seed=seed, **TRANSCODERS
        )
    store(trained, out / "transcoders")

    held_out = list(drawn(unseen, n_held_out, seed + 1)())
    images, labels = (torch.cat(parts) for parts in zip(*held_out, strict=True))
    print(each(model, images, labels).to_string(float_format="{:.3f}".format))
    print("all six transcoders in place at once:")
    print(together(model, images, labels).to_string(float_format="{:.3f}".format))


def drawn(garments: Garments, n: int, seed: int) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    """A function that gives batches of n preprocessed pictures and their labels, the same at each call."""

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(garments), generator=generator)[:n]
        for index in chosen.split(BATCH):
            batch = garments.take(index)
            contexts = agreeing_contexts(batch.labels, AGREEMENT, generator)
            yield make_pictures(batch, contexts, generator).images / 127.5 - 1, batch.labels

    return batches


@contextmanager
def timed(what: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    print(f"{what}: trained in {time.monotonic() - begun:.0f} s")


def store(trained: TrainedDictionaries, folder: Path) -> None:
    """Writes each dictionary in half precision to a folder that is named as its hook point."""
    for sae in trained.values():
        sae.to(STORED)
    trained.save(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"wrote {folder}: {size / 1e6:.2f} MB")


def each(model: HookedViT, images: Float[Tensor, "image 3 56 56"], labels: Int[Tensor, "image"]) -> pd.DataFrame:
    """The figures of each dictionary alone, on these pictures."""
    measures = ("explained_variance", "l0", "dead_share", "loss_recovered_mean", "agreement_sae")
    rows = {}
    for sae in (load_demo_dictionary(), *load_demo_transcoders().values()):
        found = evaluate_sae(model, images, sae=sae, labels=labels, baselines=())
        rows[sae.hook] = {name: found[name] for name in measures}
    return pd.DataFrame(rows).T


@torch.no_grad()
def together(model: HookedViT, images: Float[Tensor, "image 3 56 56"], labels: Int[Tensor, "image"]) -> pd.DataFrame:
    """Loss and agreement with the model's own predictions while the transcoders are in the place of all MLPs.

    The loss recovered is 1 for the model itself, and 0 where each MLP writes its mean over pictures and tokens.
    """
    transcoders = load_demo_transcoders()
    clean = predictions(model, images)
    with with_saes(model, transcoders):
        replaced = predictions(model, images)
    with with_saes(model, transcoders, error_term=True):
        exact = predictions(model, images)
    with model.hooks(means_of_mlps(model, images)):
        ablated = predictions(model, images)
    loss, worst = F.cross_entropy(clean, labels), F.cross_entropy(ablated, labels)
    rows = {}
    for name, logits in {"model": clean, "transcoders": replaced, "with errors": exact, "means": ablated}.items():
        here = F.cross_entropy(logits, labels)
        rows[name] = {
            "loss": float(here),
            "loss_recovered": float((worst - here) / (worst - loss)),
            "agreement": float((logits.argmax(-1) == clean.argmax(-1)).double().mean()),
            "accuracy": float((logits.argmax(-1) == labels).double().mean()),
        }
    return pd.DataFrame(rows).T


def predictions(model: HookedViT, images: Float[Tensor, "image 3 56 56"]) -> Float[Tensor, "image classes"]:
    """The logits, in float64, batch by batch."""
    return torch.cat([model(some).double() for some in images.split(BATCH)])


def means_of_mlps(model: HookedViT, images: Float[Tensor, "image 3 56 56"]) -> list[Any]:
    """Hooks that put the mean over pictures and tokens in the place of what each MLP writes."""
    cache = model.run_with_cache(images, names_filter="mlp_out")[1]
    means = {name: written.mean(dim=(0, 1)) for name, written in cache.items()}
    return [(name, lambda written, hook, mean=mean: mean.expand_as(written)) for name, mean in means.items()]


if __name__ == "__main__":
    typer.run(main)
