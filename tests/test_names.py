"""Names of vitlens load when they are used; a wrong one says which names are near, or in which chapter the right one is."""

import subprocess
import sys
import traceback

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
        (vitlens, "attention_rollout", r": it is a heatmap method, vitlens\.heatmap\(.*method='attention_rollout'\)$"),
        (
            vitlens.patching,
            "get_act_patch_resid_pre",
            r": it is vitlens\.patching\.transformer_lens\.get_act_patch_resid_pre$",
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


def test_a_wrong_keyword_gets_advice_in_one_traceback():
    with pytest.raises(
        TypeError, match=r"attention\(\) got an unexpected keyword argument 'heads'; .*\bhead\b"
    ) as caught:
        vitlens.attention(None, None, heads=3)
    assert "".join(traceback.format_exception(caught.value)).count("Traceback") == 1


def test_the_package_runs_as_the_command():
    done = subprocess.run([sys.executable, "-m", "vitlens", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"vitlens {vitlens.__version__}"
