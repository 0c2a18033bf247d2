"""`vitlens names` over a folder of pictures, with a small CLIP of random weights: the numbers of the library's calls."""

import pytest
import torch
from PIL import Image

import vitlens
from vitlens.text import TextTower, load_vocabulary

WORDS = "red\nblue\n\na green car\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i, pixels in enumerate(torch.rand(16, 32, 32, 3, generator=torch.Generator().manual_seed(0))):
        Image.fromarray((255 * pixels).byte().numpy()).save(folder / f"{i:02}.png")
    (folder / "vocabulary.txt").write_text(WORDS)
    return folder


@pytest.fixture
def command(run, clip, data):
    about = ("--checkpoint", clip, "--data", data, "--vocabulary", data / "vocabulary.txt", "--top", 2)
    return lambda *options: run("names", *about, *options)


@pytest.fixture
def given(clip, data):
    """Model, pictures and texts of the command, and what it passes by name."""
    texts = load_vocabulary(data / "vocabulary.txt")
    about = {"tower": TextTower.from_pretrained(clip), "k": 2, "batch_size": 16, "progress": False}
    return (vitlens.HookedViT.from_pretrained(clip), sorted(data.glob("*.png")), texts), about


def numbers(rows, name):
    return [row[name] for row in rows]


def test_heads(command, given, tmp_path):
    pictures, about = given
    saved = tmp_path / "heads.safetensors"
    done = command("--block", -1, "--json", "--out", saved)
    assert done.code == 0, done.stderr
    wanted = vitlens.text.name_heads(*pictures, blocks=-1, **about)
    assert numbers(done.json["rows"], "share of variance") == wanted.to_frame()["share of variance"].tolist()
    assert numbers(done.json["names"], "p") == wanted.p[:, 0].tolist()
    assert vitlens.load_result(saved).indices.tolist() == wanted.indices.tolist()


def test_neurons(command, given, tmp_path):
    pictures, about = given
    done = command("--of", "neurons", "--block", 0, "--order", 1, "--neuron", 3, "--neuron", 5, "--json")
    assert done.code == 0, done.stderr
    wanted = vitlens.text.name_neurons(*pictures, block=0, order=1, neurons=[3, 5], **about)
    assert numbers(done.json["rows"], "share of variance") == wanted.to_frame()["share of variance"].tolist()
    shown = command("--of", "neurons", "--block", 0, "--out", tmp_path / "page.html")
    assert "of 48 neurons have a name" in shown.stdout
    assert (tmp_path / "page.html").stat().st_size > 1000


def test_features_and_templates(command, given):
    pictures, about = given
    done = command(
        "--of", "features", "--hook", "post0", "--feature", 3, "--method", "auc", "--template", "a {}", "--json"
    )
    assert done.code == 0, done.stderr
    about["tower"].templates = ("a {}",)
    wanted = vitlens.text.name_features(*pictures, hook="post0", features=3, method="auc", **about)
    assert numbers(done.json["rows"], "auc") == wanted.to_frame()["auc"].tolist()
    assert done.json["settings"]["templates"] == ["a {}"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--of", "blocks"), "--of is one of heads, neurons, features"),
        (("--of", "neurons"), "say which, as in --block 9"),
        (("--of", "neurons", "--block", 0, "--block", 1), "say which, as in --block 9"),
        (("--of", "features"), "those of --dictionary PATH, or the units of a hook point"),
        (("--hook", "post0"), "--hook goes with --of features, not with --of heads"),
        (("--of", "features", "--block", 0), "--block goes with --of heads or neurons"),
        (("--category", "colour"), "has no category 'colour': the file has none"),
        (("--template", "of"), "a template is a string with one {}"),
        (("--top", 9), "--top 9 texts cannot be chosen among 3"),
        (("--block", 7), "there is no block 7"),
        (("--out", "names.docx"), "--out"),
    ],
)
def test_mistakes(command, options, said):
    done = command(*options)
    assert done.code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1 + done.stderr.count("note: ")


def test_a_model_without_texts(run, data):
    done = run("names", "--data", data)
    assert done.code == 2
    assert "texts need the text tower that demo was trained with" in done.stderr
    assert "say which pictures" in run("names").stderr
