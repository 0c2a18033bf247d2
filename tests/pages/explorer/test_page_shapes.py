"""The one page at every width, of every kind of model, with hostile names and many pictures."""

import json

import numpy as np
import pytest
import timm
import torch
from pages.explorer.conftest import VIEW, choose, unpack
from pages.explorer.test_page import click_patch, on_stage, shown, state
from torch import nn

from vitlens import HookedViT, explore
from vitlens.demo import load_demo_model

#: Pairs of texts of one panel that lie on one another, and texts that are cut at the window's edge.
OVERLAPS = """() => {
  const found = [];
  const leaves = (root) => [...root.querySelectorAll("*")].filter((one) =>
    [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()) &&
    one.checkVisibility({checkVisibilityCSS: true}) && !one.closest("select, title, .unseen, .tip, .entries, pre"));
  for (const panel of document.querySelectorAll("[data-panel], .top, .chosen, .sentences")) {
    const texts = leaves(panel).flatMap((one) => [...one.childNodes]
      .filter((node) => node.nodeType === 3 && node.textContent.trim()).flatMap((node) => {
        const range = document.createRange();
        range.selectNodeContents(node);
        return [...range.getClientRects()].map((box) => ({box, one, text: node.textContent.trim()}));
      })).filter(({box}) => box.width > 1);
    for (const {box, text, one} of texts)
      if (!one.closest(".thumbnails") && (box.left < -1 || box.right > innerWidth + 1)) found.push(["outside", text]);
    texts.forEach((a, i) => texts.slice(i + 1).forEach((b) => {
      if (a.one === b.one || a.one.contains(b.one) || b.one.contains(a.one) || a.one.closest(".thumbnails")) return;
      const across = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
      const down = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
      if (across > 2 && down > 4) found.push([a.text, b.text]);
    }));
  }
  return found;
}"""


@pytest.mark.parametrize("width", [390, 720, 1440, 1920])
def test_nothing_sticks_out_or_overlaps_at_any_width(open_page, page_file, width):
    opened = open_page(page_file, width, 900)
    page = opened.page
    click_patch(page, 5, 5)
    for changes in ({}, {"layer": "lens", "head": 1}, {"layer": "without", "board": "without"}):
        choose(page, **changes)
        assert page.evaluate(OVERLAPS) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 390:
        small = page.evaluate(
            "[...document.querySelectorAll('.tools button, .layers button, .controls button, .strip button, select')]"
            ".filter(one => one.getBoundingClientRect().height < 40).map(one => one.outerHTML.slice(0, 80))"
        )
        assert small == []
        page.evaluate("window.scrollTo(0, 2500)")
        frame = page.locator("[data-panel=picture] .frame").first.bounding_box()
        assert 0 <= frame["y"] <= 60, "the picture stays on top"
        assert page.locator("h1").bounding_box()["y"] == 0, "the answer stays above it"
        assert frame["y"] + frame["height"] <= 0.5 * 900
    assert opened.complaints == []


def test_text_from_outside_stays_text(open_page, tmp_path, demo):
    model = load_demo_model()
    evil = "<img src=x onerror=console.error('run')><b>bold</b></script>"
    model.class_names = [evil, *model.class_names[1:8], "<b>bag</b>", *model.class_names[9:]]
    picture = tmp_path / "<script>console.error('name')<∕script>%{x}.png"
    picture.write_bytes(demo[1][0].read_bytes())
    out = tmp_path / "page.html"
    explore(model, picture, [0], n_classes=10, progress=False).save(out)
    opened = open_page(out, 1440, 900)
    page = opened.page
    click_patch(page, 7, 7)
    for index, baseline in ((0, None), (8, 0), (8, None)):
        choose(page, **{"class": index}, baseline=baseline, head=0)
        for layer in ("heatmap", "from", "lens"):
            choose(page, layer=layer)
    assert "<b>bag</b>" in page.locator("[data-chart=lens]").text_content()
    assert "<b>bag</b>" in page.locator("[data-chart=answers]").text_content()
    assert "<b>bag</b>" in page.locator("[data-choice=class]").inner_text()
    assert picture.name in page.locator(".about").inner_text()
    page.locator("input[type=search]").fill("b")
    assert "<b>bag</b>" in page.locator(".found").inner_text()
    page.locator("[data-chart=lens] svg").hover()
    assert "<b>bag</b>" in page.locator(".tip").inner_text()
    assert page.evaluate("document.querySelectorAll('#explorer :is(b, script, img[src=x])').length") == 0
    assert opened.complaints == []
    assert opened.requests == []


def test_twenty_pictures(open_page, tmp_path, demo):
    model, _ = demo
    explorer = explore(model, demo[1][:2], blocks=[0, 5], n_runs=1, progress=False)
    # Measuring twenty takes long, and the page does not know where its numbers are from.
    explorer.pictures, explorer.facts["pictures"] = 10 * explorer.pictures, 10 * explorer.facts["pictures"]
    limits = explorer.selection.limits
    limits.n_pictures, limits.classes = 20, 10 * limits.classes
    explorer.selected_picture, explorer.selected_token = 19, 77
    explorer.save(tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    page = opened.page
    assert (state(page)["picture"], state(page)["tokens"]) == (19, [77])
    assert page.locator(".thumbnails button").count() == 20
    page.locator(".thumbnails button").nth(7).click()
    page.wait_for_function(f"{VIEW}.measured.picture === {VIEW}.facts.pictures[7]")
    page.locator(".thumbnails button").nth(18).click()
    page.wait_for_function(f"{VIEW}.measured.picture === {VIEW}.facts.pictures[18]")
    held = unpack(explorer.pictures[18])
    np.testing.assert_allclose(shown(page, "panels.board.shown.heads"), held["heads"][0].flatten(), atol=1e-6)
    assert "estimated" in page.locator("[data-panel=cause] .subtitle").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1366
    assert opened.complaints == []


@pytest.mark.parametrize(
    "name",
    [
        "registers",
        "distilled",
        "average_without_class_token",
        "wide_picture",
        "differential",
        "attention_pool",
        "no_classifier",
    ],
)
def test_other_architectures(open_page, tmp_path, variant, name):
    model, images = variant(name, 2)
    explorer = explore(model, images, progress=False)
    explorer.save(tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    page = opened.page
    chips = page.locator("[data-panel=picture] .stage:not([hidden]) .chip")
    assert chips.count() == model.cfg.n_prefix_tokens
    grid = tuple(explorer.facts["grid"])
    click_patch(page, grid[0] - 1, grid[1] - 1, grid)
    last = model.cfg.n_prefix_tokens + grid[0] * grid[1] - 1
    assert state(page)["tokens"] == [last]
    _, cache = model.run_with_cache(images[:1], names_filter="pattern")
    choose(page, layer="from", block=1, head=0)
    row = cache["pattern", 1][0, 0, last]
    steps = 127 if name == "differential" else 255
    np.testing.assert_allclose(on_stage(page), row, atol=row.abs().max().item() / steps)
    for layer in page.locator(".layers button").all():
        layer.click()
    if chips.count():
        chips.last.click()
        assert state(page)["tokens"] == [model.cfg.n_prefix_tokens - 1]
    choose(page, tokens=[], beside=1)
    assert opened.complaints == []
    if name == "no_classifier":
        assert not page.locator("[data-panel=when]").is_visible()


@pytest.mark.parametrize(("n", "output"), [(1, "identity"), (3, "sigmoid")])
def test_outputs_have_the_probabilities_that_mean_something(open_page, tmp_path, n, output):
    module = timm.create_model("vit_tiny_patch16_224", num_classes=n, depth=2, img_size=48).eval()
    nn.init.normal_(module.head.weight, std=0.1)
    model, image = HookedViT.from_timm(module, output=output), torch.randn(1, 3, 48, 48)
    explore(model, image, progress=False).save(tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    page = opened.page
    shown = page.locator("[data-panel=answer]")
    heading = page.locator("h1").inner_text()
    if output == "identity":
        assert "%" not in heading
        assert not shown.is_visible()
        assert page.locator("[data-panel=when] button", has_text="probability").count() == 0
        assert page.locator("[data-panel=when]").is_visible()
    else:
        chances = model(image)[0].sigmoid().tolist()
        assert f"{round(100 * max(chances))}" in heading
        text = shown.inner_text()
        for chance in chances:
            assert f"{100 * chance:.1f}".removesuffix(".0") in text
    for layer in page.locator(".layers button").all():
        layer.click()
    assert opened.complaints == []


def test_without_scripts_the_answer_is_there(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert "%" in page.locator("h1").inner_text()
    assert page.locator("#explorer img").first.evaluate("one => one.naturalWidth > 0")
    context.close()


def test_facts_of_the_page_are_json(explorer):
    facts = json.loads(json.dumps(explorer.facts))
    assert facts["class_names"].keys() >= {str(i) for picture in facts["pictures"] for i in picture["classes"]}
