"""A cross-layer transcoder in place of all MLPs: each block reads the replaced run, and features write into later blocks."""

import pytest
import torch

from vitlens import InputError, with_sae
from vitlens.features import CrossLayerTranscoder, SparseAutoencoder, feature_attribution, mlp_hooks, top_patches
from vitlens.model.hooks.hook_points import Reader


@pytest.fixture(scope="module")
def clt_of():
    """A random cross-layer transcoder of all MLPs of a model, with different numbers of features, or of some of them."""

    def make(model, skip=False, blocks=None, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.2

        pairs, d = mlp_hooks(model, blocks=blocks), model.cfg.d_model
        widths = [6 + 3 * i for i in range(len(pairs))]
        return CrossLayerTranscoder.from_arrays(
            [draw(d, width) for width in widths],
            [draw(width) for width in widths],
            [draw(len(pairs) - i, width, d) for i, width in enumerate(widths)],
            [draw(d) for _ in pairs],
            W_skip=[draw(d, d) for _ in pairs] if skip else None,
            hooks=[hook for hook, _ in pairs],
            hooks_out=[hook_out for _, hook_out in pairs],
        )

    return make


def by_hand(model, images, clt, edits=None, errors=None, tokens=slice(None)):
    """The definition as hooks of one run: what each block predicts, summed in NumPy over all blocks before it."""
    read, features, seen = {}, {}, {"error": {}}
    hooks = []
    for i, (hook, hook_out) in enumerate(zip(clt.hooks, clt.hooks_out, strict=True)):

        def keep(x, hook, i=i):
            read[i] = x[:, tokens].detach().numpy()

        def replace(y, hook, i=i):
            pre = read[i] @ clt.W_enc[i].numpy() + clt.b_enc[i].numpy()
            features[i] = pre * (pre > 0)
            if edits and i in edits:
                features[i] = edits[i](torch.from_numpy(features[i])).numpy()
            found = clt.b_dec[i].numpy() + 0 * y[:, tokens].detach().numpy()
            if clt.W_skip is not None:
                found = found + read[i] @ clt.W_skip[i].numpy().T
            for source in range(i + 1):
                found = found + features[source] @ clt.W_dec[source].numpy()[i - source]
            seen["error"][i] = y[:, tokens] - torch.from_numpy(found)
            y = y.clone()
            y[:, tokens] = torch.from_numpy(found) + (0 if errors is None else errors[i])
            return y

        hooks += [(hook, keep), (hook_out, replace)]
    with torch.no_grad():
        logits = model.run_with_hooks(images, fwd_hooks=hooks)
    return logits, [torch.from_numpy(features[i]) for i in features], seen["error"]


def test_the_neurons_of_all_mlps_give_the_models_logits(variant, images_of):
    """Each W_dec writes into its own block alone, so that the dictionary is the model's MLPs themselves."""
    for name in ("silu_layer_scale_qk_norm", "class_token"):
        model = variant(name)
        pairs, n = mlp_hooks(model), model.cfg.n_layers
        gains = [(block.ln2.weight, block.ln2.bias) for block in model.blocks]
        mlps = [block.mlp for block in model.blocks]
        clt = CrossLayerTranscoder(
            [(gain[:, None] * mlp.W_in).detach() for (gain, _), mlp in zip(gains, mlps, strict=True)],
            [(bias @ mlp.W_in + mlp.b_in).detach() for (_, bias), mlp in zip(gains, mlps, strict=True)],
            [
                torch.stack([mlp.W_out.detach(), *[torch.zeros_like(mlp.W_out)] * (n - 1 - i)])
                for i, mlp in enumerate(mlps)
            ],
            [mlp.b_out.detach() for mlp in mlps],
            [mlp.act for mlp in mlps],
            hooks=[hook for hook, _ in pairs],
            hooks_out=[hook_out for _, hook_out in pairs],
        )
        images = images_of(model, 3)
        with torch.no_grad(), with_sae(model, None, clt, record=True) as handle:
            logits = model(images)
        clean = model(images)
        assert ((logits - clean).abs().max() / clean.abs().max()) < 1e-9
        assert max(error.abs().max() for error in handle.error) < 1e-9


@pytest.mark.parametrize("skip", [False, True])
def test_it_replaces_all_mlps(plain, images_of, clt_of, skip):
    images, clt = images_of(plain, 2), clt_of(plain, skip)
    with with_sae(plain, None, clt, record=True) as handle:
        logits = plain(images)
    expected, features, errors = by_hand(plain, images, clt)
    assert torch.allclose(logits, expected, atol=1e-9)
    assert not torch.allclose(logits, plain(images), atol=1e-3)
    for i in range(3):
        assert torch.allclose(handle.features[i], features[i], atol=1e-10)
        assert torch.allclose(handle.error[i], errors[i], atol=1e-10)
    assert [place.name for place in handle.targets] == clt.hooks_out
    patches = slice(plain.cfg.n_prefix_tokens, None)
    with with_sae(plain, None, clt, tokens="patches") as handle:
        logits = plain(images)
    assert torch.allclose(logits, by_hand(plain, images, clt, tokens=patches)[0], atol=1e-9)


def test_of_the_last_blocks_alone_and_from_the_middle(plain, images_of, clt_of):
    images, clt = images_of(plain, 2), clt_of(plain, blocks=[1, 2])
    expected = by_hand(plain, images, clt)[0]
    stream = plain(images, stop_at_layer=1)
    with with_sae(plain, None, clt):
        assert torch.allclose(plain(images), expected, atol=1e-9)
        assert torch.allclose(plain(stream, start_at_layer=1), expected, atol=1e-9)
        middle = plain(images, stop_at_layer=2)
        assert torch.allclose(plain(middle, start_at_layer=2), expected, atol=1e-9), "the second half of the same run"
        with pytest.raises(InputError, match=r"need those of blocks\.1"):
            plain(middle, start_at_layer=2)


def test_errors_and_edits(plain, images_of, clt_of):
    images, clt = images_of(plain, 2), clt_of(plain)
    watched = [(hook, Reader(lambda x, hook: None)) for hook in clt.hooks]
    clean = plain.run_with_hooks(images, fwd_hooks=watched)
    edits = {0: lambda f: f.index_fill(-1, torch.tensor([1, 2]), 0.0), 2: lambda f: f + 1.0}
    with with_sae(plain, None, clt, edit=edits) as handle:
        assert torch.allclose(plain(images), by_hand(plain, images, clt, edits)[0], atol=1e-9)
    with with_sae(plain, None, clt, error_term=True, record=True) as handle:
        assert torch.equal(plain(images), clean), "with the errors nothing changes, bit for bit"
        errors = handle.error
        handle.edit = {1: lambda f: f.clone()}
        assert torch.equal(plain(images), clean)
        handle.edit = edits
        edited = plain(images)
        # The errors stay those of the unedited run, though later blocks read another stream.
        assert torch.allclose(edited, by_hand(plain, images, clt, edits, errors)[0], atol=1e-9)
        assert all(torch.equal(a, b) for a, b in zip(handle.error, errors, strict=True))
        with pytest.raises(InputError, match="run the same pictures once with edit=None"):
            plain(images_of(plain, 2, seed=1))
    assert not torch.allclose(edited, clean, atol=1e-3)


def test_gradients_go_through_the_features_of_all_blocks(plain, images_of, clt_of):
    images, clt = images_of(plain, 2), clt_of(plain)
    # By finite differences of a feature of block 0, which writes into all three blocks.
    for error_term in (False, True):
        change = torch.zeros((), dtype=torch.float64, requires_grad=True)
        with with_sae(plain, None, clt, error_term=error_term) as handle:
            plain(images)
            handle.edit = {0: lambda f, change=change: f + change}
            through = torch.autograd.grad(plain(images)[:, 3].sum(), change)[0]
            logits = []
            for sign in (1, -1):
                handle.edit = {0: lambda f, sign=sign: f + sign * 1e-5}
                logits.append(plain(images)[:, 3].sum())
        assert through.item() == pytest.approx((logits[0] - logits[1]).item() / 2e-5, rel=1e-6)


@pytest.mark.parametrize("method", ["gradient", "direct", "integrated"])
def test_the_share_of_a_feature_is_that_of_all_its_directions(plain, images_of, clt_of, method):
    images, clt = images_of(plain, 2), clt_of(plain, skip=True)
    result = feature_attribution(
        plain, images, [2], sae=clt, method=method, n_steps=2, tokens="patches", progress=False
    )
    cache = plain.run_with_cache(images)[1]
    x, y = ([cache[hook] for hook in hooks] for hooks in (clt.hooks, clt.hooks_out))
    features, written = clt.encode(x), clt(x)

    def logit(leaves):
        """With what these features write at the patches, and nothing else changed."""
        hooks = []
        for hook, own, before, after in zip(clt.hooks_out, y, written, clt.decode(leaves, x), strict=True):
            replaced = torch.cat([own[:, :1], (own - before + after)[:, 1:]], dim=1)
            hooks.append((hook, lambda a, hook, replaced=replaced: replaced))
        return plain.run_with_hooks(images, fwd_hooks=hooks)[:, 2]

    if method == "direct":
        (readout,) = plain.linear_readouts(cache["resid_post", 2])
        share = readout.choose(torch.full((2, 1), 2)).share
        for name, source, number in (("0.4", 0, 4), ("1.7", 1, 7)):
            way = clt.W_dec[source][:, number].sum(dim=0)
            expected = share(torch.cat([torch.zeros(2, 1, 32), features[source][:, 1:, number, None] * way], dim=1))
            assert torch.allclose(result.values[..., result.axes["feature"].index(name)], expected, atol=1e-10)
    else:
        shares = 0
        for way in [1.0] if method == "gradient" else [0.25, 0.75]:
            leaves = [(way * f).detach().requires_grad_() for f in features]
            gradients = torch.autograd.grad(logit(leaves).sum(), leaves)
            found = [(f * g)[:, 1:].sum(dim=1) for f, g in zip(features, gradients, strict=True)]
            shares = shares + torch.cat(found, dim=1) / (1 if method == "gradient" else 2)
        assert torch.allclose(result.values[:, 0], shares, atol=1e-10)
    total = result.values.sum(dim=-1) + result.error + result.bias + result.rest
    assert torch.allclose(total[:, 0], plain(images)[:, 2], atol=1e-9)
    assert result.axes["feature"][6:8] == ["1.0", "1.1"]
    result.plot()


def test_what_no_cross_layer_transcoder_can_be(plain, images_of, clt_of):
    images, clt = images_of(plain, 1), clt_of(plain)
    with pytest.raises(InputError, match="leave hook= and hook_out= out"), with_sae(plain, "resid_mid1", clt):
        pass
    with pytest.raises(InputError, match="dictionary from blocks, 0 to 2"), with_sae(plain, None, clt, edit=torch.relu):
        plain(images)
    with (
        pytest.raises(InputError, match="dictionary from blocks, 0 to 2"),
        with_sae(plain, None, clt, edit={3: torch.relu}),
    ):
        plain(images)
    sae = SparseAutoencoder.from_arrays(torch.eye(32), None, torch.eye(32), None, hook="resid_post0")
    with pytest.raises(InputError, match="one function"), with_sae(plain, None, sae, edit={0: torch.relu}):
        plain(images)
    with pytest.raises(InputError, match=r"layer\(block\)"):
        top_patches(plain, images, sae=clt, progress=False)
    assert top_patches(plain, images, sae=clt.of_block(1), progress=False).settings["hook"] == clt.hooks[1]
    clt.hooks, clt.hooks_out = clt.hooks_out, clt.hooks
    with pytest.raises(InputError, match="which the model computes later"), with_sae(plain, None, clt):
        plain(images)


def test_what_the_mlp_of_each_wiring_reads(classifier, images_of):
    """mlp_out is a function of the hook point alone, token by token: the same rows elsewhere give the same output."""
    images = images_of(classifier, 2)
    cache = classifier.run_with_cache(images)[1]
    for block, (read, written) in enumerate(mlp_hooks(classifier)):
        x = cache[read]
        layer = classifier.blocks[block]
        norm, behind = layer.norm_before("mlp"), layer.norm_behind("mlp")
        if norm is not None:
            x = x * (1 if norm.weight is None else norm.weight) + (0 if norm.bias is None else norm.bias)
        expected = layer.mlp(x)
        expected = expected if behind is None else behind(expected)
        assert torch.allclose(expected, cache[written], atol=1e-9 * expected.abs().max().item())
