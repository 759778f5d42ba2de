"""In what two sides differ besides their numbers: server, machine, load and versions; no secret is in it."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import pandas as pd

from tuner.core.text import UNKNOWN, printable
from tuner.report.run_facts import Run, mapping

#: where a run lies and how its server is reached and kept alive changes no number
_TELLS_NOTHING = ("name", "runs", "port", "ready_timeout", "max_restarts", "api_key_env")
#: most telling first; a name stands for all that begin with it
_ORDER = (
    *("state", "engine", "server version", "vllm version", "sglang version", "xllamacpp version", "model"),
    *("served_name", "parameters", "environment", "command", "executable", "base_url", "gpus", "GPU", "host"),
    *("scenarios", "prompts", "output", "prefix", "seed"),
    *("levels", "rates", "arrivals", "max_in_flight", "iteration_type", "max_seconds", "max_requests"),
    *("request_parameters", "tokenizer"),
    *("tuner version", "genai-bench version", "python version"),
)
#: genai-bench's words for what tuner calls otherwise
_GENAI_BENCH = {
    "server_engine": "engine",
    "api_backend": "backend",
    "server_version": "server version",
    "server_gpu_type": "GPU",
    "server_gpu_count": "gpus",
    "server_model_tokenizer": "tokenizer",
    "max_time_per_run_s": "max_seconds",
    "max_requests_per_run": "max_requests",
    "additional_request_params": "request_parameters",
    "benchmark_version": "genai-bench version",
}

_OF_BATCHES = {
    **{"engine": "engine", "model": "model", "scenario": "scenarios"},
    **{"concurrency": "levels", "request_rate": "rates"},
}


def configuration_differences(baseline: Sequence[Run], candidate: Sequence[Run]) -> pd.DataFrame:
    """Name every recorded fact of server, machine, load and versions that is not the same on both sides.

    Returns:
        Columns `what`, `baseline`, `candidate` (texts; the values of several runs joined by ` | `), most telling
        first; `–` where a side does not have or did not record it.
    """
    sides = [[_facts(run) for run in runs] for runs in (baseline, candidate)]

    def rank(name: str) -> int:
        return next((place for place, first in enumerate(_ORDER) if name.startswith(first)), len(_ORDER))

    rows = []
    for name in sorted(dict.fromkeys(chain(*chain(*sides))), key=rank):  # each value once, in the order of no run
        texts = [" | ".join(sorted({run.get(name, UNKNOWN) for run in runs})) for runs in sides]
        rows += [[name, *texts]] if texts[0] != texts[1] else []
    return pd.DataFrame(rows, columns=["what", "baseline", "candidate"])


def _facts(run: Run) -> dict[str, str]:
    """All that is recorded of one run, by name, as text."""
    known, batches = run
    facts = known.facts
    gpus = Counter(facts["gpus"] if isinstance(facts.get("gpus"), list) else [])
    columns = {
        name: [value for value in dict.fromkeys(batches[name].dropna().tolist()) if value != ""] for name in _OF_BATCHES
    }
    recorded = chain(
        [("state", facts.get("state"))],
        ((_OF_BATCHES[name], values) for name, values in columns.items()),
        _flat(mapping(facts.get("genai_bench")), _GENAI_BENCH),
        _flat(mapping(facts.get("tool"))),
        _flat(mapping(facts.get("spec"))),
        ((f"{name} version", value) for name, value in mapping(facts.get("versions")).items()),
        [("GPU", ", ".join(f"{count} × {name}" for name, count in gpus.items()))],
        ((f"host {name}", value) for name, value in mapping(facts.get("host")).items()),
        _of_servers(known.servers),
    )
    telling = ((name, value) for name, value in recorded if name.split(".")[0] not in _TELLS_NOTHING)
    texts = ((printable(name), printable(_text(value))) for name, value in telling)
    return {name: text for name, text in texts if text != UNKNOWN}


def _of_servers(servers: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """What the servers of a run were; of a search, those of all its trials."""
    for server in servers[:1]:
        yield "server version", server.get("version") or None
    if len({len(server.get("gpus") or []) for server in servers}) == 1:
        yield "gpus", len(servers[0].get("gpus") or [])
    parameters = [mapping(server.get("parameters")) for server in servers]
    for name in dict.fromkeys(chain(*parameters)):
        yield f"parameters.{name}", list(dict.fromkeys(_text(each.get(name)) for each in parameters))


def _flat(
    values: Mapping[str, Any], names: Mapping[str, str] | None = None, above: str = ""
) -> Iterator[tuple[str, Any]]:
    """Every value by its dotted name."""
    for key, value in values.items():
        name = (names or {}).get(key, f"{above}{key}")
        if isinstance(value, dict):
            yield from _flat(value, None, f"{name}.")
        else:
            yield name, value


def _text(value: Any) -> str:
    if value is None or value in ([], ""):
        return UNKNOWN
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(part) for part in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
