"""Attributes logits to features: each feature's activation times the gradient of the logit along its direction."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.arguments import checked
from vitlens.choose.classes import Classes, ClassSelection, classes_by_batch, select_classes
from vitlens.choose.tokens import TokenSet
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError, nearest
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.placed import ends, paired_rows
from vitlens.features.places import STREAM_WIDE, HookPlace, chosen_rows, split_rows, suffix_of
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName, Reader, hook_name
from vitlens.model.runs.gradients import gradients_disabled, outside_inference
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_run import PictureRun
from vitlens.results.result import Result

FEATURE_METHODS = ("gradient", "integrated", "direct")


@dataclass(frozen=True, repr=False)
class FeatureAttribution(Result):
    """`values` [image, class, feature]: each feature's share of the logit, summed over tokens.

    `error` is the share of what the dictionary does not reconstruct, `bias` of what it reconstructs without any feature
    (decoder bias, a row's mean, a skip connection). `rest` is whatever else the logit comes from, such as later blocks and
    the readout's constant (`feature_attribution` says more): features + error + bias + rest = `logits`.
    """

    error: Float[Tensor, "image class"]
    bias: Float[Tensor, "image class"]
    rest: Float[Tensor, "image class"]
    logits: Float[Tensor, "image class"]

    def top(self, k: int = 10, image: int = 0, class_position: int = 0) -> pd.DataFrame:
        """The k features that weigh most, by magnitude."""
        shares = self.values[image, class_position].cpu()
        order = shares.abs().argsort(descending=True, stable=True)[:k]
        labels = self.axes["feature"]
        return pd.DataFrame({"feature": [labels[i] for i in order.tolist()], "logit": shares[order].numpy()})


@dataclass(frozen=True)
class _Parts:
    """What a batch's activations are made of, at the tokens chosen."""

    activation: Float[Tensor, "image ..."]
    x: Float[Tensor, "image token ..."]
    features: Float[Tensor, "image token ..."]
    decoded: Float[Tensor, "image token ..."]
    bias: Float[Tensor, "image token ..."]
    error: Float[Tensor, "image token ..."]


@leaves_state
@checked
@gradients_disabled()
def feature_attribution(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    sae: SparseAutoencoder,
    hook: HookName | None = None,
    method: str = "gradient",
    n_steps: int = 10,
    hook_out: HookName | None = None,
    tokens: TokenSet = "all",
    batch_size: int | None = None,
    progress: bool | None = None,
) -> FeatureAttribution:
    """Attributes logits to a dictionary's features: share_f = Σ_tokens f ⟨W_dec[f], ∂logit/∂x̂⟩.

    An activation is x = Σ_f f W_dec[f] + bias + error, and ⟨∂logit/∂x, x⟩ splits along this sum. The gradient is, by method:

    - "gradient": that of the run. Shares are first-order estimates of what ablating a feature does.
    - "integrated": its mean while all features grow from 0 to their values, bias and error fixed. The features' shares
      then sum to what removing all features does.
    - "direct": the direction in which the classifier reads the stream, past all later blocks, with the statistics of the
      last norm (and whatever else is not linear in the readout) frozen. Shares are exact, of the direct path alone.

    `FeatureAttribution.rest` is what is left of the logit: logit − features − error − bias. It holds the readout's constant,
    what other tokens contribute, what parts after the hook point add of their own (their biases, or with "direct" all
    that later blocks write), and what a linear estimate misses. Early in the network it is large, and that is no error; for
    "direct" at the last block's "resid_post" it is the readout's constant alone.

    Args:
        classes: indices, names, or a tensor [image] of each picture's own; None for each picture's predicted class.
        sae: the dictionary.
        hook: where it reads; None for the hook point it was trained on.
        method: "gradient", "integrated" (midpoint rule with `n_steps` points) or "direct" (hook points that write to the
            stream).
        hook_out: what a transcoder predicts, see `with_sae`; its features are those of the prediction.
        tokens: the tokens whose features count, see `select_tokens`; all by default.
        batch_size: pictures of a forward and backward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        FeatureAttribution with axes image, class, feature.

    Raises:
        InputError: an unknown method or class; a dictionary of another width; "direct" where there is no direct path.

    Source: Marks et al. 2024 (Sparse Feature Circuits), equations 2 and 4; Methods for the frozen readout.

    Examples:
        >>> import torch
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> identity = torch.eye(model.cfg.d_model)
        >>> both = torch.cat([identity, -identity])
        >>> sae = vitlens.features.SparseAutoencoder.from_arrays(both.T, None, both, None, hook="resid_post5")
        >>> shares = vitlens.features.feature_attribution(model, images[4:5], "T-shirt", sae=sae)
        >>> list(shares.axes)
        ['image', 'class', 'feature']
        >>> total = shares.values.sum(dim=-1) + shares.error + shares.bias + shares.rest
        >>> bool((total - shares.logits).abs().max() < 1e-3)  # the shares sum to the logit
        True
    """
    if method not in FEATURE_METHODS:
        raise InputError(f"no method is called {method!r}; the nearest names are {nearest(method, FEATURE_METHODS)}")
    model.require_classifier()
    source, target = ends(model, hook, sae, hook_out)
    if method == "direct" and (target.block is None or target.name.rsplit("hook_", 1)[-1] not in STREAM_WIDE):
        raise InputError(f'{target.name} does not write to the stream, so it has no direct path: use method="gradient"')
    # Every block's activations are held for the gradient.
    run = PictureRun(model, images, batch_size, progress, f"feature attribution ({method})", model.cfg.n_layers)
    # The predicted classes are those of the run that is attributed, which needs no forward of its own.
    classes_of = None if classes is None else classes_by_batch(model, classes, run.n)
    found: list[list[Tensor]] = []
    for where, pictures in run:
        chosen = None if classes_of is None else classes_of(where, pictures)
        worker = _Attributor(model, sae, source, target, tokens, outside_inference(pictures), chosen)
        gradients = (
            worker.direct() if method == "direct" else worker.mean_gradients(n_steps if method == "integrated" else 0)
        )
        found.append(worker.shares(gradients))
        labels = worker.selection.labels
    values, error, bias, logits, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
    return FeatureAttribution(
        values,
        {"image": run.images, "class": labels, "feature": list(range(sae.d_sae))},
        "logit",
        error=error,
        bias=bias,
        rest=logits - values.sum(dim=-1) - error - bias,
        logits=logits,
        classes=indices,
        class_names=model.class_names,
        pixels=run.pixels,
        settings={
            "model": model.cfg.model_name,
            "hook": source.name,
            "dictionary": sae.source,
            "method": method,
            **({"n_steps": n_steps} if method == "integrated" else {}),
        },
    )


class _Attributor:
    """One batch: its clean run, what its activations are made of, and gradients of its logits."""

    def __init__(
        self,
        model: HookedViT,
        sae: SparseAutoencoder,
        source: HookPlace,
        target: HookPlace,
        tokens: TokenSet,
        images: Float[Tensor, "image channels height width"],
        classes: ClassSelection | None,
    ) -> None:
        self.model, self.sae, self.target, self.tokens = model, sae, target, tokens
        self.grid = model.embed.grid(*images.shape[-2:])
        final = hook_name(model.cfg.n_layers - 1, "resid_post")
        seen: dict[str, Tensor] = {}

        def keep(activation: Tensor, hook: HookPoint) -> None:
            seen[str(hook.name)] = activation.detach()

        names = {source.name, target.name, final}
        with torch.no_grad():
            self.run = suffix_of(model, images, [source, target])
            logits = self.run([(name, Reader(keep)) for name in names])
            rows = {place.name: place.split(seen[place.name]) for place in (source, target)}
            x, y, _ = paired_rows(model, sae, source, target, rows, tokens, self.grid)
            features = sae.encode(x)
            decoded = sae.decode(features, x).to(y)
            bias = sae.decode(torch.zeros_like(features), x).to(y)
        self.parts = _Parts(seen[target.name], x, features, decoded, bias, y - decoded)
        # A run that starts after the last block has no last stream; "direct" does not need it there.
        self.final = seen.get(final)
        self.selection = select_classes(model, None, len(logits), lambda: logits) if classes is None else classes
        self.logits = self.selection.take(logits)

    def mean_gradients(self, n_steps: int) -> Iterator[Float[Tensor, "image ..."]]:
        """∂logit/∂activation for each chosen class: in the run itself (0 steps), or its mean on the features' way from 0."""
        ways = [(step + 0.5) / n_steps for step in range(n_steps)] or [1.0]
        means: list[Tensor] = []
        for way in ways:
            here = self._gradients(way)
            means = [gradient / len(ways) + (means[c] if means else 0) for c, gradient in enumerate(here)]
        yield from means

    def _gradients(self, way: float) -> list[Tensor]:
        leaf = self._at(way).requires_grad_()
        with torch.enable_grad():
            logits = self.run([(self.target.name, lambda activation, hook: leaf)])
            chosen = self.selection.take(logits).sum(dim=0)
            return [torch.autograd.grad(logit, leaf, retain_graph=True)[0] for logit in chosen]

    def _at(self, way: float) -> Float[Tensor, "image ..."]:
        """The activation with all features at this share of what they are."""
        if way == 1:
            return self.parts.activation.clone()
        rows = self.target.split(self.parts.activation)
        chosen = chosen_rows(self.model, self.target, self.tokens, rows.shape[1], self.grid).to(rows.device)
        view = split_rows(rows, self.sae.d_out, self.target.name)
        less = (1 - way) * (self.parts.decoded - self.parts.bias)
        moved = view.index_copy(1, chosen, view[:, chosen] - less).reshape(rows.shape)
        return self.target.unite(moved).clone()

    def direct(self) -> Iterator[Float[Tensor, "image token d"]]:
        """The direction of the last stream that each chosen logit reads, token by token: no gradient needed."""
        assert self.final is not None
        with torch.no_grad():
            readouts = [readout.choose(self.selection.indices) for readout in self.model.linear_readouts(self.final)]
            for position in range(self.selection.indices.shape[1]):
                read = torch.zeros_like(self.final)
                for readout in readouts:
                    directions = readout.directions[:, :, position]
                    read[:, readout.tokens] += einsum(readout.weights, directions, "i g t, i g d -> i t d")
                yield read

    def shares(self, gradients: Iterator[Tensor]) -> list[Tensor]:
        """Shares of the features, the error and the bias; the logits; the classes' indices."""
        parts, shares = self.parts, []
        with torch.no_grad():
            for gradient in gradients:
                rows = self.target.split(gradient)
                chosen = chosen_rows(self.model, self.target, self.tokens, rows.shape[1], self.grid).to(rows.device)
                pulled = split_rows(rows, self.sae.d_out, self.target.name)[:, chosen]
                # Picture by picture: tokens × features of a whole batch may be large.
                of_features = [
                    (parts.features[i] * self.sae.written_per_feature(pulled[i], parts.x[i])).flatten(0, -2).sum(dim=0)
                    for i in range(len(pulled))
                ]
                shares.append(
                    (
                        torch.stack(of_features),
                        *((pulled * part).flatten(1).sum(dim=1) for part in (parts.error, parts.bias)),
                    )
                )
        values, error, bias = (torch.stack(column, dim=1) for column in zip(*shares, strict=True))
        return [values.to(self.logits), error, bias, self.logits, self.selection.indices]
