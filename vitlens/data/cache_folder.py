"""The folder of the library `datasets` for its tables: its own, or a temporary one if that cannot be written."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import datasets


@cache
def cache_folder() -> str | None:
    """None for the library's own folder; otherwise a folder that goes when this process ends.

    A home folder that cannot be written, or is full, does not end a run over pictures that lie elsewhere.
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
