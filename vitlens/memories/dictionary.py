"""Treats the memories of a layer as a dictionary of features: its hidden units or head dimensions, and their outputs."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlens.arguments import checked
from vitlens.choose.tokens import TokenSet
from vitlens.features.dictionaries.dictionary import Transcoder
from vitlens.features.top_examples import TopPatches, top_patches
from vitlens.memories.memories import COEFFICIENTS, value_vectors
from vitlens.model.class_space.requirements import no_class_directions
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureSource


class LayerMemories(Transcoder):
    """Features are the positive part of a layer's coefficients, W_dec its value vectors (Methods, C).

    W_enc is the identity, with which nothing needs to be multiplied.
    """

    def __init__(self, model: HookedViT, block: int, part: str) -> None:
        values = value_vectors(model, block, part).detach()
        block = model.block_index(block)
        kind = COEFFICIENTS[part][0]
        super().__init__(
            torch.eye(len(values)).to(values),
            values.new_zeros(len(values)),
            values,
            values.new_zeros(values.shape[1]),
            nn.ReLU(),
            hook=hook_name(block, f"{part}.{kind}"),
            hook_out=hook_name(block, f"{part}_out"),
            source=f"value vectors of block {block}, {part}",
        )

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch feature"]:
        self._check_width(x)
        return x.to(self.W_enc).clamp(min=0)


@leaves_state
@checked
def top_memory_patches(
    model: HookedViT,
    images: PictureSource,
    *,
    block: int,
    part: str = "mlp",
    memories: int | Sequence[int] | None = None,
    k: int = 9,
    tokens: TokenSet = "patches",
    n_memories: int = 12,
    one_per_image: bool = False,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> TopPatches:
    """Finds the k tokens on which each memory fires most, and the classes that its value vector promotes (Methods C5).

    A memory of an MLP is a hidden unit (a neuron), a memory of attention a dimension of a head; it promotes classes by
    E · v. The pictures are run once, and memory does not grow with their number.

    Args:
        images: as `top_patches`.
        part: "mlp" or "attn".
        memories: indices of memories; None for the `n_memories` with the largest summed coefficients.
        k: how many tokens for each memory.
        tokens: the tokens that count, see `select_tokens`.
        one_per_image: count only the strongest token of each picture.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        TopPatches with axes feature (the memory) and rank; `promoted` has the numbers that `read_memories` ranks.

    Raises:
        InputError: a block, part or memory that does not exist; no pictures.

    Source: Vilas, Schaumlöffel & Roig 2023, section 5; Methods C5.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> found = vitlens.memories.top_memory_patches(model, images[:8], block=5, memories=[3, 7], k=2)
        >>> found.values.shape  # memory, rank
        torch.Size([2, 2])
        >>> found.patch(3, rank=0)  # row and column in the picture
        (6, 6)
        >>> int(found.images[0, 0])  # of this number
        5
    """
    layer = LayerMemories(model, block, part)
    found = top_patches(
        model,
        images,
        sae=layer,
        features=memories,
        k=k,
        tokens=tokens,
        n_features=n_memories,
        one_per_image=one_per_image,
        batch_size=batch_size,
        progress=progress,
    )
    promoted = found.promoted
    if model.unembed is not None and no_class_directions(model) is None:
        with torch.no_grad():
            promoted = (layer.W_dec[found.axes["feature"]] @ model.W_U).cpu()
    return replace(found, promoted=promoted, settings={**found.settings, "unit": "memory"})
