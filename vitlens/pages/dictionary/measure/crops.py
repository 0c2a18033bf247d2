"""Small pictures of the examples: one for each picture, however many features it is an example of."""

import base64
import io
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.small_pictures import small_pictures

#: Pixels of the longer side, from which the largest is taken with which all crops fit into the page.
SIDES = (160, 128, 96, 72, 56, 44)
#: What all crops of a page may take, as text.
MOST_TEXT = 18 * 2**20
#: More are not kept: of 44 pixels they would pass that.
MOST_CROPS = 20_000
#: Some crops tell how large all are.
N_TRIED = 64
#: Crops that no feature needs any more are looked for when there are twice as many as were needed, and more than these.
MOST_UNCHECKED = 1024


class SmallPictures:
    """Compressed pictures by their number in the source; those that no feature needs any more are dropped now and then."""

    def __init__(self) -> None:
        self.encoded: dict[int, bytes] = {}
        self._crowd = MOST_UNCHECKED

    @property
    def is_crowded(self) -> bool:
        return len(self.encoded) > self._crowd

    def add(
        self, model: HookedViT, numbers: Sequence[int], images: Float[Tensor, "image channels height width"]
    ) -> None:
        if numbers:
            small = small_pictures(model, images, len(images), SIDES[0]).numpy()
            self.encoded.update(zip(numbers, map(_encoded, small), strict=True))

    def keep(self, needed: Collection[int]) -> None:
        """Drops all but these; of more than the page can hold, the first of them stay."""
        there = [number for number in needed if number in self.encoded][:MOST_CROPS]
        self.encoded = {number: self.encoded[number] for number in there}
        self._crowd = max(MOST_UNCHECKED, 2 * len(there))

    def packed(self, most_text: int = MOST_TEXT) -> tuple[list[int], list[str]]:
        """Numbers of the pictures and their crops as text (WebP in base64), as large as the page has room for."""
        numbers = sorted(self.encoded)
        tried = numbers[:: max(1, len(numbers) // N_TRIED)]
        for side in SIDES:
            size = sum(len(_text(self.encoded[number], side)) for number in tried) / max(1, len(tried))
            if size * len(numbers) <= most_text:
                break
        return numbers, [_text(self.encoded[number], side) for number in numbers]


def _encoded(pixels: np.ndarray) -> bytes:
    """A picture of few pixels is kept as it is: there each of them counts."""
    buffer = io.BytesIO()
    few = max(pixels.shape[:2]) <= SIDES[-1]
    Image.fromarray(pixels).save(buffer, "WEBP", **({"lossless": True} if few else {"quality": 75, "method": 2}))
    return buffer.getvalue()


def _text(encoded: bytes, side: int) -> str:
    if side < SIDES[0]:
        picture = Image.open(io.BytesIO(encoded))
        if max(picture.size) > side:
            picture.thumbnail((side, side))
            encoded = _encoded(np.asarray(picture.convert("RGB")))
    return base64.b64encode(encoded).decode()
