"""The class lens: equal to the definitions, to the model's own logits at the end, and to a sort where it counts."""

import pytest
import torch

from vitlens import HookedViT, InputError, class_lens
from vitlens.lens import (
    class_change_by_sublayer,
    class_similarity_change_rate,
    identifiability,
    identifiability_rate,
    residual_composition,
)

SITES = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


def projection(model: HookedViT, x: torch.Tensor) -> torch.Tensor:
    """A1, written out: E ν(v) + b."""
    norm = model.ln_final or model.fc_norm
    if norm is not None:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + norm.eps).sqrt()
        x = x * norm.weight + norm.bias
    return x @ model.unembed.weight.T + model.unembed.bias


def test_the_pooled_reading_of_the_last_block_is_the_models_logits(classifier, images_of):
    images = images_of(classifier, 3)
    lens = class_lens(classifier, images, "all", tokens="pooled")
    torch.testing.assert_close(lens.values[0, -1, :, 0], classifier(images), rtol=1e-9, atol=1e-9)


def test_every_site_and_token_is_projected_as_defined(plain, images_of):
    images = images_of(plain, 2)
    lens = class_lens(plain, images, "all", sites="all")
    _, cache = plain.run_with_cache(images)
    for i, site in enumerate(SITES):
        assert lens.axes["site"][i] == site
        for block in range(plain.cfg.n_layers):
            expected = projection(plain, cache[site, block])
            torch.testing.assert_close(lens.values[i, block], expected, rtol=1e-9, atol=1e-9)


def test_distilled_tokens_are_read_by_their_own_classifiers(distilled, images_of):
    images = images_of(distilled, 2)
    lens = class_lens(distilled, images, "all")
    _, cache = distilled.run_with_cache(images)
    normed = distilled.ln_final.normalise(cache["resid_post", -1])
    own, other = distilled.unembed(normed), distilled.unembed_dist(normed)
    torch.testing.assert_close(lens.values[0, -1, :, 0], own[:, 0])
    torch.testing.assert_close(lens.values[0, -1, :, 1], other[:, 1])
    torch.testing.assert_close(lens.values[0, -1, :, 2:], ((own + other) / 2)[:, 2:])
    torch.testing.assert_close((own[:, 0] + other[:, 1]) / 2, distilled(images))


def test_ranks_probabilities_and_top_classes_agree_with_a_sort(plain, images_of):
    images = images_of(plain, 2)
    lens = class_lens(plain, images, "all", k=3)
    order = lens.values.argsort(dim=-1, descending=True)
    ranks = order.argsort(dim=-1)
    assert torch.equal(lens.ranks, ranks)
    assert torch.equal(lens.top_classes, order[..., :3])
    torch.testing.assert_close(lens.probabilities, lens.values.softmax(-1))
    torch.testing.assert_close(lens.identifiability, 1 - ranks / plain.cfg.n_classes)


def test_ties_count_strictly_larger_logits_only(plain, images_of):
    with torch.no_grad():
        plain.unembed.weight[1] = plain.unembed.weight[0]
        plain.unembed.bias[1] = plain.unembed.bias[0]
    lens = class_lens(plain, images_of(plain, 1), [0, 1])
    assert torch.equal(lens.ranks[..., 0], lens.ranks[..., 1])


def test_classes_that_are_given_take_one_forward_and_the_lens_passes_by_the_users_hooks(plain, images_of):
    forwards, predictions = [], []
    hooks = [
        ("hook_patch_embed", lambda x, hook: forwards.append(len(x))),
        ("ln_final.hook_normalized", lambda x, hook: predictions.append(len(x))),
    ]
    with plain.hooks(hooks):
        for classes in (0, [1, 2], "all", torch.tensor([3, 1, 4])):
            class_lens(plain, images_of(plain, 3), classes, batch_size=2)
    assert (forwards, predictions) == ([2, 1] * 4, []), "one forward each, which stops before the final norm's hooks"
    with plain.hooks(hooks):
        class_lens(plain, images_of(plain, 3), batch_size=2)
    assert predictions == [2, 1], "only the forwards that find the predictions pass the final norm's hooks"


def test_blocks_tokens_and_labels(plain, images_of):
    images = images_of(plain, 3)
    lens = class_lens(plain, images, torch.tensor([1, 4, 2]), blocks=[-1, 0], tokens="class")
    assert lens.axes["block"] == [plain.cfg.n_layers - 1, 0]
    assert lens.axes["token"] == ["class"]
    assert lens.classes.tolist() == [[1], [4], [2]]
    frame = lens.to_frame()
    assert len(frame) == 6
    assert set(frame["class_index"]) == {1, 2, 4}
    everything = class_lens(plain, images, torch.tensor([1, 4, 2]))
    torch.testing.assert_close(lens.values[0, 0], everything.values[0, -1][:, :1])


def test_maps_lie_on_the_grid(plain, images_of):
    lens = class_lens(plain, images_of(plain, 1), 0)
    maps = lens.maps("rank")
    rows, columns = plain.cfg.grid_size
    assert maps.shape == (plain.cfg.n_layers, rows, columns)
    token = lens.axes["token"].index(f"(1, {columns - 1})")
    assert torch.equal(maps[:, 1, columns - 1], lens.ranks[0, :, 0, token, 0].float())


def test_measures_match_their_definitions(plain, images_of):
    images, labels = images_of(plain, 4), torch.tensor([0, 1, 2, 3])
    lens = class_lens(plain, images, labels, sites="all")
    _, cache = plain.run_with_cache(images)
    n_prefix = plain.cfg.n_prefix_tokens

    def logit(site: str, block: int) -> torch.Tensor:
        return projection(plain, cache[site, block])[torch.arange(4), :, labels][:, n_prefix:]

    def top(site: str, block: int) -> torch.Tensor:
        return projection(plain, cache[site, block]).argmax(-1)[:, n_prefix:]

    last = projection(plain, cache["resid_post", -1])[:, n_prefix:]
    first = last.argmax(-1) == labels[:, None]
    rate = identifiability_rate(lens)
    assert rate["rate_percent"] == pytest.approx(100 * first.double().mean(1).mean().item())
    assert rate["images_with_one_percent"] == pytest.approx(100 * first.any(1).double().mean().item())

    def row(table, block: int):
        return table.query("block == @block and tokens == 'patches'").iloc[0]

    change = class_similarity_change_rate(lens)
    assert sorted(change["block"].unique()) == list(range(1, plain.cfg.n_layers))
    rises = logit("resid_post", 2) > logit("resid_post", 1)
    assert row(change, 2)["change_rate"] == pytest.approx(rises.double().mean().item())

    sublayers = row(class_change_by_sublayer(lens), 1)
    assert sublayers["attention"] == pytest.approx(
        (logit("attn_out", 1) > logit("resid_pre", 1)).double().mean().item()
    )
    assert sublayers["mlp"] == pytest.approx((logit("mlp_out", 1) > logit("resid_mid", 1)).double().mean().item())

    parts = row(residual_composition(lens), 1)
    matches = {
        "attention": top("resid_post", 1) == top("attn_out", 1),
        "mlp": top("resid_post", 1) == top("mlp_out", 1),
        "previous": top("resid_post", 1) == top("resid_pre", 1),
    }
    for name, match in matches.items():
        assert parts[name] == pytest.approx(100 * match.double().mean().item())
    none = ~(matches["attention"] | matches["mlp"] | matches["previous"])
    assert parts["composed"] == pytest.approx(100 * none.double().mean().item())
    assert len(identifiability(lens)) == 2 * plain.cfg.n_layers


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"sites": "resid_pots"}, "resid_post"),
        ({"sites": []}, "empty"),
        ({"blocks": [9]}, "blocks 0 to 2"),
        ({"blocks": []}, "empty"),
        ({"classes": 99}, "classes 0 to"),
        ({"classes": []}, "empty"),
        ({"classes": torch.tensor([0, 1, 2])}, "one row of indices per picture"),
        ({"tokens": "contxt"}, "context"),
        ({"tokens": "object"}, "masks="),
        ({"tokens": []}, "empty"),
        ({"tokens": "registers"}, "empty"),
        ({"tokens": 500}, "no token 500"),
    ],
)
def test_wrong_input_is_one_clear_sentence(plain, images_of, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        class_lens(plain, images_of(plain, 1), **arguments)


def test_a_measure_says_which_site_it_misses(plain, images_of):
    with pytest.raises(InputError, match="attn_out"):
        class_change_by_sublayer(class_lens(plain, images_of(plain, 1), 0, sites=["resid_pre", "resid_mid"]))


def test_a_model_without_classes_is_refused(headless, images_of):
    with pytest.raises(InputError, match="without a classifier"):
        class_lens(headless, images_of(headless, 1))
