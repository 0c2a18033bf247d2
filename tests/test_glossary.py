"""The grammar of calls: every public signature says things in the order and in the words of the glossary page."""

import collections.abc
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin

from public import public
from transformer_lens import ActivationCache, HookedRootModule
from transformer_lens.model_bridge import TransformerBridge

from vitlens import HookedViT, ViTActivationCache
from vitlens.lens import ProbeFit
from vitlens.removal import Edges

GLOSSARY = Path(__file__).parents[1] / "docs" / "pages" / "glossary.md"

#: What a word was called before: no call may say it so again.
REPLACED = {
    "picture": "images",
    "pictures": "images",
    "donors": "others",
    "candidates": "others",
    "fill": "replacement",
    "wanted_class": "classes",
    "target": "metric",
    "measure": "metric",
    "layer": "block",
    "layers": "blocks",
    "steps": "n_steps",
    "n": "n_draws, n_images or n_rows",
    "seeds": "n_draws",
    "n_random": "n_draws",
    "random_models": "n_draws",
    "random_orders": "n_draws",
    "top": "k",
    "top_k": "k",
    "n_neurons": "k",
    "lower": "low",
    "upper": "high",
    "rows": "batch_size",
    "position": "class_position",
    "out": "path",
}

#: The subjects that stand in their places in calls without pictures, after the model or instead of it.
SUBJECTS = {
    "with_sae": ["model", "hook", "sae"],
    "with_saes": ["model", "saes"],
    "train": ["model", "images", "hook"],
    "explore_features": ["model", "sae", "images"],
    "name_features": ["model", "images", "texts"],
    "sparse_words": ["model", "images", "texts"],
    "sparse_words_of": ["embeddings", "texts"],
    "load_vocabulary": ["name_or_path", "category"],
    "name_heads": ["model", "images", "texts"],
    "name_neurons": ["model", "images", "texts"],
    "attention_contributions": ["model", "images", "graph"],
    "edge_heads": ["model", "images", "graph"],
    "validate_graph": ["model", "images", "graph"],
    "find_shortcut": ["model", "images", "labels", "groups"],
    "propose_groups": ["model", "images", "labels"],
    "read_groups": ["groups", "n_images"],
    "read_memories": ["model", "block"],
    "select_tokens": ["model", "tokens", "n_images"],
    "select_classes": ["model", "classes", "n_images", "predict"],
    "class_metric": ["model", "clean_logits", "corrupted_logits", "classes"],
    "find_circuit": ["model", "scores"],
    "add_test_time_registers": ["model", "neurons"],
    "replace_context": ["images", "masks"],
    "open_pictures": ["source", "class_names", "n_classes"],
    "patch": ["row", "column"],
    "box": ["row", "column", "height", "width"],
    "bootstrap": ["sums", "counts"],
    "permutation_test": ["inside", "outside"],
    "compare_groups": ["values", "inside"],
    "run_study": ["model", "settings"],
    "load_result": ["path", "expected"],
    "zero_shot_accuracy": ["model", "images", "texts"],
    "ProbeFit.add": ["images", "labels"],
    "edit": ["model", "parts", "how"],
    "evaluate_edits": ["model", "images", "labels", "groups"],
    "group_directions": ["model", "images", "labels", "groups"],
    "repair": ["model", "images", "labels", "groups"],
    "save_checkpoint": ["model", "path"],
    "Edges": ["queries", "keys"],
}

#: Calls in which one picture is one forward, a handful of pictures are run whole, or settings say how many: a bar alone.
RUN_ONE_BY_ONE = {"attention_contributions", "explore", "verify_port", "run_study"}

#: Neurons that are pairs (block, neuron), wherever they are.
PAIRS = {("add_test_time_registers", "neurons"), ("register_shift", "neurons")}

#: Pictures that are no subject: of a check on a model that is said by its name, of a mean that is one of several ways.
BY_NAME = {"verify_port": {"images"}, "edit": {"images"}}


def parameters(function: Callable) -> list[inspect.Parameter]:
    found = inspect.signature(function).parameters.values()
    return [parameter for parameter in found if parameter.name not in ("self", "cls")]


def own_methods(kind: type) -> Iterator[tuple[str, Callable]]:
    """The public methods that vitlens writes; those of TransformerLens' names keep its arguments."""
    theirs: tuple[type, ...] = ()
    if issubclass(kind, HookedViT):
        theirs = (TransformerBridge, HookedRootModule)
    elif issubclass(kind, ViTActivationCache):
        theirs = (ActivationCache,)
    for name, method in inspect.getmembers(kind, callable):
        is_ours = (getattr(method, "__module__", None) or "").startswith("vitlens.")
        is_public = not inspect.isclass(method) and not name.startswith("_")
        if is_ours and is_public and not any(hasattr(other, name) for other in theirs):
            yield name, method


def calls() -> dict[str, Callable]:
    """Every public call by its name: functions, methods of classes, and the two classes that users call."""
    found: dict[str, Callable] = {"ProbeFit": ProbeFit, "Edges": Edges}
    for name, value in public().items():
        if inspect.isclass(value):
            for method, function in own_methods(value):
                # A method that is inherited is said once, by the class that has it; the model's are functions of its own.
                own = function.__qualname__
                found[own if "." in own else f"{name}.{method}"] = function
        elif callable(value):
            found[name] = value
    return found


CALLS = calls()
FUNCTIONS = {name: function for name, function in CALLS.items() if "." not in name or name == "ProbeFit.add"}


def words() -> set[str]:
    """The words of the glossary's tables: what their first columns say in code."""
    rows = [line.split("|")[1] for line in GLOSSARY.read_text().splitlines() if line.startswith("|")]
    return {word for row in rows for word in re.findall(r"`(\w+)`", row)}


def unknown_words(name: str) -> list[str]:
    known = words()
    return [
        f"{parameter.name} (say {REPLACED[parameter.name]})" if parameter.name in REPLACED else parameter.name
        for parameter in parameters(CALLS[name])
        if parameter.name not in known or parameter.name in REPLACED
    ]


def out_of_place(name: str) -> list[str]:
    """The arguments that stand in a place where the order has another."""
    given = parameters(FUNCTIONS[name])
    placed = [p.name for p in given if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    if name in SUBJECTS:
        return [] if placed == SUBJECTS[name] else [f"({', '.join(placed)}) for ({', '.join(SUBJECTS[name])})"]
    images = [["images"], ["clean", "corrupted"], []]
    orders = [[*model, *pair, *more] for model in (["model"], []) for pair in images for more in (["classes"], [])]
    wrong = [] if placed in orders or len(placed) <= 1 else [f"({', '.join(placed)})"]
    named = {p.name for p in given} - set(placed)
    belong = {"model", "images", "clean", "corrupted", "classes"} & named
    return wrong + sorted(belong - BY_NAME.get(name, set()))


def wrong_defaults(name: str) -> list[str]:
    return [
        f"{parameter.name}={parameter.default!r}"
        for parameter in parameters(CALLS[name])
        if parameter.name in ("batch_size", "progress") and parameter.default is not None
    ]


def one_kind_only(name: str) -> list[str]:
    """Blocks, heads or neurons that cannot be both one and several."""
    wrong = []
    for parameter in parameters(CALLS[name]):
        if parameter.name not in ("blocks", "heads", "neurons") or (name, parameter.name) in PAIRS:
            continue
        annotation = parameter.annotation
        kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        several = any(get_origin(kind) is collections.abc.Sequence for kind in kinds)
        if int not in kinds or not several:
            wrong.append(f"{parameter.name}: {annotation}")
    return wrong


def batches_without_bar(name: str) -> list[str]:
    names = {parameter.name for parameter in parameters(CALLS[name])}
    both = {"batch_size", "progress"}
    return sorted(both - names) if both & names and not both <= names and name not in RUN_ONE_BY_ONE else []


RULES = {
    "words": unknown_words,
    "places": out_of_place,
    "defaults": wrong_defaults,
    "one or several": one_kind_only,
    "batches": batches_without_bar,
}


def test_calls_speak_by_the_glossary():
    said = [
        f"{name}, {rule}: {found}"
        for name in sorted(CALLS)
        for rule, check in RULES.items()
        if (rule != "places" or name in FUNCTIONS) and (found := check(name))
    ]
    assert not said, "\n".join(said)


def test_lists_name_calls_that_there_are():
    lists = {*SUBJECTS, *RUN_ONE_BY_ONE, *BY_NAME, *(name for name, _ in PAIRS)}
    assert lists <= set(CALLS)


def test_no_word_of_the_glossary_is_one_that_it_replaces():
    assert not words() & set(REPLACED)


def test_every_word_of_the_glossary_is_one_of_a_call():
    said = {parameter.name for function in CALLS.values() for parameter in parameters(function)}
    unused = words() - said - {"neuron", "min_score", "perturbations"}
    assert not unused
