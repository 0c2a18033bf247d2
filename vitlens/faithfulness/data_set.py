"""Heatmaps scored over a data set: chunk by chunk, each kept in a file, so that a stopped run goes on where it was."""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from vitlens.data.decoding import PictureBatch, Skipped, decode_rows
from vitlens.data.picture_list import as_digest, list_rows
from vitlens.data.picture_sets import PictureSet, Row
from vitlens.errors import InputError
from vitlens.faithfulness.metrics import find_metrics
from vitlens.faithfulness.result import Faithfulness
from vitlens.faithfulness.run import evaluate_heatmaps
from vitlens.faithfulness.segmentation import Segmentation, evaluate_segmentation
from vitlens.files import PARTIAL, make_folder
from vitlens.heatmaps.run import find_method, heatmap
from vitlens.model.fingerprint import fingerprint
from vitlens.model.hooked_vit import HookedViT
from vitlens.results.result import MOST_KEPT, Result, load_result

LOG = logging.getLogger(__name__)
TARGETS = ("predicted", "label")
KINDS = ("segmentation", "faithfulness")
#: Kept with the scores of a chunk: what they depend on, and which pictures could not be read.
ORIGIN, UNREAD = "origin", "unread"
Scores = TypeVar("Scores", Faithfulness, Segmentation)


@dataclass(frozen=True)
class HeatmapScores:
    """The scores of every method on all pictures; `segmentation` where there are masks; what could not be read."""

    faithfulness: Faithfulness
    segmentation: Segmentation | None
    skipped: list[Skipped]


def score_heatmaps(
    model: HookedViT,
    pictures: PictureSet,
    methods: Sequence[str],
    folder: str | Path,
    *,
    metrics: Sequence[str],
    target: str = "predicted",
    chunk_size: int = 25,
    batch_size: int = 64,
    workers: int = 4,
    progress: bool = True,
    **settings: Any,
) -> HeatmapScores:
    """`evaluate_heatmaps`, and `evaluate_segmentation` where there are masks, over a picture set, in constant memory.

    Args:
        folder: where each chunk's scores are kept; chunks that are there are not computed again, but for damaged ones.
            A chunk belongs to the same model, methods, settings and contents of pictures only.
        target: the class that is explained and followed: the "predicted" one or the "label".
        chunk_size: pictures that are worked on together.
        settings: those of `evaluate_heatmaps`: n_steps, fill, seeds, options ….

    Raises:
        InputError: an unknown method, metric or target, and what `evaluate_heatmaps` raises; pictures of which none can be
            read; a folder with files of another run.
    """
    if target not in TARGETS:
        raise InputError(f"the class is the {' one or the '.join(TARGETS)}, not {target!r}")
    find_metrics(metrics, pictures.has_masks)
    names = [find_method(name).name for name in methods]
    folder = make_folder(folder)
    _refuse_foreign(folder, None if pictures.n is None else -(-pictures.n // chunk_size))
    run = {"methods": names, "metrics": list(metrics), "target": target, "weights": fingerprint(model), **settings}
    skipped: list[Skipped] = []
    parts: list[tuple[Faithfulness, Segmentation | None]] = []
    with tqdm(total=pictures.n, desc="pictures", unit="picture", disable=not progress) as bar:
        for chunk, rows in pictures.chunks(chunk_size):
            files = [folder / f"{chunk:06d}.{kind}.safetensors" for kind in KINDS]
            origin = _origin(run, rows, workers)
            if not _is_done(files, origin, pictures.has_masks):
                batch = _decode(model, pictures, rows, chunk * chunk_size, workers)
                if isinstance(batch, list):
                    skipped += batch
                    continue
                found = _score(model, batch, names, metrics, target, batch_size, settings)
                unread = [[item.path, item.reason] for item in batch.skipped]
                # The last file says that the chunk is whole.
                for file, scores in zip(files, reversed(found), strict=True):
                    if scores is not None:
                        about = {ORIGIN: origin, UNREAD: unread}
                        replace(scores, settings=scores.settings | about).save(file)
            scores = load_result(files[1], Faithfulness)
            skipped += [Skipped(*item) for item in scores.settings[UNREAD]]
            outlines = _without_origin(load_result(files[0], Segmentation)) if pictures.has_masks else None
            parts.append((_without_origin(scores), outlines))
            bar.update(len(rows))
    if not parts:
        raise InputError(f"none of the pictures of {pictures.name} could be read")
    outlined = [outline for _, outline in parts if outline is not None]
    return HeatmapScores(joined([scores for scores, _ in parts]), joined(outlined) if outlined else None, skipped)


def joined(parts: Sequence[Scores]) -> Scores:
    """The scores of the pictures of all parts as one result."""
    first = parts[0]
    together: dict[str, Any] = {"values": torch.cat([part.values for part in parts], dim=-1)}
    together["axes"] = {**first.axes, "image": list(range(together["values"].shape[-1]))}
    together["classes"] = torch.cat([part.classes for part in parts if part.classes is not None])
    kept = [part.pixels for part in parts if part.pixels is not None]
    together["pixels"] = torch.cat(kept)[:MOST_KEPT] if kept else None
    if isinstance(first, Faithfulness):
        for name in ("curves", "correct"):
            together[name] = torch.cat([getattr(part, name) for part in parts], dim=2)
    return replace(first, **together)


def _decode(
    model: HookedViT, pictures: PictureSet, rows: list[Row], first: int, workers: int
) -> PictureBatch | list[Skipped]:
    return decode_rows(
        rows,
        first,
        model.preprocessing,
        model.patch_grid(),
        with_masks=pictures.has_masks,
        workers=workers,
    )


def _score(
    model: HookedViT,
    batch: PictureBatch,
    methods: list[str],
    metrics: Sequence[str],
    target: str,
    batch_size: int,
    settings: dict[str, Any],
) -> tuple[Faithfulness, Segmentation | None]:
    images: Tensor = batch.images.to(model.device, model.dtype)
    classes = batch.labels.to(model.device)
    if target == "predicted":
        with torch.no_grad():
            classes = torch.cat([model(part) for part in images.split(batch_size)]).argmax(dim=-1)
    maps = {name: heatmap(model, images, classes, method=name, warn=False) for name in methods}
    common: dict[str, Any] = {"batch_size": batch_size, "progress": False}
    masks = batch.masks
    scores = evaluate_heatmaps(model, images, classes, maps, metrics=metrics, masks=masks, **common, **settings)
    scores = replace(scores, settings=scores.settings | {"classes": target})
    if masks is None:
        return scores, None
    seeds = {name: settings[name] for name in ("seeds", "baselines") if name in settings}
    return scores, evaluate_segmentation(model, images, masks, classes, maps, **common, **seeds)


def _refuse_foreign(folder: Path, n_chunks: int | None) -> None:
    """Raises InputError naming what lies in the folder and is none of the run's `n_chunks` (None: not known)."""
    for entry in sorted(folder.iterdir()):
        number = re.fullmatch(rf"(\d{{6,}})\.({'|'.join(KINDS)})\.safetensors", entry.name)
        if entry.name.endswith(PARTIAL) or (number and (n_chunks is None or int(number[1]) < n_chunks)):
            continue
        raise InputError(f"{entry} belongs to no chunk of this run: remove it, or choose another folder")


def _origin(run: dict[str, Any], rows: list[Row], workers: int) -> str:
    """What a chunk's scores depend on, in sixteen letters."""
    text = json.dumps(run, sort_keys=True, default=repr) + as_digest(list_rows(rows, workers))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _is_done(files: list[Path], origin: str, with_masks: bool) -> bool:
    """Whether a chunk's files are there and whole; damaged ones are computed again, and that is said."""
    kinds: tuple[type[Result], ...] = (Segmentation, Faithfulness)
    for file, kind in zip(files, kinds, strict=True):
        if kind is Segmentation and not with_masks:
            continue
        if not file.exists():
            return False
        try:
            scores = load_result(file, kind)
        except InputError as error:
            LOG.warning("%s; the chunk is computed again", error)
            return False
        if scores.settings.get(ORIGIN) != origin:
            raise InputError(
                f"{file} holds scores of other pictures, weights or settings: remove it, or choose another folder"
            )
    return True


def _without_origin(scores: Scores) -> Scores:
    return replace(
        scores, settings={name: value for name, value in scores.settings.items() if name not in (ORIGIN, UNREAD)}
    )
