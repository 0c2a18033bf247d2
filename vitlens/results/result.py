"""The base class of results: a tensor with named and labelled axes, and its table, figure and file."""

import dataclasses
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from vitlens.arguments import checked
from vitlens.errors import InputError
from vitlens.results.files import pack, unpack
from vitlens.results.frames import Frame
from vitlens.results.tensor_files import read_tensors, save_tensors
from vitlens.results.writing import IMAGES, PAGES, RESULTS, TABLES, ending_of, write_figure, write_table

if TYPE_CHECKING:
    import xarray
    from plotly.graph_objects import Figure

# Longer tables take longer to make than a notebook should wait for their first rows.
LONGEST_SHOWN = 1_000_000
# How many pictures a result keeps, and the pixels of their longer side.
MOST_KEPT, LONGEST_KEPT = 16, 448
Kind = TypeVar("Kind", bound="Result")


class Drawable:
    """What has a figure of its own in `vitlens.plots`."""

    def plot(
        self,
        kind: str | None = None,
        *,
        title: str | None = None,
        colorscale: Any = None,
        width: int | None = None,
        height: int | None = None,
        **options: Any,
    ) -> "Figure":
        """A plotly figure of this result.

        Args:
            kind: of results that have several figures, which one; by default the first.
            title: in place of the figure's own.
            colorscale: a name of plotly's, such as "Cividis", or a list of colours, for maps and boards of numbers.
            width, height: in pixels.
            options: those of the figure's own function in `vitlens.plots`, such as `image` and `class_position` (places on
                the axes). An option that the figure does not have gives an error that lists those it has.

        Raises:
            InputError: no such kind, option or colour scale; a figure without a colour scale.
        """
        from vitlens.plots.figure_of import plot

        about: dict[str, Any] = {"title": title, "colorscale": colorscale, "width": width, "height": height}
        return plot(self, kind, **about, **options)


@dataclass(frozen=True, repr=False)
class Result(Drawable):
    """`values`, one axis per entry of `axes` (name → labels, in order), and the settings that made them.

    Where a result is about classes, `classes` [image, class] holds the index of the class that each position of the
    "class" axis means for each picture, and `class_names` their names. Where it is about pictures, `pixels` are the first
    16 of them (of a pair the clean one), small and as bytes of colour: what figures lie over, and no input of a model.
    """

    values: Tensor
    axes: dict[str, list]
    quantity: str
    settings: dict[str, Any] = field(default_factory=dict, kw_only=True)
    classes: Int[Tensor, "image class"] | None = field(default=None, kw_only=True)
    class_names: list[str] | None = field(default=None, kw_only=True)
    pixels: UInt8[Tensor, "picture height width 3"] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        sizes = tuple(len(labels) for labels in self.axes.values())
        if sizes != tuple(self.values.shape):
            raise ValueError(f"axes {sizes} do not fit values {tuple(self.values.shape)}")

    def columns(self) -> dict[str, Tensor]:
        """The quantities that share the axes of `values`: the value columns of the table."""
        return {self.quantity: self.values}

    def to_frame(self) -> pd.DataFrame:
        """A tidy table: one row per value, one column per axis; it prints all its columns."""
        index = pd.MultiIndex.from_product(list(self.axes.values()), names=list(self.axes))
        flat = {name: as_array(tensor.flatten()) for name, tensor in self.columns().items()}
        frame = Frame(flat, index=index).reset_index()
        if self.classes is not None and {"image", "class"} <= set(self.axes):
            image = frame["image"].map({label: i for i, label in enumerate(self.axes["image"])})
            position = frame["class"].map({label: i for i, label in enumerate(self.axes["class"])})
            indices = self.classes.cpu().numpy()[image.to_numpy(), position.to_numpy()]
            frame.insert(len(self.axes), "class_index", indices)
            if self.class_names is not None:
                frame.insert(len(self.axes) + 1, "class_name", [self.class_names[index] for index in indices])
        return frame

    def to_xarray(self) -> "xarray.Dataset":
        """A data set of xarray: the value columns over the named axes, and the settings that are plain as attributes.

        Raises:
            InputError: xarray is not installed.
        """
        try:
            import xarray
        except ImportError:
            raise InputError("xarray is not installed: pip install xarray") from None
        axes = list(self.axes)
        coordinates = {name: (name, _plain(labels)) for name, labels in self.axes.items()}
        columns = {
            name: (axes, as_array(tensor.broadcast_to(self.values.shape))) for name, tensor in self.columns().items()
        }
        about = {name: value for name, value in self.settings.items() if isinstance(value, (str, int, float))}
        return xarray.Dataset(columns, coordinates, {"quantity": self.quantity, **about})

    def class_label(self, image: int = 0, class_position: int = 0) -> str:
        """The name of the class that `class_position` along the class axis means for a picture."""
        assert self.classes is not None
        index = int(self.classes[image, class_position])
        return self.class_names[index] if self.class_names is not None else f"class {index}"

    def picture(self, image: int = 0) -> UInt8[Tensor, "height width 3"]:
        """One of the pictures that the result keeps.

        Raises:
            InputError: it keeps none of this number.
        """
        if self.pixels is None:
            raise InputError(f"this {type(self).__name__} keeps no pictures to draw over")
        if not -len(self.pixels) <= image < len(self.pixels):
            raise InputError(
                f"there is no picture {image} to draw over: the result keeps its first {len(self.pixels)}, 0 to "
                f"{len(self.pixels) - 1}"
            )
        return self.pixels[image]

    def save(self, path: str | Path, **options: Any) -> None:
        """Writes a file; its ending says which. An existing file is replaced as a whole.

        - .safetensors: everything, for `load_result`
        - .csv, .parquet, .json: the table, `to_frame()`
        - .html: the figure, `plot()`, as a page that needs no network
        - .png, .svg, .pdf: the figure as an image, by kaleido (`pip install kaleido`)

        Args:
            options: of a figure, as `plot` takes them, such as `title` and `width`.

        Raises:
            InputError: another ending; options, for a file that is no figure; the file cannot be written; kaleido is missing
                or does not run; a setting is something that no file keeps.
        """
        ending = ending_of(path, (*RESULTS, *TABLES, *PAGES, *IMAGES))
        if options and ending not in (*PAGES, *IMAGES):
            raise InputError(
                f"{next(iter(options))}= is an option of figures, and a {ending} file holds numbers: leave it out, "
                "or end the path in .html, .png, .svg or .pdf"
            )
        if ending in TABLES:
            write_table(self.to_frame(), path)
        elif ending in (*PAGES, *IMAGES):
            write_figure(self.plot(**options), path)
        else:
            tensors, rest = pack(self.content())
            # One entry: safetensors writes several in any order, and equal results are equal files.
            save_tensors(tensors, path, {_name(type(self)): rest})

    def content(self) -> dict[str, Any]:
        """What a file keeps: the arguments of the class, from which the result is made again."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}

    def to(self: Kind, device: str | torch.device) -> Kind:
        """The same with its tensors on another device."""
        tensors: dict[str, Any] = {
            name: value.to(device) for name, value in self.content().items() if isinstance(value, Tensor)
        }
        return dataclasses.replace(self, **tensors)

    def __repr__(self) -> str:
        axes = ", ".join(f"{name} {len(labels)}" for name, labels in self.axes.items())
        there = self.values[~self.values.isnan()] if self.values.is_floating_point() else self.values
        low, high = (x.item() for x in torch.aminmax(there)) if there.numel() else (0, 0)
        return f"{type(self).__name__}({self.quantity} [{axes}], {low:.3g} to {high:.3g})"

    def _repr_html_(self) -> str:
        """What a notebook shows: axes, settings, and how the table begins where it is not too long to make."""
        facts = {name: f"{len(labels)}: {_ends(labels)}" for name, labels in self.axes.items()}
        facts |= {str(name): str(value) for name, value in self.settings.items()}
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(fact)}</td></tr>" for name, fact in facts.items())
        table = ""
        if 0 < self.values.numel() <= LONGEST_SHOWN:
            table = self.to_frame().head().to_html(index=False, border=0)
        return f"<div><code>{escape(repr(self))}</code><table>{rows}</table>{table}</div>"


@checked
def load_result(path: str | Path, expected: type[Kind] = Result) -> Kind:  # type: ignore[assignment]
    """Reads what `save` wrote, as the kind of result that it was.

    Args:
        expected: refuse a result of another kind.

    Raises:
        InputError: there is no such file, it is cut off, or it holds no result or one of another kind.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> vitlens.class_lens(model, images[:1], "bag").save("bag.safetensors")
        >>> vitlens.load_result("bag.safetensors").axes["class"]
        ['bag']
    """
    tensors, metadata = read_tensors(path)
    name, fields = next(iter(metadata.items()), (None, ""))
    kind = _kind(name)
    if kind is None:
        raise InputError(f"{path} is no saved vitlens result")
    if not issubclass(kind, expected):
        raise InputError(f"{path} holds a {kind.__name__}, not a {expected.__name__}")
    try:
        return kind(**unpack(tensors, fields))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} holds a {kind.__name__} of another version of vitlens, or a broken one: {error}"
        ) from None


def _plain(labels: list) -> np.ndarray:
    """Labels as coordinates: text and numbers as they are, what is neither as text."""
    if all(isinstance(label, str) for label in labels):
        return np.array([str(label) for label in labels], dtype=object)
    if all(isinstance(label, (int, float)) for label in labels):
        return np.array(labels)
    return np.array([str(label) for label in labels], dtype=object)


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor's numbers for a table, on the CPU; NumPy has no bfloat16."""
    here = tensor.detach().cpu()
    return (here.float() if here.dtype == torch.bfloat16 else here).numpy()


def _ends(labels: list) -> str:
    """The first and the last labels, as short text."""
    shown = labels if len(labels) <= 4 else [*labels[:2], "…", labels[-1]]
    return ", ".join(text if len(text) <= 60 else text[:59] + "…" for text in map(str, shown))


def _name(kind: type[Result]) -> str:
    """What a file calls a kind of result: a chapter and its public name, such as "vitlens.lens.ClassLens"; a user's own
    kind by its name alone."""
    package, *chapter = kind.__module__.split(".")[:2]
    return f"{package}.{chapter[0]}.{kind.__name__}" if package == "vitlens" and chapter else kind.__name__


def _kind(name: str | None) -> type[Result] | None:
    """The kind of result of this name: one of vitlens', whose chapter is imported, or one that the user has defined."""
    if name is None:
        return None
    package, *rest = name.split(".")
    if package == "vitlens" and len(rest) == 2:
        with suppress(ImportError, ValueError):
            found = getattr(import_module(f"vitlens.{rest[0]}"), rest[1], None)
            return found if isinstance(found, type) and issubclass(found, Result) else None
    return next((kind for kind in _subclasses(Result) if kind.__name__ == name), None)


def _subclasses(kind: type[Result]) -> list[type[Result]]:
    found: list[type[Result]] = []
    for direct in kind.__subclasses__():
        found += [direct, *_subclasses(direct)]
    return found
