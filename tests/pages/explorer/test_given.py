"""What a page can be given besides its pictures: a description of the model, a dictionary, and one more picture."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from browser import open_in
from pages.explorer.conftest import VIEW, choose, unpack
from pages.explorer.test_page import on_stage, shown, state
from ported import build
from variants import pictures

from vitlens import InputError, activation_patching, attribution_patching, describe, direct_logit_attribution, explore
from vitlens.features import SparseAutoencoder, feature_attribution, with_sae
from vitlens.pages.explorer.measure.data_set import head_name

ABOUT = {"n_classes": 3, "progress": False}


@pytest.fixture(scope="module")
def given():
    """A small model, two pictures and a third that is put in, a description of six, and a dictionary of both signs."""
    model = build("registers")
    images = pictures(model.cfg, 6)
    identity = torch.eye(model.cfg.d_model, dtype=model.dtype)
    both = torch.cat([identity, -identity])
    sae = SparseAutoencoder.from_arrays(both.T, None, both, None, hook="resid_post1", source="<b>both</b>")
    description = describe(model, images, progress=False)
    explorer = explore(model, images[:2], against=images[2:3], description=description, sae=sae, **ABOUT)
    return model, images, description, sae, explorer


@pytest.fixture(scope="module")
def opened(browser, given, tmp_path_factory):
    out = tmp_path_factory.mktemp("given") / "page.html"
    given[-1].save(out)
    found = open_in(browser, out, 1440, 900)
    yield found
    assert found.complaints == []
    found.page.context.close()


@pytest.fixture
def page(opened):
    choose(opened.page, picture=0, tokens=[], baseline=None, feature=None, layer="heatmap")
    return opened.page


def test_parts_of_the_other_picture_move_the_decision(given, page):
    model, images, _, _, explorer = given
    here, other = images[:1], images[2:3]
    tensors, facts = unpack(explorer.pictures[0]), explorer.facts["pictures"][0]
    classes = facts["classes"]
    answer = int(model(other).argmax())
    assert facts["swap"]["answer"] == answer
    assert answer in classes
    wanted = next(index for index in classes if index != answer)
    choose(page, **{"class": wanted})
    about = {"metric": "logit_difference", "direction": "denoise", "progress": False}
    effects = {
        site: activation_patching(
            model, other, here, [wanted], baseline_classes=[answer], sites=site, tokens=tokens, **about
        ).values.flatten()
        for site, tokens in (("z", "all"), ("mlp_out", ["all"]))
    }
    np.testing.assert_allclose(shown(page, "panels.swap.board.shown.heads"), effects["z"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(shown(page, "panels.swap.board.shown.mlps"), effects["mlp_out"], rtol=1e-3, atol=1e-4)
    first = model.cfg.n_prefix_tokens
    patches = activation_patching(
        model, other, here, [wanted], baseline_classes=[answer], sites="resid_pre", blocks=0,
        tokens=[[first + i] for i in range(9)], **about,
    ).values.flatten()  # fmt: skip
    choose(page, layer="swap")
    np.testing.assert_allclose(on_stage(page)[first:], patches, rtol=1e-3, atol=1e-4)
    told = page.locator("[data-panel=swap] .subtitle").inner_text()
    assert "the other picture" in told
    assert "of the way" in told
    longest = np.abs(shown(page, "panels.swap.bars.shown.rows.map(({ values }) => values[0])")).max()
    assert page.evaluate(f"{VIEW}.panels.swap.bars.shown.scale.end") == pytest.approx(max(1, longest))
    np.testing.assert_allclose(tensors["swap_source"], model(other)[0, classes].detach(), rtol=1e-5, atol=1e-6)
    choose(page, picture=2)
    assert not page.locator("[data-panel=swap]").is_visible(), "nothing was put into the other picture itself"


def test_where_the_budget_ends_swaps_are_estimated(given):
    model, images, *_ = given
    explorer = explore(model, images[:1], against=images[1:2], n_runs=4, **ABOUT)
    how = explorer.facts["pictures"][0]["swap"]
    assert (how["patches"], how["box"], how["heads"]) == ("boxes", 2, "estimated")
    tensors = unpack(explorer.pictures[0])
    assert np.isnan(tensors["swap_lse"][9:]).all()
    classes = explorer.facts["pictures"][0]["classes"]
    about = {"metric": "logit", "sites": "mlp_out", "tokens": ["all"], "progress": False}
    estimate = attribution_patching(model, images[1:2], images[:1], classes[:1], **about)
    logits = model(images[:2])[:, classes[0]].detach()
    moved = estimate.values.flatten() * (logits[1] - logits[0])
    np.testing.assert_allclose(
        tensors["swap_logits"][-len(moved) :, 0] - logits[0].numpy(), moved, rtol=1e-3, atol=1e-5
    )


def test_features_are_pythons(given, page):
    model, images, _, sae, explorer = given
    tensors, classes = unpack(explorer.pictures[0]), explorer.facts["pictures"][0]["classes"]
    ids = tensors["feature_ids"].tolist()
    _, cache = model.run_with_cache(images[:1], names_filter="resid_post")
    active = sae.encode(cache["resid_post", 1])[0]
    assert ids[:16] == active.max(dim=0).values.argsort(descending=True, stable=True)[:16].tolist()
    shares = feature_attribution(model, images[:1], torch.tensor([classes]), sae=sae, method="direct", progress=False)
    np.testing.assert_allclose(tensors["feature_writes"], shares.values[0][:, ids], rtol=1e-4, atol=1e-6)
    feature = ids[-1]
    with with_sae(model, None, sae, error_term=True, edit=lambda f: f.index_fill(-1, torch.tensor([feature]), 0)):
        without = model(images[:1])[0]
    lost = (model(images[:1])[0] - without)[classes].detach()
    np.testing.assert_allclose(tensors["feature_costs"][:, -1], lost, rtol=1e-4, atol=1e-6)

    field = page.locator("input[type=search]")
    field.fill(f"f{feature}")
    field.press("Enter")
    page.wait_for_function(f"{VIEW}.state.feature === {feature}")
    assert state(page)["layer"] == "feature"
    np.testing.assert_allclose(on_stage(page), active[:, feature], atol=active[:, feature].max() / 30000)
    assert page.evaluate(f"{VIEW}.picture.shown.scale.end") == pytest.approx(float(active[:, feature].max()), rel=1e-4)
    assert f"feature={feature}" in page.url
    assert f"Feature {feature}" in page.locator("[data-card=feature] h3").inner_text()
    assert "<b>both</b>" in page.locator("[data-panel=feature] .subtitle").inner_text()
    page.locator("[data-card=feature] [data-feature]").first.click()
    assert state(page)["feature"] != feature


def test_cards_tell_the_data_set(given, page):
    model, _, description, _, explorer = given
    choose(page, block=1, head=2)
    card = page.locator(".data-set")
    told = card.inner_text()
    assert "6 pictures" in told
    shares = description.heads.set_index(["block", "head"]).loc[(1, 2)]
    for name in ("class_to_class", "patch_to_self", "patch_to_neighbours"):
        assert f"{100 * shares[name]:.1f}".removesuffix(".0") in told, name
    assert shares["nearest_head"] in told
    sinks = [[head["sink"] for head in block] for block in explorer.facts["data_set"]["heads"]]
    for told_of, kinds in zip(sinks, description.sink_kind(), strict=True):
        assert [text and text.split(",")[0] for text in told_of] == [
            {"none": None, "other": "an attention sink (neither no-op nor broadcast)"}.get(kind, f"a {kind} sink")
            for kind in kinds
        ]
    numbers = [int(text.split()[1].rstrip(":")) for text in card.locator(".tops small").all_inner_texts()]
    assert numbers == description.top_images[1, 2].tolist()
    card.locator("button.plain").click()
    assert f"L{state(page)['block']}H{state(page)['head']}" == shares["nearest_head"]
    choose(page, block=0, head="mlp")
    assert card.locator(".looks").count() == 0
    classes = explorer.facts["pictures"][0]["classes"]
    choose(page, **{"class": classes[0]})
    values = direct_logit_attribution(model, given[1][:1], classes[0], unit="neuron", progress=False).values[0, 0, 0]
    neurons = [int(text.split()[1]) for text in page.locator(".neurons li span").all_inner_texts()]
    assert neurons == values.abs().argsort(descending=True)[: len(neurons)].tolist()


def test_whole_panels_are_saved(page, tmp_path):
    choose(page, block=1, head=2, layer="feature", tokens=[])
    for panel, words in (
        ("head", ("L1H2", "Over the data set", "itself")),
        ("patch", ("After block 1",)),
        ("feature", ("Where it is most active",)),
        ("swap", ("What moves the decision most",)),
        ("cause", ("Strongest effects", "Cause against direct writing")),
    ):
        page.locator(f"[data-panel={panel}] summary").first.click()
        for kind in ("PNG", "SVG"):
            with page.expect_download() as download:
                page.locator(f"[data-panel={panel}]").get_by_text(f"save {kind}").click()
            download.value.save_as(tmp_path / f"{panel}.{kind.lower()}")
        page.keyboard.press("Escape")
        drawing = ElementTree.fromstring((tmp_path / f"{panel}.svg").read_text())
        written = " ".join(part.text or "" for part in drawing.iter())
        for text in words:
            assert text in written, (panel, text)
        assert "most active writes most" not in written, "controls are no part of the picture"
        assert written.count("Made with vitlens") == 1
        assert (tmp_path / f"{panel}.png").stat().st_size > 5000


def test_without_them_there_is_nothing_of_them(given):
    model, images = given[:2]
    facts = explore(model, images[:1], n_runs=1, **ABOUT).facts
    assert (facts["data_set"], facts["dictionary"], facts["pictures"][0]["swap"]) == (None, None, None)


def test_what_does_not_fit_is_refused(given):
    model, images, description, *_ = given
    for changes, message in (
        ({"provenance": description.settings["provenance"] | {"weights": "others"}}, "describe the model of the page"),
        ({"grid": [5, 5]}, "describe pictures of this size"),
    ):
        stale = replace(description, settings=description.settings | changes)
        with pytest.raises(InputError, match=message):
            explore(model, images[:1], description=stale, **ABOUT)
    with pytest.raises(InputError, match="against is one picture, and 2 were given"):
        explore(model, images[:1], against=images[:2], **ABOUT)
    with pytest.raises(InputError, match="pass it as sae="):
        explore(model, images[:1], hook="resid_post1", **ABOUT)


def test_a_head_is_named_after_what_it_mostly_looks_at():
    facts = {"patch_to_class": 0.1, "patch_to_self": 0.3, "patch_to_neighbours": 0.3, "patch_to_rest": 0.3}
    assert head_name({**facts, "patch_to_outliers": 0.0}) == "local head"
    assert head_name({**facts, "patch_to_outliers": 0.6}) == "artefact head"
    assert head_name({**facts, "patch_to_self": 0.1, "patch_to_rest": 0.5, "patch_to_outliers": 0.0}) is None
