"""A picture's embedding as a sum of few words (SpLiCE), and what as many words of no meaning give."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from vitlens.arguments import check_count, checked, index_of, number, short
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureSource
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.model.runs.small_pictures import small_pictures
from vitlens.results.frames import Frame
from vitlens.results.result import MOST_KEPT, Result
from vitlens.text.seen import Viewer, read_texts, tower_of
from vitlens.text.sparse_codes.positive_codes import code_of_size, cosine_of, positive_code, random_turn
from vitlens.text.tower import TextTower

#: A vector that is shorter than this, less its mean, has no direction.
SHORTEST = 1e-6
#: In the place of a word, behind the last.
NO_WORD = -1


@dataclass(frozen=True, repr=False)
class SparseWords(Result):
    """`values` [image, rank]: the weights of a picture's words, the largest first; 0 behind the last.

    `indices` are the words' places in `vocabulary`, −1 behind the last. `cosine` [image] is that of the embedding, less the
    mean of all pictures, and its reconstruction from the words; `cosine_with_mean` is that of both with the mean in them,
    and `mean_alone` what the mean gives without any word. `baseline` [image] is `cosine` for as many words of vocabularies
    that are turned at random: they have the same angles between words, and no relation to the pictures. NaN where there are
    no words.
    """

    indices: Int[Tensor, "image rank"]
    cosine: Float[Tensor, "image"]
    cosine_with_mean: Float[Tensor, "image"]
    mean_alone: Float[Tensor, "image"]
    baseline: Float[Tensor, "image"]
    vocabulary: list[str]

    @property
    def n_words(self) -> Int[Tensor, "image"]:
        """How many words each picture has."""
        return (self.indices != NO_WORD).sum(dim=1)

    @checked
    def words(self, image: int = 0) -> dict[str, float]:
        """A picture's words and their weights, the largest first.

        Raises:
            InputError: there is no such picture.
        """
        row = index_of(image, len(self.values), "picture", "this result")
        pairs = zip(self.indices[row].tolist(), self.values[row].tolist(), strict=True)
        return {self.vocabulary[i]: weight for i, weight in pairs if i != NO_WORD}

    def to_frame(self) -> pd.DataFrame:
        """One row for each word of each picture; behind a picture's last word rows without text, of weight 0."""
        frame = super().to_frame()
        frame.insert(2, "text", ["" if i < 0 else self.vocabulary[i] for i in self.indices.flatten().tolist()])
        return frame

    @checked
    def table(self, k: int = 5) -> pd.DataFrame:
        """One row for each picture: its first k words, how many it has, and the cosines."""
        return Frame(
            {
                "image": list(self.axes["image"]),
                "words": [", ".join(list(self.words(row))[:k]) or "–" for row in range(len(self.values))],
                "n_words": self.n_words.numpy(),
                "cosine": self.cosine.numpy(),
                "turned at random": self.baseline.numpy(),
                "with mean": self.cosine_with_mean.numpy(),
                "mean alone": self.mean_alone.numpy(),
            }
        )

    @checked
    def means(self, k: int = 20) -> pd.DataFrame:
        """The k words with the largest mean weight over all pictures, and the share of pictures that have them."""
        rows, ranks = (self.indices != NO_WORD).nonzero(as_tuple=True)
        where = self.indices[rows, ranks]
        sums = torch.zeros(len(self.vocabulary), dtype=self.values.dtype)
        sums.index_add_(0, where, self.values[rows, ranks])
        counts = torch.bincount(where, minlength=len(self.vocabulary))
        order = sums.argsort(descending=True, stable=True)[:k]
        order = order[counts[order] > 0]
        return Frame(
            {
                "text": [self.vocabulary[i] for i in order.tolist()],
                "mean weight": (sums[order] / len(self.values)).numpy(),
                "pictures": (counts[order] / len(self.values)).numpy(),
            }
        )


@leaves_state
@checked
def sparse_words(
    model: HookedViT,
    images: PictureSource,
    texts: str | Sequence[str],
    *,
    tower: TextTower | None = None,
    others: PictureSource | None = None,
    sparsity: int | float = 0.25,
    n_draws: int = 1,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> SparseWords:
    """Writes the embedding of each picture as a sum of few words with positive weights (SpLiCE).

    `sparse_words_of` says how, and takes embeddings.

    Args:
        images: pictures of a model trained with text, as `stream_activations` takes them.
        texts: the words, such as `load_vocabulary()`.
        tower: embeds the words into the space of the model's embeddings; None: the model's own, see
            `HookedViT.set_text_tower`.
        others: pictures whose mean embedding is subtracted: many, of all kinds; None: `images` themselves, two or more.
        sparsity: how much a word has to add before it is used: more gives fewer words.
        n_draws: how many vocabularies are turned at random.
        seed: of these.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        SparseWords with axes image, rank: `.words(image)`, `.table()`, `.means()`, `.plot()`.

    Raises:
        InputError: words of another width than the embeddings; a single picture without others; what `sparse_words_of`
            refuses.

    Source: Bhalla et al. 2024 (SpLiCE), section 4.

    Examples:
        >>> import vitlens
        >>> model, tower = vitlens.demo.load_demo_words()
        >>> images = vitlens.demo.load_demo_pictures(model).images
        >>> texts = ["a T-shirt", "trousers", "a bag", "stripes", "dots", "rings", "clouds", "noise"]
        >>> found = vitlens.text.sparse_words(model, images, texts)
        >>> [list(found.words(image)) for image in range(2)]
        [['stripes', 'a T-shirt'], ['noise', 'a T-shirt']]
    """
    names = read_texts(texts)
    embedding = tower_of(model, tower)
    embedded = embedding.embed(names)
    found: list[Tensor] = []
    pixels: list[Tensor] = []
    with torch.no_grad():
        for place, source in enumerate([images] if others is None else [images, others]):
            viewer = Viewer(model, source, embedded.shape[1], None, batch_size)
            rows = []
            for batch, _, vectors in viewer.see([], "embeddings", progress):
                rows.append(vectors.cpu())
                if place == 0 and len(pixels) < MOST_KEPT:
                    pixels += small_pictures(model, batch.images[: MOST_KEPT - len(pixels)])
            found.append(torch.cat(rows) if rows else torch.zeros(0, embedded.shape[1]))
    problem = Problem(found[0], embedded, None if others is None else found[1])
    about = {"model": model.cfg.model_name, "texts": getattr(embedding, "name", "texts")}
    return replace(problem.solved(names, sparsity, n_draws, seed, about, progress), pixels=torch.stack(pixels))


@checked
def sparse_words_of(
    embeddings: Tensor,
    texts: str | Sequence[str],
    *,
    tower: TextTower,
    others: Tensor | None = None,
    sparsity: int | float = 0.25,
    n_draws: int = 1,
    seed: int = 0,
) -> SparseWords:
    """Writes embeddings as sums of few words with positive weights (SpLiCE).

    Pictures and texts lie in two cones that do not meet (the modality gap). So means are taken off: z = σ(σ(e) − μ) for an
    embedding e, μ the mean of the σ(e) of many pictures, and c_j = σ(σ(t_j) − ν) for the words, ν the mean of the
    vocabulary; σ(x) = x / ‖x‖. The weights are those of

        min over w ≥ 0 of ‖Σ_j w_j c_j − z‖² + 2 λ Σ_j w_j,

    so that a word is used where its cosine with what the others leave is at least λ. The solution is exact: a path of least
    angles, whose end is checked against the conditions of optimality.

    Many directions explain something of any vector. So the vocabulary is turned at random, which keeps the angles between
    its words, and the cosine of as many of its words with z is the baseline.

    Args:
        embeddings: [image, features], as the model gives them; lengths do not matter.
        texts: the words, such as `load_vocabulary()`.
        tower: embeds the words.
        others: embeddings whose mean is subtracted: of many pictures, of all kinds; None: that of `embeddings`, two or more.
        sparsity: λ, between 0 and 1: more gives fewer words.
        n_draws: how many vocabularies are turned at random.
        seed: of these.

    Returns:
        SparseWords with axes image, rank.

    Raises:
        InputError: no floats [image, features], of another width than the words; a single embedding without others; a
            single word, or one that is there twice; a λ that is not between 0 and 1.

    Source: Bhalla et al. 2024 (SpLiCE), section 4; the baseline is ours.

    Examples:
        >>> import torch
        >>> import vitlens
        >>> axes = dict(zip(["red", "round", "wet", "old"], torch.eye(4)))
        >>> tower = vitlens.text.TextTower(lambda texts: torch.stack([axes[text] for text in texts]))
        >>> pictures = torch.tensor([[3.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 3.0]])
        >>> found = vitlens.text.sparse_words_of(pictures, list(axes), tower=tower)
        >>> [list(found.words(image)) for image in range(2)]
        [['red', 'round'], ['old', 'wet']]
    """
    mean_of = None if others is None else _rows(others, "others")
    names = read_texts(texts)
    problem = Problem(_rows(embeddings, "embeddings"), tower.embed(names), mean_of)
    return problem.solved(names, sparsity, n_draws, seed, {"texts": tower.name}, False)


class Problem:
    """Embeddings and words, both less their means.

    Raises:
        InputError: words of another width; too few of either to have a mean.
    """

    def __init__(
        self,
        embeddings: Float[Tensor, "image _"],
        words: Float[Tensor, "text _"],
        others: Float[Tensor, "other _"] | None,
    ) -> None:
        mean_of = embeddings if others is None else others
        for rows in (embeddings, mean_of):
            if rows.shape[1] != words.shape[1]:
                raise InputError(
                    f"the words are vectors of {words.shape[1]} numbers, and the embeddings of {rows.shape[1]}"
                )
        if not len(embeddings):
            raise InputError("there are no pictures to find words for")
        if others is None and len(embeddings) < 2:
            raise InputError("a single picture is its own mean: pass others=, pictures whose mean is subtracted")
        if not len(mean_of):
            raise InputError("others= has no pictures")
        self.unit = F.normalize(embeddings.double(), dim=1).cpu()
        self.mean = F.normalize(mean_of.double(), dim=1).mean(dim=0).cpu()
        self.centred = self.unit - self.mean
        words = words.double().cpu()
        self.words = words - words.mean(dim=0)
        self.lengths = self.words.norm(dim=1)

    def solved(
        self,
        names: list[str],
        sparsity: int | float,
        n_draws: int,
        seed: int,
        about: dict[str, str],
        progress: bool | None,
    ) -> SparseWords:
        """The words of each picture.

        Raises:
            InputError: a λ that is not between 0 and 1; a word that is the mean of all.
        """
        number()("sparsity", sparsity)
        if not 0 < sparsity < 1:
            raise InputError(f"sparsity lies between 0 and 1, not at {sparsity}")
        check_count(n_draws, "n_draws")
        for i in (self.lengths < SHORTEST).nonzero()[:1, 0].tolist():
            raise InputError(
                f"the embedding of {names[i]!r} is the mean of all texts, less which it has no direction: name other texts"
            )
        words, targets = F.normalize(self.words, dim=1).numpy(), self._targets().numpy()
        generator = np.random.default_rng(seed)
        turns = [random_turn(words.shape[1], generator) for _ in range(n_draws)]
        found, sums, cosines = [], [], []
        with ProgressBar(len(targets), "sparse words", "picture", progress, len(targets)) as bar:
            for target in targets:
                code = positive_code(words, target, sparsity)
                used = np.flatnonzero(code)
                used = used[np.argsort(-code[used], kind="stable")]
                found.append((torch.from_numpy(used), torch.from_numpy(code[used])))
                sums.append(torch.from_numpy(code @ words))
                # To turn the vocabulary is to turn the picture the other way.
                turned = [code_of_size(words, turn @ target, len(used)) @ words for turn in turns]
                by_turned = [cosine_of(one, turn @ target) for one, turn in zip(turned, turns, strict=True)]
                cosines.append((cosine_of(code @ words, target), float(np.mean(by_turned))))
                bar.update(1)
        indices = pad_sequence([used for used, _ in found], batch_first=True, padding_value=NO_WORD)
        values = pad_sequence([weights for _, weights in found], batch_first=True)
        own, turned_at_random = torch.tensor(cosines, dtype=torch.float64).unbind(dim=1)
        # A sum of words has a length of its own: that of the picture less the mean is taken.
        whole = self.mean + self.centred.norm(dim=1, keepdim=True) * F.normalize(torch.stack(sums), dim=1)
        return SparseWords(
            values,
            {"image": list(range(len(values))), "rank": list(range(1, values.shape[1] + 1))},
            "weight",
            indices=indices,
            cosine=own,
            cosine_with_mean=F.cosine_similarity(whole, self.unit, dim=1),
            mean_alone=F.cosine_similarity(self.mean[None], self.unit, dim=1),
            baseline=turned_at_random,
            vocabulary=names,
            settings={**about, "sparsity": sparsity, "n_draws": n_draws, "seed": seed},
        )

    def _targets(self) -> Float[Tensor, "image e"]:
        """Unit vectors; zeros of a picture that is the mean itself."""
        is_mean = self.centred.norm(dim=1, keepdim=True) < SHORTEST
        return F.normalize(self.centred, dim=1).masked_fill(is_mean, 0.0)


def _rows(embeddings: Any, name: str) -> Float[Tensor, "row e"]:
    """Embeddings as they are given.

    Raises:
        InputError: no floats [row, features], or some that are zero or not finite.
    """
    is_table = isinstance(embeddings, Tensor) and embeddings.layout == torch.strided and not embeddings.is_nested
    if not is_table or embeddings.is_meta or embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise InputError(f"{name} are a tensor of floats [image, features], not {short(embeddings)}")
    if not embeddings.isfinite().all() or not embeddings.any(dim=1).all():
        raise InputError(f"{name} have a row of zeros, or values that are NaN or infinite")
    return embeddings.detach()
