"""`vitlens.attention`: rows of the patterns, by head or by block, for any queries, over the picture."""

import pytest
import torch
from variants import OTHERS, VARIANTS, pictures

import vitlens
from vitlens import HookedViT, InputError
from vitlens.choose import box, patch

EVERY = {**VARIANTS, **OTHERS}
#: One of each kind of attention and of each way of pooling.
KINDS = [
    "class_token", "distilled", "average_without_class_token", "average_with_registers", "wide_picture", "differential",
    "relative_shared", "rotary_mixed", "grouped_keys", "gated_attention", "any_size", "unfused_attention", "parallel",
    "maximum", "no_classifier", "attention_pool", "attention_pool_of_all_tokens",
]  # fmt: skip


def build(name):
    model = HookedViT.from_timm(EVERY[name]())
    return model, pictures(model.cfg, 3)


@pytest.mark.parametrize("name", KINDS)
def test_it_is_the_mean_row_of_the_pattern(name):
    model, images = build(name)
    _, cache = model.run_with_cache(images)
    found = vitlens.attention(model, images, block=1, batch_size=2)
    queries = slice(0, 1) if model.cfg.has_class_token else model.read_tokens
    torch.testing.assert_close(found.values, cache["pattern", 1][:, :, queries].mean(dim=2))
    assert found.axes["head"] == [f"L1H{head}" for head in range(found.values.shape[1])]
    rest = found.values[..., model.cfg.n_prefix_tokens :]
    torch.testing.assert_close(found.maps().flatten(2), rest)
    torch.testing.assert_close(torch.cat([found.prefix(), rest], dim=-1), found.values)
    said = "the class token" if model.cfg.has_class_token else "the pooled tokens (mean)"
    assert found.settings["queries"] == said
    assert said in found.plot(image=2).layout.title.text
    if name != "differential":
        torch.testing.assert_close(found.values.sum(dim=-1), torch.ones_like(found.values[..., 0]))


@pytest.mark.parametrize("name", ["class_token", "attention_pool", "attention_pool_of_all_tokens"])
def test_by_default_it_is_the_last_attention(name):
    model, images = build(name)
    _, cache = model.run_with_cache(images)
    found = vitlens.attention(model, images)
    if name == "class_token":
        torch.testing.assert_close(found.values, cache["pattern", -1][:, :, 0])
        return
    torch.testing.assert_close(found.values[..., model.read_tokens], cache["pool.hook_pattern"][:, :, 0])
    torch.testing.assert_close(found.values.sum(dim=-1), torch.ones_like(found.values[..., 0]))
    one = vitlens.attention(model, images, head="pool H2")
    torch.testing.assert_close(one.values, found.values[:, 2:3])
    assert one.plot().layout.title.text == "What the pool's learned query attends to in head pool H2".replace(
        "'", "&#x27;"
    )
    with pytest.raises(InputError, match="leave queries= out"):
        vitlens.attention(model, images, queries="patches")
    with pytest.raises(InputError, match="read them in two calls"):
        vitlens.attention(model, images, head=["pool H0", "L0H1"])


def test_heads_and_queries():
    model, images = build("registers")
    _, cache = model.run_with_cache(images)
    n_prefix = model.cfg.n_prefix_tokens
    several = vitlens.attention(model, images, head=["L2H1", (0, -1), "L2H1"], queries=patch(1, 2))
    assert several.axes["head"] == ["L2H1", "L0H3"]
    expected = torch.stack([cache["pattern", 2][:, 1, n_prefix + 5], cache["pattern", 0][:, 3, n_prefix + 5]], dim=1)
    torch.testing.assert_close(several.values, expected)
    assert several.plot().layout.title.text == "What patch (1, 2) attends to"
    area = vitlens.attention(model, images, head=(1, 2), queries=box(0, 0, 2, 2))
    rows = [n_prefix, n_prefix + 1, n_prefix + 3, n_prefix + 4]
    torch.testing.assert_close(area.values[:, 0], cache["pattern", 1][:, 2, rows].mean(dim=1))
    assert len([shape for shape in area.plot().layout.shapes if shape.line.color]) == 2 * 4
    inside = torch.zeros(3, *model.cfg.image_size, dtype=torch.bool)
    inside[:, :16, :16] = True
    inside[2, 16:, 16:] = True
    about = vitlens.attention(model, images, head="L1H0", queries="object", masks=inside)
    for row, queries in enumerate([[0], [0], [0, 4, 5, 7, 8]]):
        own = cache["pattern", 1][row, 0, [n_prefix + query for query in queries]].mean(dim=0)
        torch.testing.assert_close(about.values[row, 0], own)
    assert vitlens.attention(model, images, head="L0H0", queries=1).settings["queries"] == "the register 1 token"


def test_what_does_not_exist_is_refused():
    model, images = build("class_token")
    for wrong, sentence in {
        "L9H0": "no block 9",
        "L0H9": "no head 9",
        "mlp": 'such as "L9H0"',
        "pool H0": "has no attention pool",
    }.items():
        with pytest.raises(InputError, match=sentence):
            vitlens.attention(model, images, head=wrong)
    with pytest.raises(InputError, match="leave block= out"):
        vitlens.attention(model, images, head="L0H0", block=1)
    with pytest.raises(InputError, match="there is no picture 5"):
        vitlens.attention(model, images).plot(image=5)
