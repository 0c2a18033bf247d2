"""The house: chapters in one order, imports that only look back, folders and files of a size that can be read."""

import ast
from itertools import pairwise
from pathlib import Path

import pytest
from public import CHAPTERS

import vitlens

ROOT = Path(vitlens.__file__).parent

#: Each chapter may import those before it, and those of its own line; `__init__` of vitlens is the face of all.
ORDER = [
    ["version", "errors", "lazy"],
    ["arguments", "settings"],
    ["files", "workers"],
    ["statistics", "results"],
    ["data"],
    ["model"],
    ["choose"],
    ["patterns", "lens"],
    ["attribution"],
    ["patching"],
    ["removal"],
    ["features"],
    ["circuits"],
    ["text", "demo_words"],
    ["memories", "demo"],
    ["description"],
    ["registers", "similarity"],
    ["editing"],
    ["heatmaps"],
    ["faithfulness"],
    ["planted", "parity"],
    ["plots"],
    ["pages"],
    ["paper"],
    ["cli"],
    ["__main__"],
]
FLOOR = {chapter: floor for floor, chapters in enumerate(ORDER) for chapter in chapters}

#: The same inside of the model, by folder and file. Types may look up: functions of a model name what they are given.
MODEL_ORDER = [
    ["config", "placement", "hooks", "other_names"],
    ["checks"],
    ["parts"],
    ["class_space", "inputs"],
    ["weights"],
    ["porting", "checkpoints"],
    ["families"],
    ["capabilities", "provenance", "transformer_lens_tools", "runs"],
    ["loading"],
    ["hooked_vit"],
    ["fingerprint", "graph"],
]
MODEL_FLOOR = {part: floor for floor, parts in enumerate(MODEL_ORDER) for part in parts}

#: The one door upwards: a result draws itself.
DOORS = {("results/result.py", "vitlens.plots.figure_of")}

FILES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """The modules of vitlens that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vitlens":
            assert node.module != "vitlens", f"{path}: name the module, not the face"
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "vitlens"}
    return found


def imports_at_run_time(path: Path) -> set[str]:
    """The modules of vitlens that a file imports for more than annotations, submodules told from names."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vitlens":
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in full if f"{'/'.join(name.split('.')[1:])}.py" in FILES}
            found |= modules or {node.module}
    return found


def chapter_of(name: str) -> str:
    return Path(name).parts[0].removesuffix(".py")


def test_imports_only_look_back():
    forward = [
        f"{name} imports {module}"
        for name, path in FILES.items() if name != "__init__.py"
        for module in imports(path)
        if (other := module.split(".")[1]) != (own := chapter_of(name)) and (name, module) not in DOORS
        and FLOOR[other] >= FLOOR[own]
    ]  # fmt: skip
    assert not forward, "these are no earlier chapters"


def test_the_model_is_built_in_one_order():
    forward = []
    for name, path in FILES.items():
        if not name.startswith("model/") or name == "model/__init__.py":
            continue
        own = Path(name).parts[1].removesuffix(".py")
        for module in imports_at_run_time(path):
            parts = module.split(".")[1:]
            if parts[0] == "model" and parts[1] != own and MODEL_FLOOR[parts[1]] >= MODEL_FLOOR[own]:
                forward.append(f"{name} imports {module}")
    assert not forward, "these are built no earlier"


def test_every_chapter_has_its_place():
    assert {chapter_of(name) for name in FILES} - {"__init__"} == set(FLOOR)


def test_folders_hold_at_most_eighteen_files():
    crowded = {
        str(folder.relative_to(ROOT)): n
        for folder in [ROOT, *(path for path in ROOT.rglob("*") if path.is_dir())]
        if (n := len([path for path in folder.glob("*.py") if path.name != "__init__.py"])) > 18
    }
    assert not crowded


def test_files_have_at_most_four_hundred_lines():
    long = {name: n for name, path in FILES.items() if (n := len(path.read_text().splitlines())) > 400}
    assert not long


def test_no_file_has_the_name_of_a_call_beside_it():
    """`vitlens.lens.x` would be the file or the call, whichever was imported last."""
    for chapter in CHAPTERS:
        stems = {path.stem for path in (ROOT / chapter).glob("*")}
        names = set(getattr(vitlens, chapter).__all__)
        submodules = {name for name in names if isinstance(getattr(getattr(vitlens, chapter), name), type(vitlens))}
        assert not (names - submodules) & stems, chapter


def test_few_names_are_at_the_top():
    names = [name for name in vitlens.__all__ if not isinstance(getattr(vitlens, name), type(vitlens))]
    assert len(names) <= 33, names


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_says_in_a_few_lines_what_is_in_it(chapter):
    lines = (getattr(vitlens, chapter).__doc__ or "").strip().splitlines()
    assert lines
    assert lines[0].endswith(".")
    assert all(len(line) <= 120 for line in lines)


def test_the_order_is_one_of_floors():
    assert all(set(low).isdisjoint(high) for low, high in pairwise(ORDER))


#: Names that several files may have: one logger each, type variables, a drawing for each kind of result.
IN_EVERY_FILE = {"LOG", "P", "R", "FIGURES"}

#: Chapters that say again, on purpose, what another says: a command is called as the call that it is for, and each planted
#: model has a scene of its own.
SAY_AGAIN = {"cli", "planted"}

#: Two things of one name that are still to be told apart; none may be added.
STILL_TWICE = {
    "ADAPTERS", "GROUPS", "KINDS", "LABELS", "LEAST", "MARGIN",
    "PARTS", "PORTS", "Part", "RANDOM",
    "as_masks", "checked", "read_tensors", "text",
}  # fmt: skip


def top_level_names(path: Path) -> set[str]:
    """The classes, functions and constants that a file defines for others."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def test_a_name_is_that_of_one_thing():
    homes: dict[str, list[str]] = {}
    for name, path in FILES.items():
        if chapter_of(name) not in SAY_AGAIN and path.name != "__init__.py":
            for defined in top_level_names(path) - IN_EVERY_FILE:
                homes.setdefault(defined, []).append(name)
    twice = {defined: files for defined, files in homes.items() if len(files) > 1}
    assert twice.keys() <= STILL_TWICE, {name: files for name, files in twice.items() if name not in STILL_TWICE}
    assert twice.keys() >= STILL_TWICE, f"told apart by now: {', '.join(sorted(STILL_TWICE - twice.keys()))}"
