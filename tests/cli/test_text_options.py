"""`--text`: a command about sentences says the numbers of the library's call with `text=`."""

import pytest
import torch
from cli.conftest import AGREEING, CONFLICTING, FEW_BLOCKS, SMALL, TIMM

import vitlens
from vitlens.text import TextTower

ONE, TWO = "a T-shirt on stripes", "a bag"


def embed(texts: list[str]) -> torch.Tensor:
    """A direction of its own for each text."""
    return torch.stack(
        [torch.randn(192, generator=torch.Generator().manual_seed(sum(map(ord, text)))) for text in texts]
    )


@pytest.fixture
def opened(monkeypatch):
    """The checkpoints whose text towers were opened."""
    found: list[str] = []

    def from_pretrained(source: str, *, device: str, dtype: str) -> TextTower:
        found.append(source)
        return TextTower(embed, scale=10.0)

    monkeypatch.setattr(TextTower, "from_pretrained", from_pretrained)
    return found


@pytest.fixture
def command(run, checkpoint, opened):
    """Runs a command on the checkpoint."""
    return lambda *given: run(*given, "--model", TIMM, "--checkpoint", checkpoint, *FEW_BLOCKS)


@pytest.fixture
def model(checkpoint):
    made = vitlens.HookedViT.from_timm(TIMM, checkpoint_path=checkpoint, **SMALL)
    made.set_text_tower(TextTower(embed, scale=10.0))
    return made


def test_a_lens(command, model, opened, checkpoint):
    done = command("lens", AGREEING, "--text", ONE, "--text", TWO, "--block", -1, "--json")
    assert (done.code, done.stderr) == (0, "")
    assert opened == [str(checkpoint)]
    lens = vitlens.class_lens(model, AGREEING, text=[ONE, TWO], blocks=-1, tokens="class")
    assert [row["class"] for row in done.json["rows"]] == [ONE, TWO]
    assert [row["logit"] for row in done.json["rows"]] == lens.values.flatten().tolist()


def test_the_two_towers_of_a_checkpoint(run, clip):
    about = ("--text", "a stop sign", "--against-text", "a tree")
    done = run("attribute", AGREEING, "--checkpoint", clip, *about, "--json")
    assert done.code == 0
    whole = vitlens.HookedViT.from_pretrained(clip)
    whole.set_text_tower(TextTower.from_pretrained(clip))
    shares = vitlens.direct_logit_attribution(whole, AGREEING, text="a stop sign", baseline_text="a tree")
    assert [row["logit difference"] for row in done.json["rows"]] == shares.values.flatten().tolist()


def test_a_tower_of_its_own(command, opened):
    done = command("lens", AGREEING, "--text", ONE, "--tower", "clip/", "--block", -1, "--json")
    assert (done.code, done.stderr) == (0, "")
    assert opened == ["clip/"]


def test_an_attribution_of_a_difference(command, model):
    done = command("attribute", AGREEING, "--text", ONE, "--against-text", TWO, "--json")
    shares = vitlens.direct_logit_attribution(model, AGREEING, text=ONE, baseline_text=TWO)
    assert [row["logit difference"] for row in done.json["rows"]] == shares.values.flatten().tolist()
    assert (done.json["totals"][0]["class"], done.json["totals"][0]["against"]) == (ONE, TWO)


def test_patching(command, model):
    about = ("--text", ONE, "--against-text", TWO)
    done = command("patch", AGREEING, CONFLICTING, *about, "--tokens", "class", "--block", 0, "--json")
    found = vitlens.activation_patching(
        model, AGREEING, CONFLICTING, text=ONE, baseline_text=TWO, tokens={"class": "class"}, blocks=[0]
    )
    assert (done.json["class"], done.json["against"]) == (ONE, TWO)
    assert done.json["rows"][0]["effect"] == found.values.item()


@pytest.mark.parametrize("texts", [[ONE], [ONE, TWO]])
def test_heatmaps(command, model, texts):
    options = [option for text in texts for option in ("--text", text)]
    done = command("heatmap", AGREEING, "--method", "legrad", *options, "--json")
    found = vitlens.heatmap(model, AGREEING, text=texts, method="legrad")
    assert done.json["maps"][0]["class"] == found.class_label(0)
    assert found.class_label(0) in texts
    assert [row["importance"] for row in done.json["rows"]] == found.values.flatten().tolist()


@pytest.mark.slow
def test_the_page(command, tmp_path):
    page = tmp_path / "page.html"
    done = command("open", AGREEING, "--text", ONE, "--text", TWO, "--n-runs", 5, "--out", page)
    assert done.code == 0
    assert ONE in page.read_text()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--text", ONE, "--class", "0"], "pass one of the two"),
        (["--text", ONE, "--against-class", "0"], "--text is compared with --against-text"),
        (["--against-text", ONE], "pass --text too"),
        (["--text", ONE, "--text", ONE], "--text has 'a T-shirt on stripes' 2 times"),
        (["--text", " "], "--text is a sentence"),
        (["--tower", "clip/"], "pass --text too"),
        (["--text", ONE], "need the text tower that demo was trained with"),
    ],
)
def test_texts_that_are_refused(run, opened, options, sentence):
    done = run("attribute", AGREEING, *options)
    assert done.code == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_is_missing_is_said_by_its_option(command):
    done = command("patch", AGREEING, CONFLICTING, "--text", ONE)
    assert done.code == 2
    assert '--metric "logit"' in done.stderr
    assert "--against-text" in done.stderr
