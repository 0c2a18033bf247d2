"""Tables and figures as files: the ending decides; images need kaleido, and say so before anything is computed."""

import importlib.util
import os
import shutil

import pandas as pd
import plotly.graph_objects as go
import pytest

from vitlens import InputError
from vitlens.results import writing
from vitlens.results.writing import IMAGES, ending_of, require_kaleido, write_figure, write_table

FIGURE = go.Figure(go.Scatter(y=[1, 2]))
BEGINS = {".png": b"\x89PNG", ".svg": b"<svg", ".pdf": b"%PDF"}
can_draw = pytest.mark.skipif(
    not importlib.util.find_spec("kaleido") or not shutil.which("chromium"),
    reason="kaleido or Chromium is not installed",
)


@pytest.fixture
def with_kaleido(monkeypatch):
    monkeypatch.setattr(writing, "find_spec", lambda name: name)


def test_images_need_kaleido(monkeypatch, tmp_path):
    monkeypatch.setattr(writing, "find_spec", lambda name: None)
    for ending in IMAGES:
        with pytest.raises(InputError, match=r"kaleido, which is not installed: pip install kaleido"):
            write_figure(FIGURE, tmp_path / f"figure{ending}")
    assert not list(tmp_path.iterdir())


def test_a_kaleido_that_does_not_run_is_a_sentence(with_kaleido, monkeypatch, tmp_path):
    def to_image(figure, **options):
        raise RuntimeError("Kaleido requires\n  Google Chrome")

    monkeypatch.setattr(go.Figure, "to_image", to_image)
    for call in (lambda: write_figure(FIGURE, tmp_path / "figure.png"), require_kaleido):
        with pytest.raises(InputError, match=r"kaleido cannot draw .* here: Kaleido requires Google Chrome"):
            call()
    assert not list(tmp_path.iterdir())


def test_kaleido_is_asked_for_what_the_ending_says(with_kaleido, monkeypatch, tmp_path):
    monkeypatch.setattr(go.Figure, "to_image", lambda figure, format, scale: f"{format} {scale}".encode())
    for ending in IMAGES:
        write_figure(FIGURE, tmp_path / f"figure{ending.upper()}")
        assert (tmp_path / f"figure{ending.upper()}").read_bytes() == f"{ending[1:]} 2".encode()


@can_draw
@pytest.mark.parametrize("ending", IMAGES)
def test_images_by_kaleido(ending, tmp_path):
    write_figure(FIGURE, tmp_path / f"figure{ending}")
    assert (tmp_path / f"figure{ending}").read_bytes().startswith(BEGINS[ending])


def test_files_have_the_usual_mode_and_are_replaced(tmp_path):
    before = os.umask(0o027)
    try:
        write_table(pd.DataFrame({"a": [1]}), tmp_path / "table.csv")
        write_figure(FIGURE, tmp_path / "figure.html")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
    write_table(pd.DataFrame({"a": [2]}), tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == "a\n2\n"


def test_a_refused_path_names_the_endings(tmp_path):
    with pytest.raises(InputError, match=r"--out .*a\.txt should end in \.csv or \.json: the ending says"):
        ending_of(tmp_path / "a.txt", (".csv", ".json"), "--out")
    with pytest.raises(InputError, match="there is no folder"):
        ending_of(tmp_path / "none" / "a.csv", (".csv", ".json"))
