"""`vitlens graph`: the page of attribution graphs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitlens.cli.given import as_picture_set, picture_files
from vitlens.cli.options import AgainstClass, BatchSize, Json, ModelOptions, PictureFiles, WantedClass, with_model
from vitlens.cli.output import check_out, hand_over_page
from vitlens.cli.shared import DEMO, is_watched, require_classes
from vitlens.cli.texts import AgainstText, AskedTexts, Tower, load_asked
from vitlens.errors import InputError
from vitlens.files import check_writable

if TYPE_CHECKING:
    from vitlens.circuits.graphs.replacement import Transcoders

#: Said instead of a folder: the MLPs' own neurons.
NEURONS = "neurons"


@with_model
def graph(
    pictures: PictureFiles,
    wanted_class: WantedClass = None,
    against_class: AgainstClass = None,
    text: AskedTexts = None,
    against_text: AgainstText = None,
    tower: Tower = None,
    transcoders: Annotated[
        str | None,
        typer.Option(
            help=f'a folder of transcoders of the MLPs, as `load_saes` reads it; "{DEMO}"; or "{NEURONS}", the MLPs\' own '
            "[default: the demo's for its model, else neurons]",
            show_default=False,
        ),
    ] = None,
    n_nodes: Annotated[int, typer.Option(min=1, help="how many features become nodes of each graph")] = 1000,
    data: Annotated[
        str | None,
        typer.Option(
            help='where examples of features are looked for: a folder of pictures, or "demo"', show_default=False
        ),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="also write the graph (.safetensors), of one picture", show_default=False)
    ] = None,
    *,
    model: ModelOptions,
    batch_size: BatchSize = 16,
    out: Annotated[Path, typer.Option("-o", "--out", help="the page to write")] = Path("graph.html"),
    as_json: Json = False,
) -> None:
    """Write a page about a decision: the features that made it, through which other features, on the picture."""
    from vitlens.pages.graph.run import explore_graph

    check_writable(out)
    check_out(save, (".safetensors",))
    if save is not None and len(pictures) > 1:
        raise InputError(
            f"--save writes the graph of one picture, and {len(pictures)} were given: save them one by one"
        )
    examples = None if data is None else as_picture_set(picture_files([], data), data)
    named = transcoders or (DEMO if model.is_demo else NEURONS)
    chosen = _load_transcoders(named)
    asked = load_asked(model, wanted_class, text, against_class, against_text, tower=tower)
    hooked = asked.model
    require_classes(hooked)
    explorer = explore_graph(
        hooked, pictures, asked.classes, baseline_classes=asked.baseline_classes, transcoders=chosen, n_nodes=n_nodes,
        data=examples, batch_size=batch_size, progress=is_watched(),
    )  # fmt: skip
    explorer.save(out)
    if save is not None:
        explorer.graphs[0].save(save)
    hand_over_page("graph", hooked.cfg.model_name, out, as_json)


def _load_transcoders(name: str) -> "Transcoders":
    """
    Raises:
        InputError: no such folder, or dictionaries that are no transcoders.
    """
    from vitlens.demo import load_demo_transcoders
    from vitlens.features.dictionaries.dictionary import Transcoder
    from vitlens.features.formats.loading import load_saes

    if name == NEURONS:
        return None
    if name == DEMO:
        return load_demo_transcoders()
    folder = Path(name)
    if not folder.is_dir():
        raise InputError(f'there is no folder {folder}: --transcoders takes a folder, "{DEMO}" or "{NEURONS}"')
    found: dict[str, Transcoder] = {}
    for hook, sae in load_saes(folder).items():
        if not isinstance(sae, Transcoder):
            raise InputError(f"{sae.source} is no transcoder: --transcoders takes those of the model's MLPs")
        found[hook] = sae
    return found
