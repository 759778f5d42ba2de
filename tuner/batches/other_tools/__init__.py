"""What other benchmark tools wrote, in the form of genai-bench's files, so that all that follows needs to know one.

`FORMATS` lists the kinds of files: by what they are known, and what makes batches of them. A file may hold several
batches; `file.json#2` names the second.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuner.batches.other_tools import aiperf, guidellm, serving
from tuner.batches.other_tools.values import documents
from tuner.batches.result_file import Damage, ResultFile
from tuner.batches.sent_requests import parse_any
from tuner.core.files import RESULTS, is_regular, read_bytes
from tuner.errors import PathError

#: Where a format's marks stand: within this many bytes from the start.
HEAD = 1 << 16
#: What the files of a kind may be called.
JSON, OTHERS = (".json", ".jsonl"), (".csv", ".yaml", ".yml")
#: genai-bench's own mark: such a file is none of theirs.
OURS = b'"aggregated_metrics"'
Part = ResultFile | Damage


@dataclass(frozen=True)
class Format:
    """One kind of file."""

    tool: str  # who writes it
    suffixes: tuple[str, ...]  # what its name ends in
    marks: tuple[bytes, ...]  # texts that all stand near its beginning, and together in no other kind
    # the batches in one of its documents (see `documents`), or in all of them where they are `joined`
    convert: Callable[[Any], Sequence[Part]]
    # of the files that the tool writes of one run, the one that says most; of several runs, theirs
    fullest: Callable[[Path], list[Path]] = lambda path: [path]
    salvage: Callable[[str], Any] = lambda text: None  # a document of what is whole in one that is damaged
    joined: bool = False


_GUIDELLM = guidellm.convert, guidellm.fullest, guidellm.salvage
FORMATS = (
    Format(guidellm.TOOL, OTHERS, (b"Run Info,Run Info,",), guidellm.convert, guidellm.fullest),
    Format(guidellm.TOOL, OTHERS, (b"benchmarks:\n- ", b"strategy:"), guidellm.convert, guidellm.fullest),
    Format(guidellm.TOOL, JSON, (b'"guidellm_version"', b'"benchmarks"'), *_GUIDELLM),
    Format(guidellm.TOOL, JSON, (b'"benchmarks"', b'"generative_benchmark"'), *_GUIDELLM),
    Format(guidellm.TOOL, JSON, (b'"benchmarks"', b'"mode"', b'"results"'), *_GUIDELLM),
    Format(aiperf.TOOL, JSON, aiperf.RECORD_MARKS, aiperf.convert_run, joined=True),
    Format(aiperf.TOOL, JSON, (b'"aiperf_version"', b'"input_config"'), aiperf.convert, aiperf.fullest),
    Format(aiperf.TOOL, JSON, (b'"error_summary"', b'"input_config"'), aiperf.convert, aiperf.fullest),
    Format(aiperf.TOOL, OTHERS, (b"Metric,avg,min,max,",), aiperf.convert, aiperf.fullest),
    Format(serving.VLLM.tool, JSON, (b'"tokenizer_id"', b'"num_prompts"'), serving.VLLM.convert, serving.fullest),
    Format(serving.VLLM.tool, JSON, (b'"error_type"', b'"serve_overrides"'), serving.convert_failure),
    Format(serving.SGLANG.tool, JSON, (b'"sharegpt_output_len"', b'"backend"'), serving.SGLANG.convert),
    Format(serving.VLLM.tool, JSON, (b'"model_id"', b'_ttft_ms"'), serving.VLLM.convert, serving.fullest),  # trimmed
)


def format_of(path: Path) -> Format | None:
    """Which of the tools wrote `path`; None where none did, or the file cannot be read."""
    if path.suffix not in JSON + OTHERS or not is_regular(path):
        return None
    try:
        return _format(path, read_bytes(path, count=HEAD))
    except PathError:
        return None


def _format(path: Path, head: bytes) -> Format | None:
    if OURS in head:
        return None
    named = (known for known in FORMATS if path.suffix in known.suffixes)
    return next((known for known in named if all(mark in head for mark in known.marks)), None)


def distinct(paths: Iterable[Path]) -> list[Path]:
    """Each batch once: of the files that a tool writes of one run only the fullest."""
    found: list[Path] = []
    for path in paths:
        known = format_of(path)
        others = known.fullest(path) if known else []
        found += [other for other in others if (one := format_of(other)) and known and one.tool == known.tool] or [path]
    return list(dict.fromkeys(found))


def holds_one_run(folder: Path) -> bool:
    """Whether `folder` is what AIPerf makes of one run; further folders in it hold the same again."""
    with contextlib.suppress(OSError):
        return any((known := format_of(path)) and known.tool == aiperf.TOOL for path in folder.iterdir())
    return False


def read_all(path: Path) -> dict[Path, Part]:
    """Every batch in the file `path`, of whatever tool, by what names it; what is wrong with it where it is none."""
    parts = _parts(path)
    names = [path.with_name(f"{path.name}#{number}") for number in range(1, len(parts) + 1)]
    return dict(zip(names if len(parts) > 1 else [path], parts, strict=True))


def _parts(path: Path) -> list[Part]:
    try:
        data = read_bytes(path, RESULTS)
    except PathError as error:
        return [Damage("unreadable", str(error).replace(str(path), path.name, 1))]
    known = _format(path, data[:HEAD])
    return _converted(known, path, data) if known else [parse_any(data, path.name)]


def _converted(known: Format, path: Path, data: bytes) -> list[Part]:
    whole = documents(path, data)
    if [type(one) for one in whole] == [Damage] and (rest := known.salvage(data.decode(errors="replace"))):
        whole = [rest, replace(whole[0], reason=f"{whole[0].reason}: what lies there is left out")]
    parts: list[Part] = []
    for document in [(path, whole)] if known.joined else whole:
        found = [document] if isinstance(document, Damage) else known.convert(document)
        parts += found or [Damage("unreadable", f"{path.name} holds no batch")]
    return [replace(one, tool=known.tool) if isinstance(one, Damage) else one for one in parts]
