"""How attention and MLP write to the residual stream: one class for each wiring of timm's blocks."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from vitlens.model.hooks.hook_points import expose, hook_point
from vitlens.model.parts.attention import Attention
from vitlens.model.parts.mlp import MLP
from vitlens.model.parts.norm import Norm

Part = Literal["attn", "mlp"]


class AnyBlock(nn.Module):
    """Where the wiring puts the norms of a block: before attention and MLP, or after them."""

    wiring: str
    norms_behind = False
    #: Whether there is a stream between attention and MLP, `hook_resid_mid`.
    has_middle = True
    attn: Attention
    mlp: MLP
    ln1: Norm
    ln2: Norm

    def norm_of(self, part: Part) -> Norm:
        return self.ln1 if part == "attn" else self.ln2

    def norm_before(self, part: Part) -> Norm | None:
        """The norm that reads the stream for attention or MLP; None where they read the stream itself."""
        return None if self.norms_behind else self.norm_of(part)

    def norm_behind(self, part: Part) -> Norm | None:
        """The norm between attention or MLP and the stream; None where they write to the stream themselves."""
        return self.norm_of(part) if self.norms_behind else None

    def reads(self, part: Part, resid: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """What attention or MLP reads of a stream, past all hook points."""
        norm = self.norm_before(part)
        return resid if norm is None else norm.normalise(resid)

    def written_by(
        self, part: Part, units: Float[Tensor, "batch tokens *unit"], scale: Float[Tensor, "batch tokens 1"] | None
    ) -> tuple[Tensor, Float[Tensor, "*unit d"], Float[Tensor, "batch tokens d"]]:
        """units', W and b with Σ units' W + b = hook_attn_out or hook_mlp_out: what each head (`units` are its z) or each
        neuron (its `hook_post`) adds to the stream, and what all of them add.

        If a norm follows them, `scale`, its `hook_scale` in the run, is frozen, and its linear part goes into W.
        """
        weight, bias = (self.attn.W_O, self.attn.b_O) if part == "attn" else (self.mlp.W_out, self.mlp.b_out)
        n_axes = weight.ndim - 1
        bias, norm = bias.expand(*units.shape[:-n_axes], -1), self.norm_behind(part)
        if norm is None:
            return units, weight, bias
        assert scale is not None
        bias = norm.linear_part(bias) / scale
        if norm.bias is not None:
            bias = bias + norm.bias
        return units / scale.unflatten(-1, (1,) * n_axes), norm.linear_part(weight), bias


class Block(AnyBlock):
    """Pre-norm: resid_mid = resid_pre + attn(ln1(resid_pre)), resid_post = resid_mid + mlp(ln2(resid_mid)).

    The `hook_resid_*` are the stream itself: an edit reaches the skip connection and the branch. `hook_attn_out` and
    `hook_mlp_out` are exactly what is added to it. With `n_read`, what leaves the block at the first tokens only.
    """

    wiring = "pre-norm"

    def __init__(self, ln1: Norm, attn: Attention, ln2: Norm, mlp: MLP) -> None:
        super().__init__()
        self.hook_resid_pre = hook_point()
        self.ln1 = ln1
        self.attn = attn
        self.hook_attn_out = hook_point()
        self.hook_resid_mid = hook_point()
        self.ln2 = ln2
        self.mlp = mlp
        self.hook_mlp_out = hook_point()
        self.hook_resid_post = hook_point()

    def forward(
        self,
        resid: Float[Tensor, "batch tokens d"],
        angles: Tensor | None = None,
        bias: Tensor | None = None,
        n_read: int | None = None,
    ) -> Float[Tensor, "batch read d"]:
        # The same tensor left the block before as its resid_post.
        resid = expose(self.hook_resid_pre, resid)
        attended = self.hook_attn_out(self.attn(self.ln1(resid), angles, bias, n_read))
        resid = self.hook_resid_mid(resid[:, :n_read] + attended)
        return self.hook_resid_post(resid + self.hook_mlp_out(self.mlp(self.ln2(resid))))


class PostNormBlock(AnyBlock):
    """resid_mid = resid_pre + ln1(attn(resid_pre)), resid_post = resid_mid + ln2(mlp(resid_mid)).

    The norms follow the branches: `hook_result` sums to the input of `ln1`, `hook_attn_out` is its output.
    """

    wiring = "post-norm"
    norms_behind = True

    def __init__(self, attn: Attention, ln1: Norm, mlp: MLP, ln2: Norm) -> None:
        super().__init__()
        self.hook_resid_pre = hook_point()
        self.attn = attn
        self.ln1 = ln1
        self.hook_attn_out = hook_point()
        self.hook_resid_mid = hook_point()
        self.mlp = mlp
        self.ln2 = ln2
        self.hook_mlp_out = hook_point()
        self.hook_resid_post = hook_point()

    def forward(
        self,
        resid: Float[Tensor, "batch tokens d"],
        angles: Tensor | None = None,
        bias: Tensor | None = None,
        n_read: int | None = None,
    ) -> Float[Tensor, "batch read d"]:
        resid = expose(self.hook_resid_pre, resid)
        attended = self.hook_attn_out(self.ln1(self.attn(resid, angles, bias, n_read)))
        resid = self.hook_resid_mid(resid[:, :n_read] + attended)
        return self.hook_resid_post(resid + self.hook_mlp_out(self.ln2(self.mlp(resid))))


class ParallelBlock(AnyBlock):
    """resid_post = resid_pre + attn(ln1(resid_pre)) + mlp(ln1(resid_pre)): one norm, no stream in the middle."""

    wiring = "parallel"
    has_middle = False

    def __init__(self, ln1: Norm, attn: Attention, mlp: MLP) -> None:
        super().__init__()
        self.hook_resid_pre = hook_point()
        self.ln1 = ln1
        self.attn = attn
        self.hook_attn_out = hook_point()
        self.mlp = mlp
        self.hook_mlp_out = hook_point()
        self.hook_resid_post = hook_point()

    def forward(
        self,
        resid: Float[Tensor, "batch tokens d"],
        angles: Tensor | None = None,
        bias: Tensor | None = None,
        n_read: int | None = None,
    ) -> Float[Tensor, "batch read d"]:
        resid = expose(self.hook_resid_pre, resid)
        read = self.ln1(resid)
        attended = self.hook_attn_out(self.attn(read, angles, bias, n_read))
        written = attended + self.hook_mlp_out(self.mlp(read[:, :n_read]))
        return self.hook_resid_post(resid[:, :n_read] + written)

    def norm_of(self, part: Part) -> Norm:
        return self.ln1
