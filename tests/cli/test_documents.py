"""What scripts and other tools take of a run: one JSON document, OpenMetrics, MLflow, and where things go."""

import json
import os
import pty
import subprocess
import sys

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from support import result_files
from support.commands import end_of, environment, run

import tuner
from tuner.core.run_directory import Experiment
from tuner.sweep.spec import make_spec

SLO = "ttft: {p90: {threshold: 500 ms}}"
PASSING, FAILING = (1, 2), (4,)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with two runs whose highest level fails the SLO beside them."""
    for name in ("monday", "tuesday"):
        trial = result_files.run(tmp_path / name, [*PASSING, *FAILING])
        Experiment.at(tmp_path / name).describe(name=name, spec={"seed": 0})
        for level in (*PASSING, *FAILING):
            requests = [result_files.request(ttft=0.9 if level in FAILING else 0.1)] * 60
            times = {"started_at": f"2026-11-24T04:0{level}:00Z", "finished_at": f"2026-11-24T04:0{level}:50Z"}
            result_files.add_level(trial, level, result_files.result(requests, level=level), **times)
    (tmp_path / "slo.yaml").write_text(SLO)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def document(arguments, monkeypatch, capsys):
    """The one JSON document that a command prints with --json."""
    monkeypatch.setattr(sys, "argv", ["tuner", *arguments, "--json"])
    try:
        tuner_main()
    except SystemExit as end:
        assert end.code in (0, 1)
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == 1 and said["command"] == arguments[0] and isinstance(said["answer"], list)
    return said


def tuner_main():
    from tuner.cli import commands

    commands.main()


def test_load_prints_a_document_of_rows(folder, monkeypatch, capsys):
    said = document(["load", "monday", "--slo", "slo.yaml"], monkeypatch, capsys)
    assert [row["verdict"] for row in said["rows"]] == ["pass", "pass", "fail"]
    assert {*tuner.load_batches("monday").columns} <= said["rows"][0].keys()
    assert "output tokens/s at concurrency 2" in said["answer"][0]


def test_compare_prints_a_document_of_differences(folder, monkeypatch, capsys):
    said = document(["compare", "monday", "tuesday"], monkeypatch, capsys)
    assert {"metric", "verdict", "low", "high"} <= said["rows"][0].keys()
    assert said["regressed"] is False and said["baseline"]["experiments"] == ["monday"]


def test_doctor_prints_a_document_of_findings(folder, monkeypatch, capsys):
    said = document(["doctor"], monkeypatch, capsys)
    assert {"Python", "genai-bench"} <= {row["name"] for row in said["rows"]}
    assert said["rows"][0].keys() == {"name", "ok", "detail", "remedy", "needed"}


def test_openmetrics_has_every_batch_and_the_maximum(folder, monkeypatch, capsys):
    code, out, _ = end_of(["load", "monday", "--slo", "slo.yaml", "--format", "openmetrics"], monkeypatch, capsys)
    assert code == 0 and out.endswith("# EOF\n")
    families = {family.name: family.samples for family in text_string_to_metric_families(out)}
    assert [sample.labels["concurrency"] for sample in families["tuner_ttft_p90"]] == ["1", "2", "4"]
    assert [sample.value for sample in families["tuner_compliant"]] == [1.0, 1.0, 0.0]
    judged = tuner.judge(tuner.load_batches("monday"), tuner.SLO.load("slo.yaml"))
    (maximum,) = families["tuner_max_throughput"]
    assert maximum.value == pytest.approx(tuner.summarize(judged).max_throughput)


@pytest.mark.timeout(400)  # a new database takes MLflow a while
def test_mlflow_has_parameters_metrics_a_level_and_the_report(folder):
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install mlflow-skinny")
    store = f"sqlite:///{folder}/mlflow.db"
    code, out, err = run(folder, "report", "monday", "-o", "monday.html", "--slo", "slo.yaml", "--mlflow", store)
    assert code == 0, err
    client = mlflow.MlflowClient(tracking_uri=store)
    home = client.get_experiment_by_name("tuner")
    (logged,) = client.search_runs([home.experiment_id])
    assert out.splitlines()[-1] == f"MLflow run: {logged.info.run_id}" and logged.info.status == "FINISHED"
    assert logged.data.params == {"seed": "0"}
    history = client.get_metric_history(logged.info.run_id, "ttft_p90")
    batches = tuner.load_batches(folder / "monday")
    assert {each.step: each.value for each in history} == dict(
        zip(batches["concurrency"], batches["ttft_p90"], strict=True)
    )
    assert [artifact.path for artifact in client.list_artifacts(logged.info.run_id)] == ["monday.html"]


def test_mlflow_that_is_not_there_is_one_line(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    code, _, err = end_of(["report", "monday", "-o", "r.html", "--mlflow", "sqlite:///m.db"], monkeypatch, capsys)
    assert code == 2 and "pip install 'mlflow-skinny" in err and len(err.strip().splitlines()) == 1


def test_notebooks_are_copied_and_never_replaced(folder, monkeypatch, capsys):
    mine = folder / "mine"
    mine.mkdir()
    (mine / "tune.ipynb").write_text("mine")
    code, out, _ = end_of(["notebooks", str(mine)], monkeypatch, capsys)
    names = ["compare.ipynb", "launch_server.ipynb", "sweep.ipynb", "tune.ipynb"]
    assert code == 0 and sorted(path.name for path in mine.iterdir()) == names
    assert (mine / "tune.ipynb").read_text() == "mine" and "tune.ipynb: is there already" in out
    code, _, err = end_of(["notebooks", str(folder / "slo.yaml")], monkeypatch, capsys)
    assert code == 2 and "slo.yaml" in err and len(err.strip().splitlines()) == 1


def test_the_runs_folder_is_that_of_the_environment(monkeypatch):
    assert str(make_spec({}).runs) == "runs"
    monkeypatch.setenv("TUNER_RUNS", "/data/runs")
    assert str(make_spec({}).runs) == "/data/runs" and str(make_spec({"runs": "here"}).runs) == "here"


def terminal(handle):
    """What a terminal shows next; nothing where its program has ended."""
    try:
        return os.read(handle, 65536)
    except OSError:
        return b""


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_no_color_is_obeyed_in_a_terminal(variables, folder):
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in environment(folder).items() if name not in ("NO_COLOR", "TERM")}
    command = [sys.executable, "-m", "tuner", "load", "monday", "--slo", "slo.yaml"]
    with subprocess.Popen(command, cwd=folder, env=clean | {"TERM": "xterm"} | variables, stdout=theirs):
        os.close(theirs)
        said = b"".join(iter(lambda: terminal(ours), b""))
    os.close(ours)
    assert (b"\x1b[32m" in said) is not bool(variables)


def test_help_says_how_the_shell_completes(folder):
    code, out, _ = run(folder, "--help")
    assert code == 0 and "--install-completion" in out
    for command in ("demo", "notebooks", "load", "compare"):
        assert command in out
