"""What edits do to the answers: accuracy in each group of pictures, and how far all outputs move."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.arguments import checked, short
from vitlens.editing.groups import GroupInput, Groups
from vitlens.editing.labelled import LabelledPictures, read_clusters
from vitlens.errors import InputError
from vitlens.model.class_space.outputs import WITH_PROBABILITIES, is_predicted, kl_divergence, largest_other
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Hooks, Reader, block_and_site
from vitlens.model.provenance import page_facts
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureSource
from vitlens.model.runs.small_pictures import small_pictures
from vitlens.model.runs.suffix import forward_suffix
from vitlens.results.frames import Frame
from vitlens.results.result import MOST_KEPT, Result
from vitlens.statistics import bootstrap

UNEDITED = "unedited"


@runtime_checkable
class HasHooks(Protocol):
    """What can be evaluated: an `Edit`, or anything else with hooks of a model."""

    @property
    def hooks(self) -> Hooks: ...


@dataclass(frozen=True, repr=False)
class EditEvaluation(Result):
    """`values` [edit, image]: 1 where the model with the edit predicts the label, 0 where it does not.

    `kl` [edit, image] is the KL divergence of the edited model's answer from the unedited one's (of outputs without
    probabilities the sum of squared differences); `margins` [edit, image] the label's logit minus the largest other one;
    `changes` [edit, group, class] the mean change of each logit. The first edit is "unedited". `of_image` says the group of
    each picture, a place in `groups`.
    """

    kl: Float[Tensor, "edit image"]
    margins: Float[Tensor, "edit image"]
    changes: Float[Tensor, "edit group class"]
    groups: list[str]
    of_image: Int[Tensor, "image"]
    clusters: Int[Tensor, "image"] | None = None

    def columns(self) -> dict[str, Tensor]:
        return {**super().columns(), "kl": self.kl, "margin": self.margins}

    def accuracies(self) -> Float[Tensor, "edit group"]:
        """The share of right predictions in each group."""
        return torch.stack(
            [self.values[:, self.of_image == i].double().mean(dim=1) for i in range(len(self.groups))], dim=1
        )

    def worst(self) -> Float[Tensor, "edit"]:
        """The accuracy in the group where it is lowest, of each edit."""
        return self.accuracies().amin(dim=1)

    def largest_losses(self, level: float = 0.95, n_draws: int = 1000, seed: int = 0) -> Float[Tensor, "edit"]:
        """How much accuracy each edit may cost a group, but for the one that was worst: the upper end of the interval of the
        loss, in the group where that is largest.
        """
        worst = int(self.accuracies()[0].argmin())
        ends = []
        for i in range(len(self.groups)):
            if i != worst:
                where = self.of_image == i
                right = self.values[:, where].double().T.numpy()
                clusters = None if self.clusters is None else self.clusters[where].numpy()
                about: dict[str, Any] = {"level": level, "n_draws": n_draws, "seed": seed}
                _, low, _ = bootstrap(right - right[:, :1], clusters=clusters, **about)
                ends.append(torch.from_numpy(-low))
        return torch.stack(ends).amax(dim=0)

    def table(self, level: float = 0.95, n_draws: int = 1000, seed: int = 0) -> pd.DataFrame:
        """For each edit and group: accuracy and its change against the unedited model, with intervals; KL; margin.

        The intervals are by the bootstrap over pictures (of `clusters`, over clusters). The change is of the same pictures,
        so its interval is narrower than those of the two accuracies. "worst" is the group of the lowest accuracy of an edit.
        """
        rows = []
        accuracies = self.accuracies()
        for i, group in enumerate(self.groups):
            where = self.of_image == i
            about: dict[str, Any] = {"level": level, "n_draws": n_draws, "seed": seed}
            if self.clusters is not None:
                about["clusters"] = self.clusters[where].numpy()
            right = self.values[:, where].double().T.numpy()
            shares = bootstrap(right, **about)
            moved = bootstrap(right - right[:, :1], **about)
            for j, name in enumerate(self.axes["edit"]):
                rows.append(
                    {
                        "edit": name,
                        "group": group,
                        **dict(zip(("accuracy", "low", "high"), (part[j] for part in shares), strict=True)),
                        **dict(zip(("change", "change_low", "change_high"), (part[j] for part in moved), strict=True)),
                        "margin": float(self.margins[j, where].double().mean()),
                        "kl": float(self.kl[j, where].double().mean()),
                        "worst": bool(accuracies[j, i] == accuracies[j].amin()),
                        "n": int(where.sum()),
                    }
                )
        order = {name: place for place, name in enumerate(self.axes["edit"])}
        return Frame(rows).sort_values("edit", key=lambda names: names.map(order), kind="stable", ignore_index=True)


@leaves_state
@torch.no_grad()
@checked
def evaluate_edits(
    model: HookedViT,
    images: PictureSource,
    labels: Any = None,
    groups: GroupInput | Groups | None = None,
    *,
    edits: Mapping[str, HasHooks],
    clusters: Any = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> EditEvaluation:
    """Evaluates edits on labelled pictures in groups; each picture runs once up to the first block that an edit changes.

    Args:
        labels, groups: the true class and the group of each picture; None for those of a picture set.
        edits: by name; an `Edit`, or anything with `hooks`. The model without an edit always comes first.
        clusters: a number for each picture; of the same object the same one. Intervals draw whole clusters.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        EditEvaluation with axes edit, image.

    Raises:
        InputError: labels or groups for another number of pictures; no edits; a model that predicts no class.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> edits = {"without L2H1": vitlens.edit(model, "L2H1")}
        >>> groups = ["agreeing", "conflicting"] * 50
        >>> found = vitlens.editing.evaluate_edits(model, images, labels, groups, edits=edits)
        >>> found.axes["edit"], found.groups, found.accuracies().shape
        (['unedited', 'without L2H1'], ['agreeing', 'conflicting'], torch.Size([2, 2]))
    """
    model.require_prediction()
    check_edits(model, edits)
    pictures = LabelledPictures(model, images, labels, batch_size)
    found = pictures.read_groups(groups)
    together = read_clusters(clusters, len(pictures))
    runs = [_Run.of(model, edit) for edit in edits.values()]
    parts: list[tuple[Tensor, ...]] = []
    pixels = None
    for ids, batch, truth in pictures.batches("edits", progress):
        pixels = small_pictures(model, batch[:MOST_KEPT]) if pixels is None else pixels
        logits = torch.stack(list(_logits(model, batch, runs)))
        moved = (logits - logits[0]).double()
        parts.append((ids, *_scores(model, logits, truth), moved.cpu()))
    ids = torch.cat([part[0] for part in parts])
    right, margins, kl, moved = (torch.cat([part[i] for part in parts], dim=1) for i in range(1, 5))
    of_image = found.of_image[ids]
    changes = torch.stack([moved[:, of_image == i].mean(dim=1) for i in range(len(found.names))], dim=1)
    return EditEvaluation(
        right,
        {"edit": [UNEDITED, *edits], "image": ids.tolist()},
        "correct",
        kl,
        margins,
        changes,
        found.names,
        of_image,
        None if together is None else torch.from_numpy(together)[ids],
        class_names=model.class_names,
        pixels=pixels,
        settings={
            "model": model.cfg.model_name,
            "output": model.cfg.output,
            "provenance": page_facts(model),
            "warning": model.provenance.warning,
            "call": model.provenance.call,
            "edits": {name: repr(edit) for name, edit in edits.items()},
        },
    )


def check_edits(model: HookedViT, edits: Any) -> None:
    """Raises InputError for what is no mapping from names to edits of this model."""
    if not isinstance(edits, Mapping) or not edits or UNEDITED in edits:
        raise InputError(
            f'edits= is a dictionary from names to at least one edit, none of them called "{UNEDITED}", which is the first '
            f"by itself, not {short(edits)}"
        )
    for name, made in edits.items():
        if not isinstance(made, HasHooks):
            raise InputError(f"the edit {name!r} is one that vitlens.edit made, or has hooks as it, not {short(made)}")
        missing = next((hook for hook, _ in made.hooks if hook not in model.hook_dict), None)
        if missing is not None:
            raise InputError(
                f"the edit {name!r} is of another model: {model.cfg.model_name} has no hook point {missing}"
            )


@dataclass(frozen=True)
class _Run:
    """The hooks of an edit, and the first block that they change: the run goes on from there; None: from the pictures."""

    hooks: Hooks
    first: int | None

    @classmethod
    def of(cls, model: HookedViT, edit: HasHooks) -> "_Run":
        hooks = edit.hooks
        names = [str(name) for name, _ in hooks]
        places = [_first_block(model, name) for name in names]
        first = None if not names or None in places else min(place for place in places if place is not None)
        return cls(hooks, first)


def _first_block(model: HookedViT, hook: str) -> int | None:
    """The block from which a run with a hook there can begin; None where it begins with the pictures."""
    place = block_and_site(hook)
    if place is not None:
        return place[0]
    return (
        None if hook in ("hook_patch_embed", "hook_embed", "hook_pos_embed", "hook_embed_norm") else model.cfg.n_layers
    )


def _logits(model: HookedViT, images: Tensor, runs: Sequence[_Run]) -> Iterator[Float[Tensor, "image class"]]:
    """The logits without an edit, and with each; every stream that a run begins with is computed once."""
    n_blocks = model.cfg.n_layers
    # Where a run begins: the stream that enters a block, or leaves the last.
    hook_of = {block: f"blocks.{block}.hook_resid_pre" for block in range(n_blocks)}
    hook_of[n_blocks] = f"blocks.{n_blocks - 1}.hook_resid_post"
    streams: dict[str, Tensor] = {}
    names = sorted({hook_of[run.first] for run in runs if run.first is not None})
    with model.hooks([(name, Reader(lambda stream, hook: streams.update({str(hook.name): stream}))) for name in names]):
        yield model(images)
    for run in runs:
        with model.hooks(run.hooks):
            if run.first is None:
                yield model(images)
            else:
                yield forward_suffix(model, streams[hook_of[run.first]], run.first, whole=True)


def _scores(
    model: HookedViT, logits: Float[Tensor, "edit image class"], labels: Int[Tensor, "image"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Whether each prediction is right, the label's margin, and how far the answer is from the unedited one."""
    output = model.cfg.output
    wide = logits.double()
    truth = labels.expand(len(wide), -1)
    right = is_predicted(wide, truth, output).float()
    own = wide.gather(-1, truth[..., None])[..., 0]
    if output == "sigmoid":
        margins = own
    else:
        margins = own - largest_other(wide, truth).values
    if output in WITH_PROBABILITIES:
        moved = kl_divergence(wide[:1].expand_as(wide), wide, output)
    else:
        moved = (wide - wide[:1]).square().sum(dim=-1)
    return right.cpu(), margins.float().cpu(), moved.float().cpu()
