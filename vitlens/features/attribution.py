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
from vitlens.choose.texts import takes_text
from vitlens.choose.tokens import TokenSet
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError, nearest
from vitlens.features.placed import AnyDictionary, PerPart, PlacedDictionary, place_dictionary
from vitlens.features.places import STREAM_WIDE, HookPlace, chosen_rows, split_rows, suffix_of
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName, Hooks, Reader, hook_name
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
class _Made:
    """What a batch's activations are made of, for each part of the dictionary: all of an activation, and at the tokens
    chosen what is read, the features, the reconstruction, the reconstruction without features, and the error."""

    activation: PerPart
    x: PerPart
    features: PerPart
    decoded: PerPart
    bias: PerPart
    error: PerPart


@leaves_state
@checked
@takes_text("all")
@gradients_disabled()
def feature_attribution(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    sae: AnyDictionary,
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

    Of a cross-layer transcoder a feature's share is that of all its directions together. The gradient at an MLP's output
    keeps the outputs of the dictionary's other MLPs fixed: what a feature does through a later MLP is in the shares of the
    features of that MLP.

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
        FeatureAttribution with axes image, class, feature; a cross-layer transcoder's features are called "block.feature",
        with blocks counted in the transcoder.

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
    placed = place_dictionary(model, hook, sae, hook_out, tokens)
    for target in placed.targets if method == "direct" else ():
        if target.block is None or target.name.rsplit("hook_", 1)[-1] not in STREAM_WIDE:
            raise InputError(
                f'{target.name} does not write to the stream, so it has no direct path: use method="gradient"'
            )
    # Every block's activations are held for the gradient.
    run = PictureRun(model, images, batch_size, progress, f"feature attribution ({method})", model.cfg.n_layers)
    # The predicted classes are those of the run that is attributed, which needs no forward of its own.
    classes_of = None if classes is None else classes_by_batch(model, classes, run.n)
    found: list[list[Tensor]] = []
    for where, pictures in run:
        chosen = None if classes_of is None else classes_of(where, pictures)
        worker = _Attributor(placed, outside_inference(pictures), chosen)
        gradients = (
            worker.direct() if method == "direct" else worker.mean_gradients(n_steps if method == "integrated" else 0)
        )
        found.append(worker.shares(gradients))
        labels = worker.selection.labels
    values, error, bias, logits, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
    return FeatureAttribution(
        values,
        {"image": run.images, "class": labels, "feature": placed.labels},
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
            "hook": placed.name,
            "dictionary": sae.source,
            "method": method,
            **({"n_steps": n_steps} if method == "integrated" else {}),
        },
    )


class _Attributor:
    """One batch: its clean run, what its activations are made of, and gradients of its logits."""

    def __init__(
        self,
        placed: PlacedDictionary,
        images: Float[Tensor, "image channels height width"],
        classes: ClassSelection | None,
    ) -> None:
        self.placed, self.model = placed, placed.model
        self.grid = self.model.embed.grid(*images.shape[-2:])
        final = hook_name(self.model.cfg.n_layers - 1, "resid_post")
        seen: dict[str, Tensor] = {}

        def keep(activation: Tensor, hook: HookPoint) -> None:
            seen[str(hook.name)] = activation.detach()

        with torch.no_grad():
            self.run = suffix_of(self.model, images, placed.places)
            logits = self.run([(name, Reader(keep)) for name in {final, *(place.name for place in placed.places)}])
            rows = {place.name: place.split(seen[place.name]) for place in placed.places}
            x, y, _ = placed.rows(rows, self.grid)
            features = placed.encode(x)
            decoded = [part.to(like) for part, like in zip(placed.decode(features, x), y, strict=True)]
            none = [torch.zeros_like(part) for part in features]
            bias = [part.to(like) for part, like in zip(placed.decode(none, x), y, strict=True)]
            error = [whole - part for whole, part in zip(y, decoded, strict=True)]
        self.made = _Made([seen[target.name] for target in placed.targets], x, features, decoded, bias, error)
        # A run that starts after the last block has no last stream; "direct" does not need it there.
        self.final = seen.get(final)
        self.selection = select_classes(self.model, None, len(logits), lambda: logits) if classes is None else classes
        self.logits = self.selection.take(logits)

    def mean_gradients(self, n_steps: int) -> Iterator[PerPart]:
        """∂logit/∂activation for each chosen class: in the run itself (0 steps), or its mean on the features' way from 0."""
        ways = [(step + 0.5) / n_steps for step in range(n_steps)] or [1.0]
        means: list[PerPart] = []
        for way in ways:
            shares = [[gradient / len(ways) for gradient in parts] for parts in self._gradients(way)]
            means = [_sums(*pair) for pair in zip(means, shares, strict=True)] if means else shares
        yield from means

    def _gradients(self, way: float) -> list[PerPart]:
        leaves = [self._at(part, way).requires_grad_() for part in range(len(self.placed.targets))]
        hooks: Hooks = [
            (target.name, lambda activation, hook, leaf=leaf: leaf)
            for target, leaf in zip(self.placed.targets, leaves, strict=True)
        ]
        with torch.enable_grad():
            chosen = self.selection.take(self.run(hooks)).sum(dim=0)
            return [list(torch.autograd.grad(logit, leaves, retain_graph=True)) for logit in chosen]

    def _at(self, part: int, way: float) -> Float[Tensor, "image ..."]:
        """The activation of a part with all features at this share of what they are."""
        activation, target = self.made.activation[part], self.placed.targets[part]
        if way == 1:
            return activation.clone()
        rows = target.split(activation)
        chosen, view = self._rows(target, rows)
        less = (1 - way) * (self.made.decoded[part] - self.made.bias[part])
        moved = view.index_copy(1, chosen, view[:, chosen] - less).reshape(rows.shape)
        return target.unite(moved).clone()

    def _rows(self, target: HookPlace, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows the dictionary writes, and all of them as it writes them."""
        chosen = chosen_rows(self.model, target, self.placed.tokens, rows.shape[1], self.grid).to(rows.device)
        return chosen, split_rows(rows, self.placed.sae.d_out, target.name)

    def direct(self) -> Iterator[PerPart]:
        """The direction of the last stream that each chosen logit reads, token by token: no gradient needed."""
        assert self.final is not None
        with torch.no_grad():
            readouts = [readout.choose(self.selection.indices) for readout in self.model.linear_readouts(self.final)]
            for position in range(self.selection.indices.shape[1]):
                read = torch.zeros_like(self.final)
                for readout in readouts:
                    directions = readout.directions[:, :, position]
                    read[:, readout.tokens] += einsum(readout.weights, directions, "i g t, i g d -> i t d")
                yield [read] * len(self.placed.targets)

    def shares(self, gradients: Iterator[PerPart]) -> list[Tensor]:
        """Shares of the features, the error and the bias; the logits; the classes' indices."""
        made, shares = self.made, []
        with torch.no_grad():
            for of_class in gradients:
                pulled = []
                for target, gradient in zip(self.placed.targets, of_class, strict=True):
                    chosen, rows = self._rows(target, target.split(gradient))
                    pulled.append(rows[:, chosen])
                shares.append((self._of_features(pulled), _weighed(pulled, made.error), _weighed(pulled, made.bias)))
        values, error, bias = (torch.stack(column, dim=1) for column in zip(*shares, strict=True))
        return [values.to(self.logits), error, bias, self.logits, self.selection.indices]

    def _of_features(self, pulled: PerPart) -> Float[Tensor, "image feature"]:
        """The shares of all features, picture by picture: tokens × features of a whole batch may be large."""
        found = []
        for i in range(len(pulled[0])):
            per_feature = self.placed.written_per_feature(
                [rows[i] for rows in pulled], [rows[i] for rows in self.made.x]
            )
            parts = zip(self.made.features, per_feature, strict=True)
            found.append(torch.cat([(features[i] * moved).flatten(0, -2).sum(dim=0) for features, moved in parts]))
        return torch.stack(found)


def _weighed(pulled: PerPart, written: PerPart) -> Float[Tensor, "image"]:
    """⟨gradient, what is written⟩ of each picture, over all parts."""
    pairs = zip(pulled, written, strict=True)
    return torch.stack([(gradient * part).flatten(1).sum(dim=1) for gradient, part in pairs]).sum(dim=0)


def _sums(some: PerPart, others: PerPart) -> PerPart:
    return [one + other for one, other in zip(some, others, strict=True)]
