"""The engine: many pairs, several metrics, sites, sources; interrupted and resumed; equal to whole forwards everywhere."""

import signal

import pytest
import torch
from pandas.testing import assert_frame_equal
from ported import build, on_each_property

import vitlens
from vitlens import InputError, activation_ablation, activation_patching, knockout_attention
from vitlens.choose import box, patch
from vitlens.patching import ablation_hooks, confusing_donors, mean_activations
from vitlens.patching import sweep as engine
from vitlens.removal import Edges

QUIET = {"progress": False}


def pair(images_of, model, n=2):
    return images_of(model, n, seed=1), images_of(model, n, seed=2)


@on_each_property
@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "mlp_out", "z", "v", "pattern", "post"])
def test_every_architecture_equals_whole_forwards(site, classifier, images_of):
    clean, corrupted = pair(images_of, classifier)
    last = classifier.cfg.n_layers - 1
    about = {"blocks": [0, last], "classes": [1], "batch_size": 8, **QUIET}
    unit = {"z": "heads", "v": "heads", "pattern": "heads", "post": "neurons"}.get(site)
    about |= {unit: [0, 1]} if unit else {"tokens": [0, classifier.cfg.n_prefix_tokens + 1]}
    result = activation_patching(classifier, clean, corrupted, metric="logit", sites=site, **about)
    for i, block in enumerate([0, last]):
        for j, place in enumerate([0, 1] if unit else [0, classifier.cfg.n_prefix_tokens + 1]):
            name = f"blocks.{block}.{ {None: '', 'heads': 'attn.', 'neurons': 'mlp.'}[unit] }hook_{site}"
            _, cache = classifier.run_with_cache(clean, names_filter=name)
            axis = {"z": 2, "v": 2, "pattern": 1, "post": 2}.get(site, 1)

            def write(value, hook, axis=axis, place=place, theirs=cache[name]):
                value = value.clone()
                value.select(axis, place).copy_(theirs.select(axis, place))
                return value

            with torch.no_grad():
                logits = classifier.run_with_hooks(corrupted, fwd_hooks=[(name, write)])
            torch.testing.assert_close(result.patched[i, j], logits[:, 1], rtol=1e-9, atol=1e-10)


def test_single_precision_stays_within_a_hundred_thousandth(plain, images_of):
    clean, corrupted = pair(images_of, plain)
    exact = activation_patching(plain, clean, corrupted, metric="logit", classes=[1], **QUIET)
    rough = activation_patching(
        plain.to(torch.float32), clean.float(), corrupted.float(), metric="logit", classes=[1], **QUIET
    )
    assert (exact.patched - rough.patched).abs().max() < 1e-5 * exact.patched.abs().max()


def test_pictures_in_chunks_change_nothing(plain, images_of, monkeypatch):
    clean, corrupted = pair(images_of, plain, 7)
    labels = torch.arange(7) % 3
    metrics = {"named": "logit", "own": lambda logits: logits.gather(1, labels[:, None])[:, 0]}
    about = {"tokens": ["class", "patches"], "classes": labels, **QUIET}
    whole = activation_patching(plain, clean, corrupted, metric=metrics, **about)
    assert torch.equal(whole.patched[0], whole.patched[1])
    for batch_size in (2, 3, 100):
        assert_frame_equal(
            activation_patching(plain, clean, corrupted, metric=metrics, batch_size=batch_size, **about).to_frame(),
            whole.to_frame(),
            rtol=1e-9,
        )
    monkeypatch.setattr(engine, "PICTURES_PER_CHUNK", 3)
    monkeypatch.setattr(engine, "CPU_ROWS", 2)
    monkeypatch.setattr(engine, "CPU_BYTES", 1)
    mean = activation_patching(plain, clean, corrupted, metric=lambda logits: logits[:, 0].mean(), **about)
    assert torch.equal(mean.patched[..., 0], mean.patched[..., 6])
    with pytest.raises(InputError, match="batch_size=7"):
        activation_patching(plain, clean, corrupted, metric=lambda logits: logits.sum(), batch_size=2, **about)


def test_several_metrics_and_sites_are_axes(plain, images_of):
    clean, corrupted = pair(images_of, plain, 3)
    about = {"tokens": ["class", "patches"], "classes": [1], **QUIET}
    result = activation_patching(
        plain, clean, corrupted, metric=["logit", "probability"], sites=["resid_pre", "mlp_out"], **about
    )
    assert list(result.axes) == ["metric", "site", "block", "tokens", "image"]
    for metric in ("logit", "probability"):
        for site in ("resid_pre", "mlp_out"):
            alone = activation_patching(plain, clean, corrupted, metric=metric, sites=site, **about)
            chosen = result.select(metric=metric, site=site)
            torch.testing.assert_close(chosen.values, alone.values)
            torch.testing.assert_close(chosen.effect(), alone.effect())
            assert_frame_equal(chosen.summary(), alone.summary())
            assert chosen.axes == alone.axes
    assert len(result.to_frame()) == result.values.numel()
    with pytest.raises(InputError, match="choose one metric and one site"):
        result.plot()
    with pytest.raises(InputError, match="no axis 'layer'"):
        result.select(layer=0)
    with pytest.raises(InputError, match="has no 'loss'"):
        result.select(metric="loss")


def test_heads_at_several_token_sets(plain, images_of):
    clean, corrupted = pair(images_of, plain)
    about = {"classes": [1], "blocks": [1], **QUIET}
    both = activation_patching(plain, clean, corrupted, metric="logit", sites="z", tokens=["class", "patches"], **about)
    assert list(both.axes) == ["block", "tokens", "head", "image"]
    for tokens in ("class", "patches"):
        alone = activation_patching(plain, clean, corrupted, metric="logit", sites="z", tokens=tokens, **about)
        torch.testing.assert_close(both.select(tokens=tokens).patched, alone.patched)
    each = activation_patching(plain, clean, corrupted, metric="logit", sites="z", tokens="each", heads=[0], **about)
    assert len(each.axes["tokens"]) == plain.cfg.n_ctx


def test_the_interval_covers_what_resampled_pairs_give(plain, images_of):
    clean, corrupted = pair(images_of, plain, 6)
    result = activation_patching(plain, clean, corrupted, metric="logit", tokens=["class"], classes=[1], **QUIET)
    table = result.summary()
    assert list(table.columns) == ["block", "tokens", "effect", "low", "high"]
    torch.testing.assert_close(torch.tensor(table["effect"].to_numpy()), result.effect()[:, 0])
    assert (table["low"] <= table["effect"]).all()
    assert (table["effect"] <= table["high"]).all()


class Interrupts:
    """A metric during which somebody presses Ctrl-C, once or twice."""

    def __init__(self, after: int, times: int = 1) -> None:
        self.left, self.times = after, times

    def __call__(self, logits):
        self.left -= 1
        if self.left == 0:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return logits[:, 0]


@pytest.fixture
def heeds_interrupts():
    """Python's own handler, which a process that was started in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
@pytest.mark.parametrize(("after", "times"), [(4, 1), (9, 1), (9, 2)])
def test_an_interrupted_sweep_is_resumed(after, times, plain, images_of, tmp_path):
    clean, corrupted = pair(images_of, plain)
    tokens = {"tokens": [0, 1, 2], "batch_size": 2, **QUIET}
    whole = activation_patching(plain, clean, corrupted, metric={"first": lambda logits: logits[:, 0]}, **tokens)
    with pytest.warns(UserWarning, match="resume=result"):
        part = activation_patching(plain, clean, corrupted, metric={"first": Interrupts(after, times)}, **tokens)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert plain.list_hooks() == {}
    assert not part.complete
    assert "not reached" in repr(part)
    n_reached = int((~part.patched.isnan()).any(dim=-1).sum())
    assert 0 < n_reached < 9
    part.save(tmp_path / "part.safetensors")
    again = vitlens.load_result(tmp_path / "part.safetensors")
    counting = Interrupts(1000)
    done = activation_patching(plain, clean, corrupted, metric={"first": counting}, resume=again, **tokens)
    assert done.complete
    assert torch.equal(done.patched, whole.patched)
    assert 1000 - counting.left <= 9 - n_reached + 3
    for wrong in ({"tokens": [0, 1, 3]}, {"direction": "noise"}, {"sites": "resid_post"}):
        with pytest.raises(InputError, match="another sweep"):
            activation_patching(
                plain, clean, corrupted, metric={"first": counting}, **{**tokens, "resume": again, **wrong}
            )
    with pytest.raises(InputError, match="pictures or metrics"):
        activation_patching(plain, corrupted, clean, metric={"first": counting}, resume=again, **tokens)


def ablated(model, images, site, block, place, value):
    name = f"blocks.{block}.{ {'z': 'attn.', 'post': 'mlp.'}.get(site, '') }hook_{site}"

    def write(activation, hook):
        activation = activation.clone()
        axis = 1 if site == "resid_pre" else 2
        activation.select(axis, place).copy_(value.select(axis, place) if value.ndim else value.expand(1))
        return activation

    with torch.no_grad():
        return model.run_with_hooks(images, fwd_hooks=[(name, write)])


@pytest.mark.parametrize("site", ["z", "post", "resid_pre"])
def test_ablations_equal_whole_forwards(site, plain, images_of):
    images, others = pair(images_of, plain, 3)
    units = {"z": "heads", "post": "neurons", "resid_pre": "tokens"}[site]
    about = {"sites": site, units: [1, 2], "blocks": [1, 2], "classes": [3], **QUIET}
    name = f"blocks.%d.{ {'z': 'attn.', 'post': 'mlp.'}.get(site, '') }hook_{site}"
    _, cache = plain.run_with_cache(images)
    _, theirs = plain.run_with_cache(others)
    given = {block: torch.randn_like(cache[name % block][0]) for block in (1, 2)}
    expected = {
        "zero": lambda block: torch.zeros((), dtype=torch.float64),
        "mean": lambda block: cache[name % block].mean(dim=0, keepdim=True).expand_as(cache[name % block]),
        "other": lambda block: theirs[name % block],
        "given": lambda block: given[block].expand_as(cache[name % block]),
    }
    whole = plain(images)[:, 3]
    for how, value in expected.items():
        more = {"others": others} if how == "other" else {}
        result = activation_ablation(plain, images, replacement=given if how == "given" else how, **about, **more)
        assert result.quantity == "change"
        for i, block in enumerate((1, 2)):
            for j, place in enumerate((1, 2)):
                logits = ablated(plain, images, site, block, place, value(block))
                torch.testing.assert_close(result.values[i, j], logits[:, 3] - whole, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(result.effect(), result.values.mean(dim=-1))


def test_noise_is_the_pictures_own_and_seeded(plain, images_of):
    images, _ = pair(images_of, plain, 3)
    about = {"sites": "resid_pre", "tokens": ["all"], "replacement": "noise", "classes": [0], **QUIET}
    first = activation_ablation(plain, images, seed=1, **about)
    assert torch.equal(first.values, activation_ablation(plain, images, seed=1, **about).values)
    chunks = activation_ablation(plain, images, seed=1, batch_size=1, **about)
    torch.testing.assert_close(first.values, chunks.values)
    assert not torch.allclose(first.values, activation_ablation(plain, images, seed=2, **about).values)
    small = activation_ablation(plain, images, seed=1, noise_scale=1e-9, **about)
    assert small.values.abs().max() < 1e-6


def test_means_stream(plain, images_of):
    images, _ = pair(images_of, plain, 5)
    at_once = mean_activations(plain, images, sites="z", **QUIET)
    in_parts = mean_activations(plain, [images[:2], images[2:]], sites="z", **QUIET)
    for name, value in at_once.items():
        torch.testing.assert_close(value, in_parts[name])
        torch.testing.assert_close(value, plain.run_with_cache(images)[1][name].mean(dim=0, keepdim=True))
    both = activation_ablation(plain, images, replacement=at_once, classes=[0], **QUIET)
    torch.testing.assert_close(
        both.values, activation_ablation(plain, images, replacement="mean", classes=[0], **QUIET).values
    )


def test_masks_are_token_sets(plain, images_of):
    rows, columns = plain.cfg.grid_size
    on_grid = torch.zeros(rows, columns, dtype=torch.bool)
    on_grid[0, 1] = True
    pixels = on_grid.repeat_interleave(plain.cfg.patch_size[0], 0).repeat_interleave(plain.cfg.patch_size[1], 1)
    clean, corrupted = pair(images_of, plain)
    sets = {"patch": patch(0, 1), "grid": on_grid, "pixels": pixels.numpy()}
    result = activation_patching(plain, clean, corrupted, tokens=sets, **QUIET)
    torch.testing.assert_close(result.patched[:, 0], result.patched[:, 1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.patched[:, 0], result.patched[:, 2], rtol=1e-12, atol=1e-12)


def test_donors_are_of_the_class_that_is_likeliest(plain, images_of):
    images, candidates = images_of(plain, 4, seed=1), images_of(plain, 12, seed=2)
    indices = confusing_donors(plain, images, others=candidates)
    own, theirs = plain(images), plain(candidates)
    predicted = theirs.argmax(-1)
    for image, donor in enumerate(indices):
        assert predicted[donor] != own[image].argmax()
        possible = predicted[predicted != own[image].argmax()]
        assert own[image, predicted[donor]] == own[image, possible].max()
        same = (predicted == predicted[donor]).nonzero()[:, 0]
        assert theirs.softmax(-1)[donor].max() == theirs.softmax(-1)[same].max()
    with pytest.raises(InputError, match="own class"):
        confusing_donors(plain, images[:1], others=images[:1])


def test_hooks_of_the_user_act_in_every_run(plain, images_of):
    clean, corrupted = pair(images_of, plain)
    cut = [("blocks.2.attn.hook_z", lambda z, hook: z * 0.5), ("blocks.0.hook_mlp_out", lambda x, hook: x * 0)]
    with plain.hooks(fwd_hooks=cut):
        inside = activation_patching(plain, clean, corrupted, metric="logit", tokens=[0, 2], classes=[1], **QUIET)
        _, cache = plain.run_with_cache(clean, names_filter="blocks.1.hook_resid_pre")
        theirs = cache["blocks.1.hook_resid_pre"]

        def write(value, hook):
            value = value.clone()
            value[:, 2] = theirs[:, 2]
            return value

        with torch.no_grad():
            expected = plain.run_with_hooks(corrupted, fwd_hooks=[("blocks.1.hook_resid_pre", write)])
    torch.testing.assert_close(inside.patched[1, 1], expected[:, 1])
    assert plain.list_hooks() == {}


class FailsLate:
    """A metric that goes wrong at its sixth cell; before the cells it is asked about the runs on source and target."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, logits):
        self.calls += 1
        return logits[:, 0] * (float("nan") if self.calls == 3 + 6 else 1.0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"sites": "blocks.1.hook_resid_pre"}, r'"resid_pre" with blocks=\[1\]'),
        ({"sites": "blocks.1.attn.hook_z"}, r'"z" with blocks=\[1\]'),
        ({"sites": "hook_embed"}, "name of a hook point"),
        ({"sites": "resid"}, "nearest names are resid_pre"),
        ({"sites": ["z", "resid_pre"]}, "cannot share a sweep"),
        ({"sites": []}, "list of sites is empty"),
        ({"sites": "mlp_out", "heads": [0]}, "mlp_out has no heads: patch z, q, k, v, attn_scores, pattern by head"),
        ({"sites": "z", "neurons": [0]}, "z has no neurons: patch pre, post by neuron"),
        ({"sites": "post", "neurons": [10**6]}, "no neuron 1000000"),
        ({"metric": []}, "no metric"),
        ({"metric": lambda logits: None}, "returned NoneType"),
        ({"metric": {"a": "logit", "b": "loss"}}, "not 'loss'"),
        ({"batch_size": 10**9}, r"would take about .* GB .* pass batch_size="),
        ({"tokens": torch.zeros(2, 2, dtype=torch.bool)}, "or a mask"),
    ],
)
def test_wrong_input_is_one_clear_sentence(plain, images_of, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        activation_patching(plain, *pair(images_of, plain), **arguments, **QUIET)


def test_a_metric_of_nan_names_the_cell(plain, images_of):
    with pytest.raises(InputError, match=r"NaN for resid_pre of block 2, tokens patches"):
        activation_patching(plain, *pair(images_of, plain), metric=FailsLate(), tokens=["class", "patches"], **QUIET)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"replacement": "nought"}, "replacement is one of zero"),
        ({"replacement": "other"}, "needs others="),
        ({"replacement": torch.zeros(7)}, "does not fit"),
        ({"replacement": {5: torch.zeros(1)}}, "has no tensor for blocks.0"),
        ({"tokens": box(0, 0, 9, 9)}, "outside the grid"),
    ],
)
def test_wrong_ablations_too(plain, images_of, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        activation_ablation(plain, images_of(plain, 2), **arguments, **QUIET)
    with pytest.raises(InputError, match="no pictures"):
        mean_activations(plain, [], **QUIET)


@pytest.mark.parametrize(
    ("variant", "site", "sentence"),
    [("parallel", "resid_mid", "no resid_mid"), ("differential", "q", "two heads of q")],
)
def test_sites_that_an_architecture_lacks_are_refused(variant, site, sentence, images_of):
    model = build(variant)
    with pytest.raises(InputError, match=sentence):
        activation_patching(model, *pair(images_of, model), sites=site, **QUIET)


@pytest.mark.parametrize("how", ["zero", "renormalise"])
def test_attention_edges_are_swept_as_they_are_knocked_out(how, plain, images_of):
    images = images_of(plain, 3)
    whole = plain(images)[:, 1]
    site = {"zero": "pattern", "renormalise": "attn_scores"}[how]
    replacement = {"zero": "zero", "renormalise": torch.tensor(-torch.inf, dtype=torch.float64)}[how]
    about = {"replacement": replacement, "tokens": "class", "keys": "patches", "classes": [1], **QUIET}
    swept = activation_ablation(plain, images, sites=site, **about)
    for block in range(plain.cfg.n_layers):
        for head in range(plain.cfg.n_heads):
            edges = Edges("class", "patches", blocks=[block], heads=[head])
            expected = knockout_attention(plain, images, edges=edges, replacement=how).values[:, 1] - whole
            torch.testing.assert_close(swept.values[block, head], expected, rtol=1e-9, atol=1e-10)
    with pytest.raises(InputError, match="has no keys"):
        activation_ablation(plain, images, sites="z", keys="patches", **QUIET)


@pytest.mark.parametrize("replacement", ["zero", "mean", "other", "noise"])
def test_hooks_ablate_as_the_sweep_does_and_many_at_once(replacement, plain, images_of):
    images, others = pair(images_of, plain, 3)
    more = {"others": others} if replacement == "other" else {}
    whole = plain(images)[:, 1]
    for site, places in {"z": [(1, 0), (1, 2), (2, 3)], "post": [(0, 7)], "resid_pre": [1]}.items():
        hooks = [
            ablation_hooks(plain, images, site=site, places=[place], tokens="patches", replacement=replacement, **more)
            for place in places
        ]
        unit = {"z": "heads", "post": "neurons"}.get(site)
        for place, alone in zip(places, hooks, strict=True):
            block, number = place if unit else (place, None)
            about = {unit: [number], "tokens": "patches"} if unit else {"tokens": ["patches"]}
            swept = activation_ablation(
                plain,
                images,
                sites=site,
                blocks=[block],
                replacement=replacement,
                classes=[1],
                **about,
                **more,
                **QUIET,
            )
            with torch.no_grad():
                logits = plain.run_with_hooks(images, fwd_hooks=alone)[:, 1]
            torch.testing.assert_close(swept.values.squeeze(), logits - whole, rtol=1e-9, atol=1e-10)
        together = ablation_hooks(
            plain, images, site=site, places=places, tokens="patches", replacement=replacement, **more
        )
        with torch.no_grad(), plain.hooks(fwd_hooks=together):
            both = plain(images)
        with torch.no_grad():
            expected = plain.run_with_hooks(images, fwd_hooks=[hook for alone in hooks for hook in alone])
        torch.testing.assert_close(both, expected, rtol=1e-9, atol=1e-10)
    for site, places, sentence in [
        ("z", [], "list of places"),
        ("z", [1], "is .block, head."),
        ("mlp_out", [(1, 2)], "is a block"),
    ]:
        with pytest.raises(InputError, match=sentence):
            ablation_hooks(plain, images, site=site, places=places)


def test_single_numbers_will_do(plain, images_of):
    clean, corrupted = pair(images_of, plain)
    about = {"sites": "z", "classes": [1], **QUIET}
    listed = activation_patching(plain, clean, corrupted, metric="logit", blocks=[1], heads=[2], **about)
    assert torch.equal(
        activation_patching(plain, clean, corrupted, metric="logit", blocks=1, heads=2, **about).values, listed.values
    )
    last = activation_patching(plain, clean, corrupted, metric="logit", blocks=-2, heads=-2, **about)
    assert last.axes["head"] == [f"H{plain.cfg.n_heads - 2}"]
    assert torch.equal(last.values, listed.values)
    swept = [ablation_hooks(plain, clean, site="z", places=places) for places in ((1, 2), "L1H2", [(-2, -2)])]
    with torch.no_grad():
        logits = [plain.run_with_hooks(clean, fwd_hooks=hooks) for hooks in swept]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


def test_results_know_the_classes_they_are_about(plain, images_of):
    clean, corrupted = pair(images_of, plain)
    about = {"tokens": ["class"], "blocks": 0, **QUIET}
    found = activation_patching(plain, clean, corrupted, 1, baseline_classes=[2], **about)
    assert (found.classes.tolist(), found.baseline_classes.tolist()) == ([[1], [1]], [[2], [2]])
    predicted = plain(clean).argmax(dim=-1, keepdim=True)
    first = activation_patching(plain, clean, corrupted, metric="logit", **about)
    assert torch.equal(first.classes, predicted)
    assert first.baseline_classes is None
    own = activation_patching(plain, clean, corrupted, metric=lambda logits: logits[:, 0], **about)
    assert own.classes is None
    lost = activation_ablation(plain, clean, sites="resid_pre", metric="logit_difference", **about)
    assert torch.equal(lost.classes, predicted)
    assert (lost.baseline_classes != predicted).all()
