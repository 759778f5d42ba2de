"""llama.cpp, embedded: its HTTP server in a process of its own, from the wheel `xllamacpp`; needs no GPU."""

from pathlib import Path

from tuner.core.bottleneck import CPU_BOUND, PREFIX_CACHE, SEQUENCES
from tuner.core.server_log import Pattern
from tuner.engines import llamacpp_server, parameters
from tuner.engines.base import Engine, Placement, ServerSpec, host_of, without_tilde
from tuner.engines.gguf import check_gguf
from tuner.errors import SpecError

_LEAST_CONTEXT = 64  # tokens a slot: below, no chat template and answer fit
_CACHE = {"n_parallel": [1, 2, 4, 8, 16], "n_threads": [1, 2, 4, 8], "kv_unified": [False, True]}


class LlamaCpp(Engine):
    """The engine `llamacpp`; `model` is a GGUF file."""

    name = "llamacpp"
    tunables = llamacpp_server.PARAMETERS
    complete = True
    conditions = (f"n_ctx >= {_LEAST_CONTEXT} * n_parallel or kv_unified",)
    levers = {SEQUENCES: ("n_parallel",), CPU_BOUND: ("n_threads",), PREFIX_CACHE: ("cache_prompt",)}
    spaces = {
        "default": {
            "n_parallel": [1, 2, 4, 8, 16],
            "n_batch": [128, 256, 512, 1024, 2048],
            "n_ubatch": [64, 128, 256, 512],
            "n_threads": [1, 2, 4, 8],
            "flash_attn": ["auto", "on", "off"],
        },
        "cache": _CACHE,
        "quantised": _CACHE | {name: ["f16", "q8_0", "q4_0"] for name in ("cache_type_k", "cache_type_v")},
    }
    ready_timeout = 60.0
    context_parameter = "n_ctx"
    module = "xllamacpp"
    install = "pip install xllamacpp"
    request_parameters = {"cache_prompt": False}
    # threads that sleep while they wait: spinning ones were measured 20 times slower on a busy machine
    variables, key_variable = {"OMP_WAIT_POLICY": "passive"}, "LLAMA_API_KEY"
    failures = (
        Pattern("port_in_use", r"couldn't bind HTTP server socket"),
        Pattern("out_of_memory", r"insufficient memory|failed to allocate|unable to allocate|std::bad_alloc"),
        Pattern("bad_argument", r"requires flash_attn|invalid argument"),
        Pattern("model_not_found", r"error loading model:|failed to (load model|read header|open GGUF)"),
        Pattern("out_of_memory", r"failed to create.context"),
    )

    def check(self, spec: ServerSpec) -> None:
        """Refuse what is sure to fail: parameters, a file that is no GGUF, too little context a slot."""
        super().check(spec)
        check_gguf(Path(without_tilde(spec.model)))
        if self.context(spec) < _LEAST_CONTEXT:
            raise SpecError(
                f"llamacpp n_ctx is split over n_parallel slots: {self.context(spec)} tokens a slot are too few; "
                f"set n_ctx to at least {_LEAST_CONTEXT * self.value_of(spec, 'n_parallel')}"
            )

    def command(self, spec: ServerSpec, place: Placement) -> list[str]:
        """Our own small server file, with the parameters as flags."""
        where = ["--host", host_of(spec), "--port", str(place.port), "--served-name", self.served_name(spec)]
        key = ["--api-key-env", self.key_variable] if spec.api_key_env else []
        words = ["-m", llamacpp_server.__name__, "--model", without_tilde(spec.model), *where, *key]
        return [self.find(spec), *words, *parameters.flags(spec.parameters, no_prefix=True)]

    def served_name(self, spec: ServerSpec) -> str:
        """The file's name without `.gguf`."""
        return super().served_name(spec).removesuffix(".gguf")

    def context(self, spec: ServerSpec) -> int:
        """The context of one slot."""
        n_ctx, slots = self.value_of(spec, "n_ctx"), self.value_of(spec, "n_parallel")
        if n_ctx is None:
            return llamacpp_server.CONTEXT_PER_SLOT
        return int(n_ctx) // (1 if spec.parameters.get("kv_unified") else int(slots))
