"""What do directions into later blocks add? A cross-layer transcoder of the demo's six MLPs beside six transcoders.

Both learn from the same pictures, in the same order, with the same numbers of features and of active features. The figures
are measured on garments that neither the model nor a dictionary has seen: how much of each MLP's output is explained in the
model's own run, and how the model answers with all six MLPs replaced.

    python experiments/compare_transcoders.py --fashion FOLDER
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import torch.nn.functional as F
import typer
from demo_fashion import load_garments
from jaxtyping import Float, Int
from torch import Tensor
from train_demo_dictionaries import drawn, means_of_mlps, predictions, timed
from train_demo_model import N_VALIDATION

from vitlens import HookedViT
from vitlens.demo import load_demo_model
from vitlens.features import CrossLayerTranscoder, TrainedDictionaries, mlp_hooks, train, with_saes


def main(
    fashion: Annotated[Path | None, typer.Option(help="folder of Fashion-MNIST's four IDX files")] = None,
    k: Annotated[int, typer.Option(help="active features of each block")] = 8,
    expansion: Annotated[int, typer.Option(help="features of each block, per dimension of the stream")] = 8,
    n_pictures: Annotated[int, typer.Option(help="training pictures")] = 2_000,
    n_held_out: Annotated[int, typer.Option(help="pictures for the figures")] = 500,
    lr: Annotated[float, typer.Option(help="learning rate of both")] = 2e-3,
    seed: Annotated[int, typer.Option(help="of pictures and weights")] = 0,
) -> None:
    model = load_demo_model()
    garments = load_garments("train", fashion)
    index = torch.arange(len(garments))
    seen, unseen = garments.take(index[:-N_VALIDATION]), garments.take(index[-N_VALIDATION:][:n_held_out])
    pictures, n_rows = drawn(seen, n_pictures, seed), n_pictures * model.cfg.n_ctx
    reads = [read for read, _ in mlp_hooks(model)]
    trained = {}
    for name, is_one in (("six transcoders", False), ("cross-layer", True)):
        with timed(name):
            trained[name] = train(
                model, pictures, reads, hook_out="mlp_out", cross_layer=is_one, k=k, expansion=expansion, n_rows=n_rows,
                lr=lr, seed=seed,
            )  # fmt: skip
    images, labels = (torch.cat(parts) for parts in zip(*drawn(unseen, n_held_out, seed + 1)(), strict=True))
    print("explained variance of each MLP's output, in the model's own run:")
    explained = {name: explained_variances(model, images, found) for name, found in trained.items()}
    print(pd.DataFrame(explained).T.to_string(float_format="{:.3f}".format))
    print("all six MLPs replaced at once:")
    print(together(model, images, labels, trained).to_string(float_format="{:.3f}".format))


@torch.no_grad()
def explained_variances(
    model: HookedViT, images: Float[Tensor, "image 3 56 56"], trained: TrainedDictionaries
) -> dict[str, float]:
    """Of what each block's MLP writes."""
    reads, writes = zip(*mlp_hooks(model), strict=True)
    cache = model.run_with_cache(images, names_filter=[*reads, *writes])[1]
    if isinstance(trained[next(iter(trained))], CrossLayerTranscoder):
        predicted = trained.sae([cache[read] for read in reads])
    else:
        predicted = [trained[read](cache[read]) for read in reads]
    found = {}
    for block, (hook, own) in enumerate(zip(writes, predicted, strict=True)):
        spread = (cache[hook] - cache[hook].mean(dim=(0, 1))).square().sum()
        found[f"block {block}"] = 1 - float((cache[hook] - own).square().sum() / spread)
    return found


@torch.no_grad()
def together(
    model: HookedViT,
    images: Float[Tensor, "image 3 56 56"],
    labels: Int[Tensor, "image"],
    trained: Mapping[str, TrainedDictionaries],
) -> pd.DataFrame:
    """Loss recovered, agreement with the model's own predictions, and the KL divergence from them in nats.

    The loss recovered is 1 for the model itself, and 0 where each MLP writes its mean over pictures and tokens.
    """
    clean = predictions(model, images)
    with model.hooks(means_of_mlps(model, images)):
        logits = {"means": predictions(model, images)}
    for name, found in trained.items():
        with with_saes(model, found):
            logits[name] = predictions(model, images)
    loss, worst = F.cross_entropy(clean, labels), F.cross_entropy(logits["means"], labels)
    rows = {
        name: {
            "loss_recovered": float((worst - F.cross_entropy(here, labels)) / (worst - loss)),
            "agreement": float((here.argmax(-1) == clean.argmax(-1)).double().mean()),
            "kl": float(F.kl_div(here.log_softmax(-1), clean.log_softmax(-1), reduction="batchmean", log_target=True)),
        }
        for name, here in logits.items()
    }
    return pd.DataFrame(rows).T


if __name__ == "__main__":
    typer.run(main)
