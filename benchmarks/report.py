"""Size and time of the report, against nbconvert's default HTML of the same figures and the same table.

Run it by hand: `python benchmarks/report.py`. Ten figures and a hundred batches, in a temporary folder; the first time
and the best of three, in one process, without imports. nbconvert converts a notebook that already holds the outputs.
"""

import gzip
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from tuner import figures
from tuner.judging.table import table
from tuner.report.page import render_report
from tuner.report.results import Results, read_results
from tuner.report.static import table_html

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support import result_files

ROUNDS = 3


def hundred_batches(folder: Path) -> Results:
    """Ten runs of ten levels, 60 requests each."""
    for number in range(10):
        run = result_files.plain_folder(folder / f"run-{number}", [])
        result_files.write(run / "experiment_metadata.json", result_files.metadata(list(range(1, 11))))
        for level in range(1, 11):
            requests = [
                result_files.request(ttft=0.02 * level + 0.0001 * n, tpot=0.01 + 0.001 * level) for n in range(60)
            ]
            result_files.write(run / result_files.name(level), result_files.result(requests, level=level))
    return read_results(folder)


def ten_figures(results: Results) -> Results:
    """The report's own figures, and as many more as make ten."""
    further = [
        figures.throughput_vs_latency(results.judged, metric=metric, statistic=statistic)
        for metric, statistic in (("ttft", "p50"), ("ttft", "p99"), ("tpot", "p50"), ("tpot", "p99"))
    ]
    results.__dict__["figures"] = [*results.figures, *further][:10]
    return results


def as_notebook(results: Results) -> nbformat.NotebookNode:
    """The same content as a notebook holds it, with plotly.js once, as plotly's own offline renderer does."""
    html = [
        {"text/html": figure.to_html(full_html=False, include_plotlyjs=not n)}
        for n, figure in enumerate(results.figures)
    ]
    outputs = [
        nbformat.v4.new_output("display_data", data)
        for data in [*html, {"text/html": table_html(table(results.judged))}]
    ]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("show(results)", outputs=outputs)])


def timed(make: Callable[[], str]) -> tuple[float, float, str]:
    """(seconds of the first round, of the fastest one, what was made)."""
    seconds, text = [], ""
    for _ in range(ROUNDS):
        started = time.perf_counter()
        text = make()
        seconds.append(time.perf_counter() - started)
    return seconds[0], min(seconds), text


def main() -> None:
    """Print both, and their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        results = ten_figures(hundred_batches(Path(folder)))
        notebook = as_notebook(results)
        ours = timed(lambda: render_report(results))
        theirs = timed(lambda: HTMLExporter().from_notebook_node(notebook)[0])
    print(f"{len(results.figures)} figures, {len(results.judged)} batches, best of {ROUNDS}")
    for name, (first, best, text) in (("tuner", ours), ("nbconvert", theirs)):
        page = text.encode()
        size = f"{len(page) / 1e6:6.2f} MB, gzipped {len(gzip.compress(page)) / 1e6:.2f} MB"
        print(f"{name:10}{size}  {best:.2f} s, first {first:.2f} s")
    sizes, times = len(theirs[2].encode()) / len(ours[2].encode()), theirs[1] / ours[1]
    print(f"nbconvert / tuner: {sizes:.2f} x the size, {times:.2f} x the time")


if __name__ == "__main__":
    main()
