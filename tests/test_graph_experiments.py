"""experiments/attribution_graphs.py: planted truth is ranked first, and its tables are printed."""

import runpy
from pathlib import Path

import pytest
from in_process import run_script

SCRIPT = Path(__file__).parents[1] / "experiments" / "attribution_graphs.py"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        yield runpy.run_path(str(SCRIPT), run_name="attribution_graphs")


@pytest.mark.parametrize(
    ("name", "true"),
    [("conjunction_memory", ["neurons", "carriers"]), ("context_cue", ["carriers", "askers", "edges"])],
)
def test_what_is_planted_has_the_most_influence(script, name, true):
    found = script["planted_scores"](name, 0, 1)
    assert [found[kind] for kind in true] == [1.0] * len(true)
    assert found["share"] > 0.8
    # One edge of the conjunction brings what its neurons need and no pair differs in.
    assert found["edges"] > 0.98


def test_the_tables_of_the_demo():
    done = run_script(SCRIPT, "--part", "validation", "--part", "pair", "--n-images", 1, "--n-nodes", 6)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the frozen model") == 4
    assert "a T-shirt: logit of T-shirt − bag" in done.stdout
    assert "On its own background the T-shirt has" in done.stdout


def test_mistakes():
    for arguments, sentence in ((("--part", "nonsense"), "--part is one of"), (("--seeds", 0), "at least 1")):
        done = run_script(SCRIPT, *arguments)
        assert done.returncode == 2
        assert sentence in done.stderr
