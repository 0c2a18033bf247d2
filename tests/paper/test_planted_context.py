"""The demo's planted cue: each class has its own background. The measures must see it, on held-out pictures, with intervals.

The demo's pictures are held out: composed by the seeded code of vitlens.data.fashion from garments that the model was not
trained on (experiments/make_demo_pictures.py).
"""

import numpy as np
import pytest
import torch

from vitlens import ablate_tokens, knockout_attention, replace_context
from vitlens.choose import select_tokens
from vitlens.demo import load_demo_model, load_demo_pictures
from vitlens.lens import class_trace
from vitlens.paper.run import run_study
from vitlens.paper.settings import StudySettings
from vitlens.removal import Edges
from vitlens.statistics import bootstrap


@pytest.fixture(scope="module")
def model():
    return load_demo_model()


@pytest.fixture(scope="module")
def pictures(model):
    return load_demo_pictures(model)


def identifiability_in(model, tokens, images, classes, masks) -> np.ndarray:
    """1 − rank/C of the class in each picture's context (or object) patches after every block, [picture, block]."""
    trace = class_trace(model, images, classes).tables()
    inside = select_tokens(model, tokens, len(images), masks=masks)
    scores = torch.stack(
        [1 - trace.ranks["resid_post", b].double() / trace.n_classes for b in range(model.cfg.n_layers)], dim=1
    )
    return ((scores * inside[:, None]).sum(-1) / inside.sum(-1)[:, None]).numpy()


def test_context_tokens_know_the_class_better_where_the_texture_is_its_own(model, pictures):
    """The same garments on their own texture and on another: context patches tell the difference, object patches hardly."""
    gain = {}
    for tokens in ("context", "object"):
        own, other = (
            identifiability_in(model, tokens, pictures.images[where], pictures.labels[where], pictures.masks[where])
            for where in (pictures.agreeing, pictures.conflicting)
        )
        gain[tokens] = own - other
    _, low, _ = bootstrap(gain["context"])
    assert (low[1:] > 0).all(), low
    _, low, _ = bootstrap(gain["context"] - gain["object"])
    assert (low[1:] > 0).all(), low


def test_the_class_token_looks_at_context_more_than_its_area_explains(model, tmp_path):
    settings = StudySettings(n_bootstrap=200, batch_size=50, n_random_models=0)
    outcome = run_study(model, settings, experiments=["context_tokens"], path=tmp_path / "out", progress=False)
    table = outcome.tables["attention_to_context"]
    early = table[table["block"] <= 1]
    assert (early["low"] > early["area_share"]).sum() >= 4
    late = table[table["block"] == 5]
    assert (late["high"] < late["area_share"]).sum() >= 2
    tests = outcome.tables["context_identifiability"]
    certain = tests[(tests["low"] > 0) | (tests["high"] < 0)]
    assert len(certain), "class and context tokens differ somewhere"


def lead(logits: torch.Tensor, pictures) -> torch.Tensor:
    """The garment's logit minus that of the class whose texture conflicts."""
    labels, textures = pictures.labels[pictures.conflicting], pictures.contexts[pictures.conflicting]
    return (logits.gather(1, labels[:, None]) - logits.gather(1, textures[:, None]))[:, 0].double()


@pytest.mark.parametrize("how", ["mean colour", "blur", "own texture", "class token blind"])
def test_replacing_the_conflicting_context_moves_the_decision_towards_the_garment(model, pictures, how):
    where = pictures.conflicting
    images, masks, labels = pictures.images[where], pictures.masks[where], pictures.labels[where]
    with torch.no_grad():
        before = model(images)
        if how == "own texture":
            own = pictures.images[pictures.agreeing]
            after = ablate_tokens(
                model, images, labels, tokens="context", masks=masks, replacement="other", others=own
            ).logits
        elif how == "class token blind":
            after = knockout_attention(model, images, edges=Edges("class", "context"), masks=masks).values
        else:
            after = model(replace_context(images, masks, replacement=how.split()[0]))
    change, low, _ = bootstrap((lead(after, pictures) - lead(before, pictures)).numpy())
    assert low > 0.5, f"the garment's lead changes by {change:.2f}, from {low:.2f}"


@pytest.mark.parametrize("how", ["remove", "zero", "mean"])
def test_without_its_context_a_conflicting_picture_gains_on_an_agreeing_one(model, pictures, how):
    """Removal itself costs every picture, since the model was never shown fewer tokens. What it takes from the same garment
    on its own texture is the measure of that; what is left is the context's doing."""
    changes = []
    for where in (pictures.conflicting, pictures.agreeing):
        images, masks, labels = pictures.images[where], pictures.masks[where], pictures.labels[where]
        after = ablate_tokens(model, images, labels, tokens="context", masks=masks, replacement=how).logits
        with torch.no_grad():
            changes.append((lead(after, pictures) - lead(model(images), pictures)).numpy())
    gain, low, _ = bootstrap(changes[0] - changes[1])
    assert low > 2, f"{gain:.2f}, from {low:.2f}"


def test_the_object_carries_the_rest(model, pictures):
    masks, labels = pictures.masks, pictures.labels
    with torch.no_grad():
        whole = model(pictures.images).argmax(1) == labels
    gone = ablate_tokens(model, pictures.images, labels, tokens="object", masks=masks).correct
    _, low, _ = bootstrap(whole.double().numpy() - gone.double().numpy())
    assert low > 0.3
