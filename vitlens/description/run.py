"""Describes tokens and heads in one pass over the pictures, with memory that does not grow with their number."""

from collections.abc import Iterator
from itertools import tee

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import checked
from vitlens.description.observer import Observer, read_states
from vitlens.description.result import Description, description_of
from vitlens.description.similarity import MinibatchCKA
from vitlens.description.sinks import SinkRule
from vitlens.description.token_norms import NormSums
from vitlens.description.tokens import TokenLayout, token_layout
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Reader, hook_name
from vitlens.model.runs.batch_size import default_batch_size
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureBatches, PictureSource, length_of
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.model.runs.small_pictures import small_pictures


@leaves_state
@checked
def describe(
    model: HookedViT,
    images: PictureSource,
    *,
    other_model: HookedViT | None = None,
    outlier_threshold: float = 5.0,
    late_block: int | None = None,
    sink_rule: SinkRule | None = None,
    cka_tokens: str | None = None,
    cka_rows: int = 64,
    similarity_queries: int = 256,
    n_examples: int = 6,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Description:
    """Describes a model's tokens and heads over many pictures: norms, attention, sinks, similarity of heads and of blocks.

    All numbers are means over pictures and do not depend on `batch_size`. Pictures are streamed: memory does not grow with
    their number. For a pattern A [query i, key j] of one head:

    - distance: Σ_j A_ij |p_i − p_j| / Σ_j A_ij over patches j with centres p, in pixels, mean over patches i
    - entropy: −Σ_j A_ij ln A_ij, in nats, of the patches' rows (mean) and of the class token's row
    - attention from patches, and from the class token, to each kind of token, to themselves, to the 8 neighbours
    - sinks: keys that receive much of the attention, see `vitlens.description.SinkRule`
    - outliers: patches whose norm exceeds `outlier_threshold` times the median of their picture's patches
    - top pictures: where each head and each MLP writes most to the class token (without one, to the patches)
    - similarity of heads: the mean cosine of their patterns; of blocks: CKA, estimated on minibatches

    A pattern with negative entries (differential attention) counts as |A_ij| / Σ_j |A_ij| in distances, entropies and
    shares.

    Args:
        images: a preprocessed tensor, files, PIL images, arrays; a picture set (`open_pictures`); or any iterable of
            pictures or of batches of them, such as a generator or a data loader (of pairs of pictures and labels, the
            pictures are used). Files are read batch by batch.
        other_model: a second model, for CKA between its blocks and these on the same pictures. Files go through each
            model's own preprocessing, tensors go to both as they are. Widths and depths may differ.
        outlier_threshold: how many times the median norm of its picture's patches makes a patch an outlier.
        late_block: the block after which outliers are counted; by default the last but one, as the last may rescale.
        sink_rule: which heads have a sink, and of which kind; by default `SinkRule()`.
        cka_tokens: what stands for a picture: "class", the class token, or "patches", the mean over the patches. By default
            the class token where (both) models have one.
        cka_rows: pictures in a minibatch of CKA's estimator. With all pictures in one minibatch it is the full formula.
        similarity_queries: the most rows of each pattern, evenly spaced, that are compared between heads.
        n_examples: for how many of the first pictures the norms of all patches are kept, for figures.
        batch_size: the most pictures of a forward, by default 64; fewer where the patterns of all heads would take more
            than 512 MB.
        progress: show a bar; by default on a terminal only.

    Returns:
        Description, with values [block, head, fact]. `heads` and `blocks` are its tables, `warnings` its sentences,
        `plot()` its figures; `vitlens.pages.write_description_page` writes it as a page.

    Raises:
        InputError: no pictures, pictures of several sizes, a block that does not exist, a parameter out of range, class
            tokens asked of a model without.

    Source: Darcet et al. 2024 (registers), Raghu et al. 2021 (distances, CKA of ViTs), Nguyen et al. 2021 (minibatch CKA),
    Fesser, Jacobs et al. 2026 (sinks).

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> description = vitlens.describe(model, images[:8], progress=False)
        >>> print(description)
        Description(fashion_in_context_vit: 6 blocks × 4 heads, 20 facts, 8 pictures, 1 warnings)
        >>> description.heads.shape
        (24, 29)
    """
    late = max(model.cfg.n_layers - 2, 0) if late_block is None else model.block_index(late_block)
    _check(outlier_threshold, cka_rows, similarity_queries)
    both = [model] if other_model is None else [model, other_model]
    state = _cka_state(cka_tokens, both)
    rule = sink_rule or SinkRule()
    readers = _readers(both, images, batch_size)
    observer: Observer | None = None
    layouts: list[TokenLayout] = []
    examples: list[Tensor] = []
    pixels: list[Tensor] = []
    of_blocks, of_models = MinibatchCKA(cka_rows), MinibatchCKA(cka_rows)
    with ProgressBar(readers[0].n_pictures, "describe", "picture", progress, length_of(readers[0])) as bar:
        for batch in _together(readers):
            if observer is None:
                layouts = [token_layout(each, *part.shape[-2:]) for each, part in zip(both, batch, strict=True)]
                observer = _observer(model, layouts[0], rule, outlier_threshold, late, similarity_queries)
            rows = observer.rows(readers[0].batch_size)
            for parts in zip(*(part.split(rows) for part in batch), strict=True):
                norms, states = observer.run(parts[0])
                if len(examples) < n_examples:
                    pixels.append(small_pictures(model, parts[0], n_examples - len(examples)))
                    examples += norms[: n_examples - len(examples), :, layouts[0].n_prefix :].cpu()
                of_blocks.add(states[:, :, state], states[:, :, state])
                if other_model is not None:
                    of_models.add(states[:, :, state], _states(other_model, parts[1], layouts[1])[:, :, state])
                bar.update(len(parts[0]))
    if observer is None:
        raise InputError("there are no pictures to describe")
    return description_of(
        observer,
        examples,
        torch.cat(pixels) if pixels else None,
        of_blocks.value(),
        of_models.value(),
        other_model=None if other_model is None else other_model.cfg.model_name,
        cka_tokens=("patches", "class")[state],
        cka_rows=cka_rows,
    )


def _readers(models: list[HookedViT], images: PictureSource, batch_size: int | None) -> list[PictureBatches]:
    """The same pictures for each model; an iterator, which can be read only once, is copied for the models."""
    if batch_size is None:
        batch_size = min(map(default_batch_size, models))
    sources = list(tee(images, len(models))) if isinstance(images, Iterator) else [images] * len(models)
    return [PictureBatches(model, source, batch_size) for model, source in zip(models, sources, strict=True)]


def _together(readers: list[PictureBatches]) -> Iterator[list[Float[Tensor, "image channels height width"]]]:
    """For every batch the pictures as each of the models reads them."""
    size = None
    for batch in zip(*readers, strict=True):
        images = [part.images for part in batch]
        if size not in (None, images[0].shape[-2:]):
            raise InputError(
                f"pictures of {tuple(size or ())} and of {tuple(images[0].shape[-2:])} were given: they are described "
                "together only at one size"
            )
        size = images[0].shape[-2:]
        yield images


def _observer(
    model: HookedViT, layout: TokenLayout, rule: SinkRule, outlier_threshold: float, late: int, n_queries: int
) -> Observer:
    n_tokens = len(layout.kind_of)
    queries = torch.linspace(0, n_tokens - 1, min(n_queries, n_tokens), dtype=torch.float64).round().long()
    norms = NormSums(layout, model.cfg.n_layers, outlier_threshold, late)
    return Observer(model, layout, norms, rule, queries.to(model.device))


def _states(
    model: HookedViT, images: Float[Tensor, "image channels height width"], layout: TokenLayout
) -> Float[Tensor, "image block kind d"]:
    """The states of the other model that CKA compares, after every block."""
    seen: list[Tensor] = []
    read = Reader(lambda resid, hook: seen.append(read_states(resid.detach(), layout)))
    names = [hook_name(block, "resid_post") for block in range(model.cfg.n_layers)]
    with torch.no_grad():
        model.run_with_hooks(images, fwd_hooks=[(name, read) for name in names], stop_at_layer=model.cfg.n_layers)
    return torch.stack(seen, dim=1)


def _cka_state(cka_tokens: str | None, models: list[HookedViT]) -> int:
    """Which of `read_states` CKA compares."""
    without = [model.cfg.model_name for model in models if not model.cfg.has_class_token]
    if cka_tokens is None:
        return 0 if without else 1
    if cka_tokens not in ("class", "patches"):
        raise InputError(f'cka_tokens is "class" or "patches", not {cka_tokens!r}')
    if cka_tokens == "class" and without:
        raise InputError(f'{without[0]} has no class token: pass cka_tokens="patches"')
    return ("patches", "class").index(cka_tokens)


def _check(outlier_threshold: float, cka_rows: int, similarity_queries: int) -> None:
    if outlier_threshold <= 1:
        raise InputError(
            f"outlier_threshold is how many times the median norm makes an outlier, above 1, not {outlier_threshold:g}"
        )
    if cka_rows < 4:
        raise InputError(f"a minibatch of CKA's unbiased estimator has at least 4 pictures, not cka_rows={cka_rows}")
    if similarity_queries < 1:
        raise InputError(f"similarity_queries is how many rows of a pattern are compared, not {similarity_queries}")
