"""The demo's text network: the sum of a sentence's words and a small MLP, with a fixed list of words."""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlens.errors import InputError

WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")


class SumOfWords(nn.Module):
    """Embeds sentences of known words; their order says nothing, and filler words such as articles are skipped.

    e(text) = s + W_2 GELU(W_1 LN(s)), where s is the sum of the embeddings of the text's words.

    Args:
        words: those that have an embedding, in lower case.
        fillers: those that are skipped.
        width: of a word's embedding, and of the text's.
    """

    def __init__(self, words: Sequence[str], fillers: Sequence[str], width: int) -> None:
        super().__init__()
        self.index = {word: i for i, word in enumerate(words)}
        self.fillers = frozenset(fillers)
        self.embed = nn.EmbeddingBag(len(words), width, mode="sum")
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "text width"]:
        """Raises:
        InputError: a word that is not in the list; a text of filler words alone.
        """
        tokens = [self.tokens(text) for text in texts]
        starts = torch.tensor([0, *[len(some) for some in tokens[:-1]]]).cumsum(dim=0)
        flat = torch.tensor([token for some in tokens for token in some])
        summed = self.embed(flat.to(self.embed.weight.device), starts.to(self.embed.weight.device))
        return summed + self.mlp(summed)

    def tokens(self, text: str) -> list[int]:
        """The indices of a text's words; a plural stands for its singular, and the other way round."""
        found = []
        for word in WORD.findall(text.lower()):
            known = next((form for form in (word, word + "s", word.removesuffix("s")) if form in self.index), None)
            if known is not None:
                found.append(self.index[known])
            elif word not in self.fillers:
                raise InputError(f"the demo knows no word {word!r}; it knows {', '.join(self.index)}")
        if not found:
            raise InputError(f"{text!r} names nothing that the demo knows: {', '.join(self.index)}")
        return found
