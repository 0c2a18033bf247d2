"""Reads Hugging Face's preprocessor_config.json: how an image processor resizes, crops and normalises pictures."""

from math import floor, nextafter
from typing import Any

from vitlens.errors import InputError, reason
from vitlens.model.families.family import Config

#: PIL's numbers of interpolations.
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


def full_preprocessor(given: Config) -> dict[str, Any]:
    """All values of an image processor: its file leaves out defaults of its class, or writes a size as one number.

    The values of a class that transformers does not have are taken as they are.

    Raises:
        InputError: values that the class does not take.
    """
    # Importing transformers takes seconds, which only its own files need.
    import transformers

    kind = str(given.get("image_processor_type") or given.get("feature_extractor_type"))
    name = kind.removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")
    known = getattr(transformers, name, None)
    values = {key: value for key, value in given.items() if not key.endswith("_type")}
    if known is None or not name.endswith("ImageProcessor"):
        return dict(given)
    try:
        return known(**values).to_dict()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"preprocessor_config.json of a {name} cannot be read: {reason(error)}") from None


def read_preprocessing(processor: Config) -> dict[str, Any]:
    """timm's words for an image processor; nothing without one."""
    if not processor:
        return {}
    # timm normalises colours from 0 to 1.
    scale = 255 * processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 255
    normalises = processor.get("do_normalize", True)
    found: dict[str, Any] = {}
    for ours, theirs, without in (("mean", "image_mean", 0.0), ("std", "image_std", 1.0)):
        values = processor.get(theirs) if normalises else (without,) * 3
        if isinstance(values, str) or not all(isinstance(value, (int, float)) for value in values or ()):
            raise InputError(f"preprocessor_config.json: {theirs} is a number for each colour, not {values!r}")
        if values:
            found[ours] = tuple(value / scale for value in values)
    if processor.get("resample") in RESAMPLE:
        found["interpolation"] = RESAMPLE[processor["resample"]]
    resized, cropped = processor.get("size"), processor.get("crop_size")
    # One number is the shorter side; with a height and a width the proportions of a picture are lost.
    found["crop_mode"] = "squash" if "height" in _sides(resized) else "center"
    found["crop_pct"] = 1.0
    if processor.get("do_center_crop") and resized and cropped:
        found["crop_pct"] = _share(_side(cropped), _side(resized))
    return found


def input_size(config: Config) -> tuple[int, int] | None:
    """Height and width of the pictures that the image processor makes; None without one."""
    processor = config.get("preprocessor") or {}
    sides = _sides(processor.get("crop_size" if processor.get("do_center_crop") else "size"))
    if not sides:
        return None
    return _side(sides), sides.get("width") or _side(sides)


def _sides(size: Any) -> dict[str, int]:
    if isinstance(size, int):
        return {"shortest_edge": size}
    return {name: side for name, side in dict(size or {}).items() if side}


def _side(size: Any) -> int:
    sides = _sides(size)
    return sides.get("height") or sides.get("shortest_edge") or next(iter(sides.values()))


def _share(cropped: int, resized: int) -> float:
    """cropped / resized, such that timm, which rounds cropped / share down, finds the same size again."""
    share = cropped / resized
    return share if floor(cropped / share) == resized else nextafter(share, 0)
