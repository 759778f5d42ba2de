"""The embedded server's own process: llama.cpp's HTTP server through `xllamacpp`, with flags of ours.

`python -m tuner.engines.llamacpp_server --model FILE --served-name NAME --port PORT [--n-ctx 4096 …]`
"""

import argparse
import os
import signal
import sys
import time
from functools import partial
from typing import Any

from tuner.engines.parameters import Parameter

_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
_cache_type = partial(Parameter, str, choices=_CACHE_TYPES, default="f16", changes_answers=True)
_FLASH_ATTENTION = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}

PARAMETERS = {  # all that the embedded engine takes
    "n_parallel": Parameter(int, 1, 1024, default=4, help="slots: requests decoded at once"),
    "n_ctx": Parameter(int, 64, help="tokens of context, split evenly over the slots (default 2048 a slot)"),
    "n_batch": Parameter(int, 1, default=2048, help="most prompt tokens in one step"),
    "n_ubatch": Parameter(int, 1, default=512, help="most tokens computed at once"),
    # two spinning threads on a busy machine were measured 20 times slower than one that sleeps
    "n_threads": Parameter(int, 1, 1024, default=1, help="threads that decode"),
    "n_threads_batch": Parameter(int, 1, 1024, help="threads that read prompts (default: n_threads)"),
    "n_gpu_layers": Parameter(int, -1, default=-1, help="layers kept on a GPU; -1 is all that fit"),
    "flash_attn": Parameter(str, choices=tuple(_FLASH_ATTENTION), default="auto", help="flash attention"),
    "cache_type_k": _cache_type(help="type of the KV cache's keys"),
    "cache_type_v": _cache_type(help="type of the KV cache's values"),
    "cache_prompt": Parameter(bool, default=True, help="reuse the cache of a common prefix"),
    "cont_batching": Parameter(bool, default=True, help="let requests join a running batch"),
    "kv_unified": Parameter(bool, default=False, help="one context shared by all slots"),
    "warmup": Parameter(bool, default=True, help="one empty run before the server is ready"),
}
CONTEXT_PER_SLOT = 2048

# a request beyond the slots waits in llama.cpp's queue, where it is counted, not for a free HTTP thread
_HTTP_THREADS = 256
_LOG_SECONDS = 0.5  # llama.cpp logs in a thread of its own, whose last lines an exit loses on a busy machine


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags, one for each of PARAMETERS, and where to serve."""
    parser = argparse.ArgumentParser(prog="llamacpp_server", allow_abbrev=False)
    for name in ("model", "served-name", "host"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--api-key-env", help="the environment variable that holds the API key")
    for name, parameter in PARAMETERS.items():
        value: dict[str, Any] = {"type": parameter.kind, "choices": parameter.choices or None}
        if parameter.kind is bool:
            value = {"action": argparse.BooleanOptionalAction}
        parser.add_argument(f"--{name.replace('_', '-')}", default=parameter.default, help=parameter.help, **value)
    return parser.parse_args(arguments)


def configure(flags: argparse.Namespace) -> Any:
    """The same as xllamacpp's `CommonParams`."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = flags.model
    params.model_alias = {flags.served_name}
    params.hostnames = [flags.host]
    params.port = flags.port
    for name in ("n_parallel", "n_batch", "n_ubatch", "n_gpu_layers", "cache_prompt", "cont_batching", "kv_unified"):
        setattr(params, name, getattr(flags, name))
    params.n_ctx = flags.n_ctx or CONTEXT_PER_SLOT * flags.n_parallel
    params.cpuparams.n_threads = flags.n_threads
    params.cpuparams_batch.n_threads = flags.n_threads_batch or flags.n_threads
    attention = _FLASH_ATTENTION[flags.flash_attn]
    params.flash_attn_type = xllamacpp.llama_flash_attn_type[f"LLAMA_FLASH_ATTN_TYPE_{attention}"]
    params.cache_type_k = xllamacpp.ggml_type[f"GGML_TYPE_{flags.cache_type_k.upper()}"]
    params.cache_type_v = xllamacpp.ggml_type[f"GGML_TYPE_{flags.cache_type_v.upper()}"]
    params.warmup = flags.warmup
    params.n_threads_http = _HTTP_THREADS
    params.endpoint_metrics = params.endpoint_slots = True
    params.ui = False
    params.cors_origins = ""  # no web page has business with it
    if flags.api_key_env:
        params.api_keys = [os.environ[flags.api_key_env]]
    params.fit_params = False  # serve what was asked for, or say why not
    params.cache_ram_mib = 0
    return params


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    import xllamacpp

    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before the threads start, so that none of them takes it
    try:
        server = xllamacpp.Server(configure(parse(sys.argv[1:])))
    except RuntimeError as error:  # the lines before say why
        time.sleep(_LOG_SECONDS)
        sys.exit(str(error))
    signal.sigwait(signals)
    del server


if __name__ == "__main__":
    main()
