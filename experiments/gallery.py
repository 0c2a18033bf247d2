"""Every figure on one page, light or dark at the press of a button: to see what there is, and to look for faults.

Without arguments on the demo model and its pictures; else on a model and at least two pictures. The paper's figures need
a data set with labels and are drawn for the demo only.

\b
    python experiments/gallery.py
    python experiments/gallery.py leaf.jpg other.jpg --model vit_base_patch16_224 --checkpoint mine.safetensors
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go
import torch
import typer
from torch import Tensor
from tqdm import tqdm

import vitlens
from vitlens import plots
from vitlens.cli import ModelOptions, is_watched, run, with_model
from vitlens.demo import load_demo_pictures
from vitlens.faithfulness import evaluate_heatmaps
from vitlens.files import check_writable
from vitlens.model import HookedViT
from vitlens.model.provenance import page_facts
from vitlens.pages.explorer.measure.evidence import remove
from vitlens.pages.page import Section, write_page
from vitlens.paper import run_study
from vitlens.paper.figures import interventions as paper_interventions
from vitlens.paper.figures import lens as paper_lens
from vitlens.paper.figures import memories as paper_memories
from vitlens.paper.run import EXPERIMENTS
from vitlens.plots import faithfulness as faithfulness_plots
from vitlens.plots.description import KINDS

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
METHODS = ("token_mask", "gradient_rollout", "attention_rollout", "raw_attention", "grad_cam")
#: How each figure is drawn, by name: one that a model refuses must not cost the others.
Figures = dict[str, Callable[[], go.Figure]]


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
        inside = vitlens.choose.select_tokens(subject.model, "object", 1, masks=subject.masks[:1], grid=subject.grid)[0]
        mask = inside[subject.model.cfg.n_prefix_tokens :].unflatten(0, subject.grid)
    probabilities = subject.model(subject.images[:1], return_type="probs")[0]
    return {
        "picture": lambda: plots.picture_with_grid({"first picture": subject.pixels[0]}, subject.grid, mask),
        "predictions": lambda: plots.predictions(probabilities, subject.names, subject.model.cfg.model_name),
    }


def lens(subject: Subject) -> Figures:
    model = subject.model
    first = model(subject.images[:1])[0].topk(min(4, model.cfg.n_classes)).indices.tolist()
    found = vitlens.class_lens(model, subject.images[:1], first)
    middle = model.cfg.n_prefix_tokens + subject.grid[0] * subject.grid[1] // 2
    return {
        "trajectory": lambda: plots.lens_trajectory(found),
        "trajectory of two tokens": lambda: plots.lens_trajectory(found, token=[0, middle]),
        "maps of logits": lambda: plots.class_maps(found),
        "maps of probabilities": lambda: plots.class_maps(found, quantity="probability"),
        "mosaic": lambda: plots.class_mosaic(found),
        "mosaic of a middle block": lambda: plots.class_mosaic(found, block=model.cfg.n_layers // 2),
        "one token": lambda: plots.token_classes(found, token=middle),
        "without some patches": lambda: plots.removal_map(
            vitlens.ablate_tokens(model, subject.images[:1], first[0], tokens=vitlens.choose.box(0, 0, 1, 2))
        ),
        "attention cut": lambda: plots.knockout_bars(vitlens.knockout_attention(model, subject.images[:1])),
        "trace": lambda: plots.trace_curves(vitlens.lens.class_trace(model, subject.images, subject.labels)),
        "probes": lambda: plots.probe_norms(_probes(subject)),
    }


def _probes(subject: Subject) -> vitlens.lens.Probes:
    fit = vitlens.lens.ProbeFit(subject.model, blocks=[0, -1], tokens=[0, 1, 2])
    fit.add(subject.images, torch.arange(len(subject.images)) % 3)
    return fit.solve()


def attribution(subject: Subject) -> Figures:
    model, images, label = subject.model, subject.images[:1], int(subject.labels[0])
    by_unit = {
        unit: vitlens.direct_logit_attribution(model, images, label, unit=unit)
        for unit in ("component", "head", "head_patch", "neuron")
    }
    means = vitlens.attribution.attribution_means(model, subject.images, subject.labels, progress=False)
    return {
        "components": lambda: plots.attribution_waterfall(by_unit["component"]),
        "neurons": lambda: plots.attribution_waterfall(by_unit["neuron"]),
        "heads": lambda: plots.attribution_head_map(by_unit["head"]),
        "heads × patches": lambda: plots.attribution_patches(by_unit["head_patch"]),
        "patches": lambda: plots.attribution_map(by_unit["head_patch"]),
        "means": lambda: plots.attribution_means_board(means),
    }


def attention(subject: Subject) -> Figures:
    model, cfg = subject.model, subject.model.cfg
    _, cache = model.run_with_cache(subject.images[:1], names_filter="pattern")
    pattern = torch.stack([cache["pattern", block][0] for block in range(cfg.n_layers)])
    about = (subject.pixels[0], subject.grid, cfg.prefix_tokens)
    token = cfg.n_prefix_tokens + subject.grid[1] * (subject.grid[0] // 2) + subject.grid[1] // 3
    query = f"the {cfg.prefix_tokens[0]} token" if cfg.prefix_tokens else "patch (0, 0)"
    rollout = vitlens.heatmap(model, subject.images[:1], method="attention_rollout").values[0]
    block = cfg.n_layers // 2
    about_picture = (model, subject.images[:1])
    return {
        "one head of a result": lambda: vitlens.attention(*about_picture, head="L0H1").plot(),
        "heads of a result": lambda: plots.attention_figure(
            vitlens.attention(*about_picture, block=block, queries=token)
        ),
        "one head": lambda: plots.attention_overlay(
            pattern[-1, 0, 0], *about, f"L{cfg.n_layers - 1}H0", query, cfg.model_name
        ),
        "heads of a block": lambda: plots.attention_grid(pattern[block], *about, block, cfg.model_name),
        "heads, from a patch": lambda: plots.attention_grid(pattern[block], *about, block, cfg.model_name, token=token),
        "heads, to a patch": lambda: plots.attention_grid(
            pattern[block], *about, block, cfg.model_name, token=token, direction="by"
        ),
        "blocks and rollout": lambda: plots.attention_blocks(pattern, *about, cfg.model_name, rollout=rollout),
        "blocks, to a patch": lambda: plots.attention_blocks(
            pattern, *about, cfg.model_name, token=token, direction="by"
        ),
        "all heads": lambda: plots.attention_mosaic(
            pattern[:, :, 0, cfg.n_prefix_tokens :].unflatten(-1, subject.grid), query, cfg.model_name
        ),
    }


def similarity(subject: Subject) -> Figures:
    about = (subject.model, subject.images[:2])
    pca = vitlens.similarity.patch_pca(*about)
    pair = (subject.model, subject.images[:1])
    middle = vitlens.choose.patch(subject.grid[0] // 2, subject.grid[1] // 3)
    return {
        "components as colours": lambda: plots.pca_colours(pca),
        "components": lambda: plots.pca_components(pca),
        "nearest patches": lambda: plots.joined_patches(
            vitlens.similarity.nearest_patches(*pair, others=subject.images[1:2])
        ),
        "like a patch": lambda: plots.similarity_map(vitlens.similarity.patch_similarity(*pair, queries=middle)),
    }


def patching(subject: Subject) -> Figures:
    model, labels = subject.model, subject.labels
    clean, corrupted = subject.images[:1], subject.images[1:2]
    # Of a pair with one label the rival is what the corrupted picture is taken for.
    logits = model(corrupted)[0].index_fill(0, labels[:1], -torch.inf)
    about = {"classes": int(labels[0]), "baseline_classes": int(logits.argmax()), "progress": False}
    edges = cache(lambda: vitlens.patching.edge_attribution_patching(model, clean, corrupted, **about))
    return {
        "patches": lambda: plots.patching_maps(vitlens.attribution_patching(model, clean, corrupted, **about)),
        "heads": lambda: plots.patching_board(vitlens.activation_patching(model, clean, corrupted, sites="z", **about)),
        "ablated heads": lambda: plots.patching_board(
            vitlens.activation_ablation(
                model, clean, sites="z", replacement="zero", classes=int(labels[0]), progress=False
            )
        ),
        "paths": lambda: plots.path_board(
            vitlens.path_patching(model, clean, corrupted, senders=["L0H*", "L* mlp"], receivers=["logits"], **about)
        ),
        "circuit": lambda: plots.circuit_figure(vitlens.find_circuit(model, edges(), n_edges=40)),
        "attribution graph": lambda: plots.attribution_graph_figure(
            vitlens.attribution_graph(model, clean, int(labels[0]), n_nodes=100, progress=False)
        ),
        "circuits of growing size": lambda: plots.circuit_curve(
            vitlens.circuits.evaluate_circuits(
                model, clean, corrupted, scores=edges(), sizes=[10, 40, 160], n_draws=1, **about
            )
        ),
    }


def heatmaps(subject: Subject) -> Figures:
    model, images, labels = subject.model, subject.images[:1], subject.labels[:1]
    pixels = subject.pixels[0]
    found = cache(lambda: {name: vitlens.heatmap(model, images, labels, method=name) for name in METHODS})
    gradient = cache(lambda: vitlens.heatmap(model, images, labels, method="projection_gradient", keep="block"))
    several = slice(0, 6)
    few = slice(0, 12)
    faithful = cache(
        lambda: evaluate_heatmaps(
            model, subject.images[few], subject.labels[few], heatmaps=["gradient_rollout", "raw_attention"],
            metrics=["deletion", "insertion", "negative", "positive"], n_steps=6, n_draws=1, progress=False,
        )
    )  # fmt: skip
    masks = _some_masks(subject)
    label = model.class_label(int(labels[0]))

    def comparison() -> go.Figure:
        return plots.heatmap_comparison(
            pixels, {result.method.title: result.values[0] for result in found().values()},
            signed=[result.method.title for result in found().values() if result.method.signed],
            class_free=[result.method.title for result in found().values() if not result.method.class_specific],
            warnings={found()["raw_attention"].method.title: "a warning, to see how it looks on a map"},
            artefacts=torch.arange(subject.grid[0] * subject.grid[1]).unflatten(0, subject.grid) % 17 == 1,
            class_name=label, model_name=model.cfg.model_name,
        )  # fmt: skip

    def removal() -> go.Figure:
        removed = remove(model, images, int(labels[0]), {"token mask": found()["token_mask"].values[0]})
        about = (label, model.cfg.model_name)
        return plots.removal_curves(removed.removed, removed.by_map, removed.by_chance, *about)

    return {
        "one map": lambda: plots.heatmap_figure(found()["token_mask"]),
        "removal": removal,
        "overlay": lambda: plots.heatmap_overlay(pixels, found()["grad_cam"].values[0], "Grad-CAM"),
        "methods": comparison,
        "projection gradient": lambda: plots.heatmap_figure(gradient()),
        "perturbation": lambda: plots.perturbation_of_batch(
            vitlens.faithfulness.perturbation_test(
                model, images, labels, importance=gradient().patches(), n_steps=8
            )
        ),
        "faithfulness": lambda: faithfulness_plots.faithfulness_curves(faithful()),
        "table of faithfulness": lambda: faithfulness_plots.faithfulness_table(faithful()),
        "segmentation": lambda: faithfulness_plots.segmentation_table(
            vitlens.faithfulness.evaluate_segmentation(
                model, subject.images[several], subject.labels[several], masks=masks[several],
                heatmaps=["gradient_rollout"], n_draws=1,
                progress=False,
            )
        ),
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
    pictures = (subject.images[:3], subject.labels[:3])
    return {
        "randomised weights": lambda: faithfulness_plots.randomisation_curves(
            vitlens.faithfulness.randomisation_test(subject.model, *pictures, methods=methods, progress=False)
        )
    }


def description(subject: Subject) -> Figures:
    found = vitlens.describe(subject.model, subject.images, other_model=subject.model, progress=False)
    figures: Figures = {name: partial(figure, found) for name, figure in KINDS.items()}

    def registers() -> go.Figure:
        try:
            neurons = vitlens.registers.find_register_neurons(subject.model, subject.images, k=3, progress=False)
        except vitlens.InputError:
            # No outlier patches: the added token then merely takes part.
            neurons = []
        shift = vitlens.registers.register_shift(subject.model, subject.images[:1], neurons=neurons, progress=False)
        return plots.register_board(shift)

    def neurons() -> go.Figure:
        found = vitlens.registers.RegisterNeurons(
            torch.tensor([2.0, 1.0]), {"rank": [0, 1]}, "score", blocks=torch.tensor([0, 1]),
            neurons=torch.tensor([3, 5]), at_outliers=torch.tensor([2.5, 1.2]), elsewhere=torch.tensor([0.5, 0.2]),
            outlier_block=1, n_outliers=4, settings={"model": subject.model.cfg.model_name},
        )  # fmt: skip
        return plots.register_neurons(found)

    return figures | {"registers": registers, "register neurons": neurons}


def features(subject: Subject) -> Figures:
    model = subject.model
    generator = torch.Generator().manual_seed(0)
    width = model.cfg.d_model
    weights = torch.randn(width, 4 * width, generator=generator).to(model.W_U) * width**-0.5
    sae = vitlens.features.SparseAutoencoder.from_arrays(
        weights, None, weights.T, None, hook=f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", source="random directions"
    )  # fmt: skip

    def card(**options: Any) -> go.Figure:
        found = vitlens.memories.top_memory_patches(model, subject.images, block=-1, progress=False, **options)
        return plots.feature_card(found)

    def training() -> go.Figure:
        about = {"k": 4, "expansion": 1, "n_rows": 2048, "batch_rows": 256, "progress": False}
        return plots.training_curves(vitlens.features.train(model, subject.images, "resid_post", **about).history)

    def frontier() -> go.Figure:
        names = ["topk"] * 3 + ["pca"] * 2 + ["neurons"]
        return plots.dictionary_frontier(
            pd.DataFrame(
                {
                    "dictionary": names,
                    "l0": [8, 16, 32, 8, 32, width],
                    "explained_variance": [0.7, 0.8, 0.9, 0.5, 0.7, 1.0],
                    "baseline": [name != "topk" for name in names],
                    "model": model.cfg.model_name,
                }
            )
        )

    def one_feature() -> go.Figure:
        found = vitlens.features.top_patches(model, subject.images[:3], sae=sae, n_features=1, progress=False)
        removed = vitlens.features.feature_effects(
            model, subject.images[:3], "all", sae=sae, features=found.axes["feature"], progress=False
        )
        return plots.feature_card(found, effects=removed)

    def judged() -> Any:
        about = {"metrics": "reconstruction", "baselines": ["neurons", "random"], "progress": False}
        return vitlens.features.evaluate_sae(model, subject.images, sae=sae, **about)

    def named(name: str) -> go.Figure:
        """With the classes as words, which lie along the axes of the logits."""
        axes = dict(zip(words, torch.eye(model.cfg.n_classes), strict=True))
        tower = vitlens.text.TextTower(lambda texts: torch.stack([axes[text] for text in texts]))
        about = {"tower": tower, "progress": False}
        if name == "words":
            # Any picture has some words at this λ.
            return plots.word_bars(vitlens.text.sparse_words(model, subject.images, words, sparsity=0.01, **about))
        # A unit of a class is active in its pictures, which are too few for a name if each is there once.
        many = subject.images.repeat(8, 1, 1, 1)
        if name == "heads":
            return plots.head_names_board(vitlens.text.name_heads(model, many, words, k=2, **about))
        if name == "neurons":
            return plots.neuron_names_bars(vitlens.text.name_neurons(model, many, words, block=0, k=2, **about))
        return plots.name_areas(vitlens.text.name_features(model, many, words, hook="hook_logits", **about))

    words = [model.class_label(i) for i in range(model.cfg.n_classes)]
    return {
        "training": training,
        "feature": one_feature,
        "named features": lambda: named("features"),
        "named heads": lambda: named("heads"),
        "named neurons": lambda: named("neurons"),
        "words of a picture": lambda: named("words"),
        "features removed": lambda: plots.feature_effect_bars(
            vitlens.features.feature_effects(model, subject.images[:3], sae=sae, features=range(5), progress=False)
        ),
        "frontier": frontier,
        "memory of the MLP": lambda: card(k=9, one_per_image=True),
        "memory of attention": lambda: card(part="attn", k=15),
        "densities": lambda: plots.density_histogram(judged()),
        "judged": lambda: plots.judged_dictionaries(judged()),
        "features of a logit": lambda: plots.feature_bars(
            vitlens.features.feature_attribution(
                model, subject.images[:1], int(subject.labels[0]), sae=sae, progress=False
            )
        ),
    }


def texts(subject: Subject) -> Figures:
    model = subject.model
    names = subject.names

    def directions(given: list[str]) -> Tensor:
        """A tower that knows the classes by heart: the classifier's own directions."""
        return model.W_U.T.detach()[[names.index(name) for name in given]]

    def accuracy() -> go.Figure:
        tower = vitlens.text.TextTower(directions)
        about = {"labels": subject.labels, "tower": tower, "progress": False}
        return plots.confusion_board(vitlens.text.zero_shot_accuracy(model, subject.images, names, **about))

    return {"zero-shot accuracy": accuracy}


def paper(tables: dict[str, pd.DataFrame], name: str) -> Figures:
    """The figures of the paper that are drawn from the tables of a study."""

    def usual(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        chosen = table[table["coefficients"] != "pre"]
        return {name: chosen[chosen["orientation"] == "classes_of_keys"] if "orientation" in chosen else chosen}

    def by_model(table: str) -> dict[str, pd.DataFrame]:
        return {name: tables[table]}

    rates = {name: table.query("tokens == 'all'") for name, table in usual(tables["key_value_rate"]).items()}
    return {
        "identifiability": lambda: paper_lens.identifiability_boxes(by_model("identifiability")),
        "identifiability over depth": lambda: paper_lens.identifiability_curves(by_model("identifiability")),
        "change": lambda: paper_lens.change_rates(by_model("change_rate")),
        "context": lambda: paper_lens.context_boxes(by_model("context_identifiability")),
        "attention to context": lambda: paper_lens.attention_to_context(tables["attention_to_context"], name),
        "sublayers": lambda: paper_lens.sublayer_changes(by_model("sublayer_change")),
        "composition": lambda: paper_lens.composition_curves(by_model("residual_composition")),
        "class values": lambda: paper_memories.class_value_boxes(by_model("class_value")),
        "agreement": lambda: paper_memories.agreement_rates(by_model("key_value_by_class")),
        "memories over depth": lambda: paper_memories.memory_overview(by_model("class_value"), rates),
        "right and wrong": lambda: paper_memories.agreement_difference(usual(tables["key_value_correct"])),
        "one memory": lambda: paper_memories.composition_lines(usual(tables["memory_composition"])),
        "removal": lambda: plots.perturbation_curves(by_model("perturbation_curves")),
        "probes": lambda: paper_interventions.probe_curves(by_model("linear_probe")),
        "knockouts": lambda: paper_interventions.intervention_bars(
            by_model("attention_knockout"), "knockout", "Attention cut"
        ),
    }


#: The page's sections, in its order.
def edits(subject: Subject) -> Figures:
    """Edits that nobody chose: a repair needs more pictures than the gallery has."""
    about = (subject.model, subject.images, subject.labels, [subject.names[i % 2] for i in range(len(subject.images))])
    made, other = vitlens.edit(subject.model, "L0H0"), vitlens.edit(subject.model, "L1H1")
    doses = {"dose 0.5": 0.5, "dose 1": 1.0}
    by_dose = {name: made.at(dose) for name, dose in doses.items()}
    name = f"without L0H0 of {subject.model.cfg.model_name}"
    retrained = vitlens.edit(subject.model, "L1 mlp", dose=0.2)
    tried = {name: made, "without L1H1": other}
    candidates = vitlens.editing.evaluate_edits(*about, edits=tried, progress=False)
    compared = {**by_dose, "random 1": other, "random 2": other.at(0.5), "without a limit": other.at(2.0)}
    compared["last layer retrained"] = retrained
    report = vitlens.editing.evaluate_edits(*about, edits=compared, progress=False)
    found = vitlens.editing.Repair(
        made, name, candidates, report, tried, doses, max_loss=0.01, unlimited="without L1H1"
    )
    return {
        "accuracies with edits": lambda: plots.edit_accuracies(candidates),
        "changes of logits": lambda: plots.edit_changes(report, k=4),
        "doses": lambda: plots.dose_curves(found),
        "candidates": lambda: plots.repair_trade_off(found),
        "report": lambda: plots.repair_table(found),
        "shortcut": lambda: plots.shortcut_board(
            vitlens.find_shortcut(*about, parts="heads", n_draws=100, progress=False)
        ),
    }


GROUPS: dict[str, Callable[[Subject], Figures]] = {
    "The picture": picture,
    "Class lens": lens,
    "Attribution": attribution,
    "Attention": attention,
    "Patches": similarity,
    "Patching and circuits": patching,
    "Edits": edits,
    "Heatmaps": heatmaps,
    "Tokens and heads": description,
    "Memories and features": features,
    "Texts": texts,
}


def drawn(heading: str, group: Callable[[], Figures]) -> dict[str, go.Figure]:
    """The figures of a group; in the place of one that is refused, the sentence why."""
    try:
        figures = group()
    except vitlens.InputError as reason:
        return {heading: plots.refusal(heading, str(reason))}
    found = {}
    for name, draw in figures.items():
        try:
            found[name] = draw()
        except vitlens.InputError as reason:
            found[name] = plots.refusal(name, str(reason))
    return found


def demo_tables(model: HookedViT) -> dict[str, pd.DataFrame]:
    """The tables of the paper's experiments over a few pictures of the demo."""
    settings = vitlens.paper.StudySettings(
        n_images=10, batch_size=10, n_steps=4, n_bootstrap=20, n_permutations=20, n_random_models=1, n_random_orders=1,
        split="agreeing", train_data="demo", train_split="conflicting", train_per_class=2,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        return run_study(
            model, settings, experiments=list(EXPERIMENTS), path=Path(folder) / "out", progress=False
        ).tables


@app.command(help=__doc__)
@with_model
def main(
    pictures: Annotated[list[Path] | None, typer.Argument(help="two or more pictures [default: the demo's]")] = None,
    *,
    model: ModelOptions,
    out: Annotated[Path, typer.Option(help="the page")] = Path("gallery.html"),
) -> None:
    check_writable(out)
    hooked = model.load()
    hooked.require_classifier()
    if pictures is not None and len(pictures) < 2:
        raise vitlens.InputError(
            "a gallery needs two pictures or more, as one's activations are put into another's run"
        )
    if pictures is None and not model.is_demo:
        raise vitlens.InputError(f"name two pictures or more for {model.called} to look at")
    if pictures is None:
        demo = load_demo_pictures(hooked)
        subject = Subject(hooked, demo.images, demo.labels, demo.masks)
    else:
        images = hooked.to_images(pictures)
        with torch.no_grad():
            subject = Subject(hooked, images, hooked(images).argmax(dim=-1))
    sections = []
    for heading, group in tqdm(GROUPS.items(), disable=not is_watched()):
        sections.append(Section(heading, "", list(drawn(heading, partial(group, subject)).values())))
    if model.is_demo:
        figures = drawn("The paper's figures", lambda: paper(demo_tables(hooked), hooked.cfg.model_name))
        sections.append(Section("The paper's figures", "", list(figures.values())))
    n = sum(len(section.figures) for section in sections)
    facts = page_facts(hooked) | {"pictures": str(len(subject.images)), "figures": str(n)}
    write_page(out, "Every figure of vitlens", facts, sections, warning=hooked.provenance.warning)
    typer.echo(f"{n} figures in {out}")


if __name__ == "__main__":
    run(app)
