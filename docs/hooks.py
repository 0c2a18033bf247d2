"""What the site shows that is not written on its pages: notebooks as they run, and lists taken from the package itself."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url
from nbconvert import MarkdownExporter
from plotly.offline import get_plotlyjs

import vitlens
from vitlens import plots
from vitlens.heatmaps.registry import METHODS
from vitlens.planted import PLANTED, planted
from vitlens.plots.shared.style import TEMPLATES

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments" / "notebooks"))

from execute import FIGURE, displayed, execute, notebooks, without_bars
from shown import html, showing_results

# Sentences in tables are shown whole.
pd.set_option("display.max_colwidth", None)

log = get_plugin_logger("vitlens")
EXPLORER = "example_explorer.html"
START = time.monotonic()
PAGE = count(1)
AT_ONCE = max(1, min(4, os.cpu_count() or 1))

#: A citation of the page of methods, such as "Methods C1 to C5", and what shows links or code already.
CITATION = re.compile(r"\bMethods(?:, notation| [A-E]\d(?:(?:, | and | to )[A-E]\d)*)")
LINK_OR_CODE = re.compile(r"(<(a|pre)\b.*?</\2>)", re.DOTALL)
#: A link to a notebook as it lies in the repository; on the site it is a page.
NOTEBOOK = re.compile(r"\]\(\.\./\.\./experiments/(notebooks/\w+)\.ipynb\)")
MARK = re.compile(r"^<!-- generated: (.+) -->$", re.MULTILINE)
WITHOUT_HEADING = "    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the notebooks as pages, the explorer's example, and once for all pages plotly's script and figures' themes."""
    tell(f"running {len(notebooks())} notebooks, {AT_ONCE} at a time: half of all the time that the site takes")
    # Each runs in a process of its own, on one thread.
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for path, content in zip(notebooks(), pool.map(notebook_page, notebooks()), strict=True):
            files.append(File.generated(config, f"notebooks/{path.stem}.md", content=content))
    tell("measuring the explorer's example")
    files.append(File.generated(config, EXPLORER, content=example_explorer()))
    files.append(File.generated(config, "plotly.min.js", content=get_plotlyjs()))
    themes = json.dumps({theme: pio.templates[name].to_plotly_json() for theme, name in TEMPLATES.items()})
    files.append(File.generated(config, "themes.js", content=f"const themes = {themes};\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts lists in the place of their marks, and lets links lead to the site's notebooks; the page's examples run next."""
    tell(f"page {next(PAGE)} of {len(files.documentation_pages())}, {page.file.src_uri}")
    markdown = NOTEBOOK.sub(r"](\1.md)", showing_results(markdown))
    return MARK.sub(lambda mark: GENERATED[mark[1]](), markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lets citations lead to the page of methods: "Methods A5" in a docstring."""
    methods = get_relative_url("methods.html", page.url)
    link = f'<a href="{methods}#{{}}">{{}}</a>'

    def linked(citation: re.Match[str]) -> str:
        if "notation" in citation[0]:
            return link.format("notation", citation[0])
        return re.sub(r"(?:Methods )?([A-E]\d)", lambda code: link.format(code[1].lower(), code[0]), citation[0])

    parts = LINK_OR_CODE.split(content)
    # In turn: text, a link or code, and which of the two it is.
    return "".join(CITATION.sub(linked, part) if i % 3 == 0 else part for i, part in enumerate(parts) if i % 3 < 2)


def on_post_build(config: MkDocsConfig) -> None:
    tell("written")


def tell(what: str) -> None:
    """Says what is being built: all of it takes minutes."""
    log.info("%4.0f s  %s", time.monotonic() - START, what)


def notebook_page(path: Path) -> str:
    """A notebook that was just run, as Markdown; its figures can be moved and read off."""
    notebook = without_bars(execute(path))
    tell(f"ran notebooks/{path.stem}")
    for output in displayed(notebook):
        figure = output["data"].pop(FIGURE, None)
        if figure is not None:
            output["data"] = {"text/html": f"{html(go.Figure(figure))}\n"}
    return re.sub(r"\n{3,}", "\n\n", MarkdownExporter().from_notebook_node(notebook)[0])


def example_explorer() -> str:
    model, images, _, _ = vitlens.load_demo()
    return vitlens.explore(model, images[4:6], image_names=["agreeing", "conflicting"], progress=False).to_html()


def explorer() -> str:
    """The explorer's example in a frame."""
    frame = 'title="the explorer on two pictures of the demo" class="explorer"'
    return f'<iframe src="{EXPLORER}" {frame}></iframe>\n\n[The same on a page of its own]({EXPLORER})'


def heatmap_methods() -> str:
    """Every method's docstring, under its title: equation, options, source."""
    parts = ["## The methods\n"]
    for name, method in METHODS.items():
        facts = [
            "class-specific" if method.class_specific else "not class-specific",
            "signed" if method.signed else "unsigned",
            *(f'`keep="{part}"`' for part in method.keeps),
        ]
        where = f"{method.function.__module__}.{name}"
        parts.append(f'### {method.title}\n\n`method="{name}"`, {", ".join(facts)}\n\n::: {where}\n{WITHOUT_HEADING}')
    return "\n".join(parts)


def planted_models() -> str:
    """What each planted model is, and which components decide."""
    rows = ["## The models\n", "| name | mechanism | heads | neurons |", "|---|---|---|---|"]
    for name in PLANTED:
        vit = planted(name)
        heads = ", ".join(f"L{block}H{head}" for block, head in sorted(vit.truth.heads))
        neurons = ", ".join(f"L{block} neuron {neuron}" for block, neuron in sorted(vit.truth.neurons))
        rows.append(f"| {name} | {vit.description} | {heads} | {neurons} |")
    return "\n".join(rows)


def figures() -> str:
    """Every function of `vitlens.plots`, with the first sentence of its docstring."""
    rows = ["| `vitlens.plots.` | the figure |", "|---|---|"]
    for name in plots.__all__:
        sentence = (getattr(plots, name).__doc__ or "").split("\n\n")[0].replace("\n", " ")
        rows.append(f"| `{name}` | {' '.join(sentence.split())} |")
    return "\n".join(rows)


def commands() -> str:
    """The help of every command, as typer writes it."""
    command = [sys.executable, "-m", "typer", "vitlens.cli.main", "utils", "docs", "--name", "vitlens"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return text[text.index("## ") :]


GENERATED: dict[str, Callable[[], str]] = {
    "explorer": explorer,
    "heatmap methods": heatmap_methods,
    "planted models": planted_models,
    "commands": commands,
    "figures": figures,
}
