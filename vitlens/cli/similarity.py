"""`vitlens similarity`: which patches are alike, within pictures and between them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitlens.cli.given import TOKENS_HELP, called, name_pictures, read_tokens
from vitlens.cli.names import TOKENS, one_of
from vitlens.cli.options import BatchSize, Json, ModelOptions, Out, PictureFiles, with_model
from vitlens.cli.output import MOST_ON_PAGE, Answer, check_out, hand_over
from vitlens.errors import InputError, printable

if TYPE_CHECKING:
    from vitlens.similarity.results import NearestPatches, PatchPCA, PatchSimilarity

METHODS = ("cosine", "dot_product")


@with_model
def similarity(
    pictures: PictureFiles,
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens", "--token",
            help=f"compare every patch with these tokens of its picture: {', '.join(TOKENS)}, {TOKENS_HELP} "
            "[default: components of all patches, and nearest patches of the first picture in the others]",
            autocompletion=one_of(*TOKENS), show_default=False,
        ),
    ] = None,
    hook: Annotated[
        str | None,
        typer.Option(
            help="where the vectors are read, such as resid_post5 or k5 [default: final patch tokens]", show_default=False
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help=f"how vectors are compared: {', '.join(METHODS)}", autocompletion=one_of(*METHODS))
    ] = "cosine",
    foreground: Annotated[
        bool, typer.Option("--foreground", help="components of the foreground alone, found by the first component of all")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="how many pairs or patches to name")] = 8,
    *,
    model: ModelOptions,
    batch_size: BatchSize = 16,
    out: Out = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Show which patches are alike: components of all patches as colours, nearest patches, or likeness to chosen tokens."""
    from vitlens.similarity.components import patch_pca
    from vitlens.similarity.maps import patch_similarity
    from vitlens.similarity.matches import nearest_patches

    check_out(out)
    queries = None if tokens is None else read_tokens(tokens)
    if foreground and queries is not None:
        raise InputError("--foreground is about components, and --tokens asks for likeness: name one of them")
    hooked = model.load()
    about: dict[str, Any] = {"hook": hook, "batch_size": batch_size}
    if queries is not None:
        like = patch_similarity(hooked, pictures, queries=queries, method=method, **about)
        answer = _answer_of_queries(like, pictures, top)
    else:
        pca = patch_pca(hooked, pictures, foreground=foreground, **about)
        first, others = pictures[:1], pictures[1:]
        matches = (
            nearest_patches(hooked, first * len(others), others=others, method=method, **about) if others else None
        )
        answer = _answer_of_all(pca, matches, pictures, top)
    answer.hooked = hooked
    hand_over(answer, out, as_json)


def _answer_of_queries(like: "PatchSimilarity", pictures: list[Path], top: int) -> Answer:
    import pandas as pd

    from vitlens.plots.similarity import similarity_map

    rows = name_pictures(like.to_frame(), pictures)
    best = [
        (name, of_one.nlargest(top, "similarity")[["patch", "similarity"]])
        for name, of_one in rows.groupby("picture", sort=False)
    ]
    model_name, queries = like.settings["model"], like.settings["queries"]
    return Answer(
        "similarity",
        model_name,
        rows,
        {"top": pd.concat([table.assign(picture=name) for name, table in best], ignore_index=True)},
        [(f"{name}: patches most like {queries}", table) for name, table in best],
        lambda: _sections([similarity_map(like, i) for i in range(min(len(pictures), MOST_ON_PAGE))], pictures),
        lambda: similarity_map(like),
        f"Patches like {queries}, {called(pictures)} through {model_name}",
        facts={
            "pictures": str(len(pictures)),
            "vectors": like.settings["hook"],
            "compared by": like.settings["method"],
        },
        settings=like.settings,
    )


def _answer_of_all(pca: "PatchPCA", matches: "NearestPatches | None", pictures: list[Path], top: int) -> Answer:
    import pandas as pd

    from vitlens.plots.similarity import joined_patches, pca_colours

    names, model_name = [printable(picture) for picture in pictures], pca.settings["model"]
    shares = pd.DataFrame(
        {"component": pca.axes["principal_component"], "share of the variance": pca.variance_shares.tolist()}
    )
    pairs = [
        {"picture": names[0], "other": other, "patch": str(patch), "other_patch": str(there), "similarity": value}
        for i, other in enumerate(names[1:])
        for patch, there, value in (matches.pairs(i, top) if matches else [])
    ]
    tables = pd.DataFrame(pairs).groupby("other", sort=False) if pairs else []
    return Answer(
        "similarity",
        model_name,
        name_pictures(pca.to_frame(), pictures),
        {"components": shares, "pairs": pairs},
        [
            ("components of all patches", shares),
            *[
                (f"{names[0]} and {other}: patches nearest to one another", table.drop(columns=["picture", "other"]))
                for other, table in tables
            ],
        ],
        lambda: [
            *_sections([pca_colours(pca)], [Path("Components")]),
            *_sections(
                [joined_patches(matches, i) for i in range(min(len(pictures) - 1, MOST_ON_PAGE))] if matches else [],
                pictures[1:],
            ),
        ],
        lambda: pca_colours(pca),
        f"Patches of {called(pictures)} through {model_name}",
        facts={"pictures": str(len(pictures)), "vectors": pca.settings["hook"]},
        notes=[f"{int(pca.outliers.sum())} outlier patches of {pca.outliers.numel()} are left out"],
        settings=pca.settings,
    )


def _sections(figures: list[Any], pictures: list[Path]) -> list[Any]:
    from vitlens.pages.page import Section

    return [
        Section(printable(picture.name), figures=[figure]) for figure, picture in zip(figures, pictures, strict=False)
    ]
