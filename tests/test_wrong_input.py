"""Wrong values for every argument of every public function: each is refused in a sentence, or allowed for a reason."""

import warnings

from lazy_checks import limit
from wrong_input import walk


def test_wrong_values_are_refused_in_a_sentence(tmp_path, monkeypatch):
    # The tests' checks of types would refuse most of these values before vitlens does.
    limit.begin_test(0)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        failures = list(walk([]))
    assert not failures, "\n".join(failures)
