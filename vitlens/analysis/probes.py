"""Linear probes at every site and token from one pass over the training pictures (METHODS.md E1).

Ridge regression needs of the features only their second moments and their sums by class, so these are accumulated while
pictures stream by, and all probes are solved together at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.analysis.trace import FULL_SITES, Hooks
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.tensor_files import read_tensors, save_tensors

Site = tuple[str, int]


@dataclass(frozen=True, repr=False)
class Probes:
    """Linear classifiers [site][token, d, class] with their biases [site][token, class], for the tokens `tokens`."""

    weights: dict[Site, Float[Tensor, "token d class"]]
    biases: dict[Site, Float[Tensor, "token class"]]
    tokens: list[int]

    def __repr__(self) -> str:
        return f"Probes({len(self.weights)} sites × {len(self.tokens)} tokens)"

    def logits(self, site: Site, activation: Float[Tensor, "image all_tokens d"]) -> Float[Tensor, "image token class"]:
        """What the probes of a site answer."""
        read = activation[:, self.tokens]
        return einsum(read, self.weights[site], "b t d, t d c -> b t c") + self.biases[site]

    def hooks(self, labels: Int[Tensor, "image"], ranks: dict[Site, Tensor]) -> Hooks:
        """Hooks that put the rank of the label in every probe's answer into `ranks` [image, token], by site."""

        def read(activation: Tensor, hook: HookPoint, site: Site) -> None:
            logits = self.logits(site, activation)
            of_label = logits.gather(-1, labels[:, None, None].expand(-1, logits.shape[1], 1))
            ranks[site] = (logits > of_label).sum(dim=-1).int()

        return [
            (f"blocks.{block}.hook_{name}", lambda value, hook, site=(name, block): read(value, hook, site))
            for name, block in self.weights
        ]

    def save(self, path: str | Path) -> None:
        """One safetensors file.

        Raises:
            InputError: the file cannot be written.
        """
        tensors = {"tokens": torch.tensor(self.tokens)}
        for (name, block), weight in self.weights.items():
            tensors[f"{name}.{block}.weight"] = weight
            tensors[f"{name}.{block}.bias"] = self.biases[name, block]
        save_tensors(tensors, path)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "Probes":
        """Reads what `save` wrote.

        Raises:
            InputError: there is no such file, it is cut off, or it holds no probes.
        """
        tensors, _ = read_tensors(path, str(device))
        if "tokens" not in tensors or not all(name.count(".") in (0, 2) for name in tensors):
            raise InputError(f"{path} holds no probes")
        sites = [(name.split(".")[0], int(name.split(".")[1])) for name in tensors if name.endswith(".weight")]
        sites.sort(key=lambda site: (site[1], site[0]))
        return cls(
            {(n, b): tensors[f"{n}.{b}.weight"] for n, b in sites},
            {(n, b): tensors[f"{n}.{b}.bias"] for n, b in sites},
            tensors["tokens"].tolist(),
        )


class ProbeFit:
    """Accumulates what ridge regression needs: `add` batches, then `solve`. Every picture is run once, for all probes."""

    def __init__(
        self,
        model: HookedViT,
        sites: Sequence[str] = FULL_SITES,
        blocks: Sequence[int] | None = None,
        tokens: Sequence[int] | None = None,
    ) -> None:
        self.model = model
        self.sites: list[Site] = [(site, block) for block in model.block_indices(blocks) for site in sites]
        self.tokens = list(range(model.cfg.n_ctx)) if tokens is None else list(tokens)
        self.n = 0
        self.n_by_class = torch.zeros(model.cfg.n_classes, dtype=torch.float64, device=model.device)
        self.second: dict[Site, Float[Tensor, "token d d"]] = {}
        self.sums: dict[Site, Float[Tensor, "token class d"]] = {}

    @staticmethod
    def bytes_needed(model: HookedViT, n_sites: int, n_tokens: int) -> int:
        """What the moments of so many sites and tokens take."""
        d, classes = model.cfg.d_model, model.cfg.n_classes
        return n_sites * n_tokens * (d * d + classes * d) * torch.empty(0, dtype=model.dtype).element_size()

    def add(self, images: Pictures, labels: Int[Tensor, "image"]) -> None:
        """One forward, whose features join the moments.

        Raises:
            InputError: labels that are no classes of the model.
        """
        pictures, labels = self.model.as_images(images), labels.to(self.model.device)
        n_classes = self.model.cfg.n_classes
        if len(labels) != len(pictures) or int(labels.min()) < 0 or int(labels.max()) >= n_classes:
            raise InputError(f"probes need one label of 0 to {n_classes - 1} for each of the {len(pictures)} pictures")
        one_hot = torch.nn.functional.one_hot(labels, n_classes).to(self.model.dtype)

        def collect(activation: Tensor, hook: HookPoint, site: Site) -> None:
            read = activation[:, self.tokens].transpose(0, 1)
            second, sums = read.transpose(1, 2) @ read, one_hot.T @ read
            if site in self.second:
                self.second[site] += second
                self.sums[site] += sums
            else:
                self.second[site], self.sums[site] = second, sums

        hooks: Any = [
            (f"blocks.{block}.hook_{name}", lambda value, hook, site=(name, block): collect(value, hook, site))
            for name, block in self.sites
        ]
        with torch.no_grad():
            self.model.run_with_hooks(pictures, fwd_hooks=hooks, stop_at_layer=self.model.cfg.n_layers)
        self.n += len(labels)
        self.n_by_class += one_hot.sum(dim=0).double()

    def solve(self, alpha: float = 1.0) -> Probes:
        """The ridge solutions with intercept for targets −1 and +1: (Xᵀ X + α I) w = Xᵀ y, X and y centred.

        Raises:
            InputError: no pictures, or pictures of one class only.
        """
        if not self.n or int((self.n_by_class > 0).sum()) < 2:
            raise InputError("probes need training pictures of at least two classes")
        weights, biases = {}, {}
        target_mean = 2 * self.n_by_class / self.n - 1
        for site in self.sites:
            second, sums = self.second.pop(site).double(), self.sums.pop(site).double()
            total = sums.sum(dim=1)
            mean = total / self.n
            moments = second - self.n * mean[:, :, None] * mean[:, None, :]
            moments.diagonal(dim1=1, dim2=2).add_(alpha)
            # Σ x y of a ±1 target is twice the class's sum minus the sum of all.
            cross = (2 * sums - total[:, None]).transpose(1, 2) - self.n * mean[:, :, None] * target_mean
            weight = torch.cholesky_solve(cross, torch.linalg.cholesky(moments))
            weights[site] = weight.to(self.model.dtype)
            biases[site] = (target_mean - einsum(mean, weight, "t d, t d c -> t c")).to(self.model.dtype)
        return Probes(weights, biases, self.tokens)
