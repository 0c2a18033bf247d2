"""The page of hook points names those that models have, with the shapes that their values have."""

import re

import pytest
import torch
from doc_pages import PAGES
from variants import OTHERS, VARIANTS, pictures

from vitlens import HookedViT

ROW = re.compile(r"^\| `([\w.]+)` \| .+ \| (\[.+\]) \|$", re.MULTILINE)
#: The page's shapes by hook point: one, or two where differential attention has another.
SHAPES = {
    name: re.findall(r"\[(.+?)\]", shapes) for name, shapes in ROW.findall((PAGES / "hook_points.md").read_text())
}
MODELS = VARIANTS | OTHERS


def of_all_blocks(name: str) -> str:
    return re.sub(r"^blocks\.\d+\.", "blocks.l.", name)


def test_the_page_names_every_hook_point_once_and_no_other():
    found = {of_all_blocks(name) for build in MODELS.values() for name in HookedViT.from_timm(build()).hook_dict}
    assert sorted(SHAPES) == sorted(found)
    assert len(ROW.findall((PAGES / "hook_points.md").read_text())) == len(SHAPES)


@pytest.mark.parametrize(
    "variant",
    [
        "distilled", "registers", "norm_pre", "average_with_class_token", "qk_norm", "parallel", "post_norm", "differential",
        "packed_gate", "sub_norms", "gated_attention", "rotary", "relative", "attention_pool",
    ],
)  # fmt: skip
def test_values_have_the_shapes_of_the_page(variant):
    model = HookedViT.from_timm(MODELS[variant]())
    cfg = model.cfg
    with torch.no_grad():
        _, cache = model.run_with_cache(pictures(cfg, 2).to(model.dtype))
    sizes = {"B": 2, "T": cache["hook_embed"].shape[1], "P": cache["hook_patch_embed"].shape[1], "1": 1}
    sizes |= {"H": cfg.n_heads, "2H": 2 * cfg.n_heads, "d_h": cfg.d_head, "d_h/2": cfg.d_head // 2}
    sizes |= {"d": cfg.d_model, "d_mlp": cfg.d_mlp, "C": cfg.n_classes}
    if "pool.hook_k" in cache:
        sizes["R"] = cache["pool.hook_k"].shape[1]
    for name, value in cache.items():
        is_other = not cfg.n_classes if name == "hook_logits" else variant == "differential"
        shape = SHAPES[of_all_blocks(name)][-1 if is_other else 0]
        assert list(value.shape) == [sizes[symbol] for symbol in shape.split(", ")], name
