"""Relevance propagation: conservation through every architecture, and the method against equations written out plainly."""

from pathlib import Path

import pytest
import torch
from timm.layers import SwiGLU
from timm.models.vision_transformer import ResPostBlock
from variants import OTHERS, VARIANTS, pictures

from vitlens import HookedViT
from vitlens.errors import InputError
from vitlens.heatmaps.methods.relevance import (
    OF_BLOCK,
    OF_POOL,
    relevance_before_block,
    relevance_before_head,
    relevance_propagation,
)
from vitlens.heatmaps.shared.block_by_block import streams_between_blocks, through_block, through_head
from vitlens.heatmaps.shared.relevance_rules import STABILISER
from vitlens.model.parts.attention import DifferentialAttention

ASSETS = Path(__file__).parents[3] / "shared" / "assets"
WEIGHTS = ASSETS / "vit_tiny_patch16_224_imagenet1k.safetensors"


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fail(activation, hook):
    raise ArithmeticError


def close(found, expected, tolerance=1e-9):
    assert (found - expected).abs().max() <= tolerance * max(1.0, expected.abs().max())


# ---- conservation through every architecture -------------------------------------------------------------------------


def test_relevance_is_conserved_through_every_block(classifier, images_of):
    """All of the class's 1 arrives at the stream; with attention pooling ¼ stays with the pool's query."""
    model, images, classes = classifier, images_of(classifier, 2), torch.tensor([1, 4])
    if isinstance(model.blocks[0].attn, DifferentialAttention):
        with pytest.raises(InputError, match="no rule for differential attention"):
            relevance_propagation(model, images, classes)
        return
    grid = model.embed.grid(*images.shape[-2:])
    streams = streams_between_blocks(model, images)
    head = through_head(model, streams[-1], classes, OF_POOL, grid)
    relevance, row = relevance_before_head(model, streams[-1], classes, head)
    arrives = 0.75 if model.cfg.pool == "map" else 1.0
    assert (relevance.sum(dim=(1, 2)) - arrives).abs().max() < 1e-5
    assert (row >= 0).all()
    gradient = head.of_stream
    for block in reversed(range(model.cfg.n_layers)):
        run = through_block(model, streams[block], block, gradient, OF_BLOCK, grid)
        relevance, of_pattern = relevance_before_block(model.blocks[block], streams[block], run.seen, relevance)
        gradient = run.of_stream
        assert of_pattern.abs().max() > 0
        assert (relevance.sum(dim=(1, 2)) - arrives).abs().max() < 1e-4


def test_gradients_block_by_block_are_those_of_one_backward(classifier, images_of):
    model, images, classes = classifier, images_of(classifier, 2), torch.tensor([1, 4])
    patterns = []

    def keep(pattern, hook):
        patterns.append(pattern)

    names = [f"blocks.{block}.attn.hook_pattern" for block in range(model.cfg.n_layers)]
    with torch.enable_grad():
        logits = model.run_with_hooks(images.requires_grad_(), fwd_hooks=[(name, keep) for name in names])
    expected = torch.autograd.grad(logits[[0, 1], classes].sum(), patterns)
    images = images.detach()
    grid = model.embed.grid(*images.shape[-2:])
    streams = streams_between_blocks(model, images)
    gradient = through_head(model, streams[-1], classes, [], grid).of_stream
    for block in reversed(range(model.cfg.n_layers)):
        run = through_block(model, streams[block], block, gradient, ["attn.hook_pattern"], grid)
        close(run.of_pattern, expected[block])
        gradient = run.of_stream


# ---- the method, written out for one picture with whole matrices -----------------------------------------------------


def ratio(relevance, z):
    return relevance / (z + STABILISER * z.sign())


def fractions(function, inputs, relevance):
    """Equation 2 by autograd: R_k = x_k ∂Z/∂x_k (R / Z)."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        z = function(*leaves)
        gradients = torch.autograd.grad(z, leaves, ratio(relevance, z.detach()))
    return [leaf.detach() * gradient for leaf, gradient in zip(leaves, gradients, strict=True)]


def through_linear(x, weight, relevance):
    plus, minus = weight.clamp(min=0), weight.clamp(max=0)
    parts = fractions(lambda a, b: a @ plus.T + b @ minus.T, [x.clamp(min=0), x.clamp(max=0)], relevance)
    return parts[0] + parts[1]


def normalised(parts, relevance):
    sums = [part.sum() for part in parts]
    size = sum(total.abs() for total in sums)
    return [part * (total.abs() / size * relevance.sum() / total) for part, total in zip(parts, sums, strict=True)]


def through_sum(terms, relevance):
    return normalised(fractions(lambda *xs: sum(xs), terms, relevance), relevance)


def through_product(left, right, relevance):
    """Each factor alone takes all of it, so normalised each has half."""
    return [part / 2 for part in fractions(torch.matmul, [left, right], relevance)]


def heads_of(x, n_heads):
    return x.unflatten(-1, (n_heads, -1)).transpose(0, 1)


def merged(x):
    return x.transpose(0, 1).flatten(1)


def unchanged(x):
    return x


class PlainBlock:
    """A timm block for one picture: all its intermediate values by their names, and the relevance through them."""

    def __init__(self, block, x):
        self.block, self.x = block, x
        attn, mlp = block.attn, block.mlp
        norms = [block.norm1, block.norm2]
        before, behind = ([unchanged] * 2, norms) if isinstance(block, ResPostBlock) else (norms, [unchanged] * 2)
        self.gammas = [getattr(getattr(block, name, None), "gamma", torch.ones_like(x[0])) for name in ("ls1", "ls2")]
        self.n_heads = attn.num_heads
        self.read = before[0](x)
        q, k, self.v = (heads_of(part, self.n_heads) for part in attn.qkv(self.read).chunk(3, dim=-1))
        self.q, self.k = attn.q_norm(q), attn.k_norm(k)
        self.pattern = (self.q @ self.k.mT * attn.scale).softmax(dim=-1)
        # Older versions of timm have neither norm nor gate here.
        self.z = getattr(attn, "norm", torch.nn.Identity())(merged(self.pattern @ self.v))
        if getattr(attn, "gate", None) is not None:
            self.z = self.z * attn.gate(self.read).sigmoid()
        self.attn_out = behind[0](self.gammas[0] * attn.proj(self.z))
        self.middle = x + self.attn_out
        self.mlp_read = before[1](self.middle)
        self.gated = isinstance(mlp, SwiGLU)
        hidden = mlp.act(mlp.fc1_g(self.mlp_read)) * mlp.fc1_x(self.mlp_read) if self.gated else None
        self.hidden = mlp.norm(hidden if self.gated else mlp.act(mlp.fc1(self.mlp_read)))
        self.mlp_out = behind[1](self.gammas[1] * mlp.fc2(self.hidden))
        self.out = self.middle + self.mlp_out

    def relevance(self, relevance):
        attn, mlp = self.block.attn, self.block.mlp
        kept, computed = through_sum([self.middle, self.mlp_out], relevance)
        of_hidden = through_linear(self.hidden, mlp.fc2.weight * self.gammas[1][:, None], computed)
        factors = [mlp.fc1_g, mlp.fc1_x] if self.gated else [mlp.fc1]
        of_middle = kept + sum(through_linear(self.mlp_read, f.weight, of_hidden / len(factors)) for f in factors)
        kept, attended = through_sum([self.x, self.attn_out], of_middle)
        of_z = through_linear(self.z, attn.proj.weight * self.gammas[0][:, None], attended)
        if getattr(attn, "gate", None) is not None:
            of_z = of_z / 2
            kept = kept + through_linear(self.read, attn.gate.weight, of_z)
        of_pattern, of_v = through_product(self.pattern, self.v, heads_of(of_z, self.n_heads))
        of_q, of_k = through_product(self.q, self.k.mT, of_pattern)
        of_qkv = torch.cat([merged(of_q), merged(of_k.mT), merged(of_v)], dim=-1)
        return kept + through_linear(self.read, attn.qkv.weight, of_qkv), of_pattern


def plain_classifiers(module, x):
    """(what a classifier reads, the classifier, the share of each token in it) for each classifier."""
    normed = module.norm(x)
    if hasattr(module, "head_dist"):
        eye = torch.eye(len(x), dtype=x.dtype)
        return [(normed[0], module.head, eye[0]), (normed[1], module.head_dist, eye[1])]
    n_prefix = module.num_prefix_tokens
    shares = torch.zeros(len(x), dtype=x.dtype)
    if module.global_pool == "token":
        shares[0] = 1
    else:
        first = 0 if getattr(module, "pool_include_prefix", False) else n_prefix
        shares[first:] = 1 / (len(x) - first)
    return [(module.fc_norm(shares @ normed), module.head, shares)]


def plain_relevance_propagation(module, image, wanted, first_block=0):
    """Equations 13 and 14 of one picture, by one backward, with whole matrices."""
    with torch.no_grad():
        x = module._pos_embed(module.patch_embed(image[None]))[0]
        x = module.norm_pre(x)
    x = x.requires_grad_()
    blocks = []
    for block in module.blocks:
        blocks.append(PlainBlock(block, x))
        x = blocks[-1].out
    heads = plain_classifiers(module, x)
    logits = [head(read)[wanted] for read, head, _ in heads]
    gradients = torch.autograd.grad(sum(logits) / len(logits), [block.pattern for block in blocks])
    with torch.no_grad():
        shares = through_sum([logit[None] for logit in logits], torch.ones(1, dtype=torch.float64))
        relevance, row = torch.zeros_like(x), torch.zeros(len(x), dtype=torch.float64)
        for (read, head, tokens), share in zip(heads, shares, strict=True):
            at_class = torch.zeros(len(head.weight), dtype=torch.float64)
            at_class[wanted] = share
            relevance += tokens[:, None] * through_linear(read, head.weight, at_class)
            row += tokens / len(heads)
        rollout = torch.eye(len(x), dtype=torch.float64)
        for index in reversed(range(len(blocks))):
            relevance, of_pattern = blocks[index].relevance(relevance)
            if index >= first_block:
                rollout = rollout @ (rollout.new_ones(len(x)).diag() + (gradients[index] * of_pattern).relu().mean(0))
    return (row @ rollout)[module.num_prefix_tokens :]


PLAIN = [
    *("class_token", "registers", "distilled", "average_without_class_token", "average_with_class_token", "norm_pre"),
    *("average_of_all_tokens", "average_norm_before_pool", "layer_scale", "qk_norm", "no_qkv_bias", "no_proj_bias"),
    *(
        "silu_layer_scale_qk_norm",
        "relu",
        "wide_picture",
        "rms_norm",
        "post_norm",
        "gated",
        "sub_norms",
        "gated_attention",
    ),
]


@pytest.mark.parametrize("name", PLAIN)
def test_equal_to_the_equations_written_out(name):
    module = (VARIANTS | OTHERS)[name]()
    model = HookedViT.from_timm(module)
    images, classes = pictures(model.cfg, 2), torch.tensor([3, 7])
    found = relevance_propagation(model, images, classes)
    expected = torch.stack(
        [plain_relevance_propagation(module, image, int(wanted)) for image, wanted in zip(images, classes, strict=True)]
    )
    assert found.max() > 1e-3
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_the_first_blocks_can_be_left_out(plain, images_of):
    module = VARIANTS["class_token"]()
    images, classes = images_of(plain, 1), torch.tensor([3])
    found = relevance_propagation(plain, images, classes, first_block=1)
    expected = plain_relevance_propagation(module, images[0], 3, first_block=1)
    assert (found[0] - expected).abs().max() <= 1e-9 * expected.abs().max()
    assert (found - relevance_propagation(plain, images, classes)).abs().max() > 1e-4
    close(relevance_propagation(plain, images, classes, first_block=-2), found)


def plain_pool_relevance(module, x, wanted):
    """Relevance of the stream and of the pattern behind `norm`, with timm's attention pooling, one picture."""
    pool, n_heads = module.attn_pool, module.attn_pool.num_heads
    first = 0 if getattr(module, "pool_include_prefix", True) else module.num_prefix_tokens
    with torch.no_grad():
        read = module.norm(x)[first:]
        q = pool.q_norm(heads_of(pool.q(pool.latent[0]), n_heads))
        k, v = (heads_of(part, n_heads) for part in pool.kv(read).chunk(2, dim=-1))
        k = pool.k_norm(k)
    pattern = (q @ k.mT * pool.scale).softmax(dim=-1).detach().requires_grad_()
    z = merged(pattern @ v)
    out = pool.proj(z)
    mlp_read = pool.norm(out)
    hidden = None if pool.mlp is None else pool.mlp.act(pool.mlp.fc1(mlp_read))
    mlp_out = torch.zeros_like(out) if pool.mlp is None else pool.mlp.fc2(hidden)
    features = module.fc_norm(out + mlp_out)
    (gradient,) = torch.autograd.grad(module.head(features)[0, wanted], pattern)
    with torch.no_grad():
        at_class = torch.nn.functional.one_hot(torch.tensor([wanted]), len(module.head.weight)).double()
        of_out = through_linear(features, module.head.weight, at_class)
        if pool.mlp is not None:
            kept, computed = through_sum([out, mlp_out], of_out)
            of_hidden = through_linear(hidden, pool.mlp.fc2.weight, computed)
            of_out = kept + through_linear(mlp_read, pool.mlp.fc1.weight, of_hidden)
        of_z = through_linear(z, pool.proj.weight, of_out)
        of_pattern, of_v = through_product(pattern, v, heads_of(of_z, n_heads))
        _, of_k = through_product(q, k.mT, of_pattern)
        of_kv = torch.cat([merged(of_k.mT), merged(of_v)], dim=-1)
        of_stream = torch.zeros_like(x)
        of_stream[first:] = through_linear(read, pool.kv.weight, of_kv)
        row = torch.zeros(len(x), dtype=torch.float64)
        row[first:] = (gradient * of_pattern).relu().mean(dim=0)[0]
    return of_stream, row


@pytest.mark.parametrize("name", ["attention_pool", "attention_pool_of_all_tokens", "attention_pool_alone"])
def test_attention_pooling_is_one_more_attention(name, images_of):
    module = OTHERS[name]()
    model = HookedViT.from_timm(module)
    classes = torch.tensor([3, 7])
    images = images_of(model, 2)
    last = streams_between_blocks(model, images)[-1]
    head = through_head(model, last, classes, OF_POOL, model.cfg.grid_size)
    relevance, row = relevance_before_head(model, last, classes, head)
    for image, wanted in enumerate(classes.tolist()):
        expected, expected_row = plain_pool_relevance(module, last[image], wanted)
        assert (relevance[image] - expected).abs().max() <= 1e-9 * expected.abs().max()
        assert (row[image] - expected_row).abs().max() <= 1e-9 * expected_row.abs().max()
        assert expected_row.max() > 0


# ---- what every method keeps to --------------------------------------------------------------------------------------


def test_pictures_of_a_batch_do_not_meet(classifier, images_of):
    if isinstance(classifier.blocks[0].attn, DifferentialAttention):
        pytest.skip("refused")
    images, classes = images_of(classifier, 3), torch.tensor([0, 5, 2])
    together = relevance_propagation(classifier, images, classes)
    for image in range(3):
        one = slice(image, image + 1)
        close(relevance_propagation(classifier, images[one], classes[one]), together[one])


def test_no_traces_are_left(plain, images_of):
    images, classes = images_of(plain, 2), torch.tensor([0, 5])
    expected = relevance_propagation(plain, images, classes)
    with torch.no_grad():
        found = relevance_propagation(plain, images, classes)
    assert torch.equal(found, expected)
    assert not found.requires_grad
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in plain.parameters())
    assert not plain.list_hooks()
    with pytest.raises(InputError, match="there is no block 3"):
        relevance_propagation(plain, images, classes, first_block=3)
    for name in ("blocks.1.hook_mlp_out", "hook_logits"):
        with plain.hooks(fwd_hooks=[(name, fail)]), pytest.raises(ArithmeticError):
            relevance_propagation(plain, images, classes)
        assert not plain.list_hooks()


def test_it_needs_no_gradients_of_parameters(plain, images_of):
    images, classes = images_of(plain, 1), torch.tensor([5])
    expected = relevance_propagation(plain, images, classes)
    plain.requires_grad_(False)
    assert torch.equal(relevance_propagation(plain, images, classes), expected)


def test_any_class_embeddings_can_be_the_classifier(plain, images_of):
    images, classes = images_of(plain, 2), torch.tensor([1, 4])
    expected = relevance_propagation(plain, images, classes)
    weight, bias = plain.W_U.T.detach().clone(), plain.b_U.detach().clone()
    texts = random(5, 10)
    plain.set_class_embeddings(texts, normalise=True)
    grid, streams = plain.cfg.grid_size, streams_between_blocks(plain, images)
    head = through_head(plain, streams[-1], classes, [], grid)
    relevance, _ = relevance_before_head(plain, streams[-1], classes, head)
    read = plain.ln_final.normalise(streams[-1])[:, 0]
    of_texts = through_linear(read @ weight.T + bias, texts, torch.nn.functional.one_hot(classes, 5).double())
    close(relevance[:, 0], through_linear(read, weight, of_texts))
    assert not relevance[:, 1:].any()
    plain.set_class_embeddings(weight, bias=bias, space="features")
    close(relevance_propagation(plain, images, classes), expected)


def test_it_needs_a_classifier(headless, images_of):
    with pytest.raises(InputError, match="without a classifier"):
        relevance_propagation(headless, images_of(headless, 1), torch.tensor([0]))


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"no {WEIGHTS.name} in shared/assets")
def test_the_dog_lies_above_the_cat():
    model = HookedViT.from_timm("vit_tiny_patch16_224", checkpoint_path=WEIGHTS)
    images = model.to_images([ASSETS / "photos" / "catdog.png"] * 2)
    classes = torch.tensor([model.class_index("bull mastiff"), model.class_index("tabby")])
    maps = relevance_propagation(model, images, classes, first_block=1).unflatten(1, (14, 14))
    upper = maps[:, :7].sum(dim=(1, 2)) / maps.sum(dim=(1, 2))
    assert upper[0] > 0.6 > upper[1]
