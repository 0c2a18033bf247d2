"""The arguments and options that commands share, each with one name, one meaning and one sentence of help."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitlens.cli.names import INTERPOLATIONS, OUTPUT_KINDS, class_names, dtype_names, model_names, one_of
from vitlens.cli.shared import DEMO, load_model
from vitlens.errors import InputError
from vitlens.files import check_picture_file

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT

NUMBER = re.compile(r"\d*\.\d+")


def files_are_there(paths: Any) -> Any:
    """Checks that paths are files, so that a missing picture is found before the model is loaded."""
    for path in paths if isinstance(paths, (list, tuple)) else [paths]:
        if path is None:
            continue
        if NUMBER.fullmatch(str(path)) and not path.exists():
            raise InputError(
                f"there is no file {path}: several numbers of one option are written with commas, as in "
                "--mean 0.485,0.456,0.406"
            )
        check_picture_file(path)
    return paths


PictureFiles = Annotated[
    list[Path],
    typer.Argument(metavar="PICTURE...", help="the pictures", show_default=False, callback=files_are_there),
]
SomePictureFiles = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[PICTURE...]", help="the pictures", show_default=False, callback=files_are_there),
]
DataFolder = Annotated[
    str | None,
    typer.Option("--data", help='instead: a folder, with all pictures in it, or "demo"', show_default=False),
]
Model = Annotated[
    str,
    typer.Option(help='a timm name such as vit_base_patch16_224, or "demo"', autocompletion=model_names),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="your own weights: a file (safetensors, or a .pth of tensors) or a folder; without --model of any library: "
        "Hugging Face, torchvision, open_clip, CLIP, DINO, …",
        show_default=False,
    ),
]
Timm = Annotated[
    list[str] | None,
    typer.Option(
        "--timm", metavar="KEY=VALUE", show_default=False,
        help="a keyword of timm's model, such as img_size=384, global_pool=avg or in_chans=1; several times",
    ),
]  # fmt: skip
Mean = Annotated[
    str | None,
    typer.Option(
        help="mean of the colours in [0, 1] that the model was trained with: one number, or R,G,B", show_default=False
    ),
]
Std = Annotated[str | None, typer.Option(help="their standard deviation: one number, or R,G,B", show_default=False)]
CropPct = Annotated[
    float | None, typer.Option(help="the part of the resized picture that the crop keeps", show_default=False)
]
Interpolation = Annotated[
    str | None,
    typer.Option(
        help=f"how pictures are resized: {', '.join(INTERPOLATIONS)}",
        autocompletion=one_of(*INTERPOLATIONS),
        show_default=False,
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        help="what the model's outputs mean: softmax, sigmoid, identity (numbers) or embedding "
        "[default: softmax, of a single output identity]",
        autocompletion=one_of(*OUTPUT_KINDS),
        show_default=False,
    ),
]
RandomWeights = Annotated[bool, typer.Option("--random-weights", help="do not load any weights")]
ClassNames = Annotated[
    Path | None, typer.Option(help="file with the names of the model's classes, one per line", show_default=False)
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")]
Dtype = Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16", autocompletion=dtype_names)]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        help="write a page (.html), its first figure (.png, .svg, .pdf) or the table (.csv, .parquet, .json)",
        show_default=False,
    ),
]
ResultOut = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        help="write a page (.html), its first figure (.png, .svg, .pdf), the table (.csv, .parquet, .json) or the whole "
        "result (.safetensors)",
        show_default=False,
    ),
]
TableOut = Annotated[
    Path | None, typer.Option("-o", "--out", help="write the table (.csv, .parquet, .json)", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="print the results as JSON, and nothing else, on stdout")]

ObjectId = Annotated[
    int | None, typer.Option(help="of masks of class ids, the object's [default: all but 0]", show_default=False)
]
WantedClass = Annotated[
    str | None,
    typer.Option(
        "--class", help="name of the class, else its index [default: the predicted one]", autocompletion=class_names
    ),
]
AgainstClass = Annotated[
    str | None,
    typer.Option("--against-class", help="the class to compare it with", autocompletion=class_names),
]
Blocks = Annotated[
    list[int] | None,
    typer.Option("--block", help="a block, -1 is the last; several times [default: all]", show_default=False),
]
BatchSize = Annotated[int, typer.Option(min=1, help="pictures of one forward")]


@dataclass(frozen=True)
class ModelOptions:
    """The options that name a command's model, the same in every command (`with_model`)."""

    model: Model = DEMO
    checkpoint: Checkpoint = None
    timm: Timm = None
    mean: Mean = None
    std: Std = None
    crop_pct: CropPct = None
    interpolation: Interpolation = None
    output: Output = None
    random_weights: RandomWeights = False
    class_names: ClassNames = None
    device: Device = "cpu"
    dtype: Dtype = "float32"

    @property
    def is_demo(self) -> bool:
        """Whether no model is named, so that it is the demo's."""
        return self.model == DEMO and self.checkpoint is None

    @property
    def called(self) -> str:
        """The model as a sentence names it."""
        return str(self.checkpoint) if self.model == DEMO and self.checkpoint is not None else self.model

    def load(self) -> "HookedViT":
        """The model.

        Raises:
            InputError: as `load_model`.
        """
        return load_model(
            self.model,
            self.checkpoint,
            self.random_weights,
            self.device,
            self.dtype,
            self.class_names,
            self.timm,
            {"mean": self.mean, "std": self.std, "crop_pct": self.crop_pct, "interpolation": self.interpolation},
            self.output,
        )


def with_model(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter `model: ModelOptions` is an option for each of its fields, in its place."""
    names = [item.name for item in fields(ModelOptions)]

    @wraps(command)
    def run(**given: Any) -> None:
        model = ModelOptions(**{name: given.pop(name) for name in names if name in given})
        command(model=model, **given)

    options = [
        Parameter(item.name, Parameter.KEYWORD_ONLY, default=item.default, annotation=item.type)
        for item in fields(ModelOptions)
    ]
    parameters: list[Parameter] = []
    for parameter in signature(command).parameters.values():
        parameters += options if parameter.annotation is ModelOptions else [parameter]
    set_parameters(run, parameters)
    return run


def set_parameters(command: Callable[..., None], parameters: Iterable[Parameter]) -> None:
    """The parameters that typer makes a command's arguments and options of."""
    said = Signature([parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in parameters])
    command.__signature__ = said  # type: ignore[attr-defined]
    command.__annotations__ = {name: parameter.annotation for name, parameter in said.parameters.items()}
