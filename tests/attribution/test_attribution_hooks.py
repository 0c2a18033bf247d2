"""An attributed run that hooks edit: the shares are of the run as it is hooked, or there are none."""

import pytest
import torch
from composed import COMPOSED
from ported import ALL
from variants import build, pictures

from vitlens import HookedViT, InputError, direct_logit_attribution
from vitlens.attribution.units import UNITS
from vitlens.patching import ablation_hooks

KINDS = [
    "norm_pre",
    "sub_norms",
    "pre-norm gated layer-norm no-positions maximum class+registers gated-mlp wide-picture",
    "post-norm gated rms-norm no-positions attention-pool no-prefix gated-mlp square",
    "parallel differential layer-norm learned average class+registers mlp wide-patches",
]
ONE_BY_ONE = [
    "class_token",
    "average_with_registers",
    "post_norm",
    "parallel",
    "differential",
    "gated_attention",
    "gated",
]
KINDS += [pytest.param(kind, marks=pytest.mark.slow) for kind in (*ONE_BY_ONE, "attention_pool")]


def attribute(model, images, unit):
    return direct_logit_attribution(model, images, [1, 2], unit=unit)


def larger(x, hook):
    return 1.5 * x + 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_shares_sum_to_the_hooked_logit_or_the_hook_is_named(kind):
    model = HookedViT.from_timm((ALL | COMPOSED)[kind]())
    images = pictures(model.cfg, 1)
    points = [name for name in model.hook_dict if not name.startswith(("blocks.0", "blocks.2"))]
    seen, named = {unit: set() for unit in UNITS}, {}
    for name in points:
        for unit in UNITS:
            with model.hooks(fwd_hooks=[(name, larger)]):
                try:
                    result = attribute(model, images, unit)
                except InputError as refusal:
                    named[unit, name] = str(refusal)
                    continue
            assert result.residual.abs().max() <= 1e-9 * result.logits.abs().max().clamp(min=1), (name, unit)
            seen[unit].add(name.removeprefix("blocks.1."))
    everywhere = {"hook_embed", "attn.hook_q", "attn.hook_pattern", "mlp.hook_pre", "mlp.hook_post"}
    assert all(everywhere <= names for names in seen.values() if names)
    # A norm inside differential attention may add a bias, which is refused whatever is hooked.
    assert all(name in sentence or "adds a bias" in sentence for (_, name), sentence in named.items())
    assert "attn.hook_z" in seen["head"]
    assert {"hook_attn_out", "hook_mlp_out"} <= seen["component"] & seen["token"]
    assert not seen["head_patch"] or "attn.hook_v" in seen["head_patch"]
    assert "hook_resid_post" not in set().union(*seen.values())


@pytest.mark.parametrize("kind", ["class_token", "sub_norms", "gated_attention", "differential", "post_norm"])
def test_a_head_that_is_silent_gets_nothing_by_patch_or_by_path(kind):
    model = HookedViT.from_timm(ALL[kind]())
    images = pictures(model.cfg, 2)
    free = {unit: attribute(model, images, unit) for unit in ("head_patch", "path")}
    with model.hooks(fwd_hooks=ablation_hooks(model, images, site="z", places=[(1, 2)], replacement="zero")):
        logits = model(images)
        for unit, plain in free.items():
            result = attribute(model, images, unit)
            torch.testing.assert_close(result.logits, logits[:, [1, 2]])
            assert result.residual.abs().max() <= 1e-9
            assert not result.values[:, :, 1, 2].any()
            assert result.values[:, :, 1, 1].any()
            assert plain.values[:, :, 1, 2].any()


def test_other_edits_of_z_came_from_no_token():
    model = HookedViT.from_timm(build())
    images = pictures(model.cfg, 2)
    for unit in ("head_patch", "path"):
        with (
            model.hooks(fwd_hooks=[(("z", 1), larger)]),
            pytest.raises(InputError, match=r'hook_z edits.*edit "v" or "pattern".*unit="component" or "head"'),
        ):
            attribute(model, images, unit)
    with model.hooks(fwd_hooks=[(("resid_pre", 1), larger)]), pytest.raises(InputError, match="no component wrote"):
        attribute(model, images, "component")


def test_a_hook_that_only_looks_changes_nothing_and_is_left_where_it_was():
    model = HookedViT.from_timm(build())
    images, looked = pictures(model.cfg, 2), []
    plain = attribute(model, images, "path")
    with model.hooks(fwd_hooks=[(name, lambda x, hook: looked.append(hook.name)) for name in model.hook_dict]):
        torch.testing.assert_close(attribute(model, images, "path").values, plain.values, rtol=1e-9, atol=1e-12)
        assert len(model.hook_dict["hook_logits"].fwd_hooks) == 1
    assert "blocks.1.attn.hook_z" in looked
