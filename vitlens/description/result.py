"""The result of `describe`: tables of heads and of blocks, similarities and warnings."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vitlens.description.sinks import SINK_KINDS
from vitlens.description.token_norms import STATISTICS
from vitlens.description.warnings import heatmap_warnings
from vitlens.errors import InputError
from vitlens.model.provenance import page_facts
from vitlens.results.frames import Frame
from vitlens.results.result import Result

if TYPE_CHECKING:
    from vitlens.description.observer import Observer


@dataclass(frozen=True, repr=False)
class Description(Result):
    """`values` [block, head, fact] are means over pictures: distance in pixels, entropies in nats, shares of attention.

    `token_norms` [block, kind, statistic] are norms after each block by kind of token: mean and median within a picture,
    averaged over pictures, and the maximum of all. `outlier_counts` [block, row, column] counts the pictures in which a
    patch is an outlier, `norm_histogram` [block, bin] the patches by norm / median. `example_norms` [example, block, row,
    column] are the patches' norms in the first pictures. `sink_events` [kind, block, head] counts the pictures in which a
    head has a no-op, broadcast or other sink, `sink_tokens` [block, head, kind] the kind of its strongest key.
    `head_similarity` [map, map] is the mean cosine between the patterns of two heads, with heads in the order of blocks;
    `cka` [block, block] is the similarity of blocks (None below 4 pictures), `cka_against` [block, other] that with the
    blocks of another model.

    `top_images` [block, part, rank] are the pictures in which each head, and after the heads the MLP, writes most to the
    class token (without one, to the patches), `top_values` how much, and `top_patches` the patch that it is from (−1: an MLP
    at the class token). `top_pixels` are these pictures, small; their numbers are `top_kept`.
    """

    token_norms: Float[Tensor, "block kind statistic"]
    outlier_counts: Int[Tensor, "block row column"]
    norm_histogram: Int[Tensor, "block bin"]
    example_norms: Float[Tensor, "example block row column"]
    sink_events: Int[Tensor, "event block head"]
    sink_tokens: Int[Tensor, "block head token_kind"]
    head_similarity: Float[Tensor, "map map"]
    cka: Float[Tensor, "block block"] | None
    cka_against: Float[Tensor, "block other"] | None
    top_values: Float[Tensor, "block part rank"]
    top_images: Int[Tensor, "block part rank"]
    top_patches: Int[Tensor, "block part rank"]
    top_kept: list[int]
    top_pixels: UInt8[Tensor, "kept top_height top_width 3"]

    @property
    def facts(self) -> list[str]:
        return self.axes["fact"]

    @property
    def n_images(self) -> int:
        return self.settings["n_images"]

    def fact(self, name: str) -> Float[Tensor, "block head"]:
        """One fact of every head.

        Raises:
            InputError: this model has no such fact (the sentence lists them).
        """
        if name not in self.facts:
            raise InputError(f"there is no fact {name!r} of the heads of this model; there are {', '.join(self.facts)}")
        return self.values[..., self.facts.index(name)]

    def outlier_share(self) -> Float[Tensor, "block"]:
        """The share of outliers among all patches of all pictures, after each block."""
        return self.outlier_counts.double().mean(dim=(1, 2)) / self.n_images

    def sink_kind(self) -> list[list[str]]:
        """For each head [block][head], the kind of sink that it has in at least half of the pictures, else "none"."""
        share = self.sink_events.double() / self.n_images
        kind = share.argmax(dim=0)
        often = share.sum(dim=0) >= 0.5
        return [
            [SINK_KINDS[k] if yes else "none" for k, yes in zip(kinds, row, strict=True)]
            for kinds, row in zip(kind.tolist(), often.tolist(), strict=True)
        ]

    def sink_token(self) -> list[list[str]]:
        """For each head [block][head], the kind of token that is most often its strongest key."""
        names = self.settings["sink_token_kinds"]
        return [[names[i] for i in row] for row in self.sink_tokens.argmax(dim=-1).tolist()]

    @property
    def heads(self) -> pd.DataFrame:
        """One row per head: its facts, its sink, and the head with the most similar pattern."""
        n_blocks, n_heads, n_facts = self.values.shape
        index = pd.MultiIndex.from_product([range(n_blocks), range(n_heads)], names=["block", "head"])
        flat = self.values.reshape(-1, n_facts).cpu().numpy()
        frame = Frame(flat, index=index, columns=self.facts).reset_index()
        for kind, events in zip(SINK_KINDS, self.sink_events, strict=True):
            frame[f"{kind}_share"] = events.flatten().numpy() / self.n_images
        frame["sink"] = [kind for row in self.sink_kind() for kind in row]
        frame["sink_token"] = [kind for row in self.sink_token() for kind in row]
        if len(self.head_similarity) > 1:
            others = self.head_similarity.clone().fill_diagonal_(-torch.inf)
            similarity, nearest = others.max(dim=1)
            frame["nearest_head"] = [_head_name(i, n_heads) for i in nearest.tolist()]
            frame["nearest_similarity"] = similarity.numpy()
        return frame

    @property
    def blocks(self) -> pd.DataFrame:
        """One row per block: norms by kind of token, outliers, and means over its heads."""
        columns: dict[str, Any] = {"block": self.axes["block"]}
        for i, kind in enumerate(self.settings["kinds"]):
            for j, statistic in enumerate(STATISTICS):
                columns[f"{kind}_norm_{statistic}"] = self.token_norms[:, i, j].numpy()
        columns["outlier_share"] = self.outlier_share().numpy()
        columns["outliers_per_image"] = (self.outlier_counts.sum(dim=(1, 2)) / self.n_images).numpy()
        for j, name in enumerate(self.facts):
            columns[f"mean_{name}"] = self.values[..., j].mean(dim=1).numpy()
        return Frame(columns)

    def redundant_heads(self, k: int | None = 20) -> pd.DataFrame:
        """The k pairs of heads of most similar patterns, most similar first; None: all."""
        n_maps, n_heads = len(self.head_similarity), len(self.axes["head"])
        left, right = torch.triu_indices(n_maps, n_maps, offset=1)
        similarity, order = self.head_similarity[left, right].sort(descending=True)
        chosen = order[:k]
        return pd.DataFrame(
            {
                "head": [_head_name(i, n_heads) for i in left[chosen].tolist()],
                "other": [_head_name(i, n_heads) for i in right[chosen].tolist()],
                "similarity": similarity[:k].numpy(),
            }
        )

    @property
    def warnings(self) -> list[str]:
        """One sentence for each fact that distorts heatmaps of this model on these pictures; empty if there is none."""
        return heatmap_warnings(self)

    def __repr__(self) -> str:
        n_blocks, n_heads, n_facts = self.values.shape
        return (
            f"Description({self.settings['model']}: {n_blocks} blocks × {n_heads} heads, {n_facts} facts, "
            f"{self.n_images} pictures, {len(self.warnings)} warnings)"
        )


def description_of(
    observer: "Observer",
    examples: list[Tensor],
    pixels: Tensor | None,
    cka: Tensor | None,
    cka_against: Tensor | None,
    **settings: Any,
) -> Description:
    """The description from the sums of an observer."""
    cfg, layout, norms, tops = observer.model.cfg, observer.layout, observer.norms, observer.tops
    n = norms.n_images
    n_patches = layout.grid[0] * layout.grid[1]
    kept = torch.stack(examples) if examples else torch.zeros(0, cfg.n_layers, n_patches)
    return Description(
        torch.stack(list(observer.facts.values()), dim=-1) / n,
        {"block": list(range(cfg.n_layers)), "head": list(range(cfg.n_heads)), "fact": list(observer.facts)},
        "value",
        token_norms=norms.statistics(),
        outlier_counts=norms.counts.unflatten(1, layout.grid),
        norm_histogram=norms.histogram,
        example_norms=kept.unflatten(-1, layout.grid),
        sink_events=observer.events,
        sink_tokens=observer.sink_tokens,
        head_similarity=observer.cosines / n,
        cka=cka,
        cka_against=cka_against,
        top_values=tops.values,
        top_images=tops.images,
        top_patches=tops.patches,
        top_kept=list(tops.pixels),
        top_pixels=torch.stack(list(tops.pixels.values())),
        pixels=pixels,
        settings={
            "model": cfg.model_name,
            "provenance": page_facts(observer.model),
            "warning": observer.model.provenance.warning,
            "n_images": n,
            "grid": list(layout.grid),
            "patch_size": list(cfg.patch_size),
            "kinds": layout.kinds,
            "sink_token_kinds": observer.sink_token_kinds,
            "outlier_threshold": norms.outlier_threshold,
            "late_block": norms.late_block,
            "outlier_block": norms.first_block(),
            "sink_rule": vars(observer.rule),
            "similarity_queries": len(observer.queries),
            "n_tokens": len(layout.kind_of),
            **settings,
        },
    )


def _head_name(index: int, n_heads: int) -> str:
    block, head = divmod(index, n_heads)
    return f"L{block}H{head}"
