"""Figures of pictures, attributions, interventions, descriptions and memories show their results' numbers."""

import base64
import html
import io

import numpy as np
import pytest
import torch
from PIL import Image
from plots.conftest import gallery
from typer.testing import CliRunner

import vitlens
from vitlens.data.class_names import short_name
from vitlens.description.token_norms import STATISTICS
from vitlens.plots import (
    attribution_head_map,
    attribution_map,
    attribution_means_board,
    attribution_patches,
    attribution_waterfall,
    circuit_figure,
    feature_card,
    patching_board,
    path_board,
    picture_with_grid,
    register_board,
)
from vitlens.plots import description as of_descriptions
from vitlens.plots.shared.style import LOWERS, OUTLINE, RAISES


def maps_of(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


def quoted(subject, index):
    return f"“{html.escape(short_name(subject.names[index]))}”"


def test_the_picture_its_grid_and_its_object(subject):
    rows, columns = subject.grid
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    mask[0, 1] = True
    figure = picture_with_grid({"<i>a</i>": subject.pixels[0]}, subject.grid, mask)
    lines = [shape for shape in figure.layout.shapes if shape.line.color != OUTLINE]
    assert len(lines) == rows - 1 + columns - 1
    edges = {(s.x0, s.x1, s.y0, s.y1) for s in figure.layout.shapes if s.line.color == OUTLINE}
    assert edges == {(0.5, 1.5, -0.5, -0.5), (0.5, 1.5, 0.5, 0.5), (0.5, 0.5, -0.5, 0.5), (1.5, 1.5, -0.5, 0.5)}
    assert figure.layout.annotations[0].text == "&lt;i&gt;a&lt;/i&gt;"
    assert f"{rows} × {columns} patches" in figure.layout.title.subtitle.text
    drawn = Image.open(io.BytesIO(base64.b64decode(figure.layout.images[0].source.split(",")[1])))
    assert drawn.size == (subject.pixels.shape[2], subject.pixels.shape[1])


def test_the_waterfall_ends_at_the_logit(subject):
    result = vitlens.direct_logit_attribution(subject.model, subject.images[:2], 2)
    (steps,) = attribution_waterfall(result, image=1).data
    assert sum(steps.y) == pytest.approx(result.logits[1, 0].item(), abs=1e-4)
    assert list(steps.x) == [*result.axes["component"], "logit"]
    np.testing.assert_allclose(steps.y[:-1], result.values[1, 0].float().numpy(), rtol=1e-6)
    assert list(steps.measure) == ["relative"] * (len(steps.x) - 1) + ["total"]
    assert steps.increasing.marker.color is None, "colours are the template's"


def test_heads_over_blocks_and_over_the_picture(subject):
    result = vitlens.direct_logit_attribution(subject.model, subject.images[:2], 2, unit="head_patch")
    figure = attribution_head_map(result, image=1)
    np.testing.assert_allclose(figure.data[0].z, result.head_map(1, 0).T.float().numpy())
    assert list(figure.data[0].y) == [f"H{head}" for head in range(subject.model.cfg.n_heads)]
    assert quoted(subject, 2) in figure.layout.title.text
    whole = attribution_map(result, image=1)
    np.testing.assert_allclose(maps_of(whole)[0].z, result.maps(1, 0).float().numpy())
    tiles = attribution_patches(result, image=1, heads=3)
    first = tiles.layout.annotations[0].text
    block, head = map(int, first.split()[0][1:].split("H"))
    exact = result.values[1, 0, block, head][-subject.grid[0] * subject.grid[1] :].unflatten(0, subject.grid)
    np.testing.assert_allclose(maps_of(tiles)[0].z, exact.float().numpy())
    assert first == f"L{block}H{head} {exact.sum():+.2f}"


def test_means_over_classes(subject):
    means = vitlens.attribution.attribution_means(subject.model, subject.images, subject.labels, progress=False)
    figure = attribution_means_board(means, k=5)
    order = [means.axes["component"].index(name) for name in figure.data[0].x]
    np.testing.assert_allclose(figure.data[0].z, means.specific()[:, order].float().numpy())
    names = [html.escape(short_name(name)) for name in means.axes["class"]]
    assert [row[0] for row in figure.data[0].text] == names


def test_boards_of_interventions(subject):
    quiet = {"classes": 1, "baseline_classes": 4, "progress": False}
    clean, corrupted = subject.images[:1], subject.images[1:2]
    heads = vitlens.activation_patching(subject.model, clean, corrupted, sites="z", **quiet)
    figure = patching_board(heads)
    np.testing.assert_allclose(figure.data[0].z, heads.effect().T.float().numpy())
    assert figure.layout.title.text == "Which heads move the decision"
    assert figure.data[0].zmax == pytest.approx(max(1.0, heads.effect().abs().max().item()))
    paths = vitlens.path_patching(
        subject.model, clean, corrupted, senders=["L0H*", "L* mlp"], receivers=["logits"], **quiet
    )
    board = path_board(paths)
    np.testing.assert_allclose(board.data[0].z, paths.effect().float().numpy())
    assert list(board.data[0].y) == paths.axes["sender"]


def test_edges_of_a_circuit_have_the_sign_of_their_score(subject):
    quiet = {"classes": 1, "baseline_classes": 4, "progress": False}
    scores = vitlens.patching.edge_attribution_patching(subject.model, subject.images[:1], subject.images[1:2], **quiet)
    circuit = vitlens.find_circuit(subject.model, scores, n_edges=60)
    figure = circuit_figure(circuit)
    colours = {RAISES: set(), LOWERS: set()}
    for trace in figure.data:
        if trace.mode == "markers" and trace.hovertext is not None and trace.marker.opacity == 0:
            colours[trace.marker.color] |= {html.unescape(text.split("<br>")[0]) for text in trace.hovertext}
    assert colours[RAISES] == {edge for edge in circuit.edges if circuit.scores[edge] >= 0}
    assert colours[LOWERS] == circuit.edges - colours[RAISES]


def test_tokens_and_heads_of_a_description(subject):
    found = vitlens.describe(subject.model, subject.images, progress=False)
    norms = of_descriptions.norms_by_block(found)
    mean = array_of(found.token_norms[:, 0, STATISTICS.index("mean")])
    np.testing.assert_allclose(norms.data[0].y, mean)
    assert norms.data[0].name == f"{found.settings['kinds'][0]}, mean"
    distances = of_descriptions.distance_by_block(found).data[0]
    np.testing.assert_allclose(distances.y, array_of(found.fact("distance")).ravel())
    examples = of_descriptions.example_norms(found, n_blocks=2)
    late = maps_of(examples)[-1]
    last = found.example_norms[-1, -1]
    median = last.median()
    np.testing.assert_allclose(late.z, array_of(last / median), rtol=1e-5)
    outliers = of_descriptions.outlier_map(found)
    share = found.outlier_counts[found.settings["late_block"]] / found.n_images
    np.testing.assert_allclose(maps_of(outliers)[0].z, array_of(share))


def test_registers(subject):
    shift = vitlens.registers.register_shift(subject.model, subject.images[:2], neurons=[(1, 3)], progress=False)
    figure = register_board(shift, image=1)
    norms = [trace for trace in maps_of(figure) if "norm" in trace.hovertemplate]
    for run, trace in enumerate(norms):
        np.testing.assert_allclose(trace.z, array_of(shift.values[run, 1, -1]).reshape(subject.grid))
    assert len(norms) == 2
    assert "test-time register" in figure.layout.title.text


def test_the_card_of_a_memory(subject):
    result = vitlens.memories.top_memory_patches(subject.model, subject.images, block=-1, k=4, progress=False)
    memory = result.axes["feature"][1]
    figure = feature_card(result, memory)
    assert figure.layout.title.text == f"Memory {memory} in the MLP of block {subject.model.cfg.n_layers - 1}"
    n_pictures = len(set(result.images[result.row_of(memory)].tolist()))
    assert sum(image.name == "crop" for image in figure.layout.images) == n_pictures
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert sum(bars[0].y) == result.counts[1].sum()
    read = vitlens.memories.read_memories(subject.model, -1, memories=[memory], k=10)
    assert list(bars[1].customdata) == [html.escape(short_name(name)) for name in read["class_name"]]
    np.testing.assert_allclose(bars[1].x, read["logit"], rtol=1e-5)
    assert list(bars[1].marker.color) == [RAISES if value > 0 else LOWERS for value in read["logit"]]
    crops = [trace for trace in maps_of(figure) if "picture" in trace.hovertemplate]
    assert f"picture {int(result.images[1, 0])}" in crops[0].hovertemplate


def test_the_gallery_refuses_what_it_cannot_show(tmp_path):
    one = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(one)
    for arguments, sentence in (
        ([one, "--out", tmp_path / "page.html"], "two pictures or more"),
        (["--out", tmp_path / "nowhere" / "page.html"], "there is no folder"),
    ):
        refused = CliRunner().invoke(gallery.app, list(map(str, arguments))).exception
        assert isinstance(refused, vitlens.InputError)
        assert sentence in str(refused)


def array_of(values):
    return values.detach().float().cpu().numpy()
