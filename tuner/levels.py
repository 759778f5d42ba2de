"""One level from beginning to end: run it aside, tell how it ended, scrub it, and put it in place whole."""

import logging
import shutil
import threading
from pathlib import Path

import msgspec

from tuner import files
from tuner.bench import CLIENT_LOG, Bench, Ended, Load
from tuner.errors import ServerFailed
from tuner.experiment import COMPLETED, PARTIAL, SIDECAR_FILE, Sidecar
from tuner.server import Server
from tuner.timestamps import now, to_text

_log = logging.getLogger(__name__)

_REDACTED = b"[redacted]"
_LONGEST_REASON = 300


def run(bench: Bench, server: Server, load: Load, folder: Path, stop: threading.Event) -> Sidecar:
    """Measure one level; `folder` appears, whole, when it has ended.

    Args:
        bench: the load generator.
        server: the server that is measured.
        load: the level.
        folder: where its files shall be; must not exist.
        stop: ends the level at once when set.

    Returns:
        What the sidecar says.
    """
    part = _fresh_part(folder)
    sidecar = Sidecar(scenario=load.scenario, concurrency=load.concurrency, started_at=to_text(now()))
    _write(part, sidecar)
    ended = bench.run(load, part, stop)
    outcome, reason = outcome_of(part, ended, server.failure(), interrupted=stop.is_set())
    sidecar = msgspec.structs.replace(sidecar, outcome=outcome, reason=reason[:_LONGEST_REASON], **_how(ended))
    _scrub(part, server.api_key())
    _write(part, sidecar)
    _put_in_place(part, folder)
    _log.info("%s, concurrency %d: %s %s", load.scenario, load.concurrency, outcome, reason)
    return sidecar


def record_unrun(folder: Path, scenario: str, level: int, outcome: str, reason: str) -> None:
    """Write down why a level was not run."""
    part = _fresh_part(folder)
    _write(part, Sidecar(scenario=scenario, concurrency=level, outcome=outcome, reason=reason[:_LONGEST_REASON]))
    _put_in_place(part, folder)


def outcome_of(part: Path, ended: Ended, failure: ServerFailed | None, *, interrupted: bool) -> tuple[str, str]:
    """How a level ended, and why: the first that fits, the cause before its consequences.

    Args:
        part: the level's files.
        ended: how the load generator ended.
        failure: why the server died, where it did.
        interrupted: whether the user stopped the level.

    Returns:
        An outcome of `tuner.experiment.OUTCOMES` and one line for people, empty where it completed.
    """
    memory = failure is not None and failure.kind == "out_of_memory"
    cases = (
        (memory, "out_of_memory", str(failure)),
        (failure is not None, "server_died", str(failure)),
        (interrupted, "interrupted", "stopped by the user"),
        (ended.timed_out, "timeout", f"genai-bench had not ended after {ended.duration:.0f} s"),
        (any(part.glob("*_time_*s.json")), COMPLETED, ""),
        (any(part.glob("debug_for_run_*.json")), "all_errors", "every request failed"),
        (ended.exit_code == 0, "timeout", "no request finished in the level's time"),
        (True, "client_failed", f"genai-bench ended with {ended.exit_code}: {_last_line(part / CLIENT_LOG)}"),
    )
    return next((outcome, reason) for fits, outcome, reason in cases if fits)


def _how(ended: Ended) -> dict[str, object]:
    cpu = ended.cpu_seconds
    return {
        "started_at": to_text(ended.started_at),
        "finished_at": to_text(ended.finished_at),
        "duration": round(ended.duration, 3),
        "exit_code": ended.exit_code,
        "client": {} if cpu is None else {"cpu_share": round(cpu / ended.duration, 3)},
    }


def _fresh_part(folder: Path) -> Path:
    part = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(part, ignore_errors=True)  # of a run that was cut off
    part.mkdir(parents=True)
    return part


def _write(part: Path, sidecar: Sidecar) -> None:
    files.write_json(part / SIDECAR_FILE, msgspec.to_builtins(sidecar))


def _scrub(part: Path, key: str | None) -> None:
    """Take the key out of everything; genai-bench never had it, but a server can echo it in an error."""
    if not key:
        return
    for path in part.iterdir():
        content = path.read_bytes()
        if key.encode() in content:
            files.write_atomically(path, content.replace(key.encode(), _REDACTED))


def _put_in_place(part: Path, folder: Path) -> None:
    """The rename that makes the batch count, after its files are safe on disk."""
    for path in part.iterdir():
        files.sync(path)
    files.sync(part)
    part.rename(folder)
    files.sync(folder.parent)


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "it left no message"
