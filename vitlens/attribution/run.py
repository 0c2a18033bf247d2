"""One forward and what a direct logit attribution needs of it: what everything wrote, and where attention read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.attribution.edits import silenced, watched
from vitlens.model.class_space.readout import ChosenReadout
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.edits import watch_edits
from vitlens.model.hooks.hook_points import Reader

#: By hook name, what is kept of the activation there.
Wanted = dict[str, Callable[[Tensor], Tensor]]
Kept = dict[str, Tensor]


@dataclass(frozen=True)
class Written:
    """What units of one `kind` ("stream", "head", "neuron") wrote: z W for each unit, or z itself where there is no W."""

    kind: str
    labels: list[str]
    block: int
    z: Float[Tensor, "image token unit width"]
    W: Float[Tensor, "unit width d"] | None = None

    def share(self, readouts: Sequence[ChosenReadout]) -> Float[Tensor, "image class unit"]:
        """Σ_t w_t ⟨u, z_t W⟩ of every unit: pooled and projected first, so nothing [token, unit, d] is made."""
        return sum_of(
            einsum(
                einsum(reader.weights, self.z[:, reader.tokens], "i g t, i t k f -> i g k f"),
                self.project(reader),
                "i g k f, i g c k f -> i c k",
            )
            for reader in readouts
        )

    def token_share(self, readouts: Sequence[ChosenReadout], n_tokens: int) -> Float[Tensor, "image class token"]:
        """The same token by token, summed over the units, for the first tokens."""
        shares = []
        for reader in readouts:
            along = einsum(self.project(reader), self.z[:, reader.tokens], "i g c k f, i t k f -> i g c t")
            read = einsum(reader.weights, along, "i g t, i g c t -> i c t")
            whole = read.new_zeros(*read.shape[:2], n_tokens)
            whole[..., reader.tokens] = read
            shares.append(whole)
        return sum_of(shares)

    def project(self, reader: ChosenReadout) -> Float[Tensor, "image group class unit width"]:
        """The classes' directions as the units' z sees them."""
        if self.W is None:
            return rearrange(reader.directions, "i g c d -> i g c 1 d")
        return einsum(reader.directions, self.W, "i g c d, k f d -> i g c k f")


def sum_of(terms: Iterator[Tensor] | Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum(dim=0)


def n_read(model: HookedViT) -> int | None:
    """Tokens from here on no classifier reads: of a class-token model all but one. None where all may be read."""
    return 2 if model.is_distilled else model.read_tokens.stop


def whole(activation: Tensor) -> Tensor:
    return activation


def first_tokens(n: int | None) -> Callable[[Tensor], Tensor]:
    """Cuts the axis after the images, which is that of the tokens for all but patterns."""
    return lambda activation: activation[:, :n]


def first_queries(n: int | None) -> Callable[[Tensor], Tensor]:
    return lambda pattern: pattern[:, :, :n]


def wanted_embedding(model: HookedViT, cut: Callable[[Tensor], Tensor]) -> Wanted:
    names = ["hook_embed_norm"] if "hook_embed_norm" in model.hook_dict else ["hook_embed", "hook_pos_embed"]
    return {name: cut for name in names if name in model.hook_dict}


def wanted_heads(model: HookedViT, block: int, cut: Callable[[Tensor], Tensor]) -> Wanted:
    """What `written` needs to tell the heads of a block apart."""
    names = [f"blocks.{block}.attn.hook_z"]
    if model.blocks[block].norms_behind:
        names.append(f"blocks.{block}.ln1.hook_scale")
    return {name: cut for name in names}


def wanted_neurons(model: HookedViT, block: int, cut: Callable[[Tensor], Tensor]) -> Wanted:
    """What `written` needs to tell the neurons of a block apart."""
    names = [f"blocks.{block}.mlp.hook_post"]
    if model.blocks[block].norms_behind:
        names.append(f"blocks.{block}.ln2.hook_scale")
    return {name: cut for name in names}


def wanted_pattern(model: HookedViT, block: int) -> Wanted:
    """The pattern of the queries that are read, and what is frozen between it and hook_z."""
    attn, at = model.blocks[block].attn, f"blocks.{block}.attn"
    cut = first_tokens(n_read(model))
    wanted: Wanted = {f"{at}.hook_pattern": first_queries(n_read(model))}
    if attn.head_norm is not None:
        wanted[f"{at}.sub_norm.hook_scale"] = cut
    if attn.ln_z is not None:
        wanted[f"{at}.ln_z.hook_scale"] = cut
    if attn.gate is not None:
        wanted[f"{at}.hook_gate"] = cut
    return wanted


def run(
    model: HookedViT, pictures: Tensor, wanted: Wanted, unit: str
) -> tuple[Kept, Tensor, Float[Tensor, "image classes"]]:
    """What was wanted, in the order of the forward; the last residual stream where it is read; the logits.

    Heads that hooks of the user silence at z are shut by a gate (`hook_gate`), also where the model has none.

    Raises:
        InputError: hooks of the user edit what the unit cannot see.
    """
    kept: Kept = {}
    final = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    wanted = {**wanted, final: first_tokens(n_read(model))}

    def keep(activation: Tensor, hook: HookPoint) -> None:
        kept[str(hook.name)] = wanted[str(hook.name)](activation).clone()

    with watch_edits(model, watched(model, unit)) as edits:
        logits = model.run_with_hooks(pictures, fwd_hooks=[(name, Reader(keep)) for name in wanted])
    for name, mask in silenced(edits, unit, slice(n_read(model))).items():
        kept[name] = kept[name] * mask if name in kept else mask
    stream = kept.pop(final)
    return kept, stream, logits


def written(model: HookedViT, kept: Kept) -> Iterator[Written]:
    """Everything that was kept of what is added to the stream, in the order of the forward."""
    for name, activation in kept.items():
        if not name.startswith("blocks."):
            yield _vectors([name.removeprefix("hook_")], -1, activation)
            continue
        index = int(name.split(".")[1])
        block, site = model.blocks[index], name.split(".", 2)[2]
        if site in ("hook_attn_out", "hook_mlp_out"):
            yield _vectors([f"L{index} {site.split('_')[1]}"], index, activation)
        elif site == "attn.hook_z":
            z, W_O, bias = block.written_by("attn", activation, kept.get(f"blocks.{index}.ln1.hook_scale"))
            yield Written("head", [f"L{index}H{head}" for head in range(len(W_O))], index, z, W_O)
            yield _vectors([f"L{index} attn bias"], index, bias)
        elif site == "mlp.hook_post":
            post, W_out, bias = block.written_by("mlp", activation, kept.get(f"blocks.{index}.ln2.hook_scale"))
            names = [f"L{index} neuron {neuron}" for neuron in range(len(W_out))]
            yield Written("neuron", names, index, post[..., None], W_out[:, None])
            yield _vectors([f"L{index} mlp bias"], index, bias)


def _vectors(labels: list[str], block: int, x: Float[Tensor, "image token d"]) -> Written:
    return Written("stream", labels, block, x[:, :, None])
