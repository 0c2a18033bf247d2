"""Options of the preprocessing, the version, and mistakes that are found before a model is loaded."""

import re

import pytest
from cli.conftest import AGREEING, CONFLICTING, MASK, TIMM
from PIL import Image

import vitlens
from vitlens.cli import given
from vitlens.cli.options import ModelOptions
from vitlens.paper.run_facts import difference
from vitlens.paper.settings import StudySettings

SMALL = ["--model", TIMM, "--random-weights", "--timm", "depth=1", "--timm", "img_size=32"]


def test_the_preprocessing_is_set_and_said(run):
    done = run("lens", AGREEING, *SMALL, "--mean", "0.1,0.2,0.3", "--std", ".4", "--crop-pct", "1", "--interpolation",
               "bilinear", "--json")  # fmt: skip
    assert done.code == 0, done.stderr
    said = done.json["provenance"]["preprocessing"]
    assert said == "32 × 32 pixels, bilinear, center crop 1, mean 0.1, 0.2, 0.3, std 0.4"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["--mean", "grey"], "--mean is a number, or numbers such as 0.485,0.456,0.406, not 'grey'"),
        (["--mean", "0.1,0.2"], "mean is one number or one for each of the 3 channels"),
        (["--std", "58"], "divide those of 0 to 255 by 255"),
        (["--crop-pct", "90"], "--crop-pct is the part of the resized picture's side that is kept"),
        (["--interpolation", "bicubik"], "interpolation is one of nearest, bilinear, bicubic"),
        (["--timm", "mean=0.5"], "mean has an option of its own"),
    ],
)
def test_nonsense_is_refused(run, wrong, sentence):
    done = run("lens", AGREEING, *SMALL, *wrong)
    assert (done.code, done.stdout) == (2, "")
    assert sentence in done.stderr


def test_the_demo_comes_with_its_own(run):
    assert (
        "the demo model comes with its preprocessing: --std needs --model" in run("lens", AGREEING, "--std", 1).stderr
    )


def test_it_is_part_of_what_a_run_is_compared_by():
    described = {"weights": "", "experiments": [], "versions": {}}
    before, now = ({**described, "settings": vars(StudySettings(mean=mean))} for mean in ("0.5", None))
    assert difference(before, now) == "mean was '0.5' and is now None"


@pytest.mark.parametrize(
    "arguments",
    [
        *[[command, AGREEING, "missing.png"] for command in ("lens", "attribute", "heatmap", "describe", "open")],
        ["open", AGREEING, "--against", "missing.png"],
        ["patch", "missing.png", AGREEING],
        ["patch", AGREEING, "missing.png"],
        ["patch", AGREEING, CONFLICTING, "--mask", "missing.png"],
    ],
    ids=lambda arguments: " ".join(getattr(part, "name", part) for part in arguments),
)
def test_a_missing_picture_is_found_before_the_model_is_loaded(run, monkeypatch, arguments):
    monkeypatch.setattr(ModelOptions, "load", lambda self: pytest.fail("the model was loaded"))
    done = run(*arguments)
    assert (done.code, done.stderr) == (2, "error: there is no file missing.png\n")


def test_a_folder_is_no_picture(run, tmp_path):
    assert f"{tmp_path} is not a picture that Pillow can read (it is a folder)" in run("lens", tmp_path).stderr


def test_the_version(run):
    done = run("--version")
    assert (done.code, done.stdout) == (0, f"vitlens {vitlens.__version__}\n")
    assert "--help" in run("lens", "-h").stdout


def test_a_box_is_a_mask(run):
    """A box of patches says where the object is as a mask of the same pixels does."""
    options = ["patch", AGREEING, "--replace-context", "blur", "--block", "1", "--json"]
    boxed = run(*options, "--box", "4,4,6,6")
    assert boxed.code == 0, boxed.stderr
    assert {row["tokens"] for row in boxed.json["rows"]} == {"object", "context", "class"}
    assert boxed.json["rows"] != run(*options, "--mask", MASK).json["rows"]
    by_token = run("patch", AGREEING, CONFLICTING, "--block", "1", "--tokens", "box:4,4,6,6", "--json")
    in_box = run("patch", AGREEING, CONFLICTING, "--block", "1", "--tokens", "object", "--box", "4,4,6,6", "--json")
    assert [row["effect"] for row in in_box.json["rows"]] == [row["effect"] for row in by_token.json["rows"]]
    for wrong, sentence in (
        (["--box", "4,4"], "'box:4,4' is no box: it is written like box:4,4,6,6"),
        (["--box", "4,4,60,6"], "outside the grid of 14 × 14 patches"),
        (["--box", "4,4,6,6", "--mask", MASK], "--mask and --box both say where the object is"),
    ):
        assert sentence in run(*options, *wrong).stderr


def test_a_terminal_sees_the_map_and_how_to_get_figures(run):
    done = run("heatmap", AGREEING, "--method", "centre_prior")
    lines = done.stdout.splitlines()
    start = lines.index(f"{AGREEING}: centre_prior")
    drawn = [line.ljust(28) for line in lines[start + 1 : start + 15]]
    assert set("".join(drawn)) == set(" ░▒▓█")
    # The prior is the same from left to right and from top to bottom.
    assert drawn == drawn[::-1] == [line[::-1] for line in drawn]
    assert "█" in drawn[6]
    for command in (["heatmap", AGREEING], ["lens", AGREEING], ["patch", AGREEING, CONFLICTING, "--block", "1"]):
        assert run(*command).stdout.splitlines()[-1] == "figures: the same command with --out page.html writes them"


@pytest.mark.parametrize(
    "arguments",
    [
        ["patch", AGREEING, CONFLICTING, "--block", "1", "--tokens", "class"],
        ["heatmap", AGREEING, "--method", "raw_attention"],
        ["open", AGREEING, "--n-runs", "8"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_long_work_says_what_it_costs_where_somebody_watches(run, monkeypatch, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(given, "is_watched", lambda: True)
    monkeypatch.setattr(given, "LONG", 0)
    cost, shorter = run(*arguments).stderr.splitlines()[:2]
    assert re.fullmatch(r"note: this takes about as long as [\d,]+ forwards of a picture: \d+ \w+ on cpu", cost)
    assert shorter.startswith("note: ")
    monkeypatch.setattr(given, "is_watched", lambda: False)
    if arguments[0] in ("patch", "heatmap"):
        assert run(*arguments).stderr == ""


def test_numbers_apart_from_their_option_are_no_files(run):
    done = run("lens", AGREEING, *SMALL, "--mean", "0.485", "0.456", "0.406")
    assert (done.code, done.stdout) == (2, "")
    assert "there is no file 0.456" in done.stderr
    assert "with commas, as in --mean 0.485,0.456,0.406" in done.stderr


def test_a_file_of_weights_is_no_model(run):
    done = run("lens", AGREEING, "--model", "mine.pth")
    assert done.code == 2
    assert "'mine.pth' is a file of weights" in done.stderr
    assert "--checkpoint" in done.stderr


def test_a_mask_of_another_shape_than_the_picture_is_refused(run, tmp_path):
    mask = tmp_path / "mask.png"
    Image.new("L", (100, 50), 255).save(mask)
    done = run("patch", AGREEING, "--mask", mask, "--replace-context", "blur")
    assert done.code == 2
    assert "the mask is 100 × 50 pixels" in done.stderr
