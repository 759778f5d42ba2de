"""Files: written whole or not at all; JSON and YAML read strictly, into plain values or a struct."""

import contextlib
import functools
import json
import logging
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tuner.errors import PathError, RequestError

logger = logging.getLogger(__name__)

Struct = TypeVar("Struct", bound=msgspec.Struct)

#: So many levels deep nothing is nested that a person wrote.
_DEEPEST = 50

_PART = re.compile(r"(?P<name>.+\.\w+)#(?P<part>[1-9]\d{0,6})", re.DOTALL)


#: what a file is called while it is written aside
ASIDE = re.compile(r"\..+\.[0-9a-f]{8}")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` so that a reader, or a crash, sees the old file or the new one.

    Args:
        path: the file; its folder must exist.
        content: text (written as UTF-8) or bytes.

    Raises:
        PathError: the folder is missing, read-only or full.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(aside, "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync(path.parent)
    except OSError as error:
        raise PathError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file, or the renames within a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and Infinity are refused, since JSON has none."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that tuner wrote.

    Raises:
        PathError: it is missing, unreadable or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise PathError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise PathError(f"{path} is not valid JSON: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """What the JSON file `path` says; nothing where it is missing, a link, or damaged, of which a warning tells."""
    if not is_regular(path):
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        logger.warning("%s is damaged: %s", path, error)
        return {}


def read_struct(path: Path, kind: type[Struct]) -> Struct | None:
    """The JSON file `path` as a `kind`; None where `read_object` finds nothing, or what `kind` needs is not there.

    A field that `kind` does not have is ignored, one of another type is as if it were not there.
    """
    values = read_object(path)
    try:
        return msgspec.convert(values, kind) if values else None
    except msgspec.ValidationError as error:
        logger.warning("%s is damaged: %s", path, error)
    fitting = {}
    for field in msgspec.structs.fields(kind):
        with contextlib.suppress(KeyError, msgspec.ValidationError):
            fitting[field.name] = msgspec.convert(values[field.encode_name], field.type)
    with contextlib.suppress(TypeError):  # it lacks what has no default
        return kind(**fitting)
    return None


def read_end(path: Path, most: int, start: int = 0) -> str:
    """The last `most` bytes of a log as text, nothing of it from before byte `start`; empty where it cannot be read."""
    if not is_regular(path):
        return ""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - most))
        return file.read().decode(errors="replace")
    return ""


def is_regular(path: Path) -> bool:
    """Whether `path` is a file itself: no folder, no pipe, and no link, which could lead anywhere."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def subfolders(folder: Path) -> list[Path]:
    """The real folders in `folder`, sorted; links are not followed, hidden ones left alone."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        logger.warning("cannot read the folder %s: %s", folder, error.strerror)
        return []
    return [folder / name for name in sorted(names)]


def split_part(path: Path) -> tuple[Path, int]:
    """The file that `path` names and which of its batches, from 1: `file.json#2` is the second of `file.json`."""
    match = _PART.fullmatch(path.name)
    return (path.with_name(match["name"]), int(match["part"])) if match else (path, 1)


def read_document(path: Path, what: str, error: type[RequestError]) -> Any:
    """Read strictly what a person wrote: JSON where the file's name ends so, else YAML.

    Args:
        path: the file.
        what: what it is, for the message that it cannot be read: `the SLO`.
        error: raised where it is no such document.

    Returns:
        Plain values: dicts, lists, texts, numbers, truth values, None.

    Raises:
        PathError: the file cannot be read.
        RequestError: (an `error`) it is damaged, or a key stands twice, so that one of them would be lost.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _parse_json(text) if path.suffix == ".json" else parse_yaml(text)
    except OSError as failure:
        raise PathError(f"cannot read {what} {path}: {failure.strerror}") from failure
    except UnicodeDecodeError as failure:
        raise error(f"{path} is no UTF-8 text") from failure
    except ValueError as failure:
        raise error(f"{path}: {failure}") from failure


def parse_yaml(text: str) -> Any:
    """The one YAML document that `text` holds, as plain values.

    Raises:
        ValueError: it is no YAML, is nested too deeply, or a key stands twice.
    """
    import yaml

    try:
        return yaml.load(text, Loader=_strict_loader())  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from None


@functools.cache
def _strict_loader() -> Any:
    import yaml

    safe: Any = yaml.SafeLoader

    class StrictLoader(yaml.SafeLoader):
        """SafeLoader that refuses a key given twice and what is nested too deeply; an instant stays text."""

        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            """Count how deep it is."""
            self.depth += 1
            if self.depth > _DEEPEST:
                raise RecursionError("nested too deeply")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def compose_mapping_node(self, anchor: Any) -> Any:
            """Compare the keys, before any of them can replace another."""
            node = super().compose_mapping_node(anchor)
            _must_be_unique([(key.tag, key.value) for key, _ in node.value], node.start_mark.line + 1)
            return node

    def number(loader: Any, node: Any) -> Any:
        kind = node.tag.rpartition(":")[2]
        value, line = getattr(safe, f"construct_yaml_{kind}")(loader, node), node.start_mark.line + 1
        if ":" in node.value or (kind == "int" and re.match(r"[+-]?0[0-7_]+$", node.value)):
            told = f"line {line}: {node.value} is ambiguous (YAML 1.1 reads it as {value})"
            raise yaml.YAMLError(f"{told}: write a plain decimal number, or quote it if it is a text")
        return value

    for name in ("int", "float"):
        StrictLoader.add_constructor(f"tag:yaml.org,2002:{name}", number)
    StrictLoader.add_constructor("tag:yaml.org,2002:timestamp", safe.construct_yaml_str)
    for name in ("binary", "set", "omap", "pairs"):
        StrictLoader.add_constructor(f"tag:yaml.org,2002:{name}", safe.construct_undefined)
    return StrictLoader


def _parse_json(text: str) -> Any:
    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _must_be_unique([("", key) for key, _ in pairs])
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=mapping)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _must_be_unique(keys: list[tuple[str, Any]], line: int = 0) -> None:
    twice = [key for number, key in enumerate(keys) if key in keys[:number]]
    if twice:
        where = f" in the mapping that begins in line {line}" if line else ""
        raise ValueError(f"the key {twice[0][1]!r} stands twice{where}")
