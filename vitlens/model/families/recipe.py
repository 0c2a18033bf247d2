"""A recipe: which timm module a file of weights fits, and its tensors by timm's names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitlens.errors import InputError
from vitlens.model.checkpoints.files import State
from vitlens.model.checkpoints.fit_to_model import refuse_mismatch


@dataclass(frozen=True)
class Recipe:
    """How a model of another library is built from timm's classes.

    Args:
        kind: timm's class: VisionTransformer, Eva, Beit, …
        keywords: of that class.
        state: the tensors by timm's names.
        parts: modules that take the place of timm's own, by their path, before the tensors are loaded: a head, a stem.
        pretrained_cfg: mean, std, interpolation, crop_pct, crop_mode, label_names, output, as timm's modules carry them.
        unused: tensors of the source that only training reads, or another model of the same source.
        assumed: what the source does not tell, in words.
    """

    kind: Callable[..., Any]
    keywords: Mapping[str, Any]
    state: State
    parts: Mapping[str, Callable[[], nn.Module]] = field(default_factory=dict)
    pretrained_cfg: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    def fresh(self) -> Any:
        """timm's module with the initialisation of timm."""
        module = self.kind(**self.keywords)
        for path, make in self.parts.items():
            holder, _, name = path.rpartition(".")
            setattr(module.get_submodule(holder), name, make())
        module.pretrained_cfg = dict(self.pretrained_cfg)
        return module.eval()

    def build(self, source: str) -> Any:
        """timm's module with the weights of the source, which it shares where they need no joining.

        Raises:
            InputError: tensors that are missing, of another shape, or that the module does not have.
        """
        with _Unfilled():
            module = self.fresh()
        refuse_mismatch(self.state, module.state_dict(), source, type(module).__name__)
        # Some files keep norms in float32 and matrices in half precision: the wider of both holds all of them.
        floats = [tensor.dtype for tensor in self.state.values() if tensor.is_floating_point()]
        widest = reduce(torch.promote_types, floats)
        state = {key: tensor.to(widest) if tensor.is_floating_point() else tensor for key, tensor in self.state.items()}
        module.load_state_dict(state, assign=True)
        # Tables that timm computes are no tensors of the source: they follow it to its device.
        return module.to(next(iter(state.values())).device)


class _Unfilled(TorchFunctionMode):
    """Leaves parameters without values when they are made, since all of them are loaded afterwards."""

    FILLS = frozenset({Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.FILLS and isinstance(args[0], nn.Parameter):
            return args[0]
        return func(*args, **(kwargs or {}))


def count_blocks(state: State) -> int:
    """The number of blocks among tensors by timm's names."""
    numbers = {int(key.split(".")[1]) for key in state if key.startswith("blocks.")}
    if numbers != set(range(len(numbers))):
        raise InputError(f"the blocks {sorted(set(range(max(numbers))) - numbers)} are missing")
    return len(numbers)


def own_dtype(state: State) -> torch.dtype:
    """The dtype of the first block's matrices."""
    return next(tensor.dtype for key, tensor in state.items() if key.startswith("blocks.0.") and tensor.ndim == 2)
