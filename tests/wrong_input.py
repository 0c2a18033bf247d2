"""The walk of `test_wrong_input`: every public callable, one argument wrong at a time, the others as they should be.

    python -m wrong_input [name of a callable …]

prints what was neither refused in a sentence nor is on the list of what may pass.
"""

import contextlib
import inspect
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from public import public
from variants import build

import vitlens
import vitlens.features
import vitlens.patching.transformer_lens
from vitlens import HookedViT, InputError
from vitlens.parity.peers.huggingface_towers import clip_with_texts

SMALL = {"img_size": 32, "depth": 2, "num_heads": 2, "embed_dim": 16, "num_classes": 5}


class Thing:
    """Nothing that vitlens knows."""

    def __repr__(self) -> str:
        return "a thing"


def _tensor(kind: str) -> torch.Tensor:
    """Batches of pictures as they should not be."""
    good = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    if kind == "nan":
        good[0, 0, 0, 0] = torch.nan
    return {
        "empty": good[:0],
        "sparse": good.to_sparse(),
        "meta": good.to("meta"),
        "small": good[..., :7, :7],
        "flat": good.flatten(1),
        "one channel": good[:, :1],
        "bytes": (good * 50).to(torch.uint8),
        "nested": torch.nested.nested_tensor([good[0], good[1]]),
        "nan": good,
    }[kind]


NAN = float("nan")
NEURONS = [None, 5, 1.7, "nonsense", Thing(), [5], [(0, 9999)], [(9, 0)], [(0, 1.7)], [(0,)]]
MANY = 10**9
PICTURES = [
    None, 5, 1.7, True, NAN, "nonsense.png", [], [None], [5], ["nonsense.png"], Thing(), {},
    *map(_tensor, ("empty", "sparse", "meta", "small", "flat", "one channel", "bytes", "nested", "nan")),
]  # fmt: skip
#: Where no model is at hand, any number of channels may be right.
WITHOUT_MODEL = [
    value for value in PICTURES if not isinstance(value, torch.Tensor) or value.is_nested or value.shape[1:2] != (1,)
]
CLASSES = [
    1.7, True, NAN, -1, MANY, "nonsense", [], [1.7], [None], [True], Thing(), {},
    torch.tensor([0.0, 1.0]), torch.tensor([True, False]), torch.tensor([0, 1, 2]), torch.tensor([0, 9]),
    torch.tensor([0, -1]), torch.zeros(0, dtype=torch.long), torch.zeros(2, 2, 2, dtype=torch.long),
]  # fmt: skip
TEXTS = [5, 1.7, True, NAN, "", " ", [], [None], ["a cat", 5], ["a cat", "a cat"], Thing(), {}]
TOKENS = [
    1.7, True, NAN, MANY, -MANY, "nonsense", [], [1.7], ["3"], [True, False], [None], Thing(), {},
    torch.zeros(5, dtype=torch.bool), torch.ones(9, dtype=torch.bool), torch.ones(5), torch.ones(5, dtype=torch.uint8),
]  # fmt: skip
MASKS = [
    5, 1.7, True, NAN, "nonsense.png", [], [None], Thing(), {},
    torch.full((2, 32, 32), torch.nan), torch.full((2, 32, 32), 7.0), torch.ones(2, 9, 9, dtype=torch.bool),
    torch.ones(3, 32, 32, dtype=torch.bool), torch.ones(0, 32, 32, dtype=torch.bool),
]  # fmt: skip
PLACES = [1.7, True, NAN, MANY, -MANY, "nonsense", [], [1.7], [True], [None], [MANY], Thing()]
ONE_PLACE = [None, 1.7, True, NAN, MANY, -MANY, "nonsense", [], Thing()]
HOOK = [5, 1.7, True, NAN, "nonsense", [], ("resid_post", 99), Thing()]
HOOK_TYPES = [5, 1.7, True, NAN, [], Thing()]
SITES = [None, 5, 1.7, True, "nonsense", [], [5], ["nonsense"], Thing()]
METRIC = [
    None, 5, 1.7, True, NAN, "nonsense", [], [5], ["nonsense"], {}, {"name": 5}, Thing(), len, lambda logits: None,
    lambda logits: logits, lambda logits: logits.sum() * torch.nan, lambda logits: logits[:, 0] * torch.inf,
    lambda logits: "text", lambda logits: 0.0,
]  # fmt: skip
COUNT = [1.7, True, NAN, 0, -1, "nonsense", [], Thing()]
COUNT_OR_NONE = COUNT
NUMBER = [True, NAN, float("inf"), "nonsense", [], Thing()]
NAME = [5, 1.7, True, "nonsense", [], Thing()]
RESULT = [5, 1.7, "nonsense", [], Thing()]
NAME_TYPES = [5, 1.7, True, [], Thing()]
FLAG = [5, 1.7, "nonsense", [], Thing()]
TEMPLATES = [None, 5, 1.7, "", "nonsense", "{} and {}", [], [None], ["a {}", "b"], Thing()]
NODE = [None, 5, 1.7, "nonsense", [], Thing()]
SUPERNODES = [
    5, "nonsense", [], ["a"], Thing(), {"a": []}, {"a": "nonsense"}, {"a": [5]}, {5: ["a"]}, {"a": None}, {"": ["a"]},
]  # fmt: skip
MODEL = [None, 5, "vit_base_patch16_224", torch.nn.Linear(2, 2), Thing()]

#: Which values are wrong for an argument, by its name.
BY_NAME: dict[str, list[Any]] = {
    "model": MODEL,
    "other_model": MODEL[1:],
    **dict.fromkeys(["images", "clean", "corrupted", "candidates", "pictures"], PICTURES),
    "others": PICTURES[1:],
    **dict.fromkeys(["classes", "baseline_classes"], CLASSES),
    "labels": CLASSES,
    **dict.fromkeys(["text", "baseline_text"], TEXTS),
    "texts": [None, *TEXTS],
    "tower": RESULT,
    "pooling": NAME,
    **dict.fromkeys(["tokens", "queries", "keys"], TOKENS),
    "masks": MASKS,
    "clusters": [5, 1.7, True, "nonsense", [], [None, 0], [1.7, 0], torch.tensor([0.5, 1.0]), Thing()],
    "contrast": [5, 1.7, True, "nonsense", [], ["a"], ["a", "a"], [1, 2], ["a", "nonsense"], Thing()],
    "parts": [5, 1.7, True, "nonsense", [], [5], ["heads", "nonsense"], Thing()],
    "groups": [5, 1.7, True, "nonsense", [], [None, 0], [1.7, 0], torch.tensor([0.5, 1.0]), Thing()],
    **dict.fromkeys(["blocks", "heads", "neurons", "memories", "features"], PLACES),
    **dict.fromkeys(["block", "attention_block", "late_block", "up_to_block"], ONE_PLACE[1:]),
    **dict.fromkeys(["hook", "hook_out"], HOOK),
    **dict.fromkeys(["site", "sites"], SITES),
    "metric": METRIC,
    **dict.fromkeys(
        [
            "batch_size",
            "k",
            "n",
            "n_draws",
            "n_rows",
            "steps",
            "n_steps",
            "n_images",
            "n_registers",
            "n_components",
            "n_nodes",
        ],
        COUNT,
    ),
    **dict.fromkeys(["n_memories", "n_features", "n_examples", "n_edges", "cka_rows", "similarity_queries"], COUNT),
    **dict.fromkeys(["n_classes", "workers", "row", "column", "height", "width"], COUNT),
    "seed": [None, 1.7, True, NAN, -1, "nonsense", [], Thing()],
    **dict.fromkeys(
        ["level", "threshold", "outlier_threshold", "min_score", "max_change", "noise_scale", "scale", "factor"], NUMBER
    ),
    **dict.fromkeys(["replacement", "method", "direction", "part", "orientation", "coefficients", "unit"], NAME),
    **dict.fromkeys(["cka_tokens", "mode", "space", "loss"], NAME),
    **{name: [None, *RESULT] for name in ("lens", "scores", "circuit", "sae", "graph")},
    **dict.fromkeys(
        ["progress", "signed", "paper_compat", "one_per_image", "join_heads", "downstream", "normalise", "foreground"],
        FLAG,
    ),
    **dict.fromkeys(["record", "error_term", "baselines", "warn", "except_self", "some_may_be_empty"], FLAG),
    "resume": RESULT,
    "how": NAME,
    "dose": NUMBER,
    "doses": [5, 1.7, True, "nonsense", [], [0], ["a"], [NAN], Thing()],
    "directions": [
        5,
        1.7,
        True,
        "nonsense",
        [],
        [1.0],
        torch.randn(7),
        torch.zeros(16),
        torch.full((16,), NAN),
        Thing(),
    ],
    "edits": [5, 1.7, "nonsense", [], {}, {"a": 5}, {"unedited": None}, Thing()],
    "max_loss": [True, NAN, -0.5, 7.0, "nonsense", [], Thing()],
    "held_out": [True, NAN, 0.0, 1.0, -0.5, "nonsense", [], torch.ones(3), torch.ones(3, dtype=torch.bool), Thing()],
    "alpha": [True, NAN, 0.0, -1.0, "nonsense", [], Thing()],
    "like": [5, 1.7, True, "nonsense", [], Thing(), torch.nn.Linear(2, 2)],
    "repair": [None, *RESULT],
}


def _folder_of_pictures() -> str:
    """Two pictures whose names begin with their class."""
    folder = tempfile.mkdtemp()
    for label in (0, 1):
        Image.new("RGB", (32, 32), (90 * label, 80, 70)).save(f"{folder}/{label}_picture.png")
    return folder


def _letters(texts: list[str]) -> torch.Tensor:
    """An embedding of texts: which letters they have."""
    return torch.tensor([[float(letter in text) for letter in "abcdefghijklmnop"] for text in texts])


def _small_clip() -> dict[str, Any]:
    """A CLIP with a tokenizer of two words."""
    from transformers import CLIPTokenizer

    words = ["a</w>", "b</w>", "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer({word: i for i, word in enumerate(words)}, [], model_max_length=8)
    return {"source": clip_with_texts(), "tokenizer": tokenizer}


def good_calls() -> dict[str, tuple[Callable, dict[str, Any]]]:
    """Every public callable with arguments as they should be."""
    torch.manual_seed(0)
    model = HookedViT.from_timm(build(**SMALL).float(), class_names=["cat", "dog", "cow", "car", "boat"])
    model.architecture = lambda: build(**SMALL).float()
    model.set_text_tower(vitlens.text.TextTower(lambda texts: torch.ones(len(texts), 16)))
    images, others = torch.randn(2, 2, 3, 32, 32).unbind(0)
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[:, :16, :16] = True
    about = {"model": model, "images": images}
    pair = {"model": model, "clean": images, "corrupted": others}
    quiet = {"progress": False}
    sae = vitlens.features.SparseAutoencoder.from_arrays(
        torch.randn(16, 8), None, torch.randn(8, 16), None, hook="blocks.0.hook_resid_post"
    )
    dictionary = {"model": model, "hook": "resid_post0", "sae": sae}
    transcoder = vitlens.features.Transcoder.from_arrays(
        torch.randn(16, 8), None, torch.randn(8, 16), None, hook="blocks.1.ln2.hook_normalized"
    )
    graph = vitlens.attribution_graph(model, images[:1], transcoders=transcoder, n_nodes=5, **quiet)
    graphed = {"model": model, "images": images[:1], "transcoders": transcoder, "graph": graph}
    scores = vitlens.patching.edge_attribution_patching(**pair, **quiet)
    circuit = vitlens.find_circuit(model, scores, n_edges=20)
    lens = vitlens.class_lens(model, images, sites=("resid_mid", "attn_out", "mlp_out", "resid_post", "resid_pre"))
    neurons = [(0, 1), (1, 2)]
    _, cache = model.run_with_cache(images)
    patching = {"model": model, "corrupted_images": others, "clean_cache": cache}
    cut = vitlens.removal.Edges("context", "object")
    numbers = np.random.default_rng(0).normal(size=12)
    means = vitlens.attribution.attribution_means(model, images, torch.tensor([0, 1]), **quiet)
    description = vitlens.describe(model, images, **quiet)
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save("picture.png")
    stream = vitlens.features.stream_activations(model, images, hook="resid_post0", **quiet)
    tops = vitlens.features.top_patches(**dictionary, images=images, k=2, **quiet)

    words, many = ["red", "green", "blue", "grey"], torch.randn(12, 3, 32, 32)
    spread = dict(zip(words, torch.randn(4, 16), strict=True))
    tower = vitlens.text.TextTower(lambda texts: torch.stack([spread.get(text, torch.ones(16)) for text in texts]))

    grouped = {"model": model, "images": many[:8], "labels": [0, 1] * 4, "groups": ["a", "a", "b", "b"] * 2}
    edits = {"one": vitlens.edit(model, "L0H1")}
    naming = {"model": model, "images": many, "texts": words, "tower": tower, "k": 2}

    named: dict[str, dict[str, Any]] = {
        "ablate_tokens": {**about, "tokens": "object", "masks": masks, "replacement": "other", "others": others},
        "ablation_hooks": {
            **about,
            "site": "z",
            "places": (0, 1),
            "replacement": "other",
            "others": others,
            "tokens": "object",
            "masks": masks,
        },
        "activation_ablation": {
            **about,
            "replacement": "other",
            "others": others,
            "tokens": "object",
            "masks": masks,
            **quiet,
        },
        "activation_patching": {**pair, "tokens": "object", "masks": masks, **quiet},
        "attribution_graph": {"model": model, "images": images[:1], "transcoders": transcoder, "n_nodes": 5, **quiet},
        "attribution_means": {**about, "classes": torch.tensor([0, 1]), **quiet},
        "attribution_patching": {**pair, "tokens": "object", "masks": masks, **quiet},
        "baseline_dictionaries": {**dictionary, "images": images, "baselines": ["pca"], **quiet},
        "bootstrap": {"sums": numbers, "n_draws": 20},
        "box": {"row": 0, "column": 0, "height": 1, "width": 1},
        "class_change_by_sublayer": {"lens": lens},
        "attention": {**about, "block": 0, "queries": "object", "masks": masks, **quiet},
        "class_lens": {**about, "tokens": "object", "masks": masks},
        "class_similarity_change_rate": {"lens": lens},
        "class_trace": about,
        "class_value_agreement": {"model": model},
        "confusing_donors": {**about, "others": torch.randn(8, 3, 32, 32)},
        "describe": {**about, **quiet},
        "direct_logit_attribution": {**about, **quiet},
        "edge_heads": {**graphed, **quiet},
        "attention_contributions": {**graphed, "head": "L1H0", "query": "class", "key": 2},
        "edge_attribution_patching": {**pair, **quiet},
        "evaluate_circuits": {**pair, "scores": scores, "sizes": [10], "n_draws": 1, **quiet},
        "evaluate_sae": {**dictionary, "images": images, **quiet},
        "explore": {**about, "image_names": ["one", "two"], "n_classes": 2, "n_runs": 20, **quiet},
        "explore_features": {**about, "sae": sae, "shown": 1, "n_runs": 5, **quiet},
        "explore_graph": {**about, "transcoders": transcoder, "n_nodes": 5, **quiet},
        "evaluate_heatmaps": {**about, "heatmaps": torch.rand(2, 2, 2), "masks": masks, "n_steps": 2, **quiet},
        "evaluate_heatmaps_over_data": None,
        "edit": {
            "model": model,
            "parts": ["L0H1", "L1 mlp"],
            "how": "direction",
            "directions": torch.randn(2, 16),
            **quiet,
        },
        "evaluate_edits": {**grouped, "edits": edits, "clusters": [0, 0, 1, 1] * 2, **quiet},
        "group_directions": {**grouped, "k": 1, **quiet},
        "repair": {**grouped, "edits": edits, "n_draws": 1, "doses": [1.0], **quiet},
        "save_checkpoint": {"model": model, "path": "edited.safetensors"},
        "write_repair_page": {
            "repair": vitlens.repair(**grouped, edits=edits, n_draws=1, **quiet),
            "path": "repair.html",
        },
        "feature_attribution": {**dictionary, "images": images, **quiet},
        "feature_effects": {**dictionary, "images": images, "features": [0, 3], **quiet},
        "find_circuit": {"model": model, "scores": scores, "n_edges": 20},
        "find_shortcut": {
            **{"model": model, "images": many[:4], "labels": [0, 1, 0, 1], "groups": ["a", "b", "a", "b"]},
            **{"contrast": ("b", "a"), "clusters": [0, 0, 1, 1], "n_draws": 20, "k": 1, **quiet},
        },
        "find_register_neurons": {**about, "outlier_threshold": 1.01, **quiet},
        "heatmap": {**about, "method": "legrad", **quiet},
        "identifiability": {"lens": lens},
        "identifiability_rate": {"lens": lens},
        "key_value_agreement": {**about, "k": 1},
        "name_features": {**dictionary, "images": many, "texts": words, "tower": tower, "k": 2, "n_draws": 19, **quiet},
        "sparse_words": {**about, "texts": words, "tower": tower, "n_draws": 1, **quiet},
        "sparse_words_of": {"embeddings": torch.randn(3, 16), "texts": words, "tower": tower, "n_draws": 1},
        "load_vocabulary": {"name_or_path": "plain", "category": "count"},
        "name_heads": {**naming, "n_draws": 1, **quiet},
        "name_neurons": {**naming, "block": 0, "n_draws": 1, **quiet},
        "knockout_attention": {**about, "edges": cut, "replacement": "other", "others": others, "masks": masks},
        "knockout_hooks": {**about, "edges": cut, "replacement": "other", "others": others, "masks": masks},
        "mean_activations": {**about, **quiet},
        "mlp_hooks": {"model": model},
        "minimality": {**pair, "circuit": circuit, **quiet},
        "patch": {"row": 0, "column": 0},
        "nearest_patches": {**about, "others": others, **quiet},
        "patch_pca": {**about, **quiet},
        "patch_similarity": {**about, "queries": "object", "masks": masks, "others": others, **quiet},
        "path_patching": {**pair, "senders": "L0H0", "tokens": "object", "masks": masks, **quiet},
        "validate_graph": {**graphed, **quiet},
        "compare_groups": {"values": numbers, "inside": numbers > 0, "n_draws": 20},
        "permutation_test": {"inside": numbers, "outside": numbers + 1, "n_draws": 20},
        "perturbation_test": {**about, "importance": torch.rand(2, 2, 2), "n_steps": 2, **quiet},
        "randomisation_test": {**about, "methods": "attention_rollout", **quiet},
        "prune_circuit": {**pair, "circuit": circuit, **quiet},
        "read_groups": {"groups": ["a", "b"], "n_images": 2},
        "propose_groups": {
            **{"model": model, "images": many, "labels": [0, 1] * 6, "masks": masks[:1].repeat(12, 1, 1), **quiet}
        },
        "read_memories": {"model": model, "block": 0},
        "register_shift": {**about, "neurons": neurons, **quiet},
        "replace_context": {"images": images, "masks": masks, "replacement": "other", "others": others},
        "residual_composition": {"lens": lens},
        "evaluate_segmentation": {**about, "masks": masks, "heatmaps": torch.rand(2, 2, 2), **quiet},
        "stream_activations": {**about, "hook": "resid_post0", **quiet},
        "add_test_time_registers": {"model": model, "neurons": neurons},
        "select_tokens": {"model": model, "tokens": "object", "n_images": 2, "masks": masks},
        "train": {**about, "hook": "resid_post0", "k": 2, "n_rows": 8, "batch_rows": 4, **quiet},
        "top_memory_patches": {**about, "block": 0, "k": 2, **quiet},
        "top_patches": {**dictionary, "images": images, "k": 2, **quiet},
        "zero_shot_accuracy": {
            **about,
            "texts": ["a cat", "a dog"],
            "labels": [0, 1],
            "tower": vitlens.text.TextTower(_letters),
            **quiet,
        },
        "with_sae": dictionary,
        "with_saes": {"model": model, "saes": {"resid_post0": sae}},
        "load_sae": {"path": "no such folder"},
        "load_saes": {"path": "no such folder"},
        "load_result": {"path": "no such file"},
        "read_training_settings": {"path": "no such folder"},
        "run_study": None,
        "verify_port": None,
        "open_pictures": {"source": "demo", "class_names": None, "n_classes": 10},
        "supported_models": {"pattern": "vit_tiny*"},
        "supported_families": {},
        "class_metric": {
            "model": model,
            "clean_logits": model(images),
            "corrupted_logits": model(others),
            "classes": 0,
        },
        "select_classes": {"model": model, "classes": 0, "n_images": 2, "predict": lambda: model(images)},
        "artefact_warning": {**about, "values": torch.rand(2, 4), **quiet},
        "write_description_page": {"description": description, "path": "page.html"},
        "load_demo": None,
        "load_demo_model": None,
        "load_demo_dictionary": None,
        "load_demo_transcoders": None,
        "load_demo_words": None,
        "load_demo_pictures": None,
        "faithfulness_metrics": {},
        "heatmap_methods": {},
        "ProbeFit": {"model": model},
        "SparseAutoencoder": None,
        "Transcoder": None,
        "CrossLayerTranscoder": None,
    }
    few = {"classes": "label", "methods": "legrad", "metrics": "deletion", "n_steps": 2, "n_draws": 1, "chunk_size": 2}
    calls = {}
    for name, function in public().items():
        if name in named:
            if named[name] is not None:
                calls[name] = (function, named[name])
        elif callable(function) and not inspect.isclass(function):
            raise KeyError(f"{name} is public: say in `named` what a good call of it is")
    for name in vitlens.patching.transformer_lens.__all__:
        function = getattr(vitlens.patching.transformer_lens, name)
        parameters = inspect.signature(function).parameters
        if "corrupted_images" in parameters:
            metric = "patching_metric" if "patching_metric" in parameters else "metric"
            calls[f"patching.{name}"] = (function, {**patching, metric: lambda logits: logits[:, 0].sum()})
    of_torchvision = torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=5).eval()
    weights = {"W_enc": torch.randn(16, 8), "b_enc": None, "W_dec": torch.randn(8, 16), "b_dec": None}
    methods: dict[str, tuple[Callable, dict[str, Any]]] = {
        "model.block_index": (model.block_index, {"block": 0}),
        "model.block_indices": (model.block_indices, {"blocks": [0]}),
        "model.class_index": (model.class_index, {"class_index": 0}),
        "model.as_images": (model.as_images, {"images": images}),
        "model.to_images": (model.to_images, {"images": [np.zeros((8, 8, 3), dtype=np.uint8)]}),
        "model.to_masks": (model.to_masks, {"masks": [np.zeros((8, 8), dtype=bool)]}),
        # Its other arguments are of both libraries' doors.
        "from_pretrained": (HookedViT.from_pretrained, {"source": of_torchvision}),
        "model.forward": (model.forward, {"images": images, "return_type": "loss", "labels": torch.tensor([0, 1])}),
        "model.run_with_cache": (model.run_with_cache, {"images": images, "names_filter": "pattern"}),
        "model.cache_size": (model.cache_size, {"images": images, "names_filter": "pattern"}),
        "model.with_fresh_weights": (model.with_fresh_weights, {}),
        "model.set_text_tower": (model.set_text_tower, {"tower": model.text_tower}),
        "model.set_class_embeddings": (
            lambda **given: model.with_class_embeddings(**given), {"weight": torch.randn(3, 16), "scale": 2.0}
        ),
        # Each call in a folder of its own: scores of other settings are refused.
        "evaluate_heatmaps_over_data": (
            lambda **given: vitlens.faithfulness.evaluate_heatmaps_over_data(folder=tempfile.mkdtemp(dir="."), **given),
            {"model": model, "images": _folder_of_pictures(), "batch_size": 2, "workers": 1, **few, **quiet},
        ),
        "Result.summary": (vitlens.activation_patching(**pair, **quiet).summary, {"n_draws": 20}),
        "Edit.at": (edits["one"].at, {"dose": 0.5}),
        "Edit.save": (edits["one"].save, {"path": "edited.safetensors"}),
        "Directions.orthogonal": (vitlens.editing.Directions.orthogonal, {"vectors": torch.randn(2, 16)}),
        "Circuit": (vitlens.circuits.Circuit, {"edges": circuit.edges, "model_name": "vit"}),
        "Circuit.from_json": (vitlens.circuits.Circuit.from_json, {"path": "no such file"}),
        "AttributionGraph.top": (graph.top, {"k": 2}),
        "AttributionGraph.edges_into": (graph.edges_into, {"node": str(graph.targets[0]), "k": 2}),
        "AttributionGraph.edges_from": (graph.edges_from, {"node": str(graph.units[0]), "k": 2}),
        "AttributionGraph.prune": (graph.prune, {"node_share": 0.5, "edge_share": 0.5}),
        "AttributionGraph.group": (graph.group, {"supernodes": {"one": [graph.units[0]]}}),
        "AttributionGraph.propose_supernodes": (graph.propose_supernodes, {"method": "input", "min_similarity": 0.5}),
        "AttributionGraph.to_json": (graph.to_json, {"path": "graph.json", "supernodes": {"one": [graph.units[0]]}}),
        "AttributionGraph.from_json": (vitlens.circuits.AttributionGraph.from_json, {"path": "no such file"}),
        "AttributionMeans.top": (means.top, {"class_index": 0}),
        "AttributionMeans.top_classes": (means.top_classes, {"component": means.axes["component"][0]}),
        "ActivationStream.sample": (stream.sample, {"n_rows": 3}),
        "TopPatches.row_of": (tops.row_of, {"feature": tops.axes["feature"][0]}),
        "TopPatches.patch": (tops.patch, {"feature": tops.axes["feature"][0]}),
        "SparseAutoencoder.from_arrays": (vitlens.features.SparseAutoencoder.from_arrays, weights),
        "Transcoder.from_arrays": (vitlens.features.Transcoder.from_arrays, weights),
        "SparseAutoencoder.encode": (sae.encode, {"x": torch.randn(3, 16)}),
        "SparseAutoencoder.decode": (sae.decode, {"features": torch.randn(3, 8)}),
        "TextTower": (vitlens.text.TextTower, {"embed": _letters, "scale": 2.0}),
        "TextTower.embed": (vitlens.text.TextTower(_letters).embed, {"texts": ["a cat", "a dog"]}),
        "TextTower.from_pretrained": (vitlens.text.TextTower.from_pretrained, _small_clip()),
        "Edges": (
            lambda **given: vitlens.removal.knockout_hooks(model, images, edges=vitlens.removal.Edges(**given)),
            {"queries": "patches", "keys": "class", "blocks": [0], "heads": [0]},
        ),
        "StudySettings": None,
    }  # fmt: skip
    return calls | {name: call for name, call in methods.items() if call is not None}


EMBEDDINGS = [
    None, 5, "nonsense", [], Thing(), torch.randn(3, 7), torch.tensor(1.0), torch.full((3, 16), NAN), torch.zeros(3, 16),
    torch.ones(3, 16, dtype=torch.long), torch.randn(0, 16), torch.randn(3, 16).to("meta"),
]  # fmt: skip


def sae_alone() -> Any:
    """A dictionary that predicts what it reads."""
    return vitlens.features.SparseAutoencoder.from_arrays(
        torch.randn(16, 8), None, torch.randn(8, 16), None, hook="blocks.1.ln2.hook_normalized"
    )


#: Wrong values of an argument that has another meaning than its name has elsewhere: by callable and argument.
ELSEWHERE: dict[tuple[str, str], list[Any]] = {
    ("edit", "parts"): [None, 5, 1.7, True, "nonsense", [], [5], ["L0H1", "L9H0"], "L0H9", "pattern0", Thing()],
    ("edit", "images"): PICTURES[1:],
    ("group_directions", "part"): [None, 5, 1.7, True, "nonsense", [], "writers", Thing()],
    ("Directions.orthogonal", "vectors"): [torch.zeros(2, 16), torch.ones(2, 16), torch.full((16,), NAN)],
    ("from_pretrained", "source"): [
        None, 5, 1.7, "nonsense", "vit_base_patch16_224", "no/such.pth", ".", [], {}, {"weight": 5}, Thing(), "\0",
        {"weight": torch.ones(2)}, torch.nn.Linear(2, 2), build(**SMALL),
    ],
    ("from_pretrained", "n_heads"): [4, 1.7, True, NAN, 0, -1, MANY, "nonsense", [], Thing()],
    ("from_pretrained", "img_size"): [1.7, True, NAN, 0, -1, 7, "nonsense", [], (32,), (32, 0), (0, 32, 32), Thing()],
    ("model.block_index", "layer"): ONE_PLACE,
    ("model.block_indices", "layers"): PLACES,
    ("model.class_index", "class_index"): [None, *CLASSES],
    ("model.to_images", "pictures"): PICTURES,
    ("model.to_masks", "masks"): [5, 1.7, True, NAN, "nonsense.png", [], [None], Thing(), {}],
    ("model.cache_size", "images"): [None, 1.7, True, NAN, 0, -1, "nonsense.png", [], Thing()],
    ("model.set_class_embeddings", "weight"): [
        None, 5, 1.7, True, "nonsense", [], Thing(), torch.randn(0, 16), torch.randn(3, 7), torch.randn(7),
        torch.full((3, 16), NAN), torch.ones(3, 16, dtype=torch.long),
    ],
    ("model.set_text_tower", "tower"): [5, 1.7, True, "nonsense", [], Thing(), torch.ones(3, 16), len],
    ("zero_shot_accuracy", "texts"): [None, "a cat", ["a cat"], ["a cat", "a cat"], *TEXTS],
    ("zero_shot_accuracy", "labels"): [None, 5, "nonsense", [0], [0, 1, 1], [0, 2], [0, -1], [0, 1.5], Thing()],
    ("zero_shot_accuracy", "tower"): [5, "nonsense", [], Thing()],
    ("zero_shot_accuracy", "templates"): TEMPLATES[1:],
    ("TextTower", "embed"): [None, 5, "nonsense", [], Thing()],
    ("TextTower", "templates"): TEMPLATES,
    ("TextTower", "output"): [None, *NAME],
    ("TextTower", "name"): NAME_TYPES,
    ("TextTower", "bias"): NUMBER,
    ("TextTower", "scale"): [None, 0, -1.0, *NUMBER],
    ("TextTower.embed", "texts"): [None, 5, 1.7, True, NAN, "", " ", [], [None], ["a cat", 5], Thing(), {}],
    ("TextTower.embed", "templates"): TEMPLATES[1:],
    ("TextTower.from_pretrained", "source"): [
        None, 5, 1.7, "nonsense", "vit_base_patch16_224", "no/such.pth", ".", [], {}, Thing(), "\0", build(**SMALL),
        torch.nn.Linear(2, 2),
    ],
    ("TextTower.from_pretrained", "tokenizer"): [None, 5, "nonsense", ".", [], Thing(), len],
    ("TextTower.from_pretrained", "templates"): TEMPLATES,
    ("TextTower.from_pretrained", "scale"): [0, -1.0, *NUMBER],
    ("TextTower.from_pretrained", "bias"): NUMBER,
    ("TextTower.from_pretrained", "name"): NAME_TYPES,
    ("model.run_with_cache", "names_filter"): [5, 1.7, True, NAN, "nonsense", [], [5], Thing()],
    ("read_memories", "block"): ONE_PLACE,
    ("evaluate_heatmaps_over_data", "classes"): [None, *CLASSES],
    ("evaluate_sae", "baselines"): [5, 1.7, True, NAN, "nonsense", [5], Thing()],
    ("evaluate_sae", "beside"): [5, "nonsense", [], Thing(), {"one": 5}, {"pca": Thing()}],
    ("evaluate_sae", "groups"): [5, "nonsense", [], Thing(), {"one": 5}, {"one": [99]}, {"one": "nonsense"}],
    ("top_memory_patches", "block"): ONE_PLACE,
    **{
        (name, "transcoders"): [None, 5, "nonsense", [], {}, [None], {"nonsense": None}, Thing(), sae_alone()]
        for name in ("attention_contributions", "edge_heads", "validate_graph")
    },
    ("attention_contributions", "graph"): RESULT,
    ("attention_contributions", "head"): [None, 5, 1.7, True, "nonsense", "L9H0", "L0H9", "L1 mlp", "L1H0<q>", [], Thing()],
    **{("attention_contributions", side): [None, "all", *TOKENS] for side in ("query", "key")},
    ("edge_heads", "edges"): [5, 1.7, True, "nonsense", [], [5], ["nonsense"], [("nonsense", "nonsense")], {}, Thing()],
    ("attribution_graph", "transcoders"): [5, "nonsense", [], {}, [None], {"nonsense": None}, Thing(), sae_alone()],
    ("attention", "head"): [5, 1.7, True, NAN, "nonsense", [], ["nonsense"], [None], Thing(), (9, 0), (0, 9), (0, 1.7)],
    ("identifiability_rate", "block"): ONE_PLACE,
    ("ablation_hooks", "places"): [
        None, 5, 1.7, True, "nonsense", [], Thing(), (0, 9), (9, 0), (0, 1.7), (True, 0), [(0, 1, 2)], [None],
        ("a", "b"), torch.tensor([0, 1]),
    ],
    ("ablation_hooks", "replacement"): [
        None, 5, 1.7, True, "nonsense", [], Thing(), {}, {0: None}, torch.zeros(7), torch.full((1,), NAN), {"x": 5},
    ],
    ("path_patching", "senders"): [5, 1.7, True, "nonsense", [], Thing(), (9, 0), (0, 9), (0, 1.5), [None]],
    ("path_patching", "receivers"): [5, 1.7, True, "nonsense", [], Thing(), (9, 0), {}, {"name": []}, [None]],
    ("prune_circuit", "scores"): RESULT, ("prune_circuit", "circuit"): RESULT,
    ("evaluate_circuits", "sizes"): [0, 1.7, True, [0], [-1], [1.7], [True], [MANY], "nonsense", [], [None], Thing()],
    ("evaluate_circuits", "n_draws"): [None, 1.7, True, NAN, -1, "nonsense", [], Thing()],
    ("add_test_time_registers", "neurons"): NEURONS, ("register_shift", "neurons"): NEURONS,
    ("patch", "row"): [None, *COUNT[:3], *COUNT[4:]], ("patch", "column"): [None, *COUNT[:3], *COUNT[4:]],
    ("box", "row"): [None, *COUNT[:3], *COUNT[4:]], ("box", "column"): [None, *COUNT[:3], *COUNT[4:]],
    ("bootstrap", "sums"): [None, 5, "nonsense", [], Thing(), np.full(3, NAN), np.zeros((0, 3))],
    ("permutation_test", "inside"): [None, 5, "nonsense", [], Thing(), np.full(3, NAN), np.zeros(0)],
    ("permutation_test", "outside"): [None, 5, "nonsense", [], Thing(), np.full(3, NAN), np.zeros(0)],
    ("perturbation_test", "importance"): [
        None, 5, "nonsense", [], Thing(), torch.rand(2, 3), torch.full((2, 2, 2), NAN), torch.rand(3, 2, 2),
    ],
    ("Circuit", "edges"): [None, 5, "nonsense", ["nonsense"], [5], Thing(), "L0H0->logits"],
    ("Circuit.from_json", "path"): [None, 5, 1.7, "nonsense", [], Thing(), ".", "\0"],
    ("load_result", "path"): [None, 5, 1.7, "nonsense", [], Thing(), ".", "\0"],
    ("load_sae", "path"): [None, 5, 1.7, "nonsense", [], Thing(), ".", "\0"],
    ("load_saes", "path"): [None, 5, 1.7, "nonsense", [], Thing(), "\0"],
    ("AttributionGraph.edges_into", "node"): NODE, ("AttributionGraph.edges_from", "node"): NODE,
    ("AttributionGraph.prune", "node_share"): [None, *NUMBER, 0.0, 1.1], ("AttributionGraph.prune", "edge_share"): [-1.0],
    ("AttributionGraph.group", "supernodes"): [None, *SUPERNODES], ("AttributionGraph.to_json", "supernodes"): SUPERNODES,
    ("AttributionGraph.propose_supernodes", "min_similarity"): [None, *NUMBER, 2.0],
    ("AttributionGraph.to_json", "path"): [None, 5, 1.7, [], Thing(), ".", "\0"],
    ("AttributionGraph.from_json", "path"): [None, 5, 1.7, "nonsense", [], Thing(), ".", "\0"],
    ("AttributionMeans.top", "class_index"): [None, 1.7, True, NAN, "nonsense", 99, -1, [], Thing()],
    ("AttributionMeans.top_classes", "component"): [None, 1.7, True, NAN, "nonsense", 99, -1, [], Thing()],
    ("TopPatches.row_of", "feature"): [None, 1.7, True, NAN, "nonsense", 99, -1, [], Thing()],
    ("TopPatches.patch", "feature"): [None, 1.7, NAN, "nonsense", 99, -1, [], Thing()],
    ("TopPatches.patch", "rank"): [None, 1.7, NAN, "nonsense", 99, -9, [], Thing()],
    ("SparseAutoencoder.encode", "x"): [None, 5, "nonsense", [], Thing(), torch.randn(3, 7), torch.tensor(1.0)],
    ("SparseAutoencoder.decode", "features"): [None, 5, "nonsense", [], Thing(), torch.randn(3, 7), torch.tensor(1.0)],
    ("SparseAutoencoder.from_arrays", "W_enc"): [
        None, 5, "nonsense", [], Thing(), torch.randn(16), torch.randn(16, 7), torch.full((16, 8), NAN),
    ],
    ("SparseAutoencoder.from_arrays", "threshold"): ["nonsense", Thing(), NAN],
    ("SparseAutoencoder.from_arrays", "hook"): HOOK_TYPES,
    ("Transcoder.from_arrays", "hook"): HOOK_TYPES, ("Transcoder.from_arrays", "hook_out"): HOOK_TYPES,
    ("Transcoder.from_arrays", "W_skip"): [5, "nonsense", Thing(), torch.randn(7, 16), torch.full((16, 16), NAN)],
    ("Transcoder.from_arrays", "threshold"): ["nonsense", Thing(), NAN],
    ("Transcoder.from_arrays", "activation"): NAME,
    ("replace_context", "images"): WITHOUT_MODEL,
    ("SparseAutoencoder.from_arrays", "activation"): NAME,
    ("name_features", "sae"): RESULT, ("name_features", "n_examples"): COUNT,
    ("name_features", "n_draws"): [None, *COUNT, 18],
    ("sparse_words", "others"): PICTURES[1:],
    ("sparse_words", "sparsity"): [None, *NUMBER, 0, 1],
    ("sparse_words_of", "embeddings"): EMBEDDINGS,
    ("sparse_words_of", "others"): EMBEDDINGS[1:],
    ("sparse_words_of", "sparsity"): [None, *NUMBER, 0, 1],
    ("sparse_words_of", "tower"): [None, *RESULT],
    ("load_vocabulary", "name_or_path"): [None, 5, 1.7, "nonsense", [], Thing(), ".", "\0"],
    ("load_vocabulary", "category"): NAME,
    ("name_heads", "held_out"): [None, *NUMBER, 0, 1, -0.5],
    ("name_neurons", "order"): [None, True, NAN, 0, 3, "nonsense", [], Thing()],
    ("name_neurons", "block"): ONE_PLACE,
    ("with_saes", "saes"): [None, 5, "nonsense", [], Thing(), {"resid_post0": None}, {"nonsense": None}],
    ("explore_features", "shown"): [None, 1.7, True, NAN, -1, MANY, "nonsense", [-1], [1.7], [99], Thing()],
    ("explore_features", "doses"): [None, True, NAN, "nonsense", [], [NAN], [None], Thing()],
    ("explore_features", "feature_labels"): [
        5, 1.7, "nonsense", [], {99: "x"}, {0: ""}, {0: 5}, {"a": "x"}, {1.7: "x"}, Thing(), "\0", ".",
    ],
    ("explore_features", "n_runs"): COUNT,
    ("explore_graph", "transcoders"): [5, "nonsense", [], {}, [None], {"nonsense": None}, Thing(), sae_alone()],
    ("explore_graph", "n_nodes"): COUNT,
    ("explore_graph", "n_edges"): [1.7, True, NAN, -1, "nonsense", [], Thing()],
    ("explore_graph", "graphs"): [5, 1.7, "nonsense", [], [None], Thing()],
    ("explore_graph", "data"): [5, 1.7, True, NAN, [], Thing(), "nonsense.png"],
    ("explore_graph", "feature_labels"): [
        5, 1.7, "nonsense", [], {99: {0: "x"}}, {0: {99: "x"}}, {0: "nonsense"}, {"a": {}}, {0: {0: ""}}, Thing(),
    ],
    ("explore_graph", "image_names"): [5, "nonsense", [], ["one"], [None, None], Thing()],
    ("explore", "sae"): RESULT, ("find_shortcut", "sae"): RESULT,
    ("explore", "description"): RESULT,
    ("explore", "image_names"): [5, "nonsense", [], ["one"], [None, None], Thing()],
}  # fmt: skip

#: What may pass, and why.
ALLOWED: dict[str, Callable[[str, str, Any], bool]] = {
    "a function that returns a number is a metric, however little it says of the logits": (
        lambda name, argument, value: "metric" in argument and callable(value) and name in CONSTANT_IS_FINE
    ),
    "TransformerLens' own functions say themselves what shape a metric has": (
        lambda name, argument, value: name.startswith("patching.") and callable(value)
    ),
    "cells that an interrupted sweep did not reach are NaN, and so is their interval": (
        lambda name, argument, value: (name, argument) == ("bootstrap", "sums") and isinstance(value, np.ndarray)
    ),
    "a page needs no examples": (lambda name, argument, value: argument == "n_examples" and value == 0),
    "no scores go with a circuit made by hand": (
        lambda name, argument, value: (name, argument) == ("Circuit", "scores") and value is None
    ),
    "whole numbers in a tensor of bytes are numbers": (
        lambda name, argument, value: (name, argument) == ("ProbeFit", "tokens") and isinstance(value, torch.Tensor)
    ),
}
CONSTANT_IS_FINE = ("activation_ablation",)


def finish(result: Any) -> None:
    """Does what stands behind a lazy result."""
    if isinstance(result, vitlens.features.ActivationStream):
        for _ in result:
            pass
    elif isinstance(result, contextlib.AbstractContextManager):
        with result as spliced:
            for one in spliced.values() if isinstance(spliced, dict) else [spliced]:
                one.placed.model(torch.zeros(2, 3, 32, 32))


def outcome(function: Callable, given: dict[str, Any]) -> str | None:
    """What was wrong with how a call with a wrong argument ended; None where it was refused in a sentence."""
    try:
        finish(function(**given))
    except InputError as error:
        text = str(error)
        return None if 8 < len(text) < 700 and "\n" not in text else f"no sentence: {text!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:110] if str(error) else ''}"
    return "accepted"


def short(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.layout} {value.dtype} {'nested' if value.is_nested else list(value.shape)} {value.device}"
    return repr(value)[:60].split(" at 0x")[0]


def walk(only: list[str]) -> Iterator[str]:
    for name, (function, good) in sorted(good_calls().items()):
        if only and name not in only:
            continue
        print(f"# {name} {time.process_time():.0f}", file=sys.stderr, flush=True)
        as_it_should_be = outcome(function, good)
        if as_it_should_be not in ("accepted", None):
            yield f"{name} as it should be: {as_it_should_be}"
        for argument in inspect.signature(function).parameters if "<lambda>" not in repr(function) else good:
            for value in ELSEWHERE.get((name, argument), BY_NAME.get(argument, [])):
                wrong = outcome(function, {**good, argument: value})
                if wrong is not None and not any(allowed(name, argument, value) for allowed in ALLOWED.values()):
                    yield f"{name}({argument}={short(value)}): {wrong}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        start, n = time.process_time(), 0
        for failure in walk(sys.argv[1:]):
            print(failure, flush=True)
            n += 1
    print(f"{n} failures in {time.process_time() - start:.0f} s")
    sys.exit(bool(n))
