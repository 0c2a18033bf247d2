"""What replaces the MLPs in an attribution graph: features of transcoders, or the MLPs' own neurons."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.arguments import short
from vitlens.circuits.graphs.frozen_run import FrozenRun, Skip, freeze, usual_reads
from vitlens.errors import InputError
from vitlens.features.dictionaries.cross_layer import CrossLayerTranscoder
from vitlens.features.dictionaries.dictionary import Transcoder
from vitlens.features.placed import PlacedDictionary, place_dictionary
from vitlens.features.places import HookPlace
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name
from vitlens.model.parts.mlp import GatedMLP

MLPDictionary = TypeVar("MLPDictionary", Transcoder, CrossLayerTranscoder)
Transcoders = Mapping[str, Transcoder] | Sequence[Transcoder] | Transcoder | CrossLayerTranscoder | None


@dataclass(frozen=True)
class MLPReplacement:
    """What replaces the MLP of one block in one run: units that read the stream here, and write here and in later blocks.

    A unit adds value · scale · writes[j][unit] in each block j of `writes`. `bias` is what is written here whatever the
    units do, and `error` is what the MLP writes and the replacement does not.
    """

    block: int
    kind: str
    values: Float[Tensor, "token unit"]
    pre_activations: Float[Tensor, "token unit"]
    scale: Float[Tensor, "token 1"]
    writes: dict[int, Float[Tensor, "unit d"]]
    bias: Float[Tensor, "token d"]
    error: Float[Tensor, "token d"] | None
    dictionary: Transcoder | None = None
    W_enc: Float[Tensor, "d_in unit"] | None = None
    x: Float[Tensor, "token d_in"] | None = None

    def read_directions(self, units: Int[Tensor, "row"], tokens: Int[Tensor, "row"]) -> Float[Tensor, "row d_in"]:
        """∂pre-activation/∂(what the block's MLP reads) of these units at these tokens."""
        if self.dictionary is not None:
            assert self.x is not None
            return self.dictionary.read_directions(units, self.x[tokens]).to(self.values)
        assert self.W_enc is not None
        return self.W_enc[:, units].T


def replaced_run(
    model: HookedViT, image: Float[Tensor, "1 channels height width"], transcoders: Transcoders
) -> tuple[FrozenRun, list[MLPReplacement]]:
    """The frozen run of one picture, and what replaces the MLP of each block.

    Raises:
        InputError: what is no transcoder, or reads or predicts something else than MLPs do; two of one block; an MLP with
            a norm before its neurons; hooks that the graph cannot see.
    """
    if transcoders is None:
        run = freeze(model, image, usual_reads(model))
        return run, [_neurons(run, block) for block in range(model.cfg.n_layers)]
    placed = placed_transcoders(model, transcoders)
    reads = usual_reads(model)
    for one in placed:
        for source, target in zip(one.sources, one.targets, strict=True):
            reads[_block_of(model, source, target)] = source.name
    if len({source.block for one in placed for source in one.sources}) < sum(len(one.sources) for one in placed):
        raise InputError("two transcoders replace the MLP of one block: pass one for each block")
    run = freeze(model, image, reads)
    skips = list(run.skips)
    for one in placed:
        for part, source in enumerate(one.sources):
            assert source.block is not None
            skips[source.block] = _skip(one, part, run)
    run = replace(run, skips=skips)
    there = [replacement for one in placed for replacement in _features(one, run)]
    return run, sorted([*there, *_errors_alone(run, there)], key=lambda replacement: replacement.block)


def placed_transcoders(
    model: HookedViT, transcoders: Mapping[str, Transcoder] | Sequence[Transcoder] | Transcoder | CrossLayerTranscoder
) -> list[PlacedDictionary]:
    """The transcoders at their hook points, in the model's precision.

    Raises:
        InputError: what is no transcoder, or none at all.
    """
    if isinstance(transcoders, CrossLayerTranscoder):
        return [place_dictionary(model, None, _as_precise(transcoders, model))]
    return [place_dictionary(model, hook, _as_precise(sae, model)) for hook, sae in _named(transcoders)]


def _named(
    transcoders: Mapping[str, Transcoder] | Sequence[Transcoder] | Transcoder,
) -> list[tuple[str | None, Transcoder]]:
    """Transcoders with the hook points that they are given for.

    Raises:
        InputError: something that is none, or none at all.
    """
    named: list[tuple[str | None, Transcoder]] = []
    if isinstance(transcoders, Mapping):
        named += transcoders.items()
    elif isinstance(transcoders, Sequence) and not isinstance(transcoders, str):
        named += [(None, one) for one in transcoders]
    else:
        named.append((None, transcoders))
    for _, one in named:
        if not isinstance(one, Transcoder):
            raise InputError(
                "transcoders= are transcoders of the model's MLPs, as vitlens.features.load_saes reads them, or one "
                f"cross-layer transcoder, not {short(one)}"
            )
    if not named:
        raise InputError("transcoders= is empty: pass None for the MLPs' own neurons")
    return named


def _as_precise(sae: MLPDictionary, model: HookedViT) -> MLPDictionary:
    """The dictionary in the model's dtype and on its device: what it makes of an activation is part of exact sums."""
    weights = next(sae.buffers())
    if weights.dtype == model.dtype and weights.device == model.device:
        return sae
    return deepcopy(sae).to(model.device, model.dtype)


def _block_of(model: HookedViT, source: HookPlace, target: HookPlace) -> int:
    """The block whose MLP reads this and writes that.

    Raises:
        InputError: no MLP does.
    """
    if source.block is not None and target.name == hook_name(source.block, "mlp_out"):
        stream = "resid_mid" if model.blocks[source.block].has_middle else "resid_pre"
        if source.name in (usual_reads(model)[source.block], hook_name(source.block, stream)):
            return source.block
    raise InputError(
        f"in an attribution graph a transcoder replaces an MLP: it reads {usual_reads(model)[source.block or 0]} and "
        f"predicts that block's hook_mlp_out, and this one reads {source.name} and predicts {target.name}"
    )


def _neurons(run: FrozenRun, block: int) -> MLPReplacement:
    """The MLP's own neurons: values are what multiplies W_out. A gated MLP's gate is frozen, its other factor is read."""
    layer, mlp = run.blocks[block].block, run.blocks[block].block.mlp
    if isinstance(mlp, GatedMLP) and mlp.ln_in is not None:
        raise InputError(
            f"the MLPs of {run.model.cfg.model_name} normalise what they read for themselves, so their neurons are no "
            "linear readers of the stream: pass transcoders="
        )
    norm = layer.norm_before("mlp")
    weight = None if norm is None else norm.weight
    W_in = mlp.W_in if weight is None else weight[:, None] * mlp.W_in
    post = run.seen[hook_name(block, "mlp.post")]
    scale = run.seen[hook_name(block, "ln2.scale")][None] if layer.norms_behind else None
    _, W_out, bias = layer.written_by("mlp", post[None], scale)
    of_row = post.new_ones(len(post), 1) if scale is None else 1 / scale[0]
    pre = run.seen[hook_name(block, "mlp.pre_linear" if isinstance(mlp, GatedMLP) else "mlp.pre")]
    error = run.mlp_out(block) - post * of_row @ W_out - bias[0]
    return MLPReplacement(
        block,
        "neuron",
        post,
        pre,
        of_row,
        {block: W_out},
        bias[0],
        _unless_rounding(error, run.mlp_out(block)),
        W_enc=W_in,
    )


def _features(placed: PlacedDictionary, run: FrozenRun) -> list[MLPReplacement]:
    """The features of a transcoder, or of each block of a cross-layer transcoder."""
    x = [run.seen[source.name] for source in placed.sources]
    features = placed.encode(x)
    decoded = placed.decode(features, x)
    none = placed.decode([torch.zeros_like(part) for part in features], x)
    found = []
    for part, source in enumerate(placed.sources):
        block = source.block
        assert block is not None
        sae = placed.sae.of_block(part) if isinstance(placed.sae, CrossLayerTranscoder) else placed.sae
        assert isinstance(sae, Transcoder)
        directions = placed.sae.W_dec[part] if isinstance(placed.sae, CrossLayerTranscoder) else [sae.W_dec]
        like = run.mlp_out(block)
        skip = run.skips[block]
        passed = 0 if skip is None else x[part] @ skip.W.T * skip.scale
        found.append(
            MLPReplacement(
                block,
                "feature",
                features[part].to(like),
                sae.pre_activations(x[part]).to(like),
                sae.output_scale(x[part]).to(like),
                {
                    target.block: direction.to(like)
                    for target, direction in zip(placed.targets[part:], directions, strict=True)
                    if target.block is not None
                },
                none[part].to(like) - passed,
                _unless_rounding(like - decoded[part], like),
                dictionary=sae,
                x=x[part],
            )
        )
    return found


def _skip(placed: PlacedDictionary, part: int, run: FrozenRun) -> Skip | None:
    sae = placed.sae.of_block(part) if isinstance(placed.sae, CrossLayerTranscoder) else placed.sae
    assert isinstance(sae, Transcoder)
    if sae.W_skip is None:
        return None
    x = run.seen[placed.sources[part].name]
    return Skip(sae.W_skip.to(x), sae.output_scale(x).to(x))


def _errors_alone(run: FrozenRun, there: list[MLPReplacement]) -> list[MLPReplacement]:
    """Of a block without a transcoder all that the MLP writes is an error."""
    blocks = set(range(run.model.cfg.n_layers)) - {replacement.block for replacement in there}
    found = []
    for block in blocks:
        written = run.mlp_out(block)
        none, ones = written.new_zeros(len(written), 0), written.new_ones(len(written), 1)
        found.append(
            MLPReplacement(
                block,
                "feature",
                none,
                none,
                ones,
                {block: written.new_zeros(0, written.shape[1])},
                0 * written,
                written,
            )
        )
    return found


def _unless_rounding(error: Float[Tensor, "token d"], of: Float[Tensor, "token d"]) -> Float[Tensor, "token d"] | None:
    """None where what is left is rounding."""
    return error if error.norm() > 100 * torch.finfo(error.dtype).eps * of.norm() else None
