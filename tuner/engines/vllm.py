"""vLLM: `vllm serve MODEL`, on GPUs or, with its CPU build, without."""

from tuner.core.bottleneck import KV_CACHE, PREFILL, PREFIX_CACHE, SEQUENCES
from tuner.core.server_log import Pattern
from tuner.engines.base import GPUEngine, Placement, ServerSpec, without_tilde
from tuner.engines.parameters import Parameter

_SPACE = {
    "max_num_seqs": [16, 32, 64, 128, 256, 512, 1024],
    "max_num_batched_tokens": [2048, 4096, 8192, 16384, 32768],
    "gpu_memory_utilization": {"low": 0.8, "high": 0.95, "step": 0.05},
}


class VLLM(GPUEngine):
    """The engine `vllm`; `model` is a folder or a name on Hugging Face, parameters are its flags."""

    name = program = "vllm"
    install = "python -m venv vllm && vllm/bin/pip install vllm, and then executable: vllm/bin/vllm"
    sizes = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "prefill_context_parallel_size")
    shares = ("tensor_parallel_size", "pipeline_parallel_size")
    memory_parameter, holds_context = "gpu_memory_utilization", True
    context_parameter = "max_model_len"
    variables, key_variable = {"VLLM_NO_USAGE_STATS": "1"}, "VLLM_API_KEY"
    forget_path = "/reset_prefix_cache"  # only with VLLM_SERVER_DEV_MODE=1 in its environment
    grace = 15.0  # idle, it takes 2.5 s to end, on a busy machine more than 5; with a request in flight it never does
    flag_files = ("engine/arg_utils.py", "entrypoints/**/cli_args.py")
    conditions = (
        "tensor_parallel_size * pipeline_parallel_size * data_parallel_size <= gpus",
        "max_num_batched_tokens >= max_num_seqs",
        "enable_chunked_prefill or max_num_batched_tokens >= max_model_len",
    )
    tunables = {  # the defaults of 0.32; without one where it depends on the GPU or the model
        "max_num_seqs": Parameter(int, 1, help="most requests in one step"),
        "max_num_batched_tokens": Parameter(int, 1, help="most tokens in one step"),
        "max_model_len": Parameter(int, 1, help="most tokens of a request, prompt and output"),
        "gpu_memory_utilization": Parameter(float, 0, 1, default=0.92, help="share of a GPU's memory to take"),
        "tensor_parallel_size": Parameter(int, 1, default=1, help="GPUs that share each layer"),
        "pipeline_parallel_size": Parameter(int, 1, default=1, help="groups of GPUs that share the layers out"),
        "data_parallel_size": Parameter(int, 1, default=1, help="copies of the model"),
        "block_size": Parameter(int, 1, help="tokens of a KV-cache block"),
        "enable_chunked_prefill": Parameter(bool, default=True, help="long prompts in pieces, between decoding steps"),
        "enable_prefix_caching": Parameter(bool, default=True, help="reuse the cache of a common prefix"),
        "enforce_eager": Parameter(bool, default=False, help="no CUDA graphs"),
        "kv_cache_dtype": Parameter(str, default="auto", help="type of the KV cache", changes_answers=True),
        "dtype": Parameter(str, default="auto", help="type of the weights", changes_answers=True),
        "quantization": Parameter(str, help="method by which the weights are quantised", changes_answers=True),
    }
    levers = {
        SEQUENCES: ("max_num_seqs",),
        KV_CACHE: ("gpu_memory_utilization",),
        PREFILL: ("max_num_batched_tokens",),
        PREFIX_CACHE: ("enable_prefix_caching",),
    }
    spaces = {
        "default": _SPACE,
        "quantised": _SPACE | {"kv_cache_dtype": ["auto", "fp8"]},
        "parallelism": {
            "tensor_parallel_size": [1, 2, 4, 8],
            "pipeline_parallel_size": [1, 2, 4],
            "max_num_seqs": [64, 128, 256, 512],
            "max_num_batched_tokens": [2048, 4096, 8192, 16384],
        },
    }
    failures = (
        Pattern("out_of_memory", r"is less than (requested memory for kv|desired [CG]PU memory utilization)"),
        Pattern("out_of_memory", r"To serve at least one request with the model|tokens that can be stored in KV cache"),
        Pattern("model_not_found", r"Repo id must|Invalid repository ID"),
        Pattern("bad_argument", r"^ +Value error, |No common block size"),
    )

    def command(self, spec: ServerSpec, place: Placement) -> list[str]:
        """`vllm serve` with the parameters as flags; false is `--no-flag`."""
        return [self.find(spec), "serve", without_tilde(spec.model), *self.flags(spec, place, no_prefix=True)]
