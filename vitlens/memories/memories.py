"""Layers as key-value memories: which classes their value vectors promote, and when they fire (Methods C1 to C5).

A memory of an MLP is a hidden unit: its coefficient is the unit's activation, its value vector the unit's output weights.
A memory of attention is a dimension of a head: its coefficient is that entry of z, its value vector a row of W_O.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from scipy import integrate, stats
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.arguments import check_count, checked, items
from vitlens.choose.classes import Classes, classes_by_batch
from vitlens.choose.texts import takes_text
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.lens.trace import TraceObserver
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Hooks, hook_name
from vitlens.model.parts.linear import effective_weight
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_run import PictureRun

MEMORY_PARTS = ("attn", "mlp")
#: What says how strongly a memory fires: by part, the names of its coefficients, the default first.
COEFFICIENTS = {"attn": ("z",), "mlp": ("post", "pre")}
ORIENTATIONS = ("classes_of_keys", "memories_of_class")


def value_vectors(
    model: HookedViT, block: int, part: str, paper_compat: bool = False
) -> Float[Tensor, "memory d"]:  # fmt: skip
    """What each memory adds to the residual stream per unit of its coefficient, with LayerScale and a post-norm's gain.

    Args:
        part: "attn" (memories in the order of heads, then head dimensions) or "mlp".
        paper_compat: the bare output matrices, as the released code has it.

    Raises:
        InputError: an unknown part or block.
    """
    if part not in MEMORY_PARTS:
        raise InputError(f'memories are those of "attn" or "mlp", not {part!r}')
    owner = model.blocks[model.block_index(block)]
    if paper_compat:
        return effective_weight(owner.attn.proj if part == "attn" else owner.mlp.fc2, None).T
    values = rearrange(owner.attn.W_O, "h e d -> (h e) d") if part == "attn" else owner.mlp.W_out
    norm = owner.norm_behind(part)
    return values if norm is None else norm.linear_part(values)


@dataclass(frozen=True, repr=False)
class Memories:
    """For each (part, block): the classes that each value vector promotes most, best first, and the memories that promote
    each class most."""

    top_classes: dict[tuple[str, int], Int[Tensor, "memory k"]]
    top_memories: dict[tuple[str, int], Int[Tensor, "classes k"]]
    k: int

    def __repr__(self) -> str:
        n = sum(len(top) for top in self.top_classes.values())
        return (
            f"Memories({n:,} of attention and MLP in {len(self.top_classes) // len(MEMORY_PARTS)} blocks, top {self.k})"
        )

    @classmethod
    @checked
    def of(
        cls, model: HookedViT, *, blocks: int | Sequence[int] | None = None, k: int = 5, paper_compat: bool = False
    ) -> "Memories":
        """Reads them off the weights: E · v, not normalised (Methods C2)."""
        model.require_classifier()
        classes, memories = {}, {}
        with torch.no_grad():
            for block in model.block_indices(blocks):
                for part in MEMORY_PARTS:
                    promoted = value_vectors(model, block, part, paper_compat) @ model.W_U
                    classes[part, block] = promoted.topk(min(k, promoted.shape[1]), dim=1).indices
                    memories[part, block] = promoted.T.topk(min(k, promoted.shape[0]), dim=1).indices
        return cls(classes, memories, k)

    def agree(
        self,
        key: tuple[str, int],
        fired: Int[Tensor, "image token k"],
        labels: Int[Tensor, "image"],
        orientation: str = "classes_of_keys",
    ) -> Tensor:
        """Methods C2, [image, token]: whether the class is among the top classes of a memory that fired (as the paper's
        text has it), or one of these is among the class's top memories (as its code has it)."""
        if orientation not in ORIENTATIONS:
            raise InputError(f"an agreement is one of {', '.join(ORIENTATIONS)}, not {orientation!r}")
        if orientation == "classes_of_keys":
            return (self.top_classes[key][fired] == labels[:, None, None, None]).any(dim=-1).any(dim=-1)
        return (self.top_memories[key][labels][:, None, None] == fired[..., None]).any(dim=-1).any(dim=-1)

    def composed(
        self, key: tuple[str, int], fired: Int[Tensor, "image token k"], first: Int[Tensor, "image token"]
    ) -> Tensor:
        """Methods C4, [image, token]: whether the layer's own top-1 class is the top class of a memory that fired."""
        return (self.top_classes[key][..., 0][fired] == first[..., None]).any(dim=-1)


class MemoryObserver:
    """Hooks that record the memories that fire most at every token: `fired[part, block, coefficient]` [image, token, k].

    These are the memories with the largest signed coefficients, as published: memories with large negative coefficients are
    not chosen.
    """

    def __init__(self, model: HookedViT, k: int = 5) -> None:
        self.model = model
        self.k = k
        self.fired: dict[tuple[str, int, str], Int[Tensor, "image token k"]] = {}

    def hooks(self, blocks: Sequence[int] | None = None, coefficients: Sequence[str] = ("z", "post", "pre")) -> Hooks:
        chosen = range(self.model.cfg.n_layers) if blocks is None else blocks
        return [
            (hook_name(block, f"{part}.{name}"), self._note(part, block, name))
            for block in chosen
            for part in MEMORY_PARTS
            for name in COEFFICIENTS[part]
            if name in coefficients
        ]

    def _note(self, part: str, block: int, name: str) -> Any:
        def note(value: Tensor, hook: HookPoint) -> None:
            flat = value.flatten(2)
            self.fired[part, block, name] = flat.topk(min(self.k, flat.shape[-1]), dim=-1).indices

        return note


@leaves_state
@checked
@takes_text("predicted")
def key_value_agreement(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    orientation: str = "classes_of_keys",
    coefficients: str = "post",
    k: int = 5,
    paper_compat: bool = False,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Percentage of tokens at which one of the k strongest memories promotes the class (Methods C2, C4).

    Args:
        classes: one per picture, such as the labels; by default the predicted class.
        orientation: "classes_of_keys": the class is among the top classes of a memory that fires (the paper's text);
            "memories_of_class": a memory that fires is among the top memories of the class (its code).
        coefficients: an MLP's activations "post" (after) or "pre" (before) the nonlinearity; attention always uses z.
        k: how many memories count as firing at a token, and how many classes as a memory's top classes.
        paper_compat: "memories_of_class", "pre", and bare output matrices, as in the released code.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        One row per block and part, in percent: the columns agreement, class_token_agreement and
        composition (Methods C2, C4).

    Raises:
        InputError: an unknown orientation or coefficient; several classes for a picture; a model without a classifier, or
            whose outputs do not compete for a memory; logits that are not finite.

    Source: Vilas, Schaumlöffel & Roig 2023, section 5; Methods C2, C4.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> table = vitlens.memories.key_value_agreement(model, images[:8], labels[:8], k=2)
        >>> table.round(1).tail(2)
            block  part  agreement  class_token_agreement  composition
        10      5  attn       99.7                   87.5         78.1
        11      5   mlp       38.8                  100.0         63.9
    """
    if coefficients not in COEFFICIENTS["mlp"]:
        raise InputError(f'the coefficients of an MLP are taken "post" or "pre" its nonlinearity, not {coefficients!r}')
    if paper_compat:
        orientation, coefficients = "memories_of_class", "pre"
    if orientation not in ORIENTATIONS:
        raise InputError(f"an agreement is one of {', '.join(ORIENTATIONS)}, not {orientation!r}")
    model.require_rank("a memory's class", "read their logits with read_memories")
    if orientation == "classes_of_keys" and check_count(k, "k") >= model.cfg.n_classes:
        raise InputError(
            f"the top {k} of {model.cfg.n_classes} classes are all of them, so every memory would agree with every class: "
            "pass a smaller k="
        )
    run = PictureRun(model, images, batch_size, progress, "memories")
    classes_of = classes_by_batch(model, classes, run.n, one_each="an agreement of memories with classes")
    memories = Memories.of(model, k=check_count(k, "k"), paper_compat=paper_compat)
    batches = []
    for where, pictures in run:
        with torch.no_grad():
            labels = classes_of(where, pictures).indices[:, 0]
            batches.append(_agreement(model, pictures, labels, memories, orientation, coefficients, run.grid))
    class_token = model.cfg.prefix_tokens.index("class") if model.cfg.has_class_token else None
    rows = []
    for part, block in sorted(batches[0], key=lambda key: (key[1], key[0])):
        agrees, composed = (torch.cat(parts).double() for parts in zip(*(b[part, block] for b in batches), strict=True))
        rows.append(
            {
                "block": block,
                "part": part,
                "agreement": 100 * agrees.mean().item(),
                "class_token_agreement": (
                    float("nan") if class_token is None else 100 * agrees[:, class_token].mean().item()
                ),
                "composition": 100 * composed.mean().item(),
            }
        )
    return pd.DataFrame(rows)


def _agreement(
    model: HookedViT,
    pictures: Float[Tensor, "image channels height width"],
    labels: Int[Tensor, "image"],
    memories: Memories,
    orientation: str,
    coefficients: str,
    grid: tuple[int, int],
) -> dict[tuple[str, int], tuple[Bool[Tensor, "image token"], Bool[Tensor, "image token"]]]:
    """One forward's pictures: by part and block, whether a token's memories agree with class and layer."""
    observer = MemoryObserver(model, memories.k)
    tracer = TraceObserver(model, labels, grid)
    hooks = observer.hooks(coefficients=("z", coefficients)) + tracer.hooks(sites=("attn_out", "mlp_out"))
    model.run_with_hooks(pictures, fwd_hooks=hooks, stop_at_layer=model.cfg.n_layers)
    trace = tracer.trace()
    return {
        (part, block): (
            memories.agree((part, block), fired, labels, orientation),
            memories.composed((part, block), fired, trace.first[f"{part}_out", block]),
        )
        for (part, block, _), fired in observer.fired.items()
    }


@leaves_state
@checked
def class_value_agreement(
    model: HookedViT, *, blocks: int | Sequence[int] | None = None, paper_compat: bool = False
) -> pd.DataFrame:
    """The largest cosine between a class's embedding and any value vector, by block, part and class (Methods C1).

    Returns:
        One row per block, part and class, with the columns block, part, class_index, score, and chance: the expected score
        of as many random directions.

    Source: Vilas, Schaumlöffel & Roig 2023, section 5; Methods C1.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> table = vitlens.memories.class_value_agreement(model, blocks=-1)
        >>> table.round(2).head(2)
           block  part  class_index  score  chance
        0      5  attn            0   0.78    0.25
        1      5  attn            1   0.63    0.25
    """
    model.require_classifier()
    tables = []
    with torch.no_grad():
        embeddings = F.normalize(model.W_U.T, dim=-1)
        for block in model.block_indices(blocks):
            for part in MEMORY_PARTS:
                values = value_vectors(model, block, part, paper_compat)
                score = (embeddings @ F.normalize(values, dim=-1).T).amax(dim=1)
                chance = extreme_value_baseline(len(values), values.shape[1])
                tables.append(
                    pd.DataFrame(
                        {
                            "block": block,
                            "part": part,
                            "class_index": range(len(score)),
                            "score": score.cpu().double().numpy(),
                            "chance": chance,
                        }
                    )
                )
    return pd.concat(tables, ignore_index=True)


def compare_with_random(scores: pd.DataFrame, random_scores: pd.DataFrame) -> pd.DataFrame:
    """Whether classes' scores are above those of a re-initialised model, by a signed-rank test over classes (Methods C1).

    Args:
        scores, random_scores: two tables of `class_value_agreement`.

    Returns:
        One row per block and part: mean, random_mean, chance, p (one-sided).
    """
    keys = ["block", "part", "class_index"]
    both = scores.merge(random_scores, on=keys, suffixes=("", "_random"))
    rows = []
    for (block, part), table in both.groupby(["block", "part"], sort=True):
        differs = (table["score"] != table["score_random"]).any()
        test = stats.wilcoxon(table["score"], table["score_random"], alternative="greater") if differs else None
        rows.append(
            {
                "block": block,
                "part": part,
                "mean": table["score"].mean(),
                "random_mean": table["score_random"].mean(),
                "chance": table["chance"].iloc[0],
                "p": float(test.pvalue) if test is not None else 1.0,
            }
        )
    return pd.DataFrame(rows)


def extreme_value_baseline(n_values: int, d: int) -> float:
    """The expected largest of `n_values` cosines between random directions in `d` dimensions.

    (cosine + 1)/2 of random directions is Beta((d − 1)/2, (d − 1)/2), and the largest of n has the mean 1 − ∫ F(x)ⁿ dx.
    A random model reaches this number, so it is the part of a score that the number of values alone explains.
    """
    x = np.linspace(-1, 1, 200_001)
    below = stats.beta((d - 1) / 2, (d - 1) / 2).cdf((x + 1) / 2)
    return float(1 - integrate.trapezoid(below**n_values, x))


@leaves_state
@checked
def read_memories(
    model: HookedViT, block: int, *, part: str = "mlp", memories: int | Sequence[int] | None = None, k: int = 5
) -> pd.DataFrame:
    """The classes that value vectors promote most, by name (Methods C5).

    Args:
        memories: indices of memories; by default all, sorted by their largest logit.

    Returns:
        One row per memory and class, with the columns memory, place (1 is the top-1 class), class_index, class_name, and
        logit (E · v).

    Raises:
        InputError: no such block, part or memory.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> vitlens.memories.read_memories(model, block=-1, memories=3, k=2).round(2)
           memory  place  class_index class_name  logit
        0       3      1            2   pullover   0.11
        1       3      2            7    sneaker   0.08
    """
    model.require_classifier()
    with torch.no_grad():
        promoted = value_vectors(model, block, part) @ model.W_U
    strongest = promoted.amax(dim=1).argsort(descending=True)
    chosen = items(strongest if memories is None else memories)
    if not chosen:
        raise InputError("the list of memories is empty: name at least one, or pass None for all")
    for memory in chosen:
        if not 0 <= memory < len(promoted):
            raise InputError(f"there is no memory {memory}: {part} of block {block} has 0 to {len(promoted) - 1}")
    top = promoted[chosen].topk(min(k, promoted.shape[1]), dim=1)
    rows = [
        {
            "memory": memory,
            "place": place + 1,
            "class_index": index,
            "class_name": model.class_label(index),
            "logit": logit,
        }
        for memory, indices, logits in zip(chosen, top.indices.tolist(), top.values.tolist(), strict=True)
        for place, (index, logit) in enumerate(zip(indices, logits, strict=True))
    ]
    return pd.DataFrame(rows)
