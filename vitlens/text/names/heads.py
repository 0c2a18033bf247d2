"""Names for attention heads: the texts that explain most of what a head writes into the embedding over many pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.arguments import check_count, checked
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureBatches, PictureSource
from vitlens.results.frames import Frame
from vitlens.results.result import Result
from vitlens.text.names.asked import are_names, names_of, read_asked, texts_at, with_chosen_texts
from vitlens.text.names.contributions import Contributions, head_contributions
from vitlens.text.names.intervals import SomeRows, intervals
from vitlens.text.names.moments import VectorMoments
from vitlens.text.names.spans import (
    FEW_DIGITS,
    Chosen,
    Spread,
    best_of_others,
    chance,
    choose_texts,
    inside,
    random_like,
    rotations,
    spread_of,
)
from vitlens.text.names.turned import N_TURNED, turned_lists
from vitlens.text.tower import TextTower

#: What a head writes that varies less than this share of the embedding's variance says nothing of a picture.
NEGLIGIBLE = 1e-4
#: Numbers in the texts as heads see them that are worked on at once.
TEXTS_AT_ONCE = 2**23


@dataclass(frozen=True, repr=False)
class HeadNames(Result):
    """`values` [head, rank]: the share of a head's variance that its first texts explain, on pictures held out.

    `share` is the same on the pictures from which the texts were chosen. `shuffled` is what as many texts, chosen in the
    same way, explain of contributions with the same variances whose directions were shuffled; `random` what as many of as
    many random texts explain of the head itself: means over the draws, on the pictures held out. NaN of a head that writes
    a constant. `variance` [head] is all that is to be explained, as a share of the embedding's variance.

    `low` and `high` are the ends of the 95 % interval of `values` over the pictures held out, the texts as they are.

    `p` [head, rank] belongs to one text: the chance, at most, that any text of any head explains as much of what
    the earlier ones left where the directions of that are shuffled. `p_turned` is how often the best text of a list that is
    turned at random about the mean of the texts explains as much in its place: what all texts share is no name. A text is a
    name of its head if both, and those of all before it, are at most 0.05, and if the head's variance is at least 0.0001;
    `names` has no others. `indices` are places in `vocabulary`, −1 where nothing was left to explain.
    """

    share: Float[Tensor, "head rank"]
    shuffled: Float[Tensor, "head rank"]
    random: Float[Tensor, "head rank"]
    p: Float[Tensor, "head rank"]
    p_turned: Float[Tensor, "head rank"]
    low: Float[Tensor, "head rank"]
    high: Float[Tensor, "head rank"]
    indices: Int[Tensor, "head rank"]
    variance: Float[Tensor, "head"]
    vocabulary: list[str]

    @property
    def texts(self) -> list[list[str]]:
        """The texts of each head in their order, names or not; "" where nothing was left to explain."""
        return texts_at(self.indices, self.vocabulary)

    @property
    def is_name(self) -> Bool[Tensor, "head rank"]:
        """Which texts are names: both p at most 0.05, as of all before, of a head that writes something."""
        return are_names(self.p, self.p_turned, self.variance >= NEGLIGIBLE)

    @property
    def names(self) -> dict[str, list[str]]:
        """The names of each head, by its label; an empty list where the first text is none."""
        return names_of(self.axes["head"], self.texts, self.is_name)

    def columns(self) -> dict[str, Tensor]:
        return {
            **super().columns(),
            "low": self.low,
            "high": self.high,
            "chosen on": self.share,
            "shuffled": self.shuffled,
            "random": self.random,
            "p": self.p,
            "p_turned": self.p_turned,
        }

    def to_frame(self) -> pd.DataFrame:
        """One row for each head and rank, with its text and whether that is a name."""
        return with_chosen_texts(super().to_frame(), self.texts, self.is_name)

    def table(self) -> pd.DataFrame:
        """One row for each head: its names, the share that they explain, that of all k texts, and what that is beside."""
        counts, named = self.is_name.sum(dim=1), self.is_name.any(dim=1)
        by_names = self.values.gather(1, (counts - 1).clamp(min=0)[:, None])[:, 0].masked_fill(~named, 0.0)
        k = self.values.shape[1]
        return Frame(
            {
                "head": list(self.axes["head"]),
                "names": [", ".join(names) for names in self.names.values()],
                "explained": by_names.numpy(),
                "p": self.p[:, 0].numpy(),
                "p_turned": self.p_turned[:, 0].numpy(),
                f"{k} texts": self.values[:, -1].numpy(),
                "low": self.low[:, -1].numpy(),
                "high": self.high[:, -1].numpy(),
                "chosen on": self.share[:, -1].numpy(),
                "shuffled": self.shuffled[:, -1].numpy(),
                "random": self.random[:, -1].numpy(),
                "variance": self.variance.numpy(),
            }
        )


@leaves_state
@checked
def name_heads(
    model: HookedViT,
    images: PictureSource,
    texts: str | Sequence[str],
    *,
    tower: TextTower | None = None,
    blocks: int | Sequence[int] | None = None,
    k: int = 5,
    held_out: float = 0.5,
    n_draws: int = 10,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> HeadNames:
    """Names heads by the texts that explain most of the variance of what they write into the embedding (TextSpan).

    A head's contribution to the embedding of a picture is a vector of the space in which texts lie: its direct part, exactly
    as `direct_logit_attribution` splits it, the final norm's statistics frozen. Over the pictures these vectors have a mean
    and a covariance Σ. Texts are chosen greedily: j = argmax r_jᵀ Σ r_j, the variance along what is left of the text, r_j;
    then r_j is taken out of the vectors and out of all texts. r_j begins as the text's unit vector, projected onto the
    space that the head can write. k texts explain Σ_i q_iᵀ Σ q_i / tr Σ, q_i the unit vectors of the r chosen.

    Any k directions explain something, and the best of many texts more. So the share is that of pictures from which the
    texts were not chosen, and beside it stand shuffled contributions and random texts (see HeadNames). A text is a name only
    if no text would explain as much by chance: p is P(uᵀ Σ u ≥ qᵀ Σ q) for a unit vector u at random in the head's
    space, times the number of texts and heads, Σ that of the pictures held out, behind the earlier texts.

    One pass over the pictures keeps means and covariances alone: memory does not grow with their number.

    Args:
        images: pictures as a tensor, files, a picture set (`open_pictures`), or batches of them.
        texts: what heads may be called: a vocabulary.
        tower: embeds the texts into the space of the model's embeddings; None: the model's own, see
            `HookedViT.set_text_tower`.
        blocks: whose heads; None: all.
        k: how many texts for each head.
        held_out: the share of pictures, drawn by `seed`, on which texts are judged and from which none is chosen.
        n_draws: shuffles, and sets of random texts.
        seed: of what is drawn.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        HeadNames with axes head, rank: `.names`, `.table()`, `.plot()`.

    Raises:
        InputError: no tower; texts of another width than the embedding; fewer texts than k; fewer than two pictures to
            choose from or held out; a share that is not between 0 and 1.

    Source: Gandelsman, Efros & Steinhardt 2024 (Interpreting CLIP's Image Representation via Text-Based Decomposition),
    algorithm 1. Here the space is that of centred contributions, and the embedding is not divided by its length.

    Examples:
        >>> import vitlens
        >>> from vitlens.planted import planted_words
        >>> vit = planted_words()
        >>> images = vit.pictures(256).images
        >>> found = vitlens.text.name_heads(vit.model, images, vit.texts, tower=vit.tower, n_draws=1)
        >>> found.names == vit.names  # heads that write nothing, or what no text says, have none
        True
    """
    check_count(n_draws, "n_draws")
    if not 0 < held_out < 1:
        raise InputError(f"held_out is a share of the pictures, between 0 and 1, not {held_out}")
    chosen_blocks = model.block_indices(blocks)
    asked = read_asked(model, texts, tower, k)
    generator = torch.Generator().manual_seed(seed)
    chosen_on, judged_on, whole, first = VectorMoments(), VectorMoments(), VectorMoments(), None
    some = SomeRows(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for batch in PictureBatches(asked.view, images, batch_size).with_bar("names of heads", progress):
            found, embedding = head_contributions(asked.view, batch.images, chosen_blocks)
            whole.add(embedding[..., None])
            is_held_out = torch.rand(len(batch.images), generator=generator) < held_out
            coordinates = found.coordinates.cpu()
            chosen_on.add(coordinates[~is_held_out])
            judged_on.add(coordinates[is_held_out])
            some.add(coordinates[is_held_out])
            first = found if first is None else first
        if first is None or min(chosen_on.n, judged_on.n) < 2:
            raise InputError(
                "a variance needs two pictures to choose texts from and two held out, and by chance there are "
                f"{chosen_on.n} and {judged_on.n}: pass more pictures"
            )
        parts, named = [], []
        for place, maps, spread in _spreads(first, chosen_on, judged_on, len(asked.texts)):
            chosen, found_here = name_part(spread, asked.vectors, k, n_draws, generator)
            rows, mean = some.rows[:, place], judged_on.mean[place]
            low, high = intervals(rows, judged_on.n, mean, maps, spread, chosen, seed)
            parts.append(found_here | {"low": low, "high": high, "variance": spread.total})
            named.append((spread, chosen))
        p_turned = chance_of_turned_lists(named, asked.vectors, seed)
    about: Any = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    about["p"] = (about["p"] * len(first.labels)).clamp(max=1.0)
    about["variance"] = about["variance"] / float(whole.covariance.sum())
    return HeadNames(
        axes={"head": first.labels, "rank": list(range(1, k + 1))},
        quantity="share of variance",
        p_turned=p_turned,
        vocabulary=asked.texts,
        settings={
            "model": model.cfg.model_name,
            "texts": asked.tower,
            "pictures": chosen_on.n,
            "pictures held out": judged_on.n,
            "n_draws": n_draws,
            "seed": seed,
        },
        **about,
    )


def _spreads(
    first: Contributions, chosen_on: VectorMoments, judged_on: VectorMoments, n_texts: int
) -> Iterator[tuple[slice, Float[Tensor, "head way joint"], Spread]]:
    """The heads' maps and covariances, a part of the heads at a time."""
    maps = first.maps.cpu()
    mean, covariance, held_out = chosen_on.mean, chosen_on.covariance, judged_on.covariance
    size = max(1, TEXTS_AT_ONCE // (n_texts * maps.shape[1]))
    for start in range(0, len(maps), size):
        some = slice(start, start + size)
        yield some, maps[some], spread_of(maps[some], mean[some], covariance[some], held_out[some])


def name_part(
    spread: Spread, texts: Float[Tensor, "text joint"], k: int, n_draws: int, generator: torch.Generator
) -> tuple[Chosen, dict[str, Tensor]]:
    """The texts of some heads, what they explain, and what chance explains in their place."""
    seen = inside(spread, texts)
    chosen = choose_texts(seen, spread.variances, spread.held_out, k)
    # What is drawn is drawn to few digits.
    about = spread.variances.float(), spread.held_out.float()
    seen = seen.float()
    shuffled, random = (torch.zeros_like(chosen.gains) for _ in range(2))
    for _ in range(n_draws):
        turned = seen @ rotations(spread.is_there, generator).float()
        shuffled += held_out_shares(choose_texts(turned, *about, k), spread) / n_draws
        others = inside(spread, random_like(texts, generator).float())
        random += held_out_shares(choose_texts(others, *about, k), spread) / n_draws
    return chosen, {
        "values": held_out_shares(chosen, spread),
        "share": chosen.gains.cumsum(dim=1) / spread.total[:, None],
        "shuffled": shuffled,
        "random": random,
        "p": chance(chosen, spread, len(texts)),
        "indices": chosen.texts,
    }


def chance_of_turned_lists(
    named: list[tuple[Spread, Chosen]], texts: Float[Tensor, "text joint"], seed: int
) -> Float[Tensor, "head rank"]:
    """How often the best of a list that is turned at random explains as much as each text that was chosen, in its place."""
    beaten = [torch.zeros_like(chosen.gains) for _, chosen in named]
    for others in turned_lists(texts, seed):
        for count, (spread, chosen) in zip(beaten, named, strict=True):
            about = spread.variances.float(), spread.held_out.float()
            count += best_of_others(inside(spread, others), chosen, *about) >= chosen.held_out * (1 - FEW_DIGITS)
    p = (1 + torch.cat(beaten)) / (1 + N_TURNED)
    return p.masked_fill(torch.cat([chosen.texts for _, chosen in named]) < 0, torch.nan)


def held_out_shares(chosen: Chosen, spread: Spread) -> Float[Tensor, "head rank"]:
    """The share on the pictures held out; NaN where there is nothing to explain."""
    is_constant = (spread.total == 0)[:, None]
    return (chosen.held_out.cumsum(dim=1) / spread.total_held_out[:, None]).masked_fill(is_constant, torch.nan)
