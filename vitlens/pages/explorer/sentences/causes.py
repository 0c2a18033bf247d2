"""What the removal of single heads, MLPs and patches does to the class, and where that disagrees with what they write."""

from collections.abc import Callable

import numpy as np

from vitlens.pages.explorer.sentences.subject import Part, Subject
from vitlens.pages.explorer.sentences.words import WORTH_SAYING, Sentence, listed, percent, quoted, signed

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
    told: list[tuple[str, str | None]] = []
    if _is_needed(subject, worst):
        told.append((f"Without {worst.name} {_left(subject, worst)}", "head"))
    else:
        told.append((f"No single head is needed: {_least(subject, heads, 'any one of the')}", "cause"))
    if _is_needed(subject, worst_mlp):
        told.append((f"; without {worst_mlp.name} {_left(subject, worst_mlp)}", "cause"))
    told.append((f"; {_of_patches(subject)}", "picture:without"))
    disagreement = _disagreement(heads)
    if disagreement is not None:
        told.append((f". {disagreement}", "cause"))
    return Sentence("cause", [*told, (".", None)])


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


def _least(subject: Subject, heads: list[Part], of: str) -> str:
    kept = [part.kept for part in heads if part.kept is not None]
    if not kept or subject.rank:
        return f"without {of} {len(heads)} its logit loses at most {max(part.cost for part in heads):.2f}"
    return f"without {of} {len(heads)} it keeps at least {percent(min(kept))}"


def _of_patches(subject: Subject) -> str:
    """The patch, or box of patches, whose removal costs most."""
    box, costs = subject.measured.facts["effects"]["box"], subject.costs[: subject.n_patches]
    kept = subject.kept[: subject.n_patches]
    by_logit = subject.rank > 0 or len(subject.tensors["answer_logits"]) < 2
    worst = int(costs.argmax() if by_logit else kept.argmin())
    row, column = divmod(worst, subject.grid[1])
    name = f"patch ({row}, {column})" if box == 1 else f"the {box} × {box} patches at ({row}, {column})"
    if by_logit:
        return f"without {name} its logit changes by {signed(-costs[worst])}"
    if kept[worst] >= NEEDED * subject.probability:
        return f"no single patch is needed: without any it keeps at least {percent(kept[worst])}"
    return f"without {name} alone it goes to {percent(kept[worst])}"


def _disagreement(heads: list[Part]) -> str | None:
    """The heads that write much and whose removal costs little, or those that cost much and write little: whichever kind is
    farther off."""
    most_direct, most_cost = max(abs(part.direct) for part in heads), max(abs(part.cost) for part in heads)
    much, dear = max(LITTLE * most_direct, WORTH_SAYING), max(LITTLE * most_cost, WORTH_SAYING)
    backed = [part for part in heads if part.direct >= much and part.cost < LITTLE * part.direct]
    indirect = [part for part in heads if part.cost >= dear and abs(part.direct) < LITTLE * part.cost]
    if not backed and not indirect:
        return None
    found = max(backed, indirect, key=lambda parts: max(map(_gap, parts), default=0))
    named = sorted(found, key=_gap, reverse=True)[:MOST_NAMED]
    several = len(named) > 1
    names = listed([f"{part.name} (writes {signed(part.direct)}, without it {signed(-part.cost)})" for part in named])
    if found is backed:
        return f"{names}: later parts make up for {'them' if several else 'it'}"
    return f"{names} {'act' if several else 'acts'} through later parts"


def _gap(part: Part) -> float:
    return abs(part.direct - part.cost)
