"""Trains dictionaries on the activations of a model, as they stream from pictures."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from vitlens.arguments import checked
from vitlens.choose.tokens import TokenSet
from vitlens.errors import InputError
from vitlens.features.placed import AnyDictionary
from vitlens.features.places import HookPlace, place_of, tokens_in_words
from vitlens.features.training.checkpoints import BetweenSteps, Checkpoints
from vitlens.features.training.cross_layer_learner import CrossLayerLearner
from vitlens.features.training.fills import Fill, Fills, Position, some_pictures
from vitlens.features.training.learner import TRAINING_MEASURES, Learner
from vitlens.features.training.result import TrainedDictionaries, TrainingHistory
from vitlens.features.training.settings import TrainingSettings
from vitlens.features.training.shards import Shards
from vitlens.model.fingerprint import fingerprint
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName, hook_name, resolve_names
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureBatches, PictureSource
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.version import __version__
from vitlens.workers import Stopped, WorkerLost, Workers

LOG = logging.getLogger(__name__)
#: How many points a curve of the history has.
N_POINTS = 200


@leaves_state
@checked
def train(
    model: HookedViT,
    images: PictureSource,
    hook: HookName | Sequence[HookName],
    *,
    hook_out: HookName | None = None,
    cross_layer: bool = False,
    kind: str = "topk",
    k: int = 32,
    expansion: int | float = 8,
    n_features: int | None = None,
    matryoshka: Sequence[int] = (),
    sparsity: int | float | None = None,
    revive: str = "auxk",
    dead_after: int | None = None,
    skip: bool = False,
    tokens: TokenSet = "all",
    n_rows: int = 2_000_000,
    batch_rows: int = 1024,
    buffer_rows: int = 65_536,
    lr: int | float | None = None,
    precision: str = "float32",
    seed: int = 0,
    path: str | Path | None = None,
    shards: str | Path | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> TrainedDictionaries:
    """Trains a sparse autoencoder or a transcoder at one hook point, or one at each of several from the same forwards.

    With cross_layer=True it trains one cross-layer transcoder of several blocks: the features that read in a block write
    into the outputs of this block and all later ones, and all learn from one loss over all outputs.

    Activations stream from the model: only `buffer_rows` of them are in memory at a time. They are standardised for the
    training, and the result is a dictionary of the activations as they are, with decoder rows of length 1.

    Args:
        images: as `stream_activations`. Pictures of a tensor, files or a picture set come in a new order in each pass.
        hook: where it reads, as `stream_activations`; a list, or a shorthand that stands for several ("resid_post"), gives a
            dictionary at each.
        hook_out: what transcoders predict, for example "mlp_out", in the block in which they read. None: they reconstruct
            what they read (sparse autoencoders).
        cross_layer: train a cross-layer transcoder; `hook` are the hook points that it reads, one in each block (for MLPs
            those of `mlp_hooks`), and `hook_out` is "mlp_out" by default.
        kind: "topk", "batchtopk", "jumprelu" or "relu".
        k: how many features are active in a row on average (of "topk": at most this number in each). The penalties of "relu"
            and "jumprelu" are adapted until this holds, unless `sparsity` sets their weight.
        expansion: number of features per dimension of the activation; `n_features` sets the number itself.
        matryoshka: numbers of first features, rising, each of which must reconstruct the activation alone.
        revive: "auxk" (dead features learn the error), "resample" (they are set to what is reconstructed worst) or "none".
        dead_after: rows without activity after which a feature is dead; by default a tenth of n_rows.
        skip: transcoders get a linear connection from input to output.
        tokens: which tokens are rows, see `select_tokens`.
        n_rows: rows (tokens) to train on; the pictures are passed as often as that takes.
        batch_rows: rows of a step.
        lr: highest learning rate of Adam; by default 2e-4 · √(2^14 / n_features). It rises, stays and falls to 0.
        precision: "float32", or "bfloat16" for the forward passes of model and dictionary.
        path: a folder for checkpoints and the result. The same call goes on where a training was stopped, and ends with the
            same bytes.
        shards: a folder that keeps all activations, as safetensors: the first pass over the pictures computes them, later
            passes and other trainings on the same activations read them. Pictures that have numbers only.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.

    Returns:
        TrainedDictionaries: `.sae` is the dictionary, where there is one; a mapping from hook points to dictionaries.

    Raises:
        InputError: no such hook point; a setting that no training can have; a folder of another training; activations or a
            loss that are not finite.
        Stopped: interrupted, or another process was lost; the state is kept in the folder.

    Source: Gao et al. 2024 (TopK, AuxK); Bussmann et al. 2024, 2025 (BatchTopK, Matryoshka); Rajamanoharan et al. 2024
    (JumpReLU); Bricken et al. 2023 (ReLU with L1, resampling); Dunefsky et al. 2024 (transcoders); Ameisen et al. 2025
    (cross-layer transcoders).

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> trained = vitlens.features.train(model, images[:4], "resid_post3", k=8, expansion=2, n_rows=4096)
        >>> trained.sae.encode(model.run_with_cache(images[:1])[1]["resid_post", 3]).shape
        torch.Size([1, 197, 192])
    """
    settings = TrainingSettings(
        kind, k, expansion, n_features, tuple(matryoshka), sparsity, revive, dead_after, skip, cross_layer,
        n_rows, batch_rows, buffer_rows, lr, precision, seed,
    )  # fmt: skip
    pairs = _pairs(model, hook, hook_out, settings)
    workers = Workers(str(model.device))
    settings.check_shares(workers.world_size)
    pictures = PictureBatches(model.to(workers.device), images, batch_size)
    places = list(dict.fromkeys(place for pair in pairs for place in pair))
    fills = Fills(
        model, pictures, places, tokens, buffer_rows=settings.buffer_rows, batch_rows=settings.batch_rows,
        precision=settings.precision, seed=settings.seed, workers=workers,
    )  # fmt: skip
    facts = _facts(model, pairs, tokens, settings, pictures) | {"shards": shards is not None}
    if shards is not None:
        fills.shards = _shards(shards, facts, fills)
    with Checkpoints(path, facts, workers).opened() as checkpoints, torch.enable_grad():
        trained = checkpoints.finished()
        if trained is None:
            run = _Training(pairs, fills, settings, workers, checkpoints)
            run.go(progress if workers.is_main else False)
            trained = run.result(facts)
            checkpoints.finish(trained)
    return trained


class _Training:
    """The loop over steps: learners, their place in the stream, and the history."""

    def __init__(
        self,
        pairs: Sequence[tuple[HookPlace, HookPlace]],
        fills: Fills,
        settings: TrainingSettings,
        workers: Workers,
        checkpoints: Checkpoints,
    ) -> None:
        self.pairs, self.fills, self.settings = pairs, fills, settings
        self.workers, self.checkpoints = workers, checkpoints
        self.learners: Sequence[Learner | CrossLayerLearner] = []
        self.history: list[list[dict[str, float]]] = []
        self.rows_at: list[int] = []
        self.step = 0
        self.position = Position()

    def go(self, progress: bool | None) -> None:
        """Trains to the end, or to the end of the pictures.

        Raises:
            Stopped: interrupted, or another process was lost.
            InputError: the loss is not finite.
        """
        interrupts = BetweenSteps()
        try:
            # Without a folder there is nothing to keep, and Ctrl-C is what it always is.
            with nullcontext() if self.checkpoints.folder is None else interrupts.heard():
                self._steps(progress, interrupts)
        except (KeyboardInterrupt, WorkerLost) as error:
            if self.checkpoints.folder is None:
                raise
            is_whole = isinstance(error, KeyboardInterrupt) and not interrupts.inside
            if is_whole and self.learners:
                self._keep()
            why = "stopped" if isinstance(error, KeyboardInterrupt) else f"a process was lost ({error})"
            raise Stopped(
                f"{why} after {self.step:,} of {self.settings.n_steps:,} steps: {self.checkpoints.in_words}; give the same "
                "call again to go on from there"
            ) from None

    def _steps(self, progress: bool | None, interrupts: BetweenSteps) -> None:
        n_steps, every = self.settings.n_steps, max(1, self.settings.n_steps // N_POINTS)
        state = self.checkpoints.read()
        if state is not None:
            self.step, self.position = state["step"], Position(*state["position"])
        n = 1 if self.settings.cross_layer else len(self.pairs)
        what = f"training {n} {'dictionaries' if n > 1 else 'dictionary'}"
        # The first batch of a fill takes as long as all its forward passes: only a whole fill says what the rest costs.
        n_told = self.settings.buffer_rows
        with ProgressBar(self.settings.n_rows, what, "row", progress, n_steps, n_told=n_told) as bar:
            for fill, batch in self._batches(self.position):
                if not self.learners:
                    self._begin(fill, state)
                    bar.update(self.step * self.settings.batch_rows)
                if self.step >= n_steps:
                    return
                rows = fill.batch(batch)
                with interrupts.wait():
                    for learner in self.learners:
                        learner.step(rows)
                    self.step += 1
                    self.position = Position(fill.position.epoch, fill.position.fill, batch + 1)
                    if self.step % every == 0 or self.step == n_steps:
                        self._note()
                        bar.say(self._in_words())
                bar.update(self.settings.batch_rows)
                if self.checkpoints.is_due:
                    self._keep()
        LOG.warning(
            "the pictures ended after %s of %s steps, before the learning rate had fallen: set n_rows=%s",
            f"{self.step:,}", f"{n_steps:,}", f"{self.step * self.settings.batch_rows}",
        )  # fmt: skip
        if self.step % every:
            self._note()

    def _batches(self, begin: Position) -> Iterator[tuple[Fill, int]]:
        for fill in self.fills.begin(begin):
            is_first = (fill.position.epoch, fill.position.fill) == (begin.epoch, begin.fill)
            for batch in range(begin.batch if is_first else 0, fill.n_batches):
                yield fill, batch

    def _begin(self, fill: Fill, state: dict[str, Any] | None) -> None:
        rows, settings, workers = fill.rows, self.settings, self.workers
        if settings.cross_layer:
            self.learners = [CrossLayerLearner(self.pairs, rows, settings, workers, settings.seed)]
        else:
            self.learners = [
                Learner(source, target, rows, settings, workers, settings.seed + i)
                for i, (source, target) in enumerate(self.pairs)
            ]
        if state is None:
            return
        for learner, kept in zip(self.learners, state["learners"], strict=True):
            learner.load_state(kept)
        self.history, self.rows_at = state["history"], state["rows_at"]
        if state["first_pictures"] != self.fills.first_pictures and fill.position.epoch == state["position"][0]:
            LOG.warning(
                "the source gives its pictures in another order than before it was stopped: the training goes on, and ends "
                "with other numbers than one that was never stopped (a tensor, files or a picture set do not have this)"
            )

    def _note(self) -> None:
        """A point of the history.

        Raises:
            InputError: the loss is not finite, and neither is what is learned any more.
        """
        found = [learner.measures() for learner in self.learners]
        for learner, measures in zip(self.learners, found, strict=True):
            if not isfinite(measures[0]["loss"]):
                raise InputError(
                    f"the loss of {learner.name} is not finite at step {self.step:,}: choose a smaller lr, or "
                    'precision="float32"'
                )
        self.history.append([measures for each in found for measures in each])
        self.rows_at.append(self.step * self.settings.batch_rows)

    def _in_words(self) -> str:
        last = self.history[-1]
        means = {name: sum(found[name] for found in last) / len(last) for name in TRAINING_MEASURES}
        return f"explained {means['explained_variance']:.3f}, L0 {means['l0']:.1f}, dead {means['dead_share']:.1%}"

    def _keep(self) -> None:
        """Writes the state, which must be one that can go on."""
        if not all(isfinite(learner.measures()[0]["loss"]) for learner in self.learners if learner.seen):
            self._note()
        self.checkpoints.write(
            {
                "position": [self.position.epoch, self.position.fill, self.position.batch],
                "first_pictures": self.fills.first_pictures,
                "step": self.step,
                "history": self.history,
                "rows_at": self.rows_at,
                "learners": [learner.state() for learner in self.learners],
            }
        )

    def result(self, facts: dict[str, Any]) -> TrainedDictionaries:
        saes: dict[str, AnyDictionary] = {learner.name: learner.finished() for learner in self.learners}
        for sae in saes.values():
            sae.metadata = {name: value for name, value in facts.items() if name not in ("hooks", "hooks_out")}
        values = torch.tensor(
            [[[found[name] for name in TRAINING_MEASURES] for found in at] for at in self.history], dtype=torch.float64
        ).movedim(0, 1)
        hooks = [source.name for source, _ in self.pairs]
        axes: dict[str, list] = {"hook": hooks, "row": self.rows_at, "measure": list(TRAINING_MEASURES)}
        return TrainedDictionaries(saes, TrainingHistory(values, axes, "value", settings=facts))


def _pairs(
    model: HookedViT, hook: HookName | Sequence[HookName], hook_out: HookName | None, settings: TrainingSettings
) -> list[tuple[HookPlace, HookPlace]]:
    """Where each dictionary reads, and what it predicts."""
    sources = [place_of(model, name) for name in resolve_names(hook, model.hook_dict)]
    if settings.cross_layer:
        blocks = [source.block for source in sources]
        if None in blocks or len(set(blocks)) < len(blocks):
            raise InputError(
                "a cross-layer transcoder reads one hook point in each of its blocks, as mlp_hooks(model) says them, not "
                f"{', '.join(source.name for source in sources)}"
            )
        hook_out = "mlp_out" if hook_out is None else hook_out
    if hook_out is None:
        if settings.skip:
            raise InputError("skip=True goes with a transcoder: name what it predicts with hook_out=")
        return [(source, source) for source in sources]
    pairs = []
    for source in sources:
        named = hook_out
        if len(sources) > 1 or (isinstance(hook_out, str) and hook_out in ("mlp_out", "attn_out")):
            if source.block is None or not isinstance(hook_out, str):
                raise InputError(
                    f'hook_out= names a place in the block of each hook, such as "mlp_out"; {source.name} is in no block'
                )
            named = hook_name(source.block, hook_out)
        pairs.append((source, place_of(model, named)))
    return pairs


def _shards(path: str | Path, facts: dict[str, Any], fills: Fills) -> Shards:
    """The folder of activations, told from others by what they depend on.

    Raises:
        InputError: pictures without numbers; a folder of other activations.
    """
    if fills.n_fills is None:
        raise InputError(
            "shards= needs pictures that have numbers, so that it is known which are there: pass a tensor, files or a "
            "picture set, or leave shards= out"
        )
    of_rows = ("model", "weights", "preprocessing", "tokens", "n_pictures", "pictures")
    about = {name: facts[name] for name in of_rows}
    about |= {name: facts["training"][name] for name in ("precision", "buffer_rows")}
    return Shards(path, about, [place.name for place in fills.places], fills.n_fills, fills.workers)


def _facts(
    model: HookedViT,
    pairs: Sequence[tuple[HookPlace, HookPlace]],
    tokens: TokenSet,
    settings: TrainingSettings,
    pictures: PictureBatches,
) -> dict[str, Any]:
    """What a training is described by: where one of these differs, it is another one."""
    return {
        "model": model.cfg.model_name,
        "weights": fingerprint(model),
        "hooks": [source.name for source, _ in pairs],
        "hooks_out": [target.name for _, target in pairs],
        "preprocessing": model.cfg.data_config,
        "tokens": tokens_in_words(tokens),
        "n_pictures": pictures.n_pictures,
        "pictures": some_pictures(pictures),
        "training": settings.facts(),
        "vitlens": __version__,
    }
