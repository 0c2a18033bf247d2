"""Wraps scikit-learn's fitted dictionaries, whose codes come from an optimisation instead of a layer."""

import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.dictionaries.nonlinearities import Linear

ESTIMATORS = ("DictionaryLearning", "MiniBatchDictionaryLearning", "NMF", "MiniBatchNMF")


class FittedDictionary(SparseAutoencoder):
    """x̂ = f · components, f being what the estimator's `transform` finds (OMP, lasso, non-negative least squares, …).

    Codes may be negative, except those of NMF and of `positive_code=True`. `W_enc` is the components' transpose, which
    only "threshold" codes are made of; it is not what `encode` computes.
    """

    def __init__(self, estimator: Any, hook: str | None = None) -> None:
        kind = type(estimator).__name__
        if kind not in ESTIMATORS:
            raise InputError(f"scikit-learn's dictionaries are {', '.join(ESTIMATORS)}, not {kind}")
        if not hasattr(estimator, "components_"):
            raise InputError(f"this {kind} is not fitted: call its fit on activations first")
        if getattr(estimator, "split_sign", False):
            raise InputError(
                "split_sign=True makes two codes of one component: fit it without, or with positive_code=True"
            )
        components = torch.as_tensor(estimator.components_)
        n_features, width = components.shape
        super().__init__(
            components.T.clone(),
            components.new_zeros(n_features),
            components.clone(),
            components.new_zeros(width),
            Linear(),
            hook=hook,
            source=f"scikit-learn {kind}",
        )
        self.estimator = estimator

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch feature"]:
        """The estimator's codes, as constants: no gradient goes through them.

        Raises:
            InputError: negative activations for a non-negative factorisation.
        """
        self._check_width(x)
        rows = x.detach().to("cpu", self.W_dec.dtype).reshape(-1, self.d_in).numpy()
        if "NMF" in self.source and rows.size and rows.min() < 0:
            raise InputError(
                "a non-negative factorisation reads activations that are not negative, such as mlp.hook_post after a ReLU"
            )
        # A coordinate descent that stops early warns once for each row.
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            codes = torch.from_numpy(self.estimator.transform(rows.astype(self.estimator.components_.dtype)))
        for said in {str(item.message).split(".")[0] for item in warned}:
            warnings.warn(f"{self.source}: {said} ({len(warned)} warnings for {len(rows)} rows)", stacklevel=2)
        return codes.to(self.W_dec).reshape(*x.shape[:-1], self.d_sae)
