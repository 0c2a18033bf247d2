"""`vitlens reproduce`: the paper's experiments over a data set, with an option for each of the study's settings."""

from dataclasses import Field, fields
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from vitlens.cli.names import EXPERIMENTS, one_of
from vitlens.cli.options import Device, Json, ModelOptions, ObjectId, set_parameters
from vitlens.cli.output import print_json, say, terminal
from vitlens.cli.shared import check_device, check_dtype, complain, flag, in_options
from vitlens.paper.settings import StudySettings

#: Settings that are the same option in every command.
EVERYWHERE: dict[str, Any] = {item.name: item.type for item in fields(ModelOptions)} | {"object_id": ObjectId}


def reproduce(
    device: Device = "cpu",
    workers: Annotated[int, typer.Option(min=1, help="threads that decode pictures")] = 4,
    experiment: Annotated[
        list[str] | None,
        typer.Option(
            help=f"only these experiments: {', '.join(EXPERIMENTS)}; several times",
            autocompletion=one_of(*EXPERIMENTS), show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="folder for tables, figures and records; a stopped run goes on there, and ends with the same bytes "
            "where it has as many threads (OMP_NUM_THREADS) on the same kind of processor"
        ),
    ] = Path("out/study"),
    as_json: Json = False,
    **given: Any,
) -> None:  # fmt: skip
    """Run the paper's experiments over a data set, in one pass: tables, figures, a page.

    The same command goes on where it was stopped; under torchrun several processes share the pictures.
    """
    # The command line is imported for every command: what computes is imported when it is needed.
    from vitlens.paper.results import print_tables
    from vitlens.paper.run import run_study
    from vitlens.workers import Stopped, WorkerLost, make_sums_reproducible

    make_sums_reproducible()
    check_dtype(given["dtype"])
    check_device(device)
    settings = StudySettings(**{name: _plain(value) for name, value in given.items()})
    settings.check()
    of_model = {item.name: given[item.name] for item in fields(ModelOptions) if item.name in given}
    model = ModelOptions(**of_model, device=device).load()
    try:
        outcome = run_study(model, settings, experiments=experiment, path=out, workers=workers)
    except (Stopped, WorkerLost) as stopped:
        complain(str(stopped))
        raise typer.Exit(130) from None
    if outcome is None:
        return
    if as_json:
        skipped = [{"path": item.path, "reason": item.reason} for item in outcome.skipped]
        print_json({"wrote": out, "n_pictures": outcome.n_pictures, "skipped": skipped, "tables": outcome.tables})
        return
    print_tables(outcome.tables, terminal())
    for item in outcome.skipped[:10]:
        say(f"skipped {item.path}: {item.reason}")
    unreadable = f", {len(outcome.skipped)} could not be read (skipped.parquet)" if outcome.skipped else ""
    say(f"{outcome.n_pictures:,} pictures{unreadable}; wrote tables, figures and report.html to {out}")


def _plain(value: Any) -> Any:
    """A setting as settings.json holds it."""
    if isinstance(value, list):
        return sorted(value) or None
    return str(value) if isinstance(value, Path) else value


def _option(item: Field, kind: Any) -> Parameter:
    """The option of one of the study's settings."""
    choices = item.metadata["choices"]
    says = item.metadata["help"] + (f": {' or '.join(choices)}" if choices else "")
    says = in_options(says, [other.name for other in fields(StudySettings)])
    option = EVERYWHERE.get(item.name, Annotated[kind, typer.Option(flag(item.name), help=says)])
    return Parameter(item.name, Parameter.KEYWORD_ONLY, default=item.default, annotation=option)


def _parameters() -> list[Parameter]:
    """An option for each of the settings, and then the command's own."""
    kinds = get_type_hints(StudySettings)
    own = [each for each in signature(reproduce).parameters.values() if each.kind is not Parameter.VAR_KEYWORD]
    return [*(_option(item, kinds[item.name]) for item in fields(StudySettings)), *own]


set_parameters(reproduce, _parameters())
