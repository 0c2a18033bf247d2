"""What a dictionary finds in a picture: its strongest features, where they are active, and what they write and cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.errors import InputError
from vitlens.features.attribution import feature_attribution
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.placed import ends, paired_rows
from vitlens.features.places import STREAM_WIDE, read_places
from vitlens.features.splice import with_sae
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName
from vitlens.pages.explorer.measure.quantise import as_numpy, linear_codes
from vitlens.plots.shared.places import hook_in_words

#: Features of a picture on the page: the most active ones, and for each class those that write most.
N_ACTIVE, N_WRITING = 16, 6
#: Runs without a feature that share a forward: a dictionary's activations are large.
ROWS = 8


@dataclass(frozen=True)
class Dictionary:
    """A dictionary and where it reads; None for the hook point it was trained on."""

    sae: SparseAutoencoder
    hook: HookName | None

    def facts(self, model: HookedViT) -> dict[str, str | int]:
        """What the page says of it."""
        source, _ = ends(model, self.hook, self.sae)
        where = hook_in_words(source.name) or f"at {source.name}"
        return {"where": where, "source": self.sae.source, "n_features": self.sae.d_sae, "method": self.method(model)}

    def method(self, model: HookedViT) -> str:
        """ "direct" where its features write to the stream, else "gradient", which estimates what they do to the logit."""
        _, target = ends(model, self.hook, self.sae)
        return (
            "direct" if target.block is not None and target.name.rsplit("hook_", 1)[-1] in STREAM_WIDE else "gradient"
        )


def feature_tensors(
    model: HookedViT, image: Float[Tensor, "1 channels height width"], classes: Sequence[int], dictionary: Dictionary
) -> dict[str, np.ndarray]:
    """feature_… of `Measured`.

    Raises:
        InputError: a dictionary of another width, or of a hook point without tokens.
    """
    active = activations_of(model, image, dictionary)
    writes = torch.zeros(0, active.shape[1])
    if classes:
        wanted = torch.tensor([list(classes)])
        shares = feature_attribution(
            model,
            image,
            wanted,
            sae=dictionary.sae,
            hook=dictionary.hook,
            method=dictionary.method(model),
            progress=False,
        )
        writes = shares.values[0].cpu()
    chosen = _strongest(active.max(dim=0).values, writes)
    codes, scale = linear_codes(as_numpy(active[:, chosen].T), np.int16)
    tensors = {
        "feature_ids": np.array(chosen, dtype=np.int32),
        "feature_maps": codes,
        "feature_maps_scale": scale,
        "feature_writes": as_numpy(writes[:, chosen]),
    }
    if classes:
        lost = model(image)[0, list(classes)] - _without(model, image, classes, dictionary, chosen)
        tensors["feature_costs"] = as_numpy(lost.T)
    return tensors


def activations_of(model: HookedViT, image: Tensor, dictionary: Dictionary) -> Float[Tensor, "token feature"]:
    """Of every token of the picture; 0 where the dictionary reads none. Heads that are rows of their own are added."""
    sae = dictionary.sae
    source, target = ends(model, dictionary.hook, sae)
    if not target.has_tokens:
        raise InputError(f"{target.name} has no tokens, so its features have no map over the picture")
    rows, columns = model.embed.grid(*image.shape[-2:])
    found = read_places(model, image, [source, target])
    with torch.no_grad():
        x, _, ids = paired_rows(model, sae, source, target, found, "all", (rows, columns))
        codes = sae.encode(x)[0].cpu()
    codes = codes.sum(dim=1) if codes.ndim == 3 else codes
    active = codes.new_zeros(model.cfg.n_prefix_tokens + rows * columns, codes.shape[-1])
    active[ids] = codes
    return active


def _strongest(most: Float[Tensor, "feature"], writes: Float[Tensor, "class feature"]) -> list[int]:
    """The most active features, then those that write most for or against each class; none that is nowhere active."""
    by_activity = most.argsort(descending=True, stable=True)[:N_ACTIVE].tolist()
    by_class = writes.abs().argsort(dim=-1, descending=True, stable=True)[:, :N_WRITING].flatten().tolist()
    found = [i for i in dict.fromkeys([*by_activity, *by_class]) if most[i] > 0]
    if not found:
        raise InputError("no feature of the dictionary is active on this picture")
    return found


def _without(
    model: HookedViT, image: Tensor, classes: Sequence[int], dictionary: Dictionary, features: list[int]
) -> Float[Tensor, "feature class"]:
    """The logits with each feature set to 0 at all tokens; what the dictionary does not reconstruct stays."""
    found = []
    for some in torch.tensor(features).split(ROWS):
        places = torch.arange(len(some)), some

        def silence(codes: Tensor, places: tuple[Tensor, Tensor] = places) -> Tensor:
            edited = codes.clone()
            edited[places[0], ..., places[1]] = 0
            return edited

        with torch.no_grad(), with_sae(model, dictionary.hook, dictionary.sae, error_term=True, edit=silence):
            found.append(model(image.expand(len(some), -1, -1, -1))[:, list(classes)])
    return torch.cat(found)
