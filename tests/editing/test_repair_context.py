"""experiments/repair_context.py: its shares are those of patch_context.py, and it repairs the demo's pictures."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from in_process import run_script

import vitlens

SCRIPT = Path(__file__).parents[2] / "experiments" / "repair_context.py"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield SimpleNamespace(**runpy.run_path(str(SCRIPT), run_name="repair_context"))


def test_the_share_of_the_context_is_that_of_patching_it(script):
    model = vitlens.demo.load_demo_model()
    experiment = script._experiment(model, True, None, None, Path("nowhere"), 20, 20, 0)
    assert experiment.groups[:2] == ["agreeing", "conflicting"]
    experiment = replace(experiment, pairs=experiment.pairs[:8], rivals=experiment.rivals[:8])
    edit = vitlens.edit(model, "classifier", "direction", directions=model.W_U[:, 0].detach())
    report = SimpleNamespace(axes={"edit": ["unedited", "without a limit"]})
    found = SimpleNamespace(edit=edit, report=report, unlimited="other", edits={"other": edit.at(0)})
    shares = script.context_shares(model, found, experiment)
    pictures = vitlens.demo.load_demo_pictures(model)
    rivals = {"classes": pictures.labels[:16:2], "baseline_classes": pictures.contexts[1:16:2]}
    patched = vitlens.activation_patching(
        model, pictures.images[:16:2], pictures.images[1:16:2], **rivals, blocks=[5], tokens=["all"]
    )
    clean, corrupted = patched.source.mean().item(), patched.target.mean().item()
    assert shares["unedited"]["share"] == pytest.approx((clean - corrupted) / clean, rel=1e-5)
    assert shares["without a limit"] == pytest.approx(shares["unedited"])
    assert shares["whole"] == shares["chosen"] != shares["unedited"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--data", "demo"), "--data needs --group-column"),
        (
            ("--model", "vit_tiny_patch16_224", "--random-weights", "--timm", "depth=1"),
            "needs --data with --group-column",
        ),
        (("--data", "nowhere.parquet", "--group-column", "place"), "there is no file nowhere.parquet"),
    ],
)
def test_mistakes_are_a_sentence_and_exit_code_2(tmp_path, arguments, sentence):
    done = run_script(SCRIPT, *arguments, "--out", tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_demo_is_repaired_on_its_own_pictures(tmp_path):
    done = run_script(SCRIPT, "--fashion", "nowhere", "--n-random", 2, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "100 pictures are used instead" in done.stderr
    table, figures = pd.read_csv(tmp_path / "table.csv"), json.loads((tmp_path / "figures.json").read_text())
    assert {"unedited", "last layer retrained"} <= set(table["edit"])
    assert 0 < figures["context share"]["unedited"]["share"] < 1
