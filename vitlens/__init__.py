"""vitlens: look inside vision transformers.

    import vitlens
    model, images, labels, masks = vitlens.load_demo()
    logits, cache = model.run_with_cache(images)
    vitlens.class_lens(model, images, labels)

Names load when they are first used, so `import vitlens` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitlens.patching.ablation import Ablation, ablation_hooks, activation_ablation
    from vitlens.attribution.direct import (
        Attribution,
        NeuronAttribution,
        PatchAttribution,
        PathAttribution,
        TokenAttribution,
        direct_logit_attribution,
    )
    from vitlens.attribution.means import AttributionMeans, attribution_means
    from vitlens.patching.gradients import attribution_patching
    from vitlens.circuits.curves import CircuitCurve, evaluate_circuits, minimality
    from vitlens.circuits.circuit import Circuit, find_circuit
    from vitlens.patching.contrast import Patching
    from vitlens.patching.donors import confusing_donors
    from vitlens.patching.edges import edge_attribution_patching
    from vitlens.removal.knockouts import Edges, knockout_attention, knockout_hooks
    from vitlens.lens.lens import ClassLens, class_lens
    from vitlens.lens.measures import (
        class_change_by_sublayer,
        class_similarity_change_rate,
        identifiability,
        identifiability_rate,
        residual_composition,
    )
    from vitlens.memories.memories import Memories, class_value_agreement, key_value_agreement, read_memories
    from vitlens.patching.activation import activation_patching
    from vitlens.patching.paths import path_patching
    from vitlens.faithfulness.perturbation import Perturbation, perturbation_test
    from vitlens.lens.probes import ProbeFit, Probes
    from vitlens.registers.neurons import (
        RegisterNeurons,
        RegisterShift,
        find_register_neurons,
        register_shift,
        test_time_registers,
    )
    from vitlens.removal.tokens import TokenAblation, ablate_tokens
    from vitlens.results.result import Result
    from vitlens.heatmaps.methods.saliency import Importance, gradient_rollout, projection_gradient
    from vitlens.patching.sources import mean_activations
    from vitlens.statistics import bootstrap, permutation_test
    from vitlens.choose.tokens import box, patch, token_mask
    from vitlens.lens.trace import ClassTrace, class_trace
    from vitlens.data.counterfactuals import replace_context
    from vitlens.demo import load_demo, load_demo_model, load_demo_pictures
    from vitlens.description.run import describe
    from vitlens.description.result import Description
    from vitlens.description.sinks import SinkRule
    from vitlens.errors import InputError
    from vitlens.pages.explorer.run import explore
    from vitlens.pages.explorer.explorer import Explorer
    from vitlens.features import (
        SparseAutoencoder,
        Transcoder,
        evaluate_sae,
        feature_attribution,
        load_sae,
        stream_activations,
        top_memory_patches,
        top_patches,
    )
    from vitlens.faithfulness.run import faithfulness
    from vitlens.faithfulness.metrics import faithfulness_metrics
    from vitlens.faithfulness.randomisation import Randomisation, randomisation_test
    from vitlens.faithfulness.result import Faithfulness
    from vitlens.faithfulness.segmentation import Segmentation, segmentation
    from vitlens.heatmaps.run import Heatmap, heatmap
    from vitlens.heatmaps.registry import heatmap_methods
    from vitlens.model.hooks.cache import ViTActivationCache
    from vitlens.model.config import HookedViTConfig
    from vitlens.model.hooked_vit import HookedViT
    from vitlens.parity.supported import supported_models
    from vitlens.parity.verify import ParityReport, verify
    from vitlens.paper.run import run_study
    from vitlens.paper.settings import StudySettings

__version__ = "0.1.0"

_HOMES = {
    "analysis.ablation": ["Ablation", "ablation_hooks", "activation_ablation"],
    "analysis.attribution": [
        "Attribution",
        "NeuronAttribution",
        "PatchAttribution",
        "PathAttribution",
        "TokenAttribution",
        "direct_logit_attribution",
    ],
    "analysis.attribution_means": ["AttributionMeans", "attribution_means"],
    "analysis.attribution_patching": ["attribution_patching"],
    "analysis.edge_attribution": ["edge_attribution_patching"],
    "analysis.circuits": ["Circuit", "find_circuit"],
    "analysis.circuit_curves": ["CircuitCurve", "evaluate_circuits", "minimality"],
    "analysis.donors": ["confusing_donors"],
    "analysis.lens": ["ClassLens", "class_lens"],
    "analysis.lens_measures": [
        "class_change_by_sublayer",
        "class_similarity_change_rate",
        "identifiability",
        "identifiability_rate",
        "residual_composition",
    ],
    "analysis.knockouts": ["Edges", "knockout_attention", "knockout_hooks"],
    "analysis.memories": [
        "Memories",
        "class_value_agreement",
        "key_value_agreement",
        "read_memories",
    ],
    "analysis.contrast": ["Patching"],
    "analysis.patching": ["activation_patching"],
    "analysis.paths": ["path_patching"],
    "analysis.perturbation": ["Perturbation", "perturbation_test"],
    "analysis.probes": ["ProbeFit", "Probes"],
    "analysis.removal": ["TokenAblation", "ablate_tokens"],
    "analysis.registers": [
        "RegisterNeurons",
        "RegisterShift",
        "find_register_neurons",
        "register_shift",
        "test_time_registers",
    ],
    "analysis.results": ["Result"],
    "analysis.saliency": ["Importance", "gradient_rollout", "projection_gradient"],
    "analysis.statistics": ["bootstrap", "permutation_test"],
    "analysis.sources": ["mean_activations"],
    "analysis.tokens": ["box", "patch", "token_mask"],
    "analysis.trace": ["ClassTrace", "class_trace"],
    "data.counterfactuals": ["replace_context"],
    "data.demo": ["load_demo", "load_demo_model", "load_demo_pictures"],
    "description.describe": ["describe"],
    "description.result": ["Description"],
    "description.sinks": ["SinkRule"],
    "errors": ["InputError"],
    "explorer.explore": ["explore"],
    "explorer.explorer": ["Explorer"],
    "features": [
        "SparseAutoencoder",
        "Transcoder",
        "evaluate_sae",
        "feature_attribution",
        "load_sae",
        "stream_activations",
        "top_memory_patches",
        "top_patches",
    ],
    "heatmap_scores.faithfulness": ["faithfulness"],
    "heatmap_scores.metrics": ["faithfulness_metrics"],
    "heatmap_scores.randomisation": ["Randomisation", "randomisation_test"],
    "heatmap_scores.result": ["Faithfulness"],
    "heatmap_scores.segmentation": ["Segmentation", "segmentation"],
    "heatmaps.heatmap": ["Heatmap", "heatmap"],
    "heatmaps.methods": ["heatmap_methods"],
    "model.cache": ["ViTActivationCache"],
    "model.config": ["HookedViTConfig"],
    "model.hooked_vit": ["HookedViT"],
    "parity.supported": ["supported_models"],
    "parity.verify": ["ParityReport", "verify"],
    "study.run": ["run_study"],
    "study.settings": ["StudySettings"],
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Ablation",
    "Attribution",
    "AttributionMeans",
    "Circuit",
    "CircuitCurve",
    "ClassLens",
    "ClassTrace",
    "Description",
    "Edges",
    "Explorer",
    "Faithfulness",
    "Heatmap",
    "HookedViT",
    "HookedViTConfig",
    "Importance",
    "InputError",
    "Memories",
    "NeuronAttribution",
    "ParityReport",
    "PatchAttribution",
    "Patching",
    "PathAttribution",
    "Perturbation",
    "ProbeFit",
    "Probes",
    "Randomisation",
    "RegisterNeurons",
    "RegisterShift",
    "Result",
    "Segmentation",
    "SinkRule",
    "SparseAutoencoder",
    "StudySettings",
    "TokenAblation",
    "TokenAttribution",
    "Transcoder",
    "ViTActivationCache",
    "ablate_tokens",
    "ablation_hooks",
    "activation_ablation",
    "activation_patching",
    "attribution_means",
    "attribution_patching",
    "bootstrap",
    "box",
    "class_change_by_sublayer",
    "class_lens",
    "class_similarity_change_rate",
    "class_trace",
    "class_value_agreement",
    "confusing_donors",
    "describe",
    "direct_logit_attribution",
    "edge_attribution_patching",
    "evaluate_circuits",
    "evaluate_sae",
    "explore",
    "faithfulness",
    "faithfulness_metrics",
    "feature_attribution",
    "find_circuit",
    "find_register_neurons",
    "gradient_rollout",
    "heatmap",
    "heatmap_methods",
    "identifiability",
    "identifiability_rate",
    "key_value_agreement",
    "knockout_attention",
    "knockout_hooks",
    "load_demo",
    "load_demo_model",
    "load_demo_pictures",
    "load_sae",
    "mean_activations",
    "minimality",
    "patch",
    "path_patching",
    "permutation_test",
    "perturbation_test",
    "projection_gradient",
    "randomisation_test",
    "read_memories",
    "register_shift",
    "replace_context",
    "residual_composition",
    "run_study",
    "segmentation",
    "stream_activations",
    "supported_models",
    "test_time_registers",
    "token_mask",
    "top_memory_patches",
    "top_patches",
    "verify",
]


def __getattr__(name: str) -> object:
    if name in ("patching", "planted"):
        return import_module(f"vitlens.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'vitlens' has no attribute {name!r}")
    return getattr(import_module(f"vitlens.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
