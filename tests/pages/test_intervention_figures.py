"""Figures of patching, ablation and paths: they show the results' numbers, and a browser draws them."""

import dataclasses

import pytest
import torch

from vitlens import InputError, activation_ablation, activation_patching, attribution_patching, load_demo, path_patching
from vitlens.pages.page import Section, write_page
from vitlens.plots.patching import patching_board
from vitlens.plots.shared.style import true_minus


@pytest.fixture(scope="module")
def results():
    model, images, labels, _ = load_demo()
    clean, corrupted = images[0:4:2], images[1:4:2]
    quiet = {"progress": False, "classes": labels[0:4:2]}
    return {
        "patches": activation_patching(model, clean, corrupted, blocks=[0], **quiet),
        "one pair": activation_patching(model, clean[:1], corrupted[:1], classes=labels[:1], sites="z", progress=False),
        "estimated": attribution_patching(model, clean, corrupted, direction="noise", **quiet),
        "heads": activation_patching(model, clean, corrupted, sites="z", **quiet),
        "heads by token set": activation_patching(
            model, clean, corrupted, sites="z", tokens=["class", "patches"], **quiet
        ),
        "neurons": activation_ablation(model, clean, sites="post", neurons=[0, 7], **quiet),
        "ablated": activation_ablation(model, clean, sites="resid_pre", blocks=[0], replacement="mean", **quiet),
        "paths": path_patching(
            model, clean, corrupted, senders=["L0H*", "L* mlp"], receivers=["L5H1<v>", "logits"], **quiet
        ),
    }


def figures_of(results):
    chosen = {name: result for name, result in results.items() if name != "heads by token set"}
    chosen["heads at class token"] = results["heads by token set"].select(tokens="class")
    chosen["one receiver"] = results["paths"].select(receiver="logits")
    return {name: result.plot() for name, result in chosen.items()}


def test_figures_show_the_effects(results):
    figures = figures_of(results)
    for name in ("patches", "estimated", "ablated"):
        maps = [torch.as_tensor(trace.z) for trace in figures[name].data if trace.type == "heatmap"]
        torch.testing.assert_close(torch.stack(maps).float(), results[name].maps(), rtol=1e-4, atol=1e-6)
        first = figures[name].layout.annotations[0].text
        assert first.startswith(true_minus(f"block 0, class {results[name].effect()[0, 0]:+.2f}"))
    for name in ("heads", "neurons"):
        shown = torch.as_tensor(figures[name].data[0].z).float()
        torch.testing.assert_close(shown, results[name].effect().T, rtol=1e-4, atol=1e-6)
    shown = torch.as_tensor(figures["paths"].data[0].z).float()
    torch.testing.assert_close(shown, results["paths"].effect(), rtol=1e-4, atol=1e-6)
    assert "estimated by gradient" in figures["estimated"].layout.title.subtitle.text
    with pytest.raises(InputError, match="choose one tokens"):
        results["heads by token set"].plot()


def test_effects_beyond_their_ends_and_small_differences_are_told(results):
    heads = results["heads"]

    def made(target, source, patched):
        numbers = torch.tensor([[target, target], [source, source]], dtype=heads.values.dtype)
        changed = torch.full_like(heads.patched, patched)
        return dataclasses.replace(heads, target=numbers[0], source=numbers[1], patched=changed, values=changed * 0)

    assert made(-3.5, 3.1, 0.0).caution() is None
    assert made(-3.5, 3.1, 3.1).caution() is None
    assert made(-3.5, 3.1, 4.0).caution() == "an effect above 1 goes beyond the source run"
    assert made(-3.5, 3.1, -4.5).caution() == "an effect below 0 moves the metric away from the source run"
    small = (
        "ill-conditioned: the two runs differ by 0.1 in logit difference, and patching one cell alone moves it by 2, so "
        "read shift(), not effect()"
    )
    assert made(10.0, 10.1, 12.0).caution() == made(10.0, 10.1, 12.0).ill_conditioned() == small
    figure = patching_board(made(10.0, 10.1, 12.0))
    lines = figure.layout.title.subtitle.text.split("<br>")
    assert "ill-conditioned" in figure.layout.title.subtitle.text
    assert max(map(len, lines)) <= 90
    # Shifts are drawn, not their ratios.
    assert torch.as_tensor(figure.data[0].z).float().unique().tolist() == [2.0]
    assert figure.data[0].colorbar.title.text.startswith("shift")


def test_figures_name_both_classes(results):
    one = results["one pair"]
    names = [one.class_names[int(index)] for index in (one.classes[0, 0], one.baseline_classes[0, 0])]
    said = one.plot().layout.title.subtitle.text.replace("<br>", " ")
    assert f"logit difference of “{names[0]}” over “{names[1]}”" in said


def test_a_browser_draws_them(results, tmp_path, open_page):
    figures = figures_of(results)
    path = tmp_path / "page.html"
    write_page(path, "interventions", {}, [Section(name, "", [figure]) for name, figure in figures.items()])
    opened = open_page(path)
    assert not opened.complaints
    assert not opened.requests
    opened.page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
