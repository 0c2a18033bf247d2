"""Names of tensors in released files of Hugging Face, from those that transformers 5 gives them while a model is loaded.

`save_pretrained` writes the released names, and `torch.save(model.state_dict())` writes the others.
"""

import re

from vitlens.model.checkpoints.files import State

RELEASED = {
    r"(^|\.)layers\.(\d+)\.mlp\.fc1\.": r"\1encoder.layer.\2.intermediate.dense.",
    r"(^|\.)layers\.(\d+)\.mlp\.fc2\.": r"\1encoder.layer.\2.output.dense.",
    r"(^|\.)layers\.(\d+)\.(?=attention\.|layernorm_|lambda_)": r"\1encoder.layer.\2.",
    r"(encoder\.layer\.\d+\.attention)\.q_proj\.": r"\1.attention.query.",
    r"(encoder\.layer\.\d+\.attention)\.k_proj\.": r"\1.attention.key.",
    r"(encoder\.layer\.\d+\.attention)\.v_proj\.": r"\1.attention.value.",
    r"(encoder\.layer\.\d+\.attention)\.o_proj\.": r"\1.output.dense.",
    # DINOv3.
    r"(^|\.)model\.layer\.(?=\d+\.)": r"\1layer.",
}


def released_names(state: State) -> State:
    """The same tensors by the names of released files."""
    found = state
    for ours, released in RELEASED.items():
        found = {re.sub(ours, released, key): tensor for key, tensor in found.items()}
    return found
