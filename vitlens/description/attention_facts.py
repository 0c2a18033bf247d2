"""Measures each head's attention: its distance, its entropy, and how much goes to each kind of token."""

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.description.tokens import TokenLayout


def attention_facts(
    pattern: Float[Tensor, "image head query tokens"],
    layout: TokenLayout,
    outlier: Bool[Tensor, "image patch"],
) -> dict[str, Float[Tensor, "image head"]]:
    """Distance, entropy and attention masses of every head in every picture.

    `distance`: Σ_j A_ij |p_i − p_j| / Σ_j A_ij over patches j with centres p in pixels, mean over patches i (the mean
    attention distance of Dosovitskiy et al. 2021, figure 7, and Raghu et al. 2021). `patch_entropy`: −Σ_j A_ij ln A_ij
    over all tokens j, mean over patches i; `class_entropy`: of the class token's row. `patch_to_…`: what patches give,
    on average, to tokens of each kind in front of them, to themselves, to their 8 neighbours and to the rest of the
    patches, which sum to 1; `class_to_…`: what the class token gives to each kind. `patch_to_outliers` and
    `class_to_outliers`: what of that goes to outlier patches.

    Args:
        pattern: rows that are not negative and sum to 1: `shares` of a pattern that may be negative.
        outlier: which patches of the stream that enters the block are outliers.

    Source: Dosovitskiy et al. 2021 (An Image is Worth 16x16 Words), Raghu et al. 2021 (Do Vision Transformers See Like
    Convolutional Neural Networks?).
    """
    n_prefix, class_token = layout.n_prefix, layout.class_token
    of_patches = pattern[:, :, n_prefix:]
    among = of_patches[..., n_prefix:]
    itself = torch.eye(among.shape[-1], dtype=among.dtype, device=among.device)
    kernels = torch.stack([layout.distance, torch.ones_like(itself), itself, layout.neighbours.to(among.dtype)])
    # One matrix product for every query reads the pattern once for all four.
    path, total, on_self, near = einsum(among, kernels, "b h i j, k i j -> k b h i")
    rest = (total - on_self - near).clamp(min=0)
    facts = {"distance": path / total, "patch_entropy": entropy(of_patches)}
    for kind in layout.prefix_kinds:
        facts[f"patch_to_{kind}"] = of_patches[..., layout.of_kind(kind)].sum(dim=-1)
    facts |= {"patch_to_self": on_self, "patch_to_neighbours": near, "patch_to_rest": rest}
    marked = outlier.to(among.dtype)
    facts["patch_to_outliers"] = einsum(among, marked, "b h i j, b j -> b h i")
    means = {name: of_query.mean(dim=-1) for name, of_query in facts.items()}
    if class_token is not None:
        row = pattern[:, :, class_token]
        means["class_entropy"] = entropy(row)
        for kind in layout.kinds:
            means[f"class_to_{kind}"] = row[..., layout.of_kind(kind)].sum(dim=-1)
        means["class_to_outliers"] = einsum(row[..., n_prefix:], marked, "b h j, b j -> b h")
    return means


def entropy(rows: Float[Tensor, "*batch tokens"]) -> Float[Tensor, "*batch"]:
    """−Σ_j p_j ln p_j in nats, 0 ln 0 = 0."""
    return torch.special.entr(rows).sum(dim=-1)


def shares(pattern: Float[Tensor, "image head query tokens"]) -> Float[Tensor, "image head query tokens"]:
    """|A_ij| / Σ_j |A_ij|: the rows of a pattern with negative entries (differential attention) as shares."""
    size = pattern.abs()
    return size / size.sum(dim=-1, keepdim=True)
