"""All that a page of attribution graphs holds: facts as JSON can keep them, numbers as tensors, and crops."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vitlens.circuits.graphs.graph import AttributionGraph
from vitlens.circuits.graphs.replacement import MLPReplacement, Transcoders, replaced_run
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.provenance import page_facts
from vitlens.model.runs.picture_batches import PictureBatches
from vitlens.pages.explorer.facts import names_of_classes, top_classes
from vitlens.pages.explorer.measure.quantise import as_numpy
from vitlens.pages.graph.measure.examples import examples_of
from vitlens.pages.graph.measure.flow import Flow, flow_of
from vitlens.pages.graph.measure.heads import heads_of_edges
from vitlens.pages.graph.measure.units import BlockUnit, activation_maps, check_same_run, classes_of, units_of
from vitlens.pages.page import made
from vitlens.pages.picture_names import picture_names
from vitlens.plots.shared.picture import picture_uri

#: Kinds of nodes, as the page's scripts count them.
KINDS_ON_PAGE = ("logit", "feature", "neuron", "error", "embed", "pos_embed", "embed_norm")
#: Crops of a page, of the most influential units first, and what they may take as text.
MOST_CROPS, MOST_CROP_TEXT = 6000, 7 * 2**20


@dataclass(frozen=True)
class MeasuredGraphs:
    """`tensors` by name, as the page's scripts read them; `crops` are pictures as text, in the order of `crop_numbers`.

    U units (features or neurons of all graphs), R ranks, T tokens, N nodes and E edges of graph i:
    unit_block, unit_number [U]; class_ids, class_values [U, 2 n], raised most first, lowered most last; top_images,
    top_tokens, top_values [U, R], the strongest pictures of the data set. map_i [U, T] with map_scale_i [U], the activation
    in picture i, scale · code / 255. kind_i, block_i, token_i, unit_i [N] (−1: none); activation_i and the columns of
    `Flow` [N]; edge_target_i, edge_source_i, edge_effect_i [E]; and what `heads_of_edges` says.
    """

    facts: dict[str, Any]
    tensors: dict[str, np.ndarray]
    crops: list[str]


@dataclass(frozen=True)
class PageData:
    """Where examples are looked for, what is given for it, the labels of units, and of how many edges heads are told."""

    batches: PictureBatches | None
    source: Any
    labels: Mapping[BlockUnit, str]
    n_edges: int
    progress: bool | None


@torch.no_grad()
def measured_graphs(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    graphs: Sequence[AttributionGraph],
    transcoders: Transcoders,
    names: Sequence[str],
    data: PageData,
) -> MeasuredGraphs:
    """
    Raises:
        InputError: a graph of another picture or of other transcoders; `data` without pictures, or of another size.
    """
    units = units_of(graphs)
    tensors: dict[str, np.ndarray] = {
        "unit_block": np.array([block for block, _ in units], dtype=np.int32),
        "unit_number": np.array([number for _, number in units], dtype=np.int32),
    }
    pictures = []
    replacements: list[MLPReplacement] = []
    heads: list[str] = []
    for i, graph in enumerate(graphs):
        run, replacements = replaced_run(model, images[i : i + 1], transcoders)
        check_same_run(graph, replacements)
        flow = flow_of(graph)
        of_graph = _of_graph(graph, flow, units, replacements)
        if data.n_edges:
            of_heads, heads = heads_of_edges(
                model, images[i : i + 1], graph, transcoders, flow, data.n_edges, data.progress
            )
            of_graph |= of_heads
        tensors |= {f"{name}_{i}": values for name, values in of_graph.items()}
        pictures.append(_picture_facts(model, images[i : i + 1], graph, names[i], as_numpy(run.logits)))
    classes, effects = classes_of(model, units, replacements)
    tensors |= {"class_ids": classes.cpu().numpy().astype(np.int32), "class_values": as_numpy(effects)}
    grid = graphs[0].grid
    crops: list[str] = []
    facts: dict[str, Any] = {"n_images": 0, "names": {}}
    if data.batches is not None:
        found = examples_of(model, units, transcoders, data.batches, grid, data.progress)
        tensors |= {
            "top_images": found.images.numpy().astype(np.int32),
            "top_tokens": found.tokens.numpy().astype(np.int32),
            "top_values": as_numpy(found.values),
        }
        found.crops.keep(_most_needed(graphs, units, tensors)[:MOST_CROPS])
        numbers, crops = found.crops.packed(MOST_CROP_TEXT)
        tensors["crop_numbers"] = np.array(numbers, dtype=np.int32)
        called = picture_names(data.source, numbers)
        facts = {
            "n_images": found.n_images,
            "names": {str(number): called[number] for number in numbers if number in called},
        }
    named = {int(index) for index in np.unique(tensors["class_ids"])}
    named |= {index for picture in pictures for index, _ in picture["answer"]}
    return MeasuredGraphs(
        {
            "title": pictures[0]["title"],
            "model": model.cfg.model_name,
            "provenance": page_facts(model),
            "warning": model.provenance.warning,
            "call": model.provenance.call,
            "made": made(),
            "grid": list(grid),
            "prefix": list(model.cfg.prefix_tokens),
            "n_layers": model.cfg.n_layers,
            "output": model.cfg.output,
            "kinds": list(KINDS_ON_PAGE),
            "unit_kind": "neuron" if transcoders is None else "feature",
            "class_names": names_of_classes(model, named),
            "pictures": pictures,
            "heads": heads,
            "labels": {f"{block}.{number}": text for (block, number), text in data.labels.items()},
            **facts,
        },
        tensors,
        crops,
    )


def _of_graph(
    graph: AttributionGraph, flow: Flow, units: Sequence[BlockUnit], replacements: Sequence[MLPReplacement]
) -> dict[str, np.ndarray]:
    place = {unit: i for i, unit in enumerate(units)}
    labels = graph.nodes
    activations = dict(zip(graph.sources, as_numpy(graph.activations).tolist(), strict=True))
    codes, scale = _bytes(activation_maps(units, replacements))

    def numbers(values: list[int | None], kind: type = np.int32) -> np.ndarray:
        return np.array([-1 if value is None else value for value in values], dtype=kind)

    return {
        "kind": numbers([KINDS_ON_PAGE.index(label.kind) for label in labels], np.uint8),
        "block": numbers([label.block for label in labels]),
        "token": numbers([label.token for label in labels]),
        "unit": numbers([place.get((label.block, label.feature), -1) for label in labels]),  # type: ignore[arg-type]
        "activation": np.array([activations.get(label, np.nan) for label in labels], dtype=np.float32),
        "influence": flow.influence,
        **flow.columns,
        "edge_target": flow.edge_target,
        "edge_source": flow.edge_source,
        "edge_effect": flow.edge_effect,
        "map": codes,
        "map_scale": scale,
    }


def _bytes(
    values: Float[Tensor, "unit token"],
) -> tuple[UInt8[np.ndarray, "unit token"], Float[np.ndarray, "unit"]]:
    """Activations above 0 in a byte each: a code c stands for scale · c / 255. What is below 0 has no place on a map."""
    positive = values.clamp_min(0)
    scale = positive.amax(dim=1)
    codes = (positive / scale.clamp_min(1e-30)[:, None] * 255).round()
    return codes.to(torch.uint8).cpu().numpy(), as_numpy(scale)


def _picture_facts(
    model: HookedViT,
    image: Float[Tensor, "1 channels height width"],
    graph: AttributionGraph,
    name: str,
    logits: Float[np.ndarray, "class"],
) -> dict[str, Any]:
    pixels = model.to_pixels(image)[0]
    logits_of = [str(label) for label in graph.targets if label.kind == "logit"]
    asked = [f"“{text.removeprefix('logit of ')}”" for text in logits_of[:3]]
    return {
        "name": name,
        "title": f"Why {' and '.join(asked)}?",
        "uri": picture_uri(pixels),
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "answer": top_classes(logits, model.cfg.output),
        "logits": logits_of,
        "n_nodes": len(graph.units),
        "active_units": graph.settings.get("active_units"),
        "n_edges": int((graph.values != 0).sum()),
    }


def _most_needed(
    graphs: Sequence[AttributionGraph], units: Sequence[BlockUnit], tensors: Mapping[str, np.ndarray]
) -> list[int]:
    """The pictures that are examples, of the most influential units first."""
    influence = np.zeros(len(units))
    for i in range(len(graphs)):
        of_units = tensors[f"unit_{i}"]
        np.add.at(influence, of_units[of_units >= 0], tensors[f"influence_{i}"][of_units >= 0])
    images = tensors["top_images"][np.argsort(-influence, kind="stable")]
    return [number for number in dict.fromkeys(images.flatten().tolist()) if number >= 0]
