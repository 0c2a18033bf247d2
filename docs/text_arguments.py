"""Shows the arguments that `takes_text` adds to calls: the site reads sources, and does not run their decorators."""

import inspect
from importlib import import_module
from typing import Any

import griffe

KEYWORD, TYPE = griffe.ParameterKind.keyword_only, "str | Sequence[str] | None"


class TextArguments(griffe.Extension):
    """`text` and `baseline_text` in signatures and docstrings, from the functions themselves."""

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        if any(str(decorator.value).startswith("takes_text(") for decorator in func.decorators):
            function = getattr(import_module(func.module.path), func.name)
            said = inspect.signature(function).parameters
            known = {parameter.name: parameter for parameter in func.parameters}
            func.parameters = griffe.Parameters(
                *(
                    known.get(name) or griffe.Parameter(name, annotation=TYPE, kind=KEYWORD, default="None")
                    for name in said
                )
            )
            assert func.docstring is not None
            func.docstring.value = inspect.cleandoc(function.__doc__)
