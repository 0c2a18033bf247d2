"""Fetches the configuration and the weights of a repository of Hugging Face's hub."""

import re
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from vitlens.errors import InputError, reason
from vitlens.model.checkpoints.timm_models import has_network

#: owner/name, and a revision after @.
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?:@[\w./-]+)?")
CONFIGURATIONS = ("config.json", "preprocessor_config.json", "open_clip_config.json", "adapter_config.json")
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
    repository, _, revision = name.partition("@")
    here = _folder(repository, revision, only_local=True)
    if here is not None:
        return here
    if not has_network():
        raise InputError(
            f"{name} is no folder or file, its weights are not on this machine, and there is no network to fetch them from "
            f"{constants.ENDPOINT}: pass a folder or file that you have"
        )
    try:
        there = _folder(repository, revision, only_local=False)
    except RepositoryNotFoundError:
        raise InputError(f"there is no file or folder {name}, and no such repository on the hub") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise InputError(f"the hub does not give {name}: {reason(error)}") from None
    if there is None:
        raise InputError(
            f"the repository {name} holds no PyTorch weights ({KINDS_OF_WEIGHTS[0][0]}, {KINDS_OF_WEIGHTS[2][0]}, …)"
        )
    return there


def _folder(repository: str, revision: str, only_local: bool) -> Path | None:
    """Where the files are, if there are weights among them."""
    for patterns in KINDS_OF_WEIGHTS:
        try:
            folder = Path(
                snapshot_download(
                    repository,
                    revision=revision or None,
                    allow_patterns=[*CONFIGURATIONS, *patterns],
                    local_files_only=only_local,
                )
            )
        except LocalEntryNotFoundError:
            return None
        if any(any(folder.glob(pattern)) for pattern in patterns):
            return folder
    return None
