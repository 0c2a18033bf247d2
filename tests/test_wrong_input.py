"""Wrong values for every argument of every public function: each is refused in a sentence, or allowed for a reason.

The walk runs as a program of its own, for pytest's type checkers would refuse most of these values before vitlens does.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_wrong_values_are_refused_in_a_sentence():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    walk = [sys.executable, "-m", "wrong_input"]
    done = subprocess.run(walk, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
