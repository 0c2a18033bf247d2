"""What the page's scripts need to know besides the measurements: model, pictures, names of classes, sentences."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vitlens.data.class_names import short_name
from vitlens.errors import InputError
from vitlens.model.class_space.outputs import WITH_PROBABILITIES
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.provenance import page_facts
from vitlens.pages.explorer.measure.picture import Measured, Settings
from vitlens.pages.explorer.sentences.compose import sentences_of
from vitlens.pages.explorer.sentences.subject import probabilities_of
from vitlens.pages.explorer.sentences.words import points
from vitlens.pages.page import made

#: More names of classes than these would be most of the page.
MOST_NAMES = 2000
#: What two runs must share to be compared on one page.
SHARED = ("grid", "prefix", "blocks", "n_layers", "n_heads", "n_classes", "all_classes", "quantities", "dictionary")
#: How many of the top classes the page's heading names.
N_ANSWERS = 3


def page_facts_of(
    model: HookedViT, measured: Sequence[Measured], grid: tuple[int, int], settings: Settings
) -> dict[str, Any]:
    """As JSON can keep it."""
    cfg = model.cfg
    why = model.capabilities().set_index("analysis")["why"]
    pictures = [
        picture.facts | {"answer": answer_of(picture), "sentences": sentences_of(model, picture, settings.blocks, grid)}
        for picture in measured
    ]
    return {
        "title": page_title(model, pictures[0]),
        "model": cfg.model_name,
        "provenance": page_facts(model),
        "warning": model.provenance.warning,
        "call": model.provenance.call,
        "made": made(),
        "grid": list(grid),
        "prefix": list(cfg.prefix_tokens),
        "blocks": settings.blocks,
        "n_layers": cfg.n_layers,
        "n_heads": cfg.n_heads,
        "n_classes": cfg.n_classes,
        "all_classes": settings.holds_all_classes(model),
        "quantities": quantities_of(model),
        "pooling": cfg.pool,
        "pictures": pictures,
        "class_names": class_names_of(model, measured),
        "measured_together": True,
        "layers_default": "heatmap" if pictures[0]["heatmaps"] else "from",
        "lens_reads": why["class_lens"],
        "heads_are": why["direct_logit_attribution by head"],
        "dictionary": None if settings.dictionary is None else settings.dictionary.facts(model),
    }


def joined_facts(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Of two runs on one page; pictures of the same name are told apart by the model, or as first and second.

    Raises:
        InputError: they cannot be compared.
    """
    names = one["class_names"], other["class_names"]
    different = [name for name in SHARED if one[name] != other[name]]
    different += (
        ["class_names"]
        if any(names[0][index] != names[1][index] for index in names[0].keys() & names[1].keys())
        else []
    )
    if different:
        raise InputError(f"one page cannot show both: they differ in {', '.join(different)}")
    cases = (one["model"], other["model"]) if one["model"] != other["model"] else ("first", "second")
    twice = {each["name"] for each in one["pictures"]} & {each["name"] for each in other["pictures"]}
    pictures = [
        each | {"name": f"{each['name']} ({case})" if each["name"] in twice else each["name"]}
        for facts, case in zip((one, other), cases, strict=True)
        for each in facts["pictures"]
    ]
    both = {
        key: " and ".join(dict.fromkeys([one["provenance"].get(key, "–"), other["provenance"].get(key, "–")]))
        for key in one["provenance"] | other["provenance"]
    }
    warnings = dict.fromkeys(warning for warning in (one["warning"], other["warning"]) if warning)
    return one | {
        "model": both["model"],
        "provenance": both,
        "warning": "; ".join(warnings) or None,
        "pictures": pictures,
        # Each run has components of its own, so a colour would not mean the same in both; nor are patches matched.
        "measured_together": False,
        "class_names": names[0] | names[1],
    }


def answer_of(picture: Measured) -> list[tuple[int, float]]:
    """The top classes of a picture; nothing without classes."""
    return top_classes(picture.tensors.get("answer_logits", np.zeros(0)), picture.facts["output"])


def quantities_of(model: HookedViT) -> list[str]:
    """What the page's lens shows of a class, the one that it opens with first."""
    if model.cfg.output not in WITH_PROBABILITIES:
        return ["logit"]
    return ["probability", "logit", "rank"] if model.cfg.n_classes > 1 else ["probability", "logit"]


def top_classes(logits: Float[np.ndarray, "class"], output: str) -> list[tuple[int, float]]:
    """Their indices and probabilities, best first; of outputs without probabilities, nothing."""
    if output not in WITH_PROBABILITIES:
        return []
    found = probabilities_of(logits, output)
    return [(int(index), float(found[index])) for index in np.argsort(-logits, kind="stable")[:N_ANSWERS]]


def page_title(model: HookedViT, picture: dict[str, Any]) -> str:
    """The answer to a picture, where there is one."""
    if not picture["answer"]:
        return f"{picture['name']} through {model.cfg.model_name}"
    index, probability = picture["answer"][0]
    return f"{short_name(model.class_label(int(index)))} {points(probability)}"


def class_names_of(model: HookedViT, measured: Sequence[Measured]) -> dict[str, list[str]]:
    """Of all that the page speaks of; nothing without a classifier."""
    if model.unembed is None:
        return {}
    named = {index for picture in measured for index in picture.facts["classes"]}
    named |= {int(index) for picture in measured for index in np.unique(picture.tensors.get("top_classes", []))}
    named |= {int(index) for picture in measured for index in np.unique(picture.tensors["effect_top"]) if index >= 0}
    named |= {int(index) for picture in measured for index, _ in answer_of(picture)}
    return names_of_classes(model, named)


def names_of_classes(model: HookedViT, named: set[int]) -> dict[str, list[str]]:
    """Short and whole name, by index: of all classes, or of those that are named where all are very many."""
    if model.unembed is None:
        return {}
    if model.cfg.n_classes <= MOST_NAMES:
        named = set(range(model.cfg.n_classes))
    names = {index: model.class_label(index) for index in sorted(named)}
    return {str(index): [short_name(name), name] for index, name in names.items()}
