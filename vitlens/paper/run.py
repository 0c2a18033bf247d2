"""Runs all experiments in one pass over a data set; resumable, on one process or several."""

import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
from torch import Tensor

from vitlens.arguments import checked
from vitlens.data.decoded_batches import PictureBatch, Skipped, decode_rows
from vitlens.data.picture_list import list_pictures
from vitlens.data.picture_sets import PictureRow, PictureSet, open_pictures
from vitlens.data.preprocessing import Preprocessing
from vitlens.errors import InputError
from vitlens.files import as_path
from vitlens.lens.trace import TraceObserver
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.paper.experiment import Arrays, Batch, Context, Experiment, Tables
from vitlens.paper.experiments.attention_knockout import AttentionKnockout
from vitlens.paper.experiments.class_change import ClassChange
from vitlens.paper.experiments.class_identifiability import ClassIdentifiability
from vitlens.paper.experiments.context_removal import ContextRemoval
from vitlens.paper.experiments.context_tokens import ContextTokens
from vitlens.paper.experiments.explainability import Explainability
from vitlens.paper.experiments.linear_probe import LinearProbe
from vitlens.paper.experiments.memories import MemoriesOfClasses
from vitlens.paper.experiments.residual_composition import ResidualComposition
from vitlens.paper.results import write_results
from vitlens.paper.run_facts import run_facts
from vitlens.paper.settings import StudySettings
from vitlens.paper.store import Store
from vitlens.workers import Stopped, WorkerLost, Workers

LOG = logging.getLogger(__name__)
EXPERIMENTS: dict[str, type[Experiment]] = {
    kind.name: kind
    for kind in (
        ClassIdentifiability,
        ClassChange,
        ResidualComposition,
        ContextTokens,
        AttentionKnockout,
        ContextRemoval,
        MemoriesOfClasses,
        Explainability,
        LinearProbe,
    )
}


@dataclass(frozen=True)
class Outcome:
    """What a run found: its tables by name, what it skipped, and where all of it was written."""

    tables: Tables
    n_pictures: int
    skipped: list[Skipped]
    folder: Path


@leaves_state
@checked
def run_study(
    model: HookedViT,
    settings: StudySettings,
    *,
    experiments: Sequence[str] | None = None,
    path: str | Path,
    workers: int = 4,
    progress: bool | None = None,
) -> Outcome | None:
    """Runs experiments of the paper over a data set and writes tables, figures and a page to the folder `path`.

    What was done is kept chunk by chunk: the same call in the same folder goes on where it was stopped, and ends with the
    same bytes on one kind of processor with one number of threads in each process (torch.get_num_threads()); with
    another number, sums are rounded otherwise, which last digits may show. The contents of all pictures and masks, labels,
    class names and weights are part of a run: where one of them has changed, going on is refused. Under torchrun the chunks
    are shared among the processes; only the first one returns the outcome.

    Args:
        experiments: names of experiments, as `vitlens reproduce --help` lists them; None: all that data and model allow;
            the others are logged with the reason.
        path: the folder.
        workers: threads that decode pictures.
        progress: a bar with rate and time left; by default on a terminal.

    Raises:
        InputError: unknown experiments; a folder of another run, of one on other pictures, or in which another process is at
            work; data or model without what an experiment needs, such as outputs that share a softmax.
        Stopped: interrupted, or another process was lost.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> settings = vitlens.paper.StudySettings(n_images=2, n_random_models=0)
        >>> outcome = vitlens.run_study(model, settings, experiments=["class_identifiability"], path="study", workers=1)
        >>> list(outcome.tables), outcome.n_pictures
        (['identifiability', 'identifiability_rate'], 2)
    """
    settings.check()
    for name in experiments or []:
        if name not in EXPERIMENTS:
            raise InputError(f"no experiment is called {name!r}; there are {', '.join(EXPERIMENTS)}")
    model.require_classifier()
    if model.cfg.output != "softmax":
        raise InputError(
            f"the experiments are about classes that exclude each other, and the outputs of {model.cfg.model_name} are "
            f'output="{model.cfg.output}": run class_lens, heatmap and the other calls on their own'
        )
    if not (sys.stderr.isatty() if progress is None else progress):
        datasets.disable_progress_bars()
    team = Workers(str(model.device))
    wanted = EXPERIMENTS if experiments is None else experiments
    n_random = settings.n_random_models if any(EXPERIMENTS[name].uses_random_models for name in wanted) else 0
    context = _context(model.to(team.device), settings, n_random, workers, progress if team.is_main else False)
    chosen = _possible(context, team.is_main) if experiments is None else [EXPERIMENTS[n](context) for n in experiments]
    store = Store(as_path(path))
    try:
        with _opened(store, context, chosen) if team.is_main else nullcontext():
            return _run(context, chosen, store, team)
    except (KeyboardInterrupt, WorkerLost) as error:
        why = "stopped" if isinstance(error, KeyboardInterrupt) else f"a process was lost ({error})"
        kept = len(list(store.records.glob("*.parquet")))
        raise Stopped(
            f"{why}: {kept} chunks of {settings.batch_size} pictures are kept in {store.folder}; give the same command "
            "again to go on from there"
        ) from None
    finally:
        with suppress(RuntimeError, WorkerLost):
            team.close()


def _opened(store: Store, context: Context, experiments: list[Experiment]) -> AbstractContextManager[None]:
    """Opens the run's folder, which no other process may use; a run is described by its settings and by its pictures."""
    description = run_facts(context.settings, context.model, [experiment.name for experiment in experiments])
    return store.opened(description, lambda: list_pictures(context.pictures, context.workers, context.progress))


def _run(context: Context, experiments: list[Experiment], store: Store, team: Workers) -> Outcome | None:
    """All of the work; the tables are made by the first process."""
    settings = context.settings
    n_chunks = None if context.pictures.n is None else -(-context.pictures.n // settings.batch_size)
    team.wait()
    if team.is_main:
        store.refuse_foreign(n_chunks)
        for experiment in experiments:
            experiment.prepare(store.folder)
    team.wait()
    for experiment in experiments:
        experiment.load(store.folder)
    seen = team.largest(_pass(context, experiments, store, team))
    if not team.is_main:
        return None
    records = store.read(seen if n_chunks is None else n_chunks)
    if not len(records):
        first = records.skipped[0]
        raise InputError(
            f"none of the pictures of {settings.data} could be read; the first: {first.path} ({first.reason})"
        )
    tables = write_results(store, experiments, records, context)
    return Outcome(tables, len(records), records.skipped, store.folder)


def _context(model: HookedViT, settings: StudySettings, n_random: int, workers: int, progress: bool | None) -> Context:
    """Opens the pictures and draws the random models; a model without class names takes those of the data set."""
    pictures = _open(model, settings)
    if model.class_names is None and pictures.label_names and len(pictures.label_names) == model.cfg.n_classes:
        model.class_names = list(pictures.label_names)
    preprocessing = model.preprocessing
    if settings.squash:
        # The released code scales pictures to the model's square, whatever their shape.
        squashed = {"crop_mode": "squash", "crop_pct": 1.0, "interpolation": "bilinear"}
        preprocessing = Preprocessing({**model.cfg.data_config, **squashed})
    random_models = [model.with_fresh_weights(seed) for seed in range(n_random)]
    return Context(model, settings, pictures, preprocessing, random_models, workers, progress)


def _pass(context: Context, experiments: list[Experiment], store: Store, team: Workers) -> int:
    """This process' share of the pictures, chunk by chunk; the number behind its last chunk."""
    seen = 0
    with_masks = context.pictures.has_masks and any(experiment.uses_masks for experiment in experiments)
    n_chunks = None if context.pictures.n is None else -(-context.pictures.n // context.settings.batch_size)
    if n_chunks is not None:
        n_chunks = -(-n_chunks // team.world_size)
    with ProgressBar(n_chunks, "study", "chunk", context.progress, n_chunks) as bar:
        for chunk, rows, batch in _batches(context, store, team, with_masks):
            if batch is not None:
                _measure_chunk(context, experiments, store, chunk, rows, batch)
            seen = chunk + 1
            bar.update(1)
    return seen


def _open(model: HookedViT, settings: StudySettings) -> PictureSet:
    return open_pictures(
        settings.data,
        model.class_names,
        model.cfg.n_classes,
        split=settings.split,
        streaming=settings.streaming,
        n_images=settings.n_images,
        per_class=settings.per_class,
        drop_incomplete=settings.drop_incomplete,
        masks=settings.masks,
        object_id=settings.object_id,
        class_map=settings.class_map,
        image_column=settings.image_column,
        label_column=settings.label_column,
    )


def _possible(context: Context, tell: bool) -> list[Experiment]:
    """All experiments for which data and model have what they need."""
    chosen = []
    for name, kind in EXPERIMENTS.items():
        try:
            chosen.append(kind(context))
        except InputError as error:
            if tell:
                LOG.warning("left out %s: %s", name, error)
    return chosen


def _batches(
    context: Context, store: Store, team: Workers, with_masks: bool
) -> Iterator[tuple[int, list[PictureRow] | None, PictureBatch | list[Skipped] | None]]:
    """The chunks of this process, decoded one ahead; None for those that an earlier run has done.

    Rows are those of a stream, of which there is no list to compare with.
    """
    settings, model = context.settings, context.model
    is_stream = context.pictures.n is None

    def decode(chunk: int, rows: list[PictureRow]) -> PictureBatch | list[Skipped] | None:
        return decode_rows(
            rows,
            chunk * settings.batch_size,
            context.preprocessing,
            model.patch_grid(),
            with_masks=with_masks,
            mask_reduction="nearest" if settings.paper_compat else settings.mask_reduction,
            workers=context.workers,
        )

    with ThreadPoolExecutor(1) as ahead:
        waiting = None
        for chunk, rows in context.pictures.chunks(settings.batch_size, team.rank, team.world_size):
            listed = rows if is_stream else None
            coming = (chunk, listed, None if store.has(chunk, listed) else ahead.submit(decode, chunk, rows))
            if waiting is not None:
                yield *waiting[:2], None if waiting[2] is None else waiting[2].result()
            waiting = coming
        if waiting is not None:
            yield *waiting[:2], None if waiting[2] is None else waiting[2].result()


def _measure_chunk(
    context: Context,
    experiments: list[Experiment],
    store: Store,
    chunk: int,
    rows: list[PictureRow] | None,
    pictures: PictureBatch | list[Skipped],
) -> None:
    if isinstance(pictures, list):
        store.write(chunk, [], {}, pictures, rows)
        return
    arrays = measure(context, experiments, pictures)
    numbers = {name: tensor.detach().cpu().numpy() for name, tensor in arrays.items()}
    store.write(chunk, pictures.keys, numbers, pictures.skipped, rows)


def measure(context: Context, experiments: list[Experiment], pictures: PictureBatch) -> Arrays:
    """All numbers of a chunk: one forward that every experiment watches, then what each runs by itself."""
    model = context.model
    images = model.check_images(pictures.images.to(model.device, model.dtype))
    labels = pictures.labels.to(model.device)
    grid = model.embed.grid(*images.shape[-2:])
    observer = TraceObserver(model, labels, grid)
    hooks = observer.hooks()
    for experiment in experiments:
        hooks += experiment.hooks(labels)
    with torch.no_grad():
        logits = model.run_with_hooks(images, fwd_hooks=hooks)
    trace = observer.trace()
    inside, around = (
        None if patches is None else patches.to(model.device)
        for patches in (pictures.object_patches, pictures.context_patches)
    )
    if context.settings.paper_compat and inside is not None:
        # As released: whatever is not the object is its context, what is void too.
        around = ~inside
    batch = Batch(images, labels, pictures.keys, inside, around, trace, logits, grid)
    ranks = torch.stack([trace.ranks["resid_post", block] for block in range(model.cfg.n_layers)], dim=1)
    arrays: Arrays = {"label": labels, "prediction": logits.argmax(dim=1)}
    arrays["ranks"] = _unsigned(ranks[:, :, model.cfg.n_prefix_tokens :])
    if model.cfg.has_class_token:
        arrays["class_token_ranks"] = _unsigned(ranks[:, :, model.cfg.prefix_tokens.index("class")])
    if inside is not None:
        arrays["object_patches"] = inside
    if around is not None:
        arrays["context_patches"] = around
    for experiment in experiments:
        arrays |= experiment.measure(batch)
    return arrays


def _unsigned(ranks: Tensor) -> Tensor:
    """Ranks in two bytes: no model has 65,536 classes."""
    return ranks.to(torch.uint16)
