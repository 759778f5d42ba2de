"""A run for other tools: its numbers as OpenMetrics text, and as a run in MLflow."""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from tuner.core.level import level_of
from tuner.core.metrics import LATENCY_COLUMNS, METRICS, column_name, metric_of
from tuner.core.text import one_line
from tuner.errors import RequestError
from tuner.judging.verdicts import COMPLIANT
from tuner.report.results import Results

#: which batch a sample is of
_LABELS = ("experiment", "trial", "scenario", "concurrency", "request_rate", "repeat")
_LONGEST = 6000  # characters of a parameter in MLflow


def openmetrics(results: Results) -> bytes:
    """The numbers of every batch, whether it meets the SLO, and the maximum, as OpenMetrics text."""
    from prometheus_client import CollectorRegistry, Gauge
    from prometheus_client.openmetrics.exposition import generate_latest

    registry = CollectorRegistry()
    judged = results.judged.assign(compliant=results.judged["verdict"].isin(COMPLIANT).astype(float))
    for column in (*_numbers(judged), "compliant"):
        unit = metric_of(column).unit
        words = f"{column_name(column)} of a batch{f' ({unit})' if unit else ''}"
        gauge = Gauge(f"tuner_{column}", words, _LABELS, registry=registry)
        for row in judged[judged[column].notna()].to_dict("records"):
            gauge.labels(*("" if pd.isna(row[name]) else row[name] for name in _LABELS)).set(row[column])
    if results.summary.max_throughput is not None:
        maximum = Gauge("tuner_max_throughput", "highest output tokens/s within the SLO", registry=registry)
        maximum.set(results.summary.max_throughput)
    return bytes(generate_latest(registry))  # type: ignore[no-untyped-call]


def log_to_mlflow(results: Results, report: Path, uri: str) -> str:
    """Log a run to MLflow: what was asked as parameters, each level's numbers as metrics, the report as an artifact.

    A metric's step is the level. Of several curves, its name begins with those of experiment, trial and scenario.
    `uri` is MLflow's server or database, such as `sqlite:///mlflow.db`. Returns the id of the run; raises RequestError
    where MLflow is not installed, or cannot be reached there.
    """
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise RequestError("--mlflow needs MLflow: pip install 'mlflow-skinny>=3.10,<4'") from None
    try:
        client = MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name("tuner")
        home = known.experiment_id if known else client.create_experiment("tuner")
        run = client.create_run(home, run_name=results.title)
        _log(client, run.info.run_id, results, report)
    except MlflowException as error:
        raise RequestError(f"--mlflow: cannot log there: {one_line(str(error))}") from None
    return str(run.info.run_id)


def _log(client: Any, run: str, results: Results, report: Path) -> None:
    from mlflow.entities import Metric, Param

    asked = {name: str(value)[:_LONGEST] for name, value in results.facts.get("spec", {}).items()}
    client.log_batch(run, params=[Param(*one) for one in asked.items()])
    curves = list(results.judged.groupby(["experiment", "trial", "scenario"]))
    for names, batches in curves:
        curve = re.sub(r"[^\w.-]", "-", "-".join(map(str, names))) + "/" if len(curves) > 1 else ""
        for row in batches.to_dict("records"):
            at = 0 if pd.isna(row["started_at"]) else int(row["started_at"].timestamp() * 1000)
            numbers = [(f"{curve}{name}", row[name]) for name in _numbers(batches) if pd.notna(row[name])]
            step = round(level_of(row) or 0)
            client.log_batch(run, metrics=[Metric(name, float(value), at, step) for name, value in numbers])
    if results.summary.max_throughput is not None:
        client.log_metric(run, "max_throughput", results.summary.max_throughput)
    client.log_artifact(run, str(report))
    client.set_terminated(run)


def _numbers(judged: pd.DataFrame) -> list[str]:
    return [name for name in (*METRICS, *LATENCY_COLUMNS) if name in judged and judged[name].notna().any()]
