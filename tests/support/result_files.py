"""Result files and run directories made to order."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tuner.core import files
from tuner.core import run_directory as experiment
from tuner.core.records import Sidecar, TrialFacts
from tuner.core.run_directory import Experiment, Trial

METRICS = ("ttft", "tpot", "e2e_latency", "num_input_tokens", "num_output_tokens")
QUANTILES = (25, 50, 75, 90, 95, 99)


def request(ttft: float = 0.1, tpot: float = 0.01, outputs: int = 100, **changes: Any) -> dict[str, Any]:
    """A request that completed."""
    whole = ttft + tpot * (outputs - 1)
    made = {"ttft": ttft, "tpot": tpot, "e2e_latency": whole, "num_input_tokens": 100, "num_output_tokens": outputs}
    return made | {"error_code": None, "error_message": None} | changes


def failure(code: Any = 503, message: str = "refused") -> dict[str, Any]:
    """A request that failed."""
    return dict.fromkeys(METRICS) | {"error_code": code, "error_message": message}


def statistics(values: list[float]) -> dict[str, float | None]:
    """The statistics of one metric, as genai-bench computes them."""
    if not values:
        return dict.fromkeys(("mean", "sum", *(f"p{q}" for q in QUANTILES)))
    found = {f"p{q}": float(np.percentile(values, q)) for q in QUANTILES}
    return found | {"mean": float(np.mean(values)), "sum": float(np.sum(values))}


def result(requests: list[dict[str, Any]] | None = None, *, level: int = 1, **changes: Any) -> dict[str, Any]:
    """A whole result file as genai-bench would have written it, with `changes` to its aggregates."""
    requests = _as_measured([request()] * 300 if requests is None else requests)
    done = [entry for entry in requests if not entry["error_code"]]
    codes = [str(entry["error_code"]) for entry in requests if entry["error_code"]]
    duration = sum(entry["e2e_latency"] for entry in done) / level or 1.0
    outputs = sum(entry["num_output_tokens"] for entry in done)
    aggregates = {
        "scenario": "D(100,100)",
        "num_concurrency": level,
        "batch_size": 1,
        "iteration_type": "num_concurrency",
        "run_duration": duration,
        "mean_output_throughput_tokens_per_s": outputs / duration,
        "requests_per_second": len(done) / duration,
        "error_codes_frequency": {code: codes.count(code) for code in set(codes)},
        "error_rate": 0,
        "num_error_requests": len(codes),
        "num_completed_requests": len(done),
        "num_requests": len(requests),
        "stats": {name: statistics([entry[name] for entry in done]) for name in METRICS},
    }
    return {"aggregated_metrics": aggregates | changes, "individual_request_metrics": requests, "_time_unit": "s"}


def _as_measured(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`requests`, whose TTFTs are not all the same to the last digit, as no clock shows them."""
    done = [number for number, entry in enumerate(requests) if isinstance(entry.get("ttft"), float)]
    if len({requests[number]["ttft"] for number in done}) != 1:
        return requests
    last = requests[done[-1]]
    return [*requests[: done[-1]], last | {"ttft": last["ttft"] * (1 + 1e-9)}, *requests[done[-1] + 1 :]]


def name(level: int = 1, scenario: str = "D100_100", kind: str = "num_concurrency", seconds: int = 30) -> str:
    """The name genai-bench gives a result file."""
    return f"{scenario}_text-to-text_{kind}_{level}_time_{seconds}s.json"


def metadata(levels: list[int], scenarios: tuple[str, ...] = ("D(100,100)",), **changes: Any) -> dict[str, Any]:
    """The wanted keys of `experiment_metadata.json`."""
    asked = {"num_concurrency": levels, "batch_size": [1], "iteration_type": "num_concurrency"}
    return asked | {"traffic_scenario": list(scenarios), "api_model_name": "m", "server_engine": "vLLM"} | changes


def plain_folder(folder: Path, levels: list[int], asked: list[int] | None = None) -> Path:
    """A genai-bench folder with a good file for each of `levels`."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "experiment_metadata.json", metadata(asked or levels))
    for level in levels:
        write(folder / name(level), result(level=level))
    return folder


def write(path: Path, value: Any) -> Path:
    """`value` as JSON, which may hold NaN."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def run(folder: Path, levels: list[int], **facts: Any) -> Trial:
    """A run directory with one trial that asks for `levels` and has none of them yet."""
    made = Experiment.at(folder)
    made.describe(name="made")
    trial = made.trial(1)
    asked = {"engine": "vllm", "model": "m", "scenarios": ["D(100,100)"], "levels": levels}
    TrialFacts(trial=1, **(asked | facts)).write(trial.folder)
    return trial


def add_level(trial: Trial, level: int, content: Any = None, *, partial: bool = False, **sidecar: Any) -> Path:
    """A level's folder with its sidecar and, where `content` is given, genai-bench's file."""
    known = {"scenario": "D(100,100)", "concurrency": level, "repeat": 1, "outcome": "completed"} | sidecar
    folder = trial.batch_folder(known["scenario"], level, known["repeat"])
    folder = folder.with_name(folder.name + experiment.PARTIAL) if partial else folder
    folder.mkdir(parents=True)
    files.write_json(folder / Sidecar.FILE, {**_as_json(Sidecar(**known))})
    if content is not None:
        write(folder / name(level), content)
    return folder


def _as_json(sidecar: Sidecar) -> dict[str, Any]:
    import msgspec

    return dict(msgspec.to_builtins(sidecar))
