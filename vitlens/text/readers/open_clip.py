"""The text towers of open_clip, and OpenAI's modules, which have the same names: CLIP, SigLIP, custom texts, CoCa."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from vitlens.arguments import short
from vitlens.errors import InputError, reason
from vitlens.model.checkpoints.formats import READ_ERRORS, read_tensors
from vitlens.model.checkpoints.timm_models import weights_in
from vitlens.text.readers.reading import (
    TextReading,
    check_tokens,
    evaluating,
    scale_and_bias,
    warn_of_cut_texts,
    warn_of_unread_ends,
)


@dataclass(frozen=True)
class OpenClipTexts:
    """Embeds texts by `encode_text`, from tokens of the tower's own length."""

    module: Any
    tokenizer: Any
    length: int | None

    def __call__(self, texts: list[str]) -> Tensor:
        tokens = self._read(texts)
        if tokens.ndim != 2 or tokens.is_floating_point() or self.length not in (None, tokens.shape[1]):
            raise InputError(
                f"the tower reads {self.length} tokens of each text, and the tokenizer gives {list(tokens.shape)} of "
                f"{tokens.dtype} for {len(texts)} texts: pass the tokenizer of this model"
            )
        if self.length is not None:
            self._warn_of_cut(texts, tokens, self.length)
        check_tokens(tokens, vocabulary(self.module))
        with evaluating(self.module):
            return self.module.encode_text(tokens.to(next(self.module.parameters()).device))

    def _read(self, texts: list[str]) -> Tensor:
        has_length = self.length is not None and hasattr(self.tokenizer, "context_length")
        try:
            return torch.as_tensor(self.tokenizer(texts, **({"context_length": self.length} if has_length else {})))
        except (RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"the tokenizer cannot read these texts: {reason(error)}") from None

    def _warn_of_cut(self, texts: list[str], tokens: Tensor, length: int) -> None:
        ours = self.tokenizer
        if hasattr(ours, "tokenizer"):
            cleaned = [ours.clean_fn(text) for text in texts] if hasattr(ours, "clean_fn") else texts
            words = ours.tokenizer(cleaned, add_special_tokens=False, verbose=False)["input_ids"]
            warn_of_cut_texts(texts, words, length - ours.tokenizer.num_special_tokens_to_add(), ours.tokenizer.decode)
        elif hasattr(ours, "encode") and hasattr(ours, "decode"):
            warn_of_cut_texts(texts, [ours.encode(text) for text in texts], length - 2, ours.decode)
        else:
            warn_of_unread_ends(texts, tokens, self._read)


def read_open_clip_texts(module: Any, tokenizer: Any) -> TextReading:
    """A whole model of open_clip, or of OpenAI, with its tokenizer.

    Raises:
        InputError: no tokenizer.
    """
    name = type(module).__name__
    if tokenizer is None:
        raise InputError(f"this {name} needs its tokenizer: pass tokenizer=open_clip.get_tokenizer(NAME)")
    if not callable(tokenizer):
        raise InputError(f"tokenizer= is a function from a list of strings to their tokens, not {short(tokenizer)}")
    scale, bias = scale_and_bias(module)
    return TextReading(OpenClipTexts(module, tokenizer, context_length(module, tokenizer)), scale, bias, name)


def read_open_clip_folder(folder: Path, tokenizer: Any, dtype: torch.dtype | None) -> TextReading:
    """A folder with open_clip_config.json, weights, and the files of the tokenizer where it is not open_clip's own.

    Raises:
        InputError: open_clip is not installed, or cannot read it.
    """
    try:
        import open_clip
    except ImportError:
        raise InputError("open_clip is not installed: pip install open_clip_torch") from None
    weights = weights_in(folder)
    try:
        with _unheard("No pretrained weights loaded"):
            model: Any = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
        # In the precision of the file; open_clip would make it float32.
        model = model.to(dtype or _saved_dtype(weights)).eval()
        open_clip.load_checkpoint(model, str(weights), weights_only=True)
        cutter = open_clip.get_tokenizer(f"local-dir:{folder}") if tokenizer is None else tokenizer
    except (*READ_ERRORS, ImportError) as error:
        raise InputError(f"open_clip cannot read {folder} with its tokenizer: {reason(error)}") from None
    # The tower of pictures is opened elsewhere.
    model.visual = nn.Identity()
    found = read_open_clip_texts(model, cutter)
    return TextReading(found.embed, found.scale, found.bias, folder.resolve().name)


def context_length(module: Any, tokenizer: Any) -> int | None:
    """How many tokens the tower takes: its own number, but for a Hugging Face tower, whose places are more than it was
    trained with; None where nothing tells it."""
    tower = getattr(module, "text", module)
    of_huggingface = type(tower).__name__ == "HFTextEncoder"
    return getattr(tokenizer if of_huggingface else tower, "context_length", None)


def vocabulary(module: Any) -> int | None:
    """How many tokens the tower knows, where it tells that."""
    return getattr(getattr(module, "text", module), "vocab_size", None) or None


@contextmanager
def _unheard(beginning: str) -> Iterator[None]:
    """Keeps back what open_clip logs of a model whose weights come next."""

    def is_another(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(beginning)

    root = logging.getLogger()
    root.addFilter(is_another)
    try:
        yield
    finally:
        root.removeFilter(is_another)


def _saved_dtype(weights: Path) -> torch.dtype:
    """The precision of the scale, which files of lower precision keep in float32."""
    if weights.suffix == ".safetensors":
        with safe_open(weights, "pt") as file:
            scale = file.get_tensor("logit_scale") if "logit_scale" in set(file.keys()) else None
    else:
        tensors = read_tensors(weights)
        scale = tensors.get("logit_scale") if isinstance(tensors, Mapping) else None
    return torch.float32 if scale is None else scale.dtype
