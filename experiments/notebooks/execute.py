"""Runs the notebooks and stores what they say: text, tables, and a still image of every figure, which a hosting site shows.

Without arguments all of them. The images need kaleido and Chromium. The documentation (`make docs`) runs the notebooks
too, and shows figures that can be moved and read off.

    python experiments/notebooks/execute.py
    python experiments/notebooks/execute.py experiments/notebooks/01_tour.ipynb
"""

import base64
import io
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import nbformat
import plotly.graph_objects as go
import typer
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image
from tqdm import tqdm
from traitlets.config import Config

from vitlens.cli import is_watched, run
from vitlens.files import write_whole
from vitlens.results.writing import require_kaleido

FOLDER = Path(__file__).parent
FIGURE, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
WIDTH = 900
# Figures as data, not as pages with a script.
SETTINGS = {"PLOTLY_RENDERER": "plotly_mimetype", "OMP_NUM_THREADS": "1"}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


def notebooks() -> list[Path]:
    """All notebooks, in their order."""
    return sorted(FOLDER.glob("*.ipynb"))


def execute(path: Path) -> NotebookNode:
    """The notebook with the outputs of a fresh run.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    # Sockets of a folder of their own: notebooks that run at the same time must not answer each other.
    with TemporaryDirectory() as folder:
        private = Config({"KernelManager": {"transport": "ipc", "ip": str(Path(folder) / "kernel")}})
        client = NotebookClient(notebook, timeout=300, record_timing=False, store_widget_state=False, config=private)
        return client.execute(env={**os.environ, **SETTINGS})


def slim(notebook: NotebookNode) -> NotebookNode:
    """Puts still images in the place of figures, and drops progress bars and the views of widgets; everything else stays."""
    without_bars(notebook)
    for output in displayed(notebook):
        figure = output["data"].pop(FIGURE, None)
        if figure is not None:
            title = f"[figure: {figure['layout']['title']['text']}]"
            output["data"] = {"image/png": still(figure), "text/plain": title}
            output["metadata"] = {}
        output["data"].pop(WIDGET, None)
    return notebook


def still(figure: dict[str, Any]) -> str:
    """A figure as PNG in base64. A palette of 256 colours makes it a third as large, and its scales look the same."""
    drawn = Image.open(io.BytesIO(go.Figure(figure).to_image(format="png", width=WIDTH, scale=1))).convert("RGB")
    file = io.BytesIO()
    drawn.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def without_bars(notebook: NotebookNode) -> NotebookNode:
    """Drops what is written to stderr, and widgets that have no other form."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [output for output in cell["outputs"] if not _is_bar(output)]
    return notebook


def displayed(notebook: NotebookNode) -> list[NotebookNode]:
    """The outputs that have data of some kind, of all cells."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [output for cell in cells for output in cell["outputs"] if "data" in output]


def _is_bar(output: NotebookNode) -> bool:
    data = output.get("data", {})
    return output.get("name") == "stderr" or (WIDGET in data and "text/html" not in data)


@app.command(help=__doc__)
def main(
    paths: Annotated[list[Path] | None, typer.Argument(help="notebooks [default: all beside this script]")] = None,
) -> None:
    require_kaleido()
    for path in tqdm(paths or notebooks(), disable=not is_watched(), unit="notebook"):
        done = slim(execute(path))
        write_whole(path, (json.dumps(done, indent=1, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    run(app)
