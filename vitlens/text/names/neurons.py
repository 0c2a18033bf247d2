"""Names for neurons: the direction that a neuron writes into the embedding, directly or through later heads, in texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.arguments import check_count, checked, index_of, items
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureBatches, PictureSource
from vitlens.results.frames import Frame
from vitlens.results.result import Result
from vitlens.text.names.asked import are_names, names_of, read_asked, texts_at, with_chosen_texts
from vitlens.text.names.moments import VectorMoments
from vitlens.text.names.neuron_effects import NeuronEffects, neuron_effects
from vitlens.text.names.spans import FEW_DIGITS, Spread, chance_of_one, random_like, spread_of
from vitlens.text.names.turned import turned_lists
from vitlens.text.tower import TextTower

#: Numbers in the directions of neurons that are worked on at once.
NEURONS_AT_ONCE = 2**23
#: What is shorter than this is rounding, of vectors of length 1.
NO_LENGTH = 1e-9
#: A neuron that varies less than this share of the embedding's variance says nothing of a picture.
NEGLIGIBLE_NEURON = 1e-6
#: Numbers in the covariances of neurons that are kept: 1 GB.
MOST_KEPT = 2**27


@dataclass(frozen=True, repr=False)
class NeuronNames(Result):
    """`values` [neuron, rank]: the share of the variance of a neuron's effect along its first texts, taken together.

    `random` is the same for random texts, the mean over draws. `indices` are the texts' places in `vocabulary`, −1 where
    nothing was left. Of each neuron, `rank_one` is the share of the variance along its one direction, `variance` that
    variance as a share of the embedding's, and `pictures` on how many pictures the effect is large: (Σ s)² / Σ s² of its
    squared lengths s, all pictures where they are equal, and 1 where one has all. NaN of a neuron that never changes.

    `p` and `p_turned` [neuron, rank] are those of `HeadNames`: the chance, at most, that any text of any neuron explains as
    much of what the earlier ones left if texts are random directions of the embedding's space, and how often the best text
    of a list that is turned at random does. A text is a name if both, and those of all before it, are at most 0.05, and if
    the neuron's variance is at least a millionth of the embedding's; `names` has no others.
    """

    random: Float[Tensor, "neuron rank"]
    p: Float[Tensor, "neuron rank"]
    p_turned: Float[Tensor, "neuron rank"]
    rank_one: Float[Tensor, "neuron"]
    pictures: Float[Tensor, "neuron"]
    variance: Float[Tensor, "neuron"]
    indices: Int[Tensor, "neuron rank"]
    vocabulary: list[str]

    @property
    def texts(self) -> list[list[str]]:
        """The texts of each neuron in their order, names or not; "" where nothing was left."""
        return texts_at(self.indices, self.vocabulary)

    @property
    def is_name(self) -> Bool[Tensor, "neuron rank"]:
        """Which texts are names: both p at most 0.05, as of all before, of a neuron that writes something."""
        return are_names(self.p, self.p_turned, self.variance >= NEGLIGIBLE_NEURON)

    @property
    def names(self) -> dict[str, list[str]]:
        """The names of each neuron, by its label; an empty list where the first text is none."""
        return names_of(self.axes["neuron"], self.texts, self.is_name)

    def columns(self) -> dict[str, Tensor]:
        return {**super().columns(), "random": self.random, "p": self.p, "p_turned": self.p_turned}

    def to_frame(self) -> pd.DataFrame:
        """One row for each neuron and rank, with its text and whether that is a name."""
        return with_chosen_texts(super().to_frame(), self.texts, self.is_name)

    def table(self) -> pd.DataFrame:
        """One row for each neuron, those first that vary most: its names, its texts, and the share that all k explain."""
        order = self.variance.argsort(descending=True, stable=True)
        texts, names, k = self.texts, list(self.names.values()), self.values.shape[1]
        return Frame(
            {
                "neuron": [self.axes["neuron"][i] for i in order.tolist()],
                "names": [", ".join(names[i]) for i in order.tolist()],
                "p": self.p[order, 0].numpy(),
                "p_turned": self.p_turned[order, 0].numpy(),
                "texts": [", ".join(filter(None, texts[i])) for i in order.tolist()],
                f"{k} texts": self.values[order, -1].numpy(),
                "random": self.random[order, -1].numpy(),
                "rank one": self.rank_one[order].numpy(),
                "pictures": self.pictures[order].numpy(),
                "variance": self.variance[order].numpy(),
            }
        )


@leaves_state
@checked
def name_neurons(
    model: HookedViT,
    images: PictureSource,
    texts: str | Sequence[str],
    *,
    tower: TextTower | None = None,
    block: int,
    order: int = 2,
    neurons: int | Sequence[int] | None = None,
    k: int = 5,
    n_draws: int = 5,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> NeuronNames:
    """Names neurons by a sparse code, in texts, of the direction in which they move the embedding.

    Of order 1 an effect is what the neuron writes itself: Σ_t w_t post_tn W_out[n], through the final norm and the
    projection. Of order 2 it is what later heads make of that: Σ_heads Σ_q w_q Σ_j A_qj W_OV W_out[n] post_jn / s_j, the
    patterns A and the scales s of norms frozen. Over the neurons of an MLP, and its bias, these are exactly the parts
    that `direct_logit_attribution` gives with unit="neuron" and unit="path".

    A neuron's direction is the first principal direction of its effects, pointing to where they are large. Texts are chosen
    by orthogonal matching pursuit: the text most along what is left of the direction, taken out of it, and so on. What they
    explain is the variance of the effects along the texts themselves, not along their parts in the neuron's space: one
    direction would be explained by anything. A text is a name only if no text would explain as much by chance, as in
    `name_heads`.

    One pass over the pictures; memory does not grow with their number, but with the square of that of later heads.

    Args:
        images: pictures as a tensor, files, a picture set (`open_pictures`), or batches of them.
        texts: what neurons may be called: a vocabulary.
        tower: embeds the texts into the space of the model's embeddings; None: the model's own, see
            `HookedViT.set_text_tower`.
        block: whose MLP.
        order: 1: what neurons write directly; 2: what they write through later heads.
        neurons: which; None: all.
        k: how many texts for each neuron.
        n_draws: sets of random texts.
        seed: of what is drawn.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        NeuronNames with axes neuron, rank: `.names`, `.texts`, `.table()`, `.plot()`.

    Raises:
        InputError: no tower; texts of another width than the embedding; fewer texts than k; an order that is not 1 or 2;
            order 2 in the last block, which no head follows; a model in which neurons have no fixed direction (maxima,
            gates, norms behind values); covariances of more than 1 GB; fewer than two pictures.

    Source: Gandelsman, Efros & Steinhardt 2025 (Interpreting the Second-Order Effects of Neurons in CLIP), sections 3 to 5.

    Examples:
        >>> import vitlens
        >>> from vitlens.planted import planted_words
        >>> vit = planted_words()
        >>> block, neuron = vit.neuron  # a later head makes a word of what it finds
        >>> about = {"tower": vit.tower, "block": block, "neurons": neuron, "k": 2}
        >>> found = vitlens.text.name_neurons(vit.model, vit.pictures(64).images, vit.texts, **about)
        >>> found.names == {f"L{block} neuron {neuron}": [vit.neuron_word]}
        True
    """
    check_count(n_draws, "n_draws")
    if order not in (1, 2):
        raise InputError(f"order is 1 (what neurons write directly) or 2 (through later heads), not {order}")
    index = model.block_index(block)
    if order == 2 and index == model.cfg.n_layers - 1:
        raise InputError(f"no head follows the neurons of block {index}, the last: ask for order=1 or an earlier block")
    d_mlp = model.blocks[index].mlp.W_out.shape[0]
    wanted = range(d_mlp) if neurons is None else items(neurons)
    # A neuron that is named twice has one name.
    chosen = list(dict.fromkeys(index_of(neuron, d_mlp, "neuron") for neuron in wanted))
    if not chosen:
        raise InputError("the list of neurons is empty: name at least one, or pass None for all")
    asked = read_asked(model, texts, tower, k)
    sums, whole, first = _Sums(), VectorMoments(), None
    with torch.no_grad():
        for batch in PictureBatches(asked.view, images, batch_size).with_bar("names of neurons", progress):
            found, embedding = neuron_effects(asked.view, batch.images, index, order, chosen)
            first = found if first is None else first
            sums.add(found, first)
            whole.add(embedding[..., None])
        if first is None or sums.moments.n < 2:
            raise InputError("a variance needs two pictures: pass more")
        generator = torch.Generator().manual_seed(seed)
        others = [random_like(asked.vectors, generator) for _ in range(n_draws)]
        turned = list(turned_lists(asked.vectors, seed))
        parts = [_named(maps, sums, some, [asked.vectors, *others], turned, k) for some, maps in _in_parts(first)]
    about: Any = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    about["p"] = (about["p"] * len(chosen)).clamp(max=1.0)
    pictures = torch.where(about["variance"] > 0, sums.sizes.square() / sums.squares, torch.nan)
    about["variance"] = about["variance"] / float(whole.covariance.sum())
    return NeuronNames(
        axes={"neuron": first.part.labels, "rank": list(range(1, k + 1))},
        quantity="share of variance",
        pictures=pictures,
        vocabulary=asked.texts,
        settings={
            "model": model.cfg.model_name,
            "block": index,
            "order": order,
            "texts": asked.tower,
            "pictures": sums.moments.n,
            "n_draws": n_draws,
            "seed": seed,
        },
        **about,
    )


class _Sums:
    """VectorMoments of the coordinates of effects, and sums over their squared lengths s: Σ s, Σ s², Σ s · coordinates."""

    def __init__(self) -> None:
        self.moments = VectorMoments()
        self.sizes: Float[Tensor, "neuron"] = torch.zeros(())
        self.squares: Float[Tensor, "neuron"] = torch.zeros(())
        self.large: Float[Tensor, "neuron way"] = torch.zeros(())
        self._products: Float[Tensor, "neuron way way"] | None = None

    def add(self, effects: NeuronEffects, first: NeuronEffects) -> None:
        """`first` are those of the first batch, whose directions are those of all."""
        n_neurons, n_ways = effects.coordinates.shape[1:]
        if n_neurons * n_ways**2 > MOST_KEPT:
            raise InputError(
                f"the covariances of {n_neurons} neurons over {n_ways} later heads take more than 1 GB: choose neurons, or "
                "a later block"
            )
        if self._products is None:
            self._products = torch.cat([maps @ maps.mT for _, maps in _in_parts(first)])
        rows = effects.coordinates.cpu().double()
        sizes = einsum(rows, self._products, rows, "i u w, u w v, i u v -> i u")
        self.moments.add(rows)
        self.sizes = self.sizes + sizes.sum(dim=0)
        self.squares = self.squares + sizes.square().sum(dim=0)
        self.large = self.large + einsum(sizes, rows, "i u, i u w -> u w")


def _in_parts(effects: NeuronEffects) -> Iterator[tuple[slice, Float[Tensor, "neuron way joint"]]]:
    """The directions of some neurons after the other."""
    n_neurons, n_ways = effects.coordinates.shape[1:]
    size = max(1, NEURONS_AT_ONCE // (n_ways * effects.readers[0].directions.shape[2]))
    for start in range(0, n_neurons, size):
        some = slice(start, start + size)
        yield some, effects.maps(some).cpu().double()


def _named(
    maps: Float[Tensor, "neuron way joint"],
    sums: _Sums,
    some: slice,
    vocabularies: list[Float[Tensor, "text joint"]],
    turned: list[Float[Tensor, "text joint"]],
    k: int,
) -> dict[str, Tensor]:
    """The texts of some neurons, what they and those of other vocabularies explain, and what chance would."""
    mean, covariance = sums.moments.mean[some], sums.moments.covariance[some]
    spread = spread_of(maps, mean, covariance, covariance)
    total = spread.total[:, None]
    towards = einsum(sums.large[some], maps, spread.basis[:, 0], "u w, u w e, u e -> u").sign()
    direction = spread.basis[:, 0] * towards[:, None]
    codes = [greedy_code(direction, texts, k) for texts in vocabularies]
    gains = [_along(spread, axes) for _, axes in codes]
    indices, axes = codes[0]
    beaten = torch.zeros_like(gains[0])
    for texts in turned:
        beaten += _along(spread, best_in_place(direction, texts, axes)) >= gains[0] * (1 - FEW_DIGITS)
    p_turned = (1 + beaten) / (1 + len(turned))
    return {
        "values": gains[0].cumsum(dim=1) / total,
        "random": torch.stack(gains[1:]).mean(dim=0).cumsum(dim=1) / total,
        "p": chance_of_texts(gains[0] / total, spread, axes, len(vocabularies[0])).masked_fill(indices < 0, torch.nan),
        "p_turned": p_turned.masked_fill((indices < 0) | (total == 0), torch.nan),
        "rank_one": spread.variances[:, 0] / spread.total,
        "variance": spread.total,
        "indices": indices,
    }


def _along(spread: Spread, axes: Float[Tensor, "neuron rank joint"]) -> Float[Tensor, "neuron rank"]:
    """The variance along unit vectors of the joint space."""
    inside = einsum(axes, spread.basis, "u k e, u w e -> u k w")
    return einsum(inside.square(), spread.variances, "u k w, u w -> u k")


def chance_of_texts(
    shares: Float[Tensor, "neuron rank"], spread: Spread, axes: Float[Tensor, "neuron rank joint"], n_texts: int
) -> Float[Tensor, "neuron rank"]:
    """For each rank the chance that any text explains as much of what the earlier ones left, at most, if texts are random
    directions of the joint space: that of one, times the number of texts."""
    width = axes.shape[2]
    roots = (spread.variances / spread.total[:, None]).sqrt()
    inside_axes = einsum(spread.basis, axes, "u w e, u k e -> u w k")
    found = []
    for rank in range(axes.shape[1]):
        taken = inside_axes[:, :, :rank]
        left = torch.eye(roots.shape[1], dtype=roots.dtype) - taken @ taken.mT
        within = roots[:, :, None] * left * roots[:, None]
        # A neuron that never changes has no chance.
        variances = torch.linalg.eigvalsh(within.nan_to_num()).flip(-1).clamp(min=0)[:, : width - rank]
        # All other directions have no variance.
        padded = torch.nn.functional.pad(variances, (0, width - rank - variances.shape[1]))
        one = chance_of_one(shares[:, rank], padded, torch.ones_like(padded, dtype=torch.bool))
        found.append((one * (n_texts - rank)).clamp(max=1.0))
    return torch.stack(found, dim=1).masked_fill(spread.total[:, None] == 0, torch.nan)


def best_in_place(
    directions: Float[Tensor, "neuron joint"],
    texts: Float[Tensor, "text joint"],
    axes: Float[Tensor, "neuron rank joint"],
) -> Float[Tensor, "neuron rank joint"]:
    """In the place of each axis, behind those before it, the direction of the text that is most along what is left there of
    the neuron's."""
    left, found = directions, []
    for rank in range(axes.shape[1]):
        best = texts[(left.to(texts) @ texts.T).argmax(dim=1)].to(directions)
        taken = axes[:, :rank]
        best = best - ((taken @ best[..., None]) * taken).sum(dim=1)
        found.append(torch.nn.functional.normalize(best, dim=1))
        left = left - (left * axes[:, rank]).sum(dim=1, keepdim=True) * axes[:, rank]
    return torch.stack(found, dim=1)


def greedy_code(
    directions: Float[Tensor, "neuron joint"], texts: Float[Tensor, "text joint"], k: int
) -> tuple[Int[Tensor, "neuron {k}"], Float[Tensor, "neuron {k} joint"]]:
    """Orthogonal matching pursuit: the text most along what is left of each direction, again and again, and orthonormal axes
    of the texts chosen. −1 and 0 where nothing is left along any text."""
    left = directions.clone()
    axes = directions.new_zeros(len(directions), 0, directions.shape[1])
    chosen = []
    for _ in range(k):
        along, index = (left @ texts.T).max(dim=1)
        new = texts[index]
        for _ in range(2):  # Once more for what rounding leaves.
            new = new - einsum(axes, axes, new, "u k e, u k f, u f -> u e")
        length = new.norm(dim=1)
        ends = (along <= NO_LENGTH) | (length <= NO_LENGTH)
        new = (new / length.clamp(min=NO_LENGTH)[:, None]).masked_fill(ends[:, None], 0.0)
        axes = torch.cat([axes, new[:, None]], dim=1)
        left = left - (left * new).sum(dim=1, keepdim=True) * new
        chosen.append(index.masked_fill(ends, -1))
    return torch.stack(chosen, dim=1), axes
