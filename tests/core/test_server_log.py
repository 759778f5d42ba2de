"""Why a server failed: one table of log lines as real engines print them, by engine and version."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner import engines
from tuner.core.server_log import diagnose

KINDS = {"out_of_memory", "port_in_use", "bad_argument", "model_not_found", "gpu_unavailable", "crashed"}
WORKER_OF_0_8 = "(VllmWorker rank=1 pid=2418) "
CORE = "(EngineCore_DP0 pid=1733) ERROR 09-28 15:47:24 [core.py:718] "
WORKER = "(Worker_TP1 pid=912) ERROR 03-02 09:10:11 [multiproc_executor.py:772] "
HYPHEN = "(VllmWorker-0 pid=912) ERROR 03-02 09:10:11 [multiproc_executor.py:511] "
RAY = "(EngineCore_DP0 pid=7) (RayWorkerWrapper pid=3173, ip=10.2.3.4) ERROR 06-17 02:49:25 [worker_base.py:600] "
SERVER = "(APIServer pid=1) "
SGLANG = "[2026-02-03 07:41:58 DP0 TP0] "
WORKER_OF_0_10 = "(VllmWorker TP1 pid=2221) ERROR 07-25 14:49:36 [multiproc_executor.py:546] "
RAY_OF_IPV6 = "(pid=3173, ip=fd00::7) ERROR 06-17 02:49:25.118 [worker_base.py:600] "

#: engine and version, what stands before the message, the message, and what it is
LINES = [
    (
        "vllm 0.11 in docker compose",
        "vllm-1  | (EngineCore_DP0 pid=1733) ERROR 09-28 15:47:24 [core.py:718] ",
        "ValueError: No available memory for the cache blocks. Try",
        "out_of_memory",
    ),
    (
        "sglang 0.5 in docker compose",
        "my-sglang_a-2 | " + SGLANG,
        "ValueError: The memory capacity is unbalanced. Some GPUs may be occupied by other processes. pre_model_load",
        "out_of_memory",
    ),
    ("vllm 0.6", "ERROR 06-17 02:49:25 engine.py:366] ", "RuntimeError: CUDA error: out of memory", "out_of_memory"),
    (
        "vllm 0.8",
        "ERROR 07-10 14:49:36 [core.py:515] ",
        "ValueError: No available memory for the cache blocks. Try",
        "out_of_memory",
    ),
    (
        "vllm 0.8",
        WORKER_OF_0_8 + "ERROR 05-10 14:49:36 [multiproc_executor.py:379] ",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.00 GiB. GPU 1 has a total capacity of",
        "out_of_memory",
    ),
    (
        "vllm 0.8",
        "ERROR 05-10 14:49:36 [core.py:390] ",
        "ValueError: The model's max seq len (131072) is larger than the maximum number of tokens that can be stored "
        "in KV cache (35888). Try increasing `gpu_memory_utilization` or decreasing `max_model_len`",
        "out_of_memory",
    ),
    (
        "vllm 0.10",
        CORE,
        "ValueError: Free memory on device (3.1/8.0 GiB) on startup is less than desired GPU memory utilization (0.9",
        "out_of_memory",
    ),
    (
        "vllm 0.11",
        CORE,
        "ValueError: To serve at least one request with the models's max seq len (40960), (5 GiB KV cache",
        "out_of_memory",
    ),
    (
        "vllm 0.20 (CPU)",
        "(Worker pid=18) ERROR 06-13 19:57:36 [multiproc_executor.py:989] ",
        "ValueError: Available memory on node 0 (2.5/7.8 GiB) on startup is less than desired CPU memory utilization",
        "out_of_memory",
    ),
    (
        "vllm 0.32 (CPU)",
        "(EngineCore pid=15289) ERROR 11-24 08:00:44 [core.py:1063] ",
        "ValueError: Available memory on node 0 (3/8 GiB) on kv cache allocation is less than requested memory for kv",
        "out_of_memory",
    ),
    ("vllm 0.11", HYPHEN, "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 20.00 MiB", "out_of_memory"),
    ("vllm 0.12", RAY, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB", "out_of_memory"),
    ("vllm 0.12", SERVER, "OSError: [Errno 98] Address already in use", "port_in_use"),
    ("vllm 0.12", "", "vllm: error: unrecognized arguments: --max-num-sqs 3", "bad_argument"),
    (
        "vllm 0.20",
        "",
        "vllm serve: error: argument --dtype: invalid choice: 'bf17' (choose from auto, half",
        "bad_argument",
    ),
    (
        "vllm 0.12",
        SERVER,
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
        "bad_argument",
    ),
    (
        "vllm 0.20",
        SERVER,
        "  Value error, User-specified max_model_len (100000) is greater than the derived max_model_len (8192)",
        "bad_argument",
    ),
    ("vllm 0.32", CORE, "ValueError: No common block size for 16, 7.", "bad_argument"),
    (
        "vllm 0.12",
        SERVER,
        "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'name'",
        "model_not_found",
    ),
    (
        "vllm 0.20",
        SERVER,
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find the requested files in the disk cache and has",
        "model_not_found",
    ),
    (
        "vllm 0.20",
        SERVER,
        "OSError: We couldn't connect to 'https://hub.example' to load the files, and couldn't find them in the cache",
        "model_not_found",
    ),
    (
        "vllm 0.9",
        "",
        "huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach https://hub.example/api: offline mode is enabled",
        "model_not_found",
    ),
    (
        "vllm 0.12",
        SERVER,
        "OSError: You are trying to access a gated repo. GatedRepoError: 401 Client",
        "model_not_found",
    ),
    ("vllm 0.12", "", "OSError: org/none is not a local folder and is not a valid model identifier", "model_not_found"),
    ("vllm 0.12", WORKER, "RuntimeError: No CUDA GPUs are available", "gpu_unavailable"),
    ("vllm 0.20", SERVER, "RuntimeError: Failed to infer device type, please set", "gpu_unavailable"),
    (
        "sglang 0.4",
        SGLANG,
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
        "out_of_memory",
    ),
    (
        "sglang 0.5",
        SGLANG,
        "ValueError: Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static=0.6. Raise it",
        "out_of_memory",
    ),
    ("sglang 0.4", SGLANG, "Prefill out of memory. Try to lower your batch size.", "out_of_memory"),
    (
        "sglang 0.4",
        SGLANG,
        "RuntimeError: alloc_req_slots runs out of memory. Please set a smaller number",
        "out_of_memory",
    ),
    ("sglang 0.5", "", "launch_server.py: error: unrecognized arguments: --tpp-size 2", "bad_argument"),
    (
        "llamacpp",
        "0.01.359 E ",
        "srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 80",
        "port_in_use",
    ),
    ("llamacpp", "0.01.359 E ", "ggml_backend_cpu_alloc: failed to allocate buffer of size 204", "out_of_memory"),
    (
        "llamacpp",
        "",
        "llama_model_load: error loading model: tensor 'x' is not within the file bounds",
        "model_not_found",
    ),
    ("llamacpp", "", "cannot allocate memory for thread-local data: ABORT", "out_of_memory"),
    ("vllm 0.10", WORKER_OF_0_10, "  Value error, max_model_len (9) is greater than the derived", "bad_argument"),
    ("vllm 0.11", CORE, "Cuda failure 2 'out of memory'", "out_of_memory"),  # NCCL's last error
    (
        "vllm 0.11",
        CORE,
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`",
        "out_of_memory",
    ),
    ("vllm 0.5", "", "torch.cuda.OutOfMemoryError: Tried to allocate 1 GiB", "out_of_memory"),
    ("vllm 0.11 (NPU)", CORE, "RuntimeError: NPU out of memory. Tried to allocate 20.00 MiB", "out_of_memory"),
    ("vllm 0.11 (TPU)", CORE, "XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying", "out_of_memory"),
    ("vllm 0.12", RAY_OF_IPV6, "ray.exceptions.OutOfMemoryError: the node runs low on memory", "out_of_memory"),
    ("vllm 0.12", SERVER, "OSError: You are trying to access a gated repo.", "model_not_found"),
    ("vllm 0.12", CORE, "RuntimeError: Cannot find any model weights with `/models/x`", "model_not_found"),
    ("vllm 0.12", SERVER, "ValueError: No supported config format found in /models/x.", "model_not_found"),
    ("vllm 0.12", SERVER, "huggingface_hub.errors.RevisionNotFoundError: 404 Client Error", "model_not_found"),
    ("vllm 0.12", SERVER, "huggingface_hub.errors.RemoteEntryNotFoundError: 404 Client Error", "model_not_found"),
    ("vllm 0.12", SERVER, "OSError: Can't load tokenizer for 'org/none'. If you were trying", "model_not_found"),
    ("sglang 0.5", SGLANG, "OSError: Error no file named model.safetensors found in /models/x.", "model_not_found"),
    ("sglang 0.5", SGLANG, "OSError: Incorrect path_or_model_id: '/models/x'.", "model_not_found"),
    ("vllm 0.12", WORKER, "RuntimeError: No HIP GPUs are available", "gpu_unavailable"),
    ("vllm 0.12", SERVER, "RuntimeError: Found no NVIDIA driver on your system.", "gpu_unavailable"),
    ("vllm 0.12", CORE, "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802", "gpu_unavailable"),
    ("sglang 0.5", SGLANG, "pynvml.NVMLError_DriverNotLoaded: Driver Not Loaded", "gpu_unavailable"),
    ("vllm 0.12", "", "vllm serve: error: ambiguous option: --max-num could match --max-num-seqs", "bad_argument"),
    ("llamacpp", "0.01.3 E ", "cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory", "out_of_memory"),
    ("llamacpp", "0.01.3 E ", "ggml_vulkan: Device memory allocation of size 1073741824 failed.", "out_of_memory"),
    ("llamacpp", "0.01.3 E ", "gguf_init_from_file: failed to open GGUF file 'x.gguf'", "model_not_found"),
    ("command", "", "Bind for 127.0.0.1:8000 failed: port is already allocated.", "port_in_use"),
    ("command", "", 'could not select device driver "" with capabilities: [[gpu]].', "gpu_unavailable"),
    ("command", "", "INFO: loading weights into memory\nERROR: 0 errors so far", "crashed"),
    (
        "vllm 0.32",
        "INFO 11-24 06:00:00 [a.py:1] ",
        "Available KV cache memory: 2 GiB, memory profiling took 3 s",
        "crashed",
    ),
]


@pytest.mark.parametrize(("engine", "prefix", "line", "kind"), LINES)
def test_a_log_tells_the_kind_of_failure(engine, prefix, line, kind):
    noise = "INFO 11-24 06:00:00 [a.py:1] memory profiling took 3 s\n\x1b[32mINFO\x1b[0m Error budget: none\n"
    after = "\nTraceback (most recent call last):\nRuntimeError: Engine core initialization failed."
    failure = diagnose(noise + prefix + line + after, 1, engines.find(engine.split()[0]).patterns())
    assert failure.kind == kind and kind in KINDS
    if kind != "crashed":
        assert failure.detail == line.strip() and line in failure.log_tail and "\x1b" not in "".join(failure.log_tail)


#: what only says that something else went wrong, as each process prints it before or after the cause
WRAPPERS = f"""{CORE}Exception: WorkerProc initialization failed due to an exception in a background process.
(EngineCore_DP0 pid=1733) RuntimeError: Engine core initialization failed. See root cause above.
{SERVER}vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above)
"""


@pytest.mark.parametrize(
    "prefix",
    [
        WORKER,
        HYPHEN,
        RAY,
        WORKER_OF_0_8 + "ERROR 05-10 14:49:36 [a.py:1] ",
        WORKER_OF_0_8,
        WORKER_OF_0_10,
        RAY_OF_IPV6,
        SGLANG,
        "",
    ],
)
@pytest.mark.parametrize("wrappers_first", [True, False])
def test_the_cause_in_a_worker_is_told_and_not_what_follows_from_it(prefix, wrappers_first):
    cause = f"{prefix}NotImplementedError: head size 33\n"
    log = WRAPPERS + cause if wrappers_first else cause + WRAPPERS
    failure = diagnose(log, 1, engines.find("vllm").patterns())
    assert (failure.kind, failure.detail) == ("crashed", "it ended with exit code 1: NotImplementedError: head size 33")


def test_the_first_exception_tells_where_no_pattern_does():
    log = "WARNING: ulimit (`OSError: x`)\n(Worker pid=1) ERROR 11-24 08:00:44 [a.py:9] ValueError: the root\n"
    failure = diagnose(log + "RuntimeError: Worker failed\nits last words\n", 1, ())
    assert (failure.kind, failure.detail) == ("crashed", "it ended with exit code 1: ValueError: the root")


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (0, "with exit code 0"),
        (137, "with exit code 137, by SIGKILL (the kernel does that when memory"),
        (-9, "by signal SIGKILL"),
        (-15, "by signal SIGTERM"),
        (None, "supervisor was killed"),
    ],
)
def test_without_a_telling_line_the_way_it_ended_is_told(exit_code, words):
    failure = diagnose("hello\n", exit_code, ())
    assert failure.kind == "crashed" and words in failure.detail and failure.detail.endswith(": hello")


@given(log=st.text(), exit_code=st.one_of(st.none(), st.integers(-64, 255)))
def test_any_log_gives_one_line_and_a_known_kind(log, exit_code):
    failure = diagnose(log, exit_code, engines.find("vllm").patterns())
    assert failure.kind in KINDS and len(failure.detail.splitlines()) == 1


def test_every_engine_names_only_known_kinds():
    for name in engines.names():
        assert {pattern.kind for pattern in engines.find(name).patterns()} <= KINDS
