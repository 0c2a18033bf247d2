"""Finds, for each picture, another picture of the class that the model confuses it with most."""

import torch
from jaxtyping import Int
from torch import Tensor

from vitlens.arguments import checked
from vitlens.choose.classes import Classes, one_class_each
from vitlens.choose.texts import takes_text
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.class_space.outputs import probabilities
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_run import PictureRun


@leaves_state
@checked
@takes_text("predicted")
def confusing_donors(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    others: Pictures,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Int[Tensor, "image"]:
    """Chooses for each picture one of `others`: of the class that the model confuses the picture with most.

    Only others that are predicted as another class than the picture's own count. The picture's logits rank their classes,
    and from the best class the picture with the highest predicted probability is chosen. `others[indices]` can be the
    corrupted pictures of `activation_patching`, or the others of `replace_context`.

    Args:
        classes: the pictures' own classes, one each; by default the predicted ones.
        others: the pictures to choose from, any number.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        The index of the chosen picture in `others`, for each picture.

    Raises:
        InputError: all others are predicted as the picture's own class; a model that does not choose among several classes.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> donors = vitlens.patching.confusing_donors(model, images[:2], labels[:2], others=images[2:40])
        >>> corrupted = images[2:40][donors]
        >>> corrupted.shape
        torch.Size([2, 3, 56, 56])
    """
    model.require_rank("the class that a picture is confused with", "choose the other pictures yourself")
    with torch.no_grad():
        own_logits, of_others = (
            torch.cat([model(batch) for _, batch in PictureRun(model, pictures, batch_size, progress, what)])
            for pictures, what in ((images, "pictures"), (others, "others"))
        )
    own = one_class_each(model, classes, len(own_logits), lambda: own_logits, "the choice of donors")
    sureness, predicted = probabilities(of_others, model.cfg.output).max(dim=-1)
    chosen = []
    for image, (logits, mine) in enumerate(zip(own_logits, own, strict=True)):
        likely = logits[predicted].masked_fill(predicted == mine, -torch.inf)
        if likely.isneginf().all():
            raise InputError(
                f"all others are predicted to be of picture {image}'s own class "
                f"({model.class_label(int(mine))}): add pictures of other classes"
            )
        of_best_class = predicted == predicted[likely.argmax()]
        chosen.append(sureness.masked_fill(~of_best_class, -torch.inf).argmax())
    return torch.stack(chosen)
