"""Directions between groups: found where they are, and removed whole."""

import pytest
import torch
from ported import borrow

from vitlens import InputError, edit
from vitlens.editing import group_directions

N_CLASSES = 3


@pytest.fixture(scope="module")
def model():
    with borrow("class_token") as found:
        yield found


@pytest.fixture(scope="module")
def pictures(model):
    """Noise with a pattern of the class, and in one group another pattern of the class: what a shortcut looks like."""
    generator = torch.Generator().manual_seed(7)
    n = 120
    labels, groups = torch.arange(n) % N_CLASSES, (torch.arange(n) // N_CLASSES) % 2
    patterns = torch.randn(2, N_CLASSES, 3, *model.cfg.image_size, generator=generator, dtype=model.dtype)
    noise = torch.randn(n, 3, *model.cfg.image_size, generator=generator, dtype=model.dtype)
    images = 0.3 * (noise + patterns[0, labels] + groups[:, None, None, None] * 2 * patterns[1, labels])
    return images, labels, ["with" if group else "without" for group in groups.tolist()]


def means_within_classes(vectors, labels, groups):
    is_with = torch.tensor([group == "with" for group in groups])
    return torch.stack(
        [
            vectors[(labels == label) & is_with].mean(dim=0) - vectors[(labels == label) & ~is_with].mean(dim=0)
            for label in range(N_CLASSES)
        ]
    )


@pytest.mark.parametrize("part", ["classifier", "L1 mlp", "L2H1"])
def test_without_all_directions_the_groups_of_a_class_have_one_mean(model, pictures, part):
    images, labels, groups = pictures
    found = group_directions(model, *pictures, part=part, k=N_CLASSES, batch_size=50)
    change = edit(model, part, "direction", directions=found).changes[0]
    with torch.no_grad():
        before = model.run_with_cache(images, names_filter=change.hook)[1][change.hook]
        after = change(before)
    if change.units is not None:
        before, after = before[:, :, change.units[0]], after[:, :, change.units[0]]
    if before.ndim == 3:
        before, after = before.mean(dim=1), after.mean(dim=1)
    apart = means_within_classes(before, labels, groups)
    assert means_within_classes(after, labels, groups).norm() < 1e-9 * apart.norm()
    torch.testing.assert_close(found.read @ found.write.T, torch.eye(N_CLASSES, dtype=model.dtype))
    # Fewer directions leave something of the difference.
    fewer = edit(model, part, "direction", directions=found.first(1)).changes[0](before)
    assert means_within_classes(fewer, labels, groups).norm() > 1e-3 * apart.norm()


def test_what_does_not_go_with_the_directions_stays(model, pictures):
    """The projection is oblique: of what varies within groups it keeps all that is uncorrelated with what it removes."""
    images, labels, groups = pictures
    found = group_directions(model, *pictures, k=N_CLASSES, alpha=1e-12)
    change = edit(model, "classifier", "direction", directions=found).changes[0]
    with torch.no_grad():
        x = model.run_with_cache(images, names_filter="pooled")[1]["pooled"]
    cells = labels * 2 + torch.tensor([group == "with" for group in groups])
    centred = torch.cat([x[cells == cell] - x[cells == cell].mean(dim=0) for cell in cells.unique()])
    removed = centred - (change(centred + found.mean) - found.mean)
    kept = centred - removed
    assert (removed.T @ kept).abs().max() < 1e-6 * (centred.T @ centred).abs().max()


def test_the_number_of_directions_is_that_of_the_shortcut(model, pictures):
    images, labels, groups = pictures
    assert 1 <= len(group_directions(model, *pictures)) <= N_CLASSES
    for seed in range(5):
        order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
        with pytest.raises(InputError, match="no direction more than by chance"):
            group_directions(model, images, labels, [groups[i] for i in order])


def test_what_has_no_directions_is_refused(model, pictures):
    images, labels, groups = pictures
    for arguments, sentence in [
        ({"k": 4}, "k is 1 to 3, not 4"),
        ({"part": "writers"}, "name a single part"),
        ({"alpha": 0.0}, "alpha is a share"),
    ]:
        with pytest.raises(InputError, match=sentence):
            group_directions(model, *pictures, **arguments)
    with pytest.raises(InputError, match="labels"):
        group_directions(model, images[:5], labels, groups)
    of_class = ["with" if label else "without" for label in labels.tolist()]
    with pytest.raises(InputError, match="classes with pictures of two groups"):
        group_directions(model, images, labels, of_class)
