"""Lists which analyses are exact, approximate or impossible for an architecture, and why."""

from typing import Any

import pandas as pd

from vitlens.model.class_space.classifier import kind_of
from vitlens.model.class_space.layered import LINEAR, NONLINEAR
from vitlens.model.class_space.outputs import WITH_PROBABILITIES
from vitlens.model.class_space.requirements import no_class_directions, no_single_direction
from vitlens.model.parts.pooling import AttentionPool, ClassAndMeanPool, MaxPool
from vitlens.model.weights.processing_limits import REFUSALS
from vitlens.results.frames import Frame

EXACT, APPROXIMATE, IMPOSSIBLE = "exact", "approximate", "impossible"
Row = tuple[str, str, str]


def capabilities(model: Any) -> pd.DataFrame:
    """A table with one row per analysis: `analysis`, `status` ("exact", "approximate", "impossible") and `why`."""
    rows: list[Row] = [("hooks, caches and edits of every hook point", EXACT, "each is tested to be live")]
    for part in (_outputs, _class_space, _class_directions, _patching, _circuits, _transformer_lens):
        rows += part(model)
    for name, refusal in REFUSALS.items():
        reason = refusal(model)
        rows.append((name, EXACT if reason is None else IMPOSSIBLE, reason or "the logits stay as they are"))
    return Frame(rows, columns=["analysis", "status", "why"])


def _outputs(model: Any) -> list[Row]:
    output, n = model.cfg.output, model.cfg.n_classes
    chances, ranks = "probabilities", "ranks, predicted classes"
    if output not in WITH_PROBABILITIES:
        why = f'the outputs are no classes: output="{output}", see set_output'
        return [(chances, IMPOSSIBLE, why), (ranks, IMPOSSIBLE, why)]
    how = "a softmax over all classes" if output == "softmax" else "the sigmoid of each output"
    if n == 1:
        return [(chances, EXACT, how), (ranks, IMPOSSIBLE, "a single output is compared with no other")]
    return [(chances, EXACT, how), (ranks, EXACT, "a larger logit comes first")]


def _class_space(model: Any) -> list[Row]:
    names = ("class_lens", "direct_logit_attribution by component", "direct_logit_attribution by head")
    if model.unembed is None:
        why = "the model has no classifier: give it one with set_class_embeddings"
        return [(name, IMPOSSIBLE, why) for name in names]
    if isinstance(model.pool, AttentionPool):
        lens = "a token is read as attention pooling reads a picture whose tokens are all like it"
        linear = "linear with the pool's pattern and the norms' scales frozen"
        if model.pool.mlp is not None:
            lens, linear = f"{lens}, its MLP included", f"{linear}; the pool's MLP is one component"
    elif isinstance(model.pool, ClassAndMeanPool):
        lens = "a token is read in both places, as the class token and as the mean of the patches"
        linear = "linear with the norms' scales frozen; class token and patches have directions of their own"
    elif isinstance(model.pool, MaxPool):
        lens = "a token is read as if it were the maximum in every feature"
        linear = "linear with the places of the maxima and the norms' scales frozen"
    else:
        lens = "a token is read as the model reads the last ones, with statistics of its own"
        linear = "linear with the norms' scales frozen"
    kinds = {kind_of(classifier) for classifier in model.classifiers}
    if kinds != {LINEAR}:
        lens = f"{lens}, through all layers of the classifier"
        linear = f"{linear}, those of the classifier too"
    status = EXACT
    if NONLINEAR in kinds:
        status = APPROXIMATE
        linear = f'{linear}; its other layers by their gradient at the picture, what that leaves is "classifier rest"'
    heads = "the norm after the heads is frozen too" if model.cfg.wiring == "post-norm" else linear
    if any(block.attn.subtracts_patterns for block in model.blocks):
        heads = f"{linear}; a head's two softmaxes count as one"
    return [(names[0], EXACT, lens), (names[1], status, linear), (names[2], status, heads)]


def _class_directions(model: Any) -> list[Row]:
    name = "model.W_U, vitlens.memories"
    if model.unembed is None:
        return [(name, IMPOSSIBLE, "the model has no classifier: give it one with set_class_embeddings")]
    obstacle = no_class_directions(model)
    if obstacle is not None:
        return [(name, IMPOSSIBLE, obstacle)]
    if isinstance(model.pool, ClassAndMeanPool):
        return [(name, EXACT, "a class's directions for the class token and for the patches are summed")]
    return [(name, EXACT, "the weights of the classifier")]


def _patching(model: Any) -> list[Row]:
    if model.unembed is None:
        why = "metrics are about classes, of which there are none: use set_class_embeddings, or a metric of your own"
        return [("activation_patching", IMPOSSIBLE, why)]
    rows = [("activation_patching", EXACT, "equal to one full forward per cell")]
    if model.cfg.wiring == "parallel":
        why = "attention and MLP read the same stream, so there is none between them"
        rows.append(('activation_patching(sites="resid_mid")', IMPOSSIBLE, why))
    if any(block.attn.subtracts_patterns for block in model.blocks):
        why = "q and k have two heads for each head of v: patch v, z or the pattern"
        rows.append(('activation_patching(sites="q", "k" or "attn_scores")', IMPOSSIBLE, why))
    refused = paths_refused(model)
    paths = ("path_patching, circuits", EXACT, "heads and MLPs add up to the stream")
    rows.append(paths if refused is None else (paths[0], IMPOSSIBLE, refused))
    return rows


def paths_refused(model: Any) -> str | None:
    """Why the outputs of heads and MLPs do not simply add up to the stream, if they do not."""
    attn = model.blocks[0].attn
    if model.cfg.wiring == "post-norm":
        return "a norm follows every branch"
    if attn.ln_z is not None or attn.subtracts_patterns:
        return "a norm follows the heads"
    return "the heads have a gate that reads the stream too" if attn.gate is not None else None


def _circuits(model: Any) -> list[Row]:
    cfg = model.cfg
    before = [
        ("the q and k norms", cfg.qk_norm),
        ("rotary positions", "rotary" in cfg.positional_embedding_type),
        ("the bias of relative positions", "relative" in cfg.positional_embedding_type),
    ]
    missing = [name for name, there in before if there]
    why = f"it leaves out {', '.join(missing)}" if missing else "q · k is bilinear in what the heads read"
    # The values' biases cannot be folded exactly if a norm or gate is between the values and W_O.
    if REFUSALS["fold_value_biases"](model) is None:
        ov = ("model.OV", EXACT, "what a head writes for what it reads")
    else:
        ov = ("model.OV", APPROXIMATE, "it leaves out the norm or gate between the values and W_O")
    return [("model.QK", APPROXIMATE if missing else EXACT, why), ov]


def _transformer_lens(model: Any) -> list[Row]:
    rows = [("cache.decompose_resid, accumulated_resid", EXACT, "the components sum to the stream")]
    name = "cache.stack_head_results, stack_neuron_results, get_full_resid_decomposition"
    if model.cfg.wiring == "post-norm":
        rows.append((name, IMPOSSIBLE, "a norm follows heads and neurons: their results are not what they add"))
    else:
        rows.append((name, EXACT, "the components sum to the stream"))
    if model.unembed is None:
        obstacle: str | None = "the model has no classifier: give it one with set_class_embeddings"
    else:
        reason = no_single_direction(model)
        obstacle = None if reason is None else f"{reason}: use direct_logit_attribution"
    status, why = (EXACT, "one direction per class") if obstacle is None else (IMPOSSIBLE, obstacle)
    return [*rows, ("cache.apply_ln_to_stack and logit_attrs", status, why)]
