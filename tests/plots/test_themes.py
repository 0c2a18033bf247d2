"""Every figure in a browser, light and dark: drawn without complaint, in its theme's colours, and nothing sticks out."""

import pytest
from plots.conftest import gallery

from vitlens.plots.shared.style import DARK, LIGHT

# What each figure shows: background, text, the middle of a scale of signed values, and the number of drawn traces.
LOOK = """() => [...document.querySelectorAll('.plotly-graph-div')].map(div => {
  const layout = div._fullLayout;
  const around0 = (low, high) => low < 0 && low === -high;
  const signed = part => part.colorscale && (around0(part.zmin, part.zmax) || around0(part.cmin, part.cmax));
  const scales = [...div._fullData, layout.coloraxis ?? {}].filter(signed);
  return {
    paper: layout.paper_bgcolor, plot: layout.plot_bgcolor, ink: layout.font.color, title: layout.title.font.color,
    muted: layout.title.subtitle.font.color, text: layout.title.text,
    middles: scales.map(part => part.colorscale[(part.colorscale.length - 1) / 2][1]),
    drawn: div.querySelectorAll('.main-svg .trace, .hm, .point, path.js-line').length,
  };
})"""


#: Sections of the gallery that together have every kind of trace and of scale; a browser draws the paper's boxes in
#: pages/test_paper_figures.py.
SOME = ["Class lens", "Attribution", "Patches", "Patching and circuits", "Memories and features"]


@pytest.fixture(params=["some", pytest.param("all", marks=pytest.mark.slow)])
def page(request, tmp_path, demo_figures):
    """The gallery's page of the figures that the other tests of figures look at, or of all with the paper's."""
    path, draw = tmp_path / "gallery.html", gallery.drawn

    def some(heading, group):
        return demo_figures[heading] if heading in SOME else {}

    def every(heading, group):
        return demo_figures.get(heading) or draw(heading, group)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "drawn", every if request.param == "all" else some)
        gallery.main(pictures=None, out=path)
    return path


def check(looks, theme):
    for look in looks:
        assert look["paper"] == look["plot"] == theme.paper, look["text"]
        assert look["ink"] == look["title"] == theme.ink, look["text"]
        assert look["muted"] == theme.muted, look["text"]
        assert look["drawn"], look["text"]
        middle = theme.diverging[len(theme.diverging) // 2]
        # Over a picture 0 is clear.
        assert all(colour.lower() == middle or colour.endswith("0.000)") for colour in look["middles"]), look["text"]
    assert sum(len(look["middles"]) for look in looks) > 10


# One test, since the page of so many figures is slow to open.
def test_all_are_drawn_in_both_themes_at_any_width(page, open_page, request):
    opened = open_page(page, 1366)
    body = "getComputedStyle(document.querySelector('.figure')).backgroundColor"
    width = "document.documentElement.scrollWidth"
    light = opened.page.evaluate(LOOK)
    assert len(light) > {"some": 40, "all": 60}[request.node.callspec.params["page"]]
    check(light, LIGHT)
    assert opened.page.get_attribute("#theme", "aria-label") == "use the dark theme"
    assert opened.page.evaluate(body) == "rgb(255, 255, 255)"
    assert opened.page.evaluate(width) <= 1366
    opened.page.click("#theme")
    dark = opened.page.evaluate(LOOK)
    check(dark, DARK)
    assert [look["text"] for look in dark] == [look["text"] for look in light]
    assert [look["drawn"] for look in dark] == [look["drawn"] for look in light]
    opened.page.click("#theme")
    assert opened.page.evaluate(LOOK) == light
    opened.page.emulate_media(color_scheme="dark")
    opened.page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    check(opened.page.evaluate(LOOK), DARK)
    assert opened.page.get_attribute("#theme", "aria-label") == "use the light theme"
    assert opened.page.evaluate(body) == "rgb(21, 24, 30)"
    opened.page.set_viewport_size({"width": 390, "height": 844})
    # Figures follow the width a moment later.
    opened.page.wait_for_function(f"{width} <= 390")
    # Figure 7 draws its dots by WebGL, of whose speed without a graphics card the browser complains.
    assert not [line for line in opened.complaints if "GPU stall" not in line]
    assert not opened.requests
