"""What a model trained with text makes of sentences: embeddings that lie beside those of its pictures."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vitlens.arguments import checked, items, short
from vitlens.errors import InputError
from vitlens.model.placement import read_device, read_dtype
from vitlens.text.readers.door import open_texts

#: Sentences that are embedded at once.
BATCH = 256
#: Vectors that are shorter are scaled before they are normed.
SHORTEST_EXACT = 1e-9
#: What logits may mean: the texts share a softmax (CLIP), or each stands for itself (SigLIP).
COMPARED = ("softmax", "sigmoid")


class TextTower:
    """Embeds texts into the space in which a model's picture embeddings lie: unit vectors, means over prompt templates.

    logit of a text = scale · cos(picture, text) + bias.

    Args:
        embed: a function from a list of strings to a tensor or array [text, features], of any lengths.
        scale: CLIP's exp(logit_scale).
        bias: SigLIP's logit_bias.
        output: what the logits mean: "softmax" (CLIP) or "sigmoid" (SigLIP), see `HookedViT.set_output`.
        templates: sentences with {} where a text goes, such as "a photo of a {}."; a text's embedding is the mean over them.
        name: of the tower, for titles.

    Raises:
        InputError: no function, a template without {}, a scale that is not positive, another output.

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
        scale: float = 1.0,
        bias: float | None = None,
        output: str = "softmax",
        templates: str | Sequence[str] = "{}",
        name: str = "texts",
    ) -> None:
        if not callable(embed):
            raise InputError(f"embed= is a function from a list of strings to a tensor, not {short(embed)}")
        if output not in COMPARED:
            raise InputError(f"output= is one of {', '.join(COMPARED)}, not {short(output)}")
        if scale <= 0:
            raise InputError(f"scale= is a positive number (CLIP's exp(logit_scale)), not {short(scale)}")
        self._embed, self.scale, self.bias, self.output, self.name = embed, float(scale), bias, output, name
        self.templates = read_templates(templates)

    @classmethod
    @checked
    def from_pretrained(
        cls,
        source: Any,
        *,
        tokenizer: Any = None,
        templates: str | Sequence[str] = "{}",
        scale: float | None = None,
        bias: float | None = None,
        name: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> "TextTower":
        """The tower of texts of a CLIP, MetaCLIP 2, SigLIP or SigLIP 2 of Hugging Face, or of a model of open_clip.

        `HookedViT.from_pretrained` opens the tower of pictures of the same source. Texts are read as the library itself
        reads them: SigLIP's are padded to the tower's length, capitals and punctuation are as the tokenizer has them, and
        the end of a text that is too long is cut, with a warning that says which.

        Args:
            source: a module of that library (a whole model, or a tower with its projection); a folder with its weights,
                configuration and tokenizer; or "owner/name" on Hugging Face's hub.
            tokenizer: for a module: a tokenizer or processor of transformers, or its folder; for a module of open_clip (or
                OpenAI's) `open_clip.get_tokenizer(name)`. By default the one beside the weights.
            templates: sentences with {} where a text goes, such as `vitlens.text.PHOTO_TEMPLATES`.
            scale, bias: in place of the source's own exp(logit_scale) and logit_bias.
            name: for titles; by default the module's class or the folder's name.
            device, dtype: of a folder, where and in which precision texts are read; by default the CPU, and as the weights
                are saved. A module is used where it is.

        Raises:
            InputError: a source of another kind, without texts or a tokenizer, or whose files cannot be read; a tokenizer of
                another model.

        Source: Radford et al. 2021 (CLIP), section 2.4; Zhai et al. 2023 (SigLIP), equation 1, for scale and bias.

        Examples:
            >>> import vitlens
            >>> from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
            >>> words = ["c", "a", "t</w>", "<|startoftext|>", "<|endoftext|>"]
            >>> tokenizer = CLIPTokenizer({word: i for i, word in enumerate(words)}, [], model_max_length=8)
            >>> small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
            >>> reader = {**small, "vocab_size": 5, "max_position_embeddings": 8, "bos_token_id": 3, "eos_token_id": 4}
            >>> config = CLIPConfig(vision_config={**small, "image_size": 32}, text_config=reader, projection_dim=24)
            >>> tower = vitlens.text.TextTower.from_pretrained(CLIPModel(config), tokenizer=tokenizer)
            >>> tower.embed(["cat", "a cat"]).shape
            torch.Size([2, 24])
        """
        found = open_texts(source, tokenizer, read_device(device), read_dtype(dtype))
        factor = found.scale if scale is None else scale
        if factor is None:
            factor = 1.0
            warnings.warn(
                f"{found.name} has no logit_scale, so its logits are cosines: pass scale=, that of the whole model",
                stacklevel=3,
            )
        shift = found.bias if bias is None else bias
        return cls(
            found.embed,
            scale=factor,
            bias=shift,
            output="softmax" if shift is None else "sigmoid",
            templates=templates,
            name=found.name if name is None else name,
        )

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
        found = [self._rows(sentences[start : start + BATCH]) for start in range(0, len(sentences), BATCH)]
        widths = {some.shape[1] for some in found}
        if len(widths) > 1:
            raise InputError(
                f"the function of {self.name} gives vectors of {' and of '.join(map(str, widths))} numbers"
            )
        rows = torch.cat(found)
        wrong = ~rows.isfinite().all(dim=1) | ~rows.any(dim=1)
        for i in wrong.nonzero()[:1, 0].tolist():
            raise InputError(f"the embedding of {sentences[i]!r} is zero or not finite")
        lengths = rows.norm(dim=1, keepdim=True)
        # Of very large and very small numbers the squares leave the range of floats.
        extreme = (lengths < SHORTEST_EXACT) | lengths.isinf()
        return F.normalize(torch.where(extreme, rows / rows.abs().amax(dim=1, keepdim=True), rows), dim=1)

    def _rows(self, sentences: list[str]) -> Float[Tensor, "text features"]:
        """What the function gives for some sentences, as it stands: a tensor, an array, or a list of rows.

        Raises:
            InputError: anything else.
        """
        given = self._embed(sentences)
        try:
            rows = torch.stack([torch.as_tensor(row) for row in given]) if is_rows(given) else torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError):
            rows = None
        if (
            rows is None
            or rows.is_nested
            or rows.layout != torch.strided
            or rows.is_meta
            or not rows.is_floating_point()
        ):
            raise InputError(
                f"the function of {self.name} gives floats [text, features] for a list of texts, not {short(given)}"
            )
        if rows.ndim != 2 or len(rows) != len(sentences) or not rows.shape[1]:
            raise InputError(
                f"the function of {self.name} gives floats [text, features] for a list of texts, not {list(rows.shape)} for "
                f"{len(sentences)} of them"
            )
        # Of half precision, norms and means are not.
        return rows if rows.dtype == torch.float64 else rows.float()

    def __repr__(self) -> str:
        return f"TextTower({self.name}, scale {self.scale:.4g}, {len(self.templates)} templates)"


def is_rows(given: Any) -> bool:
    """Whether it is a list of vectors."""
    return isinstance(given, (list, tuple)) and all(isinstance(row, (Tensor, np.ndarray)) for row in given)


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
