"""The class lens: projects any hidden state onto the class embeddings (Methods A1, A2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.arguments import check_count, checked
from vitlens.choose.classes import Classes, ClassSelection, classes_by_batch
from vitlens.choose.texts import takes_text
from vitlens.choose.tokens import TokenSet, check_masks_are_used, select_tokens
from vitlens.data.masks import MaskInput
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError, nearest
from vitlens.model.class_space.outputs import WITH_PROBABILITIES, probabilities
from vitlens.model.class_space.ranks import check_logits, rank_of
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Reader, hook_name
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_run import PictureRun, check_index
from vitlens.results.axes import TokenLabel
from vitlens.results.result import Result

#: What a lens has of each token, where the model's outputs have it.
WHERE_DEFINED = {"ranks", "probabilities", "top_classes", "top_logits"}
LENS_SITES = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
MODEL_READING = "pooled"
#: What outputs without ranks still have.
LOGITS_ALONE = "class_lens gives their logits"


class RankedLens(NamedTuple):
    """What a lens has of classes that are compared with each other."""

    ranks: Int[Tensor, "site block image token class"]
    top_classes: Int[Tensor, "site block image token k"]
    top_logits: Float[Tensor, "site block image token k"]


@dataclass(frozen=True, repr=False)
class ClassLens(Result):
    """Logits, ranks and probabilities of the target classes, and the top classes, at every site, block and token.

    `values` (logits), `ranks`, `probabilities` [site, block, image, token, class]; `top_classes`, `top_logits`
    [site, block, image, token, k], best first. A rank is the number of classes with a strictly larger logit: 0 is best.

    What the model's outputs do not have (`HookedViT.set_output`) is None: ranks and top classes of a single output,
    of numbers and of embeddings; probabilities of numbers and of embeddings.
    """

    ranks: Int[Tensor, "site block image token class"] | None
    probabilities: Float[Tensor, "site block image token class"] | None
    top_classes: Int[Tensor, "site block image token k"] | None
    top_logits: Float[Tensor, "site block image token k"] | None
    n_classes: int
    grid: tuple[int, int] | list[int]
    n_prefix_tokens: int

    @property
    def identifiability(self) -> Float[Tensor, "site block image token class"]:
        """1 − rank / C, in (0, 1]: 1 where the class is the token's top-1, 0.5 on average by chance (Methods A2).

        Raises:
            InputError: the model's outputs have no ranks.
        """
        return 1 - self.ranked().ranks / self.n_classes

    def ranked(self) -> "RankedLens":
        """The ranks and the top classes.

        Raises:
            InputError: the model's outputs have none.
        """
        if self.ranks is None or self.top_classes is None or self.top_logits is None:
            raise InputError(
                f"this lens of {self.settings['model']} has neither ranks nor top classes: its outputs are a single one, "
                "numbers, or an embedding, and only classes among others have a rank"
            )
        return RankedLens(self.ranks, self.top_classes, self.top_logits)

    def columns(self) -> dict[str, Tensor]:
        found = {"logit": self.values}
        if self.ranks is not None:
            found["rank"] = self.ranks
        if self.probabilities is not None:
            found["probability"] = self.probabilities
        if self.ranks is not None:
            found["identifiability"] = self.identifiability
        return found

    def at(self, quantity: str, site: str | None = None) -> Tensor:
        """One quantity at one site: [block, image, token, class]."""
        columns = self.columns()
        if quantity not in columns:
            raise InputError(f"this lens has {', '.join(columns)}, not {quantity!r}")
        return columns[quantity][self.site_index(site)]

    def site_index(self, site: str | None) -> int:
        if site is None:
            return len(self.axes["site"]) - 1
        if site not in self.axes["site"]:
            raise InputError(
                f"this lens was taken at {', '.join(self.axes['site'])}: pass sites=[…, {site!r}] to class_lens"
            )
        return self.axes["site"].index(site)

    def maps(
        self, quantity: str = "logit", site: str | None = None, image: int = 0, class_position: int = 0
    ) -> Float[Tensor, "block rows columns"]:
        """A quantity of one class at every patch, for each block, on the picture's grid.

        Raises:
            InputError: the lens was not taken at all patches, or has no such quantity, site, picture or class.
        """
        check_index(image, len(self.axes["image"]), "picture")
        check_index(class_position, len(self.axes["class"]), "position on the axis of classes")
        chosen = self.at(quantity, site)[:, image, self.patch_places(), class_position]
        return chosen.unflatten(-1, tuple(self.grid)).float()

    def patch_places(self) -> list[int]:
        """The positions of the patches on the token axis.

        Raises:
            InputError: the lens was not taken at all patches.
        """
        patches = [i for i, label in enumerate(self.axes["token"]) if label.kind == "patch"]
        if len(patches) != self.grid[0] * self.grid[1]:
            raise InputError('a map needs every patch: take the lens with tokens="all" or tokens="patches"')
        return patches

    def top_names(self, block: int, token: int = 0, image: int = 0, site: str | None = None) -> list[str]:
        """The names of the top classes of one token; block, token and image are positions on their axes.

        Raises:
            InputError: the model's outputs have no ranks; no such position.
        """
        top_classes = self.ranked().top_classes
        for place, axis in ((block, "block"), (token, "token"), (image, "image")):
            check_index(place, len(self.axes[axis]), f"place on the axis {axis!r}")
        indices = top_classes[self.site_index(site), block, image, token].tolist()
        return [self.class_names[i] if self.class_names else f"class {i}" for i in indices]


@leaves_state
@checked
@takes_text("all")
def class_lens(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    sites: str | Sequence[str] = ("resid_post",),
    blocks: int | Sequence[int] | None = None,
    tokens: TokenSet = "all",
    masks: MaskInput | None = None,
    k: int = 5,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> ClassLens:
    """Projects hidden states onto the class embeddings: p(v) = E ν(v) + b, with the statistics of v itself (Methods A1).

    ν is the norm between stream and classifier: the final norm, or the one after pooling in a model that pools first. On a
    sublayer's output it is applied to that output alone, as in the paper. In a distilled model the class token is projected
    by its own classifier, the distillation token by the other one, and patches by the mean of both. No tensor larger than
    the logits of one site is kept. Outputs that are numbers or an embedding have logits only, a single sigmoid also its
    probability (`HookedViT.set_output`).

    Each picture is run once; twice where no classes are given, to predict them first.

    Args:
        images: pictures as a tensor, or anything `model.to_images` reads.
        classes: the classes whose logit, rank and probability are kept: indices, names, or a tensor [image] with one class
            for each picture; by default the predicted class.
        sites: of "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post", or "all".
        blocks: which blocks; by default all.
        tokens: a token set, the same for all pictures; or "pooled": pool each site as the model pools its last one, so that
            "resid_post" of the last block gives the model's own logits, whatever its pooling.
        masks: object masks, for token sets that need them.
        k: how many top classes to keep for each token.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        ClassLens with axes site, block, image, token, class.

    Raises:
        InputError: a site, block, token or class that does not exist; a model without a classifier, or with one that was
            never trained; no classes, for outputs of which none is predicted; logits that are not finite.

    Source: Vilas, Schaumlöffel & Roig 2023, section 3; Methods A1, A2.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> lens = vitlens.class_lens(model, images[4:5], "T-shirt", tokens="class")
        >>> lens.values.shape  # site, block, image, token, class
        torch.Size([1, 6, 1, 1, 1])
        >>> lens.ranks[0, :, 0, 0, 0].tolist()  # the class token's rank of the class after each block, 0 is best
        [0, 0, 0, 0, 0, 0]
        >>> lens.top_names(block=-1)[:2]
        ['T-shirt', 'dress']
    """
    model.require_classifier()
    if _has_ranks(model):
        model.require_rank("a rank or probability")
    run = PictureRun(model, images, batch_size, progress, "class lens")
    chosen_sites, chosen_blocks = check_sites(sites), model.block_indices(blocks)
    places = [(site, block) for site in chosen_sites for block in chosen_blocks]
    reading, token_labels = _choose_tokens(model, tokens, run.n, masks, run.grid)
    k = min(check_count(k, "k"), model.cfg.n_classes)
    classes_of = classes_by_batch(model, classes, run.n)
    selections: list[ClassSelection] = []
    batches: list[dict[str, Tensor]] = []
    for where, pictures in run:
        with torch.no_grad():
            selections.append(classes_of(where, pictures))
            batches.append(_lens_of(model, pictures, places, reading, selections[-1], k))
    quantities = {
        name: torch.cat([batch[name] for batch in batches], dim=1).unflatten(0, (-1, len(chosen_blocks)))
        for name in batches[0]
    }
    absent = dict.fromkeys(WHERE_DEFINED - quantities.keys())
    return ClassLens(
        values=quantities.pop("logits"),
        axes={
            "site": chosen_sites,
            "block": chosen_blocks,
            "image": run.images,
            "token": token_labels,
            "class": selections[0].labels,
        },
        quantity="logit",
        **quantities,
        **absent,
        n_classes=model.cfg.n_classes,
        grid=run.grid,
        n_prefix_tokens=model.cfg.n_prefix_tokens,
        classes=torch.cat([selection.indices for selection in selections]),
        class_names=model.class_names,
        pixels=run.pixels,
        settings={
            "model": model.cfg.model_name,
            "output": model.cfg.output,
            "norm": "the model's final norm, statistics of each vector",
        },
    )


def _has_ranks(model: HookedViT) -> bool:
    return model.cfg.output in WITH_PROBABILITIES and model.cfg.n_classes > 1


def _lens_of(
    model: HookedViT,
    pictures: Float[Tensor, "image channels height width"],
    places: Sequence[tuple[str, int]],
    reading: list[int] | None,
    selection: ClassSelection,
    k: int,
) -> dict[str, Float[Tensor, "place image token *rest"] | Int[Tensor, "place image token *rest"]]:
    """One forward's pictures: every quantity of all sites and blocks."""
    measured: dict[str, dict[str, Tensor]] = {}

    def read(activation: Tensor, hook: HookPoint) -> None:
        measured[str(hook.name)] = _measure(model, _project(model, activation, reading), selection, k, str(hook.name))

    names = [hook_name(block, site) for site, block in places]
    model.run_with_hooks(
        pictures, fwd_hooks=[(name, Reader(read)) for name in dict.fromkeys(names)], stop_at_layer=model.cfg.n_layers
    )
    return {quantity: torch.stack([measured[name][quantity] for name in names]) for quantity in measured[names[0]]}


def check_sites(sites: str | Sequence[str], known: Sequence[str] = LENS_SITES) -> list[str]:
    """One site or several, each once, in the given order.

    Raises:
        InputError: an unknown site, or none.
    """
    if isinstance(sites, str):
        return list(known) if sites == "all" else check_sites([sites], known)
    if not isinstance(sites, Sequence):
        raise InputError(f"sites is a name or a list of names of {', '.join(known)}, not {sites!r}")
    for site in sites:
        if site not in known:
            raise InputError(f"no lens site is called {site!r}; the nearest names are {nearest(str(site), known)}")
    wanted = list(dict.fromkeys(sites))
    if not wanted:
        raise InputError("the list of sites is empty")
    return wanted


def _choose_tokens(
    model: HookedViT, tokens: TokenSet, n_images: int, masks: MaskInput | None, grid: tuple[int, int]
) -> tuple[list[int] | None, list[TokenLabel]]:
    """Token indices and labels; None for "pooled"."""
    check_masks_are_used(masks, [tokens])
    if isinstance(tokens, str) and tokens == MODEL_READING:
        return None, [TokenLabel(MODEL_READING, "set")]
    mask = select_tokens(model, tokens, n_images, masks=masks, grid=grid)
    if not (mask == mask[0]).all():
        raise InputError(
            "a lens reads the same tokens of every picture: take pictures with different masks one at a time, "
            'or tokens="all" and select afterwards'
        )
    indices = mask[0].nonzero()[:, 0].tolist()
    return indices, [model.cfg.token_label(index, grid) for index in indices]


def _project(model: HookedViT, activation: Tensor, tokens: list[int] | None) -> Tensor:
    """[image, token, classes]."""
    if tokens is None:
        return model.read_out(activation)[:, None]
    return model.project(activation[:, tokens], tokens)


def _measure(
    model: HookedViT, logits: Float[Tensor, "image token classes"], selection: ClassSelection, k: int, name: str
) -> dict[str, Tensor]:
    chosen = selection.take(logits)
    found = {"logits": chosen}
    if model.cfg.output in WITH_PROBABILITIES:
        found["probabilities"] = probabilities(logits, model.cfg.output, chosen)
    if not _has_ranks(model):
        check_logits(logits, f"the class lens at {name}")
        return found
    top_logits, top_classes = logits.topk(k, dim=-1)
    check_logits(top_logits[..., 0], f"the class lens at {name}")
    # Counting larger logits gives the rank at a fraction of a sort's cost.
    ranks = torch.stack([rank_of(logits, chosen[..., i : i + 1]) for i in range(chosen.shape[-1])], dim=-1).long()
    return found | {"ranks": ranks, "top_logits": top_logits, "top_classes": top_classes}
