"""Compares the port of one model at full size with its library, in several precisions and modes, and at every site."""

import copy
import json
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.table import Table
from torch import nn
from tqdm import tqdm

from vitlens.arguments import bar_hidden, checked
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.files import write_whole
from vitlens.model.placement import read_device
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.parity.measure import MODES, differences, peer_sites, port_sites
from vitlens.parity.sources import compared

# The largest relative difference that rounding explains in any model; a bug stays at 1e-3 in any precision.
LIMITS = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 0.05, "float16": 0.01}
# A model may amplify rounding (post-norm blocks do): as much as this times what the precision costs the library itself.
AMPLIFIED = 20
PACKAGES = ("torch", "timm", "transformer-lens", "transformers")


@dataclass(frozen=True)
class ParityReport:
    """Relative differences max |vitlens − library| / max |library|, by precision, mode and site.

    `rows`: dtype, mode, site ("block 0" …, "logits", "gradient"), the difference to the library (timm, or that of the
    model) in the same precision, and what the precision itself costs: the differences from the library in float64, of the
    port ("to_float64") and of the library ("library_to_float64").
    """

    model: str
    weights: str
    rows: list[dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    library: str = "timm"

    @property
    def exact(self) -> bool:
        """Whether every difference is one that rounding explains: within `LIMITS`, or in proportion to the library's own."""
        return all(
            row["difference"] <= max(LIMITS[row["dtype"]], AMPLIFIED * row["library_to_float64"]) for row in self.rows
        )

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)

    def summary(self) -> pd.DataFrame:
        """One line per precision and mode: logits, the worst block, the gradient."""
        frame = self.to_frame()
        frame["kind"] = frame["site"].where(~frame["site"].str.startswith("block"), "worst block")
        table = frame.pivot_table(
            index=["dtype", "mode"], columns="kind", values="difference", aggfunc="max", sort=False
        )  # fmt: skip
        table["logits to float64"] = frame[frame["site"] == "logits"].set_index(["dtype", "mode"])["to_float64"]
        return table.reset_index()

    def save(self, path: str | Path) -> None:
        """Writes the report as JSON."""
        write_whole(path, json.dumps({**asdict(self), "exact": self.exact}, indent=1).encode())

    def __rich__(self) -> Table:
        summary = self.summary()
        table = Table(
            *map(str, summary.columns), title=f"{self.model}, {self.weights}: relative differences from {self.library}"
        )
        for row in summary.itertuples(index=False):
            table.add_row(*(cell if isinstance(cell, str) else "–" if pd.isna(cell) else f"{cell:.1e}" for cell in row))
        return table

    def __repr__(self) -> str:
        verdict = "exact but for rounding" if self.exact else "NOT exact"
        return f"ParityReport({self.model}, {self.weights}: {verdict})\n{self.summary().to_string(index=False)}"


@leaves_state
@checked
def verify_port(
    source: Any,
    *,
    pretrained: bool = True,
    checkpoint_path: str | Path | None = None,
    dtypes: tuple[str, ...] = ("float64", "float32"),
    images: Pictures | None = None,
    n_images: int = 2,
    seed: int = 0,
    device: str = "cpu",
    progress: bool | None = None,
    **timm_kwargs: Any,
) -> ParityReport:
    """Compares a model's port with its library at full size: every block, the logits, the pictures' gradient.

    Args:
        source: a timm name; or a module of timm or of another library; or a folder that Hugging Face's save_pretrained
            wrote, or such a repository "owner/name", which is opened by the class that its configuration names.
        pretrained: the model's weights; False re-initialises every parameter (`seed`), so that none is 0 or 1.
        checkpoint_path: your own weights for a timm name.
        dtypes: of "float64", "float32", "bfloat16", "float16". Gradients are compared in the first two.
        images: what both models read; without them `n_images` pictures of seeded noise.
        progress: show a bar over the precisions; by default on a terminal only.

    Raises:
        InputError: an unknown dtype, a file of another library without its class, and whatever `HookedViT.from_timm` and
            `from_pretrained` raise.

    Examples:
        >>> import vitlens
        >>> report = vitlens.parity.verify_port("vit_tiny_patch16_224", pretrained=False, img_size=32, depth=1)
        >>> report.exact
        True
    """
    for dtype in dtypes:
        if dtype not in LIMITS:
            raise InputError(f"dtype is one of {', '.join(LIMITS)}, not {dtype!r}")
    if n_images < 1:
        raise InputError(f"n_images is at least 1, not {n_images}")
    target = read_device(device)
    both = compared(source, pretrained, checkpoint_path, timm_kwargs, seed)
    # Refuses what is not ported before anything is computed.
    port = both.open(both.module)
    if images is None:
        generator = torch.Generator().manual_seed(seed)
        chosen_images = torch.randn(n_images, port.cfg.n_channels, *port.cfg.image_size, generator=generator)
    else:
        chosen_images = port.as_images(images)
    chosen_images = chosen_images.to(target, torch.float64)
    rows: list[dict[str, Any]] = []
    reference = peer_sites(copy.deepcopy(both.module).to(target, torch.float64), chosen_images, peer=both.peer)
    for dtype in tqdm(
        sorted(dtypes, key=list(LIMITS).index), desc=f"verifying {both.name}", disable=bar_hidden(progress, len(dtypes))
    ):
        chosen: nn.Module = copy.deepcopy(both.module).to(target, getattr(torch, dtype))
        model, inputs = both.open(chosen), chosen_images.to(getattr(torch, dtype))
        gradient = dtype in ("float64", "float32")
        theirs = peer_sites(chosen, inputs, gradient, both.peer)
        library_to_float64 = differences(theirs, reference)
        for mode in MODES:
            ours = port_sites(model, inputs, mode, gradient)
            to_float64 = differences(ours, reference)
            rows += [
                {"dtype": dtype, "mode": mode, "site": site, "difference": difference,
                 "to_float64": to_float64[site], "library_to_float64": library_to_float64[site]}
                for site, difference in differences(ours, theirs).items()
            ]  # fmt: skip
        del chosen, model
    settings = {
        "images": f"{len(chosen_images)} {'of seeded noise' if images is None else 'given'}, "
        + " × ".join(map(str, chosen_images.shape[-2:])),
        "seed": seed,
        "device": device,
        "limits": {dtype: LIMITS[dtype] for dtype in dtypes} | {"or times the library's own": AMPLIFIED},
        "versions": {"vitlens": version("vitlens"), "python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    return ParityReport(both.name, both.weights, rows, settings, both.library)
