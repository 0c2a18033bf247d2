"""`vitlens describe`: token norms, attention and sinks of a model over many pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitlens.cli.options import BatchSize, Json, ModelOptions, files_are_there, with_model
from vitlens.cli.output import WRITTEN, Answer, check_out, hand_over
from vitlens.cli.shared import DEMO, is_watched
from vitlens.errors import InputError, printable
from vitlens.results.writing import RESULTS

if TYPE_CHECKING:
    from vitlens.data.picture_sets import PictureSet
    from vitlens.description.result import Description
    from vitlens.pages.page import Section


@with_model
def describe(
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PICTURE...]", help="the pictures", show_default=False, callback=files_are_there),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help='instead: a folder, with all pictures in it, or "demo"', show_default=False)
    ] = None,
    n_images: Annotated[
        int | None, typer.Option(min=1, help="at most this many pictures, the first ones", show_default=False)
    ] = None,
    *,
    model: ModelOptions,
    batch_size: BatchSize = 16,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="write a page (.html), its first figure (.png, .svg, .pdf), the table (.csv, .parquet, .json) or all facts "
            "for the pages of `vitlens open --description` (.safetensors)",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Describe a model's tokens and heads over pictures: norms, outliers, distances, entropies, attention sinks."""
    from vitlens.description.run import describe as look

    check_out(out, (*WRITTEN, *RESULTS))
    files = _files(pictures or [], data)[:n_images]
    hooked = model.load()
    source = files if pictures else _as_set(files, str(data))
    description = look(hooked, source, batch_size=batch_size, progress=is_watched())
    n_left_out = len(files) - description.n_images
    blocks = description.blocks
    notes = [f"{sentence[0].upper()}{sentence[1:]}." for sentence in description.warnings]
    notes = notes or ["No outlier patches and no sinks were found in these pictures."]
    if n_left_out:
        notes.append(f"{n_left_out} of {len(files)} files could not be read as pictures and were left out.")
    hand_over(
        Answer(
            "describe",
            hooked.cfg.model_name,
            description.heads,
            {
                "n_images": description.n_images,
                "left_out": n_left_out,
                "warnings": description.warnings,
                "blocks": blocks,
                "redundant_heads": description.redundant_heads(),
            },
            [(f"{description.n_images} pictures: norms of tokens, and means over heads", _shown(description))],
            lambda: _sections(description),
            description.plot,
            f"Tokens and heads of {hooked.cfg.model_name}",
            facts={"pictures": f"{description.n_images:,}"},
            notes=notes,
            settings=description.settings,
            hooked=hooked,
            result=description,
        ),
        out,
        as_json,
    )


def _files(pictures: list[Path], data: str | None) -> list[Path]:
    """The pictures themselves, or those of the folder in the order of their paths.

    Raises:
        InputError: neither or both are given; there is no such folder, or no picture in it.
    """
    from vitlens.data.demo_files import demo_folder
    from vitlens.data.pictures import PICTURE_ENDINGS

    if bool(pictures) == (data is not None):
        raise InputError("say which pictures to describe: their files, or --data FOLDER for all in a folder")
    if data is None:
        return pictures
    folder = demo_folder() / "pictures" if data == DEMO else Path(data)
    if not folder.is_dir():
        raise InputError(f'there is no folder {folder}: --data takes a folder of pictures, or "demo"')
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_ENDINGS)
    if not found:
        raise InputError(f"{folder} holds no picture: files that end in {', '.join(PICTURE_ENDINGS)} are looked for")
    return found


def _as_set(files: list[Path], name: str) -> "PictureSet":
    """The files as a picture set without labels, whose unreadable pictures are left out."""
    from datasets import Dataset

    from vitlens.data.picture_sets import PictureSet

    def to_row(entry: dict[str, Any], index: int) -> dict[str, Any]:
        file = files[entry["place"]]
        return {"image": {"path": str(file), "bytes": None}, "label": 0, "path": printable(file)}

    places = Dataset.from_dict({"place": list(range(len(files)))})
    return PictureSet(name, places, to_row, has_masks=False, n=len(files))


def _shown(description: "Description") -> Any:
    """The columns that say most; all are in JSON."""
    blocks = description.blocks
    kinds = description.settings["kinds"]
    wanted = {
        **{f"{kind}_norm_mean": f"norm of {kind}" for kind in kinds},
        "outliers_per_image": "outlier patches",
        "mean_distance": "distance (pixels)",
        "mean_patch_entropy": "entropy (nats)",
        "mean_patch_to_class": "patch → class",
        "mean_sink_mass": "sink mass",
    }
    shown = {name: title for name, title in wanted.items() if name in blocks}
    return blocks[["block", *shown]].rename(columns=shown)


def _sections(description: "Description") -> "list[Section]":
    from vitlens.pages.description_page import description_sections

    return description_sections(description)
