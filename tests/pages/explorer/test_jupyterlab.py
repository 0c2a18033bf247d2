"""The explorer's widget in a real JupyterLab: clicks reach Python, choices and interventions reach the widget."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import pytest
from playwright.sync_api import Error, Page, expect

MAKE = """import vitlens

model, images, labels, masks = vitlens.load_demo()
w = vitlens.explore(model, images[4:5], n_classes=2, blocks=[1, 5], n_runs=4, progress=False)
w"""
#: The notebook's cells; the test runs one after the other, and clicks in between.
CELLS = {
    "make": MAKE,
    "chosen": "print(w.selected_token, w.marked_tokens)",
    "marked": "print([w.selected_token, w.marked_tokens])",
    "patch": "import json; print(json.dumps([w.patch().shift().flatten().tolist(), w.effect['at']]))",
    "block": "w.selected_block = 1",
    "after": "print(w.selected_block, w.effect['title'])",
}
#: Open to this machine alone, and JupyterLab asks the network nothing.
OPTIONS = [
    "--no-browser",
    "--ip=127.0.0.1",
    "--IdentityProvider.token=",
    "--ServerApp.password=",
    "--ServerApp.allow_root=True",
    "--ServerApp.terminals_enabled=False",
    "--ServerApp.jpserver_extensions={'jupyter_lsp': False}",
    "--LabApp.extension_manager=readonly",
    "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
    "--LabApp.news_url=None",
    "--KernelManager.transport=ipc",
]
#: Of patience, where a busy machine starts a server and a kernel.
SECONDS = 120
expect.set_options(timeout=SECONDS * 1000)


class JupyterLab:
    """A server of its own, with all it writes in one folder, until `stop`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "server.log"
        places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
        places |= {"IPYTHONDIR": "ipython", "JUPYTERLAB_SETTINGS_DIR": "settings", "HOME": "home"}
        places |= {"JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
        for name in {*places.values(), "notebooks"}:
            (folder / name).mkdir()
        news = folder / "settings" / "@jupyterlab" / "apputils-extension"
        news.mkdir(parents=True)
        (news / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = [f"--ServerApp.port={port}", f"--ServerApp.root_dir={folder / 'notebooks'}"]
        options += [f"--KernelManager.ip={folder / 'runtime' / 'k'}"]
        environment = {**os.environ, **{name: str(folder / place) for name, place in places.items()}}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *OPTIONS, *options],
                cwd=folder,
                env={**environment, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def url(self) -> str:
        """Where it listens, once it does."""
        end = time.monotonic() + SECONDS
        while self.process.poll() is None and time.monotonic() < end:
            for told in (self.folder / "runtime").glob("jpserver-*.json"):
                return json.loads(told.read_text())["url"]
            time.sleep(0.05)
        raise TimeoutError("JupyterLab does not start")

    def stop(self) -> None:
        """Ends the server, and with it its kernels."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def lab():
    if find_spec("jupyterlab") is None:
        if os.environ.get("CI"):
            pytest.fail("CI must run the widget in JupyterLab: jupyterlab is missing")
        pytest.skip("jupyterlab is not installed (it is in the extra dev)")
    # A short path: the kernel's sockets lie in it.
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = JupyterLab(Path(folder))
        try:
            yield server
        finally:
            server.stop()


class Notebook:
    """An open notebook in JupyterLab, whose cells are run by the keyboard."""

    def __init__(self, page: Page, cells: dict[str, str]) -> None:
        self.page, self.names = page, list(cells)

    def cell(self, name: str):
        return self.page.locator(f'.jp-Cell[data-windowed-list-index="{self.names.index(name)}"]')

    def run(self, name: str) -> str:
        """Runs a cell and returns what it prints."""
        cell = self.cell(name)
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Shift+Enter")
        expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"))
        assert cell.locator("[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts() == []
        return "".join(cell.locator("[data-mime-type='application/vnd.jupyter.stdout']").all_inner_texts()).strip()


# A server, a kernel and a page of JupyterLab take half a minute; test_notebook.py runs the same script in a browser, with
# a model that stands for Jupyter's, and the Python behind it.
@pytest.mark.slow
def test_the_widget_lives_in_jupyterlab(lab, browser):
    path = lab.folder / "notebooks" / "explore.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS.values()])
    notebook["metadata"]["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    # So tall that JupyterLab keeps all cells on the page.
    context = browser.new_context(viewport={"width": 1440, "height": 4000})
    context.set_default_timeout(SECONDS * 1000)
    try:
        url = lab.url()
        page = context.new_page()
        elsewhere, complaints = [], []
        page.on("request", lambda request: elsewhere.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{url}doc/tree/explore.ipynb")
        # A cell that is run before the kernel answers is not run at all.
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        follow(Notebook(page, CELLS))
    except (AssertionError, Error, TimeoutError) as error:
        error.add_note(f"JupyterLab's log ends with:\n{lab.log.read_text()[-5000:]}")
        raise
    finally:
        context.close()
    assert complaints == []
    assert [asked for asked in elsewhere if not asked.startswith((url, "data:", "blob:"))] == []


def follow(notebook: Notebook) -> None:
    """Chooses by clicks and by Python, and compares what each of them says."""
    page = notebook.page
    notebook.run("make")
    widget = notebook.cell("make").locator(".vitlens")
    widget.and_(page.locator("[data-ready=true]")).wait_for()
    frame = widget.locator("[data-panel=picture] .frame").first
    frame.click(position={"x": 3, "y": 3})
    assert notebook.run("chosen") == "1 []"
    frame.click(position={"x": 60, "y": 3}, modifiers=["Shift"])
    token, marked = json.loads(notebook.run("marked"))
    assert (token, marked[0], len(marked)) == (1, 1, 2)
    # Keys of the picture are not JupyterLab's commands about the cell.
    frame.focus()
    for key in "13x":
        page.keyboard.press(key)
    expect(widget.locator("[data-layer][aria-pressed=true]")).to_have_attribute("title", "key 3")
    shift, where = json.loads(notebook.run("patch"))
    expect(widget.locator(".effect h4")).to_contain_text("2 tokens")
    drawn = widget.evaluate("root => root.view.panels.effectBars.shown.rows.map(row => row.values[0])")
    assert drawn == pytest.approx(shift)
    expect(widget.locator(".decision")).to_contain_text("The answer before: T-shirt")
    expect(widget.locator(".decision")).to_contain_text(f"after the change at {where}")
    # The widget asks Python.
    widget.get_by_text("leave the selection out").click()
    expect(widget.locator(".effect h4")).to_contain_text("Without 2 patches")
    notebook.run("block")
    expect(widget.locator("[data-choice=block]")).to_have_text("block 1")
    assert notebook.run("after").startswith("1 Without 2 patches")
