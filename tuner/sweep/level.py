"""One level from beginning to end: run it aside, tell how it ended, scrub it, and put it in place whole."""

import errno
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from tuner.batches.genai_bench_folder import words_of_failure
from tuner.batches.load import load_batches
from tuner.core import files, request_log
from tuner.core.level import Level, kind_of, level_title, number_of
from tuner.core.records import COMPLETED, UNSETTLED, Sidecar, TrialFacts
from tuner.core.request_log import REQUESTS_FILE, WHOLE, WORKLOAD_FILE
from tuner.core.run_directory import Trial, part_of
from tuner.core.secrets import redact_bytes
from tuner.core.text import one_line, shorten
from tuner.core.timestamps import now, to_text
from tuner.errors import PathError, ServerFailed
from tuner.judging.levels import levels_of
from tuner.judging.slo import SLO
from tuner.judging.verdicts import judge
from tuner.servers.telemetry import Recorder
from tuner.sweep.spec import SweepSpec
from tuner.traffic import calibration
from tuner.traffic.course import Limits
from tuner.traffic.genai_bench import CLIENT_LOG, Bench, Ended, Load
from tuner.traffic.live import remove_live

_log = logging.getLogger(__name__)

_LONGEST_REASON = 300
ALL_ERRORS = "all_errors"
#: what helps where every request failed, by what the server said or its status; first of all what leaves out a field of
#: our requests that a server need not know
_REMEDIES = (
    (
        r"(?=.*\b(?:un(?:supported|recognized|known|expected)|not (?:supported|permitted|allowed)|extra)\b)"
        r".*?\b(max_tokens|stream_options|temperature)\b",
        "request_parameters: {{{0}: null}} leaves it out",
    ),
    (r"chat.?template", "give the server a chat template, or a model that has one"),
    (
        r"context.?(length|window|size)|maximum context|too long|max_new_tokens|\(413 ",
        "ask for fewer tokens in scenarios, or for less of prompts",
    ),
    (r"\(40[13] ", "name the variable that holds the right key in api_key_env"),
    (r"\(404 ", "see whether the server knows model, and whether base_url is right"),
    (r"\(429 ", "the server takes no more: try lower levels, or raise its limit"),
    (r"\(5\d\d ", "the server's own log may say more"),
)
_TRACEBACK = re.compile(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(\S.*)", re.MULTILINE)
Measurement = tuple[str, Level, int]  # (scenario, level, repeat)


def run(bench: Bench, recorder: Recorder, load: Load, folder: Path, stop: threading.Event) -> Sidecar:
    """Measure one level; `folder` appears, whole, when it has ended, with the sidecar that is given back."""
    part, server = fresh_part(folder), recorder.server
    level = load.limits.level
    client = _client_share(load) | {"prefix_cache_emptied": server.forget_prompts(), "api": load.api_backend}
    sidecar = Sidecar.of(load.scenario, level, load.repeat, client=client)
    sidecar.started_at = to_text(now())
    sidecar.write(part)
    ended = bench.run(load, part, stop)
    if not shutil.disk_usage(part).free:  # which looks like anything else in what the level could still write
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part))
    outcome, reason = outcome_of(part, ended, server.failure(), interrupted=stop.is_set())
    sent = request_log.read_level(part / REQUESTS_FILE)
    end = _end(ended, client) | {"outcome": outcome, "reason": reason[:_LONGEST_REASON]}
    end["usage"] = recorder.usage(*sent.window_in_utc, prefix_share=load.prefix_share) if sent else None
    sidecar = msgspec.structs.replace(sidecar, **end)
    (part / WORKLOAD_FILE).unlink(missing_ok=True)  # seed and hash say what it was, and it can be long
    remove_live(part)
    _scrub(part)
    sidecar.write(part)
    put_in_place(part, folder)
    _log.info("%s, %s: %s %s", load.scenario, level_title(level), outcome, reason)
    return sidecar


def warm_up(bench: Bench, load: Load, requests: int, stop: threading.Event) -> str:
    """Put load on the server that is not counted, so that no level pays for cold caches.

    Returns the server's words where every request failed; empty where some completed, or none was sent.
    """
    if not requests:
        return ""
    users = min(load.limits.concurrency, requests)
    limits = Limits(users, 30.0, requests, window=WHOLE)  # which has no drain
    warm = replace(load, limits=limits, repeat=0)  # with prompts that no level has
    with tempfile.TemporaryDirectory(prefix="warmup-", dir=bench.scratch) as folder:
        outcome, reason = outcome_of(Path(folder), bench.run(warm, Path(folder), stop), None, interrupted=False)
    return reason if outcome == ALL_ERRORS else ""


def record_unrun(load: Measurement, folder: Path, outcome: str, reason: str) -> Sidecar:
    """Write down why a level was not run."""
    sidecar = Sidecar.of(*load, outcome=outcome, reason=reason[:_LONGEST_REASON])
    sidecar.write(part := fresh_part(folder))
    put_in_place(part, folder)
    return sidecar


class Levels:
    """The levels of one trial and how each has ended; a level's sidecar is read once, when it is first asked for."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._ends: dict[Measurement, Sidecar | None] = {}
        self._facts = trial.facts

    def folder(self, load: Measurement) -> Path:
        """Where the files of a level lie once it has ended."""
        return self._trial.batch_folder(*load)

    def settled(self, load: Measurement) -> Sidecar | None:
        """How a level ended that needs no measuring again; None where it does."""
        if load not in self._ends:
            folder = self.folder(load)
            sidecar, part = Sidecar.read(folder), part_of(folder)
            self.add(load, sidecar if folder.exists() else Sidecar.read(part))
            if self._ends[load] and not folder.exists():  # cut off between its end and its renaming
                put_in_place(part, folder)
        return self._ends[load]

    def add(self, load: Measurement, sidecar: Sidecar | None) -> None:
        """Note how a level has ended."""
        self._ends[load] = sidecar if sidecar and sidecar.outcome not in UNSETTLED else None

    def ask_for(self, load: Measurement, spec: SweepSpec) -> None:
        """Record what is asked of the trial; a search for the limit asks for a level when it comes to it."""
        before = {*self._facts.levels} if self._facts else set()
        levels = sorted({number_of(load[1]), *before}) if spec.is_auto else [*map(number_of, spec.fixed_levels)]
        same = {name: getattr(spec, name) for name in ("engine", "parameters", "scenarios", "repeats")}
        model, kind = spec.model or spec.base_url or "", kind_of(load[1])
        facts = TrialFacts(trial=self._trial.number, model=model, levels=levels, iteration_type=kind, **same)
        if facts != self._facts:
            facts.write(self._trial.folder)
            self._facts = facts


def judged_level(folders: Sequence[Path], slo: SLO | dict[str, Any]) -> dict[Any, Any]:
    """One level, judged by all of its runs."""
    return dict(levels_of(judge(load_batches(*folders), slo)).to_dict("records")[0])


def outcome_of(part: Path, ended: Ended, failure: ServerFailed | None, *, interrupted: bool) -> tuple[str, str]:
    """How a level ended (one of `records.OUTCOMES`) and why, in one line: the cause before its consequences."""
    ends = request_log.statuses(part / REQUESTS_FILE)
    logs = {path.name: files.read_end(path, 200_000) for path in sorted(part.glob("*.log"))}
    error = next((one_line(found[1]) for log in logs.values() if (found := _TRACEBACK.search(log))), "")
    more = "give a level more with max_seconds, or with extend_to"
    last = logs.get(CLIENT_LOG, "").strip().rpartition("\n")[2]
    cases = (
        (failure is not None and failure.kind == "out_of_memory", "out_of_memory", str(failure)),
        (failure is not None, "server_died", str(failure)),
        (interrupted, "interrupted", "stopped by the user"),
        (ended.timed_out, "timeout", f"genai-bench had not ended after {ended.duration:.0f} s"),
        (request_log.COMPLETED in ends, COMPLETED, ""),
        (request_log.FAILED in ends, ALL_ERRORS, _with_remedy(words_of_failure(part))),
        (bool(error), "client_failed", f"genai-bench failed within a request: {error}"),
        (ended.exit_code == 0, "timeout", f"no request finished in {ended.duration:.0f} s: {more}"),
        (True, "client_failed", f"genai-bench ended with {ended.exit_code}: {last or 'it left no message'}"),
    )
    return next((outcome, reason) for fits, outcome, reason in cases if fits)


def _with_remedy(words: str) -> str:
    found = ((re.search(said, words, re.IGNORECASE), remedy) for said, remedy in _REMEDIES)
    helps = next((remedy.format(*match.groups()) for match, remedy in found if match), "")
    return f"{shorten(words, _LONGEST_REASON - len(helps) - 2)}; {helps}" if helps else words


def _client_share(load: Load) -> dict[str, Any]:
    """The load generator's processes, and its own share of what they read at this level, where it was calibrated."""
    own = calibration.share_of_client(load.limits.level)
    names = ("ttft", "tpot", "throughput") if own and own.workers == load.workers else ()
    return {"workers": load.workers} | {name: getattr(own, name) for name in names}


def _end(ended: Ended, client: dict[str, Any]) -> dict[str, object]:
    times = {name: to_text(getattr(ended, name)) for name in ("started_at", "finished_at")}
    client = client | ({"workload": ended.workload} if ended.workload else {})
    if ended.cpu_seconds is not None:
        client["cpu_share"] = round(ended.cpu_seconds / ended.duration / client["workers"], 3)
    return times | {"duration": round(ended.duration, 3), "exit_code": ended.exit_code, "client": client}


def fresh_part(folder: Path) -> Path:
    """The empty folder in which a level's files gather until they can be put in place."""
    part, trial = part_of(folder), folder.parents[2]
    if not trial.exists():
        raise PathError(f"{trial} is not there any more; where the run was moved, --resume goes on with it")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a run that was cut off
        part.mkdir(parents=True)
    except OSError as error:
        raise PathError(f"cannot write {part}: {error.strerror}") from error
    return part


def _scrub(part: Path) -> None:
    """Take keys out of everything; genai-bench never had any, but a server can echo them in an error."""
    for path in part.iterdir():
        if redact_bytes(content := files.read_bytes(path, files.RESULTS)) != content:
            files.write_atomically(path, content)


def put_in_place(part: Path, folder: Path) -> None:
    """The rename that makes the batch count, after its files are safe on disk."""
    for path in (*part.iterdir(), part):
        files.sync(path)
    if folder.exists():  # an earlier try that settled nothing
        shutil.rmtree(folder)
    part.rename(folder)
    files.sync(folder.parent)
