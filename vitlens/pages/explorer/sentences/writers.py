"""Which heads and MLPs write the class, and from which part of the picture."""

import numpy as np

from vitlens.pages.explorer.sentences.subject import Part, Subject, leading
from vitlens.pages.explorer.sentences.words import (
    WORTH_SAYING,
    Sentence,
    Told,
    counted,
    listed,
    points,
    signed,
    where_lie,
)

#: Parts that together write this share of all that speaks for the class are counted; more than this share of all parts are
#: not few.
MOST, FEW = 0.5, 1 / 3
#: A head reads from the patches that give this share of what it writes.
READ = 0.5


def who(subject: Subject) -> Sentence | None:
    """How many parts write how much of the logit, and the strongest by name."""
    if "heads" not in subject.tensors:
        return None
    parts = subject.parts
    direct = np.array([part.direct for part in parts])
    if direct.max() < WORTH_SAYING:
        return Sentence("who", [Told("No head and no MLP speaks for it", "who"), Told(" by itself.")])
    chosen = leading(direct, MOST)
    of = f"the {signed(direct[direct > 0].sum())} logits that speak for it"
    part = direct[chosen].sum() / direct[direct > 0].sum()
    verb = "writes" if chosen.sum() == 1 else "write"
    start = f"{_counts(parts, chosen)} {verb} {'almost all' if part > 0.9 else points(part)} of {of}"
    if chosen.sum() > max(1, FEW * len(parts)):
        start = f"Many parts write it: {start}"
    told = [Told(start, "who"), Told(" (sum over heads and MLPs, direct logit attribution)")]
    best = parts[int(direct.argmax())]
    told += [Told("; "), Told(best.name, "head", best.choose), Told(f" most, {signed(best.direct)}")]
    strongest = max((part for part in parts if part.is_head), key=lambda part: part.direct)
    if strongest.direct >= WORTH_SAYING:
        if strongest is not best:
            told += [Told("; of the heads "), Told(strongest.name, "head", strongest.choose)]
            told.append(Told(f", {signed(strongest.direct)}"))
        part, source, tokens = source_of(subject, strongest)
        choose = strongest.choose | {"tokens": tokens, "layer": "writes"}
        told += [Told(f", {points(part)} of it from "), Told(source, "picture:writes", choose)]
    return Sentence("who", [*told, Told(".")])


def source_of(subject: Subject, head: Part) -> tuple[float, str, list[int]]:
    """How large a part of what a head writes comes from few tokens, and from which."""
    shares = np.maximum(subject.shares(*head.place), 0)
    n_prefix = len(subject.prefix)
    of_prefix = shares[:n_prefix]
    if of_prefix.sum() >= READ * shares.sum():
        most = int(of_prefix.argmax())
        return float(of_prefix[most] / shares.sum()), f"the {subject.prefix[most]} token", [most]
    patches = shares[n_prefix:]
    chosen = np.flatnonzero(leading(patches, READ))
    in_order = chosen[np.argsort(-patches[chosen], kind="stable")]
    place = where_lie(in_order.tolist(), subject.grid)
    return float(patches[chosen].sum() / shares.sum()), place, subject.tokens(in_order)


def _counts(parts: list[Part], chosen: np.ndarray) -> str:
    """2 heads and 1 MLP."""
    n_heads = sum(parts[i].is_head for i in np.flatnonzero(chosen))
    counts = ((n_heads, "head"), (int(chosen.sum()) - n_heads, "MLP"))
    return listed([counted(n, noun) for n, noun in counts if n])
