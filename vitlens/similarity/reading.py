"""Reads the vectors of tokens at a hook point, and which patches are outliers."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.choose.tokens import TokenSet, select_tokens
from vitlens.data.masks import MaskInput
from vitlens.data.pictures import Pictures
from vitlens.description.token_norms import stream_outliers
from vitlens.description.tokens import at_least_single
from vitlens.errors import InputError
from vitlens.features.places import HookPlace, place_of, read_places
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName
from vitlens.model.runs.picture_run import PictureRun

#: What figures and tables call the place that is read by default.
FINAL = "final patch tokens"


@dataclass(frozen=True)
class TokenVectors:
    """The vectors of one batch: `tokens` from number `first` of the sequence on, the patches last."""

    tokens: Float[Tensor, "image token d"]
    first: int
    n_prefix: int
    outliers: Bool[Tensor, "image patch"]

    @property
    def patches(self) -> Float[Tensor, "image patch d"]:
        return self.tokens[:, self.n_prefix - self.first :]


class VectorReader:
    """Reads the vectors of the tokens at one hook point, or what `model.patch_features` gives where none is named."""

    def __init__(
        self, model: HookedViT, hook: HookName | None, outlier_threshold: float | None, grid: tuple[int, int]
    ) -> None:
        if outlier_threshold is not None and outlier_threshold <= 1:
            raise InputError(
                "outlier_threshold is how many times the median norm makes an outlier, above 1, or None to keep all "
                f"patches, not {outlier_threshold:g}"
            )
        last = model.cfg.n_layers - 1
        self.model, self.outlier_threshold, self.grid = model, outlier_threshold, grid
        self.is_final = hook is None
        self.place = place_of(model, ("resid_post", last) if hook is None else hook)
        # As `find_register_neurons`: the last block may rescale.
        self.late = place_of(model, ("resid_post", max(last - 1, 0)))

    @property
    def name(self) -> str:
        """What was read, for titles and tables."""
        return FINAL if self.is_final else self.place.name

    def __call__(self, pictures: Float[Tensor, "image channels height width"]) -> TokenVectors:
        places = [self.place] if self.outlier_threshold is None else [self.place, self.late]
        with torch.no_grad():
            found = read_places(self.model, pictures, places)
            rows = found[self.place.name]
            if self.is_final and self.model.ln_final is not None:
                rows = self.model.ln_final(rows)
        n_patches, n_prefix = self.grid[0] * self.grid[1], self.model.cfg.n_prefix_tokens
        _check_rows(self.place, rows, len(pictures), n_prefix + n_patches)
        if self.outlier_threshold is None:
            outliers = torch.zeros(len(pictures), n_patches, dtype=torch.bool, device=rows.device)
        else:
            outliers = stream_outliers(found[self.late.name], n_prefix, self.outlier_threshold)
        return TokenVectors(at_least_single(rows.flatten(2)), self.place.first_token, n_prefix, outliers)


def _check_rows(place: HookPlace, rows: Tensor, n_images: int, n_tokens: int) -> None:
    """Raises InputError unless there is a finite vector for every patch of every picture."""
    if not place.has_tokens or len(rows) != n_images or place.first_token + rows.shape[1] != n_tokens:
        raise InputError(
            f"{place.name} has no vector for each patch of each picture: read the stream, such as resid_post5, or the "
            "queries, keys, values, heads or neurons of a block"
        )
    if rows[0, 0].numel() < 2:
        raise InputError(f"{place.name} has one number for each patch, and no vector that could be compared")
    if not rows.isfinite().all():
        raise InputError(f"the vectors at {place.name} are NaN or infinite: load the model with dtype=torch.float32")


def other_run(
    model: HookedViT,
    others: Pictures,
    run: PictureRun,
    progress: bool | None,
    what: str,
) -> PictureRun:
    """The run of the pictures that `run`'s are compared with, in batches of the same size.

    Raises:
        InputError: another number of pictures.
    """
    found = PictureRun(model, others, run.batch_size, progress, what)
    if found.n != run.n:
        raise InputError(f"{found.n} other pictures were given for {run.n} pictures: pass one for each")
    return found


def query_tokens(
    model: HookedViT, queries: TokenSet, run: PictureRun, masks: MaskInput | None, reader: VectorReader
) -> Bool[Tensor, "image token"]:
    """The queries as tokens of the sequence.

    Raises:
        InputError: a set that does not exist, or that holds tokens without a vector at this hook point.
    """
    chosen = select_tokens(model, queries, run.n, masks=masks, grid=run.grid)
    if chosen[:, : reader.place.first_token].any():
        raise InputError(f"{reader.place.name} has no vectors of prefix tokens: name patches as queries")
    return chosen
