"""Finds the files of the demo; imports nothing heavy, because shell completion uses it."""

from pathlib import Path

from vitlens.errors import InputError


def demo_folder() -> Path:
    """Where the demo's files are: inside an installed package, or in assets/ of a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "assets" / "demo", package.parent / "assets" / "demo"):
        if (folder / "model.json").exists():
            return folder
    raise InputError("this installation of vitlens holds no demo model: reinstall it, or run from a checkout")
