"""The load generator's own share of what it measures, by level or rate, on this machine.

The real load generator is run against a server with exactly known times (`traffic.stub`). What it reads beyond them is
its own share; it is kept per machine in the user's cache, and batches carry it.
"""

import math
import os
import platform
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import psutil

from tuner.batches.load import load_batches
from tuner.core import files
from tuner.core.level import CONCURRENCY, Level, Rate, folder_name, kind_of, level_from, level_title, number_of
from tuner.core.request_log import REQUESTS_FILE
from tuner.core.run_directory import safe_name
from tuner.core.text import UNKNOWN
from tuner.engines.gguf import cache_folder
from tuner.errors import PathError, TunerError
from tuner.servers.supervised import Supervised
from tuner.traffic.course import Arrivals, Limits
from tuner.traffic.genai_bench import Bench, Load
from tuner.traffic.prompt_file import Request
from tuner.traffic.stub import MODEL
from tuner.traffic.workload import Workload

#: The stub's times, in seconds, and its output tokens a request: an answer takes 0.59 s.
TTFT, ITL, OUTPUTS = 0.1, 0.01, 50
#: Requests that each of a level's users sends: a level takes some 6 s, the first one among many. A rate takes as long,
#: or until three times as many have come, with so many in flight at most.
ROUNDS = 10
_MAX_SECONDS = 60.0
_WORKLOAD = Workload(requests=(Request([[{"role": "user", "content": "a " * 50}]], OUTPUTS),))


class Calibration(msgspec.Struct, frozen=True):
    """The client's own share of what it measures at one level."""

    level: int | float  # as files have it
    ttft: float  # seconds that the median TTFT is read too long
    tpot: float  # seconds that the median TPOT is read too long
    throughput: float  # output tokens/s, as a share of what the server's times allow; of a rate: answers, of all due
    workers: int = 1  # processes of the client's that the level has
    kind: str = CONCURRENCY
    lag: float | None = None  # of a rate: seconds after they were due within which 99 % of requests were sent

    @property
    def of(self) -> Level:
        """The level."""
        return level_from(self.level, self.kind)

    @property
    def excess(self) -> float:
        """The larger of what TTFT and TPOT are read too long, as a share of the stub's."""
        return max(self.ttft / TTFT, self.tpot / ITL)


def calibrate(
    levels: Sequence[Level], progress: Callable[[Calibration], None] = lambda calibration: None
) -> list[Calibration]:
    """Measure and keep the client's own share at `levels`, some seconds each; TunerError where one gave no result."""
    measured = []
    with tempfile.TemporaryDirectory(prefix="tuner-calibration-") as name, _stub(Path(name)) as url, Bench() as bench:
        for level in {str(level): level for level in levels}.values():
            measured.append(_with_enough_workers(partial(_calibrate_level, bench, url, level, Path(name))))
            _keep(measured[-1])
            progress(measured[-1])
    return measured


def share_of_client(level: Level) -> Calibration | None:
    """The client's share at `level` here, as measured or interpolated over ln(level); None outside of that."""
    known = [calibration for calibration in _read() if calibration.kind == kind_of(level)]  # by level
    above = next((each for each in known if each.level >= level), None)
    if above is None or known[0].level > level:
        return None
    logs = np.log([each.level for each in known])
    names = ("ttft", "tpot", "throughput")
    mean = {name: float(np.interp(math.log(level), logs, [getattr(each, name) for each in known])) for name in names}
    return msgspec.structs.replace(above, level=number_of(level), **mean)


def processes_for(level: Level) -> int:
    """The client's processes that a level needs on this machine; one where nobody has measured it."""
    return own.workers if (own := share_of_client(level)) else 1


def table(calibrations: Iterable[Calibration]) -> str:
    """The calibrations as text for a person, one line a level, under a line of headers."""
    lines = [f"{'level':>8}  TTFT (ms)  TPOT (ms)  throughput (%)  late p99 (ms)  processes"]
    for each in calibrations:
        late = UNKNOWN if each.lag is None else f"{each.lag * 1000:.1f}"
        times = f"{each.ttft * 1000:>+9.1f}  {each.tpot * 1000:>+9.2f}  {each.throughput * 100:>14.1f}"
        lines.append(f"{each.of!s:>8}  {times}  {late:>13}  {each.workers:>9}")
    return "\n".join(lines)


@contextmanager
def _stub(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tuner.traffic.stub", "--ttft", str(TTFT), "--itl", str(ITL)]
    with Supervised(command, folder / "stub.log", has_pipes=True) as stub:
        said = stub.stdout.readline().decode() if stub.stdout else ""
        if not said:
            raise TunerError(f"the stub server did not start: {(folder / 'stub.log').read_text().strip()[-200:]}")
        yield said.split()[-1]


def _with_enough_workers(measure: Callable[[int], Calibration]) -> Calibration:
    """Twice as many processes while a level is read too long and there are cores for them; the best number of them."""
    best, workers = measure(1), 1
    most = min(len(os.sched_getaffinity(0)), math.ceil(best.level))
    while best.excess > 0.02 and workers < most:  # 2 ms of the stub's TTFT
        workers = min(2 * workers, most)
        best = min(best, measure(workers), key=lambda each: each.excess)
    return best


def _limits(level: Level) -> Limits:
    if isinstance(level, Rate):
        seconds = min(max(TTFT + ITL * OUTPUTS, 3 / level) * ROUNDS, _MAX_SECONDS)
        places = max(256, math.ceil(2 * level))
        return Limits(places, seconds, 10**9, arrivals=Arrivals(float(level), 1.0, "calibration"))
    return Limits(level, _MAX_SECONDS, level * ROUNDS)


def _calibrate_level(bench: Bench, url: str, level: Level, folder: Path, workers: int) -> Calibration:
    import httpx

    place = folder / f"{folder_name(level)}-{workers}"
    place.mkdir()
    load = Load(url, MODEL, f"D(100,{OUTPUTS})", _WORKLOAD, _limits(level), workers)
    bench.run(load, place, threading.Event())
    if not (place / REQUESTS_FILE).exists():
        advice = "`tuner doctor` says whether it is there as it should be"
        raise TunerError(f"calibration at {level_title(level)}: genai-bench left no result; {advice}")
    measured = load_batches(place).to_dict("records")[0]
    sent = httpx.get(f"{url}/served", trust_env=False).json()
    ideal = level * OUTPUTS / (sent["ttft"] + sent["tpot"] * (OUTPUTS - 1))
    is_rate = isinstance(level, Rate)
    return Calibration(
        level=number_of(level),
        kind=kind_of(level),
        ttft=max(measured["ttft_p50"] - sent["ttft"], 0.0),
        tpot=max(measured["tpot_p50"] - sent["tpot"], 0.0),
        throughput=1 - measured["error_rate"] if is_rate else measured["output_throughput"] / ideal,
        lag=measured["schedule_lag_p99"] if is_rate else None,
        workers=workers,
    )


def _file() -> Path:
    versions = f"genai-bench-{version('genai-bench')}-tuner-{version('tuner')}"
    machine = f"{platform.node()}-{psutil.cpu_count()}-cpus-{versions}"
    return cache_folder("calibration") / f"{safe_name(machine)}.json"


def _read() -> list[Calibration]:
    """What is kept for this machine, by level; nothing where the file is missing or damaged, or there is no cache."""
    with suppress(OSError, PathError):
        return sorted(files.read_json(_file(), list[Calibration]), key=lambda calibration: calibration.level)
    return []


def _keep(calibration: Calibration) -> None:
    others = [other for other in _read() if str(other.of) != str(calibration.of)]
    try:
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PathError(f"cannot keep the calibration in {error.filename}: {error.strerror}") from error
    files.write_json(path, msgspec.to_builtins(sorted([*others, calibration], key=lambda each: each.level)))
