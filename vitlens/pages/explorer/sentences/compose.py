"""The sentences of one picture, for each of its classes."""

from typing import Any

from vitlens.data.class_names import short_name
from vitlens.model.hooked_vit import HookedViT
from vitlens.pages.explorer.measure.picture import Measured
from vitlens.pages.explorer.sentences.causes import apart, cause
from vitlens.pages.explorer.sentences.decision import answer, when
from vitlens.pages.explorer.sentences.evidence import warning, where
from vitlens.pages.explorer.sentences.subject import Subject
from vitlens.pages.explorer.sentences.words import Sentence
from vitlens.pages.explorer.sentences.writers import who


def sentences_of(
    model: HookedViT, measured: Measured, blocks: list[int], grid: tuple[int, int]
) -> dict[str, list[dict[str, Any]]]:
    """By the index of the class; a picture without classes has none."""
    found = {}
    for position, index in enumerate(measured.facts["classes"]):
        subject = Subject(
            measured,
            position,
            lambda index: short_name(model.class_label(index)),
            blocks,
            model.cfg.n_layers,
            grid,
            tuple(model.cfg.prefix_tokens),
            model.cfg.pool == "token" and bool(model.cfg.prefix_tokens),
        )
        found[str(index)] = [sentence.as_json() for sentence in sentences_about(subject)]
    return found


def sentences_about(subject: Subject) -> list[Sentence]:
    """Of a flat answer nothing is claimed but that it is flat."""
    told = [answer(subject), when(subject)]
    if not subject.is_flat:
        told += [who(subject), where(subject), cause(subject), apart(subject), warning(subject)]
    return [sentence for sentence in told if sentence is not None]
