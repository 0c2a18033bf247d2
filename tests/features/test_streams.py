"""Streams give every row with its picture and token, whatever the hook point, and run no more blocks than they need."""

import numpy as np
import pytest
import torch
from PIL import Image

from vitlens import InputError
from vitlens.data.picture_sets import open_pictures
from vitlens.features import SparseAutoencoder, evaluate_sae, stream_activations, with_sae

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*")


def gathered(stream):
    parts = list(stream)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_every_row_is_the_activation_of_its_picture_and_token(classifier, images_of):
    images = images_of(classifier, 5)
    stream = stream_activations(classifier, images, hook=("resid_post", 1), tokens="all", batch_size=2, progress=False)
    rows = gathered(stream)
    cache = classifier.run_with_cache(images, names_filter=stream.hook)[1][stream.hook]
    assert stream.hook == "blocks.1.hook_resid_post"
    assert len(rows["image"]) == cache.shape[0] * cache.shape[1]
    assert torch.allclose(rows["activations"], cache[rows["image"], rows["token"]], atol=1e-10, rtol=0)
    again = gathered(stream)
    assert all(torch.equal(rows[name], again[name]) for name in rows)


@pytest.mark.parametrize("name", ["distilled", "registers", "attention_pool", "post_norm"])
def test_any_hook_point_can_be_streamed(variant, images_of, name):
    model = variant(name)
    images = images_of(model, 3)
    _, cache = model.run_with_cache(images)
    for hook in model.hook_dict:
        if hook not in cache.cache_dict:
            continue
        rows = gathered(stream_activations(model, images, hook=hook, tokens="all", batch_size=2, progress=False))
        activation = cache[hook]
        assert rows["activations"].numel() == activation.numel(), hook
        axis = model.hook_dict[hook].pos_dim
        first = rows["token"].min()
        for i in (0, len(rows["image"]) // 2, len(rows["image"]) - 1):
            expected = activation[rows["image"][i]]
            if axis != 0:
                expected = expected.select(axis, int(rows["token"][i] - first))
            else:
                assert rows["token"][i] == -1
            assert torch.allclose(rows["activations"][i], expected.flatten(), atol=1e-9, rtol=0), hook


def test_tokens_are_counted_in_the_whole_sequence(variant, images_of):
    model = variant("registers")
    images = images_of(model, 2)
    tokens = {
        hook: stream_activations(model, images, hook=hook, tokens="patches", progress=False).sample(3)["token"].min()
        for hook in ("hook_patch_embed", "resid_post0")
    }
    assert min(tokens.values()) >= 5
    only = gathered(stream_activations(model, images, hook="resid_post0", tokens="class", progress=False))
    assert only["token"].tolist() == [0, 0]
    patch_rows = gathered(stream_activations(model, images, hook="hook_patch_embed", progress=False))
    assert patch_rows["token"][:9].tolist() == list(range(5, 14))


def test_a_dictionary_is_judged_on_the_tokens_it_was_trained_on(variant, images_of):
    """The defaults agree: the principal components of a default stream explain its rows, and are judged on the same."""
    model = variant("class_token")
    images = images_of(model, 4)
    stream = stream_activations(model, images, hook="resid_post1", progress=False)
    assert repr(stream) == "ActivationStream(blocks.1.hook_resid_post, tokens: all, pictures: 4)"
    rows = gathered(stream)["activations"]
    assert len(rows) == 4 * 10, "the class token and nine patches"
    mean = rows.mean(dim=0)
    components = torch.linalg.svd(rows - mean, full_matrices=False).Vh[:3]
    both = torch.cat([components, -components])
    sae = SparseAutoencoder.from_arrays(both.T, None, both, mean, centred=True, hook=stream.hook)
    result = evaluate_sae(model, images, sae=sae, progress=False)
    explained = 1 - (rows - sae(rows)).pow(2).sum() / (rows - mean).pow(2).sum()
    assert result["explained_variance"] == pytest.approx(float(explained), abs=1e-9)
    assert result.settings["rows"] == len(rows)
    assert "tokens: all; explained_variance" in repr(result)
    with with_sae(model, None, sae, record=True) as spliced:
        model(images)
    assert spliced.tokens.tolist() == list(range(10))
    patches = stream_activations(model, images, hook="resid_post1", tokens="patches", progress=False)
    assert "tokens: patches" in repr(patches)
    some = evaluate_sae(model, images, sae=sae, tokens=patches.tokens, metrics="reconstruction", progress=False)
    assert "tokens: patches" in repr(some)
    assert some.settings["rows"] == 36


def test_heads_may_stand_apart(plain, images_of):
    images = images_of(plain, 2)
    rows = gathered(stream_activations(plain, images, hook=("z", 1), tokens="all", join_heads=False, progress=False))
    z = plain.run_with_cache(images)[1]["z", 1]
    assert torch.allclose(rows["activations"], z[rows["image"], rows["token"], rows["head"]], atol=1e-12)
    joined = gathered(stream_activations(plain, images, hook=("z", 1), tokens="all", progress=False))
    assert torch.allclose(joined["activations"], z.flatten(2).flatten(0, 1), atol=1e-12)
    with pytest.raises(InputError, match="has no heads"):
        next(iter(stream_activations(plain, images, hook="resid_post0", join_heads=False, progress=False)))


def test_blocks_behind_the_hook_point_do_not_run(plain, images_of):
    ran = []
    for block in range(3):
        plain.add_hook(f"blocks.{block}.hook_resid_pre", lambda x, hook: ran.append(hook.name))
    plain.add_hook("hook_pooled", lambda x, hook: ran.append(hook.name))
    list(stream_activations(plain, images_of(plain, 2), hook="hook_embed", batch_size=2, progress=False))
    assert ran == []
    list(stream_activations(plain, images_of(plain, 2), hook=("resid_post", 1), batch_size=2, progress=False))
    assert ran == ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"]
    assert len(plain.hook_dict["hook_pooled"].fwd_hooks) == 1, "hooks of the user's own stay"
    assert not plain.hook_dict["blocks.1.hook_resid_post"].fwd_hooks


def test_a_sample_is_uniform_and_does_not_depend_on_batches(plain, images_of):
    images = images_of(plain, 6)
    about = {"hook": "resid_post0", "tokens": "patches", "progress": False}
    samples = [stream_activations(plain, images, batch_size=size, **about).sample(11, seed=3) for size in (1, 4)]
    for name in samples[0]:
        assert torch.allclose(samples[0][name].double(), samples[1][name].double(), atol=1e-12), name
    order = (samples[0]["image"] * 100 + samples[0]["token"]).tolist()
    assert order == sorted(set(order)), "without replacement, in order"
    stream = stream_activations(plain, images, hook="resid_post0", tokens="patches", progress=False)
    assert stream.sample(54)["image"].tolist() == [i for i in range(6) for _ in range(9)]
    drawn = np.zeros(54)
    for seed in range(60):
        rows = stream_activations(plain, images, hook="hook_patch_embed", progress=False).sample(18, seed=seed)
        drawn[(rows["image"] * 9 + rows["token"] - 1).numpy()] += 1
    # 60 draws of a third of the rows: each row about 20 times, with a deviation of 3.7.
    assert drawn.min() > 5
    assert drawn.max() < 36
    with pytest.raises(InputError, match="the pictures give 54"):
        stream.sample(55)


def test_a_table_keeps_rows_and_ids(plain, images_of, tmp_path):
    images = images_of(plain, 3)
    stream = stream_activations(plain, images, hook="resid_post2", tokens=[0, 4], progress=False)
    rows = gathered(stream)
    for table in (stream.to_dataset(), stream.to_dataset(tmp_path / "table"), stream.to_dataset(tmp_path / "table")):
        read = table.with_format("torch", dtype=None)[:]
        assert table.column_names == ["activations", "image", "token"]
        assert torch.equal(read["activations"].double(), rows["activations"])
        assert read["image"].tolist() == [0, 0, 1, 1, 2, 2]
        assert read["token"].tolist() == [0, 4] * 3
    other = stream_activations(plain, images_of(plain, 3, seed=1), hook="resid_post2", tokens=[0, 4], progress=False)
    changed = other.to_dataset(tmp_path / "table").with_format("torch")[:]["activations"].double()
    assert not torch.allclose(changed, rows["activations"]), "a table is never taken for another of the same folder"


def test_what_a_stream_raises_a_table_raises(plain, images_of):
    broken = [images_of(plain, 1), torch.full_like(images_of(plain, 1), float("nan"))]
    with pytest.raises(InputError, match="NaN"):
        stream_activations(plain, broken, hook="resid_post0", progress=False).to_dataset()


def test_sources_give_the_same_rows(plain, images_of, tmp_path):
    generator = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for i in range(5):
        (folder / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (60, 60, 3), dtype=np.uint8)).save(folder / str(i % 2) / f"{i}.png")
    paths = sorted(folder.rglob("*.png"))
    images = plain.to_images(paths)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, torch.arange(5)), batch_size=2)
    sources = {
        "tensor": images,
        "paths": paths,
        "batches": [images[:3], images[3:]],
        "loader": loader,
        "function": lambda: iter([images[:1], images[1:]]),
        "set": open_pictures(folder, None, 10),
    }
    wanted = gathered(stream_activations(plain, images, hook="resid_post0", progress=False))
    for name, source in sources.items():
        stream = stream_activations(plain, source, hook="resid_post0", batch_size=2, progress=False)
        for _ in range(2):
            rows = gathered(stream)
            assert rows["image"].tolist() == wanted["image"].tolist(), name
            assert torch.allclose(rows["activations"], wanted["activations"], atol=1e-10), name


def test_pictures_that_cannot_be_read_keep_the_others_numbers(plain, tmp_path):
    folder = tmp_path / "pictures" / "0"
    folder.mkdir(parents=True)
    for i in (0, 2):
        Image.fromarray(np.full((50, 50, 3), 40 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    (folder / "1.png").write_bytes(b"nothing")
    stream = stream_activations(
        plain, open_pictures(tmp_path / "pictures", None, 10), hook="resid_post0", progress=False
    )
    assert set(gathered(stream)["image"].tolist()) == {0, 2}
    assert [skipped.path.endswith("1.png") for skipped in stream.pictures.skipped] == [True]


def test_mistakes_are_said_in_a_sentence(plain, images_of, tmp_path):
    images = images_of(plain, 2)
    with pytest.raises(InputError, match="stands for 3 hook points"):
        stream_activations(plain, images, hook="resid_post", progress=False)
    with pytest.raises(InputError, match=r"is a folder: pass vitlens\.open_pictures"):
        stream_activations(plain, str(tmp_path), hook="resid_post0")
    with pytest.raises(InputError, match="no hook point is called"):
        stream_activations(plain, images, hook="resid_pots1", progress=False)
    with pytest.raises(InputError, match="no token set is called"):
        list(stream_activations(plain, images, hook="resid_post1", tokens="patch", progress=False))
    with pytest.raises(InputError, match="join_heads is True or False"):
        stream_activations(plain, images, hook="z1", join_heads="mixed", progress=False)
    with pytest.raises(InputError, match="batch_size"):
        stream_activations(plain, images, hook="z1", batch_size=0, progress=False)
    once = stream_activations(plain, iter([images]), hook="resid_post1", progress=False)
    assert len(list(once)) == 1
    with pytest.raises(InputError, match="used up once"):
        list(once)
    with pytest.raises(InputError, match="not a dictionary"):
        list(stream_activations(plain, [{"pixels": images}], hook="resid_post1", progress=False))
