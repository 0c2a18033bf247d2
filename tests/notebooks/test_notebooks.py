"""Every notebook runs from top to bottom, stays small, and ends with numbers that its code computed."""

import ast
import base64
import importlib.util
import io
import re
import shutil
import sys
from pathlib import Path

import nbformat
import plotly.io as pio
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbclient.exceptions import CellExecutionError
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "notebooks"))

from execute import FIGURE, WIDGET, WIDTH, displayed, execute, notebooks, slim, without_bars

#: Bytes of a stored notebook, with the images of its figures.
LARGEST = 1_000_000


def written(cell) -> str:
    """What a cell prints."""
    return "".join(output["text"] for output in cell["outputs"] if output.get("name") == "stdout")


def typed_text(source: str) -> list[str]:
    """The fixed parts of all strings of a cell, without the formats of f-strings."""
    tree = ast.parse(source)
    formats = {id(part) for node in ast.walk(tree) if isinstance(node, ast.FormattedValue) and node.format_spec
               for part in ast.walk(node.format_spec)}  # fmt: skip
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in texts if id(node) not in formats]


def run_here(path: Path) -> nbformat.NotebookNode:
    """What `execute` gives, without a kernel, which takes longer to start than a notebook takes to run."""
    notebook = nbformat.read(path, as_version=4)
    shell = InteractiveShell.instance()
    shell.reset()
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            with capture_output() as seen:
                done = shell.run_cell(cell["source"])
            done.raise_error()
            streams = {"stdout": seen.stdout, "stderr": seen.stderr}
            cell["outputs"] = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in streams.items()]
            cell["outputs"] += [nbformat.v4.new_output("display_data", data=shown.data) for shown in seen.outputs]
    shell.reset()
    # Results print themselves otherwise where a shell is running.
    InteractiveShell.clear_instance()
    return notebook


def opened(image: str) -> Image.Image:
    """A stored image."""
    return Image.open(io.BytesIO(base64.b64decode(image)))


def write(path: Path, *sources: str) -> Path:
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources]), path)
    return path


def test_there_are_notebooks_in_their_order():
    assert [path.name[:3] for path in notebooks()] == [f"{i:02}_" for i in range(1, len(notebooks()) + 1)]
    assert len(notebooks()) >= 7


#: That run longest; what they call has tests of its own, and `make docs` runs them too.
LONG = ("01_tour", "03_class_lens", "05_context_patching", "06_faithfulness")
RUNS = [
    pytest.param(path, run, id=f"{path.stem}-{run.__name__}", marks=[pytest.mark.slow] if is_slow else [])
    for path in notebooks()
    for run, is_slow in ((run_here, path.stem in LONG), (execute, True))
]


@pytest.mark.parametrize(("path", "run"), RUNS)
def test_a_notebook_runs_and_says_what_we_learned(path, run, monkeypatch):
    # As for the kernels of `execute`: figures as data.
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")
    done = run(path)
    warnings = [
        output["text"]
        for cell in done["cells"]
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr" and "warning" in output["text"].lower()
    ]
    assert not warnings
    assert any(FIGURE in output["data"] for output in displayed(done))
    *_, heading, last = without_bars(done)["cells"]
    assert heading["source"].endswith("## What we learned")
    assert len(re.findall(r"\d", written(last))) >= 5


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_what_is_stored_is_small_complete_and_computed(path):
    text = path.read_text()
    assert len(text.encode()) < LARGEST
    assert "plotly.js" not in text
    assert "<script" not in text
    stored = nbformat.reads(text, as_version=4)
    nbformat.validate(stored)
    code = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not any({FIGURE, WIDGET} & set(output["data"]) for output in displayed(stored))
    figures = [output["data"] for output in displayed(stored) if output["data"]["text/plain"].startswith("[figure: ")]
    assert figures
    for figure in figures:
        assert opened(figure["image/png"]).width == WIDTH
    assert re.search(r"\d", written(code[-1]))
    assert not [part for part in typed_text(code[-1]["source"]) if re.search(r"\d", part)]


@pytest.mark.slow
def test_a_broken_notebook_fails(tmp_path):
    with pytest.raises(CellExecutionError, match="no hook point"):
        execute(
            write(
                tmp_path / "broken.ipynb", "import vitlens", "vitlens.demo.load_demo_model().add_hook('nothing', print)"
            )
        )


@pytest.mark.skipif(
    not importlib.util.find_spec("kaleido") or not shutil.which("chromium"),
    reason="kaleido or Chromium is not installed",
)
@pytest.mark.parametrize("run", [run_here, pytest.param(execute, marks=pytest.mark.slow)])
def test_slim_keeps_an_image_of_a_figure_and_drops_bars(run, tmp_path, monkeypatch):
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")
    figure = "from vitlens.plots import predictions\nimport torch\npredictions(torch.ones(2) / 2, ['a', 'b'], 'model')"
    bar = "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass\nprint(7)"
    done = run(write(tmp_path / "figure.ipynb", figure, bar))
    assert [list(output["data"]) for output in displayed(done) if FIGURE in output["data"]]
    kept = slim(done)
    (data,) = [output["data"] for output in displayed(kept)]
    assert data["text/plain"] == "[figure: What the model says]"
    # All that is drawn: the page, its text, and the bars.
    assert len(opened(data["image/png"]).convert("RGB").getcolors()) > 10
    assert written(kept["cells"][1]) == "7\n"
    nbformat.validate(kept)


def test_typed_numbers_are_found():
    assert typed_text("print(f'a {x:.2f} b')") == ["a ", " b"]
    assert any("7" in part for part in typed_text("print('the area is 0.7')"))
