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
from vitlens.model.provenance import RANDOM, class_source, page_facts
from vitlens.pages import write_description_page
from vitlens.pages.evidence import Removal, evidence
from vitlens.pages.evidence import told as told_of
from vitlens.pages.page import Section, made, write_page
from vitlens.pages.picture_report import picture_sections, write_picture_report
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
    assert loaded.with_fresh_weights().provenance == RANDOM
    assert HookedViT.from_timm(build()).provenance.weights == "of a given timm module"
    model.load_state_dict(loaded.state_dict())
    assert model.provenance.weights == "put in with load_state_dict"
    assert model.provenance.warning is None
    assert load_demo()[0].provenance.weights.startswith("the demo's own")


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
    assert class_source(read) == "1, own names (striped), embeddings set by hand"
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
    write_picture_report(model, picture, path=tmp_path / "report.html", progress=False)
    explore(model, [picture], n_classes=2, progress=False).save(tmp_path / "explorer.html")
    write_description_page(description, path=tmp_path / "describe.html")
    for name in ("command", "report", "explorer", "describe"):
        page = (tmp_path / f"{name}.html").read_text()
        # The script of the explorer puts its facts onto the page.
        told = page if name == "explorer" else re.search(r'<p class="warning" role="alert">(.*?)</p>', page)[1]
        assert RANDOM.warning in told, name
        assert "Made with vitlens 0." in page, name
        assert "bicubic, center crop 0.9" in page, name
    assert "50 × 40 pixels, of which the middle 37 × 37 are seen" in (tmp_path / "report.html").read_text()
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


def test_what_a_model_refuses_is_said_in_its_place(picture, tmp_path):
    one = small(num_classes=1)
    sections = {section.heading: section for section in picture_sections(one, one.to_images(picture), 0, None, "p")}
    for heading in ("Where “class 0” comes from", "How the answer builds up"):
        assert "single output" in sections[heading].text
        assert not sections[heading].figures
    assert sections["Who writes it"].figures
    none = small(num_classes=0)
    write_picture_report(none, picture, path=tmp_path / "none.html", progress=False)
    page = (tmp_path / "none.html").read_text()
    assert "without a classifier, so there is no prediction to explain" in page
    assert "attends to, in every head" in page
    write_picture_report(one, picture, path=tmp_path / "one.html", corrupted=picture, progress=False)
    assert "the same on the clean and the corrupted pictures" in (tmp_path / "one.html").read_text()


def test_the_first_map_is_the_heatmap_with_its_test():
    """On the demo's pictures removal in the map's order costs the class more than in any random order."""
    model, images, labels, _ = load_demo()
    sections = picture_sections(model, images[:1], int(labels[0]), None, "p")
    headings = [section.heading for section in sections]
    assert headings[1] == "Where “T-shirt” comes from"
    assert headings[-1] == "What each patch reads as by itself"
    assert "a reading and not a location" in sections[-1].text
    heat, curves = sections[1].figures
    assert heat.layout.title.text.startswith("Token-mask integrated gradients")
    assert "no better than random" not in sections[1].text
    by_name = {line.name: line for line in curves.data if line.name}
    map_curve, chance = (by_name[name].y for name in ("Token-mask integrated gradients", "at random"))
    assert map_curve[0] == pytest.approx(chance[0], abs=1e-6)
    step = list(by_name["at random"].x).index(pytest.approx(10, abs=0.5))
    told = [float(value) / 100 for value in re.findall(r"([\d.]+)%", sections[1].text)]
    assert told == pytest.approx([map_curve[0], map_curve[step], chance[step]], abs=6e-4)
    assert map_curve[step] < chance[step]
    alone = evidence(model, images[:1], int(labels[0]), None)
    assert len(alone.figures[1].data) == len(curves.data) - 1
    # A map that removes no better than chance is told.
    chance = torch.tensor([[1.0, 0.4], [1.0, 0.6]])
    removal = Removal([0.0, 0.1], {"good": torch.tensor([1.0, 0.39]), "bad": torch.tensor([1.0, 0.4])}, chance)
    assert told_of(removal, "good", "cat", 100) == (
        "Without the 10 of 100 patches that it marks most, “cat” goes from 100.0% to 39.0%; without as many at random, to "
        "50.0% (mean of 2 draws)."
    )
    assert "no better than random" in told_of(removal, "bad", "cat", 100)


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
