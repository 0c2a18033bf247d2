"""Which measures are wanted, and what becomes of those that mean nothing for the data."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from vitlens.arguments import items
from vitlens.errors import InputError, nearest

EVALUATION_METRICS = ("reconstruction", "downstream", "locality", "monosemanticity", "probing", "absorption")
#: Those that need nothing but the pictures.
BY_DEFAULT = ("reconstruction", "downstream", "locality")


@dataclass
class WantedMeasures:
    """The measures to be taken. One that was asked for by name and cannot be taken is an error; of others it is noted."""

    names: set[str]
    asked: set[str]
    left_out: list[str] = field(default_factory=list)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def leave_out(self, name: str, why: Sequence[str]) -> None:
        """Notes why a measure is not taken.

        Raises:
            InputError: it was asked for by name.
        """
        if why and name in self.asked:
            raise InputError(f"{why[0]}: leave {name!r} out of metrics=")
        self.left_out += [reason for reason in why if reason not in self.left_out]

    def give_up(self, name: str, why: str) -> None:
        """As `leave_out`, and the measure is not taken at all."""
        self.leave_out(name, [why])
        self.names.discard(name)


def wanted_measures(
    metrics: str | Sequence[str] | None, *, has_other_model: bool, has_groups: bool, has_classifier: bool
) -> WantedMeasures:
    """What `metrics=` of `evaluate_sae` means, with these other arguments.

    Raises:
        InputError: an unknown measure, or one whose argument is missing.
    """
    asked = set() if metrics is None or metrics == "all" else {str(name) for name in items(metrics)}
    for name in asked - set(EVALUATION_METRICS):
        known = ", ".join(EVALUATION_METRICS)
        raise InputError(
            f'metrics are {known} or "all", not {name!r}; the nearest is {nearest(name, EVALUATION_METRICS)}'
        )
    names = asked | {"reconstruction"}
    if metrics is None:
        names |= {*BY_DEFAULT, *(["monosemanticity"] * has_other_model), *(["absorption"] * has_groups)}
    elif metrics == "all":
        names = set(EVALUATION_METRICS)
    wanted = WantedMeasures(names, asked)
    if "absorption" in wanted and not has_groups:
        wanted.give_up("absorption", "absorption needs groups= of classes")
    if "downstream" in wanted and not has_classifier:
        wanted.give_up("downstream", "the model has no classifier, so it gives no answers to compare")
    return wanted
