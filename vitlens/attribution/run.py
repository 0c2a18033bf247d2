"""Runs the model once and keeps what direct logit attribution needs: all outputs, and the attention patterns."""

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
from vitlens.model.hooks.hook_points import Reader, block_and_site, hook_name
from vitlens.results.axes import ComponentLabel, head_label, neuron_label

#: By hook name, what is kept of the activation there.
Wanted = dict[str, Callable[[Tensor], Tensor]]
Kept = dict[str, Tensor]


@dataclass(frozen=True)
class Written:
    """What units of one `kind` ("stream", "head", "neuron") wrote: z W for each unit, or z itself where there is no W."""

    kind: str
    labels: list[ComponentLabel]
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


def n_tokens_read(model: HookedViT) -> int | None:
    """Tokens from here on no classifier reads: of a class-token model all but one. None where all may be read."""
    return 2 if model.is_distilled else model.read_tokens.stop


def unchanged(activation: Tensor) -> Tensor:
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
    names = [hook_name(block, "attn.z")]
    if model.blocks[block].norms_behind:
        names.append(hook_name(block, "ln1.scale"))
    return {name: cut for name in names}


def wanted_neurons(model: HookedViT, block: int, cut: Callable[[Tensor], Tensor]) -> Wanted:
    """What `written` needs to tell the neurons of a block apart."""
    names = [hook_name(block, "mlp.post")]
    if model.blocks[block].norms_behind:
        names.append(hook_name(block, "ln2.scale"))
    return {name: cut for name in names}


def wanted_pattern(model: HookedViT, block: int) -> Wanted:
    """The pattern of the queries that are read, and what is frozen between it and hook_z."""
    attn = model.blocks[block].attn
    cut = first_tokens(n_tokens_read(model))
    wanted: Wanted = {hook_name(block, "attn.pattern"): first_queries(n_tokens_read(model))}
    if attn.head_norm is not None:
        wanted[hook_name(block, "attn.sub_norm.scale")] = cut
    if attn.ln_z is not None:
        wanted[hook_name(block, "attn.ln_z.scale")] = cut
    if attn.gate is not None:
        wanted[hook_name(block, "attn.gate")] = cut
    return wanted


def attribution_run(
    model: HookedViT, pictures: Tensor, wanted: Wanted, unit: str
) -> tuple[Kept, Tensor, Float[Tensor, "image classes"]]:
    """What was wanted, in the order of the forward; the last residual stream where it is read; the logits.

    Heads that hooks of the user silence at z are shut by a gate (`hook_gate`), also where the model has none.

    Raises:
        InputError: hooks of the user edit what the unit cannot see.
    """
    kept: Kept = {}
    final = hook_name(model.cfg.n_layers - 1, "resid_post")
    wanted = {**wanted, final: first_tokens(n_tokens_read(model))}

    def keep(activation: Tensor, hook: HookPoint) -> None:
        kept[str(hook.name)] = wanted[str(hook.name)](activation).clone()

    with watch_edits(model, watched(model, unit)) as edits:
        logits = model.run_with_hooks(pictures, fwd_hooks=[(name, Reader(keep)) for name in wanted])
    for name, mask in silenced(edits, unit, slice(n_tokens_read(model))).items():
        kept[name] = kept[name] * mask if name in kept else mask
    stream = kept.pop(final)
    return kept, stream, logits


def written(model: HookedViT, kept: Kept) -> Iterator[Written]:
    """Everything that was kept of what is added to the stream, in the order of the forward."""
    for name, activation in kept.items():
        place = block_and_site(name)
        if place is None:
            yield _vectors(ComponentLabel(name.removeprefix("hook_"), "embed"), -1, activation)
            continue
        index, site = place
        block = model.blocks[index]
        if site in ("attn_out", "mlp_out"):
            part = site.removesuffix("_out")
            yield _vectors(ComponentLabel(f"L{index} {part}", part, index), index, activation)
        elif site == "attn.z":
            z, W_O, bias = block.written_by("attn", activation, kept.get(hook_name(index, "ln1.scale")))
            yield Written("head", [head_label(index, head) for head in range(len(W_O))], index, z, W_O)
            yield _vectors(ComponentLabel(f"L{index} attn bias", "bias", index), index, bias)
        elif site == "mlp.post":
            post, W_out, bias = block.written_by("mlp", activation, kept.get(hook_name(index, "ln2.scale")))
            names = [neuron_label(index, neuron) for neuron in range(len(W_out))]
            yield Written("neuron", names, index, post[..., None], W_out[:, None])
            yield _vectors(ComponentLabel(f"L{index} mlp bias", "bias", index), index, bias)


def _vectors(label: ComponentLabel, block: int, x: Float[Tensor, "image token d"]) -> Written:
    return Written("stream", [label], block, x[:, :, None])
