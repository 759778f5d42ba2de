"""The report: one HTML file made from a run directory, which opens with the network off.

plotly.js goes in once, compressed, and is unpacked by the browser; a Content-Security-Policy forbids every request.
"""

import base64
import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from tuner import __version__, figures, files, timestamps
from tuner.answer import answer
from tuner.batches import load_batches
from tuner.errors import NothingSurvived, PathError
from tuner.experiment import COMPLETED, EXPERIMENT_FILE, SERVER_FILE
from tuner.slo import SLO, judge
from tuner.summary import Summary, summarize, table

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Results:
    """What a run directory says: its judged batches and their summary."""

    folder: Path
    facts: dict[str, Any]
    slo: SLO | None
    judged: pd.DataFrame
    summary: Summary

    @property
    def figures(self) -> list[Any]:
        """The figures that the report and the notebook show."""
        metrics = [metric for metric in figures.METRICS if self.judged[f"{metric}_p90"].notna().any()]
        over_concurrency = [figures.latency_vs_concurrency(self.judged, self.slo, metric=name) for name in metrics]
        return [figures.throughput_vs_latency(self.judged, self.slo, **self._axis()), *over_concurrency]

    def _axis(self) -> dict[str, str]:
        """The latency that the SLO limits, so that its threshold is in the figure."""
        latencies = [constraint for constraint in self.slo.constraints if constraint.is_latency] if self.slo else []
        return {"metric": latencies[0].metric, "statistic": latencies[0].statistic} if latencies else {}

    @property
    def answer(self) -> list[str]:
        """The result in words: what, how sure, and under which SLO."""
        return answer(self.judged, self.summary, self.slo)

    def must_have_survivors(self) -> None:
        """Accept everything but an experiment in which no batch at all survived.

        Raises:
            NothingSurvived: there is no completed batch; the message says how the levels ended.
        """
        if not (self.judged["outcome"] == COMPLETED).any():
            ends = self.judged["outcome"].value_counts()
            told = ", ".join(f"{count} {outcome}" for outcome, count in ends.items())
            first = next(filter(None, self.judged["reason"]), "")
            raise NothingSurvived(f"no batch has a usable result ({told}); the first: {first}")


def read_results(*paths: Path, slo: SLO | None = None) -> Results:
    """Load and judge what is in `paths`.

    Args:
        paths: run directories, genai-bench folders or files; the first one's facts are the results'.
        slo: judges the batches; by default the SLO that a single run was asked to meet.

    Raises:
        PathError: there is nothing to be read.
    """
    batches = load_batches(*paths)
    facts_file = paths[0] / EXPERIMENT_FILE
    facts = files.read_json(facts_file) if facts_file.exists() else {}
    asked = facts.get("spec", {}).get("slo") if len(paths) == 1 else None
    slo = slo or (SLO.parse(asked, str(facts_file)) if asked else None)
    judged = judge(batches, slo or SLO())
    return Results(paths[0], facts, slo, judged, summarize(judged))


def write_report(path: Path, target: Path | None = None, slo: SLO | None = None) -> Path:
    """Write the report of a run directory or a folder of batch files.

    Args:
        path: what to report on.
        target: the HTML file; by default `report.html` in `path`.
        slo: judges the batches; by default the run's own.

    Returns:
        The HTML file's path.

    Raises:
        PathError: there is nothing to report on, or the file cannot be written.
    """
    target = target or path / REPORT_FILE
    if not target.parent.is_dir():
        raise PathError(f"cannot write {target}: there is no folder {target.parent}")
    files.write_atomically(target, render(read_results(path, slo=slo)))
    return target


def render(results: Results) -> str:
    """The report as HTML text; everything from outside is escaped."""
    loader = jinja2.PackageLoader("tuner")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["pretty"] = lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return environment.get_template("report.html").render(
        title=results.facts.get("name", results.folder.name),
        summary=results.summary,
        answer=results.answer,
        slo=results.slo,
        figures=[json.loads(figure.to_json()) for figure in results.figures],
        config=figures.CONFIG,
        plotly=_packed_plotly(),
        table=_for_page(results.judged),
        warnings=_warnings(results.judged),
        facts=results.facts,
        servers=_servers(results.folder),
        made_at=timestamps.to_text(timestamps.now()),
        version=__version__,
    )


@cache
def _packed_plotly() -> str:
    """plotly.js as base64 of gzip: 1.9 MB instead of 4.8."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _for_page(judged: pd.DataFrame) -> dict[str, Any]:
    """The table as text: its header, and for each batch its verdict, its cells (– for what is missing) and a note."""
    shown = table(judged)
    boring = ["outcome"] if (judged["outcome"] == COMPLETED).all() else []
    cells = shown.drop(columns=["why", *boring]).astype("object").where(shown.notna(), "–").astype(str)
    rows = zip(judged["verdict"], cells.to_numpy().tolist(), judged["verdict_reason"], strict=True)
    return {"header": list(cells.columns), "rows": list(rows)}


def _warnings(judged: pd.DataFrame) -> list[tuple[str, str]]:
    """(batch, warning) of every batch that has any."""
    rows = judged.to_dict("records")
    return [(f"{row['scenario']}, concurrency {row['concurrency']}", text) for row in rows for text in row["warnings"]]


def _servers(folder: Path) -> list[dict[str, Any]]:
    """What each trial's `server.json` says."""
    return [files.read_json(path) for path in sorted(folder.glob(f"trials/*/{SERVER_FILE}"))]
