"""The demo: its files are what they are said to be, also from an installed wheel, and its model uses object and context."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vitlens
from vitlens.demo import demo_folder
from vitlens.heatmaps import Heatmap

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "experiments"))

from demo_fashion import (  # noqa: E402
    CLASS_NAMES,
    DEBIAN_FOLDER,
    Garments,
    agreeing_contexts,
    conflicting_contexts,
    make_pictures,
)


@pytest.fixture(scope="module")
def demo():
    return vitlens.load_demo()


def test_a_hundred_pictures_in_pairs(demo):
    model, images, labels, masks = demo
    pictures = vitlens.demo.load_demo_pictures(model)
    assert images.shape == (100, 3, 56, 56)
    assert masks.shape == (100, 56, 56)
    assert masks.dtype == torch.bool
    assert labels.bincount().tolist() == [10] * 10
    assert torch.equal(pictures.contexts[pictures.agreeing], labels[pictures.agreeing])
    assert (pictures.contexts[pictures.conflicting] != labels[pictures.conflicting]).all()
    inside = masks[pictures.agreeing][:, None].expand(-1, 3, -1, -1)
    assert torch.equal(masks[pictures.agreeing], masks[pictures.conflicting])
    clean, other = images[pictures.agreeing], images[pictures.conflicting]
    assert torch.equal(clean[inside], other[inside]), "only the context differs"
    assert (clean[~inside] != other[~inside]).float().mean() > 0.95


def test_preprocessing_leaves_the_pixels_as_they_are(demo):
    model = demo[0]
    shown = model.preprocessing.undo(demo[1][:1])
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    path = vitlens.demo.load_demo_pictures(model).paths[0]
    pixels = pil_to_tensor(Image.open(path)).permute(1, 2, 0) / 255
    torch.testing.assert_close(shown[0], pixels, rtol=0, atol=1e-6)


def test_the_weights_are_small_and_names_are_known(demo):
    assert (demo_folder() / "model.safetensors").stat().st_size <= 2 * 2**20
    assert tuple(demo[0].class_names) == CLASS_NAMES
    assert all(tensor.isfinite().all() for tensor in load_file(demo_folder() / "model.safetensors").values())


def test_the_model_uses_object_and_context(demo):
    model, images, labels, _ = demo
    right = (model(images).argmax(-1) == labels).float()
    agreeing, conflicting = right[0::2].mean(), right[1::2].mean()
    assert agreeing >= 0.9
    assert conflicting >= 0.4, "far above the 2 % of a model that reads the texture alone"
    assert agreeing > conflicting + 0.1


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_dictionary_explains_pictures_that_it_has_not_seen(demo):
    model, images, labels, _ = demo
    sae = vitlens.demo.load_demo_dictionary()
    assert sae.d_sae == 8 * model.cfg.d_model
    assert sae.W_dec.dtype == torch.float32
    found = vitlens.features.evaluate_sae(model, images[:20], sae=sae, labels=labels[:20])
    assert found["explained_variance"] >= 0.92
    assert found["l0"] <= 9
    assert found["loss_recovered_mean"] >= 0.95
    assert bytes_in(demo_folder() / "dictionaries" / "sae") <= 1e6


def test_all_mlps_can_be_replaced_by_their_transcoders_at_once(demo):
    model, images = demo[0], demo[1][:50]
    transcoders = vitlens.demo.load_demo_transcoders()
    assert [sae.hook for sae in transcoders.values()] == [f"blocks.{i}.ln2.hook_normalized" for i in range(6)]
    assert list(transcoders) == [sae.hook for sae in transcoders.values()]
    clean = model(images)
    with vitlens.features.with_saes(model, transcoders):
        replaced = model(images)
    assert (replaced.argmax(-1) == clean.argmax(-1)).float().mean() >= 0.85, "half of them with a conflicting context"
    with vitlens.features.with_saes(model, transcoders, error_term=True):
        assert (model(images) - clean).abs().max() <= 1e-4 * clean.abs().max()
    assert bytes_in(demo_folder() / "dictionaries" / "transcoders") <= 1.5e6


@pytest.mark.skipif(not DEBIAN_FOLDER.exists(), reason="Debian's package dataset-fashion-mnist is not installed")
@pytest.mark.parametrize("n_garments", [250, pytest.param(10_000, marks=pytest.mark.slow)])
def test_accuracy_on_held_out_garments_is_as_promised(n_garments):
    from evaluate_demo_model import evaluate

    accuracy = evaluate(fashion=None, seed=1, n_garments=n_garments, batch_size=250)
    assert accuracy["agreeing"] >= 0.90
    assert 0.65 <= accuracy["conflicting"] <= 0.85


def garments(n: int) -> Garments:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(20, 255, (n, 28, 28), generator=generator).to(torch.uint8)
    silhouettes = torch.zeros(n, 28, 28, dtype=torch.bool)
    silhouettes[:, 6:22, 8:20] = True
    return Garments(images, silhouettes, torch.arange(n) % 10)


def test_a_seed_is_a_data_set():
    some = garments(20)
    contexts = some.labels
    first, again, other = (make_pictures(some, contexts, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.masks, again.masks)
    assert not torch.equal(first.images, other.images)
    share = first.masks.float().mean((1, 2))
    assert (share > 0.03).all()
    assert (share < 0.5).all()


def test_contexts_agree_and_conflict_as_asked():
    labels = torch.arange(10).repeat(2000)
    generator = torch.Generator().manual_seed(0)
    assert (conflicting_contexts(labels, generator) != labels).all()
    agree = (agreeing_contexts(labels, 0.5, generator) == labels).float().mean().item()
    assert agree == pytest.approx(0.55, abs=0.02)


def test_everything_works_from_an_installed_wheel(tmp_path):
    """Among it a result that another Python has saved, whose class nothing has imported."""
    saved = Heatmap(torch.rand(1, 2, 2), {"image": [0], "row": [0, 1], "column": [0, 1]}, "importance")
    saved.save(tmp_path / "map.safetensors")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*build, str(tmp_path), str(REPOSITORY)], check=True, capture_output=True)
    wheel = next(tmp_path.glob("vitlens-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import vitlens; from vitlens.pages import page; page._environment().get_template('page.html.j2');"
        "model, images, labels, masks = vitlens.load_demo(); print(vitlens.__file__, tuple(images.shape));"
        "print(len(vitlens.demo.load_demo_transcoders()), vitlens.demo.load_demo_dictionary().hook);"
        "print(vitlens.text.load_vocabulary()[0]);"
        "tower = vitlens.demo.load_demo_words()[1]; print(tuple(tower.embed('a bag').shape));"
        "found = vitlens.load_result('map.safetensors'); print(type(found).__name__, found.settings)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = f"{tmp_path / 'site' / 'vitlens' / '__init__.py'} (100, 3, 56, 56)"
    assert done.stdout == f"{loaded}\n6 blocks.3.hook_resid_post\nred\n(1, 64)\nHeatmap {{}}\n"
