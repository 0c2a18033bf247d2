"""What every result keeps to: axes that fit, tables, figures without arguments, files, small pictures."""

import dataclasses
import inspect

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from public import public
from variants import build

import vitlens
from vitlens import HookedViT, Result, load_result

QUIET = {"progress": False}
#: By ending, what reads a table that was saved.
READERS = {"csv": pd.read_csv, "parquet": pd.read_parquet, "json": pd.read_json}
#: What others are made of, and no analysis returns as such.
BASES = {"Result", "Intervention"}


def makers():
    """By the name of its class, how a small result of every kind is made."""
    torch.manual_seed(0)
    model = HookedViT.from_timm(build(reg_tokens=1))
    model.architecture = lambda: build(reg_tokens=1)
    model.class_names = [f"kind {i}" for i in range(model.cfg.n_classes)]
    images = torch.randn(3, 3, *model.cfg.image_size, dtype=model.dtype)
    pair = {"model": model, "clean": images[:2], "corrupted": images[1:], "classes": 0, "baseline_classes": 1}
    about = {"model": model, "images": images}
    masks = torch.zeros(3, *model.cfg.image_size, dtype=torch.bool)
    masks[:, 16:, 16:] = True
    sae = vitlens.features.SparseAutoencoder.from_arrays(
        torch.randn(32, 40), None, torch.randn(40, 32), None, hook="blocks.1.hook_resid_post", source="random"
    )
    coded = {**about, "hook": None, "sae": sae, **QUIET}
    scores = vitlens.patching.edge_attribution_patching(**pair, **QUIET)

    def attributed(unit):
        return lambda: vitlens.direct_logit_attribution(**about, classes=[0, 1], unit=unit, **QUIET)

    def on_graph(call, options=QUIET):
        graph = vitlens.attribution_graph(model, images[:1], n_nodes=9, **QUIET)
        return lambda: call(model, images[:1], graph, **options)

    def vectors(texts):
        return torch.eye(model.cfg.n_classes, 32)[: len(texts)]

    def probes():
        fit = vitlens.lens.ProbeFit(model, sites=["resid_post"], tokens=[0, 2])
        fit.add(images, [0, 1, 2])
        return fit.solve()

    def worded(call, **options):
        words = dict(zip(["red", "green", "grey"], torch.randn(3, 32, dtype=model.dtype), strict=True))
        tower = vitlens.text.TextTower(lambda texts: torch.stack([words[text] for text in texts]))
        return lambda: call(model, images.repeat(4, 1, 1, 1), list(words), tower=tower, **options, **QUIET)

    return {
        "AttentionMaps": lambda: vitlens.attention(**about, head=["L0H1", "L2H3"]),
        "ClassLens": lambda: vitlens.class_lens(**about, classes=[0, 3]),
        "ClassTrace": lambda: vitlens.lens.class_trace(**about, classes=2),
        "Probes": probes,
        "Attribution": attributed("component"),
        "PatchAttribution": attributed("head_patch"),
        "NeuronAttribution": attributed("neuron"),
        "TokenAttribution": attributed("token"),
        "PathAttribution": attributed("path"),
        "AttributionMeans": lambda: vitlens.attribution.attribution_means(
            model, images, torch.tensor([0, 1, 1]), unit="head", **QUIET
        ),
        "Patching": lambda: vitlens.activation_patching(**pair, **QUIET),
        "Ablation": lambda: vitlens.activation_ablation(**about, **QUIET),
        "Circuit": lambda: vitlens.find_circuit(model, scores, n_edges=20),
        "AttributionGraph": lambda: vitlens.attribution_graph(model, images[:1], [0, 1], n_nodes=20, **QUIET),
        "AttentionContributions": on_graph(
            vitlens.circuits.attention_contributions, {"head": "L1H0", "query": 0, "key": 2, "n_nodes": 4}
        ),
        "EdgeHeads": on_graph(vitlens.circuits.edge_heads),
        "GraphValidation": on_graph(vitlens.circuits.validate_graph),
        "CircuitCurve": lambda: vitlens.circuits.evaluate_circuits(**pair, scores=scores, sizes=[10, 30], **QUIET),
        "TokenAblation": lambda: vitlens.ablate_tokens(**about, tokens=vitlens.choose.patch(0, 1)),
        "Knockout": lambda: vitlens.knockout_attention(model, images),
        "FeatureAttribution": lambda: vitlens.features.feature_attribution(**coded),
        "FeatureEffects": lambda: vitlens.features.feature_effects(**coded, features=range(3)),
        "TopPatches": lambda: vitlens.features.top_patches(**coded, k=2),
        "DictionaryEvaluation": lambda: vitlens.features.evaluate_sae(**coded),
        "TrainingHistory": lambda: vitlens.features.train(
            **about, hook="resid_post0", k=2, n_rows=16, batch_rows=8, progress=False
        ).history,
        "Description": lambda: vitlens.describe(**about, **QUIET),
        "RegisterNeurons": lambda: vitlens.registers.find_register_neurons(**about, outlier_threshold=1.01, **QUIET),
        "PatchPCA": lambda: vitlens.similarity.patch_pca(**about),
        "NearestPatches": lambda: vitlens.similarity.nearest_patches(**about, others=images.flip(0)),
        "PatchSimilarity": lambda: vitlens.similarity.patch_similarity(**about, queries="class", others=images.flip(0)),
        "FeatureNames": worded(vitlens.text.name_features, sae=sae, k=2),
        "SparseWords": worded(vitlens.text.sparse_words, sparsity=0.01),
        "HeadNames": worded(vitlens.text.name_heads, k=2, n_draws=1),
        "NeuronNames": worded(vitlens.text.name_neurons, k=2, block=0, n_draws=1),
        "RegisterShift": lambda: vitlens.registers.register_shift(**about, neurons=[(0, 3)], **QUIET),
        "Shortcut": lambda: vitlens.find_shortcut(
            model, images.repeat(2, 1, 1, 1), torch.arange(6), ["a", "b"] * 3, n_draws=9, **QUIET
        ),
        "Heatmap": lambda: vitlens.heatmap(**about, method="legrad"),
        "Faithfulness": lambda: vitlens.evaluate_heatmaps(
            **about, heatmaps="legrad", metrics=["deletion", "insertion"], n_steps=3, **QUIET
        ),
        "EditEvaluation": lambda: vitlens.editing.evaluate_edits(
            model, images, [0, 1, 1], ["a", "a", "b"], edits={"without L0H1": vitlens.edit(model, "L0H1")}, **QUIET
        ),
        "Segmentation": lambda: vitlens.faithfulness.evaluate_segmentation(
            **about, masks=masks, heatmaps="legrad", **QUIET
        ),
        "Perturbation": lambda: vitlens.faithfulness.perturbation_test(
            **about, importance=torch.rand(3, 9), n_steps=3
        ),
        "ZeroShotAccuracy": lambda: vitlens.text.zero_shot_accuracy(
            model, images, model.class_names, labels=[0, 1, 1], tower=vitlens.text.TextTower(vectors), **QUIET
        ),
        "Randomisation": lambda: vitlens.faithfulness.randomisation_test(**about, methods="legrad", **QUIET),
    }  # fmt: skip


MAKERS = makers()


@pytest.fixture(scope="module", params=sorted(MAKERS))
def result(request):
    return MAKERS[request.param]()


def same(one, other):
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            same(one[name], other[name])
    else:
        assert one == other or (one != one and other != other)


def test_makers_make_what_they_say(result, request):
    assert type(result).__name__ == request.node.callspec.params["result"]


def test_every_public_kind_of_result_is_here():
    kinds = {name for name, item in public().items() if inspect.isclass(item) and issubclass(item, Result)}
    assert kinds - BASES == set(MAKERS)


def test_axes_and_tables(result):
    assert [len(labels) for labels in result.axes.values()] == list(result.values.shape)
    assert result.settings["model"]
    assert len(result.to_frame()) == result.values.numel()
    data = result.to_xarray()
    assert dict(data.sizes) == {axis: len(labels) for axis, labels in result.axes.items()}
    columns = result.columns()
    assert set(data.data_vars) == set(columns)
    first = next(iter(columns))
    np.testing.assert_array_equal(data[first].to_numpy(), columns[first].expand(result.values.shape).cpu().numpy())
    assert len(repr(result)) < 250
    assert "<table" in result._repr_html_()


def test_every_result_draws_itself(result):
    figure = result.plot()
    assert isinstance(figure, go.Figure)
    assert figure.layout.title.text
    assert figure.data


def test_files_give_back_what_was_saved(result, tmp_path):
    result.save(tmp_path / "result.safetensors")
    again = load_result(tmp_path / "result.safetensors")
    assert type(again) is type(result)
    for field in dataclasses.fields(result):
        same(getattr(again, field.name), getattr(result, field.name))
    for axis, labels in result.axes.items():
        assert [type(label) for label in again.axes[axis]] == [type(label) for label in labels]


def test_the_ending_decides_what_is_written(result, tmp_path):
    frame = result.to_frame()
    for ending, read in READERS.items():
        result.save(tmp_path / f"result.{ending}")
        again = read(tmp_path / f"result.{ending}")
        assert list(again.columns) == list(frame.columns), ending
        for name in frame.select_dtypes("number"):
            column = again[name].astype(float).to_numpy()
            np.testing.assert_allclose(column, frame[name].to_numpy(dtype=float), rtol=1e-6, err_msg=f"{ending} {name}")
        # Read by others, too.
        assert (tmp_path / f"result.{ending}").stat().st_mode & 0o444 == 0o444
    result.save(tmp_path / "result.html")
    assert "plotly-graph-div" in (tmp_path / "result.html").read_text()


def test_pictures_are_small_bytes(result):
    pixels = result.pixels
    if "image" in result.axes:
        assert pixels is not None
    if pixels is not None:
        assert pixels.dtype == torch.uint8
        assert pixels.shape[-1] == 3
        assert max(pixels.shape[1:3]) <= 448
