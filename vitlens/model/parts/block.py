"""How attention and MLP write to the residual stream: one class for each wiring of timm's blocks."""

from jaxtyping import Float
from torch import Tensor, nn

from vitlens.model.hooks.hook_points import expose, hook_point
from vitlens.model.parts.attention import Attention
from vitlens.model.parts.mlp import MLP
from vitlens.model.parts.norm import Norm


class Block(nn.Module):
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


class PostNormBlock(nn.Module):
    """resid_mid = resid_pre + ln1(attn(resid_pre)), resid_post = resid_mid + ln2(mlp(resid_mid)).

    The norms stand behind the branches: `hook_result` sums to what `ln1` reads, `hook_attn_out` is what it returns.
    """

    wiring = "post-norm"

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


class ParallelBlock(nn.Module):
    """resid_post = resid_pre + attn(ln1(resid_pre)) + mlp(ln1(resid_pre)): one norm, no stream in the middle."""

    wiring = "parallel"

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


AnyBlock = Block | PostNormBlock | ParallelBlock


def written_by_heads(
    block: AnyBlock, z: Float[Tensor, "batch tokens heads d_head"], scale: Float[Tensor, "batch tokens 1"] | None
) -> tuple[Tensor, Float[Tensor, "heads d_head d"], Float[Tensor, "batch tokens d"]]:
    """z', W and b with Σ_heads z' W + b = hook_attn_out: what each head adds to the stream, and what all of them add.

    Behind a post-norm block's heads stands a norm: `scale`, its `hook_scale` in the run, is frozen, and its linear part
    goes into W.
    """
    bias = block.attn.b_O.expand(*z.shape[:-2], -1)
    if not isinstance(block, PostNormBlock):
        return z, block.attn.W_O, bias
    assert scale is not None
    bias = block.ln1.linear_part(bias) / scale
    if block.ln1.bias is not None:
        bias = bias + block.ln1.bias
    return z / scale[..., None], block.ln1.linear_part(block.attn.W_O), bias
