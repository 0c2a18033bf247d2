"""`vitlens explore`: an interactive page about one or several pictures."""

from pathlib import Path
from typing import Annotated

import typer

from vitlens.cli.given import say_cost
from vitlens.cli.options import Blocks, Json, ModelOptions, PictureFiles, WantedClass, with_model
from vitlens.cli.output import hand_over_page
from vitlens.cli.shared import is_watched, require_classes
from vitlens.files import check_writable

#: Measured: what a picture's part of the page costs, in forwards.
PICTURE_FORWARDS = 20


@with_model
def explore(
    pictures: PictureFiles,
    wanted_class: WantedClass = None,
    block: Blocks = None,
    *,
    model: ModelOptions,
    out: Annotated[Path, typer.Option("-o", "--out", help="the page to write")] = Path("explorer.html"),
    as_json: Json = False,
) -> None:
    """Write an interactive page: click a patch, and see what the model makes of it, where it looks, and what it writes."""
    from vitlens.pages.explorer.run import write_explorer

    check_writable(out)
    hooked = model.load()
    require_classes(hooked)
    n_forwards = PICTURE_FORWARDS * len(pictures)
    say_cost(hooked, hooked.to_images(pictures[0]), n_forwards, "fewer pictures or blocks (--block) are faster")
    write_explorer(hooked, pictures, path=out, classes=wanted_class, progress=is_watched(), blocks=block or None)
    hand_over_page("explore", hooked.cfg.model_name, out, as_json)
