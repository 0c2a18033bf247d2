"""Edits as hooks: the same numbers as other ways to do the same, doses, tokens, directions, and refusals."""

import pytest
import torch
from ported import borrow

import vitlens
from vitlens import InputError, edit
from vitlens.editing import Directions

#: One wiring each: a class token; a LayerScale, registers; norms behind the branches; parallel branches; gated MLPs.
WIRINGS = ["class_token", "average_with_registers", "post_norm", "parallel", "gated"]


@pytest.fixture(scope="module")
def model():
    with borrow("class_token") as found:
        yield found


@pytest.fixture(scope="module")
def images(model):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(3, 3, *model.cfg.image_size, generator=generator, dtype=model.dtype)


def run(model, images, edited):
    return model.run_with_hooks(images, fwd_hooks=edited.hooks)


def equal(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("replacement", ["zero", "mean"])
def test_parts_are_replaced_as_in_an_ablation(model, images, replacement):
    means = {"images": images} if replacement == "mean" else {}
    for parts, site, places in [
        (["L1H2", (0, 1)], "z", [(1, 2), (0, 1)]),
        ("L2 mlp", "mlp_out", [2]),
        (["L1 neuron 7", "L1 neuron 3"], "post", [(1, 7), (1, 3)]),
    ]:
        hooks = vitlens.patching.ablation_hooks(
            model, images, site=site, places=places, replacement=replacement, tokens="patches"
        )
        edited = edit(model, parts, replacement, tokens="patches", **means)
        equal(run(model, images, edited), model.run_with_hooks(images, fwd_hooks=hooks))


def test_a_mean_over_tokens_is_one_vector(model, images):
    z = model.run_with_cache(images)[1]["z", 1]
    edited = edit(model, "L1H2", "token_mean", images=images)
    written = []
    model.run_with_hooks(
        images, fwd_hooks=[*edited.hooks, ("blocks.1.attn.hook_z", lambda z, hook: written.append(z.clone()))]
    )
    equal(written[0][:, :, 2], z[:, :, 2].mean(dim=(0, 1)).expand_as(z[:, :, 2]))
    equal(written[0][:, :, 1], z[:, :, 1])


def test_a_dose_is_a_share_of_the_change(model, images):
    edited, before = edit(model, "L2 mlp", "mean", images=images), model.run_with_cache(images)[1]["mlp_out", 2]
    change = edited.changes[0]
    whole = change(before) - before
    for dose in (-1.0, 0.25, 2.0):
        equal(edited.at(dose).changes[0](before) - before, dose * whole)
    assert torch.equal(run(model, images, edited.at(0)), model(images))


def test_edits_are_added_one_after_the_other(model, images):
    both = edit(model, "L0H1", dose=0.5) + edit(model, "L2 mlp")
    with model.hooks(edit(model, "L0H1", dose=0.5).hooks):
        one_in_the_other = run(model, images, edit(model, "L2 mlp"))
    equal(run(model, images, both), one_in_the_other)
    assert repr(both) == "Edit(zero of L0H1, L2 mlp, dose 0.5 and 1)"


@pytest.mark.parametrize("name", WIRINGS)
def test_nothing_that_writes_keeps_a_removed_direction(name):
    with borrow(name) as model:
        generator = torch.Generator().manual_seed(3)
        images = torch.randn(2, 3, *model.cfg.image_size, generator=generator, dtype=model.dtype)
        vectors = torch.randn(2, model.cfg.d_model, generator=generator, dtype=model.dtype)
        streams = {}
        edited = edit(model, "writers", "direction", directions=vectors)

        def keep(value, hook):
            streams[hook.name] = value @ vectors.T

        names = [name for name in model.hook_dict if name.endswith(("resid_pre", "resid_post"))]
        model.run_with_hooks(images, fwd_hooks=[*edited.hooks, *((name, keep) for name in names)])
        assert len(streams) == 2 * model.cfg.n_layers
        assert all(left.abs().max() < 1e-9 for left in streams.values())


def test_a_head_loses_a_direction_of_what_it_writes(model, images):
    direction = model.W_U[:, 3].detach()
    read = {}
    edited = edit(model, "L1H2", "direction", directions=direction)
    keep = ("blocks.1.attn.hook_result", lambda value, hook: read.update(after=value.clone()))
    model.run_with_hooks(images, fwd_hooks=[*edited.hooks, keep])
    model.run_with_hooks(
        images, fwd_hooks=[("blocks.1.attn.hook_result", lambda v, hook: read.update(before=v.clone()))]
    )
    assert (read["after"][:, :, 2] @ direction).abs().max() < 1e-9
    equal(read["after"][:, :, [0, 1, 3]], read["before"][:, :, [0, 1, 3]])


def test_oblique_directions_keep_their_mean(model, images):
    generator = torch.Generator().manual_seed(2)
    read, write = torch.randn(2, 2, model.cfg.d_model, generator=generator, dtype=model.dtype)
    write = torch.linalg.solve(write @ read.T, write)
    mean = torch.randn(model.cfg.d_model, generator=generator, dtype=model.dtype)
    change = edit(model, "classifier", "direction", directions=Directions(read, write, mean)).changes[0]
    x = torch.randn(5, model.cfg.d_model, generator=generator, dtype=model.dtype)
    equal(change(x) @ read.T, (mean @ read.T).expand(5, -1))
    equal(change(change(x)), change(x))


def test_masks_make_an_edit_for_these_pictures(model, images):
    masks = torch.zeros(3, *model.cfg.image_size, dtype=torch.bool)
    masks[:, :16, :16], masks[1, 16:32] = True, True
    edited = edit(model, "L1 attn", tokens="context", masks=masks)
    hooks = vitlens.patching.ablation_hooks(model, images, site="attn_out", places=[1], tokens="context", masks=masks)
    equal(run(model, images, edited), model.run_with_hooks(images, fwd_hooks=hooks))
    with pytest.raises(InputError, match="make the edit again for these pictures"):
        run(model, images[:2], edited)


REFUSED = {
    "no part": ({"parts": "L9H1"}, "there is no block 9"),
    "no such name": ({"parts": "L1H"}, "a part is a head"),
    "nothing": ({"parts": []}, "the list of parts is empty"),
    "no such way": ({"parts": "L1H1", "how": "blur"}, "how is one of"),
    "a mean of nothing": ({"parts": "L1H1", "how": "mean"}, "take the mean over images="),
    "pictures for zero": ({"parts": "L1H1", "images": torch.zeros(1, 3, 48, 48)}, "no other way reads them"),
    "no directions": ({"parts": "L1 mlp", "how": "direction"}, "removes directions="),
    "another width": ({"parts": "L1 mlp", "how": "direction", "directions": torch.ones(5)}, "have 5 numbers"),
    "dependent": ({"parts": "L1 mlp", "how": "direction", "directions": torch.ones(2, 32)}, "depend on each other"),
    "of a neuron": ({"parts": "L1 neuron 3", "how": "direction", "directions": torch.ones(32)}, "one direction alone"),
    "a pattern": ({"parts": "pattern1"}, "holds no vectors"),
    "tokens of a pooled vector": ({"parts": "classifier", "tokens": "class"}, "has no tokens"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_means_nothing_is_refused(model, name):
    arguments, sentence = REFUSED[name]
    with pytest.raises(InputError, match=sentence):
        edit(model, **arguments)


def test_edits_of_two_models_are_not_added(model):
    with borrow("registers") as other, pytest.raises(InputError, match="different models"):
        edit(model, "L1H1") + edit(other, "L1H1")
