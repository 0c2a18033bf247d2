"""The text towers of Hugging Face: CLIP, MetaCLIP 2, SigLIP and SigLIP 2, whole models and towers with a projection."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitlens.arguments import short
from vitlens.errors import InputError, nearest, reason
from vitlens.model.checkpoints.formats import READ_ERRORS
from vitlens.model.families.hub import TOKENIZER_FILES
from vitlens.text.readers.reading import TextReading, check_tokens, evaluating, scale_and_bias, warn_of_cut_texts

#: Towers alone whose pooled vector lies in the space of pictures.
PROJECTS_ITSELF = ("SiglipTextModel", "Siglip2TextModel")
#: The kinds of whole models that folders hold.
MODEL_TYPES = ("clip", "metaclip_2", "siglip", "siglip2")
#: Tokens as models take them.
INPUTS = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class HuggingFaceTexts:
    """Embeds texts as the library's own processor and model do.

    SigLIP's tower reads the last of all places, so its texts are padded to the length that it was trained with; CLIP's is
    blind to what follows the end of a text. Lower case and other canonical forms are the tokenizer's own.
    """

    module: Any
    tokenizer: Any
    length: int
    is_siglip: bool

    def __call__(self, texts: list[str]) -> Tensor:
        cutter = self.tokenizer
        words = cutter(texts, add_special_tokens=False, verbose=False)["input_ids"]
        room = self.length - cutter.num_special_tokens_to_add()
        warn_of_cut_texts(texts, words, room, cutter.decode, cutter.truncation_side == "left")
        found = cutter(
            texts,
            padding="max_length" if self.is_siglip else True,
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        check_tokens(found["input_ids"], text_config(self.module).vocab_size)
        device = next(self.module.parameters()).device
        tokens = {name: found[name].to(device) for name in INPUTS if name in found}
        with evaluating(self.module):
            return _vectors(self.module, tokens)


def read_huggingface_texts(module: nn.Module, tokenizer: Any) -> TextReading:
    """A module of transformers with its tokenizer; by default that of the folder that it was loaded from.

    Raises:
        InputError: a module without a tower of texts, or without a projection into the space of pictures; no tokenizer.
    """
    name = type(module).__name__
    if not (hasattr(module, "get_text_features") or hasattr(module, "text_projection") or name in PROJECTS_ITSELF):
        raise InputError(
            f"this {name} gives no texts a place among pictures: pass the whole model (CLIPModel, SiglipModel, …), or a "
            "CLIPTextModelWithProjection"
        )
    if tokenizer is None:
        folder = Path(str(getattr(module, "name_or_path", "") or ""))
        if not has_tokenizer(folder):
            raise InputError(f"a {name} needs its tokenizer: pass tokenizer=, or the folder that holds both")
        tokenizer = folder
    config, cutter = text_config(module), read_tokenizer(tokenizer)
    length = min(config.max_position_embeddings, cutter.model_max_length)
    scale, bias = scale_and_bias(module)
    return TextReading(HuggingFaceTexts(module, cutter, length, "siglip" in config.model_type), scale, bias, name)


def read_huggingface_folder(
    folder: Path, config: Mapping[str, Any], tokenizer: Any, dtype: torch.dtype | None
) -> TextReading:
    """What save_pretrained wrote of a model, and of its tokenizer.

    Raises:
        InputError: a model of another kind, or without texts; weights that cannot be read; no tokenizer.
    """
    import transformers
    from transformers.utils import logging

    kind, names = config.get("model_type"), config.get("architectures") or []
    towers = [name for name in names if name.endswith("TextModelWithProjection") or name in PROJECTS_ITSELF]
    if not towers and kind not in MODEL_TYPES:
        raise InputError(
            f"{folder} holds a {kind or 'model of no known kind'}, whose texts vitlens does not read: it reads those of "
            f"{', '.join(MODEL_TYPES)} (the nearest are {nearest(str(kind), MODEL_TYPES)})"
        )
    if tokenizer is None and not has_tokenizer(folder):
        raise InputError(f"{folder} holds no files of a tokenizer (tokenizer.json, …): pass tokenizer=")
    loader: Any = getattr(transformers, towers[0]) if towers else transformers.AutoModel
    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        module, told = loader.from_pretrained(
            folder,
            dtype=dtype or "auto",
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except READ_ERRORS as error:
        raise InputError(f"{folder} cannot be read as a {kind}: {reason(error)}") from None
    finally:
        if had_bars:
            logging.enable_progress_bar()
    missing = sorted(told["missing_keys"])
    if missing:
        raise InputError(f"{folder} lacks weights of a {kind} with its texts: {', '.join(missing[:3])}, …")
    # The tower of pictures is opened elsewhere.
    module.vision_model = nn.Identity()
    found = read_huggingface_texts(module.eval(), folder if tokenizer is None else tokenizer)
    return TextReading(found.embed, found.scale, found.bias, folder.resolve().name)


def text_config(module: Any) -> Any:
    """The configuration of the tower of texts."""
    return getattr(module.config, "text_config", module.config)


def has_tokenizer(folder: Path) -> bool:
    """Whether there are files of a tokenizer in a folder."""
    return folder.is_dir() and any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES)


def read_tokenizer(given: Any) -> Any:
    """A tokenizer of transformers, itself, inside of a processor, or saved in a folder.

    Raises:
        InputError: none of these.
    """
    if isinstance(given, (str, Path)):
        folder = Path(given).expanduser()
        if not has_tokenizer(folder):
            raise InputError(f"{folder} holds no files of a tokenizer (tokenizer.json, …)")
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (*READ_ERRORS, ImportError) as error:
            raise InputError(f"the tokenizer in {folder} cannot be read: {reason(error)}") from None
    found = getattr(given, "tokenizer", given)
    if not callable(found) or not hasattr(found, "num_special_tokens_to_add"):
        raise InputError(
            f"tokenizer= of a model of Hugging Face is a tokenizer of transformers, or the folder of one, not {short(given)}"
        )
    return found


def _vectors(module: Any, tokens: dict[str, Tensor]) -> Tensor:
    """The embeddings of texts, projected into the space of pictures."""
    if hasattr(module, "get_text_features"):
        return module.get_text_features(**tokens).pooler_output
    answer = module(**tokens)
    return answer.text_embeds if hasattr(answer, "text_embeds") else answer.pooler_output
