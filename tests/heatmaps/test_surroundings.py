"""What stands around a call, and what maps are made of: inference_mode, autocast, half precision, memory, interruptions."""

from contextlib import suppress

import pytest
import torch
from heatmaps.test_heatmap import CLASSES, options_of
from variants import OTHERS, VARIANTS, build, pictures

from vitlens import HookedViT, InputError, evaluate_heatmaps, heatmap, load_demo
from vitlens.demo import load_demo_model
from vitlens.faithfulness import perturbation_test
from vitlens.faithfulness.randomisation import randomisation_test
from vitlens.heatmaps.registry import METHODS
from vitlens.heatmaps.shared import rows
from vitlens.heatmaps.shared.precision import in_single_precision
from vitlens.model.runs.gradients import gradients_disabled, gradients_enabled, outside_inference

# With these, a function of the model and pictures gives a tensor.
ON_MAPS = {
    "projection_gradient by head": lambda model, images, **options: heatmap(
        model, images, 1, method="projection_gradient", keep=("block", "head"), **options
    ).values,
    "perturbation_test": lambda model, images, **options: perturbation_test(
        model, images, 1, importance=torch.arange(9.0).repeat(len(images), 1), n_steps=3, **options
    ).probabilities,
    "faithfulness": lambda model, images, **options: evaluate_heatmaps(
        model, images, 1, heatmaps=["grad_cam", "legrad"], metrics=["deletion", "positive", "road", "saco"], n_steps=3,
        n_draws=1, progress=False, **options,
    ).values,
}  # fmt: skip


def callers():
    """Every method and every other function that maps or scores, by name."""

    def of_method(method):
        return lambda model, images, **options: (
            heatmap(
                model, images, CLASSES[:1].repeat(len(images)), method=method, **options_of(method), **options
            ).values
        )

    return {f"heatmap {method}": of_method(method) for method in METHODS} | ON_MAPS


@pytest.fixture(scope="module")
def single():
    return HookedViT.from_timm(build().float())


def test_every_method_works_under_inference_mode_and_autocast(single):
    images = pictures(single.cfg, 2).float()
    with torch.inference_mode():
        made_there = images.clone()
    for name, call in callers().items():
        expected = call(single, images)
        with torch.inference_mode():
            inside = call(single, images)
            assert torch.is_inference_mode_enabled(), name
        with torch.autocast("cpu", torch.bfloat16):
            cast = call(single, images)
            in_half = call(single, images.bfloat16())
            assert torch.is_autocast_enabled("cpu"), name
        assert torch.equal(inside, expected), name
        assert not inside.is_inference(), name
        assert torch.equal(call(single, made_there), expected), name
        assert torch.equal(cast, expected), name
        assert in_half.dtype == expected.dtype, name


def test_a_model_made_under_inference_mode_is_explained_too(single):
    with torch.inference_mode():
        model = HookedViT.from_timm(build().float())
    images = pictures(model.cfg, 2).float()
    for method in ("token_mask", "relevance_propagation", "integrated_gradients"):
        found = heatmap(model, images, CLASSES, method=method, warn=False, **options_of(method))
        expected = heatmap(single, images, CLASSES, method=method, warn=False, **options_of(method))
        torch.testing.assert_close(found.values, expected.values)


def test_gradients_come_and_go_with_their_context():
    with torch.inference_mode():
        x = torch.ones(2)
        with gradients_enabled():
            leaf = outside_inference(x).requires_grad_()
            assert torch.autograd.grad((leaf**2).sum(), leaf)[0].tolist() == [2.0, 2.0]
        with gradients_disabled():
            assert not torch.is_grad_enabled()
            assert not torch.ones(1).is_inference()
        assert torch.is_inference_mode_enabled()
    with torch.no_grad():
        with gradients_enabled():
            assert torch.is_grad_enabled()
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert outside_inference(x) is not x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_maps_as_its_own_weights_do_in_single_precision(dtype):
    half, same = HookedViT.from_timm(build().to(dtype)), HookedViT.from_timm(build().to(dtype).float())
    images = pictures(half.cfg, 2).to(dtype)

    def silence(z, hook):
        return torch.zeros_like(z)

    for name, call in callers().items():
        found = call(half, images)
        assert found.dtype == torch.float64 if name == "faithfulness" else torch.float32
        torch.testing.assert_close(found, call(same, images.float()), msg=lambda text, name=name: f"{name}: {text}")
    with half.hooks([("blocks.1.attn.hook_z", silence)]), same.hooks([("blocks.1.attn.hook_z", silence)]):
        hooked = heatmap(half, images, CLASSES, method="legrad", warn=False).values
        torch.testing.assert_close(hooked, heatmap(same, images.float(), CLASSES, method="legrad", warn=False).values)
    assert not torch.equal(hooked, heatmap(half, images, CLASSES, method="legrad", warn=False).values)
    assert half.dtype == dtype


@pytest.mark.parametrize(
    "name", ["rotary", "relative", "attention_pool", "differential", "gated", "post_norm", "qk_norm", "any_size"]
)
def test_the_copy_in_single_precision_answers_as_the_model_that_was_widened(name):
    module = (VARIANTS | OTHERS)[name]
    half, same = HookedViT.from_timm(module().half()), HookedViT.from_timm(module().half().float())
    images = pictures(half.cfg, 2).half()
    found = in_single_precision(half)
    torch.testing.assert_close(found(images.float()), same(images.float()))
    assert {x.dtype for x in half.parameters()} == {torch.float16}
    assert found.hook_dict["blocks.0.hook_resid_pre"] is half.hook_dict["blocks.0.hook_resid_pre"]
    assert in_single_precision(same) is same


REFUSED_BEHIND_AN_ABLATION = {
    "grad_cam": "nothing reads the patch tokens",
    "head_patch": r"cannot see what the hook at blocks\.0\.hook_attn_out edits",
}


def test_what_an_ablation_cuts_off_has_no_gradient(single):
    images = pictures(single.cfg, 2).float()
    everywhere = [("attn_out", lambda x, hook: torch.zeros_like(x)), ("mlp_out", lambda x, hook: torch.zeros_like(x))]
    past_hooks = ("class_projection", "projection_gradient")
    with single.hooks(everywhere):
        for method in METHODS:
            if method in REFUSED_BEHIND_AN_ABLATION:
                with pytest.raises(InputError, match=REFUSED_BEHIND_AN_ABLATION[method]):
                    heatmap(single, images, CLASSES, method=method, warn=False)
                continue
            options = options_of(method) | ({"perception": "head"} if method == "beyond_intuition" else {})
            found = heatmap(single, images, CLASSES, method=method, warn=False, **options).values
            # Of a class token to which nothing is added, no patch says anything.
            if METHODS[method].class_specific and method not in past_hooks:
                assert found.abs().max() <= 1e-6, method


def test_random_maps_are_the_same_in_every_precision():
    drawn = torch.Generator().manual_seed(0)
    files = [torch.randint(256, (48, 48, 3), generator=drawn, dtype=torch.uint8).numpy() for _ in range(2)]
    models = [HookedViT.from_timm(build().to(dtype)) for dtype in (torch.float32, torch.float16, torch.bfloat16)]
    single, *halves = [heatmap(model, files, method="random_map", warn=False).values for model in models]
    for found in halves:
        assert torch.equal(found, single)


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        ("relevance_propagation", torch.float16),
        ("occlusion", torch.bfloat16),
        pytest.param("relevance_propagation", torch.bfloat16, marks=pytest.mark.slow),
        pytest.param("occlusion", torch.float16, marks=pytest.mark.slow),
    ],
)
def test_the_demo_is_explained_alike_in_half_precision(method, dtype):
    model, images, labels, _ = load_demo()
    images, labels = images[:1], labels[:1]
    right = heatmap(model, images, labels, method=method, warn=False).values.flatten(1)
    found = heatmap(load_demo_model().to(dtype), images.to(dtype), labels, method=method, warn=False).values.flatten(1)
    for pair in zip(found, right, strict=True):
        assert torch.corrcoef(torch.stack(pair))[0, 1] > 0.98


def test_a_forward_has_no_more_rows_than_asked_or_free(single, monkeypatch):
    images = pictures(single.cfg, 3).float()
    seen = []
    watch = [("resid_pre", lambda x, hook: seen.append(len(x))), ("patch_embed", lambda x, hook: seen.append(len(x)))]
    expected = {name: call(single, images) for name, call in callers().items()}
    with single.hooks(watch):
        for name, call in callers().items():
            seen.clear()
            found = call(single, images, batch_size=2)
            assert max(seen, default=0) <= 2, name
            torch.testing.assert_close(
                found, expected[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
        monkeypatch.setattr(rows, "free_bytes", lambda device: 1)
        for name, call in callers().items():
            if name != "heatmap patching_effect":
                seen.clear()
                call(single, images)
                assert max(seen, default=0) <= 1, name
    for wrong, sentence in [(0, "at least"), (-3, "at least"), (True, "whole number")]:
        for call in (*ON_MAPS.values(), callers()["heatmap legrad"]):
            with pytest.raises(InputError, match=sentence):
                call(single, images, batch_size=wrong)


def test_what_is_interrupted_leaves_nothing_behind(single):
    images = pictures(single.cfg, 2).float().requires_grad_()

    def state():
        return (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.random.get_rng_state().tolist(),
            images.requires_grad,
            images.grad is None,
            single.dtype,
            single.training,
            [parameter.requires_grad for parameter in single.parameters()],
            [len(module._forward_hooks) + len(module._backward_hooks) for module in single.modules()],
            sum(len(point.fwd_hooks) for point in single.hook_points()),
        )

    class Stop(Exception):
        pass

    for name, call in callers().items():
        if name in ("heatmap random_map", "heatmap centre_prior"):
            continue
        for after in (1, 2):
            left = [after]

            def stop(x, hook, left=left):
                left[0] -= 1
                if not left[0]:
                    raise Stop

            before = state()
            with suppress(Stop), single.hooks([("blocks.1.hook_resid_pre", stop)]):
                call(single, images)
            assert left[0] <= 0 or after == 2, name
            assert state() == before, name
    model = HookedViT.from_timm(build().half())
    with pytest.raises(Stop), model.hooks([("blocks.1.hook_resid_pre", lambda x, hook: (_ for _ in ()).throw(Stop))]):
        heatmap(model, images.detach().half(), 1)
    assert model.dtype == torch.float16


def test_one_number_has_a_logit_and_nothing_else():
    model = HookedViT.from_timm(build(num_classes=1))
    images = pictures(model.cfg, 2)
    softmax = [
        ("token_mask", {"metric": "probability"}),
        ("occlusion", {"metric": "log_probability"}),
        ("patching_effect", {"metric": "probability"}),
        ("integrated_gradients", {"metric": "log_probability"}),
        ("class_projection", {"metric": "probability"}),
        ("class_projection", {"metric": "identifiability"}),
    ]
    for method, options in softmax:
        with pytest.raises(InputError, match=r'single output.*metric="logit"'):
            heatmap(model, images, method=method, **options)
    with pytest.raises(InputError, match=r'single output.*loss="logit"'):
        heatmap(model, images, method="projection_gradient")
    for method in METHODS:
        given = options_of(method) | {
            "projection_gradient": {"loss": "logit"},
        }.get(method, {})
        assert heatmap(model, images, method=method, warn=False, **given).values.any(), method
    order = torch.arange(9.0).repeat(2, 1)
    for call in (
        lambda: perturbation_test(model, images, importance=order),
        lambda: evaluate_heatmaps(model, images, heatmaps={"map": order}, progress=False),
        lambda: evaluate_heatmaps(model, images, heatmaps={"map": order}, metrics="infidelity", progress=False),
    ):
        with pytest.raises(InputError, match="single output"):
            call()
    masks = torch.zeros(2, 48, 48, dtype=torch.bool)
    masks[:, :20, :20] = True
    kept = evaluate_heatmaps(
        model, images, heatmaps={"map": order}, metrics=["patch_auroc", "pointing_game"], masks=masks, progress=False
    )
    assert kept.values.isfinite().all()


def test_maps_that_would_be_no_numbers_are_refused_with_the_reason():
    model = HookedViT.from_timm(build())
    images = pictures(model.cfg, 3)
    with torch.no_grad():
        model.ln_final.weight[2] = torch.nan
    for call in (
        lambda: heatmap(model, images, method="legrad", batch_size=1),
        lambda: heatmap(model, images, 1, method="legrad", batch_size=1),
        lambda: evaluate_heatmaps(model, images, 1, progress=False),
        lambda: perturbation_test(model, images, 1, importance=torch.arange(9.0).repeat(3, 1)),
        lambda: randomisation_test(model, images, 1, progress=False),
        lambda: heatmap(model, images, method="projection_gradient"),
        lambda: heatmap(model, images, 1, method="gradient_rollout"),
    ):
        with pytest.raises(InputError, match=r"logits.* of picture 0 .*NaN or infinite"):
            call()
    with pytest.raises(InputError, match="features of picture 0 are NaN"):
        heatmap(model, images, method="attention_rollout")
    for call in callers().values():
        with pytest.raises(InputError, match=r"no pictures|\[0, "):
            call(model, images[:0])


def test_options_that_have_one_entry_a_picture_follow_the_pictures():
    model = HookedViT.from_timm(build())
    images, classes = pictures(model.cfg, 3), torch.tensor([1, 2, 3])
    against = torch.tensor([4, 5, 6])
    others = {"replacement": images.flip(0)}
    for method, options in [("head_patch", {"baseline_classes": against}), ("patching_effect", others)]:
        together = heatmap(model, images, classes, method=method, **options)
        apart = heatmap(model, images, classes, method=method, batch_size=1, **options)
        torch.testing.assert_close(apart.values, together.values, rtol=1e-9, atol=1e-12)
    with pytest.raises(InputError, match="are the same"):
        heatmap(model, images, classes, method="head_patch", baseline_classes=torch.tensor([4, 2, 6]))


def test_a_map_that_is_the_same_everywhere_has_no_order():
    model = HookedViT.from_timm(build())
    model.architecture = lambda: build()
    images, masks = pictures(model.cfg, 2), torch.zeros(2, 48, 48, dtype=torch.bool)
    masks[:, :20, :20] = True
    even = torch.arange(9.0).repeat(2, 1)
    even[0] = 0.5
    options = {"metrics": "all", "masks": masks, "n_steps": 3, "baselines": False, "progress": False}
    found = evaluate_heatmaps(model, images, 1, heatmaps={"even": even}, **options)
    for name, values in zip(found.axes["metric"], found.values[0], strict=True):
        assert values[0].isnan() == (name not in ("infidelity", "patch_auroc")), name
        assert values[1].isnan() == (name == "randomisation"), name
    with pytest.raises(InputError, match="picture 0 is the same for all patches"):
        perturbation_test(model, images, importance=even)


def test_numbers_that_are_none_are_refused():
    model = HookedViT.from_timm(build())
    images = pictures(model.cfg, 2)
    for method, options, sentence in [
        ("token_mask", {"n_steps": 0}, "at least one step"),
        ("token_mask", {"n_steps": 2.0}, "n_steps is a whole number"),
        ("token_mask", {"n_scanned": True}, "n_scanned is a whole number"),
        ("smooth_grad", {"seed": -1}, "at least 0"),
        ("smooth_grad", {"noise": float("nan")}, "noise"),
        ("smooth_grad", {"n_draws": "3"}, "n_draws is a whole number"),
        ("integrated_gradients", {"n_steps": -1}, "at least one step"),
        ("transition_attention", {"n_steps": 0.5}, "n_steps is a whole number"),
        ("occlusion", {"window": 1.5}, "window is a whole number"),
        ("random_map", {"seed": -1}, "at least 0"),
        ("random_map", {"seed": 0.5}, "whole number"),
    ]:
        with pytest.raises(InputError, match=sentence):
            heatmap(model, images, 1, method=method, **options)
    found = heatmap(model, images, method="centre_prior")
    for arguments, sentence in [
        ((0,), "1 or more"),
        ((True,), "k is a whole number"),
        ((1, 2), "there is no picture 2"),
    ]:
        with pytest.raises(InputError, match=sentence):
            found.top(*arguments)
    order = {"map": torch.arange(9.0).repeat(2, 1)}
    for options, sentence in [
        ({"n_steps": 0}, "n_steps is a whole number of at least 1"),
        ({"n_steps": True}, "n_steps is a whole number"),
        ({"n_draws": True}, "n_draws is a whole number"),
        ({"metrics": "saco", "options": {"saco": {"n_groups": True}}}, "n_groups is a whole number"),
        ({"metrics": "sensitivity_n", "options": {"sensitivity_n": {"seed": -1}}}, "at least 0"),
        ({"metrics": "sensitivity_n", "options": {"sensitivity_n": {"shares": [float("nan")]}}}, "some of the"),
        ({"metrics": "infidelity", "options": {"infidelity": {"n_draws": True}}}, "n_draws is a whole number"),
        ({"road_shares": [float("nan")]}, "between 0 and 1"),
    ]:
        with pytest.raises(InputError, match=sentence):
            evaluate_heatmaps(model, images, 1, heatmaps=order, progress=False, **options)
    for options, sentence in [({"seed": -1}, "at least 0"), ({"methods": []}, "at least one heatmap method")]:
        with pytest.raises(InputError, match=sentence):
            randomisation_test(model, images, 1, progress=False, **options)
