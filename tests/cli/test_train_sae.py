"""`vitlens train-sae`: what the library's call trains, its settings as options and as a file."""

from dataclasses import fields

import torch
import typer
from cli.conftest import DEMO

from vitlens.cli.main import app
from vitlens.features import load_sae, train
from vitlens.features.training.settings import TrainingSettings

FAST = ("--expansion", 2, "--n-rows", 1024, "--batch-rows", 256, "--buffer-rows", 1024, "--batch-size", 5)


def test_it_trains_what_the_call_trains_and_takes_its_settings_from_a_file(run, demo, tmp_path):
    done = run("train-sae", "--data", DEMO / "pictures", "--hook", "resid_post1", "--hook", "resid_post2", "--k", 6,
               "--matryoshka", "16,64", *FAST, "--out", tmp_path / "one", "--json")  # fmt: skip
    assert done.code == 0, done.stderr
    hooks = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
    assert done.json["dictionaries"] == hooks
    assert done.json["last"][0]["l0"] <= 6
    files = sorted((DEMO / "pictures").iterdir())
    trained = train(
        demo, files, ["resid_post1", "resid_post2"], k=6, matryoshka=[16, 64], expansion=2, n_rows=1024, batch_rows=256,
        buffer_rows=1024, batch_size=5, progress=False,
    )  # fmt: skip
    assert torch.equal(load_sae(tmp_path / "one" / hooks[1]).W_enc, trained[hooks[1]].W_enc)
    again = run(
        "train-sae", "--hook", "resid_post1", "--settings", tmp_path / "one", "--k", 3, "--out", tmp_path / "two"
    )
    assert again.code == 0, again.stderr
    assert "wrote blocks.1.hook_resid_post" in again.stdout
    found = load_sae(tmp_path / "two" / hooks[0])
    assert (found.metadata["training"]["k"], found.metadata["training"]["matryoshka"]) == (3, [16, 64])
    refused = run("train-sae", "--hook", "resid_post1", *FAST, "--out", tmp_path / "two")
    assert (refused.code, refused.stderr.count("\n")) == (2, 1)
    assert "holds another training" in refused.stderr


def test_there_is_an_option_for_each_setting():
    options = {option.name for option in typer.main.get_command(app).commands["train-sae"].params}
    assert {item.name for item in fields(TrainingSettings)} <= options


def test_mistakes_are_one_sentence(run, tmp_path):
    for given, says in [
        (("--matryoshka", "a,b"), "--matryoshka is a list such as 64,256"),
        (("--kind", "gated"), "kind is topk or batchtopk or jumprelu or relu, not 'gated'"),
        (("--data", tmp_path), "there are no pictures in"),
        (("--settings", tmp_path), "is not the settings of a training"),
    ]:
        done = run("train-sae", *given, "--out", tmp_path / "out")
        assert (done.code, done.stderr.count("\n")) == (2, 1), done.stderr
        assert says in done.stderr
