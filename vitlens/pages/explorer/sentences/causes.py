"""What the removal of single heads, MLPs and patches does to the class, and where that disagrees with what they write."""

from collections.abc import Callable

import numpy as np

from vitlens.pages.explorer.sentences.subject import Part, Subject
from vitlens.pages.explorer.sentences.words import (
    WORTH_SAYING,
    Sentence,
    Told,
    at_least,
    listed,
    percent,
    quoted,
    signed,
)

#: Where every removal leaves at least this share of the probability, no single part is needed.
NEEDED = 0.9
#: A cost of less than this share of what is written directly is little; so is what is written beside the cost.
LITTLE = 0.25
MOST_NAMED = 2


def cause(subject: Subject) -> Sentence | None:
    """The removal of the head, MLP and patch that costs most, and the heads whose cost is not what they write."""
    if "effect_logits" not in subject.tensors or "heads" not in subject.tensors:
        return None
    heads, mlps = ([part for part in subject.parts if part.is_head is kind] for kind in (True, False))
    worst, worst_mlp = max(heads, key=_harm(subject)), max(mlps, key=_harm(subject))
    told: list[Told] = [("Without ", None), (worst.name, "cause"), (f" {_left(subject, worst)}", None)]
    if not _is_needed(subject, worst):
        told = [("No single head is needed", "cause"), (f": {_least(subject, heads)}", None)]
    if _is_needed(subject, worst_mlp):
        told += [("; without ", None), (worst_mlp.name, "cause"), (f" {_left(subject, worst_mlp)}", None)]
    told += [("; ", None), *_of_patches(subject), (".", None), *_disagreement(heads)]
    return Sentence("cause", told)


def _harm(subject: Subject) -> Callable[[Part], float]:
    """What a removal does: to the probability of the answer, where it is known, else to the logit."""
    by_probability = (
        subject.rank == 0 and not np.isnan(subject.kept).any() and len(subject.tensors["answer_logits"]) > 1
    )
    return lambda part: -part.kept if by_probability and part.kept is not None else part.cost


def _is_needed(subject: Subject, part: Part) -> bool:
    if part.kept is None or subject.rank:
        return part.cost >= WORTH_SAYING
    return part.top != subject.index or part.kept < NEEDED * subject.probability


def _left(subject: Subject, part: Part) -> str:
    """What is left of the class without a part."""
    if part.kept is None or len(subject.tensors["answer_logits"]) < 2 or subject.rank:
        return f"its logit changes by {signed(-part.cost)}{'' if part.kept is not None else ' (estimated)'}"
    if part.top != subject.index:
        return f"it goes to {percent(part.kept)} and {quoted(subject.name_of(part.top or 0))} leads"
    return f"it goes from {percent(subject.probability)} to {percent(part.kept)}"


def _least(subject: Subject, heads: list[Part]) -> str:
    kept = [part.kept for part in heads if part.kept is not None]
    if not kept or subject.rank:
        return f"without any one of the {len(heads)} its logit loses at most {max(part.cost for part in heads):.2f}"
    return f"without any one of the {len(heads)} it keeps {at_least(min(kept))}"


def _of_patches(subject: Subject) -> list[Told]:
    """The patch, or box of patches, whose removal costs most."""
    box, costs = subject.measured.facts["effects"]["box"], subject.costs[: subject.n_patches]
    kept = subject.kept[: subject.n_patches]
    by_logit = subject.rank > 0 or len(subject.tensors["answer_logits"]) < 2
    worst = int(costs.argmax() if by_logit else kept.argmin())
    row, column = (place - place % box for place in divmod(worst, subject.grid[1]))
    name = f"patch ({row}, {column})" if box == 1 else f"the {box} × {box} patches from ({row}, {column}) on"
    if not by_logit and kept[worst] >= NEEDED * subject.probability:
        none = ("no single patch is needed", "picture:without")
        return [none, (f": without any it keeps {at_least(kept[worst])}", None)]
    left = f"its logit changes by {signed(-costs[worst])}" if by_logit else f"it goes to {percent(kept[worst])}"
    return [("without ", None), (name, "picture:without"), (f" alone {left}", None)]


def _disagreement(heads: list[Part]) -> list[Told]:
    """The heads that write much and whose removal costs little, or those that cost much and write little: whichever kind is
    farther off."""
    most_direct, most_cost = max(abs(part.direct) for part in heads), max(abs(part.cost) for part in heads)
    much, dear = max(LITTLE * most_direct, WORTH_SAYING), max(LITTLE * most_cost, WORTH_SAYING)
    backed = [part for part in heads if part.direct >= much and part.cost < LITTLE * part.direct]
    indirect = [part for part in heads if part.cost >= dear and abs(part.direct) < LITTLE * part.cost]
    if not backed and not indirect:
        return []
    found = max(backed, indirect, key=lambda parts: max(map(_gap, parts), default=0))
    named = sorted(found, key=_gap, reverse=True)[:MOST_NAMED]
    several = len(named) > 1
    names = listed([f"{part.name} (writes {signed(part.direct)}, without it {signed(-part.cost)})" for part in named])
    why = "act through later parts" if several else "acts through later parts"
    if found is backed:
        why = f"may be backed up: later parts make up for {'them' if several else 'it'}"
    return [(f" {names} ", None), (why, "cause"), (".", None)]


def _gap(part: Part) -> float:
    return abs(part.direct - part.cost)
