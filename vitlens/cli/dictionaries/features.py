"""`vitlens features`: the page of a dictionary's features."""

from pathlib import Path
from typing import Annotated

import typer

from vitlens.cli.given import TOKENS_HELP, as_picture_set, load_dictionary, picture_files, read_tokens
from vitlens.cli.options import BatchSize, DataFolder, Json, ModelOptions, SomePictureFiles, with_model
from vitlens.cli.output import hand_over_page
from vitlens.cli.shared import is_watched
from vitlens.files import check_writable


@with_model
def features(
    pictures: SomePictureFiles = None,
    data: DataFolder = None,
    hook: Annotated[
        str | None, typer.Option(help="where the dictionary reads [default: where it was trained]", show_default=False)
    ] = None,
    hook_out: Annotated[
        str | None, typer.Option(help="what a transcoder predicts [default: as it was trained]", show_default=False)
    ] = None,
    tokens: Annotated[
        str,
        typer.Option(help=f"the tokens that the dictionary was trained on: all, class, patches, …; or {TOKENS_HELP}"),
    ] = "all",
    shown: Annotated[int, typer.Option(min=0, help="how many pictures the page shows whole, drawn from all")] = 12,
    feature: Annotated[
        list[int] | None,
        typer.Option(
            help="a feature that is steered by doses; several times [default: of each picture those worth most]",
            show_default=False,
        ),
    ] = None,
    n_runs: Annotated[int, typer.Option(min=1, help="most runs of the model for the doses of a picture")] = 60,
    feature_labels: Annotated[
        Path | None, typer.Option(help="labels of features, as the page saves them", show_default=False)
    ] = None,
    *,
    dictionary: Annotated[
        Path, typer.Option(help="a sparse autoencoder or transcoder, as `load_sae` reads it", show_default=False)
    ],
    model: ModelOptions,
    batch_size: BatchSize = 16,
    out: Annotated[Path, typer.Option("-o", "--out", help="the page to write")] = Path("features.html"),
    as_json: Json = False,
) -> None:
    """Write a page about a dictionary: all its features, their pictures and classes, and what a dose of them changes."""
    from vitlens.pages.dictionary.run import explore_features

    check_writable(out)
    files = picture_files(pictures or [], data)
    chosen = read_tokens(tokens)
    sae = load_dictionary(dictionary)
    hooked = model.load()
    explorer = explore_features(
        hooked, sae, files if pictures else as_picture_set(files, str(data)), hook=hook, hook_out=hook_out,
        tokens=chosen, shown=shown, features=feature, n_runs=n_runs, feature_labels=feature_labels,
        batch_size=batch_size, progress=is_watched(),
    )  # fmt: skip
    explorer.save(out)
    hand_over_page("features", hooked.cfg.model_name, out, as_json)
