"""`vitlens describe`: token norms, attention and sinks of a model over many pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitlens.cli.given import as_picture_set, picture_files
from vitlens.cli.options import BatchSize, DataFolder, Json, ModelOptions, SomePictureFiles, with_model
from vitlens.cli.output import WRITTEN, Answer, check_out, hand_over
from vitlens.cli.shared import is_watched
from vitlens.results.writing import RESULTS

if TYPE_CHECKING:
    from vitlens.description.result import Description
    from vitlens.pages.page import Section


@with_model
def describe(
    pictures: SomePictureFiles = None,
    data: DataFolder = None,
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
    files = picture_files(pictures or [], data)[:n_images]
    hooked = model.load()
    source = files if pictures else as_picture_set(files, str(data))
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
