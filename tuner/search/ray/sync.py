"""A trial's files on their way between a node and the driver: what is new in a folder, and the same done in another."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tuner.core import files
from tuner.core.records import SIDECAR_FILE
from tuner.core.request_log import LIVE_FILE
from tuner.core.run_directory import LEVEL_NAME, PARTIAL, SERVER_LOG, Trial
from tuner.errors import PathError
from tuner.servers.telemetry import TELEMETRY_FILE
from tuner.sweep import level as levels
from tuner.sweep.progress import PHASE_FILE

#: a file as it is now, what a log has gained, a level's folder, whole, once it is in place, and a file that is gone
WRITE, APPEND, LEVEL, REMOVE = "write", "append", "level", "remove"
Content = dict[str, bytes]  # of each file of a level by its name; otherwise of the one file, without a name
_LOGS = (SERVER_LOG, TELEMETRY_FILE)
_MOST_AT_ONCE = 1 << 24  # bytes of a log
_NAME = r"[^/\\\0.][^/\\\0]*"  # one component: neither hidden nor a way up
#: what of a level that runs is told: what it is, and how it goes
_RUNNING = f"(?:{re.escape(SIDECAR_FILE)}|{re.escape(LIVE_FILE)})"
#: where each kind of change may go; whatever else a node names is refused
_PLACES = {
    WRITE: re.compile(rf"{_NAME}\.json|{PHASE_FILE}|batches/{_NAME}/{_NAME}{re.escape(PARTIAL)}/{_RUNNING}"),
    REMOVE: re.compile(PHASE_FILE),
    APPEND: re.compile("|".join(map(re.escape, _LOGS))),
    LEVEL: re.compile(rf"batches/{_NAME}/{LEVEL_NAME.pattern}"),
}


class Change(NamedTuple):
    """One thing that is new below a trial's folder: plain data, so that nodes and driver need no disk in common."""

    kind: str
    path: str  # below the trial's folder, with slashes
    content: Content


class Watch:
    """Tells what has changed in a trial's folder since it was asked last."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._states: dict[Path, tuple[int, ...]] = {}  # what a file or folder was when it was sent
        self._sent: dict[str, int] = {}  # bytes of a log

    def changes(self) -> list[Change]:
        """What is new, in the order in which it came about; what is just being replaced comes next time."""
        return [*self._files(), *self._logs()]

    def _files(self) -> Iterator[Change]:
        """The trial's own small files, those of the level that runs, and the levels that are in place."""
        trial, phase = Trial(self._folder), self._folder / PHASE_FILE
        running = [folder / name for folder in trial.level_folders(partial=True) for name in (SIDECAR_FILE, LIVE_FILE)]
        for path in [*sorted(self._folder.glob("*.json")), phase, *running]:
            yield from self._news(WRITE, path)
        if phase in self._states and not phase.exists():
            del self._states[phase]
            yield Change(REMOVE, PHASE_FILE, {})
        for folder in trial.level_folders():
            yield from self._news(LEVEL, folder)

    def _news(self, kind: str, path: Path) -> Iterator[Change]:
        with contextlib.suppress(FileNotFoundError, PathError):
            stat = path.stat()
            now = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if self._states.get(path) != now:
                content = _read(path)
                self._states[path] = now
                yield Change(kind, path.relative_to(self._folder).as_posix(), content)

    def _logs(self) -> Iterator[Change]:
        for name in _LOGS:
            sent, path = self._sent.get(name, 0), self._folder / name
            if not files.is_regular(path):
                continue
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as log:
                log.seek(sent)
                if gained := log.read(_MOST_AT_ONCE):
                    self._sent[name] = sent + len(gained)
                    yield Change(APPEND, name, {"": gained})


def results(folder: Path) -> list[Change]:
    """What a trial has to show already: all but its logs, its phase and the level that was cut off."""
    changes = Watch(folder).changes()
    return [one for one in changes if one.kind != APPEND and one.path != PHASE_FILE and PARTIAL not in one.path]


def apply(changes: Iterable[Change], folder: Path) -> None:
    """Do the same in `folder`, each file and level whole; a PathError for what is no file of a trial, or no room."""
    for change in changes:
        place = folder / change.path
        allowed = change.kind in _PLACES and _PLACES[change.kind].fullmatch(change.path)
        names = all(re.fullmatch(_NAME, name) for name in change.content if change.kind == LEVEL)
        if not allowed or not names or not place.resolve().is_relative_to(folder.resolve()):
            what = f"{change.kind} {change.path!r}"
            raise PathError(f"a node sent {what}, which is no file of a trial; nothing was written")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _put(change, place)
        except OSError as error:
            raise PathError(f"cannot write {place}: {error.strerror}") from error


def _put(change: Change, place: Path) -> None:
    if change.kind == WRITE:
        files.write_atomically(place, change.content[""], sync_it=place.name != LIVE_FILE)
    elif change.kind == REMOVE:
        place.unlink(missing_ok=True)
    elif change.kind == APPEND:
        with open(place, "ab") as log:
            log.write(change.content[""])
    else:
        part = levels.fresh_part(place)
        for name, data in change.content.items():
            (part / name).write_bytes(data)
        levels.put_in_place(part, place)


def _read(path: Path) -> Content:
    parts = {part.name: part for part in path.iterdir() if files.is_regular(part)} if path.is_dir() else {"": path}
    return {name: files.read_bytes(part, files.RESULTS) for name, part in parts.items()}
