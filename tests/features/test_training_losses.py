"""What a training lowers: as Overcomplete's modules, NumPy and other processes say; and what it reaches."""

import copy
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from ported import borrow

from vitlens import InputError
from vitlens.features import train
from vitlens.features.places import HookPlace
from vitlens.features.training import activations, dead, run
from vitlens.features.training.fills import Fills, Position
from vitlens.features.training.learned import LearnedDictionary, Scale
from vitlens.features.training.learner import Learner
from vitlens.features.training.settings import TrainingSettings
from vitlens.model.runs.picture_batches import PictureBatches
from vitlens.workers import Workers

D, N, K = 8, 20, 3
SETTINGS = TrainingSettings(kind="topk", k=K, n_features=N, n_rows=640, batch_rows=64)
PLACE = HookPlace("here", 1, 0)


@pytest.fixture
def rows():
    return torch.randn(64, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def learned(kind="topk", *, ties=False, **also):
    """Parameters of which none is zero."""
    settings = replace(SETTINGS, kind=kind, **also)
    found = LearnedDictionary(D, D, settings, ties=ties, seed=1).double()
    generator = torch.Generator().manual_seed(2)
    for parameter in (found.b_enc, found.b_dec, *found.activation.parameters()):
        parameter.data = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 0.4
    found.keep_lengths()
    return found


@pytest.mark.parametrize(
    ("kind", "theirs", "options"),
    [
        ("relu", "SAE", {}),
        ("topk", "TopKSAE", {"top_k": K}),
        ("batchtopk", "BatchTopKSAE", {"top_k": K * 64}),
        ("jumprelu", "JumpSAE", {"kernel": "rectangle", "bandwidth": activations.BANDWIDTH}),
    ],
)
def test_codes_reconstruction_and_gradients_are_overcompletes(overcomplete, rows, kind, theirs, options):
    """It has no decoder bias, takes logarithms of thresholds, and divides decoder rows by their length + 1e-8.

    Its gradient of thresholds is another: its kernels contain the bandwidth, by which it divides once more.
    """
    ours, other = learned(kind), getattr(overcomplete, theirs)(D, N, **options).double()
    ours.b_dec.data.zero_()
    linear = other.encoder.final_block[0]
    linear.weight.data, linear.bias.data = ours.W_enc.data.T.clone(), ours.b_enc.data.clone()
    other.dictionary._weights.data = ours.W_dec.data.clone()
    if kind == "jumprelu":
        other.thresholds.data = ours.activation.threshold.data.log()
    features = ours.activation(ours.pre(rows))
    (written,) = ours.reconstructions(features, rows)
    _, codes, reconstruction = other(rows)
    torch.testing.assert_close(features, codes, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(written, reconstruction, rtol=1e-6, atol=1e-7)
    for found in (written, reconstruction):
        (found - rows).square().mean().backward()
    pairs = [(ours.W_enc.grad.T, linear.weight.grad), (ours.b_enc.grad, linear.bias.grad)]
    pairs += [(ours.W_dec.grad, other.dictionary._weights.grad)]
    for one, two in pairs:
        assert two.abs().max() > 0
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


def test_gradients_of_jumprelu_are_the_papers(rows):
    found = learned("jumprelu")
    pre = found.pre(rows).detach().requires_grad_()
    threshold, weights = found.activation.threshold, torch.randn(64, N, dtype=torch.float64)
    (found.activation(pre) * weights).sum().backward()
    h, t, w = pre.detach().numpy(), threshold.detach().numpy(), weights.numpy()
    near = np.abs(h - t) < activations.BANDWIDTH / 2
    np.testing.assert_allclose(pre.grad, w * (h > t), rtol=1e-12)
    np.testing.assert_allclose(threshold.grad, -(w * near).sum(0) * t / activations.BANDWIDTH, rtol=1e-10)
    threshold.grad = None
    # The penalty (L0 / k − 1)² with L0 = Σ [h > θ] / rows.
    penalty = found.activation.penalty(pre, pre)
    l0 = (h > t).sum(1).mean()
    np.testing.assert_allclose(penalty.item(), (l0 / K - 1) ** 2, rtol=1e-12)
    penalty.backward()
    expected = 2 * (l0 / K - 1) / K * -near.sum(0) / activations.BANDWIDTH / 64
    np.testing.assert_allclose(threshold.grad, expected, rtol=1e-10)


def test_the_auxiliary_loss_is_what_numpy_says(rows):
    found, gone = learned(), torch.tensor([1, 4, 5, 9, 11, 17])
    pre, error = found.pre(rows).detach(), torch.randn(64, D, dtype=torch.float64)
    h = pre.numpy()[:, gone]
    largest = np.sort(h, axis=1)[:, -D // 2 :].min(axis=1, keepdims=True)
    codes = np.where((h >= largest) & (h > 0), h, 0)
    left = ((error.numpy() - codes @ found.W_dec.detach().numpy()[gone]) ** 2).mean() / (error.numpy() ** 2).mean()
    np.testing.assert_allclose(dead.auxiliary_loss(found, pre, error, gone).item(), dead.AUXK_WEIGHT * left, rtol=1e-12)


def test_each_prefix_of_a_matryoshka_reconstructs_alone(rows):
    found = learned(ties=True, matryoshka=(4, 9))
    features = found.activation(found.pre(rows))
    f, W, b = (part.detach().numpy() for part in (features, found.W_dec, found.b_dec))
    for width, written in zip((4, 9, N), found.reconstructions(features, rows), strict=True):
        np.testing.assert_allclose(written.detach(), f[:, :width] @ W[:width] + b, rtol=1e-10, atol=1e-12)
    learner = Learner(PLACE, PLACE, {"here": rows.float()}, replace(SETTINGS, matryoshka=(4, 9)), Workers("cpu"), 0)
    x = learner.scale_in(rows)
    with torch.no_grad():
        parts = learner.learned.reconstructions(learner.learned.activation(learner.learned.pre(x)), x)
        expected = torch.stack([(x - part).square().mean() for part in parts]).mean()
    learner.step({"here": rows.float()})
    assert float(learner.seen[0]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu"])
def test_the_finished_dictionary_is_the_trained_one_in_the_models_units(rows, kind, ties):
    found = learned(kind, ties=ties, skip=not ties)
    if not ties:
        found.W_skip.data = torch.randn(D, D, dtype=torch.float64)
    scale_in = Scale((rows * 5 - 7).mean(0), 5.0)
    scale_out = scale_in if ties else Scale(torch.full((D,), 3.0, dtype=torch.float64), 0.2)
    x = (rows - rows.mean(0)).float().double()
    features = found.activation(found.pre(x))
    *_, written = found.reconstructions(features, x)
    sae = found.finished(scale_in, scale_out, "here", "there").double()
    raw = x * scale_in.size + scale_in.mean
    torch.testing.assert_close(sae.encode(raw), features * scale_out.size, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae(raw), written * scale_out.size + scale_out.mean, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def code():
    """Rows made of 3 of 16 orthogonal directions on average."""
    generator = torch.Generator().manual_seed(3)
    active = torch.rand(4096, 16, generator=generator) < 3 / 16
    directions = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    return (active * (1 + torch.rand(4096, 16, generator=generator))) @ directions + 2.0


@pytest.mark.parametrize("kind", ["relu", "topk", "batchtopk", "jumprelu"])
def test_every_kind_reaches_k_with_living_features(code, kind):
    settings = TrainingSettings(kind=kind, k=3, n_features=24, n_rows=64 * 500, batch_rows=64, lr=4e-3)
    learner = Learner(PLACE, PLACE, {"here": code}, settings, Workers("cpu"), 0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(settings.n_steps):
        learner.step({"here": code[torch.randint(len(code), (64,), generator=generator)]})
    sae = learner.finished()
    features = sae.encode(code)
    error = (code - sae(code)).square().sum() / (code - code.mean(0)).square().sum()
    found = {
        "L0": float((features > 0).sum(1).float().mean()),
        "alive": float((features > 0).any(0).float().mean()),
        "explained": 1 - float(error),
    }
    assert found["L0"] == pytest.approx(3, rel=0.08)
    # The 16 directions are two thirds of the features.
    assert found["alive"] > 0.65
    # The penalty of relu shrinks all features.
    assert found["explained"] > (0.1 if kind == "relu" else 0.8)


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "jumprelu"])
def test_reconstructions_begin_as_long_as_the_rows(rows, kind):
    learner = Learner(PLACE, PLACE, {"here": rows.float() * 7}, replace(SETTINGS, kind=kind), Workers("cpu"), 0)
    begun, x = learner.learned, learner.scale_in(rows.float() * 7)
    features = begun.activation(begun.pre(x))
    (written,) = begun.reconstructions(features, x)
    assert written.norm().item() == pytest.approx(x.norm().item(), rel=1e-5)
    assert (features > 0).sum(dim=1).float().mean().item() == pytest.approx(K, abs=0.1)


@pytest.mark.parametrize("kind", ["relu", "topk", "batchtopk", "jumprelu"])
def test_raised_features_are_active_in_the_row_that_fits_them_best(rows, kind):
    found, gone = learned(kind), torch.tensor([2, 5])
    found.b_enc.data[gone] = -9.0
    before = found.b_enc.detach().clone()
    pre = found.pre(rows).detach()
    assert not found.activation(pre)[:, gone].any()
    boundary = found.activation.boundary(pre).expand_as(pre)
    dead.raise_biases(found, rows, gone)
    moved = found.pre(rows).detach()
    # With everything else as it was, they reach the boundary in one row.
    assert torch.equal((moved > boundary)[:, gone].sum(dim=0), torch.ones(2, dtype=torch.long))
    assert torch.equal((moved - boundary).argmax(dim=0)[gone], (pre - boundary).argmax(dim=0)[gone])
    others = torch.ones(N, dtype=torch.bool).index_fill(0, gone, False)
    assert torch.equal(found.b_enc[others], before[others])


def test_resampled_features_are_directions_of_the_worst_rows(rows):
    found = learned(ties=True).float()
    optimiser = torch.optim.Adam(found.parameters())
    found.W_dec.square().sum().backward()
    optimiser.step()
    error = torch.zeros(64, D)
    error[7] = rows[7].float()
    gone = torch.tensor([2, 5])
    dead.resample(found, optimiser, rows.float(), error, gone, seed=0)
    direction = torch.nn.functional.normalize(error[7], dim=0)
    torch.testing.assert_close(found.W_dec[gone], direction.expand(2, -1))
    torch.testing.assert_close(torch.nn.functional.normalize(found.W_enc[:, gone], dim=0), found.W_dec[gone].T)
    assert not optimiser.state[found.W_dec]["exp_avg"][gone].any()
    assert optimiser.state[found.W_dec]["exp_avg"][3].any()


class Thread(Workers):
    """One of two processes that are threads here: what they do together is done with a barrier."""

    barrier, brought = threading.Barrier(2), {}

    def __init__(self, device: str) -> None:
        self.world_size, self.rank, self.device = 2, int(threading.current_thread().name), device

    def _together(self, values):
        self.brought[self.rank] = values.detach().clone()
        self.barrier.wait(60)
        both = torch.stack([self.brought[0], self.brought[1]])
        self.barrier.wait(60)
        return both

    def _reduced(self, values, how):
        both = self._together(values)
        return {"SUM": both.sum(0), "MAX": both.amax(0), "MIN": both.amin(0)}[how.name]

    def spread(self, values):
        values.copy_(self._together(values)[0])

    def wait(self):
        self.barrier.wait(60)


@pytest.mark.parametrize(("kind", "revive"), [("batchtopk", "resample"), ("jumprelu", "auxk"), ("relu", "resample")])
def test_two_processes_end_with_the_same_weights(kind, revive, monkeypatch, tmp_path):
    """7 pictures are 4 and 3, in fills of 2 and 1: with as many batches in both."""
    monkeypatch.setattr(run, "Workers", Thread)
    with borrow("class_token") as borrowed:
        models = [copy.deepcopy(borrowed) for _ in range(2)]
    images = torch.randn(7, 3, 48, 48, generator=torch.Generator().manual_seed(0)).to(models[0].dtype)
    found: dict[int, object] = {}

    def work(rank: int) -> None:
        found[rank] = train(
            models[rank], images, "resid_post1", kind=kind, revive=revive, k=3, n_features=40, n_rows=20 * 33,
            batch_rows=20, buffer_rows=20, dead_after=60, progress=False, path=tmp_path, batch_size=2,
        )  # fmt: skip

    threads = [threading.Thread(target=work, args=(rank,), name=str(rank)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    one, two = found[0].sae, found[1].sae
    for name, values in one.state_dict().items():
        assert torch.equal(values, two.state_dict()[name]), name
    assert torch.equal(one.log_sparsity, two.log_sparsity)
    assert {path.name for path in tmp_path.iterdir()} == {
        "blocks.1.hook_resid_post",
        "training.json",
        "history.safetensors",
    }


def test_fewer_pictures_than_processes_are_refused():
    class Alone(Workers):
        """The second of two processes, which gets no picture."""

        def __init__(self) -> None:
            self.world_size, self.rank, self.device = 2, 1, "cpu"

        def smallest(self, number):
            return min(number, 0)

    with borrow("class_token") as model:
        pictures = PictureBatches(model, torch.zeros(1, 3, 48, 48).to(model.dtype), None)
        fills = Fills(model, pictures, [HookPlace("blocks.1.hook_resid_post", 1, 0)], "all", buffer_rows=40,
                      batch_rows=4, precision="float32", seed=0, workers=Alone())  # fmt: skip
        with pytest.raises(InputError, match="too few pictures to train on with 2 processes"):
            next(fills.begin(Position()))
    with pytest.raises(InputError, match="cannot be shared equally by 3 processes"):
        replace(SETTINGS, batch_rows=64).check_shares(3)
