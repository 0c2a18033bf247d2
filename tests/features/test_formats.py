"""Every format gives the features and reconstructions that its own equations give; what is not known is refused by name."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.decomposition import NMF, PCA, DictionaryLearning, MiniBatchDictionaryLearning
from torch import nn

from vitlens import InputError
from vitlens.features import SparseAutoencoder, Transcoder, load_sae, stream_activations

D, F = 12, 30


@pytest.fixture
def x():
    return 2 * torch.randn(5, 7, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.fixture
def save(tmp_path):
    """Writes a folder as SAELens does."""

    def write(weights, name="sae", **cfg):
        folder = tmp_path / name
        folder.mkdir()
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / "sae_weights.safetensors")
        always = {"normalize_activations": "none", "reshape_activations": "none"} if "metadata" in cfg else {}
        always |= {"apply_b_dec_to_input": "transcoder" not in cfg["architecture"]} if "metadata" in cfg else {}
        (folder / "cfg.json").write_text(json.dumps({"d_in": D, "d_sae": F, "dtype": "float64", **always, **cfg}))
        return folder

    return write


V6 = {"metadata": {"sae_lens_version": "6.12.1", "hook_name": "blocks.1.hook_resid_post"}, "device": "cuda"}


@pytest.mark.parametrize("centred", [True, False])
def test_standard(x, save, weights_of, centred):
    w = weights_of(D, F)
    sae = load_sae(save(w, architecture="standard", apply_b_dec_to_input=centred, **V6))
    f = torch.relu((x - (w["b_dec"] if centred else 0)) @ w["W_enc"] + w["b_enc"])
    assert torch.allclose(sae.encode(x), f, atol=1e-12)
    assert torch.allclose(sae(x), f @ w["W_dec"] + w["b_dec"], atol=1e-12)
    assert sae.hook == "blocks.1.hook_resid_post"
    assert (sae.d_in, sae.d_sae, sae.d_out) == (D, F, D)


def test_before_version_6(x, save, weights_of):
    w = weights_of(D, F)
    old = {"hook_point": "blocks.0.hook_mlp_out", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}
    sae = load_sae(save(w, "old", normalize_activations=False, **old))
    h = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    kth = h.sort(dim=-1, descending=True).values[..., 3:4]
    assert torch.allclose(sae.encode(x), torch.where(h >= kth, h.relu(), 0), atol=1e-12)
    assert sae.hook == "blocks.0.hook_mlp_out"
    tanh = load_sae(save(w, "tanh", activation_fn="tanh-relu"))
    assert torch.allclose(tanh.encode(x), h.relu().tanh(), atol=1e-12)
    scale = torch.rand(F, dtype=torch.float64) + 0.5
    tuned = load_sae(save({**w, "scaling_factor": scale}, "tuned", finetuning_scaling_factor=True))
    assert torch.allclose(tuned.encode(x), h.relu(), atol=1e-12)
    assert torch.allclose(tuned(x), (h.relu() * scale) @ w["W_dec"] + w["b_dec"], atol=1e-12)
    ones = load_sae(save({**w, "scaling_factor": torch.ones(F, dtype=torch.float64)}, "ones"))
    assert torch.allclose(ones(x), h.relu() @ w["W_dec"] + w["b_dec"], atol=1e-12)
    with pytest.raises(InputError, match="finetuning_scaling_factor"):
        load_sae(save({**w, "scaling_factor": scale}, "silent"))


def test_jumprelu(x, save, weights_of):
    w = weights_of(D, F)
    threshold = torch.linspace(-0.5, 1.5, F, dtype=torch.float64)
    folder = save({**w, "threshold": threshold}, architecture="jumprelu", apply_b_dec_to_input=False, **V6)
    h = x @ w["W_enc"] + w["b_enc"]
    f = h.relu() * (h > threshold)
    assert torch.allclose(load_sae(folder).encode(x), f, atol=1e-12)
    positive = threshold.abs() + 0.1
    logged = save(
        {**w, "log_threshold": positive.log()}, "training", architecture="jumprelu", apply_b_dec_to_input=False
    )
    assert torch.allclose(load_sae(logged).encode(x), h.relu() * (h > positive), atol=1e-12)


@pytest.mark.parametrize("rescaled", [True, False])
def test_topk(x, save, weights_of, rescaled):
    w = weights_of(D, F)
    folder = save(w, architecture="topk", k=3, rescale_acts_by_decoder_norm=rescaled, **V6)
    h = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    norms = w["W_dec"].norm(dim=-1) if rescaled else torch.ones(F, dtype=torch.float64)
    f = torch.zeros_like(h)
    for row in np.ndindex(h.shape[:2]):
        best = (h[row] * norms).argsort(descending=True)[:3]
        f[row][best] = (h[row] * norms)[best].clamp(min=0)
    sae = load_sae(folder)
    assert torch.allclose(sae.encode(x), f, atol=1e-12)
    assert torch.allclose(sae(x), (f / norms) @ w["W_dec"] + w["b_dec"], atol=1e-12)


def test_batchtopk_of_a_training_checkpoint(x, save, weights_of):
    w = weights_of(D, F)
    weights = {**w, "topk_threshold": torch.tensor(0.4, dtype=torch.float64)}
    sae = load_sae(save(weights, architecture="batchtopk", k=3.5, rescale_acts_by_decoder_norm=True, **V6))
    norms = w["W_dec"].norm(dim=-1)
    h = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norms
    assert torch.allclose(sae.encode(x), h * (h > 0.4), atol=1e-12)
    assert torch.allclose(sae(x), (h * (h > 0.4) / norms) @ w["W_dec"] + w["b_dec"], atol=1e-12)


def test_gated(x, save, weights_of):
    w = weights_of(D, F)
    gate, mag, r = (torch.randn(F, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3))
    kept = {name: w[name] for name in ("W_enc", "W_dec", "b_dec")}
    sae = load_sae(save({**kept, "b_gate": gate, "b_mag": mag, "r_mag": r}, architecture="gated", **V6))
    read = x - w["b_dec"]
    on = read @ w["W_enc"] + gate > 0
    f = torch.relu(read @ (w["W_enc"] * r.exp()) + mag) * on
    assert 0.2 < on.double().mean() < 0.8
    assert torch.allclose(sae.encode(x), f, atol=1e-12)
    assert torch.allclose(sae(x), f @ w["W_dec"] + w["b_dec"], atol=1e-12)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("jump", [True, False])
def test_transcoders(x, save, weights_of, skip, jump):
    w = weights_of(D, F, d_out=8)
    architecture = "jumprelu_" * jump + "skip_" * skip + "transcoder"
    extra = {"W_skip": torch.randn(8, D, dtype=torch.float64)} if skip else {}
    extra |= {"threshold": torch.full((F,), 0.3, dtype=torch.float64)} if jump else {}
    metadata = {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "blocks.1.hook_mlp_out"}
    cfg = {"d_out": 8, "apply_b_dec_to_input": False, "metadata": {"sae_lens_version": "6.1.0", **metadata}}
    transcoder = load_sae(save({**w, **extra}, architecture=architecture, **cfg))
    h = x @ w["W_enc"] + w["b_enc"]
    f = h * (h > (0.3 if jump else 0))
    assert isinstance(transcoder, Transcoder)
    assert (transcoder.hook, transcoder.hook_out) == tuple(metadata.values())
    assert torch.allclose(transcoder.encode(x), f, atol=1e-12)
    expected = f @ w["W_dec"] + w["b_dec"] + (x @ extra["W_skip"].T if skip else 0)
    assert torch.allclose(transcoder(x), expected, atol=1e-12)
    if skip:
        with pytest.raises(InputError, match="decode\\(features, x\\)"):
            transcoder.decode(f)


@pytest.mark.parametrize("kind", ["layer_norm", "constant_norm_rescale"])
def test_normalisations_by_row(x, save, weights_of, kind):
    w = weights_of(D, F)
    sae = load_sae(save(w, architecture="standard", normalize_activations=kind, **V6))
    if kind == "layer_norm":
        mean = x.mean(dim=-1, keepdim=True)
        deviation = ((x - mean).pow(2).sum(dim=-1, keepdim=True) / (D - 1)).sqrt()
        read, back, shift = (x - mean) / (deviation + 1e-5), deviation, mean
    else:
        back = x.pow(2).sum(dim=-1, keepdim=True).sqrt() / D**0.5
        read, shift = x / back, 0
    f = torch.relu((read - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    assert torch.allclose(sae.encode(x), f, atol=1e-12)
    assert torch.allclose(sae(x), (f @ w["W_dec"] + w["b_dec"]) * back + shift, atol=1e-12)
    with pytest.raises(InputError, match="decode"):
        sae.decode(f)


def test_activations_scaled_by_one_number(x, save, weights_of):
    w = weights_of(D, F)
    folder = save(w, architecture="standard", normalize_activations="expected_average_only_in", **V6)
    f = torch.relu((1.7 * x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    expected = (f @ w["W_dec"] + w["b_dec"]) / 1.7
    sae = load_sae(folder, scaling_factor=1.7)
    assert torch.allclose(sae.encode(x), f, atol=1e-12)
    assert torch.allclose(sae(x), expected, atol=1e-12)
    with pytest.warns(UserWarning, match="does not say by how much"):
        plain = load_sae(folder)
    assert torch.allclose(plain.encode(x), torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]), atol=1e-12)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 1.7}')
    assert torch.allclose(load_sae(folder)(x), expected, atol=1e-12)


def test_precision_and_sparsity_of_a_folder(save, weights_of):
    w = {name: value.float() for name, value in weights_of(D, F).items()}
    folder = save(w, architecture="standard", **{**V6, "dtype": "torch.float32"})
    save_file({"sparsity": torch.full((F,), -2.0)}, folder / "sparsity.safetensors")
    sae = load_sae(folder / "cfg.json")
    assert sae.W_enc.dtype == torch.float32
    assert sae.log_sparsity.tolist() == [-2.0] * F
    assert load_sae(folder, dtype=torch.float64).W_enc.dtype == torch.float64


def test_what_saelens_folders_may_not_hold(tmp_path, save, weights_of):
    w = weights_of(D, F)
    cases = {
        "temporal": ({}, {"architecture": "temporal"}),
        "W_extra": ({"W_extra": torch.zeros(2)}, {"architecture": "standard"}),
        "threshold missing": ({}, {"architecture": "jumprelu"}),
        "gelu": ({}, {"architecture": "standard", "activation_fn": "gelu"}),
        "median": ({}, {"architecture": "standard", "normalize_activations": "median"}),
        "hook_head_index is 3": ({}, {"architecture": "standard", "hook_head_index": 3}),
        "say d_in 99": ({}, {"architecture": "standard", "d_in": 99}),
        "apply_b_dec_to_input is false": ({}, {"architecture": "transcoder", "apply_b_dec_to_input": True}),
        "is no dtype": ({}, {"architecture": "standard", "dtype": "floaty"}),
    }
    for i, (said, (weights, cfg)) in enumerate(cases.items()):
        with pytest.raises(InputError, match=said):
            load_sae(save({**w, **weights}, f"case{i}", **cfg))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no dictionary of a format that vitlens reads: .*saev .*Overcomplete"):
        load_sae(tmp_path / "empty")
    with pytest.raises(InputError, match="no file or folder"):
        load_sae(tmp_path / "nothing")
    folder = save(w, "whole", architecture="standard")
    with pytest.raises(InputError, match=r"of SAELens, which does not take k=, but scaling_factor="):
        load_sae(folder, k=3)
    with pytest.raises(InputError, match="nothing for scaling_factor"):
        load_sae(folder, scaling_factor=2.0)
    (folder / "cfg.json").unlink()
    with pytest.raises(InputError, match="in the same folder"):
        load_sae(folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text("{")
    with pytest.raises(InputError, match="JSON"):
        load_sae(folder)


# ---- Overcomplete -------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(overcomplete, plain, images_of):
    """Trains one of Overcomplete's on streamed activations, for a few steps."""
    rows = (
        stream_activations(plain, images_of(plain, 8), hook="resid_post1", tokens="patches", progress=False)
        .sample(64)["activations"]
        .float()
    )

    def train(kind, **options):
        torch.manual_seed(0)
        sae = getattr(overcomplete, kind)(rows.shape[1], 40, **options)
        optimiser = torch.optim.Adam(sae.parameters(), lr=1e-2)
        for _ in range(20):
            optimiser.zero_grad()
            (sae(rows)[2] - rows).pow(2).mean().backward()
            optimiser.step()
        return sae, rows

    return train


POINTS = torch.randn(50, 32, generator=torch.Generator().manual_seed(4))
KINDS = {
    "TopKSAE": ({"top_k": 5}, {"activation": "topk", "k": 5}),
    "BatchTopKSAE": ({"top_k": 300}, {"activation": "batchtopk"}),
    "JumpSAE": ({}, {}),
    "SAE": ({}, {"activation": "relu"}),
    "RATopKSAE": ({"top_k": 5, "points": POINTS}, {"activation": "topk", "k": 5}),
    "RAJumpSAE": ({"points": POINTS}, {}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_overcomplete_gives_the_same_features(trained, tmp_path, kind, ending):
    options, loading = KINDS[kind]
    sae, rows = trained(kind, **options)
    sae = sae.eval()
    path = tmp_path / f"sae.{ending}"
    torch.save(sae.state_dict(), path) if ending == "pt" else save_file(sae.state_dict(), path)
    if kind == "BatchTopKSAE":
        loading = {**loading, "threshold": sae.running_threshold}
    loaded = load_sae(path, **loading)
    with torch.no_grad():
        _, codes, reconstruction = sae(rows)
    assert (codes > 0).any(dim=0).sum() > 5
    assert torch.allclose(loaded.encode(rows), codes, atol=1e-5)
    assert torch.allclose(loaded(rows), reconstruction, atol=1e-5)


def test_overcomplete_saved_right_after_training(trained, tmp_path):
    sae, rows = trained("TopKSAE", top_k=5)
    # A small step moves the atoms off length 1; a forward in training normalises them again.
    sae.eval().train()
    sae.dictionary._weights.data *= torch.linspace(0.995, 1.005, 40)[:, None]
    torch.save(sae.state_dict(), tmp_path / "sae.pt")
    loaded = load_sae(tmp_path / "sae.pt", activation="topk", k=5)
    with torch.no_grad():
        assert torch.allclose(loaded(rows), sae(rows)[2], atol=1e-5)
    assert torch.allclose(loaded.W_dec.norm(dim=-1), torch.ones(40), atol=1e-6)
    sae.dictionary._weights.data *= 1.02
    torch.save(sae.state_dict(), tmp_path / "sae.pt")
    with pytest.raises(InputError, match=r"lengths of 1\.02 to 1\.02, not 1"):
        load_sae(tmp_path / "sae.pt", activation="topk", k=5)


@pytest.mark.parametrize("how", ["tied", "untied"])
def test_overcomplete_tied_encoders_and_multipliers(overcomplete, tmp_path, how):
    torch.manual_seed(1)
    sae = getattr(overcomplete.TopKSAE(8, 20, top_k=3, dictionary_params={"use_multiplier": True}), how)(bias=True)
    nn.init.normal_(sae.encoder.bias)
    nn.init.constant_(sae.dictionary.multiplier, 0.4)
    rows = torch.randn(10, 8)
    sae = sae.eval()
    torch.save(sae.state_dict(), tmp_path / "sae.pt")
    loaded = load_sae(tmp_path / "sae.pt", activation="topk", k=3)
    with torch.no_grad():
        _, codes, reconstruction = sae(rows)
    assert torch.allclose(loaded.encode(rows), codes, atol=1e-5)
    assert torch.allclose(loaded(rows), reconstruction, atol=1e-5)


def test_overcomplete_keeps_what_is_as_large_as_its_threshold(overcomplete, tmp_path):
    sae = overcomplete.JumpSAE(4, 4).eval()
    state = sae.state_dict()
    state["encoder.final_block.0.weight"].copy_(torch.eye(4))
    state["encoder.final_block.0.bias"].zero_()
    torch.save(state, tmp_path / "sae.pt")
    edge = state["thresholds"].exp()
    rows = torch.stack([edge, torch.nextafter(edge, torch.zeros(4))])
    with torch.no_grad():
        codes = sae(rows)[1]
    assert (codes[0] > 0).all()
    assert not codes[1].any()
    assert torch.equal(load_sae(tmp_path / "sae.pt").encode(rows), codes)


def test_overcomplete_dictionaries_of_other_norms(overcomplete, tmp_path):
    rows = torch.randn(10, 8)
    for norm in ("max_l2", "l1", "max_l1", "identity"):
        sae = overcomplete.SAE(8, 20, dictionary_params={"normalization": norm})
        torch.save(sae.eval().state_dict(), tmp_path / "sae.pt")
        with pytest.raises(InputError, match="dictionary_norm"):
            load_sae(tmp_path / "sae.pt", activation="relu")
        loaded = load_sae(tmp_path / "sae.pt", activation="relu", dictionary_norm=norm)
        with torch.no_grad():
            assert torch.allclose(loaded(rows), sae(rows)[2], atol=1e-5), norm


def test_what_overcomplete_files_may_not_be(overcomplete, tmp_path):
    path = tmp_path / "sae.pt"
    sae = overcomplete.TopKSAE(8, 20, top_k=3).eval()
    torch.save(sae, path)
    with pytest.raises(InputError, match=r"sae\.eval\(\)\.state_dict\(\)"):
        load_sae(path, activation="topk", k=3)
    torch.save(sae.state_dict(), path)
    with pytest.raises(InputError, match='activation="relu"'):
        load_sae(path)
    with pytest.raises(InputError, match="needs k="):
        load_sae(path, activation="topk")
    with pytest.raises(InputError, match="between 1 and the 20"):
        load_sae(path, activation="topk", k=21)
    with pytest.raises(InputError, match="needs threshold="):
        load_sae(path, activation="batchtopk")
    with pytest.raises(InputError, match="one of relu"):
        load_sae(path, activation="gelu")
    torch.save({"state": sae.state_dict(), "epoch": 3}, path)
    with pytest.raises(InputError, match="is no state_dict"):
        load_sae(path, activation="relu")
    for kind, options, said in (
        ("QSAE", {"q": 4}, "Q unknown"),
        ("MpSAE", {}, "no linear encoder"),
        ("SAE", {"encoder_module": "mlp_ln_1"}, "final_block.1.weight"),
    ):
        torch.save(getattr(overcomplete, kind)(8, 20, **options).eval().state_dict(), path)
        with pytest.raises(InputError, match=said):
            load_sae(path, activation="relu")
    archetypal = overcomplete.RATopKSAE(8, 20, points=torch.randn(30, 8))
    archetypal.dictionary.W.data += 0.1
    torch.save(archetypal.state_dict(), path)
    with pytest.raises(InputError, match="was saved during training"):
        load_sae(path, activation="topk", k=2)
    torch.save(overcomplete.JumpSAE(8, 20).eval().state_dict(), path)
    with pytest.raises(InputError, match="JumpSAE"):
        load_sae(path, activation="relu")


# ---- our own files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalisation", ["none", "layer_norm"])
@pytest.mark.parametrize(
    "options",
    [{}, {"activation": "topk", "k": 4}, {"activation": "jumprelu", "threshold": 0.2}, {"activation": "tanh-relu"}],
)
def test_a_saved_dictionary_is_read_as_it_was(x, weights_of, tmp_path, options, normalisation):
    about = {"centred": True, "hook": "blocks.1.hook_resid_post", "normalisation": normalisation}
    sae = SparseAutoencoder.from_arrays(**weights_of(D, F), **options, **about)
    sae.save(tmp_path / "sae")
    again = load_sae(tmp_path / "sae")
    assert torch.equal(again.encode(x), sae.encode(x))
    assert torch.equal(again(x), sae(x))
    assert (again.hook, again.source) == (sae.hook, str(tmp_path / "sae"))
    sae.save(tmp_path / "sae")
    assert {path.name for path in (tmp_path / "sae").iterdir()} == {"cfg.json", "sae_weights.safetensors"}


def test_saved_transcoders_and_gates(x, save, weights_of, tmp_path):
    w = weights_of(D, F)
    skip = torch.randn(D, D, dtype=torch.float64)
    gate = {"b_gate": w["b_enc"], "b_mag": -w["b_enc"], "r_mag": w["b_enc"] / 2}
    matrices = {name: w[name] for name in ("W_enc", "W_dec", "b_dec")}
    for folder in (
        save({**matrices, **gate}, "gated", architecture="gated", **V6),
        save(
            {**w, "W_skip": skip}, "skip", architecture="skip_transcoder", hook_name_out="blocks.1.hook_mlp_out", **V6
        ),
        save({**w, "threshold": w["b_enc"].abs()}, "jump", architecture="jumprelu_transcoder", **V6),
    ):
        sae = load_sae(folder)
        sae.save(tmp_path / "again")
        again = load_sae(tmp_path / "again")
        assert torch.equal(again(x), sae(x))
        assert (type(again), again.hook) == (type(sae), sae.hook)
        assert getattr(again, "hook_out", None) == getattr(sae, "hook_out", None)
    linear = SparseAutoencoder.from_arrays(**w, activation="linear")
    with pytest.raises(InputError, match="with the activation Linear has no format in SAELens"):
        linear.save(tmp_path / "linear")


# ---- scikit-learn and arrays --------------------------------------------------------------------------------------


def test_scikit_learn_trained_on_a_stream(plain, images_of):
    stream = stream_activations(plain, images_of(plain, 8), hook=("resid_post", 1), tokens="patches", progress=False)
    rows = stream.sample(60)["activations"]
    options = {"n_components": 20, "transform_algorithm": "omp", "transform_n_nonzero_coefs": 4, "random_state": 0}
    estimator = MiniBatchDictionaryLearning(**options, max_iter=5, batch_size=20).fit(rows.numpy())
    sae = SparseAutoencoder.from_sklearn(estimator, hook=stream.hook)
    batch = next(iter(stream))["activations"].unflatten(0, (8, 9))
    codes = estimator.transform(batch.flatten(0, 1).numpy())
    assert torch.allclose(sae.encode(batch), torch.from_numpy(codes).unflatten(0, (8, 9)), atol=1e-10)
    assert torch.allclose(sae(batch).flatten(0, 1), torch.from_numpy(codes @ estimator.components_), atol=1e-10)
    assert sae.hook == "blocks.1.hook_resid_post"


def test_scikit_learns_other_dictionaries():
    rows = np.abs(np.random.default_rng(0).normal(size=(40, 6)))
    for estimator in (
        NMF(4, random_state=0, max_iter=500),
        DictionaryLearning(8, transform_algorithm="threshold", transform_alpha=0.1, max_iter=5, random_state=0),
        DictionaryLearning(
            8, transform_algorithm="lasso_cd", positive_code=True, fit_algorithm="cd", max_iter=5, random_state=0
        ),
    ):
        sae = SparseAutoencoder.from_sklearn(estimator.fit(rows))
        assert np.allclose(sae.encode(torch.from_numpy(rows)).numpy(), estimator.transform(rows), atol=1e-5)
    nmf = SparseAutoencoder.from_sklearn(NMF(4, random_state=0, max_iter=500).fit(rows))
    with pytest.raises(InputError, match="not negative"):
        nmf.encode(torch.from_numpy(-rows))
    with pytest.raises(InputError, match="not PCA"):
        SparseAutoencoder.from_sklearn(PCA(2).fit(rows))
    with pytest.raises(InputError, match="not fitted"):
        SparseAutoencoder.from_sklearn(NMF(4))
    with pytest.raises(InputError, match="split_sign"):
        SparseAutoencoder.from_sklearn(DictionaryLearning(8, split_sign=True, max_iter=2, random_state=0).fit(rows))


def test_from_arrays(x, weights_of):
    w = weights_of(D, F)
    sae = SparseAutoencoder.from_arrays(
        *(w[name].numpy() for name in ("W_enc", "b_enc", "W_dec", "b_dec")), centred=True
    )
    f = torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    assert torch.allclose(sae(x), f @ w["W_dec"] + w["b_dec"], atol=1e-12)
    without = SparseAutoencoder.from_arrays(w["W_enc"], None, w["W_dec"], None, activation="jumprelu", threshold=0.5)
    h = x @ w["W_enc"]
    assert torch.allclose(without(x), (h * (h > 0.5)) @ w["W_dec"], atol=1e-12)
    assert sae.double().encode(x.float()).dtype == torch.float64
    with pytest.raises(InputError, match="do not fit"):
        SparseAutoencoder.from_arrays(w["W_enc"], None, w["W_dec"].T, None)
    with pytest.raises(InputError, match=r"b_enc has the shape \[30\]"):
        SparseAutoencoder.from_arrays(w["W_enc"], w["b_dec"], w["W_dec"], None)
    with pytest.raises(InputError, match="12 wide, and the activations are 11"):
        sae.encode(x[..., :11])
    with pytest.raises(InputError, match="threshold is one number"):
        SparseAutoencoder.from_arrays(w["W_enc"], None, w["W_dec"], None, activation="jumprelu", threshold=[0.1, 0.2])
