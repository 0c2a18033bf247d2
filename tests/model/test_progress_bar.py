"""Bars count what they say; a script is told once what long work costs."""

import pytest
import torch

from vitlens.model.runs import progress_bar
from vitlens.model.runs.picture_batches import PictureBatches
from vitlens.model.runs.picture_run import PictureRun
from vitlens.model.runs.progress_bar import ProgressBar


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is set."""
    now = [0.0]
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    return now


def test_a_script_is_told_once_what_long_work_costs(clock, capsys):
    with ProgressBar(2364, "patching resid_pre", "run", None, 50) as bar:
        clock[0] = 5.0
        bar.update(64)
        clock[0] = 50.0
        bar.update(64)
    said = capsys.readouterr().err
    assert said == "patching resid_pre: 2,364 runs, about 3 min\n"


def test_the_cost_is_told_when_enough_was_counted(clock, capsys):
    with ProgressBar(1000, "training", "row", None, 50, n_told=100) as bar:
        for clock[0] in (30.0, 31.0, 40.0):
            assert capsys.readouterr().err == ""
            bar.update(40)
    assert capsys.readouterr().err == "training: 1,000 rows, about 6 min\n"


@pytest.mark.parametrize(("progress", "seconds"), [(False, 500.0), (None, 0.1)])
def test_short_work_and_a_silent_bar_say_nothing(clock, capsys, progress, seconds):
    with ProgressBar(640, "patching", "run", progress, 10) as bar:
        clock[0] = seconds
        bar.update(64)
    assert capsys.readouterr().err == ""


def test_bars_count_pictures(plain, images_of, capsys):
    images = images_of(plain, 5)
    for batches in (PictureRun(plain, images, 4, True, "counting"), None):
        list(batches if batches is not None else PictureBatches(plain, images, 4).with_bar("counting", True))
        last = capsys.readouterr().err.rstrip().split("\r")[-1]
        assert "5/5" in last
        assert "picture/s" in last
    loader = torch.utils.data.DataLoader(images, batch_size=2)
    list(PictureBatches(plain, loader, 4).with_bar("counting", True))
    assert "3/3" in capsys.readouterr().err
