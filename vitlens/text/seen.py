"""What a model trained with text makes of pictures: their embeddings, beside which texts lie."""

from collections.abc import Iterator, Sequence
from itertools import repeat

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import different_texts, items
from vitlens.errors import InputError
from vitlens.features.places import HookPlace, place_of, read_places
from vitlens.model.class_space.classifier import ClassEmbeddings, n_outputs
from vitlens.model.class_space.embeddings import EmbedsTexts
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.picture_batches import ImageBatch, PictureBatches, PictureSource

#: Where the embedding stands in a view of `embedding_view`.
EMBEDDING = "hook_logits"


def embedding_view(model: HookedViT, width: int) -> HookedViT:
    """The model with the coordinates of its embedding as its outputs: what its head returns where that has this width, else
    what a classifier would read.

    Raises:
        InputError: texts of this width lie in neither space.
    """
    head = model.unembed
    own = head.projection if isinstance(head, ClassEmbeddings) else head
    space = "output" if own is not None and n_outputs(own) == width else "features"
    return model.with_class_embeddings(torch.eye(width), space=space, output="embedding")


def read_texts(texts: str | Sequence[str]) -> list[str]:
    """The texts as a list.

    Raises:
        InputError: none, what is no text, one that is there twice.
    """
    different_texts("texts", texts)
    return items(texts)


def tower_of(model: HookedViT, tower: EmbedsTexts | None) -> EmbedsTexts:
    """The tower that is given, or the one that the model has.

    Raises:
        InputError: there is neither.
    """
    found = model.text_tower if tower is None else tower
    if found is None:
        raise InputError(
            f"{model.cfg.model_name} has no text tower, and texts need one: pass tower=, or give it its own with "
            "model.set_text_tower(tower)"
        )
    return found


class Viewer:
    """Goes through pictures, and sees what a model trained with text makes of them: the analysed model, or another one.

    Args:
        model: the model that is analysed.
        width: of the texts.
        other_model: the one that sees the pictures; None: the analysed model itself.

    Raises:
        InputError: texts of another width than the embeddings; pictures that can be read only once.
    """

    def __init__(
        self, model: HookedViT, images: PictureSource, width: int, other_model: HookedViT | None, batch_size: int | None
    ) -> None:
        self.model, self.batches = model, PictureBatches(model, images, batch_size)
        try:
            self.view = embedding_view(model if other_model is None else other_model, width)
        except InputError as error:
            hint = "; other_model= takes a model that was trained with these texts" if other_model is None else ""
            raise InputError(f"the texts are vectors of {width} numbers, and {error}{hint}") from None
        if other_model is not None and self.batches.can_be_read_once:
            raise InputError(
                "images= gives its pictures only once, and other_model= reads them too: pass a list, files or a picture set"
            )
        self._theirs = None if other_model is None else PictureBatches(self.view, images, self.batches.batch_size)

    def see(
        self, places: Sequence[HookPlace], what: str, progress: bool | None
    ) -> Iterator[tuple[ImageBatch, dict[str, Tensor], Float[Tensor, "image e"]]]:
        """Each batch, the rows of these hook points of the analysed model, and the pictures' embeddings.

        Raises:
            InputError: the other model gets other pictures.
        """
        embedding = place_of(self.view, EMBEDDING)
        # The view is the model up to its classifier, so that one run gives both, unless the classifier is asked for.
        is_one_run = self._theirs is None and all(
            place.name in self.view.hook_dict and place.name != EMBEDDING for place in places
        )
        for batch, theirs in zip(self.batches.with_bar(what, progress), self._theirs or repeat(None), strict=False):
            if theirs is not None and not torch.equal(theirs.ids, batch.ids):
                raise InputError(
                    "other_model= does not get the same pictures from images=: pass a list, files or a picture set"
                )
            if is_one_run:
                found = read_places(self.view, batch.images, [*places, embedding])
                yield batch, found, found[EMBEDDING][:, 0]
                continue
            seen = read_places(self.view, (batch if theirs is None else theirs).images, [embedding])
            yield batch, read_places(self.model, batch.images, places) if places else {}, seen[EMBEDDING][:, 0]
