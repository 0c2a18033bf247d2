"""A small repair of the demo, which the tests of figures, pages and words share."""

from functools import cache

import torch

import vitlens

#: Pictures that choose the edit, and pictures of the report: garments on their own texture and on another.
CHOOSING, REPORTED = (58, 59, 60, 61, 64, 65, 66, 67), (28, 29, 56, 57, 62, 63, 68, 69)


@cache
def repaired(
    groups: tuple[str, str] = ("agreeing", "conflicting"), *, is_better: bool = True
) -> vitlens.editing.Repair:
    """Without head L2H1 the model errs less among the pictures that choose, and without the MLP of block 1 more."""
    model, images, labels, _ = vitlens.load_demo()
    places = torch.tensor([*CHOOSING, *REPORTED])
    edits = {"without L1 mlp": vitlens.edit(model, "L1 mlp")}
    if is_better:
        edits["without L2H1"] = vitlens.edit(model, "L2H1")
    return vitlens.repair(
        model,
        images[places],
        labels[places],
        [groups[place % 2] for place in places.tolist()],
        edits=edits,
        doses=(0.5, 1.0),
        held_out=torch.arange(len(places)) >= len(CHOOSING),
        clusters=places // 2,
        n_draws=2,
        progress=False,
    )
