"""What each engine is told, what it refuses before the launch, and what its log lines mean."""

import sys
from importlib.metadata import EntryPoint

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner import engines
from tuner.core.server_log import diagnose
from tuner.engines import llamacpp
from tuner.engines.base import Engine, Place, ServerSpec
from tuner.errors import EngineError, SpecError

PLACE = Place(port=8123, gpus=("GPU-a", "GPU-b"), name="tuner-1")


def program(folder, name="vllm"):
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def command(tmp_path, place=PLACE, **asked):
    spec = ServerSpec.parse({"executable": program(tmp_path), "model": "org/model", **asked})
    engine = engines.find(spec.engine)
    engine.check(spec)
    return engine.command(spec, place)


# the command


@pytest.mark.parametrize(
    ("engine", "parameters", "flags"),
    [
        ("vllm", {"max_num_seqs": 64}, ["--max-num-seqs", "64"]),
        ("vllm", {"max-num-seqs": 64}, ["--max-num-seqs", "64"]),
        ("vllm", {"gpu_memory_utilization": 0.9}, ["--gpu-memory-utilization", "0.9"]),
        ("vllm", {"enforce_eager": True}, ["--enforce-eager"]),
        ("vllm", {"enable_prefix_caching": False}, ["--no-enable-prefix-caching"]),
        ("vllm", {"lora_modules": ["a=b", "c=d e"]}, ["--lora-modules", "a=b", "c=d e"]),
        ("vllm", {"compilation_config": {"level": 3}}, ["--compilation-config", '{"level": 3}']),
        ("vllm", {"max_model_len": None}, []),
        ("sglang", {"mem_fraction_static": 0.8}, ["--mem-fraction-static", "0.8"]),
        ("sglang", {"disable_radix_cache": True}, ["--disable-radix-cache"]),
        ("sglang", {"disable_radix_cache": False}, []),
    ],
)
def test_parameters_are_spelt_as_the_engine_wants_them(tmp_path, engine, parameters, flags):
    one = Place(port=8123)
    plain = command(tmp_path, one, engine=engine)
    assert command(tmp_path, one, engine=engine, parameters=parameters) == plain + flags


def test_vllm_serves_the_model_on_loopback_on_its_gpus(tmp_path):
    where = ["--host", "127.0.0.1", "--port", "8123", "--served-model-name", "model"]
    vllm = [program(tmp_path), "serve", "org/model", *where]
    assert command(tmp_path, engine="vllm", gpus=2) == [*vllm, "--tensor-parallel-size", "2"]
    sizes = {"pipeline_parallel_size": 2}
    assert command(tmp_path, engine="vllm", gpus=2, parameters=sizes) == [*vllm, "--pipeline-parallel-size", "2"]


def test_a_key_goes_through_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", "sk-canary")
    spec = ServerSpec(engine="vllm", model="m", executable=program(tmp_path), api_key_env="MY_KEY")
    vllm = engines.find("vllm")
    assert vllm.environment(spec)["VLLM_API_KEY"] == "sk-canary"
    assert "sk-canary" not in " ".join(vllm.command(spec, PLACE)) + repr(spec)


def test_any_command_is_filled_in():
    asked = ["sh", "-c", "serve {model} on {port}", "--gpus", "device={gpus}", "--name={name}", "--seqs={seqs}", "{}"]
    spec = ServerSpec(engine="command", model="m; rm -rf /", command=asked, parameters={"seqs": [1, 2]})
    filled = engines.find("command").command(spec, PLACE)
    assert filled[2:] == [
        "serve m; rm -rf / on 8123",
        "--gpus",
        "device=GPU-a,GPU-b",
        "--name=tuner-1",
        "--seqs=[1, 2]",
        "{}",
    ]


# refused before the launch


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"engine": "vlm"}, "there is no engine 'vlm'; did you mean vllm?"),
        ({"engine": "x"}, "it has attach, command, llamacpp, sglang, vllm"),
        ({"engine": "vllm", "modle": "m"}, "unknown parameter 'modle'; did you mean model?"),
        ({"engine": "vllm", "port": 0}, "port: must be greater than or equal to 1, got 0"),
        ({"engine": "vllm", "environment": {"HF_TOKEN": "x"}}, "HF_TOKEN looks like a secret"),
        ({"engine": "vllm"}, "engine vllm needs model"),
        ({"engine": "vllm", "model": "/no/such/folder"}, "the model /no/such/folder does not exist"),
        (
            {"engine": "vllm", "model": "m", "parameters": {"max_num_seqs": "many"}},
            "max_num_seqs = 'many': must be a whole",
        ),
        ({"engine": "vllm", "model": "m", "parameters": {"max_num_seqs": True}}, "must be a whole number"),
        ({"engine": "vllm", "model": "m", "parameters": {"gpu_memory_utilization": 2}}, "must be at most 1"),
        (
            {"engine": "vllm", "model": "m", "gpus": 2, "parameters": {"tensor_parallel_size": 4}},
            "vllm is given 2 GPUs, and its parallel sizes come to 4",
        ),
        ({"engine": "sglang", "model": "m", "api_key_env": "K"}, "sglang takes an API key only where every process"),
        ({"engine": "command"}, "engine command needs command"),
        ({"engine": "command", "command": ["no-such-program", "{port}"]}, "no program no-such-program on PATH"),
        ({"engine": "command", "command": ["true"]}, "command has no {port} in it"),
        ({"engine": "command", "command": ["true", "{port}", "{prot}"]}, "command has {prot}, which is none of port"),
        ({"engine": "command", "command": ["true", "{port}"], "parameters": {"n": 1}}, "command has no {n} in it"),
        ({"engine": "attach"}, "engine attach needs base_url"),
        ({"engine": "attach", "base_url": "localhost:8000"}, "engine attach needs base_url"),
        ({"engine": "attach", "base_url": "http://me:pw@host"}, "base_url holds a user or password"),
        ({"engine": "attach", "base_url": "http://host", "parameters": {"a": 1}}, "attach takes no parameters"),
    ],
)
def test_what_is_wrong_is_said_before_the_launch(tmp_path, asked, message):
    executable = {"executable": program(tmp_path)} if asked["engine"] in ("vllm", "sglang") else {}
    with pytest.raises((SpecError, EngineError)) as refused:
        spec = ServerSpec.parse(asked | executable)
        engines.find(spec.engine).check(spec)
    assert refused.value.exit_code == 2 and "\n" not in str(refused.value)
    refused.match(message.replace("{", r"\{").replace("?", r"\?"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_paralel": 2}, "llamacpp has no parameter 'n_paralel'; did you mean n_parallel"),
        ({"n_batch": 0}, "n_batch = 0: must be at least 1"),
        ({"cache_type_k": "q3"}, "cache_type_k = 'q3': must be one of f32, f16"),
        ({"n_ctx": 100, "n_parallel": 4}, "25 tokens a slot are too few; set n_ctx to at least 256"),
    ],
)
def test_llamacpp_refuses_what_it_does_not_know(tiny_gguf, parameters, message):
    spec = ServerSpec(engine="llamacpp", model=str(tiny_gguf), parameters=parameters)
    with pytest.raises(SpecError, match=message):
        engines.find("llamacpp").check(spec)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), (b"", "is no GGUF file"), (b"PK\x03\x04", "is no GGUF file")]
)
def test_llamacpp_wants_a_gguf(tmp_path, content, message):
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=message):
        engines.find("llamacpp").check(ServerSpec(engine="llamacpp", model=str(path)))


@pytest.mark.parametrize(
    ("engine", "parameters", "tokens"),
    [
        ("llamacpp", {}, 2048),
        ("llamacpp", {"n_ctx": 4096, "n_parallel": 8}, 512),
        ("llamacpp", {"n_ctx": 4096, "n_parallel": 8, "kv_unified": True}, 4096),
        ("vllm", {"max_model_len": 1000}, 1000),
        ("vllm", {}, None),
        ("sglang", {"context_length": 1000}, 1000),
    ],
)
def test_the_room_for_one_request_is_known(engine, parameters, tokens):
    assert engines.find(engine).context(ServerSpec(engine=engine, parameters=parameters)) == tokens


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_an_engine_that_is_not_installed_says_how_to(monkeypatch, name):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EngineError, match=f"engine {name} is not installed here; install it: .*pip install {name}"):
        engines.find(name).check(ServerSpec(engine=name, model="m"))


# registered by others


class Other(Engine):
    name = "other"


@pytest.mark.parametrize(
    ("value", "outcome"),
    [(f"{__name__}:Other", "other"), (f"{__name__}:PLACE", None), ("no_such_module:Thing", None)],
)
def test_another_package_registers_an_engine(monkeypatch, value, outcome):
    point = EntryPoint("other", value, engines.GROUP)
    monkeypatch.setattr(engines, "entry_points", lambda **_: [point])
    assert "other" in engines.names()
    if outcome:
        assert engines.find("other").name == outcome
    else:
        with pytest.raises(EngineError, match="engine 'other'"):
            engines.find("other")


# why it failed: lines that real servers printed

DIAGNOSES = {"out_of_memory", "port_in_use", "bad_argument", "model_not_found", "gpu_unavailable", "crashed"}

LOGS = [
    ("vllm", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "out_of_memory"),
    ("vllm", "ValueError: No available memory for the cache blocks.", "out_of_memory"),
    (
        "vllm",
        "ValueError: Available memory on node 0 (3.1 GiB) is less than requested memory for kv (900 GiB)",
        "out_of_memory",
    ),
    (
        "vllm",
        "ValueError: To serve at least one request with the model's max seq len (2048), 9 GiB KV cache",
        "out_of_memory",
    ),
    ("vllm", "OSError: [Errno 98] Address already in use", "port_in_use"),
    ("vllm", "vllm: error: unrecognized arguments: --max-num-sqs 3", "bad_argument"),
    ("vllm", "pydantic_core._pydantic_core.ValidationError: 1 validation error for SchedulerConfig", "bad_argument"),
    ("vllm", "  Value error, User-specified max_model_len (100000) is greater than the derived one", "bad_argument"),
    ("vllm", "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name'", "model_not_found"),
    ("vllm", "RuntimeError: No CUDA GPUs are available", "gpu_unavailable"),
    ("sglang", "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.", "out_of_memory"),
    ("llamacpp", "srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 80", "port_in_use"),
    ("llamacpp", "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 204", "out_of_memory"),
    (
        "llamacpp",
        "llama_model_load: error loading model: tensor 'x' data is not within the file bounds",
        "model_not_found",
    ),
    ("command", "INFO: loading weights into memory\nERROR: 0 errors so far", "crashed"),
]


@pytest.mark.parametrize("prefix", ["", "(EngineCore pid=15289) ERROR 11-24 08:00:44 [core.py:1063] ", "0.01.359 E "])
@pytest.mark.parametrize(("engine", "line", "kind"), LOGS)
def test_a_log_tells_the_kind_of_failure(engine, line, kind, prefix):
    noise = "INFO 11-24 06:00:00 [a.py:1] memory profiling took 3 s\n\x1b[32mINFO\x1b[0m Error budget: none\n"
    after = "\nTraceback (most recent call last):\nRuntimeError: Engine core initialization failed."
    found = diagnose(noise + prefix + line + after, 1, engines.find(engine).patterns())
    assert found.kind == kind and kind in DIAGNOSES
    if kind != "crashed":
        assert found.detail == line.strip() and line in found.log_tail and "\x1b" not in "".join(found.log_tail)


def test_the_first_exception_tells_where_no_pattern_does():
    log = "WARNING: ulimit (`OSError: x`)\n(Worker pid=1) ERROR 11-24 08:00:44 [a.py:9] ValueError: the root\n"
    found = diagnose(log + "RuntimeError: Worker failed\nits last words\n", 1, ())
    assert (found.kind, found.detail) == ("crashed", "it ended with exit code 1: ValueError: the root")


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [(0, "with exit code 0"), (-9, "by signal SIGKILL"), (-15, "by signal SIGTERM"), (None, "supervisor was killed")],
)
def test_without_a_telling_line_the_way_it_ended_is_told(exit_code, words):
    found = diagnose("hello\n", exit_code, ())
    assert found.kind == "crashed" and words in found.detail and found.detail.endswith(": hello")


@given(log=st.text(), exit_code=st.one_of(st.none(), st.integers(-64, 255)))
def test_any_log_gives_one_line_and_a_known_kind(log, exit_code):
    found = diagnose(log, exit_code, engines.find("vllm").patterns())
    assert found.kind in DIAGNOSES and len(found.detail.splitlines()) == 1


def test_every_engine_names_only_known_kinds():
    for name in engines.names():
        assert {pattern.kind for pattern in engines.find(name).patterns()} <= DIAGNOSES


def test_every_flag_of_the_embedded_server_is_taken_by_it(tiny_gguf):
    from tuner.engines.llamacpp_server import configure, parse

    tried = {"n_ctx": 512, "n_threads_batch": 2}
    parameters = {name: tried.get(name, known.default) for name, known in llamacpp.LlamaCpp.tunables.items()}
    spec = ServerSpec(engine="llamacpp", model=str(tiny_gguf), parameters=parameters)
    arguments = engines.find("llamacpp").command(spec, PLACE)[3:]
    params = configure(parse(arguments))
    assert (params.n_ctx, params.n_parallel, params.cpuparams_batch.n_threads) == (512, 4, 2)
