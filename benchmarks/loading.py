"""How fast batches are loaded: tuner against genai-bench's own loader, on the same files.

Run it by hand: `python benchmarks/loading.py` (`--quick` for a tenth of the requests). Everything is written into a
temporary folder. Each figure is the best of several runs, each in a process of its own, without its imports.
genai-bench recomputes nothing; tuner recomputes everything from the requests.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

LEVELS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256)
METRICS = ("ttft", "tpot", "e2e_latency", "output_latency", "output_inference_speed", "num_input_tokens")
METRICS += ("num_output_tokens", "num_reasoning_tokens", "total_tokens", "input_throughput", "output_throughput")

#: Each way of loading, as the code of one process; it prints seconds, peak MB and what it found.
MEASURE = """
import json, resource, sys, time
{imports}
started = time.perf_counter()
found = {call}
seconds = time.perf_counter() - started
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, {check}]))
"""
GENAI = ("from genai_bench.analysis.experiment_loader import load_one_experiment", "load_one_experiment(sys.argv[1])")
OURS = ("from tuner.batches.load import load_batches", "load_batches(sys.argv[1])")
REQUESTS = ("import pyarrow; from tuner.batches.requests import load_requests", "load_requests(sys.argv[1])")


def requests_of(level: int, count: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Plausible requests of one level."""
    ttft = random.lognormal(np.log(0.05 + 0.002 * level), 0.3, count)
    tpot = random.lognormal(np.log(0.01 + 0.0002 * level), 0.1, count)
    tokens = {"num_input_tokens": np.full(count, 100), "num_output_tokens": np.full(count, 100)}
    rest = {"output_latency": tpot * 99, "output_inference_speed": 1 / tpot, "output_throughput": 1 / tpot}
    sums = {"total_tokens": np.full(count, 200), "num_reasoning_tokens": np.zeros(count, int)}
    latencies = {"ttft": ttft, "tpot": tpot, "e2e_latency": ttft + tpot * 99, "input_throughput": 100 / ttft}
    return latencies | tokens | rest | sums


def statistics(values: np.ndarray) -> dict[str, float]:
    """The statistics genai-bench writes of one metric."""
    names = {"min": np.min, "max": np.max, "mean": np.mean, "stddev": np.std, "sum": np.sum}
    found = {name: float(function(values)) for name, function in names.items()}
    return found | {f"p{q}": float(np.percentile(values, q)) for q in (25, 50, 75, 90, 95, 99)}


def aggregates_of(level: int, columns: dict[str, np.ndarray]) -> dict[str, object]:
    """What genai-bench would have written above the requests."""
    count = len(columns["ttft"])
    duration = float(columns["e2e_latency"].sum()) / level
    return {
        "scenario": "D(100,100)",
        "num_concurrency": level,
        "batch_size": 1,
        "iteration_type": "num_concurrency",
        "run_duration": duration,
        "mean_output_throughput_tokens_per_s": count * 100 / duration,
        "mean_input_throughput_tokens_per_s": count * 100 / duration,
        "mean_total_tokens_throughput_tokens_per_s": count * 200 / duration,
        "requests_per_second": count / duration,
        "error_codes_frequency": {},
        "error_rate": 0,
        "num_error_requests": 0,
        "num_completed_requests": count,
        "num_requests": count,
        "stats": {name: statistics(columns[name]) for name in METRICS},
    }


def write_level(folder: Path, level: int, count: int, name: str = "", seed: int = 0) -> None:
    """One result file as genai-bench writes it, indented by four."""
    columns = requests_of(level, count, np.random.default_rng([level, seed]))
    rows = zip(*(columns[metric].tolist() for metric in METRICS), strict=True)
    extra = {"audio_throughput": None, "error_code": None, "error_message": None}
    document = {
        "aggregated_metrics": aggregates_of(level, columns),
        "individual_request_metrics": [dict(zip(METRICS, row, strict=True)) | extra for row in rows],
        "_time_unit": "s",
    }
    file = folder / f"D100_100{name}_text-to-text_num_concurrency_{level}_time_60s.json"
    file.write_text(json.dumps(document, indent=4))


def write_metadata(folder: Path, levels: tuple[int, ...]) -> None:
    """The metadata without which genai-bench loads nothing; taken from its own model, so that it fits."""
    code = (
        "from genai_bench.protocol import ExperimentMetadata as M; import json,sys;"
        "levels=json.loads(sys.argv[1]);"
        "print(M(cmd='',benchmark_version='0.0.5',api_backend='vllm',auth_config={},api_model_name='m',"
        "server_model_tokenizer='t',model='m',task='text-to-text',num_concurrency=levels,batch_size=[1],"
        "iteration_type='num_concurrency',traffic_scenario=['D(100,100)'],additional_request_params={},"
        "server_engine=None,server_version=None,server_gpu_type=None,server_gpu_count=None,max_time_per_run_s=60,"
        "max_requests_per_run=1,experiment_folder_name='x',dataset_path=None).model_dump_json())"
    )
    text = subprocess.run(
        [sys.executable, "-c", code, json.dumps(levels)], check=True, capture_output=True, text=True
    ).stdout
    (folder / "experiment_metadata.json").write_text(text[text.index("{") :])


Run = tuple[float, float, object]


def measured(way: tuple[str, str], folder: Path, check: str = "len(found)", times: int = 3) -> Run:
    """The best seconds and the peak MB of loading `folder` in a fresh process, and what was found."""
    code = MEASURE.format(imports=way[0], call=way[1], check=check)
    runs = []
    for _ in range(times):
        done = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return min(runs)


def report(name: str, seconds: float, against: float | None = None, wanted: float | None = None) -> None:
    """One line of the table."""
    ratio = f"{against / seconds:8.1f}×" if against else " " * 9
    goal = f"   (at least {wanted:g}×)" if wanted else ""
    print(f"{name:<58}{seconds:9.3f} s{ratio}{goal}")


def compare_loaders(folder: Path, count: int) -> None:
    """The first table: the same files by each way."""
    for level in LEVELS:
        write_level(folder, level, count)
    write_metadata(folder, LEVELS)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{len(LEVELS)} levels × {count:,} requests, {size:.0f} MB")
    theirs, _, _ = measured(GENAI, folder, "len(found[1]['D(100,100)'])")
    report("genai-bench load_one_experiment (nothing recomputed)", theirs)
    report("tuner load_batches (all recomputed)", measured(OURS, folder)[0], theirs, 2.5)


def load_a_million(folder: Path, count: int) -> None:
    """The second table: requests, in many files."""
    for part in range(50):
        write_level(folder, part + 1, count // 50)
    for name, way in ((f"{count:,} requests, as batches", OURS), (f"{count:,} requests into a DataFrame", REQUESTS)):
        seconds, peak, found = measured(way, folder, times=1)
        print(f"{name:<58}{seconds:9.3f} s   peak {peak:,.0f} MB, {found:,} rows")


def main() -> None:
    """Write the files, load them, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    share = 10 if parser.parse_args().quick else 1
    with tempfile.TemporaryDirectory() as place:
        for name, work, count in (("run", compare_loaders, 20_000), ("million", load_a_million, 1_000_000)):
            folder = Path(place) / name
            folder.mkdir()
            work(folder, count // share)


if __name__ == "__main__":
    main()
