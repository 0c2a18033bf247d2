"""Trains the demo model: a small timm VisionTransformer on "Fashion in context" (vitlens/data/fashion.py).

Every epoch puts each garment at a new place on a new background. The background's texture is the garment's own in a share
of the pictures (`--agreement`), any other time a random one, so the model learns to weigh object against context.
For the first epochs half of the patches are dropped (Li et al. 2023, FLIP), which halves the time; the last see all.

    python experiments/train_demo_model.py                # about 45 minutes on two cores; Ctrl-C and run again: it resumes
    python experiments/evaluate_demo_model.py
"""

import io
import json
import math
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from demo_fashion import (
    CANVAS,
    CLASS_NAMES,
    Garments,
    agreeing_contexts,
    conflicting_contexts,
    load_garments,
    make_pictures,
)
from timm.models.vision_transformer import VisionTransformer
from tqdm import tqdm

from vitlens.files import make_folder, write_whole
from vitlens.results.tensor_files import save_tensors

ARCHITECTURE = dict(
    img_size=CANVAS,
    patch_size=4,
    embed_dim=96,
    depth=6,
    num_heads=4,
    mlp_ratio=4.0,
    num_classes=len(CLASS_NAMES),
)
N_VALIDATION = 2000


def main(
    out: Annotated[Path, typer.Option(help="folder for the weights and the architecture")] = Path("assets/demo"),
    fashion: Annotated[Path | None, typer.Option(help="folder of Fashion-MNIST's four IDX files")] = None,
    epochs: Annotated[int, typer.Option(help="passes over the 58,000 training garments")] = 10,
    full_epochs: Annotated[int, typer.Option(help="last epochs that see every patch")] = 2,
    agreement: Annotated[float, typer.Option(help="share of textures that must agree")] = 0.5,
    learning_rate: Annotated[float, typer.Option(help="peak, after 5 % of the steps")] = 1.5e-3,
    batch_size: Annotated[int, typer.Option(help="pictures per step")] = 128,
    seed: Annotated[int, typer.Option(help="of weights, order, places and textures")] = 0,
    checkpoint: Annotated[Path, typer.Option(help="where a stopped run resumes from")] = Path("out/demo_training.pt"),
) -> None:
    garments = load_garments("train", fashion)
    training, validation = _split(garments, N_VALIDATION)

    torch.manual_seed(seed)
    model = VisionTransformer(**ARCHITECTURE, patch_drop_rate=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05, betas=(0.9, 0.98))
    steps_per_epoch = len(training) // batch_size
    n_steps = epochs * steps_per_epoch
    first_epoch = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first_epoch = state["epoch"] + 1
        print(f"resuming after epoch {first_epoch} of {epochs} from {checkpoint}")

    for epoch in range(first_epoch, epochs):
        # One generator per epoch: a resumed run draws the pictures that an unbroken one would have drawn.
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        torch.manual_seed(1000 * seed + epoch)
        model.train()
        model.patch_drop.prob = 0.5 if epoch < epochs - full_epochs else 0.0
        order = torch.randperm(len(training), generator=generator)
        progress = tqdm(range(steps_per_epoch), desc=f"epoch {epoch + 1}/{epochs}", mininterval=5)
        for i in progress:
            batch = training.take(order[i * batch_size : (i + 1) * batch_size])
            contexts = agreeing_contexts(batch.labels, agreement, generator)
            images = make_pictures(batch, contexts, generator).images / 127.5 - 1
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _schedule(epoch * steps_per_epoch + i, n_steps)
            loss = F.cross_entropy(model(images), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        agreeing, conflicting = _validate(model, validation, seed)
        print(f"epoch {epoch + 1}: agreeing {agreeing:.1%}, conflicting {conflicting:.1%}")
        make_folder(checkpoint.parent)
        state = io.BytesIO()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}, state)
        write_whole(checkpoint, state.getvalue())

    make_folder(out)
    # Half precision keeps the file small; the loader casts to float32, so the stored numbers are the model.
    weights = {name: tensor.half() for name, tensor in model.state_dict().items()}
    save_tensors(weights, out / "model.safetensors")
    description = {
        "name": "fashion_in_context_vit",
        "architecture": ARCHITECTURE,
        "class_names": CLASS_NAMES,
        "data_config": {
            "input_size": [3, CANVAS, CANVAS],
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
        },
    }
    write_whole(out / "model.json", (json.dumps(description, indent=2) + "\n").encode())
    print(f"wrote {out / 'model.safetensors'} and {out / 'model.json'}")


def _schedule(step: int, n_steps: int) -> float:
    """Linear warm-up over 5 % of the steps, then a cosine down to 0."""
    warmup = max(1, n_steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (n_steps - warmup)))


def _split(garments: Garments, n_validation: int) -> tuple[Garments, Garments]:
    index = torch.arange(len(garments))
    return garments.take(index[:-n_validation]), garments.take(index[-n_validation:])


@torch.inference_mode()
def _validate(model: VisionTransformer, garments: Garments, seed: int) -> tuple[float, float]:
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    accuracies = []
    for contexts in (garments.labels, conflicting_contexts(garments.labels, generator)):
        images = make_pictures(garments, contexts, generator).images / 127.5 - 1
        logits = torch.cat([model(batch) for batch in images.split(250)])
        accuracies.append((logits.argmax(-1) == garments.labels).float().mean().item())
    return accuracies[0], accuracies[1]


if __name__ == "__main__":
    typer.run(main)
