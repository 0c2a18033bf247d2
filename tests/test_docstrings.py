"""What docstrings promise: examples that run and show what they say, and names that a reader can reach."""

import doctest
import inspect
import re
from functools import cache

import pytest
from public import public

import vitlens
from vitlens.model.hooked_vit import HookedViT

PUBLIC = public()
CALLS = sorted(name for name, value in PUBLIC.items() if inspect.isfunction(value))
#: Of an object: those of its methods that are a door of their own.
DOORS = {
    "HookedViT.from_timm": HookedViT.from_timm,
    "HookedViT.run_with_cache": HookedViT.run_with_cache,
    "HookedViT.run_with_hooks": HookedViT.run_with_hooks,
}
DOCUMENTED = {**{name: PUBLIC[name] for name in CALLS}, **DOORS}
#: Numbers of the last digit differ between machines: examples round, and may leave out the middle of what is printed.
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
#: What is cited is `a.path.of.names`, perhaps called or indexed.
CITED = re.compile(r"`([A-Za-z_]\w*(?:\.\w+)*)(?:[(\[][^`]*)?`")


def _example(value: object) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(inspect.getdoc(value) or "")


def test_a_public_call_has_an_example() -> None:
    bare = [name for name, call in DOCUMENTED.items() if not _example(call)]
    assert not bare, "their docstrings show no call of them (a section Examples: with >>>)"


@pytest.mark.parametrize("name", [name for name, value in {**PUBLIC, **DOCUMENTED}.items() if _example(value)])
def test_examples_run_and_show_what_they_print(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    value = {**PUBLIC, **DOCUMENTED}[name]
    examples = doctest.DocTest(_example(value), {}, name, None, None, inspect.getdoc(value))
    assert any(name.split(".")[-1] in each.source for each in examples.examples), f"the example never calls {name}"
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(examples, out=said.append)
    assert not result.failed, "".join(said)


def _members(value: object) -> set[str]:
    """Attributes of a class, those of its instances included."""
    found = set(dir(value)) | set(getattr(value, "__annotations__", {}))
    for base in getattr(value, "__mro__", ()):
        found |= set(getattr(base, "__annotations__", {}))
        init = base.__dict__.get("__init__")
        if init is not None and hasattr(init, "__code__"):
            found |= set(inspect.signature(init).parameters)
            found |= set(re.findall(r"self\.(\w+)(?:: [^=]+)? = ", inspect.getsource(base)))
    return found


@cache
def _all_members() -> set[str]:
    """Anything that a reader finds as a member of something public."""
    return set().union(*(_members(value) for value in PUBLIC.values() if inspect.isclass(value)))


#: What others call by these names: torch, timm, numpy, pandas and Python.
THEIRS = {"torch", "timm", "numpy", "np", "pd", "sklearn", "plotly", "None", "True", "False", "overcomplete"}


def _is_reachable(cited: str, value: object) -> bool:
    first, *rest = cited.split(".")
    if first in THEIRS:
        return True
    if first == "vitlens":
        at: object = vitlens
        for name in rest:
            at = getattr(at, name, None)
        return at is not None
    parameters = set(inspect.signature(value).parameters) if inspect.isfunction(value) else set()
    known = (
        first in PUBLIC
        or first in parameters
        or first in _all_members()
        or first in vars(vitlens.plots)
        or first in ("model", "cache", "result", "stream")
    )
    return known and _all_members().issuperset(rest)


def test_docstrings_cite_what_a_reader_can_reach() -> None:
    lost = [
        f"{name}: {cited}"
        for name, value in {**PUBLIC, **DOCUMENTED}.items()
        for cited in sorted(set(CITED.findall((value.__doc__ and inspect.getdoc(value)) or "")))
        if not _is_reachable(cited, value)
    ]
    assert not lost, "what they cite is not public"
