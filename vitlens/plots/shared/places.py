"""Names of hook points in the words of figures: code names stand in captions, never in titles."""

import re

#: Of a site in every block.
SITE_WORDS = {
    "resid_pre": "the residual stream that enters each block",
    "resid_mid": "the residual stream between attention and MLP",
    "resid_post": "the residual stream after each block",
    "attn_out": "what attention writes",
    "mlp_out": "what MLPs write",
    "z": "heads",
    "post": "MLP neurons",
    "q": "queries",
    "k": "keys",
    "v": "values",
    "pattern": "attention patterns",
    "path": "direct paths",
}
#: Of a hook point in one block.
_PLACES = {
    "hook_resid_pre": "in the residual stream that enters block {}",
    "hook_resid_mid": "in the residual stream within block {}",
    "hook_resid_post": "in the residual stream after block {}",
    "hook_attn_out": "in what attention writes in block {}",
    "hook_mlp_out": "in what the MLP writes in block {}",
    "attn.hook_z": "in the attention of block {}",
    "mlp.hook_post": "in the MLP of block {}",
}


def site_in_words(site: str) -> str:
    """A site, or several with commas between; one without words of its own keeps its name, with spaces."""
    return ", ".join(SITE_WORDS.get(name.strip(), name.strip().replace("_", " ")) for name in site.split(","))


def hook_in_words(hook: str) -> str:
    """Where a hook point is: "in the residual stream after block 5"; "" for one that has no words."""
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
    return _PLACES.get(found[2], "in block {}").format(found[1]) if found else ""
