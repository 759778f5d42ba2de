"""Sweeps that survive: each fault costs its level, the table says what is true, and a resumed run completes it."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter

import httpx
import psutil
import pytest
from support import DATA, FAULTY_SERVER, result_files
from support.commands import start
from support.processes import command_of, processes_of, wait_until
from support.reads import watch

import tuner
from tuner.core import request_log
from tuner.core.run_directory import Experiment
from tuner.core.timestamps import now
from tuner.engines.gguf import tokenizer_folder
from tuner.errors import PathError, ServerFailed, SpecError
from tuner.sweep.level import fresh_part, outcome_of
from tuner.sweep.progress import read_sweep
from tuner.sweep.spec import make_spec
from tuner.sweep.sweep import StopRequest, run_sweep
from tuner.traffic import calibration
from tuner.traffic.genai_bench import Benches, Ended
from tuner.traffic.tokenizer import check_tokenizer, load_tokenizer

pytestmark = pytest.mark.real

FAULTY = FAULTY_SERVER


@pytest.fixture
def swept(tiny_gguf, tmp_path):
    """Sweep a faulty server of our own; returns the run's batches. `knobs` are the server's, the rest the spec's."""

    def sweep(*knobs, folder=tmp_path / "run", stop=None, load=True, **asked):
        command = [sys.executable, str(FAULTY), "--port", "{port}", *knobs]
        spec = make_spec(
            {
                "engine": "command",
                "command": command,
                "model": "faulty",
                "tokenizer": str(tokenizer_folder(tiny_gguf)),
                "scenarios": ["D(20,8)"],
                "levels": [1, 2, 4],
                "max_seconds": 1,
                "warmup_requests": 0,
                **asked,
            }
        )
        run_sweep(spec, Experiment.at(folder), stop)
        return tuner.load_batches(folder) if load else None

    return sweep


@pytest.mark.parametrize(("asked", "workers", "ttft"), [(0, 2, 0.003), (1, 1, None)])
def test_a_level_has_as_many_client_processes_as_it_was_calibrated_to_need(
    swept, tmp_path, monkeypatch, asked, workers, ttft
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calibration._keep(calibration.Calibration(4, 0.003, 0.0001, 0.98, workers=2))
    (row,) = swept(levels=[4], client_workers=asked).to_dict("records")
    assert (row["outcome"], row["client_workers"]) == ("completed", workers)
    assert row["client_ttft"] == ttft or (ttft is None and row["client_ttft"] != row["client_ttft"])
    requests = tuner.load_requests(tmp_path / "run")
    assert len(requests) > 8


def outcomes(batches):
    return dict(zip(batches["concurrency"], batches["outcome"], strict=True))


FAULTS = {
    "refused above 2 in flight": (["error_above=2"], {1: "completed", 2: "completed", 4: "completed"}),
    "every request fails": (["error_every=1"], dict.fromkeys((1, 2, 4), "all_errors")),
    "accepts and never answers": (["hang_every=1"], dict.fromkeys((1, 2, 4), "timeout")),
    "streams cut in their middle": (["close_every=3"], dict.fromkeys((1, 2, 4), "completed")),
    "errors inside a 200 stream": (["inband_every=3"], dict.fromkeys((1, 2, 4), "completed")),
}


@pytest.mark.parametrize(("knobs", "expected"), FAULTS.values(), ids=FAULTS)
def test_a_fault_gives_the_table_that_is_true(swept, knobs, expected):
    batches = swept(*knobs)
    assert outcomes(batches) == expected
    judged = tuner.judge(batches, {"error_rate": {"threshold": 0.01}})
    failing = {row.concurrency for row in judged.itertuples() if row.error_rate > 0.01}
    passing = set(judged.loc[judged["verdict"] == "pass", "concurrency"])
    assert passing.isdisjoint(failing) and passing | failing == {1, 2, 4} - {
        level for level, outcome in expected.items() if outcome == "timeout"
    }


def test_the_servers_own_words_are_in_the_row_and_in_the_report(swept, tmp_path, caplog):
    words = "error_text=This model's maximum <b>context</b> length is 64 tokens"
    (row,) = swept("error_every=1", "error_code=400", words, levels=[1]).to_dict("records")
    assert row["outcome"] == "all_errors"
    assert "(400 ×" in row["reason"] and "This model's maximum <b>context</b> length is 64" in row["reason"]
    page = tuner.write_report(tmp_path / "run", tmp_path / "r.html").read_text()
    assert "maximum &lt;b&gt;context&lt;/b&gt; length is 64" in page and "<b>context" not in page


@pytest.mark.parametrize("warmup_requests", [0, 2])
def test_a_parameter_that_is_refused_is_left_out(swept, warmup_requests):
    batches = swept("refuse=ignore_eos", levels=[1, 2], warmup_requests=warmup_requests)
    assert outcomes(batches) == {1: "completed", 2: "completed"} and not batches["errors"].any()
    assert batches["warnings"].str.contains("sent without ignore_eos").all()


@pytest.mark.parametrize(("knob", "api"), [("refuse=ignore_eos", "vllm"), ("refuse=stream_options", None)])
def test_what_cannot_be_left_out_is_named(swept, knob, api):
    (row,) = swept(knob, levels=[1], api=api).to_dict("records")
    assert row["outcome"] == "all_errors" and f"argument supplied: {knob.removeprefix('refuse=')}" in row["reason"]


def attachable(*knobs):
    """A faulty server that already runs, and where."""
    server = subprocess.Popen([sys.executable, str(FAULTY), *knobs], stdout=subprocess.PIPE, text=True)
    return server, server.stdout.readline().split()[-1]


def test_what_is_refused_before_anything_was_measured_leaves_no_run(swept, tmp_path):
    server, url = attachable("model=faulty")
    asked = {"engine": "attach", "command": None, "base_url": url, "levels": [1]}
    with pytest.raises(ServerFailed, match="serves no model 'other'"):
        swept(**asked, model="other")
    assert not list(tmp_path.glob("run*"))
    server.kill()
    server.wait(10)
    with pytest.raises(ServerFailed, match="no server answers"):
        swept(**asked, ready_timeout=0.2)
    assert not list(tmp_path.glob("run*"))
    with pytest.raises(ServerFailed):  # what was started leaves its log
        swept("die_after_seconds=0.01", levels=[1])
    assert (tmp_path / "run" / "trials" / "0001" / "server.log").exists()


def test_levels_after_an_attached_server_has_died_are_not_run_and_a_resume_measures_them(swept, tmp_path):
    server, url = attachable("die_after=9", "ttft=0.05")
    asked = {"engine": "attach", "command": None, "base_url": url, "ready_timeout": 0.2, "max_requests": 30}
    ends = list(outcomes(swept(levels=[1, 2, 4], max_seconds=30, **asked)).values())
    server.wait(10)
    died = ends.index("server_died")
    assert ends[died + 1] == "interrupted"
    sidecars = [json.loads(path.read_text()) for path in tmp_path.glob("run/**/batch.json")]
    (unrun,) = (one for one in sidecars if one["outcome"] == "interrupted")
    assert unrun["reason"].startswith("not run: ") and url in unrun["reason"]
    assert Experiment(tmp_path / "run").facts["state"] == "interrupted"
    server, _ = attachable("--port", url.rpartition(":")[2])
    try:
        ends = list(outcomes(swept(levels=[1, 2, 4], max_seconds=30, **asked)).values())
    finally:
        server.kill()
    assert ends[died:] == ["server_died", *["completed"] * (2 - died)]


@pytest.mark.parametrize(
    ("files", "exit_code", "outcome", "reason"),
    [
        ({}, 0, "timeout", "no request finished in 20 s: give a level more with max_seconds, or with extend_to"),
        (
            {"genai_bench.log": "x\nTraceback (most recent call last):\n  File 'a'\n    b\nKeyError: 'choices'\n"},
            0,
            "client_failed",
            "genai-bench failed within a request: KeyError: 'choices'",
        ),
        (
            {"client.log": "Traceback (most recent call last):\n  File 'a'\n\n    b\nValueError: \x1b[31mno\n"},
            0,
            "client_failed",
            "within a request: ValueError: no",
        ),
        ({"client.log": "ValueError: bad\n"}, 1, "client_failed", "genai-bench ended with 1: ValueError: bad"),
    ],
)
def test_a_level_without_an_answer_says_whose_fault_it_is(tmp_path, files, exit_code, outcome, reason):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    ended = Ended(now(), now(), duration=20.0, exit_code=exit_code)
    got = outcome_of(tmp_path, ended, None, interrupted=False)
    assert got[0] == outcome and got[1].endswith(reason)


#: status, the server's words, and what helps
REFUSALS = [
    (
        400,
        "Unsupported parameter: 'max_tokens' is not supported",
        "request_parameters: {max_tokens: null} leaves it out",
    ),
    (
        400,
        "This model's maximum context length is 64 tokens",
        "ask for fewer tokens in scenarios, or for less of prompts",
    ),
    (413, "", "ask for fewer tokens in scenarios, or for less of prompts"),
    (
        400,
        "the request exceeds the available context size",
        "ask for fewer tokens in scenarios, or for less of prompts",
    ),
    (400, "you must provide a chat template", "give the server a chat template, or a model that has one"),
    (401, "wrong API key", "name the variable that holds the right key in api_key_env"),
    (404, "The model `x` does not exist", "see whether the server knows model, and whether base_url is right"),
    (429, "slow down, " + "please " * 60, "the server takes no more: try lower levels, or raise its limit"),
    (503, "engine is dead", "the server's own log may say more"),
    (418, "I'm a teapot", "I'm a teapot"),
]


@pytest.mark.parametrize(("status", "words", "helps"), REFUSALS)
def test_where_every_request_failed_the_reason_says_with_what_and_what_helps(status, words, helps, tmp_path):
    times = {"window": "whole", "begin": 0.0, "end": 9.0, "monotonic": 0.0, "utc": now()}
    failed = {"status": "failed", "sent": 1.0, "end": 2.0, "error_code": status, "error_message": words}
    requests = [request_log.SentRequest(**failed)] * 3
    request_log.write(
        tmp_path / "requests.jsonl", request_log.LevelRecord(scenario="D(9,9)", concurrency=1, **times), requests
    )
    ended = Ended(now(), now(), duration=9.0, exit_code=0)
    outcome, reason = outcome_of(tmp_path, ended, None, interrupted=False)
    assert outcome == "all_errors" and f"all 3 requests failed ({status} ×3)" in reason and words[:20] in reason
    assert reason.endswith(helps) and len(reason) <= 300


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"engine": "llamacpp", "parameters": {"n_ctx": 256}},
            "scenarios: D(20,80) are more than the 64 that llamacpp takes",
        ),
        (
            {"parameters": {"max_model_len": 99}},
            "scenarios: D(20,80) are more than the 99 that vllm takes",
        ),
        (
            {"scenarios": ["U(5,10)/(10,120)"], "parameters": {"max_model_len": 99}},
            "U(5,10)/(10,120) are more than the 99",
        ),
        ({"tokenizer": "{empty}"}, "the folder {empty} holds none (tokenizer.json"),
        ({"tokenizer": "{empty}/none"}, "is no folder that is there, and no name on the model hub"),
        ({"tokenizer": "my model"}, "'my model' is no folder that is there, and no name on the model hub"),
        ({"tokenizer": "a/b/c"}, "'a/b/c' is no folder"),
        ({"tokenizer": "served-name"}, "'served-name' is not in the cache, and HF_HUB_OFFLINE is set"),
        ({"tokenizer": "{empty}/notes.json"}, "is a file; give its folder"),
    ],
)
def test_what_no_load_could_do_is_said_before_it(tiny_gguf, tmp_path, monkeypatch, asked, said):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (empty := tmp_path / "empty").mkdir()
    (empty / "notes.json").write_text("{}")
    asked = {name: value.format(empty=empty) if isinstance(value, str) else value for name, value in asked.items()}
    usual = {"engine": "vllm", "executable": sys.executable, "model": str(tiny_gguf), "scenarios": ["D(20,80)"]}
    spec = make_spec(usual | {"tokenizer": str(tokenizer_folder(tiny_gguf))} | asked)
    with pytest.raises(SpecError) as refused:
        run_sweep(spec, Experiment.at(tmp_path / "run"))
    assert said.format(empty=empty) in str(refused.value) and not (tmp_path / "run/experiment.json").exists()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("tokenizer.json", "{", "EOF while parsing"),
        ("tokenizer.json", "[]", "invalid type: sequence"),
        (
            "tokenizer_config.json",
            '{"tokenizer_class": "LlamaTokenizer"}',
            "a vocabulary of 3 tokens: some of its files",
        ),
    ],
)
def test_a_tokenizer_whose_files_are_not_whole_is_refused(tmp_path, file, content, said):
    (tmp_path / file).write_text(content)
    with pytest.raises(SpecError, match=f"{tmp_path} has none that can be read .{said}"):
        load_tokenizer(check_tokenizer(str(tmp_path)))


def test_a_hub_that_cannot_be_asked_is_said_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(SpecError, match=r"http://127.0.0.1:9 cannot be asked for 'org/m' \(.*refused"):
        check_tokenizer("org/m")
    (tmp_path / "hub/models--org--m/snapshots/1").mkdir(parents=True)
    (tmp_path / "hub/models--org--m/snapshots/1/tokenizer.json").write_text("{}")
    assert check_tokenizer("org/m") == "org/m"


def test_a_server_that_dies_in_a_level_costs_that_level(swept, tmp_path):
    batches = swept("die_after=25", "ttft=0.05", levels=[1, 2, 4], max_requests=20)
    assert outcomes(batches)[1] == "completed"
    died = batches[batches["outcome"] == "server_died"]
    assert len(died) >= 1 and died["reason"].str.contains("exit").all()
    record = json.loads((tmp_path / "run/trials/0001/server.json").read_text())
    assert len(record["previous"]) >= 1


def test_levels_above_one_that_ran_out_of_memory_are_skipped(swept):
    last_words = "last_words=torch.OutOfMemoryError: CUDA out of memory"
    batches = swept("die_after=25", "ttft=0.05", last_words, max_requests=20, levels=[1, 2, 4, 8])
    ends = list(outcomes(batches).values())
    first = ends.index("out_of_memory")
    assert ends[:first] == ["completed"] * first and set(ends[first + 1 :]) == {"skipped"}
    assert batches["reason"].iloc[-1].endswith("ran out of memory")


def test_repeats_a_random_order_and_a_sentinel(swept):
    batches = swept(levels=[1, 2], repeats=2, order="random", sentinel=True)
    assert len(batches) == 5 and set(batches["outcome"]) == {"completed"}
    assert sorted(zip(batches["concurrency"], batches["repeat"], strict=True)) == [
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 1),
        (2, 2),
    ]


def test_a_level_goes_on_until_it_has_enough_requests(swept):
    (short,) = swept("ttft=0.2", levels=[1]).to_dict("records")
    assert short["duration"] < 10 and short["completed"] < 20  # its one second, and what a busy machine adds


def test_a_level_is_extended_for_the_percentile_that_the_slo_limits(swept):
    slo = {"ttft": {"p90": {"threshold": 1}}}
    (long,) = swept("ttft=0.1", levels=[1], slo=slo, extend_to=20).to_dict("records")
    assert 29 <= long["completed"] < 40 and long["duration"] < 20


def test_stopping_keeps_what_ended_and_resuming_measures_the_rest(swept, tmp_path):
    stop, run = StopRequest(), tmp_path / "run"
    work = threading.Thread(target=lambda: swept(stop=stop, max_seconds=2))
    work.start()
    wait_until(lambda: list(run.glob("trials/0001/batches/*/concurrency-2.part/*.log")), 60)
    stop.at_once.set()
    work.join(30)
    assert json.loads((run / "experiment.json").read_text())["state"] == "interrupted"
    first = tuner.load_batches(run).set_index("concurrency")
    assert first["outcome"].to_dict() == {1: "completed", 2: "interrupted", 4: "missing"}
    with pytest.raises(SpecError, match=r"made with max_seconds 2\.0, now 1\.0 is asked"):
        swept()
    second = swept(max_seconds=2).set_index("concurrency")
    assert set(second["outcome"]) == {"completed"}
    assert second.loc[1, "started_at"] == first.loc[1, "started_at"]
    assert json.loads((run / "experiment.json").read_text())["state"] == "done"


def test_two_sweeps_never_write_into_one_folder(swept, tmp_path):
    work = threading.Thread(target=lambda: swept(levels=[1]))
    work.start()
    wait_until((tmp_path / "run/experiment.json").exists, 60)
    with pytest.raises(PathError, match=f"is being written by process {os.getpid()} "):
        swept(levels=[1])
    work.join(60)
    assert outcomes(tuner.load_batches(tmp_path / "run")) == {1: "completed"}


def test_a_full_disk_ends_a_sweep_with_words(swept, tmp_path, monkeypatch):
    def run_out(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tuner.sweep.level.run", run_out)
    with pytest.raises(PathError, match=r"cannot write the files of a level: .*No space left"):
        swept(levels=[1])
    assert Experiment(tmp_path / "run").facts["state"] == "failed"


def test_a_report_that_has_no_room_is_one_line_and_leaves_nothing(tmp_path):
    result_files.add_level(
        result_files.run(tmp_path / "run", [1]), 1, result_files.result([result_files.request()] * 9)
    )
    too_little = ("prlimit", "--fsize=1500000")
    with start(tmp_path, "report", "run", "-o", "r.html", before=too_little) as process:
        _, err = process.communicate(timeout=100)
    assert process.returncode == 2 and "cannot write r.html: File too large" in err and len(err.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_a_sweep_without_room_for_its_report_says_how_to_write_it_later(tmp_path):
    server = f"{sys.executable} {FAULTY_SERVER} --port {{port}}"
    load = ("--levels", "1", "--scenarios", "D(20,8)", "--max-seconds", "1", "--tokenizer", DATA / "byte-tokenizer")
    too_little = ("prlimit", "--fsize=1500000")
    asked = ("--engine", "command", "--command", server, "--model", "faulty", *load)
    with start(tmp_path, "sweep", *asked, before=too_little) as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 2 and err.count("File too large") == 1
    assert "all results are kept; once there is room, the report: tuner report runs/" in out


def test_a_run_that_was_moved_is_not_made_anew_where_it_was(tmp_path):
    experiment = Experiment.at(tmp_path / "run")
    folder = experiment.trial(1).batch_folder("D(20,8)", 1)
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(PathError, match="is not there any more; where the run was moved, --resume goes on"):
        fresh_part(folder)
    read_sweep(experiment)
    assert not (tmp_path / "run").exists()


def test_genai_bench_killed_costs_its_level(swept, tmp_path):
    def kill():
        wait_until(lambda: list((tmp_path / "run").glob("trials/0001/batches/*/concurrency-2.part/*.log")), 60)
        for process in psutil.Process().children(recursive=True):
            if "tuner.traffic.genai_bench_host" in command_of(process):
                process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    batches = swept(max_seconds=2)
    killer.join()
    assert outcomes(batches) == {1: "completed", 2: "client_failed", 4: "completed"}


#: how often our process is killed; more by hand: TUNER_TEST_KILLS=20
KILLS = int(os.environ.get("TUNER_TEST_KILLS", "2"))
RUNNER = """
import sys
from tuner.core.run_directory import Experiment
from tuner.sweep.spec import make_spec
from tuner.sweep.sweep import run_sweep
import json, pathlib
run_sweep(make_spec(json.loads(sys.argv[1])), Experiment.at(pathlib.Path(sys.argv[2])))
"""


@pytest.mark.timeout(600)
def test_killed_at_random_instants_and_resumed_no_level_is_lost_or_run_twice(tiny_gguf, tmp_path):
    run = tmp_path / "run"
    asked = {
        "engine": "command",
        "command": [sys.executable, str(FAULTY), "--port", "{port}"],
        "model": "faulty",
        "tokenizer": str(tokenizer_folder(tiny_gguf)),
        "scenarios": ["D(20,8)"],
        "levels": list(range(1, 4 * KILLS + 1)),  # so many that there is something left to be killed
        "max_seconds": 1,
        "warmup_requests": 0,
    }
    dice, seen, killed = random.Random(7), {}, 0
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    for _ in range(KILLS):
        command = [sys.executable, "-c", RUNNER, json.dumps(asked), str(run)]
        with subprocess.Popen(command, env=environment, start_new_session=True) as process:
            try:
                process.wait(dice.uniform(3, 9))
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
        wait_until(lambda: not processes_of(tmp_path), 10)
        for path in run.glob("trials/0001/batches/*/concurrency-*[0-9]/batch.json"):
            sidecar = json.loads(path.read_text())
            assert seen.setdefault(path, sidecar) == sidecar, "a level was measured twice"
    assert killed
    subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(asked), str(run)], env=environment, check=True, timeout=120
    )
    assert outcomes(tuner.load_batches(run)) == dict.fromkeys(asked["levels"], "completed")


def test_the_client_was_told_nothing_of_our_environment(swept, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_canary0123456789")
    monkeypatch.setattr("tuner.sweep.sweep.Benches", Benches)  # not the one that is there
    swept(levels=[1])
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"ghp_canary" in path.read_bytes()]


def test_the_faulty_server_is_gone(swept, tmp_path):
    swept(levels=[1])
    url = json.loads((tmp_path / "run/trials/0001/server.json").read_text())["base_url"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_auto_finds_the_highest_level_within_the_slo(swept, tmp_path):
    slo = {"error_rate": {"threshold": 0.05}}
    batches = swept("error_above=3", levels="auto", highest=16, slo=slo)
    judged = tuner.judge(batches, slo)
    assert tuner.summarize(judged).best_level == 3
    assert len(batches) <= 9
    assert set(batches["concurrency"]) >= {1, 3, 4}


def test_a_resumed_sweep_reads_each_level_twice_at_most(swept, tmp_path, monkeypatch):
    run, last = tmp_path / "run", 12
    for level in range(1, last - 1):
        result_files.add_level(Experiment.at(run).trial(1), level, scenario="D(20,8)")
    reads = Counter()

    def count(path):
        if path.name == "batch.json":
            reads[str(path.parent.relative_to(run))] += 1

    with monkeypatch.context() as patch:
        watch(patch, count)
        swept(levels=list(range(1, last + 1)), load=False)
    # once for what is left to do, and once at the end for what limits the server
    assert {path: times for path, times in reads.items() if times > 2 and "batches" in path} == {}
    assert {outcomes(tuner.load_batches(run))[level] for level in (last - 1, last)} == {"completed"}


def test_levels_beyond_saturation_are_skipped(swept):
    slo = {"error_rate": {"threshold": 0.01}}
    knobs = ("error_above=1", "ttft=0.1", "wear=0.05")  # throughput falls by more than the clock's chance in a second
    batches = swept(*knobs, levels=[1, 2, 3, 4], slo=slo, stop_when_saturated=True, max_requests=10**6)
    assert list(batches["outcome"]) == ["completed", "completed", "completed", "skipped"]
    assert batches["reason"].iloc[-1].startswith("saturated")
