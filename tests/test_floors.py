"""The architecture: a module imports only from modules that stand before it in the data's way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tuner"

#: bottom floor first, and on each floor in the order a reader meets them
FLOORS = """
    errors timestamps documents files versions experiment secrecy
    results measure audit index foreign cache rows carried endings tools plain trials batches requests
    attainment spreads resampling intervals constraints evidence slo summary answer tiered costs comparison changes
    scores goals tried searched importances figures progress
    weights tokenizer claims gpus engines probe supervisor supervised server_record attached_server server
    telemetry stub bench calibration
    spec space asked prepare books levels limit plan sweep samplers cluster executors early journal confirmation search
    kinds run_files background findings sides differences compared junit page comparison_page report headless panel
    notebook doctor tables live terminal serve flags cli __main__
"""
ORDER = FLOORS.split()


def imports_of(path: Path) -> set[str]:
    """The tuner modules (their first name below `tuner`) that the file at `path` imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("tuner.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "tuner":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tuner."):
            found.add(node.module.split(".")[1])
    return found - {"__version__"}


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if module_of(path) != "__init__"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    own = module_of(path)
    assert own in ORDER, f"{own} has no place in FLOORS"
    for other in imports_of(path) - {own}:
        assert ORDER.index(other) < ORDER.index(own), f"{own} imports {other}, which stands after it"


def test_import_is_light():
    heavy = ["pandas", "plotly", "pydantic", "httpx", "IPython", "ipywidgets", "genai_bench"]
    code = f"import sys, tuner; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
