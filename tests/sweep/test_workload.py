"""What a sweep sends: recorded by seed and hash, called by its name, and the same at the server for the same seed."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import tuner
from tuner.core.run_directory import Experiment
from tuner.engines.gguf import tokenizer_folder
from tuner.errors import NothingSurvived, SpecError
from tuner.report.compared import read_comparison
from tuner.search.spec import TuneSpec
from tuner.sweep.prepare import fingerprint, prepare, with_workload
from tuner.sweep.spec import make_spec, unlike_default
from tuner.sweep.sweep import check_same, run_sweep

ANSWER = [
    {"choices": [{"index": 0, "delta": {"content": " a"}}]},
    {"choices": [{"index": 0, "delta": {"content": " b"}, "finish_reason": "length"}]},
    {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}},
]


class Recorder(BaseHTTPRequestHandler):
    """Answers each chat with two tokens and keeps what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        entry = {"id": "recorder", "object": "model"} | self.server.more
        self._reply(json.dumps({"object": "list", "data": [entry]}))

    def do_POST(self):
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        if self.server.unknown in self.server.bodies[-1]:
            words = f"Unsupported parameter: '{self.server.unknown}' is not supported with this model."
            return self._reply(json.dumps({"error": {"message": words}}), status=400)
        return self._reply(*(f"data: {json.dumps(event)}\n\n" for event in ANSWER), "data: [DONE]\n\n")

    def _reply(self, *parts, status=200):
        self.send_response(status)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # a level's end cuts requests off
            for part in (*parts, ""):
                self.wfile.write(f"{len(part):x}\r\n{part}\r\n".encode())
                time.sleep(0.005)  # tokens have a distance

    def log_message(self, *_):
        pass


@pytest.fixture
def recorder():
    """A server on loopback; its `bodies` are what was asked, `more` says it of its model, `unknown` it refuses."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    server.bodies, server.more, server.unknown = [], {}, None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def swept(recorder, tiny_gguf, tmp_path):
    """Sweep level 1 of the recorder; returns the run's folder, and what was sent, in its order."""

    def sweep(name, **more):
        asked = {"engine": "attach", "base_url": f"http://127.0.0.1:{recorder.server_port}", "levels": [1]}
        limits = {"max_requests": 6, "max_seconds": 20, "warmup_requests": 0}
        spec = make_spec({**asked, "tokenizer": str(tokenizer_folder(tiny_gguf)), **limits, **more})
        recorder.bodies.clear()
        run_sweep(spec, Experiment.at(tmp_path / name))
        return tmp_path / name, list(recorder.bodies)

    return sweep


def recorded(folder):
    """(the run's workload, the level's hash)."""
    (sidecar,) = folder.glob("trials/0001/batches/*/*/batch.json")
    experiment = json.loads((folder / "experiment.json").read_text())
    return experiment["workload"], json.loads(sidecar.read_text())["client"]["workload"]


@pytest.mark.real
def test_two_runs_with_one_seed_ask_the_same_in_the_same_order(swept):
    runs = {name: swept(name, scenarios=["D(20,2)"], seed=seed) for name, seed in {"a": 0, "b": 0, "c": 1}.items()}
    sent = {name: [body["messages"] for body in bodies][:6] for name, (_, bodies) in runs.items()}
    assert len(sent["a"]) == 6 and sent["a"] == sent["b"] != sent["c"]
    facts = {name: recorded(folder) for name, (folder, _) in runs.items()}
    assert facts["a"] == facts["b"] and facts["a"][0]["seed"] == 0
    assert facts["a"][0]["sha256"] != facts["c"][0]["sha256"] and facts["a"][1] != facts["c"][1]
    assert not [path for folder, _ in runs.values() for path in folder.rglob("workload.jsonl")]
    assert not read_comparison([runs["a"][0]], [runs["c"][0]], tolerance=0.05).comparison.differences.empty


@pytest.mark.real
def test_own_prompts_are_sent_as_they_are_and_compared_with_their_like_alone(swept, tmp_path):
    prompts = tmp_path / "chat.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"p{each}", "max_tokens": each + 1}) + "\n" for each in range(4)))
    natural, bodies = swept("natural", prompts=str(prompts))
    sent = {(body["messages"][-1]["content"], body["max_tokens"], body["ignore_eos"]) for body in bodies[:4]}
    assert sent == {(f"p{each}", each + 1, False) for each in range(4)}
    _, bodies = swept("fixed", prompts=str(prompts), output="fixed")
    assert bodies and all(body["ignore_eos"] for body in bodies)
    prompts.write_text('{"prompt": "another"}')
    other, _ = swept("other", prompts=str(prompts))
    with pytest.raises(NothingSurvived, match="no level has a result on both sides"):
        read_comparison([natural], [other], tolerance=0.05).must_pass(fail_on_regression=False)


@pytest.mark.real
def test_null_leaves_a_field_out_that_a_strict_gateway_refuses_and_the_refusal_names_the_setting(swept, recorder):
    recorder.unknown = "max_tokens"
    folder, _ = swept("refused", scenarios=["D(20,2)"])
    (row,) = tuner.load_batches(folder).to_dict("records")
    assert row["outcome"] == "all_errors" and "request_parameters: {max_tokens: null}" in row["reason"]
    parameters = {"max_tokens": None, "max_completion_tokens": 2}
    folder, bodies = swept("taken", scenarios=["D(20,2)"], request_parameters=parameters)
    assert bodies and not any("max_tokens" in body for body in bodies)
    assert {body["max_completion_tokens"] for body in bodies} == {2}
    assert tuner.load_batches(folder)["outcome"].tolist() == ["completed"]


@pytest.mark.parametrize("name", ["max_model_len", "context_window"])
def test_a_request_longer_than_what_an_attached_server_takes_is_refused_before_any_load(swept, recorder, name):
    recorder.more = {name: 64}
    with pytest.raises(SpecError, match=r"D\(60,8\) are more than the 64 that the server at http\S+ takes"):
        swept("long", scenarios=["D(60,8)"])
    assert not recorder.bodies


@pytest.fixture
def prepared(tiny_gguf):
    def make(kind=None, **asked):
        return prepare(make_spec({"model": str(tiny_gguf), **asked}, *filter(None, [kind])))

    return make


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "my prompts.txt"
    path.write_text("One\nTwo\n")
    return path


def test_scenarios_are_called_by_all_that_is_sent(prepared, prompts):
    assert prepared(scenarios="D(8,8) D(9,9)").scenarios == ["D(8,8)", "D(9,9)"]
    assert prepared(prefix="tokens: 40, groups: 3").scenarios == ["D(100,32)+prefix(40,3)"]
    (name,) = prepared(prompts=str(prompts)).scenarios
    assert name.startswith("my_prompts.txt#")
    assert prepared(prompts=str(prompts), scenarios="dataset").scenarios == [name]
    assert prepared(prompts=str(prompts), prefix={"tokens": 5}).scenarios == [f"{name}+prefix(5,1)"]


@pytest.mark.parametrize("kind", [None, TuneSpec])
def test_what_a_run_has_recorded_asks_for_the_same_again(prepared, prompts, kind):
    for asked in (
        {"prompts": str(prompts)},
        {"prefix": "tokens: 9"},
        {"seed": "random"},
        {"prompts": prompts, "prefix": {"tokens": 9}},
    ):
        spec = prepared(kind, **asked)
        assert prepared(kind, **unlike_default(spec)) == spec == prepared(kind, **spec.model_dump(mode="json"))


def test_a_random_seed_is_another_each_time_and_recorded(prepared):
    seeds = {prepared(seed="random").seed for _ in range(5)}
    assert len(seeds) == 5 and all(isinstance(seed, int) for seed in seeds)
    assert fingerprint(prepared(seed="7"))["seed"] == 7


def test_a_run_goes_on_with_the_prompts_that_it_began_with(prepared, prompts, tmp_path):
    spec = prepared(prompts=str(prompts))
    begun = Experiment.at(tmp_path / "run")
    begun.describe(kind="sweep", spec=spec.model_dump(mode="json", exclude_none=True))
    prompts.write_text("Three\n")
    with pytest.raises(SpecError, match=r"is my_prompts.txt#.* and not my_prompts.txt#.* any more"):
        with_workload(spec)
    with pytest.raises(SpecError, match="was made with scenarios"):
        check_same(prepared(prompts=str(prompts)), begun)


def test_a_run_of_a_version_without_seeds_goes_on(prepared, tmp_path):
    spec = prepared()
    before = {name: value for name, value in spec.model_dump(mode="json", exclude_none=True).items() if name != "seed"}
    begun = Experiment.at(tmp_path / "run")
    begun.describe(kind="sweep", spec=before)
    check_same(spec, begun)
    with pytest.raises(SpecError, match="made with seed 0, now 3 is asked"):
        check_same(prepared(seed=3), begun)


@pytest.fixture
def hit_rate(tiny_gguf, tmp_path):
    """The cache hit rate of a level of the embedded engine."""

    def measure(**load):
        limits = {"levels": [1], "max_seconds": 60, "max_requests": 12, "warmup_requests": 0}
        spec = make_spec({"engine": "llamacpp", "model": str(tiny_gguf), **limits, **load})
        run_sweep(spec, Experiment.at(tmp_path / "run"))
        (row,) = tuner.load_batches(tmp_path / "run").to_dict("records")
        assert (row["outcome"], row["errors"]) == ("completed", 0), row["reason"]
        return row["cache_hit_rate"]

    return measure


@pytest.mark.real
def test_a_conversation_finds_its_beginning_in_the_servers_cache(hit_rate, tmp_path):
    prompts = tmp_path / "talks.jsonl"
    talks = [
        [{"role": "user", "content": f"talk {talk} turn {turn} " * words} for turn, words in enumerate((16, 4, 4))]
        for talk in range(8)
    ]
    lines = [json.dumps({"messages": talk, "max_tokens": 4}) for talk in talks]
    prompts.write_text("\n".join(lines))
    assert 0.5 < hit_rate(prompts=str(prompts)) < 1


@pytest.mark.real
@pytest.mark.parametrize(("prefix", "expected"), [({"tokens": 60}, (0.5, 1)), (None, (0, 0.5))])
def test_a_shared_beginning_is_found_in_the_servers_cache(hit_rate, prefix, expected):
    low, high = expected
    assert low <= hit_rate(scenarios=["D(10,4)"], prefix=prefix) < high
