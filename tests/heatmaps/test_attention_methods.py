"""Methods that read attention patterns, or gradients at tokens, against their formulas written out and against packages."""

import pytest
import torch
from ported import on_each_property
from torch import nn

import vitlens
from vitlens import HookedViT, InputError
from vitlens.heatmaps.methods.attention_rollout import attention_rollout
from vitlens.heatmaps.methods.grad_cam import grad_cam
from vitlens.heatmaps.methods.gradient_rollout import gradient_rollout
from vitlens.heatmaps.methods.legrad import legrad
from vitlens.heatmaps.methods.raw_attention import raw_attention
from vitlens.model.parts.pooling import AttentionPool

CLASSES = torch.tensor([1, 4])


def close(found, expected):
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-9 * max(expected.abs().max().item(), 1e-3))


def attends(model):
    return isinstance(model.pool, AttentionPool)


def observed(model, images):
    """The logits and every activation, in the graph, gradients to be kept."""
    seen = {}

    def keep(value, hook):
        value.retain_grad()
        seen[hook.name] = value

    logits = model.run_with_hooks(images, fwd_hooks=[(lambda name: True, keep)])
    return logits, seen


def rows_read(model, seen):
    """What each token counts: the pool's pattern, or how the pooled features react to the tokens' features."""
    resid = seen[f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"].detach()
    normed = (resid if model.ln_final is None else model.ln_final(resid)).detach().requires_grad_()
    if attends(model):
        weights = torch.zeros(normed.shape[:2], dtype=normed.dtype)
        weights[:, model.read_tokens] = seen["pool.hook_pattern"].detach().mean(dim=1)[:, 0]
        return weights
    pools = [pool for pool in (model.pool, model.pool_dist) if pool is not None]
    pooled = sum(pool(normed) for pool in pools) / len(pools)
    parts = pooled.shape[-1] // normed.shape[-1]  # Class token and mean side by side count as half each.
    return torch.autograd.grad(pooled.sum() / parts, normed)[0].mean(dim=-1)


def patterns_of(model, seen):
    return [seen[f"blocks.{block}.attn.hook_pattern"] for block in range(model.cfg.n_layers)]


def patches(model, row):
    return row[:, model.cfg.n_prefix_tokens :]


def test_raw_attention_is_the_row_that_is_read(classifier, images_of):
    images = images_of(classifier, 2)
    _, seen = observed(classifier, images)
    rows, pattern = rows_read(classifier, seen), patterns_of(classifier, seen)
    last = classifier.cfg.n_layers - 1
    if attends(classifier):
        close(raw_attention(classifier, images), patches(classifier, rows))
        own = seen["pool.hook_pattern"][:, 1, 0]
        close(raw_attention(classifier, images, head=1), own[:, -images_patches(classifier, images) :])
    else:
        close(
            raw_attention(classifier, images),
            patches(classifier, torch.einsum("bq,bhqk->bk", rows, pattern[-1]) / pattern[-1].shape[1]),
        )
        assert torch.equal(raw_attention(classifier, images), raw_attention(classifier, images, block=last))
    found = raw_attention(classifier, images, block=last, head=1)
    close(found, patches(classifier, torch.einsum("bq,bqk->bk", rows, pattern[-1][:, 1])))
    found = raw_attention(classifier, images, block=0)
    close(found, patches(classifier, torch.einsum("bq,bhqk->bk", rows, pattern[0]) / pattern[0].shape[1]))


def images_patches(model, images):
    rows, columns = model.embed.grid(*images.shape[-2:])
    return rows * columns


def test_raw_attention_of_a_class_token_is_its_row(plain, images_of):
    images = images_of(plain, 2)
    _, cache = plain.run_with_cache(images)
    close(raw_attention(plain, images), cache["pattern", -1][:, :, 0, 1:].mean(dim=1))
    close(raw_attention(plain, images, head=-1, block=1), cache["pattern", 1][:, -1, 0, 1:])


def test_rollout_equals_whole_matrices(classifier, images_of):
    images = images_of(classifier, 2)
    _, seen = observed(classifier, images)
    for fusion, discard in [("mean", 0.0), ("mean", 0.6), ("max", 0.35), ("min", 0.0)]:
        whole = whole_rollout(classifier, seen, fusion, discard)
        torch.testing.assert_close(whole.sum(dim=1), torch.ones(2, dtype=whole.dtype))
        found = attention_rollout(classifier, images, discard=discard, fusion=fusion)
        close(found, patches(classifier, whole))


def whole_rollout(classifier, seen, fusion, discard):
    """The product of the blocks' matrices, and of it the rows that are read."""
    n_prefix = classifier.cfg.n_prefix_tokens
    rollout = None
    for pattern in patterns_of(classifier, seen):
        heads = pattern.detach()
        fused = {"mean": heads.mean(1), "max": heads.max(1).values, "min": heads.min(1).values}[fusion].clamp(min=0)
        for matrix in fused:
            to_patches = sorted(matrix[:, n_prefix:].flatten().tolist())
            n_gone = int(discard * len(to_patches))
            if n_gone:
                part = matrix[:, n_prefix:]
                part[part <= to_patches[n_gone - 1]] = 0
        mixed = 0.5 * fused + 0.5 * torch.eye(fused.shape[-1], dtype=fused.dtype)
        mixed = mixed / mixed.sum(dim=-1, keepdim=True)
        rollout = mixed if rollout is None else mixed @ rollout
    return torch.einsum("bq,bqk->bk", rows_read(classifier, seen), rollout)


def test_gradient_rollout_equals_whole_matrices(classifier, images_of):
    images = images_of(classifier, 2)
    logits, seen = observed(classifier, images)
    logits.gather(1, CLASSES[:, None]).sum().backward()

    def weighted(pattern):
        return (pattern.grad * pattern.detach()).clamp(min=0).mean(dim=1)

    patterns = patterns_of(classifier, seen)
    rollout = torch.eye(patterns[0].shape[-1], dtype=images.dtype).expand(len(images), -1, -1)
    for pattern in patterns:
        rollout = rollout + weighted(pattern) @ rollout
    if attends(classifier):
        rows = torch.zeros(patterns[0].shape[::3], dtype=images.dtype)
        rows[:, classifier.read_tokens] = weighted(seen["pool.hook_pattern"])[:, 0]
    else:
        rows = rows_read(classifier, seen)
    expected = patches(classifier, torch.einsum("bq,bqk->bk", rows, rollout))
    classifier.zero_grad()
    found = gradient_rollout(classifier, images, CLASSES)
    close(found, expected)
    assert torch.equal(vitlens.heatmap(classifier, images, CLASSES, method="gradient_rollout").patches(), found)


def score_of(model, stream, tokens):
    """The class's score of a stream, the classifier's steps written out."""
    if tokens == "read" or attends(model):
        logits = model(stream, start_at_layer=model.cfg.n_layers)
    else:
        mean = stream.mean(dim=1)
        mean = mean if model.ln_final is None else model.ln_final(mean)
        mean = mean.repeat(1, model.pool.width(mean.shape[1]) // mean.shape[1])
        logits = model.unembed(mean if model.fc_norm is None else model.fc_norm(mean))
        if model.is_distilled:
            logits = (logits + model.unembed_dist(mean)) / 2
    return logits.gather(1, CLASSES[:, None]).sum()


def test_legrad_equals_autograd_of_each_block(classifier, images_of):
    images = images_of(classifier, 2)
    _, seen = observed(classifier, images)
    for tokens, first in [("all", 0), ("read", 0), ("all", -1)]:
        expected = mean_of_blocks(classifier, seen, tokens, first)
        assert expected.any()
        close(legrad(classifier, images, CLASSES, tokens=tokens, first_block=first), expected)


def mean_of_blocks(classifier, seen, tokens, first):
    """LeGrad through the whole forward's graph."""
    maps = []
    for block in range(classifier.cfg.n_layers)[first:]:
        stream = seen[f"blocks.{block}.hook_resid_post"]
        if attends(classifier):
            pool = {}
            with classifier.hooks(fwd_hooks=[("pool.hook_pattern", lambda p, hook, pool=pool: pool.update(p=p))]):
                score = score_of(classifier, stream, tokens)
            gradient = torch.autograd.grad(score, pool["p"], retain_graph=True)[0].clamp(min=0)
            row = torch.zeros(stream.shape[:2], dtype=stream.dtype)
            row[:, classifier.read_tokens] = gradient.sum(dim=(1, 2)) / gradient.shape[1]
        else:
            pattern = seen[f"blocks.{block}.attn.hook_pattern"]
            score = score_of(classifier, stream, tokens)
            gradient = torch.autograd.grad(score, pattern, retain_graph=True)[0].clamp(min=0)
            row = gradient.sum(dim=(1, 2)) / (gradient.shape[1] * gradient.shape[2])
        maps.append(patches(classifier, row))
    return torch.stack(maps).mean(dim=0)


def test_grad_cam_equals_its_two_equations(classifier, images_of):
    images = images_of(classifier, 2)
    logits, seen = observed(classifier, images)
    logits.gather(1, CLASSES[:, None]).sum().backward()
    classifier.zero_grad()

    def cam(activation, gradient):
        weights = patches(classifier, gradient).mean(dim=1, keepdim=True)
        return (patches(classifier, activation) * weights).sum(dim=-1).relu()

    for block in (-1, 0):
        index = block % classifier.cfg.n_layers
        norm, stream = classifier.blocks[index].ln1, seen[f"blocks.{index}.hook_resid_pre"]
        if classifier.cfg.wiring == "post-norm":
            activation, gradient = stream, stream.grad
        else:
            activation = seen[f"blocks.{index}.ln1.hook_normalized"]
            gradient = activation.grad
            if norm.weight is not None:
                activation, gradient = activation * norm.weight, gradient / norm.weight
            activation = activation if norm.bias is None else activation + norm.bias
        close(grad_cam(classifier, images, CLASSES, block=block), cam(activation, gradient))
    for site in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"):
        if site == "resid_mid" and classifier.cfg.wiring == "parallel":
            with pytest.raises(InputError, match="no stream in the middle"):
                grad_cam(classifier, images, CLASSES, block=0, site=site)
            continue
        activation = seen[f"blocks.0.hook_{site}"]
        close(grad_cam(classifier, images, CLASSES, block=0, site=site), cam(activation, activation.grad))


METHODS = {
    "raw": lambda model, images, classes: raw_attention(model, images),
    "rollout": lambda model, images, classes: attention_rollout(model, images, discard=0.3),
    "gradient rollout": gradient_rollout,
    "legrad": legrad,
    "legrad, read": lambda model, images, classes: legrad(model, images, classes, tokens="read"),
    "grad-cam": grad_cam,
}


@on_each_property
def test_pictures_do_not_meet_and_nothing_is_left_behind(classifier, images_of):
    images = images_of(classifier, 2)
    for method in METHODS.values():
        with torch.no_grad():
            together = method(classifier, images, CLASSES)
        assert together.shape == (2, images_patches(classifier, images))
        assert not together.requires_grad
        alone = [method(classifier, images[i : i + 1], CLASSES[i : i + 1]) for i in range(2)]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-13)
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in classifier.modules())


@pytest.mark.parametrize("method", list(METHODS))
def test_parameters_that_ask_for_no_gradient(plain, images_of, method):
    images = images_of(plain, 2)
    expected = METHODS[method](plain, images, CLASSES)
    plain.requires_grad_(False)
    torch.testing.assert_close(METHODS[method](plain, images, CLASSES), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("method", list(METHODS))
def test_hooks_are_gone_when_something_raises(plain, images_of, method):
    def fail(value, hook):
        raise RuntimeError("on the way")

    plain.add_hook("blocks.2.hook_mlp_out", fail)
    with pytest.raises(RuntimeError, match="on the way"):
        METHODS[method](plain, images_of(plain, 2), CLASSES)
    plain.reset_hooks()
    assert not any(module._forward_hooks for module in plain.modules())


def test_without_a_classifier(headless, images_of):
    images = images_of(headless, 2)
    for method in (raw_attention, attention_rollout):
        assert method(headless, images).shape == (2, 9)
    for method in (gradient_rollout, legrad, grad_cam):
        with pytest.raises(InputError, match="without a classifier"):
            method(headless, images, CLASSES)


def test_gradients_that_are_zero_by_construction_are_refused(plain, images_of):
    images = images_of(plain, 2)
    for site in ("attn_out", "resid_mid", "mlp_out", "resid_post"):
        with pytest.raises(InputError, match=f"after {site} of block 2 nothing reads the patch tokens"):
            grad_cam(plain, images, CLASSES, site=site)


def test_wrong_options(plain, images_of):
    images = images_of(plain, 2)
    for call, sentence in [
        (lambda: raw_attention(plain, images, block=3), "no block 3"),
        (lambda: raw_attention(plain, images, head=4), "no head 4"),
        (lambda: attention_rollout(plain, images, discard=1.0), "less than 1"),
        (lambda: attention_rollout(plain, images, fusion="sum"), "mean, max, min"),
        (lambda: legrad(plain, images, CLASSES, tokens="none"), "all or read"),
        (lambda: legrad(plain, images, CLASSES, first_block=3), "no block 3"),
        (lambda: grad_cam(plain, images, CLASSES, site="pattern"), "attn_in"),
        (lambda: grad_cam(plain, images, CLASSES, block=-4), "no block -4"),
    ]:
        with pytest.raises(InputError, match=sentence):
            call()


def test_grad_cam_equals_the_package(images_of):
    cams = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    from variants import build

    module = build(reg_tokens=2, img_size=(32, 48))
    model = HookedViT.from_timm(module)
    images = images_of(model, 2)
    layers = [module.blocks[-1].norm1]
    package = cams.GradCAM(module, layers, reshape_transform=lambda x: x[:, 3:].unflatten(1, (2, 3)).movedim(-1, 1))
    chosen = [targets.ClassifierOutputTarget(int(c)) for c in CLASSES]
    with package:
        package(images, chosen)
        # Its result is scaled to 0..1 and to the picture's size; what it scales is compared.
        kept = package.activations_and_grads
        unscaled = package.get_cam_image(
            images, layers[0], chosen, kept.activations[0].numpy(), kept.gradients[0].numpy()
        )
    expected = torch.from_numpy(unscaled).clamp(min=0).flatten(1)
    module.zero_grad()
    assert expected.any()
    close(grad_cam(model, images, CLASSES), expected)


def torchvision_twin():
    """torchvision's own vision transformer, and a HookedViT of the same weights."""
    vision_transformer = pytest.importorskip("torchvision.models.vision_transformer")
    timm_vision_transformer = pytest.importorskip("timm.models.vision_transformer")
    theirs = vision_transformer.VisionTransformer(
        image_size=48, patch_size=16, num_layers=3, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=10
    )
    generator = torch.Generator().manual_seed(0)
    theirs = theirs.double().eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    ours = timm_vision_transformer.VisionTransformer(
        img_size=48, patch_size=16, embed_dim=32, depth=3, num_heads=4, mlp_ratio=2, num_classes=10
    ).double()
    names = {
        "class_token": "cls_token",
        "conv_proj": "patch_embed.proj",
        "encoder.pos_embedding": "pos_embed",
        "encoder.layers.encoder_layer_": "blocks.",
        "self_attention.in_proj_": "attn.qkv.",
        "self_attention.out_proj": "attn.proj",
        "ln_1": "norm1",
        "ln_2": "norm2",
        "mlp.0": "mlp.fc1",
        "mlp.3": "mlp.fc2",
        "encoder.ln": "norm",
        "heads.head": "head",
    }
    weights = {}
    for name, weight in theirs.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        weights[name] = weight
    ours.load_state_dict(weights)
    return theirs, HookedViT.from_timm(ours.eval())


@pytest.mark.parametrize(("tokens", "first"), [("all", 0), ("all", 1), ("read", 0)])
def test_legrad_equals_the_package(tokens, first, images_of):
    methods = pytest.importorskip("torchcam.methods")
    theirs, ours = torchvision_twin()
    images = images_of(ours, 2)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-9, atol=1e-12)

    # Its own score is that of the mean over all tokens; another has to be handed over.
    def read(stream):
        return theirs.heads(theirs.encoder.ln(stream[:, 0]))

    projection = read if tokens == "read" else None
    with methods.LeGrad(theirs, list(theirs.encoder.layers)[first:], score_projection=projection) as package:
        scores = theirs(images)
        (expected,) = package(CLASSES.tolist(), scores, normalized=False)
    assert expected.any()
    close(legrad(ours, images, CLASSES, first_block=first, tokens=tokens), expected.flatten(1))
