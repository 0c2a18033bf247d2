"""File names that are no UTF-8 go through every output, pictures that cannot be opened end a command with one sentence."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from cli.conftest import AGREEING, CONFLICTING
from PIL import Image

SHOWN = r"caf\xe9.png"


@pytest.fixture
def odd(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(AGREEING, path)
    return path


def test_names_that_are_no_utf_8(run, odd, tmp_path):
    options = ["--block", -1]
    tables = {}
    for ending in ("csv", "json", "parquet"):
        out = tables[ending] = tmp_path / f"lens.{ending}"
        done = run("lens", odd, *options, "-o", out)
        assert done.code == 0, (ending, done.stderr)
    as_json = run("lens", odd, *options, "--json")
    assert as_json.code == 0
    frames = [pd.read_csv(tables["csv"]), pd.read_parquet(tables["parquet"])]
    assert len(frames[0]) == len(frames[1]) == len(json.loads(tables["json"].read_text())["rows"])
    assert all(frame["picture"].str.endswith(SHOWN).all() for frame in frames)
    assert {row["picture"].rsplit("/", 1)[-1] for row in as_json.json["rows"]} == {SHOWN}
    tables = {"attribute": ["--unit", "head"], "heatmap": ["--method", "raw_attention"]}
    for command, options in tables.items():
        done = run(command, odd, *options, "-o", tmp_path / f"{command}.csv")
        assert done.code == 0, (command, done.stderr)
        assert pd.read_csv(tmp_path / f"{command}.csv")["picture"].str.endswith(SHOWN).all()
    pages = {
        "lens": ["--block", -1],
        **tables,
        "describe": [],
        "patch": [CONFLICTING, "--block", -1, "--tokens", "class"],
        "open": ["--n-runs", 8],
    }
    for command, options in pages.items():
        out = tmp_path / f"{command}.html"
        done = run(command, odd, *options, "-o", out)
        assert done.code == 0, (command, done.stderr)
        if command != "describe":
            assert "caf\\" in out.read_text()


def test_pictures_that_cannot_be_opened(run, odd, tmp_path):
    cut = tmp_path / os.fsdecode(b"cut\xe9.png")
    cut.write_bytes(AGREEING.read_bytes()[:200])
    os.mkfifo(tmp_path / "pipe.png")
    for picture, shown in ((cut, r"cut\xe9.png is not a picture"), (tmp_path / "pipe.png", "it is a pipe")):
        for command in ("lens", "attribute", "heatmap", "open"):
            done = run(command, picture, *(["-o", tmp_path / "out.html"] if command == "open" else []))
            assert done.code == 2
            assert shown in done.stderr
            assert "Traceback" not in done.stderr
            assert done.stderr.count("error:") == 1
        assert run("patch", odd, picture).code == 2
        assert run("patch", odd, "--mask", picture, "--replace-context", "blur").code == 2


def test_the_class_id_of_the_object(run, tmp_path):
    ids = np.zeros((56, 56), dtype=np.uint8)
    ids[:28], ids[28:32], ids[40:] = 5, 255, 7
    Image.fromarray(ids).convert("P").save(tmp_path / "ids.png")
    mask = ["--mask", tmp_path / "ids.png", "--replace-context", "zero", "--block", -1, "--json"]
    shares = {}
    for object_id in (None, 5, 7):
        done = run("patch", AGREEING, *mask, *([] if object_id is None else ["--object-id", object_id]))
        assert (done.code, done.stderr) == (0, "")
        rows = {row["tokens"]: row["effect"] for row in done.json["rows"]}
        shares[object_id] = rows["object"]
    assert len(set(shares.values())) == 3
