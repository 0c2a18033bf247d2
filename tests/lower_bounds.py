"""Prints the oldest versions that a pyproject.toml allows, as constraints for pip: lower_bounds.py pyproject.toml"""

import re
import sys
import tomllib
from pathlib import Path


def lower_bounds(requirements: list[str]) -> list[str]:
    """ "torch>=2.6,<3" becomes "torch==2.6"."""
    found = [re.match(r"([\w.-]+)>=([\w.]+)", requirement) for requirement in requirements]
    return [f"{match[1]}=={match[2]}" for match in found if match]


if __name__ == "__main__":
    project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
    print("\n".join(lower_bounds(project["dependencies"])))
