"""A dictionary in place of an activation: what it writes is what the model goes on with, and nothing else changes."""

import warnings

import pytest
import torch

from vitlens import InputError
from vitlens.features import SparseAutoencoder, Transcoder, with_sae, with_saes
from vitlens.features.dictionaries.nonlinearities import Relu

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture
def sae_of(weights_of):
    def make(width, seed=0, **options):
        return SparseAutoencoder.from_arrays(**weights_of(width, seed=seed), **options)

    return make


def by_hand(model, images, hook, change):
    return model.run_with_hooks(images, fwd_hooks=[(hook, lambda x, hook: change(x))])


def test_the_reconstruction_stands_in_for_the_activation(classifier, images_of, sae_of):
    images, sae = images_of(classifier, 3), sae_of(classifier.cfg.d_model)
    clean = classifier(images)
    with with_sae(classifier, HOOK, sae) as handle:
        logits = classifier(images)
    expected = by_hand(
        classifier, images, HOOK, lambda x: torch.relu(x @ sae.W_enc + sae.b_enc) @ sae.W_dec + sae.b_dec
    )
    assert torch.allclose(logits, expected, atol=1e-9)
    assert not torch.allclose(logits, clean, atol=1e-3)
    assert handle.features is None
    assert torch.equal(classifier(images), clean), "hooks are gone"
    with with_sae(classifier, HOOK, sae, error_term=True) as handle:
        assert torch.equal(classifier(images), clean), "with the error nothing changes, bit for bit"
        handle.edit = lambda features: features.clone()
        assert torch.equal(classifier(images), clean)


def test_an_edit_with_the_error_changes_only_what_it_edits(plain, images_of, sae_of):
    images, sae = images_of(plain, 3), sae_of(plain.cfg.d_model)
    with with_sae(plain, HOOK, sae, error_term=True, edit=lambda f: f.index_fill(-1, torch.tensor([4]), 0.0)):
        ablated = plain(images)

    def without(x):
        return x - torch.relu(x @ sae.W_enc + sae.b_enc)[..., 4:5] * sae.W_dec[4]

    assert torch.allclose(ablated, by_hand(plain, images, HOOK, without), atol=1e-10)
    with with_sae(plain, HOOK, sae) as handle:
        handle.edit = lambda features: features + 2.0
        steered = plain(images)
    features = lambda x: torch.relu(x @ sae.W_enc + sae.b_enc) + 2  # noqa: E731
    expected = by_hand(plain, images, HOOK, lambda x: features(x) @ sae.W_dec + sae.b_dec)
    assert torch.allclose(steered, expected, atol=1e-10)


@pytest.mark.parametrize("hook", ["z1", "hook_embed", "hook_pooled", "post2", "pattern1", "q0", "hook_patch_embed"])
def test_any_hook_point_can_be_replaced(plain, images_of, sae_of, hook):
    images = images_of(plain, 3)
    name = plain.run_with_cache(images, names_filter=hook)[1]
    (activation,) = name.cache_dict.values()
    axis = {"z1": 1, "q0": 1, "pattern1": 2}.get(hook, 1)
    moved = activation.movedim(axis, 1) if hook != "hook_pooled" else activation[:, None]
    sae = sae_of(moved[0, 0].numel())
    rows = moved.flatten(2)
    rebuilt = (torch.relu(rows @ sae.W_enc + sae.b_enc) @ sae.W_dec + sae.b_dec).reshape(moved.shape)
    rebuilt = rebuilt.movedim(1, axis) if hook != "hook_pooled" else rebuilt[:, 0]
    with with_sae(plain, hook, sae):
        logits = plain(images)
    assert torch.allclose(logits, by_hand(plain, images, hook, lambda x: rebuilt), atol=1e-9)
    with with_sae(plain, hook, sae, error_term=True):
        assert torch.allclose(
            plain(images), plain.run_with_hooks(images, fwd_hooks=[(hook, lambda x, hook: x)]), atol=1e-12
        )


def test_a_dictionary_of_one_head_reads_every_head(plain, images_of, sae_of):
    images, sae = images_of(plain, 2), sae_of(plain.cfg.d_head)
    with with_sae(plain, "z1", sae, record=True) as handle:
        logits = plain(images)
    expected = by_hand(plain, images, "z1", sae)
    assert torch.allclose(logits, expected, atol=1e-10)
    assert handle.features.shape == (2, 10, 4, 24)


def test_only_the_tokens_named_are_replaced(variant, images_of, sae_of):
    model = variant("registers")
    images, sae = images_of(model, 2), sae_of(model.cfg.d_model)
    cache = model.run_with_cache(images, names_filter=HOOK)[1][HOOK]
    with with_sae(model, HOOK, sae, tokens="patches", record=True) as handle:
        logits = model(images)
    mixed = torch.cat([cache[:, :5], sae(cache[:, 5:])], dim=1)
    assert torch.allclose(logits, by_hand(model, images, HOOK, lambda x: mixed), atol=1e-10)
    assert torch.allclose(handle.features, sae.encode(cache[:, 5:]), atol=1e-12)
    assert torch.allclose(handle.error, cache[:, 5:] - sae(cache[:, 5:]), atol=1e-10)
    assert handle.tokens.tolist() == list(range(5, 14))


def test_pictures_of_another_size(variant, images_of, sae_of):
    model = variant("dynamic_size")
    sae = sae_of(model.cfg.d_model)
    images = torch.randn(2, 3, 64, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cache = model.run_with_cache(images, names_filter=HOOK)[1][HOOK]
    with with_sae(model, HOOK, sae, tokens="patches"):
        logits = model(images)
    mixed = torch.cat([cache[:, :1], sae(cache[:, 1:])], dim=1)
    assert torch.allclose(logits, by_hand(model, images, HOOK, lambda x: mixed), atol=1e-10)


def test_several_at_once_and_nested(plain, images_of, sae_of):
    images = images_of(plain, 2)
    first, second = sae_of(32, 0), sae_of(32, 1)
    expected = plain.run_with_hooks(
        images, fwd_hooks=[("resid_post0", lambda x, hook: first(x)), ("mlp_out2", lambda x, hook: second(x))]
    )
    with with_saes(plain, {"resid_post0": first, ("mlp_out", 2): second}, record=True) as handles:
        assert torch.allclose(plain(images), expected, atol=1e-10)
    assert handles["resid_post0"].features.shape == (2, 10, 24)
    with with_sae(plain, "resid_post0", first), with_sae(plain, "mlp_out2", second):
        assert torch.allclose(plain(images), expected, atol=1e-10)


def test_gradients_go_through_the_features_and_not_through_the_error(plain, images_of, sae_of):
    images, sae = images_of(plain, 2).requires_grad_(), sae_of(32)
    with with_sae(plain, HOOK, sae, error_term=True):
        through = torch.autograd.grad(plain(images)[:, 3].sum(), images)[0]
    error = lambda x: (x - sae(x)).detach()  # noqa: E731
    logits = plain.run_with_hooks(images, fwd_hooks=[(HOOK, lambda x, hook: sae(x) + error(x))])
    assert torch.allclose(through, torch.autograd.grad(logits[:, 3].sum(), images)[0], atol=1e-10)


@pytest.mark.parametrize("read", ["ln2.hook_normalized", "hook_resid_mid"])
@pytest.mark.parametrize("skip", [True, False])
def test_a_transcoder_stands_in_for_the_mlp(plain, images_of, weights_of, read, skip):
    images, w = images_of(plain, 3), weights_of(32)
    W_skip = weights_of(32, 32)["W_enc"] if skip else None
    transcoder = Transcoder(**w, activation=Relu(), W_skip=W_skip, hook=f"blocks.1.{read}")
    x = plain.run_with_cache(images)[1][f"blocks.1.{read}"]
    y = torch.relu(x @ w["W_enc"] + w["b_enc"]) @ w["W_dec"] + w["b_dec"]
    y = y + x @ W_skip.T if skip else y
    clean = plain(images)
    with with_sae(plain, None, transcoder) as handle:
        assert torch.allclose(plain(images), by_hand(plain, images, "mlp_out1", lambda out: y), atol=1e-10)
    assert handle.targets[0].name == "blocks.1.hook_mlp_out"
    with with_sae(plain, None, transcoder, error_term=True, tokens="class"):
        assert torch.allclose(plain(images), clean, atol=1e-12)
    mixed = torch.cat([y[:, :1], plain.run_with_cache(images)[1]["mlp_out", 1][:, 1:]], dim=1)
    with with_sae(plain, None, transcoder, tokens="class"):
        assert torch.allclose(plain(images), by_hand(plain, images, "mlp_out1", lambda out: mixed), atol=1e-10)


def test_a_transcoder_predicts_what_comes_later(plain, images_of, weights_of):
    transcoder = Transcoder(**weights_of(32), activation=Relu())
    with (
        with_sae(plain, "resid_post1", transcoder, hook_out="mlp_out0"),
        pytest.raises(InputError, match="which the model computes later"),
    ):
        plain(images_of(plain, 1))
    with pytest.raises(InputError, match="pass hook_out="), with_sae(plain, "hook_embed", transcoder):
        pass
    sae = SparseAutoencoder.from_arrays(**weights_of(32))
    with (
        pytest.raises(InputError, match="goes with a transcoder"),
        with_sae(plain, "resid_post1", sae, hook_out="mlp_out1"),
    ):
        pass


def test_another_width_is_refused_by_both_widths_and_the_hook(plain, images_of, sae_of, weights_of):
    with (
        pytest.raises(InputError, match=r"48 wide, and blocks\.1\.hook_resid_post is 32 wide"),
        with_sae(plain, HOOK, sae_of(48)),
    ):
        pass
    with (
        pytest.raises(InputError, match=r"48 wide, and blocks\.1\.attn\.hook_z is 32 wide \(4 heads of 8\)"),
        with_sae(plain, "z1", sae_of(48)),
    ):
        plain(images_of(plain, 1))
    transcoder = Transcoder(**weights_of(32, d_out=20), activation=Relu())
    with (
        pytest.raises(InputError, match=r"20 wide, and blocks\.1\.hook_mlp_out is 32 wide"),
        with_sae(plain, "resid_mid1", transcoder),
    ):
        pass
    with pytest.raises(InputError, match="pass hook="), with_sae(plain, None, sae_of(32)):
        pass
    with (
        pytest.raises(InputError, match="of the shape it was given"),
        with_sae(plain, HOOK, sae_of(32), edit=lambda f: f[0]),
    ):
        plain(images_of(plain, 1))


def test_hooks_go_also_when_something_raises_and_others_stay(plain, images_of, sae_of):
    images = images_of(plain, 1)
    seen = []
    plain.add_hook(HOOK, lambda x, hook: seen.append(1))
    clean = plain(images)

    def fail(features):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), with_sae(plain, HOOK, sae_of(32), edit=fail):
        plain(images)
    assert torch.equal(plain(images), clean)
    # The user's hook is first: it saw all three runs.
    assert len(seen) == 3


def test_single_precision_beside_double(plain, images_of, sae_of):
    images, sae = images_of(plain, 2), sae_of(32)
    with with_sae(plain, HOOK, sae.float()):
        single = plain(images)
    assert single.dtype == torch.float64
    with with_sae(plain, HOOK, sae.double()):
        assert torch.allclose(plain(images), single, atol=1e-4)
    with with_sae(plain, HOOK, sae.float(), error_term=True):
        assert torch.equal(plain(images), plain(images))


def test_a_dictionary_in_another_place_than_its_own_is_warned_of(plain, weights_of):
    sae = SparseAutoencoder.from_arrays(**weights_of(32), hook="blocks.0.hook_resid_post")
    sentence = r"trained on blocks\.0\.hook_resid_post, and here it reads blocks\.1\."
    with pytest.warns(UserWarning, match=sentence), with_sae(plain, "resid_post1", sae):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The stream before block 1 is that after block 0.
        for hook in (None, "resid_post0", "resid_pre1"):
            with with_sae(plain, hook, sae):
                pass
