"""The command `vitlens`. Wrong input is answered by one sentence on stderr and exit code 2."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vitlens.cli.attribute import attribute
from vitlens.cli.describe import describe
from vitlens.cli.dictionaries.evaluate import evaluate_sae
from vitlens.cli.dictionaries.features import features
from vitlens.cli.dictionaries.graph import graph
from vitlens.cli.dictionaries.train import train_sae
from vitlens.cli.editing.repair import repair
from vitlens.cli.editing.shortcut import shortcut
from vitlens.cli.heatmap import heatmap
from vitlens.cli.lens import lens
from vitlens.cli.models import models
from vitlens.cli.open_page import NAMES, open_page
from vitlens.cli.patch import patch
from vitlens.cli.reproduce import reproduce
from vitlens.cli.shared import complain, run
from vitlens.cli.similarity import similarity
from vitlens.cli.verify import verify
from vitlens.cli.words.name_parts import names
from vitlens.cli.words.zero_shot import zero_shot
from vitlens.errors import InputError, nearest
from vitlens.version import __version__


class Commands(TyperGroup):
    """The commands: an unknown one names the nearest, an interrupted one says so."""

    def resolve_command(self, context: Any, arguments: list[str]) -> Any:
        if not context.resilient_parsing and arguments[0] not in self.commands:
            near = nearest(arguments[0], self.commands, 3)
            raise InputError(f"there is no command {arguments[0]!r}; the nearest names are {near}")
        return super().resolve_command(context, arguments)

    def invoke(self, context: Any) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Commands,
    help="See how a vision transformer builds its decision.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(wanted: bool) -> bool:
    if wanted:
        print(f"vitlens {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def vitlens(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="print the version, and end")
    ] = False,
) -> None:
    """See how a vision transformer builds its decision."""


for name in NAMES:
    # Help lists it once.
    app.command(name, hidden=name != NAMES[0])(open_page)
for command in (
    lens, attribute, patch, graph, heatmap, similarity, describe, shortcut, repair, train_sae, evaluate_sae, features,
    zero_shot, names, models, verify, reproduce,
):  # fmt: skip
    app.command()(command)


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
