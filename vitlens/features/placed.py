"""A dictionary at its hook points in a model: which it reads, which it predicts, and the rows of both."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from vitlens.choose.tokens import TokenSet
from vitlens.errors import InputError
from vitlens.features.dictionaries.cross_layer import CrossLayerTranscoder
from vitlens.features.dictionaries.dictionary import SparseAutoencoder, Transcoder
from vitlens.features.places import HookPlace, check_width, chosen_rows, place_of, split_rows
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName, hook_name

AnyDictionary = SparseAutoencoder | CrossLayerTranscoder
#: One tensor for each part of a dictionary.
PerPart = list[Float[Tensor, "..."]]


@dataclass(frozen=True)
class PlacedDictionary:
    """A dictionary in a model, for all kinds alike: part i reads `sources[i]` and predicts `targets[i]`.

    A sparse autoencoder and a transcoder have one part, and a cross-layer transcoder has one for each block. Features and
    activations are lists with a tensor for each part. Make one with `place_dictionary`.
    """

    model: HookedViT
    sae: AnyDictionary
    sources: tuple[HookPlace, ...]
    targets: tuple[HookPlace, ...]
    tokens: TokenSet = "all"

    @property
    def places(self) -> list[HookPlace]:
        """All hook points that it reads or predicts, each once."""
        return list(dict.fromkeys((*self.sources, *self.targets)))

    @property
    def name(self) -> str:
        """The hook point that it reads, of several the first and the last, for figures and results."""
        names = [place.name for place in self.sources]
        return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"

    @property
    def n_features(self) -> list[int]:
        """The number of features of each part."""
        return self.sae.n_features if isinstance(self.sae, CrossLayerTranscoder) else [self.sae.d_sae]

    @property
    def labels(self) -> list[int] | list[str]:
        """The features' labels on an axis: their numbers, in a cross-layer transcoder "block.number"."""
        if not isinstance(self.sae, CrossLayerTranscoder):
            return list(range(self.sae.d_sae))
        return [f"{block}.{number}" for block, n in enumerate(self.n_features) for number in range(n)]

    def rows(
        self, found: Mapping[str, Float[Tensor, "image row *rest"]], grid: tuple[int, int]
    ) -> tuple[PerPart, PerPart, Int[Tensor, "token"]]:
        """What each part reads, what it should predict, and the tokens, from the rows that `read_places` found."""
        pairs = [
            paired_rows(self.model, self.sae, source, target, found, self.tokens, grid)
            for source, target in zip(self.sources, self.targets, strict=True)
        ]
        return [x for x, _, _ in pairs], [y for _, y, _ in pairs], pairs[0][2]

    def encode_part(self, part: int, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch feature"]:
        """The features of one part."""
        if isinstance(self.sae, CrossLayerTranscoder):
            return self.sae.encode_block(part, x)
        return self.sae.encode(x)

    def decode_part(
        self, part: int, features: Sequence[Float[Tensor, "*batch _"]], x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        """What one part predicts, from the features of this part and of all before it."""
        if isinstance(self.sae, CrossLayerTranscoder):
            return self.sae.decode_block(part, features, x)
        return self.sae.decode(features[part], x)

    def encode(self, x: PerPart) -> PerPart:
        """The features of all parts."""
        return [self.encode_part(part, rows) for part, rows in enumerate(x)]

    def decode(self, features: PerPart, x: PerPart) -> PerPart:
        """What all parts predict."""
        return [self.decode_part(part, features, rows) for part, rows in enumerate(x)]

    def written_per_feature(self, gradients: PerPart, x: PerPart) -> PerPart:
        """∂Σ_j⟨gradient_j, x̂_j⟩/∂f for the features of each part: how much each would move what the gradients measure."""
        if isinstance(self.sae, CrossLayerTranscoder):
            return self.sae.written_per_feature(gradients)
        return [self.sae.written_per_feature(gradients[0], x[0])]


def place_dictionary(
    model: HookedViT,
    hook: HookName | None,
    sae: AnyDictionary,
    hook_out: HookName | None = None,
    tokens: TokenSet = "all",
) -> PlacedDictionary:
    """The dictionary at its hook points in the model.

    Raises:
        InputError: no such hook point, one that is not given, a dictionary of another width.
    """
    if not isinstance(sae, CrossLayerTranscoder):
        source, target = ends(model, hook, sae, hook_out)
        return PlacedDictionary(model, sae, (source,), (target,), tokens)
    if hook is not None or hook_out is not None:
        raise InputError(
            "a cross-layer transcoder has its own hook points, two in each of its blocks: leave hook= and hook_out= out"
        )
    sources = tuple(place_of(model, name) for name in sae.hooks)
    targets = tuple(place_of(model, name) for name in sae.hooks_out)
    for place, width in [*((place, sae.d_in) for place in sources), *((place, sae.d_out) for place in targets)]:
        check_width(model, place, width)
    return PlacedDictionary(model, sae, sources, targets, tokens)


def ends(
    model: HookedViT, hook: HookName | None, sae: AnyDictionary, hook_out: HookName | None = None
) -> tuple[HookPlace, HookPlace]:
    """Where a dictionary of one part reads, and what its reconstruction replaces.

    Raises:
        InputError: no such hook point, one that is not given, a dictionary of another width or of several blocks.
    """
    if isinstance(sae, CrossLayerTranscoder):
        raise InputError(
            f"this call takes the features of one block, and the dictionary has those of {sae.n_blocks}: pass one block's, "
            "sae=clt.of_block(block)"
        )
    given, hook = hook, sae.hook if hook is None else hook
    if hook is None:
        raise InputError("this dictionary has no hook point of its own: pass hook=")
    source = place_of(model, hook)
    if given is not None and sae.hook is not None and not _is_same(source.name, sae.hook):
        warnings.warn(
            f"this dictionary was trained on {sae.hook}, and here it reads {source.name}: leave hook= out for its own",
            stacklevel=3,
        )
    check_width(model, source, sae.d_in)
    if not isinstance(sae, Transcoder):
        if hook_out is not None:
            raise InputError("hook_out= goes with a transcoder: a sparse autoencoder reconstructs what it reads")
        return source, source
    hook_out = hook_out or sae.hook_out
    if hook_out is None:
        if source.block is None:
            raise InputError(f"this transcoder has no hook point that it predicts from {source.name}: pass hook_out=")
        hook_out = hook_name(source.block, "mlp_out")
    target = place_of(model, hook_out)
    check_width(model, target, sae.d_out)
    return source, target


def _is_same(read: str, trained: str) -> bool:
    """Whether two hook points hold the same activation: the stream before a block is that after the block before it."""
    names = [
        re.sub(r"^blocks\.(\d+)\.hook_resid_pre$", lambda found: f"blocks.{int(found[1]) - 1}.hook_resid_post", name)
        for name in (read, trained)
    ]
    return names[0] == names[1]


def paired_rows(
    model: HookedViT,
    sae: AnyDictionary,
    source: HookPlace,
    target: HookPlace,
    found: Mapping[str, Tensor],
    tokens: TokenSet,
    grid: tuple[int, int],
) -> tuple[Float[Tensor, "image token *heads d_in"], Float[Tensor, "image token *heads d_out"], Int[Tensor, "token"]]:
    """What the dictionary reads, what it should predict, and the tokens, from the rows that `read_places` found."""
    chosen = chosen_rows(model, target, tokens, found[target.name].shape[1], grid)
    ids = target.ids(found[target.name].shape[1])[chosen]
    chosen = chosen.to(found[target.name].device)
    x = split_rows(found[source.name], sae.d_in, source.name)[:, chosen]
    y = split_rows(found[target.name], sae.d_out, target.name)[:, chosen]
    return x, y, ids
