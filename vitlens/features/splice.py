"""Runs the model with a dictionary's reconstruction in place of an activation; features can be read and edited."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.arguments import checked, short
from vitlens.choose.tokens import TokenSet
from vitlens.errors import InputError
from vitlens.features.dictionaries.cross_layer import CrossLayerTranscoder
from vitlens.features.placed import AnyDictionary, PerPart, PlacedDictionary, place_dictionary
from vitlens.features.places import chosen_rows, split_rows
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName, Hooks, Reader

FeatureEdit = Callable[[Float[Tensor, "..."]], Float[Tensor, "..."]]


class SplicedDictionary:
    """The handle of `with_sae`: a dictionary inside a model.

    `edit` can be set at any time, also while the context is open. If recorded, `features` [image, token, feature] (after the
    edit; with a head axis before the last one if the dictionary reads heads) and `error` x − x̂ [image, token, d] (before the
    edit) are those of the last run, at the tokens with the positions `tokens`. Of a cross-layer transcoder both are lists,
    with a tensor for each block.
    """

    def __init__(
        self,
        placed: PlacedDictionary,
        *,
        error_term: bool = False,
        edit: FeatureEdit | Mapping[int, FeatureEdit] | None = None,
        record: bool = False,
    ) -> None:
        self.placed, self.error_term, self.record = placed, error_term, record
        self.sources, self.targets = placed.sources, placed.targets
        self.edit = edit
        self.features: Float[Tensor, "image token *heads feature"] | PerPart | None = None
        self.error: Float[Tensor, "image token *heads d"] | PerPart | None = None
        self.tokens: Int[Tensor, "token"] | None = None
        self._run = _Run()
        #: With an error term and several parts: what the last run without an edit read first, and its errors.
        self._clean: _Run | None = None

    def hooks(self) -> Hooks:
        """The hooks that put the dictionary to work."""
        hooks: Hooks = []
        for part, (source, target) in enumerate(zip(self.sources, self.targets, strict=True)):
            if source != target:
                hooks.append((source.name, Reader(partial(self._keep, part))))
            hooks.append((target.name, partial(self._replace, part)))
        return hooks

    def _keep(self, part: int, activation: Tensor, hook: HookPoint) -> None:
        self._run.read[part] = self.sources[part].split(activation)

    def _replace(self, part: int, activation: Tensor, hook: HookPoint) -> Tensor:
        placed, source, target = self.placed, self.sources[part], self.targets[part]
        rows = target.split(activation)
        read = rows if source == target else self._run.read.pop(part, None)
        if read is None:
            raise InputError(
                f"a transcoder predicts {target.name} from {source.name}, which the model computes later: swap hook= and "
                "hook_out="
            )
        chosen = chosen_rows(placed.model, target, placed.tokens, rows.shape[1]).to(rows.device)
        x = split_rows(read, placed.sae.d_in, source.name)[:, chosen]
        y = split_rows(rows, placed.sae.d_out, target.name)
        if part == 0:
            self._begin(x)
        written = self._written(part, x, y[:, chosen]).to(y)
        if part == len(self.targets) - 1:
            self._end(target.ids(rows.shape[1])[chosen.cpu()])
        return target.unite(y.index_copy(1, chosen, written).reshape(rows.shape))

    def _begin(self, x: Float[Tensor, "image token *heads d_in"]) -> None:
        self._run = _Run(read=self._run.read, first=x.detach())
        self._run.edits = self._edits()
        if self.error_term and len(self.targets) > 1 and self._run.edits:
            if self._clean is None or not _is_close(x, self._clean.first):
                raise InputError(
                    "error_term=True adds the errors of the unedited run: run the same pictures once with edit=None, then "
                    "set the edit of what with_sae yields, and run them again"
                )
            self._run.errors = self._clean.errors

    def _edits(self) -> dict[int, FeatureEdit]:
        """The edit of each part that has one."""
        n = len(self.targets)
        if self.edit is None or (n == 1 and callable(self.edit)):
            return {} if self.edit is None else {0: cast(FeatureEdit, self.edit)}
        if n == 1 or not isinstance(self.edit, Mapping) or not set(self.edit) <= set(range(n)):
            raise InputError(
                "edit= is one function from features to features"
                if n == 1
                else f"edit= of a cross-layer transcoder is a dictionary from blocks, 0 to {n - 1}, to functions from "
                f"features to features, not {short(self.edit)}"
            )
        return dict(self.edit)

    def _written(self, part: int, x: Float[Tensor, "image token ..."], y: Float[Tensor, "image token ..."]) -> Tensor:
        run = self._run
        if len(run.plain) != part:
            raise InputError(
                f"the features of {self.targets[part].name} need those of {self.sources[0].name}: begin the run in its block"
            )
        features = self.placed.encode_part(part, x)
        edited = run.edits[part](features) if part in run.edits else features
        if edited.shape != features.shape:
            raise InputError(
                f"an edit returns features of the shape it was given, {list(features.shape)}, not {list(edited.shape)}"
            )
        run.plain.append(features)
        run.edited.append(edited)
        written = self.placed.decode_part(part, run.edited, x)
        if not (self.error_term or self.record):
            return written
        if len(run.errors) <= part:
            plain = self.placed.decode_part(part, run.plain, x) if run.edits else written
            run.errors.append((y.detach(), plain.detach().to(y)))
        activation, plain = run.errors[part]
        # The activation plus a difference, which is exactly 0 where nothing is edited: the output is the same bit for bit.
        return activation + (written.to(y) - plain) if self.error_term else written

    def _end(self, tokens: Int[Tensor, "token"]) -> None:
        run, self._run = self._run, _Run()
        if self.record:
            features, errors = [f.detach() for f in run.edited], [y - plain for y, plain in run.errors]
            one = not isinstance(self.placed.sae, CrossLayerTranscoder)
            self.features, self.error = (features[0], errors[0]) if one else (features, errors)
            self.tokens = tokens
        if self.error_term and len(self.targets) > 1 and not run.edits:
            self._clean = _Run(first=run.first, errors=run.errors)


@dataclass
class _Run:
    """One run of the model: what has been read, what edits there are, and for each part so far its features, plain and
    edited, and the pair of activation and prediction whose difference is the error."""

    read: dict[int, Tensor] = field(default_factory=dict)
    first: Tensor | None = None
    edits: dict[int, FeatureEdit] = field(default_factory=dict)
    plain: list[Tensor] = field(default_factory=list)
    edited: list[Tensor] = field(default_factory=list)
    errors: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def _is_close(x: Tensor, other: Tensor | None) -> bool:
    """Whether these are activations of the same pictures; two kernels of a norm may differ in the last digits."""
    return other is not None and x.shape == other.shape and bool((x - other).norm() <= 1e-3 * other.norm())


@checked
@contextmanager
def with_sae(
    model: HookedViT,
    hook: HookName | None,
    sae: AnyDictionary,
    *,
    hook_out: HookName | None = None,
    error_term: bool = False,
    tokens: TokenSet = "all",
    edit: FeatureEdit | Mapping[int, FeatureEdit] | None = None,
    record: bool = False,
) -> Iterator[SplicedDictionary]:
    """A context in which every run of the model uses x̂ = decode(encode(x)) in place of the activation x.

    A transcoder reads one hook point and replaces another by its prediction, usually an MLP's output. A cross-layer
    transcoder replaces the MLP outputs of all its blocks, and each block reads the run with the blocks before it replaced.
    Contexts can be nested, and your own hooks stay. With `edit` features are ablated or steered:
    `lambda f: f.index_fill(-1, unit, 0)`.

    Args:
        hook: where the dictionary reads; None for the hook point it was trained on, where that is known. A warning says
            that it was trained on another one.
        hook_out: what a transcoder predicts; by default what it was trained on, else its block's "mlp_out".
        error_term: add the error x − x̂ of the unedited run as a constant, so that only the edit changes the output.
            Gradients go through the features. With a cross-layer transcoder run the same pictures without an edit first,
            since an edit changes what later blocks read.
        tokens: only these tokens' activations, see `select_tokens`; all by default.
        edit: from features to features, [image, token, feature]; of a cross-layer transcoder a dictionary from blocks
            (counted in the transcoder, from 0) to such functions.
        record: keep the features and the error of the last run.

    Yields:
        SplicedDictionary, whose `edit` may be set, and which holds `features`, `error` and `tokens` if recorded.

    Raises:
        InputError: a dictionary of another width, a hook point that does not exist or is not said.

    Examples:
        >>> import torch
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> identity = torch.eye(model.cfg.d_model)
        >>> both = torch.cat([identity, -identity])  # each direction of the stream with both signs: nothing is lost
        >>> sae = vitlens.features.SparseAutoencoder.from_arrays(both.T, None, both, None)
        >>> with vitlens.with_sae(model, "resid_post3", sae, record=True) as spliced:
        ...     logits = model(images[:2])
        >>> spliced.features.shape  # image, token, feature
        torch.Size([2, 197, 192])
        >>> torch.allclose(logits, model(images[:2]), atol=1e-3)
        True
    """
    placed = place_dictionary(model, hook, sae, hook_out, tokens)
    spliced = SplicedDictionary(placed, error_term=error_term, edit=edit, record=record)
    with model.hooks(spliced.hooks()):
        yield spliced


@checked
@contextmanager
def with_saes(
    model: HookedViT, saes: Mapping[HookName, AnyDictionary], **options: Any
) -> Iterator[dict[HookName, SplicedDictionary]]:
    """`with_sae` for several hook points at once, with the same options; yields a dictionary from hook to handle.

    Raises:
        InputError: as `with_sae`.

    Examples:
        >>> import torch
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> identity = torch.eye(model.cfg.d_model)
        >>> both = torch.cat([identity, -identity])
        >>> sae = vitlens.features.SparseAutoencoder.from_arrays(both.T, None, both, None)
        >>> with vitlens.features.with_saes(model, {"resid_post1": sae, "resid_post3": sae}, record=True) as spliced:
        ...     logits = model(images[:2])
        >>> {hook: handle.features.shape for hook, handle in spliced.items()}
        {'resid_post1': torch.Size([2, 197, 192]), 'resid_post3': torch.Size([2, 197, 192])}
    """
    if not isinstance(saes, Mapping) or not saes:
        raise InputError(f"saes is a mapping from hook points to dictionaries, at least one, not {short(saes)}")
    with ExitStack() as stack:
        yield {
            hook: stack.enter_context(with_sae(model, _hook_of(hook, sae), sae, **options))
            for hook, sae in saes.items()
        }


def _hook_of(hook: HookName, sae: AnyDictionary) -> HookName | None:
    """Where a dictionary of this name reads; a cross-layer transcoder has hook points of its own."""
    return None if isinstance(sae, CrossLayerTranscoder) else hook
