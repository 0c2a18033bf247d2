"""Streams the activations of a hook point as rows, each with its picture and token."""

import atexit
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from datasets.exceptions import DatasetGenerationError
from torch import Tensor

from vitlens.arguments import checked
from vitlens.choose.tokens import TokenSet
from vitlens.errors import InputError
from vitlens.features.places import HookPlace, chosen_rows, place_of, read_places, tokens_in_words
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName
from vitlens.model.runs.picture_batches import PictureBatches, PictureSource

Rows = dict[str, Tensor]


class ActivationStream:
    """Batches {"activations" [n, d], "image" [n], "token" [n]}, and "head" [n] if heads are separate rows.

    It can be iterated several times: the pictures are run again each time, and only one batch is in memory. Make one with
    `stream_activations`.
    """

    def __init__(
        self,
        model: HookedViT,
        pictures: PictureBatches,
        place: HookPlace,
        tokens: TokenSet,
        join_heads: bool,
        progress: bool | None,
    ) -> None:
        self.model, self.pictures, self.place = model, pictures, place
        self.tokens, self.join_heads, self.progress = tokens, join_heads, progress

    def __repr__(self) -> str:
        n = self.pictures.n_pictures
        pictures = "" if n is None else f", pictures: {n:,}"
        return f"ActivationStream({self.hook}, tokens: {tokens_in_words(self.tokens)}{pictures})"

    @property
    def hook(self) -> str:
        """The hook point's full name."""
        return self.place.name

    def __iter__(self) -> Iterator[Rows]:
        for batch in self.pictures.with_bar(f"activations of {self.hook}", self.progress):
            found = read_places(self.model, batch.images, [self.place])[self.hook]
            grid = self.model.embed.grid(*batch.images.shape[-2:])
            chosen = chosen_rows(self.model, self.place, self.tokens, found.shape[1], grid)
            yield self._rows(found[:, chosen.to(found.device)], batch.ids, self.place.ids(found.shape[1])[chosen])

    def _rows(self, found: Tensor, images: Tensor, tokens: Tensor) -> Rows:
        n_images, n_tokens = found.shape[:2]
        if not self.join_heads and found.ndim != 4:
            raise InputError(f"{self.hook} has no heads, so they cannot be separate rows: leave join_heads=True")
        n_heads = 1 if self.join_heads else found.shape[2]
        rows = {
            "activations": found.reshape(n_images * n_tokens * n_heads, -1),
            "image": images.repeat_interleave(n_tokens * n_heads),
            "token": tokens.repeat_interleave(n_heads).repeat(n_images),
        }
        return rows if self.join_heads else rows | {"head": torch.arange(n_heads).repeat(n_images * n_tokens)}

    @checked
    def sample(self, n_rows: int, *, seed: int = 0) -> Rows:
        """Draws rows uniformly without replacement, in the order of the stream; the whole stream is never in memory.

        The draw depends on the seed and not on the batch size.

        Raises:
            InputError: the stream has fewer rows.
        """
        generator = np.random.default_rng(seed)
        kept: Rows = {}
        seen = 0
        for rows in self:
            here = len(rows["image"])
            rows["key"] = torch.from_numpy(generator.random(here))
            seen += here
            kept = {name: torch.cat([kept[name], rows[name]]) if kept else rows[name] for name in rows}
            best = kept["key"].argsort(stable=True)[:n_rows].sort().values
            kept = {name: values[best.to(values.device)] for name, values in kept.items()}
        if seen < n_rows:
            raise InputError(
                f"the pictures give {seen} activations, fewer than n_rows={n_rows}: use more pictures, or fewer rows"
            )
        kept.pop("key")
        return kept

    def to_dataset(self, folder: str | Path | None = None) -> Dataset:
        """The rows as a `datasets` table, written to disk as they come: columns activations, image, token (and head).

        Args:
            folder: where the table's files go; by default a temporary folder that is removed when Python ends.

        Raises:
            InputError: whatever going through the stream raises.
        """
        if folder is None:
            folder = tempfile.mkdtemp(prefix="vitlens-activations-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        try:
            # A fingerprint of its own: by default the table is named after a hash of all that the generator refers to,
            # the model included, and a table of the same hash is taken as it is.
            table = Dataset.from_generator(self._records, cache_dir=str(folder), fingerprint=uuid.uuid4().hex)
        except DatasetGenerationError as error:
            if isinstance(error.__cause__, InputError):
                raise error.__cause__ from None
            raise
        return table

    def _records(self) -> Iterator[dict[str, Any]]:
        for rows in self:
            columns = {name: _plain(values) for name, values in rows.items()}
            for i in range(len(columns["image"])):
                yield {name: values[i] for name, values in columns.items()}


@checked
def stream_activations(
    model: HookedViT,
    images: PictureSource,
    *,
    hook: HookName,
    tokens: TokenSet = "all",
    join_heads: bool = True,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> ActivationStream:
    """Streams the activations of a hook point over many pictures, in constant memory, to train a dictionary on.

    Only the blocks up to the hook point run. An activation with an axis of heads (or of heads and keys) becomes one row per
    token with all heads concatenated, as SAELens trains on "hook_z"; with join_heads=False one row per token and head.

    Args:
        images: a tensor or pictures; a picture set (`open_pictures`); batches (a list or DataLoader of tensors, or of
            tuples that begin with pictures), or a function that returns an iterator of batches. An iterator works once.
        hook: a full name, a shorthand or a key: "blocks.5.hook_resid_post", "resid_post5", ("resid_post", 5).
        tokens: which of each picture's tokens, see `select_tokens`: "all", as by default in `evaluate_sae` and `with_sae`;
            "patches", "class", "registers", a patch or box, indices. A hook point without tokens gives one row for each
            picture, of token −1.
        join_heads: one row for all heads of a token; False: one row per head.
        batch_size: the most pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        ActivationStream: iterate over it, or `.sample(n_rows)`, `.to_dataset()`.

    Raises:
        InputError: no such hook point, or several; an unknown token set; pictures that do not fit the model.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> stream = vitlens.features.stream_activations(model, images[:2], hook="resid_post3")
        >>> stream
        ActivationStream(blocks.3.hook_resid_post, tokens: all, pictures: 2)
        >>> rows = stream.sample(100)
        >>> rows["activations"].shape
        torch.Size([100, 96])
    """
    place = place_of(model, hook)
    return ActivationStream(model, PictureBatches(model, images, batch_size), place, tokens, join_heads, progress)


def _plain(values: Tensor) -> np.ndarray:
    """As NumPy; float16 and bfloat16 become float32, since NumPy has no bfloat16."""
    values = values.detach().cpu()
    return (values.float() if values.dtype in (torch.float16, torch.bfloat16) else values).numpy()
