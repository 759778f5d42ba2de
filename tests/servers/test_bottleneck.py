"""What limits a level: constructed servers, of which the cause is known."""

import math
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from msgspec import structs
from support import FAULTY_SERVER
from support.processes import wait_until

from tuner.core import bottleneck
from tuner.core.bottleneck import (
    CLIENT,
    CPU_BOUND,
    GPU_BUSY,
    HEAT,
    KV_CACHE,
    NOT_KNOWN,
    NOTHING,
    POWER,
    PREFILL,
    PREFIX_CACHE,
    SEQUENCES,
    Usage,
)
from tuner.core.run_directory import Trial
from tuner.core.timestamps import now
from tuner.engines.base import ServerSpec
from tuner.servers import telemetry
from tuner.servers.server import launch
from tuner.servers.telemetry import Recorder

USERS, SAMPLES = 8, 12

#: what a server is made to lack, and the cause that is to be named
SERVERS = {
    "slots": (("slots=2", "itl=0.01"), SEQUENCES),
    "slots of which there are as many as users": (("slots=8", "itl=0.01"), NOTHING),
    "room in the KV cache": (("kv_slots=3", "itl=0.01"), KV_CACHE),
    "room in the KV cache, so that it preempts": (("preempts=1", "itl=0.01"), KV_CACHE),
    "turns of prefill": (("prefill=0.05", "itl=0.01"), PREFILL),
    "a processor": (("burns=1",), CPU_BOUND),
    "nothing": (("itl=0.01",), NOTHING),
}


@pytest.fixture
def usage_of(tmp_path):
    """Load a server that runs with these knobs, and give back what it used."""

    def measure(*knobs):
        command = [sys.executable, str(FAULTY_SERVER), "--port", "{port}", *knobs]
        request = {"stream": True, "messages": [{"role": "user", "content": "hello"}]}
        over = threading.Event()

        def user(url, seed):
            lengths = random.Random(seed)  # answers of one length would take turns as a clock does
            with httpx.Client(base_url=url, timeout=30) as client:
                while not over.is_set():
                    client.post("/v1/chat/completions", json=request | {"max_tokens": lengths.randint(4, 28)})

        def samples():
            return sum(b'"running"' in line for line in recorder.path.read_bytes().splitlines())

        with (
            launch(ServerSpec(engine="command", command=command), Trial(tmp_path)) as server,
            ThreadPoolExecutor(USERS) as users,
            Recorder(server, period=0.1) as recorder,
        ):
            try:
                for number in range(USERS):
                    users.submit(user, server.base_url, number)
                wait_until(lambda: httpx.get(f"{server.base_url}/stats").json()["total"] > 2 * USERS)
                begin, before = now(), samples()
                wait_until(lambda: samples() >= before + SAMPLES)
                return recorder.usage(begin, now())
            finally:
                over.set()

    return measure


@pytest.mark.parametrize("lacking", SERVERS)
def test_what_a_server_lacks_is_named(lacking, usage_of):
    knobs, cause = SERVERS[lacking]
    usage = usage_of(*knobs)
    if cause == CPU_BOUND:  # it has one thread, of how many cores there may be
        usage = structs.replace(usage, cores=1.0)
    elif usage.machine_use and usage.machine_use >= bottleneck.BUSY and cause == NOTHING:
        cause = CPU_BOUND  # which is true of a machine that others fill
    assert bottleneck.bottleneck(usage, 0.1)[0] == cause, usage


def sampled(**facts):
    return Usage(samples=10, running=8, running_most=8, waiting=0, queued=0, **facts)


@pytest.mark.parametrize(
    ("usage", "cause"),
    [
        (sampled(gpu_use=0.97, power=690.0, slowed_by_power=0.9), POWER),
        (sampled(gpu_use=0.97, slowed_by_heat=0.6), HEAT),
        (sampled(gpu_use=0.97), GPU_BUSY),
        (sampled(gpu_use=0.3, cpu_most=0.98), CPU_BOUND),
        (sampled(gpu_use=0.3, cpu_most=0.4), NOTHING),
        (sampled(gpu_use=0.3, prefix_share=0.8, prefix_hit_rate=0.05), PREFIX_CACHE),
        (sampled(gpu_use=0.3, prefix_share=0.8, prefix_hit_rate=0.7), NOTHING),
        (sampled(cpu_cores=0.3, cores=2.0, machine_use=0.99), CPU_BOUND),
        (sampled(), NOT_KNOWN),  # whether a processor is full nobody said
        (Usage(samples=2, waiting=5, queued=1, running=2, running_most=2, sequences=2), NOT_KNOWN),
        (Usage(samples=10, waiting=5, queued=1, running=3, running_most=4, sequences=8), NOT_KNOWN),  # nor of the cache
        (None, NOT_KNOWN),
    ],
)
def test_sensors_of_gpus_and_counters_that_are_missing(usage, cause):
    assert bottleneck.bottleneck(usage, math.nan)[0] == cause


def test_samples_in_which_a_gpu_has_no_sensor_do_not_stand_for_all_gpus():
    both, one = {"gpu0_power": 300.0, "gpu1_power": 200.0}, {"gpu0_power": 300.0, "gpu1_power": None}
    assert telemetry.usage_of([both, one, both]).power == 500.0
    assert telemetry.usage_of([one, one, one]).power is None


def test_a_busy_load_generator_comes_first():
    assert bottleneck.bottleneck(sampled(gpu_use=0.97), 0.95)[0] == CLIENT


def test_the_evidence_names_the_parameter_that_moves_it():
    usage = Usage(samples=10, waiting=5.8, queued=1, running=2, running_most=2, lever="n_parallel")
    usage = structs.replace(usage, sequences=2)
    said = "requests queue (5.8 wait on average): the server runs 2 at once (n_parallel)"
    assert bottleneck.bottleneck(usage, 0.1) == (SEQUENCES, said)
