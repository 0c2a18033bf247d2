"""`vitlens names`: what heads, neurons or features are called, in words of a list."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitlens.cli.given import as_picture_set, load_dictionary, picture_files
from vitlens.cli.names import METHODS_OF_NAMING, NAMED_PARTS, one_of
from vitlens.cli.options import (
    BatchSize,
    Blocks,
    DataFolder,
    Json,
    ModelOptions,
    ResultOut,
    SomePictureFiles,
    with_model,
)
from vitlens.cli.output import WRITTEN, Answer, check_out, hand_over
from vitlens.cli.shared import is_watched
from vitlens.cli.texts import Templates, Tower, load_with_tower, whole_templates
from vitlens.errors import InputError
from vitlens.results.writing import RESULTS

if TYPE_CHECKING:
    from vitlens.text.names.features import FeatureNames
    from vitlens.text.names.heads import HeadNames
    from vitlens.text.names.neurons import NeuronNames

    Names = HeadNames | NeuronNames | FeatureNames

#: So many rows are shown on a terminal, those with names first; all are in the file and in JSON.
SHOWN = 30
#: Which options belong to which kind of parts.
BELONGS = {
    "block": ("heads", "neurons"), "order": ("neurons",), "neuron": ("neurons",), "dictionary": ("features",),
    "hook": ("features",), "feature": ("features",), "method": ("features",),
}  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """What the options say of the parts that get names; None where an option was not given."""

    block: list[int] | None
    order: int | None
    neuron: list[int] | None
    dictionary: Path | None
    hook: str | None
    feature: list[int] | None
    method: str | None

    def call(self, of: str) -> Callable[..., "Names"]:
        """The library's call with what belongs to it.

        Raises:
            InputError: no such parts; an option of other parts; neurons of several blocks.
        """
        if of not in NAMED_PARTS:
            raise InputError(f"--of is one of {', '.join(NAMED_PARTS)}, not {of!r}")
        for option, kinds in BELONGS.items():
            if getattr(self, option) is not None and of not in kinds:
                raise InputError(f"--{option} goes with --of {' or '.join(kinds)}, not with --of {of}")
        calls: dict[str, Callable[..., Names]] = {
            "heads": self._heads, "neurons": self._neurons, "features": self._features,
        }  # fmt: skip
        return calls[of]

    def _heads(self, *given: Any, **about: Any) -> "HeadNames":
        from vitlens.text.names.heads import name_heads

        return name_heads(*given, blocks=self.block, **about)

    def _neurons(self, *given: Any, **about: Any) -> "NeuronNames":
        from vitlens.text.names.neurons import name_neurons

        order = 2 if self.order is None else self.order
        return name_neurons(*given, block=self.one_block(), order=order, neurons=self.neuron, **about)

    def _features(self, *given: Any, **about: Any) -> "FeatureNames":
        from vitlens.text.names.features import name_features

        sae = None if self.dictionary is None else load_dictionary(self.dictionary)
        method = "wpmi" if self.method is None else self.method
        return name_features(*given, sae=sae, hook=self.hook, features=self.feature, method=method, **about)

    def one_block(self) -> int:
        """The block whose neurons get names.

        Raises:
            InputError: none, or several.
        """
        if self.block is None or len(self.block) != 1:
            raise InputError("--of neurons names those of one block: say which, as in --block 9")
        return self.block[0]

    def check(self, of: str) -> None:
        """Raises InputError before the model is loaded for what no model could answer."""
        self.call(of)
        if of == "neurons":
            self.one_block()
        if of == "features" and self.dictionary is None and self.hook is None:
            raise InputError(
                "--of features names those of --dictionary PATH, or the units of a hook point: --hook post9"
            )


@with_model
def names(
    pictures: SomePictureFiles = None,
    data: DataFolder = None,
    of: Annotated[
        str, typer.Option(help=f"what gets names: {', '.join(NAMED_PARTS)}", autocompletion=one_of(*NAMED_PARTS))
    ] = NAMED_PARTS[0],
    vocabulary: Annotated[
        str, typer.Option(help='the texts to choose from: "plain", the list of vitlens, or a file, one text per line')
    ] = "plain",
    category: Annotated[str | None, typer.Option(help="only the texts of this category", show_default=False)] = None,
    template: Templates = None,
    tower: Tower = None,
    block: Blocks = None,
    order: Annotated[
        int | None,
        typer.Option(
            min=1, max=2, show_default=False,
            help="of neurons: 1 what they write directly, 2 what later heads make of it [default: 2]",
        ),
    ] = None,
    neuron: Annotated[
        list[int] | None, typer.Option(help="a neuron; several times [default: all of the block]", show_default=False)
    ] = None,
    dictionary: Annotated[
        Path | None,
        typer.Option(help="a sparse autoencoder or transcoder, as `load_sae` reads it", show_default=False),
    ] = None,
    hook: Annotated[
        str | None,
        typer.Option(
            help="where the dictionary reads; or without one the hook point whose units get names, such as post9",
            show_default=False,
        ),
    ] = None,
    feature: Annotated[
        list[int] | None, typer.Option(help="a feature or unit; several times [default: all]", show_default=False)
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"how texts of features are scored: {', '.join(METHODS_OF_NAMING)} [default: wpmi]",
            autocompletion=one_of(*METHODS_OF_NAMING), show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="how many texts for each")] = 5,
    *,
    model: ModelOptions,
    batch_size: BatchSize = 16,
    out: ResultOut = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Name heads, neurons or features by texts of a list, with a model that was trained with text (CLIP, SigLIP)."""
    from vitlens.text.tower import read_templates
    from vitlens.text.vocabulary import load_vocabulary

    check_out(out, (*WRITTEN, *RESULTS))
    parts = Parts(block, order, neuron, dictionary, hook, feature, method)
    parts.check(of)
    files = picture_files(pictures or [], data)
    texts = load_vocabulary(vocabulary, category)
    if top > len(texts):
        raise InputError(f"--top {top} texts cannot be chosen among {len(texts)}: ask for fewer, or name more")
    templates = whole_templates(template)
    sentences = read_templates(templates) if templates else None
    hooked = load_with_tower(model, tower)
    reader: Any = copy(hooked.text_tower)
    if sentences is not None:
        reader.templates = sentences
    found = parts.call(of)(
        hooked, files if pictures else as_picture_set(files, str(data)), texts,
        tower=reader, k=top, batch_size=batch_size, progress=is_watched(),
    )  # fmt: skip
    hand_over(_answer(found, of, hooked, list(reader.templates)), out, as_json)


def _answer(found: "Names", of: str, hooked: Any, templates: list[str]) -> Answer:
    table = found.table()
    is_nameless = table["names"].isin(["", "–"])
    shown = table.assign(nameless=is_nameless).sort_values("nameless", kind="stable").drop(columns="nameless")
    n_named = sum(map(bool, found.names.values()))
    return Answer(
        "names",
        hooked.cfg.model_name,
        found.to_frame(),
        {"names": table},
        [(f"{n_named} of {len(table)} {of} have a name", shown.head(SHOWN).reset_index(drop=True))],
        lambda: _sections(found, of),
        found.plot,
        f"Names of {of} of {hooked.cfg.model_name}",
        facts={
            "pictures": f"{found.settings['pictures'] + found.settings.get('pictures held out', 0):,}",
            "texts": f"{len(found.vocabulary):,}",
            "templates": ", ".join(templates),
        },
        notes=["a name is withheld where any text would do as well by chance: p or p_turned above 0.05"],
        settings=found.settings | {"templates": templates},
        hooked=hooked,
        result=found,
    )


def _sections(found: "Names", of: str) -> list[Any]:
    from vitlens.pages.page import Section

    return [Section(f"Names of {of}", figures=[found.plot()])]
