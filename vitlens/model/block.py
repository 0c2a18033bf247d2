"""A pre-norm transformer block: how attention and MLP write to the residual stream."""

from jaxtyping import Float
from torch import Tensor, nn

from vitlens.model.attention import Attention
from vitlens.model.hook_points import expose, hook_point
from vitlens.model.mlp import MLP
from vitlens.model.norm import LayerNorm


class Block(nn.Module):
    """resid_mid = resid_pre + attn_out, resid_post = resid_mid + mlp_out.

    The three `hook_resid_*` are the stream itself: an edit reaches the skip connection and the branch.
    """

    def __init__(self, ln1: LayerNorm, attn: Attention, ln2: LayerNorm, mlp: MLP) -> None:
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

    def forward(self, resid: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch tokens d"]:
        # The same tensor left the block before as its resid_post.
        resid = expose(self.hook_resid_pre, resid)
        resid = self.hook_resid_mid(resid + self.hook_attn_out(self.attn(self.ln1(resid))))
        return self.hook_resid_post(resid + self.hook_mlp_out(self.mlp(self.ln2(resid))))
