"""Evaluates heatmaps over a data set, chunk by chunk; each chunk is kept in a file, so a stopped run can be resumed."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from vitlens.arguments import checked
from vitlens.choose.texts import takes_text
from vitlens.data.decoded_batches import PictureBatch, Skipped, decode_rows
from vitlens.data.picture_list import as_digest, list_rows
from vitlens.data.picture_sets import PictureRow, PictureSet, open_pictures
from vitlens.errors import InputError
from vitlens.faithfulness.maps import DEFAULT
from vitlens.faithfulness.metrics import find_metrics
from vitlens.faithfulness.result import Faithfulness
from vitlens.faithfulness.run import DEFAULT_METRICS, evaluate_heatmaps
from vitlens.faithfulness.segmentation import Segmentation, evaluate_segmentation
from vitlens.files import PARTIAL, make_folder
from vitlens.heatmaps.run import find_method, heatmap
from vitlens.heatmaps.shared.rows import rows_at_once
from vitlens.model.fingerprint import fingerprint
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.results.result import MOST_KEPT, Result, load_result

LOG = logging.getLogger(__name__)
#: Which class is explained and followed.
CLASSES = ("predicted", "label")
KINDS = ("segmentation", "faithfulness")
#: Kept with the scores of a chunk: what they depend on, and which pictures could not be read.
ORIGIN, UNREAD = "origin", "unread"
Part = TypeVar("Part", Faithfulness, Segmentation)


@dataclass(frozen=True)
class HeatmapEvaluation:
    """The scores of every method on all pictures; `segmentation` where there are masks; what could not be read."""

    faithfulness: Faithfulness
    segmentation: Segmentation | None
    skipped: list[Skipped]


@leaves_state
@checked
@takes_text("predicted")
def evaluate_heatmaps_over_data(
    model: HookedViT,
    images: PictureSet | str | Path,
    classes: str = "predicted",
    *,
    folder: str | Path,
    methods: str | Sequence[str] = DEFAULT,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    n_steps: int = 50,
    replacement: str = "blur",
    road_shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    baselines: bool = True,
    n_draws: int = 3,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    chunk_size: int = 25,
    batch_size: int | None = None,
    workers: int = 4,
    progress: bool | None = None,
) -> HeatmapEvaluation:
    """`evaluate_heatmaps`, and `evaluate_segmentation` where there are masks, over a data set, in constant memory.

    Args:
        images: a picture set, as `open_pictures` opens it, or what it opens: a folder with one folder per class, a table, a
            name on the Hugging Face hub.
        classes: the class that is explained and followed: each picture's "predicted" one or its "label".
        folder: where each chunk's scores are kept; chunks that are there are not computed again, but for damaged ones.
            A chunk belongs to the same model, methods, settings and contents of pictures only.
        methods: names of heatmap methods.
        metrics, n_steps, replacement, road_shares, baselines, n_draws, options: as of `evaluate_heatmaps`.
        chunk_size: pictures that are worked on together.
        batch_size: pictures (rows) of one forward; by default at most 64, and what is free holds.
        workers: processes that read pictures.
        progress: show a bar; by default on a terminal, where there is more than one chunk.

    Returns:
        HeatmapEvaluation: `faithfulness`, `segmentation` (None without masks), and what was `skipped`.

    Raises:
        InputError: an unknown method or metric, other classes, predicted ones of outputs that are no classes, and what
            `evaluate_heatmaps` raises; pictures of which none can be read; a folder with files of another run.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> pictures = vitlens.open_pictures("demo", model.class_names, 10, n_images=2)
        >>> found = vitlens.faithfulness.evaluate_heatmaps_over_data(
        ...     model, pictures, folder="scores", methods="gradient_rollout", metrics="deletion", baselines=False, n_steps=2
        ... )
        >>> found.faithfulness.axes
        {'method': ['gradient_rollout'], 'metric': ['deletion'], 'image': [0, 1]}
    """
    if classes not in CLASSES:
        raise InputError(f"the class is the {' one or the '.join(CLASSES)}, not {classes!r}")
    if classes == "predicted":
        model.require_prediction()
    pictures = _opened(model, images)
    metrics = [metric.name for metric in find_metrics(metrics, pictures.has_masks, model.architecture is not None)]
    names = [find_method(name).name for name in ([methods] if isinstance(methods, str) else methods)]
    settings: dict[str, Any] = {"n_steps": n_steps, "replacement": replacement, "road_shares": list(road_shares)}
    settings |= {"baselines": baselines, "n_draws": n_draws, "options": options or {}}
    folder = make_folder(folder)
    n_chunks = None if pictures.n is None else -(-pictures.n // chunk_size)
    _refuse_foreign(folder, n_chunks)
    run = {"methods": names, "metrics": metrics, "classes": classes, "weights": fingerprint(model), **settings}
    skipped: list[Skipped] = []
    parts: list[tuple[Faithfulness, Segmentation | None]] = []
    with ProgressBar(pictures.n, "heatmap scores", "picture", progress, n_chunks) as bar:
        for chunk, rows in pictures.chunks(chunk_size):
            files = [folder / f"{chunk:06d}.{kind}.safetensors" for kind in KINDS]
            origin = _origin(run, rows, workers)
            if not _is_done(files, origin, pictures.has_masks):
                batch = _decode(model, pictures, rows, chunk * chunk_size, workers)
                if isinstance(batch, list):
                    skipped += batch
                    continue
                found = _score(model, batch, names, metrics, classes, batch_size, settings)
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
    return HeatmapEvaluation(joined([scores for scores, _ in parts]), joined(outlined) if outlined else None, skipped)


def joined(parts: Sequence[Part]) -> Part:
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


def _opened(model: HookedViT, images: PictureSet | str | Path) -> PictureSet:
    """Raises InputError where a data set is neither there nor named."""
    if isinstance(images, (str, Path)):
        return open_pictures(images, model.class_names, model.cfg.n_classes)
    if not isinstance(images, PictureSet):
        raise InputError(
            f"images is a picture set, as open_pictures opens it, or a folder's or table's path, not {type(images).__name__}"
        )
    return images


def _decode(
    model: HookedViT, pictures: PictureSet, rows: list[PictureRow], first: int, workers: int
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
    followed: str,
    batch_size: int | None,
    settings: dict[str, Any],
) -> tuple[Faithfulness, Segmentation | None]:
    images: Tensor = batch.images.to(model.device, model.dtype)
    classes = batch.labels.to(model.device)
    if followed == "predicted":
        size = rows_at_once(model, images, batch_size, gradients=False)
        with torch.no_grad():
            classes = torch.cat([model(part) for part in images.split(size)]).argmax(dim=-1)
    maps = {name: heatmap(model, images, classes, method=name, warn=False, progress=False) for name in methods}
    common: dict[str, Any] = {"heatmaps": maps, "masks": batch.masks, "batch_size": batch_size, "progress": False}
    scores = evaluate_heatmaps(model, images, classes, metrics=metrics, **common, **settings)
    scores = replace(scores, settings=scores.settings | {"classes": followed})
    if batch.masks is None:
        return scores, None
    rows = {name: settings[name] for name in ("n_draws", "baselines")}
    return scores, evaluate_segmentation(model, images, classes, **common, **rows)


def _refuse_foreign(folder: Path, n_chunks: int | None) -> None:
    """Raises InputError for a file that is not of one of the run's `n_chunks` chunks (None: their number is not known)."""
    for entry in sorted(folder.iterdir()):
        number = re.fullmatch(rf"(\d{{6,}})\.({'|'.join(KINDS)})\.safetensors", entry.name)
        if entry.name.endswith(PARTIAL) or (number and (n_chunks is None or int(number[1]) < n_chunks)):
            continue
        raise InputError(f"{entry} belongs to no chunk of this run: remove it, or choose another folder")


def _origin(run: dict[str, Any], rows: list[PictureRow], workers: int) -> str:
    """A hash, of sixteen letters, of everything that a chunk's scores depend on."""
    text = json.dumps(run, sort_keys=True, default=repr) + as_digest(list_rows(rows, workers))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _is_done(files: list[Path], origin: str, with_masks: bool) -> bool:
    """Whether a chunk's files are there and whole; damaged ones are computed again, with a warning in the log."""
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


def _without_origin(scores: Part) -> Part:
    return replace(
        scores, settings={name: value for name, value in scores.settings.items() if name not in (ORIGIN, UNREAD)}
    )
