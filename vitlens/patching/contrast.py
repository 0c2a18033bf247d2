"""Two runs to compare: the one that is patched into, the one that activations come from, and the metrics of both."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.choose.classes import Classes
from vitlens.choose.metrics import Measures, Metrics, choose_metrics
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.gradients import outside_inference
from vitlens.model.runs.small_pictures import small_pictures
from vitlens.patching.interventions import Intervention, known_values, logits_of, make_result


@dataclass(frozen=True, repr=False, kw_only=True)
class Patching(Intervention):
    """The effect of patching each cell, picture by picture: how far the metric moved from target (0) to source (1).

    `patched` is the metric of the patched runs; `target` and `source` [image] that of the run that was patched into and of
    the one the activations came from. Denoising patches clean activations into the corrupted run, noising the reverse.
    `settings["method"]` is "exact" where every cell was run, else the name of the estimate.
    """

    source: Float[Tensor, "*metric image"]

    def gap(self) -> Float[Tensor, "... image"]:
        """What an effect of 1 is: how far the source's metric is from the target's."""
        return self.over_cells(self.source - self.target)


@dataclass(frozen=True)
class Contrast:
    """The pictures of both runs, and the metrics of each."""

    source: Float[Tensor, "image channels height width"]
    target: Float[Tensor, "image channels height width"]
    measures: Measures
    asked: Metrics
    of_source: Float[Tensor, "metric image"]
    of_target: Float[Tensor, "metric image"]
    direction: str

    @classmethod
    def make(
        cls,
        model: HookedViT,
        clean: Pictures,
        corrupted: Pictures,
        metric: Metrics,
        direction: str,
        classes: Classes,
        baseline_classes: Classes,
    ) -> "Contrast":
        """
        Raises:
            InputError: pairs of different shape, an unknown direction or metric, a metric that does not differ.
        """
        if direction not in ("denoise", "noise"):
            raise InputError(f'direction is "denoise" or "noise", not {direction!r}')
        model.require_classifier()
        # Estimates take gradients, of which pictures made under inference_mode know nothing.
        clean, corrupted = (outside_inference(pictures) for pictures in model.as_pair(clean, corrupted))
        clean_logits, corrupted_logits = logits_of(model, clean), logits_of(model, corrupted)
        metrics = choose_metrics(model, metric, clean_logits, corrupted_logits, classes, baseline_classes)
        runs = [(clean, clean_logits, "the clean pictures"), (corrupted, corrupted_logits, "the corrupted pictures")]
        source, target = runs if direction == "denoise" else runs[::-1]
        measures = Measures(metrics, target[1])
        of_source, of_target = measures(*source[1:]), measures(*target[1:])
        for name, gap in zip(metrics, of_source - of_target, strict=True):
            _check_gap(name, gap)
        return cls(source[0], target[0], measures, metric, of_source, of_target, direction)

    @property
    def clean(self) -> Float[Tensor, "image channels height width"]:
        return self.source if self.direction == "denoise" else self.target

    def known(self, resume: Patching | None, cells: dict[str, list], settings: dict[str, Any]) -> Tensor | None:
        """What a partial result of the same sweep has already.

        Raises:
            InputError: it is the result of another sweep.
        """
        known = known_values(resume, cells, self.measures, settings, self.of_target)
        if resume is not None and not torch.allclose(
            resume.source.flatten().to(self.of_source), self.of_source.flatten(), rtol=1e-4, atol=1e-5
        ):
            raise InputError(
                "the result to resume is of another sweep (pictures to patch from differ): leave resume= out"
            )
        return known

    def result(
        self, model: HookedViT, cells: dict[str, list], patched: Float[Tensor, "metric ..."], settings: dict[str, Any]
    ) -> Patching:
        """The result, its cells' axes given, those of metrics and pictures added."""
        return make_result(
            Patching,
            cells,
            patched,
            self.measures,
            self.asked,
            {"target": self.of_target, "source": self.of_source},
            quantity="effect",
            settings=settings,
            grid=model.embed.grid(*self.target.shape[-2:]),
            pixels=small_pictures(model, self.clean),
        )

    def settings(self, model: HookedViT, site: str | list[str], method: str) -> dict[str, Any]:
        return {"model": model.cfg.model_name, "site": site, "direction": self.direction, "method": method}


def _check_gap(name: str, gap: Float[Tensor, "image"]) -> None:
    """Raises InputError where the metric does not tell clean from corrupted: every effect is a share of that difference."""
    same = (gap == 0).nonzero()[:, 0].tolist()
    if len(same) == len(gap):
        raise InputError(
            f"the metric {name} is the same on the clean and the corrupted pictures, so there is no effect to trace"
        )
    if same:
        raise InputError(
            f"the metric {name} is the same on the clean and the corrupted picture of pair {same[0]}, so that pair has no "
            "effect to trace: leave it out"
        )
    if gap.mean() == 0:
        raise InputError(
            f"the differences of the metric {name} between clean and corrupted pictures cancel: pass pairs in one direction"
        )
