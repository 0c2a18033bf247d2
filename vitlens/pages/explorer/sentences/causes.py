"""What the removal of single heads, MLPs and patches does to the class, and where that disagrees with what they write."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vitlens.pages.explorer.sentences.subject import Part, Subject
from vitlens.pages.explorer.sentences.words import (
    WORTH_SAYING,
    Sentence,
    Told,
    at_least,
    percent,
    quoted,
    signed,
)

#: Where every removal leaves at least this share of the probability, no single part is needed.
NEEDED = 0.9
#: A cost of less than this share of what is written directly is little; so is what is written beside the cost.
LITTLE = 0.25
MOST_NAMED = 2
GOES, CHANGES = " it goes", " its logit changes"


@dataclass(frozen=True)
class Clause:
    """Without a part, this is left: the words before, the verb, which is said once where it stays the same, and the rest."""

    told: list[Told]
    verb: str
    rest: str


def cause(subject: Subject) -> Sentence | None:
    """The removal of the head that writes most, of the head, MLP and patch that cost most, and where the two disagree."""
    if "effect_logits" not in subject.tensors or "heads" not in subject.tensors:
        return None
    heads, mlps = ([part for part in subject.parts if part.is_head is kind] for kind in (True, False))
    worst_mlp = max(mlps, key=_harm(subject))
    clauses = _of_heads(subject, heads)
    if _is_needed(subject, worst_mlp):
        clauses.append(_without(subject, worst_mlp, ""))
    return Sentence("cause", [*_joined([*clauses, _of_patches(subject)]), *_disagreement(heads)])


def _joined(clauses: list[Clause]) -> list[Told]:
    """It goes to 33 %; without this, to 10 %."""
    said = ""
    parts: list[Told] = []
    for i, clause in enumerate(clauses):
        first, *rest = clause.told
        start = first._replace(text=first.text[0].upper() + first.text[1:]) if i == 0 else first
        # After "which costs most," the comma is there already.
        pause = "" if rest and rest[-1].text.endswith(",") else ","
        parts += [start, *rest, Told(f"{pause if clause.verb == said else clause.verb} {clause.rest}")]
        said = clause.verb
        parts.append(Told("." if i == len(clauses) - 1 else "; "))
    return parts


def _of_heads(subject: Subject, heads: list[Part]) -> list[Clause]:
    worst, writer = max(heads, key=_harm(subject)), max(heads, key=lambda part: part.direct)
    if not _is_needed(subject, worst):
        return [Clause([Told("no single head is needed", "cause")], ":", _least(subject, heads))]
    if writer is worst:
        return [_without(subject, worst, "writes")]
    written = [_without(subject, writer, "writes")] if writer.direct >= WORTH_SAYING else []
    return [*written, _without(subject, worst, "costs")]


def _without(subject: Subject, part: Part, most: str) -> Clause:
    """What is left of the class without a part, which may be the one that writes or costs most."""
    which = f", which {most} most," if most else ""
    told = [Told("without "), Told(part.name, "cause", part.choose), *([Told(which)] if most else [])]
    if part.kept is None or len(subject.tensors["answer_logits"]) < 2 or subject.rank:
        return Clause(told, CHANGES, f"by {signed(-part.cost)}{'' if part.kept is not None else ' (estimated)'}")
    other = f" and {quoted(subject.name_of(part.top or 0))} leads" if part.top != subject.index else ""
    return Clause(told, GOES, f"to {percent(part.kept)}{other}")


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


def _least(subject: Subject, heads: list[Part]) -> str:
    kept = [part.kept for part in heads if part.kept is not None]
    if not kept or subject.rank or len(subject.tensors["answer_logits"]) < 2:
        return f"without any one of the {len(heads)} its logit loses at most {max(part.cost for part in heads):.2f}"
    return f"without any one of the {len(heads)} it keeps {at_least(min(kept))}"


def _of_patches(subject: Subject) -> Clause:
    """The patch, or box of patches, whose removal costs most."""
    box, costs = subject.measured.facts["effects"]["box"], subject.costs[: subject.n_patches]
    kept = subject.kept[: subject.n_patches]
    by_logit = subject.rank > 0 or len(subject.tensors["answer_logits"]) < 2
    worst = int(costs.argmax() if by_logit else kept.argmin())
    row, column = (place - place % box for place in divmod(worst, subject.grid[1]))
    name = f"patch ({row}, {column})" if box == 1 else f"the {box} × {box} patches from ({row}, {column}) on"
    if not by_logit and kept[worst] >= NEEDED * subject.probability:
        none = Told("no single patch is needed", "picture:without", {"layer": "without"})
        return Clause([none], ":", f"without any it keeps {at_least(kept[worst])}")
    rows, columns = (
        range(place, min(place + box, size)) for place, size in zip((row, column), subject.grid, strict=True)
    )
    tokens = subject.tokens([r * subject.grid[1] + c for r in rows for c in columns])
    told = [Told("without "), Told(name, "picture:without", {"tokens": tokens, "layer": "without"}), Told(" alone")]
    if by_logit:
        return Clause(told, CHANGES, f"by {signed(-costs[worst])}")
    return Clause(told, GOES, f"to {percent(kept[worst])}")


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
    told = [Told(" ")]
    for i, part in enumerate(named):
        cost = f" (writes {signed(part.direct)}, its removal costs {signed(part.cost)} logits)"
        told += [*([Told(" and ")] if i else []), Told(part.name, "cause", part.choose), Told(cost)]
    why = "act through later parts" if several else "acts through later parts"
    if found is backed:
        # Held still, later parts explain half of these heads: a final norm that shrinks with the head does the rest.
        why = f"may be backed up: later parts or the final norm make up for {'them' if several else 'it'}"
    return [*told, Told(" "), Told(why, "cause"), Told(".")]


def _gap(part: Part) -> float:
    return abs(part.direct - part.cost)
