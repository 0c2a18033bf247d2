"""Runs the model with a dictionary's reconstruction in place of an activation; features can be read and edited."""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.arguments import checked, short
from vitlens.choose.tokens import TokenSet
from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder, Transcoder
from vitlens.features.places import HookPlace, check_width, chosen_rows, place_of, split_rows
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName, Hooks, Reader, hook_name

Edit = Callable[[Float[Tensor, "..."]], Float[Tensor, "..."]]


class SplicedDictionary:
    """The handle of `with_sae`: a dictionary inside a model.

    `edit` can be set at any time, also while the context is open. If recorded, `features` [image, token, feature] (after the
    edit; with a head axis before the last one if the dictionary reads heads) and `error` x − x̂ [image, token, d] (before the
    edit) are those of the last run, at the tokens with the positions `tokens`.
    """

    def __init__(
        self,
        model: HookedViT,
        sae: SparseAutoencoder,
        source: HookPlace,
        target: HookPlace,
        tokens: TokenSet,
        error_term: bool,
        edit: Edit | None,
        record: bool,
    ) -> None:
        self.model, self.sae, self.source, self.target = model, sae, source, target
        self.chosen_tokens, self.error_term, self.record = tokens, error_term, record
        self.edit = edit
        self.features: Float[Tensor, "image token *heads feature"] | None = None
        self.error: Float[Tensor, "image token *heads d"] | None = None
        self.tokens: Int[Tensor, "token"] | None = None
        self._read: Tensor | None = None

    def hooks(self) -> Hooks:
        """The hooks that put the dictionary to work."""
        if self.source == self.target:
            return [(self.target.name, self._replace)]
        return [(self.source.name, Reader(self._keep)), (self.target.name, self._replace)]

    def _keep(self, activation: Tensor, hook: HookPoint) -> None:
        self._read = self.source.split(activation)

    def _replace(self, activation: Tensor, hook: HookPoint) -> Tensor:
        rows = self.target.split(activation)
        read = rows if self.source == self.target else self._read
        if read is None:
            raise InputError(
                f"a transcoder predicts {self.target.name} from {self.source.name}, which the model computes later: swap "
                "hook= and hook_out="
            )
        self._read = None
        chosen = chosen_rows(self.model, self.target, self.chosen_tokens, rows.shape[1]).to(rows.device)
        x = split_rows(read, self.sae.d_in, self.source.name)[:, chosen]
        y = split_rows(rows, self.sae.d_out, self.target.name)
        written = self._written(x, y[:, chosen]).to(y)
        if self.record:
            self.tokens = self.target.ids(rows.shape[1])[chosen.cpu()]
        return self.target.unite(y.index_copy(1, chosen, written).reshape(rows.shape))

    def _written(self, x: Float[Tensor, "image token ..."], y: Float[Tensor, "image token ..."]) -> Tensor:
        features = self.sae.encode(x)
        edited = features if self.edit is None else self.edit(features)
        if edited.shape != features.shape:
            raise InputError(
                f"an edit returns features of the shape it was given, {list(features.shape)}, not {list(edited.shape)}"
            )
        written = self.sae.decode(edited, x)
        if not (self.error_term or self.record):
            return written
        plain = (written if self.edit is None else self.sae.decode(features, x)).detach().to(y)
        if self.record:
            self.features, self.error = edited.detach(), (y - plain).detach()
        # As y plus a difference, which is exactly 0 where nothing is edited: the output is then the same bit for bit.
        return y.detach() + (written.to(y) - plain) if self.error_term else written


@checked
@contextmanager
def with_sae(
    model: HookedViT,
    hook: HookName | None,
    sae: SparseAutoencoder,
    *,
    hook_out: HookName | None = None,
    error_term: bool = False,
    tokens: TokenSet = "all",
    edit: Edit | None = None,
    record: bool = False,
) -> Iterator[SplicedDictionary]:
    """A context in which every run of the model uses x̂ = decode(encode(x)) in place of the activation x.

    A transcoder reads one hook point and replaces another by its prediction, usually an MLP's output. Contexts can be
    nested, and your own hooks stay. With `edit` features are ablated or steered: `lambda f: f.index_fill(-1, unit, 0)`.

    Args:
        hook: where the dictionary reads; None for the hook point it was trained on, where that is known. A warning says
            that it was trained on another one.
        hook_out: what a transcoder predicts; by default what it was trained on, else its block's "mlp_out".
        error_term: add the error x − x̂ of the unedited run as a constant, so that only the edit changes the output.
            Gradients go through the features.
        tokens: only these tokens' activations, see `select_tokens`; all by default.
        edit: from features to features, [image, token, feature].
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
    source, target = ends(model, hook, sae, hook_out)
    spliced = SplicedDictionary(model, sae, source, target, tokens, error_term, edit, record)
    with model.hooks(spliced.hooks()):
        yield spliced


@checked
@contextmanager
def with_saes(
    model: HookedViT, saes: Mapping[HookName, SparseAutoencoder], **options: Any
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
        yield {hook: stack.enter_context(with_sae(model, hook, sae, **options)) for hook, sae in saes.items()}


def ends(
    model: HookedViT, hook: HookName | None, sae: SparseAutoencoder, hook_out: HookName | None = None
) -> tuple[HookPlace, HookPlace]:
    """Where a dictionary reads, and what its reconstruction replaces.

    Raises:
        InputError: no such hook point, one that is not said, a dictionary of another width.
    """
    given, hook = hook, sae.hook if hook is None else hook
    if hook is None:
        raise InputError("this dictionary has no hook point of its own: pass hook=")
    source = place_of(model, hook)
    if given is not None and sae.hook is not None and not _is_same(source.name, sae.hook):
        warnings.warn(
            f"this dictionary was trained on {sae.hook}, and here it reads {source.name}: leave hook= out for its own",
            stacklevel=3,
        )
    check_width(model, source, sae.d_in)
    if not isinstance(sae, Transcoder):
        if hook_out is not None:
            raise InputError("hook_out= goes with a transcoder: a sparse autoencoder reconstructs what it reads")
        return source, source
    hook_out = hook_out or sae.hook_out
    if hook_out is None:
        if source.block is None:
            raise InputError(f"this transcoder has no hook point that it predicts from {source.name}: pass hook_out=")
        hook_out = hook_name(source.block, "mlp_out")
    target = place_of(model, hook_out)
    check_width(model, target, sae.d_out)
    return source, target


def _is_same(read: str, trained: str) -> bool:
    """Whether two hook points hold the same activation: the stream before a block is that after the block before it."""
    names = [
        re.sub(r"^blocks\.(\d+)\.hook_resid_pre$", lambda found: f"blocks.{int(found[1]) - 1}.hook_resid_post", name)
        for name in (read, trained)
    ]
    return names[0] == names[1]


def paired_rows(
    model: HookedViT,
    sae: SparseAutoencoder,
    source: HookPlace,
    target: HookPlace,
    found: Mapping[str, Tensor],
    tokens: TokenSet,
    grid: tuple[int, int],
) -> tuple[Float[Tensor, "image token *heads d_in"], Float[Tensor, "image token *heads d_out"], Int[Tensor, "token"]]:
    """What the dictionary reads, what it should predict, and the tokens, from the rows that `read_places` found."""
    chosen = chosen_rows(model, target, tokens, found[target.name].shape[1], grid)
    ids = target.ids(found[target.name].shape[1])[chosen]
    chosen = chosen.to(found[target.name].device)
    x = split_rows(found[source.name], sae.d_in, source.name)[:, chosen]
    y = split_rows(found[target.name], sae.d_out, target.name)[:, chosen]
    return x, y, ids
