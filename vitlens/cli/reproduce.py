"""The command line of the experiments: `vitlens reproduce` for all of them, experiments/NAME.py for one."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from vitlens.cli.options import (
    Checkpoint,
    ClassNames,
    Device,
    Dtype,
    Json,
    Model,
    ObjectId,
    RandomWeights,
    Timm,
)
from vitlens.cli.output import print_json, say, terminal
from vitlens.cli.shared import DEMO, check_device, check_dtype, complain, load_model
from vitlens.errors import InputError


def study_command(name: str | None = None) -> Callable[..., None]:
    """The command that runs one experiment, or with None those that `--experiment` names (by default all possible)."""

    def command(
        model: Model = DEMO,
        checkpoint: Checkpoint = None,
        timm: Timm = None,
        random_weights: RandomWeights = False,
        data: Annotated[
            str, typer.Option(help='a folder of pictures, a Parquet file, a name on the hub, ImageNet-S, or "demo"')
        ] = DEMO,
        split: Annotated[str | None, typer.Option(help="which split of it")] = None,
        streaming: Annotated[bool, typer.Option("--streaming", help="read pictures as they come")] = False,
        limit: Annotated[int | None, typer.Option(help="only the first so many pictures")] = None,
        per_class: Annotated[int | None, typer.Option(help="only the first so many pictures of each class")] = None,
        drop_incomplete: Annotated[
            bool, typer.Option("--drop-incomplete", help="leave out classes with fewer than --per-class")
        ] = False,
        masks: Annotated[Path | None, typer.Option(help="folder of object masks, named as the pictures")] = None,
        object_id: ObjectId = None,
        class_map: Annotated[Path | None, typer.Option(help="JSON or CSV: label of the data → class")] = None,
        class_names: ClassNames = None,
        image_column: Annotated[str | None, typer.Option(help="the table's column of pictures")] = None,
        label_column: Annotated[str | None, typer.Option(help="the table's column of labels")] = None,
        mask_reduction: Annotated[str, typer.Option(help="masks to patches: area or nearest")] = "area",
        squash: Annotated[bool, typer.Option("--squash", help="scale pictures without cropping, as released")] = False,
        paper_compat: Annotated[
            bool, typer.Option("--paper-compat", help="compute as the paper's released code does, quirks and all")
        ] = False,
        random_models: Annotated[int, typer.Option(help="freshly initialised models to compare with")] = 2,
        target: Annotated[str, typer.Option(help="heatmaps of the label or of the predicted class")] = "label",
        steps: Annotated[int | None, typer.Option(help="steps of the removal of patches [default: each]")] = None,
        random_orders: Annotated[int, typer.Option(help="random orders to compare removal with")] = 3,
        train_data: Annotated[str | None, typer.Option(help="pictures that probes are trained on")] = None,
        train_split: Annotated[str | None, typer.Option(help="which split of them")] = None,
        train_per_class: Annotated[int, typer.Option(help="training pictures per class")] = 10,
        probe_tokens: Annotated[int | None, typer.Option(help="probes at so many tokens [default: all]")] = None,
        bootstrap: Annotated[int, typer.Option(help="draws of pictures behind each interval")] = 1000,
        permutations: Annotated[int, typer.Option(help="shuffles behind each permutation test")] = 300,
        seed: Annotated[int, typer.Option(help="of everything drawn")] = 0,
        dtype: Dtype = "float32",
        batch_size: Annotated[int, typer.Option(help="pictures per chunk")] = 16,
        device: Device = "cpu",
        workers: Annotated[int, typer.Option(help="threads that decode pictures")] = 4,
        experiment: Annotated[
            list[str] | None, typer.Option(help="of `reproduce`: only these experiments; several times")
        ] = None,
        out: Annotated[
            Path,
            typer.Option(
                help="folder for tables, figures and records; a stopped run goes on there, and ends with the same bytes "
                "where it has as many threads (OMP_NUM_THREADS) on the same kind of processor"
            ),
        ] = Path("out/study"),
        as_json: Json = False,
    ) -> None:
        # The command line is imported for every command: what computes is imported when it is needed.
        from vitlens.paper.results import print_tables
        from vitlens.paper.run import run_study
        from vitlens.paper.settings import StudySettings
        from vitlens.paper.workers import Stopped, WorkerLost, make_sums_reproducible

        make_sums_reproducible()
        check_dtype(dtype)
        if name is not None and experiment:
            raise InputError("--experiment goes with `vitlens reproduce`; this script runs one experiment")
        check_device(device)
        settings = StudySettings(
            model=model, checkpoint=_text(checkpoint), timm=sorted(timm) if timm else None,
            random_weights=random_weights, dtype=dtype, data=data, split=split,
            streaming=streaming, limit=limit, per_class=per_class, drop_incomplete=drop_incomplete, masks=_text(masks),
            object_id=object_id, class_map=_text(class_map), class_names=_text(class_names),
            image_column=image_column, label_column=label_column,
            mask_reduction=mask_reduction, squash=squash, batch_size=batch_size, seed=seed, paper_compat=paper_compat,
            random_models=random_models, bootstrap=bootstrap, permutations=permutations, target=target, steps=steps,
            random_orders=random_orders, train_data=train_data, train_split=train_split,
            train_per_class=train_per_class, probe_tokens=probe_tokens,
        )  # fmt: skip
        settings.check()
        hooked = load_model(model, checkpoint, random_weights, device, dtype, class_names, timm)
        try:
            outcome = run_study(
                hooked, settings, experiments=[name] if name is not None else experiment, path=out, workers=workers
            )
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

    return command


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
