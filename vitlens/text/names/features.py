"""Names for features and other units from activations alone: the texts that go with their pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.arguments import check_count, checked, number
from vitlens.choose.tokens import TokenSet
from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.places import tokens_in_words
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureSource
from vitlens.results.frames import Frame
from vitlens.results.result import Result
from vitlens.statistics import with_interval
from vitlens.text.names.asked import FEWEST_SHUFFLES, MOST_P, names_of, texts_at, with_chosen_texts
from vitlens.text.names.best_texts import name_units
from vitlens.text.names.unit_values import POOLINGS, Units, read_units
from vitlens.text.seen import read_texts, tower_of
from vitlens.text.tower import TextTower

METHODS_OF_NAMING = ("wpmi", "auc")
#: Of fewer pictures nothing is said.
FEWEST_PICTURES = 10
#: Among the pictures of a unit are at most this share of all, and at most this many.
LARGEST_SHARE, MOST_EXAMPLES = 0.1, 100


@dataclass(frozen=True, repr=False)
class FeatureNames(Result):
    """`values` [feature, rank]: the scores of the texts that go best with a feature, by the method that was asked for.

    `auc` is how often the text's similarity is larger for a picture in which the feature is active than for one in which it
    is not, and `low` and `high` are the ends of its 95 % interval over pictures.

    `p` is how often the best of all texts goes as well with as many pictures that are drawn at random, and `chance`
    [feature] what that best score is on average. `p_turned` is how often the best text of a list that is turned at random
    goes as well with the feature's own pictures, and `turned` [feature] that best score on average. A text is a name if
    both are at most 0.05; `names` and `labels()` have no others.

    `indices` are places in `vocabulary`, and `n_active` [feature] counts the pictures in which a feature is active. NaN and
    −1 stand where it has the same value in all.
    """

    auc: Float[Tensor, "feature rank"]
    low: Float[Tensor, "feature rank"]
    high: Float[Tensor, "feature rank"]
    p: Float[Tensor, "feature rank"]
    p_turned: Float[Tensor, "feature rank"]
    indices: Int[Tensor, "feature rank"]
    chance: Float[Tensor, "feature"]
    turned: Float[Tensor, "feature"]
    n_active: Int[Tensor, "feature"]
    vocabulary: list[str]

    @property
    def texts(self) -> list[list[str]]:
        """The texts of each feature in their order, names or not; "" where there are none."""
        return texts_at(self.indices, self.vocabulary)

    @property
    def is_name(self) -> Bool[Tensor, "feature rank"]:
        """Which texts are names: those whose p and p_turned are at most 0.05."""
        return (self.p <= MOST_P) & (self.p_turned <= MOST_P)

    @property
    def names(self) -> dict[int | str, list[str]]:
        """The names of each feature; an empty list where no text beats chance, and the name is withheld."""
        return names_of(self.axes["feature"], self.texts, self.is_name)

    @checked
    def labels(self, k: int = 1) -> dict[int | str, str]:
        """A label for each feature that has a name: its first k names.

        `explore_features` shows them: `vitlens.explore_features(model, sae, images, feature_labels=found.labels())`.
        """
        return {feature: ", ".join(names[:k]) for feature, names in self.names.items() if names}

    def columns(self) -> dict[str, Tensor]:
        return {
            **super().columns(),
            "auc": self.auc,
            "low": self.low,
            "high": self.high,
            "p": self.p,
            "p_turned": self.p_turned,
        }

    def to_frame(self) -> pd.DataFrame:
        """One row for each feature and rank, with its text and whether that is a name."""
        return with_chosen_texts(super().to_frame(), self.texts, self.is_name)

    def table(self) -> pd.DataFrame:
        """One row for each feature: its names, and of the first text the score, what stands beside it, and the area."""
        areas = zip(*(part[:, 0].tolist() for part in (self.auc, self.low, self.high)), strict=True)
        return Frame(
            {
                "feature": list(self.axes["feature"]),
                "names": [", ".join(names) or "–" for names in self.names.values()],
                "active in": self.n_active.numpy(),
                self.quantity: self.values[:, 0].numpy(),
                "by chance": self.chance.numpy(),
                "p": self.p[:, 0].numpy(),
                "turned": self.turned.numpy(),
                "p_turned": self.p_turned[:, 0].numpy(),
                **({} if self.quantity == "auc" else {"auc": [with_interval(*area) for area in areas]}),
            }
        )

    def __str__(self) -> str:
        n = sum(bool(names) for names in self.names.values())
        about = self.settings
        head = (
            f"{about['hook']} of {about['model']}, {about['pictures']:,} pictures, {len(self.vocabulary):,} texts: "
            f"{n} of {len(self.names)} have a name; what does not beat chance is withheld"
        )
        return f"{head}\n{self.table()}"


@leaves_state
@checked
def name_features(
    model: HookedViT,
    images: PictureSource,
    texts: str | Sequence[str],
    *,
    tower: TextTower | None = None,
    sae: SparseAutoencoder | None = None,
    hook: HookName | None = None,
    features: int | Sequence[int] | None = None,
    hook_out: HookName | None = None,
    tokens: TokenSet = "all",
    pooling: str = "max",
    method: str = "wpmi",
    scale: int | float = 10.0,
    k: int = 5,
    n_examples: int | None = None,
    n_draws: int = 200,
    other_model: HookedViT | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> FeatureNames:
    """Names the features of a dictionary, or any units of a hook point, by the texts that go with their pictures.

    Nothing but activations is read: the value of each unit in each picture, and the cosine of each picture with each text,
    by a model that was trained with text.

    "wpmi", soft weighted PMI. B is the set of the `n_examples` pictures x_1, x_2, … with the largest values, the strongest
    first. With p(t | x) = softmax over the texts of scale · cos(x, t), and p_r = p(x_r ∈ B) falling along a line from 0.998
    for the strongest picture to 0.97 for the last:

        log E p(t | B) = Σ_r log(1 + p_r (p(t | x_r) − 1)),   wpmi(t) = log E p(t | B) − log p(t).

    log p(t) is log E p(t | B) of pictures that are drawn at random, Σ_r log(1 + p_r (p̄(t) − 1)) with p̄ the mean over all
    pictures, so that a name does not depend on which other units are named. A picture in which the unit has its smallest
    value belongs to no B.

    "auc": how often cos(x, t) is larger for a picture in which the unit is active than for one in which it is not. It is
    active above the middle between its smallest and its largest value over the pictures.

    The best of many texts goes with any pictures to some degree. So pictures are shuffled `n_draws` times, and a text is a
    name only if at most 5 % of the shuffles have any text with as large a score, for as many pictures. And a unit that
    follows something in the pictures, for which the list has no word, goes with some text by the angles between all
    vectors. So a name must also do better than any text of 19 lists that are turned at random about the mean of the texts,
    which keeps the angles between them.

    One pass. What is kept of each picture is the value of each unit and the embedding, in single precision: for 10,000
    pictures and 1,000 features 40 MB, and 20 MB for 512 coordinates. Scores of 1,000 texts take 300 MB more, one list at a
    time.

    Args:
        images: as `stream_activations`.
        texts: what features may be called, such as `load_vocabulary()`.
        tower: embeds the texts into the space in which the pictures' embeddings lie; None: the tower of the model that sees
            the pictures, see `HookedViT.set_text_tower`.
        sae: the dictionary; None for the units of `hook`.
        hook: where the dictionary reads, None for the hook point it was trained on; without a dictionary the hook point
            whose numbers are the units. Where it has heads, a unit is a head, and its value the norm of its vector: the axes
            inside of a head are arbitrary.
        features: indices of features or units; None for all.
        hook_out: what a transcoder predicts, see `with_sae`.
        tokens: the tokens that count, see `select_tokens`.
        pooling: the value of a unit in a picture: "max" or "mean" over the tokens.
        method: "wpmi" or "auc".
        scale: how much a larger cosine counts in p(t | x).
        k: how many texts for each feature.
        n_examples: how many of its strongest pictures stand for a unit in "wpmi"; None: a tenth of all, at most 100.
        n_draws: shuffles of the pictures, at least 19.
        other_model: a second model that sees the pictures, for a `model` that was not trained with text: that of the texts.
        seed: of the shuffles and turns.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        FeatureNames with axes feature, rank: `.names`, `.labels()`, `.table()`, `.plot()`.

    Raises:
        InputError: texts of another width than the embeddings, a text that is there twice; neither a dictionary nor a hook
            point, a feature that does not exist; fewer than 10 pictures, fewer texts than k, too few draws; attention
            between tokens as units.

    Source: Oikarinen & Weng 2023 (CLIP-Dissect), section 3, soft WPMI; for the area under the curve Bykov et al. 2023
    (INVERT), for its interval DeLong et al. 1988.

    Examples:
        >>> import vitlens
        >>> model, tower = vitlens.demo.load_demo_words()
        >>> images = vitlens.demo.load_demo_pictures(model).images
        >>> texts = ["a T-shirt", "trousers", "a bag", "stripes", "dots", "rings", "clouds", "noise"]
        >>> found = vitlens.text.name_features(model, images, texts, hook="post5", features=[37, 88, 3], method="auc")
        >>> found.labels()  # neurons of block 5; what is no better than chance has no name
        {37: 'a bag', 88: 'a T-shirt'}
        >>> found.auc[:2, 0].tolist()
        [1.0, 1.0]
    """
    if method not in METHODS_OF_NAMING:
        raise InputError(f'method is "wpmi" or "auc", not {method!r}')
    if pooling not in POOLINGS:
        raise InputError(f'pooling is "max" or "mean", not {pooling!r}')
    number()("scale", scale)
    if scale <= 0:
        raise InputError(f"scale is a positive number, not {scale}")
    check_count(n_draws, "n_draws", FEWEST_SHUFFLES)
    vocabulary = read_texts(texts)
    judge = model if other_model is None else other_model
    embedding = tower_of(judge, tower)
    embedded = embedding.embed(vocabulary)
    if k > len(vocabulary):
        raise InputError(f"k={k} texts cannot be chosen among {len(vocabulary)}: name more, or ask for fewer")
    units = Units(model, sae, hook, hook_out, features, tokens, pooling)
    with torch.no_grad():
        table = read_units(units, images, embedded.shape[1], other_model, batch_size, progress)
    n_images = len(table.values)
    if n_images < FEWEST_PICTURES:
        raise InputError(f"names need {FEWEST_PICTURES} pictures or more, and there are {n_images}")
    most = min(MOST_EXAMPLES, max(1, round(LARGEST_SHARE * n_images))) if n_examples is None else n_examples
    if not 1 <= most < n_images:
        raise InputError(f"n_examples is from 1 to {n_images - 1}, fewer than the pictures, not {most}")
    found: Any = name_units(table, embedded.cpu().numpy(), method, most, float(scale), k, n_draws, seed, progress)
    return FeatureNames(
        **found,
        axes={"feature": table.labels, "rank": list(range(1, k + 1))},
        quantity=method,
        vocabulary=vocabulary,
        settings={
            "model": model.cfg.model_name,
            "hook": units.source.name,
            "dictionary": "" if sae is None else sae.source,
            "tokens": tokens_in_words(tokens),
            "pooling": pooling,
            "texts": getattr(embedding, "name", "texts"),
            "pictures seen by": judge.cfg.model_name,
            "pictures": n_images,
            "n_examples": most,
            "n_draws": n_draws,
            "seed": seed,
        },
    )
