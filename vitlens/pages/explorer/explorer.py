"""The object that `explore` returns: measurements, the current selection, and ways to show it."""

import html
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.files import check_writable, write_whole
from vitlens.model.hooked_vit import HookedViT
from vitlens.pages.explorer.facts import joined_facts
from vitlens.pages.explorer.intervene import decision, describe_effect, intervene, remove_marked, replaced_by
from vitlens.pages.explorer.page import explorer_page
from vitlens.pages.explorer.selection import Selection
from vitlens.patching.results import Intervention
from vitlens.removal.tokens import TokenAblation

if TYPE_CHECKING:
    from vitlens.pages.explorer.widget import ExplorerWidget


class Explorer:
    """Pictures, all that was measured of them, and what is chosen; see `explore`.

    In a notebook with anywidget installed the choices follow the clicks, and setting one moves the widget; elsewhere they
    say how the page opens.
    """

    def __init__(
        self,
        model: HookedViT,
        images: Float[Tensor, "image channels height width"],
        pictures: list[bytes],
        facts: dict[str, Any],
        selection: Selection,
    ) -> None:
        self.model = model
        self.images = images
        self.pictures = pictures
        self.facts = facts
        self.selection = selection
        self.effect: dict[str, Any] | None = None

    # ---- what is chosen ------------------------------------------------------------------------------------------

    @property
    def selected_picture(self) -> int:
        """The number of the picture shown."""
        return self.selection.picture

    @selected_picture.setter
    def selected_picture(self, picture: int) -> None:
        self._choose("picture", picture)

    @property
    def selected_token(self) -> int:
        """The chosen token: the prefix tokens come first, then the patches row by row."""
        return self.selection.token

    @selected_token.setter
    def selected_token(self, token: int) -> None:
        self._choose("token", token)

    @property
    def selected_block(self) -> int:
        """The chosen block."""
        return self.selection.block

    @selected_block.setter
    def selected_block(self, block: int) -> None:
        self._choose("block", block)

    @property
    def selected_head(self) -> int | None:
        """The chosen head; None: all heads of the block, their mean attention and the sum of their contributions."""
        return self.selection.head

    @selected_head.setter
    def selected_head(self, head: int | None) -> None:
        self._choose("head", head)

    @property
    def selected_class(self) -> int:
        """The index of the chosen class.

        Raises:
            InputError: there is none, in a model without a classifier.
        """
        if self.selection.wanted_class is not None:
            return self.selection.wanted_class
        self.model.require_classifier()
        return self.selection.limits.classes[self.selection.picture][0]

    @selected_class.setter
    def selected_class(self, wanted: int | str) -> None:
        self._choose("wanted_class", self.model.class_index(wanted))

    @property
    def selected_baseline(self) -> int | None:
        """The class whose logit is subtracted; None for none."""
        return self.selection.baseline_class

    @selected_baseline.setter
    def selected_baseline(self, baseline: int | str | None) -> None:
        self._choose("baseline_class", None if baseline is None else self.model.class_index(baseline))

    @property
    def marked_tokens(self) -> list[int]:
        """The tokens that `patch` is about, marked with Shift and a click; without marks it is the chosen one."""
        return self.selection.marked

    @marked_tokens.setter
    def marked_tokens(self, tokens: Sequence[int]) -> None:
        self._choose("marked", list(tokens))

    def _choose(self, name: str, value: Any) -> None:
        self.selection.choose(name, value)
        if "widget" in self.__dict__:
            self.widget.show(self.selection)

    # ---- interventions -------------------------------------------------------------------------------------------

    def patch(
        self,
        source: int | Pictures | None = None,
        *,
        site: str = "resid_pre",
        replacement: str = "zero",
        **options: Any,
    ) -> Intervention:
        """What the chosen class loses when the marked tokens are changed, block by block; the explorer shows it too.

        Args:
            source: a picture (or the number of one of the explorer's) whose activations are put in their place
                (`activation_patching`); None: they are ablated (`activation_ablation`).
            site: of which activation.
            replacement: of the ablation, as there; "mean" is the mean over all pictures of the explorer.
            options: all else that those functions take, such as `blocks`.

        Returns:
            Ablation or Patching with axes block, tokens, image, of the class's logit or of the chosen difference.

        Raises:
            InputError: as those functions.
        """
        self._require_one_run()
        if isinstance(source, int):
            self.selection.limits.check("picture", source)
            source = self.images[source : source + 1]
        put_in = replaced_by(self, source, site, replacement)
        result = intervene(self, source, site, put_in, options)
        told = describe_effect(self, result, "patched" if source is not None else f"replaced by {replacement}")
        if not options.keys() - {"blocks", "tokens"}:
            told |= decision(self, result, source, site, put_in)
        self._show_effect(told)
        return result

    def remove(self) -> TokenAblation:
        """What the model answers without the marked patches, which leave the sequence; the explorer shows it too.

        Returns:
            TokenAblation of the chosen class, as `ablate_tokens` gives it.

        Raises:
            InputError: a prefix token is marked, or chosen while nothing is marked; a model without a classifier, or with a
                single output.
        """
        self._require_one_run()
        result, effect = remove_marked(self)
        self._show_effect(effect)
        return result

    def _require_one_run(self) -> None:
        if len(self.images) != len(self.pictures):
            raise InputError("this explorer shows two runs: patch and remove with the explorer of one of them")

    def _show_effect(self, effect: dict[str, Any]) -> None:
        self.effect = effect
        if "widget" in self.__dict__:
            self.widget.effect = effect

    # ---- two runs ------------------------------------------------------------------------------------------------

    def beside(self, other: "Explorer") -> "Explorer":
        """One page of both, whose pictures can be compared: of a run before and after an edit, or of two models.

        Args:
            other: an explorer of the same grid, blocks, heads and classes, such as one made inside `model.hooks`.

        Returns:
            Explorer of the pictures of both; `patch` and `remove` are those of each by itself.

        Raises:
            InputError: explorers that differ in grid, blocks, heads or classes.
        """
        facts = joined_facts(self.facts, other.facts)
        classes = [picture["classes"] for picture in facts["pictures"]]
        limits = replace(self.selection.limits, n_pictures=len(classes), classes=classes)
        pictures = [*self.pictures, *other.pictures]
        return Explorer(self.model, self.images, pictures, facts, replace(self.selection, limits=limits))

    # ---- showing -------------------------------------------------------------------------------------------------

    def to_html(self) -> str:
        """The page as text."""
        return explorer_page(self.facts | {"selection": self.selection.as_json(), "effect": self.effect}, self.pictures)

    def save(self, path: str | Path) -> None:
        """Writes the page: one HTML file that needs no network.

        Raises:
            InputError: the folder does not exist or cannot be written to.
        """
        check_writable(path)
        write_whole(path, self.to_html().encode())

    @cached_property
    def widget(self) -> "ExplorerWidget":
        """The live widget of a notebook.

        Raises:
            InputError: anywidget is not installed.
        """
        if find_spec("anywidget") is None:
            raise InputError("the live explorer needs anywidget: pip install anywidget")
        from vitlens.pages.explorer.widget import ExplorerWidget

        return ExplorerWidget(self)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, for where there is no widget."""
        return (
            f'<iframe srcdoc="{html.escape(self.to_html())}" title="vitlens explorer" '
            'style="width: 100%; height: 900px; border: 0"></iframe>'
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None, **_: Any) -> Any:
        if find_spec("anywidget") is None:
            return {"text/plain": repr(self), "text/html": self._repr_html_()}
        bundle = self.widget._repr_mimebundle_()
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        # Without text/html of its own IPython would add the whole page to the notebook, beside the widget.
        note = "<p>This explorer is live in a notebook; <code>explorer.save(…)</code> writes it as a page.</p>"
        return {**(data or {}), "text/plain": repr(self), "text/html": note}, metadata

    def __repr__(self) -> str:
        size = sum(map(len, self.pictures)) / 2**20
        return (
            f"Explorer({self.model.cfg.model_name}: {len(self.pictures)} pictures × {len(self.facts['blocks'])} blocks × "
            f"{self.model.cfg.n_heads} heads, {size:.1f} MiB; .save(path) writes the page)"
        )
