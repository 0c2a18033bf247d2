"""A dictionary where it is used: what it reads, what its features write to, and at which tokens."""

from dataclasses import dataclass
from typing import Any

from vitlens.choose.tokens import TokenSet
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.places import HookPlace, tokens_in_words
from vitlens.model.hooks.hook_points import HookName
from vitlens.pages.dictionary.labels import dictionary_fingerprint
from vitlens.plots.shared.places import hook_in_words


@dataclass(frozen=True)
class DictionaryInPlace:
    """`hook` and `hook_out` are as they were given; `source` and `target` the places that they stand for."""

    sae: SparseAutoencoder
    hook: HookName | None
    hook_out: HookName | None
    source: HookPlace
    target: HookPlace
    tokens: TokenSet

    def facts(self) -> dict[str, Any]:
        """What the page says of it."""
        return {
            "source": self.sae.source,
            "n_features": self.sae.d_sae,
            "reads": hook_in_words(self.source.name) or f"at {self.source.name}",
            "writes": hook_in_words(self.target.name) or f"at {self.target.name}",
            "hook": self.source.name,
            "hook_out": self.target.name if self.target != self.source else None,
            "fingerprint": dictionary_fingerprint(self.sae),
            "tokens": tokens_in_words(self.tokens),
        }
