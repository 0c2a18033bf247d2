"""The live widget in a real JupyterLab: a click in the page is a choice in Python, and the other way round."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from playwright.sync_api import Error

import vitlens

pytestmark = pytest.mark.slow
nbformat = pytest.importorskip("nbformat")

CELLS = (
    "import vitlens\n"
    "model, images, _, _ = vitlens.load_demo()\n"
    "w = vitlens.explore(model, images[:2], blocks=[0, 4, 5], n_runs=1, progress=False)\n"
    "w",
    "print('chosen', w.selected_token, w.marked_tokens)",
    "w.selected_block = 4",
    "w.remove(); w.patch(); print('told', w.effect['at'])",
)


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab of its own, with a notebook of these cells."""
    if shutil.which("jupyter-lab", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("no JupyterLab (pip install vitlens[notebook])")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    # Without a kernel of its own JupyterLab asks which to take.
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "page.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.root_dir": tmp_path,
        "IdentityProvider.token": "",
    }
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(Path(vitlens.__file__).parents[1])}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        + [f"--{name}={value}" for name, value in settings.items()],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield f"http://127.0.0.1:{port}/lab/tree/page.ipynb"
    server.terminate()
    server.wait()


def open_notebook(page, address: str) -> None:
    for _ in range(60):
        try:
            page.goto(address)
            break
        except Error:
            time.sleep(1)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(timeout=60_000)


def run(page, cell: int, wait_for: str | None = None) -> str:
    """Runs a cell, and gives what it printed."""
    code = page.locator(".jp-CodeCell").nth(cell)
    prompt = code.locator(".jp-InputPrompt").first
    for _ in range(20):  # Until the kernel has started, JupyterLab does not hear the keys.
        code.locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        page.wait_for_timeout(1000)
        if prompt.inner_text().strip() not in ("", "[ ]:", "[]:"):
            break
    if wait_for is None:
        return ""
    code.locator(f".jp-OutputArea-output:has-text('{wait_for}')").last.wait_for(timeout=60_000)
    return code.locator(".jp-OutputArea-output").last.inner_text()


def test_the_widget_and_python_choose_for_each_other(browser, lab):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    open_notebook(page, lab)
    run(page, 0)
    page.wait_for_selector(".vitlens[data-ready]", state="attached", timeout=120_000)
    frame = page.locator("[data-panel=picture] .frame").first
    frame.click(position={"x": 5, "y": 5})
    frame.click(position={"x": 80, "y": 5}, modifiers=["Shift"])
    chosen = page.evaluate("document.querySelector('.vitlens').view.state.tokens")
    assert len(chosen) == 2
    page.wait_for_timeout(500)
    assert run(page, 1, "chosen").strip() == f"chosen {chosen[0]} {chosen}"
    run(page, 2)
    page.wait_for_function("document.querySelector('[data-choice=block]').innerText === 'block 4'")
    at = run(page, 3, "told").split("told ")[1].strip()
    page.wait_for_selector(f".decision:has-text('after the change at {at}')")
    page.get_by_text("leave the selection out").click()
    page.wait_for_selector(".effect h4:has-text('Without 2 patches')")
    assert complaints == []
    page.close()
