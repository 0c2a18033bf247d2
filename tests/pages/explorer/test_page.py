"""The explorer's page in a real browser: what a click shows are Python's numbers, and all ways of choosing agree."""

import json

import numpy as np
import pytest
import torch
from pages.explorer.conftest import unpack

from vitlens import class_lens, direct_logit_attribution, explore
from vitlens.demo import load_demo_model

VIEW = "document.getElementById('explorer').view"


def started(opened):
    """The page, once everything is drawn."""
    opened.page.wait_for_function("document.querySelectorAll('[data-chart] .main-svg').length >= 3")
    return opened.page


def click_patch(page, row: int, column: int, grid=(14, 14), modifiers=None) -> None:
    box = page.locator("[data-map=picture] .frame").bounding_box()
    x, y = (column + 0.5) / grid[1] * box["width"], (row + 0.5) / grid[0] * box["height"]
    page.locator("[data-map=picture] .frame").click(position={"x": x, "y": y}, modifiers=modifiers)


def state(page) -> dict:
    return page.evaluate(f"{VIEW}.state")


def listed(page, name: str) -> dict[int, float]:
    """The strongest tokens that a map lists, and their full values."""
    return page.evaluate(
        "name => Object.fromEntries([...document.querySelectorAll(`[data-map=${name}] .strongest button`)]"
        ".map(button => [button.dataset.token, Number(button.dataset.value)]))",
        name,
    )


def chart(page, name: str, what: str, trace: int = 0) -> np.ndarray:
    values = page.evaluate(
        "([name, trace, what]) => document.querySelector(`[data-chart=${name}] .plotly-graph-div`).data[trace][what]",
        [name, trace, what],
    )
    return np.array(values, dtype=float)


def account(page) -> dict[str, float]:
    return page.evaluate(
        "(({sum, logit, residual}) => ({sum: Number(sum), logit: Number(logit), residual: Number(residual)}))"
        "(document.querySelector('.account').dataset)"
    )


def test_it_opens_without_network_or_complaint(open_page, page_file, explorer):
    opened = open_page(page_file)
    page = started(opened)
    assert opened.complaints == []
    assert opened.requests == []
    assert page.locator(".thumbnails button").count() == 4
    shown = state(page)
    assert (shown["token"], shown["block"], shown["head"]) == (0, explorer.selected_block, explorer.selected_head)
    # Every map and board says what its colours are normalised by.
    notes = page.locator(".maps .legend small").all_inner_texts() + page.locator(".boards small").all_inner_texts()
    assert len(notes) == 7
    assert all("largest" in note for note in notes)


@pytest.mark.parametrize("width", [390, 1366, 3840])
def test_nothing_sticks_out_at_any_width(open_page, page_file, width):
    page = started(open_page(page_file, width, 2160))
    click_patch(page, 5, 5)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.evaluate(
        "[...document.querySelectorAll('.panel, .plotly-graph-div')].filter(each => each.offsetParent)"
        ".map(each => [each.getBoundingClientRect().left, each.getBoundingClientRect().right])"
    )
    assert len(boxes) >= 12
    assert all(0 <= left < right <= width for left, right in boxes)


def test_a_click_on_a_patch_shows_pythons_numbers(open_page, page_file, demo, explorer):
    model, paths = demo
    opened = open_page(page_file)
    page = started(opened)
    row, column, block, head = 8, 4, 3, 2
    token = 1 + 14 * row + column
    click_patch(page, row, column)
    page.select_option("select[name=head]", str(head))
    page.locator("input[name=block]").fill(str(block))
    assert (state(page)["token"], state(page)["block"], state(page)["head"]) == (token, block, head)
    image = model.to_images(paths[0])
    classes = explorer.facts["pictures"][0]["classes"]

    _, cache = model.run_with_cache(image, names_filter=["pattern", "resid_post"])
    pattern = cache["pattern", block][0, head]
    for name, weights in (("row", pattern[token]), ("column", pattern[:, token])):
        shown = listed(page, name)
        assert set(shown) == {str(i) for i in weights.topk(5).indices.tolist()}
        for other, value in shown.items():
            assert value == pytest.approx(weights[int(other)].item(), rel=0.02, abs=1e-6)
    stream = cache["resid_post", block][0]
    cosines = torch.nn.functional.cosine_similarity(stream, stream[token : token + 1])
    for other, value in listed(page, "cosines").items():
        assert value == pytest.approx(cosines[int(other)].item(), abs=2e-5)
        assert int(other) != token

    attribution = direct_logit_attribution(model, image, classes[0], unit="head_patch", progress=False)
    np.testing.assert_allclose(chart(page, "token", "z").T, attribution.values[0, 0, :, :, token], atol=1e-5)
    np.testing.assert_allclose(chart(page, "heads", "z").T, attribution.head_map(), atol=1e-5)
    for other, value in listed(page, "contributions").items():
        assert value == pytest.approx(attribution.values[0, 0, block, head, int(other)].item(), abs=1e-5)
    logit = model(image)[0, classes[0]].item()
    assert account(page) == pytest.approx({"sum": logit, "logit": logit, "residual": 0}, abs=1e-4)

    lens = class_lens(model, image, classes)
    for quantity in ("probability", "logit", "rank"):
        page.select_option("select[name='lens shows']", quantity)
        curves = np.stack([chart(page, "trajectory", "customdata", i) for i in range(len(classes))], axis=1)
        np.testing.assert_allclose(curves, lens.at(quantity)[:, 0, token], rtol=1e-4, atol=1e-5)
    reading = class_lens(model, image, classes[0], tokens="pooled")
    np.testing.assert_allclose(chart(page, "trajectory", "customdata", len(classes)), reading.ranks[0, :, 0, 0, 0])
    tops = page.evaluate(
        "[...document.querySelectorAll('.top tr')]"
        ".map(row => [...row.querySelectorAll('td')].map(td => Number(td.dataset.class)))"
    )
    assert tops == lens.top_classes[0, :, 0, token].tolist()
    assert opened.complaints == []


def test_the_difference_of_two_classes_and_all_heads(open_page, page_file, demo, explorer):
    model, paths = demo
    page = started(open_page(page_file))
    wanted, baseline = explorer.facts["pictures"][0]["classes"][1::-1]
    block = 4
    page.select_option("select[name=class]", str(wanted))
    page.select_option("select[name='minus class']", str(baseline))
    page.select_option("select[name=head]", "")
    page.locator("input[name=block]").fill(str(block))
    image = model.to_images(paths[0])
    difference = direct_logit_attribution(
        model, image, wanted, baseline_classes=baseline, unit="head_patch", progress=False
    )
    np.testing.assert_allclose(chart(page, "heads", "z").T, difference.head_map(), atol=1e-5)
    of_block = difference.values[0, 0, block].sum(dim=0)
    for token, value in listed(page, "contributions").items():
        assert value == pytest.approx(of_block[int(token)].item(), abs=1e-5)
    logits = model(image)[0]
    expected = (logits[wanted] - logits[baseline]).item()
    assert account(page) == pytest.approx({"sum": expected, "logit": expected, "residual": 0}, abs=1e-4)
    lens = class_lens(model, image, [wanted, baseline], tokens="class").at("logit")[:, 0, 0]
    np.testing.assert_allclose(chart(page, "trajectory", "y"), lens[:, 0] - lens[:, 1], atol=1e-4)
    _, cache = model.run_with_cache(image, names_filter="pattern")
    mean = cache["pattern", block][0].mean(dim=0)[0]
    for token, value in listed(page, "row").items():
        assert value == pytest.approx(mean[int(token)].item(), rel=0.02, abs=1e-6)


def test_hovering_says_the_number_and_previews(open_page, page_file, demo):
    model, paths = demo
    page = started(open_page(page_file))
    page.locator("input[name=block]").fill("2")
    page.select_option("select[name=head]", "1")
    page.locator("[data-map=row] .frame").hover(position={"x": 2, "y": 2})
    text = page.locator("[data-map=row] output.hovered").inner_text()
    _, cache = model.run_with_cache(model.to_images(paths[0]), names_filter="pattern")
    pattern = cache["pattern", 2][0, 1]
    assert text.startswith("(0, 0): ")
    value, error = (float(part) for part in text.split(": ")[1].split(" ± "))
    assert abs(value - pattern[0, 1].item()) <= error + 1e-4 * value + 5e-5
    page.locator("[data-map=picture] .frame").hover(position={"x": 2, "y": 2})
    assert "patch (0, 0)" in page.locator("[data-map=row] h3").inner_text()
    assert set(listed(page, "row")) == {str(i) for i in pattern[1].topk(5).indices.tolist()}
    assert state(page)["token"] == 0, "a preview chooses nothing"
    page.mouse.move(0, 0)
    assert "the class token" in page.locator("[data-map=row] h3").inner_text()


def test_the_keyboard_moves_through_blocks_heads_and_patches(open_page, page_file):
    page = started(open_page(page_file))
    click_patch(page, 0, 13)
    page.evaluate(f"{VIEW}.choose({{block: 1, head: null}})")
    for key, expected in (
        ("ArrowRight", {"block": 2, "head": None}),
        ("ArrowDown", {"block": 2, "head": 0}),
        ("ArrowDown", {"block": 2, "head": 1}),
        ("ArrowUp", {"block": 2, "head": 0}),
        ("ArrowUp", {"block": 2, "head": None}),
        ("ArrowUp", {"block": 2, "head": None}),
        ("ArrowLeft", {"block": 1, "head": None}),
        ("Shift+ArrowDown", {"token": 1 + 14 + 13}),
        ("Shift+ArrowRight", {"token": 1 + 14 + 13}),
        ("Shift+ArrowLeft", {"token": 1 + 14 + 12}),
    ):
        page.keyboard.press(key)
        assert expected.items() <= state(page).items(), key
    page.locator("select[name=head]").focus()
    page.keyboard.press("ArrowRight")
    assert state(page)["block"] == 1, "a control that has the focus keeps its own keys"


def test_a_cell_of_the_board_chooses_block_and_head(open_page, page_file):
    page = started(open_page(page_file))
    box = page.locator("[data-chart=heads] .nsewdrag").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 2.5 / 6, box["y"] + box["height"] * 1.5 / 4)
    assert (state(page)["block"], state(page)["head"]) == (2, 1)


def test_the_address_restores_the_state(open_page, page_file, browser):
    page = started(open_page(page_file))
    page.locator(".thumbnails button").nth(2).click()
    page.wait_for_function(f"{VIEW}.state.picture === 2")
    click_patch(page, 3, 3)
    page.select_option("select[name=head]", "3")
    page.select_option("select[name='lens shows']", "rank")
    page.select_option("select[name='minus class']", index=2)
    before, address = state(page), page.url
    assert before["baseline"] is not None
    context = browser.new_context()
    other = context.new_page()
    other.goto(address)
    other.wait_for_function("document.querySelectorAll('[data-chart] .main-svg').length >= 3")
    assert state(other) == before
    # An address from elsewhere may say anything.
    other.evaluate("location.hash = 'token=9999&block=<b>&head=7&picture=x&quantity=constructor&class=999&baseline='")
    other.wait_for_timeout(100)
    assert state(other) == before
    other.evaluate("location.hash = 'token=5&head=all'")
    other.wait_for_function(f"{VIEW}.state.token === 5")
    assert state(other)["head"] is None
    context.close()


def test_light_and_dark(open_page, page_file):
    page = started(open_page(page_file))
    seen = {}
    for _ in range(2):
        theme = page.locator("#explorer").get_attribute("data-theme")
        seen[theme] = page.evaluate(
            "[getComputedStyle(document.querySelector('.panel')).backgroundColor,"
            " document.querySelector('[data-chart=heads] .plotly-graph-div')._fullLayout.paper_bgcolor]"
        )
        page.locator(".theme").click()
    assert set(seen) == {"light", "dark"}
    assert seen["light"][0] != seen["dark"][0]
    assert seen["light"][1] != seen["dark"][1]


def test_text_from_outside_stays_text(open_page, tmp_path, demo):
    model = load_demo_model()
    evil = "<img src=x onerror=console.error('run')><b>bold</b></script>"
    model.class_names = [evil, *model.class_names[1:]]
    picture = tmp_path / "<script>console.error('name')<∕script>%{x}.png"
    picture.write_bytes(demo[1][0].read_bytes())
    out = tmp_path / "page.html"
    explore(model, picture, 0, progress=False).save(out)
    opened = open_page(out)
    page = started(opened)
    click_patch(page, 7, 7)
    page.select_option("select[name='minus class']", index=2)
    assert opened.complaints == []
    assert opened.requests == []
    assert "<img src=x" in page.locator(".account").inner_text()
    assert page.locator(".picture h3").inner_text() == picture.name
    assert page.evaluate("document.querySelectorAll('#explorer b, #explorer script, #explorer img[src=x]').length") == 0
    page.select_option("select[name='minus class']", "")
    assert "<img src=x" in page.locator("[data-chart=trajectory] .legend").text_content()


def test_twenty_pictures(open_page, tmp_path, demo):
    model, _ = demo
    images = model.to_images([demo[1][0]]).repeat(20, 1, 1, 1)
    images[:, :, 0, 0] += torch.linspace(0, 0.5, 20)[:, None]
    explorer = explore(model, images, blocks=[0, 5], progress=False)
    explorer.selected_picture, explorer.selected_token = 19, 77
    explorer.save(tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    page = started(opened)
    assert (state(page)["picture"], state(page)["token"]) == (19, 77)
    assert page.locator(".thumbnails button").count() == 20
    page.locator(".thumbnails button").nth(7).click()
    held = unpack(explorer.pictures[7])
    # Charts are drawn a moment after the picture is chosen.
    page.wait_for_function(
        "first => Math.abs(document.querySelector('[data-chart=heads] .plotly-graph-div').data[0].z[0][0] - first) < 1e-6",
        arg=float(held["heads"][0].T[0, 0]),
    )
    assert state(page)["picture"] == 7
    np.testing.assert_allclose(chart(page, "heads", "z"), held["heads"][0].T, atol=1e-6)
    assert page.evaluate("document.documentElement.scrollWidth") <= 1366
    assert opened.complaints == []


@pytest.mark.parametrize(
    "name",
    ["registers", "distilled", "average_without_class_token", "wide_picture", "differential", "attention_pool"],
)
def test_other_architectures(open_page, tmp_path, variant, name):
    model, images = variant(name, 2)
    explorer = explore(model, images, progress=False)
    explorer.save(tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    page = started(opened)
    assert opened.complaints == []
    chips = page.locator("[data-map=picture] .chip")
    assert chips.count() == model.cfg.n_prefix_tokens
    grid = tuple(explorer.facts["grid"])
    click_patch(page, grid[0] - 1, grid[1] - 1, grid)
    last = model.cfg.n_prefix_tokens + grid[0] * grid[1] - 1
    assert state(page)["token"] == last
    held = unpack(explorer.pictures[0])
    np.testing.assert_allclose(chart(page, "token", "z").T, held["shares"][0, :, :, last], atol=1e-6)
    _, cache = model.run_with_cache(images[:1], names_filter="pattern")
    row = cache["pattern", explorer.selected_block][0, explorer.selected_head, last]
    steps = 127 if name == "differential" else 255
    for token, value in listed(page, "row").items():
        assert value == pytest.approx(row[int(token)].item(), abs=row.abs().max().item() / steps)
    if chips.count():
        chips.last.click()
        assert state(page)["token"] == model.cfg.n_prefix_tokens - 1
    assert opened.complaints == []


def test_facts_of_the_page_are_json(explorer):
    facts = json.loads(json.dumps(explorer.facts))
    assert facts["class_names"].keys() >= {str(i) for picture in facts["pictures"] for i in picture["classes"]}
