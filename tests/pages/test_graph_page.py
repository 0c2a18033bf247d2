"""The page of attribution graphs: its numbers are the graph's, and a reader can choose, compare, group and share."""

import re

import numpy as np
import pytest
import torch
from browser import whole_page
from ported import build
from variants import pictures

from vitlens import InputError, explore_graph
from vitlens.circuits import edge_heads
from vitlens.features import Transcoder, mlp_hooks, top_patches

#: The drawings that are shown.
BOARD = ".graph-board:not([hidden])"
VIEW = "document.getElementById('explorer').view"
HOSTILE = "<img src=x onerror=alert(1)>\u2028</script>"
N_FEATURES, N_NODES = 24, 40


@pytest.fixture(scope="module")
def found():
    """A small model with hostile names, transcoders of both MLPs, and the page of two pictures."""
    model = build("registers")
    model.class_names = [f"{HOSTILE} {i}" for i in range(model.cfg.n_classes)]
    images = pictures(model.cfg, 4)
    d = model.cfg.d_model
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=model.dtype)

    transcoders = {
        hook: Transcoder.from_arrays(
            drawn(d, N_FEATURES), drawn(N_FEATURES) - 1, drawn(N_FEATURES, d), drawn(d), hook=hook, hook_out=hook_out
        )
        for hook, hook_out in mlp_hooks(model)
    }
    explorer = explore_graph(
        model, images[:2], [3], transcoders=transcoders, n_nodes=N_NODES, data=images, image_names=[HOSTILE, "other"],
        feature_labels={0: {number: HOSTILE for number in range(N_FEATURES)}}, batch_size=3, progress=False,
    )  # fmt: skip
    return model, images, transcoders, explorer


@pytest.fixture(scope="module")
def opened(browser, found, tmp_path_factory):
    out = tmp_path_factory.mktemp("graph") / "page.html"
    found[-1].save(out)
    with whole_page(browser, out) as page:
        yield page


@pytest.fixture
def page(opened):
    """As it opens, with one picture, and all nodes and edges drawn."""
    opened.page.evaluate(
        f"{VIEW}.choose({{picture: 0, beside: null, node: null, tokens: [], nodes: 5000, edges: 20000, together: true, "
        "hidden: [], pinned: [], groups: []})"
    )
    return opened.page


def test_numbers_are_those_of_the_graph(found):
    *_, explorer = found
    graph, tensors, facts = explorer.graphs[0], explorer.tensors, explorer.facts
    kinds = [facts["kinds"][kind] for kind in tensors["kind_0"]]
    assert kinds == [label.kind for label in graph.nodes]
    place = {label: i for i, label in enumerate(graph.sources)}
    for target, source, effect in list(
        zip(tensors["edge_target_0"], tensors["edge_source_0"], tensors["edge_effect_0"], strict=True)
    )[::50]:
        column = place[graph.nodes[source]]
        assert effect == pytest.approx(float(graph.values[target, column]), rel=1e-5)
        share = abs(effect) / tensors["magnitude_0"][target]
        assert share == pytest.approx(float(graph.shares()[target, column]), rel=1e-4)
    of_sources = dict(zip(graph.sources, graph.influence().tolist(), strict=True))
    expected = [of_sources.get(label, 1.0) for label in graph.nodes]
    np.testing.assert_allclose(tensors["influence_0"], expected, rtol=1e-5)
    # Followed back to the end, nothing of the logit's influence is lost.
    influence, left_out = tensors["influence_0"], tensors["left_out_0"]
    ends = [influence[i] for i, kind in enumerate(kinds) if kind not in ("logit", "feature")]
    through = np.isfinite(left_out)
    assert sum(ends) + (influence * left_out)[through].sum() == pytest.approx(1, abs=1e-5)


def test_heads_are_those_of_the_edges(found):
    model, images, transcoders, explorer = found
    tensors, graph = explorer.tensors, explorer.graphs[0]
    edges = [
        (graph.nodes[source], graph.nodes[target])
        for source, target in zip(tensors["edge_source_0"], tensors["edge_target_0"], strict=True)
    ]
    heads = edge_heads(model, images[:1], graph, transcoders=transcoders, n_edges=2000)
    row = {pair: i for i, pair in enumerate(zip(heads.sources, heads.targets, strict=True))}
    assert explorer.facts["heads"] == [str(label) for label in heads.axes["head"]]
    on_page = tensors["heads_codes_0"] * tensors["heads_scale_0"][:, None] / 127
    assert len(on_page) == len(row) > 500
    for values, edge in zip(on_page, tensors["heads_edge_0"], strict=True):
        expected = heads.values[row[edges[edge]]].numpy()
        np.testing.assert_allclose(values, expected, atol=np.abs(expected).max() / 250)


def test_cards_are_those_of_the_library(found):
    model, images, transcoders, explorer = found
    tensors = explorer.tensors
    block, number = tensors["unit_block"][0], tensors["unit_number"][0]
    sae = list(transcoders.values())[block]
    tops = top_patches(
        model, images, sae=sae, features=[int(number)], tokens="all", k=4, one_per_image=True, progress=False
    )
    n = int((tops.values > 0).sum())
    np.testing.assert_allclose(tensors["top_values"][0, :n], tops.values[0, :n], rtol=1e-5)
    np.testing.assert_array_equal(tensors["top_images"][0, :n], tops.images[0, :n])
    np.testing.assert_array_equal(tensors["top_tokens"][0, :n], tops.tokens[0, :n])
    np.testing.assert_allclose(tensors["class_values"][0, 0], tops.promoted[0].max(), rtol=1e-5)
    assert tensors["class_ids"][0, 0] == tops.promoted[0].argmax()
    _, cache = model.run_with_cache(images[:1], names_filter=sae.hook)
    active = sae.encode(cache[sae.hook])[0, :, number]
    on_page = tensors["map_0"][0] / 255 * tensors["map_scale_0"][0]
    np.testing.assert_allclose(on_page, active, atol=float(active.max()) / 400)


def test_graphs_and_labels_must_fit(found):
    model, images, transcoders, explorer = found
    again = explore_graph(model, images[:1], graphs=explorer.graphs[0], transcoders=transcoders, progress=False)
    np.testing.assert_array_equal(again.tensors["edge_effect_0"], explorer.tensors["edge_effect_0"])
    assert "top_values" not in again.tensors
    with pytest.raises(InputError, match="in this picture"):
        explore_graph(model, images[1:2], graphs=explorer.graphs[0], transcoders=transcoders)
    with pytest.raises(InputError, match="no units of this run"):
        explore_graph(model, images[:1], graphs=explorer.graphs[0])
    with pytest.raises(InputError, match="2 graphs were given for 1 pictures"):
        explore_graph(model, images[:1], graphs=explorer.graphs, transcoders=transcoders)
    with pytest.raises(InputError, match="leave classes"):
        explore_graph(model, images[:1], 3, graphs=explorer.graphs[0], transcoders=transcoders)
    grouped = explorer.graphs[0].group(explorer.graphs[0].propose_supernodes("feature"))
    with pytest.raises(InputError, match="groups nodes itself"):
        explore_graph(model, images[:1], graphs=grouped, transcoders=transcoders)
    with pytest.raises(InputError, match="labels for block 7"):
        explore_graph(model, images[:1], transcoders=transcoders, feature_labels={7: {0: "x"}})
    with pytest.raises(InputError, match="1 to 8 pictures"):
        explore_graph(model, images.repeat(3, 1, 1, 1), transcoders=transcoders)


def test_neurons_have_a_page_too(found, tmp_path):
    model, images, *_ = found
    explorer = explore_graph(model, images[:1], n_nodes=10, data=images[:2], progress=False)
    assert explorer.facts["unit_kind"] == "neuron"
    assert (explorer.tensors["top_values"][:, 0] > 0).any()
    assert "iframe" in explorer._repr_html_()


# ---- The page ----------------------------------------------------------------------------------------------------------


def shares_on_page(page, side):
    rows = page.locator(f".edge-panel.{side} [data-share]")
    return rows.evaluate_all(
        "all => all.map(one => [one.dataset.node, Number(one.dataset.share), Number(one.dataset.effect)])"
    )


def test_a_click_shows_card_and_edges(found, page):
    *_, explorer = found
    graph = explorer.graphs[0]
    page.locator("[data-value=false]").click()
    unit = graph.units[0]
    key = f"u{unit.block}.{unit.feature}.{unit.token}"
    node = page.locator(f"{BOARD} .node[data-key='{key}']")
    node.click()
    assert f"node={key}" in page.url
    assert node.get_attribute("aria-pressed") == "true"
    row = next(i for i, label in enumerate(graph.targets) if label == unit)
    expected = graph.shares()[row]
    shown = shares_on_page(page, "in")
    assert len(shown) == 12
    names = {name: i for i, name in enumerate(keys_of(graph))}
    for name, share, effect in shown:
        assert share == pytest.approx(float(expected[names[name]]), rel=1e-4)
        assert effect == pytest.approx(float(graph.values[row, names[name]]), rel=1e-4)
    # What is told to be together is the target.
    note = page.locator(".edge-panel.in .note").inner_text().split(" On the way")[0]
    *parts, total = [float(text.replace("−", "-")) for text in re.findall(r"[−+]?[\d.]+\d", note.split("nodes. ")[-1])]
    assert total == pytest.approx(float(graph.totals[row]), rel=0.01)
    assert sum(parts) == pytest.approx(total, abs=0.02 * max(map(abs, parts)))
    assert page.locator(".edge-panel.in [data-via]").count() > 0
    on_stage = page.evaluate(f"Array.from({VIEW}.stage.shown.values)")
    place = list(zip(explorer.tensors["unit_block"], explorer.tensors["unit_number"], strict=True)).index(
        (unit.block, unit.feature)
    )
    np.testing.assert_allclose(
        on_stage, explorer.tensors["map_0"][place] * explorer.tensors["map_scale_0"][place] / 255, rtol=1e-6
    )
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    node.click()
    assert page.evaluate(f"{VIEW}.state.node") is None


def keys_of(graph):
    """The page's names of sources, one by one."""
    for label in graph.sources:
        if label.kind == "feature":
            yield f"u{label.block}.{label.feature}.{label.token}"
        elif label.kind == "error":
            yield f"error{label.block}.{label.token}"
        else:
            yield f"{label.kind}.{label.token}"


def test_patches_of_a_feature_together_are_sums(found, page):
    *_, explorer = found
    graph = explorer.graphs[0]
    logit = page.locator(f"{BOARD} .node[data-kind=logit]")
    logit.click()
    feature = page.locator(".edge-panel.in [data-node^=u]").first
    block, number = feature.get_attribute("data-node").removeprefix("u").split(".")
    members = [i for i, label in enumerate(graph.sources) if (label.block, label.feature) == (int(block), int(number))]
    assert float(feature.get_attribute("data-effect")) == pytest.approx(float(graph.values[0, members].sum()), rel=1e-4)
    assert float(feature.get_attribute("data-share")) == pytest.approx(
        float(graph.shares()[0, members].sum()), rel=1e-4
    )
    feature.click()
    assert page.evaluate(f"{VIEW}.state.node") == f"u{block}.{number}"
    assert page.evaluate(f"{VIEW}.at().node.members.length") == len(members)


def test_pruning_keeps_the_most_influential(page):
    page.locator("input[name=nodes]").fill("30")
    n = page.evaluate(f"{VIEW}.state.nodes")
    drawn = page.locator(f"{BOARD} .node")
    assert n <= drawn.count() <= n + 1
    least = page.evaluate(f"Math.min(...{VIEW}.at().shown.nodes.map(node => node.influence))")
    left = page.evaluate(f"{VIEW}.at().merged.ranking[{n}].influence")
    assert least >= left
    page.locator("input[name=edges]").fill("10")
    assert page.evaluate(f"{VIEW}.at().shown.edges.length") <= page.evaluate(f"{VIEW}.state.edges")
    page.locator("input[name=error]").uncheck()
    assert page.locator(f"{BOARD} .node[data-kind=error]").count() == 0


def test_groups_are_pinned_named_and_shared(page):
    picked = page.evaluate(
        f"{VIEW}.at().merged.ranking.filter(node => node.unit >= 0).slice(0, 2).map(node => [node.key, node.influence])"
    )
    for key, _ in picked:
        page.locator(f"{BOARD} .node[data-key='{key}']").click()
        page.keyboard.press("p")
    assert page.locator("[data-pinned]").count() == 2
    page.locator(".group-name").fill("a & b; c:d")
    page.keyboard.press("Enter")
    page.locator(f"{BOARD} [data-kind=group]").focus()
    assert page.evaluate(f"{VIEW}.at().node.influence") == pytest.approx(sum(value for _, value in picked))
    url = page.url
    page.keyboard.press("Control+z")
    page.wait_for_function(f"{VIEW}.state.groups.length === 0 && {VIEW}.state.pinned.length === 2")
    page.evaluate(f"{VIEW}.choose({{groups: [], node: null}})")
    assert page.locator(f"{BOARD} [data-kind=group]").count() == 0
    page.evaluate("(url) => { location.hash = new URL(url).hash; }", url)
    page.wait_for_function(f"{VIEW}.state.groups.length === 1")
    assert page.locator(f"{BOARD} [data-kind=group]").inner_text() == "a & b; c:d"
    assert page.locator("[data-panel=about-node] h2").inner_text() == "A & b; c:d"


def test_arrows_walk_along_the_strongest_edges(page):
    page.locator(f"{BOARD} .node[data-kind=logit]").click()
    page.keyboard.press("ArrowLeft")
    key = page.evaluate(f"{VIEW}.state.node")
    assert key == page.evaluate(f"{VIEW}.at().merged.nodes[0].in[0].source.key")
    page.keyboard.press("ArrowRight")
    expected = page.evaluate(f"{VIEW}.at().merged.byKey.get('{key}').out[0].target.key")
    assert page.evaluate(f"{VIEW}.state.node") == expected
    page.keyboard.press("Escape")
    assert page.evaluate(f"{VIEW}.state.node") is None


def test_two_pictures_side_by_side(found, page):
    *_, explorer = found
    page.evaluate(f"{VIEW}.choose({{beside: 1}})")
    assert page.locator(BOARD).count() == 2
    there = page.locator(".graph-board[data-graph='1'] .node[data-kind=unit]").first
    key = there.get_attribute("data-key")
    there.click()
    assert page.evaluate(f"[{VIEW}.state.picture, {VIEW}.state.beside, {VIEW}.state.node]") == [1, 0, key]
    rows = page.evaluate(f"{VIEW}.difference.rows.map(({{key, values}}) => [key, ...values])")
    for name, one, other in rows:
        for place, value in ((1, one), (0, other)):
            assert value == pytest.approx(page.evaluate(f"{VIEW}.merged({place}).byKey.get('{name}')?.influence ?? 0"))
    gaps = [abs(one - other) for _, one, other in rows]
    assert gaps == sorted(gaps, reverse=True)
    assert explorer.facts["pictures"][1]["name"] == "other"


def test_a_patch_of_the_picture_shows_what_is_at_work_there(found, page):
    model = found[0]
    box = page.locator(".stage:not([hidden]) .frame").first.bounding_box()
    rows, columns = found[-1].facts["grid"]
    page.mouse.click(box["x"] + 1.5 / columns * box["width"], box["y"] + 0.5 / rows * box["height"])
    token = model.cfg.n_prefix_tokens + 1
    assert page.evaluate(f"{VIEW}.state.tokens") == [token]
    listed = page.locator("[data-card=node] [data-node]")
    for key in listed.evaluate_all("all => all.map(one => one.dataset.node)"):
        assert token in page.evaluate(f"{VIEW}.at().merged.byKey.get('{key}').tokens")


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1920, "dark")])
def test_nothing_sticks_out(found, open_page, tmp_path, width, scheme):
    found[-1].save(tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html", width, 900, color_scheme=scheme)
    assert opened.complaints == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.page.locator("#explorer").get_attribute("data-theme") == scheme
