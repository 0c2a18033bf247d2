"""NaFlexVit's embedding of pictures of any size, or of patches that were cut before, with several sizes in one batch."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.errors import InputError
from vitlens.model.checks import for_autograd
from vitlens.model.parts.embedding import Embedding, Grid
from vitlens.model.parts.positions import Layout

# What timm's NaFlex collator makes: patches [B, N, P·P·C], their coordinates [B, N, 2], and which are no padding [B, N].
PATCH_INPUT = ("patches", "patch_coord", "patch_valid")
PatchesOrPictures = Tensor | dict[str, Tensor]


class NaFlexEmbedding(Embedding):
    """Adopts timm's `NaFlexEmbeds` and rotary positions. Positions stand on the patches alone, never on prefix tokens."""

    def __init__(self, module: Any) -> None:
        embeds = module.embeds
        prefix = [token for token in (embeds.cls_token, embeds.reg_token) if token is not None]
        # The first versions of NaFlexVit have no rotary positions.
        rope, per_block = getattr(module, "rope", None), getattr(module, "rope_is_mixed", False)
        super().__init__(embeds, prefix, dynamic_img_size=True, rope=rope, rope_per_block=per_block)
        self.key_only_mask = getattr(module, "use_key_only_attn_mask", False)

    @property
    def patch_embed_weight(self) -> Tensor:
        return self.patch_embed.proj.weight

    @property
    def has_positions(self) -> bool:
        return self.patch_embed.pos_embed_type != "none"

    def patches(self, images: PatchesOrPictures) -> Float[Tensor, "batch patches d"]:
        """As timm's NaFlexEmbeds, without its positions and prefix tokens, which are hook points of their own."""
        embeds = self.patch_embed
        if isinstance(images, dict):
            cut = images["patches"]
            if embeds.enable_patch_interpolator and cut.ndim == 5:
                size = tuple(cut.shape[2:4] if embeds.channels_last else cut.shape[3:5])
                weights = embeds.proj.weight, embeds.proj.bias
                return embeds.norm(embeds.patch_interpolator(cut, *weights, patch_size=size, is_linear=True))
        elif embeds.is_linear:
            from timm.models.naflexvit import batch_patchify  # older versions of timm have no NaFlexVit

            cut, _ = batch_patchify(
                images, embeds.patch_size, pad=embeds.dynamic_img_pad, channels_last=embeds.channels_last
            )
        else:
            rows, columns = (-side % patch for side, patch in zip(images.shape[-2:], embeds.patch_size, strict=True))
            padded = F.pad(images, (0, columns, 0, rows)) if embeds.dynamic_img_pad else images
            return embeds.norm(embeds.proj(padded).flatten(2).transpose(1, 2))
        cut = cut.flatten(2)
        return embeds.norm(embeds.proj(cut if embeds.norm_input is None else embeds.norm_input(cut)))

    def positions(self, images: PatchesOrPictures) -> Float[Tensor, "batch tokens d"]:
        if not isinstance(images, dict):
            return self.positions_of_grid(self.grid(*images.shape[-2:]))
        embeds = self.patch_embed
        add = {
            ("learned", False): embeds._apply_learned_naflex_pos_embed,
            ("learned", True): embeds._apply_learned_naflex_pos_embed_grid_sample,
            ("factorized", False): embeds._apply_factorized_naflex_pos_embed,
            ("factorized", True): embeds._apply_factorized_naflex_pos_embed_grid_sample,
        }[embeds.pos_embed_type, embeds.pos_embed_use_grid_sample]
        # timm adds the positions in place: added to zeros, they are the positions.
        positions = embeds.proj.weight.new_zeros(*images["patches"].shape[:2], embeds.embed_dim)
        add(positions, patch_coord=images["patch_coord"])
        return F.pad(positions, (0, 0, self.n_prefix_tokens, 0))

    def positions_of_grid(self, grid: Grid) -> Float[Tensor, "1 tokens d"]:
        embeds = self.patch_embed
        learned = embeds.pos_embed_type == "learned"
        add = embeds._apply_learned_pos_embed if learned else embeds._apply_factorized_pos_embed
        positions = embeds.proj.weight.new_zeros(1, grid[0] * grid[1], embeds.embed_dim)
        add(positions, grid_size=list(grid))
        return F.pad(positions, (0, 0, self.n_prefix_tokens, 0))

    def layout(self, images: PatchesOrPictures) -> Layout:
        if not isinstance(images, dict):
            return super().layout(images)
        valid = images["patch_valid"]
        from timm.models.naflexvit import create_attention_mask

        bias = create_attention_mask(
            valid,
            num_prefix_tokens=self.n_prefix_tokens,
            symmetric=not self.key_only_mask,
            q_len=1 if self.key_only_mask else None,
            dtype=self.patch_embed_weight.dtype,
        )
        if self.rope is None:
            return Layout(bias=bias, valid=valid.bool())
        angles = self._angles_of_batch(images["patch_coord"])
        return Layout(angles, self.rope_per_block, bias, valid.bool())

    def _angles_of_batch(self, coordinates: Tensor) -> Tensor:
        """The angles of pictures of several sizes, zeros where padding stands: [batch, 1, patches, angles], or with
        angles of every block and head [blocks, batch, heads, patches, angles]."""
        n_patches, dtype = coordinates.shape[1], self.patch_embed_weight.dtype
        grids = [tuple(grid) for grid in (coordinates.amax(dim=1) + 1).tolist()]
        known = {grid: self.rope.get_embed(shape=grid, dtype=dtype) for grid in dict.fromkeys(grids)}
        padded = [F.pad(known[grid], (0, 0, 0, n_patches - known[grid].shape[-2])) for grid in grids]
        return torch.stack(padded, dim=1) if self.rope_per_block else torch.stack(padded)[:, None]


def check_patch_input(images: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Raises InputError unless `images` is what timm's NaFlex collator makes, in the model's dtype."""
    missing = [name for name in PATCH_INPUT if not isinstance(images.get(name), Tensor)]
    if missing:
        raise InputError(
            f"patches cut beforehand come as a dictionary of the tensors {', '.join(PATCH_INPUT)}: "
            f"{', '.join(missing)} is missing"
        )
    patches, coordinates, valid = (for_autograd(images[name]) for name in PATCH_INPUT)
    if patches.ndim not in (3, 5) or coordinates.shape != (*patches.shape[:2], 2) or valid.shape != patches.shape[:2]:
        raise InputError(
            "patches are [batch, patches, pixels], patch_coord [batch, patches, 2] and patch_valid [batch, patches], "
            f"not {list(patches.shape)}, {list(coordinates.shape)} and {list(valid.shape)}"
        )
    if patches.dtype != dtype:
        raise InputError(f"the patches are {patches.dtype}, the model computes in {dtype}: use .to(dtype)")
    if not patches.isfinite().all():
        raise InputError("the patches contain NaN or infinite values")
    return dict(zip(PATCH_INPUT, (patches, coordinates, valid), strict=True))


def read_validity(
    valid: Bool[Tensor, "batch patches"] | None, tokens: slice, n_prefix_tokens: int
) -> Bool[Tensor, "batch read"] | None:
    """Which of the tokens that are pooled are no padding; prefix tokens always are."""
    return None if valid is None else F.pad(valid, (n_prefix_tokens, 0), value=True)[:, tokens]
