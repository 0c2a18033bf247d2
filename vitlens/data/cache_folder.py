"""The folder of the library `datasets` for its tables: its own, or a temporary one if that cannot be written."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import datasets


@cache
def cache_folder() -> str | None:
    """None for the library's own folder; otherwise a temporary folder, which is deleted when this process ends.

    So a home folder that is full or cannot be written does not end a run over pictures in other folders.
    """
    usual = Path(datasets.config.HF_DATASETS_CACHE)
    try:
        usual.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=usual) as probe:
            probe.write(b"0")
    except OSError:
        folder = tempfile.mkdtemp(prefix="vitlens-datasets-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder
    return None
