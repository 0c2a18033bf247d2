"""Test-time registers: finds the neurons that make outlier patches, and moves their activations to an added token.

In a large vision transformer a few patches have many times the norm of the others, receive much of the attention and hold
little information about their place. A few MLP neurons write these norms; their activations can be moved to an extra
token outside the picture, without training.

Source: Jiang, Dravid, Efros & Gandelsman 2025 (Vision Transformers Don't Need Trained Registers, arXiv:2506.08010).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import checked, is_whole, short
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_run import PictureRun
from vitlens.registers.extra_registers import RegisteredViT, add_registers
from vitlens.registers.results import RegisterNeurons, RegisterShift

Neurons = RegisterNeurons | Sequence[tuple[int, int]]


@leaves_state
@checked
def find_register_neurons(
    model: HookedViT,
    images: Pictures | dict[str, Tensor],
    *,
    k: int = 10,
    outlier_threshold: float = 5.0,
    late_block: int | None = None,
    up_to_block: int | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> RegisterNeurons:
    """Finds the MLP neurons that make outlier patches: those that fire more there than at the other patches.

    An outlier is a patch whose residual stream after a late block has a norm above `outlier_threshold` times the median of
    its picture's patches. A neuron's score is its mean |activation| (after the nonlinearity) at the outliers minus that at
    all other patches. The paper takes the first mean alone, and norms above a number chosen for each model; the
    difference excludes neurons that fire everywhere, and the median fits every model.

    Args:
        images: pictures; a few dozen are enough where every picture has outliers.
        k: how many neurons to return, best first. The paper's code moves 10 in OpenCLIP's ViT-B/16 and 50 in
            DINOv2-L; in a ViT-Ti/16 three are enough.
        outlier_threshold: how many times the median norm makes an outlier.
        late_block: the block after which outliers are looked for; by default the last but one, as the last may rescale.
        up_to_block: the last block whose neurons are scored; by default the one at which outliers appear.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        RegisterNeurons.

    Raises:
        InputError: these pictures have no outliers (the sentence says how far the largest norm is from being one); a
            block that does not exist; an outlier_threshold that is not above 1; more neurons than there are.

    Source: Jiang et al. 2025 (arXiv:2506.08010).

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> neurons = vitlens.registers.find_register_neurons(model, images[:8], k=3, outlier_threshold=1.5)
        >>> neurons.pairs()  # (block, neuron), the highest score first
        [(1, 199), (1, 30), (1, 319)]
    """
    if outlier_threshold <= 1:
        raise InputError(
            f"outlier_threshold is how many times the median norm makes an outlier, above 1, not {outlier_threshold:g}"
        )
    late = max(model.cfg.n_layers - 2, 0) if late_block is None else model.block_index(late_block)
    last_scored = None if up_to_block is None else model.block_index(up_to_block)
    blocks = range(max(late, last_scored or 0) + 1)
    n_outliers, n_others, largest = 0, 0, 0.0
    already = torch.zeros(len(blocks), dtype=torch.long)
    inside: list[Tensor] = [torch.zeros(())] * len(blocks)
    outside = inside.copy()
    # Every block's neurons are held until the outliers of the last are known.
    run = _run(model, images, batch_size, progress, "register neurons", len(blocks))
    for _, pictures in run:
        ratios, fired = _norms_and_neurons(model, pictures, blocks)
        outlier = ratios[:, late] > outlier_threshold
        n_outliers, n_others = n_outliers + int(outlier.sum()), n_others + int((~outlier).sum())
        largest = max(largest, ratios[:, late].max().item())
        already += ((ratios > outlier_threshold) & outlier[:, None]).sum(dim=(0, 2)).cpu()
        for block in blocks:
            inside[block] = inside[block] + fired[block][outlier].sum(dim=0, dtype=torch.float64).cpu()
            outside[block] = outside[block] + fired[block][~outlier].sum(dim=0, dtype=torch.float64).cpu()
    if not n_outliers:
        raise InputError(
            f"these pictures have no outliers: after block {late} of {model.cfg.model_name} the largest norm of a patch "
            f"is {largest:.2f} times its picture's median, below outlier_threshold={outlier_threshold:g} times"
        )
    outlier_block = int((2 * already >= n_outliers).nonzero()[0])
    scored = range((outlier_block if last_scored is None else last_scored) + 1)
    places = torch.tensor([(block, neuron) for block in scored for neuron in range(len(inside[block]))])
    if not 1 <= k <= len(places):
        raise InputError(
            f"k is between 1 and {len(places)}, the number of neurons in blocks 0 to {scored[-1]}, not {k}"
        )
    at_outliers = torch.cat([inside[block] for block in scored]) / n_outliers
    elsewhere = torch.cat([outside[block] for block in scored]) / n_others
    score, best = (at_outliers - elsewhere).topk(k)
    return RegisterNeurons(
        score,
        {"rank": list(range(k))},
        "score",
        blocks=places[best, 0],
        neurons=places[best, 1],
        at_outliers=at_outliers[best],
        elsewhere=elsewhere[best],
        outlier_block=outlier_block,
        n_outliers=n_outliers,
        settings={
            "model": model.cfg.model_name,
            "outlier_threshold": outlier_threshold,
            "late_block": late,
            "up_to_block": scored[-1],
            "n_images": run.n,
        },
    )


@leaves_state
@checked
def add_test_time_registers(model: HookedViT, neurons: Neurons, *, n_registers: int = 1) -> RegisteredViT:
    """Returns a model with extra, untrained tokens that take over the activations of these neurons from the patches.

    The new tokens are zeros without a position, after the model's class, distillation and register tokens. At each neuron
    their activation becomes the largest one (by magnitude) over the patches and themselves, and the patches' activations
    become zero; the model's own prefix tokens keep theirs, as in the paper's code. Several new tokens are identical, and
    together receive more attention. They are prefix tokens: "register k" in `cfg.prefix_tokens`, part of the token set
    "registers", left out of grids, maps, rotary positions and of pooling over patches; pooling over all tokens includes
    them.

    The move is part of the model: caches show it, later hooks see its result, and `reset_hooks()` keeps it. Parameters are
    shared with `model`, which does not change; its hooks are not copied. Without neurons the tokens have no content, and
    each head gives some of its attention to them.

    Args:
        neurons: from `find_register_neurons`, or pairs (block, neuron).
        n_registers: how many tokens to add.

    Returns:
        RegisteredViT, a HookedViT.

    Raises:
        InputError: a model that has test-time registers already, positions that only exist for pairs of tokens
            (relative), a NaFlexVit; a neuron that does not exist; no register to add.

    Source: Jiang et al. 2025 (arXiv:2506.08010).

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> registered = vitlens.registers.add_test_time_registers(model, [(1, 199), (1, 30)])
        >>> registered.cfg.prefix_tokens
        ('class', 'register 1')
        >>> registered(images[:2]).shape
        torch.Size([2, 10])
    """
    name = model.cfg.model_name
    if isinstance(model, RegisteredViT):
        raise InputError(
            f"this {name} has test-time registers already: pass all neurons at once, with the model without them"
        )
    if model.cfg.model_class == "NaFlexVit":
        raise InputError(
            f"{name} reads pictures of several sizes in one batch, whose padding would be taken for patches: test-time "
            "registers need a model of one size a batch"
        )
    if "relative" in model.cfg.positional_embedding_type:
        raise InputError(
            f"{name} has relative positions, a bias for every pair of tokens: an added token has none, so test-time "
            "registers are not defined"
        )
    if n_registers < 1:
        raise InputError(f"n_registers is the number of tokens to add, at least 1, not {n_registers}")
    return add_registers(model, _by_block(model, neurons), n_registers)


@leaves_state
@checked
def register_shift(
    model: HookedViT,
    images: Pictures | dict[str, Tensor],
    *,
    neurons: Neurons,
    n_registers: int = 1,
    attention_block: int = -1,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> RegisterShift:
    """Measures what test-time registers change: norms of patches, logits, and the class token's attention.

    Args:
        model: the model without test-time registers.
        neurons, n_registers: as `add_test_time_registers`.
        attention_block: the block whose attention of the class token is kept.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        RegisterShift with axes run, image, block, patch; `result.plot(image=…)` shows a picture of it.

    Raises:
        InputError: as `add_test_time_registers`; a block that does not exist.

    Source: Jiang et al. 2025 (arXiv:2506.08010).

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> shift = vitlens.registers.register_shift(model, images[:4], neurons=[(1, 199), (1, 30)])
        >>> shift.values.shape  # run, image, block, patch
        torch.Size([2, 4, 6, 196])
        >>> bool(shift.after.amax() < shift.before.amax())
        True
    """
    block = model.block_index(attention_block)
    extended = add_test_time_registers(model, neurons, n_registers=n_registers)
    run = _run(model, images, batch_size, progress, "test-time registers", 1)
    n_prefix = model.cfg.n_prefix_tokens
    seen = []
    for _, pictures in run:
        before, after = _observe(model, pictures, block), _observe(extended, pictures, block)
        seen.append([torch.stack(pair) for pair in zip(before[:3], after[:3], strict=True)] + [after[3]])
    norms, logits, attention = (torch.cat([batch[i] for batch in seen], dim=1) for i in range(3))
    return RegisterShift(
        norms,
        {
            "run": ["before", "after"],
            "image": run.images,
            "block": list(range(model.cfg.n_layers)),
            "patch": [model.cfg.token_label(n_prefix + i, run.grid) for i in range(run.grid[0] * run.grid[1])],
        },
        "norm",
        register_norms=torch.cat([batch[3] for batch in seen])[..., n_prefix:],
        logits=logits,
        attention=attention,
        pixels=run.pixels,
        settings={
            "model": model.cfg.model_name,
            "neurons": [f"L{b}N{neuron}" for b, chosen in extended.register_neurons.items() for neuron in chosen],
            "n_registers": n_registers,
            "attention_block": block,
            "grid": list(run.grid),
        },
    )


def _norms_and_neurons(
    model: HookedViT, pictures: Tensor, blocks: range
) -> tuple[Float[Tensor, "image block patch"], list[Float[Tensor, "image patch d_mlp"]]]:
    """The patches' norms behind each block over the median of their picture, and what each block's neurons fire there."""
    names = [hook_name(block, site) for block in blocks for site in ("mlp.post", "resid_post")]
    with torch.no_grad():
        _, cache = model.run_with_cache(pictures, names_filter=names, stop_at_layer=len(blocks))
    n_prefix = model.cfg.n_prefix_tokens
    norms = torch.stack([cache["resid_post", block][:, n_prefix:].norm(dim=-1) for block in blocks], dim=1)
    fired = [cache["post", block][:, n_prefix:].abs() for block in blocks]
    return norms / norms.median(dim=-1, keepdim=True).values, fired


def _observe(
    model: HookedViT, pictures: Tensor, block: int
) -> tuple[
    Float[Tensor, "image block patch"],
    Float[Tensor, "image class"],
    Float[Tensor, "image attended"],
    Float[Tensor, "image block prefix"],
]:
    """The patches' norms, the logits, the class token's attention to the patches, the prefix tokens' norms."""
    n_prefix = model.cfg.n_prefix_tokens
    names = [hook_name(i, "resid_post") for i in range(model.cfg.n_layers)]
    if model.cfg.has_class_token:
        names.append(hook_name(block, "attn.pattern"))
    with torch.no_grad():
        logits, cache = model.run_with_cache(pictures, names_filter=names)
    norms = torch.stack([cache["resid_post", i].norm(dim=-1) for i in range(model.cfg.n_layers)], dim=1)
    attention = logits.new_zeros(len(pictures), 0)
    if model.cfg.has_class_token:
        query = model.cfg.prefix_tokens.index("class")
        attention = cache["pattern", block][:, :, query, n_prefix:].mean(dim=1)
    return norms[..., n_prefix:], logits, attention, norms[..., :n_prefix]


def _run(
    model: HookedViT,
    images: Pictures | dict[str, Tensor],
    batch_size: int | None,
    progress: bool | None,
    what: str,
    n_kept: int,
) -> PictureRun:
    if isinstance(images, dict):
        raise InputError(
            "outliers are looked for in pictures of one size: pass them as a tensor, not a dictionary of patches"
        )
    return PictureRun(model, images, batch_size, progress, what, n_kept)


def _pairs(neurons: Neurons) -> list[tuple[int, int]]:
    if isinstance(neurons, RegisterNeurons):
        return neurons.pairs()
    is_one = isinstance(neurons, tuple) and len(neurons) == 2 and all(is_whole(number) for number in neurons)
    pairs: list[Any] = [neurons] if is_one else list(neurons) if isinstance(neurons, (list, tuple)) else [neurons]
    for pair in pairs:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(is_whole(number) for number in pair)):
            raise InputError(
                f"neurons are what find_register_neurons finds, or pairs (block, neuron), not {short(pair)}"
            )
    return [(int(block), int(neuron)) for block, neuron in pairs]


def _by_block(model: HookedViT, neurons: Neurons) -> dict[int, list[int]]:
    """The neurons of each block, checked, each once."""
    found: dict[int, list[int]] = {}
    for block, neuron in _pairs(neurons):
        index = model.block_index(block)
        n_neurons = model.blocks[index].mlp.W_out.shape[0]
        if not 0 <= neuron < n_neurons:
            raise InputError(f"there is no neuron {neuron} in block {index}: it has neurons 0 to {n_neurons - 1}")
        chosen = found.setdefault(index, [])
        if neuron not in chosen:
            chosen.append(int(neuron))
    return found
