"""`vitlens lens`: the class lens, which shows what the model would predict from the tokens after each block."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitlens.cli.given import TOKENS_HELP, artefacts_on_page, called, in_batches, name_pictures, read_tokens
from vitlens.cli.names import LENS_SITES, TOKENS, class_names, one_of
from vitlens.cli.options import BatchSize, Blocks, Json, ModelOptions, Out, PictureFiles, with_model
from vitlens.cli.output import MOST_ON_PAGE, Answer, check_out, hand_over
from vitlens.cli.shared import require_classes
from vitlens.cli.texts import AskedTexts, Tower, load_asked
from vitlens.errors import InputError, printable

if TYPE_CHECKING:
    from torch import Tensor

    from vitlens.lens.lens import ClassLens
    from vitlens.pages.page import Section

#: One figure shows the lines of at most this many tokens.
MOST_LINES = 6


@with_model
def lens(
    pictures: PictureFiles,
    site: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(LENS_SITES)}, or all; several times [default: resid_post]",
            autocompletion=one_of(*LENS_SITES, "all"), show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens", "--token", help=f"{', '.join(TOKENS)}, {TOKENS_HELP} [default: what the classifier reads]",
            autocompletion=one_of(*TOKENS), show_default=False,
        ),
    ] = None,
    block: Blocks = None,
    wanted_class: Annotated[
        list[str] | None,
        typer.Option(
            "--class", help="name or index of a class; several times [default: the predicted one]",
            autocompletion=class_names, show_default=False,
        ),
    ] = None,
    text: AskedTexts = None,
    tower: Tower = None,
    top: Annotated[int, typer.Option(min=1, help="how many of the first classes to name")] = 5,
    *,
    model: ModelOptions,
    batch_size: BatchSize = 16,
    out: Out = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Read hidden states as if they were the last: logit, rank, probability of a class, and the first classes, by block.

    A model whose outputs are numbers has logits alone; see --output.
    """
    import pandas as pd

    from vitlens.lens.lens import class_lens

    check_out(out)
    chosen = None if tokens is None else read_tokens(tokens)
    if isinstance(chosen, str) and chosen in ("object", "context"):
        raise InputError(f"a lens reads the same tokens of every picture, not the {chosen}: try --tokens box:4,4,6,6")
    asked = load_asked(model, wanted_class, text, tower=tower)
    hooked = asked.model
    require_classes(hooked)
    if chosen is None:
        chosen = "class" if hooked.cfg.pool == "token" and not hooked.is_distilled else "pooled"
    sites = "all" if "all" in (site or []) else site or "resid_post"
    found = []
    marked: list[Tensor] = []
    for start, images in in_batches(hooked, pictures, batch_size, "lens"):
        one = class_lens(
            hooked,
            images,
            asked.classes,
            sites=sites,
            blocks=block or None,
            tokens=chosen,
            k=top,
            batch_size=batch_size,
            progress=False,
        )
        found.append((start, one))
        marked += artefacts_on_page(hooked, images, start, out, batch_size)
    blocks = pd.DataFrame(row for start, one in found for row in _rows(one, pictures[start:], top))
    first = found[0][1]
    said = first.axes["token"]
    where = f"{said[0]} token" if len(said) == 1 else f"mean over {len(said)} tokens"
    hand_over(
        Answer(
            "lens",
            hooked.cfg.model_name,
            pd.concat([name_pictures(one.to_frame(), pictures, start) for start, one in found], ignore_index=True),
            {"blocks": blocks},
            [
                (f"{picture}: class lens, {where}", _shown(rows))
                for picture, rows in blocks.groupby("picture", sort=False)
            ],
            lambda: _sections(found, marked, pictures),
            lambda: _sections(found, marked, pictures)[0].figures[0],
            f"Class lens of {called(pictures)} through {hooked.cfg.model_name}",
            facts={"pictures": str(len(pictures)), "tokens": where, "sites": ", ".join(first.axes["site"])},
            notes=[] if first.ranks is None else ["rank: how many classes have a larger logit, 0 is best"],
            settings=first.settings | {"sites": first.axes["site"], "tokens": tokens or str(chosen)},
            hooked=hooked,
        ),
        out,
        as_json,
    )


def _rows(lens: "ClassLens", pictures: list[Path], top: int) -> list[dict[str, Any]]:
    """A row for every picture, site, block and class: the means over the tokens."""
    means = {name: values.double().mean(dim=3) for name, values in lens.columns().items()}
    rows = []
    for i, image in enumerate(lens.axes["image"]):
        for s, site in enumerate(lens.axes["site"]):
            for b, block in enumerate(lens.axes["block"]):
                first = {} if lens.ranks is None else {"first_classes": _first_classes(lens, (s, b, i), top)}
                rows += [
                    {
                        "picture": printable(pictures[image]),
                        "site": site,
                        "block": block,
                        "class": lens.class_label(i, c),
                        **{name: values[s, b, i, c].item() for name, values in means.items()},
                        **first,
                    }
                    for c in range(len(lens.axes["class"]))
                ]
    return rows


def _first_classes(lens: "ClassLens", place: tuple[int, int, int], top: int) -> list[dict[str, Any]]:
    """The best classes of one token with their logits; of several tokens the commonest first ones with their shares."""
    site, block, image = place
    ranked = lens.ranked()
    if len(lens.axes["token"]) == 1:
        names = lens.top_names(block, 0, image, lens.axes["site"][site])
        logits = ranked.top_logits[site, block, image, 0].tolist()
        return [{"class": name, "logit": logit} for name, logit in zip(names, logits, strict=True)]
    best = Counter(ranked.top_classes[site, block, image, :, 0].tolist())
    return [
        {"class": lens.class_names[index] if lens.class_names else f"class {index}", "share": n / best.total()}
        for index, n in best.most_common(top)
    ]


def _shown(rows: Any) -> Any:
    """For a terminal: the first classes by name, and the site only where there are several."""
    from vitlens.data.class_names import short_name

    hidden = ["picture", *(["site"] if rows["site"].nunique() == 1 else [])]
    columns = {"class": rows["class"].map(short_name)}
    if "first_classes" in rows:
        hidden += ["identifiability", "first_classes"]
        columns["first classes"] = [
            [short_name(item["class"]) + (f" {item['share']:.0%}" if "share" in item else "") for item in row]
            for row in rows["first_classes"]
        ]
    return rows.assign(**columns).drop(columns=hidden)


def _sections(found: "list[tuple[int, ClassLens]]", artefacts: "list[Tensor]", pictures: list[Path]) -> "list[Section]":
    """For every picture the class over the patches, where all were read, else the curves of its tokens."""
    from vitlens.pages.page import Section
    from vitlens.plots import class_maps, lens_trajectory
    from vitlens.plots.shared.artefacts import hatch

    sections = []
    for (start, lens), marked in zip(found, artefacts, strict=False):
        n_tokens = len(lens.axes["token"])
        has_maps = sum(label.kind == "patch" for label in lens.axes["token"]) == lens.grid[0] * lens.grid[1]
        for image in range(min(len(lens.axes["image"]), MOST_ON_PAGE - start)):
            figures = [
                hatch(class_maps(lens, image, class_position, site=site), marked[image])
                if has_maps
                else lens_trajectory(lens, image, list(range(min(n_tokens, MOST_LINES))), site)
                for site in lens.axes["site"]
                for class_position in (range(len(lens.axes["class"])) if has_maps else [0])
            ]
            sections.append(Section(printable(pictures[start + image].name), figures=list(figures)))
    return sections
