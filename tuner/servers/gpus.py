"""The NVIDIA GPUs of this host through NVML (`nvidia-ml-py`, optional): what they are, which are free, who has them.

Written against NVML's documentation and tested with answers of that form; not run on a GPU yet.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Any, NamedTuple

from tuner.core import locks
from tuner.errors import ServerFailed

log = logging.getLogger(__name__)

#: a GPU with less in use than this, in bytes, and no process is free: the driver itself takes some hundred MiB
FREE_BELOW = 1 << 30
_SLACK = 256 << 20  # bytes more than before that need no warning
_NO_GPU = "the driver knows no GPU"
#: NVML's bits for why a clock is held back: software and hardware limits of power, and of heat
_SLOWED = {"slowed_by_power": 0x04 | 0x80, "slowed_by_heat": 0x20 | 0x40}
GIVE_BACK = 5.0  # seconds that the driver has to take memory back


@dataclass(frozen=True)
class GPU:
    """One GPU at one instant; memory in bytes, utilization as a share, power in watts, temperature in °C."""

    index: int
    uuid: str
    name: str
    memory_total: int
    memory_used: int
    utilization: float | None
    power: float | None
    temperature: float | None
    processes: tuple[int, ...]
    clock: float | None = None  # of its multiprocessors, MHz
    slowed_by_power: bool | None = None  # its clock is held back by a power limit
    slowed_by_heat: bool | None = None

    @property
    def is_free(self) -> bool:
        """Nobody computes on it, as far as one can see (a container hides its processes, not its memory)."""
        return not self.processes and self.memory_used < FREE_BELOW

    @property
    def cuda_name(self) -> str:
        """Its name for CUDA: the index, since vLLM up to 0.20 ends on a UUID; of a MIG slice the UUID."""
        return self.uuid if self.uuid.startswith("MIG-") else str(self.index)

    @property
    def use(self) -> str:
        """Who has how much of it, in words."""
        used = f"{self.memory_used / (1 << 30):.1f} GiB in use"
        return f"{used} by processes {', '.join(map(str, self.processes))}" if self.processes else used


def gpus() -> list[GPU]:
    """Every GPU of this host; none where there is no driver or no `nvidia-ml-py`."""
    return _ask_driver()[0]


def why_none() -> tuple[str, str]:
    """Where there is no GPU: what is the matter, and what to do about it."""
    return _ask_driver()[1:]


def _ask_driver() -> tuple[list[GPU], str, str]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except ImportError:
        return [], "nvidia-ml-py is not installed, so that no GPU can be seen", "pip install nvidia-ml-py"
    except pynvml.NVMLError as error:
        return [], f"no NVIDIA driver answers ({error}); engine llamacpp and attach need none", ""
    try:
        return [gpu for index in range(pynvml.nvmlDeviceGetCount()) for gpu in _read_all(pynvml, index)], _NO_GPU, ""
    finally:
        pynvml.nvmlShutdown()


def _read_all(nvml: Any, index: int) -> list[GPU]:
    handle, slices = nvml.nvmlDeviceGetHandleByIndex(index), []
    with suppress(nvml.NVMLError):  # a GPU that cannot be cut
        is_cut = nvml.nvmlDeviceGetMigMode(handle)[0]
        for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle) if is_cut else 0):
            with suppress(nvml.NVMLError):  # there are fewer than there could be
                slices.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number))
    return [_read(nvml, index, each) for each in slices or [handle]]


def _read(nvml: Any, index: int, handle: Any) -> GPU:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)

    def maybe(question: str, scale: float, *more: Any) -> float | None:
        """A sensor's answer, or None where this GPU has no such sensor."""
        with suppress(nvml.NVMLError):
            answer = getattr(nvml, question)(handle, *more)
            return float(getattr(answer, "gpu", answer)) * scale
        return None

    reasons = maybe("nvmlDeviceGetCurrentClocksEventReasons", 1)
    processes = []
    with suppress(nvml.NVMLError):
        processes = [process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    return GPU(
        index=index,
        uuid=nvml.nvmlDeviceGetUUID(handle),
        name=nvml.nvmlDeviceGetName(handle),
        memory_total=int(memory.total),
        memory_used=int(memory.used),
        utilization=maybe("nvmlDeviceGetUtilizationRates", 0.01),
        power=maybe("nvmlDeviceGetPowerUsage", 0.001),
        temperature=maybe("nvmlDeviceGetTemperature", 1, nvml.NVML_TEMPERATURE_GPU),
        processes=tuple(processes),
        clock=maybe("nvmlDeviceGetClockInfo", 1, nvml.NVML_CLOCK_SM),
        **{name: None if reasons is None else bool(int(reasons) & bits) for name, bits in _SLOWED.items()},
    )


def visible(all_gpus: Sequence[GPU]) -> list[GPU]:
    """Those that CUDA_VISIBLE_DEVICES leaves to us (a job scheduler sets it), in its order, up to one that is none."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return list(all_gpus)
    by_name = _by_name(all_gpus)
    by_name |= {gpu.uuid[:end]: gpu for gpu in reversed(all_gpus) for end in range(5, len(gpu.uuid))}  # cut short
    return [by_name[name] for name in takewhile(by_name.__contains__, map(str.strip, allowed.split(",")))]


def _by_name(candidates: Sequence[GPU]) -> dict[str, GPU]:
    return {name: gpu for gpu in candidates for name in (gpu.cuda_name, gpu.uuid)}


def cuda_environment(chosen: Sequence[GPU]) -> dict[str, str]:
    """The variables that show a program these GPUs alone; CUDA counts them by speed unless it is told otherwise."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpu.cuda_name for gpu in chosen), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


class Claim(NamedTuple):
    """GPUs that are ours for as long as the holders are open."""

    gpus: tuple[GPU, ...]
    holders: tuple[locks.Holder, ...]


def claim(wanted: int | Sequence[int | str]) -> Claim:
    """Take GPUs, so many free ones or those of an index or UUID; else ServerFailed (gpu_unavailable)."""
    candidates = visible(gpus()) if wanted else []
    if isinstance(wanted, int):
        number, eligible = wanted, [gpu for gpu in candidates if gpu.is_free]
    else:
        number, eligible = len(wanted), _named(wanted, candidates)
    holders: dict[GPU, list[locks.Holder]] = {}
    others: dict[GPU, str] = {}
    for gpu in eligible:
        if len(holders) < number:
            try:
                holders[gpu] = locks.take_gpu(gpu.uuid)
            except locks.AlreadyTaken as other:
                others[gpu] = f", taken by {other}"
    if len(holders) < number:
        for holder in chain(*holders.values()):
            holder.close()
        problem = "NVML finds none; `tuner doctor` says what is missing"
        if candidates:
            states = "; ".join(f"{gpu.index}: {gpu.use}{others.get(gpu, '')}" for gpu in candidates)
            problem = f"not so many are free or unclaimed: {states}"
        raise ServerFailed(f"GPUs were asked for ({wanted}), and {problem}", kind="gpu_unavailable")
    return Claim(tuple(holders), tuple(chain(*holders.values())))


def _named(names: Sequence[int | str], candidates: Sequence[GPU]) -> list[GPU]:
    by_name = _by_name(candidates)
    for name in map(str, names):
        if name not in by_name:
            choices = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in candidates) or "none"
            raise ServerFailed(f"there is no GPU {name} here; there are: {choices}", kind="gpu_unavailable")
        if not by_name[name].is_free:
            log.warning("GPU %s was named and is in use: %s", name, by_name[name].use)
    return [by_name[name] for name in map(str, names)]


def memory_not_returned(before: Mapping[str, int]) -> dict[str, int]:
    """Bytes that GPUs hold beyond what they held before, after GIVE_BACK seconds for the driver to take them back."""
    deadline = time.monotonic() + GIVE_BACK
    while True:
        now = {gpu.uuid: gpu.memory_used for gpu in gpus()} if before else {}
        excess = {uuid: now[uuid] - then for uuid, then in before.items() if now.get(uuid, 0) - then > _SLACK}
        if not excess or time.monotonic() > deadline:
            return excess
        time.sleep(0.2)
