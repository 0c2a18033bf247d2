"""The finer units of direct logit attribution: each level sums to the one above, each share is what an edit takes away.

The edits are made in the model itself: the part in question is taken out, everything else that would react is held at the
run's own values, and the difference of the last streams is read out.
"""

from functools import partial

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
import variants
from ported import on_each_property
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from variants import GatedAttention

from vitlens import HookedViT, InputError, direct_logit_attribution
from vitlens.attribution.direct import NeuronAttribution, PatchAttribution, PathAttribution, TokenAttribution
from vitlens.model.parts.block import PostNormBlock
from vitlens.plots.attribution import attribution_map, attribution_patches, attribution_waterfall
from vitlens.results.result import load_result

FINER = {
    "head_patch": PatchAttribution,
    "neuron": NeuronAttribution,
    "token": TokenAttribution,
    "path": PathAttribution,
}
#: What timm's models combine in no variant: a gate or differential attention before or behind a norm over all heads.
COMBINED = {
    "gate_behind_norm": partial(variants.build, attn_layer=GatedAttention, scale_attn_norm=True, global_pool="avg"),
    "gate_and_maximum": partial(variants.build, attn_layer=GatedAttention, global_pool="max", fc_norm=False),
    "gate_and_attention_pool": partial(variants.build, attn_layer=GatedAttention, class_token=False, global_pool="map"),
    "differential_behind_norm": partial(variants.build, attn_layer="diff", scale_attn_norm=True, global_pool="avg"),
}  # fmt: skip


def heads_of(result) -> torch.Tensor:
    """[image, class, block, head] of an attribution by head."""
    n_images, n_classes = result.logits.shape
    maps = [torch.stack([result.head_map(i, c) for c in range(n_classes)]) for i in range(n_images)]
    return torch.stack(maps)


def check_levels(model, images, classes, baseline_classes=None):
    def attribute(unit):
        return direct_logit_attribution(model, images, classes, baseline_classes=baseline_classes, unit=unit)

    components, heads = attribute("component"), attribute("head")
    finer = {unit: attribute(unit) for unit in FINER}
    close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9 * components.logits.abs().max().item())
    for unit, result in finer.items():
        assert type(result) is FINER[unit]
        close(result.logits, components.logits)
        close(result.residual, torch.zeros_like(result.logits))
    close(finer["head_patch"].by_head, heads_of(heads))
    close(finer["path"].by_head, heads_of(heads))
    tokens, neurons = finer["token"], finer["neuron"]
    close(tokens.values.sum(dim=-1), torch.stack([components.part(name) for name in tokens.axes["component"]], dim=-1))
    for block in range(model.cfg.n_layers):
        mlp = neurons.values[:, :, block].sum(dim=-1) + neurons.part(f"L{block} mlp bias")
        close(mlp, components.part(f"L{block} mlp"))
        close(neurons.part(f"L{block} attn"), components.part(f"L{block} attn"))
        close(finer["head_patch"].part(f"L{block} attn bias"), heads.part(f"L{block} attn bias"))


def test_each_level_sums_to_the_one_above(classifier, images_of):
    check_levels(classifier, images_of(classifier, 2), [1, 4])


@pytest.mark.parametrize("name", COMBINED)
def test_each_level_sums_where_gates_and_norms_meet(name, images_of):
    model = HookedViT.from_timm(COMBINED[name]())
    if model.unembed is None:
        model.set_class_embeddings(torch.randn(5, model.cfg.d_model, dtype=torch.float64))
    check_levels(model, images_of(model, 2), [1, 4])


@pytest.mark.parametrize("name", ["plain", "distilled"])
@pytest.mark.parametrize("baseline", [[3], list(range(9, -1, -1))])
def test_levels_of_differences_of_all_classes(request, images_of, name, baseline):
    model = request.getfixturevalue(name)
    check_levels(model, images_of(model, 2), "all", baseline)


# ---- edits of the model ----------------------------------------------------------------------------------------------


class Edits:
    """Edits of a model's run, everything that would react to them held at the values of the clean run."""

    def __init__(self, model, images):
        self.model, self.images = model, images
        _, self.cache = model.run_with_cache(images)

    def share(self, block, edits):
        """What edits inside a block take out of every logit directly: [image, classes]."""
        final = f"blocks.{self.model.cfg.n_layers - 1}.hook_resid_post"
        held = [name for name in self.model.hook_dict if name not in edits and self.reacts(name, block)]
        with self.model.hooks([(name, lambda _, hook: self.cache[hook.name]) for name in held] + list(edits.items())):
            _, edited = self.model.run_with_cache(self.images, names_filter=final)
        change = self.cache[final] - edited[final]
        return sum(
            readout(change) - readout(torch.zeros_like(change))
            for readout in self.model.linear_readouts(self.cache[final])
        )

    @staticmethod
    def reacts(name, block):
        """Scales, patterns and gates, what the block's MLP writes, and what later blocks write."""
        if not name.startswith("blocks."):
            return False
        index = int(name.split(".")[1])
        if name.endswith(("hook_scale", "hook_pattern", "hook_gate")):
            return True
        return (name.endswith("hook_mlp_out") and index >= block) or (name.endswith("hook_attn_out") and index > block)


def close_to(expected, found):
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def edited(value, *place):
    """A hook that puts a value at a place."""

    def edit(activation, hook):
        activation = activation.clone()
        activation[place] = value
        return activation

    return edit


def check_a_source_patch_is_what_leaves_with_its_column_of_the_pattern(model, images, edits):
    result = direct_logit_attribution(model, images, "all", unit="head_patch")
    source = model.cfg.n_prefix_tokens + 1
    norm = model.blocks[0].attn.ln_z
    for block in {0, model.cfg.n_layers - 1}:
        name = f"blocks.{block}.attn.hook_pattern"
        if norm is None or not norm.centres:
            left = edits.share(block, {name: edited(0.0, slice(None), 1, slice(None), source)})
            close_to(left, result.values[:, :, block, 1, source])
        left = edits.share(block, {name: edited(0.0, ..., source)})
        close_to(left, result.values[:, :, block, :, source].sum(dim=2))


def check_a_neuron_is_what_leaves_when_it_is_silent(model, images, edits):
    result = direct_logit_attribution(model, images, "all", unit="neuron")
    for block in {0, model.cfg.n_layers - 1}:
        hook = {f"blocks.{block}.mlp.hook_post": edited(0.0, ..., 3), f"blocks.{block}.hook_mlp_out": lambda x, hook: x}
        close_to(edits.share(block, hook), result.values[:, :, block, 3])


def check_a_token_is_what_leaves_when_a_component_does_not_write_there(model, images, edits):
    result = direct_logit_attribution(model, images, "all", unit="token")
    component = result.axes["component"].index("L1 attn")
    first = model.read_tokens.start or 0
    left = edits.share(1, {"blocks.1.hook_attn_out": edited(0.0, slice(None), first)})
    close_to(left, result.values[:, :, component, 0])


def check_a_path_is_what_leaves_when_a_head_does_not_read_a_writer(model, images, edits):
    """The writer's vectors go by hand through the frozen norm and W_V, and are taken out of the values of one head."""
    result = direct_logit_attribution(model, images, "all", unit="path")
    cache = edits.cache
    reader = model.cfg.n_layers - 1
    block, first = model.blocks[reader], model.blocks[0]
    virtual = cache["blocks.0.attn.hook_result"][:, :, 1]
    if isinstance(first, PostNormBlock):
        virtual = first.ln1.linear_part(virtual) / cache["blocks.0.ln1.hook_scale"]
    for writer, x in (("L0H1", virtual), ("L0 mlp", cache["blocks.0.hook_mlp_out"])):
        if not isinstance(block, PostNormBlock):
            x = block.ln1.linear_part(x) / cache[f"blocks.{reader}.ln1.hook_scale"]
        values = cache[f"blocks.{reader}.attn.hook_v"] - torch.einsum("itd,hde->ithe", x, block.attn.W_V)
        shares = result.values[:, :, reader, :, result.axes["writer"].index(writer)]
        name = f"blocks.{reader}.attn.hook_v"
        if block.attn.ln_z is None or not block.attn.ln_z.centres:
            one = {name: edited(values[:, :, 1], slice(None), slice(None), 1)}
            close_to(edits.share(reader, one), shares[..., 1])
        close_to(edits.share(reader, {name: edited(values, ...)}), shares.sum(dim=-1))


def check_edits(model, images):
    with torch.no_grad():
        edits = Edits(model, images)
        check_a_source_patch_is_what_leaves_with_its_column_of_the_pattern(model, images, edits)
        check_a_neuron_is_what_leaves_when_it_is_silent(model, images, edits)
        check_a_token_is_what_leaves_when_a_component_does_not_write_there(model, images, edits)
        check_a_path_is_what_leaves_when_a_head_does_not_read_a_writer(model, images, edits)


@on_each_property
def test_shares_are_what_edits_of_the_model_take_out_of_the_logits(classifier, images_of):
    check_edits(classifier, images_of(classifier, 2))


@pytest.mark.parametrize("name", COMBINED)
def test_edits_where_gates_and_norms_meet(name, images_of):
    model = HookedViT.from_timm(COMBINED[name]())
    check_edits(model, images_of(model, 2))


# ---- formulas --------------------------------------------------------------------------------------------------------


def test_head_patch_is_the_formula_of_a_class_token_model(plain, images_of):
    """Σ_q w_q A_qj ⟨v_j W_O, u⟩ with everything written out: the class token's row, the frozen norm, the classifier."""
    images = images_of(plain, 2)
    result = direct_logit_attribution(plain, images, "all", unit="head_patch")
    _, cache = plain.run_with_cache(images)
    u = plain.W_U.T * plain.ln_final.weight
    u = u - u.mean(dim=-1, keepdim=True)
    for block in range(plain.cfg.n_layers):
        attn = plain.blocks[block].attn
        written = torch.einsum("ihqj,ijhe,hed->ihqjd", cache["pattern", block], cache["v", block], attn.W_O)
        shares = torch.einsum("ihjd,cd->ichj", written[:, :, 0], u) / cache["ln_final.hook_scale"][:, :1, :, None]
        torch.testing.assert_close(result.values[:, :, block], shares, rtol=1e-9, atol=1e-12)


def test_neurons_are_activations_times_directions(plain, images_of):
    images = images_of(plain, 2)
    result = direct_logit_attribution(plain, images, [3], unit="neuron")
    _, cache = plain.run_with_cache(images)
    u = plain.W_U[:, 3] * plain.ln_final.weight
    u = u - u.mean()
    for block in range(plain.cfg.n_layers):
        post = cache["post", block][:, 0] / cache["ln_final.hook_scale"][:, 0]
        shares = post * (plain.blocks[block].mlp.W_out @ u)
        torch.testing.assert_close(result.values[:, 0, block], shares, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("unit", FINER)
def test_a_picture_s_shares_do_not_depend_on_the_batch(plain, images_of, unit):
    images = images_of(plain, 3)
    labels = torch.tensor([[2], [0], [1]])
    together = direct_logit_attribution(plain, images, labels, unit=unit)
    apart = direct_logit_attribution(plain, images, labels, unit=unit, batch_size=2, progress=False)
    assert apart.axes == together.axes
    assert apart.elsewhere_names == together.elsewhere_names
    for name in ("values", "logits", "elsewhere", "classes"):
        torch.testing.assert_close(getattr(apart, name), getattr(together, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("unit", ["head", *FINER])
def test_many_classes_are_attributed_a_few_at_a_time(classifier_of_maxima, images_of, unit, monkeypatch):
    images = images_of(classifier_of_maxima, 2)
    baseline = torch.tensor([list(range(9, -1, -1))] * 2)
    at_once = direct_logit_attribution(classifier_of_maxima, images, "all", baseline_classes=baseline, unit=unit)
    monkeypatch.setattr("vitlens.attribution.direct.DIRECTIONS_AT_ONCE", 2 * 3 * 9 * 32)
    apart = direct_logit_attribution(classifier_of_maxima, images, "all", baseline_classes=baseline, unit=unit)
    torch.testing.assert_close(apart.values, at_once.values, rtol=1e-9, atol=1e-12)
    assert apart.residual.abs().max() <= 1e-9


@pytest.fixture
def classifier_of_maxima() -> HookedViT:
    return HookedViT.from_timm(variants.OTHERS["maximum"]())


def test_an_edited_pattern_is_attributed_as_it_was_used(plain, images_of):
    images = images_of(plain, 2)
    with plain.hooks([("blocks.1.attn.hook_pattern", lambda pattern, hook: 3 * pattern)]):
        result = direct_logit_attribution(plain, images, "all", unit="head_patch")
        heads = direct_logit_attribution(plain, images, "all", unit="head")
    assert (result.logits - plain(images)).abs().max() > 1e-3
    torch.testing.assert_close(result.by_head, heads_of(heads), rtol=1e-9, atol=1e-12)
    assert result.residual.abs().max() <= 1e-9


class LargestTensor(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        storages = [item.untyped_storage().nbytes() for item in tree_leaves(made) if isinstance(item, torch.Tensor)]
        self.largest = max([self.largest, *storages])
        return made


@pytest.mark.parametrize("pooling", ["class_token", "average_with_class_token"])
@pytest.mark.parametrize("unit", FINER)
def test_nothing_is_made_that_is_larger_than_what_a_cached_forward_makes(images_of, pooling, unit):
    model = HookedViT.from_timm(variants.VARIANTS[pooling]())
    images = images_of(model, 8)
    with LargestTensor() as cached, torch.no_grad():
        model.run_with_cache(images)
    with LargestTensor() as attributed:
        result = direct_logit_attribution(model, images, unit=unit)
    result_bytes = result.values.untyped_storage().nbytes()
    assert attributed.largest <= max(cached.largest, result_bytes)


# ---- names, maps, tables ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "place", "name"),
    [
        ("head_patch", (2, 1, 6), "L2H1 ← patch (1, 2)"),
        ("head_patch", (0, 3, 0), "L0H3 ← class"),
        ("neuron", (1, 77), "L1 neuron 77"),
        ("path", (2, 3, 3), "L0H1 → L2H3"),
    ],
)
def test_top_names_what_weighs_most(plain, images_of, unit, place, name):
    result = direct_logit_attribution(plain, images_of(plain, 2), unit=unit)
    values = result.values.clone()
    values[1, 0][place] = -1e6
    values[1, 0].flatten()[0] = 1e5
    changed = type(result)(**{**vars(result), "values": values})
    table = changed.top(4, image=1)
    assert len(table) == 4
    assert table["component"][0] == name
    assert table["logit"].tolist() == sorted(table["logit"], key=abs, reverse=True)
    lines = changed.sentence(2, image=1).splitlines()
    assert lines[1] == f"{name}: -1000000.00"
    assert len(lines) == 4
    assert lines[-1].startswith("all else: ")


def test_described_lines_sum_to_the_logit(plain, images_of):
    plain.class_names = [f"name {i}" for i in range(10)]
    result = direct_logit_attribution(plain, images_of(plain, 1), "name 4", unit="head_patch")
    head, *lines = result.sentence(5).splitlines()
    assert head == f"name 4: logit {result.logits.item():+.2f}"
    assert len(lines) == 6
    total = sum(float(line.rsplit(": ", 1)[1]) for line in lines)
    assert total == pytest.approx(result.logits.item(), abs=0.04)


def test_maps_lie_on_the_picture(images_of):
    model = HookedViT.from_timm(variants.VARIANTS["wide_picture"]())
    result = direct_logit_attribution(model, images_of(model, 2), [0, 3], unit="head_patch")
    assert result.maps().shape == (2, 4)
    source = result.axes["source"].index("patch (1, 2)")
    close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
    close(result.maps(1, 1)[1, 2], result.values[1, 1, :, :, source].sum())
    close(result.maps(1, 1, block=2)[1, 2], result.values[1, 1, 2, :, source].sum())
    close(result.maps(1, 1, head=-1)[1, 2], result.values[1, 1, :, 3, source].sum())
    close(result.maps(1, 1, block=2, head=3)[1, 2], result.values[1, 1, 2, 3, source])
    prefix = result.prefix(1, 1, block=2, head=3)
    assert list(prefix) == ["class"]
    assert prefix["class"] + result.maps(1, 1, 2, 3).sum().item() == pytest.approx(result.head_map(1, 1)[2, 3].item())
    with pytest.raises(InputError, match="no block 7"):
        result.maps(block=7)


def test_token_shares_of_a_pooled_model(images_of):
    model = HookedViT.from_timm(variants.VARIANTS["average_of_all_tokens"]())
    result = direct_logit_attribution(model, images_of(model, 2), [2], unit="token")
    assert result.axes["token"][:3] == ["class", "register 1", "patch (0, 0)"]
    assert set(result.top(3)["component"]) <= set(result.axes["token"])
    token = result.axes["token"].index("patch (2, 1)")
    torch.testing.assert_close(result.maps()[2, 1], result.by_token[0, 0, token])
    mlp = result.axes["component"].index("L2 mlp")
    assert result.maps(component="L2 mlp")[2, 1] == result.values[0, 0, mlp, token]
    torch.testing.assert_close(result.by_token.sum(dim=-1) + result.part("constant"), result.logits)


def test_what_has_no_map_or_part_says_so(plain, images_of):
    tokens = direct_logit_attribution(plain, images_of(plain, 1), unit="token")
    assert tokens.axes["token"] == ["class"]
    with pytest.raises(InputError, match=r"pools class and no patches.*head_patch"):
        tokens.maps()
    with pytest.raises(InputError, match="no part 'L9 mlp'"):
        tokens.part("L9 mlp")
    with pytest.raises(InputError, match="one of component, head, head_patch, neuron, token, path"):
        direct_logit_attribution(plain, images_of(plain, 1), unit="patch")
    with pytest.raises(InputError, match="batch_size"):
        direct_logit_attribution(plain, images_of(plain, 1), batch_size=0)
    with pytest.raises(InputError, match="3 rows of classes were given for 2 pictures"):
        direct_logit_attribution(plain, images_of(plain, 2), torch.tensor([1, 2, 3]), batch_size=1)


@pytest.mark.parametrize("unit", FINER)
def test_finer_results_come_back_from_disk_and_as_tables(plain, images_of, unit, tmp_path):
    result = direct_logit_attribution(plain, images_of(plain, 1), [0, 1], unit=unit)
    result.save(tmp_path / "attribution.safetensors")
    again = load_result(tmp_path / "attribution.safetensors")
    assert type(again) is type(result)
    assert torch.equal(again.values, result.values)
    assert torch.equal(again.residual, result.residual)
    pandas = again.top(5, class_position=1)
    assert pandas.equals(result.top(5, class_position=1))
    if unit in ("head_patch", "token"):
        assert list(again.grid) == list(result.grid)
    frame = result.to_frame()
    assert len(frame) == result.values.numel()
    assert list(frame.columns)[:2] == ["image", "class"]


def test_the_model_is_left_as_it_was(plain, images_of):
    images = images_of(plain, 1)
    for unit in FINER:
        direct_logit_attribution(plain, images, unit=unit)
    assert not any(point.has_hooks() for point in plain.hook_dict.values())
    assert all(parameter.grad is None for parameter in plain.parameters())


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_figures_show_maps_and_steps(plain, images_of):
    images = images_of(plain, 2)
    plain.class_names = ["<b>bold</b>", *(f"kind {i}" for i in range(9))]
    result = direct_logit_attribution(plain, images, [0], unit="head_patch")
    tiles = attribution_patches(result, image=1, heads=3)
    maps = [trace for trace in tiles.data if isinstance(trace, go.Heatmap)]
    assert len(maps) == 3
    heads = [[int(part) for part in title.text.split()[0][1:].split("H")] for title in tiles.layout.annotations]
    for (block, head), drawn in zip(heads, maps, strict=True):
        np.testing.assert_allclose(drawn.z, result.maps(1, 0, block, head).numpy(), rtol=1e-6, atol=1e-7)
    assert tiles.layout.coloraxis.cmid == 0
    assert tiles.layout.coloraxis.cmax == -tiles.layout.coloraxis.cmin
    assert "<b>" not in tiles.layout.title.text
    (whole,) = (trace for trace in attribution_map(result, image=1).data if isinstance(trace, go.Heatmap))
    np.testing.assert_allclose(whole.z, result.maps(1).numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("unit", ["component", *FINER])
def test_waterfalls_end_at_the_logit(plain, images_of, unit):
    result = direct_logit_attribution(plain, images_of(plain, 2), unit=unit)
    (bars,) = attribution_waterfall(result, image=1, k=5).data
    assert sum(bars.y[:-1]) == pytest.approx(result.logits[1, 0].item(), rel=1e-6)
    if unit in ("head_patch", "neuron", "path"):
        assert list(bars.x[:5]) == result.top(5, image=1)["component"].tolist()
        assert len(bars.x) == 8
