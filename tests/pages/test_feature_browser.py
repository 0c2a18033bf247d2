"""The page of a dictionary: its numbers are those of the library's calls, and a reader can search, look, steer and label."""

import base64
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from browser import whole_page
from ported import build
from variants import pictures

from vitlens import InputError, explore_features
from vitlens.features import SparseAutoencoder, Transcoder, evaluate_sae, feature_attribution, top_patches, with_sae
from vitlens.features.strongest import EncodedPictures
from vitlens.pages.dictionary.measure.one_pass import SampledPictures
from vitlens.pages.dictionary.measured import LEVELS
from vitlens.pages.dictionary.page import features_script

VIEW = "document.getElementById('explorer').view"
HOSTILE = "<img src=x onerror=alert(1)>\u2028</script>"
HOOK = "blocks.0.hook_resid_post"
N = 40


@pytest.fixture(scope="module")
def found():
    """A small model with hostile names of classes, eight pictures, a dictionary and its page."""
    model = build("registers")
    model.class_names = [f"{HOSTILE} {i}" for i in range(model.cfg.n_classes)]
    images = pictures(model.cfg, 8)
    d = model.cfg.d_model
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(N, d, generator=generator, dtype=model.dtype)
    weights = W.T.contiguous(), -torch.rand(N, generator=generator, dtype=model.dtype), W, None
    sae = SparseAutoencoder.from_arrays(*weights, hook=HOOK, source=f"<b>{HOSTILE}</b>")
    explorer = explore_features(
        model, sae, images, shown=[1, 4, 6], features=[3, 7], feature_labels={3: HOSTILE, 5: "stripes"},
        batch_size=3, progress=False,
    )  # fmt: skip
    return model, images, sae, explorer


@pytest.fixture(scope="module")
def opened(browser, found, tmp_path_factory):
    out = tmp_path_factory.mktemp("features") / "page.html"
    found[-1].save(out)
    with whole_page(browser, out) as page:
        yield page


@pytest.fixture
def page(opened):
    """As it opens, with feature 3 and nothing selected."""
    opened.page.evaluate(f"{VIEW}.list.input.value = ''; {VIEW}.list.which.value = 'all'; {VIEW}.list.refresh()")
    opened.page.evaluate(f"{VIEW}.choose({{feature: 3, picture: 0, tokens: []}})")
    return opened.page


def test_examples_are_those_of_top_patches(found):
    model, images, sae, explorer = found
    tops = top_patches(
        model,
        images,
        sae=sae,
        features=list(range(N)),
        tokens="all",
        k=9,
        one_per_image=True,
        batch_size=3,
        progress=False,
    )
    tensors = explorer.tensors
    assert tensors["top_values"].shape == (N, 9), "one column more than there are pictures"
    for name, expected in (("values", tops.values.float()), ("images", tops.images), ("tokens", tops.tokens)):
        np.testing.assert_array_equal(tensors[f"top_{name}"][:, :8], expected)
    np.testing.assert_array_equal(tensors["counts"], tops.counts)
    np.testing.assert_array_equal(explorer.to_frame()["density"], tops.density)
    promoted = tops.promoted.float().numpy()
    np.testing.assert_array_equal(tensors["class_values"][:, 0], promoted.max(axis=1))
    np.testing.assert_array_equal(tensors["class_values"][:, -1], promoted.min(axis=1))
    np.testing.assert_array_equal(tensors["class_ids"][:, 0], promoted.argmax(axis=1))
    # All eight pictures are in the sample, so that the levels are quantiles of the pictures in which a feature is active.
    for feature in range(N):
        active = np.sort(tops.values[feature][tops.values[feature] > 0].float())
        expected = [active[int(level * len(active))] for level in LEVELS] if len(active) else [0] * len(LEVELS)
        np.testing.assert_array_equal(tensors["level_values"][feature], expected)
        assert tensors["n_active"][feature] == len(active)
    judged = evaluate_sae(model, images, sae=sae, metrics="locality", baselines=[], tokens="all", progress=False)
    np.testing.assert_allclose(tensors["locality"], judged.locality, rtol=1e-5)
    assert np.isfinite(tensors["locality"]).any()
    directions = sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)
    cosines = (directions @ directions.T).fill_diagonal_(-2).float()
    np.testing.assert_array_equal(tensors["near_ids"][:, 0], cosines.argmax(dim=1))
    np.testing.assert_allclose(tensors["near_cosines"][:, 0], cosines.max(dim=1).values, atol=1e-6)


def test_pictures_are_the_models_own(found):
    """What is active at each token, what it is worth, and what the model answers at each dose."""
    model, images, sae, explorer = found
    tensors, shown = explorer.tensors, [1, 4, 6]
    _, cache = model.run_with_cache(images[shown], names_filter="resid_post")
    active = sae.encode(cache["resid_post", 0]).flatten(0, 1)
    starts = [0, *tensors["active_ends"].tolist()]
    for row, (start, end) in enumerate(pairwise(starts)):
        features, values = tensors["active_features"][start:end], tensors["active_values"][start:end]
        assert (np.diff(values) <= 0).all()
        kept = torch.zeros(N, dtype=active.dtype).index_copy_(
            0, torch.tensor(features).long(), torch.tensor(values).to(active)
        )
        torch.testing.assert_close(kept, active[row], rtol=1e-5, atol=1e-6)
    shares = feature_attribution(model, images[shown], sae=sae, progress=False)
    np.testing.assert_allclose(tensors["worth"], shares.values[:, 0], rtol=1e-4, atol=1e-7)
    doses, classes = explorer.facts["doses"], explorer.facts["pictures"][1]["doses"]["classes"]
    assert doses == [0, 0.5, 1, 2, 4]
    for place, feature in enumerate([3, 7]):
        for at, dose in enumerate(doses):
            with with_sae(
                model,
                HOOK,
                sae,
                error_term=True,
                edit=lambda f, k=feature, a=dose: f.index_copy(-1, torch.tensor([k]), a * f[..., [k]]),
            ):
                logits = model(images[4:5])[0].detach()
            np.testing.assert_allclose(tensors["doses_1"][place, at], logits[classes], rtol=1e-5, atol=1e-6)
            assert tensors["doses_rest_1"][place, at] == pytest.approx(float(logits.logsumexp(0)), rel=1e-5)
    explorer.selected_picture = 1
    assert torch.equal(explorer.steer(7, 1.0), model(images[4:5])[0].detach())
    explorer.selected_picture = 0


def test_memory_is_that_of_the_examples(found):
    """A stream of pictures of unknown length, in batches of another size: the same examples, whose crops are kept."""
    model, images, sae, explorer = found
    streamed = explore_features(model, sae, lambda: iter(images.split(2)), shown=0, batch_size=2, progress=False)
    for name in ("top_images", "top_tokens", "level_images", "counts"):
        np.testing.assert_array_equal(streamed.tensors[name], explorer.tensors[name])
    shown = {*streamed.tensors["top_images"].flatten(), *streamed.tensors["level_images"].flatten()} - {-1}
    assert set(streamed.tensors["crop_numbers"]) == shown
    sampled = SampledPictures(2)
    for some in _of_one_feature(torch.tensor([[3.0], [0.0], [5.0], [1.0], [4.0]])):
        sampled.add(some)
    assert sampled.n_active.item() == 4
    assert sampled.images.shape == (2, 1)
    assert 1 not in sampled.images, "a picture in which it is not active"


def _of_one_feature(values):
    for i, value in enumerate(values):
        yield EncodedPictures(torch.zeros(1, 1, 1, 1), torch.tensor([i]), value[None, None], torch.tensor([0]), (1, 1))


def test_a_transcoder_has_a_page(found):
    """It reads in one place and writes in another."""
    model, images, sae, _ = found
    transcoder = Transcoder(
        sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, sae.activation, hook="resid_mid1", hook_out="mlp_out1"
    )
    explorer = explore_features(model, transcoder, images[:2], n_runs=5, doses=[0], progress=False)
    dictionary = explorer.facts["dictionary"]
    assert (dictionary["hook"], dictionary["hook_out"]) == ("blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out")
    (feature, _), doses = explorer.facts["pictures"][0]["doses"]["features"], explorer.facts["doses"]
    assert doses == [0, 1]
    edit = {"edit": lambda f: f.index_fill(-1, torch.tensor([feature]), 0), "error_term": True}
    with with_sae(model, None, transcoder, **edit):
        expected = model(images[:1])[0].detach()
    torch.testing.assert_close(explorer.steer(feature, 0.0), expected)


# ---- The page ----------------------------------------------------------------------------------------------------------


def test_the_list_is_searched_and_sorted(found, page):
    explorer = found[-1]
    table = explorer.to_frame()
    page.keyboard.press("/")
    page.keyboard.type("STRIPES")
    rows = page.locator(".rows .row")
    assert rows.evaluate_all("all => all.map(one => one.dataset.feature)") == ["5"]
    page.keyboard.press("Enter")
    assert page.evaluate(f"{VIEW}.state.feature") == 5
    assert page.locator(".label-field").input_value() == "stripes"
    page.locator(".list-controls input").fill("f7")
    assert rows.first.get_attribute("data-feature") == "7"
    page.locator(".list-controls input").fill("")
    page.locator("[data-sort=density]").click()
    order = page.evaluate(f"{VIEW}.list.order")
    assert order == table.sort_values("density", ascending=False, kind="stable")["feature"].tolist()
    page.locator("[data-sort=number]").click()
    page.evaluate(f"{VIEW}.choose({{feature: 3}})")
    page.locator(".rows-frame").focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate(f"{VIEW}.state.feature") == 4
    assert "feature=4" in page.url
    page.keyboard.press("k")
    assert page.evaluate(f"{VIEW}.state.feature") == 3
    assert page.locator(".row[aria-selected=true]").get_attribute("data-feature") == "3"
    assert page.locator("[data-panel=feature] h2").inner_text() == "Feature 3"


def test_a_click_on_a_patch_lists_what_is_active_there(found, page):
    model, explorer = found[0], found[-1]
    first = model.cfg.n_prefix_tokens
    box = page.locator(".frame").bounding_box()
    rows, columns = explorer.facts["grid"]
    page.mouse.click(box["x"] + 1.5 / columns * box["width"], box["y"] + 0.5 / rows * box["height"])
    assert page.evaluate(f"{VIEW}.state.tokens") == [first + 1]
    starts = [0, *explorer.tensors["active_ends"].tolist()]
    values = explorer.tensors["active_values"][starts[first + 1] : starts[first + 2]]
    shown = page.locator(".active [data-value]").evaluate_all("all => all.map(one => Number(one.dataset.value))")
    np.testing.assert_allclose(shown, values[: len(shown)], rtol=1e-6)
    wanted = page.locator(".active [data-feature]").last
    feature = int(wanted.get_attribute("data-feature"))
    wanted.click()
    assert page.evaluate(f"{VIEW}.state.feature") == feature
    # Its map: on the large picture, and the largest activation below each small one.
    on_stage = page.evaluate(f"Array.from({VIEW}.stage.shown.values)")
    assert on_stage[first + 1] == pytest.approx(float(values[len(shown) - 1]), rel=1e-6)
    assert page.locator(".elsewhere button").count() == 3
    page.locator(".elsewhere button").nth(2).click()
    assert page.evaluate(f"{VIEW}.state.picture") == 2
    page.keyboard.press("Escape")
    assert page.evaluate(f"{VIEW}.state.tokens") == []


def test_doses_are_shown_before_and_after(found, page):
    explorer = found[-1]
    cells = page.locator(".doses tbody tr")
    index = explorer.facts["pictures"][0]["doses"]["classes"].index(int(cells.first.get_attribute("data-class")))
    shown = cells.first.locator("td").evaluate_all("all => all.map(one => Number(one.dataset.logit))")
    np.testing.assert_allclose(shown, explorer.tensors["doses_0"][0, :, index], rtol=1e-6)
    page.evaluate(f"{VIEW}.choose({{feature: 11}})")
    page.locator(".doses .steered button").last.click()
    assert page.evaluate(f"{VIEW}.state.feature") == 7


def test_labels_are_typed_kept_saved_and_read_again(found, page, tmp_path):
    model, images, sae, explorer = found
    assert page.locator(".label-field").input_value() == HOSTILE
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    page.evaluate(f"{VIEW}.choose({{feature: 9}})")
    page.keyboard.press("l")
    page.keyboard.type("dots")
    page.keyboard.press("Enter")
    assert "dots" in page.locator(".row[data-feature='9']").inner_text()
    page.reload()
    page.wait_for_selector("#explorer[data-ready]", state="attached")
    with page.expect_download() as download:
        page.get_by_role("button", name="save labels").click()
    file = tmp_path / "labels.json"
    download.value.save_as(file)
    assert json.loads(file.read_text())["labels"] == {"3": HOSTILE, "5": "stripes", "9": "dots"}
    again = explore_features(model, sae, images[:1], shown=0, feature_labels=file, progress=False)
    assert again.labels == {3: HOSTILE, 5: "stripes", 9: "dots"}
    again.save_labels(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == file.read_text()
    explorer.labels = {2: "other"}
    other = SparseAutoencoder.from_arrays(sae.W_enc + 1, None, sae.W_dec, None, hook=HOOK)
    with pytest.raises(InputError, match="labels of another dictionary"):
        explore_features(model, other, images[:1], feature_labels=file, progress=False)
    # The page refuses what is not its own, and reads what is.
    page.locator("input[type=file]").set_input_files(file)
    page.wait_for_function("document.querySelector('.about output').value === '3 labels read.'")
    file.write_text(file.read_text().replace(explorer.facts["dictionary"]["fingerprint"], "0"))
    page.locator("input[type=file]").set_input_files(file)
    page.wait_for_function("document.querySelector('.about output').value.includes('another dictionary')")


def test_python_and_the_widget_follow_each_other(found):
    model, images, sae, _ = found
    explorer = explore_features(model, sae, images[:2], n_runs=5, progress=False)
    widget = explorer.widget
    explorer.selected_feature, explorer.labels = 6, {6: "edge"}
    assert widget.selection == {"feature": 6, "picture": 0}
    assert widget.labels == {"6": "edge"}
    widget.labels = {"6": "edge", "8": "corner"}
    widget.selection = {"feature": 8, "picture": 1}
    assert explorer.labels == {6: "edge", 8: "corner"}
    assert (explorer.selected_feature, explorer.selected_picture) == (8, 1)
    widget._answer(widget, {"ask": "steer", "feature": 8, "doses": [0, 3]}, [])
    assert widget.steered["logits"][1] == pytest.approx(explorer.steer(8, 3.0).tolist(), rel=1e-5)
    with pytest.raises(InputError, match="no feature 40"):
        explorer.selected_feature = N


#: A notebook's model of a widget, as anywidget gives it to `render`.
IN_A_NOTEBOOK = """async ([script, values, bytes]) => {
  const { default: widget } = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  const heard = {};
  const numbers = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
  const model = {
    values: { ...values, numbers: new DataView(numbers.buffer) }, sent: [],
    get: (name) => model.values[name], set: (name, value) => (model.values[name] = value), save_changes: () => {},
    send: (message) => model.sent.push(message), on: (name, act) => (heard[name] = act), off: (name) => delete heard[name],
  };
  const el = document.body.appendChild(document.createElement("div"));
  const end = widget.render({ model, el });
  window.notebook = { model, el, end, say: (name, value) => { model.values[name] = value; heard["change:" + name](); } };
}"""


def test_a_dose_of_ones_own_is_run_in_a_notebook(found, page):
    explorer = found[-1]
    values = {"facts": explorer.facts, "crops": "\n".join(explorer.crops), "labels": {"7": "dots"}, "steered": None}
    values["selection"] = {"feature": 7, "picture": 0}
    bytes_of = base64.b64encode(explorer.packed).decode()
    page.evaluate(IN_A_NOTEBOOK, [features_script(), values, bytes_of])
    page.wait_for_function("notebook.el.firstChild.dataset.ready")
    inside = page.locator("body > div .doses")
    inside.locator("input").fill("8")
    inside.locator("button.run").click()
    doses = [0, 0.5, 1, 2, 4, 8]
    assert page.evaluate("notebook.model.sent") == [{"ask": "steer", "feature": 7, "doses": doses}]
    logits = [[float(dose + (index == dose)) for index in range(10)] for dose in doses]
    page.evaluate(
        "(steered) => notebook.say('steered', steered)", {"feature": 7, "picture": 0, "doses": doses, "logits": logits}
    )
    assert inside.locator("thead th").last.inner_text() == "8 ×"
    told = inside.locator("tr[data-class='8'] td").last
    assert (told.get_attribute("data-logit"), told.inner_text()) == ("9", "23.2\u00a0%")
    page.evaluate("notebook.say('labels', { 7: 'spots' })")
    assert page.locator("body > div .label-field").input_value() == "spots"
    row = page.locator("body > div .rows .row").nth(4)
    chosen = int(row.get_attribute("data-feature"))
    assert chosen != 7
    row.click()
    # The row is drawn a moment after the click.
    page.wait_for_selector(f"body > div .row[aria-selected=true][data-feature='{chosen}']")
    assert page.locator("body > div .row[aria-selected=true]").count() == 1
    assert page.evaluate("notebook.model.values.selection.feature") == chosen
    page.evaluate("notebook.end(), notebook.el.remove()")
