"""Where in the picture the class comes from, as removal shows it; and the one warning that matters most."""

import numpy as np
from jaxtyping import Float

from vitlens.pages.explorer.sentences.decision import first_for_good
from vitlens.pages.explorer.sentences.subject import Subject, probabilities_of
from vitlens.pages.explorer.sentences.words import (
    Sentence,
    Told,
    counted,
    listed,
    moved,
    percent,
    points,
    quoted,
    signed,
)

#: The share of the patches that the sentence speaks of.
TOLD = 0.1
#: Artefact tokens among this many strongest patches are told.
AMONG = 5
#: Artefact tokens that get at least this share of the attention of the head that writes most are told.
WORTH_A_WARNING = 0.2
#: A map that misses more than this share of what it divides is told.
GAP = 0.2
#: A mean of random draws that is at most this far from the probability of the whole picture is near it.
NEAR = 0.05
#: An early reading in which another class has more than this is no answer that the model acts on.
CONFIDENT = 0.5


def where(subject: Subject) -> Sentence | None:
    """What is left without the patches that the first heatmap marks most, beside as many at random."""
    if "removal_curves" not in subject.tensors or subject.position:
        return None
    steps, curves = subject.tensors["removal_steps"], subject.tensors["removal_curves"]
    maps = subject.measured.facts["heatmaps"]
    step = int(np.abs(steps - TOLD).argmin())
    n = round(float(steps[step]) * subject.n_patches)
    curve, chance = curves[0, step], curves[len(maps) :, step]
    if np.isnan(curve):
        return Sentence(
            "where", [Told("The heatmap is the same everywhere", "picture:heatmap"), Told(": it shows no place.")]
        )
    first = np.argsort(-subject.tensors["heatmap"][0].astype(np.float64), kind="stable")[:n]
    told = [
        Told(
            f"Without the {counted(n, 'patch')} that the heatmap marks most",
            "picture:heatmap",
            {"tokens": subject.tokens(first), "layer": "heatmap"},
        ),
        Told(
            f", it {moved(subject.probability, curve)}; without {n} at random it "
            f"{_moved_by_chance(subject.probability, chance)} ({_spread(chance)})"
        ),
    ]
    as_good = int((chance <= curve).sum())
    if as_good >= len(chance) / 2 or curve >= chance.mean():
        told += [Told(": "), Told("this map is no better than random here", "answer")]
    elif as_good:
        told.append(Told(f": {as_good} of {len(chance)} random draws {'does' if as_good == 1 else 'do'} as much"))
    return Sentence("where", [*told, Told(".")])


def _moved_by_chance(before: float, draws: Float[np.ndarray, "order"]) -> str:
    """A step that is no larger than the draws differ is none; a mean that is far off is no place to stay."""
    if draws.min() <= before <= draws.max() and percent(before) != percent(draws.mean()):
        near = abs(draws.mean() - before) <= NEAR
        return f"stays near {percent(draws.mean())}" if near else f"has {percent(draws.mean())} on average"
    return moved(before, draws.mean())


def _spread(draws: Float[np.ndarray, "order"]) -> str:
    least, most = percent(draws.min()), percent(draws.max())
    return f"in all {len(draws)} draws" if least == most else f"{least} to {most} in {len(draws)} draws"


def warning(subject: Subject) -> Sentence | None:
    """Artefact tokens in the heatmap before an incomplete one, before a lens that reads something else at first."""
    if subject.position:
        return None
    for found in (_artefacts_in_the_map, _incomplete_map, _early_readings, _artefacts):
        sentence = found(subject)
        if sentence is not None:
            return sentence
    return None


def _artefacts_in_the_map(subject: Subject) -> Sentence | None:
    if not subject.measured.facts["heatmaps"]:
        return None
    strongest = np.argsort(-np.abs(subject.tensors["heatmap"][0]), kind="stable")[:AMONG]
    led = [int(patch) for patch in strongest if subject.tensors["outliers"][patch]]
    if not led or len(strongest) == subject.n_patches:
        return None
    verb = "is an artefact token" if len(led) == 1 else "are artefact tokens"
    text = f"{len(led)} of the {AMONG} patches that the heatmap marks most {verb}"
    choose = {"tokens": subject.tokens(led), "layer": "heatmap"}
    return Sentence("warning", [Told(text, "picture:heatmap", choose), Told(f": {_places(led, subject)}.")])


def _incomplete_map(subject: Subject) -> Sentence | None:
    maps = subject.measured.facts["heatmaps"]
    if not maps or maps[0]["gap"] is None:
        return None
    whole, gap = float(subject.tensors["heatmap"][0].sum()), maps[0]["gap"]
    if abs(gap) <= GAP * max(abs(whole - gap), abs(whole)):
        return None
    text = f"its patches sum to {signed(whole)}, and the class gains {signed(whole - gap)} from none to all of them"
    return Sentence("warning", [Told("The heatmap is not complete", "notes"), Told(f": {text}.")])


def _early_readings(subject: Subject) -> Sentence | None:
    if not subject.competes or "all_reading" not in subject.tensors or subject.rank:
        return None
    first = first_for_good(subject.tensors["reading_rank"][:, subject.position])
    scale = subject.tensors["all_reading_scale"][:first, None].astype(np.float64)
    early = (
        probabilities_of(subject.tensors["all_reading"][:first] / 32767 * scale, subject.output)
        if first
        else np.zeros((0, 1))
    )
    if not early.size or early.max() <= CONFIDENT:
        return None
    block, other = np.unravel_index(int(early.argmax()), early.shape)
    reads = f"{quoted(subject.name_of(int(other)))} {percent(early.max())}"
    number = subject.blocks[int(block)]
    text = f"After block {number} the class lens reads {reads}"
    told = [Told(text, "when", {"block": number}), Told(": early readings are not the model's answer.")]
    return Sentence("warning", told)


def _artefacts(subject: Subject) -> Sentence | None:
    """Where the head that writes most looks at them: elsewhere they mislead nobody."""
    places = np.flatnonzero(subject.tensors["outliers"]).tolist()
    if not places or "heads" not in subject.tensors:
        return None
    head = max((part for part in subject.parts if part.is_head), key=lambda part: part.direct)
    share = float(subject.attention(*head.place)[subject.tokens(places)].sum())
    if share < WORTH_A_WARNING:
        return None
    verb = "patch is an artefact token" if len(places) == 1 else "patches are artefact tokens"
    which = "it" if len(places) == 1 else "them"
    choose = {"tokens": subject.tokens(places)}
    return Sentence(
        "warning",
        [
            Told(f"{len(places)} {verb}", "picture", choose),
            Told(f", {_places(places, subject)}: {points(share)} of the attention of "),
            Told(head.name, "picture:from", head.choose | {"layer": "from"}),
            Told(f" goes to {which}."),
        ],
    )


def _places(patches: list[int], subject: Subject) -> str:
    """At most six."""
    places = [str(divmod(patch, subject.grid[1])) for patch in patches[:6]]
    return listed(places) if len(patches) <= len(places) else f"{', '.join(places)} …"
