"""What the one page says in words: its sentences choose what they name, and legends say what is drawn."""

from pages.explorer.conftest import VIEW, choose
from pages.explorer.test_page import state, told


def test_a_sentence_leads_to_its_panel(page):
    links = page.locator(".sentences [role=link]")
    assert links.count() >= 3
    for link in links.all()[:4]:
        target, _, layer = link.get_attribute("data-to").partition(":")
        link.focus()
        page.keyboard.press("Enter")
        page.wait_for_function(f"document.activeElement.dataset.panel === '{target}'")
        assert page.locator(f"[data-panel={target}]").evaluate("panel => panel.classList.contains('flash')")
        assert not layer or state(page)["layer"] == layer


def test_a_sentence_chooses_what_it_names(page):
    parts = [
        ["L3H1", "who", {"block": 3, "head": 1}],
        [" reads ", None],
        ["two patches", "picture:heatmap", {"tokens": [5, 6], "layer": "from"}],
        [" beside ", None],
        ["an MLP", None, {"block": 2, "head": "mlp"}],
    ]
    page.evaluate(f"(parts) => {{ const view = {VIEW}; view.head.sentences.draw([{{kind: 'who', parts}}]); }}", parts)
    links = page.locator(".sentences [role=link]")
    links.nth(0).click()
    page.wait_for_function("document.activeElement.dataset.panel === 'who'")
    assert (state(page)["block"], state(page)["head"]) == (3, 1)
    links.nth(1).click()
    page.wait_for_function("document.activeElement.dataset.panel === 'picture'")
    assert (state(page)["tokens"], state(page)["layer"], state(page)["head"]) == ([5, 6], "from", 1)
    links.nth(2).click()
    assert (state(page)["block"], state(page)["head"], state(page)["tokens"]) == (2, "mlp", [5, 6])
    page.evaluate(f"{VIEW}.done.sentences = null")


def test_of_a_class_without_sentences_the_largest_parts_are_told(page):
    """The embedding and the MLPs are among them, and the number is that of the difference."""
    classes = page.evaluate(f"{VIEW}.facts.pictures[0].classes")
    choose(page, **{"class": classes[1]}, baseline=classes[2])
    choice = {"class": classes[1], "baseline": classes[2]}
    written = page.evaluate(
        f"(choice) => {{ const {{ measured }} = {VIEW};"
        "return [...measured.heads(choice), ...measured.mlps(choice), measured.account(choice).groups[1]]; }",
        choice,
    )
    sentence = page.locator(".sentences [data-kind=who]").inner_text()
    assert sentence.startswith("Of the difference “")
    most = sorted(written, key=abs)[-1]
    assert sentence.split("parts are ")[1].split("(")[1].split(")")[0] == told(most)
    logit = page.evaluate(f"(choice) => {VIEW}.measured.answerLogit(choice)", choice)
    assert f", {told(logit)} logits" in sentence


def test_what_is_drawn_unevenly_or_marked_says_so(page):
    choose(page, layer="from", tokens=[20, 21])
    legend = page.locator(".legend").inner_text()
    assert "cube-root scale" in legend
    assert "selected" in legend
    # What looks at several tokens is no share that adds up, and they are not listed as their own readers.
    choose(page, layer="to")
    assert "together" not in page.locator(".selected").inner_text()
    listed = page.locator("[data-list=to] button").evaluate_all("all => all.map(one => Number(one.dataset.token))")
    assert not {20, 21} & set(listed)
    choose(page, layer="without")
    assert "single removals added" in page.locator(".selected").inner_text()
    assert "not a run without all of them" in page.locator("[data-card=patch] .facts").inner_text()
    assert "one scale for all classes of this photo" in page.locator(".legend").inner_text()
    assert "square-root scale" in page.locator(".legend").inner_text()
    choose(page, board="without")
    assert not page.locator(".account").is_visible()
    assert "single removal" in page.locator("[data-panel=who] h2").inner_text()
    assert "chosen: block 5" in page.locator("[data-chart=lens]").inner_text()
    removal = page.locator("[data-chart=removal]").inner_text()
    assert "each draw" in removal
    assert "mean of" in removal
    choose(page, layer="heatmap", tokens=[0])
    assert page.locator(".maps [aria-pressed=true]").count() == 1
    assert page.locator("[data-chart=lens] .curve.dashed").count() == 0, "the class token is what the model reads"
    page.evaluate(f"{VIEW}.select([30], true)")
    assert state(page)["tokens"] == [30], "patches that are added to a prefix token begin a new set"


def test_every_quantity_has_one_scale(page):
    """The ends of a legend do not change with block, head, class or patch; only where the reader asks for it."""
    classes = page.evaluate(f"{VIEW}.facts.pictures[0].classes")
    for layer in ("without", "from", "to", "writes", "lens", "similar"):
        ends = set()
        for block, head, index, token in ((0, 0, classes[0], 3), (3, None, classes[1], 90), (5, 2, classes[2], 0)):
            choose(page, layer=layer, block=block, head=head, tokens=[token], **{"class": index})
            ends.add(page.locator(".ramp").get_attribute("data-end"))
        assert len(ends) == 1, layer
        choose(page, scale="map")
        assert "Stretched" in page.locator(".legend").inner_text()
        choose(page, scale="fixed")
        assert "Stretched" not in page.locator(".legend").inner_text()
