"""Evaluates a dictionary: reconstruction, sparsity, and the model's predictions with it in place."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint

from vitlens.arguments import checked
from vitlens.choose.classes import read_labels
from vitlens.choose.tokens import TokenSet
from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.placed import PlacedDictionary, ends, paired_rows
from vitlens.features.places import HookPlace, chosen_rows, read_places, split_rows, suffix_of, tokens_in_words
from vitlens.features.splice import SplicedDictionary
from vitlens.model.class_space.outputs import WITH_PROBABILITIES, kl_divergence
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName, Hooks
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import ImageBatch, PictureBatches, PictureSource
from vitlens.results.result import Result

EVALUATED_RUNS = ("clean", "sae", "zero", "mean")
#: The measures that a printout names; the others are in the table.
PRINTED = ("explained_variance", "l0", "dead_share", "kl_sae", "agreement_sae", "loss_recovered_mean")


@dataclass(frozen=True, repr=False)
class DictionaryEvaluation(Result):
    """`values` [measure]; `density` [feature], the share of rows in which each feature is not 0; `mean_activation`.

    Measures of the reconstruction: "mse" (per entry), "explained_variance", "cosine" (mean over rows), "l0" (active features
    per row), "dead_share" (features that are never active). Measures of the model with the dictionary in place ("sae"),
    with zeros or with the mean activation: "kl_…" from the clean prediction in nats, "agreement_…" with the clean top-1
    class; with labels also "loss_…" and "accuracy_…" (of the clean run too), and "loss_recovered_…".
    """

    density: Float[Tensor, "feature"]
    mean_activation: Float[Tensor, "feature"]

    def __getitem__(self, measure: str) -> float:
        """One measure by name."""
        if measure not in self.axes["measure"]:
            raise InputError(f"this evaluation has {', '.join(self.axes['measure'])}, not {measure!r}")
        return float(self.values[self.axes["measure"].index(measure)])

    def __repr__(self) -> str:
        found = [f"{name} {self[name]:.3g}" for name in PRINTED if name in self.axes["measure"]]
        return f"DictionaryEvaluation({self.settings['hook']}, tokens: {self.settings['tokens']}; {', '.join(found)})"


@dataclass
class _Reconstruction:
    """Sums over the rows seen so far, in float64; mean and spread by Chan's update, which does not cancel."""

    n_rows: int = 0
    squared_error: float = 0.0
    cosine: float = 0.0
    spread: float = 0.0
    mean: Tensor = field(default_factory=lambda: torch.zeros(0))
    fired: Tensor = field(default_factory=lambda: torch.zeros(0))
    total: Tensor = field(default_factory=lambda: torch.zeros(0))

    def add(self, y: Tensor, written: Tensor, features: Tensor) -> None:
        y, written = y.flatten(0, -2).double(), written.flatten(0, -2).double()
        features = features.flatten(0, -2)
        if not self.n_rows:
            self.mean = torch.zeros_like(y[0])
            self.fired = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
            self.total = torch.zeros_like(self.fired)
        self.squared_error += float((y - written).pow(2).sum())
        self.cosine += float(F.cosine_similarity(y, written, dim=-1).sum())
        here, n = y.mean(dim=0), self.n_rows + len(y)
        between = (here - self.mean).pow(2).sum() * self.n_rows * len(y) / n
        self.spread += float((y - here).pow(2).sum() + between)
        self.mean = self.mean + (here - self.mean) * len(y) / n
        self.fired += (features != 0).sum(dim=0)
        self.total += features.sum(dim=0, dtype=torch.float64)
        self.n_rows = n

    def measures(self) -> dict[str, float]:
        return {
            "mse": self.squared_error / (self.n_rows * len(self.mean)),
            "explained_variance": 1 - self.squared_error / self.spread if self.spread else float("nan"),
            "cosine": self.cosine / self.n_rows,
            "l0": float(self.fired.sum()) / self.n_rows,
            "dead_share": float((self.fired == 0).double().mean()),
        }


@leaves_state
@checked
def evaluate_sae(
    model: HookedViT,
    images: PictureSource,
    *,
    sae: SparseAutoencoder,
    hook: HookName | None = None,
    labels: Tensor | None = None,
    hook_out: HookName | None = None,
    tokens: TokenSet = "all",
    downstream: bool = True,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> DictionaryEvaluation:
    """Measures reconstruction and sparsity of a dictionary, and how the model's predictions change with it in place.

    explained variance = 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖²; loss recovered = (L_ablated − L_sae) / (L_ablated − L_clean), where
    ablated means zeros or the mean activation x̄ at the same tokens. The pictures are run twice, since x̄ must be known
    first, and memory does not grow with their number.

    The answers are compared by what the outputs mean (`HookedViT.set_output`): by the KL divergence and by how often the
    predictions agree, of sigmoid outputs summed and averaged over the outputs; by Σ (y − ŷ)² of numbers and embeddings.
    Losses and accuracies are those of classes that exclude each other.

    Args:
        images: as `stream_activations`.
        sae: the dictionary.
        hook: where it reads; None for the hook point it was trained on.
        labels: the class of each picture, in order; by default those that come with the pictures, if any do.
        hook_out: what a transcoder predicts, see `with_sae`; its reconstruction is compared with that.
        tokens: which tokens are reconstructed, see `select_tokens`; all by default, as in `stream_activations`: pass the
            tokens that the dictionary was trained on.
        downstream: also run the model with the dictionary in place; left out where the model has no classifier.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        DictionaryEvaluation with the axis measure; `result["explained_variance"]`.

    Raises:
        InputError: a dictionary of another width; no pictures; labels of another number, or of outputs that are no classes
            that exclude each other.

    Source: Bricken et al. 2023; Gao et al. 2024, section 4.

    Examples:
        >>> import torch
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> identity = torch.eye(model.cfg.d_model)
        >>> both = torch.cat([identity, -identity])
        >>> sae = vitlens.features.SparseAutoencoder.from_arrays(both.T, None, both, None, hook="resid_post3")
        >>> quality = vitlens.features.evaluate_sae(model, images[:8], sae=sae, labels=labels[:8])
        >>> round(quality["explained_variance"], 2), round(quality["loss_recovered_mean"], 2)
        (1.0, 1.0)
    """
    source, target = ends(model, hook, sae, hook_out)
    batches = PictureBatches(model, images, batch_size)
    if labels is not None and model.cfg.output != "softmax":
        raise InputError(
            f"labels= are classes that exclude each other, and the outputs of {model.cfg.model_name} are "
            f"output={model.cfg.output!r}: leave them out"
        )
    labels = None if labels is None else read_labels(model, labels)
    sums = _Reconstruction()
    with torch.no_grad():
        for batch in batches.with_bar("reconstruction", progress):
            found = read_places(model, batch.images, [source, target])
            grid = model.embed.grid(*batch.images.shape[-2:])
            x, y, _ = paired_rows(model, sae, source, target, found, tokens, grid)
            features = sae.encode(x)
            sums.add(y, sae.decode(features, x).to(y), features)
        if not sums.n_rows:
            raise InputError("there are no pictures to evaluate the dictionary on")
        measures = sums.measures()
        if downstream and model.unembed is not None:
            answers = _Answers(PlacedDictionary(model, sae, (source,), (target,), tokens), sums.mean)
            for batch in batches.with_bar("model's answers", progress):
                answers.add(batch, labels)
            if labels is not None and len(labels) != answers.n_images:
                raise InputError(f"there are {len(labels)} labels for {answers.n_images} pictures")
            measures |= answers.measures()
    return DictionaryEvaluation(
        torch.tensor(list(measures.values()), dtype=torch.float64),
        {"measure": list(measures)},
        "value",
        settings={
            "model": model.cfg.model_name,
            "hook": source.name,
            "dictionary": sae.source,
            "tokens": tokens_in_words(tokens),
            "rows": sums.n_rows,
        },
        density=sums.fired / sums.n_rows,
        mean_activation=sums.total / sums.n_rows,
    )


def _differences(
    clean: Float[Tensor, "image classes"], other: Float[Tensor, "image classes"], output: str
) -> dict[str, Float[Tensor, "image"]]:
    """How far the logits of a run are from those of the unchanged model, by what they mean."""
    if output not in WITH_PROBABILITIES:
        return {"squared_difference": (clean - other).square().sum(dim=-1)}
    if output == "softmax":
        agree = (clean.argmax(dim=-1) == other.argmax(dim=-1)).double()
    else:
        agree = ((clean > 0) == (other > 0)).double().mean(dim=-1)
    return {"kl": kl_divergence(clean, other, output), "agreement": agree}


class _Answers:
    """Sums over pictures of the model's answers: unchanged, with the dictionary, with zeros and with the mean."""

    def __init__(self, placed: PlacedDictionary, mean: Tensor) -> None:
        self.model, self.placed = placed.model, placed
        self.sums: dict[str, float] = {}
        self.n_images = 0
        self.n_labelled = 0
        self.hooks: dict[str, Hooks] = {
            "clean": [],
            "sae": SplicedDictionary(placed).hooks(),
            "zero": [(placed.targets[0].name, self._constant(torch.zeros_like(mean)))],
            "mean": [(placed.targets[0].name, self._constant(mean))],
        }

    def add(self, batch: ImageBatch, labels: Tensor | None) -> None:
        n = len(batch.images)
        given = batch.labels if labels is None else labels[self.n_images : self.n_images + n]
        if given is not None and len(given) != n:
            raise InputError(f"there are {len(labels if labels is not None else given)} labels, and more pictures")
        excluding = self.model.cfg.output == "softmax"
        given = given.to(self.model.device).long() if given is not None and excluding else None
        run = suffix_of(self.model, batch.images, self.placed.places)
        clean = run([]).double()
        for name in EVALUATED_RUNS:
            answer = clean if name == "clean" else run(self.hooks[name]).double()
            if name != "clean":
                for what, value in _differences(clean, answer, self.model.cfg.output).items():
                    self._count(f"{what}_{name}", value.sum())
            if given is not None:
                self._count(f"loss_{name}", F.cross_entropy(answer, given, reduction="sum"))
                self._count(f"accuracy_{name}", (answer.argmax(dim=-1) == given).sum())
        self.n_images += n
        self.n_labelled += 0 if given is None else n

    def measures(self) -> dict[str, float]:
        found = {
            name: total / (self.n_labelled if name.startswith(("loss", "accuracy")) else self.n_images)
            for name, total in self.sums.items()
        }
        if self.n_labelled:
            for ablated in ("zero", "mean"):
                gap = found[f"loss_{ablated}"] - found["loss_clean"]
                found[f"loss_recovered_{ablated}"] = (
                    (found[f"loss_{ablated}"] - found["loss_sae"]) / gap if gap else float("nan")
                )
        return found

    def _count(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def _constant(self, row: Float[Tensor, "d"]) -> Callable[[Tensor, HookPoint], Tensor]:
        """A hook that puts one row in the place of every row that the dictionary would reconstruct."""
        place: HookPlace = self.placed.targets[0]

        def replace(activation: Tensor, hook: HookPoint) -> Tensor:
            rows = place.split(activation)
            chosen = chosen_rows(self.model, place, self.placed.tokens, rows.shape[1]).to(rows.device)
            view = split_rows(rows, len(row), place.name)
            return place.unite(view.index_copy(1, chosen, row.to(view).expand_as(view[:, chosen])).reshape(rows.shape))

        return replace
