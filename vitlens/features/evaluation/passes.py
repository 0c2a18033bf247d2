"""The two passes over the pictures: what must be known first, and the measures of all dictionaries."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import repeat

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.errors import InputError
from vitlens.features.evaluation.absorption import absorption
from vitlens.features.evaluation.baselines import made_of
from vitlens.features.evaluation.downstream import Answers, labels_of
from vitlens.features.evaluation.entrants import CodedPictures, Entrant, rows_of
from vitlens.features.evaluation.estimates import Estimate
from vitlens.features.evaluation.image_codes import LabelledCodes
from vitlens.features.evaluation.judge import Judge
from vitlens.features.evaluation.metrics import WantedMeasures
from vitlens.features.evaluation.probing import sparse_probing, why_no_probes
from vitlens.features.evaluation.reconstruction import TargetMeans
from vitlens.features.evaluation.row_summary import RowSummary
from vitlens.features.placed import place_dictionary
from vitlens.features.places import place_of, read_places
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.picture_batches import ImageBatch, PictureBatches

MeasuresByName = dict[str, dict[str, Estimate]]


class Passes:
    """The dictionaries, the first of which is the one that was asked for, and what was found of them so far."""

    def __init__(self, batches: PictureBatches, entrants: list[Entrant], wanted: WantedMeasures, seed: int) -> None:
        self.batches, self.entrants, self.wanted, self.seed = batches, entrants, wanted, seed
        self.main = entrants[0]
        self.means: dict[str, TargetMeans] = {}
        self.judges: dict[str, Judge] = {}
        self.answers: Answers | None = None
        self.widths: Sequence[int] = ()
        self.n_pictures = 0

    def prepare(self, baselines: Sequence[str], progress: bool | None) -> None:
        """The first pass: mean rows of each model, and the baselines, which follow the dictionary as entrants.

        Raises:
            InputError: there are no pictures.
        """
        first = [one for one in self.entrants if one is self.main or one.model is not self.main.model]
        self.means = {one.name: TargetMeans(one) for one in first}
        summary = RowSummary(self.seed) if len(baselines) else None
        for batch in self.batches.with_bar("means", progress):
            for entrant, coded in self._coded(first, batch):
                self.means[entrant.name].add(coded)
                if entrant is self.main:
                    self.widths = coded.widths
                if entrant is self.main and summary is not None:
                    summary.add(coded)
        if not self.means[self.main.name].of_kind["all"].n_rows:
            raise InputError("there are no pictures to evaluate the dictionary on")
        if summary is not None:
            made = made_of(summary, self.main, baselines, self.seed)
            placed = self.main.placed
            self.entrants[1:1] = [
                Entrant(name, place_dictionary(placed.model, None, sae, tokens=placed.tokens))
                for name, sae in made.items()
            ]

    def measure(
        self, labels: Int[Tensor, "image"] | None, other: tuple[HookedViT, PictureBatches] | None, progress: bool | None
    ) -> None:
        """The second pass.

        Raises:
            InputError: another number of labels than pictures.
        """
        mean = self.means[self.main.name]
        self.judges = {one.name: Judge(one, self.means.get(one.name, mean), self.wanted) for one in self.entrants}
        if "downstream" in self.wanted:
            own = [one for one in self.entrants if one.model is self.main.model]
            self.answers = Answers(own, mean.mean, self.widths)
        seen_by_other = repeat(None) if other is None else _embedded(*other)
        for batch, vectors in zip(self.batches.with_bar("measures", progress), seen_by_other, strict=False):
            classes = labels_of(labels, self.n_pictures, len(batch.images), batch.labels)
            self.n_pictures += len(batch.images)
            for entrant, coded in self._coded(self.entrants, batch, classes, _of_batch(vectors, batch)):
                self.judges[entrant.name].add(coded)
            if self.answers is not None:
                self.answers.add(batch.images, classes)
        if labels is not None and len(labels) != self.n_pictures:
            raise InputError(f"there are {len(labels)} labels for {self.n_pictures} pictures")

    def estimates(self, groups: Mapping[str, Sequence[int]]) -> MeasuresByName:
        """The measures of each dictionary, by its name."""
        found = {name: judge.estimates() for name, judge in self.judges.items()}
        self._note_what_is_left_out()
        if self.answers is not None:
            self.wanted.left_out += self.answers.left_out()
            for name in self.answers.names:
                found[name] |= self.answers.estimates(name)
        samples = self._samples()
        if "probing" in self.wanted and samples:
            least = min(sample.codes.shape[1] for sample in samples.values())
            for name, sample in samples.items():
                found[name] |= sparse_probing(sample, n_features=least, seed=self.seed)
        if "absorption" in self.wanted and samples:
            for name, sample in samples.items():
                found[name] |= absorption(sample, groups, seed=self.seed)
            if "absorption" not in found[self.main.name]:
                self.wanted.give_up("absorption", "absorption: no group has 3 classes with 3 pictures each, 10 in all")
        return found

    def _samples(self) -> dict[str, LabelledCodes]:
        """The labelled codes of each dictionary; empty where there are none that probes could learn from."""
        asked = [name for name in ("probing", "absorption") if name in self.wanted]
        samples = {name: judge.sample for name, judge in self.judges.items() if judge.sample is not None}
        if not samples or not asked:
            return {}
        if not samples[self.main.name].kept:
            for name in asked:
                self.wanted.give_up(name, f"{name} needs labels")
            return {}
        gathered = {name: sample.gathered() for name, sample in samples.items()}
        reason = why_no_probes(gathered[self.main.name].labels)
        if reason is not None and "probing" in self.wanted:
            self.wanted.give_up("probing", f"probing: {reason}")
        return gathered

    def _note_what_is_left_out(self) -> None:
        """Refuses or notes what could not be measured of the dictionary, and of which others nothing is found."""
        judge = self.judges[self.main.name]
        self.wanted.left_out += judge.reconstruction.left_out()
        if judge.locality is not None:
            self.wanted.leave_out("locality", judge.locality.left_out())
        if judge.monosemanticity is not None and not judge.monosemanticity.estimates():
            why = "monosemanticity needs other_model= or labels, and a feature that is on in two pictures"
            self.wanted.leave_out("monosemanticity", [why])

    def _coded(
        self,
        entrants: Sequence[Entrant],
        batch: ImageBatch,
        labels: Int[Tensor, "image"] | None = None,
        embeddings: Float[Tensor, "image e"] | None = None,
    ) -> Iterator[tuple[Entrant, CodedPictures]]:
        """What each dictionary makes of a batch, part by part."""
        found = rows_of(entrants, batch.images)
        for entrant in entrants:
            grid, start = entrant.model.embed.grid(*batch.images.shape[-2:]), 0
            for coded in entrant.code(found[id(entrant.model)], grid):
                some = slice(start, start := start + len(coded.features))
                yield (
                    entrant,
                    replace(
                        coded,
                        labels=None if labels is None else labels[some],
                        embeddings=None if embeddings is None else embeddings[some],
                    ),
                )


def _embedded(
    model: HookedViT, batches: PictureBatches
) -> Iterator[tuple[Int[Tensor, "image"], Float[Tensor, "image e"]]]:
    """The pooled output of a model, with the numbers of the pictures."""
    place = place_of(model, "hook_pooled")
    for batch in batches:
        yield batch.ids, read_places(model, batch.images, [place])[place.name].flatten(1)


def _of_batch(
    vectors: tuple[Int[Tensor, "image"], Float[Tensor, "image e"]] | None, batch: ImageBatch
) -> Float[Tensor, "image e"] | None:
    """The vectors of these pictures.

    Raises:
        InputError: they are of other pictures.
    """
    if vectors is None:
        return None
    if not torch.equal(vectors[0], batch.ids):
        raise InputError(
            "other_model= does not get the same pictures from images=: pass a list, files or a picture set"
        )
    return vectors[1]
