"""What the model answers and how sure it is, and from which block on the class leads."""

import numpy as np

from vitlens.pages.explorer.sentences.subject import Subject
from vitlens.pages.explorer.sentences.words import Sentence, Told, percent, quoted, signed

#: A class with more than this share outweighs all others together.
OUTWEIGHS = 0.5


def answer(subject: Subject) -> Sentence:
    """The class, its probability, and the class that comes nearest."""
    if not subject.competes:
        return _of_one_output(subject)
    rival = quoted(subject.name_of(subject.rival))
    lead = subject.logit - float(subject.tensors["answer_logits"][subject.rival])
    own = f"{quoted(subject.name)} {percent(subject.probability)}"
    if subject.rank:
        n_classes = len(subject.probabilities)
        leader = f"{rival} {percent(subject.probabilities[subject.rival])}"
        place = f" has rank {subject.rank + 1} of {n_classes:,}; {leader} leads by {signed(-lead)} logits."
        return Sentence("answer", [Told(own, "answer"), Told(place)])
    parts = [
        Told(own, "answer"),
        Told(f", ahead of {rival} {percent(subject.probabilities[subject.rival])} by {lead:.2f} logits"),
    ]
    if subject.is_flat:
        parts.append(Told(": a flat answer, in which many classes are almost as likely, so little can be explained"))
    return Sentence("answer", [*parts, Told(".")])


def _of_one_output(subject: Subject) -> Sentence:
    """Of sigmoids how sure the output is, and how many say yes; of numbers the number."""
    n = len(subject.tensors["answer_logits"])
    own = "The model's single output is " if n == 1 else f"{quoted(subject.name)} "
    if subject.output != "sigmoid":
        return Sentence("answer", [Told(f"{own}{'' if n == 1 else 'is '}{signed(subject.logit)}", "answer"), Told(".")])
    parts = [Told(f"{own}{percent(subject.probability)}", "answer")]
    if n > 1:
        n_yes = int((subject.tensors["answer_logits"] > 0).sum())
        parts.append(Told(f"; {n_yes} of {n:,} outputs {'is' if n_yes == 1 else 'are'} above {percent(OUTWEIGHS)}"))
    return Sentence("answer", [*parts, Told(".")])


def when(subject: Subject) -> Sentence | None:
    """From which block on the class stays first in the model's own reading of its stream."""
    if "reading_probability" not in subject.tensors:
        return None
    if not subject.competes:
        return _when_yes(subject)
    ranks = subject.tensors["reading_rank"][:, subject.position]
    probabilities = subject.tensors["reading_probability"][:, subject.position]
    if subject.is_flat:
        return Sentence("when", [Told("No block leads clearly", "when"), Told(" to any class.")])
    if ranks[-1] > 0 and subject.rank == 0:
        later = f"It is not yet first after block {subject.blocks[-1]}"
        return Sentence(
            "when", [Told(later, "when", {"block": subject.blocks[-1]}), Told(", the last that is shown (class lens).")]
        )
    if ranks[-1] > 0:
        return _of_a_loser(subject, ranks)
    first = first_for_good(ranks)
    if first == 0:
        start = f"It is first from block {subject.blocks[0]} on"
    elif first == len(ranks) - 1:
        which = "last block" if subject.blocks[-1] == subject.n_layers - 1 else "last block shown"
        start = f"It is first only after the {which}, {subject.blocks[-1]}"
    else:
        start = f"From block {subject.blocks[first]} on it stays first"
    parts = [Told(start, "when", {"block": subject.blocks[first]})]
    if first < len(ranks) - 1:
        parts.append(Told(f", {percent(probabilities[first])} there"))
    half = first_for_good(probabilities <= OUTWEIGHS)
    if first < half < len(ranks):
        block = subject.blocks[half]
        parts += [Told(", "), Told(f"above {percent(OUTWEIGHS)} from block {block} on", "when", {"block": block})]
    if len(ranks) > 1:
        gains = np.diff(probabilities)
        most = int(gains.argmax()) + 1
        if gains[most - 1] > 0.05 and most not in (first, half):
            block = subject.blocks[most]
            parts += [Told("; "), Told(f"block {block} adds most", "when", {"block": block})]
            parts.append(Told(f" ({100 * gains[most - 1]:.0f} percentage points)"))
    return Sentence("when", [*parts, Told(" (class lens).")])


def _when_yes(subject: Subject) -> Sentence:
    """From which block on a sigmoid stays on its side of one half."""
    above = subject.tensors["reading_probability"][:, subject.position] > OUTWEIGHS
    side = "above" if above[-1] else "at most"
    first = first_for_good(above != above[-1])
    block = subject.blocks[first]
    start = f"It is {side} {percent(OUTWEIGHS)} from block {block} on"
    return Sentence("when", [Told(start, "when", {"block": block}), Told(" (class lens).")])


def _of_a_loser(subject: Subject, ranks: np.ndarray) -> Sentence:
    led = [subject.blocks[i] for i in np.flatnonzero(ranks == 0)]
    if not led:
        best = int(ranks.argmin())
        block = subject.blocks[best]
        text = f"It leads after no block; it comes nearest after block {block}, rank {int(ranks[best]) + 1}"
    elif len(led) == 1:
        block = led[0]
        text = f"It leads after block {led[0]} alone, and is overtaken"
    else:
        block = led[-1]
        together = led[-1] - led[0] == len(led) - 1
        text = f"It leads after blocks {led[0]} to {led[-1]}{'' if together else ', not all of them'}, and is overtaken"
    return Sentence("when", [Told(text, "when", {"block": block}), Told(" (class lens).")])


def first_for_good(ranks: np.ndarray) -> int:
    """The place of the block from which on the rank (or what else shows that it is behind) is 0 to the end."""
    behind = np.flatnonzero(ranks > 0)
    return int(behind[-1]) + 1 if len(behind) else 0
