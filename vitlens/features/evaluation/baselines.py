"""What a dictionary is compared with: the neurons themselves, principal components, k-means and random directions."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlens.arguments import checked, items, short
from vitlens.choose.tokens import TokenSet
from vitlens.errors import InputError, nearest
from vitlens.features.dictionaries.dictionary import SparseAutoencoder, Transcoder
from vitlens.features.dictionaries.nonlinearities import TopK
from vitlens.features.evaluation.entrants import Entrant, rows_of
from vitlens.features.evaluation.row_summary import RowSummary
from vitlens.features.placed import place_dictionary
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName, hook_name
from vitlens.model.parts.mlp import MLP
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureBatches, PictureSource

BASELINES = ("neurons", "pca", "kmeans", "random")
#: k-means has at most one mean for this many rows of the sample.
ROWS_OF_A_MEAN = 8


class Nearest(nn.Module):
    """f = 1 for the largest pre-activation of each row, else 0."""

    def forward(self, pre: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        return torch.zeros_like(pre).scatter(-1, pre.argmax(dim=-1, keepdim=True), 1.0)


class LargestWrites(nn.Module):
    """The k features of each row that write most, by |f| ‖w‖, with their signs; all others 0."""

    lengths: Tensor

    def __init__(self, k: int, lengths: Float[Tensor, "feature"]) -> None:
        super().__init__()
        self.k = k
        self.register_buffer("lengths", lengths)

    def forward(self, pre: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        largest = (pre.abs() * self.lengths).topk(self.k, dim=-1).indices
        return torch.zeros_like(pre).scatter(-1, largest, pre.gather(-1, largest))


@leaves_state
@checked
def baseline_dictionaries(
    model: HookedViT,
    images: PictureSource,
    *,
    sae: SparseAutoencoder,
    hook: HookName | None = None,
    hook_out: HookName | None = None,
    tokens: TokenSet = "all",
    baselines: str | Sequence[str] = BASELINES,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> dict[str, SparseAutoencoder]:
    """Dictionaries that need no training, for the same hook point and with as many active features as `sae` on average.

    - "neurons": the coordinates of the activation, each with both signs; for a transcoder of an MLP the hidden neurons of
      this MLP, of which those that write most are on;
    - "pca": its principal components, each with both signs;
    - "kmeans": the means of clusters, as directions from the mean of all; the nearest one is on, with the value 1;
    - "random": as many random directions as `sae` has features, with one common scale that fits the rows best.

    The first, second and last keep the k largest projections of each row less its mean, with k the rounded mean number of
    active features of `sae` on these pictures. For a transcoder the code of what it reads is followed by the linear map that
    predicts its target best (an MLP's neurons have its own output weights); k-means has the mean target of each cluster. The
    pictures are run once; means, covariances and a sample of 8,192 rows are all that is kept.

    Args:
        images, hook, hook_out, tokens: as of `evaluate_sae`, which makes these dictionaries of the pictures that it
            evaluates on: make them of the pictures that `sae` was trained on, and pass them as `beside=`, to compare all
            on new pictures.
        sae: the dictionary that they are compared with.
        baselines: which.
        seed: of k-means, of random directions and of the sample.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        From the name to the dictionary, which all that takes `sae=` takes.

    Raises:
        InputError: as `with_sae`; an unknown baseline; no pictures.

    Source: Bricken et al. 2023 (neurons); Huben et al. 2024 (PCA, random directions); Pach et al. 2025.

    Examples:
        >>> import torch
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> identity = torch.eye(model.cfg.d_model)
        >>> both = torch.cat([identity, -identity])
        >>> sae = vitlens.features.SparseAutoencoder.from_arrays(both.T, None, both, None, hook="resid_post3")
        >>> vitlens.features.baseline_dictionaries(model, images[:4], sae=sae, baselines=["pca"])
        {'pca': SparseAutoencoder(
          96 → 192 features → 96, blocks.3.hook_resid_post
          (activation): TopK(k=96)
        )}
    """
    names = read_baselines(baselines)
    if not names:
        raise InputError(f"baselines= is empty: name at least one of {', '.join(BASELINES)}")
    entrant = Entrant("", place_dictionary(model, hook, sae, hook_out, tokens))
    summary = RowSummary(seed)
    with torch.no_grad():
        for batch in PictureBatches(model, images, batch_size).with_bar("rows for baselines", progress):
            grid = model.embed.grid(*batch.images.shape[-2:])
            for coded in entrant.code(rows_of([entrant], batch.images)[id(model)], grid):
                summary.add(coded)
    if not summary.n_rows:
        raise InputError("there are no pictures to make baselines of")
    return made_of(summary, entrant, names, seed)


def read_baselines(baselines: Any) -> list[str]:
    """The names of baselines, one or several.

    Raises:
        InputError: a baseline that there is not.
    """
    names = items(baselines)
    for name in names:
        if name not in BASELINES:
            raise InputError(
                f"baselines are {', '.join(BASELINES)}, not {short(name)}; the nearest is {nearest(str(name), BASELINES)}"
            )
    return names


def made_of(
    summary: RowSummary, entrant: Entrant, baselines: Sequence[str], seed: int = 0
) -> dict[str, SparseAutoencoder]:
    """The baselines of these names, in the dtype and on the device of the dictionary."""
    width, n_features = len(summary.mean_x), entrant.placed.sae.d_sae
    generator = torch.Generator().manual_seed(seed)

    def directions(name: str) -> Float[Tensor, "feature d_in"]:
        if name == "random":
            drawn = torch.randn(n_features, width, generator=generator, dtype=torch.float64)
            return nn.functional.normalize(drawn, dim=1).to(summary.spread)
        axes = (
            torch.eye(width).to(summary.spread) if name == "neurons" else torch.linalg.eigh(summary.spread)[1].T.flip(0)
        )
        return torch.cat([axes, -axes])

    def made(name: str) -> SparseAutoencoder:
        if name == "kmeans":
            return _clusters(summary, entrant, seed)
        mlp = _mlp_of(entrant) if name == "neurons" else None
        return (
            _largest_projections(summary, entrant, directions(name), name)
            if mlp is None
            else _hidden_neurons(summary, entrant, mlp)
        )

    return {name: made(name) for name in baselines}


def _largest_projections(
    summary: RowSummary, entrant: Entrant, directions: Float[Tensor, "feature d_in"], name: str
) -> SparseAutoencoder:
    """The k largest projections of a row less its mean, and their directions, with one scale that fits the rows best."""
    k = min(max(1, round(summary.l0)), len(summary.mean_x), len(directions))
    sparse = TopK(k, len(directions))
    written = sparse((summary.x - summary.mean_x) @ directions.T) @ directions
    scale = ((summary.x - summary.mean_x) * written).sum() / written.square().sum().clamp_min(1e-300)
    back = scale * directions
    if entrant.placed.sources != entrant.placed.targets:
        back = back @ summary.linear_map()
    return _dictionary(
        entrant, directions.T, -(directions @ summary.mean_x), back, summary.mean_y, sparse, f"baseline: {name}"
    )


def _mlp_of(entrant: Entrant) -> MLP | None:
    """The MLP whose output the dictionary predicts from something else, where this output is linear in hidden neurons."""
    source, target = entrant.placed.sources[0], entrant.placed.targets[0]
    if source == target or target.block is None or target.name != hook_name(target.block, "mlp_out"):
        return None
    block = entrant.model.blocks[target.block]
    return block.mlp if block.norm_behind("mlp") is None else None


def _hidden_neurons(summary: RowSummary, entrant: Entrant, mlp: MLP) -> Transcoder:
    """The hidden neurons of an MLP, of which the k that write most are on."""
    like, block = next(entrant.placed.sae.buffers()), entrant.placed.targets[0].block
    W_out = mlp.W_out.detach().to(like)
    k = min(max(1, round(summary.l0)), len(W_out))
    return Transcoder(
        torch.eye(len(W_out)).to(like),
        like.new_zeros(len(W_out)),
        W_out,
        mlp.b_out.detach().to(like),
        LargestWrites(k, W_out.norm(dim=1)),
        hook=f"blocks.{block}.mlp.hook_post",
        hook_out=entrant.placed.targets[0].name,
        source="baseline: neurons",
    )


def _clusters(summary: RowSummary, entrant: Entrant, seed: int) -> SparseAutoencoder:
    """The means of clusters of what is read, and the mean of what is predicted in each."""
    # scikit-learn takes longer to import than most evaluations without k-means take.
    from sklearn.cluster import MiniBatchKMeans

    n = max(1, min(entrant.placed.sae.d_sae, len(summary.x) // ROWS_OF_A_MEAN))
    fit = MiniBatchKMeans(n, random_state=seed, n_init=1, batch_size=1024, max_iter=30).fit(summary.x.cpu().numpy())
    own = torch.from_numpy(fit.labels_).long().to(summary.x.device)
    used, own = own.unique(return_inverse=True)
    counts = own.bincount().to(summary.x)[:, None]
    means, predicted = (
        rows.new_zeros(len(used), rows.shape[1]).index_add_(0, own, rows) / counts for rows in (summary.x, summary.y)
    )
    return _dictionary(
        entrant,
        means.T,
        -means.square().sum(dim=1) / 2,
        predicted - summary.mean_y,
        summary.mean_y,
        Nearest(),
        "baseline: kmeans",
    )


def _dictionary(
    entrant: Entrant,
    W_enc: Float[Tensor, "d_in feature"],
    b_enc: Float[Tensor, "feature"],
    W_dec: Float[Tensor, "feature d_out"],
    b_dec: Float[Tensor, "d_out"],
    activation: nn.Module,
    source: str,
) -> SparseAutoencoder:
    like = next(entrant.placed.sae.buffers())
    W_enc, b_enc, W_dec, b_dec = (value.to(like).contiguous() for value in (W_enc, b_enc, W_dec, b_dec))
    hook, hook_out = entrant.placed.sources[0].name, entrant.placed.targets[0].name
    if hook == hook_out:
        return SparseAutoencoder(W_enc, b_enc, W_dec, b_dec, activation, hook=hook, source=source)
    return Transcoder(W_enc, b_enc, W_dec, b_dec, activation, hook=hook, hook_out=hook_out, source=source)
