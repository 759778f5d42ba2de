"""The architecture: seven floors, two wings. A module imports only its own folder and lower floors."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tuner"

#: bottom floor first; folders that share a floor are two wings and know nothing of each other
FLOORS = (
    {"errors"},
    {"core"},
    {"batches", "engines"},  # files of results            | software to be served
    {"judging", "servers"},  # verdicts, summaries         | processes of ours
    {"figures", "traffic"},  # pictures of them            | what is sent, and by which load generator
    {"sweep"},  #                                         | levels measured against one server
    {"report", "search"},  # what is shown of a run        | many configurations
    {"notebook", "cli"},
)
FLOOR = {folder: number for number, folders in enumerate(FLOORS) for folder in folders}


def imports_of(path):
    """(folder, module, line) of every tuner module that the file at `path` imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tuner"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("tuner.")]
        else:
            continue
        for name in names:
            if len(parts := name.split(".")) > 1 and parts[1] in FLOOR:
                yield parts[1], parts[2] if len(parts) > 2 else "", node.lineno


SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    own = path.relative_to(PACKAGE).parts[0]
    for folder, module, line in imports_of(path):
        if folder == own:
            continue
        assert FLOOR[folder] < FLOOR[own], f"{path}:{line} imports {folder}.{module}, which is not below {own}"
        assert not module.startswith("_"), f"{path}:{line} imports {folder}.{module}, which is {folder}'s own"


#: The left wing works on files alone: it starts no process, opens no socket, draws no widget.
LEFT_WING = ("batches", "judging", "figures", "report")
PROCESSES = {"subprocess", "httpx", "psutil", "ipywidgets", "typer"}


@pytest.mark.parametrize("folder", LEFT_WING)
def test_the_left_wing_works_on_files_alone(folder):
    for path in (PACKAGE / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not PROCESSES & {name.split(".")[0] for name in names}, f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_within_a_folder_go_one_way(path):
    """Whatever module is imported first, it finds what it needs."""
    assert not (ring := _ring(path)), " -> ".join(step.stem for step in ring)


def _ring(start):
    """The way from the module at `start` back to itself through its own folder; empty where there is none."""
    ways = [[start]]
    seen = set()
    while ways:
        way = ways.pop()
        for module in _top_imports(way[-1]):
            if module == start:
                return [*way, start]
            if module not in seen:
                seen.add(module)
                ways.append([*way, module])
    return []


def _top_imports(path):
    """The modules of its own folder that the file at `path` imports when it is imported."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]:
                found = PACKAGE.parent / f"{name.replace('.', '/')}.py"
                if found.parent == path.parent and found.exists():
                    yield found


README = (PACKAGE.parent / "README.md").read_text().partition("## Architecture")[2]


def test_the_readme_draws_this_house():
    named = set(re.findall(r"^ \d +(\w+)(?:/|\.py) ", README, re.MULTILINE)) | set(re.findall(r"[│|] +(\w+)/ ", README))
    assert named == set(FLOOR)


@pytest.mark.parametrize("path", sorted({*re.findall(r"`((?:tuner|tests)/[a-z_/]+\.py)`", README)}))
def test_the_readme_names_files_that_there_are(path):
    assert (PACKAGE.parent / path).exists()
