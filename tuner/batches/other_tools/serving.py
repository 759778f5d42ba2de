"""`vllm bench serve` and SGLang's `bench_serving`, which have one ancestor: an object a batch, requests as lists."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from tuner.batches.other_tools import values
from tuner.batches.other_tools.values import at, count, entries, number, text
from tuner.batches.result_file import Damage, Origin, Request, ResultFile, statistics
from tuner.core.level import Level

#: What must be there of each request.
NUMBERS = ["ttfts", "input_lens", "output_lens"]
LISTS = [*NUMBERS, "errors", "itls"]
STATISTICS = {"mean": "mean", "p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}
#: Their names of `CLAIMED_THROUGHPUTS`; of several the first that is there.
THROUGHPUTS = (
    *(("request_throughput",), ("output_throughput",), ("input_throughput",)),
    ("total_throughput", "total_token_throughput"),
)
SAME = "TPOT is defined as here, throughput is over the whole duration"
FIRST_CHUNK = (
    "its TTFT is the first chunk's, which may hold no more than the role: then TTFT is too short, TPOT too long"
)


#: What is no setting of those values that stand in an object itself, most of all what was measured.
NO_SETTING = re.compile(
    r"(mean|median|std|min|max|p[\d.]+)_.*_(ms|s)|total_.*|.*(throughput|goodput|_tokens_per_s)|rtfx|duration|completed|"
    r"failed|date|run_number|concurrency|max_concurrent_requests|model_id|(spec_decode|accept|peak|steady)_.*"
)
#: What `vllm bench sweep` puts beside the runs of one combination of parameters: a warm-up, and all of them once more.
WARM_UP, SUMMARY = "warmup.json", "summary.json"


def fullest(path: Path) -> list[Path]:
    """The files of the runs that `path` repeats, or was a warm-up of; itself where there are none."""
    if path.name in (WARM_UP, SUMMARY):
        runs = sorted(run for run in path.parent.glob("run=*.json") if run.stem[4:].isdecimal())
        return runs or [path.with_name(SUMMARY)]
    return [path.with_name(path.stem.removesuffix(".pytorch") + path.suffix)]  # a copy for another program


def convert_failure(document: Any) -> list[ResultFile | Damage]:
    """What `vllm bench sweep` writes instead of a run, or of all runs, of a combination of parameters that failed."""
    parameters = at(document, "serve_overrides"), at(document, "bench_overrides")
    said = ", ".join(f"{name} {value}" for part in parameters for name, value in _settings(part).items())
    outcome = "client_failed" if "bench_overrides" in document else "server_died"
    what = "the benchmark failed" if outcome == "client_failed" else "the server or its benchmark failed"
    return [Damage(outcome, f"{what} with {said or 'nothing changed'}: {text(document, 'error')}")]


def _settings(document: Any) -> dict[str, Any]:
    return values.settings(document, lambda name: not NO_SETTING.fullmatch(name))


@dataclass(frozen=True)
class Dialect:
    """What tells one of these tools from the other."""

    tool: str  # its name
    whole_latency: str  # its name of `e2e_latency`, in `mean_…_ms`; the others are called as here
    scenario: Callable[[Any], str]  # what it says of the workload
    origin: Callable[[Any], Origin]  # model, engine and time of an object
    first_chunk: bool = False  # whether with chat servers the TTFT is that of the first chunk, whatever is in it

    def convert(self, document: Any) -> list[ResultFile | Damage]:
        """The one batch of an object."""
        if "model_id" not in document and "backend" not in document:
            return []
        requests, claims = _requests(document), _claims(document)
        level, rate = _level(document)
        is_summed = bool(requests) and not _has_latencies(document)
        origin = self.origin(document)
        origin.tool, origin.settings = self.tool, _settings(document)
        origin.notes = [
            f"written by {self.tool}: {SAME}",
            FIRST_CHUNK if self.first_chunk and "chat" in text(document, "backend") else "",
            "a request's latency is its TTFT and the gaps up to the last token, as the file has no other" * is_summed,
            "it does not say how many requests failed" * (not requests and claims["num_error_requests"] is None),
            rate,
        ]
        names = {"ttft": "ttft", "tpot": "tpot", "e2e_latency": self.whole_latency}
        claimed = {
            ours: {name: number(document, f"{one}_{theirs}_ms", unit=1000.0) for name, one in STATISTICS.items()}
            for ours, theirs in names.items()
        }
        if not requests:
            claimed["e2e_latency"] |= _latency_statistics(document)
        if claims["num_completed_requests"] == 0:
            claimed = {}  # its zeros stand for nothing
        known = {"scenario": self.scenario(document), "run_duration": number(document, "duration"), "stats": claimed}
        batch = values.batch(origin, level, requests, **known, **claims)
        numbers = chain.from_iterable(entries(document, name) for name in NUMBERS) if requests else ()
        batch.mended = sum(number(value) is None for value in numbers)
        return [batch]


def _requests(document: Any) -> list[Request]:
    """The single requests; none where a list that they need is missing."""
    names = [*LISTS, "latencies"] if _has_latencies(document) else LISTS
    lists = [entries(document, name) for name in names]
    are_whole = len({*map(len, lists)}) == 1
    return [_request(dict(zip(names, row, strict=True))) for row in zip(*lists, strict=True)] if are_whole else []


def _has_latencies(document: Any) -> bool:
    return 0 < len(entries(document, "latencies")) == len(entries(document, "ttfts"))


def _request(known: dict[str, Any]) -> Request:
    """One request; it failed where there is an error, or neither a first token nor any other."""
    if known["errors"] or not (known["ttfts"] or known["output_lens"]):
        return values.failure(known["errors"])
    ttft = number(known, "ttfts")
    summed = None if ttft is None else ttft + sum(number(gap) or 0.0 for gap in entries(known, "itls"))
    latency = number(known, "latencies") if "latencies" in known else summed
    return Request(ttft, None, latency, number(known, "input_lens"), number(known, "output_lens"))


def _level(document: Any) -> tuple[Level | None, str]:
    """The concurrency that was held, or the rate at which requests came, and what must be said of it."""
    limit, rate = count(document, "max_concurrency"), at(document, "request_rate")
    if number(rate) is not None or rate == "trace":
        return values.level_of_rate(rate, limit)
    return (limit, "") if limit else (None, "all requests were sent at once and no concurrency was held")


def _claims(document: Any) -> values.Claims:
    done, errors, asked = (count(document, name) for name in ("completed", "failed", "num_prompts"))
    if errors is None and done is not None and asked is not None and asked >= done:
        errors = asked - done
    each = ([number(document, name) for name in names] for names in THROUGHPUTS)
    return values.claims_of(done, errors, map(values.first_number, each))


def _latency_statistics(document: Any) -> dict[str, float | None]:
    """From the latencies alone, which vLLM keeps without the rest; nothing where they are not those that completed."""
    known = map(number, entries(document, "latencies"))
    positive = [value for value in known if value is not None and value > 0]
    complete = positive and len(positive) == count(document, "completed")
    return dict(statistics(np.array(positive))) if complete else {}


def _vllm_scenario(document: Any) -> str:
    """The file tells no workload: what was counted, where all requests were alike."""
    done = count(document, "completed")
    totals = (number(document, f"total_{what}_tokens") for what in ("input", "output"))
    inputs, outputs = (total / done if total is not None and done else None for total in totals)
    return values.scenario((inputs, None), (outputs, None))


def _vllm_origin(document: Any) -> Origin:
    """`date` is when the batch ended by the client's clock, without a zone: `20261124-151042`."""
    model, duration = text(document, "model_id"), number(document, "duration")
    try:
        ended = datetime.strptime(text(document, "date"), "%Y%m%d-%H%M%S")
        began = ended - timedelta(seconds=duration or 0.0)
    except (ValueError, OverflowError):
        return Origin("", model=model)
    return Origin("", model=model, started_at=began.isoformat(), finished_at=ended.isoformat())


def _sglang_scenario(document: Any) -> str:
    """Random lengths are drawn evenly between a share of the length asked for and the whole of it."""
    name, share = text(document, "dataset_name"), number(document, "random_range_ratio")
    most_in, most_out = (count(document, f"random_{what}_len") for what in ("input", "output"))
    if not name.startswith("random") or share is None or most_in is None or most_out is None:
        return name or values.DATASET
    if share == 1:
        return values.scenario((most_in, None), (most_out, None))
    return f"U({int(most_in * share)},{most_in})/({int(most_out * share)},{most_out})"


def _sglang_origin(document: Any) -> Origin:
    """Only SGLang's own server says what it is."""
    server = at(document, "server_info")
    model = text(server, "served_model_name") or text(server, "model_path")
    return Origin("", engine="sglang" if server else "", model=model)


VLLM = Dialect("vllm bench serve", "e2el", _vllm_scenario, _vllm_origin, first_chunk=True)
SGLANG = Dialect("SGLang bench_serving", "e2e_latency", _sglang_scenario, _sglang_origin)
