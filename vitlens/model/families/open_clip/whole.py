"""Takes the vision tower out of a whole CLIP of OpenAI or open_clip, which reads texts too."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config
from vitlens.model.families.recipe import Recipe

#: What reads texts, and compares both.
TEXT_PARTS = re.compile(
    r"(text|text_decoder|transformer|token_embedding|positional_embedding|ln_final|text_projection|cls_emb|logit_scale"
    r"|logit_bias|input_resolution|context_length|vocab_size)(?:\.|$)"
)


def of_whole_model(read: Callable[[State, Config], Recipe]) -> Callable[[State, Config], Recipe]:
    """The same for the tensors of a whole model, whose tower is called `visual`; the tower of texts is left out by name."""

    def read_whole(state: State, config: Config) -> Recipe:
        tower = {key.removeprefix("visual."): tensor for key, tensor in state.items() if key.startswith("visual.")}
        others = {key: tensor for key, tensor in state.items() if not key.startswith("visual.")}
        parts = {key: match[1] for key in others if (match := TEXT_PARTS.match(key))}
        named = tuple(f"{part} ({n} tensor{'s' if n > 1 else ''})" for part, n in Counter(parts.values()).items())
        recipe = read(tower, config)
        unknown = {key: tensor for key, tensor in others.items() if key not in parts}
        return replace(recipe, state={**recipe.state, **unknown}, unused=recipe.unused + named)

    return read_whole
