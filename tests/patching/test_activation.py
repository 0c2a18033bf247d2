"""Activation patching: equal to one full forward per cell, on every site; token sets; directions; metrics."""

import numpy as np
import pytest
import torch
from pandas.testing import assert_frame_equal

from vitlens import InputError, activation_patching
from vitlens.choose import box, patch, select_tokens

TOKEN_SITES = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]
HEAD_SITES = ["z", "q", "k", "v", "pattern"]


def full_name(site: str, block: int) -> str:
    return f"blocks.{block}.attn.hook_{site}" if site in HEAD_SITES else f"blocks.{block}.hook_{site}"


def naive(model, source, target, site, block, edit):
    """One full forward: `edit(mine, theirs)` writes into a copy of the target's activation."""
    _, cache = model.run_with_cache(source, names_filter=full_name(site, block))

    def hook(activation, hook):
        mine = activation.clone()
        edit(mine, cache[full_name(site, block)])
        return mine

    with torch.no_grad():
        return model.run_with_hooks(target, fwd_hooks=[(full_name(site, block), hook)])


@pytest.mark.parametrize("site", TOKEN_SITES)
@pytest.mark.parametrize("variant", ["plain", "distilled"])
def test_token_sites_equal_the_naive_loop(site, variant, images_of, request):
    model = request.getfixturevalue(variant)
    clean, corrupted = images_of(model, 2, seed=1), images_of(model, 2, seed=2)
    result = activation_patching(
        model, clean, corrupted, metric="logit", sites=site, tokens=[0, 3, 5], classes=[2], batch_size=4, progress=False
    )
    for i, block in enumerate(result.axes["block"]):
        for j, token in enumerate([0, 3, 5]):

            def edit(mine, theirs, token=token):
                mine[:, token] = theirs[:, token]

            logits = naive(model, clean, corrupted, site, block, edit)
            torch.testing.assert_close(result.patched[i, j], logits[:, 2], rtol=1e-9, atol=1e-10)
    before, after = model(corrupted)[:, 2], model(clean)[:, 2]
    torch.testing.assert_close(result.values, (result.patched - before) / (after - before))


@pytest.mark.parametrize("site", HEAD_SITES)
def test_head_sites_equal_the_naive_loop(site, plain, images_of):
    clean, corrupted = images_of(plain, 2, seed=1), images_of(plain, 2, seed=2)
    result = activation_patching(
        plain, clean, corrupted, metric="logit", sites=site, classes=[1], batch_size=6, progress=False
    )
    assert result.values.shape == (plain.cfg.n_layers, plain.cfg.n_heads, 2)
    for block in range(plain.cfg.n_layers):
        for head in range(plain.cfg.n_heads):

            def edit(mine, theirs, head=head):
                at = (slice(None), head) if site == "pattern" else (slice(None), slice(None), head)
                mine[at] = theirs[at]

            logits = naive(plain, clean, corrupted, site, block, edit)
            torch.testing.assert_close(result.patched[block, head], logits[:, 1], rtol=1e-9, atol=1e-10)


def test_heads_at_chosen_tokens_only(plain, images_of):
    clean, corrupted = images_of(plain, 1, seed=1), images_of(plain, 1, seed=2)
    result = activation_patching(
        plain,
        clean,
        corrupted,
        metric="logit",
        sites="pattern",
        tokens="class",
        heads=[2],
        blocks=[1],
        classes=[1],
        progress=False,
    )

    def edit(mine, theirs):
        mine[:, 2, 0] = theirs[:, 2, 0]

    torch.testing.assert_close(result.patched[0, 0], naive(plain, clean, corrupted, "pattern", 1, edit)[:, 1])


def test_batch_size_changes_nothing_but_the_work(plain, images_of):
    pair = images_of(plain, 3, seed=1), images_of(plain, 3, seed=2)
    frames = [
        activation_patching(plain, *pair, classes=[0], baseline_classes=[1], batch_size=n, progress=False).to_frame()
        for n in (1, 7, 1000)
    ]
    assert_frame_equal(frames[0], frames[1], rtol=1e-9)
    assert_frame_equal(frames[0], frames[2], rtol=1e-9)


def test_patching_everything_at_the_start_gives_the_source_and_nothing_gives_the_target(plain, images_of):
    clean, corrupted = images_of(plain, 2, seed=1), images_of(plain, 2, seed=2)
    for direction in ("denoise", "noise"):
        result = activation_patching(
            plain, clean, corrupted, tokens="all", blocks=[0], direction=direction, progress=False
        )
        torch.testing.assert_close(result.values, torch.ones_like(result.values), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(result.effect(), torch.ones_like(result.effect()), rtol=1e-7, atol=1e-7)
    last = plain.cfg.n_layers - 1
    unread = activation_patching(
        plain, clean, corrupted, sites="resid_post", tokens="patches", blocks=[last], progress=False
    )
    assert unread.values.abs().max() < 1e-9


def test_noising_runs_the_other_way(plain, images_of):
    clean, corrupted = images_of(plain, 2, seed=1), images_of(plain, 2, seed=2)
    about = {"classes": [0], "baseline_classes": [1], "tokens": [2], "progress": False}
    noise = activation_patching(plain, clean, corrupted, direction="noise", **about)
    mirrored = activation_patching(plain, corrupted, clean, direction="denoise", **about)
    torch.testing.assert_close(noise.patched, mirrored.patched)
    torch.testing.assert_close(noise.source, mirrored.source)


def test_metrics_by_name_and_by_function_agree(plain, images_of):
    clean, corrupted = images_of(plain, 2, seed=1), images_of(plain, 2, seed=2)
    about = {"tokens": ["class", "patches"], "progress": False}
    functions = {
        "logit": lambda logits: logits[:, 3],
        "probability": lambda logits: logits.softmax(-1)[:, 3],
        "logit_difference": lambda logits: logits[:, 3] - logits[:, 0],
    }
    for name, function in functions.items():
        baseline = {"baseline_classes": [0]} if name == "logit_difference" else {}
        named = activation_patching(plain, clean, corrupted, metric=name, classes=[3], **baseline, **about)
        given = activation_patching(plain, clean, corrupted, metric=function, **about)
        torch.testing.assert_close(named.values, given.values)
        assert named.metric_name == name
    total = activation_patching(plain, clean, corrupted, metric=lambda logits: logits.sum(), **about)
    assert torch.equal(total.patched[..., 0], total.patched[..., 1])


def test_default_metric_follows_the_two_predictions(plain, images_of):
    clean, corrupted = images_of(plain, 6, seed=1), images_of(plain, 6, seed=2)
    result = activation_patching(plain, clean, corrupted, tokens="class", progress=False)
    ours, theirs = plain(clean), plain(corrupted)
    first, rival = ours.argmax(-1), theirs.argmax(-1)
    runner_up = ours.topk(2).indices[:, 1]
    rival = torch.where(rival == first, runner_up, rival)
    rows = torch.arange(6)
    torch.testing.assert_close(result.source, ours[rows, first] - ours[rows, rival])
    torch.testing.assert_close(result.target, theirs[rows, first] - theirs[rows, rival])


def test_token_sets_in_the_pictures_terms(plain):
    rows, columns = plain.cfg.grid_size
    height, width = plain.cfg.image_size
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, : height // rows] = True
    masks[1, :, : width // columns] = True
    inside = select_tokens(plain, "object", 2, masks=masks)[:, plain.cfg.n_prefix_tokens :].unflatten(
        1, (rows, columns)
    )
    assert inside[0, 0].all()
    assert inside[0, 1:].sum() == 0
    assert inside[1, :, 0].all()
    assert inside[1, :, 1:].sum() == 0
    context = select_tokens(plain, "context", 2, masks=masks)
    prefix = select_tokens(plain, "prefix", 2)
    assert torch.equal(
        context ^ select_tokens(plain, "object", 2, masks=masks) ^ prefix, select_tokens(plain, "all", 2)
    )
    assert select_tokens(plain, "class", 2).nonzero()[:, 1].tolist() == [0, 0]
    one = select_tokens(plain, patch(1, 2), 1)[0].nonzero()[:, 0].tolist()
    assert one == [plain.cfg.n_prefix_tokens + columns + 2]
    assert plain.cfg.token_label(one[0]) == "(1, 2)"
    assert select_tokens(plain, box(0, 1, 2, 2), 1).sum() == 4
    assert select_tokens(plain, [-1, 0], 1)[0].nonzero()[:, 0].tolist() == [0, plain.cfg.n_ctx - 1]


def test_masks_may_be_arrays_of_any_type(plain):
    mask = np.zeros(plain.cfg.image_size, dtype=np.uint8)
    mask[: plain.cfg.patch_size[0]] = 255
    expected = select_tokens(plain, "object", 1, masks=torch.from_numpy(mask)[None] > 0)
    for same in (mask, mask[None], torch.from_numpy(mask), torch.from_numpy(mask).float()[None]):
        assert torch.equal(select_tokens(plain, "object", 1, masks=same), expected)


def test_a_patch_half_inside_belongs_to_the_object(plain):
    height, width = plain.cfg.patch_size
    masks = torch.zeros(1, *plain.cfg.image_size, dtype=torch.bool)
    masks[0, : height // 2, :width] = True
    masks[0, height : height + height // 2 - 1, :width] = True
    chosen = select_tokens(plain, "object", 1, masks=masks)[0].nonzero()[:, 0].tolist()
    assert chosen == [plain.cfg.n_prefix_tokens]


def test_different_objects_in_different_pictures(plain, images_of):
    clean, corrupted = images_of(plain, 2, seed=1), images_of(plain, 2, seed=2)
    masks = torch.zeros(2, *plain.cfg.image_size, dtype=torch.bool)
    masks[0, : plain.cfg.patch_size[0]] = True
    masks[1, :, : plain.cfg.patch_size[1]] = True
    about = {"tokens": ["object", "context"], "classes": [0], "baseline_classes": [1], "progress": False}
    both = activation_patching(plain, clean, corrupted, masks=masks, **about)
    for i in range(2):
        alone = activation_patching(plain, clean[i], corrupted[i], masks=masks[i : i + 1], **about)
        torch.testing.assert_close(both.patched[..., i], alone.patched[..., 0])


def test_maps_lie_on_the_grid(plain, images_of):
    result = activation_patching(plain, images_of(plain, 1, 1), images_of(plain, 1, 2), blocks=[1], progress=False)
    rows, columns = plain.cfg.grid_size
    assert result.maps().shape == (1, rows, columns)
    at = result.axes["tokens"].index("(1, 0)")
    assert result.maps()[0, 1, 0] == result.effect()[0, at]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"sites": "resid"}, "resid_pre"),
        ({"sites": "resid_pre", "heads": [0]}, "has no heads"),
        ({"sites": "z", "heads": [7]}, "heads 0 to 3"),
        ({"sites": "z", "heads": []}, "empty"),
        ({"direction": "sideways"}, "denoise"),
        ({"metric": "accuracy"}, "logit_difference"),
        ({"metric": lambda logits: logits}, "one number, or one per picture"),
        ({"metric": lambda logits: logits[:, 0] * float("nan")}, "NaN"),
        ({"classes": [1], "baseline_classes": [1]}, "are the same"),
        ({"classes": [1, 2]}, "one class per picture"),
        ({"tokens": {}}, "no token set"),
        ({"tokens": []}, "no token set"),
        ({"tokens": {"nothing": []}}, "empty"),
        ({"tokens": "object"}, "masks="),
        ({"tokens": "object", "masks": torch.zeros(1, 5, 5, dtype=torch.bool)}, "do not fit"),
        ({"tokens": "object", "masks": torch.zeros(1, 96, 96, dtype=torch.bool)}, "do not fit"),
        ({"tokens": "object", "masks": torch.zeros(3, 48, 48, dtype=torch.bool)}, "one per picture"),
        ({"tokens": [box(0, 0, 99, 1)]}, "outside the grid"),
        ({"tokens": torch.zeros(3, dtype=torch.bool)}, "as bool tensor"),
        ({"batch_size": 0}, "at least 1"),
        ({"blocks": [8]}, "no block 8"),
        ({"blocks": []}, "empty"),
    ],
)
def test_wrong_input_is_one_clear_sentence(plain, images_of, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        activation_patching(plain, images_of(plain, 1, 1), images_of(plain, 1, 2), progress=False, **arguments)


def test_pairs_must_pair_up_and_differ(plain, images_of):
    with pytest.raises(InputError, match="pair up"):
        activation_patching(plain, images_of(plain, 1), images_of(plain, 2), progress=False)
    with pytest.raises(InputError, match="no effect to trace"):
        activation_patching(plain, images_of(plain, 1), images_of(plain, 1), progress=False)


def test_patching_leaves_no_hook_behind(plain, images_of):
    with pytest.raises(InputError):
        activation_patching(
            plain, images_of(plain, 1, 1), images_of(plain, 1, 2), metric=lambda logits: logits, progress=False
        )
    activation_patching(plain, images_of(plain, 1, 1), images_of(plain, 1, 2), tokens=[0], progress=False)
    assert plain.list_hooks() == {}


def test_masks_that_no_token_set_reads_are_refused(plain, images_of):
    images = images_of(plain, 2)
    masks = torch.ones(2, *plain.cfg.image_size, dtype=torch.bool)
    with pytest.raises(InputError, match=r"masks= are read by the token sets .object. and .context. alone"):
        activation_patching(plain, images[:1], images[1:], sites="z", blocks=0, masks=masks[:1], progress=False)
