"""Cross-layer transcoders: what their weights compute, and their files."""

import json

import numpy as np
import pytest
import torch

from vitlens import InputError, load_sae
from vitlens.features import CrossLayerTranscoder

READ, WRITE = "blocks.{}.hook_resid_mid", "blocks.{}.hook_mlp_out"
NORMALISED = "blocks.{}.ln2.hook_normalized"


@pytest.fixture(scope="module")
def arrays_of():
    """Seeded weights of blocks with different numbers of features."""

    def make(widths=(5, 7, 4), d=32, skip=False, seed=0):
        generator, n = np.random.default_rng(seed), len(widths)
        scale = (sum(widths) / n) ** -0.5
        found = {
            "W_enc": [generator.normal(size=(d, width)) * d**-0.5 for width in widths],
            "b_enc": [generator.normal(size=width) * 0.3 for width in widths],
            "W_dec": [generator.normal(size=(n - i, width, d)) * scale for i, width in enumerate(widths)],
            "b_dec": [generator.normal(size=d) * 0.2 for _ in widths],
        }
        return found | ({"W_skip": [generator.normal(size=(d, d)) * d**-0.5 for _ in widths]} if skip else {})

    return make


@pytest.fixture(scope="module")
def clt_of(arrays_of):
    def make(widths=(5, 7, 4), d=32, skip=False, seed=0, reads=READ, **options):
        hooks = {"hooks": [reads.format(i) for i in range(len(widths))]}
        hooks |= {"hooks_out": [WRITE.format(i) for i in range(len(widths))]}
        return CrossLayerTranscoder.from_arrays(**arrays_of(widths, d, skip, seed), **hooks, **options)

    return make


def in_numpy(w, xs, active=lambda h: np.maximum(h, 0)):
    """The definition, block by block: every feature writes into its own block and into all later ones."""
    features = [active(x @ w["W_enc"][i] + w["b_enc"][i]) for i, x in enumerate(xs)]
    written = []
    for j, x in enumerate(xs):
        y = w["b_dec"][j] + (x @ w["W_skip"][j].T if "W_skip" in w else 0)
        for i in range(j + 1):
            y = y + features[i] @ w["W_dec"][i][j - i]
        written.append(y)
    return features, written


@pytest.mark.parametrize("skip", [False, True])
def test_what_it_computes(arrays_of, clt_of, skip):
    xs = [torch.randn(2, 3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    clt = clt_of(skip=skip)
    features, written = in_numpy(arrays_of(skip=skip), [x.numpy() for x in xs])
    for found, expected in zip([*clt.encode(xs), *clt(xs)], [*features, *written], strict=True):
        assert np.abs(found.numpy() - expected).max() < 1e-12
    # One block alone: its features, and what they write into their own block.
    layer = clt.of_block(2)
    alone = clt.b_dec[2] + clt.encode(xs)[2] @ clt.W_dec[2][0] + (xs[2] @ clt.W_skip[2].T if skip else 0)
    assert torch.allclose(layer(xs[2]), alone, atol=1e-12)
    assert (layer.hook, layer.hook_out) == (READ.format(2), WRITE.format(2))
    topk = clt_of(activation="topk", k=[1, 3, 2])
    assert [(f != 0).sum(-1).max().item() for f in topk.encode(xs)] == [1, 3, 2]


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({"widths": (6, 6, 6)}, True),
        ({"widths": (6, 6, 6), "activation": "jumprelu", "threshold": [0.1, [0.2] * 6, 0.3]}, True),
        ({}, False),
        ({"activation": "topk", "k": [1, 3, 2]}, False),
        ({"widths": (6, 6, 6), "skip": True}, True),
        ({"widths": (6, 6, 6), "reads": NORMALISED}, False),
    ],
)
def test_a_saved_folder_is_read_again(clt_of, tmp_path, options, theirs):
    clt = clt_of(**options)
    clt.save(tmp_path)
    again = load_sae(tmp_path)
    assert isinstance(again, CrossLayerTranscoder)
    assert (again.hooks, again.hooks_out) == (clt.hooks, clt.hooks_out)
    xs = [torch.randn(4, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(again(xs), clt(xs), strict=True))
    settings = json.loads((tmp_path / "config.yaml").read_text())
    # circuit-tracer opens folders of this kind alone: what it would compute otherwise has another.
    assert (settings["model_kind"] == "cross_layer_transcoder") == theirs
    assert load_sae(tmp_path, dtype="float32").W_dec[0].dtype == torch.float32


def test_a_folder_of_circuit_tracer_by_its_layout(arrays_of, tmp_path):
    """W_enc_i [feature, d], W_dec_i [feature, later block, d], and a config.yaml that names the sites of all blocks."""
    from safetensors.torch import save_file

    w = arrays_of((6, 6, 6))
    tensors = {name: [torch.from_numpy(value) for value in values] for name, values in w.items()}
    for i in range(3):
        encoder = {"W_enc": tensors["W_enc"][i].T, "b_enc": tensors["b_enc"][i], "b_dec": tensors["b_dec"][i]}
        encoder["threshold"] = torch.full((6,), 0.25, dtype=torch.float64)
        save_file({f"{name}_{i}": t.contiguous() for name, t in encoder.items()}, tmp_path / f"W_enc_{i}.safetensors")
        decoder = tensors["W_dec"][i].movedim(1, 0).contiguous()
        save_file({f"W_dec_{i}": decoder}, tmp_path / f"W_dec_{i}.safetensors")
    (tmp_path / "config.yaml").write_text(
        "model_kind: cross_layer_transcoder\nfeature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n"
    )
    clt = load_sae(tmp_path)
    assert clt.hooks == [f"blocks.{i}.hook_resid_mid" for i in range(3)]
    xs = [np.random.default_rng(i).normal(size=(4, 32)) for i in range(3)]
    _, written = in_numpy(w, xs, lambda h: h * (h > 0.25))
    for found, expected in zip(clt([torch.from_numpy(x) for x in xs]), written, strict=True):
        assert np.abs(found.numpy() - expected).max() < 1e-12
    skip = torch.from_numpy(np.random.default_rng(9).normal(size=(3, 32, 32)))
    for i in range(3):
        held = {"W_enc": tensors["W_enc"][i].T, "b_enc": tensors["b_enc"][i], "b_dec": tensors["b_dec"][i]}
        held |= {"threshold": torch.full((6,), 0.25, dtype=torch.float64), "W_skip": skip[i]}
        save_file({f"{name}_{i}": t.contiguous() for name, t in held.items()}, tmp_path / f"W_enc_{i}.safetensors")
    # circuit-tracer adds x W_skip, not x W_skipᵀ.
    again = load_sae(tmp_path)([torch.from_numpy(x) for x in xs])
    for found, expected, x, matrix in zip(again, written, xs, skip, strict=True):
        assert np.abs(found.numpy() - expected - x @ matrix.numpy()).max() < 1e-12
    about = (tmp_path / "config.yaml").read_text()
    for changed, said in (
        (about.replace("hook_resid_mid", "ln2.hook_normalized"), "holds something else here or nothing"),
        (about + "activation: relu", "which has none"),
        (about.replace("cross_layer_transcoder", "transcoder_set"), "model_kind is 'transcoder_set'"),
    ):
        (tmp_path / "config.yaml").write_text(changed)
        with pytest.raises(InputError, match=said):
            load_sae(tmp_path)
    (tmp_path / "config.yaml").write_text(about)
    (tmp_path / "W_dec_1.safetensors").unlink()
    with pytest.raises(InputError, match=r"there is no file .*W_dec_1"):
        load_sae(tmp_path)


def test_weights_that_do_not_fit_are_refused(arrays_of, clt_of):
    hooks = {"hooks": [READ.format(i) for i in range(3)], "hooks_out": [WRITE.format(i) for i in range(3)]}
    w = arrays_of()
    w["W_dec"][1][0, 0, 0] = np.nan
    with pytest.raises(InputError, match="W_dec of block 1 holds 1 NaN"):
        CrossLayerTranscoder.from_arrays(**w, **hooks)
    w = arrays_of()
    with pytest.raises(InputError, match=r"of block 0 W_enc is \[d_in, features\] and W_dec \[3, features"):
        CrossLayerTranscoder.from_arrays(**w | {"W_dec": w["W_dec"][::-1]}, **hooks)
    with pytest.raises(InputError, match="names 2 blocks, and W_enc has the weights of 3"):
        CrossLayerTranscoder.from_arrays(**w, hooks=hooks["hooks"][:2], hooks_out=hooks["hooks_out"][:2])
    with pytest.raises(InputError, match=r"b_enc of block 1 has the shape \[7\]"):
        CrossLayerTranscoder.from_arrays(**w | {"b_enc": [np.zeros(5)] * 3}, **hooks)
    with pytest.raises(InputError, match="one for each of its 3 blocks"):
        clt_of().encode([torch.zeros(3, 32, dtype=torch.float64)])
