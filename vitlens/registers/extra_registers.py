"""A HookedViT with extra tokens that were not trained, to which the activations of chosen MLP neurons are moved."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import NO_TOKENS, hook_name, hook_point
from vitlens.model.parts.embedding import Embedding, Grid
from vitlens.model.parts.pooling import ClassAndMeanPool, Pool
from vitlens.model.parts.positions import Layout
from vitlens.model.porting import Parts
from vitlens.model.runs.kept_tokens import VALID_PATCHES, FollowsTokens


class RegisterEmbedding(Embedding):
    """An embedding with tokens of zeros, without positions, between its own prefix tokens and the patches.

    `n_prefix_tokens` counts the trained tokens, which is what the table of positions knows.
    """

    def __init__(self, embedding: Embedding, n_registers: int) -> None:
        super().__init__(
            embedding.patch_embed,
            list(embedding.prefix),
            embedding.pos_embed,
            embedding.no_embed_class,
            embedding.dynamic_img_size,
            embedding.rope,
            embedding.rope_per_block,
        )
        self.n_registers = n_registers

    def with_prefix(self, patches: Float[Tensor, "batch patches d"]) -> Float[Tensor, "batch tokens d"]:
        return self._with_zeros(super().with_prefix(patches))

    def positions_of_grid(self, grid: Grid) -> Float[Tensor, "1 tokens d"]:
        return self._with_zeros(super().positions_of_grid(grid))

    def layout_of_stream(self, n_tokens: int, own_grid: Grid, grid: Grid | None) -> Layout:
        return super().layout_of_stream(n_tokens - self.n_registers, own_grid, grid)

    def _with_zeros(self, tokens: Float[Tensor, "batch trained d"]) -> Float[Tensor, "batch tokens d"]:
        zeros = tokens.new_zeros(len(tokens), self.n_registers, tokens.shape[-1])
        n_before = self.n_prefix_tokens
        return torch.cat([tokens[:, :n_before], zeros, tokens[:, n_before:]], dim=1)


class RegisteredViT(HookedViT):
    """A model with test-time registers, made by `add_registers`.

    The move is a permanent hook on `hook_post` of each block with such neurons: `reset_hooks()` keeps it, and caches and
    other hooks see the edited activations. Only
    `reset_hooks(including_permanent=True)` removes it, and leaves extra tokens without content."""

    n_registers = 0
    #: The neurons that are moved, by block.
    register_neurons: dict[int, list[int]]

    def with_fresh_weights(self, seed: int = 0) -> HookedViT:
        raise InputError(
            "register neurons are neurons of the trained weights: call with_fresh_weights on the model without test-time "
            "registers, and look for register neurons there"
        )


@dataclass(frozen=True)
class MoveToRegisters(FollowsTokens):
    """A hook on `hook_post`: sets each neuron's activation at the registers to its largest one over patches and registers,
    and at the patches to zero.

    The register's own activation counts too: once an earlier neuron is moved to a register, later neurons fire at the
    register and no longer at the patch.
    """

    neurons: list[int]
    n_prefix: int
    n_registers: int

    def __call__(
        self, tensor: Float[Tensor, "batch tokens d_mlp"], hook: HookPoint
    ) -> Float[Tensor, "batch tokens d_mlp"]:
        if tensor.shape[1] < self.n_prefix:
            # A last block of which only the tokens are computed that the classifier reads: registers are none of them.
            return tensor
        registers, patches = slice(self.n_prefix - self.n_registers, self.n_prefix), slice(self.n_prefix, None)
        fired = tensor[:, registers.start :, self.neurons]
        strength = fired.abs()
        valid = VALID_PATCHES.get()
        if valid is not None:
            # In a run without some of the patches, what pads the others is not taken for a patch.
            padding = torch.nn.functional.pad(~valid, (self.n_registers, 0))
            strength = strength.masked_fill(padding[..., None], -1.0)
        strongest = fired.gather(1, strength.argmax(dim=1, keepdim=True))
        post = tensor.clone()
        post[:, registers, self.neurons] = strongest.expand(-1, self.n_registers, -1)
        post[:, patches, self.neurons] = 0.0
        return post


def add_registers(model: HookedViT, neurons: Mapping[int, Sequence[int]], n_registers: int) -> RegisteredViT:
    """A model with `n_registers` more prefix tokens, to which the neurons of each block are moved.

    Parameters are shared with the old model. Modules and hook points are new, without the hooks of the old model.
    """
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    fresh = {id(point): hook_point(point.pos_dim or NO_TOKENS) for point in model.hook_dict.values()}
    names = ("ln_pre", "blocks", "ln_final", "pool", "fc_norm", "unembed", "pool_dist", "unembed_dist")
    copies = copy.deepcopy({name: getattr(model, name) for name in names}, shared | fresh)
    blocks, unembed, unembed_dist = (copies.pop(name) for name in ("blocks", "unembed", "unembed_dist"))
    n_trained = model.cfg.n_prefix_tokens
    for block in blocks:
        if block.attn.rotation is not None:
            block.attn.rotation = replace(block.attn.rotation, n_prefix_tokens=n_trained + n_registers)
    for pool in (copies["pool"], copies["pool_dist"]):
        if pool is not None:
            _skip_registers(pool, n_trained, n_registers)

    cfg = copy.deepcopy(model.cfg)
    n_existing = sum(label.startswith("register") for label in cfg.prefix_tokens)
    cfg.prefix_tokens += tuple(f"register {n_existing + i + 1}" for i in range(n_registers))
    cfg.n_ctx += n_registers
    cfg.read_tokens = (copies["pool"].tokens.start, copies["pool"].tokens.stop)

    embedding = RegisterEmbedding(model.embed, n_registers)
    parts = Parts(cfg=cfg, embedding=embedding, blocks=list(blocks), unembed=None, **copies)
    extended = RegisteredViT(parts, model.class_names)
    # They may be class embeddings, which no timm model is ported with.
    extended.unembed, extended.unembed_dist = unembed, unembed_dist
    extended.setup()
    extended.preprocessing = model.preprocessing
    extended.n_registers = n_registers
    extended.register_neurons = {index: list(chosen) for index, chosen in neurons.items()}
    for index, chosen in extended.register_neurons.items():
        point = extended.hook_dict[hook_name(index, "mlp.post")]
        point.add_perma_hook(MoveToRegisters(chosen, cfg.n_prefix_tokens, n_registers))
    return extended


def _skip_registers(pool: Pool, n_trained: int, n_registers: int) -> None:
    """Pooling over patches still pools patches only; pooling over all tokens includes the new ones."""
    if isinstance(pool, ClassAndMeanPool):
        pool.first_patch += n_registers
        return
    start, stop = pool.tokens.start or 0, pool.tokens.stop
    if stop is None and start >= n_trained:
        pool.tokens = slice(start + n_registers, None)
