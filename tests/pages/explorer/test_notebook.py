"""The explorer in a notebook: choices shared with Python, interventions, the page without a widget; results as HTML."""

import base64
import html
import json
from copy import deepcopy

import pytest
import torch
from IPython.core.formatters import DisplayFormatter

from vitlens import InputError, Result, activation_ablation, activation_patching, explore
from vitlens.pages.explorer.explorer import Explorer
from vitlens.pages.explorer.page import script, style


@pytest.fixture(scope="module")
def measured(demo):
    model, paths = demo
    return explore(model, model.to_images(paths[:2]), blocks=[0, 4, 5], n_classes=6, n_runs=4, progress=False)


@pytest.fixture
def explorer(measured):
    """One in which nothing is chosen yet, of what was measured once for all tests."""
    return Explorer(measured.model, measured.images, measured.pictures, measured.facts, deepcopy(measured.selection))


def test_python_and_the_widget_choose_for_each_other(explorer):
    widget = explorer.widget
    assert widget.selection["token"] == explorer.selected_token == 0
    explorer.selected_picture, explorer.selected_token, explorer.selected_block, explorer.selected_head = 1, 40, 4, None
    assert {"picture": 1, "token": 40, "block": 4, "head": None}.items() <= widget.selection.items()
    # What a click sends.
    widget.selection = {**widget.selection, "token": 7, "block": 5, "head": 2, "marked": [7, 8]}
    assert (explorer.selected_token, explorer.selected_block, explorer.selected_head) == (7, 5, 2)
    assert explorer.marked_tokens == [7, 8]
    classes = explorer.facts["pictures"][1]["classes"]
    assert explorer.selected_class == classes[0]
    explorer.selected_class, explorer.selected_baseline = classes[2], explorer.model.class_label(classes[1])
    assert (widget.selection["wanted_class"], widget.selection["baseline_class"]) == (classes[2], classes[1])
    assert widget.pictures == explorer.pictures


def test_impossible_choices_are_refused_and_change_nothing(explorer):
    for name, value in (("picture", 2), ("token", 197), ("block", 1), ("head", 4), ("token", -1)):
        before = getattr(explorer, f"selected_{name}")
        with pytest.raises(InputError, match=f"shows no {name}"):
            setattr(explorer, f"selected_{name}", value)
        assert getattr(explorer, f"selected_{name}") == before
    with pytest.raises(InputError, match="shows no token"):
        explorer.marked_tokens = [3, 500]
    with pytest.raises(InputError, match="classes 0 to 9"):
        explorer.selected_class = 10


def test_patch_ablates_what_is_marked(explorer):
    model = explorer.model
    explorer.selected_picture, explorer.marked_tokens = 1, [90, 91, 104]
    result = explorer.patch(blocks=[0, 3])
    image, classes = explorer.images[1:2], explorer.facts["pictures"][1]["classes"]
    expected = activation_ablation(
        model, image, sites="resid_pre", tokens=[[90, 91, 104]], blocks=[0, 3], classes=classes[0], progress=False
    )
    torch.testing.assert_close(result.patched.flatten(), expected.patched.flatten())
    assert explorer.effect["cells"] == ["block 0", "block 3"]
    assert explorer.effect["shift"] == pytest.approx(expected.shift().flatten().tolist())
    assert "3 tokens" in explorer.effect["title"]
    # The decision before, and after the change that moves the logit most.
    index, before = explorer.effect["before"][0]
    assert (index, before) == (int(model(image).argmax()), pytest.approx(model(image).softmax(-1).max().item()))
    strongest = [0, 3][int(expected.shift().flatten().abs().argmax())]
    assert explorer.effect["at"] == f"block {strongest}"

    def silence(stream, hook):
        stream[:, [90, 91, 104]] = 0
        return stream

    after = model.run_with_hooks(image, fwd_hooks=[(f"resid_pre{strongest}", silence)])[0].softmax(-1)
    assert explorer.effect["after"][0] == (int(after.argmax()), pytest.approx(after.max().item()))
    # Without marks it is the chosen token; with a source, patching; with a baseline, the difference.
    explorer.marked_tokens, explorer.selected_token, explorer.selected_baseline = [], 0, classes[1]
    result = explorer.patch(0, site="resid_post")
    expected = activation_patching(
        model, explorer.images[:1], image, sites="resid_post", tokens="class", classes=classes[0],
        baseline_classes=classes[1], progress=False,
    )  # fmt: skip
    torch.testing.assert_close(result.values.flatten(), expected.values.flatten())
    assert "−" in explorer.effect["title"]
    explorer.patch(site="z", blocks=5)
    assert explorer.effect["cells"] == ["L5H0", "L5H1", "L5H2", "L5H3"]


def test_the_mean_is_over_the_explorers_pictures(explorer, demo):
    explorer.selected_token = 50
    result = explorer.patch(replacement="mean", blocks=2)
    _, cache = explorer.model.run_with_cache(explorer.images, names_filter="resid_pre2")
    mean = cache["resid_pre", 2].mean(dim=0)[50]

    def replace(stream, hook):
        stream[:, 50] = mean
        return stream

    logits = explorer.model.run_with_hooks(explorer.images[:1], fwd_hooks=[("resid_pre2", replace)])
    torch.testing.assert_close(result.patched.flatten(), logits[0, explorer.selected_class][None])
    alone = explore(demo[0], explorer.images[:1], blocks=5, n_runs=4, progress=False)
    with pytest.raises(InputError, match="one picture"):
        alone.patch(replacement="mean")


def test_the_button_of_the_widget_ablates(explorer):
    explorer.widget._answer(explorer.widget, {"ask": "ablate", "replacement": "zero"}, [])
    assert explorer.widget.effect["cells"] == [f"block {block}" for block in range(6)]
    explorer.widget._answer(explorer.widget, {"ask": "ablate", "replacement": "nonsense"}, [])
    assert "replacement is one of" in explorer.widget.effect["title"]


def test_a_notebook_shows_the_widget_or_the_page(explorer, monkeypatch):
    shown, _ = DisplayFormatter().format(explorer)
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert len(shown["text/html"]) < 1000
    monkeypatch.setattr("vitlens.pages.explorer.explorer.find_spec", lambda name: None)
    shown, _ = DisplayFormatter().format(explorer)
    assert set(shown) == {"text/plain", "text/html"}
    assert shown["text/html"].startswith("<iframe srcdoc=")
    inner = html.unescape(shown["text/html"].split('srcdoc="')[1].split('"')[0])
    assert inner == explorer.to_html()
    del explorer.__dict__["widget"]
    with pytest.raises(InputError, match="pip install anywidget"):
        _ = explorer.widget


def test_the_widgets_script_follows_python_and_tells_it(explorer, browser, tmp_path):
    """The module that anywidget loads, with a model that stands for Jupyter's."""
    state = {"facts": explorer.facts, "selection": explorer.widget.selection, "effect": None}
    packed = [base64.b64encode(part).decode() for part in explorer.pictures]
    module = base64.b64encode(script().encode()).decode()
    (tmp_path / "notebook.html").write_text(
        f"""<!doctype html><meta charset="utf-8"><style>{style()}</style><div id="cell"></div><script type="module">
        const {{ default: widget }} = await import("data:text/javascript;base64,{module}");
        const view = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
        const bytes = {json.dumps(packed)}.map(view);
        const state = {{...{json.dumps(state)}, pictures: bytes}}, listeners = {{}};
        window.sent = [];
        window.model = {{
          get: (name) => state[name], on: (name, call) => (listeners[name] = call), off() {{}}, save_changes() {{}},
          set: (name, value) => {{ state[name] = value; listeners["change:" + name]?.(); }},
          send: (message) => sent.push(message),
        }};
        widget.render({{ model, el: document.getElementById("cell") }});</script>"""
    )
    page = browser.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "notebook.html").as_uri())
    page.wait_for_selector("[data-ready]", state="attached")
    frame = page.locator("[data-panel=picture] .frame").first
    frame.click(position={"x": 3, "y": 3})
    selection = page.evaluate("model.get('selection')")
    assert (selection["token"], selection["marked"]) == (1, [])
    frame.click(position={"x": 60, "y": 3}, modifiers=["Shift"])
    selection = page.evaluate("model.get('selection')")
    assert selection["token"] == 1
    assert len(selection["marked"]) == 2
    explorer.widget.selection = selection
    assert explorer.selected_token == 1
    assert explorer.marked_tokens == selection["marked"]
    explorer.selected_picture, explorer.selected_block = 1, 4
    page.evaluate("(selection) => model.set('selection', selection)", explorer.widget.selection)
    page.wait_for_function("document.querySelector('[data-choice=block]').innerText === 'block 4'")
    assert page.locator(".thumbnails [aria-pressed=true]").get_attribute("title") == "picture 1"
    assert "#" not in page.url, "a notebook's address is not the widget's"
    page.get_by_text("ablate the selection").click()
    assert page.evaluate("sent") == [{"ask": "ablate", "replacement": "zero"}]
    explorer.patch(blocks=[0, 5])
    page.evaluate("(effect) => model.set('effect', effect)", explorer.widget.effect)
    drawn = page.evaluate(
        "document.querySelector('.vitlens').view.panels.effectBars.shown.rows.map(row => row.values[0])"
    )
    assert drawn == pytest.approx(explorer.effect["shift"])
    told = page.locator(".decision").inner_text()
    assert told.startswith(f"The answer before: {explorer.model.class_label(explorer.effect['before'][0][0])}")
    assert complaints == []
    page.close()


def test_the_page_opens_as_was_chosen_and_shows_the_effect(explorer, open_page, tmp_path):
    explorer.selected_picture, explorer.selected_token, explorer.selected_head = 1, 30, None
    explorer.patch()
    explorer.save(tmp_path / "page.html")
    page = open_page(tmp_path / "page.html").page
    assert page.evaluate("document.getElementById('explorer').view.state.tokens") == [30]
    assert page.locator(".effect h4").inner_text() == explorer.effect["title"]
    assert page.get_by_text("ablate the selection").count() == 0, "a page has no Python to ask"
    page.locator(".thumbnails button").first.click()
    page.wait_for_function("document.querySelector('.effect').hidden")


def test_results_show_themselves_escaped():
    labels = ["<b>bold</b>", "b", "c", "d", "e", "<i>last</i>"]
    result = Result(
        torch.arange(12.0).view(2, 6), {"block": [0, 1], "token": labels}, "<u>", settings={"model": "a<br>b"}
    )
    shown = result._repr_html_()
    assert not any(tag in shown for tag in ("<b>", "<i>", "<u>", "<br>"))
    for text in ("2: 0, 1", "6: &lt;b&gt;bold&lt;/b&gt;, b, …, &lt;i&gt;last&lt;/i&gt;", "a&lt;br&gt;b", "0 to 11"):
        assert text in shown
    assert shown.count("<tr") == 3 + 1 + 5
    long = Result(torch.zeros(1, 1_000_001), {"block": [0], "token": list(range(1_000_001))}, "logit")._repr_html_()
    assert len(long) < 1000
    assert "nothing" not in Result(torch.zeros(0, 2), {"block": [], "token": [0, 1]}, "logit")._repr_html_()
