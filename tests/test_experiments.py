"""experiments/patch_context.py as its user runs it."""

import json
import re
import runpy
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from in_process import Done, run_script
from pandas.testing import assert_frame_equal
from PIL import Image

import vitlens
from vitlens.demo import demo_folder
from vitlens.patching import sweep
from vitlens.patching.edges import EDGE_METHODS
from vitlens.patching.gradients import ATTRIBUTION_METHODS
from vitlens.patching.results import Patching

SCRIPT = Path(__file__).parents[1] / "experiments" / "patch_context.py"
PICTURES, MASKS = demo_folder() / "pictures", demo_folder() / "masks"
CLEAN = "40_bag_agreeing.png"


def run(*arguments: object) -> Done:
    return run_script(SCRIPT, *arguments)


#: The same batches in every run: by default they are as large as fits in memory, and other batches round otherwise.
TWO_PAIRS = ("--pairs", 2, "--batch-size", 32)
#: Of few patches, classes and blocks: the script does the same with it, sooner.
SMALL = (
    "--model", "vit_tiny_patch16_224", "--random-weights",
    *(part for word in ("depth=2", "img_size=64", "num_classes=10") for part in ("--timm", word)),
)  # fmt: skip


@pytest.fixture(scope="module")
def of_two_pairs(tmp_path_factory):
    """What the demo's first two pairs give, and the folder."""
    out = tmp_path_factory.mktemp("patch_context") / "out"
    done = run(*TWO_PAIRS, "--out", out)
    assert done.returncode == 0, done.stderr
    return done, out


def test_the_demo_without_arguments_but_few_pairs(of_two_pairs):
    done, out = of_two_pairs
    assert sorted(path.name for path in out.iterdir()) == ["page.html", "settings.json", "table.parquet"]
    table = pd.read_parquet(out / "table.parquet")
    heads = {f"heads at {tokens} tokens" for tokens in ("context", "object", "class")}
    assert set(table["sweep"]) == {"tokens", "patches"} | heads
    assert len(table[table["sweep"].isin(heads)]) == 3 * 6 * 4 * 2
    by_tokens = table.query("sweep == 'tokens'")
    assert set(by_tokens["unit"]) == {"context", "object", "class"}
    assert len(by_tokens) == 6 * 3 * 2
    settings = json.loads((out / "settings.json").read_text())
    assert settings["settings"]["pairs"] == 2
    assert "Over 2 pairs, exchanging the context alone" in settings["finding"]
    assert " ".join(settings["finding"].split()) in " ".join(done.stdout.split())
    assert set(settings["versions"]) == {"python", "vitlens", "torch", "timm", "transformer-lens"}


@pytest.mark.parametrize("how", ["other", "blur", "mean", "zero", "shuffle"])
def test_ones_own_picture_with_a_mask(tmp_path, how):
    donor = ["--corrupted", PICTURES / "40_bag_conflicting.png"] if how == "other" else []
    given = ("--clean", PICTURES / CLEAN, "--mask", MASKS / CLEAN, "--replace", how, *donor)
    done = run(*SMALL, *given, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    printed = " ".join(done.stdout.split())
    finding = re.search(r"On this pair, exchanging the context alone:.*?logits[^.]*\.", printed)
    assert finding, printed
    # Of one pair: logits before and after, and neither pairs nor a share.
    assert re.search(r"goes from [+-]\d+\.\d\d to [+-]\d+\.\d\d logits", finding[0])
    assert "%" not in finding[0]
    assert "pairs" not in finding[0]


def test_two_pictures_a_box_and_the_other_direction(tmp_path):
    (tmp_path / "classes.txt").write_text("\n".join(vitlens.load_demo()[0].class_names))
    done = run(
        *SMALL, "--class-names", tmp_path / "classes.txt",
        "--clean", PICTURES / CLEAN, "--corrupted", PICTURES / "15_dress_agreeing.png", "--box", "1,1,2,2",
        "--class", "bag", "--baseline", "dress", "--direction", "noise", "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "“bag” over “dress”" in " ".join(done.stdout.split())
    assert "object tokens" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--pairs", 99], "--pairs is 1 to 50"),
        (["--model", "vit_tiny_patch16_224", "--random-weights"], "needs --clean"),
        (["--replace", "mean"], "--replace goes with --clean"),
        (["--clean", PICTURES / CLEAN], "where the object is"),
        (["--clean", PICTURES / CLEAN, "--box", "1,2"], "row,column,height,width"),
        (["--clean", PICTURES / CLEAN, "--box", "0,0,20,2", "--replace", "mean"], "outside the grid"),
        (["--clean", PICTURES / CLEAN, "--box", "0,0,14,14", "--replace", "mean"], "empty"),
        (["--clean", PICTURES / CLEAN, "--box", "2,2,4,4"], "compared with"),
        (["--clean", PICTURES / CLEAN, "--box", "2,2,4,4", "--replace", "inpaint"], "other, mean, zero, blur"),
        (["--clean", PICTURES / CLEAN, "--box", "2,2,4,4", "--replace", "other"], "--corrupted FILE"),
        (["--clean", "missing.png", "--box", "2,2,4,4", "--replace", "mean"], "no file"),
        (["--direction", "up", "--pairs", 1], "denoise"),
    ],
)
def test_mistakes_are_a_sentence_and_exit_code_2(tmp_path, arguments, sentence):
    done = run(*arguments, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "page.html").exists()


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch):
    """What a crash has cut off is computed again, what somebody has put there stays."""
    given = (*SMALL, "--clean", PICTURES / CLEAN, "--mask", MASKS / CLEAN, "--batch-size", 32, "--replace")
    assert run(*given, "mean", "--out", tmp_path / "whole").returncode == 0
    part = tmp_path / "out" / "part"
    original = sweep._patched

    def patched(*arguments, **options):
        if list(part.glob("*.safetensors")):
            signal.raise_signal(signal.SIGINT)
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "_patched", patched)
        stopped = run(*given, "mean", "--out", tmp_path / "out")
    assert stopped.returncode == 130
    assert "the same command goes on" in stopped.stderr
    assert {path.stem for path in part.iterdir()} == {"tokens", "heads_at_context_tokens"}
    other = run(*given, "blur", "--out", tmp_path / "out")
    assert other.returncode == 2
    assert "a part of another run" in other.stderr
    (part / "patches.safetensors").write_bytes(b"cut off")
    (part / "notes.txt").write_text("mine")
    resumed = run(*given, "mean", "--out", tmp_path / "out")
    assert resumed.returncode == 0, resumed.stderr
    assert "patches.safetensors is no safetensors file" in resumed.stderr
    assert [path.name for path in part.iterdir()] == ["notes.txt"]
    tables = (pd.read_parquet(out / "table.parquet") for out in (tmp_path / "whole", tmp_path / "out"))
    assert_frame_equal(*tables, check_exact=True)


def test_an_empty_object_is_named(tmp_path):
    Image.fromarray(np.zeros((56, 56), dtype=np.uint8)).save(tmp_path / "mask.png")
    done = run("--clean", PICTURES / CLEAN, "--mask", tmp_path / "mask.png", "--replace", "mean", "--out", tmp_path)
    assert done.returncode == 2
    assert "empty" in done.stderr


COMPARE = SCRIPT.parent / "compare_patching.py"


def compare(*arguments: object) -> Done:
    return run_script(COMPARE, *arguments)


def cells_of(cells: pd.DataFrame, method: str) -> float:
    """The correlation of a method's estimates with the exact effects."""
    mine = cells[cells["method"] == method]
    return mine["exact"].corr(mine["estimate"])


def test_estimates_are_compared_with_the_exact_sweep(tmp_path):
    done = compare("--pairs", 1, "--site", "q", "--out", tmp_path / "cells.parquet")
    assert done.returncode == 0, done.stderr
    cells = pd.read_parquet(tmp_path / "cells.parquet")
    assert set(cells["method"]) == set(ATTRIBUTION_METHODS)
    assert len(cells) == 5 * 6 * 4
    star = cells[cells["method"] == "atp_star"]
    assert f"{cells_of(cells, 'atp_star'):.3f}" in done.stdout
    worst = star.loc[star["error"].abs().idxmax()]
    assert f"q: relevance ({cells_of(cells, 'relevance'):.3f}) is not as near as the gradient" in done.stdout
    line = f"q, atp_star: {worst['cell']} is {worst['exact']:+.3f}, estimated {worst['estimate']:+.3f}"
    assert line in done.stdout


def test_circuits_that_are_tested_need_fewer_edges_than_those_from_scores():
    done = compare("--pairs", 1, "--site", "circuits", "--max-change", 0.1)
    assert done.returncode == 0, done.stderr
    rows = [line.replace("│", " ").split() for line in done.stdout.splitlines() if line.startswith("│")]
    edges = {(method, by): int(kept) for _, method, by, kept, _ in rows}
    assert len(edges) == 1 + 2 * len(EDGE_METHODS)
    tested = edges.pop(("sequential", "tests"))
    assert 0 < tested < min(edges.values())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--site", "resid"], "--site is one of"),
        (["--pairs", 0], "at least 1"),
        (["--pairs", 51], "50 pairs"),
        (["--model", "vit_tiny_patch16_224", "--random-weights"], "needs --pictures"),
        (["--pictures", "nowhere"], "no folder"),
        (["--pictures", PICTURES, "--pairs", 51], "need 102 pictures"),
    ],
)
def test_mistakes_of_the_comparison(arguments, sentence):
    done = compare(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr


PLANTED = SCRIPT.parent / "planted_benchmark.py"


def test_the_planted_benchmark_scores_every_method(tmp_path):
    given = ("--model", "conjunction_memory", "--seeds", 1, "--pairs", 5)
    done = run_script(PLANTED, *given, "--out", tmp_path / "t.parquet")
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(tmp_path / "t.parquet")
    assert set(table["find"]) == {"heads", "neurons", "edges", "patches"}
    assert table["auroc"].between(0, 1).all()
    for row in table.itertuples():
        assert f"{row.auroc:.3f}" in done.stdout
    by_method = table.set_index(["find", "method"])["auroc"]
    # What runs every path, or removes every patch, must find a mechanism that is there.
    assert by_method["edges", "path patching, noising"] > 0.99
    assert by_method["patches", "ablation by zero"] > 0.99
    # What knows nothing of classes must not.
    assert by_method["heads", "norm of what it writes"] < 0.5


def test_a_mistake_of_the_planted_benchmark():
    done = run_script(PLANTED, "--model", "copying")
    assert done.returncode == 2
    assert "nearest names are evidence_copying" in done.stderr


DICTIONARIES = SCRIPT.parent / "planted_dictionaries.py"


def test_planted_features_are_recovered_and_random_weights_have_none(tmp_path):
    done = run_script(DICTIONARIES, "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "recovery.csv").set_index(["dictionary", "ratio"])
    cosine = table["cosine"]
    # With a twentieth of the rows; the page of planted models has what the whole training reaches.
    assert cosine["topk", 1] > 0.93
    assert cosine["topk transcoder", 1] > 0.95
    # With four times as many features as dimensions it is harder, and still better than all that is beside it.
    assert 0.55 < cosine["topk", 4] < 0.9
    trained = {"topk", "topk transcoder"}
    beside = table[~table.index.get_level_values("dictionary").isin(trained)]
    assert len(beside) == 10
    assert table["auroc"]["topk", 1] > 0.85
    assert beside["auroc"].max() < 0.75
    # The means of clusters have the right directions, but only one is on at a time.
    assert beside.drop(index="k-means", level="dictionary")["cosine"].max() < 0.55
    assert beside["recall"]["k-means", 1] < 0.3
    # Activity alone does not tell the models apart: the pictures are sparse.
    assert table["auroc_any"]["topk, random weights", 1] > 0.8
    page = (tmp_path / "recovery.md").read_text()
    for row in table.itertuples():
        assert f"{row.cosine:.3f} / {row.auroc:.2f}" in page
    assert "topk, random weights" in (tmp_path / "recovery.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"), [(("--kind", "gated"), "one of topk, batchtopk"), (("--seeds", 0), "at least 1")]
)
def test_mistakes_of_the_planted_dictionaries(arguments, sentence):
    done = run_script(DICTIONARIES, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr


WORDS = SCRIPT.parent / "planted_words.py"


def test_planted_words_come_back_and_no_others():
    done = run_script(WORDS, "--seeds", 1, "--n-images", 256)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1 of 1") == 8
    assert "9 of 9" in done.stdout  # the heads that write what no text says
    assert done.stdout.count("0.00 ") == 9


def test_a_mistake_of_the_planted_words():
    done = run_script(WORDS, "--seeds", 0)
    assert done.returncode == 2
    assert "at least 1" in done.stderr


def test_a_share_is_told_only_where_it_is_one():
    """Pairs whose context turns the answer around: logits before and after, and no 214 %."""
    script = runpy.run_path(str(SCRIPT), run_name="patch_context")
    nothing = torch.zeros(2)
    about = script["Experiment"](nothing, nothing, {}, nothing, nothing, "“wok” over “pan”", same_object=True)

    def found(clean, corrupted, direction="denoise"):
        pairs = {"source": torch.tensor(clean), "target": torch.tensor(corrupted)}
        values = torch.zeros(1, 1, len(clean))
        axes = {"block": [0], "tokens": ["context"], "image": list(range(len(clean)))}
        result = Patching(
            values, axes, "effect", patched=values, metric_name="logit_difference", grid=[1, 1],
            settings={"direction": direction}, **pairs,
        )  # fmt: skip
        return script["describe"](about, {"tokens": result})

    assert found([3.06], [-3.48]) == (
        "On this pair, exchanging the context alone: the lead of “wok” over “pan” goes from +3.06 to -3.48 logits, which "
        "turns the answer."
    )
    assert found([3.0], [1.0]).endswith("goes from +3.00 to +1.00 logits.")
    shared = found([8.0, 8.0], [4.0, 6.0])
    assert shared.endswith("(won: 100 % of the pairs before, 100 % after); the context carries 38 % of the lead.")
    turned = found([3.0, 3.0], [-3.0, -4.0])
    assert turned.endswith("goes from +3.00 to -3.50 logits (won: 100 % of the pairs before, 0 % after).")
    assert "carries" not in found([0.0, 0.0], [-3.0, -4.0])


#: What scripts read behind the face, and why: the benchmarks and the tools that make the project's own tables look inside;
#: pages and stores of a script's own are written with the parts that vitlens' pages and studies are made of.
INSIDE = {
    "benchmarks/dataset_pass.py": {"faithfulness.perturbation", "heatmaps.methods.baselines", "lens.measures", "lens.trace"},
    "benchmarks/dictionaries.py": {
        "features.places", "features.training.learner", "features.training.settings",
    },
    "benchmarks/run_footprint.py": {"cli.main"},
    "check_published.py": {"data.imagenet_s"},
    "compare_heatmaps.py": {
        "data.picture_list", "faithfulness.metrics", "faithfulness.segmentation", "heatmaps.registry", "heatmaps.run",
        "model.provenance", "pages.page", "paper.run_facts", "paper.store",
    },
    "compare_patching.py": {"circuits.circuit", "patching.edges", "patching.gradients"},
    "compare_runs.py": {"model.provenance", "pages.page", "paper.figures", "plots.shared.series"},
    "compare_with_timm.py": {"model.checkpoints.timm_models"},
    "dictionary_frontier.py": {
        "data.picture_sets", "features.places", "features.training.fills", "features.training.learner",
        "features.training.settings", "model.runs.picture_batches",
    },
    "gallery.py": {
        "model.provenance", "pages.explorer.measure.evidence", "pages.page", "paper.figures", "paper.run",
        "plots.description",
    },
    "measure_parity.py": {"parity.families", "parity.peers.cases", "parity.reduced", "parity.supported"},
    "notebooks/execute.py": {"results.writing"},
    "paper.py": {"cli.main"},
    "patch_context.py": {
        "data.class_names", "data.counterfactuals", "model.fingerprint", "model.provenance", "pages.page",
    },
    "repair_context.py": {"editing.baselines", "editing.repairs"},
    "show_demo_words.py": {"model.provenance", "pages.page"},
    "train_demo_model.py": {"results.tensor_files"},
    "train_demo_words.py": {"data.demo_files", "results.tensor_files"},
}  # fmt: skip
FOLDER = SCRIPT.parent
SCRIPTS = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.py"))


def behind_the_face(source: str) -> set[str]:
    """The modules below a chapter that some code imports from; figures by module are part of the face."""
    named = re.findall(r"^\s*(?:from|import) vitlens\.([a-z_]+\.[a-z_.]+)", source, re.MULTILINE)
    return {name for name in named if name not in ("patching.transformer_lens", "plots.faithfulness")}


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_use_the_public_face(script):
    assert behind_the_face((FOLDER / script).read_text()) == INSIDE.get(script, set())


@pytest.mark.parametrize("notebook", sorted(FOLDER.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_use_the_public_face(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    deep = set().union(*(behind_the_face("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"))
    assert deep <= {"paper.figures"}
