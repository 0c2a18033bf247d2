"""No figure can be sent anywhere: the mode bar of pages, of the docs and of bare figures holds only buttons that we know."""

import sys
from pathlib import Path

import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch
from browser import buttons
from plotly.offline import get_plotlyjs

from vitlens import explore, load_demo
from vitlens.pages.page import Section, write_page
from vitlens.plots.lens import predictions
from vitlens.plots.shared.style import dark

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

ALLOWED = {
    "Download plot as a PNG", "Zoom", "Pan", "Box Select", "Lasso Select", "Zoom in", "Zoom out", "Autoscale", "Reset axes",
    # Only where the figure is no page of ours: a link to plotly's site, which takes nothing along.
    "Produced with Plotly.js",
}  # fmt: skip


@pytest.fixture
def figure():
    return predictions(torch.tensor([0.6, 0.4]), ["cat", "dog"], "vit")


def test_the_mode_bar_of_pages_docs_and_bare_figures(figure, tmp_path, open_page):
    from shown import html

    files = {name: tmp_path / f"{name}.html" for name in ("page", "docs", "bare", "shown", "dark", "template", "data")}
    write_page(files["page"], "t", {}, [Section("s", "", [figure])])
    files["docs"].write_text(f"<script>{get_plotlyjs()}</script>{html(figure)}")
    figure.write_html(files["bare"])
    bundle = pio.renderers["notebook"].to_mimebundle(figure.to_dict())
    files["shown"].write_text(f"<script>{get_plotlyjs()}</script>{bundle['text/html']}")
    dark(figure).write_html(files["dark"])
    go.Figure(figure).update_layout(template="plotly_white").write_html(files["template"])
    # As a notebook stores it, and JupyterLab's own plotly draws it.
    pio.from_json(figure.to_json()).write_html(files["data"])
    for name, path in files.items():
        found = buttons(open_page(path))
        assert "Zoom in" in found, name
        assert found <= ALLOWED, name
        if name in ("page", "docs"):
            assert "Produced with Plotly.js" not in found


def test_the_explorer_has_no_mode_bar(tmp_path, open_page):
    model, images, *_ = load_demo()
    explore(model, images[:1], n_classes=2, blocks=[0], n_runs=4, progress=False).save(tmp_path / "explorer.html")
    assert not buttons(open_page(tmp_path / "explorer.html"))


def test_a_figure_without_the_setting_would_have_the_button(figure, tmp_path, open_page):
    """The test above finds what it looks for, where plotly has such a button at all (since 7)."""
    if "sendChartToCloud" not in get_plotlyjs():
        pytest.skip("this plotly has no button that uploads a figure")
    figure.update_layout(modebar={"remove": []}).write_html(tmp_path / "page.html")
    assert buttons(open_page(tmp_path / "page.html")) - ALLOWED
