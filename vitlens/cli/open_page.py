"""`vitlens open`, also called `vitlens report` and `vitlens explore`: the page about one or several pictures."""

from pathlib import Path
from typing import Annotated

import typer

from vitlens.cli.given import load_dictionary, say_cost
from vitlens.cli.options import Json, ModelOptions, PictureFiles, WantedClass, files_are_there, with_model
from vitlens.cli.output import hand_over_page
from vitlens.cli.shared import is_watched
from vitlens.cli.texts import AskedTexts, Tower, load_asked
from vitlens.errors import InputError
from vitlens.files import check_writable

#: Its names: one command, whichever is typed.
NAMES = ("open", "report", "explore")
#: Measured: what a picture's part of the page costs in forwards, beside one for each patch and a half for each other part.
PICTURE_FORWARDS = 150


@with_model
def open_page(
    pictures: PictureFiles,
    wanted_class: WantedClass = None,
    text: AskedTexts = None,
    tower: Tower = None,
    head: Annotated[
        str | None, typer.Option(help="head to show first, as L9H3 [default: the one that writes most]")
    ] = None,
    block: Annotated[
        int | None, typer.Option(help="block to show first, all its heads together; -1 is the last", show_default=False)
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="one more picture: what its patches, heads and MLPs do in the others' place", callback=files_are_there
        ),
    ] = None,
    description: Annotated[
        Path | None,
        typer.Option(
            help="facts about heads and MLPs over a data set, as `vitlens describe -o FILE.safetensors` writes them",
            show_default=False,
        ),
    ] = None,
    dictionary: Annotated[
        Path | None,
        typer.Option(help="a sparse autoencoder or transcoder, as `load_sae` reads it", show_default=False),
    ] = None,
    hook: Annotated[
        str | None, typer.Option(help="where the dictionary reads [default: where it was trained]", show_default=False)
    ] = None,
    n_runs: Annotated[
        int,
        typer.Option(min=1, help="most removals of a picture; beyond, parts are estimated and patches leave in boxes"),
    ] = 1000,
    *,
    model: ModelOptions,
    out: Annotated[Path, typer.Option("-o", "--out", help="the page to write")] = Path("page.html"),
    as_json: Json = False,
) -> None:
    """Write a page about pictures: the answer, when and by which parts it is decided, and what their removal does."""
    from vitlens.description.result import Description
    from vitlens.pages.explorer.run import explore
    from vitlens.results.result import load_result

    check_writable(out)
    if head is not None and block is not None:
        raise InputError("--head names its block already: leave --block out")
    if hook is not None and dictionary is None:
        raise InputError("--hook says where a dictionary reads: pass it with --dictionary")
    described = None if description is None else load_result(description, Description)
    sae = None if dictionary is None else load_dictionary(dictionary)
    asked = load_asked(model, wanted_class, text, tower=tower)
    hooked = asked.model
    first_block = None if block is None else hooked.block_index(block)
    n_shown = len(pictures) + (against is not None)
    images = hooked.to_images(pictures[0])
    n_patches = images.shape[-2] * images.shape[-1] // (hooked.cfg.patch_size[0] * hooked.cfg.patch_size[1])
    n_parts = hooked.cfg.n_layers * (hooked.cfg.n_heads + 1)
    n_removals = n_patches + n_parts // 2 if n_patches + n_parts <= n_runs else min(n_patches, n_runs)
    fewer = f"fewer pictures, or fewer removals (--n-runs {max(1, n_removals // 4)}), are faster"
    n_swaps = 0 if against is None else n_removals * len(pictures)
    say_cost(hooked, images, (PICTURE_FORWARDS + n_removals) * n_shown + n_swaps, fewer)
    explorer = explore(
        hooked, pictures, asked.classes, head=head, against=against, description=described, sae=sae, hook=hook,
        n_runs=n_runs, progress=is_watched(),
    )  # fmt: skip
    if first_block is not None:
        explorer.selected_block, explorer.selected_head = first_block, None
    explorer.save(out)
    hand_over_page("open", hooked.cfg.model_name, out, as_json)
