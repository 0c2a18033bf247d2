"""Activations of a hook point as a stream of rows, each with the picture and the token that it came from."""

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
from tqdm import tqdm

from vitlens.arguments import checked
from vitlens.choose.tokens import TokenSet
from vitlens.errors import InputError
from vitlens.features.places import Place, chosen_rows, place_of, read_places
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName
from vitlens.model.runs.picture_batches import PictureBatches, PictureSource, length_of

HEADS = ("joined", "apart")
Rows = dict[str, Tensor]


class ActivationStream:
    """Batches {"activations" [n, d], "image" [n], "token" [n]}, and "head" [n] where heads stand apart.

    Go through it as often as you like: pictures run anew each time, and only one batch is held. Make one with
    `stream_activations`.
    """

    def __init__(
        self,
        model: HookedViT,
        pictures: PictureBatches,
        place: Place,
        tokens: TokenSet | None,
        heads: str,
        progress: bool,
    ) -> None:
        self.model, self.pictures, self.place = model, pictures, place
        self.tokens, self.heads, self.progress = tokens, heads, progress

    @property
    def hook(self) -> str:
        """The hook point's full name."""
        return self.place.name

    def __iter__(self) -> Iterator[Rows]:
        label = f"activations of {self.hook}"
        for batch in tqdm(
            self.pictures, desc=label, unit="batch", total=length_of(self.pictures), disable=not self.progress
        ):
            found = read_places(self.model, batch.images, [self.place])[self.hook]
            grid = self.model.embed.grid(*batch.images.shape[-2:])
            chosen = chosen_rows(self.model, self.place, self.tokens, found.shape[1], grid)
            yield self._rows(found[:, chosen.to(found.device)], batch.ids, self.place.ids(found.shape[1])[chosen])

    def _rows(self, found: Tensor, images: Tensor, tokens: Tensor) -> Rows:
        n_images, n_tokens = found.shape[:2]
        apart = self.heads == "apart"
        if apart and found.ndim != 4:
            raise InputError(f'{self.hook} has no heads to stand apart: leave heads="joined"')
        n_heads = found.shape[2] if apart else 1
        rows = {
            "activations": found.reshape(n_images * n_tokens * n_heads, -1),
            "image": images.repeat_interleave(n_tokens * n_heads),
            "token": tokens.repeat_interleave(n_heads).repeat(n_images),
        }
        return rows | ({"head": torch.arange(n_heads).repeat(n_images * n_tokens)} if apart else {})

    @checked
    def sample(self, n: int, seed: int = 0) -> Rows:
        """n rows drawn uniformly without replacement, in the order of the stream; the whole stream is never held.

        The draw depends on the seed alone, not on the size of the batches: the n rows with the smallest random keys.

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
            best = kept["key"].argsort(stable=True)[:n].sort().values
            kept = {name: values[best.to(values.device)] for name, values in kept.items()}
        if seen < n:
            raise InputError(
                f"{n} activations were asked for, and the pictures give {seen}: take fewer, or more pictures"
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
    hook: HookName,
    *,
    tokens: TokenSet | None = "patches",
    heads: str = "joined",
    batch_size: int = 16,
    progress: bool = True,
) -> ActivationStream:
    """The activations of a hook point over many pictures, in constant memory: what a dictionary is trained on.

    Of each picture only the blocks up to the hook point run. What has an axis of heads (or of heads and keys) is one row
    per token, head behind head, as SAELens trains on `hook_z`; with heads="apart" one row per token and head.

    Args:
        images: a tensor or pictures; a picture set (`open_pictures`); batches (a list or DataLoader of tensors, or of
            tuples that begin with pictures), or a function that starts them. An iterator can be gone through once.
        hook: a full name, a shorthand or a key: "blocks.5.hook_resid_post", "resid_post5", ("resid_post", 5).
        tokens: which of each picture's tokens, see `select_tokens`: "patches", "all", "class", "registers", a patch or
            box, indices. Of no matter where the hook point has no tokens; those rows have token −1.
        heads: "joined" or "apart".
        batch_size: pictures per forward, where they do not come as batches.

    Returns:
        ActivationStream: iterate over it, or `.sample(n)`, `.to_dataset()`.

    Raises:
        InputError: no such hook point, or several; an unknown token set; pictures that do not fit the model.
    """
    if heads not in HEADS:
        raise InputError(f"heads are {' or '.join(HEADS)}, not {heads!r}")
    place = place_of(model, hook)
    return ActivationStream(model, PictureBatches(model, images, batch_size), place, tokens, heads, progress)


def _plain(values: Tensor) -> np.ndarray:
    """As NumPy; half precision, which it has not in both kinds, as float32."""
    values = values.detach().cpu()
    return (values.float() if values.dtype in (torch.float16, torch.bfloat16) else values).numpy()
