"""A run for other tools: its numbers as OpenMetrics text, and as a run in MLflow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from tuner.core.level import level_of
from tuner.core.metrics import LATENCY_COLUMNS, METRICS, column_name, metric_of
from tuner.core.secrets import hide_secrets
from tuner.errors import RequestError
from tuner.report.results import Results

#: which batch a sample is of
_LABELS = ("experiment", "trial", "scenario", "concurrency", "request_rate", "repeat")
_EXPERIMENT = "tuner"  # in MLflow


def openmetrics(results: Results) -> bytes:
    """The numbers of every batch, whether it meets the SLO, and the maximum, as OpenMetrics text.

    A sample is called `tuner_` and the column's name; its labels say which batch it is of.
    """
    from prometheus_client import CollectorRegistry, Gauge
    from prometheus_client.openmetrics.exposition import generate_latest

    registry = CollectorRegistry()
    judged = results.judged.assign(compliant=results.judged["verdict"].isin(("pass", "soft")).astype(float))
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

    Several curves (trials, scenarios) are runs of their own below it. A metric's step is the level.

    Args:
        results: what to log.
        report: its HTML file.
        uri: MLflow's tracking server or database, such as `http://127.0.0.1:5000` or `sqlite:///mlflow.db`.

    Returns:
        The id of the run.

    Raises:
        RequestError: MLflow is not installed, or cannot be reached there.
    """
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise RequestError("--mlflow needs MLflow: pip install 'tuner[mlflow]'") from None
    try:
        client = MlflowClient(tracking_uri=uri)
        home = client.get_experiment_by_name(_EXPERIMENT)
        return _log(client, home.experiment_id if home else client.create_experiment(_EXPERIMENT), results, report)
    except MlflowException as error:
        raise RequestError(f"--mlflow: cannot log there: {hide_secrets(str(error).splitlines()[0])}") from None


def _log(client: Any, home: str, results: Results, report: Path) -> str:
    from mlflow.entities import Metric, Param

    run: str = client.create_run(home, run_name=results.title).info.run_id
    asked = {name: str(value) for name, value in results.facts.get("spec", {}).items()}
    client.log_batch(run, params=[Param(name, value[:6000]) for name, value in asked.items()])
    curves = list(results.judged.groupby(["experiment", "trial", "scenario"]))
    for names, batches in curves:
        tags = {"mlflow.parentRunId": run}
        title = " ".join(map(str, names))
        own = run if len(curves) == 1 else client.create_run(home, run_name=title, tags=tags).info.run_id
        for row in batches.to_dict("records"):
            at, step = _milliseconds(row["started_at"]), round(level_of(row) or 0)
            numbers = {name: float(row[name]) for name in _numbers(batches) if pd.notna(row[name])}
            client.log_batch(own, metrics=[Metric(name, value, at, step) for name, value in numbers.items()])
        client.set_terminated(own)
    if results.summary.max_throughput is not None:
        client.log_metric(run, "max_throughput", results.summary.max_throughput)
    client.log_artifact(run, str(report))
    client.set_terminated(run)
    return run


def _numbers(judged: pd.DataFrame) -> Iterator[str]:
    """The columns that are metrics of a batch."""
    return (name for name in (*METRICS, *LATENCY_COLUMNS) if name in judged and judged[name].notna().any())


def _milliseconds(instant: Any) -> int:
    return 0 if pd.isna(instant) else int(instant.timestamp() * 1000)
