"""The HTML text of both pages: a report's and a comparison's."""

import base64
import gzip
import hashlib
import html
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from tuner import __version__
from tuner.batches import report_data
from tuner.core import timestamps
from tuner.core.level import COLUMNS, level_of, level_title
from tuner.core.records import COMPLETED
from tuner.core.secrets import redactor
from tuner.core.text import UNKNOWN, plural
from tuner.figures.style import CONFIG, VERDICTS
from tuner.judging import comparison_text
from tuner.judging import table as batch_table
from tuner.judging.intervals import CONFIDENCE
from tuner.judging.slo import SLO, Constraint
from tuner.judging.verdicts import requests_needed_for
from tuner.report.compared import COMPARISON, SAME_CONFIGURATION, Compared
from tuner.report.results import Results

_TEMPLATES = Path(__file__).parent / "templates"
#: the scripts of each page, the last one starts it
SCRIPTS = {"report": ("page.js", "judge.js", "report.js"), "comparison": ("page.js", "comparison.js")}

#: so many batches, and a page opens with its first figure alone; so many scenarios stand in its head
_FOLDS, _SCENARIOS = 24, 4


def render_report(results: Results) -> str:
    """The report as HTML text."""
    return document(
        "report",
        results.figures,
        _sliders(results),
        results.carried(),
        title=results.title,
        results=results,
        summary=results.summary,
        answer=results.batches_answer,
        search=_search(results),
        slo=results.slo,
        table=_table(results.judged),
        warnings=_warnings(results.judged),
        setup=_setup(results),
        folded=len(results.judged) > _FOLDS,
        facts=results.facts,
        servers=results.run_facts.servers,
    )


def document(name: str, shown: list[Any], live: dict[str, Any], data: report_data.ReportData, **content: Any) -> str:
    """One offline page as HTML text: its template and scripts are called `name`.

    It shows the figures `shown`, its script needs `live` beside them, and it carries `data` for `load_batches`.
    """
    plots = [json.loads(figure.to_json()) for figure in shown]
    captions = [_caption(figure["layout"].pop("title", {})) for figure in plots]
    script = "\n" + "\n".join((_TEMPLATES / one).read_text(encoding="utf-8") for one in SCRIPTS[name])
    plotly, plotly_hash = _plotly()
    template = environment().get_template(f"{name}.html")
    return template.render(
        captions=captions,
        page=_packed(redactor()(json.dumps({"figures": plots, "config": CONFIG, **live}))),
        plotly=plotly,
        script=script,
        hashes=[_hash(script), plotly_hash],
        data=report_data.pack(data),
        data_opening=report_data.OPENING,
        made_at=timestamps.to_text(timestamps.now()),
        version=__version__,
        **content,
    )


@cache
def environment() -> jinja2.Environment:
    """The templates of all that is written."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    found.filters["verdict"] = comparison_text.verdict_of
    found.filters["pretty"] = lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return found


def _sliders(results: Results) -> dict[str, Any]:
    """What the report's script needs to judge again: the SLO with all that its sliders could limit."""
    slo = results.slo or SLO()
    return {
        "looks": {name: look.says for name, look in VERDICTS.items()},
        "constraints": [_limit(limit, threshold, slo) for limit, threshold in results.sliders],
        "confidence": slo.confidence,
    }


def _limit(constraint: Constraint, threshold: float | None, slo: SLO) -> dict[str, Any]:
    names = ("metric", "statistic", "hard_fail", "fail_ratio", "column", "sign", "label", "unit")
    needed = requests_needed_for(constraint, slo.confidence or CONFIDENCE)
    return {name: getattr(constraint, name) for name in names} | {"needed": needed, "threshold": threshold}


def _caption(title: dict[str, Any]) -> tuple[str, str]:
    """A figure's title and subtitle as plain text; the page shows them itself, so that they wrap on a phone."""
    first, second = title.get("text"), title.get("subtitle", {}).get("text")
    return html.unescape(re.sub(r"<[^>]*>", "", first or "")), html.unescape(re.sub(r"<[^>]*>", "", second or ""))


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _packed(text: str) -> str:
    """base64 of gzip: plotly.js is 1.9 MB instead of 4.8. Whoever writes the page finds no key in it any more."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


@cache
def _plotly() -> tuple[str, str]:
    from plotly.offline import get_plotlyjs

    return _packed(get_plotlyjs()), _hash(get_plotlyjs())


def _table(judged: pd.DataFrame) -> dict[str, Any]:
    """The table as text: its header, the column behind each, and each batch's verdict, cells (– for none) and note."""
    columns = {header: column for header, column, *_ in batch_table.TABLE}
    headers = {column: header for header, column in columns.items()}
    shown = batch_table.table(judged).drop(columns="why").rename(columns=columns)
    scenarios = judged["scenario"].unique()
    one_scenario = len(scenarios) == 1
    boring = {"outcome": bool((judged["outcome"] == COMPLETED).all()), "scenario": one_scenario}
    shown = shown.drop(columns=[column for column, is_boring in boring.items() if is_boring])
    return {
        "header": [headers.get(str(column), column) for column in shown],
        "columns": list(shown),
        "rows": list(zip(judged["verdict"], cell_texts(shown), judged["verdict_reason"], strict=True)),
        "scenario": scenarios[0] if one_scenario else "",
    }


def cell_texts(shown: pd.DataFrame) -> list[list[str]]:
    """Each row as texts, – for what is missing."""
    texts = shown.astype("object").where(shown.notna(), UNKNOWN).astype(str)
    return list(map(list, texts.itertuples(index=False, name=None)))


def _search(results: Results) -> dict[str, Any] | None:
    """What the page says of a search: the answer, the winner to copy, and a row a trial with why it failed."""
    if results.searched is None:
        return None
    searched = results.searched
    shown = searched.table
    cells, trials = shown.drop(columns="cause"), searched.trials.loc[shown.index]
    return {
        "answer": [*searched.answer, results.evidence],
        "found": searched.best is not None,
        "command": results.command,
        "server": searched.notes.winner.command,
        "winner": results.winner,
        "header": list(cells.columns),
        "rows": list(zip(trials["state"], trials["is_best"], cell_texts(cells), shown["cause"], strict=True)),
    }


def _warnings(judged: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Each warning with the batches that it is about; of those that differ in numbers alone the first."""
    several = judged["trial"].nunique() > 1
    found: dict[str, tuple[str, list[str]]] = {}
    for row in judged[["trial", "scenario", *COLUMNS, "warnings"]].to_dict("records"):
        trial = f"trial {row['trial']}, " if several else ""
        batch = f"{trial}{row['scenario']}, {level_title(level_of(row))}"
        for text in row["warnings"]:
            found.setdefault(re.sub(r"\d+", "", text), (text, []))[1].append(batch)
    return list(found.values())


def _setup(results: Results) -> list[str]:
    """What was measured, in the few words that a reader looks for first: engines, model, GPUs, traffic."""
    servers, spec = results.run_facts.servers, results.facts.get("spec", {})
    first = next(iter(servers), {})
    named = (f"{server.get('engine') or ''} {server.get('version') or ''}".strip() for server in servers)
    model = str(first.get("model") or spec.get("model") or "").rstrip("/").rpartition("/")[2]
    gpus = len(first.get("gpus") or [])
    traffic = ", ".join(map(str, results.judged["scenario"].unique()[:_SCENARIOS]))
    engines = ", ".join(dict.fromkeys(filter(None, named)))
    return [part for part in (engines, model, plural(gpus, "GPU") if gpus else "", traffic) if part]


def render_comparison(compared: Compared) -> str:
    """The comparison as HTML text."""
    columns, rows = report_data.columns_and_rows(compared.both)
    facts = {"kind": COMPARISON, "name": compared.title}
    slo = compared.slo.to_dict() if compared.slo else None
    return document(
        "comparison",
        compared.figures,
        {},
        report_data.ReportData(slo=slo, columns=columns, rows=rows, facts=facts),
        title=compared.title,
        compared=compared,
        configuration=_plain_table(compared.configuration.rename(columns={"what": "what differs"})),
        overview=_plain_table(comparison_text.overview(compared.comparison)),
        unmatched=_plain_table(comparison_text.unmatched(compared.comparison)),
        details=_plain_table(comparison_text.details(compared.comparison)),
        legend=compared.legend,
        same_configuration=SAME_CONFIGURATION,
    )


def _plain_table(frame: pd.DataFrame) -> dict[str, Any]:
    return {"header": list(frame.columns), "rows": cell_texts(frame)}
