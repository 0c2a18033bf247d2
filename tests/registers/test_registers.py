"""Test-time registers against timm's own models with one more register token, and on outliers planted by hand."""

import pytest
import torch
from outliers import BRIGHT, PLANTED
from ported import ALL, build
from variants import pictures

from vitlens import HookedViT, InputError, direct_logit_attribution
from vitlens.choose import select_tokens
from vitlens.model.runs.suffix import forward_suffix
from vitlens.plots import register_board
from vitlens.registers.neurons import add_test_time_registers as with_registers
from vitlens.registers.neurons import find_register_neurons, register_shift
from vitlens.registers.results import RegisterShift
from vitlens.results.result import load_result

NEURONS = [(0, 3), (1, 5), (1, 11), (-1, 2)]
RELATIVE = ["relative", "relative_shared", "relative_mlp_shared"]
REFUSED = [*RELATIVE, "any_size"]
EXTENDABLE = [name for name in ALL if name not in REFUSED and name != "no_classifier"]
# timm's classes that take register tokens, and whose blocks hold the neurons in one place.
AS_TIMM = [
    name
    for name in EXTENDABLE
    if "distilled" not in name
    and name not in ("parallel_things", "parallel_fused_out", "differential_parallel", "unfused_attention")
]


def same(left, right):
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


def by_block(model):
    found = {}
    for block, neuron in NEURONS:
        found.setdefault(block % model.cfg.n_layers, []).append(neuron)
    return found


def move(post, neurons, registers, n_prefix):
    """The method on plain tensors, picture by picture and neuron by neuron."""
    post = post.clone()
    for image in range(len(post)):
        for neuron in neurons:
            values = [*post[image, registers, neuron], *post[image, n_prefix:, neuron]]
            post[image, registers, neuron] = max(values, key=abs)
            post[image, n_prefix:, neuron] = 0
    return post


def timm_with_zero_register(name, module):
    """The same timm model built with one more register token: a row of zeros, at a position of zeros."""
    keyword = "num_reg_tokens" if type(module).__name__ == "Eva" else "reg_tokens"
    n_before = 0 if module.reg_token is None else module.reg_token.shape[1]
    larger = ALL[name](**{keyword: n_before + 1})
    state = dict(module.state_dict())
    zeros = torch.zeros(1, 1, module.embed_dim, dtype=torch.float64)
    state["reg_token"] = torch.cat([state["reg_token"], zeros], dim=1) if n_before else zeros
    table = state.get("pos_embed")
    if table is not None and larger.state_dict()["pos_embed"].shape != table.shape:
        n_prefix = module.num_prefix_tokens
        state["pos_embed"] = torch.cat([table[:, :n_prefix], zeros, table[:, n_prefix:]], dim=1)
    larger.load_state_dict(state)
    return larger


@pytest.mark.parametrize("name", AS_TIMM)
def test_it_is_timms_model_with_one_more_register(name):
    module = ALL[name]()
    model = HookedViT.from_timm(module)
    images = pictures(model.cfg, 3)
    reference = timm_with_zero_register(name, module)
    same(with_registers(model, [])(images), reference(images))

    n_prefix = reference.num_prefix_tokens
    for block, neurons in by_block(model).items():
        part = reference.blocks[block]
        reads_post = part.mlp.fc2 if hasattr(part, "mlp") else part.mlp_out_proj

        def edit(_, inputs, neurons=neurons):
            return move(inputs[0], neurons, slice(n_prefix - 1, n_prefix), n_prefix)

        reads_post.register_forward_pre_hook(edit)
    moved = with_registers(model, NEURONS)(images)
    same(moved, reference(images))
    assert not torch.allclose(moved, with_registers(model, [])(images))


@pytest.mark.parametrize("name", ["class_token", "distilled", "norm_pre", "no_embed_class"])
@pytest.mark.parametrize("n_registers", [1, 3])
def test_it_is_the_old_model_with_zeros_in_its_stream(name, n_registers):
    """By hooks on the old model, which reads the class token, so that a longer sequence is all the same to it."""
    model = build(name)
    images = pictures(model.cfg, 2)
    n_old = model.cfg.n_prefix_tokens
    n_new = n_old + n_registers
    stream = model(images, stop_at_layer=0)
    zeros = torch.zeros(2, n_registers, model.cfg.d_model, dtype=stream.dtype)
    zeros = zeros if model.ln_pre is None else model.ln_pre(zeros)
    stream = torch.cat([stream[:, :n_old], zeros, stream[:, n_old:]], dim=1)
    hooks = [
        (f"blocks.{block}.mlp.hook_post", lambda x, hook, chosen=chosen: move(x, chosen, slice(n_old, n_new), n_new))
        for block, chosen in by_block(model).items()
    ]
    expected = model.run_with_hooks(stream, fwd_hooks=hooks, start_at_layer=0)
    same(with_registers(model, NEURONS, n_registers=n_registers)(images), expected)


@pytest.mark.parametrize("name", EXTENDABLE)
def test_every_architecture_has_its_labels_sets_and_sums(name):
    model = build(name)
    images = pictures(model.cfg, 2)
    model.add_hook("resid_post0", lambda x, hook: None)
    before = model(images)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    extended = with_registers(model, NEURONS, n_registers=2)

    old = [label for label in model.cfg.prefix_tokens if label.startswith("register")]
    added = (f"register {len(old) + 1}", f"register {len(old) + 2}")
    assert extended.cfg.prefix_tokens == (*model.cfg.prefix_tokens, *added)
    marked = select_tokens(extended, "registers", 2)
    assert marked.sum(dim=1).tolist() == [len(old) + 2] * 2
    assert [extended.cfg.token_label(int(i)) for i in marked[0].nonzero()] == [*old, *added]
    assert select_tokens(extended, "patches", 2).sum() == select_tokens(model, "patches", 2).sum()

    logits, cache = extended.run_with_cache(images)
    same(logits, extended(images))
    assert cache["embed"].shape[1] == model.cfg.n_ctx + 2 == extended.cfg.n_ctx
    n_prefix = extended.cfg.n_prefix_tokens
    for block, neurons in by_block(model).items():
        post = cache["post", block][..., neurons]
        assert not post[:, n_prefix:].any()
        assert post[:, n_prefix - 2 : n_prefix].any()
    attribution = direct_logit_attribution(extended, images)
    same(attribution.values.sum(dim=-1), attribution.logits)
    same(attribution.logits[:, 0], logits.amax(dim=1))
    stream = extended(images, stop_at_layer=1)
    same(extended(stream, start_at_layer=1), logits)
    same(forward_suffix(extended, stream, 1), logits)

    # Neither parameters nor hook points nor answers of the old model have changed.
    assert {id(p) for p in extended.parameters()} == {id(p) for p in model.parameters()}
    assert not {id(p) for p in extended.hook_dict.values()} & {id(p) for p in model.hook_dict.values()}
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert [name for name, point in model.hook_dict.items() if point.has_hooks()] == ["blocks.0.hook_resid_post"]
    assert torch.equal(model(images), before)
    assert not extended.blocks[0].hook_resid_post.has_hooks()


def test_the_move_is_part_of_the_model(plain, images_of):
    images = images_of(plain, 2)
    extended = with_registers(plain, NEURONS)
    logits = extended(images)
    extended.reset_hooks()
    assert torch.equal(extended(images), logits)
    seen = []
    extended.run_with_hooks(images, fwd_hooks=[("post0", lambda x, hook: seen.append(x.clone()))])
    assert not seen[0][:, 2:, 3].any()
    assert seen[0][:, 1, 3].all()
    assert torch.equal(extended(images), logits)
    extended.reset_hooks(including_permanent=True)
    same(extended(images), with_registers(plain, [])(images))
    with pytest.raises(InputError, match="on the model without test-time registers"):
        extended.with_fresh_weights()


def test_gradients_pass_through_the_move(plain, images_of):
    images = images_of(plain, 2).requires_grad_()
    weight = plain.blocks[0].mlp.fc1.weight
    with_registers(plain, [(0, 3)])(images)[:, 0].sum().backward()
    assert images.grad.any()
    assert weight.grad[3].any()


@pytest.mark.parametrize("name", ["class_token", "average_with_registers", "rotary"])
def test_padding_is_no_patch(name):
    """Pictures that keep different numbers of patches together are as each by itself."""
    model = build(name)
    extended = with_registers(model, NEURONS)
    images = pictures(model.cfg, 4)
    stream = extended(images, stop_at_layer=0)
    keep = torch.zeros(4, stream.shape[1] - extended.cfg.n_prefix_tokens, dtype=torch.bool)
    keep[1, 3] = keep[2, 1:5] = keep[3] = True
    together = extended.forward_kept(stream, keep).logits
    for i in range(4):
        same(together[i : i + 1], extended.forward_kept(stream[i : i + 1], keep[i : i + 1]).logits)
    same(together[3], extended(images)[3])


def test_other_sizes_of_picture():
    model = build("dynamic_size")
    extended = with_registers(model, [])
    images = torch.randn(1, 3, 32, 64, dtype=torch.float64)
    same(extended.W_pos[1], torch.zeros_like(extended.W_pos[1]))
    _, cache = extended.run_with_cache(images)
    assert cache.patches(cache["resid_post", 0]).shape[1:3] == (2, 4)
    same(cache["pos_embed"][:, 2:], model.run_with_cache(images)[1]["pos_embed"][:, 1:])


def test_planted_neuron_is_found(planted):
    model, images = planted
    found = find_register_neurons(model, images, k=3, late_block=2, batch_size=2, progress=False)
    assert found.pairs(1) == [PLANTED]
    assert found.outlier_block == 1
    assert found.n_outliers == len(BRIGHT)
    assert found.score[0] > 5 * found.score[1]
    same(found.score, found.at_outliers - found.elsewhere)

    _, cache = model.run_with_cache(images)
    fired = cache["post", 1][:, 1:, 7].abs()
    where = torch.tensor([4 * row + column for row, column in BRIGHT])
    inside = fired[torch.arange(len(BRIGHT)), where]
    same(found.at_outliers[0], inside.mean())
    same(found.elsewhere[0], (fired.sum() - inside.sum()) / (fired.numel() - len(BRIGHT)))

    frame = found.to_frame()
    assert list(frame.columns) == ["rank", "block", "neuron", "score", "at_outliers", "elsewhere"]
    assert frame.loc[0, ["block", "neuron"]].tolist() == list(PLANTED)
    assert repr(found).startswith("RegisterNeurons(L1N7 ")
    assert set(find_register_neurons(model, images, k=5, up_to_block=0, progress=False).blocks.tolist()) == {0}


def test_the_register_takes_the_norm(planted, tmp_path):
    model, images = planted
    untouched = model(images)
    found = find_register_neurons(model, images, k=1, progress=False)
    shift = register_shift(model, images, neurons=found, batch_size=2, progress=False)
    median = shift.before[:, 1:].median(dim=-1, keepdim=True).values
    assert (shift.before[:, 1:].amax(dim=-1) > 5 * median[..., 0]).all()
    assert (shift.after[:, 1:] < 2 * median).all()
    assert (shift.register_norms[:, 1:, 0] > 5 * median[..., 0]).all()
    same(shift.before[:, 0], shift.values[1, :, 0] + (shift.before - shift.after)[:, 0])

    extended = with_registers(model, found)
    logits, cache = extended.run_with_cache(images)
    assert shift.values.shape == (2, 3, 3, 16)
    same(shift.logits, torch.stack([untouched, logits]))
    same(shift.attention[1], cache["pattern", -1][:, :, 0, 2:].mean(dim=1))
    same(shift.attention[0], model.run_with_cache(images)[1]["pattern", -1][:, :, 0, 1:].mean(dim=1))
    same(shift.after[:, 2], cache["resid_post", 2][:, 2:].norm(dim=-1))
    same(shift.register_norms[:, 2, 0], cache["resid_post", 2][:, 1].norm(dim=-1))
    assert torch.equal(model(images), untouched)
    assert shift.settings["neurons"] == ["L1N7"]

    shift.save(tmp_path / "shift.safetensors")
    loaded = load_result(tmp_path / "shift.safetensors")
    assert isinstance(loaded, RegisterShift)
    assert torch.equal(loaded.register_norms, shift.register_norms)


@pytest.mark.parametrize("name", ["class_token", "average_without_class_token"])
def test_board(name):
    model = build(name)
    images = pictures(model.cfg, 2)
    shift = register_shift(model, images, neurons=[(0, 3)], progress=False)
    figure = shift.plot(image=1, block=0)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    n_attention = 2 if model.cfg.has_class_token else 0
    of_norms = [trace for trace in maps if trace.coloraxis == "coloraxis"]
    of_attention = [trace for trace in maps if trace.coloraxis == "coloraxis2"]
    assert (len(maps), len(of_norms), len(of_attention)) == (3 + n_attention, 2, n_attention)
    for i in range(2):
        same(torch.tensor(of_norms[i].z), shift.values[i, 1, 0].unflatten(0, model.cfg.grid_size).float())
    assert "L0N3" in figure.layout.title.subtitle.text
    assert register_board(shift).to_json()
    with pytest.raises(InputError, match="the result keeps its first 2, 0 to 1"):
        shift.plot(image=2)


def test_the_corners_of_a_trained_model(assets):
    """In the real ViT-Ti/16 one neuron makes the corners outliers; a register frees them and keeps the predictions."""
    weights = assets / "vit_tiny_patch16_224_imagenet1k.safetensors"
    model = HookedViT.from_timm("vit_tiny_patch16_224", checkpoint_path=weights)
    images = model.to_images(sorted((assets / "photos" / "imagenet").glob("*.jpg"))[:8])
    found = find_register_neurons(model, images, k=3, progress=False)
    assert found.pairs(1) == [(7, 417)]
    assert found.outlier_block == 7
    shift = register_shift(model, images, neurons=found, progress=False)
    largest = shift.values.amax(dim=-1) / shift.values.median(dim=-1).values
    assert (largest[0, :, 7:] > 10).all()
    assert (largest[1, :, 7:] < 2).all()
    assert (shift.register_norms[:, 7:] > 100).all()
    assert (shift.logits[0].argmax(dim=1) == shift.logits[1].argmax(dim=1)).float().mean() > 0.7


def test_pictures_without_outliers_are_refused(plain, images_of):
    with pytest.raises(
        InputError, match=r"no outliers: after block 1 .* is 1\.\d\d times .* outlier_threshold=5 times"
    ):
        find_register_neurons(plain, images_of(plain, 2), progress=False)


@pytest.mark.parametrize("name", REFUSED)
def test_architectures_that_cannot_be_extended(name):
    message = "relative positions" if name in RELATIVE else "several sizes"
    model = build(name)
    with pytest.raises(InputError, match=message):
        with_registers(model, [(0, 0)])


def test_bad_arguments(planted):
    model, images = planted
    for arguments, message in [
        ({"outlier_threshold": 1.0}, "above 1, not 1"),
        ({"k": 0}, "k is a whole number of at least 1, not 0"),
        ({"k": 10_000}, "neurons in blocks 0 to 1, not 10000"),
        ({"late_block": 3}, "no block 3"),
        ({"up_to_block": -4}, "no block -4"),
    ]:
        with pytest.raises(InputError, match=message):
            find_register_neurons(model, images, progress=False, **arguments)
    with pytest.raises(InputError, match="not a dictionary of patches"):
        find_register_neurons(model, {"patches": images}, progress=False)
    with pytest.raises(InputError, match="no neuron 128 in block 2"):
        with_registers(model, [(-1, 128)])
    with pytest.raises(InputError, match="no block 3"):
        with_registers(model, [(3, 0)])
    with pytest.raises(InputError, match="at least 1, not 0"):
        with_registers(model, [], n_registers=0)
    with pytest.raises(InputError, match="has test-time registers already"):
        with_registers(with_registers(model, []), [])
    with pytest.raises(InputError, match="no block 9"):
        register_shift(model, images, neurons=[], attention_block=9, progress=False)
