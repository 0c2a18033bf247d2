"""Names of vitlens load when they are used; a wrong one says which names are near, or in which chapter the right one is."""

import subprocess
import sys

import pytest

import vitlens


@pytest.mark.parametrize(
    ("place", "wrong", "sentence"),
    [
        (vitlens, "logit_lens", r"vitlens has no 'logit_lens'; the nearest names are .*vitlens\.class_lens"),
        (vitlens, "load", r"vitlens has no 'load'; the nearest names are .*vitlens\.load_(demo|sae|result)"),
        (vitlens, "class_trace", r"vitlens has no 'class_trace': it is vitlens\.lens\.class_trace$"),
        (
            vitlens.lens,
            "clas_lens",
            r"vitlens\.lens has no 'clas_lens'; the nearest names are vitlens\.lens\.class_lens",
        ),
        (
            vitlens.lens,
            "find_circuit",
            r"vitlens\.lens has no 'find_circuit': it is vitlens\.(circuits\.)?find_circuit$",
        ),
        (vitlens.circuits, "xqzw", r"vitlens\.circuits has no 'xqzw'; dir\(vitlens\.circuits\) lists its names"),
    ],
)
def test_a_wrong_name_gets_advice(place, wrong, sentence):
    with pytest.raises(AttributeError, match=sentence):
        getattr(place, wrong)


def test_advice_loads_nothing_that_computes():
    check = (
        "import sys, vitlens; hasattr(vitlens, 'logit_lens'); "
        "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_private_names_are_refused_as_ever():
    assert not hasattr(vitlens, "_repr_html_")
    assert not hasattr(vitlens.lens, "__wrapped__")
