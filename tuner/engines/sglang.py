"""SGLang: `python -m sglang.launch_server`, on GPUs. Not run on a GPU yet: written from its documentation."""

from tuner.core.server_log import Pattern
from tuner.engines.base import GPUEngine, Placement, ServerSpec, without_tilde
from tuner.engines.parameters import Parameter
from tuner.errors import SpecError


class SGLang(GPUEngine):
    """The engine `sglang`; `model` is a folder or a name on Hugging Face, parameters are its flags."""

    name = module = "sglang"
    install = "python -m venv sglang && sglang/bin/pip install sglang, and then executable: sglang/bin/python"
    sizes = (
        *("tp_size", "tp", "tensor_parallel_size", "pp_size", "pipeline_parallel_size"),
        *("dp_size", "data_parallel_size"),
    )
    context_parameter = "context_length"
    tunables = {  # the defaults of 0.5.23; without one where it depends on the GPU or the model
        "max_running_requests": Parameter(int, 1, help="most requests decoded at once"),
        "mem_fraction_static": Parameter(float, 0, 1, help="share of a GPU's memory for weights and KV cache"),
        "chunked_prefill_size": Parameter(int, -1, help="most prompt tokens of a chunk; -1 for whole prompts"),
        "max_prefill_tokens": Parameter(int, 1, default=16384, help="most prompt tokens in one step"),
        "context_length": Parameter(int, 1, help="most tokens of a request, prompt and output"),
        "schedule_policy": Parameter(str, default="fcfs", help="which request is next"),
        "schedule_conservativeness": Parameter(float, 0, default=1.0, help="above 1: fewer requests let in at once"),
        "tp_size": Parameter(int, 1, default=1, help="GPUs that share each layer"),
        "pp_size": Parameter(int, 1, default=1, help="groups of GPUs that share the layers out"),
        "dp_size": Parameter(int, 1, default=1, help="copies of the model"),
        "disable_radix_cache": Parameter(bool, default=False, help="do not reuse the cache of a common prefix"),
        "disable_cuda_graph": Parameter(bool, default=False, help="no CUDA graphs"),
        "kv_cache_dtype": Parameter(str, default="auto", help="type of the KV cache"),
        "dtype": Parameter(str, default="auto", help="type of the weights"),
        "quantization": Parameter(str, help="method by which the weights are quantised"),
    }
    spaces = {
        "default": {
            "max_running_requests": [16, 32, 64, 128, 256, 512],
            "mem_fraction_static": {"low": 0.7, "high": 0.92, "step": 0.02},
            "chunked_prefill_size": [1024, 2048, 4096, 8192, 16384],
            "schedule_conservativeness": {"low": 0.3, "high": 1.5, "step": 0.1},
            "kv_cache_dtype": ["auto", "fp8_e5m2"],
        },
        "parallelism": {
            "tp_size": [1, 2, 4, 8],
            "dp_size": [1, 2, 4, 8],
            "max_running_requests": [64, 128, 256, 512],
            "chunked_prefill_size": [2048, 4096, 8192],
        },
    }
    forget_path = "/flush_cache"
    failures = (
        Pattern("out_of_memory", r"Not enough memory|leaves? no GPU memory for the KV cache|Out of request slots"),
        Pattern("out_of_memory", r"(Prefill|Decode) out of memory|alloc_req_slots runs out of memory"),
    )

    def check(self, spec: ServerSpec) -> None:
        """Refuse also a key, which it takes on its command line only."""
        super().check(spec)
        if spec.api_key_env:
            raise SpecError("sglang takes an API key only where every process listing shows it; leave api_key_env out")

    def command(self, spec: ServerSpec, place: Placement) -> list[str]:
        """Its launcher with the parameters as flags; false leaves a flag out."""
        launcher = [
            self.find(spec),
            "-m",
            "sglang.launch_server",
            "--enable-metrics",
            "--model-path",
            without_tilde(spec.model),
        ]
        return [*launcher, *self.flags(spec, place, no_prefix=False)]
