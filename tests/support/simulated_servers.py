"""Servers that are only a model of what a configuration is worth, so that searches can be tried by hundreds.

Modelled, not measured. Each server has a closed loop of L requests in flight: `n` of them run (as many as the slots and
the KV cache have room for), the rest wait. A decoding step takes the time to read the weights and the running requests'
cache, plus what prompts read in between take; TPOT is the step, TTFT the wait and the prompt. A trial is worth its most
throughput at a level within the SLO; no such level is infeasible, with the least penalty; too little memory fails.
"""

import math
import random
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from tuner.engines.base import Engine
from tuner.engines.parameters import Parameter
from tuner.search.space import SearchSpace

LEVELS = (4, 8, 16, 32, 64, 128, 256, 512)
NAN = math.nan


class Modelled(Engine):
    """An engine that takes any parameter."""

    name = "modelled"


@dataclass(frozen=True)
class Outcome:
    """What one trial says: `complete` with a value, `infeasible` with a penalty, or `failed`."""

    state: str
    value: float = NAN
    penalty: float = NAN
    above: int = 0  # the place of the first level above those within the SLO, or of the last of them


FAILED = Outcome("failed")


def judged(points, ttft_limit, tpot_limit):
    """The outcome of (throughput, TTFT, TPOT) at each level, under an SLO."""
    found, penalties, above = [], [], 0
    for place, (throughput, ttft, tpot) in enumerate(points):
        excess = [max(0.0, actual / limit - 1) for actual, limit in ((ttft, ttft_limit), (tpot, tpot_limit))]
        penalties.append(sum(math.expm1(min(20, ratio / 0.1)) for ratio in excess))
        if not any(excess):
            found.append(throughput)
            above = min(place + 1, len(points) - 1)
    return Outcome("complete", max(found), 0.0, above) if found else Outcome("infeasible", NAN, min(penalties))


def closed_loop(level, running, step, prompt, outputs):
    """(throughput, TTFT, TPOT) with `level` in flight, of which `running` at most at once."""
    n = min(level, running)
    service = prompt + outputs * step(n)
    ttft = prompt + (level - n) / n * service
    return n * outputs / service, ttft, step(n)


class VLLMOnEightGPUs:
    """34 billion parameters on 8 GPUs of 80 GB, as many copies as fit: 1500 tokens in, 250 out."""

    name = "vLLM, 8 GPUs"
    engine = "vllm"
    unknown = ("max_num_seqs", "max_num_batched_tokens")
    document = {
        "max_num_seqs": [8, 16, 32, 64, 128, 256, 512, 1024],
        "max_num_batched_tokens": [512, 1024, 2048, 4096, 8192, 16384, 32768],
        "tensor_parallel_size": [1, 2, 4, 8],
        "kv_cache_dtype": ["auto", "fp8"],
        "gpu_memory_utilization": {"low": 0.8, "high": 0.95, "step": 0.05},
        "enable_chunked_prefill": [True, False],
    }
    constraints = ()
    start = {
        "max_num_seqs": 256,
        "max_num_batched_tokens": 2048,
        "tensor_parallel_size": 8,
        "kv_cache_dtype": "auto",
        "gpu_memory_utilization": 0.9,
        "enable_chunked_prefill": True,
    }

    def measure(self, p):
        tp, tokens = p["tensor_parallel_size"], p["max_num_batched_tokens"]
        copies = 8 // tp
        if self.room(p) <= 1 or tokens < p["max_num_seqs"]:
            return FAILED
        running = max(1, min(self.caps(p)))
        share = tp / (1 + 0.06 * (tp - 1) ** 1.15)
        comm = 0.0012 * math.log2(tp)
        cache = 0.00013 * (0.62 if p["kv_cache_dtype"] == "fp8" else 1)

        def step(n):
            plain = 0.024 / share + n * cache / share + comm
            prompts = n / 250 * 1500  # tokens of prompts to be read a step
            read = prompts * 0.000045 / share * (1 + 700 / tokens)
            stall = 1.0 if p["enable_chunked_prefill"] else 1 + 0.35 * min(1, prompts / 400)
            burst = tokens / 8192 * 0.006 / share if p["enable_chunked_prefill"] else 0.0
            return plain + (read + burst * min(1, prompts / 500)) * stall

        prompt = 1500 * 0.000045 / share * (1 + 700 / tokens) * (1.25 if p["enable_chunked_prefill"] else 1) + comm
        points = [closed_loop(level / copies, running, step, prompt, 250) for level in LEVELS if level >= copies]
        return judged([(copies * t, ttft, tpot) for t, ttft, tpot in points], 1.5, 0.045)

    def room(self, p):
        """GB of a GPU for the KV cache."""
        taken = 68 / p["tensor_parallel_size"] + 0.00035 * p["max_num_batched_tokens"]
        return 80 * p["gpu_memory_utilization"] - taken - 2.5

    def caps(self, p):
        """Requests that one copy runs at once, by its slots and by its KV cache."""
        token = 0.00025 * (0.5 if p["kv_cache_dtype"] == "fp8" else 1)
        return p["max_num_seqs"], self.room(p) * p["tensor_parallel_size"] / token / 1750


class VLLMByRanges(VLLMOnEightGPUs):
    """The same server, its sizes as ranges of whole numbers."""

    name = "vLLM, ranges"
    document = VLLMOnEightGPUs.document | {
        "max_num_seqs": {"low": 8, "high": 1024, "log": True},
        "max_num_batched_tokens": {"low": 512, "high": 32768, "log": True},
        "gpu_memory_utilization": {"low": 0.8, "high": 0.95},
    }
    constraints = ("max_num_seqs <= max_num_batched_tokens",)


class LlamaCppOnSixteenCores:
    """A small model on 8 cores with two threads each: 400 tokens in, 120 out."""

    name = "llama.cpp, 16 threads"
    engine = "llamacpp"
    unknown = ()
    document = {
        "n_parallel": [1, 2, 4, 8, 16, 32, 64],
        "n_batch": [64, 128, 256, 512, 1024, 2048],
        "n_ubatch": [32, 64, 128, 256, 512],
        "n_threads": [1, 2, 3, 4, 6, 8, 12, 16],
        "flash_attn": ["auto", "on", "off"],
        "cache_type_v": ["f16", "q8_0", "q4_0"],
    }
    constraints = ("n_ubatch <= n_batch",)
    start = {
        "n_parallel": 4,
        "n_batch": 2048,
        "n_ubatch": 512,
        "n_threads": 4,
        "flash_attn": "auto",
        "cache_type_v": "f16",
    }

    def measure(self, p):
        quantised = p["cache_type_v"] != "f16"
        if quantised and p["flash_attn"] == "off":
            return FAILED  # llama.cpp refuses it
        slots, threads = p["n_parallel"], p["n_threads"]
        if slots * (1.0, 0.55)[quantised] * (1.3 if p["flash_attn"] == "off" else 1.0) > 45:
            return FAILED  # the caches of all slots do not fit
        speed = min(threads, 8) ** 0.8 + 0.05 * max(0, min(threads, 12) - 8) - 0.4 * max(0, threads - 12)
        attention = {"auto": 0.95, "on": 0.94, "off": 1.12}[p["flash_attn"]]
        cache = {"f16": 1.0, "q8_0": 0.93, "q4_0": 0.96}[p["cache_type_v"]] * attention

        def step(n):
            reads = 0.055 / min(speed, 4.2)  # the weights: bound by memory, not by threads
            computes = n * (0.0052 + 0.0036 * cache) / speed
            prompts = n / 120 * 400 * 0.0016 / speed * self.prompt_cost(p)
            return reads + computes + prompts

        prompt = 400 * 0.0016 / speed * self.prompt_cost(p) * (1 + 0.08 * slots)
        return judged([closed_loop(level, slots, step, prompt, 120) for level in LEVELS[:5]], 6.0, 0.12)

    def caps(self, p):
        return p["n_parallel"], math.inf

    def prompt_cost(self, p):
        """Small micro-batches compute badly, large ones leave the cache; long batches hold others up."""
        micro = 1 + 0.6 * (32 / p["n_ubatch"]) ** 0.9 + 0.10 * max(0.0, math.log2(p["n_ubatch"] / 128)) ** 1.5
        whole = 1 + 0.07 * max(0.0, math.log2(512 / p["n_batch"])) + 0.05 * max(0.0, math.log2(p["n_batch"] / 512))
        return micro * whole


class SGLangOnOneGPU:
    """8 billion parameters on one GPU of 80 GB: 3000 tokens in, 400 out, prompts that share their beginnings."""

    name = "SGLang, 1 GPU"
    engine = "sglang"
    unknown = ("max_running_requests", "mem_fraction_static", "chunked_prefill_size")
    document = {
        "max_running_requests": [16, 32, 64, 96, 128, 192, 256, 384, 512],
        "mem_fraction_static": {"low": 0.6, "high": 0.94, "step": 0.02},
        "chunked_prefill_size": [512, 1024, 2048, 4096, 8192, 16384],
        "schedule_conservativeness": {"low": 0.3, "high": 1.5, "step": 0.1},
        "schedule_policy": ["lpm", "fcfs", "dfs-weight", "random"],
    }
    constraints = ()
    start = {
        "max_running_requests": 128,
        "mem_fraction_static": 0.88,
        "chunked_prefill_size": 8192,
        "schedule_conservativeness": 1.0,
        "schedule_policy": "fcfs",
    }

    def measure(self, p):
        chunk, caution = p["chunked_prefill_size"], p["schedule_conservativeness"]
        if 80 * (1 - p["mem_fraction_static"]) < 3.6 + 0.00022 * chunk * 3:
            return FAILED  # activations do not fit beside the pool
        tokens = (80 * p["mem_fraction_static"] - 17) / 0.000131
        running = max(1, min(self.caps(p)))
        overfull = max(0.0, p["max_running_requests"] * (3200 * self.reuse(p) + 200) / tokens - 0.85)
        retracted = 0.9 * overfull * max(0.0, 1.1 - caution)  # of the work is done twice

        def step(n):
            prompts = n / 400 * 3000 * self.reuse(p)
            read = prompts * 0.0000125 * (1 + 450 / chunk) * (1 + 0.05 * max(0, math.log2(chunk / 4096)))
            return (0.0085 + n * 0.000052 + read) * (1 + retracted)

        prompt = 3000 * self.reuse(p) * 0.0000125 * (1 + 450 / chunk) * (1.4 + chunk / 12000)
        points = [closed_loop(level, running, step, prompt, 400) for level in LEVELS]
        return judged([(t * (1 - 0.3 * retracted), ttft, tpot) for t, ttft, tpot in points], 2.0, 0.03)

    def caps(self, p):
        tokens = (80 * p["mem_fraction_static"] - 17) / 0.000131
        return p["max_running_requests"], tokens / (3000 * self.reuse(p) + 200 + 200 * p["schedule_conservativeness"])

    def reuse(self, p):
        """The share of a prompt that is not cached yet."""
        room = 0.25 * max(0.0, 0.9 - p["mem_fraction_static"]) / 0.3
        return {"lpm": 0.55, "dfs-weight": 0.6, "fcfs": 0.72, "random": 0.8}[p["schedule_policy"]] + room


class TwoRegimes:
    """Speculative decoding pays for few requests at once, large batches for many; half of each is worse than either.

    The defaults lie in the first regime, the best in the second: what only climbs from the defaults does not find it.
    """

    name = "two regimes"
    engine = "vllm"
    unknown = ("max_num_seqs",)
    document = {
        "max_num_seqs": [4, 8, 16, 32, 64, 128, 256, 512],
        "speculative_tokens": [0, 1, 2, 3, 4, 5, 6],
        "attention_backend": ["A", "B", "C"],
        "block_size": [8, 16, 32, 64, 128],
        "scheduler_steps": [1, 2, 4, 8, 16],
    }
    constraints = ()
    start = {
        "max_num_seqs": 16,
        "speculative_tokens": 3,
        "attention_backend": "A",
        "block_size": 16,
        "scheduler_steps": 1,
    }

    def measure(self, p):
        slots, guesses, steps = p["max_num_seqs"], p["speculative_tokens"], p["scheduler_steps"]
        if guesses and steps > 8:
            return FAILED  # refused together
        if slots * (1 + 0.1 * guesses) > 640:
            return FAILED
        backend = {"A": (1.0, 16), "B": (0.9, 128), "C": (0.95, 64)}[p["attention_backend"]]
        misfit = 0.025 * abs(math.log2(p["block_size"] / backend[1]))
        accepted = sum(0.72**k for k in range(1, guesses + 1))

        def step(n):
            verify = 1 + 0.09 * guesses + n * guesses / 300  # guesses are computed for every request
            host = (0.004 + 0.00003 * n) / min(steps, 8) ** 0.6 * (1.5 if guesses and steps > 1 else 1)
            late = 0.0005 * max(0, steps - 4)
            work = (0.010 + n * 0.00011 * backend[0]) * (1 + misfit) * verify
            return (work + host + late) / (1 + accepted)

        return judged([closed_loop(level, slots, step, 0.1 + 0.01 * steps, 300) for level in LEVELS], 2.5, 0.04)

    def caps(self, p):
        return p["max_num_seqs"], math.inf


class Surface:
    """A modelled server with its search space; measuring it has 3 % noise.

    The baseline names every parameter, or (`named=False`) none; then the engine's class knows the defaults but those
    that depend on the machine.
    """

    def __init__(self, model, noise=0.03, *, named=True):
        self.model, self.noise = model, noise
        engine, baseline = Modelled(), model.start if named else {}
        known = {} if named else {name: model.start[name] for name in model.start if name not in model.unknown}
        engine.tunables = {name: Parameter(type(value), default=value) for name, value in known.items()}
        self.space = SearchSpace.parse(model.document, engine, baseline, list(model.constraints))

    def __str__(self):
        return self.model.name

    @cached_property
    def truths(self):
        """The true value of every point of the grid (wide ranges by a few values), 0 where there is none."""
        return [self.true(point) for point in self.space.grid()]

    @cached_property
    def best(self):
        """The best that is known: of the grid, refined by steps along each dimension."""
        start = max(self.space.grid(), key=self.true)
        return max(self.true(start), *(self.true(point) for point in _around(self.space, start)))

    def true(self, point):
        value = self.model.measure(self.model.start | point).value
        return 0.0 if math.isnan(value) else value

    def share(self, within=0.05):
        """The share of the allowed configurations that lie within 5 % of the best."""
        return sum(value >= (1 - within) * self.best for value in self.truths) / len(self.truths)

    def measure(self, point, dice):
        """One noisy trial."""
        outcome = self.model.measure(self.model.start | point)
        noise = math.exp(dice.gauss(0, self.noise))
        return Outcome(outcome.state, outcome.value * noise, outcome.penalty * noise)


def _around(space, start, steps=400):
    """Points near `start`, for ranges that the grid goes through in few steps."""
    dice = random.Random(0)
    for _ in range(steps):
        point = dict(start)
        for dimension in space.dimensions:
            if not dimension.choices:
                point[dimension.name] = dimension.at(dice.random())
        yield point if space.allows(point) else start


MODELS = (VLLMOnEightGPUs, VLLMByRanges, LlamaCppOnSixteenCores, SGLangOnOneGPU, TwoRegimes)
SURFACES = [Surface(model()) for model in MODELS]
UNNAMED = [Surface(model(), named=False) for model in MODELS]


def curve_of(step, slots=math.inf, room=math.inf, prompt=0.1, outputs=100):
    """(throughput, TTFT, TPOT) by level of a server; beyond `room` requests preempt each other and work twice."""

    def measure(level):
        running = min(level, slots)
        again = 1 + max(0.0, running / room - 1)
        return closed_loop(level, running, lambda n: step(n) * again, prompt * (1 + running / 64), outputs)

    return measure


def _between(dice, low, high):
    return low * (high / low) ** dice.random()


def _weights(dice):
    """Seconds to read the weights, and for each request beside."""
    return _between(dice, 0.005, 0.05), _between(dice, 0.00005, 0.001)


def _dense(dice):
    a, b = _weights(dice)
    return curve_of(lambda n: a + b * n)


def _slots(dice):
    a, b = _weights(dice)
    return curve_of(lambda n: a + b * n, slots=2 ** dice.randint(2, 8))


def _prefill(dice):
    a, b, prompt = *_weights(dice), _between(dice, 0.05, 1)
    return curve_of(lambda n: a + (b + prompt / 100) * n, prompt=prompt)


def _cache(dice):
    a, b = _weights(dice)
    return curve_of(lambda n: a + b * n, room=_between(dice, 8, 256))


def _overhead(dice):
    a, host = _between(dice, 0.02, 0.1), _between(dice, 0.00001, 0.0001)
    return curve_of(lambda n: a + host * n)


def _experts(dice):
    a, each, chance = _between(dice, 0.002, 0.01), _between(dice, 0.01, 0.1), _between(dice, 0.02, 0.3)
    return curve_of(lambda n: a + each * (1 - (1 - chance) ** n) + 0.0001 * n)


#: families of servers by name, each drawing one: its step time is a + b·n of n running requests, or
FAMILIES = {
    "step time a + b·n": _dense,
    "few slots": _slots,
    "prompts bind": _prefill,
    "KV cache with preemption": _cache,
    "overhead binds": _overhead,
    "mixture of experts": _experts,  # more weights are read the more requests there are, up to all
}


def judged_levels(curve, levels, ttft_limit, tpot_limit, noise=0.0, dice=None):
    """The levels of a server as `judge` gives them, as far as the end of trials needs them."""
    rows = []
    for level in levels:
        numbers = (value * math.exp(noise * dice.gauss(0, 1)) if noise else value for value in curve(level))
        throughput, ttft, tpot = numbers
        limits = (("ttft_p90", ttft, ttft_limit), ("tpot_p90", tpot, tpot_limit))
        over = [
            {"metric": name, "actual": actual, "threshold": limit, "type": "HARD_FAIL"}
            for name, actual, limit in limits
            if actual > limit
        ]
        row = {"concurrency": level, "outcome": "completed", "output_throughput": throughput, "violations": over}
        rows.append(row | {"verdict": "fail" if over else "pass"})
    return pd.DataFrame(rows)
