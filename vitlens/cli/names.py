"""The names that a shell completes, which are known without importing torch (that would take seconds).

Names of methods, units, sites and metrics are written out here for that reason; a test holds them to the library's.
"""

import csv
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import typer

from vitlens.cli.shared import DEMO, DTYPES
from vitlens.data.demo_files import demo_folder
from vitlens.errors import InputError

HEATMAP_METHODS = (
    "token_mask", "head_patch", "patching_effect", "class_projection", "projection_gradient", "gradient_rollout",
    "relevance_propagation", "legrad", "beyond_intuition", "transition_attention", "grad_cam", "integrated_gradients",
    "smooth_grad", "occlusion", "attention_rollout", "raw_attention", "centre_prior", "random_map",
)  # fmt: skip
LENS_SITES = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
PATCHING_SITES = (
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "attn_scores", "pattern", "pre",
    "post",
)  # fmt: skip
OUTPUT_KINDS = ("softmax", "sigmoid", "identity", "embedding")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
UNITS = ("component", "head", "head_patch", "neuron", "token", "path")
METRICS = ("logit_difference", "logit", "probability")
DIRECTIONS = ("denoise", "noise")
REPLACEMENTS = ("other", "mean", "zero", "blur", "shuffle")
EXPERIMENTS = (
    "class_identifiability", "class_change", "residual_composition", "context_tokens", "attention_knockout",
    "context_removal", "memories", "explainability", "linear_probe",
)  # fmt: skip
DICTIONARY_METRICS = ("reconstruction", "downstream", "locality", "monosemanticity", "probing", "absorption")
DICTIONARY_BASELINES = ("neurons", "pca", "kmeans", "random")
NAMED_PARTS = ("heads", "neurons", "features")
SHORTCUT_PARTS = ("heads", "mlps", "neurons")
METHODS_OF_NAMING = ("wpmi", "auc")
TOKENS = ("class", "registers", "prefix", "patches", "all", "pooled")
PATCHING_TOKENS = ("each", "class", "registers", "prefix", "patches", "object", "context", "all")


def one_of(*names: str) -> Callable[[str], list[str]]:
    """Completes one of these."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def model_names(incomplete: str) -> list[str]:
    """The demo, and the timm names that are ported."""
    with (files("vitlens.parity") / "supported.csv").open() as table:
        names = [row["name"] for row in csv.DictReader(table) if not row["refused"]]
    return [name for name in (DEMO, *names) if name.startswith(incomplete)]


def class_names(context: typer.Context, incomplete: str) -> list[str]:
    """The classes of the file that is given, or the demo's; those of other models are known only once they are loaded."""
    file, model = context.params.get("class_names"), context.params.get("model")
    try:
        if file is not None:
            names = Path(file).read_text().splitlines()
        elif model in (None, DEMO) and context.params.get("checkpoint") is None:
            names = json.loads((demo_folder() / "model.json").read_text())["class_names"]
        else:
            names = []
    except (OSError, UnicodeDecodeError, InputError):
        # A shell that completes nothing is better than one that prints errors.
        names = []
    return [name.strip() for name in names if name.strip().startswith(incomplete)]


dtype_names = one_of(*DTYPES)
