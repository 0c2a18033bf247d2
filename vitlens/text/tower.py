"""What a model trained with text makes of sentences: embeddings that lie beside those of its pictures."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vitlens.arguments import checked, items, short
from vitlens.errors import InputError

#: Sentences that are embedded at once.
BATCH = 256


class TextTower:
    """Embeds texts into the space in which a model's picture embeddings lie: unit vectors, means over prompt templates.

    logit of a text = scale · cos(picture, text) + bias.

    Args:
        embed: a function from a list of strings to a tensor [text, features], of any lengths.
        scale: CLIP's exp(logit_scale).
        bias: SigLIP's logit_bias.
        output: what the logits mean: "softmax" (CLIP) or "sigmoid" (SigLIP), see `HookedViT.set_output`.
        templates: sentences with {} where a text goes, such as "a photo of a {}."; a text's embedding is the mean over them.
        name: of the tower, for titles.

    Raises:
        InputError: no function, a template without {}.

    Source: Radford et al. 2021, section 3.1.4 (prompt ensembles).

    Examples:
        >>> import torch
        >>> import vitlens
        >>> letters = lambda texts: torch.tensor([[float(text.count(letter)) for letter in "abc"] for text in texts])
        >>> tower = vitlens.text.TextTower(letters, scale=10.0)
        >>> tower.embed(["a bc", "b"])
        tensor([[0.5774, 0.5774, 0.5774],
                [0.0000, 1.0000, 0.0000]])
    """

    @checked
    def __init__(
        self,
        embed: Callable[[list[str]], Any],
        *,
        scale: int | float = 1.0,
        bias: int | float | None = None,
        output: str = "softmax",
        templates: str | Sequence[str] = "{}",
        name: str = "texts",
    ) -> None:
        if not callable(embed):
            raise InputError(f"embed= is a function from a list of strings to a tensor, not {short(embed)}")
        self._embed, self.scale, self.bias, self.output, self.name = embed, float(scale), bias, output, name
        self.templates = read_templates(templates)

    @torch.no_grad()
    @checked
    def embed(
        self, texts: str | Sequence[str], *, templates: str | Sequence[str] | None = None
    ) -> Float[Tensor, "text features"]:
        """The unit vector of each text.

        Args:
            texts: one or several.
            templates: in place of the tower's own.

        Raises:
            InputError: no texts; what is no text; embeddings of another shape, of zeros, or that are not finite.
        """
        chosen = self.templates if templates is None else read_templates(templates)
        wanted = items(texts)
        if not wanted:
            raise InputError("there are no texts: name at least one")
        for text in wanted:
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"a text is a string that is not empty, not {short(text)}")
        means = torch.stack(
            [self._unit([template.replace("{}", text) for text in wanted]) for template in chosen]
        ).mean(dim=0)
        if (means.norm(dim=1) < 1e-6).any():
            raise InputError("the templates' embeddings of a text cancel: choose other templates")
        return F.normalize(means, dim=1)

    def _unit(self, sentences: list[str]) -> Float[Tensor, "text features"]:
        found = []
        for start in range(0, len(sentences), BATCH):
            some = sentences[start : start + BATCH]
            rows = torch.as_tensor(self._embed(some))
            if rows.ndim != 2 or len(rows) != len(some) or not rows.is_floating_point():
                raise InputError(
                    f"the function of {self.name} gives floats [text, features] for a list of texts, not "
                    f"{rows.dtype} {list(rows.shape)} for {len(some)} of them"
                )
            found.append(rows)
        rows = torch.cat(found)
        wrong = ~rows.isfinite().all(dim=1) | ~rows.any(dim=1)
        for i in wrong.nonzero()[:1, 0].tolist():
            raise InputError(f"the embedding of {sentences[i]!r} is zero or not finite")
        return F.normalize(rows, dim=1)

    def __repr__(self) -> str:
        return f"TextTower({self.name}, scale {self.scale:.4g}, {len(self.templates)} templates)"


def read_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Templates, each with one {}.

    Raises:
        InputError: none, or one without {}.
    """
    found = tuple(items(templates))
    for template in found:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise InputError(f"a template is a string with one {{}} where the text goes, not {short(template)}")
    if not found:
        raise InputError('templates= is empty: "{}" leaves texts as they are')
    return found
