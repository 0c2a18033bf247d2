"""Training of cross-layer transcoders: one loss over all outputs, and the same bytes after a stop."""

import pytest
import torch

from vitlens import InputError, load_sae, with_sae
from vitlens.features import CrossLayerTranscoder, evaluate_sae, mlp_hooks, train, with_saes
from vitlens.features.places import HookPlace
from vitlens.features.training import checkpoints
from vitlens.features.training.cross_layer_learner import CrossLayerLearner, LearnedCrossLayer
from vitlens.features.training.settings import TrainingSettings
from vitlens.workers import Stopped, Workers

ABOUT = {
    "cross_layer": True,
    "k": 4,
    "expansion": 2,
    "batch_rows": 64,
    "buffer_rows": 256,
    "lr": 3e-3,
    "progress": False,
}


def reads_of(model):
    return [hook for hook, _ in mlp_hooks(model)]


@pytest.fixture(scope="module")
def rows_of_a_code():
    """Reads of three blocks whose outputs are made of few features, each of which writes into all later outputs."""
    generator = torch.Generator().manual_seed(0)
    d, n = 8, 400
    codes = [torch.rand(n, 6, generator=generator) * (torch.rand(n, 6, generator=generator) < 0.25) for _ in range(3)]
    reads = [torch.linalg.qr(torch.randn(d, d, generator=generator))[0][:6] for _ in range(3)]
    ways = [[torch.randn(6, d, generator=generator) for _ in range(3 - i)] for i in range(3)]
    x = [code @ read + 1.5 for code, read in zip(codes, reads, strict=True)]
    y = [sum(codes[i] @ ways[i][j - i] for i in range(j + 1)) * (j + 1) - 0.5 for j in range(3)]
    rows = {f"read{i}": x[i] for i in range(3)} | {f"written{i}": y[i] for i in range(3)}
    return [(f"read{i}", f"written{i}") for i in range(3)], rows


def learner_of(rows_of_a_code, **settings):
    names, rows = rows_of_a_code
    chosen = TrainingSettings(n_features=12, k=3, n_rows=100 * 100, batch_rows=100, lr=1e-2, **settings)
    pairs = [(HookPlace(read, 1, 0), HookPlace(written, 1, 0)) for read, written in names]
    return CrossLayerLearner(pairs, rows, chosen, Workers("cpu"), 0), rows


@pytest.mark.parametrize("kind", ["topk", "jumprelu", "relu"])
def test_it_learns_what_writes_into_several_blocks(rows_of_a_code, kind):
    about = {"revive": "resample", "dead_after": 1000} if kind == "jumprelu" else {"skip": kind == "relu"}
    learner, rows = learner_of(rows_of_a_code, kind=kind, **about)
    order = torch.Generator().manual_seed(1)
    for _ in range(100):
        chosen = torch.randint(400, (100,), generator=order)
        learner.step({name: values[chosen] for name, values in rows.items()})
    measures = learner.measures()
    clt = learner.finished()
    x, y = ([rows[name] for name in names] for names in (clt.hooks, clt.hooks_out))
    # What is finished works on the activations as they are, and explains them as the training says.
    for own, written, features, found in zip(y, clt(x), clt.encode(x), measures, strict=True):
        explained = 1 - (own - written).square().sum() / (own - own.mean(dim=0)).square().sum()
        assert explained > 0.85
        assert explained.item() == pytest.approx(found["explained_variance"], abs=0.06)
        assert (features > 0).sum(dim=1).float().mean().item() == pytest.approx(found["l0"], abs=1)
    # The last block cannot be explained by its own features: those of earlier blocks write into it.
    alone = clt.of_block(2)(x[2])
    assert 1 - (y[2] - alone).square().sum() / (y[2] - y[2].mean(dim=0)).square().sum() < 0.6
    lengths = torch.cat([part.W_dec.norm(dim=1) for part in learner.learned])
    assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-5)


def test_one_loss_over_all_outputs(rows_of_a_code):
    """The gradient is that of the mean squared error of all standardised outputs, written out."""
    learner, rows = learner_of(rows_of_a_code, skip=True, revive="none", matryoshka=(5,))
    learned: LearnedCrossLayer = learner.learned
    generator = torch.Generator().manual_seed(2)
    for parameter in (*learned.skips, *(part.b_dec for part in learned), *(part.b_enc for part in learned)):
        torch.nn.init.normal_(parameter, generator=generator)
    x = [scale(rows[name]) for scale, name in zip(learner.scales_in, learner.hooks, strict=True)]
    y = [scale(rows[name]) for scale, name in zip(learner.scales_out, learner.hooks_out, strict=True)]
    features = [part.activation(part.pre(read)) for part, read in zip(learned, x, strict=True)]
    found = list(learned.reconstructions(features, x))
    for width, outputs in zip((5, 12), found, strict=True):
        for j in range(3):
            expected = x[j] @ learned.skips[j].T
            for i, part in enumerate(learned):
                if i <= j:
                    way = slice(8 * (j - i), 8 * (j - i + 1))
                    expected = expected + features[i][:, :width] @ part.W_dec[:width, way] + part.b_dec[way]
            assert torch.allclose(outputs[:, 8 * j : 8 * j + 8], expected, atol=1e-5)
    # Finished, it is the same function of the activations as they are.
    clt = learner.finished()
    outputs = clt([rows[name] for name in clt.hooks])
    for j, (scale, written) in enumerate(zip(learner.scales_out, outputs, strict=True)):
        expected = found[-1][:, 8 * j : 8 * j + 8] * scale.size + scale.mean
        assert torch.allclose(written, expected, atol=1e-4)
    expected = torch.stack([(torch.cat(y, dim=1) - outputs).square().mean() for outputs in found]).mean()
    learner.step(rows)
    assert learner.measures()[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_training_of_a_models_mlps(plain, images_of, tmp_path):
    images = images_of(plain, 8)
    trained = train(plain, images, reads_of(plain), n_rows=64 * 40, path=tmp_path / "whole", **ABOUT)
    clt = trained.sae
    assert isinstance(clt, CrossLayerTranscoder)
    assert (clt.hooks, clt.hooks_out) == tuple(list(names) for names in zip(*mlp_hooks(plain), strict=True))
    assert clt.n_features == [64, 64, 64]
    assert trained.history.values.shape == (3, 40, 4)
    assert (trained.history.values[:, -1, 1] > trained.history.values[:, 0, 1] + 0.1).all()
    with with_saes(plain, trained, record=True) as handles:
        plain(images)
    assert (handles["cross_layer"].features[1] > 0).sum(-1).max() <= 4
    again = load_sae(tmp_path / "whole" / "cross_layer")
    assert again.metadata["training"]["cross_layer"] is True
    assert torch.equal(again.W_dec[0], clt.W_dec[0])


def test_a_stopped_training_ends_with_the_same_bytes(plain, images_of, tmp_path, monkeypatch):
    images, about = images_of(plain, 8), {**ABOUT, "n_rows": 64 * 30, "k": 1, "dead_after": 64}
    train(plain, images, reads_of(plain), path=tmp_path / "whole", **about)
    monkeypatch.setattr(checkpoints, "SECONDS", -1.0)
    step = CrossLayerLearner.step

    def fail(self, rows):
        if self.descent.n_steps == 20:
            raise KeyboardInterrupt
        step(self, rows)

    monkeypatch.setattr(CrossLayerLearner, "step", fail)
    with pytest.raises(Stopped, match="stopped after 20 of 30 steps"):
        train(plain, images, reads_of(plain), path=tmp_path / "stopped", **about)
    monkeypatch.setattr(CrossLayerLearner, "step", step)
    train(plain, images, reads_of(plain), path=tmp_path / "stopped", **about)
    files = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    assert len(files) > 6
    for file in files:
        assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_it_is_judged_by_all_of_its_outputs(plain, images_of):
    images = images_of(plain, 4)
    clt = train(plain, images, reads_of(plain), n_rows=64 * 4, **ABOUT).sae
    judged = evaluate_sae(plain, images, sae=clt, progress=False)
    cache = plain.run_with_cache(images)[1]
    y = torch.cat([cache[hook] for hook in clt.hooks_out], dim=-1)
    written = torch.cat(clt([cache[hook] for hook in clt.hooks]), dim=-1)
    explained = 1 - (y - written).square().sum() / (y - y.mean(dim=(0, 1))).square().sum()
    assert judged["explained_variance"] == pytest.approx(explained.item(), abs=1e-5)
    with with_sae(plain, None, clt):
        logits = plain(images)
    clean = plain(images).log_softmax(dim=-1)
    kl = (clean.exp() * (clean - logits.log_softmax(dim=-1))).sum(dim=-1).mean()
    assert judged["kl_sae"] == pytest.approx(kl.item(), rel=1e-5)


def test_what_cannot_be_trained(plain, images_of):
    images = images_of(plain, 2)
    with pytest.raises(InputError, match="one hook point in each of its blocks"):
        train(plain, images, ["resid_mid1", "resid_pre1"], n_rows=64, **ABOUT)
    with pytest.raises(InputError, match="as wide in all blocks"):
        train(plain, images, ["resid_mid0", "blocks.1.mlp.hook_post"], n_rows=64, **ABOUT)
