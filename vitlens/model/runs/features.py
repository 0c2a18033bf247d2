"""The final patch tokens, as used for dense features: nearest neighbours, PCA, segmentation."""

from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from vitlens.data.pictures import Pictures

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT


def patch_features(model: "HookedViT", images: Pictures) -> Float[Tensor, "batch rows columns d"]:
    """The patch tokens after the last norm, on the grid: what DINO calls x_norm_patchtokens.

    They are timm's `forward_features` without the prefix tokens; a model that normalises after pooling has no norm there.

    Args:
        images: paths, PIL images, arrays, or preprocessed pictures [batch, channels, height, width].

    Raises:
        InputError: as `to_images` and `forward`.
    """
    pictures = model.as_images(images)
    stream: Any = model(pictures, stop_at_layer=model.cfg.n_layers)
    normed = stream if model.ln_final is None else model.ln_final(stream)
    return normed[:, model.cfg.n_prefix_tokens :].unflatten(1, model.embed.grid(*pictures.shape[-2:]))
