"""What every page says of itself: weights, classes, preprocessing, version and day; refusals in their place; no codes."""

import re
import sys

import pytest
import timm
import torch
from PIL import Image
from torchvision import transforms
from variants import build

from vitlens import HookedViT, explore, load_demo
from vitlens.cli.output import Answer, _write
from vitlens.description.run import describe
from vitlens.faithfulness.metrics import METRICS
from vitlens.heatmaps.registry import METHODS
from vitlens.model.provenance import RANDOM, class_source, of_another_library, page_facts
from vitlens.pages import write_description_page
from vitlens.pages.page import Section, made, write_page
from vitlens.pages.seen_part import seen_part
from vitlens.paper.run import EXPERIMENTS
from vitlens.plots import refusal

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def small(**options):
    torch.manual_seed(0)
    return HookedViT.from_timm("vit_tiny_patch16_224", pretrained=False, **{**SMALL, **options})


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "wide.png"
    Image.effect_noise((50, 40), 90).save(path)
    return path


def test_where_weights_come_from(tmp_path):
    model = small(num_classes=5)
    assert model.provenance == RANDOM
    assert "nothing on this page was learnt" in RANDOM.warning
    path = tmp_path / "mine.pth"
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=5, **SMALL).state_dict(), path)
    loaded = small(checkpoint_path=path)
    assert re.fullmatch(r"mine\.pth, sha256 [0-9a-f]{12}", loaded.provenance.weights)
    assert loaded.provenance.warning is None
    assert loaded.provenance.call.endswith('from_timm("vit_tiny_patch16_224", checkpoint_path="mine.pth")')
    assert loaded.with_fresh_weights().provenance == RANDOM
    assert HookedViT.from_timm(build()).provenance.weights == "of a given timm module"
    model.load_state_dict(loaded.state_dict())
    assert model.provenance.weights == "put in with load_state_dict"
    assert model.provenance.warning is None
    demo = load_demo()[0].provenance
    assert (demo.weights[:14], demo.call) == ("the demo's own", "vitlens.demo.load_demo_model()")
    for source, named in (("owner/name", '"owner/name"'), (tmp_path, f'"{tmp_path.name}"'), (build(), "module")):
        assert of_another_library(source, "").call == f"vitlens.HookedViT.from_pretrained({named})"


def test_pretrained_weights_are_named_by_their_tag_and_a_new_classifier_is_told(monkeypatch):
    def create(name, timm_kwargs, pretrained=False):
        return timm.create_model(name, pretrained=False, **timm_kwargs)

    monkeypatch.setattr("vitlens.model.checkpoints.timm_models.create", create)
    monkeypatch.setattr(
        "vitlens.model.checkpoints.timm_models._check_weights_are_within_reach", lambda name, timm_kwargs: None
    )
    tiny = HookedViT.from_timm("vit_tiny_patch16_224", depth=1)
    assert tiny.provenance.weights == "timm's vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert tiny.provenance.warning is None
    assert class_source(tiny) == "1,000, timm's names of imagenet-1k"
    with pytest.warns(UserWarning, match="classifier"):
        other = HookedViT.from_timm("vit_tiny_patch16_224", depth=1, num_classes=3)
    assert other.provenance.weights.endswith("with a random classifier")
    assert other.provenance.warning == "the classifier of 3 classes is random: no class on this page was learnt"


def test_facts_of_a_model():
    model = small(num_classes=3)
    assert page_facts(model) == {
        "model": "vit_tiny_patch16_224",
        "weights": "random",
        "classes": "3, without names",
        "preprocessing": "32 × 32 pixels, bicubic, center crop 0.9, mean 0.5, std 0.5",
    }
    model.class_names = ["cat", "dog", "cow"]
    assert class_source(model) == "3, own names (cat … cow)"
    read = model.with_class_embeddings(torch.ones(1, 32), ["striped"])
    assert class_source(read) == "1, own names (striped), a number, embeddings set by hand"
    assert class_source(small(num_classes=0)) == "none"
    model.process_weights_(fold_ln=True)
    assert page_facts(model)["weights rewritten by"] == "fold_ln"


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (
            [transforms.Resize(32), transforms.CenterCrop((32, 32))],
            "50 × 40 pixels, of which the middle 40 × 40 are seen",
        ),
        (
            [transforms.Resize(40), transforms.CenterCrop((32, 32))],
            "50 × 40 pixels, of which the middle 32 × 32 are seen",
        ),
        ([transforms.Resize([40, 50])], "50 × 40 pixels, seen whole"),
        ([transforms.Resize([32, 32])], "50 × 40 pixels, seen whole, stretched to the model's shape"),
        ([], "50 × 40 pixels, seen whole"),
    ],
)
def test_how_much_of_a_file_is_seen(steps, expected):
    assert seen_part(transforms.Compose(steps), Image.new("RGB", (50, 40))) == expected


def test_random_weights_are_told_on_every_page(picture, tmp_path):
    model = small(num_classes=3)
    images = model.to_images(picture)
    description = describe(model, images, progress=False)
    answer = Answer("x", "m", None, {}, [], lambda: [], lambda: None, "title", hooked=model)
    _write(answer, tmp_path / "command.html")
    explorer = explore(model, [picture], progress=False)
    explorer.save(tmp_path / "explorer.html")
    write_description_page(description, path=tmp_path / "describe.html")
    for name in ("command", "explorer", "describe"):
        page = (tmp_path / f"{name}.html").read_text()
        # The script of the explorer puts its facts onto the page.
        told = page if name == "explorer" else re.search(r'<p class="warning" role="alert">(.*?)</p>', page)[1]
        assert RANDOM.warning in told, name
        assert "Made with vitlens 0." in page, name
        assert "bicubic, center crop 0.9" in page, name
    seen = "50 × 40 pixels, of which the middle 37 × 37 are seen"
    assert explorer.facts["pictures"][0]["file"] == seen
    assert answer.provenance()["weights"] == "random"


def test_the_day_can_be_set(monkeypatch, tmp_path):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert made().endswith(" on 1970-01-02.")
    pages = []
    for name in ("a.html", "b.html"):
        write_page(tmp_path / name, "t", {}, [Section("s", "one\n<b>two</b>")], warning="<i>mind</i>")
        pages.append((tmp_path / name).read_text())
    assert pages[0] == pages[1]
    assert "<p>one</p><p>&lt;b&gt;two&lt;/b&gt;</p>" in pages[0]
    assert "⚠ &lt;i&gt;mind&lt;/i&gt;" in pages[0]


def test_no_page_cites_a_document_that_readers_do_not_have():
    texts = [str(sys.modules[experiment.__module__].__doc__).splitlines()[0] for experiment in EXPERIMENTS.values()]
    texts += [metric.definition for metric in METRICS.values()] + [method.source for method in METHODS.values()]
    for text in texts:
        assert not re.search(r"METHODS|\([A-E]\d", text), text


def test_a_figure_that_is_refused():
    figure = refusal("circuit <b>", "no path & no " + "word " * 60)
    assert figure.layout.title.text == "circuit &lt;b&gt;: not drawn"
    assert "no path &amp; no" in figure.layout.annotations[0].text
    assert "<br>" in figure.layout.annotations[0].text
