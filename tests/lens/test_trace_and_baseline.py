"""The trace against the lens it abbreviates, the quirks of the released code, and the random baseline."""

import pytest
import torch
from timm.models import create_model

from vitlens import HookedViT, InputError, class_lens
from vitlens.demo import load_demo_model
from vitlens.lens import (
    class_change_by_sublayer,
    class_similarity_change_rate,
    class_trace,
    identifiability,
    identifiability_rate,
    residual_composition,
)


def test_the_trace_says_what_the_lens_says(classifier, images_of):
    images, labels = images_of(classifier, 2), torch.tensor([1, 4])
    trace = class_trace(classifier, images, labels).tables()
    sites = ["resid_pre", "attn_out", "mlp_out", "resid_post"]
    if classifier.cfg.wiring != "parallel":
        sites.append("resid_mid")
    lens = class_lens(classifier, images, labels, sites=sites)
    for site in sites:
        for block in range(classifier.cfg.n_layers):
            at = (lens.site_index(site), block)
            torch.testing.assert_close(trace.logits[site, block], lens.values[at][..., 0], rtol=1e-9, atol=1e-9)
            if site != "resid_mid":
                assert torch.equal(trace.ranks[site, block].long(), lens.ranks[at][..., 0])
                assert torch.equal(trace.first[site, block], lens.top_classes[at][..., 0])


def test_measures_of_the_trace_are_those_of_the_lens(plain, images_of):
    images, labels = images_of(plain, 3), torch.tensor([0, 1, 2])
    lens, trace = class_lens(plain, images, labels, sites="all"), class_trace(plain, images, labels)
    for measure in (identifiability, class_similarity_change_rate, class_change_by_sublayer, residual_composition):
        assert measure(lens).equals(measure(trace)), measure.__name__
    assert identifiability_rate(lens).equals(identifiability_rate(trace))


def test_quirks_of_the_released_code(plain, images_of):
    images, labels = images_of(plain, 3), torch.tensor([0, 1, 2])
    trace = class_trace(plain, images, labels).tables()
    released = class_change_by_sublayer(trace, paper_compat=True).query("block == 1 and tokens == 'patches'")
    rises = trace.logits["mlp_out", 1] > trace.logits["resid_pre", 1]
    assert released["mlp"].item() == pytest.approx(rises[:, 1:].double().mean().item())
    composed = residual_composition(trace, paper_compat=True).query("block == 1 and tokens == 'patches'")
    after = trace.first["resid_post", 1]
    neither = (after != trace.first["attn_out", 1]) & (after != trace.first["resid_pre", 1])
    assert composed["composed"].item() == pytest.approx(100 * neither[:, 1:].double().mean().item())


def test_the_released_code_drops_the_first_patch_of_models_without_class_token(images_of):
    torch.manual_seed(0)
    keywords = {"img_size": 48, "depth": 2, "embed_dim": 32, "num_heads": 4, "num_classes": 10}
    model = HookedViT.from_timm(
        "vit_tiny_patch16_224", pretrained=False, class_token=False, global_pool="avg", **keywords
    )
    model = model.to(torch.float64)
    trace = class_trace(model, images_of(model, 4), torch.tensor([0, 1, 2, 3])).tables()
    first = (trace.ranks["resid_post", 1] == 0).double()
    assert identifiability_rate(trace)["rate_percent"] == pytest.approx(100 * first.mean().item())
    released = identifiability_rate(trace, paper_compat=True)["rate_percent"]
    assert released == pytest.approx(100 * first[:, 1:].mean().item())


def test_fresh_weights_are_seeded_and_timms(images_of):
    model = load_demo_model()
    one, again, other = (model.with_fresh_weights(seed) for seed in (0, 0, 1))
    assert torch.equal(one.W_Q, again.W_Q)
    assert not torch.equal(one.W_Q, other.W_Q)
    assert not torch.equal(one.W_Q, model.W_Q)
    assert one.class_names == model.class_names
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    model.with_fresh_weights(3)
    assert torch.equal(before, torch.rand(1)), "the caller's generator is left alone"
    named = HookedViT.from_timm("vit_tiny_patch16_224", pretrained=False, num_classes=7, img_size=64)
    fresh = named.with_fresh_weights(2)
    assert fresh.cfg.n_classes == 7
    assert fresh.cfg.grid_size == (4, 4)
    assert fresh.unembed.weight.any()


def test_a_random_model_knows_no_class(images_of):
    model = load_demo_model().with_fresh_weights(0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(40, 3, 56, 56, generator=generator)
    trace = class_trace(model, images, torch.randint(10, (40,), generator=generator))
    scores = identifiability(trace).query("tokens == 'patches'")["identifiability"]
    assert scores.between(0.4, 0.7).all(), "chance is 0.55 for ten classes"


def test_a_module_in_hand_cannot_be_built_anew():
    model = HookedViT.from_timm(create_model("vit_tiny_patch16_224"))
    with pytest.raises(InputError, match=r"set model\.architecture"):
        model.with_fresh_weights()
