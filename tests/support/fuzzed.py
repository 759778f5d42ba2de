"""Every kind of file that we read: a good one, how it is read, and what a mutant of it may not cost."""

import fcntl
import gzip
import json
import random
import shutil
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import gguf
import pandas as pd
import yaml

import tuner
from support import mutants, result_files
from support.mutants import MUTATIONS, Mutation
from tuner.batches.batch import COUNTS, THROUGHPUTS
from tuner.core import locks, request_log
from tuner.core.metrics import LATENCY_COLUMNS
from tuner.core.run_directory import Experiment
from tuner.engines.gguf import tokenizer_folder
from tuner.errors import TunerError
from tuner.search.spec import TuneSpec
from tuner.sweep.progress import read_search, read_sweep
from tuner.sweep.spec import make_spec, read_spec
from tuner.sweep.sweep import check_kind, check_same, recorded_spec
from tuner.sweep.trust import check_trust
from tuner.traffic import calibration, live
from tuner.traffic.prompt_file import read_prompt_file

DATA = Path(__file__).parents[1] / "data"
SWEEP = DATA / "earlier_version" / "20261126T124630Z-sweep-before"
SEARCH = DATA / "earlier_version" / "20261126T124807Z-tune-before"
#: what may not change unless a warning, or the outcome, tells of it
NUMBERS = ("duration", *COUNTS, "error_rate", *THROUGHPUTS, *LATENCY_COLUMNS)
#: a change up to this share is below what files can be checked for by their own statistics
CLOSE = 0.02
ROW = ("trial", "scenario", "concurrency", "request_rate", "repeat", "outcome", *NUMBERS)


#: of 500 mutants of a document, so many times fewer of what makes tables, and of what is a whole run
CHEAP, TABLE, RUN = 1, 10, 50


@dataclass(frozen=True)
class Kind:
    """One kind of file."""

    make: Callable[[Path], Path]  # in an empty folder: the file to be mutated, and what lies beside it
    read: Callable[[Path], Any]  # batches, or None where only errors count
    adapted: Callable[[Mutation], Mutation] = lambda mutation: mutation
    beside: bool = False  # whether it holds no batch: then all of them stay as they are
    single: bool = True  # whether at most one batch lies where it is mutated

    @property
    def cost(self) -> int:
        """How many times longer it takes to read than a small document."""
        whole = (read_run, results_of)
        return RUN if self.read in whole else CHEAP if self.read in DOCUMENTS else TABLE


def copied(source: Path, name: str) -> Callable[[Path], Path]:
    """A copy of a folder, and the file `name` in it."""

    def make(folder: Path) -> Path:
        shutil.copytree(source, folder / source.name)
        return next((folder / source.name).rglob(name))

    return make


def written(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (path := folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def load_folder(path: Path) -> pd.DataFrame:
    """What a person sees of all that lies around the file."""
    return tuner.load_batches(path.parent)


def read_run(path: Path) -> pd.DataFrame:
    """A run as a report, the progress and a resume read it."""
    run = next(one for one in path.parents if one.parent.name == "files")
    experiment = Experiment(run)
    for read in (read_sweep, read_search):
        str(read(experiment))
    results = tuner.read_results(run)
    str(results.answer)
    len(results.run_facts.telemetry), experiment.is_running
    return results.judged


def results_of(path: Path) -> pd.DataFrame:
    """A report as `tuner load` reads it."""
    return tuner.read_results(path).judged


def resume(path: Path) -> None:
    """What is read before a run goes on."""
    experiment = Experiment.open(path.parent)
    kind = TuneSpec
    spec = make_spec(recorded_spec(check_kind("tune", experiment)), kind)
    check_same(spec, experiment)
    check_trust(spec, experiment, trusts=True)


def as_aggregates(folder: Path) -> Path:
    """Older files hold no individual requests."""
    path = copied(DATA / "samples" / "healthy", "*_4_*.json")(folder)
    value = json.loads(path.read_bytes())
    del value["individual_request_metrics"]
    path.write_text(json.dumps(value))
    return path


def own_level(folder: Path) -> Path:
    """Two levels of ours in a run."""
    trial = result_files.run(folder / "run", [1, 2])
    for level in (1, 2):
        place = result_files.add_level(trial, level)
        record = request_log.LevelRecord(
            **{"scenario": "D(100,100)", "concurrency": level, "window": "steady", "begin": 1.0, "end": 9.0},
            monotonic=0.0,
            utc=datetime(2026, 11, 26, tzinfo=UTC),
        )
        request_log.write(place / request_log.REQUESTS_FILE, record, list(_sent(level)))
    return place / request_log.REQUESTS_FILE


def _sent(level: int) -> Iterable[request_log.SentRequest]:
    for number in range(10 * level):
        due = number / level
        times = {"scheduled": due, "sent": due, "first_token": due + 0.1 + number / 1000, "last_token": due + 0.95}
        yield request_log.SentRequest(**times, end=due + 0.96, number=number + 1, prompt_tokens=100, output_tokens=50)


def report(folder: Path) -> Path:
    """A report of today, without its figures' script."""
    path = tuner.write_report(SWEEP, folder / "whole.html")
    start = (text := path.read_text()).index('<script type="application/json" id="tuner-data">')
    (page := folder / "page.html").write_text(text[start : text.index("</script>", start) + 9])
    path.unlink()
    return page


def guidellm(folder: Path) -> Path:
    """One file of three batches, with fewer requests."""
    document = json.loads(gzip.decompress((DATA / "foreign/guidellm-0.8.1/benchmarks.json.gz").read_bytes()))
    (path := folder / "benchmarks.json").write_text(json.dumps(document))
    return path


def serving_lines(folder: Path) -> Path:
    """Three batches, one a line."""
    whole = [(DATA / f"foreign/vllm-0.32.0/concurrency-{level}.json").read_text().strip() for level in (1, 4, 1)]
    (path := folder / "all.jsonl").write_text("\n".join(json.dumps(json.loads(one)) for one in whole) + "\n")
    return path


def small_gguf(folder: Path) -> Path:
    """The header of a model of a few hundred tokens."""
    from tokenizers import pre_tokenizers

    writer = gguf.GGUFWriter(path := folder / "model.gguf", "llama")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "</s>", *letters, "ab"]
    writer.add_context_length(512)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * len(letters), 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


def calibrated(_: Path) -> Path:
    """What `tuner doctor --calibrate` keeps in the user's cache."""
    for level in (1, 8):
        calibration._keep(calibration.Calibration(level, 0.001, 0.0001, 0.99, "2026-11-26T00:00:00Z"))
    return calibration._file()


def is_taken(path: Path) -> None:
    """Somebody else has the lock, and says who in the file."""
    with open(path) as other, mock.patch.object(locks, "_PAUSE", 0.0):
        fcntl.flock(other, fcntl.LOCK_EX)
        try:
            locks.take_file(path).close()
        except locks.AlreadyTaken as holder:
            assert len(str(holder)) <= 300 and str(holder).isprintable()


def share_of_client(_: Path) -> None:
    calibration.share_of_client(4)


def read_live(path: Path) -> None:
    str(live.read_live(path.parent))


def read_search_spec(path: Path) -> None:
    spec = make_spec(read_spec(path), TuneSpec)
    spec.search_space, spec.enough_requests, spec.loads()


def in_a_benchmark(mutation: Mutation) -> Mutation:
    """The same in the second of a file's batches."""

    def mutate(chance: random.Random, data: bytes) -> bytes:
        parts = [json.dumps(one).encode() for one in json.loads(data)["benchmarks"]]
        at = data.index(parts[1])
        return data[:at] + mutation(chance, parts[1]) + data[at + len(parts[1]) :]

    return mutate


def in_a_row(mutation: Mutation) -> Mutation:
    """The same in the second row that a report carries."""

    def mutate(chance: random.Random, data: bytes) -> bytes:
        rows = data.index(b'"rows":[[') + 8
        first = data.index(b"],[", rows) + 2
        last = data.index(b"],[", first) + 1
        return data[:first] + mutation(chance, data[first:last]).replace(b"</script>", b"") + data[last:]

    return mutate


DOCUMENTS = {
    tuner.SLO.load,
    read_search_spec,
    read_prompt_file,
    share_of_client,
    read_live,
    is_taken,
    tokenizer_folder,
    resume,
}
HEALTHY = DATA / "samples" / "healthy"
AIPERF = DATA / "foreign" / "aiperf-0.13.0" / "concurrency-4"
CARRIED = mutants.between(b'id="tuner-data">', b"</script>")
SLO = (
    'latency: {p50: {threshold: 2.0, hard_fail: false}, "p90": {threshold: 500 ms, fail_ratio: 0.2}}\n'
    "ttft: &a {threshold: 1.0, weight: 2.0}\ntpot: {p95: {threshold: 0.05}}\nerror_rate: {threshold: 0.01}\n"
    "confidence: 0.95\nsteepness: 0.1\n"
)
SPACE = (
    "engine: vllm\nmodel: m\ntokenizer: /t\ngpus: 1\nparameters: {max_num_seqs: 128}\n"
    "space: {max_num_seqs: [32, 64], max_num_batched_tokens: {low: 2048, high: 16384, log: true}}\n"
    'constraints: ["max_num_batched_tokens >= 16 * max_num_seqs"]\nobjective: max_throughput\ntrials: 20\n'
    "max_minutes: 240\nconfirm: 3\nlevels: [8, 32]\nprefix: {tokens: 100, groups: 8}\nslo: {ttft: {threshold: 1 s}}\n"
)
CHAT = "\n".join(
    [
        *('{"prompt": "Hello"}', '{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}'),
        '{"body": {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}}',
    ]
)
PROMPTS = 'prompt,max_tokens\nHello,5\n"two, or three",\n'

KINDS = {
    "genai-bench batch": Kind(copied(HEALTHY, "*_4_*.json"), load_folder),
    "genai-bench aggregates": Kind(as_aggregates, load_folder),
    "experiment_metadata.json": Kind(copied(HEALTHY, "experiment_metadata.json"), load_folder, beside=True),
    "requests.jsonl": Kind(own_level, lambda path: tuner.load_batches(path.parents[3])),
    "requests.jsonl, a line": Kind(own_level, lambda path: tuner.load_batches(path.parents[3]), mutants.in_a_line),
    "experiment.json": Kind(copied(SEARCH, "experiment.json"), read_run, beside=True),
    "experiment.json of a sweep": Kind(copied(SWEEP, "experiment.json"), read_run, beside=True),
    "experiment.json, resumed": Kind(copied(SEARCH, "experiment.json"), resume),
    "server.json": Kind(copied(SWEEP, "server.json"), read_run, beside=True),
    "telemetry.jsonl": Kind(copied(SWEEP, "telemetry.jsonl"), read_run, mutants.in_a_line, beside=True),
    "trial.json": Kind(copied(SWEEP, "trial.json"), read_run, beside=True),
    "batch.json": Kind(copied(SWEEP, "batch.json"), read_run),
    "search.json": Kind(copied(SEARCH, "search.json"), read_run, beside=True),
    "server.log": Kind(copied(SWEEP, "server.log"), read_run, beside=True),
    "report": Kind(report, tuner.load_batches, CARRIED, single=False),
    "report, read whole": Kind(report, results_of, CARRIED, single=False),
    "report, one batch of many": Kind(report, tuner.load_batches, in_a_row),
    "GuideLLM": Kind(guidellm, tuner.load_batches, single=False),
    "GuideLLM, one batch of many": Kind(guidellm, tuner.load_batches, in_a_benchmark),
    "AIPerf records": Kind(copied(AIPERF, "profile_export.jsonl"), load_folder, mutants.in_a_line),
    "AIPerf summary": Kind(copied(AIPERF, "profile_export_aiperf.json"), load_folder),
    "vllm bench serve": Kind(copied(DATA / "foreign/vllm-0.32.0", "concurrency-4.json"), tuner.load_batches),
    "vllm bench serve, one batch of many": Kind(serving_lines, tuner.load_batches, mutants.in_a_line),
    "SGLang": Kind(copied(DATA / "foreign/sglang-0.5.23", "concurrency.jsonl"), tuner.load_batches, mutants.in_a_line),
    "SLO": Kind(written("slo.yaml", SLO), tuner.SLO.load, mutants.as_yaml),
    "SLO as JSON": Kind(written("slo.json", json.dumps(yaml.safe_load(SLO))), tuner.SLO.load),
    "search file": Kind(written("search.yaml", SPACE), read_search_spec, mutants.as_yaml),
    "prompts": Kind(written("chat.jsonl", CHAT), read_prompt_file, mutants.in_a_line),
    "prompts as a table": Kind(written("chat.csv", PROMPTS), read_prompt_file),
    "prompts, packed": Kind(written("chat.jsonl.gz", gzip.compress(CHAT.encode())), read_prompt_file),
    "calibration": Kind(calibrated, share_of_client),
    "live.json": Kind(
        written("live.json", '{"in_flight": 4, "output_throughput": 5.5, "ttft": 0.5}'),
        read_live,
    ),
    "lock": Kind(written(".lock", "process 5 (tuner sweep) on host h, since 2026-11-26T00:00:00Z"), is_taken),
    "GGUF": Kind(small_gguf, tokenizer_folder),
}


@dataclass
class Mutant:
    """What reading one of them came to."""

    kind: str
    number: int
    mutation: str
    fault: str = ""  # empty where all is as promised
    seconds: float = 0.0  # of the processor


class Fuzzed:
    """A file of a kind and its mutants, each by its number alone."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.kind = name, KINDS[name]
        (files := folder / "files").mkdir(parents=True)
        self.path = self.kind.make(files)
        self.whole = self.path.read_bytes()
        self.before = self.kind.read(self.path)

    def content(self, number: int) -> tuple[str, bytes]:
        """The mutant of this number, and how it was made."""
        chance = random.Random(f"{self.name} {number}")
        mutation = chance.choice(MUTATIONS)
        if chance.random() < 0.02:
            other = chance.choice(["null", "GGUF\x03", '{"aggregated_metrics": {}}', SLO, CHAT])
            return "another kind's", other.encode()
        return mutation.__name__, self.kind.adapted(mutation)(chance, self.whole)

    def read(self, number: int) -> Mutant:
        """Read one of them."""
        mutation, data = self.content(number)
        self.path.write_bytes(data)
        result, started = Mutant(self.name, number, mutation), time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                after = self.kind.read(self.path)
        except TunerError as error:
            after = error
        except Exception as error:
            result.fault = f"{type(error).__name__}: {error}"[:300]
        result.seconds = time.process_time() - started
        if not result.fault and isinstance(self.before, pd.DataFrame):
            result.fault = self._cost(after, mutation, data)
        return result

    def _cost(self, after: Any, mutation: str, data: bytes) -> str:
        """What the mutant cost, or changed without a word, that it may not."""
        if isinstance(after, TunerError):
            alone = self.kind.single and not self.kind.beside and len(self.before) == 1
            return "" if alone or not self.kind.single or mutation == "another kind's" else f"all lost: {after}"[:300]
        return "; ".join([*self._lost(after), *self._changed(after)])[:300]

    def _lost(self, after: pd.DataFrame) -> list[str]:
        """Batches that were whole, and are not there as they were."""
        if not self.kind.single and not self.kind.beside:
            return []
        left = [self._identity(row) for row in after.to_dict("records")]
        lost = [row for row in self.before.to_dict("records") if self._identity(row) not in left]
        most = 0 if self.kind.beside else 1
        return [f"{len(lost)} batches lost: {lost[0]['concurrency']}"] if len(lost) > most else []

    def _identity(self, row: dict[str, Any]) -> tuple[str, ...]:
        """What a batch is and says; in a file of many, how often the level was run depends on all of them."""
        return tuple(repr(row[name]) for name in ROW if name != "repeat" or "many" not in self.name)

    def _changed(self, after: pd.DataFrame) -> list[str]:
        """Numbers that changed without a warning."""
        known = {row["source"]: row for row in self.before.to_dict("records") if row["source"]}
        rows = [row for row in after.to_dict("records") if row["outcome"] == "completed" and row["source"] in known]
        return [
            f"{name} {before[name]} → {row[name]} without a word"
            for row in rows
            for before in [known[row["source"]]]
            for name in NUMBERS
            if _differ(before[name], row[name]) and not _tells(before, row)
        ]


#: a mutant that takes longer, in seconds of the processor, hangs; bytes that all of them take at most
SLOWEST, LARGEST = 2.0, 500 << 20


def _differ(before: Any, after: Any) -> bool:
    if pd.isna(before) or pd.isna(after):
        return bool(pd.isna(before)) and not bool(pd.isna(after))
    return abs(before - after) > CLOSE * max(abs(before), abs(after))


def _tells(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether a warning is there that was not, or one that says the file's numbers are believed as they stand."""
    unchecked = any("unchecked" in words for words in after["warnings"])
    return unchecked or bool({*after["warnings"]} - {*before["warnings"]})
