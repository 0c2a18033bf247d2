"""Every figure on one page, light or dark at the press of a button: to see what there is, and to look for faults.

Without arguments on the demo model and its pictures; else on a model and at least two pictures. The paper's figures need
a data set with labels and are drawn for the demo only.

\b
    python experiments/gallery.py
    python experiments/gallery.py leaf.jpg other.jpg --model vit_base_patch16_224 --checkpoint mine.safetensors
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import pandas as pd
import plotly.graph_objects as go
import torch
import typer
from torch import Tensor
from tqdm import tqdm

import vitlens
from vitlens import plots
from vitlens.command_line import DEMO, is_watched, load_model, run
from vitlens.commands.options import Timm
from vitlens.data.demo import load_demo_pictures
from vitlens.files import check_writable
from vitlens.heatmap_scores.faithfulness import faithfulness
from vitlens.model.hooked_vit import HookedViT
from vitlens.plots import faithfulness as faithfulness_plots
from vitlens.plots import paper_interventions, paper_lens, paper_memories
from vitlens.plots.description import FIGURES
from vitlens.report.page import Section, write_page
from vitlens.study.run import EXPERIMENTS, run_study

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
METHODS = ("token_mask", "gradient_rollout", "attention_rollout", "raw_attention", "grad_cam")
Figures = dict[str, go.Figure]


@dataclass
class Subject:
    """A model, pictures, the class of each that is followed, and object masks where they are known."""

    model: HookedViT
    images: Tensor
    labels: Tensor
    masks: Tensor | None = None

    @cached_property
    def pixels(self) -> Tensor:
        return self.model.to_pixels(self.images)

    @cached_property
    def grid(self) -> tuple[int, int]:
        return self.model.embed.grid(*self.images.shape[-2:])

    @cached_property
    def names(self) -> list[str]:
        return [self.model.class_label(i) for i in range(self.model.cfg.n_classes)]


def picture(subject: Subject) -> Figures:
    mask = None
    if subject.masks is not None:
        inside = vitlens.token_mask(subject.model, "object", 1, masks=subject.masks[:1], grid=subject.grid)[0]
        mask = inside[subject.model.cfg.n_prefix_tokens :].unflatten(0, subject.grid)
    probabilities = subject.model(subject.images[:1], return_type="probs")[0]
    return {
        "picture": plots.picture_with_grid({"first picture": subject.pixels[0]}, subject.grid, mask),
        "predictions": plots.predictions(probabilities, subject.names, subject.model.cfg.model_name),
    }


def lens(subject: Subject) -> Figures:
    model, pixels = subject.model, subject.pixels[0]
    first = model(subject.images[:1])[0].topk(min(4, model.cfg.n_classes)).indices.tolist()
    found = vitlens.class_lens(model, subject.images[:1], first)
    middle = model.cfg.n_prefix_tokens + subject.grid[0] * subject.grid[1] // 2
    return {
        "trajectory": plots.lens_trajectory(found),
        "trajectory of two tokens": plots.lens_trajectory(found, token=[0, middle]),
        "maps of logits": plots.class_maps(found, pixels),
        "maps of probabilities": plots.class_maps(found, pixels, quantity="probability"),
        "mosaic": plots.class_mosaic(found, pixels),
        "mosaic of a middle block": plots.class_mosaic(found, pixels, block=model.cfg.n_layers // 2),
        "one token": paper_interventions.token_classes(found, token=middle),
    }


def attribution(subject: Subject) -> Figures:
    model, images, label = subject.model, subject.images[:1], int(subject.labels[0])
    by_unit = {
        unit: vitlens.direct_logit_attribution(model, images, label, unit=unit)
        for unit in ("component", "head", "head_patch", "neuron")
    }
    means = vitlens.attribution_means(model, subject.images, subject.labels, progress=False)
    return {
        "components": plots.attribution_waterfall(by_unit["component"]),
        "neurons": plots.attribution_waterfall(by_unit["neuron"]),
        "heads": plots.attribution_head_map(by_unit["head"]),
        "heads × patches": plots.attribution_patches(by_unit["head_patch"], subject.pixels[0]),
        "patches": plots.attribution_map(by_unit["head_patch"], subject.pixels[0]),
        "means": plots.attribution_means_board(means),
    }


def attention(subject: Subject) -> Figures:
    model, cfg = subject.model, subject.model.cfg
    _, cache = model.run_with_cache(subject.images[:1], names_filter="pattern")
    pattern = torch.stack([cache["pattern", block][0] for block in range(cfg.n_layers)])
    about = (subject.pixels[0], subject.grid, cfg.prefix_tokens)
    token = cfg.n_prefix_tokens + subject.grid[1] * (subject.grid[0] // 2) + subject.grid[1] // 3
    query = cfg.prefix_tokens[0] if cfg.prefix_tokens else "first patch"
    rollout = vitlens.heatmap(model, subject.images[:1], method="attention_rollout").values[0]
    block = cfg.n_layers // 2
    return {
        "one head": plots.attention_overlay(pattern[-1, 0, 0], *about, f"L{cfg.n_layers - 1}H0", query, cfg.model_name),
        "heads of a block": plots.attention_grid(pattern[block], *about, block, cfg.model_name),
        "heads, from a patch": plots.attention_grid(pattern[block], *about, block, cfg.model_name, token=token),
        "heads, to a patch": plots.attention_grid(
            pattern[block], *about, block, cfg.model_name, token=token, direction="by"
        ),
        "blocks and rollout": plots.attention_blocks(pattern, *about, cfg.model_name, rollout=rollout),
        "blocks, to a patch": plots.attention_blocks(pattern, *about, cfg.model_name, token=token, direction="by"),
        "all heads": plots.attention_mosaic(
            pattern[:, :, 0, cfg.n_prefix_tokens :].unflatten(-1, subject.grid), query, cfg.model_name
        ),
    }


def patching(subject: Subject) -> Figures:
    model, labels = subject.model, subject.labels
    clean, corrupted = subject.images[:1], subject.images[1:2]
    # Of a pair with one label the rival is what the corrupted picture is taken for.
    logits = model(corrupted)[0].index_fill(0, labels[:1], -torch.inf)
    about = {"classes": int(labels[0]), "baseline_classes": int(logits.argmax()), "progress": False}
    paths = vitlens.path_patching(model, clean, corrupted, ["a0.*", "m*"], ["logits"], **about)
    ablated = vitlens.activation_ablation(
        model, clean, site="z", replacement="zero", classes=int(labels[0]), progress=False
    )
    edges = vitlens.edge_attribution_patching(model, clean, corrupted, **about)
    curve = vitlens.evaluate_circuits(model, clean, corrupted, edges, [10, 40, 160], n_random=1, **about)
    return {
        "patches": plots.patching_maps(
            vitlens.attribution_patching(model, clean, corrupted, **about), subject.pixels[0]
        ),
        "heads": plots.patching_board(vitlens.activation_patching(model, clean, corrupted, site="z", **about)),
        "ablated heads": plots.patching_board(ablated),
        "paths": plots.path_board(paths),
        "circuit": plots.circuit_figure(vitlens.find_circuit(model, edges, n_edges=40)),
        "circuits of growing size": plots.circuit_curve(curve),
    }


def heatmaps(subject: Subject) -> Figures:
    model, images, labels = subject.model, subject.images[:1], subject.labels[:1]
    found = {name: vitlens.heatmap(model, images, labels, method=name) for name in METHODS}
    signed = [name for name, result in found.items() if result.method.signed]
    gradient = vitlens.projection_gradient(model, images, labels)
    order = vitlens.perturbation_test(model, images, gradient.heatmap()[:, 0], labels, n_steps=8)
    several = min(6, len(subject.images))
    faithful = faithfulness(
        model, subject.images[:several], subject.labels[:several], ["gradient_rollout", "raw_attention"],
        metrics=["deletion", "insertion", "negative", "positive"], n_steps=6, seeds=1, progress=False,
    )  # fmt: skip
    outlined = vitlens.segmentation(
        model, subject.images[:several], _some_masks(subject)[:several], subject.labels[:several], ["gradient_rollout"],
        seeds=1, progress=False,
    )  # fmt: skip
    label = model.class_label(int(labels[0]))
    flat = {name: result.values[0].flatten() for name, result in found.items()}
    return {
        "one map": plots.heatmap_figure(found["token_mask"], subject.pixels[0]),
        "overlay": plots.heatmap_overlay(subject.pixels[0], found["grad_cam"].values[0], "Grad-CAM", signed=True),
        "methods": plots.heatmap_comparison(
            subject.pixels[0], {name: result.values[0] for name, result in found.items()}, signed=signed,
            warnings={"raw_attention": "a warning, to see how it looks on a map"}, class_name=label,
            model_name=model.cfg.model_name,
        ),
        "methods on one scale": paper_interventions.method_maps(flat, subject.pixels[0], subject.grid, label),
        "projection gradient": plots.importance_maps(gradient, subject.pixels[0]),
        "perturbation": plots.perturbation_of_batch(order),
        "faithfulness": faithfulness_plots.faithfulness_curves(faithful),
        "table of faithfulness": faithfulness_plots.faithfulness_table(faithful),
        "segmentation": faithfulness_plots.segmentation_table(outlined),
        **_randomised(subject),
    }  # fmt: skip


def _some_masks(subject: Subject) -> Tensor:
    """The objects' masks, or the middle of each picture where they are not known."""
    if subject.masks is not None:
        return subject.masks
    n, (height, width) = len(subject.images), subject.images.shape[-2:]
    masks = torch.zeros(n, height, width, dtype=torch.bool)
    masks[:, height // 4 : -height // 4, width // 4 : -width // 4] = True
    return masks


def _randomised(subject: Subject) -> Figures:
    """Where the model can be built anew."""
    if subject.model.architecture is None:
        return {}
    methods = ["gradient_rollout", "attention_rollout", "centre_prior"]
    found = vitlens.randomisation_test(subject.model, subject.images[:3], subject.labels[:3], methods, progress=False)
    return {"randomised weights": faithfulness_plots.randomisation_curves(found)}


def description(subject: Subject) -> Figures:
    found = vitlens.describe(subject.model, subject.images, against=subject.model, progress=False)
    wanted = {name: figure for name, figure in FIGURES.items() if found.cka is not None or "cka" not in name}
    figures = {
        name: figure(found, subject.pixels) if name == "examples" else figure(found) for name, figure in wanted.items()
    }
    try:
        neurons = vitlens.find_register_neurons(subject.model, subject.images, n_neurons=3, progress=False)
    except vitlens.InputError:
        # No outlier patches: the added token then merely takes part.
        neurons = []
    shift = vitlens.register_shift(subject.model, subject.images[:1], neurons, progress=False)
    return figures | {"registers": plots.register_board(shift, subject.pixels[0])}


def features(subject: Subject) -> Figures:
    model = subject.model
    found = vitlens.top_memory_patches(model, -1, subject.images, k=9, one_per_picture=True, progress=False)
    of_heads = vitlens.top_memory_patches(model, -1, subject.images, "attn", k=15, progress=False)
    generator = torch.Generator().manual_seed(0)
    width = model.cfg.d_model
    weights = torch.randn(width, 4 * width, generator=generator).to(model.W_U) * width**-0.5
    sae = vitlens.SparseAutoencoder.from_arrays(
        weights, None, weights.T, None, hook=f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", source="random directions"
    )  # fmt: skip
    shares = vitlens.feature_attribution(model, None, sae, subject.images[:1], int(subject.labels[0]), progress=False)
    return {
        "memory of the MLP": plots.feature_card(found, subject.pixels, found.axes["feature"][0]),
        "memory of attention": plots.feature_card(of_heads, subject.pixels, of_heads.axes["feature"][0]),
        "features of a logit": plots.feature_bars(shares),
    }


def paper(tables: dict[str, pd.DataFrame], name: str) -> Figures:
    """The figures of the paper that are drawn from the tables of a study."""

    def usual(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        chosen = table[table["coefficients"] != "pre"]
        return {name: chosen[chosen["orientation"] == "classes_of_keys"] if "orientation" in chosen else chosen}

    def by_model(table: str) -> dict[str, pd.DataFrame]:
        return {name: tables[table]}

    rates = {name: table.query("tokens == 'all'") for name, table in usual(tables["key_value_rate"]).items()}
    return {
        "identifiability": paper_lens.identifiability_boxes(by_model("identifiability")),
        "identifiability over depth": paper_lens.identifiability_curves(by_model("identifiability")),
        "change": paper_lens.change_rates(by_model("change_rate")),
        "context": paper_lens.context_boxes(by_model("context_identifiability")),
        "attention to context": paper_lens.attention_to_context(tables["attention_to_context"], name),
        "sublayers": paper_lens.sublayer_changes(by_model("sublayer_change")),
        "composition": paper_lens.composition_bars(by_model("residual_composition")),
        "class values": paper_memories.class_value_boxes(by_model("class_value")),
        "agreement": paper_memories.agreement_rates(by_model("key_value_by_class")),
        "memories over depth": paper_memories.memory_overview(by_model("class_value"), rates),
        "right and wrong": paper_memories.agreement_difference(usual(tables["key_value_correct"])),
        "one memory": paper_memories.composition_lines(usual(tables["memory_composition"])),
        "removal": paper_interventions.perturbation_curves(by_model("perturbation_curves")),
        "probes": paper_interventions.probe_curves(by_model("linear_probe")),
        "knockouts": paper_interventions.intervention_bars(by_model("attention_knockout"), "knockout", "Attention cut"),
    }


#: The page's sections, in its order.
GROUPS: dict[str, Callable[[Subject], Figures]] = {
    "The picture": picture,
    "Class lens": lens,
    "Attribution": attribution,
    "Attention": attention,
    "Patching and circuits": patching,
    "Heatmaps": heatmaps,
    "Tokens and heads": description,
    "Memories and features": features,
}


def demo_tables(model: HookedViT) -> dict[str, pd.DataFrame]:
    """The tables of the paper's experiments over a few pictures of the demo."""
    settings = vitlens.StudySettings(
        limit=20, batch_size=10, steps=4, bootstrap=20, permutations=20, random_models=1, random_orders=1,
        split="agreeing", train_data="demo", train_split="conflicting", train_per_class=2,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        return run_study(model, settings, list(EXPERIMENTS), Path(folder) / "out", progress=False).tables


@app.command(help=__doc__)
def main(
    pictures: Annotated[list[Path] | None, typer.Argument(help="two or more pictures [default: the demo's]")] = None,
    model: Annotated[str, typer.Option(help='a timm name, or "demo"')] = DEMO,
    checkpoint: Annotated[Path | None, typer.Option(help="your own weights for the timm model")] = None,
    timm: Timm = None,
    out: Annotated[Path, typer.Option(help="the page")] = Path("gallery.html"),
) -> None:
    check_writable(out)
    hooked = load_model(model, checkpoint, False, timm=timm)
    hooked.require_classifier()
    if pictures is not None and len(pictures) < 2:
        raise vitlens.InputError(
            "a gallery needs two pictures or more, as one's activations are put into another's run"
        )
    if pictures is None and model != DEMO:
        raise vitlens.InputError(f"name two pictures or more for {model} to look at")
    if pictures is None:
        demo = load_demo_pictures(hooked)
        subject = Subject(hooked, demo.images, demo.labels, demo.masks)
    else:
        images = hooked.to_images(pictures)
        with torch.no_grad():
            subject = Subject(hooked, images, hooked(images).argmax(dim=-1))
    sections = []
    for heading, group in tqdm(GROUPS.items(), disable=not is_watched()):
        sections.append(Section(heading, "", list(group(subject).values())))
    if model == DEMO:
        figures = paper(demo_tables(hooked), hooked.cfg.model_name)
        sections.append(Section("The paper's figures", "", list(figures.values())))
    n = sum(len(section.figures) for section in sections)
    facts = {"model": hooked.cfg.model_name, "pictures": str(len(subject.images)), "figures": str(n)}
    write_page(out, "Every figure of vitlens", facts, sections)
    typer.echo(f"{n} figures in {out}")


if __name__ == "__main__":
    run(app)
