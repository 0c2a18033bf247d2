"""A description as a whole: norms and outliers against a full cache, streams of every form, tables, warnings, refusals."""

import numpy as np
import pytest
import torch
from outliers import BRIGHT
from PIL import Image
from ported import ALL, build
from variants import build as build_timm
from variants import pictures

import vitlens.description.observer as observer
from vitlens import InputError, load_demo
from vitlens.description.result import Description
from vitlens.description.run import describe
from vitlens.description.sinks import SinkRule
from vitlens.description.token_norms import BIN_EDGES
from vitlens.model.hooked_vit import HookedViT
from vitlens.registers import find_register_neurons
from vitlens.results.result import load_result

TENSORS = ("values", "token_norms", "outlier_counts", "norm_histogram", "example_norms", "sink_events", "sink_tokens",
           "head_similarity", "cka")  # fmt: skip


def same(left, right, tolerance=1e-9):
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def same_descriptions(left: Description, right: Description, tolerance=1e-9):
    for name in TENSORS:
        same(getattr(left, name), getattr(right, name), tolerance)
    assert left.settings == right.settings
    assert left.warnings == right.warnings


def test_norms_of_every_architecture(classifier, images_of):
    cfg, images = classifier.cfg, images_of(classifier, 5)
    description = describe(classifier, images, batch_size=2, outlier_threshold=1.05, n_examples=3, progress=False)
    _, cache = classifier.run_with_cache(images, names_filter="resid_post")
    norms = torch.stack([cache["resid_post", block].norm(dim=-1) for block in range(cfg.n_layers)], dim=1)
    labels = ["register" if label.startswith("register") else label for label in cfg.prefix_tokens]
    labels += ["patch"] * (norms.shape[-1] - len(labels))
    assert description.settings["kinds"] == list(dict.fromkeys(labels))
    for i, kind in enumerate(description.settings["kinds"]):
        of_kind = norms[..., [label == kind for label in labels]]
        expected = [of_kind.mean(dim=(0, 2)), of_kind.median(dim=2).values.mean(dim=0), of_kind.amax(dim=(0, 2))]
        same(description.token_norms[:, i], torch.stack(expected, dim=1))
    patches = norms[..., cfg.n_prefix_tokens :]
    ratio = patches / patches.median(dim=-1, keepdim=True).values
    outlier = ratio > 1.05
    assert outlier.any()
    assert torch.equal(description.outlier_counts.flatten(1), outlier.sum(dim=0))
    same(description.outlier_share(), outlier.double().mean(dim=(0, 2)))
    same(description.example_norms.flatten(2), patches[:3])
    late = max(cfg.n_layers - 2, 0)
    already = [(outlier[:, block] & outlier[:, late]).sum().item() for block in range(cfg.n_layers)]
    first = next(block for block, n in enumerate(already) if 2 * n >= already[late])
    assert description.settings["outlier_block"] == first
    for block in range(cfg.n_layers):
        counts = np.histogram(ratio[:, block], bins=[-np.inf, *BIN_EDGES.tolist(), np.inf])[0]
        assert description.norm_histogram[block].tolist() == counts.tolist()


@pytest.mark.parametrize("name", ["class_token", "registers", "differential", "average_without_class_token", "rotary"])
def test_batches_do_not_matter(name, monkeypatch):
    model = build(name)
    images = pictures(model.cfg, 11)
    options = {"cka_rows": 4, "outlier_threshold": 1.05, "progress": False}
    at_once = describe(model, images, batch_size=11, **options)
    for batch_size in (1, 4):
        same_descriptions(describe(model, images, batch_size=batch_size, **options), at_once)
    # Patterns that would take too much memory together are cut further.
    monkeypatch.setattr(observer, "PATTERN_BYTES", 1)
    same_descriptions(describe(model, images, batch_size=5, **options), at_once)


def test_pictures_of_every_form(tmp_path):
    model, images, labels, _ = load_demo()
    images, labels = images[:7], labels[:7]
    expected = describe(model, images, progress=False)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=3)
    for given in (loader, iter(images.split(2)), list(images.split(4)), (batch for batch in [images])):
        same_descriptions(describe(model, given, batch_size=3, progress=False), expected, 1e-5)
    pixels = [(255 * picture.numpy()).round().astype(np.uint8) for picture in model.to_pixels(images)]
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for path, picture in zip(paths, pixels, strict=True):
        Image.fromarray(picture).save(path)
    from_files = describe(model, paths, batch_size=3, progress=False)
    same_descriptions(describe(model, model.to_images(paths), progress=False), from_files, 1e-5)
    for given in (pixels, map(str, paths), [paths[:4], paths[4:]], [Image.open(path) for path in paths]):
        same_descriptions(describe(model, given, batch_size=3, progress=False), from_files, 1e-5)
    assert describe(model, paths[0], progress=False).n_images == 1
    assert describe(model, images[0], progress=False).n_images == 1


def test_files_are_read_when_their_turn_comes(plain, images_of):
    """Not more than a forward's pictures are taken from a stream before it runs."""
    taken, ran = [], []
    plain.add_hook("embed", lambda x, hook: ran.append(len(x)))

    def stream():
        for i in range(6):
            assert sum(ran) == len(taken)
            taken.append(i)
            yield images_of(plain, 1, seed=i)

    assert describe(plain, stream(), progress=False).n_images == 6


def test_planted_outliers_are_found_and_warned_of(planted):
    model, images = planted
    description = describe(model, images, late_block=2, progress=False)
    counts = torch.zeros(4, 4, dtype=torch.long)
    for row, column in BRIGHT:
        counts[row, column] += 1
    assert torch.equal(description.outlier_counts[2], counts)
    assert not description.outlier_counts[0].any()
    found = find_register_neurons(model, images, k=1, late_block=2, progress=False)
    assert description.settings["outlier_block"] == found.outlier_block == 1
    assert description.outlier_counts[2].sum() == found.n_outliers
    first = description.warnings[0]
    assert first.startswith(
        "6.2 % of the patches (1.0 a picture) have norms above 5 times their picture's median after block 2"
    )
    assert "from block 1 on" in first
    assert not any("fixed places" in sentence for sentence in description.warnings)
    alone = describe(model, images[:1], late_block=2, progress=False).warnings
    assert any("fixed places: (0, 1) (row, column)" in sentence for sentence in alone)
    assert describe(model, images, late_block=2, outlier_threshold=1000.0, progress=False).warnings == [
        sentence for sentence in description.warnings if "sinks" in sentence
    ]


def test_the_corners_of_a_trained_model(assets):
    """The ImageNet ViT-Ti/16 parks the attention of its late heads in the corners."""
    weights = assets / "vit_tiny_patch16_224_imagenet1k.safetensors"
    model = HookedViT.from_timm("vit_tiny_patch16_224", checkpoint_path=weights)
    files = sorted((assets / "photos" / "imagenet").glob("*.jpg"))[:8]
    description = describe(model, files, progress=False)
    assert description.settings["outlier_block"] == 7
    corners = torch.zeros(14, 14, dtype=torch.bool)
    corners[::13, ::13] = True
    counts = description.outlier_counts[10]
    assert (counts[corners] >= 4).all()
    assert not counts[~corners].any()
    assert (description.fact("patch_to_outliers")[9:].mean(dim=1) > 0.4).all()
    assert description.sink_kind()[10].count("no-op") >= 2
    assert [row[0] for row in description.sink_token()[10:]] == ["outlier patch"] * 2
    assert description.fact("distance")[1].min() < 30 < 130 < description.fact("distance")[10].min()
    assert any("(0, 0), (0, 13), (13, 0), (13, 13)" in sentence for sentence in description.warnings)
    single = describe(model, files, sink_rule=SinkRule(keys=0.0), progress=False)
    assert "no-op" not in single.sink_kind()[10]


def test_tables(plain, images_of, tmp_path):
    images = images_of(plain, 5)
    description = describe(plain, images, progress=False)
    table = description.heads
    assert len(table) == 12
    assert table.loc[7, ["block", "head"]].tolist() == [1, 3]
    assert table.loc[7, "distance"] == description.fact("distance")[1, 3].item()
    assert set(table["sink"]) <= {"none", "no-op", "broadcast", "other"}
    blocks = description.blocks
    assert len(blocks) == 3
    assert blocks.loc[1, "patch_norm_max"] == description.token_norms[1, 1, 2].item()
    assert blocks.loc[2, "mean_distance"] == pytest.approx(description.fact("distance")[2].mean().item())
    assert repr(description).startswith("Description(vit_tiny_patch16_224: 3 blocks × 4 heads, 20 facts, 5 pictures")
    with pytest.raises(InputError, match="no fact 'length' of the heads of this model; there are distance, "):
        description.fact("length")
    description.save(tmp_path / "d.safetensors")
    loaded = load_result(tmp_path / "d.safetensors")
    assert isinstance(loaded, Description)
    same_descriptions(loaded, description)
    assert loaded.heads.equals(table)
    few = describe(plain, images[:3], progress=False)
    assert few.cka is None
    few.save(tmp_path / "d.safetensors")
    assert load_result(tmp_path / "d.safetensors").cka is None


def test_the_model_is_left_as_it_was(plain, images_of):
    images = images_of(plain, 4)
    before = plain(images)
    plain.add_hook("pattern0", lambda x, hook: None)
    described = describe(plain, images, progress=False)
    assert [name for name, point in plain.hook_dict.items() if point.has_hooks()] == ["blocks.0.attn.hook_pattern"]
    assert torch.equal(plain(images), before) or torch.allclose(plain(images), before, atol=1e-12)
    assert not described.values.requires_grad
    assert all(parameter.grad is None for parameter in plain.parameters())
    with pytest.raises(InputError):
        describe(plain, [images, images[:, :2]], progress=False)
    assert [name for name, point in plain.hook_dict.items() if point.has_hooks()] == ["blocks.0.attn.hook_pattern"]


def test_edits_of_the_run_are_described(plain, images_of):
    """A description is one of the model with the hooks that it has."""
    images = images_of(plain, 4)
    plain.add_hook("pattern1", lambda x, hook: torch.eye(10, dtype=x.dtype).expand_as(x))
    description = describe(plain, images, progress=False)
    same(description.fact("patch_to_self")[1], torch.ones(4, dtype=torch.float64))
    assert (description.fact("patch_to_self")[0] < 0.9).all()


def test_wrong_input(plain, images_of):
    images = images_of(plain, 4)
    for arguments, message in [
        ({"outlier_threshold": 1.0}, "above 1, not 1"),
        ({"late_block": 3}, "no block 3"),
        ({"batch_size": 0}, "at least 1, not 0"),
        ({"cka_rows": 3}, "at least 4 pictures, not cka_rows=3"),
        ({"similarity_queries": 0}, "similarity_queries is a whole number of at least 1, not 0"),
    ]:
        with pytest.raises(InputError, match=message):
            describe(plain, images, progress=False, **arguments)
    for nothing in ([], iter(())):
        with pytest.raises(InputError, match="no pictures"):
            describe(plain, nothing, progress=False)
    with pytest.raises(InputError, match="not a dictionary of patches"):
        describe(plain, {"patches": images}, progress=False)
    with pytest.raises(InputError, match="not a dictionary of"):
        describe(plain, [{"patches": images}], progress=False)
    sizes = [torch.zeros(1, 3, *size, dtype=torch.float64) for size in ((32, 48), (48, 32))]
    with pytest.raises(InputError, match=r"\(32, 48\) and of \(48, 32\)"):
        describe(build("dynamic_size"), sizes, progress=False)
    with pytest.raises(InputError, match="reads 48 × 48"):
        describe(build("dynamic_size"), images[..., :32], other_model=plain, progress=False)


def test_a_model_of_one_block_and_no_classifier():
    model = HookedViT.from_timm(ALL["no_classifier"]())
    description = describe(model, pictures(model.cfg, 4), progress=False)
    assert description.values.shape == (3, 4, 20)
    single = HookedViT.from_timm(build_timm(depth=1, num_heads=1))
    description = describe(single, pictures(single.cfg, 4), progress=False)
    assert description.settings["late_block"] == 0
    assert "nearest_head" not in description.heads
    assert description.redundant_heads().empty
