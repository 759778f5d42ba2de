"""What each engine is told, and what it refuses before the launch."""

import sys
from importlib.metadata import EntryPoint

import pytest

from tuner import engines
from tuner.engines import llamacpp
from tuner.engines.base import Engine, Placement, ServerSpec
from tuner.errors import EngineError, SpecError
from tuner.sweep.spec import make_spec

PLACE = Placement(port=8123, gpus=("GPU-a", "GPU-b"), name="tuner-1")


def program(folder, name="vllm"):
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def command(tmp_path, place=PLACE, **asked):
    spec = make_spec({"executable": program(tmp_path), "model": "org/model", **asked}, ServerSpec)
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
    one = Placement(port=8123)
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
        ({"engine": "vllm", "environment": {"HF_TOKEN": "x"}}, "HF_TOKEN is a key by its name"),
        ({"engine": "vllm", "environment": {"MY_PASSWORD": "2" * 8}}, "MY_PASSWORD is a key by its name"),
        (
            {"engine": "vllm", "environment": {"OMP_NUM_THREADS": 4}},
            "environment: OMP_NUM_THREADS must be a text.*got 4",
        ),
        ({"engine": "vllm", "environment": {"A": "1", "VLLM_USE_V1": True}}, "environment: VLLM_USE_V1 must be a text"),
        ({"engine": "vllm", "model": "m", "parameters": {"port": 80}}, "port is none of vllm's here: set port beside"),
        ({"engine": "vllm", "model": "m", "parameters": {"grpc": True}}, "grpc is none of vllm's here"),
        ({"engine": "attach", "base_url": "http://127.0.0.1:abc"}, "engine attach needs base_url"),
        ({"engine": "attach", "base_url": "http://ho st"}, "engine attach needs base_url"),
        (
            {"engine": "vllm", "model": "m", "parameters": {"--host": "::"}},
            "host is none of vllm's here: servers of ours",
        ),
        ({"engine": "sglang", "model": "m", "parameters": {"model-path": "x"}}, "set model beside parameters"),
        ({"engine": "vllm", "model": "m", "parameters": {"api_key": "x"}}, "in api_key_env"),
        ({"engine": "vllm", "model": "m", "parameters": {"ssl_keyfile": "x"}}, "without TLS"),
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
        ({"engine": "attach", "base_url": "http://me:pw@host"}, "base_url: it holds a user or password"),
        ({"engine": "attach", "base_url": "http://host", "parameters": {"a": 1}}, "attach takes no parameters"),
    ],
)
def test_what_is_wrong_is_said_before_the_launch(tmp_path, asked, message):
    executable = {"executable": program(tmp_path)} if asked["engine"] in ("vllm", "sglang") else {}
    with pytest.raises((SpecError, EngineError)) as refused:
        spec = make_spec(asked | executable, ServerSpec)
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


# what the installed version has

SOURCES = {
    "vllm": {
        "engine/arg_utils.py": "class EngineArgs:\n    swap_space: float = 4\n    compilation_config: dict = {}\n\n"
        'parser.add_argument("--max-num-seqs")\nparser.add_argument("--enable-prefix-caching")\n',
        "entrypoints/launchers/cli_args.py": "class FrontendArgs:\n    uvicorn_log_level: str = 'info'\n",
    },
    "sglang": {"srt/server_args.py": "class ServerArgs:\n    tp_size: int = 1\n    page_size: int = 1\n"},
    "new sglang": {
        "srt/arg_groups/fields/parallel.py": "class Parallel:\n    tp_size: A[int] = 1\n"
        "    dp_size: A[int] = 1\n    attn_dp_size: A[int] = 1\n"
        "    cuda_graph_backend_decode: A[str] = None\n    cuda_graph_backend_prefill: A[str] = None\n",
        "cli/serve.py": "",
    },
}


def installed(folder, version):
    """The program of an engine in an environment that has this version of its package."""
    name = version.rpartition(" ")[2]
    for path, source in SOURCES[version].items():
        file = folder / "lib/python3.12/site-packages" / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    (folder / "bin").mkdir()
    program(folder / "bin", "sglang")
    return program(folder / "bin", "vllm" if name == "vllm" else "python")


@pytest.mark.parametrize(
    ("version", "parameter", "message"),
    [
        ("vllm", "max_num_sqs", "vllm has no parameter 'max_num_sqs'; did you mean max_num_seqs?"),
        ("vllm", "swap_spaces", "did you mean swap_space?"),
        ("vllm", "zzz", "vllm has no parameter 'zzz'; its --help lists all"),
        ("vllm", "uvicorn_log_levl", "did you mean uvicorn_log_level?"),
        ("sglang", "max_runing_requests", "did you mean max_running_requests?"),
        ("sglang", "page_sizes", "did you mean page_size?"),
        *(
            ("vllm", name, "")
            for name in ("swap-space", "no_enable_prefix_caching", "compilation_config.level", "dtype")
        ),
        *(("sglang", name, "") for name in ("tp", "page_size", "tp_size", "disable_cuda_graph")),
    ],
)
def test_a_misspelt_parameter_is_refused_by_the_names_of_the_installed_version(tmp_path, version, parameter, message):
    spec = ServerSpec(engine=version, model="m", executable=installed(tmp_path, version))
    try:
        engines.find(version).check_names(spec, [parameter.replace("-", "_")])
    except SpecError as refused:
        assert message and message in str(refused)
    else:
        assert not message


@pytest.mark.parametrize(("parameter", "is_near"), [("max_num_sqs", True), ("max_num_seqs", False), ("xyz", False)])
def test_where_nobody_knows_the_names_one_that_looks_misspelt_is_warned_of(tmp_path, caplog, parameter, is_near):
    command(tmp_path, engine="vllm", parameters={parameter: 4})
    assert ("did you mean max_num_seqs?" in caplog.text) == is_near and bool(caplog.records) == is_near


@pytest.mark.parametrize(
    ("version", "parameters", "flags"),
    [
        ("sglang", {"tp_size": 8, "dp_size": 8, "enable_dp_attention": True}, "--dp-size 8 --enable-dp-attention"),
        ("new sglang", {"tp_size": 8, "dp_size": 8, "enable_dp_attention": True}, "--attn-dp-size 8"),
        ("new sglang", {"tp_size": 8, "dp": 2, "enable_dp_attention": True}, "--attn-dp-size 2"),
        ("new sglang", {"tp_size": 8, "dp_size": 2, "enable_dp_attention": False}, "--dp-size 2"),
        ("sglang", {"tp_size": 8, "disable_cuda_graph": True}, "--disable-cuda-graph"),
        (
            "new sglang",
            {"tp_size": 8, "disable_cuda_graph": True},
            "--cuda-graph-backend-decode disabled --cuda-graph-backend-prefill disabled",
        ),
    ],
)
def test_sglang_is_started_as_the_installed_version_wants_it(tmp_path, version, parameters, flags):
    executable = installed(tmp_path, version)
    words = command(tmp_path, engine="sglang", executable=executable, parameters=parameters)
    launcher = [str(tmp_path / "bin/sglang"), "serve"] if version == "new sglang" else [executable, "-m"]
    assert words[:2] == launcher and " ".join(words).endswith(f"--tp-size 8 {flags}")


@pytest.mark.parametrize(
    ("engine", "parameters", "gpus"),
    [
        ("sglang", {"tp_size": 8, "dp_size": 8, "enable_dp_attention": True}, 8),
        ("sglang", {"tp": 8, "dp": 8, "enable_dp_attention": True}, 8),
        ("sglang", {"tp_size": 8, "attn_dp_size": 8}, 8),
        ("sglang", {"tp_size": 4, "pp_size": 2, "data_parallel_size": 2, "enable_dp_attention": True}, 8),
        ("sglang", {"tp_size": 2, "dp_size": 4}, 8),
        ("sglang", {"tp_size": 2, "dp_size": 4, "enable_dp_attention": False}, 8),
        ("vllm", {"tensor_parallel_size": 2, "prefill_context_parallel_size": 2}, 4),
        ("vllm", {"tensor_parallel_size": 4, "data_parallel_size": 2, "enable_expert_parallel": True}, 8),
        ("vllm", {"tensor_parallel_size": 2, "data_parallel_size": 4, "data_parallel_size_local": 1}, 2),
        ("vllm", {"tensor_parallel_size": 8, "pipeline_parallel_size": 2, "nnodes": 2}, 8),
        ("sglang", {"tp_size": 16, "nnodes": 2, "node_rank": 0}, 8),
    ],
)
def test_a_server_takes_as_many_gpus_as_its_sizes_come_to(engine, parameters, gpus):
    assert engines.find(engine).gpus(ServerSpec(engine=engine, model="m", parameters=parameters)) == gpus


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


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llamacpp"])
def test_a_program_that_is_named_is_found_or_named(tmp_path, monkeypatch, tiny_gguf, engine):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "venv").mkdir()
    (tmp_path / "notes").write_text("")
    real = program(tmp_path, "real")
    for name in ("~/real", "./real", real):
        spec = ServerSpec(engine=engine, model=str(tiny_gguf), executable=name)
        engines.find(engine).check(spec)
        assert engines.find(engine).command(spec, PLACE)[0] in (real, "./real")
    wrong = {
        "~/none": "the program ~/none is not there",
        "venv/": "venv/ is a folder",
        "./notes": "may not be executed",
    }
    for name, message in wrong.items():
        with pytest.raises(EngineError, match=f"executable: .*{message}"):
            engines.find(engine).check(ServerSpec(engine=engine, model=str(tiny_gguf), executable=name))


def test_a_model_and_a_command_at_home_are_found_without_a_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = program(tmp_path, "serve")
    assert command(tmp_path, engine="vllm", model="~/vllm")[2] == str(tmp_path / "vllm")
    spec = ServerSpec(engine="command", command=["~/serve", "{port}"])
    engines.find("command").check(spec)
    assert engines.find("command").command(spec, PLACE) == [path, "8123"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "false"),
        ("VLLM_MAX_TOKENS_PER_EXPERT_FP4_MOE", "163840000"),
        ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
        ("HF_TOKEN_PATH", "/run/token"),
        ("MONKEY_PATCH", "gevent"),
        ("KEY_VALUE_CACHE_DTYPE", "fp8_e5m2"),
        ("TOKEN_BUDGET_POLICY", "adaptive"),
    ],
)
def test_what_only_looks_like_a_secret_by_its_name_is_none(name, value):
    assert make_spec({"engine": "vllm", "environment": {name: value}}, ServerSpec).environment == {name: value}


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


def test_every_flag_of_the_embedded_server_is_taken_by_it(tiny_gguf):
    from tuner.engines.llamacpp_server import configure, parse

    tried = {"n_ctx": 512, "n_threads_batch": 2}
    parameters = {name: tried.get(name, known.default) for name, known in llamacpp.LlamaCpp.tunables.items()}
    spec = ServerSpec(engine="llamacpp", model=str(tiny_gguf), parameters=parameters)
    arguments = engines.find("llamacpp").command(spec, PLACE)[3:]
    params = configure(parse(arguments))
    assert (params.n_ctx, params.n_parallel, params.cpuparams_batch.n_threads) == (512, 4, 2)
