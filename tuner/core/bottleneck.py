"""What a level is limited by: one cause, by what the server used in the part of the level that is judged."""

from collections.abc import Callable

import msgspec

from tuner.core.text import percent, plural

#: causes, as the column `limit` has them
CLIENT, KV_CACHE, SEQUENCES, PREFILL = "client bound", "KV cache full", "sequences capped", "token budget"
POWER, HEAT, PREFIX_CACHE = "GPU power", "GPU heat", "prefix cache not hit"
GPU_BUSY, CPU_BOUND, NOTHING, NOT_KNOWN = "GPU busy", "CPU bound", "nothing saturated", "not known"

#: Share of the samples in which a request waited, from which on there is a queue; and in which a GPU was slowed.
QUEUED, SLOWED = 0.5, 0.5
#: Share of a resource from which on it is used up: of the KV cache (engines keep some blocks free), of cores and GPUs.
FULL, BUSY = 0.95, 0.9
#: Share of the queue's samples with as many requests running as ever: then a cap holds them back, and not chance.
STANDS = 0.8
LEAST_SAMPLES = 3  # samples below which nothing is said
CLIENT_BUSY = 0.9  # share of a core of the load generator above which it, and not the server, may be what was measured
#: Share of the prompt tokens from which on a prefix is expected to be found, and how much of it must be.
EXPECTED, FOUND = 0.2, 0.5
IDLE = 0.7  # GPU use below which a process that fills its core holds the GPU up


class Usage(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a server used in the judged part of a level; None where it does not say. Shares are from 0 to 1."""

    samples: int = 0  # one a second
    running: float | None = None  # requests in the batch, the median
    running_most: float | None = None
    waiting: float | None = None  # requests that wait, the mean
    queued: float | None = None  # share of the samples in which one waited
    stands: float | None = None  # share of those in which as many ran as ever
    kv_cache_use: float | None = None  # share in use at most, of the fullest rank
    preemptions: float | None = None
    prefix_hit_rate: float | None = None  # share of the prompt tokens that were found in the cache
    step_tokens: float | None = None  # tokens a step, the mean
    cpu_cores: float | None = None  # in use, the mean
    cpu_most: float | None = None  # cores that the busiest process used, the mean
    gpu_use: float | None = None  # share of the time in which a GPU computed, the mean over GPUs
    power: float | None = None  # watts of all its GPUs, the mean
    slowed_by_power: float | None = None  # share of the samples
    slowed_by_heat: float | None = None
    machine_use: float | None = None  # share of the machine's cores that anybody used, the mean
    cores: float | None = None  # that it may use
    sequences: float | None = None  # requests that it runs at once at most, where it was said
    prefix_share: float | None = None  # share of the prompt tokens that requests have in common
    lever: str = ""  # the engine's parameters that move what limits it

    @property
    def queue(self) -> str:
        """That requests wait for the server, in words; empty where they do not."""
        return f"requests queue ({self.waiting or 0:.1f} wait on average)" if (self.queued or 0.0) >= QUEUED else ""


def _kv_cache(usage: Usage) -> str:
    used, preemptions = usage.kv_cache_use, usage.preemptions
    full = "the KV cache is full (" + (f"{percent(used)} in use at most" if used is not None else "")
    if preemptions:
        return f"{full}, {plural(int(preemptions), 'preemption')})"
    return f"{usage.queue}: {full})" if usage.queue and (used or 0.0) >= FULL else ""


def _sequences(usage: Usage) -> str:
    cap, most = usage.sequences, usage.running_most
    is_capped = (most or 0.0) >= cap if cap else (usage.stands or 0.0) >= STANDS
    return f"{usage.queue}: the server runs {most:g} at once" if usage.queue and most and is_capped else ""


def _prefill(usage: Usage) -> str:
    if not usage.queue or usage.kv_cache_use is None or not usage.running_most:
        return ""
    budget = f"while {usage.running:g} run, fewer than it may, and the KV cache has room"
    return f"{usage.queue} {budget}: prompts wait, since a step computes only so many tokens"


def _at_least(share: str, least: float, words: str) -> Callable[[Usage], str]:
    def find(usage: Usage) -> str:
        value = getattr(usage, share) or 0.0
        return words.format(percent(value)) if value >= least else ""

    return find


def _prefix_cache(usage: Usage) -> str:
    expected, found = usage.prefix_share or 0.0, usage.prefix_hit_rate
    if expected < EXPECTED or found is None or found >= FOUND * expected:
        return ""
    return f"{percent(expected)} of the prompt tokens were sent before, {percent(found)} were found in the cache"


def _cpu(usage: Usage) -> str:
    if usage.gpu_use is not None:
        is_held_up = usage.gpu_use < IDLE and (usage.cpu_most or 0.0) >= BUSY
        return f"one process filled a core while the GPUs computed in {percent(usage.gpu_use)} of the time" * is_held_up
    own, cores = usage.cpu_cores, usage.cores
    if own is None or cores is None:
        return ""
    if own >= BUSY * cores:
        return f"the server used {own:.2g} of the {cores:g} cores that it may"
    others = f"other processes left it {own:.2g}: the machine's cores were in use by {percent(usage.machine_use or 0)}"
    return others if (usage.machine_use or 0.0) >= BUSY else ""


def _nothing(usage: Usage) -> str:
    is_watched = usage.queued is not None and (usage.gpu_use is not None or None not in (usage.cpu_cores, usage.cores))
    return "no request waits, and neither CPU nor GPU is full" if is_watched and not usage.queue else ""


#: In this order, since the first explains those after it: a server with a cap also fills its cores.
CAUSES: tuple[tuple[str, Callable[[Usage], str]], ...] = (
    (KV_CACHE, _kv_cache),
    (SEQUENCES, _sequences),
    (PREFILL, _prefill),
    (POWER, _at_least("slowed_by_power", SLOWED, "the GPUs ran at their power limit in {} of the samples")),
    (HEAT, _at_least("slowed_by_heat", SLOWED, "the GPUs were slowed by heat in {} of the samples")),
    (PREFIX_CACHE, _prefix_cache),
    (GPU_BUSY, _at_least("gpu_use", BUSY, "the GPUs computed in {} of the time")),
    (CPU_BOUND, _cpu),
    (NOTHING, _nothing),
)


def bottleneck(usage: Usage | None, client_cpu_share: float) -> tuple[str, str]:
    """What limits a level: a cause, and its evidence with the engine's parameters that move it.

    `client_cpu_share` is the share of a core that the load generator used; NaN where nobody knows.
    """
    if client_cpu_share > CLIENT_BUSY:
        return CLIENT, f"the load generator used {percent(client_cpu_share)} of a core: it may be what was measured"
    if usage is None or usage.samples < LEAST_SAMPLES:
        return NOT_KNOWN, ""
    cause, evidence = next(((cause, text) for cause, find in CAUSES if (text := find(usage))), (NOT_KNOWN, ""))
    return cause, f"{evidence} ({usage.lever})" if usage.lever else evidence
