"""One pass over the pictures: where each feature is strongest, a sample of where it is active, small pictures of both."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.choose.tokens import TokenSet
from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.places import HookPlace
from vitlens.features.strongest import EncodedPictures, StrongestTokens, encoded_pictures
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.picture_batches import PictureBatches
from vitlens.pages.dictionary.measure.crops import SmallPictures
from vitlens.pages.dictionary.measure.locality import LocalityOfFeatures

#: Examples of a feature: its strongest pictures, and pictures drawn from all in which it is active.
N_TOP, N_SAMPLED = 9, 32


@dataclass(frozen=True)
class ShownPicture:
    """A picture that the page shows whole, with all that is active on it: feature `features[i]` at token `tokens[i]`."""

    number: int
    image: Float[Tensor, "1 channels height width"]
    tokens: Int[Tensor, "entry"]
    features: Int[Tensor, "entry"]
    values: Float[Tensor, "entry"]


class SampledPictures:
    """For each feature n of the pictures in which it is active, as if drawn at random, and its strongest token in each."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.keys: Tensor | None = None

    def add(self, some: EncodedPictures) -> None:
        offered, rows = some.codes.max(dim=1)
        device, n_features = offered.device, offered.shape[1]
        if self.keys is None:
            self.keys = torch.full((self.n, n_features), -1, device=device)
            self.images, self.tokens = torch.full_like(self.keys, -1), torch.full_like(self.keys, -1)
            self.values = offered.new_zeros(self.n, n_features)
            self.n_active = torch.zeros(n_features, dtype=torch.long, device=device)
        active = offered > 0
        self.n_active += active.sum(dim=0)
        keys = torch.where(active, draw(some.ids).to(device)[:, None], -1)
        best = torch.cat([self.keys, keys]).topk(self.n, dim=0)
        self.keys = best.values

        def kept(old: Tensor, new: Tensor) -> Tensor:
            return torch.cat([old, new]).gather(0, best.indices)

        self.images = kept(self.images, some.ids.to(device)[:, None].expand_as(rows))
        self.tokens = kept(self.tokens, some.tokens.to(device)[rows])
        self.values = kept(self.values, offered)
        empty = self.keys < 0
        self.images[empty], self.tokens[empty] = -1, -1

    def at_levels(self, levels: Collection[float]) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures, tokens and values [level, feature] at these quantiles of the sample; −1 where nothing is active."""
        order = torch.where(self.images >= 0, self.values, torch.inf).argsort(dim=0)
        n = (self.images >= 0).sum(dim=0)
        places = torch.stack([(level * n).long().clamp(max=self.n - 1) for level in levels])
        chosen = order.gather(0, places)
        return self.images.gather(0, chosen), self.tokens.gather(0, chosen), self.values.gather(0, chosen)


def draw(images: Int[Tensor, "image"]) -> Int[Tensor, "image"]:
    """A number from 0 to 2³² for each picture, the same in every run: the largest of them are a fair draw of pictures."""
    mixed = (images * 2654435761) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 15)) * 2246822519) & 0xFFFFFFFF
    return mixed ^ (mixed >> 13)


class OnePass:
    """`strongest`, `sampled`, `locality`, `crops` and `shown` of a source: read once, in constant memory."""

    def __init__(self, n_prefix_tokens: int, shown: int | Collection[int]) -> None:
        self.strongest = StrongestTokens(N_TOP, one_per_image=True)
        self.sampled = SampledPictures(N_SAMPLED)
        self.locality = LocalityOfFeatures(n_prefix_tokens)
        self.crops = SmallPictures()
        self.wanted = shown
        self.shown: list[ShownPicture] = []
        self.n_images = 0
        self.grid: tuple[int, int] | None = None

    def run(
        self,
        model: HookedViT,
        batches: PictureBatches,
        sae: SparseAutoencoder,
        source: HookPlace,
        target: HookPlace,
        tokens: TokenSet,
        progress: bool | None,
    ) -> None:
        """
        Raises:
            InputError: no pictures, pictures of several sizes, or a picture to be shown that the source does not have.
        """
        for some in encoded_pictures(model, batches, sae, source, target, tokens, "features", progress):
            self._check_grid(some.grid)
            self.strongest.add(some.codes, some.ids, some.tokens)
            self.sampled.add(some)
            self.locality.add(some)
            self._keep_crops(model, some)
            self._keep_shown(some)
            self.n_images += len(some.ids)
        if not self.n_images:
            raise InputError("there are no pictures to look for features in")
        self.shown.sort(key=lambda picture: picture.number)
        if not isinstance(self.wanted, int):
            missing = sorted(set(self.wanted) - {picture.number for picture in self.shown})
            if missing:
                raise InputError(
                    f"there is no picture {missing[0]} to show: the source has pictures 0 to {self.n_images - 1}"
                )
        self.crops.keep(self._needed())

    def _check_grid(self, grid: tuple[int, int]) -> None:
        if self.grid not in (None, grid):
            raise InputError(
                f"the pictures have {self.grid} and {grid} patches, and the page needs one grid: bring them to one size"
            )
        self.grid = grid

    def _needed(self) -> list[int]:
        """The pictures that are examples, the strongest of all features first."""
        assert self.strongest.best is not None
        examples = torch.cat([self.strongest.images, self.sampled.images])
        values = torch.cat([self.strongest.best, self.sampled.values])
        return [number for number in dict.fromkeys(examples[values > 0].tolist()) if number >= 0]

    def _keep_crops(self, model: HookedViT, some: EncodedPictures) -> None:
        ids = some.ids.to(self.strongest.images.device)
        is_example = torch.isin(ids, self.strongest.images) | torch.isin(ids, self.sampled.images)
        chosen = is_example.nonzero()[:, 0].tolist()
        self.crops.add(model, some.ids[chosen].tolist(), some.images[chosen])
        if self.crops.is_crowded:
            self.crops.keep(self._needed())

    def _keep_shown(self, some: EncodedPictures) -> None:
        priorities = draw(some.ids).tolist()
        for i, number in enumerate(some.ids.tolist()):
            if isinstance(self.wanted, int):
                worst = min(self.shown, key=_priority, default=None)
                if len(self.shown) >= self.wanted:
                    if worst is None or priorities[i] < _priority(worst):
                        continue
                    self.shown.remove(worst)
            elif number not in self.wanted:
                continue
            self.shown.append(_shown_picture(number, some.images[i : i + 1], some.codes[i], some.tokens))


def _priority(picture: ShownPicture) -> int:
    return int(draw(torch.tensor([picture.number])))


def _shown_picture(
    number: int,
    image: Float[Tensor, "1 channels height width"],
    codes: Float[Tensor, "row feature"],
    rows: Int[Tensor, "row"],
) -> ShownPicture:
    """Of heads that are rows of their own the strongest counts."""
    tokens = rows.unique_consecutive()
    of_tokens = codes.unflatten(0, (len(tokens), -1)).amax(dim=1).cpu()
    places, features = of_tokens.nonzero(as_tuple=True)
    return ShownPicture(number, image.clone(), tokens[places], features, of_tokens[places, features])
