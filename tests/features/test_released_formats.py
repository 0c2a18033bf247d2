"""Dictionaries of every library are read to what its own equations give, and a changed tensor or setting is refused."""

import copy
import json
import pickle
import sys
import types
import warnings

import pytest
import torch
from dictionary_files import (
    ARRAYS,
    B_DEC,
    B_ENC,
    CARRIED,
    CASES,
    EAI,
    W_DEC,
    W_ENC,
    D,
    F,
    K,
    X,
    bench,
    draw,
    may_lack,
    pre,
    prisma,
    relu,
    sparsify,
    top,
    with_config,
)

from vitlens import InputError, load_sae
from vitlens.features import SparseAutoencoder, Transcoder, load_saes, with_saes


@pytest.fixture
def files(tmp_path):
    """Writes one case's files, changed or not."""
    folders = iter(range(1000))

    def make(case, change=lambda state, settings: None, name=None):
        write_files, state, settings = CASES[case][:3]
        state, settings = {key: value.contiguous() for key, value in state.items()}, copy.deepcopy(settings)
        change(state, settings)
        folder = tmp_path / f"{next(folders)}" / (name or "sae")
        folder.mkdir(parents=True)
        write_files(folder, state, settings)
        return folder

    return make


@pytest.mark.parametrize("case", CASES)
def test_a_dictionary_computes_what_its_library_computes(files, case):
    _, _, _, features, written = CASES[case]
    sae = load_sae(files(case))
    assert 0.02 < (features != 0).double().mean() < 0.9
    assert (features - sae.encode(X)).abs().max() < 1e-12 * features.abs().max()
    expected = written(features)
    assert (expected - sae.decode(features, X)).abs().max() < 1e-12 * expected.abs().max()
    assert (expected - sae(X)).abs().max() < 1e-12 * expected.abs().max()


def is_refused(folder):
    """Whether the dictionary is not read, or not without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            load_sae(folder)
        except (InputError, UserWarning):
            return True
    return False


def wrong_states(case):
    """The tensors of a case with one change each, and what was changed."""
    state = CASES[case][1]
    for name, tensor in state.items():
        if name not in may_lack(case):
            yield f"no {name}", {other: value for other, value in state.items() if other != name}
        yield f"{name} twice", {**state, f"{name}_2": tensor.clone()}
        yield f"{name} in an axis more", {**state, name: torch.stack([tensor, tensor])}
        for axis, length in enumerate(tensor.shape):
            yield f"{name} cut", {**state, name: tensor.narrow(axis, 0, length - 1).clone()}
        if tensor.is_floating_point():
            yield f"{name} not finite", {**state, name: torch.full_like(tensor, torch.nan)}
            yield f"{name} whole", {**state, name: tensor.round().long()}


@pytest.mark.parametrize("case", CASES)
def test_a_changed_tensor_is_refused(files, case):
    for said, wrong in wrong_states(case):

        def change(state, settings, wrong=wrong):
            state.clear()
            state.update({name: tensor.contiguous() for name, tensor in wrong.items()})

        assert is_refused(files(case, change)), f"{case} was read with {said}"


def wrong_settings(settings, lack, path=()):
    """The settings with one of them missing or changed, and what was changed."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            for said, inner in wrong_settings(value, lack):
                yield said, {**settings, name: inner}
        elif name not in CARRIED:
            other = not value if isinstance(value, bool) else value + 90 if isinstance(value, int) else "nonsense"
            if name != "d_out" or settings.get("is_transcoder"):
                yield f"{name} {other}", {**settings, name: other}
        if name not in lack:
            yield f"no {name}", {other: value for other, value in settings.items() if other != name}


@pytest.mark.parametrize("case", CASES)
def test_a_changed_setting_is_refused(files, case):
    for said, wrong in wrong_settings(CASES[case][2], may_lack(case)):

        def change(state, settings, wrong=wrong):
            settings.clear()
            settings.update(wrong)

        assert is_refused(files(case, change)), f"{case} was read with {said}"


# ---- the libraries' own classes ------------------------------------------------------------------------------------


def agree(sae, features, reconstruction, x=X):
    assert (features != 0).any()
    assert (sae.encode(x) - features).abs().max() <= 1e-12 * features.abs().max()
    assert (sae(x) - reconstruction).abs().max() <= 1e-12 * reconstruction.abs().max()


@pytest.mark.parametrize("kind", ["sparse autoencoder", "transcoder", "skip transcoder"])
@pytest.mark.parametrize("activation", ["topk", "groupmax"])
def test_sparsify_gives_the_same(tmp_path, monkeypatch, activation, kind):
    sparse_coder = pytest.importorskip("sparsify.sparse_coder")
    # Its decoder for graphics cards runs on nothing else.
    monkeypatch.setattr(sparse_coder, "decoder_impl", pytest.importorskip("sparsify.utils").eager_decode)
    settings = {"transcode": "transcoder" in kind, "skip_connection": "skip" in kind, "activation": activation, "k": K}
    own = sparse_coder.SparseCoder(D, sparse_coder.SparseCoderConfig(expansion_factor=3, **settings), dtype=X.dtype)
    for parameter in own.parameters():
        parameter.data = draw(*parameter.shape)
    own.save_to_disk(tmp_path / "encoder.layers.3")
    with torch.no_grad():
        codes, reconstruction = own.encode(X), own(X).sae_out
    features = torch.zeros(len(X), F, dtype=X.dtype).scatter(-1, codes.top_indices, codes.top_acts)
    sae = load_sae(tmp_path / "encoder.layers.3")
    agree(sae, features, reconstruction)
    hooks = ("resid_pre", "resid_post") if "transcoder" in kind else ("resid_post", None)
    assert sae.hook == f"blocks.3.hook_{hooks[0]}"
    assert getattr(sae, "hook_out", None) == (hooks[1] and f"blocks.3.hook_{hooks[1]}")


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "jumprelu", "overcomplete"])
def test_visaebench_gives_the_same(files, tmp_path, kind):
    hub = pytest.importorskip("visaebench.hub")
    # The first feature of a row of zeros is as large as the threshold.
    bias = B_ENC.float().index_fill(0, torch.tensor(0), 0.5)
    if kind == "overcomplete":
        atoms = torch.nn.functional.normalize(W_DEC, dim=-1).float()
        state = {"encoder.final_block.0.weight": W_ENC.T.float().contiguous(), "encoder.final_block.0.bias": bias,
                 "dictionary._weights": atoms, "dictionary.multiplier": torch.zeros(()),
                 "_running_threshold": torch.tensor(0.5)}  # fmt: skip
        folder = tmp_path / "bench"
        folder.mkdir()
        with_config("config.json", "sae.pt")(folder, state, bench("batchtopk"))
    else:

        def in_floats(state, settings):
            state.update({name: tensor.float() for name, tensor in state.items()}, **{"encoder.bias": bias})

        folder = files(f"visaebench {kind}", in_floats)
    rows = torch.cat([X, torch.zeros_like(X[:1])])
    own = hub.load_sae(str(folder), device="cpu").double()
    features, reconstruction = own(rows)
    sae = load_sae(folder, dtype="float64")
    agree(sae, features, reconstruction, rows)
    assert sae.hook == "blocks.1.hook_resid_post"


# ---- what files do not say -----------------------------------------------------------------------------------------


def test_saevs_files_do_not_say_whether_b_dec_is_subtracted(files):
    def in_schema(number):
        def change(state, settings):
            settings["schema"] = number

        return files("saev 5 relu", change)

    for number in (1, 2):
        with pytest.raises(InputError, match="until September 2025 saev subtracted b_dec"):
            load_sae(in_schema(number))
        for centred in (True, False):
            sae = load_sae(in_schema(number), centred=centred)
            assert torch.allclose(sae.encode(X), relu(pre(X, B_DEC if centred else 0)), atol=1e-12)
    with pytest.raises(InputError, match="says that centred is False, not True"):
        load_sae(in_schema(3), centred=True)

    def first(state, settings):
        settings.update({"schema": 1, "cls": "TopK", "cfg": {"d_model": D, "exp_factor": 3, "top_k": K}})

    assert torch.allclose(load_sae(files("saev 5 relu", first), centred=False).encode(X), top(pre(X, 0), K), atol=1e-12)

    def without_threshold(state, settings):
        settings["cfg"]["activation"]["cls"] = "BatchTopK"
        settings["cfg"]["activation"]["params"] = {"top_k": K}

    folder = files("saev 5 relu", without_threshold)
    with pytest.raises(InputError, match="needs threshold="):
        load_sae(folder)
    assert torch.allclose(load_sae(folder, threshold=0.4).encode(X), pre(X, 0) * (pre(X, 0) > 0.4), atol=1e-12)


def test_dictionary_learnings_tensors_alone(files):
    def alone(case, **more):
        folder = files(case, lambda state, settings: state.update(more))
        (folder / "config.json").unlink()
        return folder / "ae.pt"

    for case, (_, _, _, features, _) in CASES.items():
        if case.startswith(("dictionary", "sae-for")) and "topk" not in case:
            assert torch.allclose(load_sae(alone(case)).encode(X), features, atol=1e-12), case
    path = alone("dictionary_learning topk")
    with pytest.raises(InputError, match="may be a TopK or a BatchTopK"):
        load_sae(path)
    for kind in ("topk", "batchtopk"):
        features = CASES[f"dictionary_learning {kind}"][3]
        assert torch.allclose(load_sae(path, activation=kind).encode(X), features, atol=1e-12)
    with pytest.raises(InputError, match="says that k is 4, not 5"):
        load_sae(path, activation="topk", k=5)
    untrained = alone("sae-for-vlm matryoshka", threshold=torch.tensor(-1.0))
    with pytest.raises(InputError, match="was saved before its training had one"):
        load_sae(untrained)
    assert torch.allclose(load_sae(untrained, threshold=0.6).encode(X), pre(X) * (pre(X) > 0.6), atol=1e-12)
    # Checkpoints of a training are a folder below its settings.
    folder = files("dictionary_learning batchtopk")
    (folder / "checkpoints").mkdir()
    (folder / "ae.pt").rename(folder / "checkpoints" / "ae_200.pt")
    assert load_sae(folder / "checkpoints" / "ae_200.pt").hook == "blocks.1.hook_resid_post"


@pytest.fixture
def prismas_settings(monkeypatch):
    """The class of ViT-Prisma's settings, which exists while a file is written, and not when it is read."""
    module = types.ModuleType("vit_prisma.sae.config")
    names = {"__module__": module.__name__, "__qualname__": "VisionModelSAERunnerConfig"}
    module.VisionModelSAERunnerConfig = type("VisionModelSAERunnerConfig", (), names)

    def write_file(path, cfg, state):
        for name in ("vit_prisma", "vit_prisma.sae", module.__name__):
            sys.modules[name] = module
        settings = module.VisionModelSAERunnerConfig()
        vars(settings).update(cfg)
        torch.save({"cfg": settings, "state_dict": state}, path)
        for name in ("vit_prisma", "vit_prisma.sae", module.__name__):
            del sys.modules[name]

    return write_file


class Runs:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of a file was run')",)


def test_vit_prismas_own_files_are_read_without_its_code(tmp_path, prismas_settings):
    path = tmp_path / "n_images_130007.pt"
    about = {"vit_model_cfg": None, "device": torch.device("cuda"), "dtype": torch.float32, "model_name": "vit"}
    prismas_settings(path, {**prisma(hook_point_layer=[1]), **about, "cls_token_only": True}, ARRAYS)
    torch.save(torch.zeros(F), tmp_path / "n_images_130007_log_feature_sparsity.pt")
    for place in (path, tmp_path):
        sae = load_sae(place)
        assert torch.allclose(sae.encode(X), relu(pre(X)), atol=1e-12)
        assert (sae.hook, sae.log_sparsity.tolist()) == ("blocks.1.hook_resid_mid", [0.0] * F)
        assert sae.metadata == {"model": "vit", "tokens": "class"}
    assert "vit_prisma" not in sys.modules
    (tmp_path / "config.json").write_text(json.dumps(prisma(normalize_activations="layer_norm")))
    with pytest.raises(InputError, match="one of them belongs to another dictionary"):
        load_sae(path)
    (tmp_path / "config.json").write_text(json.dumps(prisma()))
    prismas_settings(path, {**prisma(), "lr": Runs()}, ARRAYS)
    with pytest.raises(InputError, match="with ViT-Prisma installed, load it"):
        load_sae(path)
    with open(path, "wb") as file:
        pickle.dump({"cfg": Runs(), "state_dict": ARRAYS}, file, protocol=2)
    with pytest.raises(InputError, match="with ViT-Prisma installed, load it"):
        load_sae(path)


def test_sites_that_vitlens_does_not_have(files):
    def normalised(state, settings):
        settings["layer_subtype"] = "ln2.hook_normalized"

    with pytest.warns(UserWarning, match="holds the norm's output with its weight and bias"):
        assert load_sae(files("prisma standard", normalised)).hook is None
    with pytest.warns(UserWarning, match="DINOv2's stream behind the final norm"):
        load_sae(files("visaebench topk", lambda state, settings: settings.update(backbone="dinov2_vitb14")))
    with pytest.warns(UserWarning, match="does not know this name"):
        load_sae(
            files("dictionary_learning gated", lambda _, settings: settings["trainer"].update(submodule_name="mlp"))
        )
    for name, hook in {
        "vision_model.encoder.layers.2.mlp": "blocks.2.hook_mlp_out",
        "seed1": None,
        "run": None,
    }.items():
        assert load_sae(files("sparsify", name=name)).hook == hook
    with pytest.warns(UserWarning, match="what this module's output is"):
        assert load_sae(files("sparsify", name="encoder.layer.2.mlp")).hook is None


# ---- folders of several --------------------------------------------------------------------------------------------


def test_a_folder_with_a_dictionary_for_each_hook_point(tmp_path, plain, images_of):
    width = plain.cfg.d_model
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    for block in (1, 0):
        hook = f"blocks.{block}.hook_resid_post"
        SparseAutoencoder.from_arrays(both.T, None, both, None, hook=hook).save(tmp_path / "some" / f"block {block}")
    coder = {"encoder.weight": both, "encoder.bias": both[:, 0] * 0, "W_dec": both.clone(), "b_dec": both[0] * 0}
    folder = tmp_path / "encoder.layers.1.mlp"
    folder.mkdir()
    EAI(folder, coder, sparsify(d_in=width, num_latents=2 * width, k=width))
    saes = load_saes(tmp_path, dtype="float64")
    assert list(saes) == ["blocks.0.hook_resid_post", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"]
    assert all(sae.W_enc.dtype == torch.float64 for sae in saes.values())
    images = images_of(plain, 2)
    clean = plain(images)
    with with_saes(plain, saes):
        assert torch.allclose(plain(images), clean, atol=1e-4)
    with with_saes(plain, saes, edit=lambda features: features * 0):
        assert not torch.allclose(plain(images), clean, atol=1e-2)
    SparseAutoencoder.from_arrays(both.T, None, both, None, hook="blocks.1.hook_mlp_out").save(tmp_path / "other")
    with pytest.raises(InputError, match=r"both belong to blocks\.1\.hook_mlp_out"):
        load_saes(tmp_path)
    SparseAutoencoder.from_arrays(both.T, None, both, None).save(tmp_path / "other")
    with pytest.raises(InputError, match="does not say a hook point"):
        load_saes(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no dictionary of a format that vitlens reads"):
        load_saes(tmp_path / "empty")


def test_what_saelens_has_no_format_for(files, tmp_path):
    for case, said in (
        ("prisma transcoder", "scaled back by what it reads"),
        ("saev 3 topk", r"TopK\(k=20, signed\)"),
        ("sparsify groupmax", r"GroupMax\(k=4\)"),
    ):
        sae = load_sae(files(case))
        with pytest.raises(InputError, match=said):
            sae.save(tmp_path / "saved")
    assert isinstance(load_sae(files("prisma transcoder")), Transcoder)
