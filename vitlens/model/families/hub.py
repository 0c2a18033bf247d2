"""Fetches the configuration and the weights of a repository of Hugging Face's hub."""

import re
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from vitlens.errors import InputError, reason
from vitlens.model.checkpoints.timm_models import has_network

#: owner/name, and a revision after @.
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?:@[\w./-]+)?")
CONFIGURATIONS = ("config.json", "preprocessor_config.json", "open_clip_config.json", "adapter_config.json")
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece*.model"),
)
#: Of several kinds of weights in a repository the first is taken.
KINDS_OF_WEIGHTS = (
    ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
    ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
    ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json"),
    ("open_clip_pytorch_model.bin",),
)


def fetch_repository(name: str) -> Path:
    """The folder in which the hub's client keeps the files of a repository, which are fetched if they are not there.

    Raises:
        InputError: no network, no such repository, no weights in it.
    """
    here = _weights(name, only_local=True)
    if here is not None:
        return here
    there = _asked(name, "its weights are", "them", _weights)
    if there is None:
        raise InputError(
            f"the repository {name} holds no PyTorch weights ({KINDS_OF_WEIGHTS[0][0]}, {KINDS_OF_WEIGHTS[2][0]}, …)"
        )
    return there


def fetch_tokenizer(name: str) -> None:
    """Puts the files of a repository's tokenizer beside its weights, where they are not there.

    Raises:
        InputError: no network, no such repository.
    """
    if _tokenizer(name, only_local=True) is None:
        _asked(name, "its tokenizer is", "it", _tokenizer)


def _asked(name: str, what: str, them: str, fetch: Callable[..., Path | None]) -> Path | None:
    """What the hub gives.

    Raises:
        InputError: no network, no such repository.
    """
    if not has_network():
        raise InputError(
            f"{name} is no folder or file, {what} not on this machine, and there is no network to fetch {them} from "
            f"{constants.ENDPOINT}: pass a folder or file that you have"
        )
    try:
        return fetch(name, only_local=False)
    except RepositoryNotFoundError:
        raise InputError(f"there is no file or folder {name}, and no such repository on the hub") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise InputError(f"the hub does not give {name}: {reason(error)}") from None


def _weights(name: str, only_local: bool) -> Path | None:
    """Where the files are, if there are weights among them."""
    for patterns in KINDS_OF_WEIGHTS:
        folder = _snapshot(name, [*CONFIGURATIONS, *patterns], only_local)
        if folder is None or any(any(folder.glob(pattern)) for pattern in patterns):
            return folder
    return None


def _tokenizer(name: str, only_local: bool) -> Path | None:
    """Where the files are, if there are some of a tokenizer among them."""
    folder = _snapshot(name, [*TOKENIZER_FILES], only_local)
    found = folder is not None and any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES)
    return folder if found else None


def _snapshot(name: str, patterns: list[str], only_local: bool) -> Path | None:
    """The folder of the hub's client; None where it has none and may not ask."""
    repository, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repository, revision=revision or None, allow_patterns=patterns, local_files_only=only_local
            )
        )
    except LocalEntryNotFoundError:
        return None
