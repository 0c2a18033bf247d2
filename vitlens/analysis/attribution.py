"""Direct logit attribution: what each part of the network wrote into the logit of a class, summing to it exactly."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.analysis.classes import Classes, ClassSelection, select_classes
from vitlens.analysis.results import Result
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.block import written_by_heads
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.readout import ChosenReadout

UNITS = ("component", "head")


@dataclass(frozen=True, repr=False)
class Attribution(Result):
    """`values` [image, class, component]: each component's share of the logit, in logits.

    The components of a row sum to `logits` [image, class]; `residual` is what is left over, rounding alone.
    With `baseline_classes` both are differences of two classes' logits.
    """

    logits: Float[Tensor, "image class"]
    baseline_names: list[str] | None = None

    @property
    def residual(self) -> Float[Tensor, "image class"]:
        """sum of the components − logit: how far the decomposition is from exact."""
        return self.values.sum(dim=-1) - self.logits

    def head_map(self, image: int = 0, position: int = 0) -> Float[Tensor, "block head"]:
        """The heads' shares as a block × head table, from unit="head"."""
        labels = self.axes["component"]
        heads = [i for i, label in enumerate(labels) if "H" in label]
        if not heads:
            raise InputError('this attribution has no heads: compute it with unit="head"')
        n_blocks = 1 + max(int(labels[i][1:].split("H")[0]) for i in heads)
        return self.values[image, position, heads].unflatten(0, (n_blocks, -1))

    def top(self, k: int = 10, image: int = 0, position: int = 0) -> pd.DataFrame:
        """The k components that weigh most, by magnitude."""
        shares = self.values[image, position].cpu()
        order = shares.abs().argsort(descending=True)[:k].tolist()
        labels = self.axes["component"]
        return pd.DataFrame({"component": [labels[i] for i in order], "logit": shares[order].numpy()})


def direct_logit_attribution(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    baseline_classes: Classes = None,
    unit: str = "component",
) -> Attribution:
    """Splits the logit of a class into what each component wrote directly, the final norm's statistics frozen.

    logit_c = Σ_components Σ_t w_t ⟨u_c, component_t⟩ + constant_c, where u_c is the class embedding pulled back through
    the norm's affine part and centring, and w_t the pooling weight over the norm's scale. Exact, not approximate: the
    rows sum to the logit up to rounding, and `result.residual` says by how much they miss. Attention pooling is linear
    with its pattern frozen, and its MLP one component; of a maximum over tokens the place is frozen, feature by feature.

    Args:
        images: pictures as a tensor, or anything `model.to_images` reads.
        classes: see `select_classes`; by default each picture's predicted class.
        baseline_classes: attribute logit(class) − logit(baseline) instead, position by position.
        unit: "component": embedding, positions, each block's attention and MLP, the constant; "head": attention split
            into its heads, its output bias apart.

    Returns:
        Attribution with axes image, class, component. Component labels: "embed", "pos_embed" (or "embed_norm" where a
        norm follows the embedding), "L3 attn" or "L3H5" and "L3 attn bias", "L3 mlp", "pool mlp" (attention pooling),
        "constant" (bias of the classifier and of the final norm).

    Raises:
        InputError: an unknown unit or class, a model without a classifier.

    Source: METHODS.md notation, TRANSFORMERLENS' direct_logit_attribution with the affine norm and pooling included.
    """
    if unit not in UNITS:
        raise InputError(f"unit is one of {', '.join(UNITS)}, not {unit!r}")
    model.require_classifier()
    pictures = model.as_images(images)
    with torch.no_grad():
        written, final, all_logits = _run(model, pictures, unit)
        selection = select_classes(model, classes, all_logits)
        baseline = None
        if baseline_classes is not None:
            baseline = select_classes(model, baseline_classes, all_logits)
            _check_baseline(selection, baseline)
        against = None if baseline is None else baseline.indices
        readouts = [readout.choose(selection.indices, against) for readout in model.linear_readouts(final)]
        labels, shares = [], []
        for label, share in _shares(model, written, readouts, unit):
            labels.append(label)
            shares.append(share)
        for label, fixed in [
            *readouts[0].terms.items(),
            ("constant", torch.stack([reader.constant for reader in readouts]).sum(dim=0)),
        ]:
            labels.append(label)
            shares.append(fixed)
        logits = selection.take(all_logits)
        if baseline is not None:
            logits = logits - baseline.take(all_logits)
    return Attribution(
        values=torch.stack(shares, dim=-1),
        axes={"image": list(range(len(pictures))), "class": selection.labels, "component": labels},
        quantity="logit" if baseline is None else "logit difference",
        logits=logits,
        baseline_names=None if baseline is None else baseline.labels,
        classes=selection.indices,
        class_names=model.class_names,
        settings={"model": model.cfg.model_name, "unit": unit, "norm": "statistics frozen"},
    )


def _run(
    model: HookedViT, pictures: Tensor, unit: str
) -> tuple[dict[str, Tensor], Tensor, Float[Tensor, "image classes"]]:
    """What every component wrote at the tokens that are read; the last residual stream; the logits."""
    last = model.cfg.n_layers - 1
    # Tokens that no classifier reads can be dropped at once: of a class-token model all but one.
    end = 2 if model.is_distilled else model.read_tokens.stop
    written: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: HookPoint) -> None:
        written[str(hook.name)] = activation[:, :end].clone()

    names = ["embed_norm"] if "hook_embed_norm" in model.hook_dict else ["embed", "pos_embed"]
    sources = [f"hook_{name}" for name in names if f"hook_{name}" in model.hook_dict]
    for block in range(model.cfg.n_layers):
        by_head = ["attn.hook_z", *(["ln1.hook_scale"] if model.cfg.wiring == "post-norm" else [])]
        attention = by_head if unit == "head" else ["hook_attn_out"]
        sources += [f"blocks.{block}.{site}" for site in [*attention, "hook_mlp_out"]]
    final = f"blocks.{last}.hook_resid_post"
    logits = model.run_with_hooks(pictures, fwd_hooks=[(name, keep) for name in [*sources, final]])
    return written, written.pop(final), logits


def _shares(
    model: HookedViT, written: dict[str, Tensor], readouts: list[ChosenReadout], unit: str
) -> Iterator[tuple[str, Float[Tensor, "image class"]]]:
    """Label and share of one component after the other; the projection comes first, so nothing large is stacked."""

    def share(activation: Tensor) -> Float[Tensor, "image class"]:
        return torch.stack([reader.share(activation) for reader in readouts]).sum(dim=0)

    for name, activation in written.items():
        if not name.startswith("blocks."):
            yield name.removeprefix("hook_"), share(activation)
            continue
        block = int(name.split(".")[1])
        if name.endswith("hook_mlp_out"):
            yield f"L{block} mlp", share(activation)
        elif name.endswith("hook_attn_out"):
            yield f"L{block} attn", share(activation)
        elif name.endswith("hook_z"):
            scale = written.get(f"blocks.{block}.ln1.hook_scale")
            z, W_O, bias = written_by_heads(model.blocks[block], activation, scale)
            heads = torch.stack([reader.head_share(z, W_O) for reader in readouts]).sum(dim=0)
            for head in range(model.blocks[block].attn.n_heads):
                yield f"L{block}H{head}", heads[..., head]
            yield f"L{block} attn bias", share(bias)


def _check_baseline(selection: ClassSelection, baseline: ClassSelection) -> None:
    n_classes, n_baseline = selection.indices.shape[1], baseline.indices.shape[1]
    if n_baseline not in (1, n_classes):
        raise InputError(f"{n_classes} classes need 1 or {n_classes} baseline classes, not {n_baseline}")
