"""A command in its shell: interrupts, too little memory, help that is instant, completion of what is typed."""

import json
import os
import re
import signal
import subprocess
import sys

import pandas as pd
import pytest
import torch
from cli.conftest import AGREEING, CONFLICTING, TIMM

import vitlens
from vitlens.attribution.units import UNITS as LIBRARY_UNITS
from vitlens.choose.metrics import LOGIT_METRICS as LIBRARY_METRICS
from vitlens.choose.sites import SITES as LIBRARY_SITES
from vitlens.cli import names
from vitlens.data.counterfactuals import CONTEXT_REPLACEMENTS
from vitlens.data.preprocessing import INTERPOLATIONS
from vitlens.editing.search.margins import PARTS
from vitlens.features.evaluation.baselines import BASELINES
from vitlens.features.evaluation.metrics import EVALUATION_METRICS
from vitlens.lens.lens import LENS_SITES as LIBRARY_LENS_SITES
from vitlens.paper.run import EXPERIMENTS
from vitlens.text.names.features import METHODS_OF_NAMING

ENTRY = "import sys; sys.argv[0] = 'vitlens'; from vitlens.cli.main import main; main()"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
        ),
        MemoryError(),
    ],
)
def test_too_little_memory_is_a_sentence(run, monkeypatch, error):
    def refused(*_, **__):
        raise error

    monkeypatch.setattr("vitlens.lens.lens.class_lens", refused)
    done = run("lens", AGREEING)
    assert (done.code, done.stdout) == (2, "")
    assert "take fewer pictures" in done.stderr


def test_a_fault_of_vitlens_is_not_hidden(run, monkeypatch):
    def wrong(*_, **__):
        raise RuntimeError("sizes differ")

    monkeypatch.setattr("vitlens.lens.lens.class_lens", wrong)
    with pytest.raises(RuntimeError, match="sizes differ"):
        run("lens", AGREEING)


def test_an_interrupted_command_says_so(run, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("vitlens.lens.lens.class_lens", interrupted)
    done = run("lens", AGREEING)
    assert (done.code, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


@pytest.mark.parametrize("ending", ["page.html", "table.csv"])
def test_an_interrupted_sweep_says_so_and_keeps_what_it_reached(run, monkeypatch, tmp_path, ending):
    """Ctrl-C in a sweep gives a result with NaN: cells that are shown and written as empty."""
    from vitlens.patching import sweep

    original, calls = sweep._patched, []

    def patched(*arguments, **keywords):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments, **keywords)

    monkeypatch.setattr(sweep, "_patched", patched)
    done = run("patch", AGREEING, CONFLICTING, "--out", tmp_path / ending)
    assert len(calls) == 3
    assert done.code == 130
    assert re.fullmatch(r"error: interrupted: \d+% of the cells were reached, the others are empty\n", done.stderr)
    assert "nan" not in done.stdout
    assert (tmp_path / ending).stat().st_size > 1000
    if ending == "table.csv":
        effects = pd.read_csv(tmp_path / ending)["effect"]
        assert effects.isna().any()
        assert effects.notna().any()


def shell(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", ENTRY, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


# Without a process of its own it is tried by the two tests above.
@pytest.mark.slow
def test_ctrl_c_in_a_shell(tmp_path):
    pipe = tmp_path / "names.txt"
    os.mkfifo(pipe)
    command = [sys.executable, "-c", ENTRY, "lens", str(AGREEING), "--class-names", str(pipe)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # A pipe opens when its reader does: the command is then about to read the names, and waits for them.
    with pipe.open("wb"):
        started.send_signal(signal.SIGINT)
        stdout, stderr = started.communicate(timeout=60)
    assert started.returncode == 130
    assert (stdout, stderr) == ("", "error: interrupted\n")


def test_help_of_every_command_imports_nothing_heavy():
    commands = ([], ["lens"], ["attribute"], ["patch"], ["heatmap"], ["describe"], ["open"], ["report"])
    heavy = ("torch", "numpy", "pandas", "plotly", "timm", "PIL", "datasets")
    # One after the other in one process: a module that one of them imports stays.
    check = f"""
import sys
from vitlens.cli.main import main

for command in {commands!r}:
    sys.argv = ["vitlens", *command, "--help"]
    try:
        main()
    except SystemExit as ended:
        loaded = [name for name in {heavy!r} if name in sys.modules]
        print(command, ended.code or 0, loaded, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [f"{command} 0 []" for command in commands]
    assert done.stdout.count("Usage: vitlens") == done.stdout.count("--help") == len(commands)


def test_without_arguments_help_is_shown():
    done = shell()
    assert done.returncode == 2
    assert "reproduce" in done.stdout + done.stderr
    assert "error" not in done.stdout + done.stderr


#: What is typed, and what is offered then among others.
TYPED = [
    (["at"], ["attribute"]),
    (["lens", "--mod"], ["--model"]),
    (["lens", "x.png", "--model", "vit_tiny_patch16_2"], ["vit_tiny_patch16_224"]),
    (["lens", "x.png", "--model", "de"], ["demo", "deit_tiny_patch16_224"]),
    (["heatmap", "--method", "token"], ["token_mask"]),
    (["lens", "x.png", "--class", "s"], ["sandal", "shirt", "sneaker"]),
    (["attribute", "x.png", "--unit", "head"], ["head", "head_patch"]),
    (["patch", "a.png", "b.png", "--site", "attn"], ["attn_out", "attn_scores"]),
    (["lens", "x.png", "--dtype", "b"], ["bfloat16"]),
    (["lens", "x.png", "--interpolation", "bic"], ["bicubic"]),
    (["reproduce", "--experiment", "context"], ["context_tokens", "context_removal"]),
]


@pytest.fixture(scope="module")
def completions():
    """What the shell is answered, in one process for all that is typed: to start it takes longer than to complete."""
    ask = f"""
import io, json, os, sys
from contextlib import redirect_stdout
from vitlens.cli.main import main

sys.argv = ["vitlens"]
os.environ["_VITLENS_COMPLETE"] = "complete_bash"
for words in {[words for words, _ in TYPED]!r}:
    os.environ |= {{"COMP_WORDS": " ".join(["vitlens", *words]), "COMP_CWORD": str(len(words))}}
    with redirect_stdout(io.StringIO()) as answer:
        try:
            main()
        except SystemExit as ended:
            assert not ended.code
    print(json.dumps(answer.getvalue().split()))
"""
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("case", range(len(TYPED)), ids=lambda case: " ".join(TYPED[case][0]))
def test_a_shell_completes(case, completions):
    (*_, word), offered = TYPED[case]
    assert set(offered) <= set(completions[case])
    assert all(item.startswith(word) for item in completions[case])


def test_classes_are_completed_from_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("healthy\nrust\nscab\n")
    words = f"vitlens lens x.png --model {TIMM} --class-names {tmp_path / 'names.txt'} --class r"
    done = shell(_VITLENS_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1))
    assert done.stdout.split() == ["rust"]


def test_names_that_are_completed_are_the_librarys():
    assert list(names.HEATMAP_METHODS) == list(vitlens.heatmaps.heatmap_methods().index)
    assert names.LENS_SITES == LIBRARY_LENS_SITES
    assert names.DICTIONARY_METRICS == EVALUATION_METRICS
    assert names.DICTIONARY_BASELINES == BASELINES
    assert tuple(LIBRARY_SITES) == names.PATCHING_SITES
    assert tuple(LIBRARY_UNITS) == names.UNITS
    assert names.METRICS == LIBRARY_METRICS
    assert names.METHODS_OF_NAMING == METHODS_OF_NAMING
    assert tuple(PARTS) == names.SHORTCUT_PARTS
    assert names.REPLACEMENTS == CONTEXT_REPLACEMENTS
    assert names.INTERPOLATIONS == INTERPOLATIONS
    assert tuple(EXPERIMENTS) == names.EXPERIMENTS
    table = vitlens.supported_models()
    assert names.model_names("") == ["demo", *table["name"][table["refused"] == ""]]
    assert names.model_names("vit_tiny_patch16_3") == ["vit_tiny_patch16_384"]
