"""The names, labels, biases and directions that TransformerLens' tools need from a model, for a HookedViT.

Each is a method of a HookedViT, with classes where there were tokens.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import FactoredMatrix
from transformer_lens.utilities import composition_scores

from vitlens.arguments import as_whole
from vitlens.errors import InputError
from vitlens.model.class_space.requirements import no_class_directions

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT


def accumulated_bias(
    model: "HookedViT", layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
) -> Float[Tensor, "d"]:
    """The sum of all output biases that the stream which enters block `layer` has received (its MLP: `mlp_input`).

    Raises:
        InputError: there is no such block; the number of blocks stands for the end of the last.
    """
    last = len(model.blocks) - mlp_input
    if not 0 <= as_whole(layer, "a block") <= last:
        raise InputError(f"there is no block {layer}: the model has blocks 0 to {last}")
    chosen = list(model.blocks[:layer])
    biases = [block.attn.b_O for block in chosen]
    if include_mlp_biases:
        biases += [block.mlp.b_out for block in chosen]
    if mlp_input:
        biases.append(model.blocks[layer].attn.b_O)
    if not biases:
        return torch.zeros_like(model.blocks[0].attn.b_O)
    return torch.stack(biases).sum(dim=0)


def tokens_to_residual_directions(model: "HookedViT", tokens: Any) -> Float[Tensor, "*classes d"]:
    """The class embeddings of classes given by index or name (TransformerLens' name; a ViT's tokens are classes).

    Raises:
        InputError: no such class, or a model without a classifier.
    """
    return model.W_U.T[model.class_ids(tokens)]


def class_ids(model: "HookedViT", classes: Any) -> Tensor:
    """Class indices, in the shape given: an index or name gives a number, a list or tensor of them a tensor.

    Raises:
        InputError: no such class, or what is neither index nor name; no classes at all; lists of several lengths.
    """
    if isinstance(classes, (Tensor, np.ndarray)):
        classes = classes.tolist()
    if isinstance(classes, Sequence) and not isinstance(classes, str):
        ids = [model.class_ids(item) for item in classes]
        if not ids or any(other.shape != ids[0].shape for other in ids):
            raise InputError(f"classes are an index, a name, or lists of them of one length, not {classes!r}")
        return torch.stack(ids)
    return torch.tensor(model.class_index(classes))


def to_single_token(model: "HookedViT", name: str) -> int:
    """The index of a class by its name (TransformerLens' name for `class_index`)."""
    return model.class_index(name)


def to_tokens(model: "HookedViT", images: Any) -> Tensor:
    """Pictures as the model reads them (TransformerLens' name for `to_images`)."""
    return model.to_images(images)


def all_head_labels(model: "HookedViT") -> list[str]:
    """ "L0H0", "L0H1", …: the rows of `stack_head_results`."""
    return [f"L{block}H{head}" for block in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]


def all_composition_scores(model: "HookedViT", mode: str) -> Float[Tensor, "layers heads layers heads"]:
    """Composition of each head with the `mode` ("Q", "K" or "V") input of each later head; 0 for the other pairs.

    ‖W_OV^left M^right‖ / (‖W_OV^left‖ ‖M^right‖), M being the right head's W_QK, its transpose, or its W_OV.

    Raises:
        InputError: another mode.

    Source: Elhage et al. 2021, as transformer_lens' composition scores.
    """
    left = FactoredMatrix(model.W_V, model.W_O)
    if mode == "Q":
        right = FactoredMatrix(model.W_Q, model.W_K.mT)
    elif mode == "K":
        right = FactoredMatrix(model.W_K, model.W_Q.mT)
    elif mode == "V":
        right = left
    else:
        raise InputError(f'mode is "Q", "K" or "V", not {mode!r}')
    scores = composition_scores(left, right, broadcast_dims=True)
    layers = torch.arange(model.cfg.n_layers, device=scores.device)
    later = layers[:, None, None, None] < layers[None, None, :, None]
    return torch.where(later, scores, torch.zeros_like(scores))


def tl_parameters(model: "HookedViT") -> dict[str, Tensor]:
    """The weights by TransformerLens' names, in its layout: what `SVDInterpreter` reads."""
    parameters: dict[str, Tensor] = {}
    for i, block in enumerate(model.blocks):
        for part, names in (
            ("attn", ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")),
            ("mlp", ("W_in", "b_in", "W_out", "b_out")),
        ):
            module = getattr(block, part)
            parameters |= {f"blocks.{i}.{part}.{name}": getattr(module, name) for name in names}
        if hasattr(block, "ln2") and block.ln2.weight is not None:
            parameters[f"blocks.{i}.ln2.w"] = block.ln2.weight
    if model.unembed is not None and no_class_directions(model) is None:
        parameters["unembed.W_U"] = model.W_U
        parameters["unembed.b_U"] = model.b_U
    return parameters
