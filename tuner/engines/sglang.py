"""SGLang: `sglang serve`, or of older versions its module, on GPUs. Not run on a GPU yet: written from its source."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tuner.core.bottleneck import KV_CACHE, PREFILL, PREFIX_CACHE, SEQUENCES
from tuner.core.server_log import Pattern
from tuner.engines.base import GPUEngine, Placement, ServerSpec, without_tilde
from tuner.engines.parameters import Parameter
from tuner.errors import SpecError

_COPIES = ("dp_size", "data_parallel_size", "dp")  # copies of the model
_threshold = partial(Parameter, float, 0, 1, default=1.0, changes_answers=True)
_SPACE = {
    "max_running_requests": [16, 32, 64, 128, 256, 512],
    "mem_fraction_static": {"low": 0.7, "high": 0.92, "step": 0.02},
    "chunked_prefill_size": [1024, 2048, 4096, 8192, 16384],
    "schedule_conservativeness": {"low": 0.3, "high": 1.5, "step": 0.1},
}


class SGLang(GPUEngine):
    """The engine `sglang`; `model` is a folder or a name on Hugging Face, parameters are its flags."""

    name = module = "sglang"
    install = "python -m venv sglang && sglang/bin/pip install sglang, and then executable: sglang/bin/python"
    sizes = ("tp_size", "tp", "tensor_parallel_size", "pp_size", "pp", "pipeline_parallel_size", *_COPIES)
    shares = ("tp_size", "pp_size")
    memory_parameter = "mem_fraction_static"
    context_parameter = "context_length"
    flag_files = ("srt/server_args.py", "srt/arg_groups/**/*.py")
    conditions = (
        "tp_size * pp_size <= gpus",
        "enable_dp_attention or tp_size * pp_size * dp_size <= gpus",
        "not enable_dp_attention or tp_size % dp_size == 0",
        "tp_size % attn_dp_size == 0",
        "attn_dp_size == 1 or dp_size == 1",
    )
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
        "attn_dp_size": Parameter(int, 1, default=1, help="copies of the attention, on the GPUs that share a layer"),
        "enable_dp_attention": Parameter(bool, default=False, help="dp_size is that, as older versions have it"),
        "disable_radix_cache": Parameter(bool, default=False, help="do not reuse the cache of a common prefix"),
        "disable_cuda_graph": Parameter(bool, default=False, help="no CUDA graphs"),
        "kv_cache_dtype": Parameter(str, default="auto", help="type of the KV cache", changes_answers=True),
        "dtype": Parameter(str, default="auto", help="type of the weights", changes_answers=True),
        "quantization": Parameter(str, help="method by which the weights are quantised", changes_answers=True),
        "speculative_accept_threshold_single": _threshold(help="below 1: drafts that it would not have said"),
        "speculative_accept_threshold_acc": _threshold(help="below 1: drafts pass more often than they should"),
    }
    levers = {
        SEQUENCES: ("max_running_requests",),
        KV_CACHE: ("mem_fraction_static",),
        PREFILL: ("chunked_prefill_size", "max_prefill_tokens"),
        PREFIX_CACHE: ("disable_radix_cache",),
    }
    spaces = {
        "default": _SPACE,
        "quantised": _SPACE | {"kv_cache_dtype": ["auto", "fp8_e5m2"]},
        "parallelism": {
            "tp_size": [1, 2, 4, 8],
            "dp_size": [1, 2, 4, 8],
            "max_running_requests": [64, 128, 256, 512],
            "chunked_prefill_size": [2048, 4096, 8192],
        },
    }
    forget_path = "/flush_cache"
    failures = (
        Pattern("out_of_memory", r"leaves? no GPU memory for the KV cache|Out of request slots"),
        Pattern("out_of_memory", r"(Prefill|Decode) out of memory|alloc_req_slots runs out of memory"),
        Pattern("out_of_memory", r"memory capacity is unbalanced"),  # others hold some of a GPU's
    )

    def check(self, spec: ServerSpec) -> None:
        """Refuse also a key, which it takes on its command line only."""
        super().check(spec)
        if spec.api_key_env:
            raise SpecError("sglang takes an API key only where every process listing shows it; leave api_key_env out")

    def gpus(self, spec: ServerSpec) -> int:
        """Copies of the attention alone lie on the GPUs that share a layer."""
        inside = _COPIES if spec.parameters.get("enable_dp_attention") else ()
        outside = {name: value for name, value in spec.parameters.items() if name not in inside}
        return super().gpus(spec.model_copy(update={"parameters": outside}))

    def command(self, spec: ServerSpec, place: Placement) -> list[str]:
        """Its launcher and the parameters as flags, as the installed version has both; false leaves a flag out."""
        program, package = self.find(spec), self.package(spec)
        script = Path(program).with_name("sglang")
        has_script = package and (package / "cli/serve.py").exists() and script.exists()
        launcher = [str(script), "serve"] if has_script else [program, "-m", "sglang.launch_server"]
        spec = spec.model_copy(update={"parameters": _rename_flags(spec.parameters, self.flag_names(spec))})
        model = ["--enable-metrics", "--model-path", without_tilde(spec.model)]
        return [*launcher, *model, *self.flags(spec, place, no_prefix=False)]


def _rename_flags(parameters: Mapping[str, Any], flags: set[str]) -> dict[str, Any]:
    """Parameters under the names that newer versions (0.5.23 has both) gave them."""
    renamed = dict(parameters)
    if "attn_dp_size" in flags and renamed.pop("enable_dp_attention", False):
        renamed["attn_dp_size"] = next((renamed.pop(name) for name in _COPIES if name in renamed), 1)
    if "cuda_graph_backend_decode" in flags and renamed.pop("disable_cuda_graph", False):
        renamed |= dict.fromkeys(("cuda_graph_backend_decode", "cuda_graph_backend_prefill"), "disabled")
    return renamed
