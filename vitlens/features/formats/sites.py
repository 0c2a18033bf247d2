"""The hook point of vitlens that holds what another library calls a site; None, with a warning, where there is none."""

import re
import warnings

from vitlens.model.hooks.hook_points import hook_name

#: Names within a block of TransformerLens and ViT-Prisma that mean the same here.
SAME_IN_TRANSFORMER_LENS = (
    "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out",
    "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z", "mlp.hook_pre", "mlp.hook_post",
)  # fmt: skip
#: Other names of TransformerLens, and ours.
OTHER_IN_TRANSFORMER_LENS = {"mlp.hook_out": "hook_mlp_out", "attn.hook_out": "hook_attn_out"}
#: Names of a submodule in dictionary_learning's scripts, and our site.
IN_DICTIONARY_LEARNING = {
    r"resid_post_layer_(\d+)": "resid_post",
    r"attention_out_layer_(\d+)": "attn_out",
    r"mlp_out_layer_(\d+)": "mlp_out",
}
#: Modules of Hugging Face's and timm's models, what they read and what they return. Attention and MLPs are in it for models
#: without LayerScale alone: it follows these modules, and our hook points hold what it returns.
MODULES: dict[str, tuple[str | None, str]] = {
    r"(?:.*\.)?(?:layers?|blocks|resblocks|h)\.(\d+)": ("resid_pre", "resid_post"),
    r"(?:vision_model\.)?encoder\.layers\.(\d+)\.self_attn": (None, "attn_out"),
    r"(?:vision_model\.)?encoder\.layers\.(\d+)\.mlp": (None, "mlp_out"),
}


def transformer_lens_hook(name: str) -> str | None:
    """Of "blocks.3.hook_resid_post" and its like, without a warning."""
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if found is None or found[2] in SAME_IN_TRANSFORMER_LENS:
        return found and name
    other = OTHER_IN_TRANSFORMER_LENS.get(found[2])
    return other and f"blocks.{found[1]}.{other}"


def hook_of_transformer_lens(name: str, library: str) -> str | None:
    """Of "blocks.3.hook_resid_post" and its like."""
    found = transformer_lens_hook(name)
    if found is not None:
        return found
    because = (
        "it holds the norm's output with its weight and bias, which vitlens' hook point of that name does not have"
        if name.endswith("hook_normalized")
        else "vitlens has no hook point of this meaning"
    )
    warn_no_hook(name, library, because)
    return None


def hook_of_submodule(name: str | None) -> str | None:
    """Of what dictionary_learning calls a submodule."""
    if not name:
        return None
    for pattern, site in IN_DICTIONARY_LEARNING.items():
        if found := re.fullmatch(pattern, name):
            return hook_name(int(found[1]), site)
    warn_no_hook(name, "dictionary_learning", "vitlens does not know this name")
    return None


def hooks_of_module(name: str, library: str) -> tuple[str | None, str | None]:
    """What a module of a model reads and what it returns; a name without the number of a block says nothing."""
    if not re.search(r"\.\d+(\.|$)", name):
        return None, None
    for pattern, (read, returned) in MODULES.items():
        if found := re.fullmatch(pattern, name):
            block = int(found[1])
            return None if read is None else hook_name(block, read), hook_name(block, returned)
    warn_no_hook(name, library, "vitlens does not know what this module's output is in the stream")
    return None, None


def warn_no_hook(name: str, library: str, because: str) -> None:
    """Says why a dictionary has no hook point of its own."""
    warnings.warn(
        f"{library} trained the dictionary at {name!r}, and {because}: pass hook= wherever you use it", stacklevel=6
    )
