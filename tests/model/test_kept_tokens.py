"""Patches that are really missing: against a forward of exactly these tokens, picture by picture."""

import pytest
import torch
from composed import COMPOSED
from variants import OTHERS, VARIANTS, pictures

from vitlens import HookedViT, InputError

EVERY = VARIANTS | OTHERS | COMPOSED
# Sizes and rotations that are made of the patches' places are no property of the composed models.
QUICK = ["any_size", "rotary_mixed", "relative_mlp_shared", "dynamic_size", "no_classifier"]
MODELS = [pytest.param(name, marks=[] if name in COMPOSED or name in QUICK else [pytest.mark.slow]) for name in EVERY]


@pytest.fixture(params=MODELS)
def any_model(request):
    return HookedViT.from_timm(EVERY[request.param]())


def keeps(model: HookedViT, n: int) -> torch.Tensor:
    """Different numbers of patches for each picture."""
    rows, columns = model.embed.grid(*pictures(model.cfg, 1).shape[-2:])
    n_patches = rows * columns
    order = torch.rand(n, n_patches, generator=torch.Generator().manual_seed(3)).argsort(dim=1)
    return order < torch.arange(2, 2 + n)[:, None]


def test_all_kept_is_the_model_itself(any_model):
    images = pictures(any_model.cfg, 2)
    with torch.no_grad():
        stream = any_model(images, stop_at_layer=0)
        run = any_model.forward_kept(stream, torch.ones(2, stream.shape[1] - any_model.cfg.n_prefix_tokens).bool())
        torch.testing.assert_close(run.logits, any_model(images), rtol=1e-9, atol=1e-9)
    assert run.valid.all()


def test_a_padded_batch_equals_pictures_one_at_a_time(any_model):
    images = pictures(any_model.cfg, 3)
    keep = keeps(any_model, 3)
    n_prefix = any_model.cfg.n_prefix_tokens
    with torch.no_grad():
        stream = any_model(images, stop_at_layer=0)
        run = any_model.forward_kept(stream, keep)
        for i in range(3):
            alone = any_model.forward_kept(stream[i : i + 1], keep[i : i + 1])
            torch.testing.assert_close(run.logits[i], alone.logits[0], rtol=1e-9, atol=1e-9)
            kept = run.valid[i]
            assert run.patches[i, kept].sort().values.tolist() == keep[i].nonzero()[:, 0].tolist()
            mine = run.resid[i, n_prefix:][kept]
            torch.testing.assert_close(mine, alone.resid[0, n_prefix:][alone.valid[0]], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["class_token", "average_with_registers", "attention_pool", "rotary_mixed", "relative_shared"]
)
def test_what_is_removed_is_nowhere_read(name):
    model = HookedViT.from_timm(EVERY[name]())
    images, keep = pictures(model.cfg, 3), keeps(model, 3)
    with torch.no_grad():
        stream = model(images, stop_at_layer=0)
        other = stream.clone()
        other[:, model.cfg.n_prefix_tokens :][~keep] += 7.0
        assert torch.equal(model.forward_kept(stream, keep).logits, model.forward_kept(other, keep).logits)


def test_the_sequence_is_that_of_the_kept_tokens():
    """Positions by a table: the blocks run on the very rows of the stream, as a loop over pictures would do."""
    model = HookedViT.from_timm(EVERY["class_token"]())
    images, keep = pictures(model.cfg, 3), keeps(model, 3)
    with torch.no_grad():
        stream = model(images, stop_at_layer=0)
        run = model.forward_kept(stream, keep)
        for i in range(3):
            rows = torch.cat([torch.tensor([True]), keep[i]])
            alone = model(stream[i : i + 1, rows], start_at_layer=0)
            torch.testing.assert_close(run.logits[i], alone[0], rtol=1e-9, atol=1e-9)


def test_nothing_kept(any_model):
    images = pictures(any_model.cfg, 2)
    with torch.no_grad():
        stream = any_model(images, stop_at_layer=0)
        keep = torch.zeros(2, stream.shape[1] - any_model.cfg.n_prefix_tokens, dtype=torch.bool)
        both = any_model.forward_kept(stream, keep).logits
        assert both.isfinite().all()
        torch.testing.assert_close(both[0], both[1], rtol=1e-9, atol=1e-9)
        keep[1, :2] = True
        mixed = any_model.forward_kept(stream, keep).logits
        torch.testing.assert_close(mixed[0], both[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            mixed[1], any_model.forward_kept(stream[1:], keep[1:]).logits[0], rtol=1e-9, atol=1e-9
        )


def test_a_choice_of_another_shape_is_refused():
    model = HookedViT.from_timm(EVERY["class_token"]())
    with pytest.raises(InputError, match=r"keep is a bool tensor \[2, 9\]"):
        model.forward_kept(model(pictures(model.cfg, 2), stop_at_layer=0), torch.ones(2, 5, dtype=torch.bool))


@pytest.mark.parametrize("name", ["class_token", "average_with_class_token", "rotary"])
def test_hooks_find_every_token_at_its_place_although_others_are_missing(name):
    model = HookedViT.from_timm(EVERY[name]())
    images = pictures(model.cfg, 2)
    stream = model(images, stop_at_layer=0)
    n_prefix = model.cfg.n_prefix_tokens
    keep = torch.ones(2, stream.shape[1] - n_prefix, dtype=torch.bool)
    keep[0, [0, 2]] = False
    keep[1, 1] = False

    def silence(z, hook):
        z[:, n_prefix + 3] = 0.0
        return z

    def missing(scores, hook):
        return scores.masked_fill(torch.nn.functional.pad(~keep, (n_prefix, 0))[:, None, None], float("-inf"))

    with model.hooks(fwd_hooks=[(("z", 1), silence)]):
        shortened = model.forward_kept(stream, keep).logits
    with model.hooks(fwd_hooks=[(("z", 1), silence), ("attn_scores", missing)]):
        whole = model.forward_kept(stream, torch.ones_like(keep)) if model.cfg.pool == "token" else None
    if whole is not None:
        torch.testing.assert_close(shortened, whole.logits)
    assert (shortened - model.forward_kept(stream, keep).logits).abs().max() > 1e-6
