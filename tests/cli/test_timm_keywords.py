"""timm's keywords from the shell: `--timm KEY=VALUE`, the same for every command, and part of what a run is compared by."""

import json

import pytest
import timm
import torch
from cli.conftest import AGREEING, TIMM
from typer.main import get_command

import vitlens.cli.main
from vitlens.cli.shared import in_options, load_model, read_keywords
from vitlens.errors import InputError
from vitlens.paper.run_facts import difference
from vitlens.paper.settings import StudySettings

SMALL = ["--model", TIMM, "--timm", "depth=1", "--timm", "img_size=32"]


def test_values_are_python_literals_or_texts():
    given = [
        "img_size=384",
        "global_pool=avg",
        "reg_tokens = 4",
        "img=(224, 448)",
        "a=true",
        "b=False",
        "c=None",
        "d='avg'",
        "e=1e-5",
    ]
    assert read_keywords(given) == {
        "img_size": 384, "global_pool": "avg", "reg_tokens": 4, "img": (224, 448), "a": True, "b": False, "c": None,
        "d": "avg", "e": 1e-5,
    }  # fmt: skip
    assert read_keywords(["use_ema=false"]) == {"use_ema": False}
    assert read_keywords(None) == {}
    for wrong, sentence in (
        (["img_size"], "--timm is written KEY=VALUE, such as --timm img_size=384, not 'img_size'"),
        (["=3"], "--timm is written KEY=VALUE"),
        (["img_size="], "--timm is written KEY=VALUE"),
        (["img-size=3"], "--timm is written KEY=VALUE"),
        (["depth=1", "depth=2"], "--timm depth is given twice"),
        (["pretrained=False"], "pretrained has an option of its own"),
        (["checkpoint_path=x.pth"], "checkpoint_path has an option of its own"),
    ):
        with pytest.raises(InputError, match=sentence):
            read_keywords(wrong)


def test_a_model_that_its_checkpoint_alone_does_not_tell(run, tmp_path):
    torch.manual_seed(0)
    module = timm.create_model(
        TIMM, pretrained=False, num_classes=2, global_pool="avg", img_size=32, depth=1, in_chans=1
    )
    torch.save({"state_dict": module.state_dict(), "state_dict_ema": module.state_dict()}, tmp_path / "mae.pth")
    arguments = ["lens", AGREEING, "--model", TIMM, "--checkpoint", tmp_path / "mae.pth", "--timm", "depth=1"]
    refused = run(*arguments)
    assert (refused.code, refused.stdout) == (2, "")
    assert 'pass --timm global_pool="avg"' in refused.stderr
    done = run(*arguments, "--timm", "global_pool=avg", "--json")
    assert done.code == 0
    notes = done.stderr.splitlines()
    assert len(notes) == 2
    assert "averaged weights under 'state_dict_ema.' are taken" in notes[0]
    assert "(--timm use_ema=False takes the others)" in notes[0]
    assert (
        "was trained on pictures of 32 × 32, so the model reads 32 × 32: pass --timm img_size= for another size"
        in notes[1]
    )
    assert all(line.startswith("note: ") for line in notes)
    assert len({row["block"] for row in done.json["blocks"]}) == 1


@pytest.mark.parametrize("command", ["lens", "attribute", "heatmap", "describe", "open"])
def test_every_command_takes_them(run, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for given, sentence in (
        (["--timm", "nonsense=3"], "timm cannot build 'vit_tiny_patch16_224' with {'nonsense': 3}"),
        (["--timm", "img_size"], "--timm is written KEY=VALUE"),
    ):
        done = run(command, AGREEING, "--model", TIMM, "--random-weights", *given)
        assert (done.code, done.stdout) == (2, "")
        assert sentence in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert "the demo model is as it is" in run(command, AGREEING, "--timm", "depth=1").stderr
    if command == "lens":
        done = run(command, AGREEING, *SMALL, "--random-weights", "--json")
        assert done.code == 0
        assert len({row["block"] for row in done.json["blocks"]}) == 1


def test_no_command_lacks_them():
    commands = get_command(vitlens.cli.main.app).commands
    lacking = {
        name for name, command in commands.items()
        if any(option.name == "checkpoint" for option in command.params)
        and not any("--timm" in option.opts for option in command.params)
    }  # fmt: skip
    assert len(commands) > 5
    assert lacking == set()


def test_the_parity_of_a_model_so_built(run):
    done = run(
        "verify", TIMM, "--random-weights", "--timm", "img_size=32", "--timm", "depth=1", "--dtype", "float64", "--json"
    )
    assert done.code == 0
    assert json.loads(done.stdout)["exact"]
    wrong = run("verify", TIMM, "--random-weights", "--timm", "nonsense=1")
    assert (wrong.code, "timm cannot build" in wrong.stderr) == (2, True)


def test_they_are_part_of_what_a_run_is_compared_by():
    described = {"weights": "", "experiments": [], "versions": {}}
    before, now = ({**described, "settings": vars(StudySettings(timm=timm))} for timm in (["img_size=96"], None))
    assert difference(before, now) == "timm was ['img_size=96'] and is now None"
    assert difference(json.loads(json.dumps(before)), before) is None


def test_sentences_of_the_library_for_a_shell():
    assert (
        in_options("pass checkpoint_path= with a file, or pretrained=False")
        == "pass --checkpoint with a file, or --random-weights"
    )
    assert (
        in_options('pass img_size=(32, 64), global_pool="avg"')
        == 'pass --timm img_size=(32, 64), --timm global_pool="avg"'
    )
    names = ["masks", "class_map", "drop_incomplete", "n_steps"]
    assert in_options("n_steps is at least 1, not 0", names) == "--n-steps is at least 1, not 0"
    assert in_options('say it with class_map="map.json".', names) == 'say it with --class-map "map.json".'
    assert in_options("with masks=, or drop_incomplete=True", names) == "with --masks, or --drop-incomplete"
    assert in_options("the masks of data/class_map.json", names) == "the masks of data/class_map.json"


@pytest.mark.verified_timm
def test_a_folder_that_is_not_there():
    with pytest.raises(InputError, match="there is no folder nowhere"):
        load_model("local-dir:nowhere", None, False)


def test_weights_and_none_are_one_too_many(run):
    for command in (["lens", AGREEING, "--model", TIMM], ["verify", TIMM]):
        done = run(*command, "--checkpoint", "mine.pth", "--random-weights")
        assert (done.code, "choose one of them" in done.stderr) == (2, True)
    done = run("lens", AGREEING, "--model", TIMM, "--random-weights", "--timm", "use_ema=False")
    assert "--timm use_ema=False is for a checkpoint that holds averaged weights too" in done.stderr
