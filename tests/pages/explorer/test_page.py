"""The one page in a real browser: what it shows are Python's numbers, and all ways of choosing agree."""

import csv
import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from pages.explorer.conftest import VIEW, choose, unpack
from PIL import Image

from vitlens import class_lens, direct_logit_attribution, heatmap
from vitlens.similarity import nearest_patches, patch_pca


def state(page) -> dict:
    return page.evaluate(f"{VIEW}.state")


def shown(page, what: str) -> np.ndarray:
    """Numbers that a part of the page was last drawn of."""
    return np.array(page.evaluate(f"Array.from({VIEW}.{what}, Number)"), dtype=float)


def on_stage(page) -> np.ndarray:
    return shown(page, "picture.shown.values")


def told(value: float) -> str:
    """A number as the page writes it: three digits, two of small ones."""
    digits = 2 if abs(value) < 0.01 else 3
    return f"{float(f'{value:.{digits}g}'):+g}".replace("-", "−")


def place(page, row: float, column: float, grid=(14, 14)) -> dict[str, float]:
    box = page.locator("[data-panel=picture] .frame").first.bounding_box()
    return {"x": (column + 0.5) / grid[1] * box["width"], "y": (row + 0.5) / grid[0] * box["height"]}


def click_patch(page, row: int, column: int, grid=(14, 14), modifiers=None) -> None:
    frame = page.locator("[data-panel=picture] .frame").first
    frame.click(position=place(page, row, column, grid), modifiers=modifiers)


def test_the_answer_is_the_heading_and_every_control_has_a_name(page, opened, demo):
    model, paths = demo
    logits = model(model.to_images(paths[0]))[0].detach()
    heading = page.locator("h1").inner_text()
    assert model.class_label(int(logits.argmax())) in heading
    assert f"{100 * logits.softmax(-1).max():.0f}" in heading
    assert page.locator(".thumbnails button").count() == 4
    panels = page.locator("[data-panel]").evaluate_all("all => all.map(one => one.dataset.panel)")
    assert panels == ["picture", "answer", "when", "who", "cause", "head", "patch", "notes"]
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, select, summary, [role], [tabindex=\"0\"]')]"
        ".filter(one => !(one.ariaLabel || one.textContent.trim() || one.labels?.[0]?.textContent.trim()"
        " || ['row', 'status', 'tooltip'].includes(one.role))).map(one => one.outerHTML.slice(0, 200))"
    )
    assert unnamed == []
    assert page.locator("img:not([alt])").count() == 0
    assert "model = vitlens.demo.load_demo_model()" in page.locator("[data-panel=notes] pre").text_content()


def test_a_click_on_a_patch_shows_pythons_numbers(page, demo, explorer):
    model, paths = demo
    row, column, block, head = 8, 4, 3, 2
    token = 1 + 14 * row + column
    click_patch(page, row, column)
    choose(page, block=block, head=head)
    assert (state(page)["tokens"], state(page)["block"], state(page)["head"]) == ([token], block, head)
    image = model.to_images(paths[0])
    classes = explorer.facts["pictures"][0]["classes"]

    _, cache = model.run_with_cache(image, names_filter=["pattern", "resid_post"])
    pattern = cache["pattern", block][0, head]
    largest = pattern.max(dim=-1).values.numpy()
    for layer, weights, scale in (("from", pattern[token], largest[token]), ("to", pattern[:, token], largest)):
        choose(page, layer=layer)
        # One byte a weight, as a root of its row's largest.
        error = np.sqrt(weights.numpy() * scale) / 255 + scale / 255**2
        assert (np.abs(on_stage(page) - weights.numpy()) <= error + 1e-7).all()
    choose(page, layer="similar")
    stream = cache["resid_post", block][0]
    cosines = torch.nn.functional.cosine_similarity(stream, stream[token : token + 1])
    np.testing.assert_allclose(on_stage(page), cosines, atol=2e-5)

    attribution = direct_logit_attribution(model, image, classes[0], unit="head_patch", progress=False)
    shares = attribution.values[0, 0, block, head]
    choose(page, layer="writes")
    np.testing.assert_allclose(on_stage(page), shares, atol=shares.abs().max() / 250)
    np.testing.assert_allclose(shown(page, "panels.board.shown.heads"), attribution.head_map().flatten(), atol=1e-5)
    logit = model(image)[0, classes[0]].item()
    account = page.evaluate("({...document.querySelector('.account').dataset})")
    assert {name: float(value) for name, value in account.items()} == pytest.approx(
        {"sum": logit, "logit": logit, "residual": 0}, abs=1e-4
    )

    lens = class_lens(model, image, classes)
    reading = class_lens(model, image, classes, tokens="pooled")
    choose(page, layer="lens")
    for quantity, first in (("probability", 0), ("logit", 0), ("rank", 1)):
        choose(page, quantity=quantity)
        of_tokens = lens.at(quantity)[:, 0, :, 0].numpy() + first
        np.testing.assert_allclose(on_stage(page), of_tokens[block], rtol=1e-4, atol=1e-5)
        curve = shown(page, "panels.lens.shown.curves[0].values")
        np.testing.assert_allclose(curve, reading.at(quantity)[:, 0, 0, 0] + first, rtol=1e-4, atol=1e-5)
        patch = shown(page, "panels.lens.shown.curves.at(-1).values")
        np.testing.assert_allclose(patch, of_tokens[:, token], rtol=1e-4, atol=1e-5)
    tops = page.locator("[data-card=patch] li[data-class]").evaluate_all(
        "all => all.map(li => Number(li.dataset.class))"
    )
    assert tops == lens.top_classes[0, block, 0, token].tolist()[: len(tops)]
    listed = page.locator("[data-list=from] button").evaluate_all("all => all.map(one => Number(one.dataset.token))")
    assert listed == pattern[token].topk(5).indices.tolist()


def test_colours_of_components_are_pythons(page, demo, explorer):
    model, paths = demo
    found = patch_pca(model, paths, hook="resid_post2", progress=False)
    for picture in (0, 3):
        choose(page, picture=picture, block=2, layer="components")
        packed = on_stage(page)[1:].astype(int)
        colours = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1) / 255
        np.testing.assert_allclose(colours, found.colours()[picture].flatten(0, 1), atol=0.6 / 255)
    painted = page.evaluate(f"[...{VIEW}.picture.stage.map.getContext('2d').getImageData(5, 3, 1, 1).data]")
    np.testing.assert_allclose(np.array(painted[:3]) / 255, colours[14 * 3 + 5], atol=2 / 255)
    share = 100 * found.variance_shares[0]
    assert f"{share:.0f}" in page.locator("[data-panel=picture] .caption").inner_text()
    choose(page, against=1)
    assert page.locator(".stage.difference").is_hidden()
    # Beside another photograph the patch nearest to the selected one is marked.
    row, column = 6, 5
    choose(page, picture=3, beside=1, tokens=[1 + 14 * row + column])
    matches = nearest_patches(model, paths[3], others=paths[1], hook="resid_post2", progress=False)
    nearest = int(matches.nearest[0, 14 * row + column])
    assert page.evaluate(f"{VIEW}.picture.compare.other.shown.selected") == [1 + nearest]
    told = page.locator(".stage-name").nth(1).inner_text()
    assert f"{tuple(divmod(nearest, 14))} is nearest to patch ({row}, {column})" in told
    assert f"{matches.values[0, 14 * row + column]:.3g}" in told
    assert ("mutually" in told) == bool(matches.mutual[0, 14 * row + column])
    # Of two runs, each with components of its own, no colours are compared.
    assert not explorer.beside(explorer).facts["measured_together"]


def test_heatmap_and_removals_are_pythons(page, demo):
    model, paths = demo
    image = model.to_images(paths[0])
    with torch.enable_grad():
        found = heatmap(model, image, progress=False)
    np.testing.assert_allclose(on_stage(page)[1:], found.values[0].flatten(), rtol=1e-4, atol=1e-5)
    choose(page, layer="without", tokens=[60])
    index, logit = state(page)["class"], model(image)[0].detach().double()
    keep = torch.ones(1, 196, dtype=torch.bool)
    keep[0, 59] = False
    without = model.forward_kept(model(image, stop_at_layer=0), keep, (14, 14)).logits[0]
    assert on_stage(page)[60] == pytest.approx((logit[index] - without[index]).item(), abs=1e-4)

    def silence(z, hook):
        z[:, :, 1] = 0
        return z

    silent = model.run_with_hooks(image, fwd_hooks=[("blocks.4.attn.hook_z", silence)])[0]
    choose(page, board="without", block=4, head=1)
    lost = shown(page, "panels.board.shown.heads")[4 * 4 + 1]
    assert lost == pytest.approx((logit[index] - silent[index]).item(), abs=1e-4)
    facts = page.locator("[data-card=part] .facts").inner_text()
    assert f"its removal costs\n{told(lost)} logits" in facts


def test_the_difference_of_two_classes_and_all_heads(page, demo, explorer):
    model, paths = demo
    wanted, baseline = explorer.facts["pictures"][0]["classes"][1::-1]
    choose(page, **{"class": wanted}, baseline=baseline, block=4, head=None, layer="writes")
    image = model.to_images(paths[0])
    difference = direct_logit_attribution(
        model, image, wanted, baseline_classes=baseline, unit="head_patch", progress=False
    )
    np.testing.assert_allclose(shown(page, "panels.board.shown.heads"), difference.head_map().flatten(), atol=1e-5)
    of_block = difference.values[0, 0, 4]
    np.testing.assert_allclose(on_stage(page), of_block.sum(dim=0), atol=float(of_block.abs().max()) / 20)
    lens = class_lens(model, image, [wanted, baseline], tokens="pooled").at("logit")[:, 0, 0]
    curve = shown(page, "panels.lens.shown.curves[0].values")
    np.testing.assert_allclose(curve, lens[:, 0] - lens[:, 1], atol=1e-4)
    assert "−" in page.locator("[data-panel=who] .subtitle").inner_text()
    assert page.locator("[data-panel=when] .segmented button").first.is_disabled()
    choose(page, layer="heatmap")
    assert "alone" in page.locator(".absent").first.inner_text(), "a heatmap of one class is not shown as one of two"


def test_hovering_tells_the_number_and_moves_nothing(page, demo):
    model, paths = demo
    choose(page, layer="from", block=2, head=1)
    boxes = (
        "[...document.querySelectorAll('#explorer *:not(.tip, .tip *)')]"
        ".map(one => one.getBoundingClientRect().toJSON())"
    )
    before, chosen = page.evaluate(boxes), state(page)
    frame = page.locator("[data-panel=picture] .frame").first
    frame.hover(position=place(page, 6, 2))
    _, cache = model.run_with_cache(model.to_images(paths[0]), names_filter="pattern")
    told = page.locator(".tip").inner_text()
    assert told.startswith("patch (6, 2)")
    value = float(told.split("attention from: ")[1].split()[0].strip("< "))
    assert value == pytest.approx(100 * cache["pattern", 2][0, 1, 0, 1 + 6 * 14 + 2].item(), abs=0.1)
    for part in (".board [data-part='0']", "[data-chart=lens] svg", "[data-chart=answers] g", ".term"):
        page.locator(part).first.hover()
        assert page.locator(".tip").is_visible(), part
    page.mouse.move(0, 0)
    page.evaluate("window.scrollTo(0, 0)")
    assert page.evaluate(boxes) == before
    assert state(page) == chosen


def test_selecting_by_drag_shift_and_escape(page):
    frame = page.locator("[data-panel=picture] .frame").first
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    at = [(box["x"] + p["x"], box["y"] + p["y"]) for p in (place(page, 2, 3), place(page, 4, 5))]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1])
    page.mouse.up()
    dragged = [1 + 14 * row + column for row in (2, 3, 4) for column in (3, 4, 5)]
    assert state(page)["tokens"] == dragged
    click_patch(page, 0, 0, modifiers=["Shift"])
    click_patch(page, 3, 4, modifiers=["Shift"])
    assert state(page)["tokens"] == [1, *(token for token in dragged if token != 1 + 14 * 3 + 4)]
    assert "9 patches" in page.locator("[data-choice=tokens]").inner_text()
    # Attention of a set is the mean over its queries.
    choose(page, layer="from", tokens=[5])
    one = on_stage(page)
    choose(page, tokens=[9])
    other = on_stage(page)
    choose(page, tokens=[5, 9])
    np.testing.assert_allclose(on_stage(page), (one + other) / 2, rtol=1e-6)
    page.keyboard.press("Escape")
    assert state(page)["tokens"] == []


def test_the_keyboard_acts_where_the_focus_is(page):
    page.locator("h1").click()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("window.scrollY > 0")
    click_patch(page, 0, 13)
    for key, tokens in (
        ("ArrowDown", [1 + 14 + 13]),
        ("ArrowRight", [1 + 14 + 13]),
        ("ArrowLeft", [1 + 14 + 12]),
        ("Shift+ArrowLeft", [1 + 14 + 11, 1 + 14 + 12]),
    ):
        page.keyboard.press(key)
        assert state(page)["tokens"] == tokens, key
    page.keyboard.press("3")
    page.keyboard.press("[")
    assert (state(page)["layer"], state(page)["block"]) == ("from", 4)
    page.keyboard.down("Space")
    assert page.locator(".frame.lifted").count() > 0
    page.keyboard.up("Space")
    assert page.locator(".frame.lifted").count() == 0
    page.locator(".board [tabindex='0']").focus()
    page.keyboard.press("Enter")
    before = state(page)
    page.keyboard.press("ArrowLeft")
    assert state(page)["block"] == before["block"] - 1
    page.keyboard.press("?")
    assert page.locator("dialog.help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog.help").is_visible()


def test_undo_search_and_the_address(page, browser, opened):
    field = page.locator("input[type=search]")
    for text, expected in (
        ("L2H3", {"block": 2, "head": 3}),
        ("block 4", {"block": 4, "head": None}),
        ("mlp 1", {"block": 1, "head": "mlp"}),
        ("4, 7", {"tokens": [1 + 14 * 4 + 7]}),
        ("bag", {"class": 8}),
    ):
        field.fill(text)
        field.press("Enter")
        page.wait_for_function(f"(wanted) => JSON.stringify({VIEW}.state[wanted[0]]) === wanted[1]",
                               arg=[next(iter(expected)), json.dumps(next(iter(expected.values())))])  # fmt: skip
        assert expected.items() <= state(page).items(), text
    field.fill("sneaker")
    field.press("Shift+Enter")
    page.wait_for_function(f"{VIEW}.state.baseline === 7")
    field.fill("nothing of this name")
    assert "nothing found" in page.locator(".found").inner_text()
    field.press("Escape")
    page.locator("h1").click()
    page.keyboard.press("Control+z")
    page.wait_for_function(f"{VIEW}.state.baseline === null")
    page.go_back()
    page.wait_for_function(f"{VIEW}.state.class !== 8")
    page.locator("[aria-label=redo]").click()
    page.wait_for_function(f"{VIEW}.state.class === 8")

    page.locator(".thumbnails button").nth(2).click()
    page.wait_for_function(f"{VIEW}.measured.picture === {VIEW}.facts.pictures[2]")
    choose(page, tokens=[44, 45], head=3, quantity="rank", layer="lens", scale="map")
    before = state(page)
    context = browser.new_context()
    other = context.new_page()
    other.goto(page.url)
    other.wait_for_selector("#explorer[data-ready]", state="attached")
    assert state(other) == before
    # An address from elsewhere may say anything.
    other.evaluate(
        "location.hash = 'tokens=9999&block=<b>&head=7&picture=x&quantity=constructor&class=999&layer=__proto__'"
    )
    other.wait_for_timeout(100)
    assert state(other) == before
    other.evaluate("location.hash = 'tokens=5&head=all'")
    other.wait_for_function(f"{VIEW}.state.tokens[0] === 5")
    assert state(other)["head"] is None
    context.close()


def test_two_pictures_beside_one_another(page):
    choose(page, layer="from", head=1, beside=1)
    one, two = on_stage(page), shown(page, "picture.compare.other.shown.values")
    assert not np.allclose(one, two)
    assert not page.locator(".difference").is_visible(), "positions of two photographs have nothing to do with another"
    assert "the same for both pictures" in page.locator(".legend").inner_text()
    name = page.evaluate(f"{VIEW}.facts.pictures[1].name")
    renamed = f"(name) => {{ {VIEW}.facts.pictures[1].name = name ?? {VIEW}.facts.pictures[0].name + ' (second)'; }}"
    page.evaluate(renamed)
    choose(page, block=4)
    one, two = on_stage(page), shown(page, "picture.compare.other.shown.values")
    np.testing.assert_allclose(shown(page, "picture.compare.difference.shown.values"), one - two, atol=1e-9)
    assert page.locator(".difference .ramp").is_visible()
    page.evaluate(renamed, name)
    rows = page.locator("table.two tbody th").all_inner_texts()
    assert [row for row in rows if row.endswith("?")] == [
        "What does it answer?", "When is it decided?", "Who writes it?", "What if it is removed?",
    ]  # fmt: skip
    choose(page, beside=None)
    assert not page.locator("table.two").is_visible()


def test_two_blocks_of_one_picture_beside_one_another(page, browser):
    choose(page, layer="from", head=1, block=5, against=2)
    one, two = on_stage(page), shown(page, "picture.compare.other.shown.values")
    np.testing.assert_allclose(shown(page, "picture.compare.difference.shown.values"), one - two, atol=1e-9)
    assert page.locator(".stage-name").all_inner_texts() == ["block 5", "block 2", "block 5 − block 2"]
    assert not page.locator("table.two").is_visible()
    assert "against=2" in page.url
    choose(page, against=None)
    choose(page, block=2)
    np.testing.assert_allclose(on_stage(page), two)
    page.locator("[name=beside]").select_option("against 4")
    assert state(page)["against"] == 4
    choose(page, beside=1)
    assert (state(page)["against"], state(page)["beside"]) == (None, 1)


def test_another_picture_shows_its_own_strongest_head_until_one_is_chosen(open_page, page_file, explorer):
    page = open_page(page_file).page
    for picture, chosen in ((1, None), (2, 3)):
        if chosen is not None:
            choose(page, block=1, head=chosen)
        page.locator(".thumbnails button").nth(picture).click()
        page.wait_for_function(f"{VIEW}.measured.picture === {VIEW}.facts.pictures[{picture}]")
        heads = unpack(explorer.pictures[picture])["heads"][0]
        strongest = np.unravel_index(heads.argmax(), heads.shape)
        assert (state(page)["block"], state(page)["head"]) == (tuple(strongest) if chosen is None else (1, chosen))


def test_panels_can_be_taken_away_with_their_caption(page, opened, tmp_path, demo):
    choose(page, layer="from", tokens=[40], head=2)
    for panel in ("picture", "who", "when"):
        page.locator(f"[data-panel={panel}] summary").first.click()
        files = {}
        for label, kind in (("save PNG", "png"), ("save SVG", "svg"), ("save numbers (CSV)", "csv")):
            with page.expect_download() as download:
                page.locator(f"[data-panel={panel}]").get_by_text(label).click()
            download.value.save_as(files.setdefault(kind, tmp_path / f"{panel}.{kind}"))
        page.keyboard.press("Escape")
        drawing = files["svg"].read_text()
        written = " ".join(part.text or "" for part in ElementTree.fromstring(drawing).iter())
        width = float(drawing.split('width="')[1].split('"')[0])
        picture = np.asarray(Image.open(files["png"]).convert("L"))
        assert picture.shape[1] == int(2 * width)
        assert len(np.unique(picture)) > 10
        assert picture[-30:].min() < 128, "the caption is written below"
        for text in (demo[0].cfg.model_name, "Made with vitlens", page.evaluate(f"{VIEW}.measured.picture.name")):
            assert text in written, (panel, text)
        rows = list(csv.reader(io.StringIO(files["csv"].read_text().split("\n", 1)[1])))
        assert len(rows) > 5
    assert "http" not in drawing.replace("http://www.w3.org", "")


def test_light_and_dark(page):
    seen = {}
    for _ in range(2):
        theme = page.locator("#explorer").get_attribute("data-theme")
        seen[theme] = page.evaluate("getComputedStyle(document.querySelector('.panel')).backgroundColor")
        page.locator(".theme").click()
    assert set(seen) == {"light", "dark"}
    assert seen["light"] != seen["dark"]
