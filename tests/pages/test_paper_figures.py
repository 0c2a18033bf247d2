"""The paper's figures: of several models side by side, and drawn in a real browser."""

import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from vitlens import ablate_tokens, class_lens, heatmap, load_demo, plots
from vitlens.faithfulness import perturbation_test
from vitlens.lens import class_trace
from vitlens.memories.memories import Memories
from vitlens.pages.page import Section, write_page
from vitlens.paper.figures import interventions as paper_interventions
from vitlens.paper.figures import lens as paper_lens
from vitlens.paper.figures import memories as paper_memories
from vitlens.paper.run import EXPERIMENTS, run_study
from vitlens.paper.settings import StudySettings
from vitlens.plots.shared.style import NEUTRAL


@pytest.fixture(scope="module")
def demo():
    return load_demo()


@pytest.fixture(scope="module")
def tables(demo, tmp_path_factory):
    settings = StudySettings(
        n_images=5, batch_size=5, n_steps=4, n_bootstrap=20, n_permutations=20, n_random_models=1, n_random_orders=1,
        split="agreeing", train_data="demo", train_split="conflicting", train_per_class=2,
    )  # fmt: skip
    out = tmp_path_factory.mktemp("figures") / "out"
    return run_study(demo[0], settings, experiments=list(EXPERIMENTS), path=out, progress=False).tables


def written_in(figure: go.Figure) -> list[str]:
    """Title, subtitle, and what the legend says."""
    title = figure.layout.title
    return [title.text, title.subtitle.text, *[str(trace.name) for trace in figure.data]]


def usual(table: pd.DataFrame) -> pd.DataFrame:
    chosen = table[table["coefficients"] != "pre"]
    return chosen[chosen["orientation"] == "classes_of_keys"] if "orientation" in chosen else chosen


def all_fourteen(tables, demo) -> dict[str, go.Figure]:
    """Every kind of figure, of two models where it can show several."""
    model, images, labels, _ = demo

    def two(name):
        return {"ViT <one>": tables[name], "ViT two": tables[name]}

    rates = {name: usual(table).query("tokens == 'all'") for name, table in two("key_value_rate").items()}
    lens = class_lens(model, images[:1], labels[:1])
    return {
        "1": paper_lens.identifiability_boxes(two("identifiability")),
        "2": paper_lens.identifiability_curves(two("identifiability")),
        "3": paper_lens.change_rates(two("change_rate")),
        "4": paper_lens.context_boxes(two("context_identifiability")),
        "5 left": paper_lens.sublayer_changes(two("sublayer_change")),
        "5 right": paper_lens.composition_curves(two("residual_composition")),
        "6": paper_memories.class_value_boxes(two("class_value")),
        "7": paper_memories.agreement_rates(two("key_value_by_class")),
        "8": paper_memories.memory_overview(two("class_value"), rates),
        "9": paper_memories.agreement_difference({n: usual(t) for n, t in two("key_value_correct").items()}),
        "10": paper_memories.composition_lines({n: usual(t) for n, t in two("memory_composition").items()}),
        "11 blocks": heatmap(
            model, images[:1], labels[:1], method="projection_gradient", keep=("block", "head")
        ).plot(),
        "11 sum": heatmap(model, images[:1], labels[:1], method="gradient_rollout").plot(),
        "12": plots.perturbation_curves(two("perturbation_curves")),
        "13": paper_interventions.probe_curves(two("linear_probe")),
        "14": plots.token_classes(lens, token=20),
    }


def test_figures_show_the_tables(tables, demo):
    figures = all_fourteen(tables, demo)
    for name, figure in figures.items():
        assert figure.layout.title.text, name
        assert len(figure.data), name
    curve = next(t for t in figures["3"].data if t.name == "patches" and t.mode == "lines+markers")
    expected = tables["change_rate"].query("tokens == 'patches'")["mean"].to_numpy()
    assert curve.y.tolist() == pytest.approx(expected.tolist())
    assert sum(t.type == "box" for t in figures["1"].data) == 4, "two models, two token groups"
    # Sources of the first class may agree: lines from 0 to 100, not a stack that adds up to more.
    sources = [t for t in figures["5 right"].data if t.mode == "lines+markers"]
    assert {t.type for t in figures["5 right"].data} == {"scatter"}
    shares = tables["residual_composition"].query("tokens == 'patches' and source == 'mlp'")["mean"].to_numpy()
    assert next(t for t in sources if t.name == "mlp").y.tolist() == pytest.approx(shares.tolist())
    assert figures["5 right"].layout.yaxis.range == (0, 102)
    # Patches of the object are not called by the class token's name.
    assert {t.name for t in figures["4"].data if t.type == "box"} == {"object", "context"}
    for part in written_in(figures["4"]):
        assert "class token" not in part.lower()
    # Red speaks for the class only where a map has a sign.
    signed, unsigned = figures["11 blocks"], figures["11 sum"]
    assert signed.layout.coloraxis.cmid == 0
    assert "positive: speaks for the class" in signed.layout.title.subtitle.text
    assert unsigned.data[-1].zmin == torch.as_tensor(unsigned.data[-1].z).min() >= 0
    assert "positive" not in unsigned.layout.title.subtitle.text
    # One or a few wrong pictures are no comparison.
    right_or_wrong = figures["9"]
    n_wrong = usual(tables["key_value_correct"])["n_wrong"].iloc[0]
    assert ("too few to compare" in right_or_wrong.layout.title.subtitle.text) == (n_wrong < 10)
    assert all(t.marker.color == NEUTRAL and not any(t.text) for t in right_or_wrong.data) == (n_wrong < 10)
    blocks = figures["11 blocks"].data
    assert len(blocks) == 7, "six blocks and their sum"
    total = sum(torch.as_tensor(t.z) for t in blocks[:6])
    torch.testing.assert_close(torch.as_tensor(blocks[6].z), total, rtol=1e-4, atol=1e-7)
    assert "<one>" not in figures["3"].layout.annotations[0].text, "names from outside are escaped"


def test_results_plot_themselves_and_are_short_to_read(demo):
    model, images, labels, masks = demo
    heat = heatmap(model, images[:2], labels[:2], method="projection_gradient", keep=("block", "head"))
    torch.testing.assert_close(heat.patches(), heat.values.sum(dim=(1, 2)).flatten(1))
    assert len(heat.plot().data) == 7
    test = perturbation_test(model, images[:2], labels[:2], importance=heat.patches(), n_steps=4)
    shown = [t for t in test.plot().data if t.mode == "lines"]
    assert shown[0].y.tolist() == pytest.approx(test.values[0].mean(dim=0).tolist())
    ablated = ablate_tokens(model, images[:2], labels[:2], tokens="context", masks=masks[:2])
    for value in (heat, test, ablated, class_trace(model, images[:2], labels[:2]), Memories.of(model)):
        assert len(repr(value)) < 200, type(value).__name__


def test_the_figures_are_drawn_in_a_browser(tables, demo, tmp_path, open_page):
    figures = all_fourteen(tables, demo)
    path = tmp_path / "page.html"
    write_page(path, "figures", {}, [Section(name, "", [figure]) for name, figure in figures.items()])
    opened = open_page(path)
    # Figure 7 draws its dots by WebGL, of whose speed without a graphics card the browser complains.
    assert not [line for line in opened.complaints if "GPU stall" not in line]
    assert not opened.requests, "everything is in the file"
    titles = "[...document.querySelectorAll('.plotly-graph-div')].filter(div => div.querySelector('.gtitle')).length"
    assert opened.page.evaluate(titles) == len(figures)
    opened.page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
