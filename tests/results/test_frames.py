"""Tables that explain themselves: no column is left out, and no sentence is cut."""

import pickle

import pandas as pd
import pytest

import vitlens
from vitlens.results.frames import Frame

LONG = "a sentence that goes on for longer than pandas would print of it, to a last word: zebra"


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")


def test_long_text_is_folded():
    printed = repr(Frame({"name": ["a", "b"], "why": [LONG, "short"], "share": [0.123456, float("nan")]}))
    assert " ".join(part for line in printed.splitlines() for part in line.split()).count("zebra") == 1
    assert "…" not in printed
    assert "0.1235" in printed
    assert max(map(len, printed.splitlines())) <= 90
    assert "zebra" in Frame({"why": [LONG]})._repr_html_()


def test_short_tables_print_as_pandas_does_with_all_columns():
    wide = {f"a_long_name_{i}": range(3) for i in range(20)}
    printed = repr(Frame(wide))
    assert all(name in printed for name in wide)
    assert repr(Frame({"a": [1]})) == repr(pd.DataFrame({"a": [1]}))


def test_many_rows_are_counted():
    printed = repr(Frame({"why": [LONG] * 1000}))
    assert printed.endswith("… 1000 rows")
    assert len(printed.splitlines()) < 200


def test_selections_and_pickles_stay_frames():
    frame = Frame({"name": ["a", "b"], "why": [LONG, "short"]})
    for other in (frame[frame["name"] == "a"], frame.head(1), pickle.loads(pickle.dumps(frame))):
        assert "zebra" in repr(other)


def test_tables_of_the_library_explain_themselves():
    model, images, _, _ = vitlens.load_demo()
    tables = {
        "why": model.capabilities(),
        "source": vitlens.heatmaps.heatmap_methods(),
        "definition": vitlens.faithfulness.faithfulness_metrics(),
    }
    for column, table in tables.items():
        printed = repr(table)
        assert column in printed
        assert "..." not in printed
        assert table[column].iloc[-1].split()[-1] in printed
    lens = vitlens.class_lens(model, images[:1]).to_frame()
    assert all(column in repr(lens) for column in lens)


def test_pandas_may_be_told_not_to_cut():
    with pd.option_context("display.max_colwidth", None):
        assert "zebra" in repr(Frame({"why": [LONG]}))


def test_a_notebook_shows_a_table_once(monkeypatch, capsys):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert "zebra" in repr(Frame({"why": [LONG]}))
    assert capsys.readouterr().out == ""
