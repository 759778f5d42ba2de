"""`vllm bench serve` and SGLang's `bench_serving`, which have one ancestor: an object a batch, requests as lists."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from tuner.batches.other_tools.values import (
    DATASET,
    Claims,
    ToolBatch,
    at,
    claims_of,
    completion,
    count,
    entries,
    failure,
    lengths,
    number,
    rate_note,
    text,
)
from tuner.batches.result_file import Origin, Request, statistics

#: What must be there of each request.
LISTS = ["ttfts", "input_lens", "output_lens", "errors", "itls"]
STATISTICS = {"mean": "mean", "p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}
#: Their names of `values.THROUGHPUTS`; of several the first that is there.
THROUGHPUTS = (
    *(("request_throughput",), ("output_throughput",), ("input_throughput",)),
    ("total_throughput", "total_token_throughput"),
)
SAME = "TPOT is defined as here, throughput is over the whole duration"
SUMMED = "a request's latency is its TTFT and the gaps up to the last token, as the file has no other"
NO_ERRORS = "it does not say how many requests failed"
FIRST_CHUNK = (
    "its TTFT is the first chunk's, which may hold no more than the role: then TTFT is too short, TPOT too long"
)


@dataclass(frozen=True)
class Dialect:
    """What tells one of these tools from the other.

    Args:
        tool: its name.
        whole_latency: its name of `e2e_latency`, in `mean_…_ms`; the others are called as here.
        scenario: what it says of the workload.
        origin: model, engine and time of an object.
        first_chunk: whether with chat servers the TTFT is that of the first chunk, whatever is in it.
    """

    tool: str
    whole_latency: str
    scenario: Callable[[Any], str]
    origin: Callable[[Any], Origin]
    first_chunk: bool = False

    def convert(self, document: Any) -> list[ToolBatch]:
        """The one batch of an object."""
        requests = _requests(document)
        level, note = _level(document)
        claims = _claims(document)
        notes = [
            f"written by {self.tool}: {SAME}",
            FIRST_CHUNK if self.first_chunk and "chat" in text(at(document, "backend")) else "",
            SUMMED if requests and not _has_latencies(document) else "",
            NO_ERRORS if not requests and claims["num_error_requests"] is None else "",
            note,
        ]
        origin = self.origin(document)
        origin.tool, origin.notes = self.tool, notes
        names = {"ttft": "ttft", "tpot": "tpot", "e2e_latency": self.whole_latency}
        claimed = {ours: _statistics(document, theirs) for ours, theirs in names.items()}
        if not requests:
            claimed["e2e_latency"] |= _latency_statistics(document)
        duration = number(at(document, "duration"))
        return [ToolBatch(origin, self.scenario(document), level, duration, requests, claims, claimed)]


def _requests(document: Any) -> list[Request]:
    """The single requests; none where a list that they need is missing."""
    names = [*LISTS, "latencies"] if _has_latencies(document) else LISTS
    lists = [entries(at(document, name)) for name in names]
    if min(map(len, lists)) < max(map(len, lists)):
        return []
    return [_request(dict(zip(names, values, strict=True))) for values in zip(*lists, strict=True)]


def _has_latencies(document: Any) -> bool:
    return 0 < len(entries(at(document, "latencies"))) == len(entries(at(document, "ttfts")))


def _request(known: dict[str, Any]) -> Request:
    """One request; it failed where there is an error, or neither a first token nor any other."""
    if known["errors"] or not (known["ttfts"] or known["output_lens"]):
        return failure(known["errors"])
    ttft = number(known["ttfts"])
    summed = None if ttft is None else ttft + sum(number(gap) or 0.0 for gap in entries(known["itls"]))
    latency = number(known.get("latencies", summed))
    return completion(ttft, latency, number(known["input_lens"]), number(known["output_lens"]))


def _level(document: Any) -> tuple[int | None, str]:
    """The concurrency that was held, and what must be said of it."""
    limit, rate = count(at(document, "max_concurrency")), at(document, "request_rate")
    driven = number(rate) is not None or rate == "trace"
    if limit:
        return limit, rate_note(rate, limit) if driven else ""
    return None, rate_note(rate) if driven else "all requests were sent at once and no concurrency was held"


def _claims(document: Any) -> Claims:
    done, errors, asked = (count(at(document, name)) for name in ("completed", "failed", "num_prompts"))
    if errors is None and done is not None and asked is not None and asked >= done:
        errors = asked - done
    each = ([number(at(document, name)) for name in names] for names in THROUGHPUTS)
    return claims_of(done, errors, [next((value for value in of if value is not None), None) for of in each])


def _statistics(document: Any, latency: str) -> dict[str, float | None]:
    return {ours: number(at(document, f"{theirs}_{latency}_ms"), 1000.0) for ours, theirs in STATISTICS.items()}


def _latency_statistics(document: Any) -> dict[str, float | None]:
    """From the latencies alone, which vLLM keeps without the rest; nothing where they are not those that completed."""
    values = map(number, entries(at(document, "latencies")))
    positive = [value for value in values if value is not None and value > 0]
    complete = positive and len(positive) == count(at(document, "completed"))
    return dict(statistics(np.array(positive))) if complete else {}


def _vllm_scenario(document: Any) -> str:
    """The file tells no workload: what was counted, where all requests were alike."""
    done = count(at(document, "completed"))
    totals = (number(at(document, f"total_{what}_tokens")) for what in ("input", "output"))
    return lengths(*(total / done if total is not None and done else None for total in totals))


def _vllm_origin(document: Any) -> Origin:
    """`date` is when the batch ended by the client's clock, without a zone: `20261124-151042`."""
    model, duration = text(at(document, "model_id")), number(at(document, "duration"))
    try:
        ended = datetime.strptime(text(at(document, "date")), "%Y%m%d-%H%M%S")
        began = ended - timedelta(seconds=duration or 0.0)
    except (ValueError, OverflowError):
        return Origin("", model=model)
    return Origin("", model=model, started_at=began.isoformat(), finished_at=ended.isoformat())


def _sglang_scenario(document: Any) -> str:
    """Random lengths are drawn evenly between a share of the length asked for and the whole of it."""
    name, share = text(at(document, "dataset_name")), number(at(document, "random_range_ratio"))
    asked = [count(at(document, f"random_{what}_len")) for what in ("input", "output")]
    if not name.startswith("random") or share is None or None in asked:
        return name or DATASET
    if share == 1:
        return lengths(*asked)
    (low_in, high_in), (low_out, high_out) = ((int((most or 0) * share), most) for most in asked)
    return f"U({low_in},{high_in})/({low_out},{high_out})"


def _sglang_origin(document: Any) -> Origin:
    """Only SGLang's own server says what it is."""
    server = at(document, "server_info")
    model = text(at(server, "served_model_name") or at(server, "model_path"))
    return Origin("", engine="sglang" if server else "", model=model)


VLLM = Dialect("vllm bench serve", "e2el", _vllm_scenario, _vllm_origin, first_chunk=True)
SGLANG = Dialect("SGLang bench_serving", "e2e_latency", _sglang_scenario, _sglang_origin)
