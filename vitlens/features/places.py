"""The activation of a hook point as rows: its token axis, its row width, and the blocks that must run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.arguments import checked, short
from vitlens.choose.tokens import Box, TokenSet, select_tokens
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import NO_TOKENS, HookName, Reader, block_and_site, hook_name, resolve_names

BEFORE_BLOCKS = ("hook_patch_embed", "hook_embed", "hook_pos_embed", "hook_embed_norm", "ln_pre.", "embed.")
STREAM_WIDE = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


@dataclass(frozen=True)
class HookPlace:
    """One hook point. Its activation of a picture is a row per token, whatever the order of its axes.

    A row is all that the activation holds of a token: the heads of `hook_z` one behind the other, a query's pattern over
    all heads and keys. What has no tokens (`hook_pooled`) is one row, of token −1.
    """

    name: str
    token_axis: int
    first_token: int

    @property
    def has_tokens(self) -> bool:
        return self.token_axis != NO_TOKENS

    @property
    def block(self) -> int | None:
        place = block_and_site(self.name)
        return None if place is None else place[0]

    @property
    def is_before_blocks(self) -> bool:
        return self.name.startswith(BEFORE_BLOCKS)

    def split(self, activation: Float[Tensor, "image ..."]) -> Float[Tensor, "image token *rest"]:
        """The axis of tokens moved to the second place."""
        return activation.movedim(self.token_axis, 1) if self.has_tokens else activation[:, None]

    def unite(self, rows: Float[Tensor, "image token *rest"]) -> Float[Tensor, "image ..."]:
        """The inverse of `split`."""
        return rows.movedim(1, self.token_axis) if self.has_tokens else rows[:, 0]

    def ids(self, n_rows: int) -> Int[Tensor, "row"]:
        """The place in the sequence of each row of a picture."""
        return torch.arange(n_rows) + self.first_token if self.has_tokens else torch.tensor([-1])


def place_of(model: HookedViT, hook: HookName) -> HookPlace:
    """The hook point of that name or shorthand.

    Raises:
        InputError: no such hook point, or several.
    """
    names = resolve_names(hook, model.hook_dict)
    if len(names) > 1:
        raise InputError(f"{hook!r} stands for {len(names)} hook points ({names[0]}, …, {names[-1]}): name one of them")
    name = names[0]
    axis = cast(int, model.hook_dict[name].pos_dim)
    first = model.cfg.n_prefix_tokens if name == "hook_patch_embed" else 0
    if name.startswith("pool."):
        first = model.pool.tokens.start or 0
    return HookPlace(name, axis, first)


@checked
def mlp_hooks(model: HookedViT, *, blocks: int | Sequence[int] | None = None) -> list[tuple[str, str]]:
    """The hook points that an MLP reads and writes, of each block: `hook` and `hook_out` of a transcoder of this MLP.

    What is written is a function of what is read, token by token: mlp_out = MLP(read). The function includes the gain of the
    norm before the MLP, LayerScale, and a norm that follows the MLP. What is read is the normalised stream; where the norms
    follow (post-norm), it is the stream itself.

    Args:
        blocks: one or several; None: all.

    Returns:
        For each block the names of both hook points.

    Raises:
        InputError: a block that does not exist.

    Source: Dunefsky, Chlenski & Nanda 2024, section 3.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> vitlens.features.mlp_hooks(model, blocks=3)
        [('blocks.3.ln2.hook_normalized', 'blocks.3.hook_mlp_out')]
    """
    found = []
    for index in model.block_indices(blocks):
        block = model.blocks[index]
        norm = block.norm_before("mlp")
        if norm is None:
            read = hook_name(index, "resid_mid")
        else:
            read = hook_name(index, f"{'ln1' if norm is block.ln1 else 'ln2'}.normalized")
        found.append((read, hook_name(index, "mlp_out")))
    return found


def split_rows(
    rows: Float[Tensor, "image token *rest"], width: int, name: str
) -> Float[Tensor, "image token *heads width"]:
    """The rows as a dictionary of this width reads them: whole, or head by head where it is as wide as one head.

    Raises:
        InputError: the widths differ.
    """
    whole = rows[0, 0].numel()
    if whole == width:
        return rows.flatten(2) if rows.ndim > 2 else rows[..., None]
    if rows.ndim == 4 and rows.shape[-1] == width:
        return rows
    raise InputError(wrong_width(width, whole, name, rows.shape[-2:] if rows.ndim == 4 else None))


def check_width(model: HookedViT, place: HookPlace, width: int) -> None:
    """Refuses a dictionary of another width before anything runs, where the hook point is as wide as the stream."""
    kind = place.name.rsplit("hook_", 1)[-1]
    in_stream = place.block is not None and kind in STREAM_WIDE
    found = model.pool.width(model.cfg.d_model) if place.name == "hook_pooled" else model.cfg.d_model
    if (in_stream or place.name in ("hook_embed", "hook_patch_embed", "hook_pooled")) and width != found:
        raise InputError(wrong_width(width, found, place.name))


def wrong_width(width: int, found: int, name: str, heads: Sequence[int] | None = None) -> str:
    apart = "" if heads is None else f" ({heads[0]} heads of {heads[1]})"
    return (
        f"the dictionary is {width} wide, and {name} is {found} wide{apart}: pass one that was trained on this hook point "
        "of this model"
    )


def chosen_rows(
    model: HookedViT, place: HookPlace, tokens: TokenSet, n_rows: int, grid: tuple[int, int] | None = None
) -> Int[Tensor, "row"]:
    """Which of a picture's rows belong to these tokens: the same rows for every picture.

    Raises:
        InputError: an unknown set, one that differs between pictures, or that is empty at this hook point.
    """
    if not place.has_tokens or (isinstance(tokens, str) and tokens == "all"):
        return torch.arange(n_rows)
    if grid is None:
        n_patches = place.first_token + n_rows - model.cfg.n_prefix_tokens
        rows, columns = model.cfg.grid_size
        # Of pictures of another size only the number of patches is known here: enough for the sets that have names.
        grid = (rows, columns) if rows * columns == n_patches or not isinstance(tokens, str) else (1, n_patches)
    inside = select_tokens(model, tokens, 1, grid=grid)[0].cpu()
    ids = place.ids(n_rows)
    if int(ids.max()) >= len(inside):
        raise InputError(
            f"{place.name} has {n_rows} rows for each picture, and not one for each of its {len(inside)} tokens: pass "
            'tokens="all"'
        )
    found = inside[ids].nonzero()[:, 0]
    if not len(found):
        raise InputError(f"{place.name} holds none of the tokens {tokens!r}")
    return found


def tokens_in_words(tokens: TokenSet) -> str:
    """What a printout calls the tokens."""
    return str(tokens) if isinstance(tokens, (str, Box)) else short(tokens)


def read_places(
    model: HookedViT, images: Float[Tensor, "image channels height width"], places: Sequence[HookPlace]
) -> dict[str, Float[Tensor, "image token *rest"]]:
    """The rows of some hook points, by name; blocks behind the last of them do not run."""
    found: dict[str, Tensor] = {}
    by_name = {place.name: place for place in places}

    def keep(activation: Tensor, hook: HookPoint) -> None:
        found[str(hook.name)] = by_name[str(hook.name)].split(activation.detach())

    with torch.no_grad(), model.hooks([(name, Reader(keep)) for name in by_name]):
        model(images, return_type=None, stop_at_layer=last_needed(places))
    return found


def last_needed(places: Sequence[HookPlace]) -> int | None:
    """`stop_at_layer` of a run that reaches all these hook points; None where it must run to the end."""
    if any(place.block is None and not place.is_before_blocks for place in places):
        return None
    return max(0 if place.block is None else place.block + 1 for place in places)


def first_touched(model: HookedViT, places: Sequence[HookPlace]) -> int:
    """The first block that a hook on any of these can change; the number of blocks for what follows them, −1 for what
    precedes them."""
    if any(place.is_before_blocks for place in places):
        return -1
    return min(model.cfg.n_layers if place.block is None else place.block for place in places)


def suffix_of(
    model: HookedViT, images: Float[Tensor, "image channels height width"], places: Sequence[HookPlace]
) -> Callable[..., Float[Tensor, "image classes"]]:
    """A function from hooks on these places to logits; what lies before the first block that they can touch runs once.

    Its second argument, if given, says which of the pictures run: places in the batch, each as often as it is named.
    """
    first = first_touched(model, places)
    if first <= 0:
        return lambda hooks, chosen=slice(None): model.run_with_hooks(images[chosen], fwd_hooks=hooks)
    grid = model.embed.grid(*images.shape[-2:])
    with torch.no_grad():
        stream = model(images, stop_at_layer=first)
    return lambda hooks, chosen=slice(None): model.run_with_hooks(
        stream[chosen], fwd_hooks=hooks, start_at_layer=first, grid=grid
    )
