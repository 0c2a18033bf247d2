"""Models of other libraries: their ports compute what the library computes, in float64."""

import pytest

from vitlens.parity.peers.cases import CASES, measure_case


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}, {case.name}")
def test_a_port_is_exact(case):
    differences = measure_case(case)
    for mode, by_site in differences.items():
        assert {"block 0", "block 1", "logits", "gradient"} <= set(by_site)
        worst = max(by_site, key=by_site.get)
        assert by_site[worst] < 1e-9, f"{mode}: {worst} differs by {by_site[worst]:.1e}"
