"""The command line and the scripts run in this process: starting Python and importing torch takes longer than they do."""

import io
import runpy
import sys
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from vitlens.cli.main import main


@dataclass(frozen=True)
class Done:
    """How a command ended, with the names that `subprocess.run` uses."""

    returncode: int
    stdout: str
    stderr: str


def run_vitlens(*arguments: object) -> Done:
    """`vitlens ARGUMENTS`."""
    return _run(main, ["vitlens", *map(str, arguments)])


def run_script(path: Path, *arguments: object) -> Done:
    """`python PATH ARGUMENTS`."""
    # Python puts a script's folder first on its path, runpy does not.
    with patch.object(sys, "path", [str(path.parent), *sys.path]):
        return _run(lambda: runpy.run_path(str(path), run_name="__main__"), [str(path), *map(str, arguments)])


def _run(call: Callable[[], object], argv: list[str]) -> Done:
    out, err, code = io.StringIO(), io.StringIO(), 0
    with ExitStack() as stack:
        stack.enter_context(patch.object(sys, "argv", argv))
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        try:
            call()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return Done(code, out.getvalue(), err.getvalue())
