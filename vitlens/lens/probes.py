"""Trains linear probes at every site and token in one pass over the training pictures (Methods E1).

Ridge regression needs only the second moments of the features and their sums for each class. These are accumulated batch
by batch, and all probes are solved together at the end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.arguments import checked
from vitlens.choose.classes import class_labels
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.lens.lens import check_sites
from vitlens.lens.trace import FULL_SITES
from vitlens.model.class_space.ranks import check_logits, rank_of
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Hooks, hook_name
from vitlens.model.runs.picture_run import PictureRun
from vitlens.results.result import Result

#: A site in a block, such as ("resid_post", 3).
SiteOfBlock = tuple[str, int]


@dataclass(frozen=True, repr=False)
class Probes(Result):
    """Linear classifiers, `values` [site, block, token, dimension, class] with `biases` [site, block, token, class], for
    the tokens of the numbers `tokens`."""

    biases: Float[Tensor, "site block token class"]
    tokens: list[int]

    @property
    def weights(self) -> dict[SiteOfBlock, Float[Tensor, "token d class"]]:
        """By (site, block)."""
        return {
            (site, block): self.values[i, j]
            for j, block in enumerate(self.axes["block"])
            for i, site in enumerate(self.axes["site"])
        }

    def logits(
        self, site: SiteOfBlock, activation: Float[Tensor, "image all_tokens d"]
    ) -> Float[Tensor, "image token class"]:
        """The logits of the probes at one site, given as (name, block)."""
        at = self.axes["site"].index(site[0]), self.axes["block"].index(site[1])
        read = activation[:, self.tokens]
        return einsum(read, self.values[at], "b t d, t d c -> b t c") + self.biases[at]

    def hooks(self, labels: Int[Tensor, "image"], ranks: dict[SiteOfBlock, Tensor]) -> Hooks:
        """Hooks that put the rank of the label in every probe's answer into `ranks` [image, token], by site."""

        def read(activation: Tensor, hook: HookPoint, site: SiteOfBlock) -> None:
            logits = self.logits(site, activation)
            of_label = logits.gather(-1, labels[:, None, None].expand(-1, logits.shape[1], 1))
            check_logits(logits.amax(dim=-1), f"the probe at blocks.{site[1]}.hook_{site[0]}")
            ranks[site] = rank_of(logits, of_label)

        return [
            (hook_name(block, name), lambda value, hook, site=(name, block): read(value, hook, site))
            for name, block in self.weights
        ]


class ProbeFit:
    """Accumulates what ridge regression needs: `add` batches, then `solve`. Every picture is run once, for all probes."""

    @checked
    def __init__(
        self,
        model: HookedViT,
        *,
        sites: str | Sequence[str] = FULL_SITES,
        blocks: int | Sequence[int] | None = None,
        tokens: Sequence[int] | None = None,
    ) -> None:
        model.require_classifier()
        self.model = model
        chosen = check_sites(sites)
        self.sites: list[SiteOfBlock] = [(site, block) for block in model.block_indices(blocks) for site in chosen]
        self.tokens = list(range(model.cfg.n_ctx)) if tokens is None else _checked_tokens(tokens, model.cfg.n_ctx)
        # Sums of half precision soon lose what is added to them.
        self.dtype = torch.promote_types(model.dtype, torch.float32)
        self.n = 0
        self._is_solved = False
        self.n_by_class = torch.zeros(model.cfg.n_classes, dtype=torch.float64, device=model.device)
        self.second: dict[SiteOfBlock, Float[Tensor, "token d d"]] = {}
        self.sums: dict[SiteOfBlock, Float[Tensor, "token class d"]] = {}

    @staticmethod
    def bytes_needed(model: HookedViT, n_sites: int, n_tokens: int) -> int:
        """The memory of the moments for these numbers of sites and tokens."""
        d, classes = model.cfg.d_model, model.cfg.n_classes
        dtype = torch.promote_types(model.dtype, torch.float32)
        return n_sites * n_tokens * (d * d + classes * d) * torch.empty(0, dtype=dtype).element_size()

    def add(
        self,
        images: Pictures,
        labels: Int[Tensor, "image"] | np.ndarray | Sequence[int],
        *,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> None:
        """Runs pictures once and adds their features to the moments.

        Args:
            labels: the class of each picture.
            batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
            progress: show a bar; by default on a terminal only.

        Raises:
            InputError: labels that are no classes of the model, or not one for each picture.
        """
        run = PictureRun(self.model, images, batch_size, progress, "probes")
        chosen = self._labels(labels, run.n)
        self._check_open()
        for places, pictures in run:
            self._add(pictures, chosen[places])

    def _labels(self, labels: Any, n_images: int) -> Int[Tensor, "image"]:
        n_classes = self.model.cfg.n_classes
        wrong = InputError(f"probes need one label of 0 to {n_classes - 1} for each of the {n_images} pictures")
        try:
            given = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError):
            raise wrong from None
        is_whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
        if given.shape != (n_images,) or not is_whole or int(given.min()) < 0 or int(given.max()) >= n_classes:
            raise wrong
        return given.to(self.model.device).long()

    def _check_open(self) -> None:
        if self._is_solved:
            raise InputError("solve() frees the moments, so it can be called only once: make another ProbeFit")

    def _add(self, pictures: Float[Tensor, "image channels height width"], labels: Int[Tensor, "image"]) -> None:
        one_hot = torch.nn.functional.one_hot(labels, self.model.cfg.n_classes).to(self.dtype)

        def collect(activation: Tensor, hook: HookPoint, site: SiteOfBlock) -> None:
            read = activation[:, self.tokens].transpose(0, 1).to(self.dtype)
            second, sums = read.transpose(1, 2) @ read, one_hot.T @ read
            if site in self.second:
                self.second[site] += second
                self.sums[site] += sums
            else:
                self.second[site], self.sums[site] = second, sums

        hooks: Any = [
            (hook_name(block, name), lambda value, hook, site=(name, block): collect(value, hook, site))
            for name, block in self.sites
        ]
        with torch.no_grad():
            self.model.run_with_hooks(pictures, fwd_hooks=hooks, stop_at_layer=self.model.cfg.n_layers)
        self.n += len(labels)
        self.n_by_class += one_hot.sum(dim=0).double()

    def solve(self, alpha: float = 1.0) -> Probes:
        """The ridge solutions with intercept for targets −1 and +1: (Xᵀ X + α I) w = Xᵀ y, X and y centred.

        It frees the moments, so it can be called only once.

        Raises:
            InputError: no pictures, or pictures of one class only; an α that is no positive number; activations that are not
                finite.
        """
        self._check_open()
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
            raise InputError(f"alpha is the strength of the ridge, a finite number above 0, not {alpha!r}")
        if not self.n or int((self.n_by_class > 0).sum()) < 2:
            raise InputError("probes need training pictures of at least two classes")
        names, blocks = (
            list(dict.fromkeys(name for name, _ in self.sites)),
            list(dict.fromkeys(block for _, block in self.sites)),
        )
        shape = (len(names), len(blocks), len(self.tokens))
        sizes = self.model.cfg.d_model, self.model.cfg.n_classes
        weights = torch.empty(*shape, *sizes, dtype=self.model.dtype, device=self.model.device)
        biases = torch.empty(*shape, sizes[1], dtype=self.model.dtype, device=self.model.device)
        target_mean = 2 * self.n_by_class / self.n - 1
        self._is_solved = True
        for site in self.sites:
            second, sums = self.second.pop(site).double(), self.sums.pop(site).double()
            if not second.isfinite().all():
                raise InputError(
                    f"activations at blocks.{site[1]}.hook_{site[0]} are NaN or infinite: check the weights"
                )
            total = sums.sum(dim=1)
            mean = total / self.n
            moments = second - self.n * mean[:, :, None] * mean[:, None, :]
            moments.diagonal(dim1=1, dim2=2).add_(alpha)
            # Σ x y of a ±1 target is twice the class's sum minus the sum of all.
            cross = (2 * sums - total[:, None]).transpose(1, 2) - self.n * mean[:, :, None] * target_mean
            weight = torch.cholesky_solve(cross, torch.linalg.cholesky(moments))
            at = names.index(site[0]), blocks.index(site[1])
            weights[at] = weight.to(self.model.dtype)
            biases[at] = (target_mean - einsum(mean, weight, "t d, t d c -> t c")).to(self.model.dtype)
        return Probes(
            weights,
            {
                "site": names,
                "block": blocks,
                "token": [self.model.cfg.token_label(token) for token in self.tokens],
                "dimension": list(range(sizes[0])),
                "class": class_labels(self.model, range(sizes[1])),
            },
            "weight",
            biases=biases,
            tokens=self.tokens,
            settings={"model": self.model.cfg.model_name, "alpha": alpha, "pictures": self.n},
        )


def _checked_tokens(tokens: Sequence[int], n_tokens: int) -> list[int]:
    is_list = isinstance(tokens, (Sequence, Tensor, np.ndarray)) and not isinstance(tokens, str)
    chosen = [item.item() if isinstance(item, (Tensor, np.generic)) else item for item in tokens] if is_list else []
    if not chosen:
        raise InputError(f"tokens is a list of numbers from 0 to {n_tokens - 1}, at least one, not {tokens!r}")
    for token in chosen:
        if isinstance(token, bool) or not isinstance(token, int):
            raise InputError(f"tokens is a list of numbers from 0 to {n_tokens - 1}, not of {token!r}")
        if not -n_tokens <= token < n_tokens:
            raise InputError(f"there is no token {token}: a picture has tokens 0 to {n_tokens - 1}")
    return [token % n_tokens for token in chosen]
