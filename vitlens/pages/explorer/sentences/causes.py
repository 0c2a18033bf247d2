"""What the removal of single heads, MLPs and patches does to the class, and where that disagrees with what they write."""

import numpy as np

from vitlens.pages.explorer.sentences.subject import Part, Subject
from vitlens.pages.explorer.sentences.words import (
    WORTH_SAYING,
    Sentence,
    Told,
    at_least,
    moved,
    quoted,
    signed,
)

#: Where every removal leaves at least this share of the probability, no single part is needed.
NEEDED = 0.9
#: A head writes much where it writes at least this share of what the strongest of the heads writes.
WRITES_MUCH = 0.5
#: A cost of less than this share of what is written directly is little; so is what is written beside the cost.
LITTLE = 0.25
#: A removal after which a class that was not among the first so many leads may have broken the answer,
N_NEAREST = 5
#: and has, where the nearest other class loses at least this share of what the class loses: it was not about the class.
TAKEN_ALONG = 0.5
#: A head that acts through later parts is named beside the worst part where its removal costs at least this share as much.
ALMOST = 0.75


def cause(subject: Subject) -> Sentence | None:
    """What is left without the head that writes most and without one patch, and the part whose removal costs most."""
    if not _is_measured(subject):
        return None
    broken, _, worst = _sorted_out(subject)
    head = _told_head(subject)
    is_told = head is worst and not broken
    of_head = _of_heads(subject, head, is_told)
    told = [*of_head, Told("; "), *_of_patches(subject, of_head[-1].text), Told(".")]
    told += [] if is_told else _of_the_worst(subject, broken, worst)
    first = told[0]
    return Sentence("cause", [first._replace(text=first.text[0].upper() + first.text[1:]), *told[1:]])


def apart(subject: Subject) -> Sentence | None:
    """The head that is farthest off of those that write much and cost little, or write little and cost almost the most."""
    if not _is_measured(subject):
        return None
    _, rest, worst = _sorted_out(subject)
    heads = [part for part in rest if part.is_head and part is not worst]
    much = max(WRITES_MUCH * max((part.direct for part in heads), default=0), WORTH_SAYING)
    backed = [part for part in heads if part.direct >= much and part.cost < LITTLE * part.direct]
    dear = max(ALMOST * worst.cost, WORTH_SAYING)
    indirect = [part for part in heads if part.cost >= dear and _is_indirect(part)]
    if not backed and not indirect:
        return None
    part = max([*backed, *indirect], key=lambda part: abs(part.direct - part.cost))
    # Held still, later parts explain half of the heads that cost little: a final norm that shrinks with the head does the
    # rest.
    why = "later parts or the final norm offset it" if part in backed else "it acts through later parts"
    numbers = f" writes {signed(part.direct)}, but its removal costs {signed(part.cost)}: "
    return Sentence("apart", [Told(part.name, "cause", part.choose), Told(numbers), Told(why, "cause"), Told(".")])


def _is_measured(subject: Subject) -> bool:
    return "effect_logits" in subject.tensors and "heads" in subject.tensors


def _sorted_out(subject: Subject) -> tuple[list[Part], list[Part], Part]:
    """The parts that break every answer and cost more than all others; the others; of these, the most costly."""
    broken = [part for part in subject.parts if breaks(subject, part)]
    rest = [part for part in subject.parts if part not in broken] or subject.parts
    worst = max(rest, key=lambda part: part.cost)
    return [part for part in broken if part.cost > worst.cost], rest, worst


def breaks(subject: Subject, part: Part) -> bool:
    """Whether a part's removal leaves nothing of the answer: a class from far off leads, and the runner-up falls too."""
    if part.top is None or not subject.competes or len(subject.tensors["answer_logits"]) <= N_NEAREST:
        return False
    is_near = part.top in np.argsort(-subject.tensors["answer_logits"], kind="stable")[:N_NEAREST]
    if is_near or part.cost < WORTH_SAYING or subject.rival not in subject.measured.facts["classes"]:
        return False
    place = subject.measured.facts["classes"].index(subject.rival)
    left = float(subject.tensors["effect_logits"][part.cell, place])
    return float(subject.tensors["answer_logits"][subject.rival]) - left >= TAKEN_ALONG * part.cost


def _told_head(subject: Subject) -> Part | None:
    """The head that writes most; where none writes, the one whose removal costs most; None where no head is needed."""
    heads = [part for part in subject.parts if part.is_head]
    if not any(_is_needed(subject, part) for part in heads):
        return None
    writer = max(heads, key=lambda part: part.direct)
    return writer if writer.direct >= WORTH_SAYING else max(heads, key=lambda part: part.cost)


def _of_heads(subject: Subject, head: Part | None, is_worst: bool) -> list[Told]:
    if head is None:
        heads = [part for part in subject.parts if part.is_head]
        return [Told("no single head is needed", "cause"), Told(f": {_least(subject, heads)}")]
    told = [Told("without "), Told(head.name, "cause", head.choose)]
    if is_worst:
        told.append(Told(f", the costliest of all parts ({signed(head.cost)} logits)"))
        if _is_indirect(head):
            told += [Told(" "), Told("through later parts", "cause")]
        told.append(Told(","))
    return [*told, Told(f" {_left(subject, head)}")]


def _of_patches(subject: Subject, before: str) -> list[Told]:
    """The patch, or box of patches, whose removal costs most; a verb that was said `before` is not said again."""
    box, costs = subject.measured.facts["effects"]["box"], subject.costs[: subject.n_patches]
    kept = subject.kept[: subject.n_patches]
    by_logit = not subject.is_answer
    if not by_logit and kept.min() >= NEEDED * subject.probability:
        each = "patch" if box == 1 else f"box of {box} × {box} patches"
        if before.startswith(": whichever") and "keeps" in before:
            none = Told(f"whichever single {each}", "picture:without", {"layer": "without"})
            return [none, Told(f", {at_least(kept.min())}")]
        none = Told(f"whichever single {each} is removed", "picture:without", {"layer": "without"})
        return [none, Told(f", it keeps {at_least(kept.min())}")]
    worst = int(costs.argmax())
    row, column = (place - place % box for place in divmod(worst, subject.grid[1]))
    rows, columns = (range(start, min(start + box, n)) for start, n in zip((row, column), subject.grid, strict=True))
    tokens = subject.tokens([r * subject.grid[1] + c for r in rows for c in columns])
    name = f"patch ({row}, {column})" if box == 1 else f"the {box} × {box} patches from ({row}, {column}) on"
    if by_logit:
        left = f"its logit {'falls' if costs[worst] > 0 else 'rises'} by {abs(costs[worst]):.2f}"
    else:
        left = f"it {moved(subject.probability, kept[worst])}"
        if before.startswith(" it falls to"):
            left = left.removeprefix("it falls ")
    return [
        Told("without "),
        Told(name, "picture:without", {"tokens": tokens, "layer": "without"}),
        Told(f", the costliest, {left}"),
    ]


def _of_the_worst(subject: Subject, broken: list[Part], worst: Part) -> list[Told]:
    """The parts that break the answer, and of the rest the one whose removal costs most."""
    named = (
        Told(f"{len(broken)} parts", "cause") if len(broken) != 1 else Told(broken[0].name, "cause", broken[0].choose)
    )
    breaking = f" break{'s' * (len(broken) == 1)} any answer"
    if not _is_needed(subject, worst) or worst.cost < WORTH_SAYING:
        if not broken:
            return []
        return [Told(" Removing "), named._replace(text=named.text if len(broken) == 1 else f"any of {named.text}"),
                Told(" breaks any answer.")]  # fmt: skip
    told = [Told(" Apart from "), named, Told(f", which{breaking}, ")] if broken else [Told(" Of all parts, ")]
    told += [Told(worst.name, "cause", worst.choose), Told(f" costs most, {signed(worst.cost)} logits")]
    if _is_indirect(worst):
        told += [Told(", "), Told("through later parts", "cause")]
    return [*told, Told(".")]


def _left(subject: Subject, part: Part) -> str:
    """What is left of the class without a part."""
    if part.kept is None or not subject.is_answer:
        estimated = "" if part.top is not None else " (estimated)"
        return f"its logit {'falls' if part.cost >= 0 else 'rises'} by {abs(part.cost):.2f}{estimated}"
    other = f" and {quoted(subject.name_of(part.top or 0))} leads" if part.top != subject.index else ""
    return f"it {moved(subject.probability, part.kept)}{other}"


def _is_needed(subject: Subject, part: Part) -> bool:
    if part.kept is None or not subject.is_answer:
        return part.cost >= WORTH_SAYING
    return part.top != subject.index or part.kept < NEEDED * subject.probability


def _least(subject: Subject, heads: list[Part]) -> str:
    whichever = f"whichever of the {len(heads)} is removed,"
    kept = [part.kept for part in heads if part.kept is not None]
    if not kept or not subject.is_answer:
        return f"{whichever} its logit loses at most {max(part.cost for part in heads):.2f}"
    return f"{whichever} it keeps {at_least(min(kept))}"


def _is_indirect(part: Part) -> bool:
    return abs(part.direct) < LITTLE * part.cost
