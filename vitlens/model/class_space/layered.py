"""A classifier of several layers, taken as it is; where a linear map is needed, it is frozen at each picture's point."""

import copy
from collections.abc import Callable
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlens.errors import InputError
from vitlens.model.class_space.frozen_norms import FrozenNorms
from vitlens.model.hooks.hook_points import NO_TOKENS, expose, hook_point

#: What a classifier is as a map of what it reads: one matrix and a bias; the same once what divides in its norms is
#: frozen; neither.
LINEAR, SCALED, NONLINEAR = "linear", "scaled", "nonlinear"


class LayeredClassifier(nn.Module):
    """A user's own module, or the layers of an `nn.Sequential`, as they are: dropout, norms, hidden layers, cosines.

    Between two layers stands a hook point: `hook_layer0` is what the first one returns.

    Args:
        layers: modules that read vectors [batch, features] one after the other.
        n_inputs, n_outputs: how wide what it reads and what it returns are.
        watched: with hook points. A view of the model's classifier has none.
    """

    def __init__(self, layers: list[nn.Module], n_inputs: int, n_outputs: int, watched: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.n_inputs, self.n_outputs = n_inputs, n_outputs
        self.watched = watched
        for index in range(len(layers) - 1 if watched else 0):
            self.add_module(f"hook_layer{index}", hook_point(NO_TOKENS))
        self._proof: tuple[object, str] = (None, NONLINEAR)

    def forward(self, x: Float[Tensor, "batch d"]) -> Float[Tensor, "batch classes"]:
        if not self.watched:
            return self.plain(x)
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index < len(self.layers) - 1:
                x = expose(getattr(self, f"hook_layer{index}"), x)
        return x

    def plain(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch classes"]:
        """The logits, past the hook points; of any number of axes, which not every module reads."""
        rows = x.reshape(-1, x.shape[-1])
        for layer in self.layers:
            rows = layer(rows)
        return rows.reshape(*x.shape[:-1], -1)

    def unwatched(self) -> "LayeredClassifier":
        """The same layers without hook points."""
        return LayeredClassifier(list(self.layers), self.n_inputs, self.n_outputs, watched=False)

    def __deepcopy__(self, memo: dict) -> "LayeredClassifier":
        with torch.no_grad():
            # The older weight_norm leaves the last forward's matrix behind, which cannot be copied with its graph.
            self.plain(self.examples(1))
        layers = copy.deepcopy(list(self.layers), memo)
        copied = LayeredClassifier(layers, self.n_inputs, self.n_outputs, self.watched)
        for name, part in self.named_children():
            if name != "layers":
                # A model that is copied has its hook points in a table too: they stay the same ones.
                setattr(copied, name, copy.deepcopy(part, memo))
        return copied

    @property
    def kind(self) -> str:
        """LINEAR, SCALED or NONLINEAR, as shown on vectors; found anew where weights were replaced."""
        tensors = [*self.parameters(), *self.buffers()]
        state = None if any(tensor.is_inference() for tensor in tensors) else [(id(t), t._version) for t in tensors]
        if state is None or self._proof[0] != state:
            self._proof = (state, _kind_of(self))
        return self._proof[1]

    @property
    def weight(self) -> Float[Tensor, "classes d"]:
        """The matrix of a classifier that is one.

        Raises:
            InputError: it is none.
        """
        self._require_matrix()
        rows = torch.eye(self.n_inputs, dtype=self._like.dtype, device=self._like.device)
        return (self.plain(rows) - self.bias).T

    @property
    def bias(self) -> Float[Tensor, "classes"]:
        self._require_matrix()
        return self.plain(self._like.new_zeros(1, self.n_inputs))[0]

    def examples(self, n: int) -> Float[Tensor, "n d"]:
        """Seeded noise that the first layer reads."""
        return torch.randn(n, self.n_inputs, generator=torch.Generator().manual_seed(0)).to(self._like)

    @property
    def _like(self) -> Tensor:
        """A tensor of its dtype, on its device."""
        floats = (tensor for tensor in chain(self.parameters(), self.buffers()) if tensor.is_floating_point())
        return next(floats, torch.empty(0))

    def _require_matrix(self) -> None:
        if self.kind == LINEAR:
            return
        obstacle = "a norm of what it reads" if self.kind == SCALED else "layers that are not linear"
        raise InputError(
            f"this classifier is no single matrix ({', '.join(type(layer).__name__ for layer in self.layers)}: it has "
            f"{obstacle}): use vitlens.class_lens and vitlens.direct_logit_attribution, which go through all of it, or "
            "set embeddings of the classes with model.with_class_embeddings"
        )


def _kind_of(classifier: LayeredClassifier) -> str:
    """Tries whether f(x + a + b) − f(x + a) − f(x + b) + f(x) is 0: for steps of several sizes, which no bend survives."""
    if any(parameter.is_meta for parameter in classifier.parameters()):
        return NONLINEAR
    with torch.inference_mode(False), torch.no_grad():
        copied = copy.deepcopy(classifier).double().cpu().eval()
        generator = torch.Generator().manual_seed(0)
        x, a, b = (
            size * torch.randn(8, classifier.n_inputs, generator=generator, dtype=torch.float64) for size in (1, 3, 20)
        )
        try:
            if _is_affine(copied.plain, x, a, b):
                return LINEAR
            with FrozenNorms() as norms:
                copied.plain(x)

            def frozen(at: Tensor) -> Tensor:
                with FrozenNorms(norms):
                    return copied.plain(at)

            return SCALED if _is_affine(frozen, x, a, b) else NONLINEAR
        except (RuntimeError, StopIteration):
            # A module that insists on a dtype, or has other norms for other vectors, cannot be shown to be linear.
            return NONLINEAR


def _is_affine(f: Callable[[Tensor], Tensor], x: Tensor, a: Tensor, b: Tensor) -> bool:
    near, far = f(x), f(x + b)
    bend = f(x + a + b) - f(x + a) - far + near
    moves = not torch.equal(near, far)
    return moves and bool(bend.abs().max() <= 1e-9 * far.abs().max())
