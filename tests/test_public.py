"""What `tuner` offers at its top: the names, that importing it is light, and a true example in each docstring."""

import doctest
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import result_files, searches

import tuner

EXPORTS = {
    *(
        "load_batches",
        "load_requests",
        "load_trials",
        "SLO",
        "judge",
        "check_batch_slo_compliance",
        "summarize",
        "tiers",
    ),
    *("compare", "read_results", "write_report", "figures", "errors", "__version__"),
}
FUNCTIONS = {
    **{name: getattr(tuner, name) for name in EXPORTS if inspect.isfunction(getattr(tuner, name))},
    **{f"SLO.{name}": getattr(tuner.SLO, name) for name in ("load", "parse")},
    **{name: getattr(tuner.figures, name) for name in tuner.figures.__all__ if callable(getattr(tuner.figures, name))},
}
SLOW_FROM, LEVELS = 8, (1, 2, 4, 8)


def test_the_names_that_scripts_use_are_there():
    assert set(tuner.__all__) == set(dir(tuner)) == EXPORTS
    with pytest.raises(AttributeError, match="no attribute 'load_runs'"):
        tuner.load_runs  # noqa: B018


def test_import_is_light():
    heavy = ["pandas", "plotly", "pydantic", "httpx", "IPython", "ipywidgets", "genai_bench"]
    code = f"import sys, tuner; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.fixture(scope="module")
def sample_folder(tmp_path_factory):
    """A folder with what the examples read: two runs of four levels, a search, an SLO, the aggregates of one file."""
    folder = tmp_path_factory.mktemp("examples")
    for day, name in enumerate(("monday", "tuesday"), start=23):
        trial = result_files.run(folder / "runs" / name, list(LEVELS))
        for level in LEVELS:
            content = result_files.result(
                [result_files.request(ttft=0.9 if level >= SLOW_FROM else 0.1)] * 300, level=level
            )
            times = {
                name: f"2026-11-{day}T04:{level:02}:{second}Z"
                for name, second in (("started_at", "00"), ("finished_at", "50"))
            }
            result_files.add_level(trial, level, content, **times)
    searches.run(folder / "runs" / "search")
    result_files.write(folder / "slo.yaml", "ttft: {p90: {threshold: 500 ms}}")
    result_files.write(folder / "aggregates.json", result_files.result()["aggregated_metrics"])
    return folder


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_the_example_in_a_docstring_is_true(name, sample_folder, monkeypatch):
    monkeypatch.chdir(sample_folder)
    given = {"tuner": tuner, "json": json, "Path": Path}
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(FUNCTIONS[name]), given, name, None, None)
    assert example.examples, f"{name} has no example"
    said = []
    assert doctest.DocTestRunner().run(example, out=said.append).failed == 0, "".join(said)
