"""`vitlens train-sae`: trains dictionaries of features, with an option for each of the settings of a training."""

from dataclasses import Field, fields
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from vitlens.cli.given import TOKENS_HELP, read_tokens
from vitlens.cli.names import TOKENS, one_of
from vitlens.cli.options import Json, ModelOptions, set_parameters
from vitlens.cli.output import print_json, say
from vitlens.cli.shared import complain, flag, in_options
from vitlens.errors import InputError
from vitlens.features.training.settings import TrainingSettings

if TYPE_CHECKING:
    from vitlens.features.training.result import TrainedDictionaries
    from vitlens.model.hooked_vit import HookedViT
    from vitlens.model.runs.picture_batches import PictureSource


def train_sae(
    data: Annotated[
        str,
        typer.Option(
            help="a folder of pictures (labels are not needed), a Parquet file, a name on the hub, or \"demo\"; with 100 "
            "pictures, the demo is for trying the command"
        ),
    ] = "demo",
    split: Annotated[str | None, typer.Option(help="which split of the data", show_default=False)] = None,
    hook: Annotated[
        list[str] | None,
        typer.Option(
            help="where a dictionary reads, such as resid_post5; several times, or resid_post for one in each block "
            "[default: resid_post of the middle block]",
            show_default=False,
        ),
    ] = None,
    hook_out: Annotated[
        str | None,
        typer.Option(help="what transcoders predict, such as mlp_out [default: what they read]", show_default=False),
    ] = None,
    tokens: Annotated[
        str, typer.Option(help=f"{', '.join(TOKENS)}; or {TOKENS_HELP}", autocompletion=one_of(*TOKENS))
    ] = "all",
    settings: Annotated[
        Path | None,
        typer.Option(
            help="the training.json of another training, or its folder: its settings, where no option says otherwise",
            show_default=False,
        ),
    ] = None,
    shards: Annotated[
        Path | None,
        typer.Option(
            help="folder that keeps all activations; later passes and other trainings read them", show_default=False
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="pictures of one forward", show_default="64")] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="folder for the dictionaries; a stopped training goes on there")
    ] = Path("out/dictionaries"),
    as_json: Json = False,
    **given: Any,
) -> None:  # fmt: skip
    """Train dictionaries of features: sparse autoencoders, transcoders or a cross-layer transcoder.

    The same command goes on where it was stopped, and ends with the same bytes; under torchrun several processes share the
    pictures. `vitlens.load_sae` reads each folder that is written, and SAELens those of its kinds.
    """
    # The command line is imported for every command: what computes is imported when it is needed.
    from vitlens.features.training.checkpoints import read_training_settings
    from vitlens.features.training.run import train
    from vitlens.workers import Stopped, WorkerLost, make_sums_reproducible

    make_sums_reproducible()
    chosen = {} if settings is None else read_training_settings(settings)
    names = [item.name for item in fields(TrainingSettings)]
    chosen |= {name: _plain(name, given[name]) for name in names if given[name] is not None}
    TrainingSettings(**chosen | {"matryoshka": tuple(chosen.get("matryoshka", ()))})
    of_model = {item.name: given[item.name] for item in fields(ModelOptions)}
    model = ModelOptions(**of_model).load()
    hooks = hook or [f"resid_post{(model.cfg.n_layers - 1) // 2}"]
    try:
        trained = train(
            model, _pictures(model, data, split), hooks if len(hooks) > 1 else hooks[0], hook_out=hook_out,
            tokens=read_tokens(tokens), path=out, shards=shards, batch_size=batch_size, **chosen,
        )  # fmt: skip
    except (Stopped, WorkerLost) as stopped:
        complain(str(stopped))
        raise typer.Exit(130) from None
    _tell(trained, out, as_json)


def _tell(trained: "TrainedDictionaries", out: Path, as_json: bool) -> None:
    history = trained.history
    last = [
        {"hook": hook, **dict(zip(history.axes["measure"], values.tolist(), strict=True))}
        for hook, values in zip(history.axes["hook"], history.values[:, -1], strict=True)
    ]
    if as_json:
        print_json({"wrote": out, "dictionaries": list(trained), "last": last})
        return
    for row in last:
        say(
            f"{row['hook']}: explained variance {row['explained_variance']:.3f}, {row['l0']:.1f} active features per row, "
            f"{row['dead_share']:.1%} dead"
        )
    say(f"wrote {', '.join(trained)} to {out}")


def _pictures(model: "HookedViT", data: str, split: str | None) -> "PictureSource":
    """The pictures, whose labels do not matter: a folder needs none."""
    from vitlens.data.picture_sets import open_pictures
    from vitlens.data.pictures import PICTURE_ENDINGS

    if not Path(data).is_dir():
        return open_pictures(data, model.class_names, model.cfg.n_classes, split=split)
    if split is not None:
        raise InputError("split= is of a data set with splits: name the folder of the split in its place")
    files = sorted(path for path in Path(data).rglob("*") if path.suffix.lower() in PICTURE_ENDINGS)
    if not files:
        raise InputError(f"there are no pictures in {data}")
    return files


def _plain(name: str, value: Any) -> Any:
    """A setting as training.json holds it.

    Raises:
        InputError: a list that is not written with commas.
    """
    if name != "matryoshka":
        return value
    try:
        return [int(part) for part in value.split(",")]
    except ValueError:
        raise InputError(f"--matryoshka is a list such as 64,256, not {value!r}") from None


def _option(item: Field, kind: Any) -> Parameter:
    """The option of one of the training's settings; its default is left to them, since a file may say it."""
    choices = item.metadata["choices"]
    says = item.metadata["help"] + (f": {', '.join(choices)}" if choices else "")
    says = in_options(says, [other.name for other in fields(TrainingSettings)])
    name = f"{flag(item.name)}/--no-{item.name.replace('_', '-')}" if kind is bool else flag(item.name)
    kind = {"matryoshka": str, "expansion": float, "sparsity": float, "lr": float}.get(item.name, kind)
    default = False if item.default in (None, ()) else str(item.default)
    completion = one_of(*choices) if choices else None
    option = typer.Option(name, help=says, show_default=default, autocompletion=completion)
    return Parameter(item.name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])


def _parameters() -> list[Parameter]:
    """The command's own options, those of the model, and one for each of the settings."""
    kinds = get_type_hints(TrainingSettings)
    own = [each for each in signature(train_sae).parameters.values() if each.kind is not Parameter.VAR_KEYWORD]
    model = [
        Parameter(item.name, Parameter.KEYWORD_ONLY, default=item.default, annotation=item.type)
        for item in fields(ModelOptions)
    ]
    return [*own, *(_option(item, kinds[item.name]) for item in fields(TrainingSettings)), *model]


set_parameters(train_sae, _parameters())
