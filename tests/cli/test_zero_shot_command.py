"""`vitlens zero-shot` over a folder of pictures, with a small CLIP of random weights."""

import pytest
from PIL import Image

import vitlens
from vitlens.text import PHOTO_TEMPLATES, TextTower, zero_shot_accuracy

NAMES = ["blue_car", "dog", "tree"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for i, name in enumerate(NAMES):
        (folder / name).mkdir()
        for j in range(4):
            Image.new("RGB", (32, 32), (80 * i, 60 * j, 200 - 50 * i)).save(folder / name / f"{j}.png")
    return folder


def expected(clip, data, texts, **options):
    model, tower = vitlens.HookedViT.from_pretrained(clip), TextTower.from_pretrained(clip)
    pictures = vitlens.open_pictures(data, NAMES, len(NAMES))
    return zero_shot_accuracy(model, pictures, texts, tower=tower, progress=False, **options)


def test_accuracy_of_a_folder(run, clip, data, tmp_path):
    texts = ["blue car", "dog", "tree"]
    options = [part for text in texts for part in ("--text", text)]
    saved = tmp_path / "found.safetensors"
    done = run("zero-shot", "--checkpoint", clip, "--data", data, *options, "--out", saved, "--json")
    assert done.code == 0, done.stderr
    wanted = expected(clip, data, texts)
    assert [row["accuracy"] for row in done.json["accuracy"]] == [wanted.accuracy]
    assert [row["class"] for row in done.json["classes"]] == texts
    assert vitlens.load_result(saved).values.tolist() == wanted.values.tolist()
    shown = run("zero-shot", "--checkpoint", clip, "--data", data, *options, "--out", tmp_path / "page.html")
    assert "12 pictures, 3 texts" in shown.stdout
    assert (tmp_path / "page.html").stat().st_size > 1000


def test_sentences_of_a_file_templates_and_another_tower(run, clip, data, tmp_path):
    sentences = {"blue_car": "a car in blue", "dog": "a small dog", "tree": "the tree"}
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"{name} = {sentence}\n\n" for name, sentence in sentences.items()))
    about = ("--checkpoint", clip, "--data", data, "--texts", file, "--json")
    done = run("zero-shot", *about, "--template", "photo", "--template", "one {}", "--tower", clip)
    assert done.code == 0, done.stderr
    templates = [*PHOTO_TEMPLATES, "one {}"]
    wanted = expected(clip, data, list(sentences.values()), templates=templates)
    assert done.json["settings"]["templates"] == templates
    assert [row["pictures"] for row in done.json["rows"]] == wanted.to_frame()["pictures"].tolist()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "say which texts the classes have"),
        (("--text", "dog", "--texts", "nowhere.txt"), "say which texts the classes have"),
        (("--texts", "nowhere.txt"), "cannot be read as texts"),
        (("--text", "=dog"), "is written TEXT or CLASS=TEXT"),
        (("--text", "dog", "--text", "a tree", "--text", "a car"), "write --text FOLDER=TEXT for each"),
        (
            ("--text", "dog", "--text", "tree", "--text", "blue car", "--template", "of"),
            "a template is a string with one",
        ),
        (("--text", "dog", "--tower", "nowhere/at/all"), "there is no file or folder"),
    ],
)
def test_mistakes(run, clip, data, options, said):
    done = run("zero-shot", "--checkpoint", clip, "--data", data, *options)
    assert done.code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1 + done.stderr.count("note: ")


def test_a_model_without_texts(run, data):
    done = run("zero-shot", "--data", data, "--text", "dog", "--text", "tree")
    assert done.code == 2
    assert "texts need the text tower that demo was trained with" in done.stderr
